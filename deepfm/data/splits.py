"""Which rows train, validate and test."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.encoding.cells import read_numbers, read_times
from deepfm.data.files.columns import is_text
from deepfm.data.order import Permutation, mix
from deepfm.utils.seeding import derive_seed

SAMPLE = 2**20  # times that are kept to find the cut points of a split by time


class Splits(NamedTuple):
    """Row numbers of each split, ascending."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def leave_one_out(user: np.ndarray, time: np.ndarray, *, min_interactions: int) -> Splits:
    """Each user's last row tests, the one before validates, all earlier ones train.

    Rows of a user are ordered by time, and by row number where times are equal. A user with
    fewer than `min_interactions` rows trains only.

    Args:
        user: User of each row, (N,) int.
        time: Anything sortable, (N,).
        min_interactions: At least 3, so that every evaluated user has a training row.

    Example:
        >>> leave_one_out(np.array([0, 0, 1, 0]), np.array([3, 1, 9, 3]), min_interactions=3)
        Splits(train=array([1, 2]), valid=array([0]), test=array([3]))
    """
    order = np.lexsort((time, user))  # a stable sort: equal times keep the order of rows
    counts = np.bincount(user)
    end = np.cumsum(counts)[user[order]]
    from_last = end - 1 - np.arange(len(user))  # 0: the user's last row
    held_out = counts[user[order]] >= min_interactions
    return Splits(
        train=np.sort(order[~held_out | (from_last >= 2)]),
        valid=np.sort(order[held_out & (from_last == 1)]),
        test=np.sort(order[held_out & (from_last == 0)]),
    )


def sortable(values: pa.Array) -> np.ndarray:
    """Numbers in the order of the values, (N,): texts of numbers as numbers, others by text.

    Example:
        >>> sortable(pa.array(["10", "9"])), sortable(pa.array(["2024-01-02", "2023-12-31"]))
        (array([10,  9]), array([2, 1], dtype=uint64))
    """
    if is_text(values.type):
        for kind in (pa.int64(), pa.float64()):
            try:
                return values.cast(kind).to_numpy(zero_copy_only=False)
            except pa.ArrowInvalid:
                continue
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return values.to_numpy(zero_copy_only=False)
    return pc.rank(values, tiebreaker="dense").to_numpy()


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
    """

    def __init__(self, fractions: tuple[float, ...], seed: int, sizes: Sequence[int]) -> None:
        self._ends = [np.round(_ends(fractions) * size) for size in sizes]
        self._places = [
            Permutation(size, seed=derive_seed(seed, "stratified split", label))
            for label, size in enumerate(sizes)
        ]
        self._seen = [0] * len(sizes)

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


class Times:
    """Reads a column of times as numbers that order them, in a stream.

    Numbers count as they are; of texts that are no numbers, and of Arrow dates and times,
    unix seconds are taken (ISO 8601). What the first batch holds, all must hold.
    """

    def __init__(self) -> None:
        self._dates: bool | None = None

    def read(self, values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Times (N,) float64, and which values are none, (N,) bool.

        Raises:
            DataError: The column is of a type that is no time.
        """
        if self._dates is None:
            known = values.drop_null()
            if is_text(values.type) and len(known):
                self._dates = bool(np.isnan(read_numbers(known.slice(0, 1)).values[0]))
            elif len(known):
                self._dates = pa.types.is_temporal(values.type)
        if self._dates:
            seconds, read = read_times(values)
            return seconds.astype(np.float64), ~read
        numbers = read_numbers(values).values
        return numbers, np.isnan(numbers)


class TimeSample:
    """All times up to 2^20 of them, beyond that a sample of 2^19 to 2^20, drawn by row number."""

    def __init__(self) -> None:
        self._limit = 2**64 - 1
        self._hashes = np.zeros(0, np.uint64)
        self._times = np.zeros(0)

    def add(self, rows: np.ndarray, times: np.ndarray) -> None:
        hashes = mix(rows.astype(np.uint64))
        kept = hashes <= self._limit
        self._hashes = np.concatenate([self._hashes, hashes[kept]])
        self._times = np.concatenate([self._times, times[kept]])
        while len(self._times) > SAMPLE:
            self._limit //= 2
            kept = self._hashes <= self._limit
            self._hashes, self._times = self._hashes[kept], self._times[kept]

    @property
    def times(self) -> np.ndarray:
        """(at most 2^20,) float64."""
        return self._times


def _ends(fractions: tuple[float, ...]) -> np.ndarray:
    """Where the first two of three parts end; exactly 1 where nothing is left for the third."""
    ends = np.cumsum(fractions)[:-1]
    ends[ends > 1 - 1e-9] = 1.0
    return ends
