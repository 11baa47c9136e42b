"""Delimited text, cut into blocks of whole rows before it is parsed.

That is what makes line numbers exact, lets a delimiter have any length, and lets the slow search
for a malformed row look at one block instead of the whole file.
"""

import codecs
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from deepfm.data.files.rows import Rows, WantedColumns, refuse_repeated
from deepfm.errors import DataError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_PARSED_AT_ONCE = 1 << 20  # what fits into a processor's cache; 16 MiB take half as long again
_MAX_ROW = 256 << 20  # a longer row is a quotation mark that never closes, or no text at all
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_OTHER_FORMS = (".bz2", ".xz", ".zip", ".7z", ".lz4", ".xlsx", ".feather", ".json", ".jsonl")
_BOM = "\ufeff".encode()


def file_ending(path: str | Path) -> str:
    """The ending of a file's name, without that of a compression.

    Example:
        >>> file_ending("part-0.tsv.gz")
        '.tsv'
    """
    path = Path(path)
    return path.with_suffix("").suffix if path.suffix in COMPRESSIONS else path.suffix


def first_line(
    path: str | Path, *, delimiter: str | None = None, encoding: str = "utf-8"
) -> list[str]:
    """The cells of the first line of a text file, a header or not.

    Raises:
        DataError: The file cannot be read, or it is empty.
    """
    path = Path(path)
    form = TextForm.of(path, delimiter, encoding)
    for block in blocks(path, form, 1 << 16):
        if not block.is_blank():
            return block.header()[0]
    raise DataError(f"{path}: the file is empty")


def is_header(cells: Sequence[str], columns: Sequence[str]) -> bool:
    """Whether a line repeats a column's name; a number is a name only if all cells are names.

    Example:
        >>> is_header(["label", "color"], ["label", "colour"])
        True
        >>> is_header(["1", "0"], ["0", "1"])
        False
    """
    repeated = [cell for cell in cells if cell in columns and not is_number(cell)]
    return bool(repeated) or (len(cells) > 1 and list(cells) == list(columns))


class TextForm(NamedTuple):
    """How the text of a file is divided.

    Attributes:
        delimiter: As it stands in the file.
        separator: The one byte that the parser sees in its place.
        quoted: Whether cells may stand in quotation marks.
        encoding: A name that Python knows.
    """

    delimiter: bytes
    separator: bytes
    quoted: bool
    encoding: str

    @classmethod
    def of(cls, path: Path, delimiter: str | None, encoding: str) -> "TextForm":
        ending = file_ending(path)
        if ending in _OTHER_FORMS:
            raise DataError(
                f"{path}: {ending} cannot be read; expected text, .gz, .zst or .parquet"
            )
        if delimiter is None:
            if ending not in _DELIMITERS:
                raise DataError(
                    f"{path}: expected a file that ends in .csv, .tsv or .parquet, or a delimiter"
                )
            delimiter = _DELIMITERS[ending]
        if not delimiter or set(delimiter) & set('"\r\n\x1f'):
            raise DataError(f"{path}: {delimiter!r} cannot be a delimiter")
        try:
            "".encode(encoding)  # refuses codecs that are not of text, too
            encoding = codecs.lookup(encoding).name
        except LookupError:
            raise DataError(f"{path}: unknown encoding {encoding!r}") from None
        long = delimiter.encode()
        if len(long) > 1:
            return cls(long, b"\x1f", False, encoding)
        return cls(long, long, long != b"\t", encoding)

    def cell(self) -> bytes:
        """A regular expression of one cell, which matches in one way only."""
        plain = rb"[^%s\r\n]*+" % re.escape(self.separator)
        if not self.quoted:
            return plain
        return rb'(?:"[^"]*+(?:""[^"]*+)*+"%s|(?!")%s)' % (plain, plain)

    def row(self, width: int) -> re.Pattern[bytes]:
        """A row of so many cells, with the end of its line."""
        rest = (re.escape(self.separator), self.cell(), width - 1)
        return re.compile(rb"%s(?:%s%s){%d}(?:\r\n|\r|\n)" % (self.cell(), *rest))

    def any_row(self) -> re.Pattern[bytes]:
        """A row of any number of cells, with the end of its line."""
        cell = self.cell()
        return re.compile(rb"%s(?:%s%s)*+(?:\r\n|\r|\n)" % (cell, re.escape(self.separator), cell))


class TextBlock(NamedTuple):
    """Whole rows of a text, in UTF-8 and with one-byte separators; the last line is ended too.

    Attributes:
        text: From `start` on, rows.
        form: Of the text.
        path: Its file.
        first: Line number of the first row.
        behind: Line number behind the last row.
        start: Where the first row begins.
        done: How much of the file has been read, from 0 to 1.
        width: Cells in a row; 0 before it is known.
    """

    text: bytes
    form: TextForm
    path: Path
    first: int
    behind: int
    done: float
    start: int = 0
    width: int = 0

    def lines(self) -> int:
        return self.behind - self.first

    def line_at(self, position: int) -> int:
        """The number of the line that holds this byte."""
        return self.first + self.text.count(b"\n", self.start, position)

    def line(self, index: int) -> int:
        """The line in which row `index` begins, found step by step."""
        row, position = self.form.row(self.width), self._skip_blank(self.start)
        for _ in range(index):
            position = self._skip_blank(row.match(self.text, position).end())
        return self.line_at(position)

    def is_blank(self) -> bool:
        return _BLANK.fullmatch(self.text, self.start) is not None

    def header(self) -> tuple[list[str], int, "TextBlock"]:
        """The cells of the first line that is not blank, its number, and the block after it."""
        start = _BLANK.match(self.text, self.start).end()
        line = self.line_at(start)
        cells, end = self._cells(start)
        try:
            names = [cell.decode() for cell in cells]
        except UnicodeDecodeError:
            raise DataError(f"{self.path}:{line}: not UTF-8") from None
        end = re.compile(rb"\r\n|\r|\n").match(self.text, end).end()
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
            raise DataError(f"{self.path}: near line {self.first}: {reason}") from None

    def _parse(
        self, rest: pa.Buffer, names: list[str], wanted: list[str], block_size: int
    ) -> pa.Table:
        return pyarrow.csv.read_csv(
            pa.BufferReader(rest),
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, column_names=names, block_size=block_size
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=self.form.separator.decode(),
                quote_char='"' if self.form.quoted else False,
                newlines_in_values=self.form.quoted,
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
        row, position = self.form.row(self.width), self._skip_blank(self.start)
        while position < len(self.text):
            if (match := row.match(self.text, position)) is None:
                found = len(self._cells(position)[0])
                raise DataError(
                    f"{self.path}:{self.line_at(position)}: expected {self.width} columns, "
                    f"found {found}"
                )
            position = self._skip_blank(match.end())
        try:
            self.text[self.start :].decode()
        except UnicodeDecodeError as error:
            line = self.line_at(self.start + error.start)
            raise DataError(f"{self.path}:{line}: not UTF-8") from None

    def _skip_blank(self, position: int) -> int:
        return position if self.width == 1 else _BLANK.match(self.text, position).end()

    def _cells(self, position: int) -> tuple[list[bytes], int]:
        """The cells of the row that begins here, without their quotation marks, and its end."""
        cell, cells = re.compile(self.form.cell()), []
        while True:
            match = cell.match(self.text, position)
            position, content = match.end(), match[0]
            if self.form.quoted and content.startswith(b'"'):
                inner, _, tail = content[1:].rpartition(b'"')
                content = inner.replace(b'""', b'"') + tail
            cells.append(content)
            if self.text[position : position + 1] != self.form.separator:
                return cells, position
            position += 1


_BLANK = re.compile(rb"[\r\n]*+")


def read_text(
    path: Path,
    delimiter: str | None,
    columns: Sequence[str],
    encoding: str,
    wanted: WantedColumns,
    block_size: int,
) -> Iterator[Rows]:
    form = TextForm.of(path, delimiter, encoding)
    names: list[str] = []
    for block in blocks(path, form, block_size):
        if not names:
            if block.is_blank():
                continue
            names, block = _names(block, columns)
            read = wanted.of(path, names)
        block = block._replace(width=len(names))
        table = block.parse(names, read)
        odd = len(table) != block.lines()
        yield Rows(table, path, block.first, block.done, block if odd else None)
    if not names:
        raise DataError(f"{path}: the file is empty")


def _names(block: TextBlock, columns: Sequence[str]) -> tuple[list[str], TextBlock]:
    """The names of the columns, and the block without a header line."""
    cells, line, rest = block.header()
    place = f"{block.path}:{line}"
    if not columns:
        refuse_repeated(place, cells)
        return cells, rest
    refuse_repeated(str(block.path), columns)
    if is_header(cells, columns):
        raise DataError(
            f"{place}: a header line, but the columns are declared; remove one of the two"
        )
    if len(cells) != len(columns):
        raise DataError(
            f"{place}: {len(columns)} columns are declared, {len(cells)} are in this line"
        )
    return list(columns), block


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def blocks(path: Path, form: TextForm, block_size: int) -> Iterator[TextBlock]:
    """The text of a file in blocks of whole rows, none of them empty."""
    line, rest, wanted = 1, b"", block_size
    for piece, done in _utf8(path, form.encoding, block_size):
        rest += piece
        if len(rest) < wanted:
            continue
        if end := _rows_end(rest, form):
            behind = line + rest.count(b"\n", 0, end)
            block = TextBlock(rest[:end], form, path, line, behind, done)
            rest, wanted, line = rest[end:], block_size, behind
            yield _separated(block)
        elif len(rest) > _MAX_ROW:
            hint = "; is a quotation mark never closed?" if form.quoted else ""
            raise DataError(f"{path}:{line}: a row longer than {_MAX_ROW >> 20} MiB{hint}")
        else:
            wanted = 2 * len(rest)  # a row longer than a block
    if rest:
        rest += b"" if rest.endswith(b"\n") else b"\n"
        if (end := _rows_end(rest, form)) < len(rest):
            line += rest.count(b"\n", 0, end)
            raise DataError(f"{path}:{line}: a cell's quotation mark is never closed")
        yield _separated(TextBlock(rest, form, path, line, line + rest.count(b"\n"), 1.0))


def _separated(block: TextBlock) -> TextBlock:
    """The block with the parser's separator in the place of a longer delimiter."""
    form = block.form
    if form.delimiter == form.separator:
        return block
    if (found := block.text.find(form.separator)) >= 0:
        raise DataError(
            f"{block.path}:{block.line_at(found)}: the character 0x1f cannot be read together "
            f"with the delimiter {form.delimiter.decode()!r}"
        )
    return block._replace(text=block.text.replace(form.delimiter, form.separator))


def _utf8(path: Path, encoding: str, size: int) -> Iterator[tuple[bytes, float]]:
    """The text of a file in UTF-8, piece by piece, and how much has been read (0 to 1)."""
    compression = COMPRESSIONS.get(path.suffix)
    decoder = None
    if encoding not in ("utf-8", "utf-8-sig"):
        decoder = codecs.getincrementaldecoder(encoding)()
    line, at_start = 1, True
    try:
        with path.open("rb") as raw:
            total = path.stat().st_size
            source = raw
            if compression:
                source = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), compression)
            while True:
                piece = source.read(max(size, 8) if at_start else size)  # a whole mark, if any
                last = not piece
                if decoder:
                    piece = decoder.decode(piece, last).encode()
                    line += piece.count(b"\n")
                if at_start and piece:
                    at_start = False
                    piece = piece.removeprefix(_BOM)
                if piece:
                    yield piece, min(1.0, raw.tell() / total)
                if last:
                    return
    except UnicodeDecodeError as error:
        line += error.object.count(b"\n", 0, error.start)
        raise DataError(f"{path}:{line}: not {encoding}: {error.reason}") from None
    except pa.ArrowException as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    except OSError as error:
        reason = error.strerror or f"damaged or cut off: {error}"
        raise DataError(f"{path}: cannot be read: {reason}") from None


def _rows_end(text: bytes, form: TextForm) -> int:
    """Where the last whole row of a text that begins with a row ends; 0 if none does."""
    end = text.rfind(b"\n") + 1
    if not form.quoted or b'"' not in text:
        return end
    data = np.frombuffer(text, np.uint8)
    marks = np.flatnonzero(data == ord('"'))
    # If every other mark begins a cell, or doubles the one before it, then marks alternate
    # between opening and closing, and a newline is outside of cells after an even number.
    before = data[marks[::2] - 1]
    at_start = marks[::2] == 0
    if np.all(at_start | np.isin(before, list(form.separator + b'\r\n"'))):
        while end and (count := int(np.searchsorted(marks, end))) % 2:
            end = text.rfind(b"\n", 0, int(marks[count - 1])) + 1
        return end
    row, position, end = form.any_row(), 0, 0  # a mark inside of a plain cell: step by step
    while match := row.match(text, position):
        position = match.end()
        if text[position - 1] == ord("\n"):
            end = position
    return end
