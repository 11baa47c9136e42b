import numpy as np
import pytest
import torch

from deepfm.models.layers.masknet import FieldNorm, MaskBlock
from tests import reference
from tests.models.oracle import affine, mask_block


def shaken(module):
    """With scales other than 1 and shifts other than 0."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return module


@pytest.mark.parametrize("dims", [[4, 4, 4], [4, 4, 1, 1], [3, 1, 5, 3], [1, 4], [1, 1]], ids=str)
def test_each_field_is_normed_by_itself(dims):
    layer = shaken(FieldNorm(dims))
    x = 3 * torch.randn(5, sum(dims)) + 2
    expected = [reference.field_norm(row, dims, *affine(layer)) for row in x.double().numpy()]
    np.testing.assert_allclose(layer(x).detach(), expected, atol=1e-5)


def test_both_ways_of_a_field_norm_are_one():
    even, uneven = FieldNorm([4, 4, 1]), FieldNorm([4, 1, 4])
    x = torch.randn(6, 9)
    swapped = torch.cat([x[:, :4], x[:, 8:], x[:, 4:8]], 1)
    found = uneven(swapped)
    torch.testing.assert_close(torch.cat([found[:, :4], found[:, 5:], found[:, 4:5]], 1), even(x))


@pytest.mark.parametrize("changes", [{}, {"bias": True}, {"norm": False}, {"init": "torch"}])
def test_block_equals_loops(changes):
    torch.manual_seed(1)
    block = shaken(MaskBlock(4, 6, aggregation_dim=5, units=3, **changes))
    x, embedding = torch.randn(7, 4), torch.randn(7, 6)
    expected = [
        reference.mask_block(*row, mask_block(block))
        for row in zip(x.double().numpy(), embedding.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(block(x, embedding).detach(), expected, atol=1e-5)


def test_dropout_is_of_the_output():
    torch.manual_seed(0)
    block = MaskBlock(4, 6, aggregation_dim=5, units=8, dropout=0.5)
    x, embedding = torch.randn(500, 4), torch.randn(500, 6)
    trained, scored = block(x, embedding), block.eval()(x, embedding)
    assert ((trained == 0) | torch.isclose(trained, 2 * scored)).all()
    dropped = (trained == 0)[scored > 0].float().mean()
    assert 0.4 < dropped < 0.6
