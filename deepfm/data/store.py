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
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import xxhash
from torch import Tensor

from deepfm.config import DataConfig, TableConfig
from deepfm.data import tabular
from deepfm.data.arrays import ArrayWriter, open_split
from deepfm.data.batch import Inputs, Ragged
from deepfm.data.dataset import TabularDataset
from deepfm.data.encoders import Encoders
from deepfm.data.files import Rows, read_rows
from deepfm.data.labels import binary_label, class_label, group_ids, number_label, sample_weight
from deepfm.data.schema import DatasetSchema, RawTables
from deepfm.data.splits import RandomSplit, StratifiedSplit, Times, TimeSample, TimeSplit
from deepfm.errors import ConfigError, DataError, DeepFMError
from deepfm.utils.io import atomic_write_bytes, atomic_writer, exclusive_lock
from deepfm.utils.logging import LOGGER, ProgressBar

FORMAT_VERSION = 1
PARTS = ("train", "valid", "test")
BLOCK_SIZE = 16 << 20  # bytes of text that are encoded at once
_MAX_THREADS = 8  # each holds a batch of rows
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


class _Part(NamedTuple):
    """Raw rows on their way, N of them.

    Attributes:
        rows: The raw columns, side tables looked up.
        first: Number of the first row over all files.
        parts: Index in `PARTS` of each row, -1 for rows that are dropped, (N,).
        label: (N,) float32.
        bad: Bad values by column, of the columns that are no field's.
    """

    rows: Rows
    first: int
    parts: np.ndarray
    label: np.ndarray
    bad: Counter


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
    files = _files(data)
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
        raise DataError(f"{path}: encoders.pt cannot be read: {error}; remove the store") from None
    encoders = Encoders.from_dict(plain | {"schema": schema.to_dict()})
    parts = {
        part: open_split(path / part, arrays, encoders.schema)
        for part, arrays in manifest["arrays"].items()
    }
    sides = _side_tables(data, schema)
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
    stream = _Stream(data, schema, files, num_class)
    if encoders is None:
        if Encoders.has_to_learn(schema):
            with _Pass("reading the training rows", stream) as passed:
                encoders = Encoders.fit(schema, _training_rows(_ahead(passed.parts())))
        else:
            encoders = Encoders.fit(schema, ())
        if base is not None:
            encoders = encoders.grown_from(base)
    encoding, dropped, bad = _Encoding(encoders, data.table), 0, Counter()
    with _Pass("encoding", stream) as passed, ArrayWriter(scratch) as out:
        for encoded in _in_threads(encoding, passed.parts()):
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


class _Stream:
    """The raw rows of a table, each with its split and label; can be gone through repeatedly.

    Attributes:
        expected: The splits that the settings ask for.
        rows: How many rows there are, known after the first time.
    """

    def __init__(
        self,
        data: DataConfig,
        schema: DatasetSchema,
        files: dict[str, list[Path]],
        num_class: int,
    ) -> None:
        self.rows = 0
        self.files = {role: paths for role, paths in files.items() if role in (*PARTS, "rows")}
        self._data, self._schema, self._table = data, schema, data.table
        self._num_class = num_class
        sides = _side_tables(data, schema)
        self._sides = RawTables(None, sides.get("user"), sides.get("item"))
        self._columns = self._needed_columns()
        if data.split_strategy == "predefined":
            self.expected = tuple(part for part in PARTS if part in files)
        else:
            shares = zip(PARTS, data.split_fractions, strict=True)
            self.expected = tuple(part for part, share in shares if share > 0)
        if "valid" not in self.expected:
            raise ConfigError("data.split_fractions: the validation split needs a share above 0")
        self._split = self._prepared_split()

    def __iter__(self) -> Iterator[_Part]:
        split, first = self._split(), 0
        for role in self.files:
            for rows in self._read(self._columns, role):
                rows = rows._replace(table=self._sides.complete(self._schema, rows.table))
                label, bad = self._label(rows)
                numbers = first + np.arange(len(label))
                classes = np.where(bad, -1, label if self._has_classes else 0).astype(int)
                parts, unplaced = split(rows, role, numbers, classes)
                counts = Counter()
                for column, mask in (
                    (self._schema.label_field, bad),
                    (self._table.time_column, unplaced),
                ):
                    if mask is not None and mask.any():
                        counts[column] += int(mask.sum())
                        parts = np.where(mask, -1, parts)
                yield _Part(rows, first, parts, label, counts)
                first += len(label)
        self.rows = first

    def _needed_columns(self) -> list[str]:
        """The columns to read from the files of rows: not those that only a side table has."""
        table = self._table
        wanted = [name for field in self._schema.fields.values() for name in field.raw_columns]
        wanted += [self._schema.label_field, table.sample_weight, *table.group_columns]
        if self._data.split_strategy == "time":
            wanted.append(table.time_column)
        wanted = [column for column in dict.fromkeys(wanted) if column is not None]
        sides = [side for side in (self._sides.users, self._sides.items) if side is not None]
        looked_up = {name for side in sides for name in side.column_names}
        if looked_up & set(wanted):
            present = next(self._read(None, next(iter(self.files)))).table.column_names
            wanted = [name for name in wanted if name in present or name not in looked_up]
        return wanted

    def _read(self, columns: list[str] | None, role: str) -> Iterator[Rows]:
        form = tabular.form(self._table)
        return read_rows(self.files[role], **form, only=columns, block_size=BLOCK_SIZE)

    def _label(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        rule = self._table.trained_label
        values = rows.table[rule.column].combine_chunks()
        if rule.kind == "class":
            label, bad = class_label(values, self._num_class)
            expected = f"a class from 0 to {self._num_class - 1}"
        elif rule.kind == "number":
            label, bad = number_label(values)
            expected = "a finite number"
        else:
            label, bad = binary_label(values, threshold=rule.threshold, positive=rule.positive)
            expected = "a number" if rule.threshold is not None else "0 or 1"
        refuse_bad(self._table, rows, rule.column, bad, expected)
        return label, bad

    @property
    def _has_classes(self) -> bool:
        return self._table.trained_label.kind != "number"

    def _prepared_split(self) -> Callable[[], Callable]:
        """What makes, for one time through the rows, the function that splits a batch of them.

        That takes (rows, role, row numbers, classes), where the class of a row is its label or -1,
        and gives the parts and which rows have no time (None: all have).
        """
        data = self._data
        fractions, seed = data.split_fractions, data.split_seed
        if data.split_strategy == "predefined":
            return lambda: (
                lambda rows, role, numbers, classes: (
                    np.full(len(numbers), PARTS.index(role)),
                    None,
                )
            )
        if data.split_strategy == "time":
            return self._prepared_time_split()
        if data.stratify:
            if not self._has_classes:
                raise ConfigError("data.stratify: the label is a number, which has no classes")
            classes = max(2, self._num_class)
            sizes = np.zeros(classes, np.int64)
            for rows in self._read([self._schema.label_field], "rows"):
                label, bad = self._label(rows)
                sizes += np.bincount(label[~bad].astype(int), minlength=classes)

            def stratified() -> Callable:
                split = StratifiedSplit(fractions, seed, sizes.tolist())
                return lambda rows, role, numbers, classes: (split.parts(classes), None)

            return stratified
        split = RandomSplit(fractions, seed)
        return lambda: lambda rows, role, numbers, classes: (split.parts(numbers), None)

    def _prepared_time_split(self) -> Callable[[], Callable]:
        column, times, sample, first = self._table.time_column, Times(), TimeSample(), 0

        def read(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
            found, bad = times.read(rows.table[column].combine_chunks())
            refuse_bad(self._table, rows, column, bad, "a time")
            return found, bad

        for rows in self._read([column], "rows"):
            found, bad = read(rows)
            sample.add((first + np.arange(len(found)))[~bad], found[~bad])
            first += len(found)
        split = TimeSplit.of(self._data.split_fractions, sample.times)

        def parts(rows: Rows, role: str, numbers: np.ndarray, classes: np.ndarray) -> tuple:
            found, bad = read(rows)
            return split.parts(found), bad

        return lambda: parts


def refuse_bad(table: TableConfig, rows: Rows, column: str, bad: np.ndarray, expected: str) -> None:
    """Raise for the first bad value of a column that is no field's, unless its row is dropped.

    A label, a weight or a time cannot be `unknown`: that policy is an error here.

    Raises:
        DataError: The message names file, line, column and value.
    """
    if bad.any() and table.bad_values != "drop":
        index = int(np.argmax(bad))
        found = rows.table[column][index].as_py()
        found = "nothing" if found is None else repr(found)
        raise DataError(f"{rows.place(index)}: column {column}: expected {expected}, found {found}")


class _Encoded(NamedTuple):
    """Arrays to append, by split and name, with what was left out of them."""

    arrays: dict[str, dict[str, np.ndarray]]
    dropped: int
    bad: Counter


class _Encoding:
    """Raw rows to the arrays of each split; has no state, so that threads can share it."""

    def __init__(self, encoders: Encoders, table: TableConfig) -> None:
        self._encoders = encoders
        self._table = table
        sizes = [
            max((field.vocabulary_size for field in fields), default=0)
            for fields in (encoders.schema.sparse_fields, encoders.schema.sequence_fields)
        ]
        self._sparse, self._sequence = (
            np.int32 if size <= np.iinfo(np.int32).max else np.int64 for size in sizes
        )

    def __call__(self, part: _Part) -> _Encoded:
        rows, parts, bad = part.rows, part.parts, Counter(part.bad)
        weight = None
        if (column := self._table.sample_weight) is not None:
            weight, is_bad = sample_weight(rows.table[column].combine_chunks())
            refuse_bad(self._table, rows, column, is_bad, "a finite number of at least 0")
            if is_bad.any():
                bad[column] += int(is_bad.sum())
                parts = np.where(is_bad, -1, parts)
        encoded = self._encoders.encode_rows(rows)
        bad.update(encoded.bad)
        kept = encoded.kept
        whole = self._arrays(encoded.inputs) | {
            "label": part.label[kept],
            "row": part.first + kept.astype(np.int64),
        }
        if weight is not None:
            whole["weight"] = weight[kept]
        if columns := self._table.group_columns:
            whole["group"] = group_ids(rows.table, columns)[kept]
        parts = parts[kept]
        arrays = {}
        for number, name in enumerate(PARTS):
            chosen = np.flatnonzero(parts == number)
            if len(chosen) == len(parts):
                arrays[name] = whole
            elif len(chosen):
                arrays[name] = {key: values[chosen] for key, values in whole.items()}
            else:
                continue
            arrays[name] |= self._sequences(encoded.inputs, chosen)
        return _Encoded(arrays, len(part.parts) - int((parts >= 0).sum()), bad)

    def _arrays(self, inputs: Inputs) -> dict[str, np.ndarray]:
        arrays = {"sparse": inputs.sparse.numpy().astype(self._sparse)}
        arrays["dense"] = inputs.dense.numpy()
        return arrays

    def _sequences(self, inputs: Inputs, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Arrays of the sequence fields for some rows; of a ragged one without its starts."""
        rows, arrays = torch.from_numpy(chosen), {}
        for k, (ids, lengths) in enumerate(
            zip(inputs.sequence_ids, inputs.sequence_lengths, strict=True)
        ):
            found = ids.flat(rows) if isinstance(ids, Ragged) else ids[rows]
            arrays[f"sequence{k}_ids"] = found.numpy().astype(self._sequence)
            arrays[f"sequence{k}_lengths"] = lengths[rows].numpy().astype(np.int32)
        return arrays


class _Pass:
    """One time through all rows: a bar while it runs, a log line when it is done."""

    def __init__(self, title: str, stream: _Stream) -> None:
        self._title, self._stream = title, stream
        paths = [path for paths in stream.files.values() for path in paths]
        self._sizes = [path.stat().st_size for path in paths]
        self._bar = ProgressBar(title, total=100)

    def parts(self) -> Iterator[_Part]:
        """The stream's rows, as they are counted."""
        rows, before, path = 0, 0, None
        for part in self._stream:
            if part.rows.path != path:
                before, path = before + (path is not None), part.rows.path
            rows += len(part.parts)
            if self._bar.due():
                done = sum(self._sizes[:before]) + self._sizes[before] * part.rows.done
                self._bar.show(int(100 * done / max(sum(self._sizes), 1)), self._speed(rows))
            yield part

    def _speed(self, rows: int) -> str:
        return f"{rows:,} rows, {rows / (time.perf_counter() - self._start):,.0f} rows/s"

    def __enter__(self) -> "_Pass":
        self._start = time.perf_counter()
        self._bar.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._bar.__exit__(kind, *error)
        if kind is None:
            seconds = time.perf_counter() - self._start
            LOGGER.info(f"{self._title}: {self._speed(self._stream.rows)}, {seconds:.1f} s")


class _ChosenRows(Rows):
    """Some of the rows of a table, which still know where they stand in the file."""

    @classmethod
    def of(cls, rows: Rows, is_chosen: np.ndarray) -> "_ChosenRows":
        # filter, because take is several times slower on columns of many chunks
        chosen = cls(*rows._replace(table=rows.table.filter(pa.array(is_chosen))))
        chosen.index = np.flatnonzero(is_chosen)
        return chosen

    def place(self, index: int) -> str:
        return super().place(int(self.index[index]))


def _training_rows(parts: Iterable[_Part]) -> Iterator[Rows]:
    for part in parts:
        is_chosen = part.parts == 0
        if is_chosen.all():
            yield part.rows
        elif is_chosen.any():
            yield _ChosenRows.of(part.rows, is_chosen)


def _ahead(items: Iterable, depth: int = 2) -> Iterator:
    """The same items, made by another thread while the caller works on earlier ones."""
    items, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        pending = deque(pool.submit(next, items, end) for _ in range(depth))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, items, end))
            yield item


def _in_threads(function: Callable, items: Iterable) -> Iterator:
    """The function's results in the order of the items, computed by as many threads as cores."""
    workers = min(_MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        pending: deque = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _files(data: DataConfig) -> dict[str, list[Path]]:
    """The files of a table by what they hold: `train`, `valid`, `test` or `rows`, and the sides."""
    table = data.table
    given: dict[str, tuple[str, ...]] = {"rows": table.files}
    if data.split_strategy == "predefined":
        given = {"train": table.files, "valid": table.valid_files, "test": table.test_files}
    for side in ("users", "items"):
        if (source := getattr(table, side)) is not None:
            given[side] = source.files
    return {
        role: tabular.find_files(Path(data.data_dir), patterns)
        for role, patterns in given.items()
        if patterns
    }


def _side_tables(data: DataConfig, schema: DatasetSchema) -> dict[str, pa.Table]:
    """The declared tables of users and items, by `user` and `item`."""
    sources = {}
    for side in ("user", "item"):
        if (source := getattr(data.table, f"{side}s")) is not None:
            sources[side] = tabular.side_table(source, schema, side, Path(data.data_dir))
    return sources


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
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
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
        raise DataError(f"{path}: no store of this release; remove it, and `prepare` makes it")
    return manifest
