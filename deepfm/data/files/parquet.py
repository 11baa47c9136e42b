"""Parquet files, read batch by batch."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from deepfm.data.files.packed import ARCHIVE, COMPRESSIONS, DAMAGED, opened
from deepfm.data.files.parts import CountedPart, FilePart, same, whole_in_the_middle
from deepfm.data.files.rows import Rows, TableSink, TextOptions, WantedColumns, refuse_repeated
from deepfm.errors import DataError, Place
from deepfm.utils.places import AnyPath, reading

_MAX_ROWS = 1 << 17


class ParquetFormat:
    """Apache Parquet."""

    is_typed = True

    def blocks(
        self, part: FilePart, options: TextOptions, wanted: WantedColumns, block_size: int
    ) -> Iterator[Callable[[], Rows]]:
        path = part.path
        place = Place(file=str(path))
        if options.get("columns"):
            raise DataError(
                "a Parquet file names its columns itself; remove `columns`", place=place
            )
        with _opened(path) as file:
            names = file.schema_arrow.names
            refuse_repeated(place, names)
            for rows in _rows(file, part, wanted.of(path, names), block_size):
                yield partial(same, rows)  # read already: a file gives one batch after the other

    def ranges(
        self, path: AnyPath, options: TextOptions, at: Sequence[float]
    ) -> list[FilePart | None]:
        if path.suffix == ARCHIVE:
            return whole_in_the_middle(path, len(at) + 1)
        with _opened(path) as file:
            groups = [
                file.metadata.row_group(n).total_byte_size
                for n in range(file.metadata.num_row_groups)
            ]
        ends = np.cumsum([0, *groups])
        middles = (ends[:-1] + ends[1:]) / 2 / max(ends[-1], 1)
        cuts = [0, *np.searchsorted(middles, at).tolist(), len(groups)]
        return [FilePart(path, *some) for some in pairwise(cuts)]

    def scan(self, part: FilePart, options: TextOptions) -> list[Any]:
        with _opened(part.path) as file:
            groups = range(file.metadata.num_row_groups)[part.start : part.end]
            return [sum(file.metadata.row_group(group).num_rows for group in groups)]

    def parts(
        self, ranges: Sequence[FilePart], scans: Sequence[Any], options: TextOptions
    ) -> list[CountedPart | None]:
        found: list[CountedPart | None] = []
        before = 0
        for own, (rows,) in zip(ranges, scans, strict=True):
            is_needed = rows or not before  # an empty file is read, too: it may be a wrong one
            part = CountedPart(own._replace(first=1 + before), rows)
            found.append(part if is_needed else None)
            before += rows
        return found

    def storable(self, table: pa.Table) -> pa.Table:
        return table

    def sink(
        self, file: BinaryIO | pa.NativeFile, columns: pa.Schema
    ) -> AbstractContextManager[TableSink]:
        writer: AbstractContextManager[TableSink] = pyarrow.parquet.ParquetWriter(file, columns)
        return writer


@contextmanager
def _opened(path: AnyPath) -> Iterator[pyarrow.parquet.ParquetFile]:
    """A Parquet file, open.

    Raises:
        DataError: It cannot be read, now or while it is open.
    """
    place = Place(file=str(path))
    if path.suffix in COMPRESSIONS:
        raise DataError("Parquet is compressed inside; unpack the file first", place=place)
    try:
        # A buffer: otherwise each column of a row group is read whole.
        with (
            _seekable(path) as source,
            pyarrow.parquet.ParquetFile(source, buffer_size=1 << 20) as file,
        ):
            yield file
    except (pa.ArrowException, *DAMAGED) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"damaged, or no Parquet file: {reason}", place=place) from None
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise DataError(f"cannot be read: {reason}", place=place) from None


@contextmanager
def _seekable(path: AnyPath) -> Iterator[Path | BinaryIO]:
    """A file whose end can be read first; one in an archive is unpacked to the disk for it."""
    if path.suffix != ARCHIVE and not isinstance(path, Path):
        with reading(path, buffering=0) as remote:  # columns stand far apart
            yield remote
        return
    with opened(path) as file:  # Python's reason if it cannot be opened is the shorter one
        if path.suffix != ARCHIVE and isinstance(path, Path):
            yield path
            return
        with TemporaryFile() as unpacked:
            shutil.copyfileobj(file.content, unpacked)
            unpacked.seek(0)
            yield unpacked


def _rows(
    file: pyarrow.parquet.ParquetFile, part: FilePart, names: list[str], block_size: int
) -> Iterator[Rows]:
    """The rows of a part of an open file, about `block_size` bytes of decoded columns at once."""
    path, metadata = part.path, file.metadata
    groups = range(metadata.num_row_groups)
    bytes_of_all = sum(metadata.row_group(group).total_byte_size for group in groups)
    row_size = bytes_of_all / max(metadata.num_rows, 1)
    size = min(_MAX_ROWS, max(1, int(block_size / max(row_size, 1))))
    own = list(groups[part.start : part.end])
    rows = sum(metadata.row_group(group).num_rows for group in own)
    read = 0
    for batch in file.iter_batches(size, row_groups=own, columns=names, use_threads=False):
        table = _decoded(pa.Table.from_batches([batch]).select(names))
        read += len(table)
        first = part.first + read - len(table)
        yield Rows(table, path, first, read / rows, has_lines=False)
    if not read:
        table = _decoded(file.schema_arrow.empty_table().select(names))
        yield Rows(table, path, part.first, has_lines=False)


def _decoded(table: pa.Table) -> pa.Table:
    """Values in the place of dictionary codes; without metadata, in which files may differ."""
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        if pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)
        elif kind == pa.string_view():  # which Arrow has few functions for
            column = column.cast(pa.large_string())
        columns[name] = column
    return pa.table(columns)
