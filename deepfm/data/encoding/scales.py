"""The scales of a dense field: what a number becomes before a model sees it."""

from typing import ClassVar, NamedTuple

import numpy as np

FLOAT32_MAX = float(np.finfo(np.float32).max)


class Figures(NamedTuple):
    """Range and moments of the training split's numbers, as `Scale.curved` gives them."""

    low: float
    high: float
    mean: float
    deviation: float


class Line(NamedTuple):
    """(x - origin) / span; 0 for all x where the span is 0."""

    origin: float
    span: float


class Scale:
    """Numbers as they are.

    Attributes:
        name: What a field calls it.
        is_learnt: Whether it depends on the training split.
        is_curved: Whether figures are not those of the numbers themselves.
        above: Numbers must lie above this one.
    """

    name: ClassVar[str] = "none"
    is_learnt: ClassVar[bool] = False
    is_curved: ClassVar[bool] = False
    above: ClassVar[float] = -np.inf

    def curved(self, numbers: np.ndarray) -> np.ndarray:
        """What figures are taken of: the numbers, or a function of each that learns nothing."""
        return numbers

    def line(self, figures: Figures) -> Line:
        """The line that the numbers are scaled along, after a logarithm if there is one."""
        return Line(0.0, 1.0)

    def scaled(self, numbers: np.ndarray, figures: Figures) -> np.ndarray:
        """The scaled numbers, of the shape they have, float64."""
        return numbers


class MinMax(Scale):
    """(x - min) / (max - min), not clipped outside; 0 where there was one value only."""

    name = "min_max"
    is_learnt = True

    def line(self, figures: Figures) -> Line:
        return Line(figures.low, figures.high - figures.low)

    def scaled(self, numbers: np.ndarray, figures: Figures) -> np.ndarray:
        return _spread(numbers, self.line(figures))


class Standard(Scale):
    """(x - mean) / population deviation; 0 where there was one value only."""

    name = "standard"
    is_learnt = True

    def line(self, figures: Figures) -> Line:
        return Line(figures.mean, 0.0 if figures.low == figures.high else figures.deviation)

    def scaled(self, numbers: np.ndarray, figures: Figures) -> np.ndarray:
        return _spread(numbers, self.line(figures))


class PlainLog1p(Scale):
    """ln(1 + x), which is what version 1 of configs calls `log1p`."""

    name = "plain_log1p"
    above = -1.0

    def scaled(self, numbers: np.ndarray, figures: Figures) -> np.ndarray:
        return np.asarray(np.log1p(numbers))


class Log1p(Standard):
    """(ln(1 + x) - mean) / population deviation, both of ln(1 + x)."""

    name = "log1p"
    is_curved = True
    above = -1.0

    def curved(self, numbers: np.ndarray) -> np.ndarray:
        return np.asarray(np.log1p(numbers))

    def scaled(self, numbers: np.ndarray, figures: Figures) -> np.ndarray:
        return super().scaled(self.curved(numbers), figures)


SCALES: dict[str, Scale] = {
    scale.name: scale for scale in (Scale(), MinMax(), Standard(), Log1p(), PlainLog1p())
}


def _spread(numbers: np.ndarray, line: Line) -> np.ndarray:
    if not line.span:
        return np.zeros(numbers.shape)
    with np.errstate(over="ignore"):  # clipped afterwards
        found: np.ndarray = (numbers - line.origin) / line.span
    return found
