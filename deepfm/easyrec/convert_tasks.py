"""The task towers of a pipeline as tasks, each with its label, losses, metrics and weights."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from deepfm.easyrec.convert_objectives import Objectives, objectives_of
from deepfm.easyrec.features import Feature
from deepfm.easyrec.pipeline_pb2 import BayesTaskTower, TaskTower
from deepfm.easyrec.reading import Keys, Pipeline, shortest
from deepfm.errors import nearest

SEVERAL_TASKS = ("mmoe", "ple", "dbmtl")  # models with task towers


class Tasks(NamedTuple):
    """What a model of task towers is trained to predict.

    Attributes:
        keys: The section `tasks`.
        labels: Of the section `data.table`, by name.
        objectives: Of each task.
        paths: Of its tower in the pipeline, by task.
    """

    keys: Keys
    labels: Keys
    objectives: list[Objectives]
    paths: dict[str, str]


def towers_of(pipeline: Pipeline, model: str) -> Sequence[TaskTower | BayesTaskTower]:
    """The task towers.

    Raises:
        ConfigError: There is none, or one has no name or a name that another one has.
    """
    path = f"model_config.{model}"
    towers: Sequence[TaskTower | BayesTaskTower]
    towers = getattr(pipeline.message.model_config, model).task_towers
    if not towers:
        raise pipeline.error(path, "task_towers: a value is needed")
    seen: set[str] = set()
    for k, tower in enumerate(towers):
        below = f"{path}.task_towers[{k}]"
        if not tower.tower_name.isidentifier():
            raise pipeline.error(
                f"{below}.tower_name", f"expected letters, digits and _, found {tower.tower_name!r}"
            )
        if tower.tower_name in seen:
            raise pipeline.error(f"{below}.tower_name", f"a second tower {tower.tower_name!r}")
        seen.add(tower.tower_name)
    return towers


def tasks_of(pipeline: Pipeline, model: str, features: Mapping[str, Feature]) -> Tasks:
    """Tasks by the names of their towers."""
    found, data = Tasks({}, {}, [], {}), pipeline.message.data_config
    fields = list(data.label_fields)
    read = set(data.sample_weight_fields)
    for k, tower in enumerate(towers_of(pipeline, model)):
        path, name = f"model_config.{model}.task_towers[{k}]", tower.tower_name
        column = tower.label_name or (fields[k] if k < len(fields) else "")
        _check_label(pipeline, f"{path}.label_name", column)
        objectives = objectives_of(pipeline, features, tower, path, name)
        found.objectives.append(objectives)
        found.paths[name] = path
        keys: Keys = {
            "label": _label(found.labels, column, objectives.label_kind),
            "losses": objectives.losses,
            "metrics": objectives.metrics,
            "train_metrics": objectives.train_metrics,
            "num_class": tower.num_class,
            "weight": shortest(tower.weight),
        }
        if weight := tower.sample_weight_name:
            if weight not in data.sample_weight_fields:
                hint = nearest(weight, data.sample_weight_fields)
                problem = f"{weight!r} is none of data_config.sample_weight_fields; {hint}"
                raise pipeline.error(f"{path}.sample_weight_name", problem)
            keys["sample_weight"] = weight
            read.discard(weight)
        if space := tower.task_space_indicator_label:
            _check_label(pipeline, f"{path}.task_space_indicator_label", space)
            keys |= {
                "space": _label(found.labels, space, None),
                "in_space_weight": shortest(tower.in_task_space_weight),
                "out_space_weight": shortest(tower.out_task_space_weight),
            }
        found.keys[name] = keys
    _note_unread(pipeline, found, read)
    return found


def _check_label(pipeline: Pipeline, path: str, name: str) -> None:
    known = pipeline.message.data_config.label_fields
    if not known:
        raise pipeline.error("data_config", "label_fields: a value is needed")
    if name not in known:
        hint = nearest(name, known)
        raise pipeline.error(path, f"{name!r} is none of data_config.label_fields; {hint}")


def _label(labels: Keys, column: str, kind: str | None) -> str:
    """The name of a column's label of this kind; None: of any kind."""
    for name, label in labels.items():
        if label["column"] == column and kind in (None, label["kind"]):
            return str(name)
    kind = kind or "binary"
    name = column if column not in labels else f"{column}_{kind}"
    labels[name] = {"column": column, "kind": kind}
    return name


def _note_unread(pipeline: Pipeline, tasks: Tasks, weights: set[str]) -> None:
    """Say what tasks do not read."""
    data, model = pipeline.message.data_config, pipeline.message.model_config
    columns = {label["column"] for label in tasks.labels.values()}
    if unread := [name for name in data.label_fields if name not in columns]:
        pipeline.note("data_config.label_fields", f"no task reads {', '.join(unread)}")
    if weights:
        names = ", ".join(sorted(weights))
        pipeline.note("data_config.sample_weight_fields", f"no task reads {names}")
    for field in ("losses", "metrics", "train_metrics"):
        if getattr(model, field):
            pipeline.note(f"model_config.{field}", "the towers have their own; left out")
