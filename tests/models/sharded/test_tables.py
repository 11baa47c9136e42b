"""Sharded tables of one process against slow loops in float64."""

import pytest
import torch

from deepfm.errors import ConfigError
from deepfm.models.layers.fields import IdField
from deepfm.models.layers.storage import PackedTables
from deepfm.models.layers.tables import Bag, Ids, Read
from deepfm.models.sharded.tables import ShardedTables
from tests.torchrec import needs_torchrec

pytestmark = [needs_torchrec, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

FIELDS = [
    IdField("user", 9, 6, 0, None, "normal(0.5)"),
    IdField("item", 7, 16, None, None, "normal(0.5)"),
    IdField("seen", 7, 16, None, "mean", "normal(0.5)", table="item"),
    IdField("fixed", 5, 16, 0, None, "normal(0.5)", trainable=False),
]
READS = [
    *(Read(field.name, "", field.dim) for field in FIELDS),
    *(Read(name, "wide", 1) for name in ("user", "item")),
]
RATE, EPS = 0.3, 1e-3


@pytest.fixture
def tables():
    """Those tables, with the same weights whatever stores them."""
    yield lambda kind: _made(kind)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _made(kind):
    torch.manual_seed(3)
    found = kind(FIELDS, READS)
    found.reset_parameters()
    return found


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    sparse = torch.stack(
        [torch.randint(0, rows, (20,), generator=generator) for rows in (9, 7, 5)], dim=1
    )
    sparse[0, 1] = -1  # no value
    seen = torch.randint(0, 7, (20, 3), generator=generator)
    valid = torch.rand(20, 3, generator=generator) < 0.6
    return Ids(sparse, [Bag(seen, valid)])


def occurrences(ids):
    """By table, every (row of the batch, answer's column, id) that counts."""
    found = {"user": [], "item": [], "fixed": []}
    for b in range(20):
        for column, name in enumerate(("user", "item", "fixed")):
            row = int(ids.sparse[b, column])
            if row != (-1 if name == "item" else 0):
                found[name].append((b, name, 0, row))
        for place in range(3):
            if ids.bags[0].valid[b, place]:
                found["item"].append((b, "seen", place, int(ids.bags[0].ids[b, place])))
    return found


def answers_by_field(tables, ids):
    """Vectors by suffix, field and place, from whatever runs the storage answers in."""
    found = {}
    for answer, vectors in zip(tables.answers, tables.lookup(ids), strict=True):
        column = 0
        for field in answer.sparse:
            found[answer.suffix, field] = vectors[:, column : column + 1]
            column += 1
        for field in answer.sequences:
            found[answer.suffix, field] = vectors[:, column : column + 3]
            column += 3
    return found


def loss_of(found):
    """A sum of squares, whose gradient depends on the vectors; each weighs otherwise."""
    weights = {key: 1.0 + 0.5 * number for number, key in enumerate(sorted(found))}
    return sum(weights[key] * vectors.square().sum() for key, vectors in found.items()), weights


def test_initial_weights_and_vectors_are_those_of_packed_tables(tables):
    sharded, packed, ids = tables(ShardedTables), tables(PackedTables), batch(0)
    for name, weight in packed.state_dict().items():
        assert torch.equal(sharded.state_dict()[name], weight)
    expected, found = answers_by_field(packed, ids), answers_by_field(sharded, ids)
    assert found.keys() == expected.keys()
    for key, vectors in expected.items():
        assert torch.equal(found[key], vectors), key
    with torch.inference_mode():
        for key, vectors in answers_by_field(sharded, batch(0)).items():
            assert torch.equal(vectors, expected[key]), key


@pytest.mark.parametrize("name", ["lazy_sgd", "adagrad", "rowwise_adagrad"])
def test_updates_are_those_of_slow_loops(tables, name):
    sharded = tables(ShardedTables)
    start = 0.0 if name == "rowwise_adagrad" else 0.1
    options = {"lr": RATE, "max_gradient": None}
    if name != "lazy_sgd":
        options["eps"] = EPS
    if name == "adagrad":
        options["initial_accumulator_value"] = start
    optimizer = sharded.own_optimizer(name, options)
    rate = RATE
    weights = {key.removesuffix(".weight"): w.double() for key, w in sharded.state_dict().items()}
    sums = {
        key: torch.full_like(w[:, :1] if name == "rowwise_adagrad" else w, start)
        for key, w in weights.items()
    }
    for step in range(4):
        ids = batch(step)
        optimizer.zero_grad()
        loss, factors = loss_of(answers_by_field(sharded, ids))
        loss.backward()
        optimizer.step()
        gradients = {key: torch.zeros_like(w) for key, w in weights.items()}
        for base, occurring in occurrences(ids).items():
            for _, field, _, row in occurring:
                gradients[base][row] += 2 * factors["", field] * weights[base][row]
                if ("wide", field) in factors:
                    wide = f"{base}_wide"
                    gradients[wide][row] += 2 * factors["wide", field] * weights[wide][row]
        del gradients["fixed"]
        for key, gradient in gradients.items():
            for row in gradient.abs().sum(1).nonzero().flatten().tolist():
                if name == "lazy_sgd":
                    weights[key][row] -= rate * gradient[row]
                    continue
                square = gradient[row].square()
                sums[key][row] += square.mean() if name == "rowwise_adagrad" else square
                weights[key][row] -= rate * gradient[row] / (sums[key][row].sqrt() + EPS)
        for key, weight in weights.items():
            torch.testing.assert_close(sharded[key].double(), weight, rtol=2e-5, atol=1e-6, msg=key)
        rate = optimizer.param_groups[0]["lr"] = 0.5 * rate  # as a schedule does
    if name != "lazy_sgd":
        for key in set(weights) - {"fixed"}:
            state = optimizer.state[sharded.parameter_of(key)]
            assert state["step"] == 4
            torch.testing.assert_close(
                state["sum"].double(), sums[key], rtol=2e-5, atol=1e-6, msg=key
            )


def test_a_state_is_loaded_into_what_backward_passes_change(tables):
    def steps(sharded, optimizer, numbers):
        for number in numbers:
            loss_of(answers_by_field(sharded, batch(number)))[0].backward()
            optimizer.step()
        return {key: weight.clone() for key, weight in sharded.state_dict().items()}

    options = {"lr": RATE, "eps": EPS, "max_gradient": None}
    first = tables(ShardedTables)
    optimizer = first.own_optimizer("rowwise_adagrad", options)
    half = steps(first, optimizer, [0, 1])
    saved = {
        "state": {
            k: {key: value.clone() for key, value in own.items()}
            for k, own in optimizer.state_dict()["state"].items()
        },
        "param_groups": optimizer.state_dict()["param_groups"],
    }
    expected = steps(first, optimizer, [2, 3])
    second = tables(ShardedTables)
    second.load_state_dict(half)
    other = second.own_optimizer("rowwise_adagrad", options)
    other.load_state_dict(saved)
    for key, weight in steps(second, other, [2, 3]).items():
        assert torch.equal(weight, expected[key]), key


def test_what_it_cannot_do_is_refused_by_name(tables):
    sharded = tables(ShardedTables)
    options = {"lr": RATE, "eps": EPS}
    assert sharded.own_optimizer("lazy_adam", options) is None
    with pytest.raises(ConfigError, match=r"adagrad: sharded tables have no max_gradient"):
        sharded.own_optimizer("adagrad", options | {"max_gradient": 1.0})
    for refused in (lambda: sharded.squared_norms(batch(0)), sharded.squared_norms_of_all):
        with pytest.raises(ConfigError, match=r"feature.embedding_l2_reg: .*set it to 0"):
            refused()
    with pytest.raises(ConfigError, match=r"feature.storage: torchrec .*float64"):
        sharded.double()
