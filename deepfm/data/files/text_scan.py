"""Where a text may be cut: its rows are counted without being parsed, range by range.

A range is a run of bytes that begins anywhere. Whether it begins inside of a quoted cell depends on
the quotation marks before it, so that a scan finds the answers for both cases, and `parts_of` takes
those that hold when all ranges have been scanned.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from deepfm.data.files.parts import CountedPart, FilePart
from deepfm.data.files.text_pieces import utf8_pieces
from deepfm.data.files.text_syntax import MARK, TextSyntax
from deepfm.utils.places import reading

_AT_ONCE = 1 << 18  # bytes whose newlines are found at once, within a processor's cache
_LONGEST_LINE = 64 << 20  # of a longer one nothing is known
_NEWLINE, _RETURN = ord("\n"), ord("\r")


class Side(NamedTuple):
    """What is true of a range if it begins outside, or inside, of a quoted cell.

    Attributes:
        alternates: Whether its quotation marks open and close in turns.
        row_ends: How many newlines end a row.
        first_end: Where the text behind the first of these is, in bytes of the file; -1: nowhere.
        lines: How many newlines there are up to it.
    """

    alternates: bool
    row_ends: int
    first_end: int
    lines: int


class Scan(NamedTuple):
    """What was found in a range.

    Attributes:
        marks: How many quotation marks there are.
        lines: How many newlines.
        is_ended: Whether it ends with a newline; None: it is empty.
        is_plain: Whether each newline outside of cells ends a row, and nothing else does: there
            are no blank lines, and no returns alone.
        outside, inside: If it begins so.
    """

    marks: int
    lines: int
    is_ended: bool | None
    is_plain: bool
    outside: Side
    inside: Side

    @classmethod
    def from_plain(cls, plain: Sequence[Any]) -> "Scan":
        """From plain data, such as JSON makes of it."""
        marks, lines, is_ended, is_plain, outside, inside = plain
        return cls(marks, lines, is_ended, is_plain, Side(*outside), Side(*inside))


def scan(part: FilePart, syntax: TextSyntax) -> Scan:
    """Look at a range, or at a whole file that cannot be cut.

    Raises:
        DataError: The file cannot be read.
    """
    found = _Scanning(part, syntax)
    for text in _whole_lines(part, syntax.encoding):
        if len(text) > _LONGEST_LINE:
            found.gives_up = True
        if not found.gives_up:
            found.add(text)
    return found.result()


def parts_of(
    ranges: Sequence[FilePart], scans: Sequence[Scan], has_header: bool
) -> list[CountedPart | None]:
    """The rows of a file as parts that begin within its ranges; None: no row begins there.

    A file whose quotation marks do not alternate is one part, within its middle range.

    Args:
        ranges: Of one file, end to end.
        has_header: Whether the first row names the columns.
    """
    marks = accumulate((one.marks for one in scans), initial=0)
    sides = [
        one.inside if before % 2 else one.outside for one, before in zip(scans, marks, strict=False)
    ]
    parts: list[CountedPart | None] = [None] * len(ranges)
    if sum(one.marks for one in scans) % 2 or not all(side.alternates for side in sides):
        parts[len(parts) // 2] = CountedPart(FilePart(ranges[0].path), None)
        return parts
    size = ranges[-1].end or 0
    starts = [n for n, side in enumerate(sides) if n == 0 or 0 <= side.first_end < size]
    is_plain = all(one.is_plain for one in scans)
    lines = list(accumulate((one.lines for one in scans), initial=0))
    rows = list(accumulate((side.row_ends for side in sides), initial=0))
    is_ended = [one.is_ended for one in scans if one.is_ended is not None]
    total = rows[-1] + (is_ended[-1:] == [False])
    for number, behind in zip(starts, [*starts[1:], None], strict=True):
        own, end = ranges[number], None if behind is None else sides[behind].first_end
        first = rows[number] + 1 if number else int(has_header)  # the number of its first row
        last = total if behind is None else rows[behind] + 1
        part = FilePart(own.path, 0, end)
        if number:
            line = 1 + lines[number] + sides[number].lines
            part = part._replace(start=sides[number].first_end, first=line)
        parts[number] = CountedPart(part, max(last - first, 0) if is_plain else None)
    return parts


def _whole_lines(part: FilePart, encoding: str) -> Iterator[bytes]:
    """The text in pieces that end with a line, but for the last one; none is empty."""
    rest = b""
    for piece, _ in utf8_pieces(part, encoding, _AT_ONCE):
        end = piece.rfind(b"\n") + 1
        if end:
            yield rest + piece[:end]
            rest = piece[end:]
        elif len(rest) <= _LONGEST_LINE:
            rest += piece
    if rest:
        yield rest


class _Scanning:
    """A scan under way.

    Attributes:
        gives_up: Whether nothing is to be known of the range.
    """

    def __init__(self, part: FilePart, syntax: TextSyntax) -> None:
        self.gives_up = False
        self._syntax = syntax
        self._place = part.start  # in the file, of what comes next
        self._before = _bytes_before(part)
        self._is_last = part.end is None or part.end >= part.path.stat().st_size
        self._marks = self._lines = 0
        self._is_plain = True
        self._is_ended: bool | None = None
        self._alternates = [True, True]
        self._row_ends = [0, 0]
        self._first = [(-1, 0), (-1, 0)]

    def add(self, text: bytes) -> None:
        """Go on with whole lines, or with the last one."""
        data = np.frombuffer(text, np.uint8)
        newlines = np.flatnonzero(data == _NEWLINE)
        is_odd = np.full(len(newlines), self._marks % 2)
        if self._syntax.quoted and b'"' in text:
            is_odd = self._after_marks(data, newlines)
        for odd in (0, 1):
            ends = np.flatnonzero(is_odd == odd)
            if len(ends) and self._first[odd][0] < 0:
                place = self._place + int(newlines[ends[0]]) + 1
                self._first[odd] = place, self._lines + int(ends[0]) + 1
            self._row_ends[odd] += len(ends)
        self._is_plain &= self._has_only_rows(text, newlines)
        self._place += len(text)
        self._lines += len(newlines)
        self._is_ended = text.endswith(b"\n")
        self._before = text[-2:]

    def _after_marks(self, data: np.ndarray, newlines: np.ndarray) -> np.ndarray:
        """Whether an odd number of marks of the range stands before each newline; counts them."""
        marks = np.flatnonzero(data == MARK)
        before = data[marks - 1]
        if marks[0] == 0:
            before[0] = self._before[-1]
        may_open = self._syntax.may_open(before)
        is_even = (self._marks + np.arange(len(marks))) % 2 == 0
        self._alternates[0] &= bool(may_open[is_even].all())
        self._alternates[1] &= bool(may_open[~is_even].all())
        odd = (self._marks + np.searchsorted(marks, newlines)) % 2
        self._marks += len(marks)
        return odd

    def _has_only_rows(self, text: bytes, newlines: np.ndarray) -> bool:
        """Whether there are neither blank lines nor returns without a newline."""
        joint = self._before + text[:2]
        if b"\n\n" in joint or b"\n\r\n" in joint or bool((np.diff(newlines) == 1).any()):
            return False
        if self._before.endswith(b"\r") and not text.startswith(b"\n"):
            return False
        if b"\r" not in text:
            return True
        # the last return may be half of a line's end, which the next range sees
        inner = text[:-1] if text.endswith(b"\r") else text
        return inner.count(b"\r") == inner.count(b"\r\n") and b"\n\r\n" not in text

    def result(self) -> Scan:
        if self._before.endswith(b"\r") and self._is_last:
            self._is_plain = False
        sides = [
            Side(alternates and not self.gives_up, row_ends, *first)
            for alternates, row_ends, first in zip(
                self._alternates, self._row_ends, self._first, strict=True
            )
        ]
        return Scan(self._marks, self._lines, self._is_ended, self._is_plain, *sides)


def _bytes_before(part: FilePart) -> bytes:
    """The two bytes before a range; a newline before the whole file."""
    if not part.start:
        return b"\n"
    with reading(part.path) as file:
        file.seek(max(0, part.start - 2))
        return file.read(min(2, part.start))
