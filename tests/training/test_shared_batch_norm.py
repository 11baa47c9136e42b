"""Processes that share batch norm learn what one learns. On CPUs nothing but tests lets them."""

import pytest
import torch
from torch import nn

from deepfm import experiment
from deepfm.config import load_config
from deepfm.models import build_model
from deepfm.training import trainer as trainer_module
from deepfm.training.trainer import Trainer
from tests import tiny
from tests.training.processes import COMMON, cases_of, outcome, outcomes_of

OPTIMIZERS = {
    "training__sparse_optimizer": {"name": "adagrad", "initial_accumulator_value": 0.1},
    "training__optimizer": "sgd",
}
CASES = {
    "batch norm": {"dnn__norm": "batch"},
    "Dice": {"dnn__norm": "none", "dnn__activation": "Dice"},
    "both, uneven batches, accumulated": {
        "dnn__norm": "batch",
        "dnn__activation": "Dice",
        "training__batch_size": 89,
        "training__gradient_accumulation_steps": 2,
    },
}
KEYS = [(name, double) for name in CASES for double in (False, True)]


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    changes = {name: OPTIMIZERS | of_case for name, of_case in CASES.items()}
    return cases_of(changes, tmp_path_factory.mktemp, shares_batch_norm=True)


@pytest.fixture(scope="module")
def alone(cases):
    return {key: outcome(case) for key, case in cases.items()}


@pytest.fixture(scope="module")
def together(cases, tmp_path_factory):
    return outcomes_of(3, cases, tmp_path_factory.mktemp("several"))


@pytest.mark.parametrize(("name", "double"), KEYS)
def test_losses_and_weights_are_those_of_one_process(alone, together, name, double):
    one, several = alone[name, double], together[name, double]
    tolerance = 1e-12 if double else 1e-5
    losses, expected = (torch.tensor(o["losses"], dtype=torch.float64) for o in (several, one))
    assert len(losses) > 10
    torch.testing.assert_close(losses, expected, rtol=0, atol=min(tolerance, 2e-6))
    for weight, value in one["weights"].items():
        found = several["weights"][weight]
        torch.testing.assert_close(found, value, rtol=tolerance, atol=tolerance, msg=weight)


@pytest.mark.parametrize("devices", [("cuda",), ("cpu",)])
def test_one_process_keeps_torch_s_norms(tmp_path, monkeypatch, devices):
    monkeypatch.setattr(trainer_module, "SHARES_BATCH_NORM", devices)
    tiny.register()
    config = load_config(tiny.write_config(tmp_path, **(COMMON | OPTIMIZERS | CASES["Dice"])))
    data = experiment.load_data(config)
    model, seen = build_model(data.encoders.schema, config), []
    before = dict(model.named_modules())

    def record(step, figures):
        seen.append(dict(model.named_modules()))

    Trainer(config.training, config.evaluation).fit(model, data.train, data.valid, record=record)
    assert all(modules == before for modules in seen)
    assert len(seen) > 10
    assert nn.BatchNorm1d in {type(module) for module in before.values()}
