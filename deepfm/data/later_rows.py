"""The split of a table that was appended to: the rows that came later are where they were put."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from deepfm.data.splits import SPLIT_NAMES, Placed, RowsToSplit, SplitOptions, StreamedSplit


class Step(NamedTuple):
    """Rows that were appended at once.

    Attributes:
        before: How many rows were read before them.
        placed: The split that all of them were put into; None: the table's own way to split.
        rows_before: How many rows each split had.
    """

    before: int
    placed: str | None
    rows_before: Mapping[str, int]


class LaterRows(StreamedSplit):
    """Another split, but for appended rows that were put into one split.

    Args:
        split: Of all other rows.
        steps: What was appended, in its order.
        first: Number of the first row that there is.
    """

    def __init__(self, split: StreamedSplit, steps: Sequence[Step], first: int = 0) -> None:
        super().__init__(split.options)
        self._split = split
        self.name, self.expected, self.in_shares = split.name, split.expected, split.in_shares
        own = [step.placed is None for step in steps if step.before >= first]
        self._is_asked = first < steps[0].before or any(own)
        if self._is_asked:
            self.surveyed, self.columns = split.surveyed, split.columns
            self.surveys_classes = split.surveys_classes
        self._starts = np.array([step.before for step in steps])
        self._places = np.array(
            [-1, *(-1 if s.placed is None else SPLIT_NAMES.index(s.placed) for s in steps)]
        )

    @classmethod
    def settings(cls, options: SplitOptions) -> list[object]:
        raise NotImplementedError("a table's key has the settings of its split, and the steps")

    def survey(self, rows: RowsToSplit) -> np.ndarray | None:
        own = self._placed(rows.numbers) < 0
        bad = self._split.survey(_some(rows, own)) if own.any() else None
        return None if bad is None else _spread(bad, own)

    def found(self) -> Mapping[str, np.ndarray]:
        return self._split.found()

    def take(self, found: Sequence[Mapping[str, np.ndarray]], share: int) -> None:
        self._split.take(found, share)

    def know_times(self, are_dates: bool | None) -> None:
        self._split.know_times(are_dates)

    def restart(self) -> None:
        if self._is_asked:
            self._split.restart()

    def divide(self, rows: RowsToSplit) -> Placed:
        split = self._placed(rows.numbers)
        own = split < 0
        if not own.any():
            return Placed(split)
        placed = self._split.divide(_some(rows, own))
        split[own] = placed.split
        return Placed(split, None if placed.bad is None else _spread(placed.bad, own))

    def _placed(self, numbers: np.ndarray) -> np.ndarray:
        """The split that rows were put into, -1 where the table's own way holds, (N,)."""
        found: np.ndarray = self._places[np.searchsorted(self._starts, numbers, side="right")]
        return found


def _some(rows: RowsToSplit, chosen: np.ndarray) -> RowsToSplit:
    if chosen.all():
        return rows
    places = np.flatnonzero(chosen)
    return RowsToSplit(
        rows.table.take(places), rows.role, rows.numbers[places], rows.classes[places]
    )


def _spread(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Values of the chosen rows among all, False elsewhere."""
    found = np.zeros(len(chosen), bool)
    found[chosen] = values
    return found
