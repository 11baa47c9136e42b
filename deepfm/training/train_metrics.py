"""Metrics of the training batches while they pass, for the log: averages that forget.

A window is `decay_step` batches. When it ends, what is shown moves towards it: from v to
`decay_rate` v + (1 - `decay_rate`) m, where m is the metric of the window, and at the first one to
m itself. Of the AUC not the value is averaged but the counts that it is made from. In between, and
before the first window ends (when it is 0), the value stands still.

Shapes: B rows, C classes, T thresholds.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepfm.config import reported_names
from deepfm.data.batch import Batch
from deepfm.evaluation.metrics import accuracy, auc_of_counts, threshold_counts, xauc


def build_train_metrics(specs: Sequence[Mapping[str, Any]]) -> dict[str, "TrainMetric"]:
    """The metrics of some specs, as in `training.metrics`, by the names they are shown under."""
    made = [_METRICS[spec["name"]](spec) for spec in specs]
    return dict(zip(reported_names(specs), made, strict=True))


class TrainMetric(ABC):
    """One metric over windows of batches.

    Attributes:
        value: What is shown.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.value = 0.0
        self._spec = spec
        self._steps = 0  # of the current window
        self._windows = 0  # that have ended

    def update(self, outputs: Mapping[str, Tensor], batch: Batch) -> None:
        """Take in a batch; may end a window.

        Args:
            outputs: Of the model, as `named_outputs` names them.
            batch: Its labels are read, its weights are not.
        """
        self._add(
            {name: _array(output) for name, output in outputs.items() if name != "logits"},
            _array(batch.label),
        )
        self._steps += 1
        if self._steps == self._spec["decay_step"]:
            rate = self._spec["decay_rate"] if self._windows else 0.0
            self._end(rate)
            self._windows, self._steps = self._windows + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Numbers and tensors from which `load_state_dict` goes on exactly."""
        own = {name: _plain(getattr(self, name)) for name in self._STATE}
        return {"value": self.value, "steps": self._steps, "windows": self._windows} | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.value, self._steps, self._windows = (
            state[name] for name in ("value", "steps", "windows")
        )
        for name in self._STATE:
            setattr(self, name, _live(state[name]))

    _STATE: tuple[str, ...]  # attributes of a subclass that are part of its state

    @abstractmethod
    def _add(self, outputs: dict[str, NDArray], label: NDArray) -> None:
        """Take a batch into the current window."""

    @abstractmethod
    def _end(self, rate: float) -> None:
        """Set `value` by the window and begin a new one; `rate` of what was before stays."""


class _AUC(TrainMetric):
    """Binned AUC of counts that decay."""

    _STATE = ("_counts", "_window")

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self._counts = np.zeros((2, spec["thresholds"]))
        self._window = np.zeros_like(self._counts)

    def _add(self, outputs: dict[str, NDArray], label: NDArray) -> None:
        probability = outputs.get("probs1", outputs["probs"])
        self._window += threshold_counts(label, probability, self._spec["thresholds"])

    def _end(self, rate: float) -> None:
        self._counts = rate * self._counts + (1 - rate) * self._window
        self._window = np.zeros_like(self._window)
        self.value = auc_of_counts(self._counts)


class _Mean(TrainMetric):
    """A mean over the rows of a window, or over its batches."""

    _STATE = ("_total", "_count")

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self._total, self._count = 0.0, 0

    def _add(self, outputs: dict[str, NDArray], label: NDArray) -> None:
        mean, count = self._of_batch(outputs, label)
        self._total += mean * count
        self._count += count

    def _end(self, rate: float) -> None:
        if self._count:
            self.value = rate * self.value + (1 - rate) * self._total / self._count
        self._total, self._count = 0.0, 0

    @abstractmethod
    def _of_batch(self, outputs: dict[str, NDArray], label: NDArray) -> tuple[float, int]:
        """The mean over a batch, and how much it counts."""


class _MAE(_Mean):
    def _of_batch(self, outputs: dict[str, NDArray], label: NDArray) -> tuple[float, int]:
        return float(np.abs(outputs["y"] - label).mean()), len(label)


class _MSE(_Mean):
    def _of_batch(self, outputs: dict[str, NDArray], label: NDArray) -> tuple[float, int]:
        return float(np.square(outputs["y"] - label).mean()), len(label)


class _Accuracy(_Mean):
    def _of_batch(self, outputs: dict[str, NDArray], label: NDArray) -> tuple[float, int]:
        options = {key: self._spec[key] for key in ("threshold", "top_k")}
        return accuracy(label, outputs["probs"], **options), len(label)


class _BatchXAUC(_Mean):
    """Of all pairs of each batch; the mean is over batches."""

    def _of_batch(self, outputs: dict[str, NDArray], label: NDArray) -> tuple[float, int]:
        value = xauc(label, outputs["y"])
        return (0.0, 0) if value is None else (value, 1)


class _SampledXAUC(TrainMetric):
    """Of pairs among all rows of a window, which it keeps until then."""

    _STATE = ("_rows",)

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self._rows: list[NDArray] = []  # (2, B) each

    def _add(self, outputs: dict[str, NDArray], label: NDArray) -> None:
        self._rows.append(np.stack([label, outputs["y"]]))

    def _end(self, rate: float) -> None:
        options = {key: self._spec[key] for key in ("sample_ratio", "max_pairs")}
        value = xauc(*np.concatenate(self._rows, axis=1), **options)
        if value is not None:
            self.value = rate * self.value + (1 - rate) * value
        self._rows = []


_METRICS = {
    "auc": _AUC,
    "mae": _MAE,
    "mse": _MSE,
    "accuracy": _Accuracy,
    "xauc": lambda spec: (_BatchXAUC if spec["in_batch"] else _SampledXAUC)(spec),
}


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().double().numpy()


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def _live(value: Any) -> Any:
    if isinstance(value, list):
        return [_live(item) for item in value]
    return value.numpy().copy() if isinstance(value, Tensor) else value
