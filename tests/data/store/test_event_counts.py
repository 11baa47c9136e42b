"""Events counted by user, wherever blocks end."""

import numpy as np
import pytest

from deepfm.data.store.event_counts import EventCounts


@pytest.mark.parametrize("block", [1, 2, 100])
def test_events_are_counted_by_user(block):
    user = np.array([1] * 5 + [3] + [2**64 - 1] * 4, np.uint64)
    counts = EventCounts()
    for start in range(0, len(user), block):
        counts.add(user[start : start + block])
    found = counts.all()
    assert found.user.tolist() == [1, 3, 2**64 - 1]
    assert found.events.tolist() == [5, 1, 4]


def test_no_events_have_no_users():
    counts = EventCounts()
    counts.add(np.zeros(0, np.uint64))
    assert [len(part) for part in counts.all()] == [0, 0]
