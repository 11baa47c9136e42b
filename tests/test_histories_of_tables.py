"""Declared tables with histories from the command line on: train, evaluate, stop and go on."""

import json
from pathlib import Path

import pytest

from deepfm import experiment
from deepfm.checkpoint import load_checkpoint
from deepfm.cli import main
from deepfm.config import ExperimentConfig
from deepfm.training.trainer import Interrupted
from tests.data.store.test_store_histories import config, rows, write
from tests.test_out_of_core import stop_after


@pytest.fixture
def used(tmp_path) -> ExperimentConfig:
    """A table of 400 rows, split by time, whose last users and items know no training."""
    write(tmp_path, rows())
    return config(tmp_path, "time")


def test_train_evaluate_and_load(used, capsys):
    metrics = experiment.train(used)
    assert metrics["data"]["history"]["ties"] == "exclude"
    best = Path(used.output_dir) / "best_model.pt"
    assert main(["evaluate", "--checkpoint", str(best)]) == 0
    assert f"{metrics['test']['logloss']:.4f}" in capsys.readouterr().out
    weights = load_checkpoint(best).model
    assert "embedding.positions.history_item.weight" in weights
    written = json.loads((Path(used.output_dir) / "metrics.json").read_text())
    assert written["data"]["history"]["until"] == "split"


def test_a_run_stopped_in_an_epoch_ends_as_an_uninterrupted_one(used, monkeypatch):
    expected = experiment.train(used)
    last = Path(used.output_dir) / "last.pt"
    straight = load_checkpoint(last)
    monkeypatch.setattr(experiment, "catch_signals", lambda: stop_after(5))
    with pytest.raises(Interrupted):
        experiment.train(used, overwrite=True)
    monkeypatch.undo()
    assert experiment.train(used, resume=True) == expected
    resumed = load_checkpoint(last)
    for name, weights in straight.model.items():
        assert (resumed.model[name] == weights).all(), name
