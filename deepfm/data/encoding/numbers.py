"""Encoders of numbers, and what is learnt of the training split for them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deepfm.data.schema import FieldSchema

FLOAT32_MAX = float(np.finfo(np.float32).max)
MOMENTS_BLOCK = 1 << 16  # numbers whose moments are taken at once


class Scaler:
    """Numbers to float32, absent ones filled in first.

    `none`: as they are; `min_max`: (x - min) / (max - min), not clipped outside; `standard`:
    (x - mean) / population deviation; `log1p`: ln(1 + x). Where the training split has one value
    only, `min_max` and `standard` give 0. Results beyond float32 become its largest number. A
    default takes the place of an absent value as it is, unscaled. Of a vector all numbers are
    scaled alike, by the figures of all of them together.

    Args:
        scale, missing: As in `FieldSchema`.
        low, high, mean, deviation: Of the training split's numbers.
        default: One number, or as many as the field has per row; None: there is none.
    """

    vocabulary_size = 0

    def __init__(
        self,
        scale: str,
        missing: str,
        *,
        low: float,
        high: float,
        mean: float,
        deviation: float,
        default: Sequence[float] | None = None,
    ) -> None:
        self.scale = scale
        self.missing = missing
        self.default = default
        self.low, self.high = low, high
        self.mean, self.deviation = mean, deviation

    def transform(self, numbers: np.ndarray) -> np.ndarray:
        """Scaled values, (N,) or (N, value_dim) float32 as the numbers; NaN is absent."""
        if self.default is not None and (absent := np.isnan(numbers)).any():
            return np.where(absent, np.float32(self.default), self._scaled(numbers))
        return self._scaled(numbers)

    def _scaled(self, numbers: np.ndarray) -> np.ndarray:
        fill = self.mean if self.missing in ("mean", "indicator") else 0.0
        if (absent := np.isnan(numbers)).any():
            numbers = np.where(absent, fill, numbers)
        if self.scale == "log1p":
            numbers = np.log1p(numbers)
        elif self.scale in ("min_max", "standard"):
            origin, span = self.low, self.high - self.low
            if self.scale == "standard":
                origin, span = self.mean, self.deviation
            if self.low == self.high or not span:
                return np.zeros(numbers.shape, np.float32)
            with np.errstate(over="ignore"):  # clipped below
                numbers = (numbers - origin) / span
        return np.clip(numbers, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)

    def grown_from(self, base: "Scaler") -> "Scaler":
        return base

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Scaler":
        before = {"scale": "min_max", "missing": "error", "mean": 0.0, "deviation": 0.0}
        return cls(**(before | dict(stored)))  # an older form has `low` and `high` only


class Moments:
    """Minimum, maximum, mean and deviation of numbers, block by block.

    Blocks are merged by the formula of Chan, Golub and LeVeque ("Updating Formulae and a Pairwise
    Algorithm for Computing Sample Variances", 1979), which loses nothing where the mean is large
    beside the deviation. Blocks are cut by count, so that batches of any size give equal bits.
    """

    def __init__(self, field: FieldSchema, position: int) -> None:
        self._low, self._high = math.inf, -math.inf
        self._count, self._mean, self._squares = 0, 0.0, 0.0
        self._waiting = np.zeros(0)

    def add(self, numbers: np.ndarray) -> None:
        """Add the numbers that are there, (N,) float64 without NaN."""
        if not len(numbers):
            return
        self._low = min(self._low, float(numbers.min()))
        self._high = max(self._high, float(numbers.max()))
        numbers = np.concatenate([self._waiting, numbers])
        whole = len(numbers) // MOMENTS_BLOCK * MOMENTS_BLOCK
        for start in range(0, whole, MOMENTS_BLOCK):
            self._merge(numbers[start : start + MOMENTS_BLOCK])
        self._waiting = numbers[whole:]

    def _merge(self, block: np.ndarray) -> None:
        mean = float(block.mean())
        count, delta = self._count + len(block), mean - self._mean
        self._squares += float(np.square(block - mean).sum())
        self._squares += delta * delta * self._count * len(block) / count
        self._mean += delta * len(block) / count
        self._count = count

    @staticmethod
    def finish(moments: Sequence["Moments"], field: FieldSchema) -> Scaler:
        """The scaler of one field; without any number all four figures are 0."""
        (own,) = moments  # a dense field shares nothing
        if len(own._waiting):
            own._merge(own._waiting)
            own._waiting = np.zeros(0)
        low, high = (own._low, own._high) if own._count else (0.0, 0.0)
        default = None
        if field.default is not None:
            default = [float(element) for element in field.default_elements]
        deviation = math.sqrt(own._squares / max(own._count, 1))
        return Scaler(
            field.scale,
            field.missing,
            low=low,
            high=high,
            mean=own._mean,
            deviation=deviation,
            default=default,
        )
