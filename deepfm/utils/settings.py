"""Nested frozen dataclasses from plain data and overrides, with errors that name line and key.

Nothing here knows what the keys mean. Nothing that is read is ever evaluated or imported.
"""

import copy
import itertools
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, InitVar, field, fields, is_dataclass, make_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

import dacite
import yaml

from deepfm.errors import ArgumentError, ConfigError, cut, nearest, shown
from deepfm.utils.logging import LOGGER
from deepfm.utils.named import LIMITS, Named, named_value
from deepfm.utils.yaml_reader import read_yaml

T = TypeVar("T")

_TYPE_NAMES: dict[object, str] = {
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
    dict[str, tuple[str, ...]]: "a mapping of names to lists of names",
}


def limited(default: T, *, infinite: bool = False, **limits: float) -> T:
    """A dataclass field whose number (or each of its numbers) stays within limits.

    Limits: `at_least`, `at_most` (inclusive), `above`, `below` (exclusive); finite, unless
    `infinite` says that it need not be.
    """
    return field(default=default, metadata=limits | ({"infinite": True} if infinite else {}))


def chosen(default: T, among: Collection[str]) -> T:
    """A dataclass field whose value is one of some names."""
    return field(default=default, metadata={"choices": among})


def texts(default: T) -> T:
    """A dataclass field of texts of the data, of which YAML takes some for numbers or bools.

    A number becomes its text; what YAML makes a bool of, such as yes, must stand in quotes.
    """
    return field(default=default, metadata={"is_text": True})


def renamed(newer: str) -> Any:
    """An `InitVar` that stands for another key now; null: it was not given."""
    return field(default=None, metadata={"renamed": newer})


_RANGE = re.compile(r"(.*?)(\d+)\.\.(.*?)(\d+)")


def expand_name(name: object) -> list[Any]:
    """The names that a range or a list of names stands for, in its order; else the name itself.

    Example:
        >>> expand_name("C9..C11"), expand_name("[user, C1..C2]"), expand_name("x01..x03")
        (['C9', 'C10', 'C11'], ['user', 'C1', 'C2'], ['x01', 'x02', 'x03'])
        >>> expand_name("price")
        ['price']
    """
    if not isinstance(name, str):
        return [name]
    if name.startswith("[") and name.endswith("]"):
        return [one for part in name[1:-1].split(",") for one in expand_name(part.strip())]
    match = _RANGE.fullmatch(name)
    if match is None or match[1] != match[3] or int(match[2]) > int(match[4]):
        return [name]
    width = len(match[2]) if match[2].startswith("0") else 0
    return [f"{match[1]}{number:0{width}}" for number in range(int(match[2]), int(match[4]) + 1)]


def expanded(raw: Mapping[Any, Any], key: str, sources: MutableMapping[str, str]) -> dict[Any, Any]:
    """A mapping with a name of its own for every name that its keys stand for.

    Args:
        key: Its dotted key.
        sources: Where dotted keys were read; those of the new names are added.

    Raises:
        ConfigError: A name is given twice.
    """
    found: dict[Any, Any] = {}
    for given, value in raw.items():
        for name in expand_name(given):
            if name in found:
                path = f"{key}.{given}"
                raise ConfigError(f"{name} is given twice", key=path, source=sources.get(path, ""))
            found[name] = copy.deepcopy(value) if name != given else value
            if name != given:
                below = f"{key}.{given}"
                for old in [k for k in sources if k == below or k.startswith(f"{below}.")]:
                    sources.setdefault(f"{key}.{name}{old.removeprefix(below)}", sources[old])
    return found


def apply_override(raw: dict[str, Any], override: str, sources: MutableMapping[str, str]) -> None:
    """Set one key of nested data, in place, by a text `section.key=value` with a YAML value."""
    key, equals, text = override.partition("=")
    key, source = key.strip(), f"--override {cut(override)}: "
    if not equals or not key:
        raise ConfigError("expected section.key=value", source=source)
    try:
        value, _ = read_yaml(text)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or "it cannot be read"
        raise ConfigError(f"{shown(text)} is no YAML value: {reason}", source=source) from None
    for path in _expanded_paths(re.split(r"(?<!\.)\.(?!\.)", key)):
        _set(raw, path, copy.deepcopy(value), sources)


def _expanded_paths(parts: Sequence[str]) -> Iterator[list[str]]:
    """The paths that a dotted key stands for, of whose parts some may be ranges."""
    yield from map(list, itertools.product(*map(expand_name, parts)))


def _set(
    raw: dict[str, Any], path: list[str], value: object, sources: MutableMapping[str, str]
) -> None:
    *sections, last = path
    sources[".".join(path)] = "--override "
    if sections:
        sources.setdefault(sections[0], "--override ")
    for section in sections:
        below = raw.setdefault(section, {})
        if not isinstance(below, dict):
            below = raw[section] = {}
        raw = below
    raw[last] = value


def build(cls: type[T], raw: object, prefix: str, sources: Mapping[str, str]) -> T:
    """A dataclass from nested data; what is below it is built first, so that paths are whole.

    `refused_keys` of the dataclass says of a key that it does not have why. An `InitVar` is an
    older key; one whose metadata says `renamed` gets a warning
    that names the newer one, if it was read somewhere.

    Args:
        prefix: Dotted key of the dataclass itself, ending in a dot; empty for the whole.
        sources: Where a dotted key was read.
    """
    if not isinstance(raw, Mapping):
        raise _error(sources, prefix.rstrip("."), f"expected keys below it, found {shown(raw)}")
    known = {f.name: f for f in _fields(cls)}
    every = _every_field(cls)
    older = {k: f.type.type for k, f in every.items() if isinstance(f.type, InitVar)}
    values: dict[str, object] = {}
    given: dict[str, object] = {}  # older keys
    for key, value in raw.items():
        path = f"{prefix}{key}"
        if key in older:
            given[key] = value
        elif why := getattr(cls, "refused_keys", {}).get(key):
            raise _error(sources, path, why)
        elif key not in known:
            problem = f"unknown key {shown(path)}; {nearest(str(key), known)}"
            raise ConfigError(problem, source=source_of(sources, path))
        else:
            if "is_text" in known[key].metadata:
                value = _as_texts(value, path, sources)
            is_named = "named" in known[key].metadata
            values[key] = value if is_named else _build_below(known[key].type, value, path, sources)
            _check_choice(known[key], value, path, sources)
    with _sources_in_errors(prefix, sources):
        for key, value in values.items():
            if "named" in known[key].metadata:
                place = re.sub(r"\.\d+\.", ".", f"{prefix}{key}")  # of one among several
                values[key] = named_value(value, known[key], place)
        built = dacite.from_dict(cls, values, _CONFIG)
        if given:
            types = [(key, older[key], None) for key in given]
            typed: object = dacite.from_dict(make_dataclass("Older", types), given, _CONFIG)
            built = cls(**(vars(built) | vars(typed)))
    for key in given:
        newer, source = every[key].metadata.get("renamed"), sources.get(f"{prefix}{key}")
        if newer and source:
            LOGGER.warning(f"{source}{prefix}{key} is an older name; say {prefix}{newer}")
    return built


@contextmanager
def _sources_in_errors(prefix: str, sources: Mapping[str, str]) -> Iterator[None]:
    """Say of what is refused about a dataclass which key it is, and where that was read."""
    try:
        yield
    except dacite.WrongTypeError as error:
        problem = f"expected {_type_name(error.field_type)}, found {shown(error.value)}"
        if choices := _choices(error):
            problem += f"; {nearest(str(error.value), choices)}"
        raise _error(sources, f"{prefix}{error.field_path}", problem) from None
    except dacite.MissingValueError as error:
        raise _error(sources, f"{prefix}{error.field_path}", "a value is needed") from None
    except ArgumentError as error:  # of a dataclass's own check, which knows no section
        raise _error(sources, f"{prefix}{error.argument}", error.problem) from None
    except ConfigError as error:  # of a dataclass's own check, which knows no source
        raise error.at(source=source_of(sources, error.key)) from None


def _every_field(cls: type) -> "dict[str, Field[Any]]":
    """The fields of a dataclass and, unlike `dataclasses.fields`, its `InitVar`s."""
    return dict(vars(cls)["__dataclass_fields__"])


def _check_choice(item: "Field[Any]", value: object, path: str, sources: Mapping[str, str]) -> None:
    """Refuse a value that is none of the names of `chosen`."""
    choices: Collection[str] = item.metadata.get("choices", ())
    fits = value is None or (isinstance(value, str) and value in choices)
    if choices and not fits:
        problem = f"expected one of {', '.join(choices)}, found {shown(value)}"
        raise _error(sources, path, f"{problem}; {nearest(str(value), choices)}")


def _as_texts(value: object, path: str, sources: Mapping[str, str]) -> object:
    """A number as its text, alone or in a list."""
    if isinstance(value, list | tuple):
        return [_as_texts(item, path, sources) for item in value]
    if isinstance(value, bool):
        problem = f"expected a text, found {str(value).lower()}, which YAML reads as no text"
        raise _error(sources, path, f'{problem}; write it as it stands in the data, in "quotes"')
    return f"{value}" if isinstance(value, int | float) else value


def _build_below(kind: object, value: object, path: str, sources: Mapping[str, str]) -> object:
    """The value of one key: dataclasses, where its type has them, else the value as it is."""
    below, is_mapping, is_optional = _dataclass_below(kind)
    if below is None or (value is None and is_optional) or isinstance(value, below):
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise _error(sources, path, f"expected a list, found {shown(value)}")
        return tuple(build(below, item, f"{path}.{k}.", sources) for k, item in enumerate(value))
    if is_mapping:
        if not isinstance(value, Mapping):
            raise _error(sources, path, f"expected names below it, found {shown(value)}")
        return {
            str(name): build(below, item, f"{path}.{name}.", sources)
            for name, item in value.items()
        }
    return build(below, value, f"{path}.", sources)


def _dataclass_below(kind: object) -> tuple[type[Any] | None, bool, bool]:
    """The dataclass in `C`, `C | None`, `dict[str, C]` or `tuple[C, ...]`; is it a mapping; may it
    be None.
    """
    arguments = get_args(kind)
    if get_origin(kind) is tuple:
        return _dataclass(arguments[0]), False, False
    if get_origin(kind) is dict:
        below = _dataclass(arguments[1])
        return below, below is not None, False
    if isinstance(kind, UnionType):
        return next(filter(None, map(_dataclass, arguments)), None), False, True
    return _dataclass(kind), False, False


def _dataclass(kind: object) -> type[Any] | None:
    return kind if isinstance(kind, type) and is_dataclass(kind) else None


def source_of(sources: Mapping[str, str], key: str) -> str:
    """Where a key, or the nearest key above it, was read."""
    while key not in sources and "." in key:
        key = key.rpartition(".")[0]
    return sources.get(key, "")


def _error(sources: Mapping[str, str], key: str, problem: str) -> ConfigError:
    return ConfigError(problem, key=key, source=source_of(sources, key))


def check_limits(config: object, prefix: str, sources: Mapping[str, str]) -> None:
    """Refuse numbers beyond the limits of `limited`, infinite ones, and bools in their place.

    Args:
        prefix: Dotted key of the dataclass itself, ending in a dot; empty for the whole.
        sources: Where a dotted key was read.
    """
    for item in _fields(config):
        value, path = getattr(config, item.name), f"{prefix}{item.name}"
        below = _below(value)
        for name, part in below:
            check_limits(part, f"{path}.{name}." if name else f"{path}.", sources)
        limits = {name: limit for name, limit in item.metadata.items() if name in LIMITS}
        if below or isinstance(value, Named):
            continue
        numbers = value.values() if isinstance(value, dict) else value
        for number in numbers if isinstance(value, dict | tuple) else [value]:
            if (problem := _beyond(item, limits, number)) is not None:
                raise _error(sources, path, problem)


def _below(value: object) -> list[tuple[str, object]]:
    """The dataclasses in a value, with what their keys have in front.

    Not what is named: who uses that checks its limits.
    """
    if isinstance(value, Named):
        return []
    if is_dataclass(value):
        return [("", value)]
    parts = value.items() if isinstance(value, dict) else enumerate(())
    if isinstance(value, tuple):
        parts = enumerate(value)
    return [
        (str(name), item)
        for name, item in parts
        if is_dataclass(item) and not isinstance(item, Named)
    ]


def _beyond(item: "Field[Any]", limits: Mapping[str, float], number: object) -> str | None:
    """What is wrong with a number of a field; None where nothing is."""
    if isinstance(number, float) and not math.isfinite(number):
        is_right = math.isinf(number) and "infinite" in item.metadata
        if not is_right:
            return f"{number} is not finite"
    if isinstance(number, int) and abs(number) >= 2**63:
        return f"expected at most {2**63 - 1}, found {shown(number)}"
    if isinstance(number, bool) and item.type not in (bool, bool | None):  # bool is an int
        return f"expected {_type_name(item.type)}, found {str(number).lower()}"
    for name, limit in limits.items():
        if isinstance(number, int | float) and not LIMITS[name](number, limit):
            return f"expected {name.replace('_', ' ')} {limit}, found {number}"
    return None


def _fields(config: object) -> "tuple[Field[Any], ...]":
    """The fields of a dataclass or of an instance; for callers that know it to be one."""
    assert is_dataclass(config)
    return fields(config)


def _choices(error: dacite.WrongTypeError) -> tuple[str, ...]:
    return get_args(error.field_type) if get_origin(error.field_type) is Literal else ()


def _type_name(kind: object) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if isinstance(kind, UnionType):
        return " or ".join(_type_name(part) for part in kind.__args__)
    return _TYPE_NAMES.get(kind, str(kind))


class _Misplaced:
    """A mapping in a list's place, which dacite would not refuse in time."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        return repr(self._value)


def _float(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**1023:
        return value
    return float(value)


def _float_or_text(value: object) -> object:
    # a float would change the last digits of a long id
    return str(value) if isinstance(value, int) and abs(value) > 2**53 else _float(value)


def _tuple(value: object) -> object:
    if isinstance(value, Mapping):
        return _Misplaced(value)
    return tuple(value) if isinstance(value, list) else value


def _floats(value: object) -> object:
    return tuple(map(_float, value)) if isinstance(value, list) else _tuple(value)


# How a value of YAML becomes one of a field's type; what does not fit is left for dacite to refuse.
_HOOKS: dict[Any, Callable[[Any], Any]] = {
    float: _float,
    tuple[int, ...]: _tuple,
    tuple[str, ...]: lambda value: (value,) if isinstance(value, str) else _tuple(value),
    tuple[float, ...]: _floats,
    float | tuple[float, ...]: lambda value: _floats(_float(value)),
    str | float | None: _float_or_text,
    dict[str, int]: lambda value: (
        {str(key): item for key, item in value.items()} if isinstance(value, dict) else value
    ),
    tuple[str | dict[str, Any], ...]: lambda value: (
        (value,) if isinstance(value, str | dict) else _tuple(value)
    ),
    dict[str, tuple[str, ...]]: lambda value: (
        {str(key): _tuple(item) for key, item in value.items()}
        if isinstance(value, dict)
        else value
    ),
}


_CONFIG = dacite.Config(strict=True, type_hooks=_HOOKS)


def plain(value: object) -> Any:
    """Nested data with lists in the place of tuples, as YAML and JSON have it.

    Dataclasses become mappings; those with a name begin with it.
    """
    if is_dataclass(value):
        name = {"name": value.name} if isinstance(value, Named) else {}
        return name | {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings for people, in a line.

    Example:
        >>> settings_text({"training.lr": 0.00123456, "dnn.hidden_units": [64, 32]})
        'training.lr=0.001235, dnn.hidden_units=[64, 32]'
    """
    return ", ".join(f"{key}={value_text(value)}" for key, value in settings.items())


def value_text(value: Any) -> str:
    """A value of a setting for people: four digits of a number, JSON of anything else.

    Example:
        >>> value_text(1 / 3), value_text([8, 4]), value_text("adam"), value_text(None)
        ('0.3333', '[8, 4]', 'adam', 'null')
    """
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value).strip('"')
