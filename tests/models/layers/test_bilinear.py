import numpy as np
import pytest
import torch

from deepfm.models.layers.bilinear import BilinearFusion
from deepfm.models.layers.gate import FeatureGate
from tests import reference
from tests.models.oracle import affine, array, bilinear_weight, mlp_layers


@pytest.mark.parametrize(("heads", "outputs"), [(1, 1), (2, 1), (2, 3)])
def test_equals_loops(heads, outputs):
    torch.manual_seed(0)
    fusion = BilinearFusion(4, 6, num_heads=heads, num_outputs=outputs)
    x, y = torch.randn(5, 4), torch.randn(5, 6)
    weight = bilinear_weight(fusion, outputs)
    expected = [
        reference.bilinear(*row, weight)
        for row in zip(x.double().numpy(), y.double().numpy(), strict=True)
    ]
    found = fusion(x, y)
    assert found.shape == (5, heads, outputs)
    np.testing.assert_allclose(found.detach(), expected, atol=1e-5)


@pytest.mark.parametrize(("init", "limit"), [("xavier_uniform", 0.6**0.5), ("torch", 0.2)])
def test_init(init, limit):
    torch.manual_seed(0)
    rows, columns = (5, 5) if init == "xavier_uniform" else (25, 40)
    weight = BilinearFusion(rows, columns, num_heads=1, init=init).weight
    assert 0.8 * limit < weight.abs().max() <= limit


def test_heads_must_divide_both_widths():
    with pytest.raises(ValueError, match=r"^num_heads: 4 does not divide the width 6$"):
        BilinearFusion(4, 6, num_heads=4)
    with pytest.raises(ValueError, match=r"^init: 'banana' is none of xavier_uniform, torch$"):
        BilinearFusion(4, 6, num_heads=1, init="banana")


@pytest.mark.parametrize("context_dim", [3, 0])
def test_gate_equals_loops(context_dim):
    torch.manual_seed(0)
    gate = FeatureGate(6, context_dim=context_dim, constant_dim=3, hidden_units=(4,))
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    x, context = torch.randn(5, 6), torch.randn(5, 3)
    found = gate(x, context) if context_dim else gate(x)
    contexts = array(context if context_dim else gate.constant.expand(5, 3))
    expected = [
        reference.feature_gate(*row, mlp_layers(gate.network), affine(gate.output))
        for row in zip(x.double().numpy(), contexts, strict=True)
    ]
    np.testing.assert_allclose(found.detach(), expected, atol=1e-5)


def test_every_weight_of_a_gate_without_context_learns():
    torch.manual_seed(0)
    gate = FeatureGate(6, context_dim=0, hidden_units=(8,))
    gate(torch.randn(5, 6)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in gate.parameters())
