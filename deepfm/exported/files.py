"""Reading an exported directory: its files, compared with what the manifest says of them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from deepfm.data.encoding.encoders import Encoders
from deepfm.data.last_events import LastEvents
from deepfm.data.plain import read_plain
from deepfm.data.sampling import Interactions
from deepfm.data.sources.tables import SideTables
from deepfm.errors import CheckpointError
from deepfm.exported.layout import (
    ENCODERS,
    EVENTS,
    FORMAT,
    FORMAT_VERSION,
    INTERACTIONS,
    ITEMS,
    MANIFEST,
    SIGNATURE,
    USERS,
    WEIGHTS,
    ExportedTask,
)
from deepfm.utils.places import AnyPath, reading

_CHUNK = 1 << 20  # bytes


class Exported(NamedTuple):
    """What stands in a directory beside the graphs.

    Attributes:
        signature: Inputs and outputs of the graphs, by name of the graph.
        tasks: What is predicted.
        encoders: Read raw rows.
        tables: What is looked up of users and items.
        interactions: The items that users have interacted with; None of a model that ranks none.
        events: The newest events of each user; None of a model without histories.
    """

    signature: dict[str, Any]
    tasks: tuple[ExportedTask, ...]
    encoders: Encoders
    tables: SideTables
    interactions: Interactions | None
    events: LastEvents | None


def read_exported(folder: Path, *, verify_weights: bool = False) -> Exported:
    """Read a directory without running anything that stands in it.

    Args:
        verify_weights: Compare the checksum of the weights, too, which reads all of them; without,
            their size alone.

    Raises:
        CheckpointError: It is no export, of a newer format, not in ONNX, or damaged.
    """
    manifest = _manifest(folder)
    if manifest.get("graphs") != "onnx":
        raise CheckpointError(
            f"{folder}: exported with --format {manifest.get('graphs')}, which the runtime does "
            "not read; --format onnx writes what it reads"
        )
    for name, known in manifest["files"].items():
        _check_file(folder / name, known, is_compared=verify_weights or name != WEIGHTS)
    try:
        return _read(folder)
    except Exception as error:  # content of another kind fails in a dozen ways
        raise CheckpointError(f"{folder}: damaged: {type(error).__name__}: {error}") from None


def file_digest(path: AnyPath) -> str:
    """The SHA-256 digest of a file, in hexadecimal."""
    found = hashlib.sha256()
    with reading(path) as file:
        while part := file.read(_CHUNK):
            found.update(part)
    return found.hexdigest()


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read: {error.strerror or error}; expected a directory that "
            "deepfm export has written"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not the manifest of an export of deepfm")
    if content.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format {content.get('format_version')}, this release reads "
            f"{FORMAT_VERSION}; update deepfm, or export anew"
        )
    files = content.get("files")
    if not isinstance(files, dict) or not all("/" not in name for name in files):
        raise CheckpointError(f"{path}: damaged: it names no files")
    return content


def _check_file(path: Path, known: Mapping[str, Any], *, is_compared: bool) -> None:
    try:
        size = path.stat().st_size
        if size != known.get("bytes"):
            raise CheckpointError(f"{path}: damaged: {size:,} bytes, not {known.get('bytes'):,}")
        if is_compared and file_digest(path) != known.get("sha256"):
            raise CheckpointError(f"{path}: damaged: it has another checksum")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None


def _read(folder: Path) -> Exported:
    signature = json.loads((folder / SIGNATURE).read_text(encoding="utf-8"))
    encoders = Encoders.from_dict(read_plain(folder / ENCODERS))
    tables = SideTables(_table(folder / USERS), _table(folder / ITEMS))
    interactions = events = None
    if (path := folder / INTERACTIONS).exists():
        assert tables.users is not None
        assert tables.items is not None
        user, item = np.load(path, allow_pickle=False)
        sizes = {"num_users": len(tables.users), "num_items": len(tables.items)}
        interactions = Interactions(user, item, **sizes)
    if (path := folder / EVENTS).exists():
        with np.load(path, allow_pickle=False) as arrays:
            plain = {name: arrays[name] for name in ("user", "starts", "time")}
            of_fields = [name for name in arrays.files if name.startswith("ids/")]
            ids = {name.removeprefix("ids/"): arrays[name] for name in of_fields}
        events = LastEvents.from_plain({**plain, "ids": ids}, encoders.schema)
    tasks = tuple(ExportedTask(**task) for task in signature["tasks"])
    return Exported(signature, tasks, encoders, tables, interactions, events)


def _table(path: Path) -> pa.Table | None:
    if not path.exists():
        return None
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    table.validate(full=True)
    return table
