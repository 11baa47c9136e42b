"""Reference recommenders: what simple methods reach on the same split and candidates.

Each takes the training interactions and returns a score for every user and item. The scores of
items that a user has interacted with in training are not masked; candidates leave them out.

Decided here: the parameters' defaults. They were chosen on the validation split of MovieLens-100K
(leave-one-out by time). EASE and ItemKNN: NDCG@10 of the 493 held-out positives against 999
negatives, mean of 10 draws of the negatives (EASE: 150 and 200 differ by 0.001, and 200 has the
higher hit rate); so were those of iALS, which takes 2 s there, and of the Markov chain. Biases:
AUC of the 943 held-out labels, which is flat from 0.5 to 4.

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
        time: Anything sortable, (N,); of equal times the later row is the later one.
        num_users: U, users without interactions included.
        num_items: I, items without interactions included.
    """

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    rating: NDArray[np.float64]
    positive: NDArray[np.bool_]
    time: NDArray[np.int64] | NDArray[np.float64]
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


def ials(
    training: Training,
    *,
    dim: int = 64,
    unobserved_weight: float = 0.1,
    l2: float = 0.015,
    l2_exponent: float = 1.0,
    sweeps: int = 10,
) -> NDArray[np.float64]:
    r"""Matrix factorization W H^T of the positives, by alternating least squares, (U, I).

    minimize  sum_{(u,i) in S} (w_u . h_i - 1)^2 + a * sum_{u,i} (w_u . h_i)^2
              + l2 * sum_u (|I_u| + a I)^e ||w_u||^2 + l2 * sum_i (|U_i| + a U)^e ||h_i||^2

    where S are the pairs of positive interactions, a is `unobserved_weight` and e is
    `l2_exponent`. On validation, 999 negatives, NDCG@10 is 0.163; with the pairs of all
    interactions, and the weights that are best then, 0.151. Each half of a sweep solves all rows
    of one side exactly:

    w_u = (sum_{i in I_u} h_i h_i^T + a H^T H + l2 (|I_u| + a I)^e 1)^-1  sum_{i in I_u} h_i

    H starts with normal numbers of deviation 0.1 / sqrt(dim), always the same ones. A sweep costs
    O(N dim^2 + (U + I) dim^3).

    Source: Y. Hu, Y. Koren, C. Volinsky, "Collaborative Filtering for Implicit Feedback Datasets",
    ICDM 2008, Eq. (3) to (5); the weight of all pairs and the regularization by frequency as in
    S. Rendle et al., "Revisiting the Performance of iALS on Item Recommendation Benchmarks",
    RecSys 2022, arXiv:2110.14037.
    """
    chosen = _matrix(training, training.positive)
    start = np.random.default_rng(0).normal(0.0, 0.1 / np.sqrt(dim), (training.num_items, dim))
    item_vectors: NDArray[np.float64] = start
    weights = (unobserved_weight, l2, l2_exponent)
    for _ in range(sweeps):
        user_vectors = least_squares_vectors(chosen, item_vectors, *weights)
        item_vectors = least_squares_vectors(chosen.T, user_vectors, *weights)
    scores: NDArray[np.float64] = user_vectors @ item_vectors.T
    return scores


def least_squares_vectors(
    chosen: NDArray[np.float64],
    others: NDArray[np.float64],
    unobserved_weight: float,
    l2: float,
    l2_exponent: float,
) -> NDArray[np.float64]:
    """The vectors of one side that minimize the objective of `ials`, (rows, dim).

    Args:
        chosen: 1 where a row of this side was chosen with one of the other, (rows, others).
        others: Vectors of the other side, (others, dim).
    """
    of_all = unobserved_weight * (others.T @ others)
    weight = chosen.sum(axis=1) + unobserved_weight * len(others)
    diagonal = l2 * weight**l2_exponent  # (rows,)
    found = np.zeros((len(chosen), others.shape[1]))
    for row, columns in enumerate(map(np.flatnonzero, chosen)):
        own = others[columns]
        system = own.T @ own + of_all
        system.flat[:: len(system) + 1] += diagonal[row]
        found[row] = np.linalg.solve(system, own.sum(axis=0))
    return found


def markov(training: Training, *, smoothing: float = 300.0) -> NDArray[np.float64]:
    r"""Probability that the item comes next after the user's last one, (U, I).

    P(i | j) = (n_ji + smoothing * p_i) / (n_j + smoothing)

    where n_ji counts how often some user's interaction with i came right after that with j, n_j
    is the sum over i, and p_i is the share of i in all interactions, to which an item with few
    successors falls back; so does a user without interactions. Counted are all interactions,
    whatever their rating, in the order of time, and of rows where times are equal: what follows
    within one time is as good as that order. Costs O(N log N + U * I).

    Source: S. Rendle, C. Freudenthaler, L. Schmidt-Thieme, "Factorizing Personalized Markov Chains
    for Next-Basket Recommendation", WWW 2010, section 4.1 (the chain that is not factorized).
    NOTE[DIFF]: one chain for all users, over items, and the smoothing.
    """
    order = np.lexsort((training.time, training.user))  # stable: equal times keep their order
    user, item = training.user[order], training.item[order]
    follows = user[1:] == user[:-1]
    counts = np.zeros((training.num_items, training.num_items))
    np.add.at(counts, (item[:-1][follows], item[1:][follows]), 1.0)
    share = np.bincount(item, minlength=training.num_items) / len(item)
    after = (counts + smoothing * share) / (counts.sum(axis=1, keepdims=True) + smoothing)
    scores = np.tile(share, (training.num_users, 1))
    is_last = np.append(~follows, True)
    scores[user[is_last]] = after[item[is_last]]
    return scores


REFERENCES: dict[str, Callable[[Training], NDArray[np.float64]]] = {
    "popularity": popularity,
    "user_item_bias": user_item_bias,
    "item_knn": item_knn,
    "ease": ease,
    "ials": ials,
    "markov": markov,
}


def _matrix(training: Training, counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 where the user has a counted interaction with the item, else 0, (U, I)."""
    matrix = np.zeros((training.num_users, training.num_items))
    matrix[training.user[counted], training.item[counted]] = 1.0
    return matrix
