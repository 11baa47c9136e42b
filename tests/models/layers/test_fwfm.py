import numpy as np
import pytest
import torch

from deepfm.models.layers.fm import FactorizationMachine
from deepfm.models.layers.fwfm import FieldWeightedFM
from tests import reference
from tests.models.oracle import array


def drawn(num_fields):
    layer = FieldWeightedFM(num_fields)
    torch.nn.init.normal_(layer.strengths, generator=torch.Generator().manual_seed(0))
    return layer


@pytest.mark.parametrize("num_fields", [1, 2, 5])
def test_equals_the_sum_over_pairs(num_fields):
    layer = drawn(num_fields)
    fields = torch.randn(3, num_fields, 4, generator=torch.Generator().manual_seed(1))
    strengths = array(layer.strengths)
    expected = [reference.field_weighted_pairs(v, strengths) for v in fields.double().numpy()]
    actual = layer(fields)
    assert actual.shape == (3, 1)
    np.testing.assert_allclose(actual.detach().squeeze(1), expected, atol=1e-5)
    assert torch.autograd.gradcheck(layer.double(), fields.double().requires_grad_())


def test_it_begins_as_a_factorization_machine():
    fields = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    expected = FactorizationMachine()(fields).sum(1, keepdim=True)
    torch.testing.assert_close(FieldWeightedFM(5)(fields), expected)


def test_flat_embeddings_are_refused():
    with pytest.raises(ValueError, match=r"expected embeddings \(B, F, D\), got \(2, 12\)"):
        FieldWeightedFM(3)(torch.zeros(2, 12))
