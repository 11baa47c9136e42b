"""Opening a store: its arrays are mapped into memory, and compared with their checksums."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from deepfm.data.dataset import TabularDataset
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.fingerprint import Fingerprint
from deepfm.data.later_rows import Step
from deepfm.data.options import DataConfig
from deepfm.data.schema import DatasetSchema
from deepfm.data.sources import tabular
from deepfm.data.sources.tables import SideTables
from deepfm.data.store.appended import steps_of
from deepfm.data.store.arrays import size_of
from deepfm.data.store.damage import damaged
from deepfm.data.store.datasets import SharedEvents, open_events, open_split
from deepfm.data.store.encoders_file import name_in, read_encoders
from deepfm.data.store.held_rows import HeldRows, held_rows
from deepfm.data.store.history_writer import FOLDER
from deepfm.data.store.manifest import read_manifest
from deepfm.data.store.table_rows import declared_table
from deepfm.errors import ConfigError
from deepfm.utils.logging import LOGGER
from deepfm.utils.places import path_of

SUMMARY = ("rows", "dropped", "bad_values", "history", "appended")
CHECKED_AT_ONCE = 1 << 30  # bytes of arrays, which take about a second


class Store(NamedTuple):
    """A prepared table.

    Attributes:
        path: Its directory.
        encoders: Fitted on its training rows, or given.
        parts: Its splits by name; a table may have no `test`.
        users, items: Raw side tables; None where the table declares none.
        fingerprint: Of the files it was made from; None if only the store was opened.
        summary: For `metrics.json`: `rows` per split, `dropped` rows, `bad_values` per column, what
            the `history` of a row is, and what was `appended`, if there is any.
        events: That the histories of all rows are of.
        steps: What was appended.
        held: The training rows whose features it has; None: all.
    """

    path: Path
    encoders: Encoders
    parts: dict[str, TabularDataset]
    users: pa.Table | None
    items: pa.Table | None
    summary: dict[str, Any]
    fingerprint: Fingerprint | None = None
    events: SharedEvents | None = None
    steps: tuple[Step, ...] = ()
    held: HeldRows | None = None


def open_store(
    path: Path, data: DataConfig, schema: DatasetSchema, *, sides: SideTables | None = None
) -> Store:
    """Map a store into memory and check it: all of it, or of a large one all but its features.

    Args:
        schema: That of the table, from which models are built.
        sides: The tables of users and items, if they have been read.

    Raises:
        DataError: There is no store.
        DamagedStore: It is half-written, or a file is missing or not what was written.
    """
    manifest = read_manifest(path)
    if manifest["format_version"] == 1:
        LOGGER.warning(
            f"{path} is a store of an earlier release, without checksums: only sizes are checked; "
            "remove it, and `prepare` makes a new one"
        )
    is_small = _size(manifest) <= CHECKED_AT_ONCE
    is_checked = is_small or data.verify == "full"
    steps = steps_of(manifest)
    first = _first_rows(path, manifest, steps) if data.rows == "appended" else {}
    encoders, parts, events = _opened(path, manifest, schema, first, check_all=is_checked)
    if sides is None:
        sides = tabular.side_tables(declared_table(data), schema, path_of(data.data_dir))
    summary = {key: manifest[key] for key in SUMMARY if key in manifest}
    if first:
        summary["rows"] = {split: len(part) for split, part in parts.items()}
    return Store(
        path,
        encoders,
        parts,
        sides.users,
        sides.items,
        summary,
        events=events,
        steps=steps,
        held=held_rows(manifest),
    )


def _first_rows(path: Path, manifest: dict[str, Any], steps: tuple[Step, ...]) -> dict[str, int]:
    """The first row of each split that came last; 0 where none did.

    Raises:
        ConfigError: No training row was appended.
    """
    rows: dict[str, int] = manifest["rows"]
    before = steps[-1].rows_before if steps else rows
    first = {split: before.get(split, 0) % count for split, count in rows.items()}
    if not first["train"]:
        problem = "the last append gave none to train on" if steps else "none was appended"
        raise ConfigError(f"appended: of the rows of {path} {problem}", key="data.rows")
    return first


def verify_store(path: Path, schema: DatasetSchema) -> int:
    """Compare all checksums of a store, and return how many bytes its arrays have.

    Raises:
        DataError: There is no store.
        DamagedStore: It is half-written, or a file is missing or not what was written.
    """
    manifest = read_manifest(path)
    _opened(path, manifest, schema, {}, check_all=True)
    return _size(manifest)


def _opened(
    path: Path,
    manifest: dict[str, Any],
    schema: DatasetSchema,
    first: Mapping[str, int],
    *,
    check_all: bool,
) -> tuple[Encoders, dict[str, TabularDataset], SharedEvents | None]:
    try:
        checksum = manifest.get("encoders_checksum")
        encoders = read_encoders(path / name_in(manifest), checksum, schema)
        fitted, events = encoders.schema, None
        if fitted.built_fields:
            shared = manifest["event_arrays"]
            events = open_events(path / FOLDER, shared, fitted, check_all=check_all)
        held = {"train": held_rows(manifest)}
        parts = {
            split: open_split(
                path / split,
                arrays,
                fitted,
                events,
                first.get(split, 0),
                check_all=check_all,
                held=held.get(split),
                at_random=split == "train",
            )
            for split, arrays in manifest["arrays"].items()
        }
    except (LookupError, TypeError, AttributeError) as error:  # only of a store of format 1
        raise damaged(path, f"damaged: {type(error).__name__}: {error}") from None
    return encoders, parts, events


def _size(manifest: dict[str, Any]) -> int:
    """Bytes of all arrays."""
    return sum(
        size_of(array)
        for arrays in (*manifest["arrays"].values(), manifest.get("event_arrays", {}))
        for array in arrays.values()
    )
