"""What X may be: frames, Arrow tables and arrays give the same columns."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from deepfm.errors import ConfigError, DataError
from deepfm.estimators.columns import name_of, table_of, times_of, with_whole_ids

FRAME = pd.DataFrame(
    {"n": [1.5, None, 3.0], "t": ["a", None, "c"], "k": pd.Categorical(["x", "y", "x"])}
)


@pytest.mark.parametrize(
    "given", [FRAME, pl.from_pandas(FRAME), pa.Table.from_pandas(FRAME)], ids=lambda f: type(f)
)
def test_a_frame_keeps_names_types_and_gaps(given):
    table = table_of(given)
    assert table.select(["n", "t", "k"]).to_pydict() == {
        "n": [1.5, None, 3.0],
        "t": ["a", None, "c"],
        "k": ["x", "y", "x"],
    }


def test_columns_of_an_array_are_named_as_scikit_learn_names_them():
    table = table_of(np.array([[1.0, 2.0], [np.nan, 4.0]]))
    assert table.to_pydict() == {"x0": [1.0, None], "x1": [2.0, 4.0]}
    texts = table_of(np.array([["a", 1], [None, 2.5]], dtype=object))
    assert texts.to_pydict() == {"x0": ["a", None], "x1": [1.0, 2.5]}
    with pytest.raises(DataError, match="column x0: expected values of one type, found int, str"):
        table_of(np.array([["a"], [1]], dtype=object))


def test_a_column_is_named_or_counted():
    names = ["user", "item"]
    assert [name_of(c, names, "user") for c in ("item", 0, np.int64(1), None)] == [
        "item",
        "user",
        "item",
        None,
    ]
    with pytest.raises(ConfigError, match="user: no column 'usr'; did you mean 'user'"):
        name_of("usr", names, "user")
    with pytest.raises(ConfigError, match="item: expected a position below 2, found 2"):
        name_of(2, names, "item")


def test_ids_that_an_array_holds_as_floating_numbers_are_whole_ones():
    rows = pa.table({"a": [1.0, None, float("nan"), 3.0], "b": [1.5, 2.0, 3.0, 4.0]})
    found = with_whole_ids(rows, ["a", "b"])
    assert found["a"].to_pylist() == [1, None, None, 3]
    assert found["b"].to_pylist() == [1.5, 2.0, 3.0, 4.0]
    assert with_whole_ids(rows, [])["a"].type == pa.float64()


def test_times_are_dates_or_any_numbers():
    rows = pa.table(
        {"day": ["2024-01-02", "2024-01-01", "2024-01-03"], "n": [3, 1, 2], "gap": [1, None, 2]}
    )
    assert np.argsort(times_of(rows, "day")).tolist() == [1, 0, 2]
    assert np.argsort(times_of(rows, "n")).tolist() == [1, 2, 0]
    with pytest.raises(ConfigError, match="gap holds no times in every row"):
        times_of(rows, "gap")
