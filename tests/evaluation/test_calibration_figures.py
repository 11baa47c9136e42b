"""Calibration error, ratio and entropy: plain loops, resamples drawn one by one, ties, speed."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from deepfm.evaluation.calibration_figures import (
    BINS,
    calibration_figures,
    calibration_intervals,
    calibration_noise,
    corrected_figures,
    equal_mass_bins,
    expected_calibration_error,
    probability_of,
)


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit > 0 else math.exp(logit) / (1 + math.exp(logit))


def ece(label, probability, bins=BINS) -> float:
    """Row by row: a row's bin is floor(bins * rows below it / rows)."""
    gaps = [0.0] * bins
    for y, p in zip(label, probability, strict=True):
        below = sum(other < p for other in probability)
        gaps[bins * below // len(probability)] += p - y
    return sum(map(abs, gaps)) / len(probability)


def logloss(label, logit) -> float:
    losses = [
        -math.log(sigmoid(z) if y == 1 else sigmoid(-z)) for y, z in zip(label, logit, strict=True)
    ]
    return sum(losses) / len(losses)


def entropy(label) -> float:
    share = sum(label) / len(label)
    return -share * math.log(share) - (1 - share) * math.log(1 - share)


def drawn(seed: int, rows: int, off: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and logits that are off by a factor; every fifth row has the same logit."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1, 1.5, rows)
    logit[::5] = -0.5
    label = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    return label, logit * (1 + off)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.1, 0.25, 0.5, 0.9])), min_size=1),
    st.integers(1, 25),
)
def test_the_error_is_that_of_a_loop_over_rows_ties_together(rows, bins):
    label, probability = (np.array(part) for part in zip(*rows, strict=True))
    found = expected_calibration_error(label, probability, bins=bins)
    assert found == pytest.approx(ece(label, probability, bins), abs=1e-12)


def test_figures_are_those_of_their_formulas():
    label, logit = drawn(0, 300)
    probability = [sigmoid(z) for z in logit]
    found = calibration_figures(label, logit)
    assert found["ece"] == pytest.approx(ece(label, probability))
    assert found["calibration_ratio"] == pytest.approx(sum(probability) / label.sum())
    assert found["normalized_entropy"] == pytest.approx(logloss(label, logit) / entropy(label))


def test_bins_hold_equally_many_rows_and_equal_rows_share_one():
    counts = np.bincount(equal_mass_bins(np.random.default_rng(0).random(1000), 20))
    assert counts.tolist() == [50] * 20
    assert set(equal_mass_bins(np.full(7, 0.3), 20)) == {0}


def test_intervals_are_percentiles_over_rows_drawn_one_by_one():
    label, logit = drawn(1, 400, off=0.4)
    probability = np.array([sigmoid(z) for z in logit])
    bins = equal_mass_bins(probability, BINS)
    rng, found = (
        np.random.default_rng(5),
        {name: [] for name in calibration_intervals(label, logit)},
    )
    for _ in range(4000):
        rows = rng.integers(0, len(label), len(label))
        y, p = label[rows], probability[rows]
        gaps = [abs((p - y)[bins[rows] == b].sum()) for b in range(BINS)]
        found["ece"].append(sum(gaps) / len(rows))
        found["calibration_ratio"].append(p.sum() / y.sum())
        found["logloss"].append(-np.log(np.where(y == 1, p, 1 - p)).mean())
        found["normalized_entropy"].append(found["logloss"][-1] / entropy(y))
    for name, interval in calibration_intervals(label, logit, samples=4000).items():
        expected = np.percentile(found[name], (2.5, 97.5))
        np.testing.assert_allclose(interval, expected, atol=0.06 * np.ptp(expected))


def test_drawing_groups_of_neighbours_is_drawing_rows(monkeypatch):
    label, logit = drawn(2, 3000, off=0.3)
    exact = calibration_intervals(label, logit, samples=4000)
    monkeypatch.setattr("deepfm.evaluation.calibration_figures._GROUPS", 300)
    for name, interval in calibration_intervals(label, logit, samples=4000).items():
        np.testing.assert_allclose(interval, exact[name], atol=0.06 * np.ptp(exact[name]))


@pytest.mark.parametrize("value", [0, 1])
def test_what_does_not_exist_is_none(value):
    label, logit = np.full(30, value), np.linspace(-2, 1, 30)
    found = calibration_figures(label, logit)
    assert found["normalized_entropy"] is None
    assert found["normalized_entropy_interval"] is None
    assert (found["calibration_ratio"] is None) == (value == 0)
    assert found["ece"] == pytest.approx(ece(label, [sigmoid(z) for z in logit]))


def test_one_row_and_extreme_logits_have_finite_figures():
    found = calibration_figures(np.array([1, 0, 1]), np.array([800.0, -800.0, 3e4]))
    assert found["ece"] == pytest.approx(0)
    assert found["calibration_ratio"] == pytest.approx(1)
    assert calibration_figures(np.array([1]), np.array([0.0]))["ece"] == pytest.approx(0.5)


def test_noise_is_the_mean_error_of_perfect_probabilities():
    _, logit = drawn(3, 4000)
    rng, probability = np.random.default_rng(0), probability_of(logit)
    errors = [
        expected_calibration_error(rng.random(4000) < probability, probability) for _ in range(300)
    ]
    assert calibration_noise(logit) == pytest.approx(np.mean(errors), rel=0.03)


def test_after_the_prior_correction_names_say_so():
    label, logit = drawn(4, 200)
    plain, corrected = calibration_figures(label, logit + 0.7), corrected_figures(label, logit, 0.7)
    assert list(corrected) == [
        f"{name}_prior_corrected{ending}"
        for name in ("ece", "calibration_ratio", "normalized_entropy")
        for ending in ("", "_interval")
    ]
    assert list(corrected.values()) == list(plain.values())
    assert set(corrected_figures(label, logit, math.inf).values()) == {None}
