"""List elements to padded rows, or end to end, and what rows of several fields must agree on."""

from collections.abc import Mapping

import numpy as np

LONGEST_LIST = 10_000  # elements of one row, where a field sets no max_length


def pad(
    ids: np.ndarray, row: np.ndarray, rows: int, max_length: int, keep: str
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of list elements to padded rows.

    Args:
        ids: Of all elements, (E,) int64.
        row: The row of each, (E,), rising.
        rows: Number of rows N.
        max_length: Elements L that are kept of a row.
        keep: Whether those are the `first` or the `last` ones.

    Returns:
        Padded ids (N, L) int64 and lengths (N,) int64.
    """
    starts = np.searchsorted(row, np.arange(rows + 1))
    position = np.arange(len(row)) - starts[row]
    lengths = np.diff(starts)
    if keep == "last":
        position -= np.maximum(lengths - max_length, 0)[row]
    kept = (position >= 0) & (position < max_length)
    padded = np.zeros((rows, max_length), np.int64)
    padded[row[kept], position[kept]] = ids[kept]
    return padded, np.minimum(lengths, max_length).astype(np.int64)


def with_values(ids: np.ndarray, row: np.ndarray, absent: int) -> tuple[np.ndarray, np.ndarray]:
    """The elements that have a value, and the row of each: else absence would be an id.

    Args:
        ids, row: As in `pad`.
        absent: The id of no value, below all others.
    """
    has_one = ids > absent
    return ids[has_one], row[has_one]


def first_difference(lengths: Mapping[str, np.ndarray]) -> tuple[int, str, str] | None:
    """The first row in which two fields have unequal lengths, and their names; None: there is none.

    Args:
        lengths: By field, (N,) each.
    """
    (name, of_first), *others = lengths.items()
    found = None
    for other, of_other in others:
        differ = of_first != of_other
        if differ.any() and (found is None or int(differ.argmax()) < found[0]):
            found = int(differ.argmax()), name, other
    return found
