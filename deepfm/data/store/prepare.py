"""Declared tables of any size: encoded once into arrays on disk, which training maps into memory.

`prepare` reads the files as a stream, up to three times: once over the split's column where the
split needs it, once to fit the encoders on the training rows where some field learns of them, once
to encode every row. Its memory grows with the vocabularies and the side tables, not with the rows.
What it makes is a directory:

    <store_dir>/<folder of the files>-<key>/
        manifest.json                 written last: what the arrays are, and what was counted
        encoders.pt                   as in a checkpoint: tensors and plain data
        train/sparse.bin              ids, (N, F) int32, int64 where a vocabulary needs it
        train/dense.bin               (N, D) float32
        train/sequence0_ids.bin       (N, L) int32; one of each per sequence field
        train/sequence0_lengths.bin   (N,) int32
        train/sequence0_starts.bin    (N,) int64, only of a field that keeps all its elements: its
                                      ids are (E,), those of all rows end to end
        train/label.bin               (N,) float32
        train/weight.bin              (N,) float32, only with `sample_weight`
        train/group.bin               (N, G) int64, only with `group_columns`: a hash of each value
        train/row.bin                 (N,) int64, number of the row over all files, from 0
        valid/…, test/…               the same; no test where the split has none

Arrays are row-major and native-endian, without headers. The key is a hash of all that decides what
stands in them, so a changed file or setting means another directory. It is built under a temporary
name and renamed, so under its own name it is whole; one without a manifest was damaged from
outside, and `prepare` makes it again.
"""

import contextlib
import json
import os
import pickle
import secrets
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
import xxhash
from torch import Tensor

from deepfm.config import DataConfig
from deepfm.data.dataset import TabularDataset
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.schema import DatasetSchema
from deepfm.data.sources import tabular
from deepfm.data.store.arrays import ArrayWriter, open_split
from deepfm.data.store.encode import RowEncoding, in_threads, read_ahead
from deepfm.data.store.stream import Pass, RowStream, find_all_files, side_tables, training_rows
from deepfm.errors import DataError, DeepFMError, Place
from deepfm.utils.io import atomic_write_bytes, atomic_writer, exclusive_lock
from deepfm.utils.logging import LOGGER

FORMAT_VERSION = 1
_FINGERPRINT = 1 << 20  # bytes at the head, in the middle and at the end of a file
# What a model does with the ids is no part of a store.
_MODEL_ONLY = (
    "vocabulary_size", "embedding_dim", "combiner", "dense_embedding", "init", "trainable",
)  # fmt: skip


class Store(NamedTuple):
    """A prepared table.

    Attributes:
        path: Its directory.
        encoders: Fitted on its training rows, or given.
        parts: Its splits by name; a table may have no `test`.
        users, items: Raw side tables; None where the table declares none.
        summary: For `metrics.json`: `rows` per split, `dropped` rows, `bad_values` per column.
    """

    path: Path
    encoders: Encoders
    parts: dict[str, TabularDataset]
    users: pa.Table | None
    items: pa.Table | None
    summary: dict[str, Any]


def prepare(
    data: DataConfig,
    schema: DatasetSchema,
    encoders: Encoders | None = None,
    *,
    base: Encoders | None = None,
    num_class: int = 1,
) -> Path:
    """The directory of a table's store, which is made unless it is there.

    Processes that prepare the same table at once wait for each other.

    Args:
        data: Its `table`, with any `split_strategy` but `leave_one_out`.
        schema: Of the table.
        encoders: Those of a checkpoint, used as they are; without them new ones are fitted.
        base: Those of another checkpoint, from which the fitted ones grow.
        num_class: How many classes a label of kind `class` has.

    Raises:
        DataError: A file is missing or malformed, a value is bad and its policy is `error`, or a
            split is left without a row.
        DeepFMError: The disk refuses; what was written is removed.
    """
    tabular.fetch(data.table.package, Path(data.data_dir), data.auto_download)
    files = find_all_files(data)
    source = _hash(_made_from(data, schema, files, num_class))
    path = None
    if encoders is not None:
        path = _encoded_with(Path(data.store_dir), source, digest := _digest(encoders))
        key = _hash([source, "encoded with", digest])
    elif base is not None:
        key = _hash([source, "grown from", _digest(base)])
    else:
        key = source
    if path is None:
        name = next(iter(files.values()))[0].resolve().parent.name or "table"
        path = Path(data.store_dir) / f"{name}-{key}"
    if (path / "manifest.json").exists():
        LOGGER.info(f"data prepared earlier, in {path}")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        waiting = partial(LOGGER.info, f"another process prepares {path}: waiting for it")
        with exclusive_lock(path.with_name(f".{path.name}.lock"), waiting):
            if (path / "manifest.json").exists():  # another process has made it meanwhile
                return path
            if path.exists():
                LOGGER.warning(f"{path} is half-written (no manifest.json): it is made again")
                shutil.rmtree(path)
            for left in path.parent.glob(f".{path.name}.*.tmp"):  # of a killed process
                shutil.rmtree(left)
            scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            pool = pa.default_memory_pool()
            try:
                scratch.mkdir()
                # Blocks come and go: with malloc a table takes an eighth less time than with the
                # default, which gives each one back to the system.
                pa.set_memory_pool(pa.system_memory_pool())
                made = _build(scratch, data, schema, files, encoders, base, num_class)
                _write_manifest(scratch, made | {"source": source})
                os.replace(scratch, path)
            finally:
                pa.set_memory_pool(pool)
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise DeepFMError(
            f"cannot write the store {path}: {error.strerror or error}; what was written of it is "
            "removed (data.store_dir says where stores are)"
        ) from None
    return path


def open_store(path: Path, data: DataConfig, schema: DatasetSchema) -> Store:
    """Map a store into memory; nothing of it is read but its encoders.

    Args:
        schema: That of the table, from which models are built.

    Raises:
        DataError: There is no store, it is half-written, or a file has another size.
    """
    manifest = _manifest(path)
    try:
        plain = torch.load(path / "encoders.pt", map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise DataError(
            f"encoders.pt cannot be read: {error}; remove the store", place=Place(file=str(path))
        ) from None
    encoders = Encoders.from_dict(plain | {"schema": schema.to_dict()})
    parts = {
        part: open_split(path / part, arrays, encoders.schema)
        for part, arrays in manifest["arrays"].items()
    }
    sides = side_tables(data, schema)
    summary = {key: manifest[key] for key in ("rows", "dropped", "bad_values")}
    return Store(path, encoders, parts, sides.get("user"), sides.get("item"), summary)


def _build(
    scratch: Path,
    data: DataConfig,
    schema: DatasetSchema,
    files: dict[str, list[Path]],
    encoders: Encoders | None,
    base: Encoders | None,
    num_class: int,
) -> dict[str, Any]:
    """Write all of a store but its manifest, whose content is returned."""
    stream = RowStream(data, schema, files, num_class)
    if encoders is None:
        if Encoders.has_to_learn(schema):
            with Pass("reading the training rows", stream) as passed:
                encoders = Encoders.fit(schema, training_rows(read_ahead(passed.parts())))
        else:
            encoders = Encoders.fit(schema, ())
        if base is not None:
            encoders = encoders.grown_from(base)
    encoding, dropped, bad = RowEncoding(encoders, data.table), 0, Counter()
    with Pass("encoding", stream) as passed, ArrayWriter(scratch) as out:
        for encoded in in_threads(encoding, passed.parts()):
            out.write(encoded.arrays)
            dropped += encoded.dropped
            bad += encoded.bad
    for part in stream.expected:
        if not out.rows[part]:
            raise DataError(
                f"the {part} split is empty: {stream.rows:,} rows read, {dropped:,} dropped; see "
                "data.split_strategy, data.split_fractions and the files"
            )
    with atomic_writer(scratch / "encoders.pt") as file:
        torch.save(encoders.to_dict(), file)
    rows = {part: out.rows[part] for part in stream.expected}
    counts = ", ".join(f"{count:,} {part}" for part, count in rows.items())
    LOGGER.info(f"prepared {counts} rows; {dropped:,} of {stream.rows:,} rows dropped")
    if bad:
        columns = ", ".join(f"{column}: {count:,}" for column, count in sorted(bad.items()))
        LOGGER.warning(f"bad values by column: {columns}")
    return {
        "encoders": _digest(encoders),
        "files": {role: list(map(str, paths)) for role, paths in files.items()},
        "rows": rows,
        "dropped": dropped,
        "bad_values": dict(sorted(bad.items())),
        "arrays": {part: out.forms(part) for part in stream.expected},
    }


def _made_from(
    data: DataConfig, schema: DatasetSchema, files: dict[str, list[Path]], num_class: int
) -> list[Any]:
    """Everything that decides what a store holds, but for encoders given from outside."""
    table = asdict(data.table)
    for name in ("files", "valid_files", "test_files", "package", "fields", "labels", "label"):
        del table[name]  # in the schema, or as files; or what never reaches a store
    fields = [
        {key: value for key, value in asdict(field).items() if key not in _MODEL_ONLY}
        | {"vocabulary": None if field.vocabulary is None else field.vocabulary.digest}
        for field in schema.fields.values()
    ]
    split: list[Any] = [data.split_strategy]
    if data.split_strategy != "predefined":
        split.append(data.split_fractions)
    if data.split_strategy == "random":
        split += [data.split_seed, data.stratify]
    label = asdict(data.table.trained_label)
    if label["kind"] == "class":
        label["num_class"] = num_class
    content = {role: list(map(_fingerprint, paths)) for role, paths in files.items()}
    return [FORMAT_VERSION, content, table, fields, label, split]


def _hash(plain: Any) -> str:
    """16 hexadecimal digits."""
    return xxhash.xxh3_64_hexdigest(json.dumps(plain, sort_keys=True).encode())


def _fingerprint(path: Path) -> list[Any]:
    """Name, size, time of the last change, and a hash of head, middle and end of a file.

    Raises:
        DataError: The file cannot be read.
    """
    hashed = xxhash.xxh3_64()
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            for start in (0, status.st_size // 2, status.st_size - _FINGERPRINT):
                file.seek(max(start, 0))
                hashed.update(file.read(_FINGERPRINT))
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror or error}", place=Place(file=str(path))
        ) from None
    return [path.name, status.st_size, status.st_mtime_ns, hashed.hexdigest()]


def _digest(encoders: Encoders) -> str:
    """A hash of what was fitted."""
    hashed = xxhash.xxh3_64()

    def update(plain: Any) -> None:
        if isinstance(plain, Mapping):
            for key, value in plain.items():
                hashed.update(f"{key}:".encode())
                update(value)
        elif isinstance(plain, Tensor):
            hashed.update(plain.contiguous().numpy().tobytes())
        else:
            hashed.update(json.dumps(plain).encode())

    update(encoders.to_dict()["fitted"])
    return hashed.hexdigest()


def _encoded_with(store_dir: Path, source: str, digest: str) -> Path | None:
    """A store of the same rows with the same encoders, however those came about."""
    for path in store_dir.glob("*/manifest.json"):
        with contextlib.suppress(DataError):
            manifest = _manifest(path.parent)
            if (manifest["source"], manifest["encoders"]) == (source, digest):
                return path.parent
    return None


def _write_manifest(path: Path, content: dict[str, Any]) -> None:
    manifest = {"format": "deepfm store", "format_version": FORMAT_VERSION} | content
    atomic_write_bytes(path / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
    except FileNotFoundError:
        state = "is half-written (no manifest.json)" if path.exists() else "is not there"
        raise DataError(f"the store {path} {state}; `prepare` makes it") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}/manifest.json: cannot be read: {error}; remove it") from None
    if manifest.get("format") != "deepfm store" or manifest["format_version"] != FORMAT_VERSION:
        raise DataError(
            "no store of this release; remove it, and `prepare` makes it",
            place=Place(file=str(path)),
        )
    return manifest
