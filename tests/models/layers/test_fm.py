import numpy as np
import pytest
import torch

from deepfm.models.layers.fm import FactorizationMachine
from tests import reference


@pytest.mark.parametrize("num_fields", [1, 2, 5])
def test_equals_the_sum_over_pairs(num_fields):
    fields = torch.randn(3, num_fields, 4, generator=torch.Generator().manual_seed(0))
    expected = [reference.factorization_machine(row) for row in fields.double().numpy()]
    np.testing.assert_allclose(FactorizationMachine()(fields), np.stack(expected), atol=1e-5)


def test_golden_values():
    """By hand: per dimension (1 + 3 + 5)^2 / 2 - (1 + 9 + 25) / 2, and the same of 2, 4, 6."""
    fields = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    assert FactorizationMachine()(fields).tolist() == [[23.0, 44.0]]
    assert FactorizationMachine()(torch.zeros(4, 2, 16)).shape == (4, 16)


def test_one_field_has_no_pair():
    assert FactorizationMachine()(torch.ones(2, 1, 3)).abs().max() == 0


def test_flat_embeddings_are_refused():
    with pytest.raises(ValueError, match=r"expected embeddings \(B, F, D\), got \(2, 12\)"):
        FactorizationMachine()(torch.zeros(2, 12))
