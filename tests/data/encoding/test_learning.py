"""What is learnt in shares is what one learns of all rows, and both are what plain loops find."""

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfm.data.encoding import learnt, moments
from deepfm.data.encoding.kinds import NumbersOfRows
from deepfm.data.encoding.learning import Learning
from deepfm.data.encoding.learnt import QuantileSample, VocabularyCounter, splitmix64
from deepfm.data.encoding.moments import Moments
from deepfm.data.files.rows import Rows
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.data.store.learnt_files import read_states, write_states


def in_shares(new, numbers, places, bounds, batch):
    """An accumulator of all shares, each of which was learnt in batches."""
    joint = new()
    for start, end in zip([0, *bounds], [*bounds, len(numbers)], strict=True):
        own = new()
        for first in range(start, end, batch):
            some = slice(first, min(first + batch, end))
            own.add(NumbersOfRows(numbers[some], places[some]))
        joint.merge(own.state())
    return joint


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e9, 1e9), max_size=60),
    st.data(),
    st.integers(1, 9),
    st.integers(1, 70),
)
def test_moments_of_shares_are_those_of_all_bit_for_bit(numbers, data, block, batch):
    numbers = np.array(numbers, np.float64)
    steps = data.draw(st.lists(st.integers(1, 12), min_size=len(numbers), max_size=len(numbers)))
    places = np.cumsum(np.array(steps, np.int64))
    bounds = sorted(data.draw(st.lists(st.integers(0, len(numbers)), max_size=5)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "MOMENTS_BLOCK", block)
        whole = in_shares(Moments, numbers, places, [], max(len(numbers), 1)).figures()
        assert in_shares(Moments, numbers, places, bounds, batch).figures() == whole
    if len(numbers):
        mean = math.fsum(numbers) / len(numbers)
        assert (whole.low, whole.high) == (numbers.min(), numbers.max())
        assert math.isclose(whole.mean, mean, rel_tol=1e-9, abs_tol=1e-6)
        squares = math.fsum((number - mean) ** 2 for number in numbers.tolist())
        assert math.isclose(
            whole.deviation, math.sqrt(squares / len(numbers)), rel_tol=1e-6, abs_tol=1e-6
        )


def test_moments_hold_two_blocks_of_a_share_at_most(monkeypatch):
    monkeypatch.setattr(moments, "MOMENTS_BLOCK", 10)
    seen = Moments()
    for start in range(3, 1000, 7):
        places = np.arange(start, start + 7)
        seen.add(NumbersOfRows(places.astype(float), places))
        assert sum(len(part) for parts in seen._open.values() for part in parts) <= 20


def test_a_sample_of_shares_is_that_of_all():
    numbers, places = np.random.default_rng(0).normal(size=5000), np.arange(0, 15_000, 3)

    def new():
        return QuantileSample(2, size=300)

    found = in_shares(new, numbers, places, [40, 41, 3000], 777).numbers()
    hashes = splitmix64(places.astype(np.uint64) + np.uint64(2 << 40))
    np.testing.assert_array_equal(found, np.sort(numbers[np.argsort(hashes)[:300]]))


def test_counts_of_shares_are_added():
    joint = VocabularyCounter()
    for values in (["a", "b"], [], ["b", "c", "b"]):
        own = VocabularyCounter()
        own.add(pa.array(values, pa.large_string()), np.ones(len(values), np.int64))
        joint.merge(own.state())
    assert VocabularyCounter.finish([joint], 2).to_pylist() == ["b"]
    assert VocabularyCounter.finish([joint], 1).to_pylist() == ["a", "b", "c"]


@pytest.mark.parametrize("min_count", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("shares", [1, 2, 3, 8])
@pytest.mark.parametrize("slack", [1 << 16, 4])
def test_counts_of_shares_are_those_of_all_rows(monkeypatch, min_count, shares, slack):
    """Whatever a share has too few of, and whether it has seen numbers or text."""
    monkeypatch.setattr(learnt, "COUNTER_SLACK", slack)
    rng = np.random.default_rng(min_count)
    joint, counted = VocabularyCounter(), Counter()
    for number in range(shares):
        values = rng.zipf(1.4, 400) % 50 + 10
        own = VocabularyCounter()
        for batch in np.array_split(values, 5):
            distinct, counts = np.unique(batch, return_counts=True)
            array = pa.array(distinct)
            own.add(array.cast(pa.large_string()) if number % 2 else array, counts)
        joint.merge(own.state())
        counted.update(values.tolist())
    enough = {value: count for value, count in counted.items() if count >= min_count}
    found = VocabularyCounter.finish([joint], min_count)
    assert found.type == (pa.large_string() if shares > 1 else pa.int64())
    assert [int(one) for one in found.to_pylist()] == sorted(enough)
    by_count = [int(one) for one in VocabularyCounter.by_count([joint], min_count).to_pylist()]
    assert by_count == sorted(enough, key=lambda value: (-enough[value], value))


def test_every_field_learns_the_same_through_files(tmp_path, monkeypatch):
    monkeypatch.setattr(moments, "MOMENTS_BLOCK", 16)
    monkeypatch.setattr(learnt, "SAMPLE", 64)
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "city": rng.choice(list("abcde"), 500),
            "price": pa.array(rng.lognormal(size=500), mask=rng.random(500) < 0.2),
            "place": [f"{x}|{y}" for x, y in rng.random((500, 2))],
        }
    )
    fields = (
        FieldSchema("city", FeatureType.SPARSE, min_count=3),
        FieldSchema("twin", FeatureType.SPARSE, column="city", embedding_name="city", min_count=3),
        FieldSchema("level", FeatureType.SPARSE, column="price", quantiles=5),
        FieldSchema("price", FeatureType.DENSE, scale="log1p", missing="mean", clip=0.05),
        FieldSchema("place", FeatureType.DENSE, separator="|", value_dim=2, scale="standard"),
        FieldSchema("hashed", FeatureType.SPARSE, column="city", hash_buckets=7),
    )
    schema = DatasetSchema(fields={field.name: field for field in fields}, label_field="label")
    whole, folders = Learning(schema), []
    whole.learn(table)
    for start, end in ((0, 3), (3, 3), (3, 250), (250, 500)):
        share = Learning(schema)
        rows = Rows(table.slice(start, end - start), tmp_path, 1, before=start)
        share.learn([rows] if end > start else [])
        folders.append(tmp_path / str(len(folders)))
        write_states(folders[-1], schema, share)
    expected = whole.fitted()
    assert set(expected) == {"city", "level", "price", "place", "hashed"}
    for name, own in whole.tables().items():
        joint = Learning(schema)
        for folder in folders:
            joint.merge(read_states(folder, schema, name))
        found = joint.fitted_table(own).to_dict()
        assert found.keys() == expected[name].to_dict().keys()
        for key, value in expected[name].to_dict().items():
            assert str(found[key]) == str(value), (name, key)
