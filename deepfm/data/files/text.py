"""Delimited text, cut into blocks of whole rows before it is parsed.

That is what makes line numbers exact, lets a delimiter have any length, and lets the slow search
for a malformed row look at one block instead of the whole file.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from deepfm.data.files.columns import combined, is_list
from deepfm.data.files.parts import CountedPart, FilePart, whole_in_the_middle
from deepfm.data.files.rows import Rows, TableSink, TextOptions, WantedColumns, refuse_repeated
from deepfm.data.files.text_pieces import can_be_cut, utf8_pieces
from deepfm.data.files.text_scan import Scan, parts_of, scan
from deepfm.data.files.text_syntax import TextSyntax, count_newlines, rows_end, split_rows
from deepfm.errors import DataError, Place
from deepfm.utils.places import AnyPath

_PARSED_AT_ONCE = 1 << 20  # what fits into a processor's cache; 16 MiB take half as long again
_MAX_ROW = 256 << 20  # a longer row is a quotation mark that never closes, or no text at all
# A number as people write it, in the syntax that Python and Arrow (RE2) share.
NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
_SHOWN = 5  # cells in an error
_FIRST_LINES = 1 << 16  # bytes in which they are looked for


def is_header(cells: Sequence[str], columns: Sequence[str]) -> bool:
    """Whether a line repeats a column's name; a number is a name only if all cells are names.

    Example:
        >>> is_header(["label", "color"], ["label", "colour"])
        True
        >>> is_header(["1", "0"], ["0", "1"])
        False
    """
    repeated = [cell for cell in cells if cell in columns and not re.match(NUMBER, cell)]
    return bool(repeated) or (len(cells) > 1 and list(cells) == list(columns))


def looks_like_row(cells: Sequence[str]) -> bool:
    """Whether a line that should name columns holds what no name is: a number, or nothing."""
    return any(not cell or re.match(NUMBER, cell) is not None for cell in cells)


def without_header(cells: Sequence[str]) -> str:
    """What an error about names of columns ends with if a file's first line is none of names."""
    if not looks_like_row(cells):
        return ""
    shown = ", ".join(cells[:_SHOWN]) + (", …" if len(cells) > _SHOWN else "")
    return (
        f"; its first line ({shown}) looks like a row: if the file has no header, say the names of "
        "its columns, data.table.columns: [first, second, …]"
    )


def looks_like_header(cells: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Whether a file's first line seems to name its columns, beside the other rows.

    Names are different, not empty, no numbers, and appear in no other row of their column.

    Example:
        >>> looks_like_header(["age", "city"], [["17", "Oslo"], ["28", "Rome"]])
        True
    """
    if len(set(cells)) != len(cells) or "" in cells or not others:
        return False
    if any(re.match(NUMBER, cell) for cell in cells):
        return False
    return not any(
        cell in {row[k] for row in others if k < len(row)} for k, cell in enumerate(cells)
    )


class TextBlock(NamedTuple):
    """Whole rows of a text, in UTF-8 and with one-byte separators; the last line is ended too.

    Attributes:
        text: From `start` on, rows.
        syntax: Of the text.
        path: Its file.
        first: Line number of the first row.
        behind: Line number behind the last row.
        start: Where the first row begins.
        done: How much of the file has been read, from 0 to 1.
        width: Cells in a row; 0 before it is known.
    """

    text: bytes
    syntax: TextSyntax
    path: AnyPath
    first: int
    behind: int
    done: float
    start: int = 0
    width: int = 0

    def line_at(self, position: int) -> int:
        """The number of the line that holds this byte."""
        return self.first + self.text.count(b"\n", self.start, position)

    def line(self, index: int) -> int:
        """The line in which row `index` begins, found step by step."""
        row, position = self.syntax.row(self.width), self._skip_blank(self.start)
        for _ in range(index):
            position = self._skip_blank(_end(row, self.text, position))
        return self.line_at(position)

    def is_blank(self) -> bool:
        return _BLANK.fullmatch(self.text, self.start) is not None

    def header(self) -> tuple[list[str], int, "TextBlock"]:
        """The cells of the first line that is not blank, its number, and the block after it."""
        start = _end(_BLANK, self.text, self.start)
        line = self.line_at(start)
        cells, end = self._cells(start)
        try:
            names = [cell.decode() for cell in cells]
        except UnicodeDecodeError:
            raise DataError("not UTF-8", place=Place(file=str(self.path), line=line)) from None
        end = _end(_LINE_END, self.text, end)
        return names, line, self._replace(start=end, first=self.line_at(end))

    def parse(self, names: list[str], wanted: list[str]) -> pa.Table:
        """The wanted columns.

        Raises:
            DataError: A row has another number of cells, or a cell is not UTF-8.
        """
        rest = pa.py_buffer(self.text).slice(self.start)
        if not len(rest) or (self.width > 1 and self.is_blank()):
            return pa.table({name: pa.array([], pa.string()) for name in wanted})
        try:
            try:
                return self._parse(rest, names, wanted, _PARSED_AT_ONCE)
            except pa.ArrowInvalid:  # malformed, or only a row longer than that
                return self._parse(rest, names, wanted, len(rest) + 1)
        except pa.ArrowInvalid as error:
            self._explain()
            reason = str(error).splitlines()[0]
            raise DataError(
                f"near line {self.first}: {reason}", place=Place(file=str(self.path))
            ) from None

    def _parse(
        self, rest: pa.Buffer, names: list[str], wanted: list[str], block_size: int
    ) -> pa.Table:
        return pyarrow.csv.read_csv(
            pa.BufferReader(rest),
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, column_names=names, block_size=block_size
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=self.syntax.separator.decode(),
                quote_char='"' if self.syntax.quoted else False,
                newlines_in_values=self.syntax.quoted,
                ignore_empty_lines=self.width > 1,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=wanted,
                column_types=dict.fromkeys(wanted, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )

    def _explain(self) -> None:
        """Raise for the first row with another number of cells, or bytes that are not UTF-8."""
        row, position = self.syntax.row(self.width), self._skip_blank(self.start)
        while position < len(self.text):
            if (match := row.match(self.text, position)) is None:
                found = len(self._cells(position)[0])
                raise DataError(
                    f"expected {self.width} columns, found {found}",
                    place=Place(file=str(self.path), line=self.line_at(position)),
                )
            position = self._skip_blank(match.end())
        try:
            self.text[self.start :].decode()
        except UnicodeDecodeError as error:
            line = self.line_at(self.start + error.start)
            raise DataError("not UTF-8", place=Place(file=str(self.path), line=line)) from None

    def _skip_blank(self, position: int) -> int:
        return position if self.width == 1 else _end(_BLANK, self.text, position)

    def _cells(self, position: int) -> tuple[list[bytes], int]:
        """The cells of the row that begins here, without their quotation marks, and its end."""
        cell = re.compile(self.syntax.cell())
        cells: list[bytes] = []
        while True:
            start, position = position, _end(cell, self.text, position)
            content = self.text[start:position]
            if self.syntax.quoted and content.startswith(b'"'):
                inner, _, tail = content[1:].rpartition(b'"')
                content = inner.replace(b'""', b'"') + tail
            cells.append(content)
            if self.text[position : position + 1] != self.syntax.separator:
                return cells, position
            position += 1


_BLANK = re.compile(rb"[\r\n]*+")
_LINE_END = re.compile(rb"\r\n|\r|\n")


def _end(pattern: re.Pattern[bytes], text: bytes, start: int) -> int:
    """Where the match of a pattern ends that a text is known to have at `start`."""
    match = pattern.match(text, start)
    assert match is not None
    return match.end()


class TextFormat:
    """Delimited text.

    Args:
        delimiter: Where none is given with a file; None: one must be given.
    """

    is_typed = False

    def __init__(self, delimiter: str | None = None) -> None:
        self._delimiter = delimiter

    def blocks(
        self, part: FilePart, options: TextOptions, wanted: WantedColumns, block_size: int
    ) -> Iterator[Callable[[], Rows]]:
        path, syntax = part.path, self._syntax(part.path, options)
        declared = options.get("columns", ())
        names: list[str] = []
        if part.start:
            names, _ = _names(_first_block(path, syntax), declared)
            read = wanted.of(path, names)
        for block in _blocks(part, syntax, block_size):
            if not names:
                if block.is_blank():
                    continue
                names, block = _names(block, declared)
                read = wanted.of(path, names, "" if declared else without_header(names))
            yield partial(_rows, block._replace(width=len(names)), names, read)
        if not names:
            raise DataError("the file is empty", place=Place(file=str(path)))

    def ranges(
        self, path: AnyPath, options: TextOptions, at: Sequence[float]
    ) -> list[FilePart | None]:
        syntax = self._syntax(path, options)
        if not can_be_cut(FilePart(path), syntax.encoding):
            return whole_in_the_middle(path, len(at) + 1)
        size = path.stat().st_size
        cuts = [0, *(int(share * size) for share in at), size]
        return [FilePart(path, *some) for some in pairwise(cuts)]

    def scan(self, part: FilePart, options: TextOptions) -> list[Any]:
        return list(scan(part, self._syntax(part.path, options)))

    def parts(
        self, ranges: Sequence[FilePart], scans: Sequence[Any], options: TextOptions
    ) -> list[CountedPart | None]:
        return parts_of(ranges, list(map(Scan.from_plain, scans)), not options.get("columns"))

    def first_line(self, path: AnyPath, options: TextOptions) -> list[str]:
        """The cells of the first line, a header or not.

        Raises:
            DataError: The file cannot be read, or it is empty.
        """
        return _first_block(path, self._syntax(path, options)).header()[0]

    def _syntax(self, path: AnyPath, options: TextOptions) -> TextSyntax:
        delimiter = options.get("delimiter")
        return TextSyntax.of(
            path,
            self._delimiter if delimiter is None else delimiter,
            options.get("encoding", "utf-8"),
        )


class WritableText(TextFormat):
    """Text with commas or tabs, which tables are written as, too; lists join with `|` there.

    Cells are quoted as in RFC 4180; with tabs none is, because none would be read so, and a text
    with a tab, a quotation mark or a line break cannot be written.
    """

    def storable(self, table: pa.Table) -> pa.Table:
        for index, field in enumerate(table.schema):
            if is_list(field.type):
                lists = combined(table.column(index)).cast(pa.list_(pa.string()))
                table = table.set_column(index, field.name, pc.binary_join(lists, "|"))
        return table

    def sink(
        self, file: BinaryIO | pa.NativeFile, columns: pa.Schema
    ) -> AbstractContextManager[TableSink]:
        options = None
        if self._delimiter == "\t":
            options = pyarrow.csv.WriteOptions(
                delimiter="\t", quoting_style="none", quoting_header="none"
            )
        writer: AbstractContextManager[TableSink] = pyarrow.csv.CSVWriter(
            file, columns, write_options=options
        )
        return writer


def _rows(block: TextBlock, names: list[str], wanted: list[str]) -> Rows:
    table = block.parse(names, wanted)
    odd = len(table) != block.behind - block.first
    return Rows(table, block.path, block.first, block.done, lines=block if odd else None)


def _first_block(path: AnyPath, syntax: TextSyntax) -> TextBlock:
    """Rows from the first one that is not blank on, a header or not.

    Raises:
        DataError: The file is empty.
    """
    for block in _blocks(FilePart(path), syntax, _FIRST_LINES):
        if not block.is_blank():
            return block
    raise DataError("the file is empty", place=Place(file=str(path)))


def _names(block: TextBlock, columns: Sequence[str]) -> tuple[list[str], TextBlock]:
    """The names of the columns, and the block without a header line."""
    cells, line, rest = block.header()
    place = Place(file=str(block.path), line=line)
    if not columns:
        refuse_repeated(place, cells, without_header(cells))
        return cells, rest
    refuse_repeated(Place(file=str(block.path)), columns)
    if is_header(cells, columns):
        raise DataError(
            "a header line, but the columns are declared; remove one of the two", place=place
        )
    if len(cells) != len(columns):
        raise DataError(
            f"{len(columns)} columns are declared, {len(cells)} are in this line", place=place
        )
    return list(columns), block


def _blocks(part: FilePart, syntax: TextSyntax, block_size: int) -> Iterator[TextBlock]:
    """The text of a part of a file in blocks of whole rows, none of them empty."""
    path, line, rest, wanted = part.path, part.first, b"", block_size
    for piece, done in utf8_pieces(part, syntax.encoding, block_size):
        if len(rest) + len(piece) < wanted:
            rest += piece
            continue
        text, rest = split_rows(rest, piece, syntax)
        if text:
            behind = line + count_newlines(text)
            block = TextBlock(text, syntax, path, line, behind, done)
            wanted, line = block_size, behind
            yield _separated(block)
        elif len(rest) > _MAX_ROW:
            hint = "; is a quotation mark never closed?" if syntax.quoted else ""
            raise DataError(
                f"a row longer than {_MAX_ROW >> 20} MiB{hint}",
                place=Place(file=str(path), line=line),
            )
        else:
            wanted = 2 * len(rest)  # a row longer than a block
    if rest:
        rest += b"" if rest.endswith(b"\n") else b"\n"
        if (end := rows_end(rest, syntax)) < len(rest):
            line += rest.count(b"\n", 0, end)
            raise DataError(
                "a cell's quotation mark is never closed", place=Place(file=str(path), line=line)
            )
        yield _separated(TextBlock(rest, syntax, path, line, line + count_newlines(rest), 1.0))


def _separated(block: TextBlock) -> TextBlock:
    """The block with the parser's separator in the place of a longer delimiter."""
    syntax = block.syntax
    if syntax.delimiter == syntax.separator:
        return block
    if (found := block.text.find(syntax.separator)) >= 0:
        raise DataError(
            f"the character 0x1f cannot be read together "
            f"with the delimiter {syntax.delimiter.decode()!r}",
            place=Place(file=str(block.path), line=block.line_at(found)),
        )
    return block._replace(text=block.text.replace(syntax.delimiter, syntax.separator))
