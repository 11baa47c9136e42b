"""Which rows train, validate and test."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


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
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        for kind in (pa.int64(), pa.float64()):
            try:
                return values.cast(kind).to_numpy(zero_copy_only=False)
            except pa.ArrowInvalid:
                continue
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return values.to_numpy(zero_copy_only=False)
    return pc.rank(values, tiebreaker="dense").to_numpy()
