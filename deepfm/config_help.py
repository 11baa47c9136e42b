"""What a config may say, from the dataclasses that hold it: commented YAML, and a JSON schema.

Every key's meaning is its entry under `Attributes` in the docstring of its dataclass, so that what
is shown here is what the code says.
"""

import inspect
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, InitVar, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from deepfm.config import ExperimentConfig, FieldConfig
from deepfm.data.schema import FieldSchema
from deepfm.errors import ConfigError, nearest
from deepfm.models import MODELS
from deepfm.models.options import ModelConfig
from deepfm.utils.named import Named
from deepfm.utils.settings import plain

Schema = dict[str, Any]
_LIMITS = {
    "at_least": "minimum", "above": "exclusiveMinimum",
    "at_most": "maximum", "below": "exclusiveMaximum",
}  # fmt: skip
# Keys of a declared field whose attribute has another name or form.
_OF_FIELDS = {
    "type": "How the values are read: `sparse`, `dense` or `sequence`.",
    "vocabulary_file": "A `vocabulary` in a file.",
    "padding": "Whether `hash_buckets` reserves row 0 for absent values.",
}


def meanings(cls: type) -> dict[str, str]:
    """The first sentence on each key of a dataclass, by its name; those of its bases too.

    Example:
        >>> from deepfm.models.options import FMConfig
        >>> meanings(FMConfig)["use_first_order"]
        'Whether there is a linear term.'
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        _, _, listed = (inspect.getdoc(base) or "").partition("Attributes:\n")
        for name, text in re.findall(r"^    (\w+): (.*?)(?=^    \w|^\S|\Z)", listed, re.M | re.S):
            found[name] = re.split(r"(?<=[^.])\.(?:\s|$)", " ".join(text.split()))[0] + "."
    if cls is FieldConfig:
        found = meanings(FieldSchema) | _OF_FIELDS
    return found


def commented_yaml(model_name: str) -> str:
    """A config of all keys that a model reads, with their defaults and meanings.

    What has no default stands in comments, as do the keys of sections that are off by default.

    Raises:
        ConfigError: The model is unknown.
    """
    if model_name not in MODELS:
        raise ConfigError(
            f"unknown model {model_name!r}; {nearest(model_name, MODELS)}", key="--model"
        )
    model = MODELS[model_name].options()
    lines = [f"# Every key that {model_name} reads, with its default.", f"model_name: {model_name}"]
    config = ExperimentConfig(model=model)
    behind = ("training", "evaluation", "format_version")
    own = [item for item in fields(config) if item.name not in ("model", *behind)]
    lines += _lines(config, own, "")
    lines += lines_of(model)
    lines += _lines(config, [item for item in fields(config) if item.name in behind], "")
    return "\n".join(lines) + "\n"


def lines_of(model: ModelConfig, *, without: Collection[str] = ()) -> list[str]:
    """Return the commented YAML of a model's keys but some, a line each."""
    return list(_lines(model, [item for item in fields(model) if item.name not in without], ""))


def _lines(config: object, items: Any, indent: str) -> Iterator[str]:
    """The lines of some fields of a dataclass, given as an instance or as its class."""
    cls = config if isinstance(config, type) else type(config)
    said = meanings(cls)
    for item in items:
        value = getattr(config, item.name) if config is not cls else _default(item)
        below = _dataclass_in(item.type)
        comment = f"  # {said[item.name]}" if item.name in said else ""
        if is_dataclass(value) and not isinstance(value, Named):
            yield f"{indent}{item.name}:{comment}"
            yield from _lines(value, fields(value), f"{indent}  ")
            continue
        shown = "" if value is MISSING else f" {flow(value)}"
        hidden = "# " if value is MISSING and not indent.startswith("#") else ""
        yield f"{indent}{hidden}{item.name}:{shown}{comment}"
        if known := item.metadata.get("named"):
            for name, kind in known.items():
                if not kind.is_old:
                    options = ", ".join(f"{k}: {flow(_default(k_))}" for k, k_ in _options(kind))
                    yield f"{indent}  # {{{', '.join(filter(None, (f'name: {name}', options)))}}}"
        elif below is not None:
            inner = indent if indent.startswith("#") else f"# {indent}"
            name = "  <name>:" if get_origin(item.type) is dict else ""
            if name:
                yield f"{inner}{name}"
            yield from _lines(below, fields(below), f"{inner}  {'  ' if name else ''}")


def _options(kind: type[Named]) -> list[tuple[str, "Field[Any]"]]:
    return [(item.name, item) for item in fields(kind)]


def _default(item: "Field[Any]") -> object:
    if item.default_factory is not MISSING:
        return item.default_factory()
    return item.default


def flow(value: object) -> str:
    """Return a value on one line of YAML."""
    text: str = yaml.safe_dump(plain(value), default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _dataclass_in(kind: object) -> type[Any] | None:
    """The dataclass that the values of a key hold, unless it is a named thing."""
    for part in (kind, *get_args(kind)):
        if isinstance(part, type) and is_dataclass(part) and not issubclass(part, Named):
            return part
    return None


def json_schema(model_name: str | None = None) -> str:
    """A JSON schema of configs, for editors: of one model, or of all.

    Raises:
        ConfigError: The model is unknown.
    """
    if model_name is not None and model_name not in MODELS:
        raise ConfigError(
            f"unknown model {model_name!r}; {nearest(model_name, MODELS)}", key="--model"
        )
    names = list(MODELS) if model_name is None else [model_name]
    found = _object(ExperimentConfig)
    del found["properties"]["model"]
    keys: Schema = {"model_name": {"enum": names, "description": "Name of the model."}}
    for name in names:
        keys |= _object(MODELS[name].options)["properties"]
    found["properties"] = keys | found["properties"]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "deepfm config"}
    return json.dumps(head | found, indent=2) + "\n"


def _object(cls: type[Any]) -> Schema:
    """The schema of a dataclass, with its older keys."""
    said, required = meanings(cls), []
    properties: Schema = {}
    for name, item in cls.__dataclass_fields__.items():
        if isinstance(item.type, InitVar):
            newer = item.metadata.get("renamed")
            note = {"deprecated": True, "description": f"Say {newer}."} if newer else {}
            properties[name] = _of_type(item.type.type, {}) | note
        elif item in fields(cls):
            properties[name] = _of_field(item)
            if name in said:
                properties[name]["description"] = said[name]
            if item.default is MISSING and item.default_factory is MISSING:
                required.append(name)
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return found | ({"required": required} if required else {})


def _of_field(item: "Field[Any]") -> Schema:
    limits = {_LIMITS[key]: value for key, value in item.metadata.items() if key in _LIMITS}
    if known := item.metadata.get("named"):
        one = _of_named(known)
        several = isinstance(item.default, tuple)
        found = {"anyOf": [one, {"type": "array", "items": one}]} if several else one
        return {"anyOf": [found, {"type": "null"}]} if item.default is None else found
    if choices := item.metadata.get("choices"):
        return {"enum": [*choices, *([None] if item.default is None else [])]}
    return _of_type(item.type, limits)


def _of_named(known: Mapping[str, type[Named]]) -> Schema:
    """A name, or a mapping with `name` and options."""
    described = []
    for name, kind in known.items():
        found = _object(kind)
        for option in found["properties"].values():
            option.pop("description", None)
        found["properties"] = {"name": {"const": name}} | found["properties"]
        described.append(found | {"required": ["name"]})
    return {"anyOf": [{"enum": list(known)}, *described]}


def _of_type(kind: Any, limits: Schema) -> Schema:
    """The schema of a type of the config's dataclasses."""
    plain_types: dict[Any, Schema] = {
        int: {"type": "integer"} | limits,
        float: {"type": "number"} | limits,
        bool: {"type": "boolean"},
        str: {"type": "string"},
        type(None): {"type": "null"},
        Any: {},
    }
    if kind in plain_types:
        return plain_types[kind]
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return {"anyOf": [_of_type(part, limits) for part in get_args(kind)]}
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    if get_origin(kind) is tuple:
        item = _of_type(get_args(kind)[0], limits)
        return {"anyOf": [{"type": "array", "items": item}, item]}
    if get_origin(kind) is dict:
        return {"type": "object", "additionalProperties": _of_type(get_args(kind)[1], limits)}
    if issubclass(kind, ModelConfig):
        return {}
    return _object(kind)
