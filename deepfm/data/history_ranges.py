"""Which events are the history of each row, found in one pass over rows sorted by user and time.

Events of all users stand in one flat array, those of a user one after the other, oldest first. So
the history of a row, the user's newest events before it, is a range of that array, and rows share
what their histories have in common.
"""

from typing import NamedTuple

import numpy as np


class Ranges(NamedTuple):
    """Ranges of a flat array of events: where each begins and its length, (N,) int64 each."""

    starts: np.ndarray
    lengths: np.ndarray


class HistoryPass:
    """Gives each row the range of its history, for rows that come sorted, in blocks of any length.

    Rows are sorted by user, time and number. A row's history is what its user did at earlier
    times; with `ties_in_order` also what stands before it at the same time. It is never the row
    itself.

    Args:
        max_length: How many events a history has at most, the newest ones.
        ties_in_order: Whether events of the row's own time count, if they stand before it.

    Attributes:
        events: How many have been seen.

    Example:
        >>> user, time = np.array([1, 1, 1, 1]), np.array([10.0, 20.0, 20.0, 30.0])
        >>> HistoryPass(max_length=2, ties_in_order=False).ranges(user, time, np.ones(4, bool))
        Ranges(starts=array([0, 0, 0, 1]), lengths=array([0, 1, 1, 2]))
    """

    def __init__(self, *, max_length: int, ties_in_order: bool) -> None:
        self._max_length, self._ties_in_order = max_length, ties_in_order
        self.events = 0
        self._last: tuple[np.generic, np.generic] | None = None  # user and time
        self._users_first = 0  # the number of the last user's first event
        self._before_time = 0  # how many events come before the last row's time

    def ranges(self, user: np.ndarray, time: np.ndarray, is_event: np.ndarray) -> Ranges:
        """The histories of the next rows.

        Args:
            user: (N,).
            time: (N,) float64, without NaN.
            is_event: Whether the row is in the histories of later ones, (N,) bool.
        """
        if not len(user):
            return Ranges(np.zeros(0, np.int64), np.zeros(0, np.int64))
        is_users_first, is_times_first = self._begins(user, time)
        before = self.events + np.cumsum(is_event) - is_event
        # Numbers of events never fall, so the greatest so far is that of the latest beginning.
        users_first = np.where(is_users_first, before, self._users_first)
        users_first = np.maximum.accumulate(users_first)
        before_time = np.where(is_times_first, before, self._before_time)
        before_time = np.maximum.accumulate(before_time)
        ends = before if self._ties_in_order else before_time
        starts = np.maximum(users_first, ends - self._max_length)
        self.events += int(is_event.sum())
        self._last = (user[-1], time[-1])
        self._users_first, self._before_time = int(users_first[-1]), int(before_time[-1])
        return Ranges(starts, ends - starts)

    def _begins(self, user: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which rows are the first of their user, and of their user's time, (N,) bool each."""
        is_users_first = np.append(True, user[1:] != user[:-1])
        is_times_first = is_users_first | np.append(True, time[1:] != time[:-1])
        if self._last is not None:
            last_user, last_time = self._last
            is_users_first[0] = user[0] != last_user
            is_times_first[0] = is_users_first[0] or time[0] != last_time
        return is_users_first, is_times_first
