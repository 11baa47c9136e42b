"""What TorchEasyRec's features make of their values, as plain fields: its published examples.

Each test is one example, through `Encoders.fit` without a row and `Encoders.encode`.
"""

import numpy as np
import pyarrow as pa
import pytest

from deepfm.data.encoding.encoders import Encoders
from deepfm.data.schema import DatasetSchema, FieldSchema

SEPARATOR, MULTI = "\x1d", "\x03"  # of raw values, and of encoded ones


def encoded(values, kind="sparse", **options):
    """Inputs of one field over its column, or over several columns by name."""
    field = FieldSchema("f", kind, **options)
    table = pa.table(values if isinstance(values, dict) else {"f": values})
    schema = DatasetSchema(fields={"f": field}, label_field="label")
    encoders = Encoders.fit(schema, ())
    assert encoders.schema == schema  # all sizes are declared
    return encoders.encode(table)


def single(values, **options):
    return encoded(values, **options).sparse[:, 0].tolist()


def several(values, **options):
    """The ids of all rows end to end, and how many each row has."""
    inputs = encoded(values, "sequence", **({"transform": f"split({SEPARATOR})"} | options))
    lengths = inputs.sequence_lengths[0].tolist()
    rows = inputs.sequence_ids[0].tolist()
    assert all(not any(row[n:]) for row, n in zip(rows, lengths, strict=True))
    return [i for row, n in zip(rows, lengths, strict=True) for i in row[:n]], lengths


# --- encoded already (FG_NONE) -----------------------------------------------------------------

ENCODED = ["1\x032", "", None, "3"]


def test_encoded_ids():
    found = several(ENCODED, transform=f"split({MULTI})", num_buckets=10)
    assert found == ([1, 2, 3], [2, 0, 0, 1])


def test_encoded_ids_with_a_default():
    found = several(ENCODED, transform=f"split({MULTI})", num_buckets=10, default="0")
    assert found == ([1, 2, 0, 0, 3], [2, 1, 1, 1])


def test_encoded_ids_with_a_default_of_several():
    found = several(ENCODED, transform=f"split({MULTI})", num_buckets=10, default="7\x038")
    assert found == ([1, 2, 7, 8, 7, 8, 3], [2, 2, 2, 1])


def test_encoded_ids_without_a_default():
    found = several(ENCODED, transform=f"split({MULTI})", num_buckets=10, default="")
    assert found == ([1, 2, 3], [2, 0, 0, 1])


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64()])
def test_integers_are_ids(kind):
    assert several(pa.array([1, None, 3], kind), num_buckets=10) == ([1, 3], [1, 0, 1])
    assert single(pa.array([1, None, 3], kind), num_buckets=10) == [1, -1, 3]


def test_lists_are_ids():
    values = pa.array([[1, 2], [], None, [3]], pa.list_(pa.int64()))
    assert several(values, num_buckets=10) == ([1, 2, 3], [2, 0, 0, 1])
    assert several(values, num_buckets=10, default="0") == ([1, 2, 0, 0, 3], [2, 1, 1, 1])


def test_an_encoded_number_with_a_default():
    found = encoded([0.5, None, 2.0], "dense", scale="none", default=0.1).dense
    assert found[:, 0].tolist() == [np.float32(v) for v in (0.5, 0.1, 2.0)]


def test_an_encoded_vector():
    options = {"value_dim": 2, "separator": MULTI, "scale": "none"}
    found = encoded(["0.1\x030.4", "1\x032"], "dense", **options).dense
    np.testing.assert_array_equal(found, np.array([[0.1, 0.4], [1, 2]], np.float32))
    lists = pa.array([[0.1, 0.4], [1, 2]])
    assert encoded(lists, "dense", **options).dense.equal(found)


def test_an_encoded_vector_with_a_default():
    options = {"value_dim": 2, "separator": MULTI, "scale": "none"}
    for default, expected in ((0.5, [0.5, 0.5]), ("7\x038", [7, 8])):
        found = encoded(["1\x032", None, ""], "dense", default=default, **options).dense
        np.testing.assert_array_equal(found, [[1, 2], expected, expected])


# --- declared vocabularies ---------------------------------------------------------------------

WORDS = ["abc\x1defg", "", "hij"]


@pytest.mark.parametrize(
    ("words", "default", "oov", "ids", "lengths"),
    [
        # a list has <default> at 0 and <OOV> at 1, unless it says which id the OOV is
        ({"abc": 2, "efg": 3}, "", 1, [2, 3, 1], [2, 0, 1]),
        ({"xyz": 0, "abc": 2, "efg": 3}, "xyz", 1, [2, 3, 0, 1], [2, 1, 1]),
        ({"abc": 2, "efg": 3}, "abc", 1, [2, 3, 2, 1], [2, 1, 1]),
        ({"xyz": 0, "abc": 1, "efg": 2}, "", 0, [1, 2, 0], [2, 0, 1]),
        # a mapping
        ({"abc": 2, "efg": 2}, "", 1, [2, 2, 1], [2, 0, 1]),
        ({"abc": 0, "efg": 2}, "abc", 1, [0, 2, 0, 1], [2, 1, 1]),
    ],
)
def test_vocabularies(words, default, oov, ids, lengths):
    assert several(WORDS, vocabulary=words, default=default, oov_id=oov) == (ids, lengths)


# --- hashes ------------------------------------------------------------------------------------


def hashed(function):
    return {"hash_buckets": 100, "hash_function": function, "padding_idx": None}


def test_hashes_of_texts():
    found = several(["abc\x1defg", "hij", "xyz", None], **hashed("murmur64a"))
    assert found == ([33, 44, 66, 13], [2, 1, 1, 0])


def test_hashes_of_integers():
    assert single([1, 2, 3, 4], **hashed("murmur64a")) == [95, 70, 13, 56]
    assert single(["1", "2", "3", "4"], **hashed("murmur64a")) == [95, 70, 13, 56]


def test_farm_hashes_of_integers():
    assert single([1, 2, 3], **hashed("farm64")) == [49, 59, 21]


def test_a_default_is_hashed():
    assert single(["abc", None, ""], default="efg", **hashed("murmur64a")) == [33, 44, 44]


# --- crosses -----------------------------------------------------------------------------------


CROSS = {"columns": ("user", "item"), "transform": None} | hashed("murmur64a")


def test_a_cross_of_several_values():
    values = {"user": ["ua\x1dub", "ua", "ub"], "item": ["ia\x1dib", "ib", "ia"]}
    found = several(values, separator=SEPARATOR, **CROSS)
    assert found == ([37, 90, 5, 97, 90, 5], [4, 1, 1])


def test_a_cross_with_an_empty_part():
    values = {"user": ["ua", "", None, "ub"], "item": ["", "ia", "ib", "ib"]}
    assert several(values, separator=SEPARATOR, **CROSS) == ([97], [0, 0, 0, 1])
    found = several(values, separator=SEPARATOR, default="ua_ia", **CROSS)
    assert found == ([37, 37, 37, 97], [1, 1, 1, 1])
    assert single(values, **CROSS) == [-1, -1, -1, 97]
    assert single(values, default="ua_ia", **CROSS) == [37, 37, 37, 97]


# --- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.string()])
def test_boundaries(kind):
    values = pa.array([0.2, 0.1, 0.3]).cast(kind)
    assert single(values, boundaries=(0.05, 0.15, 0.25)) == [2, 1, 3]


def transformed(values, transform, **options):
    return encoded(values, "dense", transform=transform, scale="none", **options).dense[:, 0]


def test_zscore():
    found = transformed([0.2, 0.1, 0.3], "zscore(0.1, 10)")
    np.testing.assert_allclose(found, [0.01, 0, 0.02], rtol=1e-6)


def test_minmax():
    np.testing.assert_allclose(transformed([0.2, 0.5], "minmax(0.1, 0.6)"), [0.2, 0.8], rtol=1e-6)


def test_log10():
    assert transformed([0.1, 10.0, 0.01], "log10(0.05, -10)").tolist() == [-1, 1, -10]


def test_a_default_bypasses_the_normalizer():
    found = transformed(["10", None, ""], "log10(0.05, -10)", default=0.01)
    assert found.tolist() == [1, np.float32(0.01), np.float32(0.01)]


def test_an_expression():
    found = transformed([1.0, 10.0], "expression(log(x + 3))")
    np.testing.assert_allclose(found, np.log([4.0, 13.0]), rtol=1e-6)
