"""Declared tables of any size: encoded once into arrays on disk, which training maps into memory.

`prepare` reads the files as a stream, up to three times: once over the split's column where the
split needs it, once to fit the encoders on the training rows where some field learns of them, once
to encode every row. Its memory grows with the vocabularies and the side tables, not with the rows.
Histories are found by sorting on disk after that; see `deepfm.data.store.history_writer`.
What it makes is a directory:

    <store_dir>/<folder of the files>-<key>/
        manifest.json                 written last: what the arrays are, and what was counted
        encoders.npz                  what was fitted: arrays of bytes, and plain data as JSON
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

A store that was appended to (`deepfm.data.store.append`) shares files with the one that it goes on
from: there may be more rows in a file than the manifest says, which belong to others.

Arrays are row-major and native-endian, without headers. The key is a hash of all that decides what
stands in them, the content of the files included, so changed rows or settings mean another
directory. It is built under a temporary name and renamed, so under its own name it is whole.

Who opens a store checks it: all of it up to 1 GiB, or with `data.verify: full`; beyond that the
features of a row when its block is first read. A damaged one is made again, with a warning, where
its files are read anyway.
"""

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from deepfm.data.encoding.encoders import Encoders
from deepfm.data.labels import LabelRule
from deepfm.data.later_rows import Step
from deepfm.data.options import DataConfig
from deepfm.data.schema import DatasetSchema
from deepfm.data.store.appended import APPENDED, FITTED, steps_at
from deepfm.data.store.build import build, refuse_workers
from deepfm.data.store.cluster import ShardFolder
from deepfm.data.store.damage import DamagedStore
from deepfm.data.store.encoders_file import digest_of_encoders, name_in, read_encoders
from deepfm.data.store.held_rows import held_rows
from deepfm.data.store.manifest import read_manifest
from deepfm.data.store.part import copy_part
from deepfm.data.store.shard import Shard
from deepfm.data.store.table_rows import RowsOfATable
from deepfm.data.store.versions import hash_plain
from deepfm.data.store.writing import write_store
from deepfm.errors import ConfigError, DataError, DeepFMError, Place
from deepfm.utils.io import make_directory
from deepfm.utils.locks import exclusive_lock
from deepfm.utils.logging import LOGGER

GIVEN, GROWN = "given", "grown"  # how a store was made that nothing is appended to


def prepare(
    data: DataConfig,
    schema: DatasetSchema,
    encoders: Encoders | None = None,
    *,
    base: Encoders | None = None,
    labels: Mapping[str, LabelRule] | None = None,
    verify: bool = False,
    workers: int = 1,
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
        workers: How many processes share the rows; the store is the same for any number of them.
            With 1 this one does all.

    Raises:
        ConfigError: The number of workers is none, or rows that are split so cannot be shared.
        DataError: A file is missing or malformed, a value is bad and its policy is `error`, or a
            split is left without a row.
        DeepFMError: The disk refuses; what was written is removed.
    """
    rows = RowsOfATable(data, schema, labels)
    refuse_workers(rows, workers)
    path = prepared(rows, Path(data.store_dir), encoders, base, workers=workers)
    if verify:
        from deepfm.data.store.opening import verify_store  # torch, which is not needed else

        try:
            size = verify_store(path, schema)
        except DamagedStore as error:
            prepared(rows, Path(data.store_dir), encoders, base, (path, error), workers)
            size = verify_store(path, schema)
        LOGGER.info(f"all checksums agree, of {size / 2**20:,.1f} MiB")
    return path


def prepare_shard(
    data: DataConfig, schema: DatasetSchema, shard: Shard, labels: Mapping[str, LabelRule]
) -> None:
    """Do the next step of a shard of a table; `deepfm.data.store.cluster` says which there are.

    Args:
        data, schema, labels: As in `prepare`.

    Raises:
        ConfigError: Rows that are split so cannot be shared.
        DataError: As in `prepare`, or another shard has not done the step before.
        DeepFMError: The disk refuses.
    """
    store_dir = Path(data.store_dir)
    make_directory(store_dir, f"cannot write below {store_dir}")
    with exclusive_lock(store_dir / ".digests.lock"):  # of many jobs one reads all files for it
        rows = RowsOfATable(data, schema, labels)
    path = path_of_store(rows, store_dir)
    if (path / "manifest.json").exists():
        LOGGER.info(f"data prepared earlier, in {path}")
        return
    try:
        if not ShardFolder(_shards_of(path, shard.of), rows, shard.of).next_step(shard.number):
            LOGGER.info(f"shard {shard} has done all its steps; prepare --merge makes the store")
    except OSError as error:
        raise DeepFMError(f"cannot write {path}: {error.strerror or error}") from None


def merge_shards(data: DataConfig, schema: DatasetSchema, labels: Mapping[str, LabelRule]) -> Path:
    """The directory of a table's store, made of what all its shards have done.

    Args:
        data, schema, labels: As in `prepare`.

    Raises:
        DataError: There are no shards of these rows, or they are not done; something is damaged.
        DeepFMError: The disk refuses.
    """
    store_dir = Path(data.store_dir)
    rows = RowsOfATable(data, schema, labels)
    path = path_of_store(rows, store_dir)
    if (path / "manifest.json").exists():
        LOGGER.info(f"data prepared earlier, in {path}")
        return path
    found = sorted(store_dir.glob(f".{path.name}.of*"))
    if len(found) != 1:
        names = ", ".join(map(str, found)) or "none"
        raise DataError(
            "expected the shards of these files and settings in one folder, which prepare --shard "
            f"makes, found {names}",
            place=Place(file=str(store_dir)),
        )
    shards = ShardFolder(found[0], rows, int(found[0].suffix.removeprefix(".of")))
    prepared(rows, store_dir, None, None, shards=shards)
    shutil.rmtree(found[0])
    return path


def prepare_part(
    data: DataConfig,
    schema: DatasetSchema,
    labels: Mapping[str, LabelRule],
    shard: Shard,
    into: Path,
) -> Path:
    """The directory of a store of one shard of the training rows, in a folder of stores.

    The whole store is made, unless it is there.

    Args:
        data, schema, labels: As in `prepare`, which says what is raised besides.
        into: Another folder than `data.store_dir`.

    Raises:
        ConfigError: It is that folder, or there are fewer training rows than shards.
    """
    if into.absolute() == Path(data.store_dir).absolute():
        raise ConfigError(f"{into} has the whole store (data.store_dir)", key="--into")
    return copy_part(prepare(data, schema, labels=labels), into, shard)


def _shards_of(path: Path, count: int) -> Path:
    """The folder of the shards of a store."""
    return path.with_name(f".{path.name}.of{count}")


def path_of_store(rows: RowsOfATable, store_dir: Path) -> Path:
    """The directory of the store of some files, whether they were prepared at once or appended."""
    return _path_of(rows, store_dir, rows.key())


def _path_of(rows: RowsOfATable, store_dir: Path, key: str) -> Path:
    """The directory of a store."""
    name = next(iter(rows.files.values()))[0].resolve().parent.name or "table"
    return store_dir / f"{name}-{key}"


def prepared(
    rows: RowsOfATable,
    store_dir: Path,
    encoders: Encoders | None,
    base: Encoders | None,
    instead_of: tuple[Path, DamagedStore] | None = None,
    workers: int = 1,
    shards: ShardFolder | None = None,
) -> Path:
    """The directory of a table's store, made unless it is there; arguments and errors of `prepare`.

    Args:
        instead_of: A damaged store, which is removed, with what is wrong.
        shards: That have done the work.
    """
    path = found = path_of_store(rows, store_dir)
    if steps := steps_at(path):
        rows = rows.appended(steps)
    source, made = rows.key(), FITTED
    if encoders is not None:
        digest, made = digest_of_encoders(encoders), GIVEN
        known = _encoded_with(store_dir, source, digest)
        path = known or _path_of(rows, store_dir, hash_plain([source, "encoded with", digest]))
    elif base is not None and not (steps and _has_grown_from(found, rows, base)):
        made = GROWN
        key = hash_plain([source, "grown from", digest_of_encoders(base)])
        path = _path_of(rows, store_dir, key)
    if instead_of is not None:
        path, error = instead_of
        LOGGER.warning(f"{error.place}: {error.problem}; it is made again now")
        if steps and path == found:
            with contextlib.suppress(DamagedStore):  # else all values get new ids
                made, encoders = APPENDED, _encoders_of(path, rows)
    elif (path / "manifest.json").exists():
        LOGGER.info(f"data prepared earlier, in {path}" + _how_often(steps_at(path)))
        return path
    write_store(
        path,
        rows,
        lambda scratch: (
            build(scratch, rows, encoders, base, workers)
            if shards is None
            else shards.merge(scratch)
        ),
        {"source": source, "made": made},
        check=instead_of is not None,
    )
    return path


def _how_often(steps: Sequence[Step]) -> str:
    """Whether rows were appended to a store, for people."""
    return f", rows appended in {len(steps):,} steps" if steps else ""


def _has_grown_from(path: Path, rows: RowsOfATable, base: Encoders) -> bool:
    """Whether the encoders of a store know all that others have learnt, by the same ids."""
    own = _encoders_of(path, rows)
    try:
        return digest_of_encoders(own.grown_from(base)) == digest_of_encoders(own)
    except DataError:  # a table of another kind, which whoever fits anew says better
        return False


def _encoders_of(path: Path, rows: RowsOfATable) -> Encoders:
    """The encoders of a store; errors as in `open_store`."""
    manifest = read_manifest(path)
    return read_encoders(path / name_in(manifest), manifest.get("encoders_checksum"), rows.schema)


def _encoded_with(store_dir: Path, source: str, digest: str) -> Path | None:
    """A store of the same rows with the same encoders, however those came about."""
    for path in store_dir.glob("*/manifest.json"):
        with contextlib.suppress(DataError):
            manifest = read_manifest(path.parent)
            is_whole = held_rows(manifest) is None
            if is_whole and (manifest["source"], manifest["encoders"]) == (source, digest):
                return path.parent
    return None
