"""MaskNet's logit against float64 loops with its weights, and what its options change."""

import numpy as np
import pytest
import torch

from deepfm.config import config_from_dict
from deepfm.models import build_model
from deepfm.models.options import MaskBlocksConfig
from tests import reference
from tests.models import oracle
from tests.models.conftest import random_inputs, replaced, shaken


def of(config, **options):
    values = {"hidden_units": (5, 3), **options}
    return replaced(config, model_name="masknet", masknet=MaskBlocksConfig(**values))


def oracle_logit(model, embedding):
    config, dims = model.config.masknet, model.embedding.group_dims("deep")
    h = embedding
    if config.embedding_norm == "field":
        h = reference.field_norm(h, dims, *oracle.affine(model.masks.norm))
    elif config.embedding_norm == "vector":
        h = np.array(reference.layer_norm(h, *oracle.affine(model.masks.norm)))
    blocks = [oracle.mask_block(block) for block in model.masks.blocks]
    if config.parallel:
        h = np.concatenate([reference.mask_block(h, embedding, block) for block in blocks])
    else:
        for block in blocks:
            h = reference.mask_block(h, embedding, block)
    mlp, output = (model.dnn[0], model.dnn[1]) if config.use_dnn else (None, model.dnn[0])
    if mlp is not None:
        h = reference.mlp(h, oracle.mlp_layers(mlp), "relu")
    weight, bias = oracle.affine(output)
    return model.bias.item() + (weight @ h + bias)[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"parallel": False, "use_dnn": False},
        {"parallel": False, "reduction_ratio": 0.5},
        {"embedding_norm": "vector", "bias": True, "init": "torch", "aggregation_dim": 7},
        {"embedding_norm": "none", "norm": False},
    ],
    ids=str,
)
def test_logit_equals_loops(schema, config, options):
    model, inputs = shaken(schema, of(config, **options)), random_inputs(schema, 8)
    weights = oracle.embedding_weights(model.embedding)
    for field in schema.fields.values():  # views that nobody reads
        weights[f"projection of {field.name}"] = np.zeros((4, field.embedding_dim))
        weights |= {f"{field.embedding_name}_wide": np.zeros((12, 1))}
        weights[f"bins of {field.name}"] = np.zeros((field.value_dim, max(len(field.edges) - 1, 0)))
    weights["dense_first_order"] = np.zeros(9)
    _, _, flat = reference.feature_views(schema, inputs, weights, 4)
    expected = [oracle_logit(model, row) for row in flat]
    np.testing.assert_allclose(model(inputs).detach(), expected, atol=1e-5, rtol=1e-5)


def test_units_of_a_mask_follow_the_input_of_its_block(schema, config):
    width = build_model(schema, of(config)).embedding.total_dim
    for options, expected in (
        ({"reduction_ratio": 2}, [2 * width, 2 * width]),
        ({"reduction_ratio": 2, "parallel": False}, [2 * width, 10]),
        ({"reduction_ratio": 2, "aggregation_dim": 9}, [9, 9]),
        ({"reduction_ratio": 1e-9}, [1, 1]),
    ):
        model = build_model(schema, of(config, **options))
        assert [block.aggregation.out_features for block in model.masks.blocks] == expected


def test_a_final_network_on_serial_blocks_without_a_dnn(schema, config):
    final = config.model.dnn
    config = replaced(of(config, parallel=False, use_dnn=False), final=final)
    model = build_model(schema, config)
    assert model.final[0].layers[0][0].in_features == 3
    assert list(model.branches(random_inputs(schema, 4))) == ["bias", "final"]


def test_what_torcheasyrec_calls_masknet_has_its_parameters(schema):
    """Of its module: LayerNorm(n), per block two linear maps, one more and LayerNorm, the MLP."""
    dnn = {"hidden_units": [6], "norm": "none", "init": "torch"}
    blocks = {"hidden_units": [8, 8], "reduction_ratio": 3, "embedding_norm": "vector"}
    config = config_from_dict(
        {
            "model_name": "masknet",
            "masknet": blocks | {"bias": True, "init": "torch"},
            "dnn": dnn,
            "global_bias": False,
        }
    )
    model = build_model(schema, config)
    n = model.embedding.total_dim
    block = (n * 3 * n + 3 * n) + (3 * n * n + n) + (n * 8 + 8) + 2 * 8
    expected = 2 * n + 2 * block + (16 * 6 + 6) + (6 + 1)
    modules = (model.masks, model.dnn)
    assert sum(p.numel() for one in modules for p in one.parameters()) == expected
    assert model.output_bias is model.dnn[1].bias
    assert not torch.equal(model.output_bias, torch.zeros(1))
