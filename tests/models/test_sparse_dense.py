"""DLRM and Wukong against float64 loops with their weights, and what their options change."""

import numpy as np
import pytest

from deepfm.config import DNNConfig
from deepfm.errors import ConfigError
from deepfm.models import build_model
from deepfm.models.options import DotsConfig, WukongLayerConfig, WukongLayersConfig
from tests import reference
from tests.models import oracle
from tests.models.conftest import changed, random_inputs, replaced, shaken

SPARSE = ("item", "user", "tags", "clicks", "keys")
SMALL = DNNConfig(hidden_units=(6,), dropout=0.0)
GROUPS = [
    {"sparse": SPARSE, "dense": ("price", "depth")},
    {"sparse": SPARSE},
    {"deep": ("price", *SPARSE, "distance")},
]


def fields_of(model, schema, inputs, groups):
    """Per row the vectors, that of the numbers first, (N, D), and those of ids alone."""
    sparse = groups.get("sparse", SPARSE)
    dense = groups.get("dense", () if "sparse" in groups else ("price", "distance"))
    weights, dim = oracle.embedding_weights(model.embedding), model.embedding.fm_embedding_dim
    found = reference.group_views(schema, inputs, weights, {"fm": sparse, "dense": dense}, dim)
    for row in found:
        vectors = list(row["fm"])
        if dense:
            numbers = np.concatenate(row["dense"])
            x = reference.mlp(numbers, oracle.mlp_layers(model.dense), "relu")
            vectors = [x, *vectors]
        yield np.array(vectors), np.array(row["fm"]), bool(dense)


def top(model, x):
    mlp, output = model.dnn
    weight, bias = oracle.affine(output)
    x = reference.mlp(x, oracle.mlp_layers(mlp), "relu")
    return model.bias.item() + (weight @ x + bias)[0]


@pytest.mark.parametrize("groups", GROUPS, ids=lambda groups: "-".join(groups))
@pytest.mark.parametrize("with_sparse", [True, False])
def test_dlrm_equals_loops(schema, config, groups, with_sparse):
    section = DotsConfig(dense=SMALL, with_sparse=with_sparse)
    config = changed(replaced(config, model_name="dlrm", dlrm=section), "feature", groups=groups)
    model, inputs = shaken(schema, config), random_inputs(schema, 8)
    expected = []
    for vectors, sparse, has_dense in fields_of(model, schema, inputs, groups):
        read = [reference.pairwise_dots(vectors)]
        read += [vectors[0]] if has_dense else []
        read += [sparse.ravel()] if with_sparse else []
        expected.append(top(model, np.concatenate(read)))
    np.testing.assert_allclose(model(inputs).detach(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("groups", GROUPS, ids=lambda groups: "-".join(groups))
def test_wukong_equals_loops(schema, config, groups):
    mlp = DNNConfig(hidden_units=(7,), norm="none", dropout=0.0, init="torch")
    layers = (
        WukongLayerConfig(factorized=2, linear=3, compressed=2, mlp=mlp),
        WukongLayerConfig(factorized=3, linear=2, compressed=3, mlp=mlp),
    )
    section = WukongLayersConfig(layers=layers, dense=SMALL)
    config = replaced(config, model_name="wukong", wukong=section)
    config = changed(config, "feature", groups=groups)
    model, inputs = shaken(schema, config), random_inputs(schema, 8)
    expected = []
    for vectors, _, _ in fields_of(model, schema, inputs, groups):
        for layer in model.layers:
            vectors = reference.wukong_layer(vectors, oracle.wukong_layer(layer))
        expected.append(top(model, vectors.ravel()))
    np.testing.assert_allclose(model(inputs).detach(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["dlrm", "wukong"])
def test_without_groups_all_fields_are_read(schema, config, name):
    model = build_model(schema, replaced(config, model_name=name))
    assert model.embedding.num_fields == 14
    assert list(model.embedding.group_feature_dims("dense")) == ["price", "distance"]
    assert model.dense.output_dim == model.embedding.fm_embedding_dim == 4
    assert model.num_vectors == 15


@pytest.mark.parametrize("name", ["dlrm", "wukong"])
def test_groups_that_do_not_fit_are_errors(schema, config, name):
    config = replaced(config, model_name=name)
    for groups, message in (
        ({"sparse": ("user", "price")}, r"^feature\.groups\.sparse: field price is raw"),
        ({"dense": ("price",)}, r"^feature\.groups: the model needs a group deep, found dense$"),
        ({"spars": ("user",)}, r"^feature\.groups\.spars: unknown group; .*'sparse'\?$"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_model(schema, changed(config, "feature", groups=groups))
    uneven = changed(config, "feature", groups={"sparse": SPARSE}, unequal_dims="error")
    with pytest.raises(ConfigError, match=r"^feature\.unequal_dims: error: .*tags 2"):
        build_model(schema, uneven)


def test_a_network_of_a_layer_names_its_key(schema, config):
    layer = WukongLayerConfig(mlp=DNNConfig(hidden_units=(4,), activation="rleu"))
    config = replaced(config, model_name="wukong", wukong=WukongLayersConfig(layers=(layer,)))
    with pytest.raises(ConfigError, match=r"^wukong\.layers\.0\.mlp\.activation: .*'relu'\?$"):
        build_model(schema, config)
