"""Encoders of numbers, and what is learnt of the training split for them."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepfm.data.encoding.kinds import Encoder, TrainingValues
from deepfm.data.encoding.scales import SCALES, Figures

if TYPE_CHECKING:
    from deepfm.data.schema import FieldSchema

FLOAT32_MAX = float(np.finfo(np.float32).max)
FILLED_WITH_MEAN = ("mean", "indicator")  # values of `missing`
MOMENTS_BLOCK = 1 << 16  # numbers whose moments are taken at once


class Scaler(Encoder):
    """Numbers to float32, absent ones filled in first.

    The scale is one of `deepfm.data.encoding.scales`. Results beyond float32 become its largest
    number. A default takes the place of an absent value as it is, unscaled. Of a vector all
    numbers are scaled alike, by the figures of all of them together.

    Args:
        scale, missing: As in `FieldSchema`.
        low, high, mean, deviation: Of the training split's numbers.
        default: One number, or as many as the field has per row; None: there is none.
    """

    kind = "scaler"
    reads = "number"

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

    @property
    def vocabulary_size(self) -> int:
        return 0  # numbers have no table

    @classmethod
    def chosen_by(cls, field: "FieldSchema") -> bool:
        return False  # every dense field has it, and no other

    @classmethod
    def must_be_fitted(cls, field: "FieldSchema") -> bool:
        return SCALES[field.scale].is_learnt or field.missing in FILLED_WITH_MEAN

    @classmethod
    def accumulator(cls, field: "FieldSchema", position: int) -> "Moments":
        return Moments()

    @classmethod
    def fitted(cls, fields: Sequence["FieldSchema"], learnt: Sequence["Moments"]) -> "Scaler":
        (field,), (moments,) = fields, learnt  # a dense field shares nothing
        default = None
        if field.default is not None:
            default = [float(element) for element in field.default_elements]
        figures = moments.figures()
        return cls(
            field.scale,
            field.missing,
            low=figures.low,
            high=figures.high,
            mean=figures.mean,
            deviation=figures.deviation,
            default=default,
        )

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Scaled values, (N,) or (N, value_dim) float32 as the numbers; NaN is absent."""
        absent = np.isnan(values)
        fill = self.mean if self.missing in FILLED_WITH_MEAN else 0.0
        numbers = np.where(absent, fill, values) if absent.any() else values
        figures = Figures(self.low, self.high, self.mean, self.deviation)
        numbers = SCALES[self.scale].scaled(numbers, figures)
        scaled = np.clip(numbers, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)
        if self.default is not None and absent.any():
            return np.where(absent, np.array(self.default, np.float32), scaled)
        return scaled

    def grown_from(self, base: "Scaler") -> "Scaler":
        return base

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Scaler":
        before: dict[str, Any] = {
            "scale": "min_max",
            "missing": "error",
            "mean": 0.0,
            "deviation": 0.0,
        }
        return cls(**(before | dict(stored)))  # an older form has `low` and `high` only


class Moments:
    """Minimum, maximum, mean and deviation of numbers, block by block.

    Blocks are merged by the formula of Chan, Golub and LeVeque ("Updating Formulae and a Pairwise
    Algorithm for Computing Sample Variances", 1979), which loses nothing where the mean is large
    beside the deviation. Blocks are cut by count, so that batches of any size give equal bits.
    """

    def __init__(self) -> None:
        self._low, self._high = math.inf, -math.inf
        self._count, self._mean, self._squares = 0, 0.0, 0.0
        self._waiting = np.zeros(0)

    def learn(self, values: TrainingValues) -> None:
        self.add(values.numbers())

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

    def figures(self) -> Figures:
        """Range, mean and population deviation of all numbers; without any, all four are 0."""
        if len(self._waiting):
            self._merge(self._waiting)
            self._waiting = np.zeros(0)
        low, high = (self._low, self._high) if self._count else (0.0, 0.0)
        deviation = math.sqrt(self._squares / max(self._count, 1))
        return Figures(low, high, self._mean, deviation)
