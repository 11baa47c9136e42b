"""Changes to a pipeline by paths of its own format: `train_config.num_epochs=2`.

A path names fields, joined by dots. Of a repeated field it selects elements: `[3]`, `[1:3]`,
`[:]`, or those for which a condition holds, `[sub.field=value]` with one of = < > <= >=. A number
or text is read as the field's type; a list of values or a message is cleared, then read as
protobuf text. Several changes may be joined: `a=1;b=2`, or `a;b=1;2`, or `a;b=1` for one value.

NOTE[DIFF]: where a path selects several elements, those that hold another member of a `oneof`
(a raw feature under `feature_configs[:].id_feature.num_buckets`) stay as they are, with one log
line; the original turns them into an empty member of the named kind. A condition on an unset
message does not hold.
"""

import logging
import operator
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from deepfm.config import ExperimentConfig
from deepfm.easyrec.pipeline_pb2 import EasyRecConfig
from deepfm.easyrec.reading import (
    Pipeline,
    descriptor_of,
    find_field,
    is_map,
    is_opaque,
    is_repeated,
    parse,
)
from deepfm.errors import ConfigError

logger = logging.getLogger(__name__)

_OPERATORS = {
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_ROOTS = tuple(descriptor_of(EasyRecConfig).fields_by_name)
_SEGMENT = re.compile(r"(?P<name>\w+)(?:\[(?P<selector>[^\[\]]*)\])?")
_CONDITION = re.compile(r"\s*(?P<path>[\w.]+)\s*(?P<operator><=|>=|=|<|>)\s*(?P<value>.*?)\s*")
_SLICE = re.compile(r"\s*(?P<first>\d*)\s*:\s*(?P<last>\d*)\s*")
_INTEGERS = (
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
)
_FLOATS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)


class _Target(NamedTuple):
    """A field to change: of which message, and that message's path, ending in a dot."""

    message: Message
    prefix: str


def apply(pipeline: Pipeline, overrides: Iterable[str]) -> None:
    """Change a pipeline; what an override touches stands in `--override` from then on.

    Raises:
        ConfigError: A path has an unknown segment or selects nothing, or a value is of the wrong
            type; the message names the segment and the nearest field.
    """
    for override in overrides:
        text = f"--override {override}: "
        try:
            for path, value in _changes(override):
                if skipped := _apply(pipeline, path, value):
                    logger.info("%sleft as they are, having no such field: %d", text, skipped)
        except ConfigError as error:
            raise error.at(source=text) from None


def _changes(override: str) -> Iterable[tuple[str, str]]:
    """The single changes of an override.

    A ';' ends a value only before the path of another change, so that a value may contain one.
    """
    parts: list[str] = []
    for piece in override.split(";"):
        is_change = re.match(rf"\s*(?:{'|'.join(_ROOTS)})\b", piece) and _at_equals(piece)[1]
        if parts and not (is_change and _at_equals(parts[-1])[1]):
            parts[-1] += f";{piece}"
        else:
            parts.append(piece)
    for part in parts:
        paths, equals, value = _at_equals(part)
        if not equals or not paths.strip():
            raise ConfigError("expected path=value")
        names = [name.strip() for name in paths.split(";")]
        if len(names) == 1:
            yield names[0], value
            continue
        values = value.split(";")
        if len(values) not in (1, len(names)):
            raise ConfigError(
                f"{len(names)} paths and {len(values)} values; expected as many values, or one "
                "for all"
            )
        yield from zip(names, values if len(values) > 1 else values * len(names), strict=True)


def _at_equals(text: str) -> tuple[str, str, str]:
    """Cut at the first '=' outside of brackets."""
    depth = 0
    for k, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if character == "=" and not depth:
            return text[:k], "=", text[k + 1 :]
    return text, "", ""


def _apply(pipeline: Pipeline, path: str, value: str) -> int:
    """Make one change; returns how many selected elements have no such field."""
    *sections, last = _segments(path)
    targets = [_Target(pipeline.message, "")]
    many = skipped = 0
    for name, selector in sections:
        found: list[_Target] = []
        for target in targets:
            field = _field(target, name)
            if field.message_type is None or is_map(field):
                raise ConfigError(f"{target.prefix}{name} has no fields below it")
            if is_opaque(field):
                raise ConfigError(
                    f"{target.prefix}{name} is not supported, and nothing below it is read"
                )
            if is_repeated(field):
                many |= selector is None or not selector.strip().isdecimal()
                found += _selected(target, field, selector)
                continue
            _refuse_selector(target, name, selector)
            if many and _holds_another(target.message, field):
                skipped += 1
                continue
            found.append(_Target(getattr(target.message, name), f"{target.prefix}{name}."))
        targets = found
    name, selector = last
    for target in targets:
        field = _field(target, name)
        if many and field.message_type is not None and _holds_another(target.message, field):
            skipped += 1
            continue
        if selector is not None:
            changed = _set_elements(target, field, selector, value)
        else:
            changed = _set(target, field, value)
        for changed_path in changed:
            _forget_places(pipeline, changed_path)
            pipeline.places[changed_path] = "--override"
    if skipped and (skipped == len(targets) or not targets):
        raise ConfigError(f"none of the {skipped} selected elements has this field")
    return skipped


def _segments(path: str) -> list[tuple[str, str | None]]:
    found, position = [], 0
    while True:
        match = _SEGMENT.match(path, position)
        if match is None or (match.end() < len(path) and path[match.end()] != "."):
            raise ConfigError(
                f"cannot read the path at {path[position:]!r}; expected name, name[3], "
                "name[1:3], name[:] or name[sub.field=value]"
            )
        found.append((match["name"], match["selector"]))
        if match.end() == len(path):
            return found
        position = match.end() + 1


def _field(target: _Target, name: str) -> FieldDescriptor:
    own = [f.name for f in fields(ExperimentConfig)]
    if not target.prefix and name not in _ROOTS and name in own:
        raise ConfigError(
            f"{name} is a key of the YAML form; a pipeline is changed by its own paths, "
            f"such as train_config.num_epochs=1 (sections: {', '.join(_ROOTS)})"
        )
    return find_field(descriptor_of(target.message), name, target.prefix)


def _refuse_selector(target: _Target, name: str, selector: str | None) -> None:
    if selector is not None:
        raise ConfigError(f"{target.prefix}{name} is no list, found [{selector}]")


def _holds_another(message: Message, field: FieldDescriptor) -> bool:
    group = field.containing_oneof
    return group is not None and message.WhichOneof(group.name) not in (None, field.name)


def _selected(target: _Target, field: FieldDescriptor, selector: str | None) -> list[_Target]:
    name = f"{target.prefix}{field.name}"
    if selector is None:
        raise ConfigError(f"{name} is a list; select with [0], [1:3], [:] or [a.b=value]")
    elements = getattr(target.message, field.name)
    chosen = _indices(target, field, selector)
    return [_Target(elements[k], f"{name}[{k}].") for k in chosen]


def _indices(target: _Target, field: FieldDescriptor, selector: str) -> list[int]:
    """The places of the selected elements.

    Raises:
        ConfigError: There is none.
    """
    name = f"{target.prefix}{field.name}"
    elements = getattr(target.message, field.name)
    count = len(elements)
    if selector.strip().isdecimal():
        chosen = [int(selector)] if int(selector) < count else []
    elif match := _SLICE.fullmatch(selector):
        last = int(match["last"]) if match["last"] else count
        chosen = list(range(count))[int(match["first"] or 0) : last]
    elif match := _CONDITION.fullmatch(selector):
        if field.message_type is None:
            raise ConfigError(f"{name} holds no messages that [{selector}] could look at")
        chosen = [
            k
            for k, element in enumerate(elements)
            if _holds(_Target(element, f"{name}[{k}]."), match)
        ]
    else:
        raise ConfigError(
            f"{name}: cannot read [{selector}]; expected [3], [1:3], [:] or [sub.field=value]"
        )
    if not chosen:
        raise ConfigError(f"{name}[{selector}] selects none of {count} elements")
    return chosen


def _holds(target: _Target, condition: re.Match[str]) -> bool:
    """Whether an element meets a condition; a path through an unset message does not."""
    *sections, last = condition["path"].split(".")
    message, prefix, is_set = target.message, target.prefix, True
    for name in sections:
        field = find_field(descriptor_of(message), name, prefix)
        if field.message_type is None or is_repeated(field):
            raise ConfigError(f"{prefix}{name} cannot stand in a condition")
        is_set = is_set and message.HasField(name)
        message, prefix = getattr(message, name), f"{prefix}{name}."
    field = find_field(descriptor_of(message), last, prefix)
    if field.message_type is not None or is_repeated(field):
        raise ConfigError(f"{prefix}{last} cannot stand in a condition")
    value = _scalar(field, condition["value"], f"{prefix}{last}")
    found = getattr(message, last)
    if field.cpp_type in _FLOATS:  # both as the float32 that a message holds
        other = type(message)()
        setattr(other, last, value)
        value = getattr(other, last)
    return is_set and _OPERATORS[condition["operator"]](found, value)


def _set_elements(target: _Target, field: FieldDescriptor, selector: str, value: str) -> list[str]:
    """Replace selected elements of a list of values or messages; returns their paths."""
    name = f"{target.prefix}{field.name}"
    if not is_repeated(field) or is_map(field):
        raise ConfigError(f"{name} is no list, found [{selector}]")
    elements = getattr(target.message, field.name)
    chosen = _indices(target, field, selector)
    for k in chosen:
        if field.message_type is None:
            elements[k] = _scalar(field, value, name)
        else:
            elements[k].Clear()
            parse(elements[k], value, f"{name}[{k}].")
    return [f"{name}[{k}]" for k in chosen]


def _set(target: _Target, field: FieldDescriptor, value: str) -> list[str]:
    """Replace a field; returns its path."""
    name = f"{target.prefix}{field.name}"
    if field.message_type is None and not is_repeated(field):
        setattr(target.message, field.name, _scalar(field, value, name))
        return [name]
    group = field.containing_oneof
    target.message.ClearField(group.name if group else field.name)
    text = value.strip()
    if field.message_type is not None and not text.startswith(("{", "<", "[")):
        text = f"{{ {text} }}"
    if text != "[]":
        parse(target.message, f"{field.name}: {text}", target.prefix)
    return [name]


def _scalar(field: FieldDescriptor, text: str, name: str) -> str | float:
    """A text as a field's type; a text may stand in quotes."""
    kind, text = field.cpp_type, text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return text
    expected = "a number"
    value: str | float
    try:
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            expected = "true or false"
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if field.enum_type is not None:
            expected = f"one of {', '.join(field.enum_type.values_by_name)}"
            return field.enum_type.values_by_name[text].number
        if kind in _INTEGERS:
            expected = "a whole number that is not negative"
            if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64):
                expected = "a whole number"
            value = int(text)
        else:
            value = float(text)
        _check_range(field, value)
        return value
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"expected {expected}, found {text!r}", key=name) from None


def _check_range(field: FieldDescriptor, value: float) -> None:
    """Let a message refuse a number that is out of range, with a ValueError."""
    assert field.containing_type is not None
    message = GetMessageClass(field.containing_type)
    message(**{field.name: [value] if is_repeated(field) else value})


def _forget_places(pipeline: Pipeline, path: str) -> None:
    """What stood below a replaced field is gone, with its lines."""
    for known in [p for p in pipeline.places if p.startswith((f"{path}.", f"{path}["))]:
        del pipeline.places[known]
