"""The newest events of users against plain loops, and arrays that are refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepfm.data.last_events import EventTimes, LastEvents
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema

EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), max_size=30)
USERS = np.array([7, 2**63 + 5, 3, 2**64 - 1, 11], np.uint64)  # hashes, in no order


def last_events(events, max_length: int) -> LastEvents:
    """Events of `USERS` by place; the id of an event is its number."""
    user, time = np.array(events, np.int64).reshape(-1, 2).T
    ids = {"history_item": np.arange(len(user))}
    return LastEvents.of(USERS[user], time, time.astype(np.float64), ids, max_length)


def plain(events, user: int, max_length: int) -> list[tuple[int, int]]:
    """Time and number of the last events of a user, the oldest first."""
    own = sorted((time, k) for k, (other, time) in enumerate(events) if other == user)
    return own[-max_length:]


@given(EVENTS, st.integers(1, 4))
def test_the_last_of_each_user_are_kept(events, max_length):
    found = last_events(events, max_length)
    assert found.user.tolist() == sorted({int(USERS[user]) for user, _ in events})
    for k, hashed in enumerate(found.user.tolist()):
        part = slice(found.starts[k], found.starts[k + 1])
        own = list(zip(found.time[part], found.ids["history_item"][part], strict=True))
        assert own == plain(events, USERS.tolist().index(hashed), max_length)


@given(EVENTS, st.integers(1, 4), st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 6))))
@pytest.mark.parametrize("with_equal", [False, True])
def test_a_row_sees_what_is_before_it(with_equal, events, max_length, rows):
    times = EventTimes(last_events(events, max_length))
    user, now = np.array(rows, np.int64).reshape(-1, 2).T
    found = times.before(USERS[user], now.astype(np.float64), with_equal=with_equal)
    for k, (one, at) in enumerate(rows):
        start, length = int(found.starts[k]), int(found.lengths[k])
        seen = times.events.ids["history_item"][start : start + length].tolist()
        kept = plain(events, one, max_length)
        assert seen == [number for time, number in kept if time < at or (with_equal and time == at)]


def test_an_unknown_user_has_done_nothing():
    times = EventTimes(last_events([(0, 1), (3, 2)], 3))
    found = times.before(np.array([0, 8, 2**64 - 2], np.uint64), np.full(3, 9.0))
    assert found.lengths.tolist() == [0, 0, 0]
    assert times.newest == 2.0
    assert EventTimes(last_events([], 3)).newest == 0.0


SCHEMA = DatasetSchema(
    fields={
        "item": FieldSchema("item", FeatureType.SPARSE, group="item", vocabulary_size=9),
        "history_item": FieldSchema(
            "history_item", FeatureType.SEQUENCE, built="items", history_of="item",
            group="user", vocabulary_size=9, max_length=3, combiner="position",
        ),
    },
    label_field="label",
)  # fmt: skip


def test_they_come_back_as_they_were():
    events = last_events([(0, 1), (3, 2), (3, 1), (1, 0)], 2)
    found = LastEvents.from_plain(events.to_plain(), SCHEMA)
    for one, other in zip(found[:3], events[:3], strict=True):
        assert (one.dtype, one.tolist()) == (other.dtype, other.tolist())
    np.testing.assert_array_equal(found.ids["history_item"], events.ids["history_item"])
    assert events.num_bytes == 3 * 8 + 4 * 8 + 4 * 8 + 4 * 4  # users, starts, times, ids


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("user", lambda t: t.flip(0)),
        ("starts", lambda t: t[:-1]),
        ("starts", lambda t: t + 1),
        ("time", lambda t: -t),
        ("time", lambda t: t[1:]),
        ("ids", lambda ids: {}),
        ("ids", lambda ids: {"history_item": ids["history_item"] + 9}),
        ("ids", lambda ids: {"history_item": ids["history_item"] - 9}),
        ("ids", lambda ids: {"history_item": torch.zeros(1)}),
    ],
)
def test_what_does_not_fit_is_refused(key, change):
    plain = last_events([(0, 1), (3, 2), (3, 1), (1, 0)], 2).to_plain()
    with pytest.raises(ValueError, match="event"):
        LastEvents.from_plain(plain | {key: change(plain[key])}, SCHEMA)
