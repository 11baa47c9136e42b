"""Processes that share tables out learn what one process with all of them learns."""

import pytest
import torch

from tests import tiny
from tests.torchrec import needs_torchrec
from tests.training import processes
from tests.training.processes import outcome, outcomes_of

pytestmark = [needs_torchrec, pytest.mark.slow]

COMMON = processes.COMMON | {
    "feature__embedding_l2_reg": 0.0,
    # With first-order weights widths of 1, 6 and 16, which are stored in 4, 8 and 16 columns.
    "feature__embedding_dims": {"user": 6, "age": 16, "item": 6, "tags": 16},
    "training__gradient_clip_scope": "dense",
}
ADAGRAD = {"name": "adagrad", "initial_accumulator_value": 0.1}
KINDS = ("row_wise", "table_wise", "column_wise")
# What decides what a step computes; beside it how tables are cut, if that is not the planner's
# choice.
CASES = {
    "sgd": ({"training__sparse_optimizer": "lazy_sgd"}, KINDS),
    "adagrad": ({"training__sparse_optimizer": ADAGRAD}, KINDS),
    "rowwise_adagrad": (
        {"training__sparse_optimizer": "rowwise_adagrad"},
        (None, "row_wise", "table_wise"),
    ),
    "falling rate": (
        {
            "training__sparse_optimizer": ADAGRAD,
            "training__scheduler": {"name": "exponential", "decay_size": 5, "decay_factor": 0.5},
        },
        ("row_wise",),
    ),
    "updated in each backward pass": (
        {
            "training__sparse_optimizer": ADAGRAD,
            "training__sparse_update": "backward",
            "training__gradient_accumulation_steps": 2,
        },
        ("row_wise",),
    ),
    "uneven batches, averaged": (
        {
            "training__sparse_optimizer": ADAGRAD,
            "training__batch_size": 89,
            "training__ema_decay": 0.9,
        },
        ("row_wise",),
    ),
    "xdeepfm": (
        {"model_name": "xdeepfm", "training__sparse_optimizer": "rowwise_adagrad"},
        (None,),
    ),
}
KEYS = [(name, kind) for name, (_, kinds) in CASES.items() for kind in kinds]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """By name, what one process learns with packed tables."""
    tiny.register()
    return {
        name: outcome(case(tmp_path_factory.mktemp("packed"), changes))
        for name, (changes, _) in CASES.items()
    }


def case(folder, changes, kinds=None):
    path = tiny.write_config(folder, **(COMMON | changes))
    return {"config": str(path), "double": False} | ({"kinds": kinds} if kinds else {})


@pytest.fixture(scope="module", params=[1, 2])
def sharded(request, tmp_path_factory):
    """By number and way of cutting, what so many processes learn."""
    cases = {
        (name, kind): case(
            tmp_path_factory.mktemp("sharded"),
            CASES[name][0] | {"feature__storage": "torchrec"},
            KINDS if kind is None else (kind,),
        )
        for name, kind in KEYS
    }
    return request.param, outcomes_of(request.param, cases, tmp_path_factory.mktemp("outcomes"))


@pytest.mark.parametrize(("name", "kind"), KEYS, ids=str)
def test_losses_metrics_and_weights_are_those_of_packed_tables(packed, sharded, name, kind):
    count, found = sharded
    one, other = packed[name], found[name, kind]
    assert len(one["losses"]) == len(other["losses"]) > 30
    losses, expected = (torch.tensor(o["losses"], dtype=torch.float64) for o in (other, one))
    assert losses[-1] < losses[0]
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-6)
    for part in ("weights", "ema"):
        assert one[part].keys() == other[part].keys()
        for weight, value in one[part].items():
            torch.testing.assert_close(other[part][weight], value, rtol=0, atol=1e-5, msg=weight)
            if name == "sgd" and count == 1:
                assert torch.equal(other[part][weight], value), weight
    for entry, value in zip(other["history"], one["history"], strict=True):
        assert entry == pytest.approx(value, rel=1e-3)
