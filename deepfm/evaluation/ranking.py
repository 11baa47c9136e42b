"""Hit rate and NDCG of one held-out positive per user among sampled candidates.

Decided here: **a tie counts as the expectation over a random order of the tied items.** Counting
the positive first among its equals would give a model that outputs a constant a perfect score,
and counting it last would give it zero; the order in which a sort happens to leave equal scores
would make a result depend on the order of the candidates. A constant model scores what a random
order scores.

Shapes: U users, C candidates, K the length of the list.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepfm.errors import DataError, DeepFMError

RANKING_KS = (5, 10, 20)
SHORT_RANKING = 99  # negatives of the second, widely used ranking protocol
SHORT = "ranking_99."  # begins the names of its metrics
_OF_ALL = [f"{name}@{k}" for name in ("hr", "ndcg") for k in RANKING_KS]
# Of a ranking task, by the names they are reported under; larger is better.
RANKING_METRICS = (*_OF_ALL, *(f"{SHORT}{name}" for name in _OF_ALL))


class RankCounts(NamedTuple):
    """Where each user's positive stands; all that the ranking metrics need.

    Attributes:
        above: Candidates that score higher than the positive, (U,) int64.
        tied: Candidates that score the same, the positive not counted, (U,) int64.
    """

    above: NDArray[np.int64]
    tied: NDArray[np.int64]


def rank_counts(scores: ArrayLike, valid: ArrayLike | None = None) -> RankCounts:
    """Count the candidates that stand above, and level with, each user's positive.

    Args:
        scores: Logits or probabilities, (U, 1 + C): the positive in column 0, then candidates.
        valid: False where a candidate is padding (users with fewer candidates than others), in
            the shape of `scores`; column 0 always counts. None: all are valid.

    Raises:
        DataError: The shapes do not fit.
        DeepFMError: The score of a positive or of a valid candidate is NaN.
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or not scores.shape[1]:
        raise DataError(f"expected scores (U, 1 + C), got {scores.shape}")
    valid = np.ones(scores.shape, bool) if valid is None else np.asarray(valid, bool)
    if valid.shape != scores.shape:
        raise DataError(f"expected valid {scores.shape}, got {valid.shape}")
    positive, candidates, valid = scores[:, :1], scores[:, 1:], valid[:, 1:]
    if nan := np.isnan(positive).sum() + (np.isnan(candidates) & valid).sum():
        raise DeepFMError(
            f"{nan} of {scores.size} ranking scores are NaN: the model diverged; "
            "try a lower learning rate"
        )
    return RankCounts(
        above=((candidates > positive) & valid).sum(axis=1),
        tied=((candidates == positive) & valid).sum(axis=1),
    )


def hit_rate(counts: RankCounts, k: int) -> NDArray[np.float64]:
    """Probability that the positive is among the first K, (U,).

    With g candidates above and t tied, the positive takes ranks g + 1 .. g + t + 1 with equal
    probability, so HR@K = clip((K - g) / (t + 1), 0, 1); 1 or 0 where nothing is tied.
    """
    return np.clip((k - counts.above) / (counts.tied + 1), 0.0, 1.0)


def ndcg(counts: RankCounts, k: int) -> NDArray[np.float64]:
    """Normalized discounted cumulative gain of the single positive, (U,).

    At rank r it is 1 / log2(r + 1) for r <= K, else 0; the ideal list has gain 1. Tied, it is the
    mean over the ranks g + 1 .. g + t + 1, a difference of two cumulative sums of the discounts.

    Source: K. Järvelin, J. Kekäläinen, "Cumulated gain-based evaluation of IR techniques",
    ACM TOIS 2002, with the logarithm of rank + 1 that is usual in recommendation.
    """
    cumulative = np.r_[0.0, np.cumsum(1 / np.log2(np.arange(2, k + 2)))]  # (K + 1,)
    first = np.minimum(counts.above, k)
    last = np.minimum(counts.above + counts.tied + 1, k)
    gain: NDArray[np.float64] = (cumulative[last] - cumulative[first]) / (counts.tied + 1)
    return gain


def ranking_metrics(counts: RankCounts) -> dict[str, float | None]:
    """Means over users, under the keys `hr@5`, `hr@10`, `hr@20`, `ndcg@5`, `ndcg@10`, `ndcg@20`.

    Without users there is no mean: the values are None.
    """
    per_user = {f"hr@{k}": hit_rate(counts, k) for k in RANKING_KS}
    per_user |= {f"ndcg@{k}": ndcg(counts, k) for k in RANKING_KS}
    return {key: float(v.mean()) if len(v) else None for key, v in per_user.items()}
