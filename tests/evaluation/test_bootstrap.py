"""Bootstrap intervals against scikit-learn, enumeration and resampling one by one."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from deepfm.errors import DeepFMError
from deepfm.evaluation import bootstrap
from deepfm.evaluation.bootstrap import bootstrap_auc, bootstrap_mean
from tests.evaluation.test_metrics import labels_and_scores
from tests.reference import pairwise_auc


@given(labels_and_scores(max_seeds=3), st.integers(0, 1000))
def test_auc_of_a_resample_equals_scikit_learn(case, seed):
    label, scores = case
    interval = bootstrap_auc(label, scores, samples=1, seed=seed)  # both ends are its AUC
    rows = np.random.default_rng(seed).integers(0, len(label), len(label))
    if label[rows].min() == label[rows].max():
        assert interval is None
    else:
        expected = np.mean([roc_auc_score(label[rows], score[rows]) for score in scores])
        assert interval == pytest.approx((expected, expected), abs=1e-12)


@settings(max_examples=20)
@given(labels_and_scores(max_seeds=2))
def test_auc_interval_equals_percentiles_over_all_resamples_drawn_one_by_one(case):
    label, scores = case
    rng, aucs = np.random.default_rng(3), []
    for _ in range(40):
        rows = rng.integers(0, len(label), len(label))
        if 0 < label[rows].sum() < len(rows):
            aucs.append(np.mean([pairwise_auc(label[rows], score[rows]) for score in scores]))
    expected = np.percentile(aucs, [2.5, 97.5])
    assert bootstrap_auc(label, scores, samples=40, seed=3) == pytest.approx(tuple(expected))


def test_mean_interval_agrees_with_the_enumerated_distribution():
    values = np.array([0.0, 0.1, 0.4, 0.7, 3.0])
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=5)]
    expected = np.percentile(means, [2.5, 97.5])
    assert bootstrap_mean(values, samples=50_000) == pytest.approx(tuple(expected), abs=0.03)


def test_mean_interval_of_hits_has_the_width_of_the_standard_error():
    hits = np.arange(486) < 131
    error = math.sqrt(hits.mean() * (1 - hits.mean()) / 486)
    low, high = bootstrap_mean(hits, samples=5000)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert (low + high) / 2 == pytest.approx(hits.mean(), abs=0.1 * error)


@pytest.mark.parametrize("draws_at_a_time", [1, 40, 10_000])
def test_intervals_do_not_depend_on_the_size_of_a_chunk(monkeypatch, draws_at_a_time):
    rng = np.random.default_rng(0)
    label, scores = rng.integers(0, 2, 15), rng.integers(0, 4, (2, 15))
    expected = bootstrap_mean(scores[0]), bootstrap_auc(label, scores)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_A_TIME", draws_at_a_time)
    assert (bootstrap_mean(scores[0]), bootstrap_auc(label, scores)) == expected


def test_intervals_follow_their_seed():
    values = np.random.default_rng(0).random(30)
    label = np.arange(30) % 2
    for interval in (
        lambda seed: bootstrap_mean(values, seed=seed),
        lambda seed: bootstrap_auc(label, [values], seed=seed),
    ):
        assert interval(1) == interval(1) != interval(2)


def test_intervals_of_what_does_not_vary_or_exist():
    assert bootstrap_mean([0.5]) == (0.5, 0.5)
    assert bootstrap_mean([]) is None
    assert bootstrap_auc([0, 1, 0, 1], np.ones((2, 4))) == (0.5, 0.5)
    assert bootstrap_auc([1, 1], [[0.1, 0.2]]) is None


@pytest.mark.parametrize(
    ("label", "scores", "message"),
    [
        ([0, 1], [0.5, 0.5], r"\(S, N\), got \(2,\)"),
        ([0, 1], np.zeros((0, 2)), r"\(S, N\), got \(0, 2\)"),
        ([0, 1], [[0.5], [0.5]], r"\(2,\), got \(1,\)"),
        ([0, 2], [[0.5, 0.5]], r"got \[0, 2\]"),
        ([0, 1], [[0.5, math.nan]], "1 of 2 scores"),
    ],
)
def test_auc_interval_refuses_what_it_cannot_use(label, scores, message):
    with pytest.raises(DeepFMError, match=message):
        bootstrap_auc(label, scores)


def test_mean_interval_refuses_more_than_one_value_per_user():
    with pytest.raises(DeepFMError, match=r"\(U,\), got \(2, 1\)"):
        bootstrap_mean([[1.0], [2.0]])


def test_ends_are_plain_floats():
    ends = bootstrap_mean([0.0, 1.0]) + bootstrap_auc([0, 0, 1, 1], [[1, 2, 3, 4]])
    assert {type(end) for end in ends} == {float}
