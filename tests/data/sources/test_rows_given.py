"""Rows in every form that a caller may hold them in: as a table, and as plain columns."""

import math

import numpy as np
import pyarrow as pa
import pytest

from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.few_rows import NotPlain
from deepfm.data.encoding.few_rows_spec import few_rows
from deepfm.data.encoding.tensors import inputs_of
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.data.sources.rows_given import as_table, plain_columns
from deepfm.errors import DataError

DICTS = [
    {"user": 7, "word": "a", "number": 0.5, "tags": ["x", "y"]},
    {"user": 8, "word": None, "number": math.nan, "tags": []},
    {"word": "b", "number": 2, "tags": None, "user": 9},
    {"user": 7, "number": 1.25},
]
COLUMNS = {
    "user": [7, 8, 9, 7],
    "word": ["a", None, "b", None],
    "number": [0.5, math.nan, 2, 1.25],
    "tags": [["x", "y"], [], None, None],
}
TABLE = pa.table(COLUMNS)


@pytest.fixture(scope="module")
def encoders():
    fields = [
        FieldSchema("user", FeatureType.SPARSE),
        FieldSchema("word", FeatureType.SPARSE, hash_buckets=100),
        FieldSchema("number", FeatureType.DENSE, missing="mean"),
        FieldSchema("number_text", FeatureType.SPARSE, column="number"),
        FieldSchema("tags", FeatureType.SEQUENCE),
    ]
    schema = DatasetSchema(fields={f.name: f for f in fields}, label_field="y")
    return Encoders.fit(schema, TABLE)


def arrays(inputs):
    tensors = inputs.sparse, inputs.dense, *inputs.sequence_ids, *inputs.sequence_lengths
    return [tensor.tolist() for tensor in tensors]


def check(encoders, given):
    """Both forms are encoded alike, and as the table is."""
    expected = arrays(encoders.encode(TABLE))
    assert arrays(encoders.encode(as_table(given))) == expected
    assert arrays(inputs_of(few_rows(encoders).encode(*plain_columns(given)))) == expected


@pytest.mark.parametrize(
    "given",
    [
        DICTS,
        tuple(DICTS),
        COLUMNS,
        COLUMNS | {"user": np.array([7, 8, 9, 7]), "number": np.array(COLUMNS["number"])},
        COLUMNS | {"word": np.array(COLUMNS["word"], object), "user": (7, 8, 9, 7)},
        COLUMNS | {"word": TABLE["word"], "user": TABLE["user"].combine_chunks()},
        [row | {"number": np.float64(row["number"])} for row in DICTS],
        [row | {"user": np.int64(row["user"])} for row in DICTS],
        TABLE,
        TABLE.to_batches()[0],
        pa.table(COLUMNS | {"word": TABLE["word"].dictionary_encode()}),
        pa.table(COLUMNS | {"user": TABLE["user"].cast(pa.uint8())}),
        TABLE.cast(pa.schema([
            ("user", pa.int32()), ("word", pa.large_string()), ("number", pa.float32()),
            ("tags", pa.large_list(pa.large_string())),
        ])),
    ],
    ids=lambda given: type(given).__name__,
)  # fmt: skip
def test_every_form_says_the_same(encoders, given):
    check(encoders, given)


def test_frames_of_pandas(encoders):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(COLUMNS)
    check(encoders, frame)
    check(encoders, frame.set_index("user", drop=False))
    for changes in (
        {"word": "category"}, {"word": object}, {"word": "string"}, {"user": "Int64"},
        {"user": "category"}, {"number": "Float64"}, {"user": "int16", "number": "float32"},
    ):  # fmt: skip
        check(encoders, frame.astype(changes))
    check(encoders, COLUMNS | {"word": frame["word"], "user": frame["user"]})
    missing = frame.astype({"word": object, "user": object})
    missing.loc[1, "word"] = math.nan
    check(encoders, missing)
    assert as_table(frame, ["user"]).to_pydict() == {"user": [7, 8, 9, 7]}
    with pytest.raises(DataError, match="found Series"):
        as_table(frame["user"])
    with pytest.raises(DataError, match="a column name is given twice: user"):
        as_table(frame[["user", "word", "user"]])
    with pytest.raises(NotPlain):
        plain_columns(frame.assign(user=pandas.Timestamp("2020-01-01")))


def test_frames_of_polars(encoders):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    frame = polars.DataFrame(COLUMNS, strict=False)
    check(encoders, frame)
    check(encoders, frame.with_columns(polars.col("word").cast(polars.Categorical)))
    check(encoders, COLUMNS | {"word": frame["word"]})
    with pytest.raises(DataError, match="found Series"):
        as_table(frame["user"])


class Frame:
    """Any frame that gives its columns to Arrow."""

    def __init__(self, table):
        self._table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


class OlderFrame:
    """A frame with a method of its own for that."""

    def __init__(self, table):
        self._table = table

    def to_arrow(self):
        return self._table


@pytest.mark.parametrize("kind", [Frame, OlderFrame])
def test_frames_of_other_libraries(encoders, kind):
    check(encoders, kind(TABLE))


def test_only_some_columns_are_looked_at():
    given = [{"a": 1, "odd": object(), "b": "x"}, {"a": 2, "odd": {1: 2}}]
    assert as_table(given, {"a", "b", "c"}).to_pydict() == {"a": [1, 2], "b": ["x", None]}
    assert plain_columns(given, {"a", "c"}) == ({"a": [1, 2]}, 2)
    assert as_table(TABLE, ["word"]).column_names == ["word"]
    assert list(plain_columns(TABLE, ["word"])[0]) == ["word"]


def test_rows_without_columns_are_counted():
    assert as_table([{}, {}]).num_rows == 2
    assert as_table([{"a": 1}], ()).num_rows == 1
    assert as_table([]).num_rows == as_table({}).num_rows == 0
    assert plain_columns([{}, {}]) == ({}, 2)


def test_vectors_come_as_an_array_with_two_dimensions():
    field = FieldSchema("f", FeatureType.DENSE, value_dim=2, scale="none")
    schema = DatasetSchema(fields={"f": field}, label_field="y")
    given = {"f": np.array([[1.0, 2.0], [3.0, 4.0]])}
    encoders = Encoders.fit(schema, as_table(given))
    assert encoders.encode(as_table(given)).dense.tolist() == [[1, 2], [3, 4]]


def test_single_precision_keeps_its_spelling():
    """0.1 in float32 is the text "0.1", and 0.10000000149011612 only as a float64."""
    field = FieldSchema("f", FeatureType.SPARSE, vocabulary={"0.1": 1, "0.3": 2})
    schema = DatasetSchema(fields={"f": field}, label_field="y")
    few = few_rows(Encoders.fit(schema, ()))
    single = np.array([0.1, 0.3], np.float32)
    for given in ({"f": single}, pa.table({"f": single})):
        assert few.encode(*plain_columns(given)).sparse.tolist() == [[1], [2]]
    widened = plain_columns({"f": single.astype(np.float64)})
    assert few.encode(*widened).sparse.tolist() == [[-1], [-1]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "expected rows as a pyarrow.Table, .*; found int"),
        ("a", "found str"),
        (np.zeros(3), "found ndarray"),
        ([[1, 2]], r"row 1: .*found a list in the list: \[1, 2\]"),
        ([{"a": 1}, None], "row 2: .*found a NoneType in the list: None"),
        ({"a": 1}, "column a: expected the column's values, .*found 1; a single row is a list"),
        ({"a": "text"}, "column a: .*found 'text'"),
        ({"a": [1, 2], "b": [1]}, "column b: expected 2 values, as in column a, found 1"),
        ({1: [2]}, "expected the name of a column, found 1"),
        ([{1: 2}], "expected the name of a column, found 1"),
        (OlderFrame(3), "found OlderFrame"),
    ],
)
def test_what_is_none_of_the_forms(given, message):
    for function in (as_table, plain_columns):
        with pytest.raises(DataError, match=message):
            function(given)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", 1], "column f: expected values of one type, found int, str: "),
        ([2**63, 1], "column f: expected values of one type, found int: "),
        ([True, 1], "column f: .*found bool, int: "),
        ([object()], "column f: .*found object: "),
        ([["a"], "a"], "column f: .*found list, str: "),
    ],
)
def test_values_that_do_not_go_together(values, message):
    for given in ({"f": values}, [{"f": value} for value in values]):
        with pytest.raises(DataError, match=message):
            as_table(given)
    field = FieldSchema("f", FeatureType.SPARSE)
    schema = DatasetSchema(fields={"f": field}, label_field="y")
    few, columns = few_rows(Encoders.fit(schema, pa.table({"f": ["a"]}))), {"f": values}
    with pytest.raises(NotPlain):
        few.encode(*plain_columns(columns))
