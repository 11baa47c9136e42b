"""What earlier versions of configs and checkpoints meant, written out in today's terms.

Nothing downstream knows about versions: what an older config leaves out, or calls by a name that
means something else today, is put in its place here.
"""

from collections.abc import Mapping
from typing import Any

from deepfm.utils.logging import LOGGER

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)


def current_config(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The content of a config of any version that can be read, as one of this version.

    Version 1: `scale: log1p` is ln(1 + x), not standardised, the output bias starts at 0, and
    products are computed in fp32.

    Args:
        source: What a warning begins with.
    """
    raw = dict(raw)
    if raw.get("format_version") != 1:
        return raw
    LOGGER.warning(
        f"{source}format_version 1: defaults of that version hold (scale log1p is not "
        "standardised, initial_bias is zero, precision is fp32); without the key those of this "
        "release do"
    )
    raw["format_version"] = FORMAT_VERSION
    if isinstance(training := raw.get("training", {}), Mapping):
        raw["training"] = {"initial_bias": "zero", "precision": "fp32", **training}
    fields = raw
    for section in ("data", "table", "fields"):
        if not isinstance(below := fields.get(section), Mapping):
            return raw
        fields[section] = fields = dict(below)
    for name, field in fields.items():
        if isinstance(field, Mapping):
            fields[name] = _current_field(field)
    return raw


def current_schema(plain: Mapping[str, Any], version: int) -> dict[str, Any]:
    """A stored schema of a checkpoint of some version, as one of this version."""
    if version != 1:
        return dict(plain)
    return {**plain, "fields": list(map(_current_field, plain["fields"]))}


def _current_field(field: Mapping[str, Any]) -> dict[str, Any]:
    renamed = {"scale": "plain_log1p"} if field.get("scale") == "log1p" else {}
    return {**field, **renamed}
