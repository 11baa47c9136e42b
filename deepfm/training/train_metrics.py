"""Metrics of the training batches while they pass, of all tasks; see `evaluation.windows`.

Shapes: B rows, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepfm.data.batch import Batch
from deepfm.data.schema import DatasetSchema
from deepfm.evaluation.scored import Scored
from deepfm.evaluation.windows import Window
from deepfm.objectives import Logits, Task
from deepfm.training.transfer import to_host, wait_for
from deepfm.utils.named import reported_names

_AT_ONCE = 256  # batches that are not read yet, at most


class TrainMetrics:
    """The metrics that tasks have over training batches, by the names they are shown under.

    Batches on a GPU are read together when somebody asks, so that no step waits for the one
    before.

    Args:
        tasks: Of the model.
        schema: Of the training split.
    """

    def __init__(self, tasks: Sequence[Task], schema: DatasetSchema) -> None:
        self._schema = schema
        self._unread: list[tuple[Task, dict[str, Window], _Columns]] = []
        self._windows: list[tuple[Task, dict[str, Window]]] = []
        for task in tasks:
            names = map(task.named, reported_names(task.train_metrics))
            windows = (metric.window() for metric in task.train_metrics)
            if task.train_metrics:
                self._windows.append((task, dict(zip(names, windows, strict=True))))

    @property
    def by_name(self) -> dict[str, Window]:
        """Each metric's window, all batches read."""
        self._read()
        return {name: window for _, own in self._windows for name, window in own.items()}

    def values(self) -> dict[str, float]:
        """What is shown of each metric."""
        return {name: window.value for name, window in self.by_name.items()}

    def update(self, logits: Logits, batch: Batch) -> None:
        """Take in a batch: its labels are read, its weights are not.

        Args:
            logits: What the losses read, without gradients.
        """
        for task, windows in self._windows:
            columns = _Columns.of(task, logits, batch, self._schema)
            self._unread.append((task, windows, columns))
        if batch.label.device.type == "cpu" or len(self._unread) >= _AT_ONCE:
            self._read()

    def _read(self) -> None:
        if self._unread:
            wait_for(self._unread[-1][2].device)
        for task, windows, columns in self._unread:
            scored = columns.scored(task)
            for window in windows.values():
                window.update(scored)
        self._unread.clear()

    def state_dict(self) -> dict[str, dict[str, object]]:
        """Numbers and tensors from which `load_state_dict` goes on exactly."""
        return {name: window.state_dict() for name, window in self.by_name.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        for name, window in self.by_name.items():
            window.load_state_dict(state[name])


class _Columns(NamedTuple):
    """What the metrics of a task read of a batch, on its way to the host.

    Attributes:
        device: Where it comes from.
        label, predicted, value, classes: As in `Scored`.
    """

    device: torch.device
    label: Tensor
    predicted: Tensor
    value: Tensor | None
    classes: Tensor | None

    @classmethod
    def of(cls, task: Task, logits: Logits, batch: Batch, schema: DatasetSchema) -> "_Columns":
        number, classes = task.number(logits), task.class_probabilities(logits)
        return cls(
            batch.label.device,
            to_host(task.targets(batch, schema).label.detach()),
            to_host(task.prediction(logits).detach()),
            None if number is None else to_host(number.detach()),
            None if classes is None else to_host(classes.detach()),
        )

    def scored(self, task: Task) -> Scored:
        value, classes = self.value, self.classes
        return Scored(
            _array(self.label),
            _array(self.predicted),
            None if value is None else _array(value),
            num_class=task.num_class,
            classes=None if classes is None else _array(classes),
        )


def scored_batch(task: Task, logits: Logits, batch: Batch, schema: DatasetSchema) -> Scored:
    """The labels of a batch with what its logits mean for a task.

    Probabilities are those of the logits' own precision.
    """
    columns = _Columns.of(task, logits, batch, schema)
    wait_for(columns.device)
    return columns.scored(task)


def _array(tensor: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = tensor.double().numpy()
    return found
