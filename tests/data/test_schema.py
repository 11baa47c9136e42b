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
