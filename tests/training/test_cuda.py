"""On a GPU: the same results as on the CPU, no step that waits, and runs that resume exactly."""

import itertools
import os

import pytest
import torch

from deepfm import experiment
from deepfm.config import load_config
from deepfm.models import build_model
from deepfm.training.optimizers import assign_optimizers
from deepfm.training.options import OPTIMIZERS, SPARSE_OPTIMIZERS
from deepfm.training.schedules import build_schedules
from deepfm.training.steps import TrainingStep
from deepfm.training.trainer import Trainer
from deepfm.training.transfer import batches_on
from deepfm.utils.interrupt import Interrupted
from tests.models.conftest import OF_ONE_TASK

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what equal runs need there

SPARSE = [None, *SPARSE_OPTIMIZERS]
BY_PAIRS = {"training__losses": "sampled_softmax", "data__num_neg_train": 20, "dnn__norm": "none"}


@pytest.fixture
def exact():
    """Sums in one order, on which equal bits depend."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def fit(config, data, device, *, state=None, stop_after=None, states=None):
    model, steps = build_model(data.encoders.schema, config), itertools.count(1)
    trainer = Trainer(config.training, config.evaluation, seed=3, device=device)
    last = trainer.fit(
        model,
        data.train,
        data.valid,
        state=state,
        should_stop=lambda: 15 if next(steps) == stop_after else 0,
        save=lambda state, is_best: states.append(state) if states is not None else None,
    )
    return model.cpu().eval(), last


def assert_close_runs(config):
    """Losses and logits; weights on which no logit depends, as biases before batch norm, drift."""
    data = experiment.load_data(config)
    model, on_cpu = fit(config, data, "cpu")
    other, on_gpu = fit(config, data, "cuda")
    inputs = data.valid.inputs.select(slice(0, 200))
    with torch.no_grad():
        torch.testing.assert_close(other(inputs), model(inputs), rtol=1e-2, atol=5e-3)
    for one, other in zip(on_cpu.history, on_gpu.history, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)


@pytest.mark.parametrize("name", OF_ONE_TASK)
@pytest.mark.parametrize("sparse", SPARSE)
def test_every_model_and_sparse_optimizer(tiny_config, name, sparse):
    path = tiny_config(
        model_name=name,
        training__sparse_optimizer=sparse,
        training__optimizer="sgd" if sparse is None else "adam",
        training__lr=1e-3,
        training__epochs=1,
        dnn__dropout=0.0,
    )
    assert_close_runs(load_config(path))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("changes", [{}, {"training__gradient_accumulation_steps": 2}, BY_PAIRS])
def test_every_optimizer(tiny_config, optimizer, changes):
    path = tiny_config(
        training__optimizer=optimizer,
        training__lr=1e-3,
        training__epochs=1,
        training__ema_decay=0.9,
        dnn__dropout=0.0,
        **changes,
    )
    assert_close_runs(load_config(path))


@pytest.mark.parametrize("name", OF_ONE_TASK)
@pytest.mark.parametrize("sparse", SPARSE)
@pytest.mark.parametrize("changes", [{}, BY_PAIRS])
def test_no_step_waits(tiny_config, name, sparse, changes):
    if changes and name in ("xdeepfm", "attention_deepfm"):
        pytest.skip("its pairs are whole rows, which each tile looks up")
    path = tiny_config(model_name=name, training__sparse_optimizer=sparse, **changes)
    config = load_config(path)
    data = experiment.load_data(config)
    device = torch.device("cuda")
    model = build_model(data.encoders.schema, config).to(device).train()
    assigned = assign_optimizers(model, config.training)
    schedules = build_schedules(assigned, config.training, maximize=True)
    step = TrainingStep(model, config.training, assigned, schedules)
    rows = data.train.epoch(64, seed=1, epoch=0).batches()
    with step.gradient_mode():
        for number, batch in enumerate(batches_on(device, rows, step.prepared)):
            if number == 2:  # libraries have started
                torch.cuda.set_sync_debug_mode("error")
            try:
                step.add(batch)
                step.update()
                step.advance_schedules()
            finally:
                torch.cuda.set_sync_debug_mode("default")
            if number == 5:
                break


@pytest.mark.parametrize("sparse", [None, "lazy_adam"])
def test_a_run_that_is_resumed_ends_where_an_uninterrupted_one_does(tiny_config, exact, sparse):
    path = tiny_config(
        training__sparse_optimizer=sparse,
        training__metrics=["auc"],
        training__ema_decay=0.9,
        dnn__dropout=0.2,
    )
    config = load_config(path)
    data = experiment.load_data(config)
    expected, last = fit(config, data, "cuda")
    states = []
    with pytest.raises(Interrupted):
        fit(config, data, "cuda", stop_after=5, states=states)
    assert states[-1].step
    assert all(weight.device.type == "cpu" for weight in states[-1].model.values())
    found, resumed = fit(config, data, "cuda", state=states[-1])
    for name, weight in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name
    for one, other in zip(last.history, resumed.history, strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {
            k: v for k, v in other.items() if k != "seconds"
        }


def test_the_generators_of_the_caller_are_left_as_they_were(tiny_config, tiny_data):
    config = load_config(tiny_config(training__epochs=1, dnn__dropout=0.2))
    before = torch.get_rng_state(), torch.cuda.get_rng_state()
    fit(config, tiny_data, "cuda")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(torch.cuda.get_rng_state(), before[1])
