import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfm.evaluation.references import (
    REFERENCES,
    Training,
    ease,
    ials,
    item_knn,
    least_squares_vectors,
    markov,
    popularity,
    user_item_bias,
)
from tests.reference import (
    bias_scores,
    ease_scores,
    ials_objective,
    item_knn_scores,
    markov_scores,
)

USERS, ITEMS = 6, 5  # user 5 and item 4 have no interaction


@st.composite
def trainings(draw):
    """Interactions on a small grid; a pair may stand twice, with different ratings."""
    position = st.tuples(
        st.integers(0, USERS - 2), st.integers(0, ITEMS - 2), st.integers(1, 5), st.integers(0, 3)
    )
    rows = np.array(draw(st.lists(position, min_size=1, max_size=20)))
    user, item, rating, time = rows.T
    return Training(user, item, rating.astype(np.float64), rating >= 4, time, USERS, ITEMS)


def users_of_items(training):
    """Per item the set of users with a positive interaction."""
    rows = list(zip(training.user, training.item, training.positive, strict=True))
    return [{int(u) for u, i, positive in rows if positive and i == j} for j in range(ITEMS)]


@given(trainings())
def test_popularity_counts_positive_interactions(training):
    rows = list(zip(training.item, training.positive, strict=True))
    expected = [sum(1 for i, positive in rows if positive and i == j) for j in range(ITEMS)]
    assert popularity(training).tolist() == [expected] * USERS


@given(trainings(), st.sampled_from([0.5, 2.5, 10.0]))
def test_biases_solve_the_regularised_least_squares(training, l2):
    expected = bias_scores(training.user, training.item, training.rating, USERS, ITEMS, l2)
    np.testing.assert_allclose(user_item_bias(training, l2=l2), expected, rtol=0, atol=1e-9)


def test_a_user_and_an_item_without_ratings_get_the_mean():
    training = Training(
        np.array([0, 1]), np.array([0, 1]), np.array([2.0, 4.0]), np.array([False, True]),
        np.array([0, 0]), 3, 3,
    )  # fmt: skip
    assert user_item_bias(training)[2, 2] == pytest.approx(3.0)


@given(trainings(), st.integers(1, ITEMS), st.sampled_from([0.0, 1.0, 5.0]))
def test_item_knn_equals_loops_over_sets(training, neighbours, shrinkage):
    expected = item_knn_scores(users_of_items(training), USERS, neighbours, shrinkage)
    result = item_knn(training, neighbours=neighbours, shrinkage=shrinkage)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)


@settings(max_examples=50)
@given(trainings(), st.sampled_from([0.5, 10.0, 200.0]))
def test_ease_equals_a_ridge_regression_of_each_item_on_the_others(training, l2):
    chosen = np.zeros((USERS, ITEMS))
    for user, item in zip(training.user, training.item, strict=True):
        chosen[user, item] = 1.0
    np.testing.assert_allclose(ease(training, l2=l2), ease_scores(chosen, l2), rtol=0, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(trainings(), st.sampled_from([0.1, 1.0]), st.sampled_from([0.0, 1.0]))
def test_a_half_sweep_of_ials_is_the_minimum_of_its_objective(training, weight, exponent):
    """The objective is a parabola in the vectors of one side: from the minimum, any step of one
    number costs the same in both directions."""
    rng = np.random.default_rng(1)
    chosen = np.zeros((USERS, ITEMS))
    chosen[training.user, training.item] = 1.0
    pairs = {(int(u), int(i)) for u, i in zip(training.user, training.item, strict=True)}
    items = rng.normal(size=(ITEMS, 2))
    users = least_squares_vectors(chosen, items, weight, 0.3, exponent)
    best = ials_objective(pairs, users.tolist(), items.tolist(), weight, 0.3, exponent)
    for place in np.ndindex(users.shape):
        costs = []
        for step in (0.5, -0.5):
            moved = users.copy()
            moved[place] += step
            costs.append(
                ials_objective(pairs, moved.tolist(), items.tolist(), weight, 0.3, exponent)
            )
        assert costs[0] == pytest.approx(costs[1], rel=1e-9)
        assert costs[0] > best


def test_sweeps_of_ials_end_where_both_sides_are_minima():
    """A user's scores at the fixed point are what solving that user again gives."""
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.permutation(USERS * ITEMS)[:18], ITEMS)
    training = Training(user, item, np.ones(18), np.ones(18, bool), np.zeros(18, int), USERS, ITEMS)
    found = [ials(training, dim=2, l2=0.05, sweeps=sweeps) for sweeps in (1, 300, 301)]
    np.testing.assert_allclose(found[1], found[2], atol=1e-9)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    took = np.zeros((USERS, ITEMS), bool)
    took[user, item] = True
    assert found[1][took].mean() > found[1][~took].mean() + 0.3


@given(trainings(), st.sampled_from([0.5, 10.0]))
def test_markov_counts_what_came_next(training, smoothing):
    rows = sorted(range(len(training.user)), key=lambda row: training.time[row])  # stable
    events = [(int(training.user[row]), int(training.item[row])) for row in rows]
    expected = markov_scores(events, USERS, ITEMS, smoothing)
    np.testing.assert_allclose(markov(training, smoothing=smoothing), expected, atol=1e-12)


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_scores_every_pair(name):
    training = Training(
        np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([5.0, 4.0, 1.0]),
        np.array([True, True, False]), np.array([2, 1, 1]), USERS, ITEMS,
    )  # fmt: skip
    scores = REFERENCES[name](training)
    assert (scores.shape, scores.dtype) == ((USERS, ITEMS), np.float64)
    assert np.isfinite(scores).all()
    assert scores.flags.writeable


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_does_not_change_its_input(name):
    rng = np.random.default_rng(0)
    rating = rng.integers(1, 6, 30).astype(float)
    training = Training(
        rng.integers(0, USERS, 30), rng.integers(0, ITEMS, 30), rating, rating >= 4,
        rng.integers(0, 9, 30), USERS, ITEMS,
    )  # fmt: skip
    before = [np.copy(value) for value in training]
    REFERENCES[name](training)
    for value, kept in zip(training, before, strict=True):
        np.testing.assert_array_equal(value, kept)


def test_the_dict_names_each_function():
    assert {name: function.__name__ for name, function in REFERENCES.items()} == {
        name: name for name in REFERENCES
    }
    for function in REFERENCES.values():
        first, *parameters = inspect.signature(function).parameters.values()
        assert first.name == "training"
        assert all(p.kind is p.KEYWORD_ONLY for p in parameters)
