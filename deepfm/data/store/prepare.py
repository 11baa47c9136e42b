"""Declared tables of any size: encoded once into arrays on disk, which training maps into memory.

`prepare` reads the files as a stream, up to three times: once over the split's column where the
split needs it, once to fit the encoders on the training rows where some field learns of them, once
to encode every row. Its memory grows with the vocabularies and the side tables, not with the rows.
Histories are found by sorting on disk after that; see `deepfm.data.store.history_writer`.
What it makes is a directory:

    <store_dir>/<folder of the files>-<key>/
        manifest.json                 written last: what the arrays are, and what was counted
        encoders.pt                   as in a checkpoint: tensors and plain data
        train/sparse.sums             checksums of its blocks; so of each array
        train/sparse.bin              ids, (N, F) int32, int64 where a vocabulary needs it
        train/dense.bin               (N, D) float32
        train/sequence0_ids.bin       (N, L) int32; one of each per sequence field
        train/sequence0_lengths.bin   (N,) int32
        train/sequence0_starts.bin    (N,) int64, only of a field that keeps all its elements: its
                                      ids are (E,), those of all rows end to end
        train/label.bin               (N,) float32; (N, T) of several labels
        train/weight.bin              (N,) float32, only with `sample_weight`
        train/group.bin               (N, G) int64, only with `group_columns`: a hash of each value
        train/row.bin                 (N,) int64, number of the row over all files, from 0
        train/history_starts.bin      (N,) int64, only with `history`: where each row's part of the
                                      events begins
        train/history_lengths.bin     (N,) int32, how many events it has
        train/history_time.bin        (N,) float64, the time of the row; 0 where it has none
        valid/…, test/…               the same; no test where the split has none
        history/ids0.bin              (E,) int32, only with `history`: of all events, by user and
                                      the oldest first; one for each of its fields
        history/time.bin              (E,) float64
        history/user.bin              (U,) uint64: hashes of the users that have events, ascending
        history/user_events.bin       (U,) int64, how many each has

Arrays are row-major and native-endian, without headers. The key is a hash of all that decides what
stands in them, the content of the files included, so changed rows or settings mean another
directory. It is built under a temporary name and renamed, so under its own name it is whole.

Who opens a store checks it: all of it up to 1 GiB, or with `data.verify: full`; beyond that the
features of a row when its block is first read. A damaged one is made again, with a warning, where
its files are read anyway.
"""

import contextlib
import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import xxhash
from torch import Tensor

from deepfm.data.encoding.encoders import Encoders
from deepfm.data.fingerprint import FilesRead
from deepfm.data.labels import LabelRule
from deepfm.data.options import DataConfig, HistoryConfig
from deepfm.data.schema import ITEMS, LEARNT, DatasetSchema, FieldSchema
from deepfm.data.sources import tabular
from deepfm.data.sources.tables import SideTables
from deepfm.data.splits import SplitOptions, StreamedSplit
from deepfm.data.store.arrays import ArrayWriter
from deepfm.data.store.checks import DamagedStore, digest_of
from deepfm.data.store.encode import RowEncoding, in_threads, read_ahead
from deepfm.data.store.history_writer import HistoryWriter, write_histories
from deepfm.data.store.manifest import FORMAT_VERSION, hash_plain, read_manifest, write_manifest
from deepfm.data.store.opening import Store, declared_table, open_store, verify_store
from deepfm.data.store.stream import PassOverRows, RowStream, training_rows
from deepfm.errors import ConfigError, DataError, DeepFMError
from deepfm.utils.io import atomic_writer
from deepfm.utils.locks import exclusive_lock
from deepfm.utils.logging import LOGGER
from deepfm.utils.places import path_of

# What a model does with the ids is no part of a store.
_MODEL_ONLY = (
    *LEARNT, "embedding_dim", "combiner", "dense_embedding", "bins", "frequencies",
    "frequency_scale", "init", "trainable", "built", "history_of",
)  # fmt: skip
_OF_A_LABEL = ("column", "kind", "threshold", "positive")  # and what its rule adds
# What decides how rows are read, beside the fields, the labels and the content of the files.
_OF_THE_ROWS = (
    "delimiter", "columns", "encoding", "users", "items", "sample_weight", "group_columns",
    "user_field", "item_field", "time_column", "item_title_column", "bad_values",
)  # fmt: skip


class RowsOfATable:
    """What a declared table says about its rows, before any is read.

    Args:
        data: Its `table`, with a `split_strategy` that streams.
        schema: Of the table.
        labels: The rule of each trained label, by name; the table's own label by default.
        read: The content of its files, if it is known.

    Attributes:
        table, schema, labels: As given.
        files: By what they hold: a split's name or `rows`, `users`, `items`.
        read: The content of these files, and of vocabulary files.
        split: How rows are divided.
    """

    def __init__(
        self,
        data: DataConfig,
        schema: DatasetSchema,
        labels: Mapping[str, LabelRule] | None = None,
        read: FilesRead | None = None,
    ) -> None:
        self.table, self.schema = declared_table(data), schema
        self.labels = labels or {
            self.table.label: tabular.label_rule(self.table.trained_label, num_class=1)
        }
        self._data = data
        self.files = tabular.source_files(data)
        split = data.split
        if not issubclass(split, StreamedSplit):
            raise ConfigError(f"{split.name} is not prepared", key="data.split_strategy")
        self.split = split(self._split_options())
        self.split_names = self.split.split_names(self.files)
        self.read = read or tabular.fingerprint_of(data, self.files)
        if "valid" not in self.split_names:
            raise ConfigError(
                "the validation split needs a share above 0", key="data.split_fractions"
            )

    @cached_property
    def sides(self) -> SideTables:
        """The declared tables of users and items, read when they are first asked for."""
        return tabular.side_tables(self.table, self.schema, path_of(self._data.data_dir))

    def stream(self) -> RowStream:
        """The rows, each with its split and labels."""
        files = {role: files for role, files in self.files.items() if role not in tabular.SIDES}
        return RowStream(self.table, self.schema, files, self.sides, self.labels, self.split)

    def key(self) -> str:
        """A hash of everything that decides what a store holds, but for encoders from outside."""
        table = asdict(self.table)
        fields = [_settings_of(field) for field in self.schema.read_fields]
        content = self.read.fingerprint.content(self.files)
        labels = [(name, self._label_key(name, rule)) for name, rule in self.labels.items()]
        decides = [
            FORMAT_VERSION,
            content,
            {name: table[name] for name in _OF_THE_ROWS},
            fields,
            labels if len(labels) > 1 else labels[0][1],  # a store holds several in their order
            self.split.settings(self.split.options),
        ]
        if self.table.history is not None:
            decides.append(self._history_key(self.table.history))
        return hash_plain(decides)

    def _history_key(self, history: HistoryConfig) -> dict[str, object]:
        """What decides the events that each row sees, and what is known of them.

        Whether a model sees the ages, too, is its affair.
        """
        sources = [field.history_of for field in self.schema.built_fields if field.built == ITEMS]
        return {**history.what_is_seen(), "fields": sources}

    def _label_key(self, name: str, rule: LabelRule) -> dict[str, object]:
        """What a label depends on; a store holds it as it is, standardised later or not."""
        declared = asdict(self.table.label_of(name))
        return {key: declared[key] for key in _OF_A_LABEL} | rule.key

    def _split_options(self) -> SplitOptions:
        data = self._data
        return SplitOptions(
            data.split_fractions,
            data.split_seed,
            data.stratify,
            next(iter(self.labels.values())).classes,
            self.table.time_column,
        )


def _settings_of(field: FieldSchema) -> dict[str, Any]:
    """What a field says that decides its ids and numbers, and what is learnt for them."""
    settings = {key: value for key, value in asdict(field).items() if key not in _MODEL_ONLY}
    settings["vocabulary"] = None if field.vocabulary is None else field.vocabulary.digest
    for key in ("sequence", "numbers"):  # which older stores do not know
        if not settings[key]:
            del settings[key]
    if field.dense_embedding == "piecewise":
        settings["bins"] = field.bins
    return settings


def load_store(
    data: DataConfig,
    schema: DatasetSchema,
    encoders: Encoders | None = None,
    *,
    base: Encoders | None = None,
    labels: Mapping[str, LabelRule] | None = None,
    read: FilesRead | None = None,
) -> Store:
    """The store of a table, which is made unless it is there; arguments and errors of `prepare`.

    A damaged store is made again, with a warning.

    Args:
        read: The content of the table's files, if it is known.
    """
    rows = RowsOfATable(data, schema, labels, read)
    path = _prepared(rows, Path(data.store_dir), encoders, base)
    try:
        found = open_store(path, data, schema, sides=rows.sides)
    except DamagedStore as error:
        _prepared(rows, Path(data.store_dir), encoders, base, instead_of=(path, error))
        found = open_store(path, data, schema, sides=rows.sides)
    return found._replace(fingerprint=rows.read.fingerprint)


def prepare(
    data: DataConfig,
    schema: DatasetSchema,
    encoders: Encoders | None = None,
    *,
    base: Encoders | None = None,
    labels: Mapping[str, LabelRule] | None = None,
    verify: bool = False,
) -> Path:
    """The directory of a table's store, which is made unless it is there.

    Processes that prepare the same table at once wait for each other.

    Args:
        data: Its `table`, with any `split_strategy` that streams.
        schema: Of the table.
        encoders: Those of a checkpoint, used as they are; without them new ones are fitted.
        base: Those of another checkpoint, from which the fitted ones grow.
        labels: The rule of each trained label, by name; the table's own label by default.
        verify: Compare all checksums of a store that is there; a damaged one is made again, with
            a warning.

    Raises:
        DataError: A file is missing or malformed, a value is bad and its policy is `error`, or a
            split is left without a row.
        DeepFMError: The disk refuses; what was written is removed.
    """
    rows = RowsOfATable(data, schema, labels)
    path = _prepared(rows, Path(data.store_dir), encoders, base)
    if verify:
        try:
            size = verify_store(path, schema)
        except DamagedStore as error:
            _prepared(rows, Path(data.store_dir), encoders, base, instead_of=(path, error))
            size = verify_store(path, schema)
        LOGGER.info(f"all checksums agree, of {size / 2**20:,.1f} MiB")
    return path


def _prepared(
    rows: RowsOfATable,
    store_dir: Path,
    encoders: Encoders | None,
    base: Encoders | None,
    instead_of: tuple[Path, DamagedStore] | None = None,
) -> Path:
    """The store's directory; `instead_of` a damaged one, which is removed, with what is wrong."""
    key = source = rows.key()
    path = None
    if encoders is not None:
        path = _encoded_with(store_dir, source, digest := _digest(encoders))
        key = hash_plain([source, "encoded with", digest])
    elif base is not None:
        key = hash_plain([source, "grown from", _digest(base)])
    if path is None:
        name = next(iter(rows.files.values()))[0].resolve().parent.name or "table"
        path = store_dir / f"{name}-{key}"
    if instead_of is not None:
        path, error = instead_of
        LOGGER.warning(f"{error.place}: {error.problem}; it is made again now")
    elif (path / "manifest.json").exists():
        LOGGER.info(f"data prepared earlier, in {path}")
        return path
    failure = f"cannot write the store {path}"
    advice = "what was written of it is removed (data.store_dir says where stores are)"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        waiting = partial(LOGGER.info, f"another process prepares {path}: waiting for it")
        with exclusive_lock(path.with_name(f".{path.name}.lock"), waiting):
            if _is_whole(path, rows.schema, check=instead_of is not None):
                return path  # another process has made it meanwhile
            _remove_remains(path)
            scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            try:
                scratch.mkdir()
                with _malloc():
                    made = _build(scratch, rows, encoders, base)
                rows.read.refuse_changed()
                write_manifest(scratch, made | {"source": source})
                os.replace(scratch, path)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise DeepFMError(f"{failure}: {error.strerror or error}; {advice}") from None
    return path


def _is_whole(path: Path, schema: DatasetSchema, *, check: bool) -> bool:
    """Whether there is a store; with `check` its checksums are compared, too."""
    if not (path / "manifest.json").exists():
        return False
    if check:
        try:
            verify_store(path, schema)
        except DamagedStore:
            return False
    return True


def _remove_remains(path: Path) -> None:
    """Remove a store that is not whole, and what killed processes left of it."""
    if path.exists():
        if not (path / "manifest.json").exists():
            LOGGER.warning(f"{path} is half-written (no manifest.json): it is made again")
        (path / "manifest.json").unlink(missing_ok=True)  # first, so that what is left is not used
        shutil.rmtree(path)
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        shutil.rmtree(left)


@contextlib.contextmanager
def _malloc() -> Iterator[None]:
    """Arrow takes memory from malloc within this context, in all threads of the process.

    Blocks of rows come and go: so a table takes an eighth less time than with the default, which
    gives each one back to the system. There is no other way to say so, because not all of Arrow's
    functions take a pool.
    """
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def _build(
    scratch: Path, table: RowsOfATable, encoders: Encoders | None, base: Encoders | None
) -> dict[str, Any]:
    """Write all of a store but its manifest, whose content is returned."""
    stream = table.stream()
    if encoders is None:
        encoders = _fitted(table.schema, stream, base)
    encoding, dropped = RowEncoding(encoders, table.table), 0
    bad: Counter[str] = Counter()
    with ArrayWriter(scratch) as out, _histories(scratch, table, encoding) as histories:
        with PassOverRows("encoding", stream) as passed:
            for encoded in in_threads(encoding, passed.rows()):
                out.write(encoded.arrays)
                dropped += encoded.dropped
                bad += encoded.bad
                if histories is not None and encoded.records is not None:
                    histories.add(encoded.records)
        history = {} if histories is None else write_histories(histories, out)
    for split in table.split_names:
        if not out.rows[split]:
            raise DataError(
                f"the {split} split is empty: {stream.rows:,} rows read, {dropped:,} dropped; see "
                "data.split_strategy, data.split_fractions and the files"
            )
    with atomic_writer(scratch / "encoders.pt") as file:
        torch.save(encoders.to_dict(), file)
    rows = {split: out.rows[split] for split in table.split_names}
    counts = ", ".join(f"{count:,} {split}" for split, count in rows.items())
    LOGGER.info(f"prepared {counts} rows; {dropped:,} of {stream.rows:,} rows dropped")
    if bad:
        columns = ", ".join(f"{column}: {count:,}" for column, count in sorted(bad.items()))
        LOGGER.warning(f"bad values by column: {columns}")
    return {
        "encoders": _digest(encoders),
        "encoders_checksum": digest_of((scratch / "encoders.pt").read_bytes()),
        "files": {role: list(map(str, paths)) for role, paths in table.files.items()},
        "rows": rows,
        "dropped": dropped,
        "bad_values": dict(sorted(bad.items())),
        "arrays": {split: out.shapes(split) for split in table.split_names},
    } | history


def _histories(
    scratch: Path, table: RowsOfATable, encoding: RowEncoding
) -> AbstractContextManager[HistoryWriter | None]:
    """What writes the histories of the rows; None where they have none."""
    history = table.table.history
    if history is None or encoding.records is None:
        return contextlib.nullcontext()
    return HistoryWriter(scratch, encoding.records.dtype, history)


def _fitted(schema: DatasetSchema, stream: RowStream, base: Encoders | None) -> Encoders:
    """Encoders of the training rows, which are not read where nothing is to be learnt."""
    if Encoders.has_to_learn(schema):
        with PassOverRows("reading the training rows", stream) as passed:
            encoders = Encoders.fit(schema, training_rows(read_ahead(passed.rows())))
    else:
        encoders = Encoders.fit(schema, ())
    return encoders if base is None else encoders.grown_from(base)


def _digest(encoders: Encoders) -> str:
    """A hash of what was fitted."""
    hashed = xxhash.xxh3_64()

    def update(plain: object) -> None:
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
            manifest = read_manifest(path.parent)
            if (manifest["source"], manifest["encoders"]) == (source, digest):
                return path.parent
    return None
