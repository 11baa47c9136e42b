"""Trained checkpoints to explore: one that ranks items, and one of a table of clicks."""

from pathlib import Path

import pytest

from deepfm import experiment
from deepfm.config import load_config
from tests import clicks, tiny


@pytest.fixture(scope="session")
def ranking(tmp_path_factory) -> Path:
    """Of the data set with users and items, by a model that reads histories."""
    folder = tmp_path_factory.mktemp("ranking")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepfm.data.ADAPTERS", {"tiny": tiny})
        history = {"max_length": 6}
        path = tiny.write_config(folder, training__epochs=2, data__history=history)
        experiment.train(load_config(path))
    return folder / "run" / "best_model.pt"


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    """Of a declared table, which has no items to rank."""
    return clicks.trained(tmp_path_factory.mktemp("table"))


@pytest.fixture
def tiny_adapter(monkeypatch):
    monkeypatch.setattr("deepfm.data.ADAPTERS", {"tiny": tiny})
