"""The README is true: its commands parse, its files exist, its Python runs."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from deepfm.cli import _parser
from deepfm.config import (
    OPTIMIZERS,
    SCHEDULERS,
    SPARSE_OPTIMIZERS,
    TrainingConfig,
    config_from_dict,
)
from deepfm.data import tabular

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^python -m deepfm (.+)$", README, re.MULTILINE)


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
    shown = {command.split()[0] for command in COMMANDS}
    (commands,) = _parser()._subparsers._group_actions
    assert shown == set(commands.choices)


@pytest.mark.parametrize("page", ["README.md", "docs/data.md"])
def test_the_declared_table_is_a_valid_config(page):
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    declared = config_from_dict(yaml.safe_load(text)).data.table
    assert "history" in tabular.schema(declared).fields


def test_the_page_about_training_has_every_key_and_option():
    page = (ROOT / "docs" / "training.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    config = config_from_dict(yaml.safe_load(text)).training
    assert config.part_optimizers[0].optimizer["momentum"] == 0.9
    keys = {field.name for field in fields(TrainingConfig)}
    named = set(keys)
    for table in (OPTIMIZERS, SPARSE_OPTIMIZERS, SCHEDULERS):
        named |= {name for name, options in table.items() for name in (name, *options)}
    assert not [name for name in named if not re.search(rf"`{name}\b", page)]
    for key, value in re.findall(r"^\| `(\w+)` \| ([\w.]+) \|", page, re.MULTILINE):
        if key in keys - {"losses", "metrics"}:
            assert yaml.safe_load(value) == getattr(TrainingConfig(), key), key


def test_the_python_example_runs():
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    names: dict = {}
    exec(code, names)
    assert names["probability"].shape == (10,)


def test_files_and_modules_that_it_names_exist():
    for path in re.findall(r"`((?:deepfm|tests|configs|docs)/[\w/.]+\.(?:py|yaml|md))`", README):
        assert (ROOT / path).exists(), path
    assert "@@" not in README
