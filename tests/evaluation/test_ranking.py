import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfm.errors import DataError, DeepFMError
from deepfm.evaluation.ranking import (
    RANKING_KS,
    RankCounts,
    hit_rate,
    ndcg,
    rank_counts,
    ranking_metrics,
)
from tests.reference import mean_ranking_over_orders


@st.composite
def scored_users(draw, levels):
    """Scores (U, 1 + C) with up to `levels` distinct values, and which candidates are valid."""
    users, width = draw(st.integers(1, 4)), draw(st.integers(1, 6))

    def matrix(values):
        row = st.lists(values, min_size=width, max_size=width)
        return draw(st.lists(row, min_size=users, max_size=users))

    scores = matrix(st.integers(1, levels))
    return np.array(scores, np.float32), np.array(matrix(st.booleans()))


@pytest.mark.parametrize("levels", [1, 2, 4, 100])
def test_ties_count_as_the_mean_over_every_order_of_the_tied(levels):
    @given(scored_users(levels), st.integers(1, 8))
    def check(case, k):
        scores, valid = case
        counts = rank_counts(scores, valid)
        expected = [mean_ranking_over_orders(s, v, k) for s, v in zip(scores, valid, strict=True)]
        result = np.stack([hit_rate(counts, k), ndcg(counts, k)], axis=1)
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)

    check()


def test_counts_of_a_worked_example():
    scores = np.array([[2.0, 3.0, 2.0, 1.0, 2.0, 9.0]])
    valid = np.array([[True, True, True, True, True, False]])
    counts = rank_counts(scores, valid)
    assert (counts.above.tolist(), counts.tied.tolist()) == ([1], [2])  # ranks 2, 3 and 4
    assert hit_rate(counts, 3)[0] == pytest.approx(2 / 3)
    assert ndcg(counts, 3)[0] == pytest.approx((1 / math.log2(3) + 1 / math.log2(4)) / 3)


@pytest.mark.parametrize("candidates", [0, 3, 99, 999])
def test_a_constant_model_gets_what_a_random_order_gets(candidates):
    counts = rank_counts(np.zeros((3, 1 + candidates), np.float32))
    for k in RANKING_KS:
        gains = [1 / math.log2(rank + 1) for rank in range(1, min(k, candidates + 1) + 1)]
        expected_hits = min(1, k / (candidates + 1))
        np.testing.assert_allclose(hit_rate(counts, k), expected_hits, atol=1e-12)
        np.testing.assert_allclose(ndcg(counts, k), sum(gains) / (candidates + 1), atol=1e-12)


@given(scored_users(3), st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_does_not_matter(case, random):
    scores, valid = case
    order = list(range(1, scores.shape[1]))
    random.shuffle(order)
    order = [0, *order]
    shuffled = rank_counts(scores[:, order], valid[:, order])
    assert ranking_metrics(shuffled) == ranking_metrics(rank_counts(scores, valid))


def test_results_are_float64_per_user():
    counts = rank_counts(np.zeros((2, 5), np.float32))
    for values in (hit_rate(counts, 5), ndcg(counts, 5)):
        assert (values.dtype, values.shape) == (np.float64, (2,))


def test_infinite_scores_have_a_place():
    scores = np.array([[math.inf, 1.0, math.inf], [-math.inf, 0.0, 1.0]])
    counts = rank_counts(scores)
    assert (counts.above.tolist(), counts.tied.tolist()) == ([0, 2], [1, 0])


def test_nan_is_an_error_except_in_padding():
    scores = np.array([[1.0, math.nan, 0.0]])
    with pytest.raises(DeepFMError, match="1 of 3 ranking scores are NaN"):
        rank_counts(scores)
    counts = rank_counts(scores, np.array([[True, False, True]]))
    assert counts.above.tolist() == [0]
    with pytest.raises(DeepFMError, match="NaN"):
        rank_counts(np.array([[math.nan, 1.0]]), np.array([[False, True]]))


def test_the_positive_counts_whatever_its_flag():
    counts = rank_counts(np.array([[1.0, 2.0]]), np.array([[False, True]]))
    assert ranking_metrics(counts)["hr@5"] == 1.0


def test_shapes_that_do_not_fit_are_errors():
    with pytest.raises(DataError, match=r"\(U, 1 \+ C\), got \(3,\)"):
        rank_counts(np.zeros(3))
    with pytest.raises(DataError, match=r"\(U, 1 \+ C\), got \(3, 0\)"):
        rank_counts(np.zeros((3, 0)))
    with pytest.raises(DataError, match=r"valid \(2, 3\), got \(3,\)"):
        rank_counts(np.zeros((2, 3)), np.ones(3, bool))


def test_ranking_metrics_are_means_over_users():
    counts = RankCounts(above=np.array([0, 7, 30]), tied=np.zeros(3, int))
    assert ranking_metrics(counts) == pytest.approx(
        {
            "hr@5": 1 / 3,
            "hr@10": 2 / 3,
            "hr@20": 2 / 3,
            "ndcg@5": 1 / 3,
            "ndcg@10": (1 + 1 / math.log2(9)) / 3,
            "ndcg@20": (1 + 1 / math.log2(9)) / 3,
        }
    )
    assert {type(value) for value in ranking_metrics(counts).values()} == {float}


def test_without_users_there_is_no_mean():
    assert set(ranking_metrics(rank_counts(np.zeros((0, 4)))).values()) == {None}
