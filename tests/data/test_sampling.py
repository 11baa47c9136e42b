"""Negatives and candidates: never an excluded item, uniform over the others."""

import numpy as np
import pytest

from deepfm.data import sampling
from deepfm.data.sampling import Interactions, draw_candidates, draw_negatives
from deepfm.errors import DataError

USERS, ITEMS = 5, 12


@pytest.fixture(params=["bitmap", "sorted keys"])
def interactions(request, monkeypatch):
    if request.param == "sorted keys":
        monkeypatch.setattr(sampling, "_BITMAP_CELLS", 0)
    user = np.array([0, 0, 0, 1, 1, 3, 3, 3, 3])
    item = np.array([2, 2, 11, 0, 5, 1, 2, 3, 4])
    return Interactions(user, item, num_users=USERS, num_items=ITEMS)


def test_membership_equals_a_python_set(interactions):
    pairs = set(map(tuple, interactions.pairs.T.tolist()))
    assert pairs == {(0, 2), (0, 11), (1, 0), (1, 5), (3, 1), (3, 2), (3, 3), (3, 4)}
    user, item = np.divmod(np.arange(USERS * ITEMS), ITEMS)
    found = interactions.contains(user, item)
    assert found.tolist() == [pair in pairs for pair in zip(user, item, strict=True)]
    assert interactions.per_user().tolist() == [2, 2, 0, 4, 0]
    assert interactions.items_of(3).tolist() == [1, 2, 3, 4]
    assert interactions.items_of(4).tolist() == []


def test_negatives_avoid_the_excluded_and_are_uniform_over_the_rest(interactions):
    user = np.repeat(np.arange(USERS), 2000)
    drawn = draw_negatives(user, 4, interactions, np.random.default_rng(0))
    assert drawn.shape == (len(user), 4)
    for one in range(USERS):
        counts = np.bincount(drawn[user == one].ravel(), minlength=ITEMS)
        allowed = np.setdiff1d(np.arange(ITEMS), interactions.items_of(one))
        assert counts.sum() == counts[allowed].sum() == 8000
        expected = 8000 / len(allowed)
        chi_square = ((counts[allowed] - expected) ** 2 / expected).sum()
        assert chi_square < 35  # 99.9 % quantile at 11 degrees of freedom is 31


def test_a_user_who_knows_everything_is_an_error():
    full = Interactions(np.zeros(3, int), np.arange(3), num_users=1, num_items=3)
    with pytest.raises(DataError, match="all 3 items: no negative can be drawn"):
        draw_negatives(np.zeros(1, int), 1, full, np.random.default_rng(0))


def test_candidates_are_different_allowed_and_complete_where_there_are_few(interactions):
    drawn = draw_candidates(9, interactions, np.random.default_rng(0))
    assert drawn.shape == (USERS, 9)
    for user, row in enumerate(drawn.tolist()):
        items = [item for item in row if item >= 0]
        allowed = set(range(ITEMS)) - set(interactions.items_of(user).tolist())
        assert len(set(items)) == len(items) == min(9, len(allowed))
        assert set(items) <= allowed
        assert row[len(items) :] == [-1] * (9 - len(items))


def test_candidates_come_in_random_order():
    """The first place is uniform too: the 99 are a random choice among the 999."""
    free = Interactions(np.zeros(0, int), np.zeros(0, int), num_users=4000, num_items=8)
    first = draw_candidates(5, free, np.random.default_rng(1))[:, 0]
    counts = np.bincount(first, minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 25  # 99.9 % quantile at 7 degrees of freedom is 24
