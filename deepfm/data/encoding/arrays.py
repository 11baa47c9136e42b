"""Encoded rows in NumPy: what encoders give, and what engines without torch score."""

from typing import NamedTuple

import numpy as np


class FlatLists(NamedTuple):
    """Lists of ids of any lengths, end to end.

    Attributes:
        ids: Of all N rows, (E,) int64.
        lengths: (N,) int64.
    """

    ids: np.ndarray
    lengths: np.ndarray

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The ids of some rows end to end, (sum of their lengths,).

        Example:
            >>> FlatLists(np.array([4, 5, 6]), np.array([1, 0, 2])).of(np.array([2, 0])).tolist()
            [5, 6, 4]
        """
        lengths = self.lengths[rows]
        starts = (self.lengths.cumsum() - self.lengths)[rows]
        before = lengths.cumsum() - lengths
        found: np.ndarray = self.ids[np.arange(lengths.sum()) + np.repeat(starts - before, lengths)]
        return found

    def padded(self) -> np.ndarray:
        """The lists padded with 0 to the longest of them: (N, L) int64, L at least 1.

        Example:
            >>> FlatLists(np.array([4, 5, 6]), np.array([1, 0, 2])).padded().tolist()
            [[4, 0], [0, 0], [5, 6]]
        """
        longest = max(int(self.lengths.max(initial=0)), 1)
        found = np.zeros((len(self.lengths), longest), np.int64)
        found[np.arange(longest) < self.lengths[:, None]] = self.ids
        return found


class EncodedArrays(NamedTuple):
    """Encoded features of N rows, as `deepfm.data.batch.Inputs` but in NumPy.

    Attributes:
        sparse: Ids of the sparse fields, (N, F_sparse) int64.
        dense: Values of the dense fields, (N, sum of value_dim) float32.
        sequence_ids: Per sequence field the padded ids, (N, L) int64.
        sequence_lengths: Per sequence field the number of valid ids, (N,) int64.
    """

    sparse: np.ndarray
    dense: np.ndarray
    sequence_ids: tuple[np.ndarray, ...]
    sequence_lengths: tuple[np.ndarray, ...]

    @property
    def num_rows(self) -> int:
        return len(self.sparse)

    def select(self, rows: np.ndarray | slice) -> "EncodedArrays":
        """Some rows, by an operation on whole arrays."""
        return EncodedArrays(
            self.sparse[rows],
            self.dense[rows],
            tuple(ids[rows] for ids in self.sequence_ids),
            tuple(lengths[rows] for lengths in self.sequence_lengths),
        )

    def with_sequences(
        self, ids: tuple[np.ndarray, ...], lengths: tuple[np.ndarray, ...]
    ) -> "EncodedArrays":
        """The same rows with further sequence fields behind their own."""
        return self._replace(
            sequence_ids=(*self.sequence_ids, *ids),
            sequence_lengths=(*self.sequence_lengths, *lengths),
        )
