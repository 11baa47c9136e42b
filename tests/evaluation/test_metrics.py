import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfm.errors import DataError, DeepFMError
from deepfm.evaluation.metrics import classification_metrics
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
    assert {type(v) for v in result.values()} == {float}


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
