"""Reading and writing tables of rows, of any size: CSV, TSV, other delimited text, Parquet.

Nothing is guessed: every column of a text file is read as text, so a zip code keeps its leading
zeros, and encoders read a number where they need one. Text is cut into blocks of whole rows
before it is parsed. That is what makes line numbers exact, lets a delimiter have any length, and
lets the slow search for a malformed row look at one block instead of the whole file.
"""

import codecs
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from deepfm.errors import DataError, DeepFMError, nearest
from deepfm.utils.io import atomic_writer

BLOCK_SIZE = 16 << 20
_PARSED_AT_ONCE = 1 << 20  # what fits into a processor's cache; 16 MiB take half as long again
_MAX_ROW = 256 << 20  # a longer row is a quotation mark that never closes, or no text at all
_MAX_PARQUET_ROWS = 1 << 17
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_OTHER_FORMS = (".bz2", ".xz", ".zip", ".7z", ".lz4", ".xlsx", ".feather", ".json", ".jsonl")
_OUTPUTS = (".csv", ".parquet")
_BOM = "\ufeff".encode()


class Rows(NamedTuple):
    """Some rows of a file.

    Attributes:
        table: Raw columns; those of a text file are all text, an empty cell is null.
        path: The file.
        first: Number of the first row in its file, from 1: its line in a text file, the header
            counted; its row in a Parquet file.
        done: How much of the file has been read so far, from 0 to 1.
        block: The text itself where lines and rows do not correspond (blank lines, quoted
            newlines); None elsewhere.
    """

    table: pa.Table
    path: Path
    first: int
    done: float = 1.0
    block: "_Block | None" = None

    def place(self, index: int) -> str:
        """Where row `index` of the table (from 0) stands: `a.tsv:17`, `a.parquet: row 17`."""
        if self.path.suffix == ".parquet":
            return f"{self.path}: row {self.first + index}"
        line = self.block.line(index) if self.block else self.first + index
        return f"{self.path}:{line}"


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
    wanted = _WantedColumns(only)
    types: pa.Schema | None = None
    empty: Rows | None = None
    found = False
    for path in map(Path, paths):
        if file_ending(path) == ".parquet":
            if path.suffix in _COMPRESSIONS:
                raise DataError(f"{path}: Parquet is compressed inside; unpack the file first")
            parts = _read_parquet(path, columns, wanted, block_size)
        else:
            parts = _read_text(path, delimiter, columns, encoding, wanted, block_size)
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


def first_line(
    path: str | Path, *, delimiter: str | None = None, encoding: str = "utf-8"
) -> list[str]:
    """The cells of the first line of a text file, a header or not.

    Raises:
        DataError: The file cannot be read, or it is empty.
    """
    path = Path(path)
    form = _TextForm.of(path, delimiter, encoding)
    for block in _blocks(path, form, 1 << 16):
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
    repeated = [cell for cell in cells if cell in columns and not _is_number(cell)]
    return bool(repeated) or (len(cells) > 1 and list(cells) == list(columns))


def file_ending(path: str | Path) -> str:
    """The ending of a file's name, without that of a compression.

    Example:
        >>> file_ending("part-0.tsv.gz")
        '.tsv'
    """
    path = Path(path)
    return path.with_suffix("").suffix if path.suffix in _COMPRESSIONS else path.suffix


class TableWriter:
    """Writes tables with equal columns one after another to a .csv or .parquet file.

    The file takes its name when the block ends without an error; until then, and after a failure,
    what stood there before stays. Lists join with `|` in a CSV.

    Raises:
        DataError: The name ends in neither .csv nor .parquet.
        DeepFMError: The file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_ending(self.path)
        self._stack = ExitStack()
        self._file: BinaryIO | None = None
        self._writer: pyarrow.csv.CSVWriter | pyarrow.parquet.ParquetWriter | None = None

    def __enter__(self) -> "TableWriter":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DeepFMError(f"cannot write {self.path}: {error.strerror or error}") from None
        self._file = self._stack.enter_context(atomic_writer(self.path))
        return self

    def write(self, table: pa.Table) -> None:
        is_csv = self.path.suffix == ".csv"
        if is_csv:
            table = _join_lists(table)
        if self._writer is None:
            kind = pyarrow.csv.CSVWriter if is_csv else pyarrow.parquet.ParquetWriter
            # Entered after the file, so it is closed before the file takes its name.
            self._writer = self._stack.enter_context(kind(self._file, table.schema))
        self._writer.write_table(table)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)


def check_ending(path: Path) -> None:
    """Refuse a file to write that is neither CSV nor Parquet."""
    if path.suffix not in _OUTPUTS:
        raise DataError(f"{path}: expected a file that ends in {' or '.join(_OUTPUTS)}")


class _TextForm(NamedTuple):
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
    def of(cls, path: Path, delimiter: str | None, encoding: str) -> "_TextForm":
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


class _Block(NamedTuple):
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
    form: _TextForm
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

    def header(self) -> tuple[list[str], int, "_Block"]:
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


class _WantedColumns:
    """Which columns are read, and that all files have the same ones."""

    def __init__(self, only: Sequence[str] | None) -> None:
        self._only = only
        self._first: tuple[Path, list[str]] | None = None

    def of(self, path: Path, names: list[str]) -> list[str]:
        """The columns to read from a file with these columns, in the order for all files.

        Raises:
            DataError: A column is missing, or another file of the call has other columns.
        """
        self._first = self._first or (path, names)
        other, expected = self._first
        if missing := [name for name in expected if name not in names]:
            raise DataError(f"{path}: no column {missing[0]!r}, which {other} has")
        if extra := [name for name in names if name not in expected]:
            raise DataError(f"{path}: a column {extra[0]!r}, which {other} does not have")
        for name in self._only or ():
            if name not in names:
                raise DataError(f"{path}: no column {name!r}; {nearest(name, names)}")
        return expected if self._only is None else list(self._only)


def _read_text(
    path: Path,
    delimiter: str | None,
    columns: Sequence[str],
    encoding: str,
    wanted: _WantedColumns,
    block_size: int,
) -> Iterator[Rows]:
    form = _TextForm.of(path, delimiter, encoding)
    names: list[str] = []
    for block in _blocks(path, form, block_size):
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


def _names(block: _Block, columns: Sequence[str]) -> tuple[list[str], _Block]:
    """The names of the columns, and the block without a header line."""
    cells, line, rest = block.header()
    place = f"{block.path}:{line}"
    if not columns:
        _refuse_repeated(place, cells)
        return cells, rest
    _refuse_repeated(str(block.path), columns)
    if is_header(cells, columns):
        raise DataError(
            f"{place}: a header line, but the columns are declared; remove one of the two"
        )
    if len(cells) != len(columns):
        raise DataError(
            f"{place}: {len(columns)} columns are declared, {len(cells)} are in this line"
        )
    return list(columns), block


def _refuse_repeated(place: str, names: Sequence[str]) -> None:
    if repeated := list(dict.fromkeys(name for name in names if names.count(name) > 1)):
        raise DataError(f"{place}: a column name is given twice: {', '.join(repeated)}")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _blocks(path: Path, form: _TextForm, block_size: int) -> Iterator[_Block]:
    """The text of a file in blocks of whole rows, none of them empty."""
    line, rest, wanted = 1, b"", block_size
    for piece, done in _utf8(path, form.encoding, block_size):
        rest += piece
        if len(rest) < wanted:
            continue
        if end := _rows_end(rest, form):
            behind = line + rest.count(b"\n", 0, end)
            block = _Block(rest[:end], form, path, line, behind, done)
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
        yield _separated(_Block(rest, form, path, line, line + rest.count(b"\n"), 1.0))


def _separated(block: _Block) -> _Block:
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
    compression = _COMPRESSIONS.get(path.suffix)
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


def _rows_end(text: bytes, form: _TextForm) -> int:
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


def _read_parquet(
    path: Path, columns: Sequence[str], wanted: _WantedColumns, block_size: int
) -> Iterator[Rows]:
    if columns:
        raise DataError(f"{path}: a Parquet file names its columns itself; remove `columns`")
    try:
        with path.open("rb"):  # Python's reason if it cannot be opened is the shorter one
            pass
        # A buffer: otherwise each column of a row group is read whole.
        with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20) as file:
            names = file.schema_arrow.names
            _refuse_repeated(str(path), names)
            read = wanted.of(path, names)
            rows = file.metadata.num_rows
            groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
            row_size = sum(group.total_byte_size for group in groups) / max(rows, 1)
            size = min(_MAX_PARQUET_ROWS, max(1, int(block_size / max(row_size, 1))))
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


def _join_lists(table: pa.Table) -> pa.Table:
    """Lists as text, their elements joined with `|`."""
    for index, field in enumerate(table.schema):
        if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
            lists = table.column(index).cast(pa.list_(pa.string()))
            table = table.set_column(index, field.name, pc.binary_join(lists, "|"))
    return table
