"""Encoders of single fields against plain Python, and their accumulators in batches of any size."""

import io
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfm.data.encoding.ids import (
    DeclaredVocabulary,
    HashBuckets,
    Quantiles,
    Vocabulary,
    plain,
)
from deepfm.data.encoding.kinds import NumbersOfRows
from deepfm.data.encoding.learnt import QuantileSample, VocabularyCounter, splitmix64
from deepfm.data.encoding.moments import MOMENTS_BLOCK
from deepfm.data.encoding.numbers import Scaler, SeenNumbers
from deepfm.data.encoding.scales import FLOAT32_MAX, SCALES
from deepfm.data.encoding.sequences import pad, with_values
from deepfm.data.encoding.words import WordIds
from deepfm.data.schema import FeatureType, FieldSchema
from deepfm.utils.io import arrays_as_tensors

SPARSE = FieldSchema("f", FeatureType.SPARSE)


def vocabulary(values, kind=None, **options):
    field = FieldSchema("f", FeatureType.SPARSE, **options)
    counter = VocabularyCounter()
    array = plain(pa.array(values, kind))
    counter.add(array, np.ones(len(array), np.int64))
    return Vocabulary.fitted([field], [counter])


def through_a_file(encoder):
    file = io.BytesIO()
    torch.save(arrays_as_tensors(encoder.to_dict()), file)
    file.seek(0)
    return type(encoder).from_dict(torch.load(file, weights_only=True))


# --- vocabularies ------------------------------------------------------------------------------


def test_values_are_numbered_from_one_in_sorted_order():
    encoder = vocabulary(["b", None, "a", "b"])
    assert encoder.vocabulary_size == 3
    assert encoder.encode(pa.array(["a", "b", "c", None])).tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        (pa.array(["10", "30", "x", "010", "10.0"]), [1, 3, 0, 1, 0]),
        (pa.array(["10", "30"]), [1, 3]),
        (pa.array([10.0, 20.0]), [1, 2]),
        (pa.array([10.0, 20.5, None, math.nan, math.inf, 1e300]), [1, 0, 0, 0, 0, 0]),
        (pa.array([30, 10], pa.int8()), [3, 1]),
        (pa.array([30, 2**64 - 1], pa.uint64()), [3, 0]),
        (pa.array(["20", None]), [2, 0]),
        (pa.array([None, None]), [0, 0]),
    ],
)
def test_integers_are_found_in_any_spelling(values, ids):
    assert vocabulary([10, 20, 30]).encode(values).tolist() == ids


def test_texts_are_found_by_numbers():
    encoder = vocabulary(["10", "20", "1.5", "x"])
    order = {"1.5": 1, "10": 2, "20": 3, "x": 4}
    assert encoder.encode(pa.array([10, 20, 15])).tolist() == [order["10"], order["20"], 0]
    assert encoder.encode(pa.array([10.0, 1.5, math.nan])).tolist() == [
        order["10"],
        order["1.5"],
        0,
    ]


def test_fractions_are_found_in_any_spelling():
    encoder = vocabulary([0.5, -0.0, 2.0, math.nan, None])
    assert encoder.values.to_pylist() == [0.0, 0.5, 2.0]
    assert encoder.encode(pa.array(["0.5", "2", "5e-1", "x"])).tolist() == [2, 3, 2, 0]
    assert encoder.encode(pa.array([0, 2, 3])).tolist() == [1, 3, 0]
    assert encoder.encode(pa.array([0.5, -0.0], pa.float32())).tolist() == [2, 1]


def test_large_integers_do_not_merge():
    ids = [2**24, 2**24 + 1, 2**62, 2**62 + 1]  # float32 and float64 cannot tell these apart
    assert vocabulary(ids).encode(pa.array(ids)).tolist() == [1, 2, 3, 4]
    ids = [0, 2**63 - 1, 2**63, 2**64 - 1]
    encoder = vocabulary(ids, pa.uint64())
    assert encoder.encode(pa.array(ids, pa.uint64())).tolist() == [1, 2, 3, 4]
    assert encoder.encode(pa.array([str(value) for value in ids])).tolist() == [1, 2, 3, 4]
    assert encoder.encode(pa.array([-1, 0, 2**63 - 1])).tolist() == [0, 1, 2]
    assert encoder.encode(pa.array([2.0**63, -1.0])).tolist() == [3, 0]


VALUES = st.one_of(
    st.tuples(st.just(pa.string()), st.lists(st.none() | st.text(max_size=3))),
    st.tuples(st.just(pa.int64()), st.lists(st.none() | st.integers(-(2**63), 2**63 - 1))),
    st.tuples(st.just(pa.int64()), st.lists(st.none() | st.integers(-3, 3))),
    st.tuples(st.just(pa.uint64()), st.lists(st.none() | st.integers(0, 2**64 - 1))),
    st.tuples(st.just(pa.float64()), st.lists(st.none() | st.floats())),
    st.tuples(st.just(pa.float64()), st.lists(st.none() | st.integers(-3, 3).map(float))),
    st.tuples(st.just(pa.bool_()), st.lists(st.none() | st.booleans())),
)


def canonical(value):
    """A value as one Python object per class of equal spellings; None where it is absent."""
    if isinstance(value, float):
        return None if math.isnan(value) else value + 0.0
    return int(value) if isinstance(value, bool) else value


@given(VALUES, VALUES, st.integers(1, 3))
def test_ids_of_any_values(seen, new, min_count):
    counts = Counter(canonical(value) for value in seen[1])
    known = {value for value, count in counts.items() if count >= min_count} - {None}
    order = {value: k for k, value in enumerate(sorted(known, key=_sortable), 1)}
    encoder = vocabulary(seen[1], seen[0], min_count=min_count)
    assert encoder.vocabulary_size == len(order) + 1
    found = encoder.encode(plain(pa.array(seen[1], seen[0]))).tolist()
    assert found == [order.get(canonical(value), 0) for value in seen[1]]
    found = encoder.encode(plain(pa.array(new[1], new[0]))).tolist()
    if new[0] == seen[0]:
        assert found == [order.get(canonical(value), 0) for value in new[1]]
    assert all(0 <= k < encoder.vocabulary_size for k in found)


def _sortable(value):
    return value.encode() if isinstance(value, str) else value


@given(st.lists(st.text(max_size=3) | st.integers().map(str), unique=True, max_size=30))
def test_few_values_are_searched_alike(values):
    """Beside a large vocabulary a few values take another way, to the same ids."""
    for encoder in (vocabulary(values), Vocabulary(pa.array(values, pa.large_string()))):
        wanted = pa.array([*values, None, "not there"], pa.large_string())
        np.testing.assert_array_equal(encoder._search(wanted), encoder.encode(wanted))
    large = vocabulary(range(0, 1000, 2))
    assert large.encode(pa.array([0, 1, 998])).tolist() == [1, 0, 500]


@given(st.lists(st.lists(st.none() | st.sampled_from("abcdefgh"))), st.integers(1, 3))
def test_counts_do_not_depend_on_the_batches(batches, min_count):
    field = FieldSchema("f", FeatureType.SPARSE, min_count=min_count)
    counter = VocabularyCounter()
    for batch in batches:
        counter.add(plain(pa.array(batch, pa.string())), np.ones(len(batch), np.int64))
    found = VocabularyCounter.finish([counter], field.min_count).to_pylist()
    counts = Counter(value for batch in batches for value in batch if value is not None)
    assert found == sorted(value for value, count in counts.items() if count >= min_count)


def test_partial_counts_are_merged_on_the_way():
    field = FieldSchema("f", FeatureType.SPARSE, min_count=8)
    counter = VocabularyCounter()
    batch = pa.array(range(40_000))
    for _ in range(8):
        counter.add(batch, np.ones(len(batch), np.int64))
        assert sum(map(len, counter._merged + counter._waiting)) <= 3 * len(batch)
    assert VocabularyCounter.finish([counter], field.min_count).equals(batch)


def test_a_joint_vocabulary_counts_both_fields():
    field = FieldSchema("f", FeatureType.SPARSE, min_count=2)
    counters = [VocabularyCounter() for k in range(2)]
    counters[0].add(pa.array([1, 2]), np.array([1, 2]))
    counters[1].add(pa.array(["1", "3", "x"], pa.large_string()), np.array([1, 1, 2]))
    joint = VocabularyCounter.finish(counters, field.min_count)
    assert joint.to_pylist() == ["1", "2", "x"]


def test_a_vocabulary_of_a_million_is_stored_as_bytes():
    encoder = Vocabulary(pa.array(range(1_000_000)))
    assert encoder.to_dict()["vocabulary"].dtype == np.uint8
    again = through_a_file(encoder)
    assert again.values.equals(encoder.values)
    assert again.encode(pa.array(["999999", "7"])).tolist() == [1_000_000, 8]


def test_the_older_form_is_read():
    encoder = Vocabulary.from_dict({"type": "int16", "vocabulary": [3, 5]})
    assert encoder.encode(pa.array(["5", "4"])).tolist() == [2, 0]
    scaler = Scaler.from_dict({"low": 2.0, "high": 4.0})
    assert scaler.encode(np.array([3.0])).tolist() == [0.5]
    stored = {"scale": "log1p", "missing": "mean", "low": 0.0, "high": 4.0, "mean": 3.0}
    scaler = Scaler.from_dict(stored | {"deviation": 1.0, "default": None})
    for one in (scaler, through_a_file(scaler)):
        found = one.encode(np.array([1.0, math.nan]))
        np.testing.assert_allclose(found, np.log([2, 4]), rtol=1e-6)


@pytest.mark.parametrize(
    ("base", "new", "grown"),
    [
        (["b", "d"], ["a", "b", "c"], ["b", "d", "a", "c"]),
        ([1, 3], [2, 3], [1, 3, 2]),
        ([1, 3], ["2", "3"], [1, 3, 2]),
        ([1, 3], ["2", "x"], ["1", "3", "2", "x"]),
        (["1", "x"], [2, 1], ["1", "x", "2"]),
        ([], ["a"], ["a"]),
        (["a"], [], ["a"]),
    ],
)
def test_a_grown_vocabulary_keeps_ids_and_appends(base, new, grown):
    # not sorted: a vocabulary may have grown before
    base = Vocabulary(plain(pa.array(base, None if base else pa.string())))
    result = vocabulary(new, None if new else pa.string()).grown_from(base)
    assert result.values.to_pylist() == grown
    assert through_a_file(result).encode(result.values).tolist() == list(range(1, len(grown) + 1))


# --- hashes ------------------------------------------------------------------------------------

# XXH64 with seed 0, from the published test vectors of the algorithm
VECTORS = {"": 0xEF46DB3751D8E999, "a": 0xD24EC4F1A98C6E5B, "abc": 0x44BC2CF5AD770999}


def test_hashes_have_their_published_values():
    for buckets in (1, 10, 1_000_003, 2**31):
        ids = HashBuckets(buckets).encode(pa.array([*VECTORS, None])).tolist()
        assert ids == [*(1 + value % buckets for value in VECTORS.values()), 0]


@given(VALUES, st.integers(1, 1000))
def test_a_hash_is_that_of_the_text(values, buckets):
    encoder = HashBuckets(buckets)
    assert encoder.vocabulary_size == buckets + 1
    found = encoder.encode(plain(pa.array(values[1], values[0]))).tolist()
    for value, k in zip((canonical(value) for value in values[1]), found, strict=True):
        if value is None:
            assert k == 0
        elif isinstance(value, float) and not (abs(value) < 2**63 and value == int(value)):
            assert 1 <= k <= buckets
        else:
            text = value if isinstance(value, str) else str(int(value))
            assert k == 1 + xxhash.xxh64_intdigest(text.encode(), seed=0) % buckets


# --- quantiles ---------------------------------------------------------------------------------


def quantile_edges(numbers, count):
    """Smallest number that at least k/count of the numbers do not exceed, for each k."""
    numbers, edges = sorted(numbers), []
    for k in range(1, count):
        edge = next(x for x in numbers if sum(y <= x for y in numbers) * count >= k * len(numbers))
        if edge not in edges and edge < numbers[-1]:
            edges.append(edge)
    return edges


@settings(deadline=None)
@given(
    st.lists(st.floats(-100, 100) | st.integers(0, 3).map(float), min_size=1, max_size=30),
    st.integers(2, 9),
)
def test_quantile_buckets(numbers, count):
    field = FieldSchema("f", FeatureType.SPARSE, quantiles=count)
    sample = QuantileSample(0)
    for place, number in enumerate(numbers):
        sample.add(NumbersOfRows(np.array([number]), np.array([place])))
    encoder = Quantiles.fitted([field], [sample])
    edges = quantile_edges(numbers, count)
    assert encoder.edges.tolist() == edges
    ids = encoder.encode(np.array([*numbers, math.nan])).tolist()
    assert ids == [*(1 + sum(edge < number for edge in edges) for number in numbers), 0]
    assert set(ids) == set(range(encoder.vocabulary_size))  # no bucket is empty
    assert through_a_file(encoder).encode(np.array(numbers)).tolist() == ids[:-1]


def test_an_edge_belongs_to_the_bucket_below():
    ids = Quantiles(np.array([1.0, 2.0])).encode(np.array([0.0, 1.0, 1.5, 2.0, 9.0]))
    assert ids.tolist() == [1, 1, 2, 2, 3]


def test_quantiles_of_nothing_are_one_bucket():
    field = FieldSchema("f", FeatureType.SPARSE, quantiles=4)
    encoder = Quantiles.fitted([field], [QuantileSample(0)])
    assert encoder.encode(np.array([math.nan, 5.0])).tolist() == [0, 1]
    assert encoder.vocabulary_size == 2


def test_a_sample_does_not_depend_on_the_batches_and_is_fair():
    field = FieldSchema("f", FeatureType.SPARSE, quantiles=10)
    numbers = np.arange(20_000.0)
    edges = []
    for batches in (1, 7, 400):
        sample = QuantileSample(0, size=1000)
        for part in np.array_split(np.arange(20_000), batches):
            sample.add(NumbersOfRows(numbers[part], part))
        assert sum(map(len, sample._numbers)) <= 2000
        edges.append(QuantileSample.finish([sample], field.quantiles))
    np.testing.assert_array_equal(edges[0], edges[1])
    np.testing.assert_array_equal(edges[0], edges[2])
    # 1000 of 20000: a decile's standard error is below 320
    np.testing.assert_allclose(edges[0], np.arange(2000, 20_000, 2000), atol=1300)


def test_splitmix64_has_its_published_values():
    """The first outputs of the generator from seed 0."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert splitmix64(np.arange(3, dtype=np.uint64)).tolist() == published


# --- dense -------------------------------------------------------------------------------------

NUMBERS = st.lists(
    st.floats(-1e6, 1e6) | st.floats(0.1, 0.1) | st.floats(-FLOAT32_MAX, FLOAT32_MAX), min_size=1
)


def scaler(numbers, scale, missing="zero", batches=1, **options):
    field = FieldSchema("f", FeatureType.DENSE, scale=scale, missing=missing, **options)
    seen = SeenNumbers(field, 0)
    numbers = np.array(numbers, np.float64)
    for part in np.array_split(np.arange(len(numbers)), batches):
        seen.add(NumbersOfRows(numbers[part], part))
    return Scaler.fitted([field], [seen])


def scaled(number, numbers, scale, missing):
    """One number as `FieldSchema.scale` says, with exact sums; None is absent."""
    mean = math.fsum(numbers) / len(numbers)
    if number is None:
        number = mean if missing in ("mean", "indicator") else 0.0
    if scale == "log1p":
        number, numbers, scale = math.log1p(number), list(map(math.log1p, numbers)), "standard"
        mean = math.fsum(numbers) / len(numbers)
    if scale == "min_max":
        low, high = min(numbers), max(numbers)
        number = (number - low) / (high - low) if high > low else 0.0
    if scale == "standard":
        deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / len(numbers))
        number = (number - mean) / deviation if min(numbers) < max(numbers) and deviation else 0.0
    if scale == "plain_log1p":
        number = math.log1p(number)
    return max(-FLOAT32_MAX, min(FLOAT32_MAX, number))


@given(
    st.lists(st.floats(-1e6, 1e6, width=32) | st.just(0.1), min_size=1),
    st.sampled_from(["none", "min_max", "standard", "log1p", "plain_log1p"]),
    st.sampled_from(["zero", "mean", "indicator"]),
    st.integers(1, 5),
)
def test_scaling(numbers, scale, missing, batches):
    if "log1p" in scale:
        numbers = [abs(number) for number in numbers]
    encoder = scaler(numbers, scale, missing, batches)
    new = [*numbers, None, 3.0]
    expected = np.array([scaled(number, numbers, scale, missing) for number in new])
    values = np.array([math.nan if number is None else number for number in new])
    curved = list(map(math.log1p, numbers)) if scale == "log1p" else numbers
    spread = max(curved) - min(curved)
    if scale in ("standard", "log1p") and spread < 1e-9 * max(map(abs, curved)):
        return  # differences below what the mean's last bits can hold
    for one in (encoder, through_a_file(encoder)):
        found = one.encode(values)
        assert found.dtype == np.float32
        tolerance = 1e-5 * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=tolerance)


@given(NUMBERS, st.sampled_from(["none", "min_max", "standard"]), st.floats(width=32))
def test_scaled_numbers_are_finite(numbers, scale, number):
    if not math.isinf(number):
        assert np.isfinite(scaler(numbers, scale).encode(np.array([number]))).all()


def test_moments_do_not_depend_on_the_batches_bit_by_bit():
    numbers = np.random.default_rng(0).normal(1e6, 1.0, 3 * MOMENTS_BLOCK + 17)
    plain_dicts = [scaler(numbers, "standard", batches=n).to_dict() for n in (1, 2, 50)]
    assert plain_dicts[0] == plain_dicts[1] == plain_dicts[2]
    assert plain_dicts[0]["mean"] == pytest.approx(math.fsum(numbers) / len(numbers), rel=1e-14)
    assert plain_dicts[0]["deviation"] == pytest.approx(np.std(numbers - 1e6), rel=1e-9)


def test_a_constant_becomes_zero_and_nothing_is_clipped():
    for scale in ("min_max", "standard"):
        constant = scaler([0.1] * 10, scale)
        assert constant.encode(np.array([0.1, 9.0])).tolist() == [0.0, 0.0]
    found = scaler([2.0, 4.0], "min_max").encode(np.array([2.0, 3.0, 6.0]))
    assert found.tolist() == [0.0, 0.5, 2.0]


def test_a_field_without_numbers_is_zero():
    for scale in SCALES:
        assert scaler([], scale, "mean").encode(np.array([math.nan])).tolist() == [0.0]


def test_log1p_has_mean_0_and_deviation_1_on_the_training_split():
    numbers = np.random.default_rng(0).lognormal(3, 2, 5000)
    found = scaler(numbers, "log1p").encode(numbers)
    assert found.mean() == pytest.approx(0, abs=1e-6)
    assert found.std() == pytest.approx(1, rel=1e-6)


def test_an_absent_number_under_log1p_is_the_mean_of_the_numbers_and_not_of_their_logarithms():
    encoder = scaler([0.0, 0.0, 0.0, 100.0], "log1p", "mean")
    logs = np.log1p([0, 0, 0, 100])
    expected = (np.log1p(25) - logs.mean()) / logs.std()
    for one in (encoder, through_a_file(encoder)):
        assert one.encode(np.array([np.nan]))[0] == pytest.approx(expected, rel=1e-6)


@given(
    st.lists(st.integers(-50, 50), min_size=1, max_size=60),
    st.sampled_from([0.01, 0.1, 0.4]),
    st.sampled_from(["none", "min_max", "standard", "log1p"]),
    st.integers(1, 3),
)
def test_clipping_equals_loops(numbers, share, scale, batches):
    """Everything is as if each number had been set to the quantiles beforehand."""
    numbers = [float(abs(number) if scale == "log1p" else number) for number in numbers]
    rising = sorted(numbers)

    def quantile(q):  # the smallest number that a share q of the rows does not exceed
        return next(x for x in rising if sum(y <= x for y in rising) >= q * len(rising) - 1e-9)

    low, high = quantile(share), quantile(1 - share)
    if low == high:  # nothing would be left, and there are no limits
        low, high = -math.inf, math.inf
    clipped = [min(max(number, low), high) for number in numbers]
    new = [*numbers, 1000.0, 0.5]
    expected = [scaled(min(max(x, low), high), clipped, scale, "zero") for x in new]
    encoder = scaler(numbers, scale, batches=batches, clip=share)
    for one in (encoder, through_a_file(encoder)):
        np.testing.assert_allclose(one.encode(np.array(new)), expected, rtol=1e-5, atol=1e-5)


def test_a_number_that_is_nearly_always_0_is_not_clipped():
    found = scaler([0.0] * 1000 + [5.0], "none", clip=0.01).encode(np.array([5.0, 70.0]))
    assert found.tolist() == [5.0, 70.0]


@given(st.lists(st.integers(-20, 20), max_size=40), st.integers(1, 8), st.integers(1, 3))
def test_edges_cut_equal_parts_of_the_training_rows(numbers, bins, batches):
    """Where a value counts as the rows of one bin at most."""
    encoder = scaler(numbers, "none", batches=batches, dense_embedding="piecewise", bins=bins)
    assert 2 <= len(encoder.edges) <= bins + 1
    values = sorted(set(numbers))
    if 1 < len(values) <= bins + 1:
        assert encoder.edges == values
    elif len(values) > bins + 1:
        rows = [Fraction(numbers.count(value)) for value in values]
        rising = sorted(rows)
        for full in range(bins):  # values that fill a bin by themselves
            share = sum(rising[: len(rising) - full]) / (bins - full)
            if rising[-1 - full] <= share:
                break
        counted = [min(count, share) for count in rows]
        expected = set()
        for k in range(bins + 1):
            below = Fraction(0)
            for value, rows in zip(values, counted, strict=True):
                below += rows
                if below >= sum(counted) * k / bins:
                    expected.add(value)
                    break
        assert encoder.edges == sorted(expected)
    assert through_a_file(encoder).edges == encoder.edges


def test_edges_do_not_all_lie_where_nearly_all_rows_are():
    gains = [0] * 950 + list(range(1, 51))
    encoder = scaler(gains, "none", dense_embedding="piecewise", bins=16)
    assert len(encoder.edges) >= 12
    assert encoder.edges[0] == 0
    assert encoder.edges[-1] == 50


# --- sequences ---------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 5), max_size=6)),
    st.integers(1, 4),
    st.sampled_from(["first", "last"]),
)
def test_padding(rows, length, keep):
    ids = np.array([k for row in rows for k in row], np.int64)
    row = np.array([n for n, row in enumerate(rows) for _ in row], np.int64)
    padded, lengths = pad(*with_values(ids, row, 0), len(rows), length, keep)
    assert padded.shape == (len(rows), length)
    for elements, found, count in zip(rows, padded.tolist(), lengths.tolist(), strict=True):
        known = [k for k in elements if k]
        expected = known[:length] if keep == "first" else known[-length:]
        assert found == expected + [0] * (length - len(expected))
        assert count == len(expected)


def test_hash_buckets_of_an_older_checkpoint():
    encoder = HashBuckets.from_dict({"hash_buckets": 7})
    assert encoder.vocabulary_size == 8
    values = pa.array(["a", None, "b"])
    assert encoder.encode(values).tolist() == HashBuckets(7).encode(values).tolist()
    assert through_a_file(encoder).to_dict() == HashBuckets(7).to_dict()


@given(st.lists(st.none() | st.sampled_from(["a", "b", "c", "", "word7", "word150"])))
def test_words_are_found_in_a_short_and_in_a_long_vocabulary(values):
    words = {"a": 3, "b": 0, "": 1}
    for mapping in (words, words | {f"word{k}": k for k in range(500)}):
        for oov in (None, 9):
            encoder = through_a_file(DeclaredVocabulary(WordIds.of(mapping), oov))
            expected = [
                -1 if v is None else mapping.get(v, -1 if oov is None else oov) for v in values
            ]
            assert encoder.encode(pa.array(values, pa.string())).tolist() == expected
