"""Comparing the arrays of a store with their checksums, before rows of them are given."""

from math import prod
from pathlib import Path

import numpy as np
import xxhash

from deepfm.data.store.damage import damaged
from deepfm.data.store.sums import digest_of, rows_per_block


class BlockChecks:
    """Which blocks of a mapped array have been compared with their checksums.

    Args:
        path: Of the array; its checksums are beside it.
        values: The array, (N, …).
        checksum: Of the checksums.

    Raises:
        DamagedStore: The checksums cannot be read, or are not those of the manifest.
    """

    def __init__(self, path: Path, values: np.ndarray, checksum: str) -> None:
        self._path, self._values = path, values
        self.rows = rows_per_block(values.dtype.name, values.shape)
        sums = path.with_suffix(".sums")
        try:
            data = sums.read_bytes()
        except OSError as error:
            raise damaged(sums, f"cannot be read: {error.strerror or error}") from None
        blocks = -(-len(values) // self.rows) if values.size else 0
        if digest_of(data) != checksum or len(data) != 8 * blocks:
            raise damaged(sums, "damaged (another checksum than in manifest.json)")
        self._sums = np.frombuffer(data, "<u8")
        self._is_open = np.ones(blocks, bool)  # not compared yet
        self._left = blocks

    def check_all(self) -> None:
        """Read the file once, without mapping it.

        Raises:
            DamagedStore: A block differs.
        """
        size = self.rows * self._values.itemsize * prod(self._values.shape[1:])
        left = self._values.nbytes  # rows of a later store may stand behind them
        with self._path.open("rb") as file:
            for block in range(len(self._sums)):
                self._compare(block, file.read(min(size, left)))
                left -= size
        self._is_open[:] = False
        self._left = 0

    def check_rows(self, rows: np.ndarray | slice, first: int = 0) -> None:
        """Compare the blocks of some rows, unless that has been done.

        Args:
            first: The row that is called 0.

        Raises:
            DamagedStore: A block differs.
        """
        if not self._left:
            return
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self._values) - first)
            blocks = np.arange((start + first) // self.rows, -(-(stop + first) // self.rows))
        else:
            blocks = (rows + first) // self.rows
        for block in np.unique(blocks[self._is_open[blocks]]).tolist():
            start = block * self.rows
            data = np.ascontiguousarray(self._values[start : start + self.rows])
            self._compare(block, data.data)
            self._is_open[block] = False
            self._left -= 1

    def check_ranges(self, starts: np.ndarray, lengths: np.ndarray) -> None:
        """As `check_rows`, of the rows `start` to `start + length - 1` each."""
        if not self._left:
            return
        there = lengths > 0
        first = starts[there]
        last = first + lengths[there] - 1
        self.check_rows(np.concatenate([first, last]))
        for start, end in zip(first, last, strict=True):
            if end - start > self.rows:  # there are blocks between those of its ends
                self.check_rows(slice(int(start), int(end) + 1))

    def _compare(self, block: int, data: bytes | memoryview) -> None:
        if xxhash.xxh3_64_intdigest(data) != int(self._sums[block]):
            start = block * self.rows
            end = min(start + self.rows, len(self._values))
            raise damaged(
                self._path, f"damaged (rows {start:,} to {end - 1:,} have another checksum)"
            )
