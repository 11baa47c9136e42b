"""Encodings of numbers against loops, and what the fields that have them owe the views."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepfm.errors import ArgumentError
from deepfm.models.layers.embedding import FeatureEmbedding
from deepfm.models.layers.fields import DenseField
from deepfm.models.layers.numbers import Periodic, PiecewiseLinear
from tests import reference
from tests.models.oracle import array, embedding_weights

EDGES = st.lists(
    st.integers(-1000, 1000).map(lambda number: number / 8), min_size=2, max_size=9, unique=True
).map(sorted)


def encoded(layer: PiecewiseLinear | Periodic, x: list[float]) -> torch.Tensor:
    """The encoding of a row of numbers itself: its product with the identity, (C, N)."""
    count = layer.num_features
    return layer(torch.tensor([x]), torch.eye(count).expand(len(x), -1, -1)).detach()[0]


@given(st.lists(EDGES, min_size=1, max_size=4), st.data())
def test_piecewise_linear_equals_loops(edges, data):
    beyond = st.floats(-200, 200, width=32) | st.sampled_from([-3e38, 3e38])
    x = [data.draw(st.sampled_from(of_number) | beyond) for of_number in edges]
    found = encoded(PiecewiseLinear(edges), x)
    for row, number, of_number in zip(found, x, edges, strict=True):
        expected = reference.piecewise_linear(number, of_number)
        np.testing.assert_allclose(row[: len(expected)], expected, rtol=1e-5, atol=1e-6)
        assert not row[len(expected) :].any()


def test_bins_of_nearly_no_width_give_no_nan():
    layer = PiecewiseLinear([[0.0, 1e-45, 1.0], [-3.4e38, 3.4e38, 3.4028235e38]])
    for x in (0.0, 1e-45, 0.5, -3.4e38, 3.4028235e38):
        found = encoded(layer, [x, x])
        assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("edges", [[], [1.0], [1.0, 1.0], [2.0, 1.0]])
def test_edges_that_do_not_rise_are_refused(edges):
    with pytest.raises(ArgumentError, match=r"^edges: expected 2 or more that rise, got"):
        PiecewiseLinear([[0.0, 1.0], edges])


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=4))
def test_periodic_equals_loops(x):
    layer = Periodic(len(x), 3, 1.5)
    layer.reset_parameters()
    found = encoded(layer, x)
    for row, number, frequency in zip(found, x, array(layer.frequency), strict=True):
        np.testing.assert_allclose(row, reference.periodic(number, frequency), atol=1e-4)


def test_frequencies_begin_with_their_deviation():
    torch.manual_seed(0)
    layer = Periodic(100, 200, 0.3)
    layer.reset_parameters()
    frequency = layer.frequency
    assert frequency.std().item() == pytest.approx(0.3, rel=0.03)
    assert frequency.mean().item() == pytest.approx(0.0, abs=0.01)


def test_fields_of_one_shape_have_weights_of_their_own():
    """Three piecewise fields of two shapes, interleaved with others, in any order of the views."""
    fields = [
        DenseField("raw", None),
        DenseField("a", 3, edges=(0.0, 1.0, 2.0), initializer="normal(1.0)"),
        DenseField("pair", 3, 2, edges=(-1.0, 1.0), initializer="normal(1.0)"),
        DenseField("linear", 3),
        DenseField("b", 3, edges=(-1.0, 0.0), initializer="normal(1.0)"),
        DenseField("wave", 3, frequencies=2, initializer="normal(1.0)"),
    ]
    layer = FeatureEmbedding(fields, fm_embedding_dim=3, first_order=True)
    assert list(layer.encoded) == ["piecewise_3", "piecewise_3_x2", "periodic_3_of_2_at_0_1"]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    dense = torch.randn(5, 7)
    first_order, vectors, flat = layer(torch.zeros(5, 0).long(), dense, (), ())[:3]
    weights = embedding_weights(layer)
    columns = {"raw": [0], "a": [1], "pair": [2, 3], "linear": [4], "b": [5], "wave": [6]}
    for row in range(5):
        numbers = {name: array(dense[row, own]) for name, own in columns.items()}
        linear, own = 0.0, []
        for field in fields:
            values = numbers[field.name]
            if field.edges:
                for x, bins in zip(values, weights[f"bins of {field.name}"], strict=True):
                    linear += bins @ reference.piecewise_linear(x, field.edges)
            else:
                linear += weights["dense_first_order"][columns[field.name]] @ values
            if field.name != "raw":
                kind = "piecewise" if field.edges else "periodic" if field.frequencies else "linear"
                own.append(reference.dense_vector(_Named(field, kind), values, weights))
        assert first_order[row].item() == pytest.approx(linear, rel=1e-4, abs=1e-5)
        np.testing.assert_allclose(vectors[row].detach(), own, rtol=1e-4, atol=1e-5)
        expected = np.concatenate([*own, numbers["raw"]])
        np.testing.assert_allclose(flat[row].detach(), expected, rtol=1e-4, atol=1e-5)


class _Named:
    """A layer's field with the kind of its vectors, as `reference` asks for it."""

    def __init__(self, field, dense_embedding):
        self.name, self.edges, self.dense_embedding = field.name, field.edges, dense_embedding


def test_piecewise_fields_alone_have_no_other_first_order_weights():
    layer = FeatureEmbedding(
        [DenseField("a", 2, edges=(0.0, 1.0))], fm_embedding_dim=2, first_order=True
    )
    assert layer.dense_first_order is None
    with torch.no_grad():
        layer.encoded["piecewise_2"].first_order.fill_(3.0)
    views = layer(torch.zeros(2, 0).long(), torch.tensor([[0.5], [7.0]]), (), ())
    assert views.first_order.tolist() == [[1.5], [3.0]]


def test_a_mask_of_the_first_order_term_is_that_of_the_field():
    fields = [
        DenseField("a", 2, edges=(0.0, 1.0)),
        DenseField("raw", None),
        DenseField("b", 2, edges=(0.0, 1.0)),
        DenseField("c", 2, edges=(0.0, 1.0, 2.0), initializer="nn.init.ones_"),
    ]
    layer = FeatureEmbedding(
        fields, fm_embedding_dim=2, first_order=True, variational_dropout=True
    ).eval()
    dense = torch.tensor([[1.0, 10.0, 1.0, 1.5]])
    with torch.no_grad():
        group = layer.encoded["piecewise_2"]
        group.first_order.copy_(torch.tensor([[1.0, 9.0], [100.0, 9.0], [1000.0, 2000.0]]))
        layer.dense_first_order.fill_(1.0)
        wide = layer.dropouts["wide"]
        assert wide.names == ("a", "raw", "b", "c")
        found = []
        for k in range(4):
            wide.weight.fill_(1e9)  # all are dropped but this one
            wide.weight[k] = -1e9
            found.append(layer(torch.zeros(1, 0).long(), dense, (), ()).first_order.item())
    assert found == pytest.approx([1.0, 10.0, 100.0, 2000.0 / 2**0.5])
