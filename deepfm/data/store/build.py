"""A store from the rows of a table: shared out, fitted, encoded, and put together again."""

import contextlib
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.kinds import Encoder
from deepfm.data.encoding.learning import Learning, refuse_untrained
from deepfm.data.files.columns import named_in_errors
from deepfm.data.files.read import read_rows
from deepfm.data.sources import tabular
from deepfm.data.split_times import Times
from deepfm.data.store import share_work
from deepfm.data.store.arrays import ArrayWriter
from deepfm.data.store.encoders_file import ENCODERS, digest_of_encoders, write_encoders
from deepfm.data.store.history_records import HistoryRecords
from deepfm.data.store.history_writer import HistoryWriter, write_histories
from deepfm.data.store.learnt_files import size_of_states
from deepfm.data.store.passes import PassOverRows
from deepfm.data.store.share_work import EncodedShare, ShareTask
from deepfm.data.store.shares import (
    Share,
    cut,
    one_share,
    parts_by_share,
    ranges_by_share,
    shares_of,
    uncounted,
)
from deepfm.data.store.sums import digest_of
from deepfm.data.store.table_rows import RowsOfATable
from deepfm.errors import ConfigError, DataError
from deepfm.utils.logging import LOGGER
from deepfm.utils.processes import Processes, Report
from deepfm.utils.threads import cores

_MAX_THREADS = 8  # of a process; each holds a block of rows
_LOOK = 1 << 20  # bytes of text in which a first time is looked for


def refuse_workers(table: RowsOfATable, workers: int) -> None:
    """Refuse a number of processes that cannot share the rows of a table.

    Raises:
        ConfigError: It is none, or the split goes through all rows in their order.
    """
    if workers < 1:
        raise ConfigError(f"expected at least 1, found {workers}", key="--workers")
    if workers > 1 and not table.split.in_shares:
        raise ConfigError(
            f"{table.split.name} goes through all rows in their order, which one process has to do "
            f"(--workers 1), found {workers}",
            key="data.split_strategy",
        )


def build(
    scratch: Path,
    table: RowsOfATable,
    encoders: Encoders | None,
    base: Encoders | None,
    workers: int,
) -> dict[str, Any]:
    """Write all of a store but its manifest, whose content is returned."""
    encoders, encoded = encode_all(scratch, table, encoders, base, workers)
    made = put_together(scratch, table, encoders, encoded)
    for folder in encoded:
        shutil.rmtree(folder)
    return made


def encode_all(
    scratch: Path,
    table: RowsOfATable,
    encoders: Encoders | None,
    base: Encoders | None,
    workers: int,
) -> tuple[Encoders, dict[Path, EncodedShare]]:
    """Encode the rows of a table into a folder for each share; the encoders, and the shares."""
    assert table.sides  # read once, and then sent to all processes
    with Processes(workers, table) as processes:
        tasks = planned(table, processes)
        if encoders is None:
            encoders = _fitted(scratch, table, tasks, processes, base)
        folders = [scratch / f"share{task.number}" for task in tasks]
        work = [(task, encoders, folder) for task, folder in zip(tasks, folders, strict=True)]
        with PassOverRows("encoding", _size(tasks)).shown() as passed:
            encoded = processes.map(share_work.encode, work, passed.report)
        passed.end(sum(one.read for one in encoded))
    for task, following, one in zip(tasks, tasks[1:], encoded, strict=False):
        share_work.refuse_miscounted(task.share, following.share, one.read)
    return encoders, dict(zip(folders, encoded, strict=True))


def planned(table: RowsOfATable, processes: Processes[RowsOfATable]) -> list[ShareTask]:
    """The rows as a share for each process, with what the split has to know of all of them."""
    count = processes.count
    threads = threads_of(count)
    if count == 1:
        shares, are_dates = [one_share(table.row_files)], None
    else:
        shares, are_dates = _shares(table, processes), first_time(table)
    shares = [share._replace(before=table.before + share.before) for share in shares]
    tasks = [
        ShareTask(share, number, count, are_dates, None, threads)
        for number, share in enumerate(shares)
    ]
    if table.is_surveyed:
        found = processes.map(share_work.survey, tasks)
        if count > 1:
            tasks = [task._replace(found=found) for task in tasks]
    return tasks


def threads_of(count: int) -> int:
    """How many threads each of so many processes has."""
    return min(_MAX_THREADS, max(1, cores() // count))


def _shares(table: RowsOfATable, processes: Processes[RowsOfATable]) -> list[Share]:
    """The rows cut at bounds of rows, which are looked for by all processes."""
    options = tabular.text_options(table.table)
    files = cut(table.row_files, processes.count, options)
    ranges = ranges_by_share(files, processes.count)
    parts = parts_by_share(files, processes.map(share_work.scan_ranges, ranges), options)
    return shares_of(parts, processes.map(share_work.count_rows, uncounted(parts)))


def first_time(table: RowsOfATable) -> bool | None:
    """Whether the first time of all rows is a date; None where no time is read, or is there."""
    column = table.table.time_column
    if column is None or (table.table.history is None and column not in table.split.columns):
        return None
    times, options = Times(), tabular.text_options(table.table)
    for files in table.row_files.values():
        for rows in read_rows(files, **options, only=[column], block_size=_LOOK):
            with named_in_errors(column):
                times.read(rows.table[column].combine_chunks())
            if times.are_dates is not None:
                return times.are_dates
    return None


def _fitted(
    scratch: Path,
    table: RowsOfATable,
    tasks: Sequence[ShareTask],
    processes: Processes[RowsOfATable],
    base: Encoders | None,
) -> Encoders:
    """Encoders of the training rows, which are not read where nothing is to be learnt."""
    schema = table.schema
    if Encoders.has_to_learn(schema):
        with PassOverRows("reading the training rows", _size(tasks)).shown() as passed:
            if len(tasks) == 1:
                ((learning, rows),) = processes.map(share_work.learn, tasks, passed.report)
                by_table = learning.fitted() if learning.rows or base is None else {}
            else:
                found = _fitted_by_all(scratch, table, tasks, processes, base, passed.report)
                by_table, rows = found
        passed.end(rows)
        if base is not None and not by_table:  # no row trains, so that nothing is new
            return base
        encoders = Encoders(schema, by_table)
    else:
        encoders = Encoders.fit(schema, ())
    return encoders if base is None else encoders.grown_from(base)


def _fitted_by_all(
    scratch: Path,
    table: RowsOfATable,
    tasks: Sequence[ShareTask],
    processes: Processes[RowsOfATable],
    base: Encoders | None,
    report: Report,
) -> tuple[dict[str, Encoder], int]:
    """The encoder of each embedding table, and how many rows there are.

    None of them with a base and without a training row.
    """
    folders = [scratch / f"learnt{task.number}" for task in tasks]
    work = list(zip(tasks, folders, strict=True))
    learnt = processes.map(share_work.learn_into, work, report)
    trained = sum(one.trained for one in learnt)
    if base is None:
        refuse_untrained(trained)
    elif not trained:
        return {}, sum(one.read for one in learnt)
    names = list(Learning(table.schema).tables())
    largest_first = sorted(
        names,
        key=lambda name: sum(size_of_states(folder, table.schema, name) for folder in folders),
        reverse=True,
    )
    of_tables = [(name, folders) for name in largest_first]
    found = dict(zip(largest_first, processes.map(share_work.fit_table, of_tables), strict=True))
    for folder in folders:
        shutil.rmtree(folder)
    return {name: found[name] for name in names}, sum(one.read for one in learnt)


def _size(tasks: Sequence[ShareTask]) -> float:
    """Bytes of all rows."""
    return sum(task.share.size for task in tasks)


def put_together(
    folder: Path, table: RowsOfATable, encoders: Encoders, encoded: Mapping[Path, EncodedShare]
) -> dict[str, Any]:
    """Put the arrays of all shares end to end, and find histories; the content of the manifest.

    Args:
        folder: Of the store.
        table: Its rows.
        encoders: That they were encoded with.
        encoded: What each share has become, by its folder, in their order; the folders are left
            without arrays.

    Raises:
        DataError: A split has no row.
    """
    read = sum(one.read for one in encoded.values())
    dropped = sum(one.dropped for one in encoded.values())
    bad: Counter[str] = Counter()
    with ArrayWriter(folder) as out, _histories(folder, table, encoders) as histories:
        for own, one in encoded.items():
            bad += Counter(one.bad)
            out.append_piece(own, one.arrays)
            if histories is not None:
                for records in share_work.read_records(own, histories.dtype):
                    histories.add(records)
        history = {} if histories is None else write_histories(histories, out)
    made = manifest_of(folder, table, encoders, out, read, dropped, bad)
    counts = ", ".join(f"{count:,} {split}" for split, count in made["rows"].items())
    LOGGER.info(f"prepared {counts} rows; {dropped:,} of {read:,} rows dropped")
    return made | history


def manifest_of(
    folder: Path,
    table: RowsOfATable,
    encoders: Encoders,
    out: ArrayWriter,
    read: int,
    dropped: int,
    bad: Mapping[str, int],
) -> dict[str, Any]:
    """Write the encoders of a store, and say what its manifest says of its arrays.

    Args:
        folder, table, encoders: As in `put_together`.
        out: Which has written the arrays.
        read: How many rows there are.
        dropped: How many of them are in no split.
        bad: Bad values by column.

    Raises:
        DataError: A split has no row.
    """
    for split in table.split_names:
        if not out.rows[split]:
            raise DataError(
                f"the {split} split is empty: {read:,} rows read, {dropped:,} dropped; see "
                "data.split_strategy, data.split_fractions and the files"
            )
    write_encoders(folder / ENCODERS, encoders)
    if bad:
        columns = ", ".join(f"{column}: {count:,}" for column, count in sorted(bad.items()))
        LOGGER.warning(f"bad values by column: {columns}")
    return {
        "encoders": digest_of_encoders(encoders),
        "encoders_file": ENCODERS,
        "encoders_checksum": digest_of((folder / ENCODERS).read_bytes()),
        "files": {role: list(map(str, paths)) for role, paths in table.files.items()},
        "rows": {split: out.rows[split] for split in table.split_names},
        "dropped": dropped,
        "bad_values": dict(sorted(bad.items())),
        "arrays": {split: out.shapes(split) for split in table.split_names},
    }


def _histories(
    folder: Path, table: RowsOfATable, encoders: Encoders
) -> AbstractContextManager[HistoryWriter | None]:
    """What writes the histories of the rows; None where they have none."""
    history = table.table.history
    if history is None:
        return contextlib.nullcontext()
    return HistoryWriter(folder, HistoryRecords(encoders.schema, table.table).dtype, history)
