"""The losses and metrics of a pipeline or of one of its tasks, and the kind of label they need."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from google.protobuf.message import Message

from deepfm.easyrec.features import Feature
from deepfm.easyrec.pipeline_pb2 import BayesTaskTower, ModelConfig, TaskTower
from deepfm.easyrec.reading import Keys, Pipeline, options_of, shortest
from deepfm.errors import nearest
from deepfm.evaluation.metrics import METRICS
from deepfm.objectives import LOSSES, is_larger_better
from deepfm.utils.named import named, reported_names

_LOSSES = {
    "binary_cross_entropy": "binary_cross_entropy",
    "binary_focal_loss": "binary_focal",
    "softmax_cross_entropy": "softmax_cross_entropy",
    "jrc_loss": "jrc",
    "l2_loss": "l2",
}
_METRICS = {
    "auc": "auc",
    "multiclass_auc": "multiclass_auc",
    "mean_absolute_error": "mae",
    "mean_squared_error": "mse",
    "accuracy": "accuracy",
    "grouped_auc": "gauc",
    "xauc": "xauc",
    "grouped_xauc": "grouped_xauc",
    "normalized_entropy": "normalized_entropy",
}


Owner: TypeAlias = ModelConfig | TaskTower | BayesTaskTower  # has losses, metrics, num_class


class Objectives(NamedTuple):
    """What a model, or one of its tasks, is trained and measured by, as a config says it.

    Attributes:
        losses: Of `training`, or of the task.
        label_kind: What the losses need.
        metrics: Of `evaluation`, or of the task.
        train_metrics: Of `training`, or of the task.
        task: Its name; empty: it is the only one.
    """

    losses: list[Keys]
    label_kind: str
    metrics: list[Keys]
    train_metrics: list[Keys]
    task: str = ""

    @property
    def groups(self) -> list[str]:
        """Columns that group the rows."""
        metrics = [*self.metrics, *self.train_metrics]
        options = [(item, LOSSES[item["name"]].group_option) for item in self.losses]
        options += [(item, METRICS[item["name"]].group_option) for item in metrics]
        return [item[option] for item, option in options if option]


def group_columns(tasks: Iterable[Objectives]) -> list[str]:
    """Columns that group the rows for some task, each once."""
    return list(dict.fromkeys(column for task in tasks for column in task.groups))


def objectives_of(
    pipeline: Pipeline,
    features: Mapping[str, Feature],
    owner: Owner,
    path: str = "model_config",
    task: str = "",
) -> Objectives:
    """Losses and metrics; a group is the column that its feature reads.

    Args:
        owner: The message that has them, at this path.
        task: The name of the task that it stands for, if there are several.
    """
    reader = _Reader(pipeline, features, owner, path)
    losses, label_kind = reader.losses()
    return Objectives(losses, label_kind, reader.metrics(), reader.train_metrics(), task)


class _Reader:
    """The losses and metrics of one message."""

    def __init__(
        self, pipeline: Pipeline, features: Mapping[str, Feature], owner: Owner, path: str
    ) -> None:
        self.pipeline, self.features, self.owner, self.path = pipeline, features, owner, path

    def losses(self) -> tuple[list[Keys], str]:
        """Losses, and the kind of label that they need."""
        if not self.owner.losses:
            raise self.pipeline.error(self.path, "losses: a value is needed")
        found, kinds = [], []
        for k, loss in enumerate(self.owner.losses):
            kind, path = loss.WhichOneof("loss"), f"{self.path}.losses[{k}]"
            if kind is None:
                raise self.pipeline.error(path, f"expected a loss, one of {', '.join(_LOSSES)}")
            name = _LOSSES[kind]
            chosen, classes = LOSSES[name], self.owner.num_class
            if not chosen.fits_classes(classes):
                least = chosen.min_class
                needed = f": {least}" if chosen.max_class == least else f" above {least - 1}"
                raise self.pipeline.error(
                    f"{path}.{kind}", f"it needs num_class{needed}, found num_class: {classes}"
                )
            options = options_of(getattr(loss, kind))
            if chosen.group_option:
                key = options.pop("session_name")
                column = self._group(key, f"{path}.{kind}.session_name")
                options = {chosen.group_option: column} | options
            found.append({"name": name} | options)
            kinds.append(chosen.label_kinds[0])
        # A class is a whole number, a binary label one of two, and l2 can have either.
        return found, next(kind for kind in ("class", "binary", "number") if kind in kinds)

    def metrics(self) -> list[Keys]:
        """Metrics over whole splits."""
        found = []
        for k, metric in enumerate(self.owner.metrics):
            path, kind = f"{self.path}.metrics[{k}]", metric.WhichOneof("metric")
            if kind is None:
                known = ", ".join(_METRICS)
                raise self.pipeline.error(path, f"expected a metric, one of {known}")
            found.append(self._metric(kind, getattr(metric, kind), f"{path}.{kind}"))
        return found

    def train_metrics(self) -> list[Keys]:
        """Metrics over training batches."""
        found = []
        for k, passing in enumerate(self.owner.train_metrics):
            path, kind = f"{self.path}.train_metrics[{k}]", passing.WhichOneof("metric")
            if kind is None:
                raise self.pipeline.error(path, "expected a metric")
            options = self._metric(kind, getattr(passing, kind), f"{path}.{kind}")
            options["decay_rate"] = shortest(passing.decay_rate)
            options["decay_step"] = passing.decay_step
            found.append(options)
        return found

    def _metric(self, kind: str, config: Message, path: str) -> Keys:
        name, owner = _METRICS[kind], self.owner
        losses = [LOSSES[_LOSSES[str(loss.WhichOneof("loss"))]] for loss in owner.losses]
        needs, group_option = METRICS[name].needs, METRICS[name].group_option
        problem = None
        if needs == "numbers" and not any(loss.gives_numbers for loss in losses):
            problem = "it is of predicted numbers, which need l2_loss"
        elif needs != "numbers" and all(loss.gives_numbers for loss in losses):
            problem = "it is of probabilities, which l2_loss does not give"
        elif needs == "probability" and owner.num_class > 2:
            problem = f"it needs num_class 1 or 2, found {owner.num_class}"
        elif needs == "classes" and owner.num_class < 2:
            problem = f"it needs num_class above 1, found {owner.num_class}"
        if problem is not None:
            raise self.pipeline.error(path, problem)
        options = options_of(config)
        if group_option:
            key = options.pop("grouping_key")
            column = self._group(key, f"{path}.grouping_key")
            options = {group_option: column} | options
        return {"name": name} | options

    def _group(self, key: str, path: str) -> str:
        """The column that a feature reads, which groups the rows."""
        if not key:
            message, _, field = path.rpartition(".")
            raise self.pipeline.error(message, f"{field}: is needed")
        if key not in self.features:
            raise self.pipeline.error(path, f"no feature {key!r}; {nearest(key, self.features)}")
        feature = self.features[key]
        if feature.is_raw or feature.is_sequence or "columns" in feature.keys:
            raise self.pipeline.error(
                path, f"{key!r} is no id_feature, whose ids could group the rows"
            )
        return str(feature.keys.get("column", key))


def watched_in(pipeline: Pipeline, tasks: Sequence[Objectives]) -> Keys:
    """Which weights a run ends with, and the metric that it watches."""
    export = pipeline.message.export_config
    kind = export.exporter_type
    if kind not in ("latest", "best"):
        raise pipeline.error(
            "export_config.exporter_type",
            f"unknown type {kind!r}; {nearest(kind, ('latest', 'best'))}",
        )
    every = [_reported(objectives, is_only=len(tasks) == 1) for objectives in tasks]
    if kind == "latest":  # a metric is watched for the log only
        return {"keep": "last", "metric": every[0][0][1]}
    path, wanted = "export_config.best_exporter_metric", export.best_exporter_metric
    known = {theirs: (ours, name) for found in every for theirs, ours, name in found}
    if wanted not in known:
        raise pipeline.error(path, f"{wanted!r} is not evaluated; {nearest(wanted, known)}")
    metric, name = known[wanted]
    if export.metric_larger_is_better != is_larger_better(name):
        better = "larger" if is_larger_better(name) else "smaller"
        raise pipeline.error(
            "export_config.metric_larger_is_better", f"of {wanted} the {better} is better"
        )
    return {"keep": "best", "metric": metric}


def _reported(objectives: Objectives, *, is_only: bool) -> list[tuple[str, str, str]]:
    """What is reported: its name in the format, ours, and that of the metric or loss alone.

    Here a task that stands alone shows no name.
    """
    metrics, losses, task = objectives.metrics, objectives.losses, objectives.task
    shown = reported_names(
        named(metric, METRICS, "evaluation.metrics", "metric") for metric in metrics
    )
    ours = [(metric["name"], name) for metric, name in zip(metrics, shown, strict=True)]
    ours += [(loss["name"], loss["name"]) for loss in losses]
    theirs = {own: name for name, own in (_METRICS | _LOSSES).items()}
    end, begin = f"_{task}" if task else "", f"{task}." if not is_only else ""
    return [(theirs[name] + end, begin + own, name) for name, own in ours]
