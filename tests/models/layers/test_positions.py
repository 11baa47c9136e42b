"""Sequences pooled by the place of their elements, against loops in float64."""

import math

import numpy as np
import torch

from deepfm.models.layers.embedding import FeatureEmbedding
from deepfm.models.layers.fields import IdField

IDS = torch.tensor([[3, 1, 2, 0], [4, 0, 4, 1], [5, 5, 5, 5], [2, 1, 3, 4]])
LENGTHS = torch.tensor([3, 4, 0, 4])


def layer_of(max_length: int = 4) -> FeatureEmbedding:
    field = IdField("s", 6, 3, 0, "position", "normal(1.0)", max_length=max_length)
    torch.manual_seed(1)
    layer = FeatureEmbedding([field], fm_embedding_dim=3, first_order=True)
    return layer.double()


def oracle(table, weights, ids, length):
    """Sum of softmax(a)_l * row, where the last of the valid elements' places is l = 0."""
    filled = [(length - 1 - place, ids[place]) for place in range(length) if ids[place] != 0]
    total = sum(math.exp(weights[recency]) for recency, _ in filled)
    found = np.zeros(table.shape[1])
    for recency, i in filled:
        found += math.exp(weights[recency]) / total * table[i]
    return found


def flat_of(layer: FeatureEmbedding) -> torch.Tensor:
    nothing = torch.zeros(4, 0)
    return layer(nothing.long(), nothing.double(), (IDS,), (LENGTHS,)).flat_embeddings


def expected_of(layer: FeatureEmbedding) -> np.ndarray:
    table = layer.tables["s"].detach().numpy()
    weights = layer.positions["s"].detach().tolist()
    rows = zip(IDS.tolist(), LENGTHS.tolist(), strict=True)
    return np.array([oracle(table, weights, ids, length) for ids, length in rows])


def test_places_are_weighed_by_a_softmax_over_the_filled_ones():
    layer = layer_of()
    assert torch.allclose(layer.positions["s"], torch.tensor([0.0, -0.1, -0.2, -0.3]).double())
    np.testing.assert_allclose(flat_of(layer).detach(), expected_of(layer), atol=1e-12)
    layer.positions["s"].data = torch.tensor([0.7, -2.0, 3.0, 0.1]).double()
    np.testing.assert_allclose(flat_of(layer).detach(), expected_of(layer), atol=1e-12)
    assert not flat_of(layer)[2].any()  # an empty history is the zero vector


def test_gradients_are_finite_differences():
    layer = layer_of()
    factors = torch.randn(4, 3, dtype=torch.float64)
    (flat_of(layer) * factors).sum().backward()
    gradient = layer.positions["s"].grad.clone()
    assert gradient.isfinite().all()
    for place in range(4):
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                layer.positions["s"][place] += step
                values.append((expected_of(layer) * factors.numpy()).sum())
                layer.positions["s"][place] -= step
        np.testing.assert_allclose(gradient[place], (values[0] - values[1]) / 2e-5, atol=1e-7)


def test_all_histories_empty_have_no_nan_in_their_gradients():
    layer = layer_of()
    nothing = torch.zeros(4, 0)
    empty = torch.zeros(4, 1).long()
    layer(nothing.long(), nothing.double(), (empty,), (torch.zeros(4).long(),))[2].sum().backward()
    assert not layer.positions["s"].grad.any()


def test_first_order_weights_are_pooled_alike():
    layer = layer_of()
    nothing = torch.zeros(4, 0)
    first_order = layer(nothing.long(), nothing.double(), (IDS,), (LENGTHS,)).first_order
    wide = layer.tables["s_wide"].detach().numpy()
    weights = layer.positions["s"].detach().tolist()
    rows = zip(IDS.tolist(), LENGTHS.tolist(), strict=True)
    expected = [oracle(wide, weights, ids, length) for ids, length in rows]
    np.testing.assert_allclose(first_order.detach(), expected, atol=1e-12)
