"""Packaged configs are found by name, and files before them."""

from pathlib import Path

import pytest

from deepfm.config import load_config
from deepfm.errors import ConfigError
from deepfm.packaged import find_config, folder

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_name_loads_the_same_config_as_its_path(path, tmp_path, monkeypatch):
    by_path = load_config(path)
    monkeypatch.chdir(tmp_path)
    assert load_config(path.stem) == by_path
    assert by_path.output_dir == f"outputs/{path.stem}"


def test_the_packaged_configs_are_those_of_the_source_tree():
    assert folder() == CONFIGS


def test_an_unknown_name_is_answered_with_a_near_one():
    with pytest.raises(ConfigError) as raised:
        load_config("deepfm_adlt")
    assert str(raised.value).startswith("deepfm_adlt: no such file, and no packaged config")
    assert "did you mean 'deepfm_adult'?" in str(raised.value)


def test_a_file_comes_before_a_packaged_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deepfm_adult").write_text("model_name: deepfm\nseed: 7\n")
    assert load_config("deepfm_adult").seed == 7


@pytest.mark.parametrize("path", ["absent.yaml", "folder/deepfm_adult", "./deepfm_adult"])
def test_what_looks_like_a_path_is_a_path(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(path) == Path(path)
    with pytest.raises(ConfigError, match="cannot read the config"):
        load_config(path)
