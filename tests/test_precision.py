"""The precision of a run: resolved when it begins, written down, kept by whatever uses the run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from deepfm import comparison, experiment
from deepfm.checkpoint import load_checkpoint
from deepfm.cli import main
from deepfm.config import load_config
from deepfm.errors import ConfigError
from deepfm.held_out import evaluate_checkpoint
from deepfm.models import precision
from deepfm.prediction import Predictor
from tests import tiny


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def machine(monkeypatch):
    """Says whether the processor has units for bf16."""
    return lambda has: monkeypatch.setattr(precision, "has_bf16_products", lambda device: has)


def precisions(run) -> list[str]:
    """Of training and evaluation, as file and checkpoint of a run say them."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    saved = load_checkpoint(run / "last.pt").config
    found = [config[section]["precision"] for section in ("training", "evaluation")]
    assert found == [saved.training.precision, saved.evaluation.precision]
    return found


def without_seconds(run) -> list[dict]:
    lines = (run / "history.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.mark.parametrize(("has", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_written_down_as_what_it_became(tiny_config, run, machine, has, expected):
    machine(has)
    changes = {"training__precision": "auto", "evaluation__precision": "auto"}
    assert main(["train", "--config", str(tiny_config(training__epochs=1, **changes))]) == 0
    assert precisions(run) == [expected, expected]
    assert f", {expected}, " in (run / "train.log").read_text()


@pytest.mark.parametrize("began", [True, False])
def test_a_resume_goes_on_in_the_precision_that_the_run_began_with(
    tiny_config, tmp_path, machine, began
):
    def train(name, epochs, **options):
        changes = {"training__precision": "auto", "output_dir": str(tmp_path / name)}
        config = load_config(tiny_config(training__epochs=epochs, **changes))
        return experiment.train(config, **options)

    machine(began)
    expected = train("whole", 3)
    train("parts", 1)
    machine(not began)
    precision._warn_of_slow.cache_clear()
    assert train("parts", 3, resume=True) == expected
    assert precisions(tmp_path / "parts") == ["bf16" if began else "fp32", "fp32"]
    assert without_seconds(tmp_path / "parts") == without_seconds(tmp_path / "whole")
    one, other = (load_checkpoint(tmp_path / name / "last.pt").model for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


def test_another_precision_is_refused(tiny_config):
    experiment.train(load_config(tiny_config(training__epochs=1, training__precision="fp32")))
    other = load_config(tiny_config(training__epochs=2, training__precision="bf16"))
    with pytest.raises(ConfigError, match=r"training\.precision \('fp32' -> 'bf16'\)"):
        experiment.train(other, resume=True)


def test_a_checkpoint_that_does_not_say_is_fp32(tiny_config, run, machine):
    path = tiny_config(training__epochs=1, training__precision="fp32")
    experiment.train(load_config(path))
    content = torch.load(run / "last.pt", weights_only=True)
    del content["config"]["training"]["precision"], content["config"]["evaluation"]["precision"]
    torch.save(content, run / "last.pt")
    machine(True)
    later = load_config(tiny_config(training__epochs=2, training__precision="auto"))
    experiment.train(later, resume=True)
    assert precisions(run) == ["fp32", "fp32"]


def test_scoring_is_in_the_precision_that_the_checkpoint_says(tiny_config, run, tmp_path):
    experiment.train(load_config(tiny_config(training__epochs=1)))
    best, rows = run / "best_model.pt", tiny.load(tmp_path, False).interactions
    exact = Predictor(best).predict(rows)
    checkpoint = load_checkpoint(best)
    evaluation = replace(checkpoint.config.evaluation, precision="bf16")
    checkpoint.config = replace(checkpoint.config, evaluation=evaluation)
    checkpoint.save(run / "bf16.pt")
    narrow = Predictor(run / "bf16.pt").predict(rows)
    assert not np.array_equal(narrow, exact)
    np.testing.assert_allclose(narrow, exact, atol=0.02)
    both = Predictor([best, run / "bf16.pt"]).predict(rows)  # each in its own
    logits = [np.log(p / (1 - p)) for p in (exact, narrow, both)]
    np.testing.assert_allclose(logits[2], (logits[0] + logits[1]) / 2, atol=1e-6)


def test_evaluate_scores_as_its_config_says(tiny_config, run):
    experiment.train(load_config(tiny_config(training__epochs=1, training__precision="fp32")))
    best = run / "best_model.pt"
    changes = {"training__epochs": 1, "training__precision": "auto"}  # of training: as it was
    configs = {p: tiny_config(p, evaluation__precision=p, **changes) for p in ("fp32", "bf16")}
    found = {
        name: evaluate_checkpoint(best, config=load_config(path)) for name, path in configs.items()
    }
    assert found["fp32"] == evaluate_checkpoint(best)
    assert found["bf16"] != found["fp32"]


def test_compare_finds_runs_of_auto_again(tiny_config, tmp_path, monkeypatch, machine):
    machine(True)
    monkeypatch.chdir(tmp_path)
    path = tiny_config("one", training__epochs=1, training__precision="auto")
    comparison.compare([path], seeds=1)
    machine(False)  # the next machine keeps what the first has finished
    monkeypatch.setattr(experiment, "train", None)
    comparison.compare([path], seeds=1)


@pytest.mark.parametrize("key", ["training", "evaluation"])
def test_other_names_are_refused(tiny_config, capsys, key):
    path = tiny_config(**{f"{key}__precision": "fp16"})
    assert main(["train", "--config", str(path)]) == 2
    assert f"{key}.precision: " in capsys.readouterr().err
