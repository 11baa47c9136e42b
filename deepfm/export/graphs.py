"""What is exported, as modules that take tensors and give tensors, and nothing else.

Decided here: what a graph computes beside the model. The logits of several checkpoints are
averaged, calibrated, and made predictions in float64, as `deepfm.prediction.Predictor` does it, so
that whoever runs the graph has nothing left to compute. For lists there are graphs of the halves of
a pair (`deepfm.models.pairs`), which are joined by a third one.

Shapes: B rows, I items, H hidden units, K factors.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepfm.data.batch import Inputs
from deepfm.data.schema import DatasetSchema
from deepfm.evaluation.calibration import Calibration, Isotonic, Temperature
from deepfm.exported.layout import InputLayout
from deepfm.models.base import BaseCTRModel
from deepfm.models.pairs import Halves, PairScorer, Terms
from deepfm.objectives import Task, logits_by_name


class Outputs(NamedTuple):
    """The outputs of `RowsGraph` in their order.

    Attributes:
        uncalibrated: Names of tasks whose logits before the calibration are given, too.
        logits: Names of logits.
        predictions: Of tasks whose predictions are another thing than a logit.
    """

    uncalibrated: list[str]
    logits: list[str]
    predictions: list[str]

    @property
    def names(self) -> list[str]:
        """Of the outputs."""
        parts = zip(("uncalibrated", "logit", "prediction"), self, strict=True)
        return [named(what, of) for what, names in parts for of in names]


def named(what: str, of: str) -> str:
    """The name of an output: `logit`, or of a task among several `logit.click`."""
    return f"{what}.{of}" if of else what


class RowsGraph(nn.Module):
    """Predictions of rows, (B,) or (B, C) float64 each, behind the logits that they are made of.

    Args:
        models: Frozen; their logits are averaged.
        calibrations: By task.
    """

    def __init__(
        self, models: Sequence[BaseCTRModel], calibrations: Mapping[str, Calibration]
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.tasks: tuple[Task, ...] = tuple(models[0].tasks)
        self.assembled = _Assembled(models[0].schema)
        self.calibrations = {name: calibrated(found) for name, found in calibrations.items()}
        self._modules |= {f"calibration_{k}": m for k, m in enumerate(self.calibrations.values())}

    def outputs(self, tensors: Sequence[Tensor]) -> Outputs:
        """What `forward` gives, of any rows."""
        _, logits = self._logits(tensors)
        others = [task for task in self.tasks if not _is_logit(task.prediction(logits), logits)]
        return Outputs(list(self.calibrations), list(logits), [task.name for task in others])

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        """Give the outputs of `outputs`, of the inputs of an `InputLayout`."""
        before, logits = self._logits(tensors)
        predictions = [task.prediction(logits) for task in self.tasks]
        others = [found for found in predictions if not _is_logit(found, logits)]
        return [*before.values(), *logits.values(), *others]

    def _logits(self, tensors: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Those that are calibrated as they were before, and all as they are."""
        inputs = self.assembled(tensors)
        of_models = [logits_by_name(model(inputs)) for model in self.models]
        logits = {
            name: torch.stack([of_one[name].double() for of_one in of_models]).mean(0)
            if len(of_models) > 1
            else of_models[0][name].double()
            for name in of_models[0]
        }
        before = {name: logits[name] for name in self.calibrations}
        for name, calibration in self.calibrations.items():
            logits[name] = calibration(logits[name])
        return before, logits


class HalvesGraph(nn.Module):
    """What users or items contribute to the logit of a pair: of each model (B, H) and (B, K).

    Without a network there is no hidden half.

    Args:
        scorers: Of each model.
        side: `user`, with all that is no item's, or `item`.
    """

    def __init__(self, scorers: Sequence[PairScorer], side: str) -> None:
        super().__init__()
        self.models = nn.ModuleList(scorer.model for scorer in scorers)
        self.first = nn.ModuleList(s.first for s in scorers if s.first is not None)
        self.second_order = [scorer.second_order for scorer in scorers]
        self.is_user = side == "user"
        self.assembled = _Assembled(scorers[0].model.schema, groups_of(side))
        for k, scorer in enumerate(scorers):
            for name, part in scorer.empty._asdict().items():
                self.register_buffer(f"empty_{name}_{k}", part)

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        """Give the halves, of the inputs of an `InputLayout` of one side."""
        inputs = self.assembled(tensors)
        found: list[Tensor] = []
        networks = iter(self.first)
        for k, model in enumerate(self.models):
            assert isinstance(model, BaseCTRModel)
            terms = Terms.of(model, inputs, second_order=self.second_order[k])
            if not self.is_user:
                empty = (self.get_buffer(f"empty_{name}_{k}") for name in Terms._fields)
                terms = terms.beyond(Terms(*empty))
            if (branches := model.pair_branches()) is not None and branches.dnn is not None:
                first = next(networks)
                assert isinstance(first, nn.Linear)
                bias = first.bias if self.is_user else None
                found.append(F.linear(terms.flat, first.weight, bias))  # (B, H)
            if self.is_user:
                assert model.bias is not None
                found.append(terms.user_factors(model.bias))  # (B, K)
            else:
                found.append(terms.item_factors())
        return found


class PairGraph(nn.Module):
    """Logits (I,) float64 of one user and I items, of their halves, those of the user first."""

    def __init__(self, scorers: Sequence[PairScorer]) -> None:
        super().__init__()
        self.rest = nn.ModuleList(s.rest for s in scorers if s.first is not None)
        self.has_network = [scorer.first is not None for scorer in scorers]

    def forward(self, halves_of_both: list[Tensor]) -> Tensor:
        """Give the mean of the models' logits."""
        of_each = len(halves_of_both) // 2
        users, halves = iter(halves_of_both[:of_each]), iter(halves_of_both[of_each:])
        networks = iter(self.rest)
        found = []
        for has_network in self.has_network:
            deep = 0.0
            if has_network:
                deep = next(networks)(next(halves) + next(users)).squeeze(1)
            found.append((next(halves) @ next(users)[0] + deep).double())
        return torch.stack(found).mean(0) if len(found) > 1 else found[0]


def pair_scorers(models: Sequence[BaseCTRModel]) -> list[PairScorer] | None:
    """What makes halves of each model; None where some model reads whole rows only."""
    if any(model.pair_branches() is None for model in models):
        return None
    return [PairScorer(model, _empty_row(model.schema)) for model in models]


def halves_of(scorers: Sequence[PairScorer], inputs: Inputs, side: str) -> list[Tensor]:
    """What `HalvesGraph` gives, by the scorers themselves, of whole rows."""
    found: list[Tensor] = []
    for scorer in scorers:
        halves: Halves = getattr(scorer, f"{side}_halves")(inputs)
        found += [half for half in halves if half.shape[1]]
    return found


def groups_of(side: str) -> tuple[str, ...]:
    """The groups of fields of one side of a pair."""
    return ("item",) if side == "item" else ("user", "context")


def assembled(schema: DatasetSchema, groups: Sequence[str], arrays: Sequence[np.ndarray]) -> Inputs:
    """Rows whose fields of some groups are given, as of `InputLayout`, and all others 0."""
    found: Inputs = _Assembled(schema, groups)([torch.from_numpy(array) for array in arrays])
    return found


class _Assembled(nn.Module):
    """The inputs of a model, of those of a layout; fields that are none of it have zeros.

    Args:
        groups: As of `InputLayout`.
    """

    def __init__(self, schema: DatasetSchema, groups: Sequence[str] | None = None) -> None:
        super().__init__()
        self.layout = layout = InputLayout(schema, groups)
        widths = len(schema.sparse_fields), sum(f.value_dim for f in schema.dense_fields)
        self.widths, self.sequences = widths, len(schema.sequence_fields)
        # Where each column stands behind the given ones and zeros.
        for name, own, width in (("sparse", layout.sparse, 0), ("dense", layout.dense, 1)):
            others = [k for k in range(widths[width]) if k not in own]
            order = torch.tensor([*own.tolist(), *others], dtype=torch.int64).argsort()
            self.register_buffer(f"{name}_order", order)

    def forward(self, tensors: Sequence[Tensor]) -> Inputs:
        given, rows = iter(tensors), tensors[0].shape[0]
        layout, (sparse_width, dense_width) = self.layout, self.widths
        sparse = next(given) if len(layout.sparse) else tensors[0].new_zeros((rows, 0)).long()
        dense = next(given) if len(layout.dense) else tensors[0].new_zeros((rows, 0)).float()
        if sparse.shape[1] < sparse_width:
            rest = sparse.new_zeros((rows, sparse_width - sparse.shape[1]))
            sparse = torch.cat([sparse, rest], 1).index_select(1, self.get_buffer("sparse_order"))
        if dense.shape[1] < dense_width:
            rest = dense.new_zeros((rows, dense_width - dense.shape[1]))
            dense = torch.cat([dense, rest], 1).index_select(1, self.get_buffer("dense_order"))
        ids = [sparse.new_zeros((rows, 1)) for _ in range(self.sequences)]
        lengths = [sparse.new_zeros(rows) for _ in range(self.sequences)]
        for of_fields in (ids, lengths):
            for place in layout.sequences.tolist():
                of_fields[place] = next(given)
        return Inputs(sparse, dense, tuple(ids), tuple(lengths))


def _empty_row(schema: DatasetSchema) -> Inputs:
    """A row whose ids, numbers and lengths are all 0."""
    assembled = _Assembled(schema, ())
    found: Inputs = assembled([torch.zeros(1, 0)])
    return found


class _Temperature(nn.Module):
    """`Temperature.apply` of logits."""

    temperature: Tensor

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float64))

    def forward(self, logit: Tensor) -> Tensor:
        return logit / self.temperature


class _Isotonic(nn.Module):
    """`Isotonic.apply` of logits; the place among the knots is found by halving."""

    knots: Tensor
    values: Tensor

    def __init__(self, found: Isotonic) -> None:
        super().__init__()
        self.register_buffer("knots", torch.from_numpy(found.knots))
        self.register_buffer("values", torch.from_numpy(found.values))

    def forward(self, logit: Tensor) -> Tensor:
        last = len(self.knots) - 1
        if not last:
            return torch.zeros_like(logit) + self.values[0]
        # Tensors, because the exporter makes float32 of Python's numbers.
        logit = torch.minimum(torch.maximum(logit, self.knots[:1]), self.knots[-1:])
        left = torch.zeros_like(logit, dtype=torch.int64)
        step = 1 << (last.bit_length() - 1)
        while step:  # left: the largest place whose knot is not above the logit
            tried = (left + step).clamp(max=last)
            left = torch.where(self._at(self.knots, tried) <= logit, tried, left)
            step //= 2
        left = left.clamp(max=last - 1)
        low, high = self._at(self.knots, left), self._at(self.knots, left + 1)
        below, above = self._at(self.values, left), self._at(self.values, left + 1)
        return torch.minimum(below + (logit - low) / (high - low) * (above - below), above)

    @staticmethod
    def _at(values: Tensor, places: Tensor) -> Tensor:
        return values.index_select(0, places)


class _Calibrated(nn.Module):
    """Logits (B,), or of two classes (B, 2), whose difference is the logit of class 1."""

    def __init__(self, of_class: nn.Module) -> None:
        super().__init__()
        self.of_class = of_class

    def forward(self, logits: Tensor) -> Tensor:
        if logits.dim() == 1:
            found: Tensor = self.of_class(logits)
            return found
        first = logits[:, 0]
        return torch.stack([first, first + self.of_class(logits[:, 1] - first)], 1)


def calibrated(found: Calibration) -> nn.Module:
    """`Calibration.apply` of logits (B,), or of two classes (B, 2), in float64."""
    if isinstance(found, Temperature):
        return _Calibrated(_Temperature(found.temperature))
    assert isinstance(found, Isotonic)
    return _Calibrated(_Isotonic(found))


def _is_logit(prediction: Tensor, logits: Mapping[str, Tensor]) -> bool:
    """Whether what is predicted is a logit itself."""
    return any(prediction is logit for logit in logits.values())
