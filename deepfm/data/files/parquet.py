"""Parquet files, read batch by batch."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from deepfm.data.files.rows import Rows, WantedColumns, refuse_repeated
from deepfm.errors import DataError

_MAX_ROWS = 1 << 17


def read_parquet(
    path: Path, columns: Sequence[str], wanted: WantedColumns, block_size: int
) -> Iterator[Rows]:
    if columns:
        raise DataError(f"{path}: a Parquet file names its columns itself; remove `columns`")
    try:
        with path.open("rb"):  # Python's reason if it cannot be opened is the shorter one
            pass
        # A buffer: otherwise each column of a row group is read whole.
        with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20) as file:
            names = file.schema_arrow.names
            refuse_repeated(str(path), names)
            read = wanted.of(path, names)
            rows = file.metadata.num_rows
            groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
            row_size = sum(group.total_byte_size for group in groups) / max(rows, 1)
            size = min(_MAX_ROWS, max(1, int(block_size / max(row_size, 1))))
            first = 1
            for batch in file.iter_batches(size, columns=read, use_threads=False):
                table = _decoded(pa.Table.from_batches([batch]).select(read))
                yield Rows(table, path, first, (first - 1 + len(table)) / rows)
                first += len(table)
            if first == 1:
                table = _decoded(file.schema_arrow.empty_table().select(read))
                yield Rows(table, path, 1)
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: damaged, or no Parquet file: {reason}") from None
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read: {reason}") from None


def _decoded(table: pa.Table) -> pa.Table:
    """Values in the place of dictionary codes; without metadata, in which files may differ."""
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        is_coded = pa.types.is_dictionary(column.type)
        columns[name] = column.cast(column.type.value_type) if is_coded else column
    return pa.table(columns)
