"""Each model's logit against float64 loops with its weights, and what its options change."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.errors import ConfigError
from deepfm.models import build_model
from tests import reference
from tests.models.conftest import changed, random_inputs, replaced
from tests.models.oracle import array, attention_layers, cin_filters, embedding_weights, mlp_layers


def build(schema, config, name, **fm):
    """A model in evaluation mode whose bias and batch norm statistics are not the initial ones."""
    model = build_model(schema, changed(replaced(config, model_name=name), "fm", **fm))
    with torch.no_grad():
        model.bias.fill_(0.25)
        for _ in range(3):
            model(random_inputs(schema, 32, seed=3))
    return model.eval()


def dnn_logit(model, x):
    mlp, output = model.dnn
    return (array(output.weight) @ reference.mlp(x, mlp_layers(mlp), "relu"))[0]


def deepfm_logit(model, linear, fields, flat):
    return linear + reference.factorization_machine(fields).sum() + dnn_logit(model, flat)


def xdeepfm_logit(model, linear, fields, flat):
    filters = cin_filters(model.cin, num_fields=len(fields))
    explicit = reference.cin(fields, filters, model.config.cin.split_half)
    return linear + array(model.cin_output.weight)[0] @ explicit + dnn_logit(model, flat)


def attention_deepfm_logit(model, linear, fields, flat):
    attended = reference.field_self_attention(fields, attention_layers(model.attention), 2)
    raw_dense = flat[-2:]  # price and distance
    second_order = reference.factorization_machine(fields).sum()
    return linear + second_order + dnn_logit(model, np.r_[attended.ravel(), raw_dense])


def wide_and_deep_logit(model, linear, fields, flat):
    return linear + dnn_logit(model, flat)


def fm_logit(model, linear, fields, flat):
    return linear + reference.factorization_machine(fields).sum()


@pytest.mark.parametrize(
    ("name", "expected_logit"),
    [
        ("fm", fm_logit),
        ("deepfm", deepfm_logit),
        ("xdeepfm", xdeepfm_logit),
        ("attention_deepfm", attention_deepfm_logit),
        ("wide_and_deep", wide_and_deep_logit),
    ],
)
def test_logit_equals_loops(schema, config, name, expected_logit):
    model, inputs = build(schema, config, name), random_inputs(schema, 8)
    weights = embedding_weights(model.embedding)
    dim = model.embedding.fm_embedding_dim
    if not dim:  # no projections, and the oracle's field vectors are not read
        dim = 4
        for field in schema.fields.values():
            weights[f"projection of {field.name}"] = np.zeros((dim, field.embedding_dim))
    views = reference.feature_views(schema, inputs, weights, dim)
    expected = [0.25 + expected_logit(model, *row) for row in zip(*views, strict=True)]
    np.testing.assert_allclose(model(inputs).detach(), expected, atol=1e-5, rtol=1e-5)


def test_fm_has_one_logit_and_no_network(schema, config):
    model = build(schema, config, "fm")
    assert not hasattr(model, "dnn")
    assert model.final is None
    assert model.embedding.total_dim == 0
    with pytest.raises(ConfigError, match=r"^num_class: fm has one logit per row, found 3 classes"):
        build_model(schema, replaced(config, model_name="fm", num_class=3))


def test_second_order_off(schema, config):
    model, inputs = (
        build(schema, config, "deepfm", use_second_order=False),
        random_inputs(schema, 8),
    )
    assert not any("projections" in key for key in model.state_dict())
    first_order, _, flat = model.embedding(*inputs)[:3]
    expected = 0.25 + first_order.squeeze(1) + model.dnn(flat).squeeze(1)
    torch.testing.assert_close(model(inputs), expected)


@pytest.mark.parametrize("name", ["deepfm", "xdeepfm", "attention_deepfm"])
def test_first_order_off_means_no_wide_tables(schema, config, name):
    model = build(schema, config, name, use_first_order=False)
    assert not any("_wide" in key or "first_order" in key for key in model.state_dict())
    assert model.predict(random_inputs(schema, 3)).isfinite().all()


def test_attention_deepfm_without_second_order_is_the_dnn_alone(schema, config):
    flags = {"use_first_order": False, "use_second_order": False}
    model = build(schema, config, "attention_deepfm", **flags)
    inputs = random_inputs(schema, 4)
    attended = model.attention(model.embedding(*inputs).field_embeddings).flatten(1)
    expected = 0.25 + model.dnn(torch.cat([attended, inputs.dense[:, [0, 2]]], 1)).squeeze(1)
    torch.testing.assert_close(model(inputs), expected)


def test_wide_and_deep_always_has_its_wide_part_and_no_projection(schema, config):
    model = build(schema, config, "wide_and_deep", use_first_order=False)
    keys = list(model.state_dict())
    assert "embedding.tables.user_wide.weight" in keys
    assert not any("projections" in key for key in keys)


@pytest.mark.parametrize("scope", ["batch", "table"])
def test_l2_loss_follows_the_config(schema, config, inputs, scope):
    model = build_model(schema, changed(config, "feature", embedding_l2_scope=scope))
    weights = embedding_weights(model.embedding)
    if scope == "batch":
        expected = reference.l2_of_batch(schema, inputs, weights, 0.1)
    else:
        fields = (*schema.sparse_fields, *schema.sequence_fields)
        names = {name for f in fields for name in (f.embedding_name, f"{f.embedding_name}_wide")}
        expected = 0.05 * sum((weights[name] ** 2).sum() for name in names)
    loss = model.get_l2_reg_loss(inputs)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected)


def test_without_l2_the_loss_is_zero(schema, config, inputs):
    model = build_model(schema, changed(config, "feature", embedding_l2_reg=0.0))
    assert model.get_l2_reg_loss(inputs).item() == 0


def test_the_output_of_the_dnn_has_no_second_bias(schema, config):
    assert build_model(schema, config).dnn[1].bias is None


@pytest.mark.parametrize(
    ("section", "values", "name", "message"),
    [
        ("dnn", {"hidden_units": ()}, "deepfm", r"^dnn\.hidden_units: expected at least one"),
        ("dnn", {"use_layer_norm": True}, "deepfm", r"^dnn\.use_layer_norm: .*use_batch_norm"),
        ("cin", {"layer_sizes": ()}, "xdeepfm", r"^cin\.layer_sizes: expected at least one"),
        ("cin", {"layer_sizes": (1, 2)}, "xdeepfm", r"^cin\.layer_sizes: split_half needs"),
        ("attention", {"num_heads": 5}, "attention_deepfm", r"^attention\.num_heads: 5 does not"),
        ("feature", {"init": "banana"}, "deepfm", r"^feature\.init: .*known: xavier_uniform,"),
    ],
)
def test_values_that_a_layer_refuses_name_the_key(schema, config, section, values, name, message):
    with pytest.raises(ConfigError, match=message):
        build_model(schema, changed(replaced(config, model_name=name), section, **values))


def test_layer_norm_in_place_of_batch_norm(schema, config):
    config = changed(config, "dnn", use_batch_norm=False, use_layer_norm=True)
    norms = [type(m).__name__ for m in build_model(schema, config).dnn.modules()]
    assert norms.count("LayerNorm") == 2
    assert "BatchNorm1d" not in norms


def test_encoders_must_be_fitted(schema, config):
    unfitted = schema.with_fields({"tags": {"vocabulary_size": 0}})
    with pytest.raises(ConfigError, match=r"field tags: .*fit the encoders first"):
        build_model(unfitted, config)


def test_the_name_of_a_first_order_table_is_taken(schema, config):
    wide = FieldSchema(name="user_wide", feature_type="sparse", vocabulary_size=3)
    clashing = replace(schema, fields={**schema.fields, "user_wide": wide})
    with pytest.raises(
        ConfigError, match=r"field user_wide: .* first-order table of user, user_wide"
    ):
        build_model(clashing, config)
    shared = schema.with_fields({"item": {"embedding_name": "user_wide"}})
    with pytest.raises(ConfigError, match=r"field item: .* first-order table of user, user_wide"):
        build_model(shared, config)


def test_fields_that_share_a_table_agree_about_its_rows(schema, config):
    with pytest.raises(ConfigError, match=r"fields items and item share the table items, .* rows"):
        build_model(schema.with_fields({"item": {"vocabulary_size": 10}}), config)


@pytest.mark.parametrize("name", ["deepfm", "xdeepfm", "attention_deepfm", "wide_and_deep"])
def test_a_schema_of_raw_dense_fields(config, name):
    fields = {n: FieldSchema(name=n, feature_type="dense") for n in ("x", "y")}
    schema = DatasetSchema(fields=fields, label_field="label")
    config = replaced(config, model_name=name)
    if name == "wide_and_deep":
        assert build_model(schema, config).predict(random_inputs(schema, 3)).shape == (3,)
    else:
        with pytest.raises(ConfigError, match=f"{name} needs embedded fields"):
            build_model(schema, config)
