"""What two classes look like over all thresholds: curves of at most some hundred points.

Shapes: N rows, T points, B bins.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepfm.evaluation.calibration_figures import equal_mass_bins
from deepfm.evaluation.measures import Array
from deepfm.evaluation.paired import NORMAL_95

POINTS = 200  # of a curve, about; the ends are always among them


class Curve(NamedTuple):
    """Points of a curve, (T,) each."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]


class _Counts(NamedTuple):
    """Rows at or above each threshold, from none on, (T + 1,): all, and positives."""

    rows: NDArray[np.int64]
    positives: NDArray[np.int64]


def roc(label: Array, score: Array) -> Curve:
    """False positive rate and true positive rate, of rows of both classes; ties are one step."""
    counts = _counts(label, score)
    positives = counts.positives[-1]
    false = (counts.rows - counts.positives) / (counts.rows[-1] - positives)
    return _thinned(false, counts.positives / positives)


def precision_recall(label: Array, score: Array) -> Curve:
    """Recall and precision, of rows with a positive among them; ties are one step."""
    counts = _counts(label, score)
    precision = counts.positives[1:] / counts.rows[1:]
    return _thinned(counts.positives[1:] / counts.positives[-1], precision)


def average_precision(label: Array, score: Array) -> float:
    """Mean precision over the positives, each at its threshold."""
    counts = _counts(label, score)
    gained = np.diff(counts.positives) / counts.positives[-1]
    return float((gained * counts.positives[1:] / counts.rows[1:]).sum())


def lift(label: Array, score: Array) -> Curve:
    """Share of rows, the highest scores first, and how many times the overall share of positives
    is found among them."""
    counts = _counts(label, score)
    share = counts.positives[-1] / counts.rows[-1]
    return _thinned(
        counts.rows[1:] / counts.rows[-1], counts.positives[1:] / counts.rows[1:] / share
    )


class Reliability(NamedTuple):
    """Bins of equally many rows, (B,) each.

    Attributes:
        predicted, observed: Means of the probability and of the label.
        low, high: 95 % interval of the observed share.
        rows: Of each bin.
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    rows: NDArray[np.int64]


def reliability(label: Array, probability: Array, *, bins: int) -> Reliability:
    """Predicted and observed shares of positives, in the bins of the calibration error."""
    bin_of = equal_mass_bins(probability, bins)
    rows = np.bincount(bin_of, minlength=bins)
    held = rows > 0
    positives = np.bincount(bin_of, label == 1, bins)[held]
    predicted = np.bincount(bin_of, probability, bins)[held] / rows[held]
    low, high = wilson_interval(positives, rows[held])
    return Reliability(predicted, positives / rows[held], low, high, rows[held])


def wilson_interval(
    positives: Array, rows: Array
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % interval of shares, which is within [0, 1] for few rows too.

    Source: E. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
    Journal of the American Statistical Association 22, 1927.
    """
    share, square = positives / rows, NORMAL_95**2
    middle = (share + square / (2 * rows)) / (1 + square / rows)
    half = NORMAL_95 * np.sqrt(share * (1 - share) / rows + square / (4 * rows**2))
    half = half / (1 + square / rows)
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)


def _counts(label: Array, score: Array) -> _Counts:
    order = np.argsort(-np.asarray(score, np.float64), kind="stable")
    descending = np.asarray(score)[order]
    is_last = np.r_[descending[1:] != descending[:-1], True]
    positives = np.cumsum(np.asarray(label)[order] == 1)[is_last]
    return _Counts(np.r_[0, np.flatnonzero(is_last) + 1], np.r_[0, positives])


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> Curve:
    """Points that lie about evenly along x, and along their number where x stands still."""
    if len(x) <= POINTS:
        return Curve(x, y)
    by_number = np.linspace(0, len(x) - 1, POINTS // 2).round().astype(np.int64)
    by_place = np.searchsorted(x, np.linspace(x[0], x[-1], POINTS // 2))
    kept = np.unique(np.r_[0, by_number, np.minimum(by_place, len(x) - 1), len(x) - 1])
    return Curve(x[kept], y[kept])
