"""Converted models against the format's arithmetic, on weights under the original's names."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from deepfm.config import ExperimentConfig
from deepfm.data.declared import declared_schema
from deepfm.data.encoding.encoders import Encoders
from deepfm.easyrec.names import parameter_names
from deepfm.easyrec.pipelines import load_pipeline
from deepfm.models import build_model
from deepfm.models.base import BaseCTRModel
from tests.easyrec import oracle
from tests.easyrec.pipelines import write

ROWS = 6
FEATURES = """
feature_configs { id_feature { feature_name: "a" num_buckets: 9 embedding_dim: 4 } }
feature_configs { id_feature { feature_name: "b" num_buckets: 7 embedding_dim: 4 } }
feature_configs { id_feature { feature_name: "c" num_buckets: 5 embedding_dim: 4 } }
feature_configs { raw_feature { feature_name: "n" } }
feature_configs { raw_feature { feature_name: "m" value_dim: 2 } }
feature_configs { sequence_feature { sequence_name: "s" sequence_delim: "|"
  features { id_feature { feature_name: "a" num_buckets: 9 embedding_dim: 4 } }
  features { id_feature { feature_name: "b" num_buckets: 7 embedding_dim: 3 } }
  features { raw_feature { feature_name: "n" } } } }
"""
ALL = """feature_groups { group_name: "all" feature_names: ["a", "b", "n", "m"] %s }"""
APART = """
feature_groups { group_name: "dense" feature_names: ["n", "m"] }
feature_groups { group_name: "sparse" feature_names: ["a", "b", "c"] }
"""
LOSS = "losses { binary_cross_entropy {} }"
STEPS = ["3|0|8", "", "5", "1|1|1|2", "", "7|2"]
CELLS = {
    "a": [0, 3, 8, 1, 5, 3],
    "b": [6, 0, 2, 2, 1, 4],
    "c": [4, 1, 0, 3, 2, 2],
    "n": [0.5, -1.0, 2.0, 0.0, 1.5, -0.25],
    "m": [[0.1, 1.0], [0.2, -1.0], [0.3, 0.5], [2.0, 0.0], [-0.5, 1.0], [0.0, 0.25]],
    "s__a": STEPS,
    "s__b": ["0|6|2", "", "1", "3|4|5|6", "", "2|2"],
    "s__n": ["0.5|1|-1", "", "2", "0.25|0|1|3", "", "-2|0.5"],
}


def built(tmp_path, groups: str, model: str, **parts) -> tuple[BaseCTRModel, object]:
    """A converted model with weights that are nowhere zero, and its inputs."""
    config = load_pipeline(write(tmp_path, features=FEATURES, groups=groups, model=model, **parts))
    return made(config.config)


def made(config: ExperimentConfig) -> tuple[BaseCTRModel, object]:
    schema = declared_schema(config)
    cells = pa.table({name: CELLS[name] for name in schema.fields})
    encoders = Encoders.fit(schema, cells)
    torch.manual_seed(1)
    model = build_model(encoders.schema, config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval(), encoders.encode(cells)


def weights(model: BaseCTRModel) -> oracle.Weights:
    """All but the tables, by the original's names."""
    found: oracle.Weights = {}
    for name, value in model.state_dict().items():
        names = parameter_names(name, model.config.name, model.tower_names)
        if name.startswith("embedding.tables."):
            continue
        assert names, f"{name} has no name there"
        array = value.detach().double().numpy()
        if value.dim() == 2 and name.startswith("layers.") and name.count(".") == 2 - 0:
            array = array.T  # maps of fields are (inputs, outputs) there
        found |= {other: array for other in names if not other.startswith("model.")}
    return found


def vectors(model: BaseCTRModel, table: str, ids) -> np.ndarray:
    rows = model.embedding.tables[table].detach().double().numpy()
    return rows[np.asarray(ids)]


def flat(model: BaseCTRModel, *names: str) -> np.ndarray:
    """Vectors of ids and numbers end to end, (B, total)."""
    parts = []
    for name in names:
        cell = np.asarray(CELLS[name])
        if cell.dtype.kind == "i":
            parts.append(vectors(model, name, cell))
        else:
            parts.append(cell.astype(np.float32).astype(float).reshape(ROWS, -1))
    return np.concatenate(parts, 1)


def steps(model: BaseCTRModel, suffix: str = "_sequence") -> tuple[np.ndarray, list[int]]:
    """Padded vectors of the steps, (B, L, Ds), and how many there are."""
    cut = {
        name: [cell.split("|") if cell else [] for cell in CELLS[name]]
        for name in CELLS
        if "s__" in name
    }
    lengths = [len(row) for row in cut["s__a"]]
    found = np.zeros((ROWS, max(lengths), 8))
    for row, length in enumerate(lengths):
        for place in range(length):
            found[row, place] = np.concatenate(
                [
                    vectors(model, f"s__a{suffix}", int(cut["s__a"][row][place])),
                    vectors(model, f"s__b{suffix}", int(cut["s__b"][row][place])),
                    [float(cut["s__n"][row][place])],
                ]
            )
    return found, lengths


def query(model: BaseCTRModel, *names: str, suffix: str = "_sequence") -> np.ndarray:
    """Its ids have tables of their own, beside those of pooled ones."""
    return np.concatenate([vectors(model, f"{name}{suffix}", CELLS[name]) for name in names], 1)


def agree(found: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected.squeeze(), rtol=2e-4, atol=2e-5)


MLP, DEEP = "{ hidden_units: [5, 4] }", "{ hidden_units: [6] }"


@pytest.mark.parametrize("parallel", ["true", "false"])
@pytest.mark.parametrize("block", ["reduction_ratio: 1.5", "aggregation_dim: 3",
                                   "reduction_ratio: 0 aggregation_dim: 3"])  # fmt: skip
def test_masknet(tmp_path, parallel, block):
    model, inputs = built(
        tmp_path, ALL % "",
        f"mask_net {{ mask_net_module {{ n_mask_blocks: 3 mask_block {{ {block} hidden_dim: 5 }} "
        f"use_parallel: {parallel} top_mlp {MLP} }} }}",
    )  # fmt: skip
    p = weights(model)
    ratio = {"reduction_ratio: 1.5": 16, "aggregation_dim: 3": 11}.get(block, 3)
    assert len(p["mask_net_layer.mask_blocks.0.mask_generator.0.weight"]) == ratio  # of 11
    expected = oracle.masknet(p, flat(model, "a", "b", "n", "m"), 3, parallel == "true")
    agree(model(inputs), expected)


@pytest.mark.parametrize("with_sparse", ["true", "false"])
def test_dlrm(tmp_path, with_sparse):
    model, inputs = built(
        tmp_path, APART,
        f"dlrm {{ dense_mlp {MLP} arch_with_sparse: {with_sparse} final {DEEP} }}",
    )  # fmt: skip
    sparse = flat(model, "a", "b", "c").reshape(ROWS, 3, 4)
    expected = oracle.dlrm(weights(model), sparse, flat(model, "n", "m"), with_sparse == "true")
    agree(model(inputs), expected)


def test_dlrm_of_one_group(tmp_path):
    groups = 'feature_groups { group_name: "any" feature_names: ["a", "b", "c"] }'
    model, inputs = built(tmp_path, groups, f"dlrm {{ final {DEEP} }}")
    sparse = flat(model, "a", "b", "c").reshape(ROWS, 3, 4)
    agree(model(inputs), oracle.dlrm(weights(model), sparse, None, True))


LAYER = """wukong_layers { lcb_feature_num: %d fmb_feature_num: %d compressed_feature_num: 3
                           feature_num_mlp { hidden_units: [5] } }"""


@pytest.mark.parametrize("sizes", [(2, 2), (2, 3)], ids=["as many vectors", "others"])
def test_wukong(tmp_path, sizes):
    layers = LAYER % sizes + LAYER % (2, 1)
    model, inputs = built(
        tmp_path, APART, f"wukong {{ dense_mlp {MLP} {layers} final {DEEP} }}"
    )  # fmt: skip
    sparse = flat(model, "a", "b", "c").reshape(ROWS, 3, 4)
    agree(model(inputs), oracle.wukong(weights(model), sparse, flat(model, "n", "m")))


def test_a_dense_network_that_ends_elsewhere_gets_a_layer(tmp_path, caplog):
    caplog.set_level("INFO", "deepfm")
    final = "final { hidden_units: 3 }"
    network = "dense_mlp { hidden_units: [8, 6] dropout_ratio: [0.1, 0.2] }"
    config = load_pipeline(
        write(tmp_path, features=FEATURES, groups=APART, model=f"dlrm {{ {network} {final} }}")
    ).config
    dense = config.model.dlrm.dense
    assert (dense.hidden_units, dense.dropout) == ((8, 6), (0.1, 0.2, 0.0))
    model, _ = made(config)
    assert weights(model)["dense_mlp.mlp.2.perceptron.0.weight"].shape == (4, 6)
    (line,) = [r.message for r in caplog.records if "dense_mlp" in r.message]
    assert "has 6 units, and the vectors of the group sparse are 4 wide; a layer of 4" in line


def test_multi_tower(tmp_path):
    groups = """feature_groups { group_name: "user" feature_names: ["b", "n"] }
                feature_groups { group_name: "item" feature_names: ["a", "b"] }"""
    model, inputs = built(
        tmp_path, groups,
        f"multi_tower {{ towers {{ input: 'item' mlp {MLP} }} towers {{ input: 'user' mlp {DEEP} }}"
        f" final {DEEP} }}",
    )  # fmt: skip
    towers = {"item": flat(model, "a", "b"), "user": flat(model, "b", "n")}
    agree(model(inputs), oracle.multi_tower(weights(model), towers))


SEQUENCE = 'feature_names: ["a", "b", "s__a", "s__b", "s__n"]'


def test_multi_tower_din(tmp_path):
    """Names and tables, the query filled up with zeros, and length 0."""
    groups = f"""feature_groups {{ group_name: "deep" feature_names: ["a", "c", "n"] }}
                 feature_groups {{ group_name: "seq" {SEQUENCE} group_type: SEQUENCE }}"""
    groups = groups.replace('["a", "b", "s__a"', '["a", "s__a"')
    model, inputs = built(
        tmp_path, groups,
        f"multi_tower_din {{ towers {{ input: 'deep' mlp {DEEP} }} "
        f"din_towers {{ input: 'seq' attn_mlp {MLP} }} final {DEEP} }}",
    )  # fmt: skip
    tables = {*model.embedding.tables.logical}
    assert tables == {"a", "c", "a_sequence", "s__a_sequence", "s__b_sequence"}
    p, (padded, lengths) = weights(model), steps(model)
    encoded = oracle.din(p, "din_towers.0", query(model, "a"), padded, lengths)
    assert not encoded[1].any()
    expected = oracle.multi_tower(p, {"deep": flat(model, "a", "c", "n")}, [encoded])
    agree(model(inputs), expected)


@pytest.mark.parametrize("network", ["", "activation: 'Dice'", "use_bn: true"])
def test_din_in_a_deep_group_counts_padding_in_statistics(tmp_path, network):
    """In training; the encoder's output stands behind the group's features."""
    nested = f"""sequence_groups {{ {SEQUENCE} }}
                 sequence_encoders {{ din_encoder {{
                   attn_mlp {{ hidden_units: [5] {network} }} }} }}"""
    model, inputs = built(
        tmp_path, ALL % nested,
        f"dbmtl {{ task_towers {{ tower_name: 'ctr' label_name: 'y' {LOSS} }} }}", losses="",
        metrics="",
    )  # fmt: skip
    name = "embedding_group._group_name_to_seq_encoders.deep.0"
    p, (padded, lengths) = weights(model), steps(model)

    def over_all(x: np.ndarray) -> np.ndarray:
        mean, variance = x.mean((0, 1)), x.var((0, 1))
        normed = (x - mean) / np.sqrt(variance + 1e-5)
        layer = f"{name}.mlp.mlp.0.perceptron."
        if "Dice" in network:
            slope = p[f"{layer}1.alpha"]
            share = oracle.sigmoid(normed)
            return share * x + (1 - share) * slope * x
        if "bn" in network:
            return oracle.relu(normed * p[f"{layer}1.weight"] + p[f"{layer}1.bias"])
        return oracle.relu(x)

    encoded = oracle.din(p, name, query(model, "a", "b"), padded, lengths, over_all)
    x = np.concatenate([flat(model, "a", "b", "n", "m"), encoded], 1)
    expected = oracle.dbmtl(p, x, ["ctr"], {})[0]
    agree(model.train()(inputs), expected)


ENCODERS = {
    "simple_attention": ("simple_attention { input: 's' }", "simple"),
    "pooling": ("pooling_encoder { input: 's' }", "mean"),
    "sum": ("pooling_encoder { input: 's' pooling_type: 'sum' }", "sum"),
}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("cut", [0, 2])
def test_other_encoders(tmp_path, encoder, cut):
    text, kind = ENCODERS[encoder]
    text = text.replace("input: 's'", f"input: 's' max_seq_length: {cut}")
    names = '["c", "a", "s__a", "s__b", "s__n"]' if kind == "simple" else '["s__a", "s__b", "s__n"]'
    nested = f"""sequence_groups {{ group_name: "s" feature_names: {names} }}
                 sequence_encoders {{ {text} }}"""
    model, inputs = built(
        tmp_path, ALL % nested,
        f"dbmtl {{ task_towers {{ tower_name: 'ctr' label_name: 'y' {LOSS} }} }}", losses="",
        metrics="",
    )  # fmt: skip
    padded, lengths = steps(model)
    lengths = [min(length, cut or length) for length in lengths]
    if kind == "simple":
        encoded = oracle.simple_attention(query(model, "c", "a"), padded, lengths)
    else:
        encoded = oracle.pooling(padded, np.array(lengths), kind)
    x = np.concatenate([flat(model, "a", "b", "n", "m"), encoded], 1)
    agree(model(inputs), oracle.dbmtl(weights(model), x, ["ctr"], {})[0])


def towers(text: str, more: str = "") -> str:
    return f"""task_towers {{ tower_name: "ctr" label_name: "y" {text} {LOSS} }}
               task_towers {{ tower_name: "cvr" label_name: "z" {text} {LOSS} {more} }}
               task_towers {{ tower_name: "buy" label_name: "z" {LOSS} }}"""


TWO = {"losses": "", "metrics": "", "data": "label_fields: 'z'"}


@pytest.mark.parametrize("gate", ["", f"gate_mlp {DEEP}"])
def test_mmoe(tmp_path, gate):
    text = f"mmoe {{ expert_mlp {MLP} {gate} num_expert: 2 {towers(f'mlp {DEEP}')} }}"
    model, inputs = built(tmp_path, ALL % "", text, **TWO)
    expected = oracle.mmoe(weights(model), flat(model, "a", "b", "n", "m"), 3)
    for found, own in zip(model(inputs).values(), expected, strict=True):
        agree(found, own)


def test_ple(tmp_path):
    level = """extraction_networks { network_name: "x" expert_num_per_task: %d share_num: %d
                                     task_expert_net { hidden_units: [5, %d] }
                                     share_expert_net { hidden_units: [%d] } }"""
    levels = level % (2, 1, 4, 4) + level % (1, 2, 3, 3) + level % (1, 1, 4, 4)
    text = f"ple {{ {levels} {towers(f'mlp {DEEP}')} }}"
    model, inputs = built(tmp_path, ALL % "", text, **TWO)
    expected = oracle.ple(weights(model), flat(model, "a", "b", "n", "m"), 3)
    for found, own in zip(model(inputs).values(), expected, strict=True):
        agree(found, own)


@pytest.mark.parametrize("experts", ["", f"expert_mlp {DEEP} num_expert: 2"])
@pytest.mark.parametrize(
    "bottom",
    [
        "",
        f"bottom_mlp {MLP}",
        f"mask_net {{ n_mask_blocks: 2 mask_block {{ hidden_dim: 5 }} use_parallel: false "
        f"top_mlp {DEEP} }} bottom_mlp {MLP}",
    ],
    ids=["none", "bottom", "masks"],
)
def test_dbmtl_with_relations(tmp_path, experts, bottom):
    relation = f"relation_tower_names: 'ctr' relation_mlp {DEEP}"
    text = f"dbmtl {{ {bottom} {experts} {towers(f'mlp {MLP}', relation)} }}"
    third = f'"buy" label_name: "z" {LOSS}'
    more = f'relation_mlp {MLP} relation_tower_names: ["cvr", "ctr"]'
    text = text.replace(third, f"{third} {more}")
    model, inputs = built(tmp_path, ALL % "", text, **TWO)
    relations = {"cvr": ["ctr"], "buy": ["cvr", "ctr"]}
    x = flat(model, "a", "b", "n", "m")
    expected = oracle.dbmtl(weights(model), x, ["ctr", "cvr", "buy"], relations)
    for found, own in zip(model(inputs).values(), expected, strict=True):
        agree(found, own)


def test_dcn_v1(tmp_path):
    for text in (
        f"cross {{ cross_num: 2 }} deep {MLP} final {DEEP}",
        f"cross_tower {{ cross_num: 2 }} deep_tower {MLP} final_dnn {DEEP}",
    ):
        model, inputs = built(tmp_path, ALL % "", f"dcn_v1 {{ {text} }}")
        agree(model(inputs), oracle.dcn_v1(weights(model), flat(model, "a", "b", "n", "m")))


@pytest.mark.parametrize("deep", ["", f"deep {MLP}"])
@pytest.mark.parametrize("backbone", ["", f"backbone {MLP}"])
def test_dcn_v2(tmp_path, deep, backbone):
    text = f"dcn_v2 {{ {backbone} cross {{ cross_num: 2 low_rank: 3 }} {deep} final {DEEP} }}"
    model, inputs = built(tmp_path, ALL % "", text)
    agree(model(inputs), oracle.dcn_v2(weights(model), flat(model, "a", "b", "n", "m")))
