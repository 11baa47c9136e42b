"""Reading and writing tables of rows, of any size: CSV, TSV, other delimited text, Parquet.

Nothing is guessed: every column of a text file is read as text, so a zip code keeps its leading
zeros, and encoders read a number where they need one. Text is cut into blocks of whole rows
before it is parsed. That is what makes line numbers exact, lets a delimiter have any length, and
lets the slow search for a malformed row look at one block instead of the whole file.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from deepfm.data.files.parquet import read_parquet
from deepfm.data.files.rows import Rows, WantedColumns
from deepfm.data.files.text import COMPRESSIONS, file_ending, read_text
from deepfm.errors import DataError

BLOCK_SIZE = 16 << 20


def read_rows(
    paths: Sequence[str | Path],
    *,
    delimiter: str | None = None,
    columns: Sequence[str] = (),
    encoding: str = "utf-8",
    only: Sequence[str] | None = None,
    block_size: int = BLOCK_SIZE,
) -> Iterator[Rows]:
    """The rows of one or more files, in their order, as a stream of tables.

    The ending says what a file is: `.csv`, `.tsv`, `.parquet`, any other with a `delimiter`;
    text may be compressed, `.gz` or `.zst`. Cells may be quoted as in RFC 4180, but not where the
    delimiter is a tab or longer than one byte: a quotation mark is data there. Blank lines are
    skipped, unless there is one column only, where they are nulls. All files must have the same
    columns, in any order; the order and the Parquet types of the first one hold. There is at
    least one table, an empty one if there is no row.

    Args:
        paths: Files.
        delimiter: Between the cells of a text file; by default a comma or a tab by the ending.
        columns: Names of the columns of text files that have no header line.
        encoding: Of text files; a byte-order mark is skipped.
        only: Names of the columns to read, in this order; all by default.
        block_size: Bytes of text in a table, more where a row is longer; of a Parquet file,
            about the bytes of a decoded table.

    Raises:
        DataError: A file cannot be read, or its content is not what is expected; the message
            names the file and the line. Text with the character 0x1f cannot be read with a
            delimiter of several bytes, which it stands in for.
    """
    wanted = WantedColumns(only)
    types: pa.Schema | None = None
    empty: Rows | None = None
    found = False
    for path in map(Path, paths):
        if file_ending(path) == ".parquet":
            if path.suffix in COMPRESSIONS:
                raise DataError(f"{path}: Parquet is compressed inside; unpack the file first")
            parts = read_parquet(path, columns, wanted, block_size)
        else:
            parts = read_text(path, delimiter, columns, encoding, wanted, block_size)
        for rows in parts:
            types = types or rows.table.schema
            if rows.table.schema != types:
                rows = rows._replace(table=_cast(rows, types))
            if len(rows.table):
                found = True
                yield rows
            else:
                empty = rows
    if not found and empty is not None:
        yield empty


def _cast(rows: Rows, types: pa.Schema) -> pa.Table:
    """The columns with the types that they have in the first file."""
    columns = []
    for field in types:
        column = rows.table[field.name]
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowException as error:
            raise DataError(
                f"{rows.path}: column {field.name} is {column.type}, in the first file "
                f"{field.type}: {str(error).splitlines()[0]}"
            ) from None
    return pa.Table.from_arrays(columns, schema=types)
