"""Spaces: what they may say, what is refused with its line, and those that are shipped."""

from pathlib import Path

import pytest
import yaml

from deepfm.config import config_from_dict, load_config
from deepfm.errors import ConfigError
from deepfm.models import MODELS
from deepfm.tuning.space import (
    SPACES,
    Choices,
    Range,
    default_space,
    load_space,
    settings_of,
    with_settings,
)
from tests import tiny

TINY = {"model_name": "deepfm", "data": {"dataset_name": "tiny"}}


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """The message about a space."""
    monkeypatch.setattr("deepfm.data.ADAPTERS", {"tiny": tiny})

    def message(text, **raw):
        path = tmp_path / "space.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError) as error:
            load_space(path, config_from_dict(TINY | raw))
        return str(error.value).removeprefix(f"{tmp_path}/")

    return message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dnn.dropot: [0.1]", "1: unknown key 'dnn.dropot'; did you mean 'dropout'?"),
        (
            "training.lr: [0.1]\ndnn.dropout: [0.1, 2]",
            "2: dnn.dropout: expected below 1, found 2.0",
        ),
        (
            "dnn.norm: [batch, bach]",
            "1: dnn.norm: expected one of batch, layer, none, found 'bach'; did you mean 'batch'?",
        ),
        ("dcn.layers: [1, 2]", "1: dcn.layers: deepfm does not read it"),
        (
            "training.lr: 0.1",
            "1: training.lr: expected a list of choices, or low and high, found 0.1",
        ),
        ("training.lr: {lo: 1, high: 2}", "1: training.lr: unknown key 'lo'; did you mean 'low'?"),
        (
            "training.lr: {low: 2, high: 1}",
            "1: training.lr: expected low below high, found 2 and 1",
        ),
        (
            "training.lr: {low: 0, high: 1, log: true}",
            "1: training.lr: log: expected low above 0, found 0",
        ),
        ("training.lr: {low: 1}", "1: training.lr: high: expected a number, found None"),
        (
            "training.metric: [auc, logloss]",
            "1: training.metric: it says what trials are judged by, and stays",
        ),
        (
            "data.num_neg_train: [1, 2]",
            "1: data.num_neg_train: it says what trials are judged by, and stays",
        ),
        (
            "multi_tower.towers.*.dropout: [0]",
            "1: multi_tower.towers.*.dropout: the config has nothing there",
        ),
        ("{}", " expected keys with what they may be, found none"),
    ],
)
def test_a_mistake_in_a_space_is_a_line_with_its_place(refused, text, message):
    assert refused(text) == f"space.yaml:{message}"


def test_a_dim_that_no_field_takes_is_refused(refused):
    dims = {f.name: 8 for f in tiny.schema().fields.values() if f.is_embedded}
    found = refused("feature.embedding_dim: [8, 16]", feature={"embedding_dims": dims})
    assert found.endswith(
        "feature.embedding_dim: it has no effect: each field has a dim of its own"
    )


def test_settings_go_where_their_keys_say():
    raw = {"model_name": "multi_tower", "data": {"dataset_name": "tiny"}}
    raw |= {"multi_tower": {"towers": {"a": {"dropout": 0.3}, "b": {"dropout": 0.3}}}}
    raw["feature"] = {"groups": {"a": ["user"], "b": ["item"]}}
    found = with_settings(
        config_from_dict(raw),
        {
            "multi_tower.towers.*.dropout": 0.1,
            "[feature.embedding_dim, feature.fm_embedding_dim]": 4,
            "training.optimizer": {"name": "adamw", "weight_decay": 0.5},
            "training.lr": 1e-05,
        },
    )
    assert {tower.dropout for tower in found.model.multi_tower.towers.values()} == {0.1}
    assert (found.feature.embedding_dim, found.feature.fm_embedding_dim) == (4, 4)
    assert found.training.optimizer.to_dict()["weight_decay"] == 0.5
    assert found.training.lr == 1e-05


def test_what_a_config_says_is_found_where_it_lies_in_the_space():
    config = config_from_dict({"training": {"lr": 0.01, "optimizer": "adam"}})
    space = {
        "training.lr": Range(0.001, 0.1, log=True),
        "training.optimizer": Choices(("sgd", "adam")),
        "dnn.dropout": Range(0.2, 0.4),
        "dnn.hidden_units": Choices(([256, 128, 64],)),
        "training.batch_size": Range(1024, 8192, step=1024),
    }
    assert settings_of(space, config) == {
        "training.lr": 0.01,
        "training.optimizer": "adam",
        "dnn.hidden_units": [256, 128, 64],
        "training.batch_size": 4096,
    }


TOWERS = {"towers": {"a": {}, "b": {}}}


@pytest.mark.parametrize("name", MODELS)
def test_the_packaged_space_of_a_model_fits_it(name, monkeypatch):
    monkeypatch.setattr("deepfm.data.ADAPTERS", {"tiny": tiny})
    raw = {"model_name": name, "data": {"dataset_name": "tiny"}}
    if name.startswith("multi_tower"):
        raw |= {name: TOWERS, "feature": {"groups": {"a": ["user"], "b": ["item"]}}}
    assert len(load_space(SPACES / f"{name}.yaml", config_from_dict(raw))) >= 4


@pytest.mark.parametrize("name", ["deepfm_adult", "deepfm_movielens", "finalmlp_frappe"])
def test_the_packaged_space_holds_what_a_shipped_config_says(name):
    config = load_config(name)
    space = default_space(config)
    assert settings_of(space, config).keys() == space.keys()
    said = yaml.safe_load((SPACES / f"{config.model_name}.yaml").read_text())
    assert len(space) >= len(said) - 3  # keys that this config cannot change


def test_the_space_of_the_page_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr("deepfm.data.ADAPTERS", {"tiny": tiny})
    page = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text()
    (tmp_path / "space.yaml").write_text(page.split("```text\n")[1].split("```")[0])
    raw = {"model_name": "multi_tower", "data": {"dataset_name": "tiny"}, "multi_tower": TOWERS}
    raw["feature"] = {"groups": {"a": ["user"], "b": ["item"]}}
    assert len(load_space(tmp_path / "space.yaml", config_from_dict(raw))) == 6


def test_a_space_of_another_name_is_of_no_model():
    assert {path.stem for path in SPACES.glob("*.yaml")} == set(MODELS)
