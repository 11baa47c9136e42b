from contextlib import nullcontext

import numpy as np
import pytest
import torch

from deepfm.models.layers.cross import CrossNetwork, MaskedCrossNetwork, VectorCrossNetwork
from deepfm.models.layers.precision import products_in
from tests import reference
from tests.models.oracle import array, cross_layers, masked_cross_layers


def drawn(layer):
    """A layer whose weights are other than those that it begins with."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.normal_(0.2, 0.5, generator=generator)
    return layer


def rows(width: int, num_rows: int = 4) -> torch.Tensor:
    return torch.randn(num_rows, width, generator=torch.Generator().manual_seed(1))


def check(layer, x, expected_row):
    """Outputs and gradients: those of a float64 copy of the layer stand for the gradients."""
    expected = np.stack([expected_row(row) for row in x.double().numpy()])
    np.testing.assert_allclose(layer(x).detach(), expected, rtol=1e-4, atol=1e-4)
    inputs = x[:2].double().requires_grad_()
    assert torch.autograd.gradcheck(layer.double(), inputs)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_the_vector_cross_equals_loops(num_layers):
    layer, x = drawn(VectorCrossNetwork(5, num_layers=num_layers)), rows(5)
    weights = [array(weight)[0] for weight in layer.weights]
    biases = [array(bias) for bias in layer.biases]
    check(layer, x, lambda row: reference.vector_cross(row, weights, biases))


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("rank", [None, 2, 7])
def test_the_cross_equals_loops(rank, gate):
    layer, x = drawn(CrossNetwork(5, num_layers=3, rank=rank, gate=gate)), rows(5)
    layers = cross_layers(layer)
    check(layer, x, lambda row: reference.matrix_cross(row, layers))


@pytest.mark.parametrize("exponential", [False, True])
@pytest.mark.parametrize("width", [6, 5, 2, 3])
@pytest.mark.parametrize("fused", [False, True])
def test_the_masked_cross_equals_loops(width, exponential, fused):
    layer = drawn(MaskedCrossNetwork(width, num_layers=2, exponential=exponential))
    layers = masked_cross_layers(layer)
    with products_in("fp32") if fused else nullcontext():
        check(layer, rows(width), lambda row: reference.masked_cross(row, layers, exponential))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("exponential", [False, True])
def test_the_masked_cross_has_the_same_gradients_in_few_passes(exponential, dropout):
    layer = MaskedCrossNetwork(5, num_layers=2, exponential=exponential, dropout=dropout)
    layer, found = drawn(layer).double(), []
    for opened in (nullcontext(), products_in("fp32")):
        layer.zero_grad()
        x = rows(5).double().requires_grad_()
        torch.manual_seed(3)  # both leave out the same numbers
        with opened:
            y = layer(x)
            y.square().sum().backward()
        assert bool((y == 0).any()) == bool(dropout)
        found.append([y, x.grad, *(weight.grad.clone() for weight in layer.parameters())])
    torch.testing.assert_close(*found)


def test_golden_values():
    """By hand: x0 * <w, x0> + b + x0, and x0 * (W x0 + b) + x0 with all weights 1 and biases 0."""
    x = torch.tensor([[1.0, 2.0]])
    vector = VectorCrossNetwork(2, num_layers=1)
    with torch.no_grad():
        vector.weights[0].fill_(1.0)
        vector.biases[0].copy_(torch.tensor([0.5, -0.5]))
    assert vector(x).tolist() == [[4.5, 7.5]]
    matrix = CrossNetwork(2, num_layers=1)
    torch.nn.init.ones_(matrix.maps[0].weight)
    assert matrix(x).tolist() == [[4.0, 8.0]]


def test_the_exponential_cross_doubles_the_order_and_the_linear_one_adds_one():
    """Of numbers that grow tenfold, a polynomial of order k grows 10^k in the end."""
    order = {}
    for exponential in (False, True):
        layer = drawn(MaskedCrossNetwork(4, num_layers=3, exponential=exponential)).double()
        with torch.no_grad():
            large = rows(4).double().abs() * 1e6  # a masked unit may grow less
            order[exponential] = (layer(10 * large) / layer(large)).log10().amax().item()
    assert order[False] == pytest.approx(4, abs=0.01)
    assert order[True] == pytest.approx(8, abs=0.01)


def test_low_rank_has_a_bias_at_the_end_only():
    names = dict(CrossNetwork(6, num_layers=1, rank=2).named_parameters())
    shapes = {name: tuple(weight.shape) for name, weight in names.items()}
    expected = {"maps.0.0.weight": (2, 6), "maps.0.1.weight": (6, 2), "maps.0.1.bias": (6,)}
    assert shapes == expected


def test_dropout_of_the_masked_cross_is_for_training_only():
    layer = drawn(MaskedCrossNetwork(6, num_layers=2, exponential=True, dropout=0.5))
    x = rows(6)
    assert (layer(x) == 0).any()
    assert not (layer.eval()(x) == 0).any()


def test_one_number_has_no_half():
    with pytest.raises(ValueError, match=r"^width: expected 2 or more, found 1$"):
        MaskedCrossNetwork(1, num_layers=1, exponential=True)


@pytest.mark.parametrize(
    "layer",
    [
        VectorCrossNetwork(9, num_layers=2),
        CrossNetwork(9, num_layers=2),
        CrossNetwork(9, num_layers=2, rank=3, gate=True),
        MaskedCrossNetwork(9, num_layers=2, exponential=True),
        MaskedCrossNetwork(9, num_layers=2, exponential=False),
    ],
    ids=["vector", "whole", "low rank with gates", "exponential", "linear"],
)
def test_in_bf16_outputs_are_near_float64_and_gradients_float32(layer):
    x = rows(9, 50)
    expected = layer.double()(x.double()).detach()
    layer.float()
    with products_in("bf16"):
        y = layer(x)
        y.square().sum().backward()
    assert y.dtype is torch.float32
    error = (y - expected).abs().max() / expected.abs().max()
    assert 1e-6 < error.item() < 0.04
    assert all(weight.grad.dtype is torch.float32 for weight in layer.parameters())
