"""Experiment configuration: nested frozen dataclasses, filled from YAML and overrides.

A default stands here and nowhere else. Everything is checked before any data is read: an unknown
key, a wrong type or a value out of range is a `ConfigError` that names the file, the line, the
dotted key and what was expected. Nothing in a config file is ever evaluated or imported.
"""

import re
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import MISSING, InitVar, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from deepfm.data.options import (
    DataConfig,
    FieldConfig,
    LabelConfig,
    PackageConfig,
    SourceConfig,
    TableConfig,
    check_path,
)
from deepfm.errors import ConfigError, nearest, shown
from deepfm.evaluation.metrics import METRICS, TRAIN_METRICS, Metric, OverBatches
from deepfm.evaluation.ranking import RANKING_METRICS
from deepfm.format_versions import FORMAT_VERSION, READABLE_VERSIONS, current_config
from deepfm.models import MODELS
from deepfm.models.options import (
    AttentionConfig,
    AttentionDeepFMConfig,
    CINConfig,
    DeepFMConfig,
    DNNConfig,
    FeatureConfig,
    FMConfig,
    ModelConfig,
    NetworkConfig,
    WideAndDeepConfig,
    XDeepFMConfig,
)
from deepfm.objectives import (
    LOSSES,
    MAX_CLASSES,
    Objective,
    Task,
    TaskConfig,
    TaskData,
    metric_names,
)
from deepfm.objectives.tasks import classes_of, is_larger_better, watched_metrics, weight_name
from deepfm.packaged import find_config
from deepfm.training.options import (
    OPTIMIZERS,
    SCHEDULERS,
    SPARSE_OPTIMIZERS,
    Cosine,
    OptimizerConfig,
    ReduceOnPlateau,
    ScheduleConfig,
    SparseOptimizerConfig,
)
from deepfm.training.trackers import TRACKERS, TrackerConfig
from deepfm.utils.logging import LOGGER
from deepfm.utils.named import one_of, resolve
from deepfm.utils.places import refuse_remote
from deepfm.utils.settings import (
    apply_override,
    build,
    check_limits,
    expand_name,
    expanded,
    limited,
    plain,
    renamed,
    source_of,
)
from deepfm.utils.yaml_reader import parse_yaml, read_text

__all__ = [
    "AttentionConfig",
    "AttentionDeepFMConfig",
    "CINConfig",
    "DNNConfig",
    "DataConfig",
    "DeepFMConfig",
    "DistributedConfig",
    "EvaluationConfig",
    "ExperimentConfig",
    "FMConfig",
    "FeatureConfig",
    "FieldConfig",
    "LabelConfig",
    "ModelConfig",
    "NetworkConfig",
    "PackageConfig",
    "PartOptimizerConfig",
    "SourceConfig",
    "TableConfig",
    "TaskConfig",
    "TrainingConfig",
    "WideAndDeepConfig",
    "XDeepFMConfig",
    "config_from_dict",
    "load_config",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PartOptimizerConfig:
    """An optimizer of its own for some dense parameters.

    Attributes:
        pattern: A regular expression for the whole names of those parameters.
        optimizer: As `training.optimizer`.
        scheduler: As `training.scheduler`; null: the one of all others.
    """

    pattern: str
    optimizer: OptimizerConfig = one_of(OPTIMIZERS, "optimizer", MISSING)
    scheduler: ScheduleConfig | None = one_of(SCHEDULERS, "scheduler", None)

    def __post_init__(self) -> None:
        key = "training.part_optimizers"
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(
                f"{self.pattern!r} is no regular expression: {error}", key=f"{key}.pattern"
            ) from None
        resolve(self, key)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The training loop.

    Attributes:
        epochs: Passes over the training rows, at most.
        max_steps: Steps in all epochs, at most; null: no limit.
        batch_size: Rows of a step.
        shuffle: Whether rows come in another order in each epoch.
        drop_last: Whether a last batch with fewer rows is left out.
        losses: What is learned; several are added up.
        initial_bias: Where the output bias starts: at the logit of the `base_rate` of the rows as
            trained, or at `zero`.
        lr: Learning rate of all optimizers that name none.
        optimizer: Of the dense weights, and of the tables where they have none of their own.
        sparse_optimizer: Of the embedding tables; null: they share `optimizer`.
        part_optimizers: Optimizers of their own for dense weights by name.
        scheduler: How the learning rate changes, of all optimizers that have none of their own.
        sparse_scheduler: The same for the tables' optimizer; null: `scheduler`.
        early_stopping_patience: Epochs without a better `metric` after which training stops;
            null: never.
        keep: The weights that a run ends with: those of the `best` evaluation, or the `last`.
        metric: What is watched on the validation split.
        gradient_accumulation_steps: Batches whose gradients make one step of the optimizers.
        sparse_update: When tables are updated under accumulation: once per `step` of the
            optimizers, or after each `backward` pass.
        gradient_clip_norm: Limit of the gradient's norm; null: none.
        gradient_clip_norm_type: Which norm that is; .inf is the largest number.
        gradient_clip_value: Limit of each number of the gradient; null: none.
        gradient_clip_scope: What is clipped: `all` weights, or the `dense` ones.
        ema_decay: Of the moving average of the dense weights that is evaluated and kept; null:
            there is none.
        checkpoint_every_steps: A checkpoint after so many steps too; null: at epochs' ends.
        evaluate_every_steps: An evaluation after so many steps too; null: at epochs' ends.
        log_every_steps: A log line after so many steps; null: at epochs' ends.
        threads: Of the CPU in a step; null: by its work, two where that is large enough to share.
        precision: Of the matrix products of networks, CIN and attention: `fp32`, `bf16`, or `auto`,
            which is bf16 where the processor or the GPU has units for it. A run that is resumed
            keeps what it began with.
        metrics: Metrics of training batches, for the log.
        report: Whether `deepfm train` ends with a page, `report.html`: `auto`, where matplotlib is
            installed and 5 % of the run's CPU are enough for one, or `never`.
        trackers: Where figures go besides the log and the files of the run: `tensorboard`.
    """

    epochs: int = limited(50, at_least=1)
    max_steps: int | None = limited(None, at_least=1)
    batch_size: int = limited(4096, at_least=1)
    shuffle: bool = True
    drop_last: bool = False
    losses: tuple[Objective, ...] = one_of(LOSSES, "loss", ("binary_cross_entropy",))
    initial_bias: Literal["base_rate", "zero"] = "base_rate"
    lr: float = limited(1e-3, above=0)
    optimizer: OptimizerConfig = one_of(OPTIMIZERS, "optimizer", "adam")
    sparse_optimizer: OptimizerConfig | SparseOptimizerConfig | None = one_of(
        {**OPTIMIZERS, **SPARSE_OPTIMIZERS}, "optimizer", None
    )
    part_optimizers: tuple[PartOptimizerConfig, ...] = ()
    scheduler: ScheduleConfig = one_of(SCHEDULERS, "scheduler", "reduce_on_plateau")
    sparse_scheduler: ScheduleConfig | None = one_of(SCHEDULERS, "scheduler", None)
    early_stopping_patience: int | None = limited(5, at_least=1)
    keep: Literal["best", "last"] = "best"
    metric: str = "auc"
    gradient_accumulation_steps: int = limited(1, at_least=1)
    sparse_update: Literal["step", "backward"] = "step"
    gradient_clip_norm: float | None = limited(1.0, above=0)
    gradient_clip_norm_type: float = limited(2.0, above=0, infinite=True)
    gradient_clip_value: float | None = limited(None, above=0)
    gradient_clip_scope: Literal["all", "dense"] = "all"
    ema_decay: float | None = limited(None, at_least=0, below=1)
    checkpoint_every_steps: int | None = limited(None, at_least=1)
    evaluate_every_steps: int | None = limited(None, at_least=1)
    log_every_steps: int | None = limited(None, at_least=1)
    threads: int | None = limited(None, at_least=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    metrics: tuple[OverBatches, ...] = one_of(TRAIN_METRICS, "metric", ())
    report: Literal["auto", "never"] = "auto"
    trackers: tuple[TrackerConfig, ...] = one_of(TRACKERS, "tracker", ())
    scheduler_factor: InitVar[float | None] = renamed("scheduler.factor")
    scheduler_patience: InitVar[int | None] = renamed("scheduler.patience")
    scheduler_t_max: InitVar[int | None] = renamed("scheduler.t_max")

    def __post_init__(
        self,
        scheduler_factor: float | None,
        scheduler_patience: int | None,
        scheduler_t_max: int | None,
    ) -> None:
        resolve(self, "training")
        if not self.losses:
            raise ConfigError("expected at least one loss", key="training.losses")
        older = {
            "factor": scheduler_factor, "patience": scheduler_patience, "t_max": scheduler_t_max
        }  # fmt: skip
        given = {option: value for option, value in older.items() if value is not None}
        if given:
            self._set_schedules(given)

    def _set_schedules(self, given: dict[str, float]) -> None:
        """Give the options to every schedule by a metric or an epoch that has them."""
        for owner in (self, *self.part_optimizers):
            for key in ("scheduler", "sparse_scheduler"):
                schedule = getattr(owner, key, None)
                if isinstance(schedule, ReduceOnPlateau | Cosine):
                    own = {name: given[name] for name in given.keys() & schedule.to_dict().keys()}
                    object.__setattr__(owner, key, type(schedule)(**(vars(schedule) | own)))


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Scoring, metrics, and the sampled ranking protocol.

    Attributes:
        candidate_seed: Of the items that held-out positives are ranked among.
        batch_size: Rows that are scored at once, and of metrics that are defined by batches.
        max_batches: Limits the evaluations in the course of training, never the final ones.
        precision: As `training.precision`, of scoring.
        metrics: What is reported.
    """

    candidate_seed: int = limited(0, at_least=0)
    batch_size: int = limited(16384, at_least=1)
    max_batches: int | None = limited(None, at_least=1)
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    metrics: tuple[Metric, ...] = one_of(METRICS, "metric", ("auc", "logloss"))

    def __post_init__(self) -> None:
        resolve(self, "evaluation")


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """Several processes that train one model.

    Attributes:
        timeout: Seconds after which a process that says nothing is given up, and all others end.
    """

    timeout: float = limited(60.0, at_least=5, at_most=86400)


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One experiment, from data to metrics.

    In a file the options of the model stand at the top, beside `model_name`. Without `tasks` there
    is one, which `data.table.label`, `training.losses`, `evaluation.metrics`, `training.metrics`
    and `num_class` describe.

    Attributes:
        model: Name and options of the model.
        num_class: Logits per row: 1 for two classes or a number, else one for each class; those
            that the label names need not be counted.
        seed: Of initial weights, order of rows, negatives and dropout.
        device: `auto` (MPS, then CUDA, then CPU), or one of these in small letters.
        output_dir: Where a run is written.
        data: Where rows come from.
        tasks: Several things that a model is trained to predict, by name.
        training: The training loop.
        evaluation: Scoring and metrics.
        distributed: Several processes.
        format_version: Of this file.
    """

    model: ModelConfig = field(default_factory=DeepFMConfig)
    num_class: int = limited(1, at_least=1, at_most=MAX_CLASSES)
    seed: int = limited(42, at_least=0)
    device: str = "auto"
    output_dir: str = "outputs/experiment"
    data: DataConfig = field(default_factory=DataConfig)
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        check_path(self.output_dir, "output_dir")
        refuse_remote(
            self.output_dir, "output_dir", "a run is written there; `deepfm upload` takes it on"
        )
        if self.tasks:
            self._check_tasks()
        elif self.data.table is not None and not self.data.table.label:
            raise ConfigError("a value is needed", key="data.table.label")
        for task in self.task_list():
            if task.classes and len(task.classes) != task.num_class:
                raise ConfigError(
                    f"the label {task.label} has {len(task.classes)} classes, found "
                    f"{task.num_class}; leave it out, then they are counted",
                    key=task.key("num_class"),
                )
        self._check_watched()

    @property
    def model_name(self) -> str:
        """What the model is called in `MODELS`."""
        return self.model.name

    @property
    def feature(self) -> FeatureConfig:
        """The embedding layer's options."""
        return self.model.feature

    def _check_watched(self) -> None:
        """Refuse to watch what is not there, or a mean of what has no common direction."""
        watched = watched_metrics(self.training.metric)
        known = metric_names(self.task_list())
        if len(watched) > 1:  # ranking is measured by itself
            known = [name for name in known if name not in RANKING_METRICS]
        for name in watched:
            if name not in known:
                raise ConfigError(
                    f"unknown metric {name!r}; {nearest(name, known)}", key="training.metric"
                )
        if len({is_larger_better(name) for name in watched}) > 1:
            larger = ", ".join(name for name in watched if is_larger_better(name))
            smaller = ", ".join(name for name in watched if not is_larger_better(name))
            raise ConfigError(
                f"{self.training.metric} has no direction: better is a larger {larger}, and a "
                f"smaller {smaller}",
                key="training.metric",
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
        if all(task.weight == 0 for task in self.tasks.values()):
            raise ConfigError("every weight is 0: nothing is trained", key="tasks")
        for name, task in self.tasks.items():
            self._check_rows_of(name, task)
        if self.data.split.makes_ranking and len(self.tasks) > 1:
            raise ConfigError(
                f"data.split_strategy {self.data.split_strategy} ranks items by one task, found "
                f"{', '.join(self.tasks)}",
                key="tasks",
            )

    def _check_rows_of(self, name: str, task: TaskConfig) -> None:
        """Refuse weights or a space of a task that its data has no place for."""
        for key, value in (("space", task.space), ("sample_weight", task.sample_weight)):
            if value is not None and self.data.split.makes_ranking:
                raise ConfigError(
                    f"data.split_strategy {self.data.split_strategy} ranks by one label and one "
                    "weight, data.table.sample_weight",
                    key=f"tasks.{name}.{key}",
                )
        table = self.data.table
        assert table is not None  # of tasks
        labels = [one.label for one in self.tasks.values()]
        if task.space is None or task.space in labels:
            return
        if (kind := table.label_of(task.space).kind) == "class":
            raise ConfigError(
                f"the rows above 0 of a label are a space, and {task.space} is of kind {kind}; "
                "declare one of kind binary or number",
                key=f"tasks.{name}.space",
            )

    def task_list(self) -> tuple[Task, ...]:
        """Return what a model of this experiment is trained to predict, a task or several."""
        if self.tasks:
            is_only = len(self.tasks) == 1
            return tuple(
                t.task(name, is_only=is_only, classes=self._classes(t.label))
                for name, t in self.tasks.items()
            )
        table = self.data.table
        classes = () if table is None else self._classes(table.label)
        return (
            Task(
                label="" if table is None else table.label,
                objectives=self.training.losses,
                metrics=self.evaluation.metrics,
                train_metrics=self.training.metrics,
                num_class=classes_of(self.num_class, classes),
                classes=classes,
            ),
        )

    def _classes(self, label: str) -> tuple[str, ...]:
        """The names of a label's classes, if they have any."""
        table = self.data.table
        return () if table is None else table.label_of(label).classes

    def label_rules(self) -> dict[str, LabelConfig]:
        """Return what makes each column of labels, by its name; empty without a table.

        Those of the tasks come first, then labels that are a space only, then weights of tasks.
        """
        table = self.data.table
        if table is None:
            return {}
        found = {task.label: table.label_of(task.label) for task in self.task_list()}
        for task in self.tasks.values():
            if task.space is not None:
                found.setdefault(task.space, table.label_of(task.space))
        for task in self.tasks.values():
            if (column := task.sample_weight) is not None:
                found[weight_name(column)] = LabelConfig(column=column, kind="weight")
        return found

    def task_data(self) -> TaskData:
        """Return what its data has to offer to tasks."""
        table, split = self.data.table, self.data.split_strategy
        rules = self.label_rules()
        return TaskData(
            {name: rule.kind for name, rule in rules.items()} or {"": "binary"},
            () if table is None else table.group_columns,
            split,
            ranks=self.data.split.makes_ranking,
            explicit_negatives=self.data.explicit_negatives,
            draws_negatives=self.data.num_neg_train > 0 or self.data.negatives_from == "in_batch",
            negatives_for_pairs=self.data.key_for_pairs,
            branches=self.model.branch_names,
            with_branches=tuple(n for n, entry in MODELS.items() if entry.options().branch_names),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data with every default spelled out; `config_from_dict` is the inverse.

        Only a declared field shows no more than what was given.
        """
        nested: dict[str, Any] = plain(self)
        if not self.tasks:
            del nested["tasks"]
        model = nested.pop("model")
        nested = {"model_name": model.pop("name"), **nested}
        sections = ("training", "evaluation", "format_version")  # stand behind the model's
        behind = {key: nested.pop(key) for key in sections}
        if table := nested["data"]["table"]:
            table["fields"] = {
                name: {key: value for key, value in keys.items() if value is not None}
                for name, keys in table["fields"].items()
            }
        nested |= model | behind
        return nested


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """Return the config of a YAML file, with overrides of the form `section.key=value`.

    `path` may be the name of a packaged config, such as `deepfm_adult`. The file says `data` or
    `model_name` at least, and is no larger than 1 MiB.
    `output_dir` defaults to `outputs/<file name without its ending>`.

    Raises:
        ConfigError: The file is missing or no YAML, or a key, type or value is wrong.
    """
    path = find_config(path)
    raw, lines = parse_yaml(read_text(path), str(path))
    raw.setdefault("output_dir", f"outputs/{path.stem}")
    sources = {key: f"{path}:{line}: " for key, line in lines.items()}
    _expand(raw, sources)
    for override in overrides:
        apply_override(raw, override, sources)
    config = config_from_dict(raw, sources=sources)
    if not raw.keys() & {"data", "model_name"}:
        raise ConfigError(
            "says neither data nor model_name, one of which a config needs", source=f"{path}: "
        )
    return config


def config_from_dict(
    raw: Mapping[str, Any], *, sources: Mapping[str, str] | None = None
) -> ExperimentConfig:
    """Return the checked config that plain nested data says.

    Args:
        raw: Nested mappings, as YAML gives them; missing keys take their defaults.
        sources: Where a dotted key was read, to begin an error message with.
    """
    sources = dict(sources or {})
    raw = dict(raw)
    _expand(raw, sources)
    raw = current_config(raw, source_of(sources, "format_version"))
    model = _model(raw, sources)
    config = build(ExperimentConfig, raw | {"model": model}, "", sources)
    if config.format_version != FORMAT_VERSION:
        raise ConfigError(
            f"format_version {config.format_version}: this release reads versions "
            f"{' and '.join(map(str, READABLE_VERSIONS))}; update deepfm",
            source=source_of(sources, "format_version"),
        )
    check_limits(config, "", sources)
    check_limits(config.model, "", sources)
    return config


def _model(raw: dict[str, Any], sources: Mapping[str, str]) -> ModelConfig:
    """The model of an experiment, whose keys are taken out of its data.

    A section of another model is checked, and left out with a log line.
    """
    name = raw.pop("model_name", DeepFMConfig.name)
    if not isinstance(name, str) or name not in MODELS:
        raise ConfigError(
            f"unknown model {shown(name)}; {nearest(str(name), MODELS)}",
            key="model_name",
            source=source_of(sources, "model_name"),
        )
    own = {item.name for item in fields(MODELS[name].options)}
    readers = {
        item.name: other
        for other, entry in MODELS.items()
        for item in fields(entry.options)
        if item.name not in own
    }
    top = {item.name for item in fields(ExperimentConfig) if item.name != "model"}
    for key in raw:
        if key in TaskConfig.refused_keys:
            raise ConfigError(
                TaskConfig.refused_keys[key], key=str(key), source=source_of(sources, str(key))
            )
        if key not in top | own | readers.keys():
            problem = f"unknown key {shown(key)}; {nearest(str(key), [*top, *own, *readers])}"
            raise ConfigError(problem, source=source_of(sources, str(key)))
    for key in [key for key in raw if key in readers]:
        other = build(MODELS[readers[key]].options, {key: raw.pop(key)}, "", sources)
        check_limits(other, "", sources)
        if sources:
            source = source_of(sources, key)
            LOGGER.info(f"{source}{key} is ignored: {name} does not read it")
    given = {key: raw.pop(key) for key in [key for key in raw if key in own]}
    return build(MODELS[name].options, given, "", sources)


# Where names of columns and fields stand that may be ranges and lists.
_NAMED_BY_COLUMN = ("data.table.fields", "feature.embedding_dims")
_LISTS_OF_COLUMNS = ("data.table.columns", "data.table.group_columns")


def _expand(raw: dict[str, Any], sources: MutableMapping[str, str]) -> None:
    """Put names in the place of ranges and lists of them, `C1..C26` and `[a, b]`.

    Raises:
        ConfigError: A name is given twice.
    """
    for key in _NAMED_BY_COLUMN:
        owner, name = _owner(raw, key)
        if isinstance(owner.get(name), Mapping):
            owner[name] = expanded(owner[name], key, sources)
    for key in _LISTS_OF_COLUMNS:
        owner, name = _owner(raw, key)
        if isinstance(owner.get(name), list):
            owner[name] = [one for item in owner[name] for one in expand_name(item)]
    groups = _owner(raw, "feature.groups.")[0]
    for name, names in groups.items():
        if isinstance(names, list):
            groups[name] = [one for item in names for one in expand_name(item)]


def _owner(raw: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Copies of the mappings above a dotted key, put in their places; the last, and its key."""
    *sections, last = key.split(".")
    for section in sections:
        below = raw.get(section)
        if not isinstance(below, Mapping):
            return {}, last
        raw[section] = raw = dict(below)
    return raw, last
