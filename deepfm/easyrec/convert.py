"""A pipeline as an experiment: nested data as a YAML config has it, with the same meaning.

NOTE[DIFF]: What the original does otherwise, each with the reason:
- Schedules are saved and resumed; there they begin anew.
- `shuffle` permutes all rows of an epoch; there it is a buffer of batches.
- Binary labels are 0 or 1; there they may be any number.
- Groups of `grouped_auc`, `grouped_xauc` and `jrc_loss` are values of the column that the named
  feature reads; there they are its ids, so that values with one hash are one group.
- `exporter_type: best` without `best_exporter_metric` watches the default, auc; there it fails.
- The name of an activation or initializer is one of a declared set, and never evaluated.
"""

import glob
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from deepfm.config import ExperimentConfig, config_from_dict
from deepfm.data import tabular
from deepfm.easyrec.features import (
    INTEGER,
    LIST,
    OTHER,
    Feature,
    check_initializer,
    read_features,
    shortest,
)
from deepfm.easyrec.pipeline_pb2 import (
    FeatureGroupType,
    FieldType,
    KafkaDataset,
    OdpsDataset,
    OdpsDatasetV1,
    ParquetDataset,
)
from deepfm.easyrec.reading import MODELS, Pipeline, is_repeated
from deepfm.errors import ConfigError, nearest
from deepfm.evaluation.metrics import METRICS
from deepfm.models.layers.dnn import activation_from
from deepfm.objectives import is_larger_better
from deepfm.utils.named import named, reported_names

logger = logging.getLogger(__name__)

# Groups that a model reads, and whether it can do without.
_GROUPS = {
    "deepfm": {"wide": False, "fm": False, "deep": True},
    "wide_and_deep": {"wide": True, "deep": True},
    "xdeepfm": {"wide": True, "deep": True},
}
_DEFAULT_WIDE_DIM = 4
# Losses by name here; classes that they need; what their label is; outputs that they give.
_LOSSES = {
    "binary_cross_entropy": ("binary_cross_entropy", "num_class: 1", "binary"),
    "binary_focal_loss": ("binary_focal", "num_class: 1", "binary"),
    "softmax_cross_entropy": ("softmax_cross_entropy", "num_class above 1", "class"),
    "jrc_loss": ("jrc", "num_class: 2", "class"),
    "l2_loss": ("l2", "num_class: 1", "number"),
}
_CLASSES = {
    "num_class: 1": lambda count: count == 1,
    "num_class: 2": lambda count: count == 2,
    "num_class above 1": lambda count: count > 1,
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
_SPARSE = {
    "sgd_optimizer": "lazy_sgd",
    "adagrad_optimizer": "adagrad",
    "adam_optimizer": "lazy_adam",
    "rowwise_adagrad_optimizer": "rowwise_adagrad",
}
_DENSE = {
    "sgd_optimizer": "sgd",
    "adagrad_optimizer": "adagrad",
    "adam_optimizer": "adam",
    "adamw_optimizer": "adamw",
}
_SPARSE_EPS = 1e-8
_SCHEDULES = {
    "exponential_decay_learning_rate": (
        "exponential",
        {
            "decay_size": "decay_size", "decay_factor": "decay_factor", "staircase": "staircase",
            "warmup_learning_rate": "warmup_lr", "warmup_size": "warmup_size",
            "min_learning_rate": "min_lr", "by_epoch": "by_epoch",
        },
    ),
    "manual_step_learning_rate": (
        "manual_step",
        {
            "schedule_sizes": "sizes", "learning_rates": "lrs", "warmup": "warmup",
            "by_epoch": "by_epoch",
        },
    ),
    "cosine_annealing_learning_rate": (
        "cosine_annealing",
        {
            "T_max": "t_max", "min_learning_rate": "min_lr", "warmup_learning_rate": "warmup_lr",
            "warmup_size": "warmup_size", "by_epoch": "by_epoch",
        },
    ),
    "cosine_annealing_warm_restarts_learning_rate": (
        "cosine_restarts",
        {
            "T_0": "t_0", "T_mult": "t_mult", "min_learning_rate": "min_lr",
            "warmup_learning_rate": "warmup_lr", "warmup_size": "warmup_size",
            "by_epoch": "by_epoch",
        },
    ),
}  # fmt: skip
_PARQUET, _TEXT = (".parquet",), (".csv", ".tsv", ".txt", ".gz", ".zst")
_UNTYPED = ""  # a column that is declared without a type
_TYPE_NAMES = {"BIGINT": "INT64", "INT": "INT32"}


def to_config(
    pipeline: Pipeline, *, is_read: bool = True
) -> tuple[dict[str, Any], ExperimentConfig, dict[str, str]]:
    """The nested data of a YAML config, the experiment that it makes, and where keys come from.

    Args:
        is_read: Whether the data will be read next, so that its paths must be of local files.

    Raises:
        ConfigError: Something is missing, contradicts itself or is not supported.
    """
    converter = _Converter(pipeline, is_read)
    raw, sources = converter.convert()
    config = config_from_dict(raw, sources=sources)
    for name in config.data.table.fields:  # settings of a field may contradict each other
        alone = replace(config.data.table, fields={name: config.data.table.fields[name]})
        try:
            tabular.schema(alone)
        except ConfigError as error:
            problem = str(error).partition(": ")[2].removeprefix(f"field {name}: ")
            raise pipeline.error(
                converter.features[name].path, f"feature {name}: {problem}"
            ) from None
    return raw, config, sources


class _Converter:
    """One pipeline on its way, with what its parts need of each other."""

    def __init__(self, pipeline: Pipeline, is_read: bool) -> None:
        self.pipeline = pipeline
        self.is_read = is_read
        self.message = pipeline.message
        self.model = self.message.model_config.WhichOneof("model")
        self.group_columns: dict[str, None] = {}

    def convert(self) -> tuple[dict[str, Any], dict[str, str]]:
        if self.model not in MODELS:
            raise self.error("model_config", f"expected a model, one of {', '.join(MODELS)}")
        source = self._source()
        self.features = read_features(self.pipeline, self._held(source))
        groups, used = self._groups()
        losses, label_kind = self._losses()
        metrics = self._metrics()
        train_metrics = self._train_metrics()
        fields = {name: f.keys for name, f in self.features.items() if name in used}
        table = source | self._label(label_kind)
        if self.group_columns:
            table["group_columns"] = list(self.group_columns)
        network = self._network()
        raw = {
            "model_name": self.model,
            "num_class": self.message.model_config.num_class,
            "global_bias": False,
            "output_dir": self._model_dir(),
            "data": {
                "dataset_name": "tabular",
                "data_dir": ".",
                "split_strategy": "predefined",
                "table": table | {"fields": fields},
            },
            "feature": {
                "init": "uniform_rows",
                "embedding_l2_reg": 0.0,
                "groups": groups,
                "unequal_dims": "error",
                **network.pop("feature"),
            },
            **network,
            "training": self._training(losses, train_metrics, metrics),
            "evaluation": self._evaluation(metrics),
        }
        sources = {
            "data.table": "data_config",
            "data.table.files": "train_input_path",
            "data.table.valid_files": "eval_input_path",
            "feature.groups": "model_config.feature_groups",
            "feature": f"model_config.{self.model}",
            "dnn": f"model_config.{self.model}.deep",
            "final": f"model_config.{self.model}.final",
            "cin": f"model_config.{self.model}.cin",
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
        } | {f"data.table.fields.{name}": self.features[name].path for name in fields}
        return raw, {key: f"{self.pipeline.place(path)}: " for key, path in sources.items()}

    def error(self, path: str, problem: str) -> ConfigError:
        return self.pipeline.error(path, problem)

    def note(self, path: str, line: str) -> None:
        logger.info("%s: %s: %s", self.pipeline.place(path), path, line)

    # --- data ------------------------------------------------------------------------------

    def _source(self) -> dict[str, Any]:
        """Files of a table and how they are read."""
        data = self.message.data_config
        if data.dataset_type == KafkaDataset:
            raise self.error(
                "data_config.dataset_type",
                "KafkaDataset is not supported; use CsvDataset or ParquetDataset",
            )
        files = self._files("train_input_path")
        valid = self._files("eval_input_path")
        is_parquet = {_is_parquet(name) for name in [*files, *valid]}
        if len(is_parquet) > 1:
            raise self.error("eval_input_path", "training and evaluation files differ in form")
        source: dict[str, Any] = {"files": files, "valid_files": valid}
        if not is_parquet.pop():
            source["delimiter"] = data.delimiter
            if not data.with_header and (names := list(self._input_types())):
                source["columns"] = names  # without any, the first line has them all the same
        return source

    def _files(self, key: str) -> list[str]:
        """Paths and globs; a directory is all files in it."""
        paths = [path.strip() for path in getattr(self.message, key).split(",") if path.strip()]
        if not paths:
            raise self.error(key, "a path is needed: a file, a glob, or several with commas")
        for path in paths:
            if "://" not in path:
                continue
            problem = (
                f"only local files can be read, found {path}; set a local path, here or with "
                f"--override {key}=<path>; its ending says whether it is CSV or Parquet"
            )
            if self.is_read:
                raise self.error(key, problem)
            self.note(key, problem)
        return [path if "://" in path else self._pattern(key, path) for path in paths]

    def _pattern(self, key: str, path: str) -> str:
        if not path.endswith("/") and (_has_ending(path) or "*" in path or Path(path).is_file()):
            if not _has_ending(path) and self._is_table_of_cloud():
                raise self.error(
                    key, f"{path}: expected a name that ends in .csv, .tsv or .parquet"
                )
            return path
        folder = Path(path)
        endings = {file.suffix for file in folder.glob("*")} if folder.is_dir() else set()
        kind = self.message.data_config.dataset_type
        if ".parquet" in endings or (kind == ParquetDataset and not endings):
            return f"{folder}/*.parquet"
        if ".csv" in endings or not endings:
            if not endings and self._is_table_of_cloud():
                raise self.error(
                    key,
                    f"{path}: no such file or directory; expected one, or a name that ends in "
                    ".csv, .tsv or .parquet",
                )
            return f"{folder}/*.csv"
        return f"{folder}/*"

    def _is_table_of_cloud(self) -> bool:
        return self.message.data_config.dataset_type in (OdpsDataset, OdpsDatasetV1)

    def _input_types(self) -> dict[str, str]:
        """Types of columns by name, as the pipeline declares them; empty where it does not."""
        data = self.message.data_config
        if not data.input_fields_str:
            return {
                item.input_name: FieldType.Name(item.input_type)
                if item.HasField("input_type")
                else _UNTYPED
                for item in data.input_fields
            }
        found = {}
        for part in filter(None, (p.strip() for p in data.input_fields_str.split(";"))):
            name, colon, kind = (piece.strip() for piece in part.partition(":"))
            if not colon or not name:
                raise self.error(
                    "data_config.input_fields_str", f"expected name:TYPE;..., found {part!r}"
                )
            found[name] = self._type(kind)
        return found

    def _type(self, text: str) -> str:
        """`ARRAY<BIGINT>` as the format's own ARRAY_INT64."""
        words = re.findall(r"\w+", text.upper())
        found = "_".join(_TYPE_NAMES.get(word, word) for word in words)
        if found not in (known := FieldType.keys()):
            raise self.error(
                "data_config.input_fields_str",
                f"unknown type {text!r}; {nearest(found, known)}",
            )
        return found

    def _held(self, source: Mapping[str, Any]) -> dict[str, str]:
        """What columns hold, as far as the pipeline or the first Parquet file says so."""
        held = {
            name: INTEGER if kind in ("INT32", "INT64") else LIST if "ARRAY" in kind else OTHER
            for name, kind in self._input_types().items()
            if kind != _UNTYPED
        }
        if _is_parquet(source["files"][0]):
            paths = sorted(glob.glob(source["files"][0]))
            if paths and (schema := _parquet_schema(paths[0])) is not None:
                held |= {item.name: _kind(item.type) for item in schema}
        return held

    def _label(self, kind: str) -> dict[str, Any]:
        data = self.message.data_config
        if not data.label_fields:
            raise self.error("data_config", "label_fields: a value is needed")
        for name in data.label_fields[1:]:
            self.note("data_config.label_fields", f"the first is trained on, {name} left out")
        for name in data.sample_weight_fields[1:]:
            self.note("data_config.sample_weight_fields", f"the first is used, {name} left out")
        label = data.label_fields[0]
        found: dict[str, Any] = {"label": label}
        if kind != "binary":
            found["labels"] = {label: {"column": label, "kind": kind}}
        if data.sample_weight_fields:
            found["sample_weight"] = data.sample_weight_fields[0]
        return found

    def _model_dir(self) -> str:
        if not self.message.model_dir:
            raise self.error("model_dir", "a value is needed")
        return self.message.model_dir

    # --- model -----------------------------------------------------------------------------

    def _groups(self) -> tuple[dict[str, list[str]], set[str]]:
        """Fields by group, and all fields that some group has."""
        wanted = _GROUPS[self.model]
        found: dict[str, list[str]] = {}
        suffixes: dict[str, str] = {}
        for k, group in enumerate(self.message.model_config.feature_groups):
            path, name = f"model_config.feature_groups[{k}]", group.group_name
            kind = FeatureGroupType.Name(group.group_type)
            if kind not in ("DEEP", "WIDE"):
                raise self.error(
                    f"{path}.group_type", f"{kind} is not supported; supported are DEEP and WIDE"
                )
            if name in found:
                raise self.error(f"{path}.group_name", f"a second group {name!r}")
            names = list(group.feature_names)
            for place, feature in enumerate(names):
                if feature not in self.features:
                    raise self.error(
                        f"{path}.feature_names[{place}]",
                        f"no feature {feature!r}; {nearest(feature, self.features)}",
                    )
                if feature in names[:place]:
                    raise self.error(f"{path}.feature_names[{place}]", f"{feature!r} stands twice")
            if name not in wanted:
                self.note(
                    path, f"{self.model} reads {', '.join(wanted)}; group {name!r} is left out"
                )
                names = []
            elif (kind == "WIDE") != (name == "wide"):
                expected = "WIDE" if name == "wide" else "DEEP"
                raise self.error(f"{path}.group_type", f"{name} is {expected}, found {kind}")
            elif not names:
                raise self.error(path, f"feature_names: group {name!r} has none")
            self._check_dense_in_wide(path, name, names)
            found[name], suffixes[name] = names, group.embedding_name_suffix
            if suffixes.get("fm", suffixes.get("deep", "")) != suffixes.get(
                "deep", suffixes.get("fm", "")
            ):
                raise self.error(
                    f"{path}.embedding_name_suffix",
                    "tables that fm and deep do not share are not supported; give both groups one "
                    "suffix",
                )
        for name, is_needed in wanted.items():
            if is_needed and not found.get(name):
                raise self.error(
                    "model_config.feature_groups",
                    f"{self.model} needs a group {name}; found: {', '.join(found) or 'none'}",
                )
        groups = {name: found[name] for name in wanted if found.get(name)}
        used = {feature for names in groups.values() for feature in names}
        if unused := [name for name in self.features if name not in used]:
            self.note("feature_configs", f"in no group, left out: {', '.join(unused)}")
        if self.model == "deepfm":
            self._check_fm_dims(groups)
        return groups, used

    def _check_dense_in_wide(self, path: str, group: str, names: list[str]) -> None:
        for place, name in enumerate(names):
            if group == "wide" and self.features[name].is_raw:
                raise self.error(
                    f"{path}.feature_names[{place}]",
                    f"dense feature {name!r} should not be configured in the wide group; give it "
                    "boundaries to make ids of it",
                )

    def _check_fm_dims(self, groups: Mapping[str, list[str]]) -> None:
        """All vectors that the FM multiplies must have one width."""
        name = "fm" if "fm" in groups else "deep"
        dims = {feature: self._dim(self.features[feature]) for feature in groups[name]}
        if len(set(dims.values())) > 1:
            shown = ", ".join(f"{feature} {dim}" for feature, dim in dims.items())
            fallback = " (read by the FM, as there is no group fm)" if name == "deep" else ""
            raise self.error(
                "model_config.feature_groups",
                f"embedding dimensions of the {name} group must be the same{fallback}, found "
                f"{shown}",
            )

    @staticmethod
    def _dim(feature: Feature) -> int:
        return feature.keys.get("embedding_dim") or feature.keys.get("value_dim", 1)

    def _network(self) -> dict[str, Any]:
        """Keys of the model: networks and the wide tables."""
        model, path = self.message.model_config, f"model_config.{self.model}"
        config = getattr(model, self.model)
        feature: dict[str, Any] = {
            "wide_embedding_dim": config.wide_embedding_dim or _DEFAULT_WIDE_DIM
        }
        if config.wide_init_fn:
            check_initializer(self.pipeline, f"{path}.wide_init_fn", config.wide_init_fn)
            feature["wide_init"] = config.wide_init_fn
        if model.HasField("variational_dropout"):
            dropout = model.variational_dropout.regularization_lambda
            feature["variational_dropout"] = shortest(dropout)
        found: dict[str, Any] = {"feature": feature}
        if self.model == "xdeepfm":
            sizes = list(config.cin.cin_layer_size)
            if not sizes:
                raise self.error(f"{path}.cin", "cin_layer_size: a value is needed")
            found["cin"] = {
                "layer_sizes": sizes,
                "split_half": False,
                "group": "wide",
                "bias": True,
                "init": "torch",
            }
            if not config.HasField("final"):
                raise self.error(path, "xdeepfm needs final { hidden_units }")
        found["dnn"] = self._mlp(config.deep, f"{path}.deep")
        if config.HasField("final"):
            found["final"] = self._mlp(config.final, f"{path}.final")
        return found

    def _mlp(self, config: Any, path: str) -> dict[str, Any]:
        units, dropout = list(config.hidden_units), [shortest(r) for r in config.dropout_ratio]
        if not units:
            raise self.error(path, "hidden_units: a value is needed")
        if config.use_bn and config.use_ln:
            raise self.error(f"{path}.use_ln", "choose use_bn or use_ln, not both")
        if len(dropout) > 1 and len(dropout) != len(units):
            raise self.error(
                f"{path}.dropout_ratio",
                f"expected one number, or one for each of {len(units)} hidden units, found "
                f"{len(dropout)}",
            )
        try:
            activation_from(config.activation, units[0])
        except ValueError as error:
            problem = str(error).removeprefix("activation: ")
            raise self.error(f"{path}.activation", problem) from None
        return {
            "hidden_units": units,
            "activation": config.activation.strip(),
            "dropout": dropout if len(dropout) > 1 else (dropout or [0.0])[0],
            "use_batch_norm": config.use_bn,
            "use_layer_norm": config.use_ln,
            "bias": config.bias,
            "init": "torch",
        }

    def _losses(self) -> tuple[list[Any], str]:
        """Losses, and the kind of label that they need."""
        model = self.message.model_config
        if not model.losses:
            raise self.error("model_config", "losses: a value is needed")
        found, kinds = [], []
        for k, loss in enumerate(model.losses):
            kind, path = loss.WhichOneof("loss"), f"model_config.losses[{k}]"
            if kind is None:
                raise self.error(path, f"expected a loss, one of {', '.join(_LOSSES)}")
            name, classes, label = _LOSSES[kind]
            if not _CLASSES[classes](model.num_class):
                raise self.error(
                    f"{path}.{kind}", f"it needs {classes}, found num_class: {model.num_class}"
                )
            options = _options(getattr(loss, kind))
            if kind == "jrc_loss":
                session = options.pop("session_name")
                options = {"session": self._group(session, f"{path}.{kind}.session_name")} | options
            found.append({"name": name} | options)
            kinds.append(label)
        # A class is a whole number, a binary label one of two, and l2 can have either.
        return found, next(kind for kind in ("class", "binary", "number") if kind in kinds)

    def _metrics(self) -> list[Any]:
        found = []
        for k, metric in enumerate(self.message.model_config.metrics):
            path = f"model_config.metrics[{k}]"
            kind = metric.WhichOneof("metric")
            if kind is None:
                raise self.error(path, f"expected a metric, one of {', '.join(_METRICS)}")
            found.append(self._metric(kind, getattr(metric, kind), f"{path}.{kind}"))
        return found

    def _train_metrics(self) -> list[Any]:
        found = []
        for k, metric in enumerate(self.message.model_config.train_metrics):
            path = f"model_config.train_metrics[{k}]"
            kind = metric.WhichOneof("metric")
            if kind is None:
                raise self.error(path, "expected a metric")
            options = self._metric(kind, getattr(metric, kind), f"{path}.{kind}")
            options["decay_rate"] = shortest(metric.decay_rate)
            options["decay_step"] = metric.decay_step
            found.append(options)
        return found

    def _metric(self, kind: str, config: Any, path: str) -> dict[str, Any]:
        name, model = _METRICS[kind], self.message.model_config
        losses = {loss.WhichOneof("loss") for loss in model.losses}
        is_of_numbers = METRICS[name].needs == "numbers"
        if is_of_numbers and "l2_loss" not in losses:
            raise self.error(path, "it is of predicted numbers, which need l2_loss")
        if not is_of_numbers and losses == {"l2_loss"}:
            raise self.error(path, "it is of probabilities, which l2_loss does not give")
        if name in ("auc", "gauc", "normalized_entropy") and model.num_class > 2:
            raise self.error(path, f"it needs num_class 1 or 2, found {model.num_class}")
        if name == "multiclass_auc" and model.num_class < 2:
            raise self.error(path, f"it needs num_class above 1, found {model.num_class}")
        options = _options(config)
        if "grouping_key" in options:
            key = options.pop("grouping_key")
            options = {"group": self._group(key, f"{path}.grouping_key")} | options
        return {"name": name} | options

    def _group(self, key: str, path: str) -> str:
        """The column that a feature reads, which groups the rows."""
        if not key:
            raise self.error(path.rpartition(".")[0], f"{path.rpartition('.')[2]}: is needed")
        if key not in self.features:
            raise self.error(path, f"no feature {key!r}; {nearest(key, self.features)}")
        keys = self.features[key].keys
        if keys["type"] == "dense" or "columns" in keys:
            raise self.error(path, f"{key!r} is no id_feature, whose ids could group the rows")
        column = keys.get("column", key)
        self.group_columns[column] = None
        return column

    # --- training --------------------------------------------------------------------------

    def _training(
        self, losses: list[Any], train_metrics: list[Any], metrics: list[Any]
    ) -> dict[str, Any]:
        config, data = self.message.train_config, self.message.data_config
        if bool(config.num_steps) == bool(config.num_epochs):
            raise self.error("train_config", "choose one of num_epochs and num_steps")
        found: dict[str, Any] = {"epochs": config.num_epochs or config.num_steps}
        if config.num_steps:  # no epoch is shorter than a step, so the steps decide
            found["max_steps"] = config.num_steps
        if not data.batch_size:
            raise self.error("data_config.batch_size", "expected at least 1, found 0")
        found |= {
            "batch_size": data.batch_size,
            "shuffle": data.shuffle,
            "drop_last": data.drop_remainder,
            "losses": losses,
            "metrics": train_metrics,
        }
        found |= self._optimizers()
        found |= {"early_stopping_patience": None} | self._best(losses, metrics)
        found |= self._clipping()
        if config.gradient_accumulation_steps > 1:
            found["gradient_accumulation_steps"] = config.gradient_accumulation_steps
            found["sparse_update"] = "backward"
        if config.dense_optimizer.HasField("ema"):
            found["ema_decay"] = shortest(config.dense_optimizer.ema.decay)
        for section in ("eval_config", "export_config"):
            chosen = getattr(self.message, section)
            if chosen.HasField("use_dense_ema") and chosen.use_dense_ema != ("ema_decay" in found):
                raise self.error(
                    f"{section}.use_dense_ema",
                    "with ema it is true here, and false without; leave it out",
                )
        steps = config.save_checkpoints_steps
        if config.save_checkpoints_epochs:
            steps = 0
        if steps:
            found |= {"checkpoint_every_steps": steps, "evaluate_every_steps": steps}
        if config.log_step_count_steps:
            found["log_every_steps"] = config.log_step_count_steps
        return found

    def _best(self, losses: list[Any], metrics: list[Any]) -> dict[str, Any]:
        """Which weights a run ends with, and the metric that it watches."""
        export = self.message.export_config
        kind = export.exporter_type
        if kind not in ("latest", "best"):
            raise self.error(
                "export_config.exporter_type",
                f"unknown type {kind!r}; {nearest(kind, ('latest', 'best'))}",
            )
        reported = reported_names(
            named(metric, METRICS, "evaluation.metrics", "metric") for metric in metrics
        )
        if kind == "latest":  # a metric is watched for the log only
            return {"keep": "last", "metric": [*reported, losses[0]["name"]][0]}
        path, wanted = "export_config.best_exporter_metric", export.best_exporter_metric
        ours = {metric["name"]: name for metric, name in zip(metrics, reported, strict=True)}
        ours |= {loss["name"]: loss["name"] for loss in losses}
        known = _METRICS | {name: own for name, (own, *_) in _LOSSES.items()}
        known = {name: own for name, own in known.items() if own in ours}
        if wanted not in known:
            raise self.error(path, f"{wanted!r} is not evaluated; {nearest(wanted, known)}")
        metric = known[wanted]
        if export.metric_larger_is_better != is_larger_better(metric):
            better = "larger" if is_larger_better(metric) else "smaller"
            raise self.error(
                "export_config.metric_larger_is_better", f"of {wanted} the {better} is better"
            )
        return {"keep": "best", "metric": ours[metric]}

    def _clipping(self) -> dict[str, Any]:
        config = self.message.train_config.grad_clipping
        kind, limit = config.clipping_type.lower(), shortest(config.max_gradient)
        found: dict[str, Any] = {"gradient_clip_norm": None}
        if kind == "norm":
            found = {"gradient_clip_norm": limit, "gradient_clip_scope": "dense"}
            found["gradient_clip_norm_type"] = shortest(config.norm_type)
        elif kind == "value":
            found |= {"gradient_clip_value": limit, "gradient_clip_scope": "dense"}
        elif kind != "none":
            raise self.error(
                "train_config.grad_clipping.clipping_type",
                f"expected norm, value or none, found {config.clipping_type!r}",
            )
        return found

    def _optimizers(self) -> dict[str, Any]:
        config = self.message.train_config
        sparse, dense = config.sparse_optimizer, config.dense_optimizer
        found: dict[str, Any] = {
            "optimizer": self._optimizer(dense, _DENSE, "train_config.dense_optimizer"),
            "scheduler": self._schedule(dense, "train_config.dense_optimizer") or "none",
            "sparse_optimizer": self._sparse_optimizer(sparse),
            "sparse_scheduler": self._schedule(sparse, "train_config.sparse_optimizer") or "none",
        }
        parts = []
        for k, part in enumerate(dense.part_optimizers):
            path = f"train_config.dense_optimizer.part_optimizers[{k}]"
            if not part.regex_pattern:
                raise self.error(path, "regex_pattern: a value is needed")
            parts.append(
                {
                    "pattern": part.regex_pattern,
                    "optimizer": self._optimizer(part, _DENSE, path),
                    "scheduler": self._schedule(part, path),
                }
            )
        if parts:
            found["part_optimizers"] = parts
        return found

    def _optimizer(self, config: Any, names: Mapping[str, str], path: str) -> dict[str, Any]:
        kind = config.WhichOneof("optimizer")
        if kind is None:
            raise self.error(path, f"expected one of {', '.join(names)}")
        options = _options(getattr(config, kind))
        options.pop("fused", None)
        options.pop("weight_decay_mode", None)
        if "beta1" in options:
            options["betas"] = [options.pop("beta1"), options.pop("beta2")]
        return {"name": names[kind]} | options

    def _sparse_optimizer(self, config: Any) -> dict[str, Any]:
        options = self._optimizer(config, _SPARSE, "train_config.sparse_optimizer")
        options.pop("weight_decay", None)  # is 0
        limit = options.pop("max_gradient")
        if options.pop("gradient_clipping"):
            options["max_gradient"] = limit
        if options["name"] != "lazy_sgd":
            options["eps"] = _SPARSE_EPS
        return options

    def _schedule(self, config: Any, path: str) -> dict[str, Any] | str | None:
        """None: no schedule is named."""
        kind = config.WhichOneof("learning_rate")
        if kind is None:
            return None
        if kind == "constant_learning_rate":
            return "none"
        name, renamed = _SCHEDULES[kind]
        options = _options(getattr(config, kind))
        for needed in renamed:
            if needed not in options:
                raise self.error(f"{path}.{kind}", f"{needed}: a value is needed")
        return {"name": name} | {ours: options[theirs] for theirs, ours in renamed.items()}

    def _evaluation(self, metrics: list[Any]) -> dict[str, Any]:
        data, config = self.message.data_config, self.message.eval_config
        found: dict[str, Any] = {"batch_size": data.eval_batch_size or data.batch_size}
        if config.num_steps:
            found["max_batches"] = config.num_steps
        return found | {"metrics": metrics}


def _options(config: Any) -> dict[str, Any]:
    """All scalars of a message, with their defaults where they are not set.

    What is not set and has no default is left out, if that is a number: 0 pairs at most is no
    limit that anybody wants.
    """
    found: dict[str, Any] = {}
    for field in config.DESCRIPTOR.fields:
        value = getattr(config, field.name)
        if is_repeated(field):
            found[field.name] = [shortest(v) if isinstance(v, float) else v for v in value]
        elif field.has_default_value or config.HasField(field.name) or isinstance(value, str):
            found[field.name] = shortest(value) if isinstance(value, float) else value
    return found


def _has_ending(path: str) -> bool:
    return Path(path).suffix in (*_PARQUET, *_TEXT)


def _is_parquet(path: str) -> bool:
    return Path(path).suffix in _PARQUET


def _parquet_schema(path: str) -> pa.Schema | None:
    try:
        return pyarrow.parquet.read_schema(path)
    except (OSError, pa.ArrowException):
        return None  # reading the data will say what is wrong with it


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return INTEGER
    return LIST if pa.types.is_list(kind) or pa.types.is_large_list(kind) else OTHER
