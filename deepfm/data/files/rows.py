"""Some rows of a file, what a format of files can do, and which columns are wanted of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, NamedTuple, Protocol, TypedDict, runtime_checkable

import numpy as np
import pyarrow as pa

from deepfm.data.files.parts import CountedPart, FilePart
from deepfm.errors import DataError, Place, nearest
from deepfm.utils.places import AnyPath


class LineNumbers(Protocol):
    """Knows the lines of a text in which lines and rows do not correspond."""

    def line(self, index: int) -> int:
        """The line in which row `index` begins."""
        ...


class Rows(NamedTuple):
    """Some rows of a file.

    Attributes:
        table: Raw columns; those of a text file are all text, an empty cell is null.
        path: The file.
        first: Number of the first row in its file, from 1: its line in a text file, the header
            counted; its row in other files.
        done: How much of the file has been read so far, from 0 to 1.
        has_lines: Whether the file is a text, whose rows stand in lines.
        lines: Of a text where lines and rows do not correspond (blank lines, quoted newlines);
            None elsewhere.
        chosen: The numbers that the rows had when they were read, (N,), where some of them are
            left out; None: they are all there.
        before: How many rows of all files were read before these; None: nobody counts.
    """

    table: pa.Table
    path: AnyPath
    first: int
    done: float = 1.0
    has_lines: bool = True
    lines: LineNumbers | None = None
    chosen: np.ndarray | None = None
    before: int | None = None

    def place(self, index: int) -> Place:
        """Where row `index` of the table (from 0) stands: `a.tsv:17`, `a.parquet: row 17`."""
        if self.chosen is not None:
            index = int(self.chosen[index])
        if not self.has_lines:
            return Place(file=str(self.path), row=self.first + index)
        line = self.lines.line(index) if self.lines is not None else self.first + index
        return Place(file=str(self.path), line=line)

    def where(self, is_chosen: np.ndarray) -> "Rows":
        """The rows of a mask, (N,) bool, which still know where they stand."""
        chosen = np.flatnonzero(is_chosen)
        if self.chosen is not None:
            chosen = self.chosen[chosen]
        # filter, because take is several times slower on columns of many chunks
        return self._replace(table=self.table.filter(pa.array(is_chosen)), chosen=chosen)


class TextOptions(TypedDict, total=False):
    """How the text of a file is divided; what is left out is told by the file's ending.

    Attributes:
        delimiter: Between the cells of a row.
        columns: Names of the columns of a file that has no header line.
        encoding: A name that Python knows.
    """

    delimiter: str | None
    columns: Sequence[str]
    encoding: str


class WantedColumns:
    """Which columns are read, and that all files have the same ones."""

    def __init__(self, only: Sequence[str] | None) -> None:
        self._only = only
        self._first: tuple[AnyPath, list[str]] | None = None

    def of(self, path: AnyPath, names: list[str], hint: str = "") -> list[str]:
        """The columns to read from a file with these columns, in the order for all files.

        Args:
            hint: What an error about a column that is missing ends with.

        Raises:
            DataError: A column is missing, or another file of the call has other columns.
        """
        self._first = self._first or (path, names)
        other, expected = self._first
        place = Place(file=str(path))
        if missing := [name for name in expected if name not in names]:
            raise DataError(f"no column {missing[0]!r}, which {other} has{hint}", place=place)
        if extra := [name for name in names if name not in expected]:
            raise DataError(f"a column {extra[0]!r}, which {other} does not have", place=place)
        for name in self._only or ():
            if name not in names:
                nearby = f"; {nearest(name, names)}; `column` of a field may name another"
                raise DataError(f"no column {name!r}{hint or nearby}", place=place)
        return expected if self._only is None else list(self._only)


class FileFormat(Protocol):
    """A format of files, which `deepfm.data.files.read.FORMATS` finds by a file's ending.

    Attributes:
        is_typed: Whether a file itself names its columns and their types; of others every column
            is text.
    """

    is_typed: bool

    def read(
        self, path: AnyPath, options: TextOptions, wanted: WantedColumns, block_size: int
    ) -> Iterator[Rows]:
        """The rows of a file, as `read_rows` gives them.

        Raises:
            DataError: The file cannot be read, or its content is not what is expected.
        """
        ...


@runtime_checkable
class CuttableFormat(Protocol):
    """A format whose files several readers can share, and several threads of each.

    Attributes:
        is_typed: As in `FileFormat`.
    """

    is_typed: bool

    def blocks(
        self, part: FilePart, options: TextOptions, wanted: WantedColumns, block_size: int
    ) -> Iterator[Callable[[], Rows]]:
        """The rows of a part of a file, block by block, as `read_rows` gives them.

        What is given for a block makes its rows when it is called, in any thread and any order.

        Raises:
            DataError: The file cannot be read, or its content is not what is expected; then, or
                when a block is called.
        """
        ...

    def ranges(
        self, path: AnyPath, options: TextOptions, at: Sequence[float]
    ) -> list[FilePart | None]:
        """A file cut at some shares of its length, rising; a range need not begin with a row.

        Of one that cannot be cut all ranges but one are None.

        Raises:
            DataError: The file cannot be read.
        """
        ...

    def scan(self, part: FilePart, options: TextOptions) -> list[Any]:
        """What `parts` needs to know of a range, as plain data.

        Raises:
            DataError: The file cannot be read.
        """
        ...

    def parts(
        self, ranges: Sequence[FilePart], scans: Sequence[Any], options: TextOptions
    ) -> list[CountedPart | None]:
        """The rows of a file as parts, one for each range that a row begins in.

        Args:
            ranges: All that are not None.
            scans: Of each.
        """
        ...


class TableSink(Protocol):
    """Takes tables with equal columns, one after the other."""

    def write_table(self, table: pa.Table) -> None: ...


@runtime_checkable
class WritableFormat(Protocol):
    """A format that tables can be written in, too."""

    is_typed: bool

    def storable(self, table: pa.Table) -> pa.Table:
        """The table with columns that the format can hold."""
        ...

    def sink(
        self, file: BinaryIO | pa.NativeFile, columns: pa.Schema
    ) -> AbstractContextManager[TableSink]:
        """Writes storable tables to an open file, which is complete when the block ends."""
        ...


def refuse_repeated(place: Place, names: Sequence[str], hint: str = "") -> None:
    """Refuse columns of which two have one name; `hint` ends the error."""
    if repeated := list(dict.fromkeys(name for name in names if names.count(name) > 1)):
        shown = ", ".join(repeated)
        raise DataError(f"a column name is given twice: {shown}{hint}", place=place)
