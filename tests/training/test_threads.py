"""The threads of a step: by its work, within a context; what waits does not spin."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml

from deepfm import experiment
from deepfm.checkpoint import RunDirectory, load_checkpoint
from deepfm.config import TrainingConfig, load_config
from deepfm.models import build_model
from deepfm.training import threads
from deepfm.training.threads import multiplications, running_on, settle_threads, threads_for
from tests.models.conftest import OF_ONE_TASK, changed, config, inputs, replaced, schema

__all__ = ["config", "inputs", "schema"]


def test_multiplications_are_those_of_every_linear_map_of_a_row(schema, inputs, config):
    model = build_model(schema, config)
    weights = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert len(weights) == 3  # two hidden layers and the output; a dense field has no such map
    expected = sum(w.shape[0] * w.shape[1] for w in weights)
    assert multiplications(model, inputs.select(slice(0, 1))) == expected
    assert multiplications(model, inputs) == inputs.num_rows * expected


def test_a_map_over_dimensions_counts_once_for_each(schema, inputs, config):
    model = build_model(schema, replaced(config, model_name="xdeepfm"))
    expected = sum(
        linear.weight.numel() * (config.feature.fm_embedding_dim if "cin.layers" in name else 1)
        for name, linear in model.named_modules()
        if isinstance(linear, torch.nn.Linear)
    )
    assert multiplications(model, inputs.select(slice(0, 1))) == expected


@pytest.mark.parametrize("name", OF_ONE_TASK)
def test_counting_leaves_a_model_as_it_was(schema, inputs, config, name):
    model = build_model(schema, replaced(config, model_name=name)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    multiplications(model, inputs)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_threads_follow_work_and_end_at_what_torch_has(schema, inputs, config, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    work = 3 * multiplications(build_model(schema, config), inputs.select(slice(0, 1)))
    monkeypatch.setattr(threads, "MULTIPLICATIONS_PER_THREAD", 1000 * work)
    model = build_model(schema, config)
    found = [threads_for(model, inputs, rows) for rows in (1, 999, 1000, 1999, 2000, 3000, 9000)]
    assert found == [1, 1, 1, 1, 2, 3, 4]
    wide = build_model(schema, changed(config, "dnn", hidden_units=(1600, 800)))
    assert threads_for(wide, inputs, 100) == 4


def test_a_context_gives_the_threads_back():
    before = torch.get_num_threads()

    def fail() -> None:
        with running_on(before + 1):
            raise KeyError(torch.get_num_threads())

    with pytest.raises(KeyError, match=str(before + 1)):
        fail()
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("asked", "begun", "expected", "warning"),
    [
        (None, "nothing", 1, None),
        (3, "nothing", 3, None),
        (1, 1, 1, None),
        (3, 2, 3, "began with 2 threads and goes on with 3"),
        (8, 8, 8, "8 threads, and 4 run at a time here; training.threads: 4 is faster"),
        (None, None, 1, "an unknown number of threads and goes on with 1"),
    ],
)
def test_a_run_keeps_its_number_or_says_so_once(
    schema, inputs, config, monkeypatch, caplog, asked, begun, expected, warning
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    before = None if begun == "nothing" else TrainingConfig(threads=begun)
    model = build_model(schema, config)
    assert settle_threads(TrainingConfig(threads=asked), before, model, inputs) == expected
    said = [record.message for record in caplog.records]
    assert len(said) == (warning is not None)
    assert warning is None or warning in said[0]


def test_a_resumed_run_has_the_threads_of_its_beginning_or_warns(tiny_config, caplog):
    def train(**changes: object) -> int | None:
        config = load_config(tiny_config(**changes))
        run = RunDirectory(config.output_dir)
        experiment.train(config, resume=True)
        saved = load_checkpoint(run.last).config.training.threads
        assert yaml.safe_load(run.config.read_text())["training"]["threads"] == saved
        return saved

    def warnings() -> list[str]:
        return [r.message for r in caplog.records if "threads and goes on" in r.message]

    assert train(training__epochs=1, training__threads=2) == 2
    assert train(training__epochs=2) == 2
    assert not warnings()
    assert train(training__epochs=3, training__threads=1) == 1
    assert len(warnings()) == 1


def environment_after(code: str, **variables: str) -> dict[str, str]:
    """What a process has in its environment after some code."""
    code += "\nimport json, os; print(json.dumps(dict(os.environ)))"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMP", "GOMP"))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=clean | variables,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


COMMAND = "import deepfm.cli; deepfm.cli.main(['train', '--config', 'nowhere.yaml'])"


def test_a_command_lets_waiting_threads_sleep():
    assert environment_after(COMMAND)["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize(
    ("code", "variables"),
    [
        (COMMAND, {"OMP_WAIT_POLICY": "ACTIVE"}),
        (COMMAND, {"GOMP_SPINCOUNT": "1000"}),
        (f"import torch; {COMMAND}", {}),
        ("import deepfm; deepfm.build_model; deepfm.Trainer; deepfm.Predictor", {}),
    ],
)
def test_what_the_user_says_holds_and_python_code_changes_no_environment(code, variables):
    found = environment_after(code, **variables)
    assert found.get("OMP_WAIT_POLICY") == variables.get("OMP_WAIT_POLICY")
