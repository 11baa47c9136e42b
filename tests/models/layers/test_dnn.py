import copy

import numpy as np
import pytest
import torch
from torch import nn

from deepfm.models.layers.dnn import (
    ACTIVATION_NAMES,
    MLP,
    Dice,
    Dropout,
    ReLUDropout,
    activation_from,
)
from deepfm.models.layers.precision import ProductLinear
from tests import reference
from tests.models.oracle import array, mlp_layers


@pytest.mark.parametrize("norm", [None, "batch", "layer"])
@pytest.mark.parametrize("activation", [*reference.ACTIVATIONS, "Dice"])
def test_equals_loops(activation, norm):
    torch.manual_seed(0)
    mlp = MLP(5, (7, 3), activation=activation, norm=norm, dropout=0.5)
    for module in mlp.modules():  # statistics and affine values other than 0 and 1
        if isinstance(module, nn.BatchNorm1d):
            for tensor in (module.running_mean, module.running_var, *module.parameters()):
                nn.init.uniform_(tensor, 0.5, 1.5)
        if isinstance(module, Dice):
            nn.init.uniform_(module.alpha, -0.5, 0.5)
    mlp.eval()
    x = torch.randn(4, 5)
    expected = [reference.mlp(row, mlp_layers(mlp), activation) for row in x.double().numpy()]
    np.testing.assert_allclose(mlp(x).detach(), np.stack(expected), atol=1e-5)
    folded = nn.Sequential(*mlp.folded())
    of_norms = [m for layer in folded for m in layer if isinstance(m, nn.BatchNorm1d | Dropout)]
    assert not of_norms
    assert not any(module.training for layer in folded for module in layer)
    np.testing.assert_allclose(folded(x).detach(), np.stack(expected), atol=1e-5)


def test_every_activation_has_a_loop():
    spelled = {
        text.removeprefix("torch.").removeprefix("nn.").partition("(")[0]
        for text in (*reference.ACTIVATIONS, "Dice")
    }
    assert spelled >= set(ACTIVATION_NAMES)


def test_folding_leaves_the_network_as_it_is():
    mlp = MLP(4, (6, 3), activation="nn.LeakyReLU(negative_slope=0.3)", norm="layer", bias=False)
    folded = mlp.folded()
    assert all(module.training for module in mlp.modules())
    assert folded[0][2].inplace
    assert not mlp.layers[0][2].inplace
    assert folded[0][2].negative_slope == 0.3


def test_dice_in_training_uses_the_statistics_of_the_batch():
    dice, x = Dice(3), torch.randn(40, 3) * 2 + 1
    nn.init.uniform_(dice.alpha)
    mean, variance = array(x.mean(0)), array(x.var(0, unbiased=False))
    expected = [reference.dice(row, mean, variance, array(dice.alpha)) for row in array(x)]
    np.testing.assert_allclose(dice(x).detach(), expected, atol=1e-5)
    assert not torch.equal(dice.eval()(x), dice.train()(x))


def test_activations_are_made_of_their_arguments():
    assert activation_from("nn.PReLU(num_parameters=6)", 6).weight.shape == (6,)
    assert activation_from("nn.PReLU", 6).weight.shape == (1,)
    assert activation_from("Dice", 6).alpha.shape == (6,)
    assert not activation_from("nn.ELU(inplace=True)", 6).inplace
    assert activation_from("nn.RReLU(lower=0.1)", 6).lower == 0.1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nn.Rlu", "'nn.Rlu' is none of relu,"),
        ("nn.Linear(in_features=3)", "is none of relu,"),
        ("os.system", "is none of relu,"),
        ("lambda x: x", "expected name"),
        ("nn.ELU(beta=1)", "ELU has no argument 'beta'; known: alpha"),
        ("nn.ELU(alpha=big)", "ELU: alpha is a number, got 'big'"),
        ("nn.PReLU(num_parameters=3)", "num_parameters is 1 or the width of the layer, 6"),
        ("nn.Hardtanh(min_val=1, max_val=0)", "max_val"),
        ("nn.GELU(approximate=no)", "approximate"),
        ("nn.Threshold", "missing"),
        ("Dice(width=3)", "Dice has no argument 'width'; known: none"),
    ],
)
def test_activations_that_are_refused(text, message):
    with pytest.raises(ValueError, match=f"^activation: .*{message}"):
        activation_from(text, 6)


@pytest.mark.parametrize(
    ("dropout", "rates"),
    [(0.9, [0.9] * 3), ([0.9], [0.9] * 3), ((0.9, 0.8, 0.7), [0.9, 0.8, 0.7]), (0, [0] * 3)],
)
def test_dropout_is_one_number_or_one_per_layer(dropout, rates):
    mlp = MLP(16, (8, 4, 2), dropout=dropout)
    assert mlp(torch.randn(4, 16)).shape == (4, 2)
    assert [layer[-1].p for layer in mlp.layers] == rates


def test_shapes_of_all_layers():
    """(4, 16) -> (4, 8), (4, 4), (4, 2), and positions before the last are kept as they are."""
    hidden = MLP(16, (8, 4, 2), return_hidden=True)(torch.randn(4, 16))
    assert [tuple(h.shape) for h in hidden] == [(4, 8), (4, 4), (4, 2)]
    assert MLP(16, (8, 4, 2))(torch.randn(4, 2, 16)).shape == (4, 2, 2)


def test_no_bias_and_initial_weights_of_torch():
    assert MLP(2, (3,), bias=False).layers[0][0].bias is None
    assert MLP(2, (3,), bias=False, norm="layer").layers[0][0].bias is None
    linear = MLP(25, (400,), init="torch").layers[0][0]
    for weight in (linear.weight, linear.bias):
        assert 0.95 / 5 < weight.abs().max() <= 1 / 5


@pytest.mark.parametrize(
    ("norm", "norm_type"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm)]
)
def test_order_within_a_layer(norm, norm_type):
    layer = MLP(5, (7,), activation="gelu", norm=norm, dropout=0.1).layers[0]
    assert [type(module) for module in layer] == [ProductLinear, norm_type, nn.GELU, Dropout]


def test_linear_has_a_bias_except_under_batch_norm():
    biases = {norm: MLP(2, (3,), norm=norm).layers[0][0].bias for norm in (None, "batch", "layer")}
    assert biases["batch"] is None
    assert biases[None] is not None
    assert biases["layer"] is not None


def test_dropout_acts_in_training_only():
    mlp = MLP(4, (1000,), activation="none", dropout=0.5)
    x = torch.ones(1, 4)
    assert 0.3 < (mlp(x) == 0).float().mean() < 0.7
    assert torch.equal(mlp.eval()(x), mlp(x))


@pytest.mark.parametrize("shape", [(64, 33), (5,), (1, 1), (0, 4)])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.999999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dropout_equals_a_loop_over_16_bit_numbers(shape, p, dtype):
    x = torch.rand(shape, dtype=dtype).add(1.0).requires_grad_()
    torch.manual_seed(3)
    y = Dropout(p)(x)
    torch.manual_seed(3)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    dropped = min(round(p * 65536), 65535)
    mask = []
    for word in words.tolist():
        for part in range(4):  # a number is kept if it is among the 65536 - dropped largest
            number = (word >> (16 * part)) % 65536
            number -= 65536 if number >= 32768 else 0
            mask.append(65536 / (65536 - dropped) if number + 32768 >= dropped else 0.0)
    mask = torch.tensor(mask[: x.numel()], dtype=dtype).view(shape)
    torch.testing.assert_close(y, x.detach() * mask)
    y.sum().backward()
    torch.testing.assert_close(x.grad, mask)


@pytest.mark.parametrize("shape", [(64, 33), (5,), (0, 4)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_relu_and_dropout_in_one_equal_one_after_the_other_bit_by_bit(shape, training, p):
    results = []
    for parts in ([ReLUDropout(p)], [torch.nn.ReLU(), Dropout(p)]):
        torch.manual_seed(4)
        x = torch.randn(shape).requires_grad_()
        y = torch.nn.Sequential(*parts).train(training)(x * 1.5)  # its backward needs no output
        (y * torch.randn(shape)).sum().backward()
        results.append((y.detach(), x.grad))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("norm", [None, "batch", "layer"])
def test_an_mlp_in_training_equals_its_layers_one_after_the_other_bit_by_bit(norm):
    mlp = MLP(12, (9, 7, 5), norm=norm, dropout=0.4, return_hidden=True)
    plain = copy.deepcopy(mlp)
    for k, layer in enumerate(plain.layers):
        plain.layers[k] = torch.nn.Sequential(*layer[:-1], torch.nn.ReLU(), Dropout(0.4))
    results = []
    for module in (mlp, plain):
        torch.manual_seed(4)
        x = torch.randn(50, 12).requires_grad_()
        hidden = module(x)
        sum((h * torch.randn(h.shape)).sum() for h in hidden).backward()
        results.append([*hidden, x.grad, *(p.grad for p in module.parameters())])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("p", [0.1, 0.25, 0.7])
def test_dropout_keeps_the_mean_and_drops_at_its_rate(p):
    torch.manual_seed(0)
    y = Dropout(p)(torch.ones(1_000_000))
    assert (y == 0).double().mean().item() == pytest.approx(p, abs=0.002)
    assert y.double().mean().item() == pytest.approx(1.0, abs=0.005)
    pairs = (y.view(-1, 2) == 0).all(1).double().mean().item()
    assert pairs == pytest.approx(p**2, abs=0.003)


def test_dropout_does_nothing_at_rate_0_or_in_evaluation():
    x = torch.ones(3)
    assert Dropout(0.0)(x) is x
    assert Dropout(0.5).eval()(x) is x


def test_dropout_is_equal_at_one_and_two_threads():
    masks = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        masks.append(Dropout(0.3)(torch.ones(300_000)))
        torch.set_num_threads(1)
    assert torch.equal(*masks)


def test_hidden_outputs_end_with_the_output():
    torch.manual_seed(0)
    mlp = MLP(4, (6, 3), return_hidden=True)
    first, last = mlp(torch.ones(2, 4))
    assert first.shape == (2, 6)
    assert last.shape == (2, mlp.output_dim) == (2, 3)
    assert torch.equal(mlp.layers[1](first), last)


def test_initial_weights_are_xavier_and_biases_zero():
    linear = MLP(30, (50,)).layers[0][0]
    bound = (6 / 80) ** 0.5
    assert 0.9 * bound < linear.weight.abs().max() <= bound
    assert linear.bias.abs().max() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_units": ()}, "^hidden_units: expected at least one"),
        ({"hidden_units": (2,), "activation": "rleu"}, "^activation: 'rleu' is none of relu,"),
        ({"hidden_units": (2,), "norm": "group"}, "^norm: 'group' is none of batch, layer"),
        ({"hidden_units": (2,), "init": "he"}, "^init: 'he' is none of xavier_uniform, torch"),
        ({"hidden_units": (2,), "dropout": [0.1] * 2}, r"^dropout: .* one per layer \(1\), got 2"),
    ],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MLP(3, **arguments)
