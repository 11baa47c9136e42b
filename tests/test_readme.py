"""The README is true: its commands parse, its files exist, its Python runs."""

import dataclasses
import re
import shlex
import sys
import types
from pathlib import Path

import pytest
import yaml

import deepfm
from deepfm import Trainer, build_model
from deepfm.cli import _parser, main
from deepfm.config import (
    OPTIMIZERS,
    SCHEDULERS,
    SPARSE_OPTIMIZERS,
    TrainingConfig,
    config_from_dict,
)
from deepfm.data.sources import tabular
from deepfm.evaluation.metrics import METRICS, TRAIN_METRICS
from deepfm.models import MODELS, Entry
from deepfm.models.options import NetworkConfig
from deepfm.objectives import LOSSES
from deepfm.preflight import check_settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "docs" / "results.md").read_text()
COMMANDS = [*dict.fromkeys(re.findall(r"^python -m deepfm (.+)$", README + RESULTS, re.MULTILINE))]


def test_the_two_commands_are_make_targets_that_ci_runs():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("train", "test", "install", "lint", "check", "download-data"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert "make train" in README
    ci = (ROOT / ".ci" / "run").read_text()
    assert "make check\nmake test\n" in ci


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses_and_names_configs_that_exist(command):
    words = shlex.split(command)
    _parser().parse_args(words)
    for word in words:
        if word.startswith("configs/"):
            assert (ROOT / word).exists(), word


def test_every_command_of_the_cli_is_shown():
    shown = {command.split()[0] for command in COMMANDS if command in README}
    (commands,) = _parser()._subparsers._group_actions
    assert shown == set(commands.choices)


@pytest.mark.parametrize("page", ["README.md", "docs/data.md"])
def test_the_declared_table_is_a_valid_config(page):
    text = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)[0]
    declared = config_from_dict(yaml.safe_load(text)).data.table
    assert "history" in tabular.schema(declared).fields


def test_the_page_about_training_has_every_key_and_option():
    page = (ROOT / "docs" / "training.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    config = config_from_dict(yaml.safe_load(text)).training
    assert config.part_optimizers[0].optimizer.momentum == 0.9
    keys = {field.name for field in dataclasses.fields(TrainingConfig)}
    named = set(keys)
    for table in (OPTIMIZERS, SPARSE_OPTIMIZERS, SCHEDULERS):
        named |= set(table) | {f.name for kind in table.values() for f in dataclasses.fields(kind)}
    assert not [name for name in named if not re.search(rf"`{name}\b", page)]
    for key, value in re.findall(r"^\| `(\w+)` \| ([\w.]+) \|", page, re.MULTILINE):
        if key in keys - {"losses", "metrics"}:
            assert yaml.safe_load(value) == getattr(TrainingConfig(), key), key


def test_the_declared_ids_are_valid_fields(tmp_path):
    page = (ROOT / "docs" / "data.md").read_text()
    _, text = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "cities.txt").write_text("Oslo\nRoma\n")
    table = {"files": "f.csv", "label": "y"} | yaml.safe_load(text)
    data = {"dataset_name": "tabular", "split_strategy": "random", "table": table}
    fields = tabular.schema(config_from_dict({"data": data}).data.table, tmp_path).fields
    sizes = {name: field.vocabulary_size for name, field in fields.items()}
    assert sizes == {
        "user": 5_000_000, "color": 4, "city": 2, "age": 5, "query": 100_000, "clicks": 40_000,
        "pair": 100_001, "place": 0,
    }  # fmt: skip


def test_the_page_of_losses_and_metrics_lists_them_all_and_its_example_fits():
    text = (ROOT / "docs" / "losses_and_metrics.md").read_text()
    blocks = list(map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)))
    example, several = blocks[0], blocks[-1]
    check_settings(config_from_dict(example))
    del example["data"]["table"]["label"]  # each task says its own
    tasks = config_from_dict({"data": example["data"]} | several).task_list()
    assert [task.name for task in tasks] == ["click", "buy"]
    cells = " ".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE))
    names = set(re.findall(r"`(\w+)`", cells))
    assert names >= set(LOSSES) | set(METRICS)
    known = [*LOSSES.values(), *METRICS.values()]
    options = {option.name for kind in known for option in dataclasses.fields(kind)}
    assert all(f"`{option}`" in text for option in options)
    training = text.partition("## Metrics while training")[2].partition("\n## ")[0]
    assert all(f"`{name}`" in training for name in TRAIN_METRICS)


def test_the_python_example_runs():
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    names: dict = {}
    exec(code, names)
    assert names["probability"].shape == (10,)


def test_the_model_that_it_adds_can_be_trained(tiny_data, monkeypatch):
    _, model, options = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[:3]
    (entry,) = re.findall(r'`"product": (Entry\(.+?\))`', README)
    names = {name: getattr(deepfm, name) for name in ("BaseCTRModel", "FactorizationMachine")}
    names |= {"dataclass": dataclasses.dataclass, "NetworkConfig": NetworkConfig, "Entry": Entry}
    exec(options + model, names)
    module = types.ModuleType("deepfm.models.product")
    module.ProductModel = names["ProductModel"]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(MODELS, "product", eval(entry, names))
    config = config_from_dict({"model_name": "product", "training": {"epochs": 1}})
    built = build_model(tiny_data.train.schema, config)
    assert type(built) is module.ProductModel
    state = Trainer(config.training, seed=1).fit(built, tiny_data.train, tiny_data.valid)
    assert state.epoch == 1


def test_an_own_csv_takes_four_lines(tmp_path, monkeypatch, capsys):
    """The lines as they stand, on clicks that follow from two columns."""
    (lines,) = re.findall(r"own CSV in four lines\n\n```bash\n(.*?)```", README, re.DOTALL)
    assert lines.count("\n") == 4
    monkeypatch.chdir(tmp_path)
    rows = [f"{'abc'[k % 3]},{k % 7},{int(k % 3 == 0 or k % 7 > 4)}" for k in range(400)]
    for name in ("clicks.csv", "new.csv"):
        (tmp_path / name).write_text("colour,size,click\n" + "\n".join(rows) + "\n")
    for line in lines.splitlines():
        command = re.fullmatch(r"python -m deepfm (.+)", line)
        assert main(shlex.split(command[1])) == 0, capsys.readouterr().err
    header, *scores = (tmp_path / "scores.csv").read_text().splitlines()
    assert header.replace('"', "") == "colour,size,click,probability"
    assert len(scores) == 400


def test_files_and_modules_that_it_names_exist():
    for path in re.findall(r"`((?:deepfm|tests|configs|docs)/[\w/.]+\.(?:py|yaml|md))`", README):
        assert (ROOT / path).exists(), path
    assert "@@" not in README
