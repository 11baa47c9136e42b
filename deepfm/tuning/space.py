"""A search space: keys of a config with what they may be; read, checked, and put into a config.

A space is YAML, a key of a config per line:

    training.lr: {low: 1e-4, high: 1e-2, log: true}
    dnn.dropout: {low: 0.0, high: 0.5}
    dnn.hidden_units: [[64], [128, 64], [400, 400]]
    "[feature.embedding_dim, feature.fm_embedding_dim]": [8, 16, 32]  # equal values
    multi_tower.towers.*.dropout: [0.0, 0.3]                          # of all towers

A list is of choices, whatever values the key takes; numbers from `low` to `high` are whole where
both ends are, even in their logarithm with `log: true`, and multiples of `step` above `low`.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import reduce
from pathlib import Path
from typing import Any

from deepfm.config import ExperimentConfig, config_from_dict
from deepfm.data.declared import declared_schema
from deepfm.errors import ConfigError, nearest, shown
from deepfm.preflight import check_settings
from deepfm.utils.logging import LOGGER
from deepfm.utils.settings import apply_override, expand_name
from deepfm.utils.yaml_reader import parse_yaml, read_text

SPACES = Path(__file__).parent / "spaces"  # of each model
_UNTUNED = ("seed", "output_dir", "data", "evaluation", "training.metric", "training.trackers")


@dataclass(frozen=True)
class Choices:
    """Some values.

    Attributes:
        values: As a config says them.
    """

    values: tuple[Any, ...]

    def samples(self) -> tuple[Any, ...]:
        """Values whose validity is that of all."""
        return self.values

    def plain(self) -> Any:
        """As a space says it."""
        return list(self.values)


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, which belong to it; whole ones where both ends are.

    Attributes:
        low, high: The ends.
        log: Whether the logarithm is even.
        step: Distance of neighbours from `low` on; None: 1 for whole numbers, else there are none.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def samples(self) -> tuple[Any, ...]:
        """Values whose validity is that of all."""
        return (self.low, self.high)

    def plain(self) -> Any:
        """As a space says it."""
        return {k: v for k, v in vars(self).items() if v is not None and v is not False}

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.low <= value <= self.high or (self.is_whole and value != int(value)):
            return False
        if self.step is None:
            return True
        steps = (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)


Space = dict[str, Choices | Range]


def load_space(path: str | Path, config: ExperimentConfig) -> Space:
    """The space of a file, checked against the config whose settings it changes.

    Raises:
        ConfigError: The file cannot be read; a key is none of the config's, or none that the model
            reads, or a value is none of it. It names the line.
    """
    raw, lines = parse_yaml(read_text(Path(path)), str(path))
    if not raw:
        raise ConfigError("expected keys with what they may be, found none", source=f"{path}: ")
    space: Space = {}
    for key, value in raw.items():
        source = f"{path}:{lines[key]}: "
        space[key] = _dimension(key, value, source)
        _check(key, space[key], config, source)
    return space


def default_space(config: ExperimentConfig) -> Space:
    """The packaged space of a config's model, with what the config itself says.

    Keys that this config cannot change are left out; a log line says of each why.

    Raises:
        ConfigError: No key is left.
    """
    path = SPACES / f"{config.model_name}.yaml"
    space: Space = {}
    for key, value in parse_yaml(read_text(path), str(path))[0].items():
        dimension = _dimension(key, value, f"{path}: ")
        try:
            _check(key, dimension, config, "")
            for sample in dimension.samples():
                check_settings(with_settings(config, {key: sample}))
        except ConfigError as error:
            LOGGER.info(f"not tuned: {error.at(key=error.key or key)}")
        else:
            space[key] = _with_own(dimension, key, config)
    if not space:
        raise ConfigError(
            f"no key of the space of {config.model_name} fits this config; write one, and name "
            "it with --space"
        )
    return space


def _with_own(dimension: Choices | Range, key: str, config: ExperimentConfig) -> Choices | Range:
    """Choices, or a range, that hold what a config says of their key, if that is one value."""
    if settings_of({key: dimension}, config):
        return dimension
    raw = config.to_dict()
    own, *others = [_value(raw, name) for name in _names(key, raw)]
    if any(other != own for other in others):
        return dimension
    if isinstance(dimension, Choices):
        return Choices((*dimension.values, own))
    is_number = isinstance(own, int | float) and not isinstance(own, bool)
    if not is_number or (dimension.log and own <= 0):
        return dimension
    return replace(dimension, low=min(own, dimension.low), high=max(own, dimension.high))


def with_settings(config: ExperimentConfig, settings: Mapping[str, Any]) -> ExperimentConfig:
    """A config with other values of some keys, as a space calls them.

    Raises:
        ConfigError: It cannot be.
    """
    raw = config.to_dict()
    for key, value in settings.items():
        for name in _names(key, raw):
            apply_override(raw, f"{name}={json.dumps(value)}", {})
    return config_from_dict(raw)


def settings_of(space: Space, config: ExperimentConfig) -> dict[str, Any]:
    """What a config says of the keys of a space, as far as that lies in the space."""
    raw, found = config.to_dict(), {}
    for key, dimension in space.items():
        if isinstance(dimension, Choices):
            for value in dimension.values:
                if with_settings(config, {key: value}) == config:
                    found[key] = value
                    break
        else:
            values = [_value(raw, name) for name in _names(key, raw)]
            if values[0] in dimension and values.count(values[0]) == len(values):
                found[key] = values[0]
    return found


def _dimension(key: str, value: object, source: str) -> Choices | Range:
    """What a space says of a key.

    Raises:
        ConfigError: It is neither a list nor a range.
    """
    if isinstance(value, list) and value:
        return Choices(tuple(value))
    if not isinstance(value, dict):
        problem = f"expected a list of choices, or low and high, found {shown(value)}"
        raise ConfigError(problem, key=key, source=source)
    known = [item.name for item in fields(Range)]
    for name in value:
        if name not in known:
            problem = f"unknown key {shown(name)}; {nearest(str(name), known)}"
            raise ConfigError(problem, key=key, source=source)
    for name in ("low", "high", *(["step"] if "step" in value else [])):
        number = value.get(name)
        if isinstance(number, bool) or not isinstance(number, int | float):
            problem = f"{name}: expected a number, found {shown(number)}"
            raise ConfigError(problem, key=key, source=source)
    found = Range(**value)
    problem = ""
    if not math.isfinite(found.low) or not math.isfinite(found.high) or found.low >= found.high:
        problem = f"expected low below high, found {found.low} and {found.high}"
    elif not isinstance(found.log, bool):
        problem = f"log: expected true or false, found {shown(found.log)}"
    elif found.log and found.low <= 0:
        problem = f"log: expected low above 0, found {found.low}"
    elif found.step is not None and (found.log or found.step <= 0):
        problem = f"step: expected a number above 0 and no log, found {found.step}"
    elif found.is_whole and found.step is not None and not isinstance(found.step, int):
        problem = f"step: expected a whole number, as low and high are, found {found.step}"
    if problem:
        raise ConfigError(problem, key=key, source=source)
    return found


def _check(key: str, dimension: Choices | Range, config: ExperimentConfig, source: str) -> None:
    """Refuse a key that is none of the config, or does nothing there, and values that it refuses.

    Raises:
        ConfigError: One of them.
    """
    try:
        names = _names(key, config.to_dict())
        for name in names:
            if any(name == fixed or name.startswith(f"{fixed}.") for fixed in _UNTUNED):
                raise ConfigError("it says what trials are judged by, and stays", key=name)
        changed = [with_settings(config, {key: value}) for value in dimension.samples()]
    except ConfigError as error:
        raise error.at(source=source) from None
    if len(changed) > 1 and all(one == changed[0] for one in changed):
        raise ConfigError(f"{config.model_name} does not read it", key=key, source=source)
    if "feature.embedding_dim" in names:
        schemas = [declared_schema(one) for one in changed]
        if len(schemas) > 1 and all(schema == schemas[0] for schema in schemas):
            raise ConfigError(
                "it has no effect: each field has a dim of its own", key=key, source=source
            )


def _names(key: str, raw: Mapping[str, Any]) -> list[str]:
    """The dotted keys that a key of a space stands for: lists of keys, and `*` for all names."""
    keys = expand_name(key) if key.startswith("[") else [key]
    found = [name for one in keys for name in _starred(one.split("."), raw)]
    if not found:
        raise ConfigError("the config has nothing there", key=key)
    return found


def _starred(parts: list[str], raw: object) -> Iterator[str]:
    """The dotted keys that parts stand for, of which some may be `*`."""
    if "*" not in parts:
        yield ".".join(parts)
        return
    place = parts.index("*")
    below = reduce(
        lambda found, part: found.get(part) if isinstance(found, Mapping) else None,
        parts[:place],
        raw,
    )
    for name in below if isinstance(below, Mapping) else ():
        yield from _starred([*parts[:place], str(name), *parts[place + 1 :]], raw)


def _value(raw: Any, name: str) -> Any:
    """The value of a dotted key; None where there is none."""
    for part in name.split("."):
        raw = raw.get(part) if isinstance(raw, Mapping) else None
    return raw
