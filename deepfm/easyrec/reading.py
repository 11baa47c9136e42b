"""A pipeline file as a message, and where each of its fields stands.

Names are checked here, against the format, so that a misspelt one is answered with the nearest;
protobuf reads the values. The places are kept by path (`feature_configs[3].id_feature.pooling`),
because a message forgets them and every later complaint has to name a line. What stands inside a
field of type `Opaque` is skipped: the field itself will be refused, with a better reason than an
unknown name below it. So are unknown names, which are kept: whoever checks the pipeline names a
model or a feature that is not supported first, because the other names are most often its own.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from google.protobuf import json_format, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from deepfm.easyrec.pipeline_pb2 import EasyRecConfig
from deepfm.errors import ConfigError, nearest
from deepfm.utils.yaml_reader import read_text

logger = logging.getLogger(__name__)

Keys = dict[str, Any]  # nested data with the keys of the YAML form
MODELS = (
    "deepfm", "wide_and_deep", "xdeepfm", "dcn_v1", "dcn_v2", "mask_net", "wukong", "dlrm",
    "multi_tower", "multi_tower_din", "mmoe", "ple", "dbmtl",
)  # fmt: skip
_TOKEN = re.compile(
    r"""
    (?P<skip>\s+|\#[^\n]*)
    | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    | (?P<word>[A-Za-z_][\w./]*)
    | (?P<number>[-+]?(?:\d[\w.]*|\.\d[\w]*)(?:(?<=[eE])[-+]\d+\w*)?)
    | (?P<sign>[{}<>\[\]:,;-])
    """,
    re.VERBOSE,
)
_CLOSING = {"{": "}", "<": ">"}


class Pipeline(NamedTuple):
    """What a file says.

    Attributes:
        message: An `EasyRecConfig`.
        file: The file's path, for messages.
        places: Where the field of a path stands, such as `x.config:17`.
        unknown: Of each name that the format lacks, what is wrong with it, in their order but
            for models and kinds of features, which come first.
    """

    message: EasyRecConfig
    file: str
    places: dict[str, str]
    unknown: tuple[ConfigError, ...] = ()

    def place(self, path: str) -> str:
        """Where a field, or the nearest one above it, stands."""
        while path and path not in self.places:
            path = path.rpartition(".")[0] if not path.endswith("]") else path.rpartition("[")[0]
        return self.places.get(path, self.file)

    def error(self, path: str, problem: str) -> ConfigError:
        """A mistake in a field, with its place and path."""
        return ConfigError(problem, key=path, source=f"{self.place(path)}: ")

    def note(self, path: str, line: str) -> None:
        """Log what should be known about a field."""
        logger.info("%s: %s: %s", self.place(path), path, line)


def read(path: str | Path) -> Pipeline:
    """Read `*.config` (protobuf text) or `*.json`.

    Raises:
        ConfigError: The file cannot be read, or is malformed.
    """
    path = Path(path)
    text = read_text(path)
    if path.suffix == ".json":
        return _from_json(text, str(path))
    return _from_text(text, str(path))


def parse(message: Message, text: str, prefix: str = "") -> dict[str, int]:
    """Read protobuf text into a message, on top of what it holds; returns the line of each path.

    Args:
        prefix: The message's own path, ending in a dot.

    Raises:
        ConfigError: The text is malformed or has an unknown name; its source is the line, `17: `.
    """
    walk = _parsed(message, text, prefix)
    if walk.unknown:
        raise _foremost(walk.unknown)[0]
    return walk.lines


def _parsed(message: Message, text: str, prefix: str) -> "_Walk":
    """Read what is known."""
    walk = _Walk(text, descriptor_of(message), prefix)
    try:
        text_format.Parse(walk.cleaned, message)
    except text_format.ParseError as error:
        problem = re.sub(r"^\d+:\d+ : ", "", " ".join(str(error).split()))
        problem = problem.replace("deepfm.easyrec.", "")
        raise ConfigError(problem, source=f"{error.GetLine() or 1}: ") from None
    return walk


def _foremost(unknown: list[tuple[bool, ConfigError]]) -> tuple[ConfigError, ...]:
    """Models and kinds of features first."""
    return tuple(error for _, error in sorted(unknown, key=lambda item: not item[0]))


def _from_text(text: str, file: str) -> Pipeline:
    message = EasyRecConfig()
    try:
        walk = _parsed(message, text, "")
    except ConfigError as error:
        raise error.at(source=f"{file}:{error.source}") from None
    places = {path: f"{file}:{line}" for path, line in walk.lines.items()}
    unknown = (error.at(source=f"{file}:{error.source}") for error in _foremost(walk.unknown))
    return Pipeline(message, file, places, tuple(unknown))


class _Token(NamedTuple):
    kind: str
    text: str
    line: int
    start: int
    end: int


class _Walk:
    """The fields of a protobuf text: their names checked, their lines kept.

    Attributes:
        lines: Line by path.
        unknown: Names that the format lacks, and whether each may be one of a model or feature.
        cleaned: The text with the bodies of `Opaque` messages and unknown fields blanked, on the
            same lines.
    """

    def __init__(self, text: str, descriptor: Descriptor, prefix: str = "") -> None:
        self.lines: dict[str, int] = {}
        self.unknown: list[tuple[bool, ConfigError]] = []
        self._blank: list[tuple[int, int]] = []
        self._tokens = list(_tokens(text))
        self._next = 0
        self._fields(descriptor, prefix, "", 0)
        pieces, end = [], 0
        for first, last in self._blank:
            pieces += [text[end:first], re.sub(r"[^\n]", " ", text[first:last])]
            end = last
        self.cleaned = "".join(pieces) + text[end:]

    def _fields(self, descriptor: Descriptor, prefix: str, closing: str, opened: int) -> None:
        """Fields up to the closing bracket of their message."""
        counts: dict[str, int] = {}
        while (token := self._take()).text != closing or token.kind == "string":
            if token.kind == "end":
                raise _malformed(opened, f"'{closing}' is missing", prefix[:-1])
            if token.kind != "word":
                outside = "" if closing else "; outside all brackets"
                raise _malformed(
                    token.line, f"expected a field's name, found {token.text!r}{outside}"
                )
            try:
                field = find_field(descriptor, token.text, prefix, f"{token.line}: ")
            except ConfigError as error:
                self.unknown.append((has_models_or_features(descriptor), error))
                self._skip_unknown(token, f"{prefix}{token.text}")
                continue
            name = f"{prefix}{field.name}"
            colon = self._accept(":")
            if self._accept("["):
                if not is_repeated(field):
                    raise _malformed(token.line, "not a list, expected one value", name)
                self.lines.setdefault(name, token.line)
                while not self._accept("]"):
                    self._value(field, name, counts, colon=True, line=token.line)
                    if not self._accept(",") and self._peek().text != "]":
                        wrong = self._peek()
                        problem = f"expected ',' or ']', found {wrong.text!r}"
                        raise _malformed(wrong.line, problem, name)
            else:
                self._value(field, name, counts, colon=colon, line=token.line)
            if not self._accept(","):
                self._accept(";")

    def _value(
        self, field: FieldDescriptor, name: str, counts: dict[str, int], colon: bool, line: int
    ) -> None:
        token = self._take()
        path = name
        if is_repeated(field):
            self.lines.setdefault(name, line)
            path = f"{name}[{counts.get(name, 0)}]"
            counts[name] = counts.get(name, 0) + 1
        self.lines.setdefault(path, token.line if token.kind != "end" else line)
        if field.message_type is not None:
            if token.text not in _CLOSING or token.kind == "string":
                raise _malformed(line, f"expected {{ ... }}, found {token.text!r}", name)
            if is_opaque(field):
                self._skip(token, name)
            else:
                self._fields(field.message_type, f"{path}.", _CLOSING[token.text], token.line)
            return
        if not colon:
            raise _malformed(line, f"expected ':' and a value, found {token.text!r}", name)
        if token.text == "-" and token.kind == "sign":
            token = self._take()
        if token.kind not in ("string", "word", "number"):
            raise _malformed(line, f"expected a value, found {token.text!r}", name)
        while token.kind == "string" and self._peek().kind == "string":
            self._take()  # adjacent texts are one

    def _skip(self, opening: _Token, name: str) -> None:
        """All up to the closing bracket, which stays."""
        self._blank.append((opening.end, self._closing(opening, name, "{<", "}>").start))

    def _skip_unknown(self, word: _Token, name: str) -> None:
        """A field of any type, with what ends it."""
        colon = self._accept(":")
        token = self._take()
        if token.kind == "sign" and token.text in "{<[":
            token = self._closing(token, name, "{<[", "}>]")
        elif not colon:
            raise _malformed(word.line, f"expected ':' and a value, found {token.text!r}", name)
        elif token.kind == "sign" and token.text == "-":
            token = self._take()
        if token.kind == "end":
            raise _malformed(word.line, "a value is missing", name)
        while token.kind == "string" and self._peek().kind == "string":
            token = self._take()
        end = self._peek()
        if self._accept(",") or self._accept(";"):
            token = end
        self._blank.append((word.start, token.end))

    def _closing(self, opening: _Token, name: str, openings: str, closings: str) -> _Token:
        depth = 1
        while depth:
            token = self._take()
            if token.kind == "end":
                raise _malformed(opening.line, "a bracket is not closed", name)
            if token.kind == "sign":
                depth += (token.text in openings) - (token.text in closings)
        return token

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next += token.kind != "end"
        return token

    def _accept(self, sign: str) -> bool:
        found = self._peek().kind == "sign" and self._peek().text == sign
        self._next += found
        return found


def _tokens(text: str) -> Iterator[_Token]:
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            found = text[position : position + 20].split("\n")[0]
            what = "a text that is not closed" if found[0] in "\"'" else "no part of the format"
            raise _malformed(line, f"{what}: {found}")
        if match.lastgroup is not None and match.lastgroup != "skip":
            yield _Token(match.lastgroup, match[0], line, match.start(), match.end())
        line += match[0].count("\n")
        position = match.end()
    yield _Token("end", "", line, position, position)


def descriptor_of(message: Message | type[Message]) -> Descriptor:
    """What fields a message has; protobuf's own classes for it differ by its backend."""
    found = message.DESCRIPTOR
    assert isinstance(found, Descriptor)
    return found


def _malformed(line: int, problem: str, name: str = "") -> ConfigError:
    return ConfigError(problem, key=name, source=f"{line}: ")


def find_field(descriptor: Descriptor, name: str, prefix: str, source: str = "") -> FieldDescriptor:
    """A message's field by its name.

    Args:
        descriptor: Of the message.
        prefix: Path of the message, ending in a dot unless it is the whole pipeline.
        source: What an error begins with.
    """
    field = descriptor.fields_by_name.get(name)
    if field is None:
        hint = nearest(name, [f.name for f in descriptor.fields])
        if descriptor.name == "ModelConfig":  # most often a model that nobody has told us of
            hint = f"{hint}; supported models: {', '.join(MODELS)}"
        raise ConfigError(f"unknown field '{prefix}{name}'; {hint}", source=source)
    return field


def has_models_or_features(descriptor: Descriptor) -> bool:
    """Whether a message chooses a model, or a kind of feature."""
    return descriptor.name in ("ModelConfig", "FeatureConfig", "SeqFeatureConfig")


def is_opaque(field: FieldDescriptor) -> bool:
    """Whether the content of a field is of no interest, because the field is refused."""
    return field.message_type is not None and field.message_type.name == "Opaque"


def is_repeated(field: FieldDescriptor) -> bool:
    """Whether a field may stand several times; older versions of protobuf tell by its label."""
    if hasattr(field, "is_repeated"):
        return field.is_repeated
    return getattr(field, "label", None) == FieldDescriptor.LABEL_REPEATED


def is_map(field: FieldDescriptor) -> bool:
    """Whether a field holds values by keys."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def shortest(value: float) -> float:
    """The float of the shortest decimal that is the same float32: 0.001, not 0.00100000005.

    Example:
        >>> shortest(0.10000000149011612)
        0.1
    """
    return float(str(np.float32(value)))


def options_of(config: Message) -> Keys:
    """All scalars of a message, with their defaults where they are not set.

    What is not set and has no default is left out, if that is a number: 0 pairs at most is no
    limit that anybody wants.
    """
    found: Keys = {}
    for field in descriptor_of(config).fields:
        value = getattr(config, field.name)
        if is_repeated(field):
            found[field.name] = [shortest(v) if isinstance(v, float) else v for v in value]
        elif field.has_default_value or config.HasField(field.name) or isinstance(value, str):
            found[field.name] = shortest(value) if isinstance(value, float) else value
    return found


def _from_json(text: str, file: str) -> Pipeline:
    """JSON with the format's names, or in camelCase; a JSON text is YAML, which knows lines."""
    try:
        raw = json.loads(text)
    except RecursionError:
        raise ConfigError("nested too deep", source=f"{file}: ") from None
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise ConfigError(getattr(error, "msg", str(error)), source=f"{file}:{line}: ") from None
    if not isinstance(raw, dict):
        problem = f"expected an object, found {type(raw).__name__}"
        raise ConfigError(problem, source=f"{file}:1: ")
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):  # such as indented by tabs: the lines remain unknown
        node = None
    message = EasyRecConfig()
    walk = _JsonWalk(file)
    cleaned = walk.fields(raw, node, descriptor_of(message), "")
    try:
        json_format.ParseDict(cleaned, message)
    except json_format.ParseError as error:
        raise ConfigError(" ".join(str(error).split()), source=f"{file}: ") from None
    return Pipeline(message, file, walk.places, _foremost(walk.unknown))


class _JsonWalk:
    """The fields of a JSON text: their names checked, their places kept.

    Attributes:
        places: Place by path.
        unknown: Names that the format lacks, and whether each may be one of a model or feature.
    """

    def __init__(self, file: str) -> None:
        self.places: dict[str, str] = {}
        self.unknown: list[tuple[bool, ConfigError]] = []
        self._file = file

    def fields(
        self,
        raw: Mapping[str, object],
        node: yaml.Node | None,
        descriptor: Descriptor,
        prefix: str,
    ) -> dict[str, object]:
        """The same with the format's names, without unknown ones and opaque messages' content."""
        names = {f.json_name: f.name for f in descriptor.fields}
        below = {}
        if isinstance(node, yaml.MappingNode):
            below = {key.value: (key, value) for key, value in node.value}
        cleaned: dict[str, object] = {}
        for key, value in raw.items():
            key_node, value_node = below.get(key, (None, None))
            place = self._place(key_node)
            try:
                field = find_field(descriptor, names.get(key, key), prefix, f"{place}: ")
            except ConfigError as error:
                self.unknown.append((has_models_or_features(descriptor), error))
                continue
            path = f"{prefix}{field.name}"
            self.places.setdefault(path, place)
            if is_repeated(field) and isinstance(value, list):
                nodes = [None] * len(value)
                if isinstance(value_node, yaml.SequenceNode):
                    nodes = value_node.value
                cleaned[field.name] = [
                    self._element(field, item, item_node, f"{path}[{k}]")
                    for k, (item, item_node) in enumerate(zip(value, nodes, strict=True))
                ]
            elif is_map(field):
                cleaned[field.name] = value
            else:
                cleaned[field.name] = self._value(field, value, value_node, path)
        return cleaned

    def _element(
        self, field: FieldDescriptor, value: object, node: yaml.Node | None, path: str
    ) -> object:
        if node is not None:
            self.places[path] = self._place(node)
        return self._value(field, value, node, path)

    def _value(
        self, field: FieldDescriptor, value: object, node: yaml.Node | None, path: str
    ) -> object:
        if field.message_type is None or not isinstance(value, dict):
            return value
        if is_opaque(field):
            return {}
        return self.fields(value, node, field.message_type, f"{path}.")

    def _place(self, node: yaml.Node | None) -> str:
        return self._file if node is None else f"{self._file}:{node.start_mark.line + 1}"
