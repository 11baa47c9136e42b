"""Every key of a config stands on a page, with its default where the page gives one."""

import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deepfm.config import ExperimentConfig, load_config
from deepfm.data.sources import tabular
from deepfm.models import MODELS
from deepfm.preflight import check_settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {
    name: (DOCS / name).read_text()
    for name in ("configuration.md", "data.md", "training.md", "losses_and_metrics.md")
} | {page.name: page.read_text() for page in sorted((DOCS / "models").glob("*.md"))}
# Code in the pages' text and tables, not in their blocks.
CODE = [
    code
    for text in PAGES.values()
    for code in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
]


def sections(kind: object) -> Iterator[type]:
    """The dataclasses within a type, such as the one in `dict[str, FieldConfig] | None`."""
    if dataclasses.is_dataclass(kind):
        yield kind
        return
    for argument in typing.get_args(kind):
        yield from sections(argument)


def keys(section: type, prefix: str = "") -> Iterator[str]:
    """Every dotted key below a section of the config, the section's own keys first."""
    types = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        if section is ExperimentConfig and field.name == "model":  # its keys stand at the top
            yield "model_name"
            for entry in MODELS.values():
                yield from keys(entry.options)
            continue
        yield f"{prefix}{field.name}"
        for below in sections(types[field.name]):
            yield from keys(below, f"{prefix}{field.name}.")


KEYS = list(dict.fromkeys(keys(ExperimentConfig)))


@pytest.mark.parametrize("key", KEYS)
def test_every_key_stands_on_a_page(key):
    """By its name, in code; a name that several sections have may stand once for all of them."""
    name = key.rpartition(".")[2]
    assert [code for code in CODE if re.search(rf"(?<!\w){name}(?!\w)", code)], key


def test_the_page_of_the_configuration_names_keys_and_defaults_that_there_are():
    text = PAGES["configuration.md"]
    listed = re.findall(r"^\| `([\w.]+)` \| (.+?) \| .+ \|$", text, re.MULTILINE)
    config = ExperimentConfig().to_dict()
    checked = 0
    for key, default in listed:
        if key in ("tasks", "data", "feature", "cin", "attention", "training", "evaluation"):
            continue  # rows of the table of sections
        value = config
        for part in key.split("."):
            value = value[part]
        if key == "evaluation.metrics":
            value, default = [metric["name"] for metric in value], f"[{default}]"
        expected = yaml.safe_load(default)
        assert value == (float(expected) if isinstance(value, float) else expected), key
        checked += 1
    tops = {key for key in KEYS if "." not in key} - {key for key, _ in listed}
    assert tops <= {"fm", "dnn", "final"}  # sections that share a row
    for section in ("data", "feature", "evaluation"):
        named = {key for key, _ in listed if key.startswith(f"{section}.")}
        there = {key for key in KEYS if re.fullmatch(rf"{section}\.\w+", key)}
        assert there - named <= {"data.table"}
    assert checked > 30


def anchors(page: Path) -> set[str]:
    """The names by which links reach the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)  # fmt: skip
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if path.startswith("https:"):
            continue
        reached = page.parent / path if path else page
        assert reached.exists(), target
        assert not anchor or anchor in anchors(reached), target


EXAMPLES = [
    (name, block)
    for name, text in PAGES.items()
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    if {"dataset_name: tabular", "fields:"} <= set(re.findall(r"dataset_name: \w+|fields:", block))
]


@pytest.mark.parametrize(("name", "block"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_an_example_of_a_whole_table_is_valid_as_it_stands(name, block, tmp_path):
    path = tmp_path / "example.yaml"
    path.write_text(block)
    config = load_config(path)
    check_settings(config)
    tabular.schema(config.data.table, tmp_path)


def test_there_are_examples():
    assert sum(name == "losses_and_metrics.md" for name, _ in EXAMPLES) == 3
    assert "data.md" in dict(EXAMPLES)
