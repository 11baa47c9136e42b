import numpy as np
import pytest
import torch

from deepfm.models.layers.dnn import MLP
from deepfm.models.layers.wukong import WukongLayer
from tests import reference
from tests.models.oracle import wukong_layer


def build(num_fields, **changes):
    torch.manual_seed(0)
    mlp = MLP(num_fields * 3, (6,))
    options = {"factorized": 2, "linear": 3, "compressed": 3, "mlp": mlp}
    layer = WukongLayer(num_fields, 4, **(options | changes))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return layer


@pytest.mark.parametrize("num_fields", [5, 7])
@pytest.mark.parametrize("init", ["xavier_uniform", "torch"])
def test_equals_loops(num_fields, init):
    layer, x = build(num_fields, init=init), torch.randn(6, num_fields, 4)
    assert (layer.residual is None) == (num_fields == 5)
    expected = [reference.wukong_layer(row, wukong_layer(layer)) for row in x.double().numpy()]
    found = layer(x)
    assert found.shape == (6, layer.num_outputs, 4) == (6, 5, 4)
    np.testing.assert_allclose(found.detach(), expected, atol=2e-5)


def test_every_weight_learns():
    layer = build(7)
    (layer(torch.randn(6, 7, 4)) * torch.randn(5, 4)).sum().backward()
    assert all(parameter.grad.any() for parameter in layer.parameters())


def test_weights_of_fields_begin_by_the_number_of_outputs():
    torch.manual_seed(0)
    layer = WukongLayer(
        40, 4, factorized=2, linear=6, compressed=24, mlp=MLP(40 * 24, (4,)), init="torch"
    )
    for weight, outputs in ((layer.compress, 24), (layer.linear, 6), (layer.residual, 8)):
        limit = (6 / outputs) ** 0.5
        assert 0.9 * limit < weight.abs().max() <= limit


def test_an_unknown_init_is_refused():
    with pytest.raises(ValueError, match=r"^init: 'banana' is none of"):
        build(5, init="banana")
