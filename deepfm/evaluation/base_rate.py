"""What the base rate alone reaches, and the figure of a model that stands beside it.

Decided here: the base rate is that of the training rows as they are trained on, so their weights
count; of a ranking task with sampled negatives it is that of the labels. It is evaluated on the
rows that the model is evaluated on, where every row counts alike. A class that no training row
has counts as half a row, so that no figure is infinite.

Shapes: N rows, C classes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepfm.data.dataset import TabularDataset
from deepfm.data.labels import class_weights, mean_and_deviation
from deepfm.evaluation.measures import Array, log_loss
from deepfm.objectives import Task


class Verdict(NamedTuple):
    """The figure of a model beside that of the base rate.

    Attributes:
        task: Name of the task.
        figure: What both are: `logloss` or `rmse`; smaller is better.
        value, base_rate: Of the model, and of the constant; None where the figure says nothing.
        why: Why there is none.
        is_corrected: Whether the figure is one after the prior correction. Such a model learned
            what is chosen, and not the labels that it is evaluated on.
    """

    task: str
    figure: str
    value: float | None
    base_rate: float | None
    why: str = ""
    is_corrected: bool = False

    @property
    def is_worse(self) -> bool:
        """Whether the model is worse than the constant, at what it was trained for."""
        if self.value is None or self.base_rate is None or self.is_corrected:
            return False
        return self.value > self.base_rate


def kind_of(task: Task) -> str:
    """What a task predicts: a `number`, one class of two (`binary`), or of several (`classes`)."""
    if task.predicts_numbers:
        return "number"
    return "binary" if task.num_class <= 2 else "classes"


def figure_of(kind: str) -> str:
    """The figure by which tasks of a kind are compared with the base rate."""
    return "rmse" if kind == "number" else "logloss"


def base_rate(task: Task, train: TabularDataset) -> NDArray[np.float64]:
    """The logit, the logits of the classes (C,), or the number that training rows give alone."""
    label = task.label_of(train.label, train.schema).numpy()
    weight = task.measured_weight(train.label, train.weight, train.schema)
    of_rows = None if weight is None else weight.numpy()
    return constant_of(kind_of(task), label, of_rows, task.num_class)


def constant_of(
    kind: str, label: Array, weight: Array | None, num_class: int
) -> NDArray[np.float64]:
    """`base_rate` of labels and weights, (N,), which need not fit into memory."""
    if kind == "number":
        return np.asarray(mean_and_deviation(label, weight)[0])
    counts = class_weights(label, weight, num_class)
    half = 0.5 * counts.sum() / len(label)  # of an average row
    shares = np.log(np.maximum(counts, half))
    return np.asarray(shares[1] - shares[0]) if kind == "binary" else shares - np.log(counts.sum())


def figure(kind: str, label: Array, logit: Array) -> float | None:
    """LogLoss of logits, or the root of the mean squared error of numbers.

    Args:
        label: (N,).
        logit: (N,), or (N, C) of several classes; also one for all rows, (1,) or (1, C).

    Returns:
        None where all labels are equal, which a constant knows best.
    """
    if kind == "number":
        return float(np.sqrt(np.square(np.asarray(logit, np.float64) - label).mean()))
    if (label == label[0]).all():
        return None
    if kind == "binary":
        return log_loss(label, np.broadcast_to(logit, label.shape))
    logit = np.broadcast_to(np.asarray(logit, np.float64), (len(label), np.shape(logit)[-1]))
    own = np.take_along_axis(logit, label.astype(np.int64)[:, None], axis=1)[:, 0]
    top = logit.max(axis=1)
    return float((top + np.log(np.exp(logit - top[:, None]).sum(axis=1)) - own).mean())


# Why nothing that is trained by pairs is compared with the base rate.
NO_PROBABILITY = (
    "the losses only put items in order, so predictions are scores and no probabilities: there is "
    "no LogLoss, and nothing else that reads the size of a probability"
)


def no_verdict(task: Task, why: str) -> Verdict:
    """What stands in the place of a figure that says nothing."""
    return Verdict(task.name, figure_of(kind_of(task)), None, None, why)


def verdict(task: Task, label: Array, logit: Array, constant: NDArray[np.float64]) -> Verdict:
    """A model and the base rate on the same rows.

    Args:
        label: (N,).
        logit: Of the model, as in `figure`.
        constant: As `base_rate` gives it; not finite where training rows have one class only.
    """
    kind = kind_of(task)
    name = figure_of(kind)
    if kind != "number" and (label == label[0]).all():
        why = f"all {len(label):,} labels are {label[0]:g}: there is no AUC and no LogLoss"
        return no_verdict(task, why)
    if not np.isfinite(constant).all():
        why = "all labels of the training split are equal: LogLoss has no prior to be corrected by"
        return no_verdict(task, why)
    return Verdict(task.name, name, figure(kind, label, logit), figure(kind, label, constant[None]))
