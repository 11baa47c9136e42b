"""Labels and weights from raw values, against plain rules."""

import math

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfm.data.files.columns import named_in_errors
from deepfm.data.labels import (
    BinaryRule,
    ClassRule,
    NumberRule,
    binary_label,
    class_label,
    group_ids,
    number_label,
    refuse_bad,
    sample_weight,
)
from deepfm.data.options import LabelConfig
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.data.sources.tables import SideTables
from deepfm.errors import DataError, Place

CELLS = st.sampled_from(
    [None, "0", "1", "1.0", " 1", "2", "-1", "0.5", "nan", "inf", "-inf", "1e39", "x", "", "1e-3"]
)


def number(cell: str | None) -> float:
    """NaN for what is no number."""
    try:
        return math.nan if cell is None or cell in ("nan", "inf", "-inf") else float(cell)
    except ValueError:
        return math.nan


@settings(deadline=None)  # pyarrow imports pandas on its first conversion, where it is there
@given(st.lists(CELLS))
def test_labels_are_0_or_1_and_all_else_is_bad(cells):
    label, bad = binary_label(pa.array(cells, pa.string()))
    assert bad.tolist() == [number(cell) not in (0.0, 1.0) for cell in cells]
    assert label.tolist() == [float(number(cell) == 1) for cell in cells]
    assert label.dtype == np.float32


@given(st.lists(CELLS), st.sampled_from([0.0, 0.5, 3.0]))
def test_labels_from_a_threshold_on(cells, threshold):
    label, bad = binary_label(pa.array(cells, pa.string()), threshold=threshold)
    assert bad.tolist() == [math.isnan(number(cell)) for cell in cells]
    assert label.tolist() == [float(number(cell) >= threshold) for cell in cells]


@pytest.mark.parametrize("kind", [pa.int8(), pa.float64(), pa.bool_()])
def test_labels_of_other_types(kind):
    values = pa.array([1, 0, None], pa.int8()).cast(kind)
    label, bad = binary_label(values)
    assert label.tolist() == [1.0, 0.0, 0.0]
    assert bad.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["true", "false", "True", "FALSE", " true", None], [1, 0, 1, 0, 1, None]),
        (["true", "0", "1", "yes"], [1, 0, 1, None]),  # each of them says it, or does not
        (["t", "f", "y", "no", "on"], [None] * 5),
    ],
)
def test_true_and_false_are_what_they_say(cells, expected):
    for values in (pa.array(cells), pa.array(cells).dictionary_encode()):
        label, bad = binary_label(values)
        assert [None if b else x for x, b in zip(label.tolist(), bad, strict=True)] == expected
    assert binary_label(pa.array(["true"]), threshold=0)[1].tolist() == [True]


@pytest.mark.parametrize(
    ("rule", "value", "remedy"),
    [
        (BinaryRule("x"), "no", '; which text is 1 say labels: {x: {column: x, positive: "yes"}}'),
        (BinaryRule("x"), "Y", '; which text is 1 say labels: {x: {column: x, positive: "Y"}}'),
        (BinaryRule("x"), "a", '; which text is 1 say labels: {x: {column: x, positive: "…"}}'),
        (BinaryRule("x"), "-1", "; from which number on it is 1 say labels: {x: {column: x, thr"),
        (BinaryRule("x"), -1, "labels: {x: {column: x, threshold: 0}}, or with kind: number l"),
        (BinaryRule("x"), 4.5, "labels: {x: {column: x, threshold: 4.5}}"),
        (BinaryRule("x"), None, ""),
        (BinaryRule("x", threshold=3), "a", ""),
        (ClassRule("x", num_class=3), "low", "; other values than these numbers name labels: {x: "),
        (ClassRule("x", num_class=3), "3", "{column: x, kind: class, classes: [first, second]}}"),
        (ClassRule("x", num_class=3, values=("a", "b", "c")), "d", ""),
        (NumberRule("x"), "many", ""),
    ],
)
def test_a_label_that_cannot_be_read_says_what_to_declare(rule, value, remedy):
    found = rule.remedy(value)
    assert remedy in found if remedy else not found
    column = pa.chunked_array([pa.array([value])])
    with pytest.raises(DataError) as caught:
        refuse_bad(column, np.array([True]), rule.expected, lambda _: Place(row=1), rule.remedy)
    assert str(caught.value).endswith(found)
    if found:  # as it stands, the rule is one that a config can have
        declared = yaml.safe_load(found[found.index("{") :].rpartition("}}")[0] + "}}")
        LabelConfig(**declared["x"])


@given(st.lists(CELLS.filter(lambda cell: cell != " 1")))
def test_weights_are_finite_and_not_negative(cells):
    weight, bad = sample_weight(pa.array(cells, pa.string()))
    for cell, value, is_bad in zip(cells, weight.tolist(), bad.tolist(), strict=True):
        usable = number(cell) >= 0 and number(cell) < 3.4e38
        assert is_bad == (not usable)
        assert value == (np.float32(number(cell)) if usable else 0)


def test_weights_of_another_type_are_refused():
    with pytest.raises(DataError, match="expected numbers"):
        sample_weight(pa.array([[1.0]]))


@given(st.lists(CELLS), st.sampled_from([1, 2, 3]))
def test_classes_are_the_whole_numbers_below_their_count(cells, num_class):
    label, bad = class_label(pa.array(cells, pa.string()), num_class)
    assert bad.tolist() == [number(cell) not in range(num_class) for cell in cells]
    expected = [number(cell) if number(cell) in range(num_class) else 0.0 for cell in cells]
    assert label.tolist() == expected
    assert label.dtype == np.float32


@given(st.lists(CELLS))
def test_numbers_are_finite_in_float32(cells):
    label, bad = number_label(pa.array(cells, pa.string()))
    good = [not math.isnan(number(cell)) and number(cell) < 3.4e38 for cell in cells]
    assert bad.tolist() == [not g for g in good]
    expected = [np.float32(number(c)) if g else 0 for c, g in zip(cells, good, strict=True)]
    assert label.tolist() == [float(value) for value in expected]


def ids(values) -> list[int]:
    return group_ids(pa.table({"g": values}), ["g"])[:, 0].tolist()


def test_a_group_is_the_hash_of_its_text():
    """XXH64 of "a" with seed 0, published: D24EC4F1A98C6E5B."""
    assert ids(pa.array(["a"])) == [0xD24EC4F1A98C6E5B - 2**64]
    assert ids(pa.array([17, 3])) == ids(pa.array(["17", "3"])) == ids(pa.array([17.0, 3.0]))
    assert ids(pa.array([True, False])) == ids(pa.array(["1", "0"]))
    found = ids(pa.array(["x", "y", "x", None]))
    assert found[0] == found[2]
    assert len(set(found)) == 3


def test_rows_without_a_value_are_one_group():
    found = ids(pa.array([None, "", "0", None, "a"]))
    assert found[0] == found[1] == found[3]
    assert len(set(found)) == 3
    assert ids(pa.array([None, None], pa.int64())) == [found[0]] * 2
    assert ids(pa.array([1.5, math.nan], pa.float64()))[1] == found[0]


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.large_list(pa.int64())])
def test_of_a_list_the_first_element_counts(kind):
    found = ids(pa.array([[1, 2], [1], [], None, [2], [None, 1]], kind))
    assert found[0] == found[1] == ids(pa.array(["1"]))[0]
    assert found[2] == found[3] == found[5] == ids(pa.array([None], pa.string()))[0]
    assert found[4] not in (found[0], found[2])


def test_groups_of_several_columns_and_of_no_rows():
    table = pa.table({"a": ["x", "y"], "b": pa.array(["y", "x"]).dictionary_encode()})
    found = group_ids(table, ["b", "a"])
    assert found.dtype == np.int64
    assert found[0, 0] == found[1, 1] != found[0, 1] == found[1, 0]
    assert group_ids(table.slice(0, 0), ["a"]).shape == (0, 1)
    assert group_ids(table, []).shape == (2, 0)


def test_a_group_column_that_is_not_there_is_named():
    with pytest.raises(DataError, match=r"data.table.group_columns: no column 'usr'; did you mean"):
        group_ids(pa.table({"user": [1]}), ["usr"])


@pytest.mark.parametrize(
    "values",
    [
        pa.array([[1], [2]]),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
        pa.array([b"\xff", b"a"]),
        pa.UnionArray.from_sparse(
            pa.array([0, 1], pa.int8()), [pa.array(["x", "y"]), pa.array([1, 2])]
        ),
    ],
    ids=["list", "struct", "map", "bytes", "mixed types"],
)
def test_values_of_a_type_that_cannot_be_read_name_their_column(values):
    rules = (BinaryRule("y"), BinaryRule("y", positive="1"), BinaryRule("y", threshold=1))
    for rule in rules:
        with pytest.raises(DataError, match="column y: ") as caught, named_in_errors(rule.column):
            rule.read(values)
        assert "\n" not in str(caught.value)
    users = pa.table({"y": ["1", "2"]})
    field = FieldSchema("user", "sparse", column="y", group="user")
    schema = DatasetSchema(fields={"user": field}, label_field="l", user_field="user")
    with pytest.raises(DataError, match="column y: "):
        SideTables(users, None).positions(schema, pa.table({"y": values}), "user")
    if not pa.types.is_list(values.type):
        with pytest.raises(DataError, match="column y: "):
            group_ids(pa.table({"y": values}), ["y"])
