import numpy as np
import pytest
import torch

from deepfm.models.layers.cin import CIN
from tests import reference
from tests.models.oracle import cin_filters


@pytest.mark.parametrize("split_half", [True, False])
@pytest.mark.parametrize("sizes", [(4,), (1,), (4, 6), (5, 3, 1), (2, 2, 2)])
def test_equals_loops(sizes, split_half):
    torch.manual_seed(0)
    layer = CIN(3, sizes, split_half=split_half)
    fields = torch.randn(2, 3, 4)
    filters = cin_filters(layer, num_fields=3)
    expected = [reference.cin(row, filters, split_half) for row in fields.double().numpy()]
    actual = layer(fields)
    assert actual.shape == (2, layer.output_dim)
    np.testing.assert_allclose(actual.detach(), np.stack(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("split_half", "output_dim", "widths"),
    [
        # 5 maps: 2 go on, 3 are pooled; 3 maps: 1 goes on, 2 are pooled; the last 4 are pooled
        (True, 3 + 2 + 4, [3 * 3, 2 * 3, 1 * 3]),
        (False, 5 + 3 + 4, [3 * 3, 5 * 3, 3 * 3]),
    ],
)
def test_odd_sizes_and_the_last_layer(split_half, output_dim, widths):
    layer = CIN(3, (5, 3, 4), split_half=split_half)
    assert layer.output_dim == output_dim
    assert [linear.in_features for linear in layer.layers] == widths


def test_layer_k_has_order_k_plus_1():
    layer = CIN(3, (4, 4), split_half=False)
    fields = torch.randn(2, 3, 5)
    once, doubled = layer(fields), layer(2 * fields)
    torch.testing.assert_close(doubled, once * torch.tensor([4.0] * 4 + [8.0] * 4))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((), "^layer_sizes: expected at least one"), ((1, 4), "^layer_sizes: split_half needs 2")],
)
def test_refused_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        CIN(3, sizes, split_half=True)


def test_an_unknown_init_is_refused():
    with pytest.raises(ValueError, match=r"^init: 'he' is none of xavier_uniform, torch"):
        CIN(3, (4,), init="he")
