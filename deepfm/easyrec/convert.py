"""A pipeline as an experiment: nested data as a YAML config has it, with the same meaning.

    convert_data         files, columns, label
    features             features as fields
    groups               groups of features, sequences, encoders
    convert_model        the model's sections, by networks
    convert_objectives   losses and metrics
    convert_tasks        task towers
    convert_training     optimizers, schedules, the loop, evaluation

NOTE[DIFF]: What the original does otherwise, each with the reason:
- Schedules are saved and resumed; there they begin anew.
- `shuffle` permutes all rows of an epoch; there it is a buffer of batches.
- Binary labels are 0 or 1; there they may be any number.
- Groups of `grouped_auc`, `grouped_xauc` and `jrc_loss` are values of the column that the named
  feature reads; there they are its ids, so that values with one hash are one group.
- `exporter_type: best` without `best_exporter_metric` watches the default, auc; there it fails.
- The name of an activation or initializer is one of a declared set, and never evaluated.
"""

from dataclasses import replace
from typing import NamedTuple

from deepfm.config import ExperimentConfig, config_from_dict
from deepfm.data.sources import tabular
from deepfm.easyrec.convert_data import files_of, held_in, label_of, model_dir
from deepfm.easyrec.convert_model import model_of, sections_of
from deepfm.easyrec.convert_objectives import group_columns, objectives_of
from deepfm.easyrec.convert_tasks import SEVERAL_TASKS, tasks_of
from deepfm.easyrec.convert_training import evaluation_of, training_of
from deepfm.easyrec.features import read_features
from deepfm.easyrec.groups import read_groups
from deepfm.easyrec.reading import Keys, Pipeline
from deepfm.errors import ConfigError

# Which field of a pipeline a key comes from, where errors about the key look for a line.
_FIELDS = {
    "data.table": "data_config",
    "data.table.files": "train_input_path",
    "data.table.valid_files": "eval_input_path",
    "feature.groups": "model_config.feature_groups",
    "feature": "model_config.{model}",
    "dnn": "model_config.{model}.deep",
    "final": "model_config.{model}.final",
    "cin": "model_config.{model}.cin",
    "training": "train_config",
    "training.optimizer": "train_config.dense_optimizer",
    "training.scheduler": "train_config.dense_optimizer",
    "training.part_optimizers": "train_config.dense_optimizer.part_optimizers[0]",
    "training.ema_decay": "train_config.dense_optimizer.ema",
    "training.sparse_optimizer": "train_config.sparse_optimizer",
    "training.sparse_scheduler": "train_config.sparse_optimizer",
    "training.gradient_clip_norm": "train_config.grad_clipping",
    "training.gradient_clip_value": "train_config.grad_clipping",
    "training.drop_last": "data_config",
    "training.losses": "model_config.losses[0]",
    "training.metrics": "model_config.train_metrics[0]",
    "feature.variational_dropout": "model_config.variational_dropout",
    "evaluation": "eval_config",
    "evaluation.metrics": "model_config.metrics[0]",
    "num_class": "model_config.num_class",
}


class Converted(NamedTuple):
    """What a pipeline says.

    Attributes:
        raw: The nested data of a YAML config.
        config: The experiment that it makes.
        sources: Where a key of `raw` comes from, as `config_from_dict` takes it.
    """

    raw: Keys
    config: ExperimentConfig
    sources: dict[str, str]


def to_config(pipeline: Pipeline, *, is_read: bool = True) -> Converted:
    """Convert a pipeline.

    Args:
        is_read: Whether the data will be read next, so that its paths must be of local files.

    Raises:
        ConfigError: Something is missing, contradicts itself or is not supported.
    """
    model = model_of(pipeline)
    source = files_of(pipeline, is_read=is_read)
    features = read_features(pipeline, held_in(pipeline, source))
    groups = read_groups(pipeline, model, features)
    feature, sections = sections_of(pipeline, model, groups, features)
    paths = {key: field.format(model=model) for key, field in _FIELDS.items()}
    if model in SEVERAL_TASKS:
        tasks = tasks_of(pipeline, model, features)
        objectives, table = tasks.objectives, source | {"labels": tasks.labels}
        trained: Keys = {"tasks": tasks.keys}
        paths |= {f"tasks.{name}": path for name, path in tasks.paths.items()}
    else:
        objectives = [objectives_of(pipeline, features, pipeline.message.model_config)]
        table = source | label_of(pipeline, objectives[0].label_kind)
        trained = {"num_class": pipeline.message.model_config.num_class}
    if columns := group_columns(objectives):
        table["group_columns"] = columns
    used = groups.used
    paths |= {f"data.table.fields.{name}": features[name].path for name in features if name in used}
    raw: Keys = {
        "model_name": sections.pop("model_name"),
        **trained,
        **({"global_bias": sections.pop("global_bias")} if "global_bias" in sections else {}),
        "output_dir": model_dir(pipeline),
        "data": {
            "dataset_name": "tabular",
            "data_dir": ".",
            "split_strategy": "predefined",
            "table": table | {"fields": {n: f.keys for n, f in features.items() if n in used}},
        },
        "feature": {
            "init": "uniform_rows",
            "embedding_l2_reg": 0.0,
            **groups.keys(),
            "unequal_dims": "error",
            **feature,
        },
        **sections,
        "training": training_of(pipeline, objectives),
        "evaluation": evaluation_of(pipeline, objectives),
    }
    sources = {key: f"{pipeline.place(path)}: " for key, path in paths.items()}
    config = config_from_dict(raw, sources=sources)
    _check_fields(pipeline, config, paths)
    return Converted(raw, config, sources)


def _check_fields(pipeline: Pipeline, config: ExperimentConfig, paths: dict[str, str]) -> None:
    """Refuse settings of a field that contradict each other, each with the line of its feature."""
    table = config.data.table
    assert table is not None
    for name, field in table.fields.items():
        try:
            tabular.schema(replace(table, fields={name: field}))
        except ConfigError as error:
            path = paths[f"data.table.fields.{name}"]
            raise pipeline.error(path, f"feature {name}: {error.problem}") from None
