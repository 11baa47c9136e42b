"""Pipelines of TorchEasyRec: a `.config` file to an `ExperimentConfig`.

    reading     text or JSON to a message, with the place of every field
    overrides   changes by paths of the format
    fields      what becomes of each field: honoured, ignored, refused
    features    features to fields of a table
    convert     all the rest
    output      the same experiment as YAML

Nothing here trains: a pipeline becomes an experiment like any other.
"""

from collections.abc import Iterable
from pathlib import Path

from deepfm.config import ExperimentConfig
from deepfm.easyrec import convert, fields, overrides, reading
from deepfm.easyrec.output import to_yaml

ENDINGS = (".config", ".json")


def is_pipeline(path: str | Path) -> bool:
    """Whether a config is in this format, by its ending."""
    return Path(path).suffix in ENDINGS


def load_pipeline(
    path: str | Path, changes: Iterable[str] = (), *, is_read: bool = True
) -> tuple[ExperimentConfig, str]:
    """Read a pipeline and apply overrides by paths of its format.

    Args:
        is_read: Whether the data will be read next: then paths that are not local are errors,
            else they stand in the experiment as they are.

    Returns:
        The experiment, and the same as YAML that `load_config` reads back.

    Raises:
        ConfigError: The file cannot be read, or says what cannot be done here; one line that
            names file, line, field and what is supported.
    """
    pipeline = reading.read(path)
    overrides.apply(pipeline, changes)
    fields.check(pipeline)
    raw, config = convert.to_config(pipeline, is_read=is_read)
    return config, to_yaml(raw, f"Converted from {Path(path).name}.")
