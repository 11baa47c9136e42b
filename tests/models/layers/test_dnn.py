import numpy as np
import pytest
import torch
from torch import nn

from deepfm.models.layers.dnn import ACTIVATIONS, MLP, Dropout
from tests import reference
from tests.models.oracle import mlp_layers


@pytest.mark.parametrize("norm", [None, "batch", "layer"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equals_loops(activation, norm):
    torch.manual_seed(0)
    mlp = MLP(5, (7, 3), activation=activation, norm=norm, dropout=0.5)
    if norm == "batch":  # statistics and affine values other than 0 and 1
        for module in mlp.modules():
            if isinstance(module, nn.BatchNorm1d):
                for tensor in (module.running_mean, module.running_var, *module.parameters()):
                    nn.init.uniform_(tensor, 0.5, 1.5)
    mlp.eval()
    x = torch.randn(4, 5)
    expected = [reference.mlp(row, mlp_layers(mlp), activation) for row in x.double().numpy()]
    np.testing.assert_allclose(mlp(x).detach(), np.stack(expected), atol=1e-5)
    folded = nn.Sequential(*mlp.folded())
    assert not any(isinstance(module, nn.BatchNorm1d | Dropout) for module in folded.modules())
    np.testing.assert_allclose(folded(x).detach(), np.stack(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("norm", "norm_type"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm)]
)
def test_order_within_a_layer(norm, norm_type):
    layer = MLP(5, (7,), activation="gelu", norm=norm, dropout=0.1).layers[0]
    assert [type(module) for module in layer] == [nn.Linear, norm_type, nn.GELU, Dropout]


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
    ],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MLP(3, **arguments)
