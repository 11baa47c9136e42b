"""Over hundreds of steps several processes stay with one: roundings do not add up."""

import pytest
import torch

from tests.training.processes import cases_of, outcome, outcomes_of

pytestmark = pytest.mark.slow

STEPS = 200
EPOCHS = 10  # of 22 steps
OPTIMIZERS = {
    "lazy_sgd": "lazy_sgd",
    "adagrad": {"name": "adagrad", "initial_accumulator_value": 0.1},
    "rowwise_adagrad": "rowwise_adagrad",
    "lazy_adam": "lazy_adam",
}
KEYS = [(name, double) for name in OPTIMIZERS for double in (False, True)]


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    changes = {
        name: {"training__epochs": EPOCHS, "training__sparse_optimizer": optimizer}
        for name, optimizer in OPTIMIZERS.items()
    }
    return cases_of(changes, tmp_path_factory.mktemp)


@pytest.fixture(scope="module")
def alone(cases):
    return {key: outcome(case) for key, case in cases.items()}


@pytest.fixture(scope="module", params=[2, 4])
def together(cases, request, tmp_path_factory):
    return outcomes_of(request.param, cases, tmp_path_factory.mktemp("several"))


@pytest.mark.parametrize(("name", "double"), KEYS)
def test_losses_and_weights_are_those_of_one_process(alone, together, name, double):
    one, several = alone[name, double], together[name, double]
    losses, expected = (torch.tensor(o["losses"], dtype=torch.float64) for o in (several, one))
    difference = torch.cat(
        [(several["weights"][n] - value).abs().flatten() for n, value in one["weights"].items()]
    )
    assert len(losses) >= STEPS
    assert losses[-20:].mean() < losses[:20].mean()
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-12 if double else 1e-6)
    if name == "lazy_adam":  # which divides tiny numbers by tiny ones
        difference = difference.double().quantile(0.9999)
    assert difference.max() <= (1e-12 if double else 1e-5)
