"""Models that are scored as one: several whose logits are averaged, or one that is calibrated.

Decided here: what is averaged are logits, in float64. Of classes that is the same as averaging
logarithms of probabilities, since the two differ by one number per row; of numbers it is the mean
of the numbers. A calibration is applied to the logits of its task after that.

Shapes: N rows, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from deepfm.data.schema import DatasetSchema
from deepfm.evaluation.calibration import Calibration
from deepfm.evaluation.measures import Array
from deepfm.models.base import BaseCTRModel
from deepfm.models.frozen import frozen
from deepfm.objectives import Task


@dataclass(frozen=True)
class Members:
    """Several models as one.

    Attributes:
        models: Of equal tasks, which read equal inputs.
        calibrations: By name of the task.
    """

    models: tuple[BaseCTRModel, ...]
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What they are trained to predict."""
        return tuple(self.models[0].tasks)

    @property
    def schema(self) -> DatasetSchema:
        """What they read, but for sizes of vectors, which may differ."""
        return self.models[0].schema

    def to(self, device: torch.device | str) -> "Members":
        """The same on a device."""
        return Members(tuple(model.to(device) for model in self.models), self.calibrations)

    def frozen(self) -> "Members":
        """The same for evaluation only."""
        return Members(tuple(map(frozen, self.models)), self.calibrations)

    def combined(self, logits: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """The logits of rows, (N,) or (N, C) by name, of those of each model."""
        found = {name: mean_of([of_one[name] for of_one in logits]) for name in logits[0]}
        for name, calibration in self.calibrations.items():
            found[name] = _calibrated(found[name], calibration)
        return found


def mean_of(logits: Sequence[Array]) -> Array:
    """The mean of arrays of one shape, in float64."""
    mean: Array = np.mean([np.asarray(values, np.float64) for values in logits], axis=0)
    return mean


def _calibrated(logits: Array, calibration: Calibration) -> Array:
    """Logits, (N,), or of two classes (N, 2), whose difference is the logit of class 1."""
    if logits.ndim == 1:
        return calibration.apply(logits)
    first = logits[:, 0]
    return np.column_stack([first, first + calibration.apply(logits[:, 1] - first)])
