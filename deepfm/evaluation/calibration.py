"""Monotone maps of logits that make probabilities fit what happens; a class each, and their fit.

Decided here: a map takes the logit of class 1 to another logit, so that it can be applied last,
after everything else that is done to logits, and what follows from logits stays as it is. It never
changes the order of two rows (a step of `isotonic` can make them equal), and it is finite.

Shapes: N rows, K knots.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deepfm.errors import DataError
from deepfm.evaluation.measures import Array, check_rows, log_odds_of

_MOST = 1000.0  # the largest temperature, and one over the smallest


@dataclass(frozen=True, kw_only=True)
class Calibration(ABC):
    """A map of logits, and which rows it was fitted on.

    Attributes:
        split: Whose rows it was fitted on half of.
        rows: How many.
    """

    name: ClassVar[str]
    split: str
    rows: int

    @classmethod
    @abstractmethod
    def fit(cls, label: Array, logit: Array, *, split: str) -> "Calibration":
        """The map that fits best.

        Args:
            label: 0 or 1, (N,), both of which occur.
            logit: Of class 1, (N,).
            split: Whose rows these are.

        Raises:
            DataError: A label is something else, or all are equal.
        """

    @abstractmethod
    def apply(self, logit: Array) -> NDArray[np.float64]:
        """The calibrated logits, (N,)."""

    @abstractmethod
    def described(self) -> str:
        """What it is, for a log line."""

    @abstractmethod
    def to_plain(self) -> dict[str, Any]:
        """Plain data, for a checkpoint; `calibration_from_plain` is the inverse."""


@dataclass(frozen=True, kw_only=True)
class Temperature(Calibration):
    """logit / T: one number makes all predictions bolder or more careful, the order stays.

    T has the least LogLoss, which is convex in 1 / T. It is kept within 1/1000 and 1000, which it
    would leave for logits that say nothing, or that separate the classes.

    Source: C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """

    name = "temperature"
    temperature: float

    def __post_init__(self) -> None:
        if not 1 / _MOST <= self.temperature <= _MOST:
            raise ValueError(f"no temperature: {self.temperature}")

    @classmethod
    def fit(cls, label: Array, logit: Array, *, split: str) -> "Temperature":
        from scipy.optimize import brentq  # slow to import

        _check_both(label, logit)
        logit, positive = np.asarray(logit, np.float64), label == 1

        def slope(log_factor: float) -> float:
            """Of the LogLoss by 1 / T = e^log_factor; it rises with that."""
            exponent = np.clip(np.exp(log_factor) * logit, -700, 700)
            return float((logit * (1 / (1 + np.exp(-exponent)) - positive)).mean())

        low, high = -np.log(_MOST), np.log(_MOST)
        if slope(low) >= 0:
            factor = low
        elif slope(high) <= 0:
            factor = high
        else:
            factor = float(brentq(slope, low, high, xtol=1e-9))
        temperature = float(np.clip(np.exp(-factor), 1 / _MOST, _MOST))
        return cls(split=split, rows=len(label), temperature=temperature)

    def apply(self, logit: Array) -> NDArray[np.float64]:
        calibrated: NDArray[np.float64] = np.asarray(logit, np.float64) / self.temperature
        return calibrated

    def described(self) -> str:
        return f"temperature {self.temperature:.4g}"

    def to_plain(self) -> dict[str, Any]:
        return {
            "method": self.name,
            "split": self.split,
            "rows": self.rows,
            "temperature": self.temperature,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Isotonic(Calibration):
    """The rising steps that have the least squared error: any shape, and equal rows where it falls.

    Between steps it is linear in the logit, beyond the first and last knot constant. The shares
    of positives that steps stand for are kept 0.5 / N from 0 and 1, so that every logit is finite.

    Attributes:
        knots, values: Logits before and after, (K,) each; knots rise, values do not fall.

    Source: B. Zadrozny, C. Elkan, "Transforming Classifier Scores into Accurate Multiclass
    Probability Estimates", KDD 2002; the fit is scikit-learn's `IsotonicRegression`.
    """

    name = "isotonic"
    knots: NDArray[np.float64]
    values: NDArray[np.float64]

    def __post_init__(self) -> None:
        knots, values = self.knots, self.values
        if knots.ndim != 1 or not len(knots) or knots.shape != values.shape:
            raise ValueError("no knots and values")
        if not np.isfinite(knots).all() or not np.isfinite(values).all():
            raise ValueError("a knot or a value is not finite")
        if (np.diff(knots) <= 0).any() or (np.diff(values) < 0).any():
            raise ValueError("knots or values fall")

    @classmethod
    def fit(cls, label: Array, logit: Array, *, split: str) -> "Isotonic":
        from sklearn.isotonic import IsotonicRegression  # slow to import

        _check_both(label, logit)
        least = 0.5 / len(label)
        steps = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
        steps.fit(np.asarray(logit, np.float64), np.asarray(label, np.float64))
        knots, places = np.unique(steps.X_thresholds_, return_index=True)
        values = np.maximum.accumulate(log_odds_of(steps.y_thresholds_[places]))
        return cls(split=split, rows=len(label), knots=knots, values=values)

    def apply(self, logit: Array) -> NDArray[np.float64]:
        if len(self.knots) == 1:
            return np.full(logit.shape, self.values[0])
        logit = np.clip(np.asarray(logit, np.float64), self.knots[0], self.knots[-1])
        right = np.clip(np.searchsorted(self.knots, logit, side="right"), 1, len(self.knots) - 1)
        left = right - 1
        share = (logit - self.knots[left]) / (self.knots[right] - self.knots[left])
        rise = self.values[right] - self.values[left]
        # Rounding must not lift the end of a piece above the beginning of the next.
        calibrated: NDArray[np.float64] = np.minimum(
            self.values[left] + share * rise, self.values[right]
        )
        return calibrated

    def described(self) -> str:
        return f"isotonic, {len(self.knots):,} knots"

    def to_plain(self) -> dict[str, Any]:
        return {
            "method": self.name,
            "split": self.split,
            "rows": self.rows,
            "knots": self.knots.tolist(),
            "values": self.values.tolist(),
        }


METHODS: dict[str, type[Calibration]] = {kind.name: kind for kind in (Temperature, Isotonic)}


def calibration_from_plain(plain: Mapping[str, Any]) -> Calibration:
    """The inverse of `Calibration.to_plain`.

    Raises:
        KeyError, TypeError, ValueError: It is none.
    """
    split, rows = str(plain["split"]), int(plain["rows"])
    if plain["method"] == Temperature.name:
        return Temperature(split=split, rows=rows, temperature=float(plain["temperature"]))
    if plain["method"] == Isotonic.name:
        knots, values = (np.asarray(plain[key], np.float64) for key in ("knots", "values"))
        return Isotonic(split=split, rows=rows, knots=knots, values=values)
    raise ValueError(f"unknown calibration {plain['method']!r}")


def _check_both(label: Array, logit: Array) -> None:
    """Refuse rows that no map can be fitted to.

    Raises:
        DataError: A label is neither 0 nor 1, or all are equal.
    """
    check_rows(label, logit.shape)
    if (label == label[0]).all():
        raise DataError(
            f"all {len(label):,} labels are {label[0]:g}: there is nothing to calibrate by"
        )
