"""Parquet files, read batch by batch."""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet

from deepfm.data.files.packed import ARCHIVE, COMPRESSIONS, DAMAGED, opened
from deepfm.data.files.rows import Rows, TableSink, TextOptions, WantedColumns, refuse_repeated
from deepfm.errors import DataError, Place
from deepfm.utils.places import AnyPath, reading

_MAX_ROWS = 1 << 17


class ParquetFormat:
    """Apache Parquet."""

    is_typed = True

    def read(
        self, path: AnyPath, options: TextOptions, wanted: WantedColumns, block_size: int
    ) -> Iterator[Rows]:
        place = Place(file=str(path))
        if path.suffix in COMPRESSIONS:
            raise DataError("Parquet is compressed inside; unpack the file first", place=place)
        if options.get("columns"):
            raise DataError(
                "a Parquet file names its columns itself; remove `columns`", place=place
            )
        try:
            # A buffer: otherwise each column of a row group is read whole.
            with (
                _seekable(path) as source,
                pyarrow.parquet.ParquetFile(source, buffer_size=1 << 20) as file,
            ):
                names = file.schema_arrow.names
                refuse_repeated(place, names)
                yield from _rows(file, path, wanted.of(path, names), block_size)
        except (pa.ArrowException, *DAMAGED) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"damaged, or no Parquet file: {reason}", place=place) from None
        except OSError as error:
            reason = error.strerror or " ".join(str(error).split())
            raise DataError(f"cannot be read: {reason}", place=place) from None

    def storable(self, table: pa.Table) -> pa.Table:
        return table

    def sink(
        self, file: BinaryIO | pa.NativeFile, columns: pa.Schema
    ) -> AbstractContextManager[TableSink]:
        writer: AbstractContextManager[TableSink] = pyarrow.parquet.ParquetWriter(file, columns)
        return writer


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
    file: pyarrow.parquet.ParquetFile, path: AnyPath, names: list[str], block_size: int
) -> Iterator[Rows]:
    """The rows of an open file, about `block_size` bytes of decoded columns at once."""
    rows = file.metadata.num_rows
    groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
    row_size = sum(group.total_byte_size for group in groups) / max(rows, 1)
    size = min(_MAX_ROWS, max(1, int(block_size / max(row_size, 1))))
    first = 1
    for batch in file.iter_batches(size, columns=names, use_threads=False):
        table = _decoded(pa.Table.from_batches([batch]).select(names))
        yield Rows(table, path, first, (first - 1 + len(table)) / rows, has_lines=False)
        first += len(table)
    if first == 1:
        table = _decoded(file.schema_arrow.empty_table().select(names))
        yield Rows(table, path, 1, has_lines=False)


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
