"""Maps of logits: their fit against a search, monotone and finite on anything, plain data."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from deepfm.errors import DataError
from deepfm.evaluation.calibration import (
    METHODS,
    Isotonic,
    Temperature,
    calibration_from_plain,
)


def logloss(label, logit) -> float:
    """Row by row."""
    total = 0.0
    for y, z in zip(label, logit, strict=True):
        total += math.log1p(math.exp(-abs(z))) + max(0.0, -z if y == 1 else z)
    return total / len(label)


def pooled(label, logit) -> dict[float, float]:
    """Isotonic regression by pooling adjacent violators, of rows with equal logits at first."""
    blocks = []  # [sum of labels, rows, logits]
    for z in sorted(set(logit)):
        own = [y for y, other in zip(label, logit, strict=True) if other == z]
        blocks.append([sum(own), len(own), [z]])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            ones, rows, logits = blocks.pop()
            blocks[-1] = [blocks[-1][0] + ones, blocks[-1][1] + rows, blocks[-1][2] + logits]
    return {z: ones / rows for ones, rows, logits in blocks for z in logits}


def drawn(seed: int, rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logit = np.round(rng.normal(0, 2, rows), 1)
    label = (rng.random(rows) < 1 / (1 + np.exp(-logit / 2.5))).astype(np.float32)
    return label, logit


def test_the_temperature_has_the_least_logloss():
    label, logit = drawn(0)
    found = Temperature.fit(label, logit, split="valid")
    assert 1.5 < found.temperature < 4  # the labels were drawn with 2.5
    least = logloss(label, logit / found.temperature)
    for factor in (0.5, 0.9, 0.999, 1.001, 1.1, 2):
        assert least <= logloss(label, logit / (found.temperature * factor))
    assert logloss(label, found.apply(logit)) == pytest.approx(least)


@pytest.mark.parametrize(("sign", "expected"), [(1, 1 / 1000), (-1, 1000)])
def test_a_temperature_stays_within_its_limits(sign, expected):
    label = np.array([0, 0, 1, 1])
    found = Temperature.fit(label, sign * np.array([-2.0, -1, 1, 2]), split="valid")
    assert found.temperature == pytest.approx(expected)


def test_isotonic_steps_are_those_of_pooling_adjacent_violators():
    label, logit = drawn(1)
    found, least = Isotonic.fit(label, logit, split="valid"), 0.5 / len(label)
    for z, share in pooled(label.tolist(), logit.tolist()).items():
        share = min(max(share, least), 1 - least)
        calibrated = found.apply(np.array([z]))[0]
        assert calibrated == pytest.approx(math.log(share / (1 - share)), abs=1e-9)


def test_beyond_its_knots_an_isotonic_map_is_constant_and_between_them_linear():
    knots, values = np.array([-1.0, 1.0, 2.0]), np.array([-3.0, 0.0, 4.0])
    found = Isotonic(split="valid", rows=3, knots=knots, values=values)
    at = np.array([-1e30, -1.0, 0.0, 1.5, 2.0, 1e30])
    assert found.apply(at).tolist() == [-3.0, -3.0, -1.5, 2.0, 4.0, 4.0]


float32 = st.floats(-(2.0**100), 2.0**100, width=32)


@pytest.mark.parametrize("method", METHODS)
@given(rows=st.lists(st.tuples(st.integers(0, 1), float32), min_size=2), others=st.lists(float32))
def test_a_map_is_monotone_and_finite_whatever_it_is_fitted_on(method, rows, others):
    label, logit = (np.array(part) for part in zip(*rows, strict=True))
    if label.min() == label.max():
        with pytest.raises(DataError, match="there is nothing to calibrate by"):
            METHODS[method].fit(label, logit, split="valid")
        return
    found = METHODS[method].fit(label, logit, split="valid")
    calibrated = found.apply(np.sort(np.r_[logit, others].astype(np.float32)))
    assert np.isfinite(calibrated).all()
    assert (np.diff(calibrated) >= 0).all()
    if method == "isotonic":
        assert np.abs(calibrated).max() <= math.log(2 * len(label) - 1) + 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_a_map_comes_back_from_plain_data(method):
    label, logit = drawn(2)
    found = METHODS[method].fit(label, logit, split="valid")
    again = calibration_from_plain(found.to_plain())
    np.testing.assert_array_equal(again.apply(logit), found.apply(logit))
    assert (again.split, again.rows, again.described()) == ("valid", 400, found.described())


@pytest.mark.parametrize(
    "change",
    [
        {"method": "platt"},
        {"knots": [1.0, 0.0]},
        {"knots": [0.0, 0.0]},
        {"values": [1.0, 0.0]},
        {"values": [0.0, math.inf]},
        {"values": [0.0]},
        {"knots": [], "values": []},
        {"method": "temperature", "temperature": 0.0},
        {"method": "temperature", "temperature": math.nan},
    ],
)
def test_plain_data_that_is_no_map_is_refused(change):
    plain = {"method": "isotonic", "split": "valid", "rows": 2}
    plain |= {"knots": [0.0, 1.0], "values": [0.0, 1.0]} | change
    with pytest.raises(ValueError, match=r"\w"):
        calibration_from_plain(plain)
