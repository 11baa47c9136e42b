"""Reading tables of rows, of any size: CSV, TSV, other delimited text, Parquet.

Nothing is guessed: every column of a text file is read as text, so a zip code keeps its leading
zeros, and encoders read a number where they need one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa

from deepfm.data.files.packed import file_ending
from deepfm.data.files.parquet import ParquetFormat
from deepfm.data.files.parts import CountedPart, FilePart, same, whole_in_the_middle
from deepfm.data.files.rows import CuttableFormat, FileFormat, Rows, TextOptions, WantedColumns
from deepfm.data.files.text import TextFormat, WritableText
from deepfm.errors import DataError, Place
from deepfm.utils.places import AnyPath, path_of

BLOCK_SIZE = 16 << 20
_FEW = 1 << 16  # bytes of a block of which only the columns matter
InOrder = Callable[[Iterable[Callable[[], Rows]]], Iterator[Rows]]
# By the ending of a file's name, without that of a compression.
FORMATS: dict[str, FileFormat | CuttableFormat] = {
    ".csv": WritableText(","),
    ".tsv": WritableText("\t"),
    ".parquet": ParquetFormat(),
}


def format_of(path: str | AnyPath) -> FileFormat | CuttableFormat:
    """The format that a file's ending names; any other file is text, with a delimiter.

    Raises:
        DataError: The file is an archive that cannot be read, or does not hold one file.
    """
    return FORMATS.get(file_ending(path)) or TextFormat()


def parts_of(path: AnyPath) -> CuttableFormat:
    """What reads the parts of a file, of which there is one where its format cuts none.

    Raises:
        DataError: As `format_of`.
    """
    found = format_of(path)
    return found if isinstance(found, CuttableFormat) else _Whole(found)


def first_line(path: str | AnyPath, options: TextOptions | None = None) -> list[str]:
    """The cells of the first line of a text file, a header or not.

    Raises:
        DataError: The file cannot be read, is empty, or is no text.
    """
    found = format_of(path)
    if not isinstance(found, TextFormat):
        raise DataError("expected a text file", place=Place(file=str(path)))
    return found.first_line(path_of(path), options or {})


def one_by_one(blocks: Iterable[Callable[[], Rows]]) -> Iterator[Rows]:
    """The rows of each block, made when they are asked for."""
    return (block() for block in blocks)


def read_rows(
    paths: Sequence[str | AnyPath],
    *,
    delimiter: str | None = None,
    columns: Sequence[str] = (),
    encoding: str = "utf-8",
    only: Sequence[str] | None = None,
    block_size: int = BLOCK_SIZE,
) -> Iterator[Rows]:
    """The rows of one or more files, in their order, as a stream of tables.

    The ending says what a file is: `.csv`, `.tsv`, `.parquet`, any other with a `delimiter`;
    text may be compressed, `.gz` or `.zst`; any may stand alone in a `.zip`, and the ending is that
    of the file in it. Cells may be quoted as in RFC 4180, but not where the
    delimiter is a tab or longer than one byte: a quotation mark is data there. Blank lines are
    skipped, unless there is one column only, where they are nulls. All files must have the same
    columns, in any order; the order and the Parquet types of the first one hold. There is at
    least one table, an empty one if there is no row.

    Args:
        paths: Files; they may be URIs.
        delimiter: Between the cells of a text file; by default a comma or a tab by the ending.
        columns: Names of the columns of text files that have no header line.
        encoding: Of text files; a byte-order mark is skipped.
        only: Names of the columns to read, in this order; all by default.
        block_size: Bytes of text in a table, more where a row is longer; of a Parquet file,
            about the bytes of a decoded table.

    Raises:
        DataError: A file cannot be read, or its content is not what is expected; its place is
            the file and the line. Text with the character 0x1f cannot be read with a delimiter
            of several bytes, which it stands in for.
    """
    options: TextOptions = {"delimiter": delimiter, "columns": columns, "encoding": encoding}
    parts = [FilePart(path_of(path)) for path in paths]
    return read_parts(parts, options, only=only, block_size=block_size)


def read_parts(
    parts: Sequence[FilePart],
    options: TextOptions,
    *,
    like: AnyPath | None = None,
    only: Sequence[str] | None = None,
    block_size: int = BLOCK_SIZE,
    run: InOrder = one_by_one,
) -> Iterator[Rows]:
    """The rows of parts of files, as `read_rows` gives them.

    Args:
        like: The file whose columns all others have, in its order and with its types; by default
            that of the first part.
        run: Calls what makes the rows of each block, and gives the rows in order.
    """
    wanted = WantedColumns(only)
    types: pa.Schema | None = None
    empty: Rows | None = None
    found = False
    if like is not None and parts and parts[0] != FilePart(like):
        first = parts_of(like).blocks(FilePart(like), options, wanted, _FEW)
        types = next(one_by_one(first)).table.schema
    blocks = chain.from_iterable(
        parts_of(part.path).blocks(part, options, wanted, block_size) for part in parts
    )
    for rows in run(blocks):
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


class _Whole:
    """Reads files of a format that cuts none."""

    def __init__(self, found: FileFormat) -> None:
        self.is_typed = found.is_typed
        self._format = found

    def blocks(
        self, part: FilePart, options: TextOptions, wanted: WantedColumns, block_size: int
    ) -> Iterator[Callable[[], Rows]]:
        for rows in self._format.read(part.path, options, wanted, block_size):
            yield partial(same, rows)

    def ranges(
        self, path: AnyPath, options: TextOptions, at: Sequence[float]
    ) -> list[FilePart | None]:
        return whole_in_the_middle(path, len(at) + 1)

    def scan(self, part: FilePart, options: TextOptions) -> list[Any]:
        return []

    def parts(
        self, ranges: Sequence[FilePart], scans: Sequence[Any], options: TextOptions
    ) -> list[CountedPart | None]:
        return [CountedPart(part, None) for part in ranges]


def _cast(rows: Rows, types: pa.Schema) -> pa.Table:
    """The columns with the types that they have in the first file."""
    columns = []
    for field in types:
        column = rows.table[field.name]
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowException as error:
            raise DataError(
                f"column {field.name} is {column.type}, in the first file {field.type}: "
                f"{str(error).splitlines()[0]}",
                place=Place(file=str(rows.path)),
            ) from None
    return pa.Table.from_arrays(columns, schema=types)


def column_names(path: AnyPath, options: TextOptions) -> list[str]:
    """The columns of a file.

    Raises:
        DataError: The file cannot be read, or its content is not what is expected.
    """
    names: list[str] = next(
        read_parts([FilePart(path)], options, block_size=_FEW)
    ).table.column_names
    return names
