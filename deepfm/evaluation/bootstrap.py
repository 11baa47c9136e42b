"""Bootstrap intervals of means over users and of the AUC, seeded: equal results, equal intervals.

Shapes: N rows, U users, S seeds, R resamples drawn at a time.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepfm.errors import DataError, DeepFMError
from deepfm.evaluation.measures import Array, check_rows

PERCENTILES = (2.5, 97.5)
_DRAWS = 2e8  # rows that all resamples of a bootstrap draw together, a few seconds
_DRAWS_AT_A_TIME = 2_000_000  # keeps the temporary arrays of a resampling chunk near 100 MB


def affordable_samples(rows: int) -> int:
    """Resamples of that many rows: 1000, fewer of splits of which they would take minutes."""
    return int(np.clip(_DRAWS / max(rows, 1), 100, 1000))


def bootstrap_mean(
    values: ArrayLike, *, samples: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """95 % interval of the mean of per-user values: percentiles over users drawn with replacement.

    It covers the choice of users, not that of the training seed: average a user's values over
    seeds before. Costs O(samples * U).

    Args:
        values: One value per user, (U,).
        samples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        The lower and upper end, or None without users.

    Source: B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise DeepFMError(f"expected values (U,), got {values.shape}")
    if not len(values):
        return None
    draws = _resamples(len(values), samples, seed)
    return percentile_interval(
        np.concatenate([values[rows].mean(axis=1) for rows in draws])
    )  # (samples,)


def bootstrap_auc(
    label: ArrayLike, scores: ArrayLike, *, samples: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """95 % interval of the AUC, averaged over seeds: percentiles over rows drawn with replacement.

    All seeds see the same resampled rows, since their models were evaluated on the same rows. A
    resample without both classes has no AUC and is left out. Costs O(S * samples * N) after one
    sort per seed.

    Args:
        label: 0 or 1, (N,).
        scores: Logits or probabilities of each seed's model, (S, N).
        samples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        The lower and upper end, or None where no resample has both classes.

    Raises:
        DataError: There are no rows, the shapes differ, or a label is neither 0 nor 1.
        DeepFMError: A score is NaN.
    """
    label, scores = np.asarray(label), np.asarray(scores)
    if scores.ndim != 2 or not len(scores):
        raise DataError(f"expected scores (S, N), got {scores.shape}")
    check_rows(label, scores.shape[1:])
    if np.isnan(scores).any():
        raise DeepFMError(f"{np.isnan(scores).sum()} of {scores.size} scores are NaN")
    ranked = [_tied_groups(label, row) for row in scores]
    means = []
    for rows in _resamples(len(label), samples, seed):  # (R, N)
        counts = _multiplicities(rows)
        usable = counts[_has_both_classes(label, counts)]
        if len(usable):
            means.append(np.mean([_weighted_auc(usable, *groups) for groups in ranked], axis=0))
    return percentile_interval(np.concatenate(means)) if means else None


def _resamples(size: int, samples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Positions drawn with replacement, in chunks (R, size) that add up to `samples` rows."""
    rng = np.random.default_rng(seed)
    at_a_time = max(1, _DRAWS_AT_A_TIME // size)
    for start in range(0, samples, at_a_time):
        yield rng.integers(0, size, (min(at_a_time, samples - start), size))


def percentile_interval(statistics: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval of what resamples gave, (samples,): its ends."""
    low, high = np.percentile(statistics, PERCENTILES)
    return float(low), float(high)


def _multiplicities(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each position was drawn, (R, N), from the drawn positions, (R, N)."""
    resamples, size = rows.shape
    cells = rows + size * np.arange(resamples)[:, None]
    return np.bincount(cells.ravel(), minlength=rows.size).reshape(resamples, size)


def _has_both_classes(label: Array, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    positive = label == 1
    return np.logical_and(counts[:, positive].any(axis=1), counts[:, ~positive].any(axis=1))


def _tied_groups(label: Array, score: Array) -> tuple[Array, Array, Array]:
    """Rows by ascending score, (N,), the first place of each run of equal scores, and the labels
    in that order, (N,)."""
    order = np.argsort(score, kind="stable")
    ascending = score[order]
    starts = np.flatnonzero(np.r_[True, ascending[1:] != ascending[:-1]])
    return order, starts, label[order] == 1


def _weighted_auc(
    counts: NDArray[np.int64], order: Array, starts: Array, positive: Array
) -> NDArray[np.float64]:
    """AUC of each resample, (R,), in which row n stands counts[r, n] times, (R, N).

    AUC = sum over runs of equal scores of  P_run * (N_below + N_run / 2)  /  (P * N),  where P
    and N count positives and negatives: a tied pair counts one half, as in scikit-learn. The sum
    is doubled and taken in whole numbers, hence exact.
    """
    counts = counts[:, order]  # (R, N)
    positives = np.add.reduceat(counts * positive, starts, axis=1)  # (R, runs)
    negatives = np.add.reduceat(counts * ~positive, starts, axis=1)  # (R, runs)
    doubled_below = 2 * negatives.cumsum(axis=1) - negatives
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)  # (R,)
    auc: NDArray[np.float64] = (positives * doubled_below).sum(axis=1) / (2 * pairs)
    return auc
