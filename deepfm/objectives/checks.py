"""Which losses and metrics go with each other and with the data; checked before any is read."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from deepfm.errors import ConfigError, nearest
from deepfm.evaluation.metrics import AUC, METRICS, Metric
from deepfm.evaluation.ranking import RANKING_METRICS
from deepfm.objectives.base import Objective
from deepfm.objectives.losses import LOSSES
from deepfm.objectives.tasks import ALWAYS_WATCHABLE, IN_SPACE, Task, metric_names, watched_metrics
from deepfm.utils.named import beyond_limits, reported_names

_WORDS = {
    "probability": "a probability of class 1",
    "probabilities": "probabilities",
    "classes": "num_class above 1",
    "numbers": f"the loss {' or '.join(n for n, loss in LOSSES.items() if loss.gives_numbers)}",
}


class TaskData(NamedTuple):
    """What data has to offer to tasks.

    Attributes:
        label_kinds: Of each label that a task names: `binary`, `class` or `number`.
        group_columns: Columns that rows can be grouped by.
        split_strategy: As in `data.split_strategy`.
        ranks: Whether that makes a ranking task.
        explicit_negatives: As in `data.explicit_negatives`.
        draws_negatives: Whether positives get any negatives.
        negatives_for_pairs: The key that says more about negatives than losses of single rows can
            do with; empty: none does.
        branches: Names of the branches of the model that have logits of their own in training.
        with_branches: Models that have such branches, for messages.
    """

    label_kinds: Mapping[str, str]
    group_columns: tuple[str, ...] = ()
    split_strategy: str = ""
    ranks: bool = False
    explicit_negatives: bool = False
    draws_negatives: bool = True
    negatives_for_pairs: str = ""
    branches: tuple[str, ...] = ()
    with_branches: tuple[str, ...] = ()


def check_losses(tasks: Sequence[Task], data: TaskData) -> None:
    """Refuse losses that do not fit each other, the model's outputs, or the declared label.

    Raises:
        ConfigError: Names the keys.
    """
    _check_columns(tasks)
    for task in tasks:
        key, names = task.key("losses"), [item.name for item in task.objectives]
        for item in task.objectives:
            if names.count(item.name) > 1:
                raise ConfigError(f"{item.name} is given twice", key=key)
            for option, expected, found in beyond_limits(item):
                raise ConfigError(
                    f"{item.name} needs a number {expected}, found {found:g}", key=f"{key}.{option}"
                )
            _check_task(item, task, data)
            _check_group(item, key, data)
        if all(item.min_branches for item in task.objectives):
            raise ConfigError(
                f"{', '.join(names)} trains the branches alone, and not the logit that they make "
                "together; add binary_cross_entropy",
                key=key,
            )
        _check_pairs(task, data)
        if data.ranks and not any(item.ranks for item in task.objectives):
            fitting = " or ".join(name for name, loss in LOSSES.items() if loss.ranks)
            raise ConfigError(
                f"data.split_strategy {data.split_strategy} ranks by a probability, which needs "
                f"{fitting}; found {', '.join(names)}",
                key=key,
            )


def check_metrics(tasks: Sequence[Task], watched: str, data: TaskData) -> None:
    """Refuse metrics that do not fit each other, the losses, or the data.

    Args:
        watched: The metric that early stopping watches.

    Raises:
        ConfigError: Names the keys.
    """
    for task in tasks:
        _check_listed(task, "metrics", task.metrics, data)
        _check_listed(task, "train_metrics", task.train_metrics, data)
        for one in watched_metrics(watched):
            for name in ALWAYS_WATCHABLE:
                both = (task.named(name), task.named(f"{IN_SPACE}{name}"))
                if one in both and name not in reported_names(task.metrics):
                    _check_fit("training.metric", METRICS[name], task)
            _check_watched_order(task, one.replace(IN_SPACE, "", 1))
    if watched in RANKING_METRICS and not data.ranks:
        choices = [name for name in metric_names(tasks) if name not in RANKING_METRICS]
        raise ConfigError(
            f"{watched} needs a ranking task, which data.split_strategy: "
            f"{data.split_strategy} does not make; choose {' or '.join(choices)}",
            key="training.metric",
        )


def _check_pairs(task: Task, data: TaskData) -> None:
    """Refuse losses by pairs beside others, or where data draws no negatives for them."""
    key, names = task.key("losses"), [item.name for item in task.objectives]
    found = [item.name for item in task.objectives if item.by_pairs]
    known = " or ".join(name for name, loss in LOSSES.items() if loss.by_pairs)
    if not found:
        if data.negatives_for_pairs:
            raise ConfigError(
                f"{', '.join(names)} learns from single rows, each positive with negatives of its "
                f"own; only {known} can do with others",
                key=data.negatives_for_pairs,
            )
        return
    if len(found) < len(names):
        others = ", ".join(name for name in names if name not in found)
        raise ConfigError(
            f"{', '.join(found)} sees positive rows only, of which {others} learns nothing; "
            "choose one kind",
            key=key,
        )
    if not data.ranks:
        raise ConfigError(
            f"{found[0]} compares positives with negatives that are drawn for them, which "
            f"data.split_strategy: {data.split_strategy} does not do; leave_one_out does",
            key=key,
        )
    if data.explicit_negatives:
        raise ConfigError(
            f"{found[0]} compares positives with negatives that are drawn for them, and has no use "
            "for rows with the label 0; set it to false",
            key="data.explicit_negatives",
        )
    if not data.draws_negatives:
        raise ConfigError(
            f"{found[0]} needs 1 negative or more per positive, found 0", key="data.num_neg_train"
        )
    if task.train_metrics:
        raise ConfigError(
            f"{found[0]} trains on positive rows only, of which no metric says anything",
            key=task.key("train_metrics"),
        )


def _check_columns(tasks: Sequence[Task]) -> None:
    """Refuse names of tasks that lead to one name of two columns of predictions."""
    found: dict[str, str] = {}
    for task in tasks:
        for column in task.prediction_names():
            if column in found:
                raise ConfigError(
                    f"{found[column]} and {task.name} both have the column {column}", key="tasks"
                )
            found[column] = task.name


def _check_listed(task: Task, setting: str, metrics: Iterable[Metric], data: TaskData) -> None:
    metrics = list(metrics)
    key, names = task.key(setting), reported_names(metrics)
    for name, metric in zip(names, metrics, strict=True):
        if names.count(name) > 1:
            raise ConfigError(f"{name} is given twice", key=key)
        _check_fit(key, type(metric), task)
        _check_group(metric, key, data)
        metric.check_options(key, task.num_class)
        if task.by_pairs and isinstance(metric, AUC) and metric.thresholds:
            raise ConfigError(
                f"{task.main.name} gives no probabilities to be put into bins; leave it out",
                key=f"{key}.thresholds",
            )


def _check_watched_order(task: Task, watched: str) -> None:
    """Refuse to watch a metric of probabilities where losses only put items in order."""
    if not task.by_pairs:
        return
    of_size = {"logloss"} | {
        name
        for name, metric in zip(reported_names(task.metrics), task.metrics, strict=True)
        if metric.reads_size
    }
    if watched in map(task.named, of_size):
        raise ConfigError(
            f"{watched} reads the size of probabilities, and {task.main.name} only puts items in "
            "order; choose auc or a ranking metric",
            key="training.metric",
        )


def _check_fit(key: str, metric: type[Metric], task: Task) -> None:
    """Refuse a metric of something that the losses do not predict."""
    if metric.needs in task.gives:
        return
    fitting = [name for name, other in METRICS.items() if other.needs in task.gives]
    raise ConfigError(
        f"{metric.name} needs {_WORDS[metric.needs]}, which {task.key('losses')}: "
        f"{', '.join(item.name for item in task.objectives)} with {task.key('num_class')}: "
        f"{task.num_class} does not give; choose among {', '.join(fitting)}",
        key=key,
    )


def _check_group(item: Objective | Metric, key: str, data: TaskData) -> None:
    """Refuse a loss or metric whose rows are grouped by a column that is not declared for it."""
    if not item.group_option:
        return
    column, declared = getattr(item, item.group_option), data.group_columns
    if column not in declared:
        hint = nearest(column, declared) if declared else "it is empty"
        raise ConfigError(
            f"{item.name}: {item.group_option} {column!r} is none of data.table.group_columns; "
            f"{hint}",
            key=key,
        )


def _check_task(item: Objective, task: Task, data: TaskData) -> None:
    """Refuse a loss that does not fit the number of classes and what the label is."""
    key = task.key("losses")
    if item.min_branches > len(data.branches):
        found = ", ".join(data.branches) or "none"
        raise ConfigError(
            f"{item.name} reads the logits of {item.min_branches} branches or more, found {found}; "
            f"models that can have them: {', '.join(data.with_branches) or 'none'}",
            key=key,
        )
    if not item.fits_classes(task.num_class):
        least = item.min_class
        needed = f"{least}" if item.max_class == least else f"more than {least - 1}"
        raise ConfigError(
            f"{key}: {item.name} needs {needed}, found {task.num_class}", key=task.key("num_class")
        )
    kind, kinds = data.label_kinds[task.label], item.label_kinds_of(task.num_class)
    if kind not in kinds:
        raise ConfigError(
            f"{key}: {item.name} needs a label of kind {' or '.join(kinds)}, found {kind}",
            key="data.table.labels",
        )
