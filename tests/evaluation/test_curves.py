"""Curves against scikit-learn's, and bins against loops."""

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from deepfm.evaluation.calibration_figures import equal_mass_bins
from deepfm.evaluation.curves import (
    POINTS,
    average_precision,
    lift,
    precision_recall,
    reliability,
    roc,
    wilson_interval,
)


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = (rng.random(count) < 0.3).astype(int)
    return label, np.round(label + rng.normal(size=count), 1)


def test_roc_and_precision_go_through_the_points_of_scikit_learn():
    label, score = rows(120)
    curve = roc(label, score)
    false, true, _ = roc_curve(label, score, drop_intermediate=False)
    np.testing.assert_allclose(curve.x, false)
    np.testing.assert_allclose(curve.y, true)
    curve = precision_recall(label, score)
    precision, recall, _ = precision_recall_curve(label, score)
    np.testing.assert_allclose(curve.x, recall[-2::-1])
    np.testing.assert_allclose(curve.y, precision[-2::-1])
    assert average_precision(label, score) == pytest.approx(average_precision_score(label, score))


def test_a_long_curve_is_thinned_and_keeps_its_area():
    label, _ = rows(20_000)
    score = label + np.random.default_rng(1).normal(size=20_000)
    curve = roc(label, score)
    assert len(curve.x) <= POINTS + 2
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(roc_auc_score(label, score), abs=1e-3)


def test_lift_is_the_share_of_positives_on_top_over_that_of_all():
    label = np.array([1, 0, 1, 0, 0, 0])
    curve = lift(label, np.array([6, 5, 4, 3, 2, 1]))
    for k in range(1, 7):
        assert curve.y[k - 1] == pytest.approx(label[:k].mean() / label.mean())
        assert curve.x[k - 1] == pytest.approx(k / 6)


def test_reliability_is_means_of_bins():
    rng = np.random.default_rng(2)
    probability = np.round(rng.random(500), 2)
    label = (rng.random(500) < probability).astype(int)
    found = reliability(label, probability, bins=10)
    bins = equal_mass_bins(probability, 10)
    for place, number in enumerate(np.unique(bins)):
        inside = bins == number
        assert found.predicted[place] == pytest.approx(probability[inside].mean())
        assert found.observed[place] == pytest.approx(label[inside].mean())
        assert found.low[place] <= found.observed[place] <= found.high[place]
    assert found.rows.sum() == 500


def test_wilson_solves_its_equation():
    """The ends are the shares from which the observed one lies 1.96 standard errors away."""
    for positives, count in ((0, 10), (3, 10), (10, 10), (50, 200)):
        for end in np.concatenate(wilson_interval(np.array([positives]), np.array([count]))):
            distance = abs(positives / count - end)
            assert distance == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / count), abs=1e-6)
