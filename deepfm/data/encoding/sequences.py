"""List elements to padded rows, or end to end."""

import numpy as np

LONGEST_LIST = 10_000  # elements of one row, where a field sets no max_length


def pad(
    ids: np.ndarray, row: np.ndarray, rows: int, max_length: int, keep: str, absent: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of list elements to padded rows; elements without a value are left out first.

    Absence is a length, never an id.

    Args:
        ids: Of all elements, (E,) int64.
        row: The row of each, (E,), rising.
        rows: Number of rows N.
        max_length: Elements L that are kept of a row.
        keep: Whether those are the `first` or the `last` ones.
        absent: The id of no value, below all others.

    Returns:
        Padded ids (N, L) int64 and lengths (N,) int64.
    """
    ids, row = ids[ids > absent], row[ids > absent]
    starts = np.searchsorted(row, np.arange(rows + 1))
    position = np.arange(len(row)) - starts[row]
    lengths = np.diff(starts)
    if keep == "last":
        position -= np.maximum(lengths - max_length, 0)[row]
    kept = (position >= 0) & (position < max_length)
    padded = np.zeros((rows, max_length), np.int64)
    padded[row[kept], position[kept]] = ids[kept]
    return padded, np.minimum(lengths, max_length).astype(np.int64)


def kept_elements(
    ids: np.ndarray, row: np.ndarray, rows: int, absent: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ids of all list elements that have one, end to end, and how many each row has, (N,).

    Args:
        ids, row, rows, absent: As in `pad`.
    """
    has_one = ids > absent
    return ids[has_one], np.bincount(row[has_one], minlength=rows)
