"""Times of rows: as numbers that order them, and a sample from which a split takes its cuts."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.encoding.cells import read_numbers, read_times
from deepfm.data.files.columns import is_text
from deepfm.data.order import mix

SAMPLE = 2**20  # times that are kept to find the cut points of a split by time


class Times:
    """Reads a column of times as numbers that order them, in a stream.

    Numbers count as they are; of texts that are no numbers, and of Arrow dates and times,
    unix seconds are taken (ISO 8601). What the first batch holds, all must hold.

    Attributes:
        are_dates: Whether seconds are taken; None: nothing was read yet.
    """

    def __init__(self, are_dates: bool | None = None) -> None:
        self.are_dates = are_dates

    def read(self, values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Times (N,) float64, and which values are none, (N,) bool.

        Raises:
            DataError: The column is of a type that is no time.
        """
        if self.are_dates is None:
            known = values.drop_null()
            if is_text(values.type):
                known = known.filter(pc.not_equal(known, ""))
            if is_text(values.type) and len(known):
                self.are_dates = bool(np.isnan(read_numbers(known.slice(0, 1)).values[0]))
            elif len(known):
                self.are_dates = pa.types.is_temporal(values.type)
        if self.are_dates:
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
        self._add(mix(rows.astype(np.uint64)), times)

    def found(self) -> Mapping[str, np.ndarray]:
        """The sample, with what draws it."""
        limit = np.array([self._limit], np.uint64)
        return {"limit": limit, "hash": self._hashes, "time": self._times}

    def merge(self, found: Mapping[str, np.ndarray]) -> None:
        """Take in the sample of other rows."""
        self._limit = min(self._limit, int(found["limit"][0]))
        self._add(found["hash"], found["time"])

    def _add(self, hashes: np.ndarray, times: np.ndarray) -> None:
        self._hashes = np.concatenate([self._hashes, hashes])
        self._times = np.concatenate([self._times, times])
        self._keep()
        while len(self._times) > SAMPLE:
            self._limit //= 2
            self._keep()

    def _keep(self) -> None:
        kept = self._hashes <= self._limit
        self._hashes, self._times = self._hashes[kept], self._times[kept]

    @property
    def times(self) -> np.ndarray:
        """(at most 2^20,) float64."""
        return self._times
