import numpy as np
import pytest
import torch

from deepfm.models.layers.factorized import FactorizedBlock
from deepfm.models.layers.precision import products_in
from tests import reference
from tests.models.oracle import factorized_layers


def build(**changes):
    """In evaluation mode, with norms that have seen rows."""
    torch.manual_seed(0)
    block = FactorizedBlock(3, (6, 4), **changes)
    for _ in range(3):
        block(2 * torch.randn(16, 3) + 1)
    return block.eval()


@pytest.mark.parametrize("combine", ["concat", "sum"])
@pytest.mark.parametrize("norm", ["batch", "layer", None])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_equals_loops(combine, norm, activation):
    block = build(combine=combine, norm=norm, activation=activation)
    x = torch.randn(7, 3)
    expected = [
        reference.factorized_block(row, factorized_layers(block), combine, activation)
        for row in x.double().numpy()
    ]
    assert block.output_dim == 4
    np.testing.assert_allclose(block(x).detach(), expected, atol=1e-5)


def test_sum_has_twice_the_products():
    count = {name: build(combine=name).linears[0].weight.numel() for name in ("concat", "sum")}
    assert count["sum"] == 2 * count["concat"]


def test_training_is_the_same_within_products_in():
    block = build(activation="relu", dropout=0.5).train()
    x, states = torch.randn(9, 3), []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(block(x))
    torch.manual_seed(3)
    with products_in("fp32"):
        within = block(x)
    torch.testing.assert_close(states[0], states[1])
    torch.testing.assert_close(within, states[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_units": ()}, "^hidden_units: expected at least one layer$"),
        ({"hidden_units": (4, 3)}, r"^hidden_units: expected even widths, got \[4, 3\]$"),
        ({"norm": "banana"}, "^norm: 'banana' is none of batch, layer$"),
        ({"dropout": (0.1, 0.2, 0.3)}, r"^dropout: expected one number, .*\(2\), got 3$"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        FactorizedBlock(3, **({"hidden_units": (4, 4)} | changes))


def test_odd_widths_are_fine_for_a_sum():
    assert FactorizedBlock(3, (5,), combine="sum")(torch.zeros(2, 3)).shape == (2, 5)
