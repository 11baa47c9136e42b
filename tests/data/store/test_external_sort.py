"""Sorting in bounded memory: as Python sorts, whatever the sizes of runs, blocks and keys."""

import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfm.data.store import external_sort
from deepfm.data.store.external_sort import ExternalSort

RECORD = np.dtype([("user", "u8"), ("time", "f8"), ("row", "i8"), ("kind", "i1")])
BY = ("user", "time", "row")


def records_of(keys: list[tuple[int, float]]) -> np.ndarray:
    """Records numbered in the order that they come in."""
    return np.array([(u, t, row, row % 3) for row, (u, t) in enumerate(keys)], RECORD)


def sorted_on_disk(folder, records: np.ndarray, parts: int = 3) -> list[np.ndarray]:
    with ExternalSort(folder, records.dtype, BY) as found:
        for part in np.array_split(records, parts):
            found.add(part)
        return list(found.blocks())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sort")


users = st.one_of(st.integers(0, 3), st.integers(2**64 - 3, 2**64 - 1))
times = st.one_of(st.integers(-2, 2).map(float), st.floats(allow_nan=False))


@settings(max_examples=150, deadline=None)
@given(
    keys=st.lists(st.tuples(users, times), max_size=60),
    run=st.integers(1, 12),
    at_once=st.integers(2, 4),
    parts=st.integers(1, 5),
)
def test_it_sorts_as_python_does(folder, keys, run, at_once, parts):
    """With runs of a few records, merged in several passes."""
    records = records_of(keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_sort, "RUN_BYTES", run * RECORD.itemsize)
        patch.setattr(external_sort, "MERGED_AT_ONCE", at_once)
        blocks = sorted_on_disk(folder, records, parts)
    assert all(len(block) for block in blocks)
    found = [tuple(record) for block in blocks for record in block.tolist()]
    assert found == sorted(records.tolist(), key=lambda record: record[:3])


def test_ids_of_users_that_no_float_holds_are_told_apart(folder):
    keys = [(2**63 + 1, 0.0), (2**63, 1.0), (2**63 + 1, -1.0), (2**63, 0.0)]
    found = np.concatenate(sorted_on_disk(folder, records_of(keys)))
    assert found["row"].tolist() == [3, 1, 2, 0]


def test_one_user_of_one_time_in_more_runs_than_files_may_be_open(folder, monkeypatch):
    monkeypatch.setattr(external_sort, "RUN_BYTES", 4 * RECORD.itemsize)
    monkeypatch.setattr(external_sort, "MERGED_AT_ONCE", 8)
    records = records_of([(7, 1.5)] * 5000)
    opened = len(os.listdir("/dev/fd"))
    found = np.concatenate(sorted_on_disk(folder, records[::-1], parts=1))
    assert found["row"].tolist() == list(range(5000))
    assert len(os.listdir("/dev/fd")) == opened


def test_nothing_is_left_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(external_sort, "RUN_BYTES", 4 * RECORD.itemsize)
    with ExternalSort(tmp_path, RECORD, BY) as found:
        found.add(records_of([(1, 0.0)] * 50))
        assert os.listdir(tmp_path) == []  # so that a process that is killed leaves nothing
    assert os.listdir(tmp_path) == []


def test_memory_does_not_grow_with_the_records(tmp_path, monkeypatch):
    """Fifty times as much as is sorted at once, in no more than six times as much memory."""
    budget = 1 << 18
    monkeypatch.setattr(external_sort, "RUN_BYTES", budget)
    part = budget // RECORD.itemsize // 4
    rng = np.random.default_rng(0)
    tracemalloc.start()
    try:
        with ExternalSort(tmp_path, RECORD, BY) as found:
            for start in range(0, 200 * part, part):
                records = np.zeros(part, RECORD)
                records["user"] = rng.integers(0, 50, part)
                records["row"] = np.arange(start, start + part)
                found.add(records)
            count = sum(len(block) for block in found.blocks())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 200 * part
    assert peak < 6 * budget
