"""Some rows of a file, and which of its columns are wanted."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from deepfm.errors import DataError, nearest

if TYPE_CHECKING:
    from deepfm.data.files.text import TextBlock


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
    block: "TextBlock | None" = None

    def place(self, index: int) -> str:
        """Where row `index` of the table (from 0) stands: `a.tsv:17`, `a.parquet: row 17`."""
        if self.path.suffix == ".parquet":
            return f"{self.path}: row {self.first + index}"
        line = self.block.line(index) if self.block else self.first + index
        return f"{self.path}:{line}"


class WantedColumns:
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


def refuse_repeated(place: str, names: Sequence[str]) -> None:
    if repeated := list(dict.fromkeys(name for name in names if names.count(name) > 1)):
        raise DataError(f"{place}: a column name is given twice: {', '.join(repeated)}")
