"""The losses and metrics of a pipeline, and the kind of label that they need."""

from collections.abc import Mapping
from typing import NamedTuple

from google.protobuf.message import Message

from deepfm.easyrec.features import Feature
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


class Objectives(NamedTuple):
    """What a model is trained and measured by, as a config says it.

    Attributes:
        losses: Of `training`.
        label_kind: What the losses need.
        metrics: Of `evaluation`.
        train_metrics: Of `training`.
    """

    losses: list[Keys]
    label_kind: str
    metrics: list[Keys]
    train_metrics: list[Keys]

    @property
    def group_columns(self) -> list[str]:
        """Columns that group the rows, each once."""
        metrics = [*self.metrics, *self.train_metrics]
        options = [(item, LOSSES[item["name"]].group_option) for item in self.losses]
        options += [(item, METRICS[item["name"]].group_option) for item in metrics]
        return list(dict.fromkeys(item[option] for item, option in options if option))


def objectives_of(pipeline: Pipeline, features: Mapping[str, Feature]) -> Objectives:
    """Losses and metrics; a group is the column that its feature reads."""
    losses, label_kind = _losses(pipeline, features)
    metrics = []
    for k, metric in enumerate(pipeline.message.model_config.metrics):
        path = f"model_config.metrics[{k}]"
        kind = metric.WhichOneof("metric")
        if kind is None:
            known = ", ".join(_METRICS)
            raise pipeline.error(path, f"expected a metric, one of {known}")
        options = getattr(metric, kind)
        metrics.append(_metric(pipeline, features, kind, options, f"{path}.{kind}"))
    train_metrics = []
    for k, passing in enumerate(pipeline.message.model_config.train_metrics):
        path = f"model_config.train_metrics[{k}]"
        kind = passing.WhichOneof("metric")
        if kind is None:
            raise pipeline.error(path, "expected a metric")
        options = _metric(pipeline, features, kind, getattr(passing, kind), f"{path}.{kind}")
        options["decay_rate"] = shortest(passing.decay_rate)
        options["decay_step"] = passing.decay_step
        train_metrics.append(options)
    return Objectives(losses, label_kind, metrics, train_metrics)


def _losses(pipeline: Pipeline, features: Mapping[str, Feature]) -> tuple[list[Keys], str]:
    """Losses, and the kind of label that they need."""
    model = pipeline.message.model_config
    if not model.losses:
        raise pipeline.error("model_config", "losses: a value is needed")
    found, kinds = [], []
    for k, loss in enumerate(model.losses):
        kind, path = loss.WhichOneof("loss"), f"model_config.losses[{k}]"
        if kind is None:
            raise pipeline.error(path, f"expected a loss, one of {', '.join(_LOSSES)}")
        name = _LOSSES[kind]
        chosen = LOSSES[name]
        if not chosen.fits_classes(model.num_class):
            least = chosen.min_class
            needed = f": {least}" if chosen.max_class == least else f" above {least - 1}"
            raise pipeline.error(
                f"{path}.{kind}", f"it needs num_class{needed}, found num_class: {model.num_class}"
            )
        options = options_of(getattr(loss, kind))
        if chosen.group_option:
            key = options.pop("session_name")
            column = _group(pipeline, features, key, f"{path}.{kind}.session_name")
            options = {chosen.group_option: column} | options
        found.append({"name": name} | options)
        kinds.append(chosen.label_kinds[0])
    # A class is a whole number, a binary label one of two, and l2 can have either.
    return found, next(kind for kind in ("class", "binary", "number") if kind in kinds)


def _metric(
    pipeline: Pipeline, features: Mapping[str, Feature], kind: str, config: Message, path: str
) -> Keys:
    name, model = _METRICS[kind], pipeline.message.model_config
    losses = [LOSSES[_LOSSES[str(loss.WhichOneof("loss"))]] for loss in model.losses]
    needs, group_option = METRICS[name].needs, METRICS[name].group_option
    if needs == "numbers" and not any(loss.gives_numbers for loss in losses):
        raise pipeline.error(path, "it is of predicted numbers, which need l2_loss")
    if needs != "numbers" and all(loss.gives_numbers for loss in losses):
        raise pipeline.error(path, "it is of probabilities, which l2_loss does not give")
    if needs == "probability" and model.num_class > 2:
        raise pipeline.error(path, f"it needs num_class 1 or 2, found {model.num_class}")
    if needs == "classes" and model.num_class < 2:
        raise pipeline.error(path, f"it needs num_class above 1, found {model.num_class}")
    options = options_of(config)
    if group_option:
        key = options.pop("grouping_key")
        column = _group(pipeline, features, key, f"{path}.grouping_key")
        options = {group_option: column} | options
    return {"name": name} | options


def _group(pipeline: Pipeline, features: Mapping[str, Feature], key: str, path: str) -> str:
    """The column that a feature reads, which groups the rows."""
    if not key:
        message, _, field = path.rpartition(".")
        raise pipeline.error(message, f"{field}: is needed")
    if key not in features:
        raise pipeline.error(path, f"no feature {key!r}; {nearest(key, features)}")
    keys = features[key].keys
    if keys["type"] == "dense" or "columns" in keys:
        raise pipeline.error(path, f"{key!r} is no id_feature, whose ids could group the rows")
    return str(keys.get("column", key))


def watched_in(pipeline: Pipeline, objectives: Objectives) -> Keys:
    """Which weights a run ends with, and the metric that it watches."""
    export = pipeline.message.export_config
    kind = export.exporter_type
    if kind not in ("latest", "best"):
        raise pipeline.error(
            "export_config.exporter_type",
            f"unknown type {kind!r}; {nearest(kind, ('latest', 'best'))}",
        )
    losses, metrics = objectives.losses, objectives.metrics
    reported = reported_names(
        named(metric, METRICS, "evaluation.metrics", "metric") for metric in metrics
    )
    if kind == "latest":  # a metric is watched for the log only
        return {"keep": "last", "metric": [*reported, losses[0]["name"]][0]}
    path, wanted = "export_config.best_exporter_metric", export.best_exporter_metric
    ours = {metric["name"]: name for metric, name in zip(metrics, reported, strict=True)}
    ours |= {loss["name"]: loss["name"] for loss in losses}
    known = {name: own for name, own in (_METRICS | _LOSSES).items() if own in ours}
    if wanted not in known:
        raise pipeline.error(path, f"{wanted!r} is not evaluated; {nearest(wanted, known)}")
    metric = known[wanted]
    if export.metric_larger_is_better != is_larger_better(metric):
        better = "larger" if is_larger_better(metric) else "smaller"
        raise pipeline.error(
            "export_config.metric_larger_is_better", f"of {wanted} the {better} is better"
        )
    return {"keep": "best", "metric": ours[metric]}
