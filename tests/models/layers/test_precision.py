"""Products as `products_in` says: float64 as the oracle, and plain torch outside of it."""

import threading
from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepfm.models.layers import precision
from deepfm.models.layers.attention import FieldSelfAttention
from deepfm.models.layers.cin import CIN
from deepfm.models.layers.dnn import MLP
from deepfm.models.layers.dropout import ReLUDropout, norm_relu_dropout
from deepfm.models.layers.fm import FactorizationMachine
from deepfm.models.layers.precision import (
    ProductLinear,
    has_bf16_products,
    is_open,
    product,
    products_in,
)

BF16 = torch.bfloat16
ULP = 2.0**-8  # of bf16: what a number's rounding changes at most, twice over


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def gradients(function, *inputs):
    """The output of a function, and the gradients of some weighted sum of it."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    y = function(*leaves)
    weights = torch.linspace(-1, 1, y.numel()).view_as(y).to(y.dtype)
    return y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.to(BF16).double()


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(1500, 37, 24), (1024, 429, 400), (7, 5, 3)])
def test_float32_differs_from_plain_torch_by_rounding_only(shape, relu):
    rows, width, units = shape
    inputs = drawn(rows, width), drawn(units, width), drawn(units)

    def plain(x, weight, bias):
        y = F.linear(x, weight, bias)
        return y.relu() if relu else y

    expected = gradients(plain, *(x.double() for x in inputs))
    by_torch = gradients(plain, *inputs)
    with products_in("fp32"):
        found = gradients(lambda *xs: product(*xs, relu=relu), *inputs)
    for ours, theirs, exact in zip(found, by_torch, expected, strict=True):
        assert ours.dtype is torch.float32
        assert error(ours, exact) <= 2 * error(theirs, exact)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(300, 37, 24), (40, 3, 16, 8)])
def test_bf16_is_a_product_of_rounded_numbers(shape, relu):
    *rows, width, units = shape
    x, weight, bias = drawn(*rows, width), drawn(units, width), drawn(units)
    with products_in("bf16"):
        y, of_x, of_weight, of_bias = gradients(
            lambda *xs: product(*xs, relu=relu), x, weight, bias
        )
    assert {t.dtype for t in (y, of_x, of_weight, of_bias)} == {torch.float32}
    expected = F.linear(rounded(x), rounded(weight), rounded(bias))
    expected = expected.relu() if relu else expected
    scale = expected.abs().max()
    torch.testing.assert_close(y.double(), expected, rtol=ULP, atol=float(scale) * 1e-6)
    slope = rounded(torch.linspace(-1, 1, y.numel()).view_as(y))
    slope = (slope * (y > 0) if relu else slope).flatten(0, -2)
    exact = {
        "x": (of_x.flatten(0, -2), slope @ rounded(weight)),
        "weight": (of_weight, slope.T @ rounded(x).flatten(0, -2)),
        "bias": (of_bias, slope.sum(0)),
    }
    for found, wanted in exact.values():
        torch.testing.assert_close(
            found.double(), wanted, rtol=ULP, atol=float(wanted.abs().max()) * 2.0**-9
        )


def test_only_what_may_stay_narrow_does():
    x = drawn(4, 3)
    wide, narrow = ProductLinear(3, 2), ProductLinear(3, 2, narrow=True)
    with products_in("bf16"):
        assert wide(x).dtype is torch.float32
        assert narrow(x).dtype is BF16
    with products_in("fp32"):
        assert narrow(x).dtype is torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outside_it_is_plain_torch_bit_by_bit(dtype):
    linear = ProductLinear(429, 8).to(dtype)
    x = drawn(2000, 429).to(dtype)
    assert torch.equal(linear(x), F.linear(x, linear.weight, linear.bias))
    assert torch.equal(linear(x, relu=True), F.linear(x, linear.weight, linear.bias).relu())
    if dtype is torch.float64:  # which no precision narrows
        with products_in("bf16"):
            assert torch.equal(linear(x), F.linear(x, linear.weight, linear.bias))


def test_it_holds_in_its_own_thread_and_ends():
    seen = []
    with suppress(ZeroDivisionError), products_in("bf16"):
        thread = threading.Thread(target=lambda: seen.append(is_open()))
        thread.start()
        thread.join()
        assert is_open()
        raise ZeroDivisionError
    assert seen == [False]
    assert not is_open()


def test_a_backward_pass_has_the_precision_of_its_forward_pass():
    x, linear = drawn(64, 16).requires_grad_(), ProductLinear(16, 8)
    with products_in("bf16"):
        y = linear(x)
    y.square().sum().backward()
    inside = linear.weight.grad.clone()
    linear.weight.grad = None
    with products_in("bf16"):
        linear(x).square().sum().backward()
    assert torch.equal(linear.weight.grad, inside)


@pytest.mark.parametrize("norm", [None, "batch", "layer"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("activation", ["relu", "gelu", "nn.PReLU()", "Dice"])
def test_a_network_equals_float64(norm, dropout, activation):
    torch.manual_seed(0)
    mlp = MLP(11, (16, 12, 6), norm=norm, dropout=dropout, activation=activation)
    exact = MLP(11, (16, 12, 6), norm=norm, dropout=dropout, activation=activation).double()
    exact.load_state_dict(mlp.state_dict())
    start = {name: value.clone() for name, value in mlp.state_dict().items()}
    x = drawn(1100, 11)
    torch.manual_seed(1)
    expected = exact(x.double())
    expected.square().mean().backward()
    for name, tolerance in (("fp32", 1e-5), ("bf16", 0.1)):
        mlp.load_state_dict(start)
        mlp.zero_grad()
        torch.manual_seed(1)
        with products_in(name):
            y = mlp(x)
        y.square().mean().backward()
        assert y.dtype is torch.float32
        assert error(y.detach(), expected.detach()) < tolerance / 4
        assert {p.grad.dtype for p in mlp.parameters()} == {torch.float32}
        found, wanted = (
            torch.cat([p.grad.flatten() for p in network.parameters()]) for network in (mlp, exact)
        )
        assert error(found, wanted) < tolerance
        for (key, one), other in zip(mlp.named_buffers(), exact.buffers(), strict=True):
            assert one.dtype in (torch.float32, torch.int64)
            torch.testing.assert_close(one.double(), other.double(), rtol=0.02, atol=0.02, msg=key)


def test_the_second_order_of_a_training_step_is_the_layers_bit_by_bit():
    layer, fields = FactorizationMachine(), drawn(40, 6, 5)
    expected, of_fields = gradients(layer, fields.double())
    plain = gradients(layer, fields)[0]
    with products_in("fp32"):
        found, gradient = gradients(layer, fields)
    assert torch.equal(found, plain)
    torch.testing.assert_close(gradient.double(), of_fields, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_hidden_outputs_are_float32():
    mlp = MLP(3, (4, 4), return_hidden=True)
    with products_in("bf16"):
        assert {y.dtype for y in mlp(drawn(5, 3))} == {torch.float32}


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_norm_relu_and_dropout_in_one_equal_the_modules(p, training, dtype):
    x = drawn(200, 9).to(dtype)
    results = []
    for fused in (True, False):
        norm = nn.BatchNorm1d(9).train(training)
        nn.init.uniform_(norm.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(2))
        nn.init.uniform_(norm.bias, -0.5, 0.5, generator=torch.Generator().manual_seed(3))
        dropout = ReLUDropout(p).train(training)
        leaf = x.clone().requires_grad_()
        torch.manual_seed(5)
        y = norm_relu_dropout(leaf, norm, dropout) if fused else dropout(norm(leaf))
        y.float().square().sum().backward()
        results.append(
            [y, leaf.grad, norm.weight.grad, norm.bias.grad, *norm.state_dict().values()]
        )
    tolerance = (
        {"rtol": 1e-5, "atol": 2e-5} if dtype is torch.float32 else {"rtol": 0.03, "atol": 0.05}
    )
    for one, other in zip(*results, strict=True):
        assert one.dtype is other.dtype
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize(
    "layer",
    [
        CIN(5, (6, 4), bias=True),
        FieldSelfAttention(8, num_heads=2, attention_dim=8, num_layers=2, use_residual=True),
    ],
    ids=["cin", "attention"],
)
def test_other_layers_in_bf16_are_near_float64(layer):
    x = drawn(50, 5, 8)
    layer.double()
    expected = layer(x.double()).detach()
    layer.float()
    with products_in("bf16"):
        y = layer(x)
        assert y.dtype is torch.float32
        y.square().sum().backward()
    assert 1e-6 < error(y.detach(), expected) < 0.04
    assert all(p.grad.dtype is torch.float32 for p in layer.parameters())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_tile": True, "amx_bf16": True}, True),
        ({"amx_tile": True, "amx_bf16": False, "avx512_f": True}, False),
        ({"avx512_f": True}, False),
        ({"architecture": "aarch64", "sve": True}, False),
        ({}, False),
    ],
)
def test_flags_of_a_processor_decide(monkeypatch, flags, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert has_bf16_products(torch.device("cpu")) is (expected and precision._has_onednn())


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_gpus_compute_in_bf16_from_ampere_on(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_bf16_products(torch.device("cuda")) is expected
    assert not has_bf16_products(torch.device("mps"))


def test_without_units_bf16_is_torchs_own_product(monkeypatch):
    monkeypatch.setattr(precision, "_KERNELS", {})
    x, linear = drawn(30, 4), ProductLinear(4, 3, narrow=True)
    with products_in("bf16"):
        y = linear(x, relu=True)
    expected = F.linear(x.to(BF16), linear.weight.to(BF16), linear.bias.to(BF16)).relu()
    assert torch.equal(y, expected)
