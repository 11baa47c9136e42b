"""How well probabilities fit what happens: calibration error, ratio, normalized entropy; intervals.

Decided here: bins hold equally many rows, because clicks are rare and most of [0, 1] is empty; rows
of one probability share a bin. All figures are of the whole set, in float64. Intervals are
percentiles over rows drawn with replacement. The absolute values of the calibration error add up
noise, which the resamples repeat: of few rows, or of a model that is well calibrated, its interval
lies above what it should cover, and may lie above the value itself.

Shapes: N rows, B bins, G groups of rows, R resamples drawn at a time.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepfm.evaluation.bootstrap import percentile_interval
from deepfm.evaluation.measures import Array, normalized_entropy, row_losses
from deepfm.evaluation.metrics import CORRECTED

BINS = 20
FIGURES = ("ece", "calibration_ratio", "normalized_entropy")
INTERVAL = "_interval"  # ends the names of intervals
Figure = float | list[float] | None
_ETA = 1e-12  # of the share of positives, which is none of these where both classes are there
_GROUPS = 4096  # of rows that resamples are drawn from: fewer rows are drawn one by one
_DRAWN_AT_ONCE = 2**17  # numbers of a chunk of resamples, 1 MiB


def calibration_figures(
    label: Array, logit: Array, *, samples: int = 1000, seed: int = 0
) -> dict[str, Figure]:
    """`FIGURES` of some rows, each with a 95 % interval `[low, high]` under `<name>_interval`.

    `ece` is the expected calibration error, `calibration_ratio` the sum of predictions over that
    of positives, and `normalized_entropy` LogLoss over that of the share of positives of these
    rows. What does not exist, as the ratio where there are no positives, is None.

    Costs one sort, and O(samples * min(N, 4096)) for the intervals.

    Args:
        label: 0 or 1, (N,).
        logit: Of class 1, (N,).
        samples: Number of resamples.
        seed: Of the draws.

    Source: `normalized_entropy` and the ratio, there "calibration": X. He et al., "Practical
    Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014, section 3.
    """
    probability = probability_of(logit)
    positives, both = int((label == 1).sum()), bool((label != label[0]).any())
    values: dict[str, float | None] = {
        "ece": expected_calibration_error(label, probability),
        "calibration_ratio": float(probability.sum()) / positives if positives else None,
        "normalized_entropy": normalized_entropy(label, logit, eta=_ETA) if both else None,
    }
    intervals = calibration_intervals(label, logit, samples=samples, seed=seed)
    found: dict[str, Figure] = {}
    for name, value in values.items():
        found |= {name: value, f"{name}{INTERVAL}": intervals[name]}
    return found


def corrected_figures(label: Array, logit: Array, shift: float) -> dict[str, Figure]:
    """`calibration_figures` after the prior correction, under names that say so.

    Args:
        shift: What is added to every logit; where it is not finite, all figures are None.
    """
    names = {name: f"{name}{CORRECTED}" for name in FIGURES}
    names |= {f"{name}{INTERVAL}": f"{shown}{INTERVAL}" for name, shown in names.items()}
    if not np.isfinite(shift):
        return dict.fromkeys(names.values())
    found = calibration_figures(label, logit + shift)
    return {names[name]: value for name, value in found.items()}


def probability_of(logit: Array) -> NDArray[np.float64]:
    """The sigmoid of logits, (N,)."""
    probability: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -np.asarray(logit, np.float64)))
    return probability


def expected_calibration_error(label: Array, probability: Array, *, bins: int = BINS) -> float:
    """Mean distance between predicted and observed share of positives, over bins of equal mass.

    ECE = sum_b  n_b / N * | mean_b(p) - mean_b(y) |

    It is not 0 for perfect probabilities, see `calibration_noise`.

    Args:
        label: 0 or 1, (N,).
        probability: Of class 1, (N,).
        bins: B.

    Source: M. Naeini, G. Cooper, M. Hauskrecht, "Obtaining Well Calibrated Probabilities Using
    Bayesian Binning", AAAI 2015; bins of equal mass, which are less biased: R. Roelofs et al.,
    "Mitigating Bias in Calibration Error Estimation", AISTATS 2022.

    Example:
        >>> round(expected_calibration_error(np.array([0, 1, 1]), np.array([0.5, 0.5, 0.9])), 6)
        0.033333
    """
    bin_of = equal_mass_bins(probability, bins)
    gaps = np.bincount(bin_of, np.asarray(probability, np.float64) - (label == 1), bins)
    return float(np.abs(gaps).sum() / len(label))


def calibration_noise(logit: Array) -> float:
    """The calibration error of perfect probabilities on so many rows, about.

    The gap of a bin is a sum of independent errors with the variance p * (1 - p), hence about
    normal, and its absolute value has the mean sqrt(2 / pi) * sqrt(variance):

    sum_b  sqrt(2 / pi * sum_{i in b} p_i * (1 - p_i)) / N

    Args:
        logit: Of class 1, (N,).
    """
    probability = probability_of(logit)
    variance = np.bincount(equal_mass_bins(probability, BINS), probability * (1 - probability))
    return float(np.sqrt(2 / np.pi * variance).sum() / len(probability))


def equal_mass_bins(values: Array, bins: int) -> NDArray[np.int64]:
    """The bin of each row, (N,), of at most `bins` that hold equally many rows.

    A row with k rows below it is in bin floor(k * bins / N), so that equal values share one.
    """
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    is_first = np.r_[True, ascending[1:] != ascending[:-1]]
    below = np.maximum.accumulate(np.where(is_first, np.arange(len(values)), 0))
    found = np.empty(len(values), np.int64)
    found[order] = below * bins // len(values)
    return found


def calibration_intervals(
    label: Array, logit: Array, *, samples: int = 1000, seed: int = 0
) -> dict[str, list[float] | None]:
    """The 95 % interval of each of `FIGURES`, and of `logloss`; None where no resample has it.

    The bins are those of all rows. More than 4,096 rows are drawn in groups of neighbours, rows
    of one label and bin that are next to each other in the order of probability: how often each
    group is drawn is multinomial, as it is for rows, and a drawn row counts as the mean of its
    group. A resample without both classes has no ratio and no entropy and is left out.

    Args:
        label: 0 or 1, (N,).
        logit: Of class 1, (N,).
        samples: Number of resamples.
        seed: Of the draws.

    Source: B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    groups = _neighbours(label, logit)
    parts = [_of_resamples(groups, drawn) for drawn in _draws(groups.size, samples, seed)]
    found: dict[str, list[float] | None] = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])  # (samples,)
        values = values[np.isfinite(values)]
        found[name] = list(percentile_interval(values)) if len(values) else None
    return found


class _Groups(NamedTuple):
    """Groups of rows, by bin.

    Attributes:
        size: Rows of each, (G,).
        positive: Whether the label of its rows is 1, (G,).
        probability, loss: Means over its rows, (G,).
        bin_starts: First group of each bin that holds rows.
    """

    size: NDArray[np.int64]
    positive: NDArray[np.bool_]
    probability: NDArray[np.float64]
    loss: NDArray[np.float64]
    bin_starts: NDArray[np.int64]


def _neighbours(label: Array, logit: Array) -> _Groups:
    probability, rows = probability_of(logit), len(label)
    bin_of = equal_mass_bins(probability, BINS)
    order = np.argsort(logit, kind="stable")
    kind = (2 * bin_of + (label == 1)).astype(np.int16)  # small numbers are sorted in O(N)
    order = order[np.argsort(kind[order], kind="stable")]
    kind = kind[order]
    starts = np.flatnonzero(np.r_[True, kind[1:] != kind[:-1]])
    place = np.arange(rows) - np.repeat(starts, np.diff(np.r_[starts, rows]))  # within its kind
    starts = np.flatnonzero(place % -(-rows // _GROUPS) == 0)
    size, kind = np.diff(np.r_[starts, rows]), kind[starts]
    return _Groups(
        size,
        kind % 2 == 1,
        np.add.reduceat(probability[order], starts) / size,
        np.add.reduceat(row_losses(label, logit)[order], starts) / size,
        np.flatnonzero(np.r_[True, kind[1:] // 2 != kind[:-1] // 2]),
    )


def _draws(size: NDArray[np.int64], samples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How many rows of each group are drawn, (R, G), in parts that add up to `samples`."""
    rng, at_once = np.random.default_rng(seed), max(1, _DRAWN_AT_ONCE // len(size))
    rows = int(size.sum())
    for start in range(0, samples, at_once):
        yield rng.multinomial(rows, size / rows, min(at_once, samples - start))


def _of_resamples(groups: _Groups, drawn: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """The figures of resamples, (R,) each; not finite where one does not exist."""
    rows = drawn[0].sum()
    positives = (drawn @ groups.positive).astype(np.float64)
    gaps = drawn * (groups.probability - groups.positive)  # (R, G)
    loss, share = drawn @ groups.loss / rows, positives / rows
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -share * np.log(share) - (1 - share) * np.log1p(-share)
        return {
            "ece": np.abs(np.add.reduceat(gaps, groups.bin_starts, axis=1)).sum(axis=1) / rows,
            "calibration_ratio": drawn @ groups.probability / positives,
            "normalized_entropy": loss / entropy,
            "logloss": loss,
        }
