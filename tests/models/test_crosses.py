"""Logits of linear models, weighted pairs, cross networks and AutoInt against float64 loops."""

import numpy as np
import pytest
import torch

from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.errors import ConfigError
from deepfm.models import build_model
from deepfm.models.options import DNNConfig
from tests import reference
from tests.models.conftest import changed, random_inputs, replaced
from tests.models.oracle import (
    array,
    attention_layers,
    cross_layers,
    embedding_weights,
    masked_cross_layers,
    mlp_layers,
)

FINAL = DNNConfig(hidden_units=(7,), dropout=0.0, norm="none", init="torch")


def build(schema, config, name, *, final=None, **options):
    """A model in evaluation mode with drawn weights and batch norm statistics of a few batches."""
    config = replaced(config, model_name=name, final=final)
    model = build_model(schema, changed(config, name, **options) if options else config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if ".tables." in key:  # whose rows of padding stay zero
                continue
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.1)
        for _ in range(3):
            model(random_inputs(schema, 32, seed=3))
    return model.eval()


def check(model, schema, logit):
    """The logits of 8 rows, each `logit(first order, field vectors, flat vectors)` and the bias."""
    inputs = random_inputs(schema, 8)
    weights = embedding_weights(model.embedding)
    dim = model.embedding.fm_embedding_dim or 4
    for field in schema.fields.values():  # of views that are not read
        weights.setdefault(f"projection of {field.name}", np.zeros((dim, field.embedding_dim)))
        rows, table = field.vocabulary_size, field.embedding_name
        weights.setdefault(table, np.zeros((rows, field.embedding_dim)))
        weights.setdefault(f"{table}_wide", np.zeros((rows, 1)))
        width = len(field.edges) - 1 if field.edges else 2 * field.frequencies
        of_dense = {
            "vectors": (field.value_dim, field.embedding_dim),
            "map": (field.value_dim * width, field.embedding_dim),
            "bias": (field.embedding_dim,),
            "frequencies": (field.value_dim, field.frequencies),
        }
        for what, shape in of_dense.items():
            weights.setdefault(f"{what} of {field.name}", np.zeros(shape))
        if not model.uses_first_order:
            bins = np.zeros((field.value_dim, max(len(field.edges) - 1, 0)))
            weights.setdefault(f"bins of {field.name}", bins)
    numbers = sum(field.value_dim for field in schema.dense_fields)
    weights.setdefault("dense_first_order", np.zeros(numbers))
    views = reference.feature_views(schema, inputs, weights, dim)
    bias = 0.0 if model.bias is None else array(model.bias)
    expected = [bias + logit(*row) for row in zip(*views, strict=True)]
    np.testing.assert_allclose(model(inputs).detach(), expected, atol=1e-5, rtol=1e-4)


def linear(layer, x) -> float:
    bias = 0.0 if layer.bias is None else array(layer.bias)[0]
    return array(layer.weight)[0] @ x + bias


def dnn(model, x):
    """Hidden units of the DNN."""
    return reference.mlp(x, mlp_layers(model.dnn[0]), "relu")


def final(model, *outputs):
    network, output = model.final
    return linear(output, reference.mlp(np.concatenate(outputs), mlp_layers(network), "relu"))


def test_lr(schema, config):
    model = build(schema, config, "lr")
    assert not any("projection" in key for key in model.state_dict())
    assert model.embedding.total_dim == 0
    fields = {
        name: FieldSchema(name=name, feature_type="dense", value_dim=field.value_dim)
        if field in schema.dense_fields
        else field
        for name, field in schema.fields.items()
    }
    plain = DatasetSchema(fields=fields, label_field="label")  # it encodes no numbers
    check(model, plain, lambda first_order, fields, flat: first_order)


def test_fwfm(schema, config):
    model = build(schema, config, "fwfm")
    strengths = array(model.pairs.strengths)

    def logit(first_order, fields, flat):
        return first_order + reference.field_weighted_pairs(fields, strengths)

    check(model, schema, logit)


def test_fwfm_with_a_linear_vector_per_field(schema, config):
    embedded = {name: field for name, field in schema.fields.items() if field.is_embedded}
    part = DatasetSchema(fields=embedded, label_field="label")
    model = build(part, config, "fwfm", linear="fields")
    assert not any("wide" in key or "first_order" in key for key in model.state_dict())
    strengths = array(model.pairs.strengths)

    def logit(first_order, fields, flat):
        own = sum(a @ b for a, b in zip(array(model.linear), fields, strict=True))
        return own + reference.field_weighted_pairs(fields, strengths)

    check(model, part, logit)
    with pytest.raises(ConfigError, match=r"^fwfm\.linear: fields: price is raw and has no vector"):
        build(schema, config, "fwfm", linear="fields")


@pytest.mark.parametrize("name", ["lr", "fwfm"])
def test_one_logit_per_row(schema, config, name):
    with pytest.raises(ConfigError, match=rf"^num_class: {name} has one logit per row, found 3"):
        build_model(schema, replaced(config, model_name=name, num_class=3))


def vector_cross(model, flat):
    weights = [array(weight)[0] for weight in model.cross.weights]
    return reference.vector_cross(flat, weights, [array(bias) for bias in model.cross.biases])


@pytest.mark.parametrize("global_bias", [True, False])
def test_dcn(schema, config, global_bias):
    model = build(schema, replaced(config, global_bias=global_bias), "dcn", layers=2)

    def logit(first_order, fields, flat):
        deep = linear(model.dnn[1], dnn(model, flat))
        return linear(model.cross_output, vector_cross(model, flat)) + deep

    check(model, schema, logit)


@pytest.mark.parametrize("global_bias", [True, False])
def test_dcn_without_a_dnn(schema, config, global_bias):
    model = build(schema, replaced(config, global_bias=global_bias), "dcn", layers=2, deep=False)
    assert not any(key.startswith("dnn") for key in model.state_dict())
    assert model.output_bias is (model.bias if global_bias else model.cross_output.bias)
    check(model, schema, lambda w, v, flat: linear(model.cross_output, vector_cross(model, flat)))


def matrix_cross(model, x):
    return reference.matrix_cross(x, cross_layers(model.cross))


@pytest.mark.parametrize("options", [{}, {"rank": 3}, {"gate": True}, {"rank": 3, "gate": True}])
def test_dcn_v2_parallel(schema, config, options):
    model = build(schema, config, "dcn_v2", layers=2, **options)

    def logit(first_order, fields, flat):
        deep = linear(model.dnn[1], dnn(model, flat))
        return linear(model.cross_output, matrix_cross(model, flat)) + deep

    check(model, schema, logit)


def test_dcn_v2_stacked(schema, config):
    model = build(schema, config, "dcn_v2", layers=2, structure="stacked")

    def logit(first_order, fields, flat):
        return linear(model.dnn[1], dnn(model, matrix_cross(model, flat)))

    check(model, schema, logit)


def test_dcn_v2_alone(schema, config):
    model = build(schema, config, "dcn_v2", layers=2, structure="alone")
    check(model, schema, lambda w, v, flat: linear(model.cross_output, matrix_cross(model, flat)))


@pytest.mark.parametrize("structure", ["parallel", "alone", "stacked"])
def test_dcn_v2_with_a_backbone_and_a_final_network_as_torcheasyrec_has_it(
    schema, config, structure
):
    config = replaced(config, global_bias=False)
    backbone = DNNConfig(hidden_units=(9,), dropout=0.0, norm="none")
    options = {"rank": 3, "init": "torch", "backbone": backbone, "structure": structure}
    model = build(schema, config, "dcn_v2", final=FINAL, layers=2, **options)

    def logit(first_order, fields, flat):
        crossed = matrix_cross(model, reference.mlp(flat, mlp_layers(model.backbone), "relu"))
        if structure == "stacked":
            return final(model, dnn(model, crossed))
        return final(model, crossed, *([dnn(model, flat)] if structure == "parallel" else []))

    check(model, schema, logit)
    assert set(model.branches(random_inputs(schema, 2))) == {"final"}


def test_a_misspelt_activation_of_the_backbone_names_its_key(schema, config):
    with pytest.raises(ConfigError, match=r"^dcn_v2\.backbone\.activation: .*'relu'\?$"):
        build(schema, config, "dcn_v2", backbone=DNNConfig(activation="rleu"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "none", "scale": False, "residual": "none"},
        {"norm": "after", "residual": "identity", "dim": 4},
    ],
)
@pytest.mark.parametrize("deep", [True, False])
def test_autoint(schema, config, deep, options):
    options = {"dim": 6, "norm": "before", "residual": "projected", "scale": True} | options
    model = build(schema, config, "autoint", heads=2, layers=2, deep=deep, **options)
    layers = attention_layers(model.attention)
    forks = {"scale": options["scale"], "norm": options["norm"]}
    forks["identity"] = options["residual"] == "identity"

    def logit(first_order, fields, flat):
        attended = reference.field_self_attention(fields, layers, 2, **forks).ravel()
        if not deep:
            raw = flat[-2:]  # price and distance
            return linear(model.attention_output, np.r_[attended, raw])
        return linear(model.attention_output, attended) + linear(model.dnn[1], dnn(model, flat))

    check(model, schema, logit)
    parts = {"bias", "attention"} | ({"dnn"} if deep else set())
    assert set(model.branches(random_inputs(schema, 2))) == parts


def test_autoint_names_the_key_of_heads_that_do_not_fit(schema, config):
    with pytest.raises(ConfigError, match=r"^autoint\.num_heads: 4 does not divide"):
        build(schema, config, "autoint", heads=4, dim=6)


def test_fcn_is_the_mean_of_its_branches(schema, config):
    model = build(schema, config, "fcn", exponential_layers=2, linear_layers=3)

    def parts(flat):
        exponential = reference.masked_cross(flat, masked_cross_layers(model.exponential), True)
        of_linear = reference.masked_cross(flat, masked_cross_layers(model.linear), False)
        return linear(model.exponential_output, exponential), linear(model.linear_output, of_linear)

    check(model, schema, lambda w, v, flat: sum(parts(flat)) / 2)
    logits = model.training_logits(random_inputs(schema, 8))
    torch.testing.assert_close(logits[""], (logits["exponential"] + logits["linear"]) / 2)
