"""How many events each user has, counted as they come sorted by user."""

from typing import NamedTuple

import numpy as np


class UserEvents(NamedTuple):
    """Users in order, (U,) uint64, each once, and how many events each has, (U,) int64."""

    user: np.ndarray
    events: np.ndarray


class EventCounts:
    """Counts the events of each user, which come sorted by user, in blocks of any length."""

    def __init__(self) -> None:
        self._users: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []

    def add(self, user: np.ndarray) -> None:
        """Take the users of some events, (E,) uint64."""
        users, counts = np.unique(user, return_counts=True)
        if len(users) and self._users and self._users[-1][-1] == users[0]:
            self._counts[-1][-1] += counts[0]
            users, counts = users[1:], counts[1:]
        if len(users):
            self._users.append(users)
            self._counts.append(counts)

    def all(self) -> UserEvents:
        """Those of all users that have any."""
        if not self._users:
            return UserEvents(np.zeros(0, np.uint64), np.zeros(0, np.int64))
        return UserEvents(np.concatenate(self._users), np.concatenate(self._counts))
