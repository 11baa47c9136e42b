"""Minimum, maximum, mean and deviation of numbers that come in batches, or in shares."""

import math
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from deepfm.data.encoding.kinds import NumbersOfRows, State
from deepfm.data.encoding.scales import Figures

MOMENTS_BLOCK = 1 << 16  # places whose numbers are taken together


class _Block(NamedTuple):
    """The moments of the numbers of a block: how many, their mean, their squared deviations."""

    size: int
    mean: float
    squares: float

    @classmethod
    def of(cls, numbers: np.ndarray) -> "_Block":
        mean = float(numbers.mean())
        return cls(len(numbers), mean, float(np.square(numbers - mean).sum()))


class Moments:
    """Minimum, maximum, mean and deviation of numbers, block by block.

    Blocks are merged by the formula of Chan, Golub and LeVeque ("Updating Formulae and a Pairwise
    Algorithm for Computing Sample Variances", 1979), which loses nothing where the mean is large
    beside the deviation. A block is a run of places, and blocks are merged in their order, so that
    neither batches nor shares of any size change a bit. The first and the last block of a share,
    which may go on in another, stay as numbers: at most 2^17 of them.
    """

    def __init__(self) -> None:
        self._low, self._high = math.inf, -math.inf
        self._done: dict[int, _Block] = {}
        self._open: dict[int, list[np.ndarray]] = {}

    def add(self, found: NumbersOfRows) -> None:
        """Add numbers, whose places are above those of all before."""
        numbers = found.numbers
        if not len(numbers):
            return
        self._low = min(self._low, float(numbers.min()))
        self._high = max(self._high, float(numbers.max()))
        block = found.places // MOMENTS_BLOCK
        ends = np.append(np.flatnonzero(np.diff(block)) + 1, len(block))
        start = 0
        for end in ends.tolist():
            self._append(int(block[start]), numbers[start:end])
            start = end
        for parts in self._open.values():
            parts[-1] = parts[-1].copy()  # a part of a batch would keep all of it in memory

    def _append(self, block: int, numbers: np.ndarray) -> None:
        if block not in self._open and len(self._open) > 1:
            last = max(self._open)  # whose numbers are all there, as those of the first may not be
            self._done[last] = _Block.of(_together(self._open.pop(last)))
        self._open.setdefault(block, []).append(numbers)

    def state(self) -> State:
        blocks = sorted(self._done.items())
        numbers = {block: _together(parts) for block, parts in sorted(self._open.items())}
        counts = [len(some) for some in numbers.values()]
        together = np.concatenate([np.zeros(0), *numbers.values()])
        return {
            "range": pa.array([self._low, self._high], pa.float64()),
            "block": pa.array([number for number, _ in blocks], pa.int64()),
            "count": pa.array([block.size for _, block in blocks], pa.int64()),
            "mean": pa.array([block.mean for _, block in blocks], pa.float64()),
            "squares": pa.array([block.squares for _, block in blocks], pa.float64()),
            "open_block": pa.array(np.repeat(np.array([*numbers], np.int64), counts)),
            "open_number": pa.array(together),
        }

    def merge(self, state: State) -> None:
        low, high = state["range"].to_pylist()
        self._low, self._high = min(self._low, low), max(self._high, high)
        columns = (state[name].to_pylist() for name in ("block", "count", "mean", "squares"))
        for number, *moments in zip(*columns, strict=True):
            self._done[number] = _Block(*moments)
        blocks, numbers = state["open_block"].to_numpy(), state["open_number"].to_numpy()
        for number in np.unique(blocks).tolist():
            self._open.setdefault(number, []).append(numbers[blocks == number])

    def figures(self) -> Figures:
        """Range, mean and population deviation of all numbers; without any, all four are 0."""
        opened = {number: _Block.of(_together(parts)) for number, parts in self._open.items()}
        count, mean, squares = 0, 0.0, 0.0
        for _, block in sorted((self._done | opened).items()):
            before, count = count, count + block.size
            delta = block.mean - mean
            squares += block.squares
            squares += delta * delta * before * block.size / count
            mean += delta * block.size / count
        low, high = (self._low, self._high) if count else (0.0, 0.0)
        return Figures(low, high, mean, math.sqrt(squares / max(count, 1)))


def _together(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
