"""Strengths of pairs of fields against loops over rows and pairs."""

import numpy as np
import pytest
import torch

from deepfm.config import load_config
from deepfm.models import build_model
from deepfm.models.pair_strengths import pair_strengths


@pytest.mark.parametrize("name", ["fm", "deepfm", "fwfm"])
def test_a_strength_is_the_mean_size_of_a_term(name, tiny_config, tiny_data):
    model = build_model(tiny_data.encoders.schema, load_config(tiny_config(model_name=name))).eval()
    if name == "fwfm":
        torch.nn.init.normal_(model.pairs.strengths)
    inputs = tiny_data.valid.inputs.select(slice(0, 7))
    (found,) = pair_strengths(model, inputs)
    assert found.fields == ["user", "age", "item", "tags", "price"]
    with torch.no_grad():
        vectors = model.embedding(*inputs).field_embeddings.double()
    number = 0
    for i in range(5):
        assert found.matrix[i, i] == 0
        for j in range(i + 1, 5):
            weight = float(model.pairs.strengths.detach()[number]) if name == "fwfm" else 1.0
            number += 1
            terms = [abs(weight * float(row[i] @ row[j])) for row in vectors]
            assert found.matrix[i, j] == pytest.approx(np.mean(terms), rel=1e-4)
            assert found.matrix[j, i] == found.matrix[i, j]


def test_attention_is_what_the_first_layer_weighs_by(tiny_config, tiny_data):
    config = load_config(tiny_config(model_name="attention_deepfm"))
    model = build_model(tiny_data.encoders.schema, config).eval()
    inputs = tiny_data.valid.inputs.select(slice(0, 5))
    found = {one.part: one for one in pair_strengths(model, inputs)}
    assert set(found) == {"fm", "attention"}
    np.testing.assert_allclose(found["attention"].matrix.sum(1), 1, rtol=1e-5)
    layer = model.attention.layers[0]
    with torch.no_grad():
        x = model.embedding(*inputs).field_embeddings
        expected = np.zeros((5, 5))
        for row in x:
            query, key = (layer.query(row), layer.key(row))
            for head in range(layer.num_heads):
                part = slice(head * 4, head * 4 + 4)  # attention_dim 8 in 2 heads
                for i in range(5):
                    size = [float(query[i, part] @ key[j, part]) / 2.0 for j in range(5)]
                    expected[i] += np.exp(size) / np.exp(size).sum() / (len(x) * layer.num_heads)
    np.testing.assert_allclose(found["attention"].matrix, expected, rtol=1e-4)


def test_a_model_without_pairs_has_none(tiny_config, tiny_data):
    model = build_model(tiny_data.encoders.schema, load_config(tiny_config(model_name="dcn_v2")))
    assert pair_strengths(model.eval(), tiny_data.valid.inputs.select(slice(0, 5))) == []
