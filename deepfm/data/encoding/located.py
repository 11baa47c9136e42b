"""Raw rows and single cells that know where in a file they stand, for the errors about them."""

from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from deepfm.data.files.rows import Rows
from deepfm.errors import Place


def table_of(part: "pa.Table | Rows") -> pa.Table:
    """The columns of rows, whether or not they know their place in a file."""
    return part if isinstance(part, pa.Table) else part.table


class LocatedRows:
    """Raw rows with the place that each came from.

    Args:
        table: The rows.
        parts: What they were taken from, end to end.
        numbers: Their numbers among the rows of all parts, (N,), where some are left out.
    """

    def __init__(
        self,
        table: pa.Table,
        parts: "list[pa.Table | Rows]",
        numbers: np.ndarray | None = None,
    ) -> None:
        self.table = table
        self._parts = parts
        self._numbers = numbers

    @classmethod
    def of(cls, *parts: "pa.Table | Rows") -> "LocatedRows":
        tables = [table_of(part) for part in parts]
        return cls(tables[0] if len(tables) == 1 else pa.concat_tables(tables), list(parts))

    def select(self, rows: np.ndarray | None) -> "LocatedRows":
        """Some of the rows; None: all of them."""
        if rows is None:
            return self
        numbers = rows if self._numbers is None else self._numbers[rows]
        return LocatedRows(self.table.take(pa.array(rows)), self._parts, numbers)

    def place(self, index: int) -> Place:
        """Where row `index` (from 0) stands."""
        index = index if self._numbers is None else int(self._numbers[index])
        for part in self._parts:
            if index < (count := table_of(part).num_rows):
                return Place(row=index + 1) if isinstance(part, pa.Table) else part.place(index)
            index -= count
        raise IndexError(index)


class Cells(NamedTuple):
    """The cells of one field: one per row, or one per element of its lists.

    Attributes:
        rows: The rows.
        values: Raw values, of which cells have one each.
        codes: Which of them each cell has; None: the n-th cell has value n.
        row: The row of each cell; None: the n-th row is cell n.
    """

    rows: LocatedRows
    values: pa.Array
    codes: np.ndarray | None
    row: np.ndarray | None

    def of_values(self, mask: np.ndarray) -> np.ndarray:
        """The cells whose value is in a mask of values."""
        found: np.ndarray = mask if self.codes is None else mask[self.codes]
        return found

    def in_rows(self, mask: np.ndarray) -> np.ndarray:
        """The rows with any cell of a mask of cells."""
        if self.row is None:
            return mask
        rows = np.zeros(self.rows.table.num_rows, bool)
        rows[self.row[mask]] = True
        return rows

    def value(self, cell: int) -> object:
        found: object = self.values[cell if self.codes is None else int(self.codes[cell])].as_py()
        return found

    def place(self, cell: int) -> Place:
        return self.rows.place(cell if self.row is None else int(self.row[cell]))


class FieldValues(NamedTuple):
    """What a field's reader made of some rows.

    Attributes:
        values: As its encoder takes them; of numbers a NumPy array.
        codes: Which of them each row, or each element of a sequence, has; None: the n-th has
            value n.
        row: The row of each element of a sequence, rising; None for other fields.
    """

    values: pa.Array
    codes: np.ndarray | None
    row: np.ndarray | None = None


class ReadSoFar:
    """What was read of some rows so far.

    Attributes:
        fields: What each field's reader made of them, by name.
        bad: By column, masks of the rows whose cells could not be read and were excused.
        outside: By column, masks of the rows with a whole number that has no row of the table.
        unknown: By sequence field, how many elements its vocabulary does not have.
    """

    def __init__(self) -> None:
        self.fields: dict[str, FieldValues] = {}
        self.bad: dict[str, list[np.ndarray]] = defaultdict(list)
        self.unknown: dict[str, int] = {}
        self.outside: dict[str, list[np.ndarray]] = defaultdict(list)

    def bad_cells(self, *, with_outside: bool = True) -> Counter[str]:
        """How many rows stand in any of the masks, by column."""
        counts: Counter[str] = Counter()
        for column in [*self.bad, *(self.outside if with_outside else ())]:
            masks = list(self.bad.get(column, ()))
            if with_outside:
                masks += self.outside.get(column, ())
            counts[column] = int(np.logical_or.reduce(masks).sum())
        return counts
