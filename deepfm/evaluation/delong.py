"""Intervals of one AUC, and of the difference of two on the same rows, without resampling.

Shapes: N rows, P positives, Q negatives.

Source: E. DeLong, D. DeLong, D. Clarke-Pearson, "Comparing the Areas under Two or More Correlated
Receiver Operating Characteristic Curves: A Nonparametric Approach", Biometrics 44, 1988; by ranks:
X. Sun, W. Xu, "Fast Implementation of DeLong's Algorithm", IEEE Signal Processing Letters 2014.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepfm.evaluation.measures import Array
from deepfm.evaluation.paired import NORMAL_95, Difference, difference_of


class Placements(NamedTuple):
    """What the AUC is the mean of, twice.

    Attributes:
        positive: Per positive the share of negatives below it, a tie counting one half, (P,).
        negative: Per negative the share of positives above it, (Q,).
    """

    positive: NDArray[np.float64]
    negative: NDArray[np.float64]


def placements(label: Array, score: Array) -> Placements:
    """The placements of rows, (N,), of which both classes are there; costs two sorts."""
    positives, negatives = score[label == 1], score[label != 1]

    def below(values: Array, others: Array) -> NDArray[np.float64]:
        ordered = np.sort(others)
        twice = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
        return np.asarray(twice / (2 * len(ordered)))

    return Placements(below(positives, negatives), 1 - below(negatives, positives))


def auc_interval(label: Array, score: Array) -> tuple[float, float] | None:
    """95 % interval of the AUC, within [0, 1]; None with fewer than two rows of either class."""
    positives = int((label == 1).sum())
    if min(positives, len(label) - positives) < 2:
        return None
    found = placements(label, score)
    half, auc = NORMAL_95 * _error(*found), float(found.positive.mean())
    return max(0.0, auc - half), min(1.0, auc + half)


def auc_difference(label: Array, one: Array, other: Array) -> Difference | None:
    """AUC of one score minus that of another on the same rows, (N,) each, with DeLong's test.

    None with fewer than two rows of either class.
    """
    positives = int((label == 1).sum())
    if min(positives, len(label) - positives) < 2:
        return None
    first, second = placements(label, one), placements(label, other)
    positive, negative = (a - b for a, b in zip(first, second, strict=True))
    return difference_of(float(positive.mean()), _error(positive, negative))


def _error(positive: Array, negative: Array) -> float:
    """The standard error of a mean over both classes."""
    variance = positive.var(ddof=1) / len(positive) + negative.var(ddof=1) / len(negative)
    return float(np.sqrt(variance))
