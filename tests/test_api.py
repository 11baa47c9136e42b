"""`docs/api.md` lists the public paths: they import, and nothing else is named as if it were."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import deepfm

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "api.md").read_text()
LISTED = re.findall(r"^\| `(deepfm[\w.]+)` \|", PAGE, re.MULTILINE)
PAGES = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]  # fmt: skip
# The two adapters that the README shows: whoever writes another imports what they import.
EXAMPLES = [ROOT / "deepfm" / "data" / "sources" / "movielens.py", ROOT / "tests" / "tiny.py"]


def found(path: str) -> object:
    """What a dotted path names: a module, or a name in one."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


def imported(code: str) -> set[str]:
    """The names that a piece of code imports from the package at its top level."""
    names = set()
    for node in ast.parse(code).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "deepfm":
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("deepfm.")}
    return names


@pytest.mark.parametrize("path", LISTED)
def test_a_listed_path_imports(path):
    assert found(path) is not None


def test_every_path_stands_once():
    assert len(LISTED) == len(set(LISTED))


def test_what_is_called_the_same_is_the_same():
    for path, other in re.findall(r"^\| `([\w.]+)` \| the same as `([\w.]+)` \|$", PAGE, re.M):
        assert found(path) is found(other), path


def test_every_public_name_of_the_package_is_listed():
    assert {f"deepfm.{name}" for name in deepfm.__all__} | {"deepfm.__version__"} == {
        path for path in LISTED if path.count(".") == 1
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_that_a_page_names_is_listed(page):
    text = page.read_text()
    named = set()
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        named |= imported(code)
    for path in re.findall(r"`(deepfm(?:\.\w+)+)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        named.add(path)
    assert named <= set(LISTED)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_path_that_an_adapter_example_names_is_listed(example):
    assert imported(example.read_text()) <= set(LISTED)


def public_functions():
    """The functions that are listed, and the methods of the classes that are."""
    for path in LISTED:
        module, _, name = path.rpartition(".")
        value = getattr(importlib.import_module(module), name, None) if module else None
        if inspect.isfunction(value):
            yield path, value
        elif inspect.isclass(value):
            for key, member in vars(value).items():
                function = getattr(member, "__func__", member)
                if inspect.isfunction(function) and not key.startswith("_"):
                    yield f"{path}.{key}", function


def test_a_public_function_says_in_a_sentence_what_it_returns():
    found = dict(public_functions())
    assert len(found) > 40
    verbs = ("Return", "Train", "Run", "Write", "Make", "Begin", "Refuse")
    for path, function in found.items():
        if doc := function.__doc__:
            assert doc.split()[0] in verbs, path
