"""What models there are: name, one line, options and source, from their docstrings.

A model's module says what it is in one line, the docstring of its class how it computes and where
it comes from, that of its options what they mean. The modules are read, not imported: a list of
models needs no torch.
"""

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from textwrap import fill, indent
from typing import NamedTuple

from deepfm.config_help import flow, lines_of
from deepfm.errors import ConfigError, nearest
from deepfm.models import MODELS
from deepfm.models.options import ModelConfig, NetworkConfig

_WIDTH = 100
_SHARED = {item.name for item in fields(NetworkConfig)}


class About(NamedTuple):
    """What the docstrings say about a model.

    Attributes:
        line: What it is, one line.
        text: How it computes: the docstring of its class.
        source: Papers; empty if the docstring names none.
    """

    line: str
    text: str
    source: str


def about(name: str) -> About:
    """Return what the docstrings of a model say.

    Raises:
        ConfigError: The model is unknown.

    Example:
        >>> about("fm").source
        'S. Rendle, "Factorization Machines", ICDM 2010, Eq. (1).'
    """
    if name not in MODELS:
        raise ConfigError(f"unknown model {name!r}; {nearest(name, MODELS)}", key="models")
    module, _, of_class = MODELS[name].place.partition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    (found,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == of_class)
    line = (ast.get_docstring(tree) or "").partition("\n")[0]
    text = inspect.cleandoc(ast.get_docstring(found) or "")
    source = re.search(r"^Source: (.*?)(?:\n\n|\Z)", text, re.M | re.S)
    return About(line, text, " ".join(source[1].split()) if source else "")


def listed() -> str:
    """All models: what each is, its own options with their defaults, its source."""
    parts = []
    for name, entry in MODELS.items():
        found = about(name)
        shown = [f"{name}: {found.line.partition(': ')[2] or found.line}"]
        shown += [f"  {option}" for option in _own_options(entry.options())]
        shown.append(indent(fill(found.source, _WIDTH - 2), "  "))
        parts.append("\n".join(filter(str.strip, shown)))
    return "\n\n".join(parts) + "\n"


def in_full(name: str) -> str:
    """One model: its docstring, and its options with defaults and meanings, but the embedding's.

    Raises:
        ConfigError: The model is unknown.
    """
    found = about(name)
    options = "\n".join(lines_of(MODELS[name].options(), without=("feature",)))
    return f"{found.line}\n\n{found.text}\n\nmodel_name: {name}\n{options}".rstrip() + "\n"


def _own_options(config: ModelConfig) -> Iterator[str]:
    """A line per section that is not every network's, then the names of those that are."""
    for item in fields(config):
        if item.name not in _SHARED:
            yield f"{item.name}: {flow(getattr(config, item.name))}"
    if shared := [item.name for item in fields(config) if item.name in _SHARED - {"feature"}]:
        yield f"also {', '.join(shared)}"
