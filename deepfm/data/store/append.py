"""Rows of new files behind those of a store: what was learnt stays, and what is new gets new ids.

The store of all files stands in the directory that it would have had they been prepared at once,
so that every reader finds it. Its arrays are the files of the store before, with more rows at their
ends; that one stays as it was, for whoever reads it. Only the new files are read.
"""

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepfm.data.encoding.encoders import Encoders
from deepfm.data.labels import LabelRule
from deepfm.data.later_rows import Step
from deepfm.data.options import DataConfig
from deepfm.data.schema import DatasetSchema
from deepfm.data.splits import SPLITS
from deepfm.data.store.appended import APPENDED, Base, base_of, steps_at, steps_of
from deepfm.data.store.arrays import ArrayWriter
from deepfm.data.store.build import encode_all, manifest_of, refuse_workers
from deepfm.data.store.encoders_file import name_in, read_encoders
from deepfm.data.store.manifest import read_manifest
from deepfm.data.store.prepare import path_of_store
from deepfm.data.store.share_work import EncodedShare
from deepfm.data.store.table_rows import RowsOfATable
from deepfm.data.store.writing import write_store
from deepfm.errors import ConfigError, DataError
from deepfm.utils.locks import exclusive_lock
from deepfm.utils.logging import LOGGER


def append(
    data: DataConfig,
    schema: DatasetSchema,
    labels: Mapping[str, LabelRule],
    placed: str | None = None,
    *,
    workers: int = 1,
) -> Path:
    """The directory of a store that goes on from the store of the first files of a table.

    Vocabularies grow by the values of the new training rows, which get ids behind all others;
    scales, quantiles and edges are those of the store before. Nothing happens if the store of all
    files is there.

    Args:
        data, schema, labels, workers: As in `deepfm.data.store.prepare.prepare`.
        placed: The split that all new rows are put into; None: where the table's split says.

    Raises:
        ConfigError: The split, or a setting of the table, does not allow it.
        DataError: There is no store to go on from, a new file is one that it has, or what
            `prepare` raises of rows.
        DeepFMError: The disk refuses; the store before is as it was.
    """
    if data.table is not None and data.table.history is not None:
        raise ConfigError(
            "the histories of all rows would change with those that are appended; prepare all "
            "files at once",
            key="data.table.history",
        )
    rows = RowsOfATable(data, schema, labels)
    refuse_workers(rows, workers)
    _refuse_placed(rows, placed)
    store_dir = Path(data.store_dir)
    path = path_of_store(rows, store_dir)
    if (path / "manifest.json").exists():
        _refuse_other(path, placed)
        LOGGER.info(f"nothing to append: the rows of all files are in {path}")
        return path
    base = base_of(rows, store_dir)
    step = Step(_read_before(base), placed, base.manifest["rows"])
    whole = rows.appended([*steps_of(base.manifest), step])
    files = sum(map(len, base.new.values()))
    LOGGER.info(f"{files:,} new files go on from {base.path}")
    # one at a time, because stores share files
    with exclusive_lock(store_dir / ".append.lock"):
        write_store(
            path,
            whole,
            lambda scratch: _grown(scratch, whole, base, workers),
            {"source": whole.key(), "made": APPENDED},
        )
    return path


def _refuse_placed(rows: RowsOfATable, placed: str | None) -> None:
    """Refuse a split for new rows where the settings have one, and none where they cannot.

    Raises:
        ConfigError: Says what to give.
    """
    name = rows.split.name
    if placed is not None and SPLITS[name].has_own_files:
        raise ConfigError(
            f"split_strategy {name} says by its files where rows go; append without it", key="--as"
        )
    if placed is None and not rows.split.places_later:
        raise ConfigError(
            f"split_strategy {name} looks at all rows before it divides any; say where the new "
            "ones go: --as train or --as valid",
            key="data.stratify" if name == "random" else "data.split_strategy",
        )


def _refuse_other(path: Path, placed: str | None) -> None:
    """Refuse to have put the same rows elsewhere.

    Raises:
        DataError: They are in another split than asked for.
    """
    steps = steps_at(path)
    if placed is not None and (not steps or steps[-1].placed != placed):
        before = "the table's own split" if not steps or not steps[-1].placed else steps[-1].placed
        raise DataError(
            f"the rows of all files are in {path}, the last ones by {before}, not as {placed}; "
            "remove that directory and append again"
        )


def _read_before(base: Base) -> int:
    """How many rows have been read for a store."""
    return int(sum(base.manifest["rows"].values()) + base.manifest["dropped"])


def _grown(scratch: Path, whole: RowsOfATable, base: Base, workers: int) -> dict[str, Any]:
    """Write all of a store but its manifest, whose content is returned."""
    before = base.manifest
    read_manifest(base.path)  # still there
    file, checksum = base.path / name_in(before), before["encoders_checksum"]
    known = read_encoders(file, checksum, whole.schema)
    step = whole.steps[-1]
    rows = whole.later(base.new, step.before)
    is_learnt = step.placed in (None, "train")
    encoders, encoded = encode_all(
        scratch, rows, None if is_learnt else known, known if is_learnt else None, workers
    )
    _refuse_other_types(before["arrays"], encoded)
    grown = {split for one in encoded.values() for split in one.arrays.rows}
    if not grown:
        read = sum(one.read for one in encoded.values())
        raise DataError(f"there is no row to append: {read:,} rows read, all dropped")
    bad = Counter(before["bad_values"])
    with ArrayWriter(scratch) as out:
        out.go_on_from(base.path, before["arrays"], grown)
        for folder, one in encoded.items():
            out.append_piece(folder, one.arrays)
            bad += Counter(one.bad)
            shutil.rmtree(folder)
    read = step.before + sum(one.read for one in encoded.values())
    dropped = before["dropped"] + sum(one.dropped for one in encoded.values())
    made = manifest_of(scratch, whole, encoders, out, read, dropped, bad)
    more = {split: made["rows"][split] - before["rows"].get(split, 0) for split in made["rows"]}
    LOGGER.info("appended " + ", ".join(f"{n:,} {split}" for split, n in more.items()) + " rows")
    for line in _growth(known, encoders):
        LOGGER.info(line)
    return made


def _refuse_other_types(before: Mapping[str, Any], encoded: Mapping[Path, EncodedShare]) -> None:
    """Refuse ids that have outgrown the type that they are stored in.

    Raises:
        DataError: Names the array.
    """
    for one in encoded.values():
        for split, shapes in one.arrays.shapes.items():
            for name, shape in shapes.items():
                own = before.get(split, {}).get(name, shape)
                if own["dtype"] != shape["dtype"]:
                    raise DataError(
                        f"{split}/{name} is stored as {own['dtype']} and the new rows need "
                        f"{shape['dtype']}; prepare all files at once"
                    )


def _growth(known: Encoders, encoders: Encoders) -> list[str]:
    """How many values of each table are new, of those that have any."""
    before, now = known.schema, encoders.schema
    found = {
        field.embedding_name: (field.vocabulary_size, before.fields[name].vocabulary_size)
        for name, field in now.fields.items()
    }
    grown = [f"{name} {size - old:,}" for name, (size, old) in found.items() if size > old]
    return [f"new ids: {', '.join(grown)}"] if grown else []
