"""Encoders of numbers, and what is learnt of the training split for them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepfm.data.encoding.kinds import Encoder, NumbersOfRows, State, TrainingValues
from deepfm.data.encoding.learnt import QuantileSample
from deepfm.data.encoding.moments import Moments
from deepfm.data.encoding.scales import FLOAT32_MAX, SCALES, Figures, Log1p, PlainLog1p

if TYPE_CHECKING:
    from deepfm.data.schema import FieldSchema

FILLED_WITH_MEAN = ("mean", "indicator")  # values of `missing`


class Scaler(Encoder):
    """Numbers to float32, absent ones filled in first.

    The scale is one of `deepfm.data.encoding.scales`. Results beyond float32 become its largest
    number. A default takes the place of an absent value as it is, unscaled. Of a vector all
    numbers are scaled alike, by the figures of all of them together.

    Args:
        scale, missing: As in `FieldSchema`.
        low, high, mean, deviation: Of the training split's numbers, as its scale curves them.
        filling: Mean of the training split's numbers; None: `mean`.
        limits: What lies outside them is set to them before anything else; None: there are none.
        edges: Of the bins of a `piecewise` field, scaled; None: it is none.
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
        filling: float | None = None,
        limits: Sequence[float] | None = None,
        edges: Sequence[float] | None = None,
        default: Sequence[float] | None = None,
    ) -> None:
        self.scale = scale
        self.missing = missing
        self.default = default
        self.low, self.high = low, high
        self.mean, self.deviation = mean, deviation
        self.filling, self.limits, self.edges = filling, limits, edges

    @property
    def vocabulary_size(self) -> int:
        return 0  # numbers have no table

    @property
    def learnt(self) -> dict[str, Any]:
        return {"vocabulary_size": 0, "edges": tuple(self.edges or ())}

    @classmethod
    def chosen_by(cls, field: "FieldSchema") -> bool:
        return False  # every dense field has it, and no other

    @classmethod
    def must_be_fitted(cls, field: "FieldSchema") -> bool:
        learns = SCALES[field.scale].is_learnt or field.missing in FILLED_WITH_MEAN
        return learns or SeenNumbers.are_sampled(field)

    @classmethod
    def accumulator(cls, field: "FieldSchema", position: int) -> "SeenNumbers":
        return SeenNumbers(field, position)

    @classmethod
    def fitted(cls, fields: Sequence["FieldSchema"], learnt: Sequence["SeenNumbers"]) -> "Scaler":
        (field,), (seen,) = fields, learnt  # a dense field shares nothing
        default = None
        if field.default is not None:
            default = [float(element) for element in field.default_elements]
        limits = seen.limits(field.clip) if field.clip else None
        figures, mean = seen.figures(limits)
        scaler = cls(
            field.scale,
            field.missing,
            **figures._asdict(),
            filling=mean if SCALES[field.scale].is_curved else None,
            limits=limits,
            default=default,
        )
        if field.dense_embedding == "piecewise":
            scaler.edges = _rising(scaler.encode(seen.edges(field.bins)))
        return scaler

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Scaled values, (N,) or (N, value_dim) float32 as the numbers; NaN is absent."""
        absent = np.isnan(values)
        mean = self.mean if self.filling is None else self.filling
        fill = mean if self.missing in FILLED_WITH_MEAN else 0.0
        numbers = np.where(absent, fill, values) if absent.any() else values
        if self.limits is not None:
            low, high = self.limits
            numbers = np.clip(numbers, low, high)
        figures = Figures(self.low, self.high, self.mean, self.deviation)
        numbers = SCALES[self.scale].scaled(numbers, figures)
        scaled = np.clip(numbers, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)
        if self.default is not None and absent.any():
            return np.where(absent, np.array(self.default, np.float32), scaled)
        return scaled

    def grown_from(self, base: "Scaler") -> "Scaler":
        return base

    def to_dict(self) -> dict[str, Any]:
        learnt_later = ("filling", "limits", "edges")
        return {k: v for k, v in vars(self).items() if v is not None or k not in learnt_later}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Scaler":
        before: dict[str, Any] = {
            "scale": "min_max",
            "missing": "error",
            "mean": 0.0,
            "deviation": 0.0,
        }
        found = before | dict(stored)  # an older form has `low` and `high` only
        if found["scale"] == Log1p.name and "filling" not in found:  # it was not standardised then
            found["scale"] = PlainLog1p.name
        for key in ("low", "high", "mean", "deviation", "filling"):
            if found.get(key) is not None:
                found[key] = float(found[key])
        edges = np.array(found.get("edges") or [0.0, 1.0], np.float64)
        if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
            raise ValueError("edges are no rising numbers")
        return cls(**found)


def _rising(edges: np.ndarray) -> list[float]:
    """The distinct ones of edges, two at least, so that there is a bin."""
    found = np.unique(edges).tolist() or [0.0]
    if len(found) > 1:
        return found
    return [found[0], min(FLOAT32_MAX, found[0] + max(1.0, abs(found[0])))]


def _rows_of_a_bin(rows: np.ndarray, count: int) -> float:
    """What the rows of one of `count` bins come to if no value counts as more than that.

    The m most frequent values fill a bin each, and the other bins share the rows of the others,
    with the smallest m for which none of these is more than a bin.
    """
    falling = np.sort(rows)[::-1][:count]
    full = np.arange(len(falling))
    shares = (rows.sum() - (falling.cumsum() - falling)) / (count - full)
    return float(shares[np.argmax(falling <= shares)])


class SeenNumbers:
    """What a dense field learns of its numbers: moments, and a sample where quantiles are needed.

    Under a `clip` all figures are those of the clipped numbers of the sample, which is every
    number of up to 2^20, because a stream's limits are known at its end only.
    """

    def __init__(self, field: "FieldSchema", position: int) -> None:
        scale = SCALES[field.scale]
        self._curved, self._moments = scale.curved, Moments()
        self._plain = Moments() if scale.is_curved else self._moments
        self._sample = QuantileSample(position) if self.are_sampled(field) else None

    @staticmethod
    def are_sampled(field: "FieldSchema") -> bool:
        """Whether the field needs quantiles."""
        return bool(field.clip) or field.dense_embedding == "piecewise"

    def learn(self, values: TrainingValues) -> None:
        self.add(values.numbers())

    def add(self, found: NumbersOfRows) -> None:
        self._moments.add(found._replace(numbers=self._curved(found.numbers)))
        if self._plain is not self._moments:
            self._plain.add(found)
        if self._sample is not None:
            self._sample.add(found)

    def state(self) -> State:
        return {
            f"{part} {name}": values
            for part, accumulator in self._parts().items()
            for name, values in accumulator.state().items()
        }

    def merge(self, state: State) -> None:
        for part, accumulator in self._parts().items():
            start = f"{part} "
            accumulator.merge(
                {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
            )

    def _parts(self) -> dict[str, Moments | QuantileSample]:
        parts: dict[str, Moments | QuantileSample] = {"moments": self._moments}
        if self._plain is not self._moments:
            parts["plain"] = self._plain
        if self._sample is not None:
            parts["sample"] = self._sample
        return parts

    def limits(self, share: float) -> list[float] | None:
        """The quantiles `share` and 1 - `share`; None where nothing lies between them.

        A number that is nearly always 0 would be nothing but 0 between its quantiles.
        """
        numbers = self._sampled()
        if not len(numbers):
            return None
        low, high = np.quantile(numbers, [share, 1 - share], method="inverted_cdf").tolist()
        return [low, high] if low < high else None

    def figures(self, limits: Sequence[float] | None) -> tuple[Figures, float]:
        """The figures of the curved numbers, and the mean of the numbers themselves."""
        if limits is None:
            return self._moments.figures(), self._plain.figures().mean
        low, high = limits
        clipped = np.clip(self._sampled(), low, high)
        moments, plain = Moments(), Moments()
        places = np.arange(len(clipped))
        moments.add(NumbersOfRows(self._curved(clipped), places))
        plain.add(NumbersOfRows(clipped, places))
        return moments.figures(), plain.figures().mean

    def edges(self, count: int) -> np.ndarray:
        """Those of at most `count` bins with about equally many rows, rising: values that occur.

        With no more distinct values than edges, each is one. Otherwise a value counts as the rows
        of one bin at most, or a number that is nearly always 0 would have all its edges there.
        """
        values, rows = np.unique(self._sampled(), return_counts=True)
        if len(values) <= count + 1:
            return values
        weight = np.minimum(rows, _rows_of_a_bin(rows, count)).cumsum()
        wanted = weight[-1] * np.arange(count + 1) / count * (1 - 1e-12)  # equal up to rounding
        edges: np.ndarray = values[np.unique(np.searchsorted(weight, wanted))]
        return edges

    def _sampled(self) -> np.ndarray:
        assert self._sample is not None
        return self._sample.numbers()
