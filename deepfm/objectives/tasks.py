"""Tasks: what a model is trained to predict, one or several things, each with losses and metrics.

Decided here: where a name of a task shows. A single task has none (`name` is empty), and labels,
logits, losses, metrics and prediction columns are called what they are. Of several tasks each
has its label and its logits under its name; what is reported of a task stands below its name,
`click.auc`, and a column of predictions ends in it, `probability_click`.

Shapes: B rows, C classes, N rows of a whole split.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from deepfm.errors import ConfigError, DataError
from deepfm.evaluation.measures import Array
from deepfm.evaluation.metrics import METRICS, TRAIN_METRICS, Metric, OverBatches
from deepfm.evaluation.ranking import RANKING_METRICS
from deepfm.objectives.base import Logits, Objective, Targets
from deepfm.objectives.losses import LOSSES, BinaryCrossEntropy
from deepfm.utils.named import one_of, reported_names, resolve
from deepfm.utils.settings import limited

if TYPE_CHECKING:
    from torch import Tensor

    from deepfm.data.batch import Batch
    from deepfm.data.schema import DatasetSchema, LabelScale

V = TypeVar("V")
MAX_CLASSES = 100_000  # each has a column of predictions
LABEL_KINDS = ("binary", "class", "number")
ALWAYS_WATCHABLE = ("auc", "logloss")  # metrics that early stopping computes even if unlisted
IN_SPACE = "in_space."  # before the names of metrics over the rows of a task's space
_MEAN = re.compile(r"mean\((.*)\)")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One thing that a model is trained to predict.

    Attributes:
        name: Empty where it is the model's only task.
        label: Its column of labels, one of `DatasetSchema.label_columns` where there are several.
        objectives: Losses, which are added up.
        weight: What their sum counts in the loss of all tasks.
        metrics: Reported over whole splits.
        train_metrics: Logged over training batches.
        num_class: 1 where one logit stands for two classes, or for a number.
        classes: What the classes are called, in the order of their numbers; empty: by these.
        scale: Of a label that is standardised: its losses compare the standardised label with the
            logit, while whatever is predicted or measured is in the label's own units. None: the
            logit is in these units.
        section: Dotted key of the section of the config that declares it; empty: it is declared
            by the keys of the short form.
        sample_weight: Its column of weights of rows, among `DatasetSchema.label_columns`; empty:
            the weights of `Batch.weight`.
        space: The column of labels that says which rows are its space, those above 0; empty: all
            rows are.
        in_space_weight, out_space_weight: What rows count in its losses, times their weights.
    """

    name: str = ""
    label: str = ""
    objectives: tuple[Objective, ...] = (BinaryCrossEntropy(),)
    weight: float = 1.0
    metrics: tuple[Metric, ...] = ()
    train_metrics: tuple[OverBatches, ...] = ()
    num_class: int = 1
    classes: tuple[str, ...] = ()
    scale: "LabelScale | None" = None
    section: str = ""
    sample_weight: str = ""
    space: str = ""
    in_space_weight: float = 1.0
    out_space_weight: float = 1.0

    def fitted(self, schema: "DatasetSchema") -> "Task":
        """This task as its data was fitted: with the scale of its label, if that has one."""
        return replace(self, scale=schema.label_scales.get(self.label))

    @property
    def main(self) -> Objective:
        """The loss that says what is predicted: the first that gives probabilities, if any does."""
        return next(
            (item for item in self.objectives if not item.gives_numbers), self.objectives[0]
        )

    @property
    def evaluated(self) -> tuple[Objective, ...]:
        """The losses that evaluation can report."""
        return tuple(item for item in self.objectives if not item.only_in_training)

    @property
    def measured_in_space(self) -> list[str]:
        """The metrics that are reported over its space too, by name."""
        if not self.space:
            return []
        return list(dict.fromkeys([*ALWAYS_WATCHABLE, *reported_names(self.metrics)]))

    @property
    def predicts_numbers(self) -> bool:
        """Whether numbers are predicted, and no probabilities."""
        return self.main.gives_numbers

    @property
    def ranks(self) -> bool:
        """Whether its one logit orders items."""
        return self.num_class == 1 and self.main.ranks

    @property
    def by_pairs(self) -> bool:
        """Whether a loss compares positive rows with their negatives.

        What is predicted is a score then, which puts items in order and is no probability.
        """
        return any(item.by_pairs for item in self.objectives)

    @property
    def gives(self) -> frozenset[str]:
        """What metrics can be computed of, as in `Metric.needs`."""
        return frozenset[str]().union(*(item.gives(self.num_class) for item in self.objectives))

    def named(self, what: str) -> str:
        """What a loss or metric of this task is reported under."""
        return f"{self.name}.{what}" if self.name else what

    def key(self, setting: str) -> str:
        """The dotted key of what the config says about this task."""
        return f"{self.section}.{setting}" if self.section else _KEYS[setting]

    def targets(self, batch: "Batch", schema: "DatasetSchema") -> Targets:
        """What the losses of this task compare the logits of a batch with."""
        label = self.label_of(batch.label, schema)
        weight = self.weight_of(batch.label, batch.weight, schema)
        return Targets(label, weight, batch.group, schema.group_columns)

    def label_of(self, label: "Tensor", schema: "DatasetSchema") -> "Tensor":
        """The labels of this task, (B,), of those of all, (B,) or (B, T) for T labels."""
        return _column(label, self.label, schema)

    def in_space(self, label: "Tensor", schema: "DatasetSchema") -> "Tensor | None":
        """Which rows are the task's space, (B,) bool, of all labels; None: it has none."""
        return _column(label, self.space, schema) > 0 if self.space else None

    def weight_of(
        self, label: "Tensor", weight: "Tensor | None", schema: "DatasetSchema"
    ) -> "Tensor | None":
        """What each row counts in the losses of this task, (B,); None: all alike.

        s * in_space_weight in the space and s * out_space_weight outside, with s the task's own
        weight of the row, or else that of all tasks.

        Args:
            label: All labels, (B,) or (B, T).
            weight: Of all tasks, (B,); None: all alike.
        """
        if self.sample_weight:
            weight = _column(label, self.sample_weight, schema)
        if (inside := self.in_space(label, schema)) is None:
            return weight
        by_space = inside * self.in_space_weight + ~inside * self.out_space_weight
        return by_space if weight is None else weight * by_space

    @property
    def is_of_space(self) -> bool:
        """Whether nothing outside of its space trains it by its own losses."""
        return bool(self.space) and (self.out_space_weight == 0 or self.weight == 0)

    def measured_weight(
        self, label: "Tensor", weight: "Tensor | None", schema: "DatasetSchema"
    ) -> "Tensor | None":
        """`weight_of`, of a task that has a meaning in its space only 0 outside."""
        found, inside = self.weight_of(label, weight, schema), self.in_space(label, schema)
        if found is None or inside is None or not self.is_of_space:
            return found
        return found * inside

    def check_labels(self, label: "Tensor", schema: "DatasetSchema") -> None:
        """Refuse labels that the losses have no meaning for.

        Raises:
            DataError: One is not 0 or 1, or no class, as the losses need it.
        """
        kinds = set(LABEL_KINDS)
        for item in self.objectives:
            kinds &= set(item.label_kinds_of(self.num_class))
        if "number" in kinds:
            return
        label = self.label_of(label, schema)
        limit = 2 if "binary" in kinds else self.num_class
        fits = (label >= 0) & (label < limit) & (label == label.floor())
        if not fits.all():
            row = int((~fits).nonzero()[0])
            expected = "0 or 1" if limit == 2 else f"a class from 0 to {limit - 1}"
            name = f" {self.label}" if self.label else ""
            raise DataError(
                f"label{name}: {', '.join(item.name for item in self.objectives)} expects "
                f"{expected}, found {float(label[row]):g} in row {row}"
            )

    def losses(self, logits: Logits, targets: Targets) -> "dict[str, Tensor]":
        """Each loss of a batch by its name, (); of a standardised label in its deviations.

        Raises:
            ConfigError: The logits' shape is not that of the loss, or its session is no group.
        """
        if self.scale is not None:
            targets = targets._replace(label=self.scale.standardized(targets.label))
        return {item.name: item.loss(logits, targets, self.name) for item in self.objectives}

    def restored(self, logits: Logits) -> Logits:
        """The logits with those of this task in the units of its label."""
        if self.scale is None:
            return logits
        return {**logits, self.name: self.scale.restored(logits[self.name])}

    def outputs(self, logits: Logits) -> "dict[str, Tensor]":
        """What the losses call the logits, and what they mean; of a named task `probs_click`.

        Raises:
            ConfigError: The logits' shape is not that of a loss.
        """
        found: dict[str, Tensor] = {}
        logits = self.restored(logits)
        for item in self.objectives:
            found |= item.outputs(logits, self.name)
        return {self.column(name): value for name, value in found.items()}

    def prediction(self, logits: Logits) -> "Tensor":
        """What is predicted: (B,), or (B, C) of three classes or more.

        The probability of class 1 of two, however many logits stand for it; the probabilities of
        more classes; the number itself where all losses are of numbers; the logit where they only
        put items in order.
        """
        return self.main.prediction(self.restored(logits), self.name)

    def class_probabilities(self, logits: Logits) -> "Tensor | None":
        """The probability of each class, (B, C), where each has a logit of its own."""
        return self.main.class_probabilities(logits, self.name)

    def log_odds(self, logits: Logits) -> "Tensor | None":
        """The logit of class 1 of two, (B,), however many logits stand for it; else None."""
        return self.main.log_odds(logits, self.name)

    def number(self, logits: Logits) -> "Tensor | None":
        """What is fitted to the label as a number, (B,); None where nothing is."""
        for item in self.objectives:
            if item.gives_numbers:
                return item.prediction(self.restored(logits), self.name)
        return None

    def predicted(self, logits: Mapping[str, Array]) -> NDArray[np.float64]:
        """`prediction` in float64, so that small probabilities keep their digits."""
        found: NDArray[np.float64] = self.prediction(doubled(logits)).numpy()
        return found

    def prediction_columns(self, values: Array) -> dict[str, Array]:
        """`predicted` values as columns (N,): `probability`, `prediction`, `score`, or
        `probability_0`, ….

        Of three classes or more that have names, these stand in the place of their numbers.

        Example:
            >>> list(Task(num_class=3).prediction_columns(np.zeros((2, 3))))
            ['probability_0', 'probability_1', 'probability_2']
            >>> list(Task(name="click").prediction_columns(np.zeros(2)))
            ['probability_click']
            >>> Task(num_class=3, classes=("low", "middle", "high")).prediction_names()
            ['probability_low', 'probability_middle', 'probability_high']
        """
        columns = values.T if values.ndim == 2 else [values]
        return dict(zip(self.prediction_names(), columns, strict=True))

    def prediction_names(self) -> list[str]:
        """Names of the columns of predictions."""
        what = "prediction" if self.predicts_numbers else "probability"
        stem = self.column("score" if self.by_pairs else what)
        if self.num_class <= 2:
            return [stem]
        return [f"{stem}_{name}" for name in self.classes or range(self.num_class)]

    def column(self, what: str) -> str:
        """What a column or an output of this task is called."""
        return f"{what}_{self.name}" if self.name else what

    def check_weights(
        self, label: "Tensor", weight: "Tensor | None", schema: "DatasetSchema"
    ) -> None:
        """Refuse training rows that all count nothing.

        Raises:
            DataError: All weights are 0.
        """
        of_rows = self.weight_of(label, weight, schema)
        if self.weight and of_rows is not None and len(of_rows) and not of_rows.any():
            why = f"no row is above 0 in {self.space}" if self.space else "all are 0"
            raise DataError(
                f"the task {self.name or self.label} has nothing to train on: its weights of rows "
                f"are all 0 ({why})"
            )

    def with_metric(self, name: str) -> "Task":
        """This task with one more metric, by its name, unless it is reported anyway."""
        if name not in METRICS or name in reported_names(self.metrics):
            return self
        return replace(self, metrics=(*self.metrics, METRICS[name]()))


# Where the short form says what `tasks` says of each task.
_KEYS = {
    "losses": "training.losses",
    "train_metrics": "training.metrics",
    "metrics": "evaluation.metrics",
    "num_class": "num_class",
}


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """A task of a model of several, under its name in `tasks`.

    Attributes:
        label: One of `data.table.labels`, or a column of zeros and ones.
        losses: What is learned, as `training.losses`.
        weight: What the sum of the task's losses counts in the loss of all; 0: it is predicted
            and measured, and not trained.
        metrics: As `evaluation.metrics`.
        train_metrics: As `training.metrics`.
        num_class: Logits per row, as `num_class`.
        sample_weight: A column of weights of its own, in the place of `data.table.sample_weight`.
        space: The label whose rows above 0 are the task's space, one of `data.table.labels` or a
            column of zeros and ones; null: all rows are.
        in_space_weight: What rows of the space count.
        out_space_weight: What all other rows count.
    """

    label: str
    losses: tuple[Objective, ...] = one_of(LOSSES, "loss", ("binary_cross_entropy",))
    weight: float = limited(1.0, at_least=0)
    metrics: tuple[Metric, ...] = one_of(METRICS, "metric", ("auc", "logloss"))
    train_metrics: tuple[OverBatches, ...] = one_of(TRAIN_METRICS, "metric", ())
    num_class: int = limited(1, at_least=1, at_most=MAX_CLASSES)
    sample_weight: str | None = None
    space: str | None = None
    in_space_weight: float = limited(1.0, at_least=0)
    out_space_weight: float = limited(1.0, at_least=0)

    # What TorchEasyRec calls it.
    refused_keys: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("use_pareto_loss_weight", "pareto_min_loss_weight"),
        "Pareto weights of losses are not built; weight says what a task counts",
    )

    def __post_init__(self) -> None:
        resolve(self, "tasks")
        if self.space is None and (self.in_space_weight, self.out_space_weight) != (1.0, 1.0):
            raise ConfigError(
                "in_space_weight and out_space_weight mean nothing without a space", key="tasks"
            )
        if self.in_space_weight == self.out_space_weight == 0:
            raise ConfigError(
                "in_space_weight and out_space_weight are both 0: no row is left; a task that is "
                "predicted and not trained has weight: 0",
                key="tasks",
            )

    def task(self, name: str, *, is_only: bool, classes: tuple[str, ...] = ()) -> Task:
        """The task under this name; one that stands alone carries none.

        Args:
            classes: Those of its label, if they have names.
        """
        return Task(
            name="" if is_only else name,
            label=self.label,
            objectives=self.losses,
            weight=self.weight,
            metrics=self.metrics,
            train_metrics=self.train_metrics,
            num_class=classes_of(self.num_class, classes),
            classes=classes,
            section=f"tasks.{name}",
            sample_weight="" if self.sample_weight is None else weight_name(self.sample_weight),
            space=self.space or "",
            in_space_weight=self.in_space_weight,
            out_space_weight=self.out_space_weight,
        )


def weight_name(column: str) -> str:
    """What a column of weights is called among the columns of labels.

    No label of a task is called so: a loss needs one of another kind.
    """
    return f"weight of {column}"


def _column(label: "Tensor", name: str, schema: "DatasetSchema") -> "Tensor":
    """A column of labels by its name, (B,), of one label, (B,), or of several, (B, T)."""
    return label[:, schema.label_columns.index(name)] if label.dim() == 2 else label


def watched_metrics(metric: str) -> tuple[str, ...]:
    """The metrics that a watched one is the mean of, or itself.

    Raises:
        ConfigError: It is a mean of fewer than two.

    Example:
        >>> watched_metrics("mean(ctr.auc, cvr.gauc[user, 2])"), watched_metrics("auc")
        (('ctr.auc', 'cvr.gauc[user, 2]'), ('auc',))
    """
    if (mean := _MEAN.fullmatch(metric)) is None:
        return (metric,)
    parts = re.split(r",(?![^\[]*\])", mean[1])
    names = tuple(name for part in parts if (name := part.strip()))
    if len(set(names)) < 2:
        raise ConfigError(
            f"a mean is of two different metrics or more, found {metric}", key="training.metric"
        )
    return names


def classes_of(num_class: int, classes: Sequence[str]) -> int:
    """The number of classes, which need not be said where they have names."""
    return len(classes) if classes and num_class == 1 else num_class


def doubled(logits: Mapping[str, Array]) -> "dict[str, Tensor]":
    """Logits of a whole split as tensors in float64."""
    import torch

    return {name: torch.from_numpy(values).double() for name, values in logits.items()}


def prediction_columns(
    tasks: Iterable[Task], predictions: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """The columns of all tasks, of what each predicts by its name."""
    found: dict[str, NDArray[np.float64]] = {}
    for task in tasks:
        found |= task.prediction_columns(predictions[task.name])
    return found


def of_only_task(values: Mapping[str, V]) -> V:
    """What belongs to a model's only task, of values by task.

    Raises:
        ValueError: The model has several.
    """
    if "" not in values:
        raise ValueError(f"the model has several tasks: {', '.join(values)}")
    return values[""]


def metric_names(tasks: Sequence[Task] = (Task(),)) -> list[str]:
    """The metrics that early stopping can watch, by the names they are reported under."""
    found = [
        task.named(name)
        for task in tasks
        for name in (
            *ALWAYS_WATCHABLE,
            *reported_names(task.metrics),
            *(item.name for item in task.evaluated),
            *(f"{IN_SPACE}{name}" for name in task.measured_in_space),
        )
    ]
    ranking = RANKING_METRICS if len(tasks) == 1 else ()  # items are ranked by one probability
    return list(dict.fromkeys([*found, *ranking]))


def is_larger_better(name: str) -> bool:
    """Whether a larger value of a metric, by the name it is reported under, is the better one.

    Example:
        >>> is_larger_better("ndcg@10"), is_larger_better("mae"), is_larger_better("auc[200]")
        (True, False, True)
    """
    own = watched_metrics(name)[0].partition("[")[0].rpartition(".")[2]
    return METRICS[own].larger_is_better if own in METRICS else own not in LOSSES
