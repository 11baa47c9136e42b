"""Nested frozen dataclasses from YAML text and overrides, with errors that name file, line and key.

Nothing here knows what the keys mean. Nothing that is read is ever evaluated or imported.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import field, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, get_origin

import dacite
import yaml

from deepfm.errors import ConfigError, nearest

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


def limited(default: Any, **limits: float) -> Any:
    """A dataclass field whose number (or each of its numbers) stays within limits.

    Limits: `at_least`, `at_most` (inclusive), `above`, `below` (exclusive).
    """
    return field(default=default, metadata=limits)


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


def parse_yaml(text: str, name: str) -> tuple[dict[str, Any], dict[str, int]]:
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


def apply_override(raw: dict[str, Any], override: str, sources: dict[str, str]) -> None:
    """Set one key of nested data, in place, by a text `section.key=value` with a YAML value."""
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


def build(cls: type, raw: Any, prefix: str, sources: Mapping[str, str]) -> Any:
    """A dataclass from nested data; what is below it is built first, so that paths are whole."""
    here = prefix.rstrip(".")
    if not isinstance(raw, Mapping):
        raise ConfigError(
            f"{source_of(sources, here)}{here}: expected keys below it, found {raw!r}"
        )
    known = {f.name: f for f in fields(cls)}
    values = {}
    for key, value in raw.items():
        path = f"{prefix}{key}"
        if key not in known:
            raise ConfigError(
                f"{source_of(sources, path)}unknown key {path!r}; {nearest(str(key), known)}"
            )
        below, is_mapping, is_optional = _dataclass_below(known[key].type)
        if below is None or (value is None and is_optional):
            values[key] = value
        elif get_origin(known[key].type) is tuple:
            if not isinstance(value, list | tuple):
                source = source_of(sources, path)
                raise ConfigError(f"{source}{path}: expected a list, found {value!r}")
            values[key] = tuple(
                build(below, item, f"{path}.{place}.", sources) for place, item in enumerate(value)
            )
        elif is_mapping:
            if not isinstance(value, Mapping):
                source = source_of(sources, path)
                raise ConfigError(f"{source}{path}: expected names below it, found {value!r}")
            values[key] = {
                str(name): build(below, item, f"{path}.{name}.", sources)
                for name, item in value.items()
            }
        else:
            values[key] = build(below, value, f"{path}.", sources)
    hooks = {
        float: _int_to_float,
        tuple[int, ...]: _list_to_tuple,
        tuple[str, ...]: lambda value: (
            (value,) if isinstance(value, str) else _list_to_tuple(value)
        ),
        tuple[float, ...]: _floats,
        float | tuple[float, ...]: lambda value: _floats(_int_to_float(value)),
        str | float | None: lambda value: (  # a float would change the last digits of a long id
            str(value) if isinstance(value, int) and abs(value) > 2**53 else _int_to_float(value)
        ),
        dict[str, int]: lambda value: (
            {str(key): item for key, item in value.items()} if isinstance(value, dict) else value
        ),
        tuple[str | dict[str, Any], ...]: lambda value: (
            (value,) if isinstance(value, str | dict) else _list_to_tuple(value)
        ),
        dict[str, tuple[str, ...]]: lambda value: (
            {str(key): _list_to_tuple(item) for key, item in value.items()}
            if isinstance(value, dict)
            else value
        ),
    }
    try:
        return dacite.from_dict(cls, values, dacite.Config(strict=True, type_hooks=hooks))
    except dacite.WrongTypeError as error:
        path = f"{prefix}{error.field_path}"
        expected = _type_name(error.field_type)
        raise ConfigError(
            f"{source_of(sources, path)}{path}: expected {expected}, found {error.value!r}"
            + (f"; {nearest(error.value, choices)}" if (choices := _choices(error)) else "")
        ) from None
    except dacite.MissingValueError as error:
        path = f"{prefix}{error.field_path}"
        raise ConfigError(f"{source_of(sources, path)}{path}: a value is needed") from None
    except ConfigError as error:  # of a dataclass's own check; begins with the key
        raise ConfigError(f"{source_of(sources, str(error).split(':')[0])}{error}") from None


def _dataclass_below(kind: Any) -> tuple[type | None, bool, bool]:
    """The dataclass in `C`, `C | None`, `dict[str, C]` or `tuple[C, ...]`; is it a mapping; may it
    be None.
    """
    if get_origin(kind) is tuple and is_dataclass(kind.__args__[0]):
        return kind.__args__[0], False, False
    if get_origin(kind) is dict and is_dataclass(kind.__args__[1]):
        return kind.__args__[1], True, False
    if isinstance(kind, UnionType):
        classes = [part for part in kind.__args__ if is_dataclass(part)]
        return (classes[0] if classes else None), False, True
    return (kind if is_dataclass(kind) else None), False, False


def source_of(sources: Mapping[str, str], key: str) -> str:
    """Where a key, or the nearest key above it, was read."""
    while key not in sources and "." in key:
        key = key.rpartition(".")[0]
    return sources.get(key, "")


def check_limits(config: Any, prefix: str, sources: Mapping[str, str]) -> None:
    """Refuse numbers beyond the limits of `limited`, infinite ones, and bools in their place.

    Args:
        prefix: Dotted key of the dataclass itself, ending in a dot; empty for the whole.
        sources: Where a dotted key was read.
    """
    checks = {
        "at_least": lambda value, limit: value >= limit,
        "at_most": lambda value, limit: value <= limit,
        "above": lambda value, limit: value > limit,
        "below": lambda value, limit: value < limit,
    }
    for item in fields(config):
        value, path = getattr(config, item.name), f"{prefix}{item.name}"
        if is_dataclass(value):
            check_limits(value, f"{path}.", sources)
            continue
        if _dataclass_below(item.type)[1]:
            for name, below in value.items():
                check_limits(below, f"{path}.{name}.", sources)
            continue
        if not item.metadata and isinstance(value, dict | tuple):
            for place, below in enumerate(value):
                if is_dataclass(below):
                    check_limits(below, f"{path}.{place}.", sources)
            continue  # named options are checked when they are built
        numbers = value.values() if isinstance(value, dict) else value
        for number in numbers if isinstance(value, dict | tuple) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise ConfigError(f"{source_of(sources, path)}{path}: {number} is not finite")
            if isinstance(number, bool) and item.type not in (bool, bool | None):  # bool is an int
                expected = f"{_type_name(item.type)}, found {str(number).lower()}"
                raise ConfigError(f"{source_of(sources, path)}{path}: expected {expected}")
            for name, limit in item.metadata.items():
                if number is not None and not checks[name](number, limit):
                    words = name.replace("_", " ")
                    source = source_of(sources, path)
                    raise ConfigError(f"{source}{path}: expected {words} {limit}, found {number}")


def named_options(
    spec: str | Mapping[str, Any], table: Mapping[str, Mapping[str, Any]], key: str, what: str
) -> dict[str, Any]:
    """The full mapping of something given by its name, or by its name and some options.

    Args:
        spec: A name, or a mapping with `name` and options.
        table: Options with their defaults by name; a default also says what a value must be.
        key, what: The setting and what it names, for messages.
    """
    given = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = given.pop("name", None)
    if name not in table:
        raise ConfigError(f"{key}: unknown {what} {name!r}; {nearest(name, table)}")
    known = table[name]
    for option, value in given.items():
        if option not in known:
            raise ConfigError(f"{key}: {name} has no option {option!r}; {nearest(option, known)}")
        _check_option(f"{key}.{option}", value, known[option])
        given[option] = tuple(value) if isinstance(value, list) else value
    return {"name": name} | dict(known) | given


def _check_option(key: str, value: Any, default: Any) -> None:
    def is_number(value: Any) -> bool:
        finite = isinstance(value, int | float) and math.isfinite(value)
        return finite and not isinstance(value, bool)

    if isinstance(default, bool):
        fits, expected = isinstance(value, bool), "true or false"
    elif isinstance(default, str):
        fits, expected = isinstance(value, str), "a text"
    elif isinstance(default, tuple) and default:
        fits = isinstance(value, list | tuple) and len(value) == 2
        fits = fits and all(is_number(v) and 0 <= v < 1 for v in value)
        expected = "two numbers in [0, 1)"
    elif isinstance(default, tuple):
        fits = isinstance(value, list | tuple) and all(is_number(v) and v >= 0 for v in value)
        expected = "a list of numbers of at least 0"
    elif isinstance(default, int):
        fits = isinstance(value, int) and is_number(value) and value >= 0
        expected = "a whole number of at least 0"
    elif default is None:  # inherited, or no limit
        fits, expected = (
            value is None or (is_number(value) and value >= 0),
            "a number of at least 0, or null",
        )
    else:
        fits, expected = is_number(value) and value >= 0, "a number of at least 0"
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


def _floats(value: Any) -> Any:
    return _list_to_tuple([_int_to_float(v) for v in value] if isinstance(value, list) else value)


def _list_to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """Nested data with lists in the place of tuples, as YAML and JSON have it."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
