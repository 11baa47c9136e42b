"""Checksums of a store's arrays, by blocks of rows.

A block holds as many rows as fit into 64 KiB, about as much as a system reads ahead where rows are
picked from a mapped file, so that comparing a block costs no reading. The checksums of `x.bin` are
in `x.sums`, eight bytes each, and the manifest has the checksum of that.
"""

from array import array
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import xxhash

BLOCK = 1 << 16  # bytes
_READ_AT_ONCE = 4 << 20


def rows_per_block(dtype: str, shape: Sequence[int]) -> int:
    """How many rows of an array, (N, …), are in a block."""
    return max(1, BLOCK // max(1, np.dtype(dtype).itemsize * prod(shape[1:])))


def digest_of(data: bytes) -> str:
    """The checksum of a whole file."""
    return xxhash.xxh3_128_hexdigest(data)


def digest_of_file(path: Path) -> str:
    """As `digest_of`, of a file of any size."""
    hashed = xxhash.xxh3_128()
    with path.open("rb") as file:
        while data := file.read(_READ_AT_ONCE):
            hashed.update(data)
    return hashed.hexdigest()


class BlockSums:
    """Checksums of what is written, block by block.

    Attributes:
        size: Bytes of a block.
    """

    def __init__(self, size: int) -> None:
        self.size, self._filled = size, 0
        self._hash = xxhash.xxh3_64()
        self._sums = array("Q")

    def update(self, data: memoryview) -> None:
        while len(data):
            part = data[: self.size - self._filled]
            self._hash.update(part)
            self._filled += len(part)
            if self._filled == self.size:
                self._end_block()
            data = data[len(part) :]

    def go_on(self, done: bytes, rest: memoryview) -> None:
        """Begin behind whole blocks that have these checksums, and the bytes after them."""
        self._sums = array("Q", np.frombuffer(done, "<u8").tolist())
        self.update(rest)

    def end(self) -> bytes:
        """All checksums, little-endian."""
        if self._filled:
            self._end_block()
        return np.array(self._sums, "<u8").tobytes()

    def _end_block(self) -> None:
        self._sums.append(self._hash.intdigest())
        self._hash.reset()
        self._filled = 0
