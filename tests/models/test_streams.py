"""FinalMLP, FinalNet, TF4CTR and towers against float64 loops, and what their options change."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deepfm.config import DNNConfig, config_from_dict
from deepfm.errors import ConfigError
from deepfm.models import build_model
from deepfm.models.options import (
    BilinearStreamsConfig,
    FactorizedBlocksConfig,
    TowersConfig,
    TwinTowersConfig,
)
from deepfm.preflight import check_settings
from tests import reference
from tests.models import oracle
from tests.models.conftest import changed, random_inputs, replaced, shaken

DEEP = ("user", "items", "price", "clicks", "keys", "type")
SMALL = DNNConfig(hidden_units=(6, 4), dropout=0.0)


def with_groups(config, name, groups, **sections):
    config = replaced(config, model_name=name, **sections)
    return changed(config, "feature", groups=groups)


def views(model, schema, inputs, groups, suffix=""):
    """Per row a dict of vectors end to end, from the tables of a suffix."""
    weights, widths = oracle.embedding_weights(model.embedding), {}
    for field in schema.fields.values() if suffix else ():
        own = f"{field.embedding_name}_{suffix}"
        if not field.is_dense and own in weights:
            weights[field.embedding_name] = weights[own]
            widths[field.name] = {"embedding_dim": weights[own].shape[1]}
            shared = [f for f in schema.fields.values() if f.embedding_name == field.embedding_name]
            widths |= {other.name: widths[field.name] for other in shared}
    schema_of_tables = schema.with_fields(widths)
    found = reference.group_views(schema_of_tables, inputs, weights, groups, 0)
    return [{name: np.concatenate(group) for name, group in row.items()} for row in found]


def network(mlp, x):
    return reference.mlp(x, oracle.mlp_layers(mlp), "relu")


def linear(layer, x):
    weight, bias = oracle.affine(layer)
    return (weight @ x + bias)[0]


def check(model, schema, inputs, logit):
    """The model's logits are those of a function of a row's number."""
    expected = [model.bias.item() + logit(row) for row in range(inputs.num_rows)]
    np.testing.assert_allclose(model(inputs).detach(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("contexts", [{}, {"gate_1": ("user", "clicks")}, {"gate_2": ("keys",)}])
@pytest.mark.parametrize("heads", [1, 2])
def test_finalmlp_equals_loops(schema, config, contexts, heads):
    section = BilinearStreamsConfig(second=SMALL, num_heads=heads, gate_hidden_units=(5,))
    groups = {"deep": DEEP, **contexts}
    model = shaken(schema, with_groups(config, "finalmlp", groups, finalmlp=section))
    inputs = random_inputs(schema, 8)
    flat = views(model, schema, inputs, {"deep": DEEP})
    read = {}
    for name, names in contexts.items():
        read[name] = views(model, schema, inputs, {name: names}, suffix=name)
    fusion = oracle.bilinear_weight(model.fusion)

    def logit(row):
        outputs = []
        for k, (gate, mlp) in enumerate(zip(model.gates, (model.first, model.second), strict=True)):
            name = f"gate_{k + 1}"
            context = read[name][row][name] if name in read else oracle.array(gate.constant[0])
            layers, output = oracle.mlp_layers(gate.network), oracle.affine(gate.output)
            gated = reference.feature_gate(flat[row]["deep"], context, layers, output)
            outputs.append(network(mlp, gated))
        logits = [linear(one, x) for one, x in zip(model.output_maps, outputs, strict=True)]
        return sum(logits) + reference.bilinear(*outputs, fusion).sum()

    check(model, schema, inputs, logit)
    assert list(model.branches(inputs)) == ["bias", "first", "second", "bilinear"]


def test_gates_have_tables_of_their_own(schema, config):
    groups = {"deep": DEEP, "gate_1": ("user",), "gate_2": ("user", "price")}
    model = build_model(schema, with_groups(config, "finalmlp", groups))
    tables = model.embedding.tables
    names = [name for name in tables.places if name.startswith("user")]
    assert sorted(names) == ["user", "user_gate_1", "user_gate_2"]
    assert not torch.equal(tables["user"], tables["user_gate_1"])
    shared = changed(
        with_groups(config, "finalmlp", groups),
        "feature",
        table_suffixes={"gate_1": "gates", "gate_2": "gates"},
    )
    names = [name for name in build_model(schema, shared).embedding.tables.places if "user" in name]
    assert sorted(names) == ["user", "user_gates"]


def test_finalmlp_without_gates(schema, config):
    section = BilinearStreamsConfig(use_gates=False)
    model = build_model(schema, replaced(config, model_name="finalmlp", finalmlp=section)).eval()
    assert not model.gates
    inputs = random_inputs(schema, 4)
    flat = model.embedding(*inputs).flat_embeddings
    first, second = model.first(flat), model.second(flat)
    found = model.branches(inputs)
    torch.testing.assert_close(found["first"], model.output_maps[0](first).squeeze(1))
    torch.testing.assert_close(found["bilinear"], model.fusion(first, second).sum((1, 2)))


def test_finalmlp_of_three_classes(schema, config):
    config = replaced(config, model_name="finalmlp", num_class=3)
    config = changed(config, "training", losses="softmax_cross_entropy")
    model = build_model(schema, config).eval()
    inputs = random_inputs(schema, 5)
    assert model(inputs).shape == (5, 3)
    torch.testing.assert_close(sum(model.branches(inputs).values()), model(inputs))


@pytest.mark.parametrize("combine", ["concat", "sum"])
@pytest.mark.parametrize("num_blocks", [1, 2])
def test_finalnet_equals_loops(schema, config, combine, num_blocks):
    section = FactorizedBlocksConfig(num_blocks=num_blocks, combine=combine, second=SMALL)
    model = shaken(schema, with_groups(config, "finalnet", {"deep": DEEP}, finalnet=section))
    inputs = random_inputs(schema, 8)
    flat = views(model, schema, inputs, {"deep": DEEP})

    def logits(row):
        return [
            linear(
                output,
                reference.factorized_block(
                    flat[row]["deep"], oracle.factorized_layers(block), combine, "relu"
                ),
            )
            for block, output in zip(model.blocks, model.output_maps, strict=True)
        ]

    check(model, schema, inputs, lambda row: sum(logits(row)) / num_blocks)
    assert len(model.blocks) == num_blocks
    of_training = model.training_logits(inputs)
    if num_blocks == 1:
        assert list(of_training) == [""]
        return
    expected = np.array([logits(row) for row in range(8)]) + model.bias.item()
    for k, name in enumerate(("first", "second")):
        np.testing.assert_allclose(of_training[name].detach(), expected[:, k], atol=1e-5)


def test_finalnet_reads_gated_fields_behind_the_others(schema, config):
    section = FactorizedBlocksConfig(num_blocks=1, field_gates=True)
    model = shaken(schema, replaced(config, model_name="finalnet", finalnet=section))
    inputs = random_inputs(schema, 8)
    found = model.embedding(*inputs)
    flat, fields = (
        x.detach().double().numpy() for x in (found.flat_embeddings, found.field_embeddings)
    )
    weight, bias = oracle.affine(model.gates.linear)
    layers = oracle.factorized_layers(model.blocks[0])

    def logit(row):
        x = np.concatenate([flat[row], reference.field_gates(fields[row], weight, bias)])
        return linear(model.output_maps[0], reference.factorized_block(x, layers, "concat", "relu"))

    check(model, schema, inputs, logit)


def test_factorized_layers_need_even_widths(schema, config):
    dnn = replace(SMALL, hidden_units=(5,))
    with pytest.raises(ConfigError, match=r"^dnn\.hidden_units: expected even widths, got \[5\]$"):
        build_model(schema, replaced(config, model_name="finalnet", dnn=dnn))
    section = FactorizedBlocksConfig(second=replace(SMALL, activation="rleu"))
    with pytest.raises(ConfigError, match=r"^finalnet\.second\.activation: .*'relu'\?$"):
        build_model(schema, replaced(config, model_name="finalnet", finalnet=section))


@pytest.mark.parametrize("fusion", ["weighted", "sum", "linear"])
@pytest.mark.parametrize("easy_dim", [3, None])
def test_tf4ctr_equals_loops(schema, config, fusion, easy_dim):
    section = TwinTowersConfig(easy=SMALL, easy_dim=easy_dim, fusion=fusion)
    model = shaken(schema, with_groups(config, "tf4ctr", {"deep": DEEP}, tf4ctr=section))
    inputs = random_inputs(schema, 8)
    flat = views(model, schema, inputs, {"deep": DEEP})
    suffix = "" if easy_dim is None else "easy"
    narrow = views(model, schema, inputs, {"deep": DEEP}, suffix=suffix)

    def outputs(row):
        return network(model.easy, narrow[row]["deep"]), network(model.hard, flat[row]["deep"])

    def logits(row, maps):
        return [linear(one, x) for one, x in zip(maps, outputs(row), strict=True)]

    def logit(row):
        if fusion == "linear":
            return sum(logits(row, model.linear))
        weights = oracle.array(model.weight) if fusion == "weighted" else (1, 1)
        return sum(w * y for w, y in zip(weights, logits(row, model.output_maps), strict=True))

    check(model, schema, inputs, logit)
    of_training = model.training_logits(inputs)
    for k, name in enumerate(("easy", "hard")):
        expected = [model.bias.item() + logits(row, model.output_maps)[k] for row in range(8)]
        np.testing.assert_allclose(of_training[name].detach(), expected, atol=1e-5)


def test_the_easy_tower_has_narrower_tables_of_its_own(schema, config):
    section = TwinTowersConfig(easy_dim=2)
    model = build_model(schema, replaced(config, model_name="tf4ctr", tf4ctr=section))
    assert model.embedding.tables["user"].shape == (12, 4)
    assert model.embedding.tables["user_easy"].shape == (12, 2)
    ids = [field for field in schema.fields.values() if not field.is_dense]
    numbers = [field for field in schema.fields.values() if field.is_dense]
    of_numbers = sum(f.embedding_dim if f.is_embedded else f.value_dim for f in numbers)
    found = model.embedding.group_feature_dims("easy")
    assert sum(found.values()) == 2 * len(ids) + of_numbers
    assert list(found)[-2:] == ["price", "distance"]


def test_towers_equal_loops(schema, config):
    groups = {"user": ("user", "clicks", "price"), "item": ("item", "items", "user")}
    towers = TowersConfig(towers={"user": SMALL, "item": replace(SMALL, hidden_units=(3,))})
    model = shaken(schema, with_groups(config, "multi_tower", groups, multi_tower=towers))
    inputs = random_inputs(schema, 8)
    flat = views(model, schema, inputs, groups)

    def logit(row):
        found = 0.0
        for name, mlp, output in zip(groups, model.towers, model.output_maps, strict=True):
            found += linear(output, network(mlp, flat[row][name]))
        return found

    check(model, schema, inputs, logit)
    assert list(model.branches(inputs)) == ["bias", "user", "item"]
    assert [name for name in model.embedding.tables.places if "user" in name] == ["user"]
    final = build_model(schema, replaced(config_with_final(config, groups, towers)))
    assert final.final[0].layers[0][0].in_features == 4 + 3
    assert list(final.branches(inputs)) == ["bias", "final"]


def config_with_final(config, groups, towers):
    found = with_groups(config, "multi_tower", groups, multi_tower=towers)
    return replaced(found, final=SMALL)


def test_towers_without_a_global_bias_have_one_bias(schema, config):
    groups = {"user": ("user",), "item": ("item",)}
    towers = TowersConfig(towers={"user": SMALL, "item": SMALL})
    config = with_groups(config, "multi_tower", groups, multi_tower=towers)
    model = build_model(schema, replaced(config, global_bias=False))
    assert model.bias is None
    assert model.output_bias is model.output_maps[0].bias
    assert model.output_maps[1].bias is None


def test_towers_need_their_groups(schema, config):
    towers = TowersConfig(towers={"user": SMALL, "item": SMALL})
    config = replaced(config, model_name="multi_tower", multi_tower=towers)
    with pytest.raises(ConfigError, match=r"^feature\.groups: expected the fields .*: user, item$"):
        build_model(schema, config)
    config = changed(config, "feature", groups={"user": ("user",)})
    with pytest.raises(ConfigError, match=r"^feature\.groups: the model needs a group item"):
        build_model(schema, config)
    config = changed(config, "feature", groups={"usr": ("user",), "item": ("item",)})
    with pytest.raises(ConfigError, match=r"^feature\.groups\.usr: unknown group; .*'user'\?$"):
        build_model(schema, config)


@pytest.mark.parametrize("name", ["finalmlp", "finalnet", "tf4ctr"])
def test_without_a_global_bias_each_stream_has_one(schema, config, name):
    config = replaced(config, model_name=name, global_bias=False)
    model = build_model(schema, config).eval()
    assert model.output_bias is None
    assert all(one.bias is not None for one in model.output_maps)
    inputs = random_inputs(schema, 4)
    torch.testing.assert_close(sum(model.branches(inputs).values()), model(inputs))


@pytest.mark.parametrize("name", ["finalnet", "tf4ctr"])
def test_a_final_network_leaves_no_logits_of_branches(schema, config, name):
    config = replaced(config, model_name=name, final=SMALL)
    assert config.model.branch_names == ()
    assert list(build_model(schema, config).training_logits(random_inputs(schema, 4))) == [""]
    loss = {"finalnet": "branch_distillation", "tf4ctr": "twin_focus"}[name]
    raw = {"model_name": name, "final": {"hidden_units": [4]}}
    config = config_from_dict({**raw, "training": {"losses": ["binary_cross_entropy", loss]}})
    with pytest.raises(ConfigError, match=rf"{loss} reads the logits of 2 branches or more, found"):
        check_settings(config)


def test_heads_must_divide_the_streams(schema, config):
    section = BilinearStreamsConfig(num_heads=3)
    with pytest.raises(ConfigError, match=r"^finalmlp\.num_heads: 3 does not divide the width 8$"):
        build_model(schema, replaced(config, model_name="finalmlp", finalmlp=section))
