"""Tests of two models on the same rows or users, and what becomes of them when there are many.

Decided here: a difference is tested by the mean of its values over rows or users, which are taken
as independent. Two models that agree everywhere differ by nothing, with p = 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deepfm.evaluation.measures import Array

NORMAL_95 = 1.959963984540054  # quantile of the normal distribution that 2.5 % lie above
SIGNIFICANT = 0.05
_ROUNDING = 1e-12  # standard errors below it are rounding


class Difference(NamedTuple):
    """One model minus another.

    Attributes:
        mean: Of the differences.
        low, high: Of their 95 % interval.
        p: Of the two-sided test that the mean is 0.
    """

    mean: float
    low: float
    high: float
    p: float


def paired_difference(one: Array, other: Array) -> Difference | None:
    """The mean difference of paired values, (N,) each, by a paired t test; None below two pairs.

    Source: Student, "The Probable Error of a Mean", Biometrika 6, 1908.
    """
    difference = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    if len(difference) < 2:
        return None
    from scipy.stats import t  # slow to import

    freedom = len(difference) - 1
    mean, error = float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(freedom + 1))
    if error < _ROUNDING:
        return _without_error(mean)
    half = float(t.ppf(0.975, freedom)) * error
    return Difference(mean, mean - half, mean + half, float(2 * t.sf(abs(mean) / error, freedom)))


def difference_of(mean: float, error: float) -> Difference:
    """A difference that is about normal, of its standard error."""
    if error < _ROUNDING:
        return _without_error(mean)
    from scipy.stats import norm  # slow to import

    half = NORMAL_95 * error
    return Difference(mean, mean - half, mean + half, float(2 * norm.sf(abs(mean) / error)))


def _without_error(mean: float) -> Difference:
    """A difference that is the same in every pair."""
    return Difference(mean, mean, mean, 1.0 if abs(mean) < _ROUNDING else 0.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the given order.

    The k-th smallest of m, counted from 0, is multiplied by m - k; none becomes smaller than one
    before it, or larger than 1. That any of the corrected ones is below a level by chance alone
    then has that probability at most.

    Source: S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian
    Journal of Statistics 6, 1979.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    corrected = [0.0] * len(order)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, p_values[place] * (len(order) - rank)))
        corrected[place] = largest
    return corrected


def word_for(difference: Difference, p: float, *, smaller_is_better: bool) -> str:
    """What a difference means, given its corrected p-value.

    Example:
        >>> word_for(Difference(-0.1, -0.2, 0.0, 0.01), 0.02, smaller_is_better=True)
        'better'
        >>> word_for(Difference(-0.1, -0.3, 0.1, 0.3), 0.6, smaller_is_better=True)
        'no significant difference'
    """
    if p >= SIGNIFICANT:
        return "no significant difference"
    return "better" if (difference.mean < 0) == smaller_is_better else "worse"
