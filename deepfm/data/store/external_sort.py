"""Sorting more records than memory holds: sorted runs on disk, merged block by block.

A record is an element of a structured array. Memory stays within a few times `RUN_BYTES`, whatever
the number of records and however many of them are equal. Runs stand end to end in one file that
has no name, so that a process that is killed leaves nothing, and that the number of runs is not
bound by the number of files that may be open.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

RUN_BYTES = 16 << 20  # of the records that are sorted at once
MERGED_AT_ONCE = 64  # runs; each holds its share of RUN_BYTES in memory


class ExternalSort:
    """Takes records in any order and gives them sorted, once.

    Args:
        folder: Where the runs are kept meanwhile.
        dtype: Structured, of the records.
        by: The fields to sort by, none of which holds NaN; the first counts most. Records that
            are equal in all of them come in any order.

    Example:
        >>> records = np.array([(2, 0.5), (1, 9.0), (2, 0.25)], [("user", "u8"), ("time", "f8")])
        >>> with ExternalSort(Path("."), records.dtype, ("user", "time")) as found:
        ...     found.add(records)
        ...     np.concatenate(list(found.blocks()))["time"]
        array([9.  , 0.25, 0.5 ])
    """

    def __init__(self, folder: Path, dtype: np.dtype[np.void], by: Sequence[str]) -> None:
        self._folder, self._dtype, self._by = folder, dtype, by
        self._size = max(1, RUN_BYTES // dtype.itemsize)  # records of a run
        self._unsorted = np.empty(self._size, dtype)
        self._filled = 0
        self._runs = _Runs(folder, dtype)

    def add(self, records: np.ndarray) -> None:
        """Take some records, (N,)."""
        while len(records):
            part = records[: self._size - self._filled]
            self._unsorted[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            if self._filled == self._size:
                self._end_run()
            records = records[len(part) :]

    def blocks(self) -> Iterator[np.ndarray]:
        """All records, sorted, in blocks of different lengths, none of them empty."""
        self._end_run()
        self._unsorted = self._unsorted[:0].copy()  # its memory goes to the merge
        while len(self._runs.bounds) > MERGED_AT_ONCE:
            self._merge_groups()
        yield from self._merged(self._runs.bounds)

    def _end_run(self) -> None:
        if self._filled:
            records = self._unsorted[: self._filled]
            order = _order(records, self._by)
            step = max(1, self._size // MERGED_AT_ONCE)  # so that no copy of all is needed
            for start in range(0, len(order), step):
                self._runs.write(np.take(records, order[start : start + step]))
            self._runs.end_run()
            self._filled = 0

    def _merge_groups(self) -> None:
        """Make longer runs, each of as many as are merged at once."""
        longer, bounds = _Runs(self._folder, self._dtype), self._runs.bounds
        for start in range(0, len(bounds), MERGED_AT_ONCE):
            for block in self._merged(bounds[start : start + MERGED_AT_ONCE]):
                longer.write(block)
            longer.end_run()
        self._runs.close()
        self._runs = longer

    def _merged(self, bounds: Sequence["_Bounds"]) -> Iterator[np.ndarray]:
        """The records of some runs, sorted.

        Of each run a block is held. What is not above the least of their last records comes before
        all that is still on disk.
        """
        size = max(1, self._size // max(1, len(bounds)))
        runs = [self._runs.read(run, size) for run in bounds]
        held = [next(run, None) for run in runs]
        while there := [block for block in held if block is not None]:
            last = min(_key(block[-1], self._by) for block in there)
            taken = []
            for number, block in enumerate(held):
                if block is not None:
                    count = _count_up_to(block, last, self._by)
                    taken.append(block[:count])
                    held[number] = block[count:] if count < len(block) else next(runs[number], None)
            together = np.concatenate(taken)
            yield np.take(together, _order(together, self._by))  # ten times as fast as indexing

    def close(self) -> None:
        """Give the disk back."""
        self._runs.close()

    def __enter__(self) -> "ExternalSort":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Bounds(NamedTuple):
    """Where a run begins and ends among the records of its file."""

    first: int
    end: int


class _Runs:
    """Runs of records, end to end in a file without a name."""

    def __init__(self, folder: Path, dtype: np.dtype[np.void]) -> None:
        self.bounds: list[_Bounds] = []
        self._dtype = dtype
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  until `close`
        self._written = 0

    def write(self, records: np.ndarray) -> None:
        """Append records to the last run."""
        self._file.write(records.tobytes())
        self._written += len(records)

    def end_run(self) -> None:
        self.bounds.append(_Bounds(self.bounds[-1].end if self.bounds else 0, self._written))

    def read(self, run: _Bounds, size: int) -> Iterator[np.ndarray]:
        """The records of a run, `size` at a time."""
        for start in range(run.first, run.end, size):
            self._file.seek(start * self._dtype.itemsize)
            data = self._file.read(min(size, run.end - start) * self._dtype.itemsize)
            yield np.frombuffer(data, self._dtype)

    def close(self) -> None:
        self._file.close()


def _order(records: np.ndarray, by: Sequence[str]) -> np.ndarray:
    """The numbers of the records, (N,), in their order."""
    return np.lexsort([records[name] for name in reversed(by)])


def _key(record: np.void, by: Sequence[str]) -> tuple[np.generic, ...]:
    return tuple(record[name] for name in by)


def _count_up_to(block: np.ndarray, last: Sequence[np.generic], by: Sequence[str]) -> int:
    """How many of a block's records, which are sorted, are not above a key."""
    low, high = 0, len(block)
    for name, value in zip(by, last, strict=True):
        values = np.ascontiguousarray(block[name][low:high])
        first, end = (int(np.searchsorted(values, value, side)) for side in ("left", "right"))
        low, high = low + first, low + end
    return high
