"""YAML text to plain data, with the line of each key; everything is bounded.

Nothing that is read is ever evaluated or imported. What is nested too deep, or grows too large by
aliases, is refused while it is parsed.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from deepfm.errors import ConfigError, shown

MAX_BYTES = 1 << 20  # of a config file
_MAX_DEPTH = 64
_MAX_NODES = 250_000  # with the values of aliases counted wherever they stand
_MAX_BITS = 256  # of a whole number; every key allows far less


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, a repeated key is an error, and everything is bounded."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}  # nodes in a node that is complete, by its id

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # PyYAML has no types
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _yaml_error(f"nested deeper than {_MAX_DEPTH} levels", mark)
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias:
            if id(node) not in self._sizes:
                raise _yaml_error("an alias stands in what it stands for", mark)
        elif node is not None:
            self._sizes[id(node)] = size = 1 + sum(self._sizes[id(part)] for part in _parts(node))
            if size > _MAX_NODES:
                raise _yaml_error(f"more than {_MAX_NODES:,} values, aliases expanded", mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            found = super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            kind, text = node.tag.rpartition(":")[2], shown(node.value)
            problem = f"{text} is no {kind}; quotation marks make a text of it"
            raise _yaml_error(problem, node.start_mark) from None
        if isinstance(found, int) and found.bit_length() > _MAX_BITS:
            raise _yaml_error(f"a whole number of more than {_MAX_BITS} bits", node.start_mark)
        return found

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            return super().construct_mapping(node, deep)  # which refuses it
        seen = set()
        for place, (key_node, value) in enumerate(node.value):
            is_name = not isinstance(key_node, yaml.MappingNode)
            if not is_name or any(isinstance(p, yaml.CollectionNode) for p in _parts(key_node)):
                raise _yaml_error("expected a name or a list of names as key", key_node.start_mark)
            key = _key(key_node)
            if key in seen:
                raise _yaml_error(f"key {shown(key)} is given twice", key_node.start_mark)
            seen.add(key)
            if isinstance(key_node, yaml.SequenceNode):
                text = yaml.ScalarNode("tag:yaml.org,2002:str", key, key_node.start_mark)
                node.value[place] = (text, value)
        return super().construct_mapping(node, deep)


def _parts(node: yaml.Node) -> list[yaml.Node]:
    """The nodes in a node."""
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _yaml_error(problem: str, mark: yaml.Mark | None) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)


def read_yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """The plain data of a text, and its nodes.

    Raises:
        yaml.YAMLError: It is no YAML, or larger than a config can be.
    """
    loader = _Loader(text)  # a SafeLoader: builds plain data only
    try:
        node = loader.get_single_node()
        return (None if node is None else loader.construct_document(node)), node
    finally:
        loader.dispose()


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _key(node: yaml.Node) -> str:
    """The text of a key; a list of names is `[a, b]`."""
    if isinstance(node, yaml.SequenceNode):
        return f"[{', '.join(str(item.value) for item in node.value)}]"
    return str(node.value)


def parse_yaml(text: str, name: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The nested data of a YAML text and the line of each dotted key.

    Args:
        name: What an error begins with, such as the file's path.
    """
    try:
        raw, node = read_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}" if mark else name
        problem = getattr(error, "problem", None) or str(error)
        if isinstance(error, yaml.reader.ReaderError):
            place = f"{name}:{text.count(chr(10), 0, error.position) + 1}"
            problem = f"the character {shown(chr(error.character))} may not stand in YAML"
        raise ConfigError(problem, source=f"{place}: ") from None
    if raw is None:
        return {}, {}
    if not isinstance(raw, dict):
        problem = f"expected sections with keys, found {type(raw).__name__}"
        raise ConfigError(problem, source=f"{name}: ")
    return raw, dict(_key_lines(node, ""))


def read_text(path: Path) -> str:
    """A config file, which is not larger than configs are.

    Raises:
        ConfigError: It cannot be read as UTF-8, or is larger than `MAX_BYTES`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) <= MAX_BYTES:
            return content.decode()
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or no name of a file
        raise ConfigError(f"cannot read the config: {error}", source=f"{path}: ") from None
    raise ConfigError(
        f"larger than {MAX_BYTES >> 20} MiB, which no config is; a long vocabulary can stand in a "
        "vocabulary_file",
        source=f"{path}: ",
    )


def _key_lines(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield f"{prefix}{_key(key)}", key.start_mark.line + 1
            yield from _key_lines(value, f"{prefix}{_key(key)}.")
