"""What a model is trained on: losses, and the tasks that they belong to. Nothing imports torch."""

from deepfm.objectives.base import Logits, Objective, PairLogits, Targets, logits_by_name
from deepfm.objectives.checks import TaskData, check_losses, check_metrics
from deepfm.objectives.losses import LOSSES
from deepfm.objectives.tasks import MAX_CLASSES, Task, TaskConfig, is_larger_better, metric_names

__all__ = [
    "LOSSES",
    "MAX_CLASSES",
    "Logits",
    "Objective",
    "PairLogits",
    "Targets",
    "Task",
    "TaskConfig",
    "TaskData",
    "check_losses",
    "check_metrics",
    "is_larger_better",
    "logits_by_name",
    "metric_names",
]
