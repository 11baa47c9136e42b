"""Fields and data sets: what they refuse, and their plain form."""

import pyarrow as pa
import pytest

from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema, RawTables
from deepfm.errors import ConfigError, DataError


@pytest.fixture
def schema():
    fields = [
        FieldSchema("user", FeatureType.SPARSE, embedding_dim=3, group="user"),
        FieldSchema(
            "age", FeatureType.DENSE, group="user", dense_embedding="linear", embedding_dim=2
        ),
        FieldSchema("price", FeatureType.DENSE, group="item"),
        FieldSchema("item", "sparse", embedding_dim=4, group="item", column="item_id"),
        FieldSchema("tags", "sequence", embedding_dim=5, group="item", max_length=2),
    ]
    return DatasetSchema(
        fields={field.name: field for field in fields},
        label_field="label",
        user_field="user",
        item_field="item",
    )


def test_fields_keep_their_order_within_each_type(schema):
    assert [field.name for field in schema.sparse_fields] == ["user", "item"]
    assert [field.name for field in schema.dense_fields] == ["age", "price"]
    assert [field.name for field in schema.sequence_fields] == ["tags"]


def test_total_embedding_dim_counts_embedded_fields_only(schema):
    assert schema.total_embedding_dim == 3 + 2 + 4 + 5


def test_plain_form_reads_back_equal(schema):
    assert DatasetSchema.from_dict(schema.to_dict()) == schema


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": ""}, "expected a non-empty name"),
        ({"name": "a.b"}, "without '.'"),
        ({"embedding_dim": 0}, "field f: embedding_dim 0 is below 1"),
        ({"feature_type": "sequence", "max_length": -1}, "field f: max_length -1 is below 0"),
        ({"combiner": "men"}, "field f: unknown combiner 'men'; did you mean 'mean'?"),
        ({"group": "usr"}, "did you mean 'user'?"),
        ({"dense_embedding": "lin"}, "field f: unknown dense_embedding 'lin'"),
        (
            {"feature_type": "spars"},
            "field f: unknown feature_type 'spars'; did you mean 'sparse'?",
        ),
    ],
)
def test_a_wrong_field_is_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        FieldSchema(**({"name": "f", "feature_type": "sparse"} | values))
    assert message in str(caught.value)


def test_a_user_field_must_be_a_field(schema):
    with pytest.raises(ConfigError, match="item_field 'itm' is no field; did you mean 'item'"):
        DatasetSchema(fields=schema.fields, label_field="label", item_field="itm")


@pytest.fixture
def tables():
    return RawTables(
        pa.table({"user": [1], "item_id": ["b"]}),
        pa.table({"user": [1, 2], "age": [30.0, 40.0]}),
        pa.table({"item_id": ["a", "b"], "price": [1.0, 2.0], "tags": [["x"], []]}),
    )


def test_missing_columns_are_looked_up_by_id(schema, tables):
    rows = pa.table({"user": [2, 9, 1], "item_id": ["b", "a", "zz"]})
    found = tables.complete(schema, rows)
    assert found["age"].to_pylist() == [40.0, None, 30.0]
    assert found["price"].to_pylist() == [2.0, 1.0, None]
    assert found["tags"].to_pylist() == [[], ["x"], None]


def test_given_columns_are_not_replaced(schema, tables):
    rows = pa.table({"user": [2], "item_id": ["b"], "age": [18.0]})
    assert tables.complete(schema, rows)["age"].to_pylist() == [18.0]


def test_ids_are_found_as_text_as_well(schema, tables):
    rows = pa.table({"user": ["2", "1", "x"], "item_id": ["b", "a", "a"]})
    assert tables.positions(schema, rows, "user").to_pylist() == [1, 0, None]


def test_a_missing_id_column_is_named(schema, tables):
    with pytest.raises(DataError, match="no column 'item_id', which identifies the item"):
        tables.complete(schema, pa.table({"user": [1], "itemid": ["a"]}))


# --- declared ids ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "rows", "padding"),
    [
        ({"num_buckets": 7}, 7, None),
        ({"vocabulary": {"a": 2, "b": 2}}, 3, None),
        ({"vocabulary": {"a": 2}, "oov_id": 9}, 10, None),
        ({"boundaries": [1, 2.5]}, 3, None),
        ({"hash_buckets": 7}, 8, 0),
        ({"hash_buckets": 7, "padding_idx": None}, 7, None),
        ({"min_count": 2}, 0, 0),
    ],
)
def test_declared_ids_have_a_known_size(options, rows, padding):
    field = FieldSchema("f", "sparse", **options)
    assert (field.vocabulary_size, field.padding_idx) == (rows, padding)
    schema = DatasetSchema(fields={"f": field}, label_field="y")
    assert DatasetSchema.from_dict(schema.to_dict()) == schema
    changed = schema.with_fields({"f": {"embedding_dim": 3}}).fields["f"]
    assert (changed.vocabulary_size, changed.padding_idx) == (rows, padding)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_buckets": 3, "boundaries": (1,)}, "choose one of num_buckets and boundaries"),
        ({"num_buckets": 3, "min_count": 2}, "choose one of min_count and num_buckets"),
        ({"num_buckets": -3}, "num_buckets -3 is below 0"),
        ({"hash_function": "farm64"}, "hash_function means nothing without hash_buckets"),
        (
            {"hash_buckets": 3, "hash_function": "murmur"},
            "unknown hash_function 'murmur'; did you mean 'murmur64a'?",
        ),
        ({"out_of_range": "zero"}, "out_of_range means nothing without num_buckets"),
        ({"num_buckets": 3, "out_of_range": "row1"}, "did you mean 'row0'?"),
        ({"oov_id": 1}, "oov_id means nothing without vocabulary"),
        ({"vocabulary": {"a": 1}, "oov_id": -1}, "oov_id -1 is no id"),
        ({"vocabulary": {}}, "vocabulary: expected words with their ids, found none"),
        ({"vocabulary": {"a": -1}}, "vocabulary: 'a': expected an id from 0"),
        ({"boundaries": (1, 1)}, "boundaries: expected finite numbers that rise"),
        ({"boundaries": (1, 1 + 1e-9)}, "also when rounded to float32"),
        ({"boundaries": (1, 1e300)}, "boundaries: expected finite numbers"),
        ({"feature_type": "dense", "boundaries": (1,)}, "boundaries means nothing for a dense"),
        ({"feature_type": "sparse", "value_dim": 2}, "value_dim means nothing for a sparse"),
        ({"feature_type": "dense", "value_dim": 0}, "value_dim 0 is below 1"),
        ({"separator": "|"}, "separator means nothing for one value per row"),
        ({"column": "a", "columns": ("a", "b")}, "choose column or columns, not both"),
        ({"columns": ("a",)}, "columns: expected two or more to cross"),
        ({"feature_type": "dense", "columns": ("a", "b")}, "columns means nothing for a dense"),
        (
            {"columns": ("a", "b"), "transform": "prefix(1)"},
            "transform means nothing for a cross of columns",
        ),
        ({"columns": ("a", "b"), "num_buckets": 3}, "num_buckets means nothing for a cross"),
        ({"feature_type": "sequence", "keep": "last"}, "keep means nothing without max_length"),
        (
            {"feature_type": "dense", "default": 1, "missing": "mean"},
            "choose default or missing",
        ),
        (
            {"default": 1, "transform": "criteo_log()"},
            "default means nothing with criteo_log(), which always has a value",
        ),
        ({"num_buckets": 3, "default": 3}, "default: expected a whole number below num_buckets 3"),
        ({"num_buckets": 3, "default": "1.5"}, "found '1.5'"),
        ({"num_buckets": 3, "default": -1}, "found '-1'"),
        ({"boundaries": (1,), "default": "x"}, "default: expected a number, found 'x'"),
        ({"quantiles": 3, "default": "nan"}, "default: expected a number, found 'nan'"),
        ({"feature_type": "dense", "default": "x"}, "default: expected a number, found 'x'"),
        ({"feature_type": "dense", "default": 1e39}, "default: expected a number"),
        (
            {"feature_type": "dense", "default": "1|2", "value_dim": 3, "separator": "|"},
            "default: expected 3 numbers, found '1|2'",
        ),
        (
            {
                "feature_type": "sequence", "num_buckets": 3, "default": "1|4",
                "transform": "split(|)",
            },
            "default: expected a whole number below num_buckets 3, found '4'",
        ),
    ],
)  # fmt: skip
def test_meaningless_settings_are_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        FieldSchema(**({"name": "f", "feature_type": "sparse"} | values))
    assert message in str(caught.value)
    assert "field f" in str(caught.value)
