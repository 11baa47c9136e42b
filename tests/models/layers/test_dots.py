import numpy as np
import pytest
import torch

from deepfm.models.layers.dots import PairwiseDots
from deepfm.models.layers.precision import products_in
from tests import reference


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("num_fields", [1, 2, 5])
@pytest.mark.parametrize("grad", [True, False])
def test_equals_loops(num_fields, grad):
    x, layer = drawn(4, num_fields, 3), PairwiseDots(num_fields)
    expected = np.array([reference.pairwise_dots(row) for row in x.numpy()])
    with torch.set_grad_enabled(grad):
        found = layer(x)
    assert found.shape == (4, layer.output_dim)
    np.testing.assert_allclose(found, expected.reshape(4, -1), atol=1e-12)


def test_gradient_is_that_of_differences():
    assert torch.autograd.gradcheck(PairwiseDots(4), drawn(3, 4, 2).requires_grad_())


def test_bf16_has_float32_results():
    x = drawn(6, 4, 8).float().requires_grad_()
    expected = PairwiseDots(4)(x)
    with products_in("bf16"):
        found = PairwiseDots(4)(x)
        found.sum().backward()
    assert found.dtype is x.grad.dtype is torch.float32
    assert 0 < (found - expected).abs().max() < 0.1
