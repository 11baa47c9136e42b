"""The profile of a training step: what it counts where, and what it leaves alone."""

import json
import subprocess
import sys

import pytest
import torch

from deepfm.errors import DeepFMError
from deepfm.training.profiling import PARTS, profile
from tests.tiny import write_config
from tests.training.test_trainer import make, same_weights


def profiled(data, trace, steps=6, **training):
    model, trainer = make(data, **training)
    return model, profile(trainer, model, data.train, data.valid, trace=trace, steps=steps)


@pytest.mark.parametrize("sparse", [None, "lazy_adam"])
def test_parts_add_up_to_the_step_and_every_one_is_seen(tiny_data, tmp_path, sparse):
    _, found = profiled(tiny_data, tmp_path / "trace.json", sparse_optimizer=sparse)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert all(found.forward[part] > 0 for part in PARTS)
    assert all(found.backward[part] > 0 for part in ("embedding", "interaction", "dnn", "rest"))
    assert found.backward["data"] == found.backward["optimizer"] == 0
    batches = tiny_data.train.epoch(200, seed=5, epoch=0).batches()
    rows = [len(batch.label) for batch in batches]
    assert (found.steps, found.rows) == (6, sum((rows * 11)[5:11]))


def test_the_backward_pass_of_a_slow_part_counts_to_that_part(tiny_data, tmp_path):
    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            for _ in range(1500):
                gradient = gradient * 1.0
            return gradient

    model, trainer = make(tiny_data)
    for part, module in (("interaction", model.fm), ("dnn", model.dnn)):
        forward = module.forward
        module.forward = lambda x, forward=forward: Slow.apply(forward(x))
        found = profile(
            trainer, model, tiny_data.train, tiny_data.valid, trace=tmp_path / "t", steps=6
        )
        del module.forward
        assert max(found.backward, key=found.backward.get) == part


def test_epochs_begin_anew_when_there_are_too_few_batches(tiny_data, tmp_path):
    batches = len(tiny_data.train.epoch(200, seed=5, epoch=0))
    model, found = profiled(tiny_data, tmp_path / "trace.json", steps=2 * batches)
    assert found.steps == 2 * batches
    assert found.rows == 2 * tiny_data.train.epoch(200, seed=5, epoch=0).num_rows
    assert model.embedding.training  # no validation came in between


def test_the_trace_is_json_with_the_ranges(tiny_data, tmp_path):
    profiled(tiny_data, tmp_path / "trace.json")
    names = [
        event.get("name")
        for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    ]
    for part in ("data", "embedding", "interaction", "dnn"):
        assert names.count(f"deepfm: {part}") >= 6
    assert {path.name for path in tmp_path.iterdir()} == {"trace.json", "tiny.yaml"}


def test_the_model_and_later_training_are_as_without_a_profile(tiny_data, tmp_path):
    model, trainer = make(tiny_data, epochs=1)
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    profile(trainer, model, tiny_data.train, tiny_data.valid, trace=tmp_path / "t", steps=1)
    assert not any("forward" in vars(module) for module in model.modules())
    assert {name: set(vars(module)) for name, module in model.named_modules()} == {
        name: set(held) for name, held in before.items()
    }
    model.load_state_dict(weights)
    trainer.fit(model, tiny_data.train, tiny_data.valid)
    expected, trainer = make(tiny_data, epochs=1)
    trainer.fit(expected, tiny_data.train, tiny_data.valid)
    assert same_weights(model.state_dict(), expected.state_dict())


def test_a_failed_run_leaves_a_profiler_that_can_start_again(tiny_data, tmp_path):
    model, trainer = make(tiny_data)
    with torch.no_grad():
        model.bias.fill_(float("nan"))
    with pytest.raises(DeepFMError, match="the loss became nan"):
        profile(trainer, model, tiny_data.train, tiny_data.valid, trace=tmp_path / "t", steps=2)
    assert not (tmp_path / "t").exists()
    assert profiled(tiny_data, tmp_path / "t")[1].step > 0


def test_a_trace_that_cannot_be_written_is_an_error_of_ours(tiny_data, tmp_path):
    with pytest.raises(DeepFMError, match="cannot write"):
        profiled(tiny_data, tmp_path / "absent" / "trace.json", steps=1)


def test_the_profiler_writes_no_lines_of_its_own(tmp_path):
    """In a process of its own, because torch's library reads its level once."""
    code = (
        "import torch; from deepfm.config import load_config; from deepfm import experiment;"
        "from tests import tiny; tiny.register();"
        f"experiment.profile_training(load_config({str(write_config(tmp_path))!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
