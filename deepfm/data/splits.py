"""Which rows train, validate and test."""

from typing import NamedTuple

import numpy as np


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
