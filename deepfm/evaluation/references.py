"""Reference recommenders: what simple methods reach on the same split and candidates.

Each takes the training interactions and returns a score for every user and item. The scores of
items that a user has interacted with in training are not masked; candidates leave them out.

Decided here: the parameters' defaults. They were chosen on the validation split of MovieLens-100K
(leave-one-out by time). EASE and ItemKNN: NDCG@10 of the 493 held-out positives against 999
negatives, mean of 10 draws of the negatives (EASE: 150 and 200 differ by 0.001, and 200 has the
higher hit rate). Biases: AUC of the 943 held-out labels, which is flat from 0.5 to 4.

Shapes: N training interactions, U users, I items. All matrices are dense: meant for up to some
ten thousand items.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Training(NamedTuple):
    """The training interactions, rated items only: no sampled negatives.

    Attributes:
        user: Position of the user, (N,), below `num_users`.
        item: Position of the item, (N,), below `num_items`.
        rating: The explicit rating, (N,).
        positive: Whether the rating counts as a positive interaction, (N,) bool.
        num_users: U, users without interactions included.
        num_items: I, items without interactions included.
    """

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    rating: NDArray[np.float64]
    positive: NDArray[np.bool_]
    num_users: int
    num_items: int


def popularity(training: Training) -> NDArray[np.float64]:
    """Number of positive interactions of the item, the same for every user, (U, I)."""
    counts = np.bincount(training.item[training.positive], minlength=training.num_items)
    return np.tile(counts.astype(np.float64), (training.num_users, 1))


def user_item_bias(training: Training, *, l2: float = 2.5) -> NDArray[np.float64]:
    r"""Rating predicted from the user's and the item's habits alone, mu + b_u + b_i, (U, I).

    minimize  sum_n (r_n - mu - b_{u_n} - b_{i_n})^2 + l2 * (||b_u||^2 + ||b_i||^2)

    over all explicit ratings, with mu their mean. The user biases are eliminated, which leaves
    one linear system of size I; the solution is exact and costs O(U * I^2 + I^3). As a ranking it
    is the same for every user: it is here for the AUC of held-out ratings.

    Source: Y. Koren, "Factorization Meets the Neighborhood: a Multifaceted Collaborative
    Filtering Model", KDD 2008, section 2.1 (baseline estimates).
    """
    shape = (training.num_users, training.num_items)
    pairs, residuals = np.zeros(shape), np.zeros(shape)
    mean = float(training.rating.mean())
    np.add.at(pairs, (training.user, training.item), 1.0)
    np.add.at(residuals, (training.user, training.item), training.rating - mean)
    user_weight = pairs.sum(axis=1) + l2  # (U,)
    item_weight = pairs.sum(axis=0) + l2  # (I,)
    per_user = pairs / user_weight[:, None]
    system = np.diag(item_weight) - pairs.T @ per_user  # (I, I)
    item_bias = np.linalg.solve(system, residuals.sum(axis=0) - per_user.T @ residuals.sum(axis=1))
    user_bias = (residuals.sum(axis=1) - pairs @ item_bias) / user_weight
    scores: NDArray[np.float64] = mean + user_bias[:, None] + item_bias
    return scores


def item_knn(
    training: Training, *, neighbours: int = 20, shrinkage: float = 5.0
) -> NDArray[np.float64]:
    r"""Sum of the similarities of the user's positive items to the item, (U, I).

    s_ij = |U_i & U_j| / (sqrt(|U_i| * |U_j|) + shrinkage)

    where U_i is the set of users with a positive interaction with i. Each item keeps its most
    similar `neighbours` other items, the lower position first among equals. Costs O(U * I^2).

    Source: B. Sarwar et al., "Item-Based Collaborative Filtering Recommendation Algorithms",
    WWW 2001, sections 3.1.1 and 3.2.1.
    NOTE[DIFF]: the shrinkage, which lowers the similarity of items with few users; and the sum is
    not divided by the sum of similarities, which with positives only would make it 1 everywhere.
    """
    positives = _matrix(training, training.positive)
    common = positives.T @ positives  # (I, I)
    users = np.diag(common)
    norm = np.sqrt(np.outer(users, users))
    similarity = common / (np.maximum(norm, 1.0) + shrinkage)  # norm is 0 only where common is
    np.fill_diagonal(similarity, 0.0)
    dropped = np.argsort(-similarity, axis=0, kind="stable")[neighbours:]  # per column j
    np.put_along_axis(similarity, dropped, 0.0, axis=0)
    return positives @ similarity


def ease(training: Training, *, l2: float = 200.0) -> NDArray[np.float64]:
    r"""Linear item-to-item model X B with a zero diagonal, in closed form, (U, I).

    minimize  ||X - X B||^2 + l2 * ||B||^2   subject to  diag(B) = 0     (Frobenius norms)

    B_ij = -P_ij / P_jj  for i != j,  with  P = (X^T X + l2 * 1)^-1

    where X is the (U, I) matrix of all interactions, whatever their rating: that a user chose
    an item says more about the next choice than the rating does (validation, 99 negatives:
    NDCG@10 0.482, with positives only 0.461). Costs O(I^3).

    Source: H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019,
    arXiv:1905.03375.
    """
    chosen = _matrix(training, np.ones_like(training.positive))
    inverse = np.linalg.inv(chosen.T @ chosen + l2 * np.eye(training.num_items))
    weights = inverse / -np.diag(inverse)  # divides column j by -P_jj
    np.fill_diagonal(weights, 0.0)
    return chosen @ weights


REFERENCES: dict[str, Callable[[Training], NDArray[np.float64]]] = {
    "popularity": popularity,
    "user_item_bias": user_item_bias,
    "item_knn": item_knn,
    "ease": ease,
}


def _matrix(training: Training, counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 where the user has a counted interaction with the item, else 0, (U, I)."""
    matrix = np.zeros((training.num_users, training.num_items))
    matrix[training.user[counted], training.item[counted]] = 1.0
    return matrix
