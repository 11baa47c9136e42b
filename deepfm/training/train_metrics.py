"""Metrics of the training batches while they pass, of all tasks; see `evaluation.windows`.

Shapes: B rows, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deepfm.data.batch import Batch
from deepfm.data.schema import DatasetSchema
from deepfm.evaluation.scored import Scored
from deepfm.evaluation.windows import Window
from deepfm.objectives import Logits, Task
from deepfm.utils.named import reported_names


class TrainMetrics:
    """The metrics that tasks have over training batches, by the names they are shown under.

    Args:
        tasks: Of the model.
        schema: Of the training split.
    """

    def __init__(self, tasks: Sequence[Task], schema: DatasetSchema) -> None:
        self._schema = schema
        self._windows: list[tuple[Task, dict[str, Window]]] = []
        for task in tasks:
            names = map(task.named, reported_names(task.train_metrics))
            windows = (metric.window() for metric in task.train_metrics)
            if task.train_metrics:
                self._windows.append((task, dict(zip(names, windows, strict=True))))

    @property
    def by_name(self) -> dict[str, Window]:
        """Each metric's window."""
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
            scored = scored_batch(task, logits, batch, self._schema)
            for window in windows.values():
                window.update(scored)

    def state_dict(self) -> dict[str, dict[str, object]]:
        """Numbers and tensors from which `load_state_dict` goes on exactly."""
        return {name: window.state_dict() for name, window in self.by_name.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        for name, window in self.by_name.items():
            window.load_state_dict(state[name])


def scored_batch(task: Task, logits: Logits, batch: Batch, schema: DatasetSchema) -> Scored:
    """The labels of a batch with what its logits mean for a task.

    Probabilities are those of the logits' own precision.
    """
    number = task.number(logits)
    probabilities = task.class_probabilities(logits)
    return Scored(
        _array(task.targets(batch, schema).label),
        _array(task.prediction(logits)),
        None if number is None else _array(number),
        num_class=task.num_class,
        classes=None if probabilities is None else _array(probabilities),
    )


def _array(tensor: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = tensor.detach().cpu().double().numpy()
    return found
