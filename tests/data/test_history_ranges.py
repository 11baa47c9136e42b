"""Histories as ranges of a flat array, against loops over all pairs of rows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfm.data.history_ranges import HistoryPass

rows_in_order = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.booleans()), max_size=40
).map(lambda rows: sorted(rows, key=lambda row: row[:2]))


def by_loops(rows: list[tuple], max_length: int, *, ties: bool) -> list[list[int]]:
    """The numbers of the rows that are in each row's history."""
    found = []
    for number, (user, time, _) in enumerate(rows):
        earlier = []
        for other, (its_user, its_time, is_event) in enumerate(rows):
            is_earlier = its_time < time or (ties and its_time == time and other < number)
            if is_event and its_user == user and is_earlier:
                earlier.append(other)
        found.append(earlier[len(earlier) - min(len(earlier), max_length) :])
    return found


@settings(max_examples=300, deadline=None)
@given(
    rows=rows_in_order,
    cuts=st.lists(st.integers(0, 40), max_size=6),
    max_length=st.integers(1, 5),
    ties=st.booleans(),
)
def test_ranges_are_those_of_loops_wherever_blocks_end(rows, cuts, max_length, ties):
    user = np.array([row[0] for row in rows], np.uint64)
    time = np.array([row[1] for row in rows], np.float64)
    is_event = np.array([row[2] for row in rows], bool)
    walk = HistoryPass(max_length=max_length, ties_in_order=ties)
    found = []
    for block in np.split(np.arange(len(rows)), sorted(min(cut, len(rows)) for cut in cuts)):
        starts, lengths = walk.ranges(user[block], time[block], is_event[block])
        found += zip(starts.tolist(), lengths.tolist(), strict=True)
    events = np.flatnonzero(is_event)
    assert walk.events == len(events)
    histories = [events[start : start + length].tolist() for start, length in found]
    assert histories == by_loops(rows, max_length, ties=ties)
