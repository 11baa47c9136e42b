"""Each split against a plain loop, and the facts of MovieLens-100K."""

import datetime as dt
import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfm.config import load_config
from deepfm.data import split_times
from deepfm.data.split_parts import RandomSplit, StratifiedSplit, TimeSplit
from deepfm.data.splits import (
    PredefinedRanking,
    RankedRows,
    SplitOptions,
    Times,
    TimeSample,
    leave_one_out,
    sortable,
)
from deepfm.errors import DataError
from deepfm.experiment import load_data
from deepfm.utils.seeding import derive_seed
from tests.data.test_order import plain_mix


def plain_leave_one_out(user, time, min_interactions):
    train, valid, test = [], [], []
    for one in sorted(set(user)):
        rows = sorted((time[row], row) for row in range(len(user)) if user[row] == one)
        rows = [row for _, row in rows]
        if len(rows) >= min_interactions:
            test.append(rows.pop())
            valid.append(rows.pop())
        train += rows
    return sorted(train), sorted(valid), sorted(test)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1), st.integers(3, 5))
def test_equals_the_plain_loop_ties_included(events, min_interactions):
    user, time = np.array(events).T
    found = leave_one_out(user, time, min_interactions=min_interactions)
    expected = plain_leave_one_out(user.tolist(), time.tolist(), min_interactions)
    assert tuple(rows.tolist() for rows in found) == expected


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1),
    st.lists(st.integers(0, 4), min_size=1),
)
def test_given_test_rows_leave_each_users_last_training_row_to_validate(events, tested):
    user, time = np.array(events).T
    rows = RankedRows(
        np.append(user, tested),
        np.append(time, np.zeros(len(tested), int)),
        np.repeat([0, 2], [len(user), len(tested)]),
    )
    train, valid = [], []
    for one in set(user.tolist()):
        own = sorted((time[row], row) for row in np.flatnonzero(user == one))
        if len(own) + tested.count(one) >= 3:
            valid.append(own.pop()[1])
        train += [row for _, row in own]
    test = list(range(len(user), len(user) + len(tested)))
    found = PredefinedRanking.divide(rows, SplitOptions(min_interactions=3))
    assert [part.tolist() for part in found] == [sorted(train), sorted(valid), test]


def test_given_validation_rows_validate():
    rows = RankedRows(np.zeros(6, int), np.arange(6)[::-1], np.array([0, 0, 0, 1, 2, 2]))
    found = PredefinedRanking.divide(rows, SplitOptions())
    assert [part.tolist() for part in found] == [[0, 1, 2], [3], [4, 5]]


def test_movielens_has_486_positives_in_test_and_493_in_validation(movielens_dir, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(f"data: {{data_dir: {movielens_dir}, explicit_negatives: true}}")
    data = load_data(load_config(path))
    assert (len(data.train), len(data.valid), len(data.test)) == (98_114, 943, 943)
    assert (int(data.test.label.sum()), int(data.valid.label.sum())) == (486, 493)
    assert (len(data.test.ranking.rows), len(data.valid.ranking.rows)) == (486, 493)


def rows_in_batches(count: int, size: int = 7) -> list[np.ndarray]:
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


FRACTIONS = st.sampled_from(
    [(0.8, 0.1, 0.1), (0.5, 0.5, 0.0), (1 / 3, 1 / 3, 1 / 3), (0.7, 0.2, 0.1)]
)


@given(FRACTIONS, st.integers(0, 3), st.integers(1, 200))
def test_a_random_split_is_a_function_of_seed_and_row(fractions, seed, count):
    split = RandomSplit(fractions, seed)
    together = split.parts(np.arange(count))
    alone = [int(split.parts(np.array([row]))[0]) for row in range(count)]
    assert together.tolist() == alone
    ends, key = (fractions[0], fractions[0] + fractions[1]), derive_seed(seed, "split")
    for row, part in enumerate(alone):
        share = (plain_mix(row ^ plain_mix(key)) >> 11) / 2**53
        assert part == (0 if share < ends[0] else 1 if share < ends[1] or not fractions[2] else 2)


def test_a_random_split_has_its_shares_and_no_pattern():
    parts = RandomSplit((0.8, 0.1, 0.1), 3).parts(np.arange(1_000_000))
    np.testing.assert_allclose(np.bincount(parts) / 1e6, [0.8, 0.1, 0.1], atol=0.002)
    thirds = (parts == 1).reshape(10, -1).mean(1)
    np.testing.assert_allclose(thirds, 0.1, atol=0.005)
    other = RandomSplit((0.8, 0.1, 0.1), 4).parts(np.arange(1_000_000))
    assert ((parts == 1) & (other == 1)).mean() == pytest.approx(0.01, abs=0.001)


@given(FRACTIONS, st.integers(0, 3), st.lists(st.integers(-1, 1), min_size=1, max_size=300))
def test_a_stratified_split_has_exact_shares_of_each_class(fractions, seed, classes):
    classes = np.array(classes)
    sizes = [int((classes == label).sum()) for label in (0, 1)]
    split = StratifiedSplit(fractions, seed, sizes)
    parts = np.concatenate([split.parts(classes[rows]) for rows in rows_in_batches(len(classes))])
    whole = StratifiedSplit(fractions, seed, sizes).parts(classes)
    assert parts.tolist() == whole.tolist()
    assert ((parts == -1) == (classes == -1)).all()
    for label, size in enumerate(sizes):
        counts = [int((parts[classes == label] == part).sum()) for part in range(3)]
        assert sum(counts) == size
        for count, fraction in zip(counts, fractions, strict=True):
            assert abs(count - fraction * size) <= 1
        if not fractions[2]:
            assert counts[2] == 0


def test_a_stratified_split_puts_every_row_everywhere():
    classes = np.arange(90) % 3 % 2
    sizes = [60, 30]
    seen = np.mean(
        [StratifiedSplit((0.5, 0.3, 0.2), seed, sizes).parts(classes) == 0 for seed in range(2000)],
        axis=0,
    )
    assert np.abs(seen - 0.5).max() < 0.05  # 4.5 deviations of 2,000 throws


@given(FRACTIONS, st.lists(st.integers(0, 8), min_size=1, max_size=60))
def test_a_time_split_cuts_at_the_shares_and_keeps_equal_times_together(fractions, times):
    split = TimeSplit.of(fractions, np.array(times, float))
    parts = split.parts(np.array(times, float)).tolist()
    ordered = sorted(times)
    cuts = []
    for share in (Fraction(fractions[0]), Fraction(fractions[0]) + Fraction(fractions[1])):
        place = math.ceil(round(share * len(times), 6))
        cuts.append(ordered[place] if place < len(times) else math.inf)
    expected = [0 if time < cuts[0] else 1 if time < cuts[1] else 2 for time in times]
    assert parts == expected


def test_a_sample_of_times_is_all_of_them_or_a_fair_part(monkeypatch):
    times = np.random.default_rng(0).normal(size=50_000)

    def sampled(batch: int) -> np.ndarray:
        sample = TimeSample()
        for rows in rows_in_batches(len(times), batch):
            sample.add(rows, times[rows])
        return sample.times

    np.testing.assert_array_equal(sampled(1000), times)
    monkeypatch.setattr(split_times, "SAMPLE", 2**12)
    found = sampled(1000)
    assert 2**11 <= len(found) <= 2**12
    np.testing.assert_array_equal(found, sampled(999))  # whatever the batches are
    np.testing.assert_allclose(
        np.quantile(found, [0.1, 0.5, 0.9]), np.quantile(times, [0.1, 0.5, 0.9]), atol=0.12
    )


MOMENTS = [dt.datetime(2023, 12, 31, 23, 59), dt.datetime(2024, 1, 2, 3), dt.datetime(2024, 1, 10)]
COLUMNS = {
    "seconds": [int(t.replace(tzinfo=dt.UTC).timestamp()) for t in MOMENTS],
    "milliseconds": [int(t.replace(tzinfo=dt.UTC).timestamp() * 1000) for t in MOMENTS],
    "texts of seconds": [str(int(t.replace(tzinfo=dt.UTC).timestamp())) for t in MOMENTS],
    "fractions": [t.replace(tzinfo=dt.UTC).timestamp() + 0.5 for t in MOMENTS],
    "timestamps": MOMENTS,
    "dates": [t.date() for t in MOMENTS],
    "ISO dates": [t.date().isoformat() for t in MOMENTS],
    "ISO times": [t.isoformat(" ") for t in MOMENTS],
    "ISO with offsets": ["2024-01-01T08:59:00+09:00", "2024-01-02T03:00Z", "2024-01-09T23-01:00"],
    "slashes": [t.strftime("%Y/%m/%d %H:%M") for t in MOMENTS],
}


@pytest.mark.parametrize("column", COLUMNS)
def test_any_kind_of_times_is_in_order(column):
    """The same in a split by time and for a user's last row."""
    order = [1, 2, 0, 1]
    values = pa.array([COLUMNS[column][k] for k in order] + [None])
    for found, bad in (Times().read(values), sortable(values)):
        assert bad.tolist() == [False] * 4 + [True]
        assert np.unique(found[:4], return_inverse=True)[1].tolist() == order


def test_times_within_a_second_are_in_order():
    texts = pa.array(["2024-01-01 00:00:00.25", "2024-01-01 00:00:00.125"])
    assert np.argsort(sortable(texts)[0]).tolist() == [1, 0]
    stamps = pa.array([2**60 + 1, 2**60], pa.timestamp("ns"))
    assert np.argsort(sortable(stamps)[0]).tolist() == [1, 0]
    assert np.argsort(sortable(pa.array([2**60 + 1, 2**60, None]))[0][:2]).tolist() == [1, 0]


@pytest.mark.parametrize(
    "values", [["31.12.2023", "01.01.2024"], ["", "2024-01-01"], ["soon", "1"]]
)
def test_texts_that_are_no_times_have_no_order(values):
    assert sortable(pa.array(values))[1].tolist() == [True, values[1] == "01.01.2024"]


def test_an_empty_first_time_does_not_make_dates_of_numbers():
    times, bad = Times().read(pa.array(["", "5", "20231231"]))
    assert (times[1:].tolist(), bad.tolist()) == ([5, 20231231], [True, False, False])


def test_what_cannot_be_a_time_is_refused():
    with pytest.raises(DataError, match="expected times, found list"):
        sortable(pa.array([[1], [2]]))
