"""The newest events of each user in a store, as a checkpoint holds them."""

from typing import NamedTuple

import numpy as np

from deepfm.data.store.datasets import SharedEvents


class LastEvents(NamedTuple):
    """The newest events of users, user by user, the oldest first.

    Attributes:
        user: Hashes of the users that have any, ascending, (U,) uint64.
        starts: Where each user's events begin, and at the end how many there are, (U + 1,) int64.
        time: (E,) float64.
        ids: By built field of items, (E,) int64.
    """

    user: np.ndarray
    starts: np.ndarray
    time: np.ndarray
    ids: dict[str, np.ndarray]


def last_events(events: SharedEvents, max_length: int) -> LastEvents:
    """The last `max_length` events of each user, read into memory.

    They are those that histories are made of: with `until: split` events of the training split.

    Raises:
        DamagedStore: An array differs from its checksums.
    """
    counts = np.minimum(events.counts, max_length)
    first = np.cumsum(events.counts) - counts  # in the arrays of the store
    starts = np.concatenate([[0], np.cumsum(counts)])
    for checks in events.later.values():
        checks.check_ranges(first, counts)
    places = np.repeat(first - starts[:-1], counts) + np.arange(starts[-1])
    return LastEvents(
        np.array(events.user),
        starts,
        events.time.numpy()[places],
        {name: ids.numpy()[places].astype(np.int64) for name, ids in events.ids.items()},
    )
