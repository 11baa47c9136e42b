"""What `deepfm config` prints: configs that read back to the defaults, and a schema that fits."""

import json
from dataclasses import fields, is_dataclass
from pathlib import Path

import jsonschema
import pytest
import yaml

from deepfm.cli import main
from deepfm.config import ExperimentConfig, FieldConfig, config_from_dict
from deepfm.config_help import commented_yaml, json_schema, meanings
from deepfm.errors import ConfigError
from deepfm.models import MODELS
from deepfm.models.options import ModelConfig
from deepfm.utils.yaml_reader import parse_yaml

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads(json_schema())


def dataclasses_below(cls: type) -> set[type]:
    """A dataclass of the config and all that its keys hold."""
    found = {cls}
    for item in fields(cls):
        for kind in [item.type, *getattr(item.type, "__args__", ())]:
            if isinstance(kind, type) and is_dataclass(kind) and kind not in found:
                found |= dataclasses_below(kind)
        for kind in item.metadata.get("named", {}).values():
            found.add(kind)
    return found


EVERY = set().union(
    *(dataclasses_below(cls) for cls in (ExperimentConfig, *(m.options for m in MODELS.values())))
)


@pytest.mark.parametrize(
    "cls", sorted(EVERY, key=lambda cls: cls.__name__), ids=lambda c: c.__name__
)
def test_every_key_has_its_line_of_meaning(cls):
    if not getattr(cls, "is_old", False):
        assert {item.name for item in fields(cls)} <= meanings(cls).keys()
        assert all(text[0].isupper() or text[0] in "`r" for text in meanings(cls).values())


def test_the_classes_are_found():
    names = {cls.__name__ for cls in EVERY}
    assert {"FieldConfig", "TaskConfig", "XDeepFMConfig", "Cosine", "LazyAdam", "JRC"} <= names


@pytest.mark.parametrize("name", MODELS)
def test_the_printed_config_is_the_default_of_its_model(name, capsys):
    assert main(["config", "--model", name]) == 0
    text = capsys.readouterr().out
    config = config_from_dict(yaml.safe_load(text))
    assert config == ExperimentConfig(model=MODELS[name].options())
    own = {item.name for item in fields(MODELS[name].options)}
    others = {item.name for m in MODELS.values() for item in fields(m.options)} - own
    keys = {line.split(":")[0] for line in text.splitlines()}
    assert own <= keys
    assert not others & keys
    assert "#         min_count: null  # Values rarer than this" in text
    jsonschema.validate(yaml.safe_load(text), SCHEMA)


@pytest.mark.parametrize(
    "path",
    sorted([*(ROOT / "configs").glob("*.yaml"), *(ROOT / "examples").glob("*.yaml")]),
    ids=lambda path: path.name,
)
def test_configs_fit_the_schema(path):
    raw, _ = parse_yaml(path.read_text(), path.name)
    jsonschema.validate(raw, SCHEMA)
    own = json.loads(json_schema(raw.get("model_name", "deepfm")))
    jsonschema.validate(raw, own)


@pytest.mark.parametrize(
    "raw",
    [
        {"training": {"lrr": 1}},
        {"training": {"lr": "x"}},
        {"training": {"lr": 0}},
        {"training": {"keep": "first"}},
        {"training": {"optimizer": {"name": "adam", "beta": 1}}},
        {"training": {"losses": ["hinge"]}},
        {"data": {"split_strategy": "alphabetical"}},
        {"data": {"table": {"fields": {"a": {}}}}},
        {"model_name": "deepmf"},
        {"dnn": {"hidden_units": [0]}},
    ],
    ids=str,
)
def test_the_schema_refuses_what_the_config_refuses(raw):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(raw, SCHEMA)
    with pytest.raises(ConfigError):
        config_from_dict(raw)


def test_a_key_that_a_model_does_not_read_is_not_in_its_schema():
    assert "cin" in SCHEMA["properties"]
    assert "cin" not in json.loads(json_schema("deepfm"))["properties"]
    assert SCHEMA["properties"]["training"]["properties"]["scheduler_factor"]["deprecated"]


def test_an_unknown_model_has_a_hint(capsys):
    for flags in ([], ["--json-schema"]):
        assert main(["config", "--model", "deepmf", *flags]) == 2
        assert "unknown model 'deepmf'; did you mean 'deepfm'?" in capsys.readouterr().err
    assert main(["config"]) == 2
    assert "--model: a value is needed; known: deepfm" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        commented_yaml("nothing")


def test_a_model_without_a_section_of_its_own_has_the_common_keys():
    assert {item.name for item in fields(ModelConfig)} <= SCHEMA["properties"].keys()
    assert "padding" in meanings(FieldConfig)
