import numpy as np
import pytest
import torch

from deepfm.models.layers.variational_dropout import VariationalDropout
from tests import reference
from tests.models.oracle import array

DIMS = {"a": 4, "b": 3, "c": 2}


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return VariationalDropout(DIMS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_equals_loops_over_the_same_draw(layer, dtype):
    layer, x = layer.to(dtype), torch.randn(50, 9, dtype=dtype)
    torch.manual_seed(5)
    actual = layer(x)
    torch.manual_seed(5)
    u = array(torch.rand(50, 3, dtype=dtype))
    eps = torch.finfo(dtype).eps
    expected = reference.variational_dropout(
        array(x), array(layer.weight), list(DIMS.values()), u, eps
    )
    np.testing.assert_allclose(actual.detach(), expected, atol=2e-5)


def test_evaluation_equals_loops_and_draws_nothing(layer):
    x, state = torch.randn(5, 9), torch.get_rng_state()
    actual = layer.eval()(x)
    assert torch.equal(torch.get_rng_state(), state)
    expected = reference.variational_dropout(array(x), array(layer.weight), list(DIMS.values()))
    np.testing.assert_allclose(actual.detach(), expected, atol=1e-6)


def test_the_penalty_and_the_ratios_are_of_the_drop_probability(layer):
    q = [1 / (1 + np.exp(-p)) for p in array(layer.weight)]
    assert layer.penalty().item() == pytest.approx(sum(1 - value for value in q))
    assert layer.ratios() == pytest.approx(dict(zip(DIMS, q, strict=True)))


def test_fields_are_dropped_at_their_rate():
    layer = VariationalDropout({"a": 1, "b": 1})
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.2, 0.7]).logit())
    kept = layer(torch.ones(40_000, 2)).mean(0)
    torch.testing.assert_close(kept, torch.tensor([0.8, 0.3]), atol=0.01, rtol=0)


def test_numbers_of_extreme_probabilities_are_finite():
    layer = VariationalDropout({"a": 1, "b": 1})
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([-200.0, 200.0]))
    y = layer(torch.ones(1000, 2))
    y.sum().backward()
    assert y.isfinite().all()
    assert layer.weight.grad.isfinite().all()
    torch.testing.assert_close(y.mean(0), torch.tensor([1.0, 0.0]), atol=1e-3, rtol=0)


def test_the_mask_is_one_per_row_and_field(layer):
    y = layer(torch.ones(20, 9))
    for part in y.split(list(DIMS.values()), dim=1):
        assert torch.equal(part, part[:, :1].expand_as(part))
    assert len(y[:, 0].unique()) > 10


def test_another_width_is_refused(layer):
    with pytest.raises(ValueError, match=r"expected \(B, 9\), got \(2, 8\)"):
        layer(torch.ones(2, 8))
