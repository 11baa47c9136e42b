"""Encoders against plain Python, and what they do with values never seen."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.data.transforms import (
    Encoders,
    LabelEncoder,
    MinMaxScaler,
    MultiHotEncoder,
    apply_transform,
)
from deepfm.errors import ConfigError, DataError
from tests import tiny

SPARSE = FieldSchema("f", FeatureType.SPARSE)
SEQUENCE = FieldSchema("f", FeatureType.SEQUENCE, max_length=3)
DENSE = FieldSchema("f", FeatureType.DENSE)


def test_labels_are_numbered_from_one_in_sorted_order():
    encoder = LabelEncoder.fit(pa.array(["b", None, "a", "b"]), SPARSE)
    assert encoder.vocabulary_size == 3
    assert encoder.transform(pa.array(["a", "b", "c", None])).tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        (pa.array(["10", "30", "x"]), [1, 3, 0]),
        (pa.array([10.0, 20.0]), [1, 2]),
        (pa.array([10.0, 20.5, None]), [1, 0, 0]),
        (pa.array([30, 10], pa.int8()), [3, 1]),
        (pa.array(["20", None]), [2, 0]),
    ],
)
def test_integer_labels_are_found_in_any_spelling(values, ids):
    encoder = LabelEncoder.fit(pa.array([10, 20, 30]), SPARSE)
    assert encoder.transform(values).tolist() == ids


def test_large_integers_do_not_merge():
    ids = [2**24, 2**24 + 1, 2**62, 2**62 + 1]  # float32 and float64 cannot tell these apart
    encoder = LabelEncoder.fit(pa.array(ids), SPARSE)
    assert encoder.transform(pa.array(ids)).tolist() == [1, 2, 3, 4]


@given(st.lists(st.none() | st.text(), min_size=1), st.lists(st.none() | st.text()))
def test_any_text_gets_an_id_in_range(seen, new):
    encoder = LabelEncoder.fit(pa.array(seen, pa.string()), SPARSE)
    order = {
        value: k for k, value in enumerate(sorted({v for v in seen if v is not None}, key=_utf8), 1)
    }
    found = encoder.transform(pa.array(new, pa.string())).tolist()
    assert found == [order.get(value, 0) for value in new]
    assert all(0 <= k < encoder.vocabulary_size for k in found)


def _utf8(text: str) -> bytes:
    return text.encode()


@settings(deadline=None)
@given(st.lists(st.none() | st.lists(st.none() | st.sampled_from("abcdef"), max_size=5)))
def test_sequences_keep_the_first_known_elements(rows):
    encoder = MultiHotEncoder.fit(pa.array([["b", "a"], ["d", None]]), SEQUENCE)
    ids, lengths = encoder.transform(pa.array(rows, pa.list_(pa.string())))
    known = {"a": 1, "b": 2, "d": 3}
    for row, found, length in zip(rows, ids.tolist(), lengths.tolist(), strict=True):
        expected = [known[value] for value in row or [] if value in known][:3]
        assert found == expected + [0] * (3 - len(expected))
        assert length == len(expected)


def test_sliced_and_large_lists_encode_alike():
    values = pa.array([["a"], ["b", "a"], [], ["b"]])
    encoder = MultiHotEncoder.fit(values, SEQUENCE)
    ids, lengths = encoder.transform(values)
    for other in (values.cast(pa.large_list(pa.string())), pa.concat_arrays([values, values])):
        same_ids, same_lengths = encoder.transform(other.slice(1, 3))
        np.testing.assert_array_equal(same_ids, ids[1:])
        np.testing.assert_array_equal(same_lengths, lengths[1:])


def test_min_max_scaling_does_not_clip():
    scaler = MinMaxScaler.fit(pa.array([2, 4]), DENSE)
    assert scaler.transform(pa.array([2.0, 3.0, 6.0])).tolist() == [0.0, 0.5, 2.0]


def test_a_constant_column_becomes_zero():
    scaler = MinMaxScaler.fit(pa.array([5.0, 5.0]), DENSE)
    assert scaler.transform(pa.array([5.0, 9.0])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_a_missing_number_is_an_error_with_its_row(bad):
    scaler = MinMaxScaler.fit(pa.array([1.0, 2.0]), DENSE)
    with pytest.raises(DataError, match="row 2: expected a finite number"):
        scaler.transform(pa.array([1.0, bad]))


def test_bucket_gives_the_edge_at_or_below():
    ages = pa.array([0, 1, 17, 18, 55, 56, 99, None])
    found = apply_transform("bucket(1, 18, 25, 35, 45, 50, 56)", ages)
    assert found.to_pylist() == [None, 1, 1, 18, 50, 56, 56, None]
    assert apply_transform("bucket(1, 18)", pa.array(["17", "18.5"])).to_pylist() == [1, 18]


def test_prefix_takes_characters_of_text_and_numbers():
    assert apply_transform("prefix(3)", pa.array(["02139", "é", None])).to_pylist() == [
        "021",
        "é",
        None,
    ]
    assert apply_transform("prefix(2)", pa.array([12345])).to_pylist() == ["12"]


def test_split_cuts_text_and_leaves_lists():
    assert apply_transform("split(|)", pa.array(["a|b", "", None])).to_pylist() == [
        ["a", "b"],
        None,
        None,
    ]
    assert apply_transform("split(|)", pa.array([["a|b"]])).to_pylist() == [["a|b"]]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bukcet(1)", "unknown transform 'bukcet(1)'; did you mean 'bucket'?"),
        ("bucket", "unknown transform 'bucket'"),
        ("bucket(1, x)", "expected whole numbers as edges"),
        ("bucket(2, 1)", "expected rising edges"),
        ("prefix(x)", "expected a number of characters"),
        ("split()", "expected a separator"),
    ],
)
def test_a_wrong_transform_is_refused(spec, message):
    with pytest.raises(ConfigError) as caught:
        apply_transform(spec, pa.array(["1"]))
    assert message in str(caught.value)


@pytest.fixture
def tiny_columns(tmp_path):
    tables = tiny.load(tmp_path, False)
    return tables.complete(tiny.schema(), tables.interactions)


def test_encoders_fill_in_the_vocabulary_sizes(tiny_columns):
    encoders = Encoders.fit(tiny.schema(), tiny_columns)
    sizes = {name: field.vocabulary_size for name, field in encoders.schema.fields.items()}
    assert sizes == {"user": 41, "age": 3, "income": 0, "item": 61, "tags": 7 - 1, "price": 0}


def test_inputs_have_the_shapes_of_the_schema(tiny_columns):
    inputs = Encoders.fit(tiny.schema(), tiny_columns).encode(tiny_columns)
    count = tiny.NUM_EVENTS
    assert inputs.sparse.shape == (count, 3)
    assert inputs.dense.shape == (count, 2)
    assert [ids.shape for ids in inputs.sequence_ids] == [(count, 3)]
    assert [lengths.shape for lengths in inputs.sequence_lengths] == [(count,)]


def test_encoders_read_back_equal_from_plain_data(tiny_columns):
    encoders = Encoders.fit(tiny.schema(), tiny_columns)
    again = Encoders.from_dict(encoders.to_dict())
    assert again.schema == encoders.schema
    before, after = encoders.encode(tiny_columns), again.encode(tiny_columns)
    assert (before.sparse == after.sparse).all()
    assert (before.dense == after.dense).all()
    assert (before.sequence_ids[0] == after.sequence_ids[0]).all()


def test_a_group_is_encoded_alone(tiny_columns):
    items = Encoders.fit(tiny.schema(), tiny_columns).encode(tiny_columns, group="item")
    assert items.sparse.shape[1] == 1
    assert items.dense.shape[1] == 1


def test_text_and_numbers_encode_alike(tiny_columns):
    """A CSV holds text only; it must give the ids that typed columns give."""
    encoders = Encoders.fit(tiny.schema(), tiny_columns)
    texts = {}
    for name in tiny_columns.column_names:
        column = tiny_columns[name].combine_chunks()
        joined = pa.types.is_list(column.type)
        texts[name] = pa.compute.binary_join(column, "|") if joined else column.cast(pa.string())
    before, after = encoders.encode(tiny_columns), encoders.encode(pa.table(texts))
    assert (before.sparse == after.sparse).all()
    np.testing.assert_allclose(before.dense, after.dense, rtol=1e-6)
    assert (before.sequence_ids[0] == after.sequence_ids[0]).all()


def test_errors_name_field_and_column():
    field = FieldSchema("age", FeatureType.SPARSE, column="years", transform="bucket(1, 2)")
    schema = DatasetSchema(fields={"age": field}, label_field="y")
    encoders = Encoders.fit(schema, pa.table({"years": [1, 2]}))
    with pytest.raises(DataError, match="field age: no column 'years'; did you mean 'year'"):
        encoders.encode(pa.table({"year": [1]}))
    with pytest.raises(
        DataError, match="field age, column years: row 2: expected a number, found 'x'"
    ):
        encoders.encode(pa.table({"years": ["1", "x"]}))
    with pytest.raises(DataError, match="expected single values, found list"):
        Encoders.fit(DatasetSchema(fields={"f": SPARSE}, label_field="y"), pa.table({"f": [["a"]]}))
    with pytest.raises(DataError, match="expected lists, found string"):
        Encoders.fit(DatasetSchema(fields={"f": SEQUENCE}, label_field="y"), pa.table({"f": ["a"]}))
    with pytest.raises(DataError, match="the training split is empty"):
        Encoders.fit(schema, pa.table({"years": pa.array([], pa.int64())}))
