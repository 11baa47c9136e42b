"""What metrics compute, as functions of arrays: of the whole set, in float64, every row alike.

What does not exist, as the AUC where all labels are equal, is None. The exact AUC is
scikit-learn's. What is drawn is drawn with a fixed seed.

Shapes: N rows, C classes, T thresholds.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deepfm.errors import DataError, DeepFMError

Array: TypeAlias = NDArray[Any]  # of labels, scores or numbers
_MAX_DRAWN = 2**24  # pairs; counting all pairs costs less than drawing more
_PAIRS_AT_ONCE = 2**22
_MAX_LOGIT = 100.0  # of a probability of exactly 0 or 1


def auc(label: Array, score: Array) -> float | None:
    """Share of (positive, negative) pairs in the right order, a tie counting one half.

    Args:
        label: 0 or 1, (N,).
        score: (N,).

    Returns:
        None where all labels are equal.
    """
    from sklearn.metrics import roc_auc_score  # takes longer to import than to predict

    return float(roc_auc_score(label, score)) if label.min() != label.max() else None


def log_loss(label: Array, logit: Array) -> float:
    """Mean negative logarithm of the probability of the label, in nats.

    Of logits, because a probability in float64 is 1 from a logit of 37 on, and the logarithm of
    what is missing to it minus infinity.

    Args:
        label: 0 or 1, (N,).
        logit: Of class 1, (N,).
    """
    return float(row_losses(label, logit).mean())


def log_odds_of(probability: Array) -> NDArray[np.float64]:
    """Logits of probabilities, (N,), kept within 100 of 0.

    Raises:
        DeepFMError: A probability is outside [0, 1].
    """
    low, high = probability.min(), probability.max()
    if low < 0 or high > 1:
        raise DeepFMError(f"expected probabilities in [0, 1], got {low:g} to {high:g}")
    probability = np.asarray(probability, np.float64)
    with np.errstate(divide="ignore"):
        logit = np.log(probability) - np.log1p(-probability)
    kept: NDArray[np.float64] = np.clip(logit, -_MAX_LOGIT, _MAX_LOGIT)
    return kept


def row_losses(label: Array, logit: Array) -> NDArray[np.float64]:
    """Negative logarithm of the probability of each label, (N,): ln(1 + e^-z) or ln(1 + e^z)."""
    logit = np.asarray(logit, np.float64)
    losses: NDArray[np.float64] = np.logaddexp(0.0, np.where(label == 1, -logit, logit))
    return losses


def threshold_counts(label: Array, probability: Array, thresholds: int) -> NDArray[np.int64]:
    """Positives and negatives with a probability of at least each of T thresholds, (2, T).

    The thresholds lie evenly from 0 to 1, both included.
    """
    reached = np.searchsorted(np.linspace(0, 1, thresholds), probability, side="right")
    counts = np.stack(
        [np.bincount(reached[label == value], minlength=thresholds + 1) for value in (1, 0)]
    )
    return counts[:, :0:-1].cumsum(axis=1)[:, ::-1]  # a row that reaches k thresholds has 0 … k-1


def auc_of_counts(counts: Array) -> float:
    """Area under the ROC curve through the points of `threshold_counts`, by trapezoids.

    A rate whose class has no rows is 0. No point (0, 0) is added, so that rows with a probability
    of exactly 1 begin the curve.
    """
    totals = counts[:, :1]  # every probability is at least 0
    tpr, fpr = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    return float(np.trapezoid(tpr[::-1], fpr[::-1]))


def grouped_auc(label: Array, score: Array, group: Array) -> tuple[float | None, int]:
    """Mean AUC of the groups that have both classes, every group counting alike; and how many.

    In each group it is  sum over runs of equal scores of  P_run * (N_below + N_run / 2) / (P * N).
    The sums are doubled and taken in whole numbers. Costs one sort of all rows.

    Args:
        label: 0 or 1, (N,).
        score, group: (N,).
    """
    order = np.lexsort((score, group))
    group, score, positive = group[order], score[order], label[order] == 1
    new_group = np.r_[True, group[1:] != group[:-1]]
    runs = np.flatnonzero(new_group | np.r_[True, score[1:] != score[:-1]])
    positives = np.add.reduceat(positive, runs, dtype=np.int64)  # (runs,)
    negatives = np.add.reduceat(~positive, runs, dtype=np.int64)
    first_runs = np.flatnonzero(new_group[runs])  # of each group
    below = negatives.cumsum() - negatives  # in this and in earlier groups
    of_earlier = np.repeat(below[first_runs], np.diff(np.r_[first_runs, len(runs)]))
    won = np.add.reduceat(positives * (2 * (below - of_earlier) + negatives), first_runs)
    pairs = np.add.reduceat(positives, first_runs) * np.add.reduceat(negatives, first_runs)
    both = pairs > 0
    count = int(both.sum())
    return (float((won[both] / (2 * pairs[both])).mean()) if count else None), count


def accuracy(label: Array, probability: Array, *, threshold: float, top_k: int) -> float:
    """Share of rows whose class is predicted.

    Args:
        label: Class, (N,).
        probability: Of class 1, (N,): that is predicted above `threshold`. Of each class, (N, C):
            the `top_k` likeliest are predicted, the one with the lower number first in a tie.
    """
    if probability.ndim == 1:
        return float(((probability > threshold) == (label == 1)).mean())
    label = label.astype(np.int64)[:, None]
    own = np.take_along_axis(probability, label, axis=1)
    tied = (probability == own) & (np.arange(probability.shape[1]) < label)
    return float((((probability > own) | tied).sum(axis=1) < top_k).mean())


def multiclass_auc(
    label: Array, probability: Array, *, thresholds: int, average: str
) -> float | None:
    """Mean over classes of the AUC of one class against the rest.

    With thresholds the AUC of a class that no row, or every row, has is 0 and counts; the exact
    one does not exist and is left out.

    Args:
        label: Class, (N,).
        probability: (N, C).
        thresholds: Of the binned AUC; 0: the exact one.
        average: `macro`: every class counts alike; `weighted`: by its number of rows.
    """
    values, weights = [], []
    for k in range(probability.shape[1]):
        own = label == k
        value: float | None
        if thresholds:
            value = auc_of_counts(threshold_counts(own, probability[:, k], thresholds))
        else:
            value = auc(own, probability[:, k])
        if value is not None:
            values.append(value)
            weights.append(own.sum() if average == "weighted" else 1)
    return float(np.average(values, weights=weights)) if values else None


def normalized_entropy(label: Array, logit: Array, *, eta: float) -> float:
    """Cross-entropy over that of always predicting the share of positives.

    That share is kept within [eta, 1 - eta].

    Args:
        label: 0 or 1, (N,).
        logit: Of class 1, (N,).

    Source: X. He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD
    2014, Eq. (1).
    """
    positives, rows = int((label == 1).sum()), len(label)
    fewer = min(positives, rows - positives)  # of the two classes, so that both are alike
    share = max(fewer / rows, eta)
    baseline = fewer * np.log(share) + (rows - fewer) * np.log1p(-share)
    return float(-row_losses(label, logit).sum() / baseline)


def concordant_pairs(target: Array, predicted: Array) -> int:
    """Pairs of rows that both arrays put in the same order; a tie in either is no order.

    The rows are sorted by target; then a pair counts whose second row has the larger prediction.
    Predictions are replaced by their ranks. Of two ranks the larger one has a 1 at the highest bit
    in which they differ. So each bit is looked at in turn: among the ranks that agree in all higher
    bits, each 1 counts the 0s that stand before it. Costs O(N log^2 N), and no pair is looked at.

    Args:
        target, predicted: (N,).
    """
    order = np.lexsort((-predicted, target))  # of equal targets, predictions fall
    ranks = np.unique(predicted, return_inverse=True)[1][order]
    total = 0
    for bit in reversed(range(int(ranks.max(initial=0)).bit_length())):
        one = (ranks >> bit & 1).astype(bool)
        higher = ranks >> (bit + 1)
        zeros = np.cumsum(~one)
        starts = np.flatnonzero(np.r_[True, higher[1:] != higher[:-1]])
        before = np.r_[0, zeros][starts]
        sizes = np.diff(np.r_[starts, len(ranks)])
        total += int((zeros - np.repeat(before, sizes))[one].sum())
        ranks = ranks[np.argsort(ranks >> bit, kind="stable")]
    return total


def xauc(
    target: Array,
    predicted: Array,
    *,
    sample_ratio: float = 1.0,
    max_pairs: float | None = None,
) -> float | None:
    """Share of pairs of rows that are predicted in the order of their targets; ties are wrong.

    Of `max_pairs` pairs, or of `sample_ratio` times all, drawn with replacement; of all pairs
    where those are no more, or where counting all costs less.

    Args:
        target, predicted: (N,).

    Returns:
        None for fewer than two rows.

    Source: R. Zhan et al., "Deconfounding Duration Bias in Watch-time Prediction for Video
    Recommendation", KDD 2022.
    """
    pairs = len(target) * (len(target) - 1) // 2
    if not pairs:
        return None
    wanted = max(1, int(pairs * sample_ratio if max_pairs is None else max_pairs))
    if wanted >= pairs or wanted > _MAX_DRAWN:
        return concordant_pairs(target, predicted) / pairs
    rng, right = np.random.default_rng(0), 0
    for start in range(0, wanted, _PAIRS_AT_ONCE):
        numbers = rng.integers(0, pairs, min(_PAIRS_AT_ONCE, wanted - start))
        right += int(_same_order(target, predicted, *_pair(numbers)).sum())
    return right / wanted


def xauc_of_batches(target: Array, predicted: Array, batch_size: int) -> float | None:
    """Mean over batches of the share of all their pairs; a batch of one row has none."""
    starts = range(0, len(target), batch_size)
    batches = [slice(start, start + batch_size) for start in starts]
    values = [xauc(target[rows], predicted[rows]) for rows in batches]
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else None


def grouped_xauc(target: Array, predicted: Array, group: Array, *, max_pairs: int) -> float | None:
    """Mean XAUC of the groups of two rows or more, weighted by their rows.

    Of a group with more than `max_pairs` pairs that many are drawn with replacement; of another
    all pairs count.

    Args:
        target, predicted, group: (N,).

    Returns:
        None where no group has two rows.
    """
    order = np.argsort(group, kind="stable")
    target, predicted, group = target[order], predicted[order], group[order]
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    sizes = np.diff(np.r_[starts, len(group)])
    starts, sizes = starts[sizes > 1], sizes[sizes > 1]
    if not len(sizes):
        return None
    pairs = sizes * (sizes - 1) // 2
    counted = np.minimum(pairs, max_pairs)
    rng, total = np.random.default_rng(0), 0.0
    chunk = (counted.cumsum() - counted) // _PAIRS_AT_ONCE  # of groups, each with about that many
    for rows in np.split(np.arange(len(sizes)), np.flatnonzero(np.diff(chunk)) + 1):
        of = np.repeat(rows, counted[rows])
        number = np.arange(len(of)) - np.repeat(
            counted[rows].cumsum() - counted[rows], counted[rows]
        )
        drawn = pairs[of] > max_pairs
        number[drawn] = rng.integers(0, pairs[of[drawn]])
        first, second = _pair(number)
        right = _same_order(target, predicted, starts[of] + first, starts[of] + second)
        total += (np.bincount(of, right, len(sizes))[rows] / counted[rows] * sizes[rows]).sum()
    return float(total / sizes.sum())


def check_rows(label: Array, shape: tuple[int, ...]) -> None:
    """Refuse anything but one prediction per label 0 or 1.

    Raises:
        DataError: There are no rows, the shapes differ, or a label is neither 0 nor 1.
    """
    if label.ndim != 1 or label.shape != shape:
        raise DataError(f"expected one prediction per label {label.shape}, got {shape}")
    if not len(label):
        raise DataError("no rows to evaluate: the split is empty")
    if not np.isin(label, (0, 1)).all():
        raise DataError(f"expected labels 0 and 1, got {np.unique(label)[:5].tolist()}")


def _pair(number: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows i < j of the pairs with these numbers, where (i, j) has the number j (j - 1) / 2 + i."""
    second = ((1 + np.sqrt(1 + 8.0 * number)) / 2).astype(np.int64)
    second -= second * (second - 1) // 2 > number  # the root may be off by its last digit
    second += second * (second + 1) // 2 <= number
    return number - second * (second - 1) // 2, second


def _same_order(target: Array, predicted: Array, first: Array, second: Array) -> NDArray[np.bool_]:
    of_target = np.sign(target[first] - target[second])
    same: NDArray[np.bool_] = of_target * np.sign(predicted[first] - predicted[second]) > 0
    return same
