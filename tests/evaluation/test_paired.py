"""Paired tests against scipy's, and Holm's correction against its definition."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from deepfm.evaluation.paired import holm, paired_difference


def test_it_is_the_t_test_of_pairs():
    rng = np.random.default_rng(0)
    one = rng.normal(size=50)
    other = one + rng.normal(0.1, 0.3, size=50)
    found, expected = paired_difference(one, other), ttest_rel(one, other)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_what_never_differs_is_no_difference_and_what_always_does_is_one():
    assert paired_difference(np.ones(3), np.ones(3)) == (0.0, 0.0, 0.0, 1.0)
    assert paired_difference(np.ones(3) * 2, np.ones(3)) == (1.0, 1.0, 1.0, 0.0)
    assert paired_difference(np.ones(1), np.zeros(1)) is None


def test_holm_rejects_what_its_steps_reject():
    rng = np.random.default_rng(1)
    for _ in range(50):
        p = rng.random(6) ** 3
        rejected = set()
        for rank, place in enumerate(np.argsort(p)):  # the procedure, step by step
            if p[place] > 0.05 / (6 - rank):
                break
            rejected.add(int(place))
        assert {k for k, value in enumerate(holm(list(p))) if value <= 0.05} == rejected


def test_holm_never_takes_away_and_keeps_to_one():
    p = [0.2, 0.9, 0.5]
    assert all(1.0 >= now >= before for now, before in zip(holm(p), p, strict=True))
    assert holm([]) == []
