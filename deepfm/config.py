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
    dict[str, int]: "a mapping of names to whole numbers",
    dict[str, Any]: "a mapping with a name and options",
}


def _limited(default: Any, **limits: float) -> Any:
    """A dataclass field whose number (or each of its numbers) stays within limits.

    Limits: `at_least`, `at_most` (inclusive), `above`, `below` (exclusive).
    """
    return field(default=default, metadata=limits)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where rows come from, how they are split, and which negatives are drawn."""

    dataset_name: str = "movielens-100k"
    data_dir: str = "data/ml-100k"
    auto_download: bool = True
    split_strategy: Literal["leave_one_out"] = "leave_one_out"
    min_interactions: int = _limited(3, at_least=3)
    label_threshold: float = 4.0
    num_neg_train: int = _limited(4, at_least=0)
    num_neg_eval: int = _limited(999, at_least=1)
    negative_exclusion: Literal["train", "all"] = "train"
    explicit_negatives: bool = False


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
        """Plain data with every default spelled out; `config_from_dict` is the inverse."""
        return _plain(asdict(self))


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
    _refuse_unknown_keys(ExperimentConfig, raw, "", sources)
    try:
        config = dacite.from_dict(
            ExperimentConfig,
            raw,
            dacite.Config(
                strict=True,
                type_hooks={float: _int_to_float, tuple[int, ...]: _list_to_tuple},
            ),
        )
    except dacite.WrongTypeError as error:
        key = str(error.field_path)
        expected = _type_name(error.field_type)
        raise ConfigError(
            f"{_source(sources, key)}{key}: expected {expected}, found {error.value!r}"
            + (f"; {nearest(error.value, choices)}" if (choices := _choices(error)) else "")
        ) from None
    except ConfigError as error:
        raise ConfigError(f"{_source(sources, str(error).split(':')[0])}{error}") from None
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


def _refuse_unknown_keys(cls: type, raw: Any, prefix: str, sources: Mapping[str, str]) -> None:
    if not isinstance(raw, Mapping):
        place = prefix.rstrip(".")
        raise ConfigError(
            f"{_source(sources, place)}{place}: expected keys below it, found {raw!r}"
        )
    known = {f.name: f for f in fields(cls)}
    for key, value in raw.items():
        path = f"{prefix}{key}"
        if key not in known:
            raise ConfigError(
                f"{_source(sources, path)}unknown key {path!r}; {nearest(str(key), known)}"
            )
        if is_dataclass(known[key].type):
            _refuse_unknown_keys(known[key].type, value, f"{path}.", sources)


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
