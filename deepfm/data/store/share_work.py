"""What is done with a share of a table's rows, in this process or in another; needs no torch."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.kinds import Encoder
from deepfm.data.encoding.learning import Learning
from deepfm.data.files.parts import FilePart
from deepfm.data.files.read import parts_of
from deepfm.data.sources import tabular
from deepfm.data.store.arrays import ArrayWriter, Piece, write_array
from deepfm.data.store.encode import RowEncoding
from deepfm.data.store.learnt_files import read_states, write_states
from deepfm.data.store.shares import Share, rows_in
from deepfm.data.store.stream import RowStream, reported, training_rows
from deepfm.data.store.table_rows import RowsOfATable
from deepfm.errors import DataError
from deepfm.utils.processes import Report
from deepfm.utils.threads import Threads

RECORDS = "records.bin"  # of histories, which are found when all shares are there
_RECORDS_AT_ONCE = 1 << 16


class ShareTask(NamedTuple):
    """A share, and what is known of all rows.

    Attributes:
        share: The rows.
        number: Of the share, from 0.
        of: How many shares there are.
        are_dates: What the times of all rows are, as `Times` takes it.
        found: What the split has found in each share; None before it has looked, and where a
            single share is all rows.
        threads: How many work on it.
    """

    share: Share
    number: int
    of: int
    are_dates: bool | None
    found: Sequence[Mapping[str, np.ndarray]] | None
    threads: int

    def stream(self, table: RowsOfATable, threads: Threads) -> RowStream:
        """The rows."""
        split = table.split if self.of == 1 else table.new_split()
        if self.found is not None:
            split.take(self.found, self.number)
        return RowStream(
            table.table,
            table.schema,
            table.row_files,
            table.sides,
            table.labels,
            split,
            self.share,
            are_dates=self.are_dates,
            threads=threads,
        )


class EncodedShare(NamedTuple):
    """What became of a share, whose arrays are in a folder.

    Attributes:
        read: How many rows it has.
        dropped: How many of them are in no split.
        bad: Bad values by column.
        arrays: Those in the folder.
    """

    read: int
    dropped: int
    bad: dict[str, int]
    arrays: Piece


def scan_ranges(table: RowsOfATable, ranges: Sequence[FilePart], report: Report) -> list[list[Any]]:
    """What is found in some ranges of files, of which parts can be made."""
    options = tabular.text_options(table.table)
    return [parts_of(some.path).scan(some, options) for some in ranges]


def count_rows(table: RowsOfATable, parts: Sequence[FilePart], report: Report) -> list[int]:
    """How many rows each part has, which is read for it."""
    options = tabular.text_options(table.table)
    return [rows_in(part, options) for part in parts]


def survey(table: RowsOfATable, task: ShareTask, report: Report) -> Mapping[str, np.ndarray]:
    """Let the split look at a share; what it has found."""
    with Threads(task.threads) as threads:
        stream = task.stream(table, threads)
        stream.survey(report)
    return stream.split.found()


def learn(table: RowsOfATable, task: ShareTask, report: Report) -> tuple[Learning, int]:
    """What the training rows of a share teach, and how many rows it has."""
    learning = Learning(table.schema)
    with _malloc(), Threads(task.threads) as threads:
        stream = task.stream(table, threads)
        learning.learn(training_rows(reported(stream, report)))
    return learning, stream.rows


class LearntShare(NamedTuple):
    """What was learnt of a share, in a folder.

    Attributes:
        read: How many rows it has.
        trained: How many of them train.
    """

    read: int
    trained: int


def learn_into(table: RowsOfATable, task: tuple[ShareTask, Path], report: Report) -> LearntShare:
    """As `learn`, into a folder."""
    learning, rows = learn(table, task[0], report)
    write_states(task[1], table.schema, learning)
    return LearntShare(rows, learning.rows)


def fit_table(table: RowsOfATable, task: tuple[str, Sequence[Path]], report: Report) -> Encoder:
    """The encoder of one embedding table, of what was learnt of all shares, in their order."""
    name, folders = task
    learning = Learning(table.schema)
    fields = learning.tables()[name]
    for folder in folders:
        learning.merge(read_states(folder, table.schema, name))
    return learning.fitted_table(fields)


def encode(
    table: RowsOfATable, task: tuple[ShareTask, Encoders, Path], report: Report
) -> EncodedShare:
    """Encode a share into arrays in a folder."""
    own, encoders, folder = task
    encoding, dropped = RowEncoding(encoders, table.table), 0
    bad: Counter[str] = Counter()
    folder.mkdir()
    with (
        ArrayWriter(folder) as out,
        _records(folder, encoding) as records,
        _malloc(),
        Threads(own.threads) as threads,
    ):
        stream = own.stream(table, threads)
        for encoded in threads.map(encoding, reported(stream, report)):
            out.write(encoded.arrays)
            dropped += encoded.dropped
            bad += encoded.bad
            if records is not None and encoded.records is not None:
                write_array(records, encoded.records)
    return EncodedShare(stream.rows, dropped, dict(bad), out.piece())


def _records(folder: Path, encoding: RowEncoding) -> AbstractContextManager[BinaryIO | None]:
    """The file of what histories are found by; None: rows have no histories."""
    if encoding.records is None:
        return contextlib.nullcontext()
    return (folder / RECORDS).open("xb")


def read_records(folder: Path, dtype: np.dtype[np.void]) -> Iterator[np.ndarray]:
    """What `encode` wrote of a share's histories, some records at a time."""
    with (folder / RECORDS).open("rb") as file:
        while data := file.read(_RECORDS_AT_ONCE * dtype.itemsize):
            yield np.frombuffer(data, dtype)


def refuse_miscounted(share: Share, following: Share, read: int) -> None:
    """Refuse a share that has other rows than were counted.

    Raises:
        DataError: Its file has been changed meanwhile.
    """
    expected = following.before - share.before
    if read != expected:
        files = ", ".join(str(some.part.path) for some in share.parts)
        raise DataError(f"{files}: {expected:,} rows were counted and {read:,} read; start again")


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
