"""Labels and weights from raw values, against plain rules."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfm.data.labels import binary_label, sample_weight
from deepfm.errors import DataError

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
