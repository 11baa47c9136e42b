"""Users and items that are looked up in dictionaries, against the look-up by Arrow."""

import pickle

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfm.data.encoding.few_values import NotPlain, column_of, without_nan
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.data.sources.rows_given import as_table, plain_columns
from deepfm.data.sources.side_values import SideValues
from deepfm.data.sources.tables import SideTables, find
from deepfm.errors import DataError


def schema_of(**columns):
    """Fields by name, with the group and the column that each reads."""
    fields = {
        name: FieldSchema(name=name, feature_type="sparse", group=group, column=column)
        for name, (group, column) in columns.items()
    }
    return DatasetSchema(fields=fields, label_field="label", user_field="user", item_field="item")


SCHEMA = schema_of(
    user=("user", "user_id"), age=("user", "age"), item=("item", "item_id"), kind=("item", "kind")
)
USERS = pa.table({"user_id": [10, 20, 10, None], "age": [1.5, None, 9.0, 4.0], "unread": [0] * 4})
ITEMS = pa.table({"item_id": ["a", "7"], "kind": [["x"], ["y", "z"]]})
TABLES = SideTables(USERS, ITEMS)


def looked_up(vocabulary, wanted):
    tables = SideTables(pa.table({"user_id": vocabulary}), None)
    values = SideValues(tables, SCHEMA)
    return values.places("user", wanted)


ids = st.one_of(
    st.lists(st.one_of(st.none(), st.integers(-30, 30), st.integers(-(2**70), 2**70))),
    st.lists(st.one_of(st.none(), st.sampled_from(["5", "05", "-5", "+5", " 5", "a", "", "1e1"]))),
    st.lists(st.one_of(st.none(), st.floats(-5, 5), st.sampled_from([5.0, float("nan"), 1e300]))),
    st.lists(st.one_of(st.none(), st.booleans())),
)
vocabularies = st.one_of(
    st.lists(st.one_of(st.none(), st.integers(-9, 9)), min_size=1).map(
        lambda values: pa.array(values, pa.int64())
    ),
    st.lists(st.integers(0, 9), min_size=1).map(lambda values: pa.array(values, pa.uint8())),
    st.lists(st.one_of(st.none(), st.sampled_from(["5", "05", "-5", "a", "", "5.0"]))).map(
        lambda values: pa.array(values, pa.string())
    ),
    st.lists(st.floats(-3, 3)).map(lambda values: pa.array(values, pa.float64())),
)


@given(vocabularies, ids)
def test_ids_are_found_where_arrow_finds_them(vocabulary, wanted):
    values = SideValues(SideTables(pa.table({"user_id": vocabulary}), None), SCHEMA)
    try:
        found = values._sides["user"].places(column_of(wanted, len(wanted)))
    except NotPlain:
        return
    # Of numbers beyond int64 Arrow makes no array by itself, and no table here has them.
    in_arrow = [None if type(one) is int and abs(one) >= 2**63 else one for one in wanted]
    assert found == find(pa.array(in_arrow), vocabulary).to_pylist()


@pytest.mark.parametrize(
    ("vocabulary", "wanted", "places"),
    [
        ([10, 20, 10], [10, 20, 30, None], [0, 1, None, None]),
        ([10, -20], ["10", "-20", "x", ""], [0, 1, None, None]),
        ([10, 20], [10.0, None, 20.0], [0, None, 1]),
        (["10", "b"], [10, 5], [0, None]),
        (["10", "b"], ["b", "B"], [1, None]),
        (pa.array(["a", "b"], pa.large_string()), ["b", None], [1, None]),
    ],
)
def test_common_ids_need_no_arrow(vocabulary, wanted, places):
    assert looked_up(vocabulary, wanted) == places
    assert find(pa.array(wanted), pa.array(vocabulary)).to_pylist() == places


@pytest.mark.parametrize(
    ("vocabulary", "wanted"),
    [
        ([10], "010"),
        ([10], "0x1"),
        ([10], 10.5),
        ([10], True),
        (["a"], 1.0),
        ([1.5], 1),
        ([1], [1]),
    ],
)
def test_what_depends_on_its_company_is_arrows(vocabulary, wanted):
    with pytest.raises(NotPlain):
        looked_up(vocabulary, [wanted])


@pytest.mark.parametrize(
    "rows",
    [
        {"user_id": [20, 10, 99, None], "item_id": ["7", "a", "b", None]},
        {"user_id": [20], "item_id": ["7"], "age": [3.0]},
        {"user_id": [20], "item_id": [7], "kind": [["own"]], "age": [1]},
        {"item_id": ["a"], "age": [0.5], "user_id": ["10"]},
        {"user_id": [10, 20], "item_id": ["a", "a"], "more": [1, 2]},
    ],
)
def test_completed_as_by_arrow(rows):
    count = len(rows["user_id"])
    found = SideValues(TABLES, SCHEMA).completed(rows, count)
    expected = TABLES.complete(SCHEMA, as_table(rows))
    assert list(found) == expected.column_names
    again = plain_columns(expected)[0]
    for name, values in found.items():
        one, other = column_of(values, count), column_of(again[name], count)
        assert without_nan(one) == without_nan(other)
        assert one.kind in (other.kind, "null")
        assert one.is_list == other.is_list


def test_rows_without_an_id_are_arrows_whose_error_names_it():
    values = SideValues(TABLES, SCHEMA)
    with pytest.raises(NotPlain):
        values.completed({"item_id": ["a"]}, 1)
    with pytest.raises(DataError, match="no column 'user_id', which identifies the user"):
        TABLES.complete(SCHEMA, pa.table({"item_id": ["a"]}))


def test_a_side_without_a_table_is_not_looked_up():
    values = SideValues(SideTables(USERS, None), SCHEMA)
    found = values.completed({"user_id": [20]}, 1)
    assert sorted(found) == ["age", "user_id"]
    with pytest.raises(NotPlain):
        values.places("item", ["a"])


def test_a_pickled_one_looks_up_the_same():
    values = SideValues(TABLES, SCHEMA)
    rows = {"user_id": [10], "item_id": ["7"]}
    before = values.completed(rows, 1)
    again = pickle.loads(pickle.dumps(values))
    assert again.completed(rows, 1) == before
