import numpy as np
import pytest
import torch

from deepfm.models.layers.attention import FieldSelfAttention
from tests import reference
from tests.models.oracle import attention_layers


def build(**changes):
    torch.manual_seed(0)
    arguments = {"num_heads": 2, "attention_dim": 6, "num_layers": 1, "use_residual": True}
    layer = FieldSelfAttention(4, **(arguments | changes))
    norms = (module.norm for module in layer.layers if module.norm is not None)
    for norm in norms:  # affine values other than 1 and 0
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.uniform_(norm.bias)
    return layer


@pytest.mark.parametrize(
    "changes", [{}, {"num_heads": 1}, {"num_heads": 6}, {"num_layers": 3}, {"use_residual": False}]
)
def test_equals_loops(changes):
    layer = build(**changes)
    fields = torch.randn(2, 5, 4)
    expected = [
        reference.field_self_attention(row, attention_layers(layer), changes.get("num_heads", 2))
        for row in fields.double().numpy()
    ]
    actual = layer(fields)
    assert actual.shape == (2, 5, layer.output_dim) == (2, 5, 6)
    np.testing.assert_allclose(actual.detach(), np.stack(expected), atol=1e-5)


@pytest.mark.parametrize("norm", ["after", "before", "none"])
@pytest.mark.parametrize("use_residual", [True, False])
@pytest.mark.parametrize("width", [4, 6])
def test_forks_equal_loops(norm, use_residual, width):
    changes = {"use_residual": use_residual, "is_projected": False, "attention_dim": width}
    layer = build(num_layers=2, norm=norm, scale=False, **changes)
    fields = torch.randn(2, 5, 4)
    options = {"scale": False, "norm": norm, "identity": use_residual}
    expected = [
        reference.field_self_attention(row, attention_layers(layer), 2, **options)
        for row in fields.double().numpy()
    ]
    np.testing.assert_allclose(layer(fields).detach(), np.stack(expected), atol=1e-5)
    projected = {name.split(".")[1] for name, _ in layer.named_parameters() if "residual" in name}
    assert projected == ({"0"} if use_residual and width != 4 else set())


def test_attention_weights_are_left_out_in_training_only():
    layer, fields = build(dropout=0.5), torch.randn(3, 5, 4)
    assert not torch.equal(layer(fields), layer(fields))
    layer.eval()
    torch.testing.assert_close(layer(fields), build()(fields))


def test_an_unknown_norm_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"^norm: unknown 'befor'; did you mean 'before'\?$"):
        build(norm="befor")


def test_permuted_fields_give_permuted_outputs():
    layer, fields, order = build(num_layers=2), torch.randn(2, 5, 4), [3, 1, 4, 0, 2]
    torch.testing.assert_close(layer(fields[:, order]), layer(fields)[:, order])


def test_residual_weights_exist_only_with_the_residual():
    assert any("residual" in name for name, _ in build().named_parameters())
    assert not any("residual" in name for name, _ in build(use_residual=False).named_parameters())


def test_heads_must_divide_the_attention_dim():
    with pytest.raises(ValueError, match=r"^num_heads: 4 does not divide attention_dim 6$"):
        build(num_heads=4)
