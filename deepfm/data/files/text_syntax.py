"""How the text of a file is divided into rows and cells."""

import codecs
import re
from typing import NamedTuple

import numpy as np

from deepfm.data.files.packed import file_ending
from deepfm.errors import DataError, Place, shown
from deepfm.utils.places import AnyPath

_NOT_TEXT = (".bz2", ".xz", ".zip", ".7z", ".lz4", ".xlsx", ".feather", ".json", ".jsonl")
MARK = ord('"')
_NEWLINE = ord("\n")


class TextSyntax(NamedTuple):
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
    def of(cls, path: AnyPath, delimiter: str | None, encoding: str) -> "TextSyntax":
        ending = file_ending(path)
        if ending in _NOT_TEXT:
            raise DataError(
                f"{ending} cannot be read; expected text, .gz, .zst, .zip or .parquet",
                place=Place(file=str(path)),
            )
        if delimiter is None:
            raise DataError(
                "expected a file that ends in .csv, .tsv or .parquet, or a delimiter "
                "(data.table.delimiter)",
                place=Place(file=str(path)),
            )
        if not delimiter or set(delimiter) & set('"\r\n\x1f'):
            raise DataError(f"{delimiter!r} cannot be a delimiter", place=Place(file=str(path)))
        try:
            "".encode(encoding)  # refuses codecs that are not of text, too
            encoding = codecs.lookup(encoding).name
        except (LookupError, ValueError):
            raise DataError(
                f"unknown encoding {shown(encoding)}", place=Place(file=str(path))
            ) from None
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

    def may_open(self, before: np.ndarray) -> np.ndarray:
        """Whether an opening quotation mark may stand behind each of these bytes.

        It begins a cell, or it doubles the mark before it. Where all opening marks do, marks
        alternate between opening and closing, and a newline is outside of cells after an even
        number of them.
        """
        return np.isin(before, list(self.separator + b'\r\n"'))


def split_rows(rest: bytes, piece: bytes, syntax: TextSyntax) -> tuple[bytes, bytes]:
    """The whole rows of a text that begins with a row, and what is behind them.

    Args:
        rest, piece: The text; what is left of earlier rows, and what follows it.
    """
    if syntax.quoted and (b'"' in rest or b'"' in piece):
        text = rest + piece
        end = rows_end(text, syntax)
        return text[:end], text[end:]
    end = piece.rfind(b"\n") + 1
    if not end:
        return b"", rest + piece
    # one copy, which is most of what a block costs before it is parsed
    return b"".join((rest, memoryview(piece)[:end])), piece[end:]


def count_newlines(text: bytes) -> int:
    """As `bytes.count`, which takes three times as long."""
    data, at_once = np.frombuffer(text, np.uint8), 1 << 18  # within a processor's cache
    parts = (data[start : start + at_once] for start in range(0, len(data), at_once))
    return sum(int(np.count_nonzero(part == _NEWLINE)) for part in parts)


def rows_end(text: bytes, syntax: TextSyntax) -> int:
    """Where the last whole row of a text that begins with a row ends; 0 if none does."""
    end = text.rfind(b"\n") + 1
    if not syntax.quoted or b'"' not in text:
        return end
    data = np.frombuffer(text, np.uint8)
    marks = np.flatnonzero(data == MARK)
    before = data[marks[::2] - 1]
    at_start = marks[::2] == 0
    if np.all(at_start | syntax.may_open(before)):
        while end and (count := int(np.searchsorted(marks, end))) % 2:
            end = text.rfind(b"\n", 0, int(marks[count - 1])) + 1
        return end
    row, position, end = syntax.any_row(), 0, 0  # a mark inside of a plain cell: step by step
    while match := row.match(text, position):
        position = match.end()
        if text[position - 1] == ord("\n"):
            end = position
    return end
