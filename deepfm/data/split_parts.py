"""Which part of three a row belongs to, by its number, its class or its time."""

from collections.abc import Sequence

import numpy as np

from deepfm.data.order import Permutation, mix
from deepfm.utils.seeding import derive_seed


class RandomSplit:
    """Parts drawn for each row alone, by a hash of (seed, row number); nothing is held.

    A part's size is binomial: of a million rows, 0.8 +- 0.0004 train.
    """

    def __init__(self, fractions: tuple[float, ...], seed: int) -> None:
        self._ends = _ends(fractions)
        self._key = mix(np.full(1, derive_seed(seed, "split"), np.uint64))

    def parts(self, rows: np.ndarray) -> np.ndarray:
        """0 (train), 1 (valid) or 2 (test) for each row number, (N,) int64."""
        hashes = mix(rows.astype(np.uint64) ^ self._key)
        below_one = (hashes >> np.uint64(11)) * 2.0**-53
        return np.searchsorted(self._ends, below_one, side="right")


class StratifiedSplit:
    """Exactly the given share of each class, give or take a row, drawn by (seed, class).

    The k-th row of a class goes where a pseudo-random permutation of its rows puts it, so that
    only the sizes of the classes need to be known beforehand. Rows must come in order.

    Args:
        fractions: Shares of the parts.
        seed: Of the draw.
        sizes: Rows of each class.
        before: How many of them come before the first row of all; none by default.
    """

    def __init__(
        self,
        fractions: tuple[float, ...],
        seed: int,
        sizes: Sequence[int],
        before: Sequence[int] | None = None,
    ) -> None:
        self._ends = [np.round(_ends(fractions) * size) for size in sizes]
        self._places = [
            Permutation(size, seed=derive_seed(seed, "stratified split", label))
            for label, size in enumerate(sizes)
        ]
        self._seen = [0] * len(sizes) if before is None else list(before)

    def parts(self, classes: np.ndarray) -> np.ndarray:
        """Parts of the next rows by their class 0, 1, …; -1 for a row of class -1, (N,) int64."""
        found = np.full(len(classes), -1)
        for label, places in enumerate(self._places):
            rows = np.flatnonzero(classes == label)
            ranks = self._seen[label] + np.arange(len(rows))
            self._seen[label] += len(rows)
            found[rows] = np.searchsorted(self._ends[label], places(ranks), side="right")
        return found


class TimeSplit:
    """Old rows train, newer ones validate, the newest test; rows of equal time stay together.

    A row whose time is a cut point belongs to the later part.
    """

    def __init__(self, first: float, second: float) -> None:
        self.cuts = np.array([first, second])

    @classmethod
    def of(cls, fractions: tuple[float, ...], times: np.ndarray) -> "TimeSplit":
        """Cut points at the shares of some times, which may be a sample of all."""
        times = np.sort(times)
        ends = np.ceil(_ends(fractions) * len(times) - 1e-9).astype(int)
        return cls(*(times[end] if end < len(times) else np.inf for end in ends))

    def parts(self, times: np.ndarray) -> np.ndarray:
        """0 (train), 1 (valid) or 2 (test) for each time, (N,) int64."""
        return np.searchsorted(self.cuts, times, side="right")


def _ends(fractions: tuple[float, ...]) -> np.ndarray:
    """Where the first two of three parts end; exactly 1 where nothing is left for the third."""
    ends = np.cumsum(fractions)[:-1]
    ends[ends > 1 - 1e-9] = 1.0
    return ends
