"""Every key of a config stands on a page, with its default where the page gives one."""

import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deepfm import experiment
from deepfm.config import ExperimentConfig, TableConfig, config_from_dict, load_config
from deepfm.models import MODELS
from deepfm.preflight import check_settings
from deepfm.utils.yaml_reader import parse_yaml
from tests.test_configs import generate, generate_tasks

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {
    name: (DOCS / name).read_text()
    for name in (
        "configuration.md",
        "data.md",
        "training.md",
        "losses_and_metrics.md",
        "history.md",
        "tasks.md",
        "sequences.md",
    )
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


SECTIONS = {"data", "feature", "training", "evaluation", "distributed"}
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
        if key in ("tasks", "cin", "attention", *SECTIONS):
            continue  # rows of the table of sections
        if key in MODELS:
            continue  # a section of a model's own
        value = config
        for part in key.split("."):
            value = value[part]
        if key == "evaluation.metrics":
            value, default = [metric["name"] for metric in value], f"[{default}]"
        expected = yaml.safe_load(default)
        assert value == (float(expected) if isinstance(value, float) else expected), key
        checked += 1
    tops = {key for key in KEYS if "." not in key} - {key for key, _ in listed}
    assert tops <= {
        "fm",
        "dnn",
        "final",
        "shared_bottom",
        "mmoe",
        "ple",
        "dbmtl",
        "esmm",
    }  # sections that share a row
    for section in SECTIONS - {"training"}:  # which has a page of its own
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


BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL))
]


def whole_config(shown: dict) -> dict:
    """A config of which a block shows a part of the table, or of the tasks; else the block."""
    shows_table = shown.keys() <= {field.name for field in dataclasses.fields(TableConfig)}
    if not shows_table and "tasks" not in shown:
        return {"model_name": "deepfm"} | shown
    table = {"files": "rows.csv", "label": "label", "fields": {"city": {"type": "sparse"}}}
    if shows_table:
        table, shown = table | shown, {}
    else:
        del table["label"]
        tasks = shown["tasks"].values()
        labels = [task[key] for task in tasks for key in ("label", "space") if key in task]
        table["labels"] = {name: {"column": name} for name in labels}
    if "data" in shown:
        return shown
    data = {"dataset_name": "tabular", "split_strategy": "random", "data_dir": "."}
    shown = {"model_name": "mmoe"} | shown
    return shown | {"data": data | {"table": table}}


@pytest.mark.parametrize("block", BLOCKS)
def test_every_yaml_on_a_page_is_a_config_that_can_run(block, tmp_path, monkeypatch):
    """As far as no data is needed; where it shows a whole declared table, on generated rows."""
    monkeypatch.chdir(tmp_path)
    Path("cities.txt").write_text("Rome\nOslo\n")  # the vocabulary_file of a page
    shown, _ = parse_yaml(block, "block")
    Path("block.yaml").write_text(yaml.safe_dump(whole_config(shown), sort_keys=False))
    config = load_config("block.yaml")
    check_settings(config)
    if shown.get("data", {}).get("table") is None:
        return
    assert "data_dir" in shown["data"]  # else its files are looked for among those of MovieLens
    changed = config.to_dict()
    changed["training"] |= {"max_steps": 12, "batch_size": 32}
    config = config_from_dict(changed)
    Path(config.data.data_dir).mkdir(parents=True, exist_ok=True)
    if config.tasks:
        generate_tasks(config, Path(config.data.data_dir))
    else:
        generate(config.data.table, Path(config.data.data_dir), config.num_class)
    assert "valid" in experiment.train(config)
