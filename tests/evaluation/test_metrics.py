import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from deepfm.errors import DataError, DeepFMError
from deepfm.evaluation import metrics
from deepfm.evaluation.metrics import bootstrap_auc, bootstrap_mean, classification_metrics
from tests.reference import pairwise_auc


@st.composite
def labels_and_scores(draw, max_seeds=1):
    """Both classes present; few distinct scores, so that many tie."""
    size = draw(st.integers(2, 12))
    label = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    label[:2] = [0, 1]
    seeds = draw(st.integers(1, max_seeds))
    score = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=size, max_size=size)
    return np.array(label), np.array([draw(score) for _ in range(seeds)])


@given(labels_and_scores())
def test_classification_metrics_equal_their_definitions(case):
    label, (probability,) = case
    result = classification_metrics(label, probability)
    assert result["auc"] == pytest.approx(pairwise_auc(label, probability), abs=1e-12)
    eps = np.finfo(np.float64).eps
    wrong = [1 - p if y else p for y, p in zip(label, probability, strict=True)]
    expected = -sum(math.log(max(1 - w, eps)) for w in wrong) / len(wrong)
    assert result["logloss"] == pytest.approx(expected, abs=1e-12)


def test_float32_probabilities_are_evaluated_in_float64():
    probability = np.array([1e-12, 0.5], np.float32)  # float32 would clip at 1.2e-7
    expected = -(math.log(float(probability[0])) + math.log(0.5)) / 2
    assert classification_metrics([1, 0], probability)["logloss"] == pytest.approx(expected)


@pytest.mark.parametrize("label", [0, 1])
def test_a_single_class_has_a_log_loss_but_no_auc(label):
    result = classification_metrics(np.full(3, label), np.full(3, 0.25))
    assert result["auc"] is None
    assert result["logloss"] == pytest.approx(-math.log(0.25 if label else 0.75))


def test_metrics_are_plain_floats():
    result = classification_metrics(np.array([0, 1]), np.array([0.1, 0.9], np.float32))
    ends = bootstrap_mean([0.0, 1.0]) + bootstrap_auc([0, 0, 1, 1], [[1, 2, 3, 4]])
    assert {type(v) for v in (*result.values(), *ends)} == {float}


@pytest.mark.parametrize(
    ("label", "probability", "error", "message"),
    [
        ([0, 1, 1], [0.5, math.nan, math.nan], DeepFMError, "2 of 3 .* NaN"),
        ([0, 1], [0.5, 1.5], DeepFMError, r"in \[0, 1\], got 0.5 to 1.5"),
        ([0, 1], [-math.inf, 0.5], DeepFMError, "got -inf to 0.5"),
        ([0, 1], [[0.5], [0.5]], DataError, r"\(2,\), got \(2, 1\)"),
        ([0, 1, 1], [0.5, 0.5], DataError, r"\(3,\), got \(2,\)"),
        ([1, 5], [0.5, 0.5], DataError, r"got \[1, 5\]"),
        ([], [], DataError, "empty"),
    ],
)
def test_what_cannot_be_evaluated_is_an_error(label, probability, error, message):
    with pytest.raises(error, match=message) as caught:
        classification_metrics(label, probability)
    assert type(caught.value) is error


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
    monkeypatch.setattr(metrics, "_DRAWS_AT_A_TIME", draws_at_a_time)
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
