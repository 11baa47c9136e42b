"""DeLong's variance against the definition by all pairs of rows."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from deepfm.evaluation.delong import auc_difference, auc_interval, placements


def rows(count: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and two scores that are alike, with ties."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, count)
    one = np.round(label + rng.normal(size=count), 1)
    return label, one, np.round(one + rng.normal(scale=0.5, size=count), 1)


def kernel(x: float, y: float) -> float:
    return 1.0 if x > y else 0.5 if x == y else 0.0


def by_pairs(label: np.ndarray, score: np.ndarray) -> tuple[list[float], list[float]]:
    """The components of the AUC, written out."""
    positive, negative = score[label == 1], score[label == 0]
    return (
        [np.mean([kernel(x, y) for y in negative]) for x in positive],
        [np.mean([kernel(x, y) for x in positive]) for y in negative],
    )


def test_placements_are_shares_of_pairs():
    label, score, _ = rows()
    found, expected = placements(label, score), by_pairs(label, score)
    np.testing.assert_allclose(found.positive, expected[0])
    np.testing.assert_allclose(found.negative, expected[1])
    assert found.positive.mean() == pytest.approx(roc_auc_score(label, score))


def test_the_difference_has_the_variance_of_its_components():
    label, one, other = rows()
    first, second = by_pairs(label, one), by_pairs(label, other)
    a, b = (np.subtract(x, y) for x, y in zip(first, second, strict=True))
    error = np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    found = auc_difference(label, one, other)
    assert found.mean == pytest.approx(a.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=1e-4)
    from scipy.stats import norm

    assert found.p == pytest.approx(2 * norm.sf(abs(a.mean()) / error))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    truth = 0.7602499389  # of normal scores one deviation apart: Phi(1 / sqrt 2)
    covered = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        label = np.repeat([0, 1], 80)
        low, high = auc_interval(label, label + rng.normal(size=160))
        covered += low <= truth <= high
    assert 270 <= covered <= 298


def test_of_one_class_there_is_nothing():
    assert auc_interval(np.zeros(5), np.arange(5)) is None
    assert auc_difference(np.array([0, 0, 1]), np.arange(3), np.arange(3)) is None


def test_equal_scores_do_not_differ():
    label, one, _ = rows()
    assert auc_difference(label, one, one) == (0.0, 0.0, 0.0, 1.0)
