"""Several processes learn what one learns: the same batches, losses and weights."""

import pytest
import torch

from tests.training.processes import cases_of, outcome, outcomes_of

ADAGRAD = {"name": "adagrad", "initial_accumulator_value": 0.1}
# Adam would make steps of roundings: the bias has no gradient.
OF_A_SOFTMAX = {"training__sparse_optimizer": "lazy_sgd", "training__optimizer": "sgd"}
# What decides what a step computes; each case is a run of its own.
CASES = {
    "lazy_sgd": {"training__sparse_optimizer": "lazy_sgd"},
    "adagrad": {"training__sparse_optimizer": ADAGRAD},
    "rowwise_adagrad": {"training__sparse_optimizer": "rowwise_adagrad"},
    "lazy_adam": {"training__sparse_optimizer": "lazy_adam"},
    "adam of whole tables": {"feature__embedding_l2_reg": 0.01},
    "l2 of a batch": {
        "training__sparse_optimizer": ADAGRAD,
        "feature__embedding_l2_reg": 0.01,
    },
    "accumulated": {
        "training__sparse_optimizer": ADAGRAD,
        "training__gradient_accumulation_steps": 3,
        "feature__embedding_l2_reg": 0.01,
    },
    "updated in the backward pass": {
        "training__sparse_optimizer": ADAGRAD,
        "training__sparse_update": "backward",
        "training__gradient_clip_scope": "dense",
        "training__gradient_accumulation_steps": 2,
    },
    "averaged and clipped": {
        "training__sparse_optimizer": ADAGRAD,
        "training__ema_decay": 0.9,
        "training__gradient_clip_norm": 0.05,
    },
    "uneven batches": {"training__sparse_optimizer": ADAGRAD, "training__batch_size": 89},
    "by pairs": {
        **OF_A_SOFTMAX,
        "training__losses": "sampled_softmax",
        "data__num_neg_train": 5,
    },
    "in batch": {
        **OF_A_SOFTMAX,
        "training__losses": "sampled_softmax",
        "data__negatives_from": "in_batch",
        "training__batch_size": 40,
    },
    "xdeepfm": {"model_name": "xdeepfm", "training__sparse_optimizer": ADAGRAD},
    "attention": {"model_name": "attention_deepfm", "training__sparse_optimizer": ADAGRAD},
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return cases_of(CASES, tmp_path_factory.mktemp)


@pytest.fixture(scope="module")
def alone(cases):
    return {key: outcome(case) for key, case in cases.items()}


@pytest.fixture(scope="module", params=[2, 4])
def together(cases, request, tmp_path_factory):
    return outcomes_of(request.param, cases, tmp_path_factory.mktemp("several"))


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_losses_metrics_and_weights_are_those_of_one_process(alone, together, name, double):
    one, several = alone[name, double], together[name, double]
    assert len(one["losses"]) == len(several["losses"]) > 10
    tolerance = 1e-12 if double else 1e-5
    torch.testing.assert_close(
        torch.tensor(several["losses"], dtype=torch.float64),
        torch.tensor(one["losses"], dtype=torch.float64),
        rtol=0,
        atol=1e-12 if double else 2e-6,
    )
    for part in ("weights", "ema"):
        assert one[part].keys() == several[part].keys()
        for weight, expected in one[part].items():
            found = several[part][weight]
            if name == "lazy_adam" or "whole tables" in name:  # divides tiny numbers by tiny ones
                torch.testing.assert_close(found, expected, rtol=0, atol=100 * tolerance)
            else:
                torch.testing.assert_close(
                    found, expected, rtol=tolerance, atol=tolerance, msg=weight
                )
    for entry, expected in zip(several["history"], one["history"], strict=True):
        assert entry == pytest.approx(expected, rel=1e-9 if double else 1e-3)
