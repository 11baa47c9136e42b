"""What every model owes: each of `MODELS`, with and without groups and a final network."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from deepfm.config import config_from_dict
from deepfm.data.batch import Inputs
from deepfm.errors import ConfigError
from deepfm.models import build_model
from deepfm.models.layers import encoders
from deepfm.models.options.sequences import SequenceConfig
from tests.models.conftest import OF_ONE_TASK, changed, random_inputs, replaced

# Operators that a training step may use: each has an MPS kernel. A new one is looked up first.
ON_MPS = set(
    """
    _prelu_kernel _prelu_kernel_backward any constant_pad_nd gt rsqrt rsub scalar_tensor where
    _softmax _softmax_backward_data _to_copy _unsafe_view add add_ addcmul addmm alias amax
    arange bernoulli_
    binary_cross_entropy_with_logits bitwise_and bitwise_not bmm cat clamp clone copy_ cos cumsum
    detach div div_ embedding embedding_dense_backward empty empty_like eq expand flip index
    index_add index_select leaky_relu leaky_relu_backward lt masked_fill mm mul native_batch_norm
    native_batch_norm_backward native_layer_norm native_layer_norm_backward ne neg
    new_empty_strided new_zeros ones_like permute pow relu searchsorted select select_backward
    sigmoid sigmoid_backward sin slice slice_backward split split_with_sizes squeeze stack sub sum t
    threshold_backward transpose unbind unsqueeze view
    """.split()  # noqa: SIM905
)
ON_CPU_ONLY = {"random_", "ge", "mul_", "relu_"}  # of the dropouts, which are torch's own elsewhere


# Every field in one group at least, no group with all of them, and another order than the schema's.
GROUPS = {
    "wide": ("keys", "user", "items", "children", "type", "tags"),
    "fm": ("item", "user", "views", "training", "position", "clicks", "tags", "children"),
    "deep": (
        "distance", "locks", "items", "item", "type", "price", "keys", "age of user", "children",
        "tags", "user", "depth", "clicks", "views",
    ),
}  # fmt: skip


# Groups of models that read others than these.
OWN_GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "finalmlp": {"deep": GROUPS["deep"], "gate_1": ("keys", "user", "views"), "gate_2": ("price",)},
    "tf4ctr": {"deep": GROUPS["deep"], "easy": GROUPS["deep"]},
    "dlrm": {"sparse": GROUPS["fm"], "dense": ("price", "distance", "depth")},
    "wukong": {"sparse": GROUPS["fm"], "dense": ("price", "distance", "depth")},
}
SEQUENCES = {
    "bought": SequenceConfig(query=("item",), sequence=("items",)),
    "opened": SequenceConfig(query=("children", "price"), sequence=("locks",)),
    "tagged": SequenceConfig(sequence=("tags",)),
    "keyed": SequenceConfig(query=("user",), sequence=("keys",)),
}
OF_FIELDS = (
    {"name": "din", "input": "bought", "positions": True, "group": "fields"},
    {"name": "simple_attention", "input": "keyed", "group": "fields"},
)
BEHIND = (
    {"name": "din", "input": "bought", "positions": True, "norm": "batch"},
    {"name": "multi_window_din", "input": "opened", "windows": (1, 2), "unknown": "attend"},
    {"name": "self_attention", "input": "tagged", "attention_dim": 4, "num_heads": 2},
)
# What encodes sequences in a model, and the towers of one that has such.
SEQUENTIAL = {
    "deepfm": ((*BEHIND, OF_FIELDS[1], {"name": "pooling", "input": "tagged"}), ()),
    "fm": (OF_FIELDS, ()),
    "multi_tower_din": ((BEHIND[0], OF_FIELDS[1]), BEHIND),
}
# Models without a network `dnn`, and those that take no network `final`, or always have one.
OF_TASKS = {"shared_bottom", "mmoe", "ple", "dbmtl", "esmm"}
WITHOUT_NETWORK = {"lr", "fm", "fwfm", "fcn"} | OF_TASKS
WITHOUT_DROPOUT = WITHOUT_NETWORK - {"fcn"}
WITHOUT_CHOICE_OF_FINAL = WITHOUT_NETWORK


@pytest.fixture(
    params=[
        (name, kind)
        for kind in ("plain", "groups", "final", "sequences")
        for name in OF_ONE_TASK
        if kind != "final" or name not in WITHOUT_CHOICE_OF_FINAL
        if kind != "sequences" or name in SEQUENTIAL
    ],
    ids=lambda param: "-".join(param),
)
def config(request, config):
    name, kind = request.param
    config = replaced(config, model_name=name)
    if kind == "sequences":
        own, towers = SEQUENTIAL[name]
        config = changed(config, "feature", sequences=SEQUENCES, encoders=own)
        return changed(config, "multi_tower_din", din_towers=towers)
    if name == "multi_tower_din":
        one = {"bought": SEQUENCES["bought"]}
        config = changed(config, "feature", sequences=one)
    if kind == "plain":
        return config
    groups = OWN_GROUPS.get(name, GROUPS)
    config = changed(config, "feature", groups=groups, wide_embedding_dim=4)
    if kind == "groups":
        return config
    final = replace(
        config.model.dnn, hidden_units=(8,), activation="nn.LeakyReLU", use_batch_norm=False
    )
    return replaced(config, final=final, global_bias=False)


@pytest.fixture
def model(schema, config):
    return build_model(schema, config)


def labels(num_rows: int) -> torch.Tensor:
    return (torch.arange(num_rows) % 3 == 0).float()


@pytest.mark.parametrize("num_rows", [1, 4])
def test_one_finite_logit_per_row(model, schema, num_rows):
    logits = model.eval()(random_inputs(schema, num_rows))
    assert logits.shape == (num_rows,)
    assert logits.isfinite().all()


def test_one_finite_logit_per_row_in_training(model, schema):
    logits = model.train()(random_inputs(schema, 4))
    assert logits.shape == (4,)
    assert logits.isfinite().all()


def test_branches_add_up_to_the_logits(model, schema):
    inputs = random_inputs(schema, 8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    model.eval()
    branches = model.branches(inputs)
    assert all(part.shape == (8,) for part in branches.values())
    assert (next(iter(branches)) == "bias") == (model.bias is not None)
    torch.testing.assert_close(sum(branches.values()), model(inputs), rtol=0, atol=1e-5)


def test_training_shows_the_logits_of_branches_beside_those_of_the_rows(model, schema):
    inputs = random_inputs(schema, 8)
    logits = model.eval().training_logits(inputs)
    assert set(logits) == {"", *model.config.branch_names}
    torch.testing.assert_close(logits[""], model(inputs))
    assert all(values.shape == (8,) for values in logits.values())
    for name in model.config.branch_names:
        assert not torch.equal(logits[name], logits[""])


def test_rows_do_not_influence_each_other(model, schema):
    model.eval()
    inputs = random_inputs(schema, 16)
    alone = torch.cat([model(inputs.select(slice(b, b + 1))) for b in range(16)])
    torch.testing.assert_close(model(inputs), alone)
    assert len(set(alone.tolist())) == 16


def test_every_parameter_gets_a_gradient(model, schema):
    inputs = random_inputs(schema, 64)
    F.binary_cross_entropy_with_logits(model(inputs), labels(64)).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    for field in (*schema.sparse_fields, *schema.sequence_fields):
        tables = model.embedding.tables
        if field.padding_idx is not None and field.embedding_name in tables.places:
            table = tables[field.embedding_name]
            assert not table.grad[field.padding_idx].any()


def test_a_row_of_unknown_ids_scores(model, schema):
    inputs = random_inputs(schema, 3).map(torch.zeros_like)
    logits = model.eval()(inputs)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits, logits[:1].expand(3))


def test_state_dict_round_trip(model, schema, config):
    inputs = random_inputs(schema, 8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
        model(inputs)  # moves the batch norm statistics
    copy = build_model(schema, replaced(config, seed=7))
    assert not torch.equal(copy.predict(inputs), model.predict(inputs))
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.predict(inputs), model.predict(inputs))


def test_the_seed_alone_decides_the_weights(schema, config):
    torch.manual_seed(1)
    first = build_model(schema, config)
    state = torch.get_rng_state()
    second = build_model(schema, config)
    assert torch.equal(torch.get_rng_state(), state)
    other = build_model(schema, replaced(config, seed=config.seed + 1))
    tensors = list(zip(*(m.state_dict().values() for m in (first, second, other)), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in tensors)
    assert any(not torch.equal(a, c) for a, _, c in tensors)


def test_overfits_32_rows(model, schema):
    inputs, label = random_inputs(schema, 32), labels(32)
    rate = 0.1 if model.config.name == "lr" else 0.02  # nothing but weights that start near 0
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(150):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(inputs), label).backward()
        optimizer.step()
    assert F.binary_cross_entropy(model.predict(inputs), label) < 0.05


def check_export(model, schema, strict):
    model.eval()
    batch = torch.export.Dim("batch")
    rows = {0: batch}
    shapes = Inputs(rows, rows, *[(rows,) * len(schema.sequence_fields)] * 2)
    program = torch.export.export(
        model, (random_inputs(schema, 4),), dynamic_shapes=(shapes,), strict=strict
    )
    for num_rows in (4, 9):
        inputs = random_inputs(schema, num_rows, seed=1)
        torch.testing.assert_close(program.module()(inputs), model(inputs))


def test_export_gives_the_same_logits_at_any_batch_size(model, schema):
    check_export(model, schema, strict=False)


@pytest.mark.parametrize(
    "config",
    [(name, "sequences" if name in SEQUENTIAL else "plain") for name in OF_ONE_TASK],
    ids=lambda param: param[0],
    indirect=True,
)
def test_export_by_torchs_compiler_gives_them_too(model, schema):
    check_export(model, schema, strict=True)


def test_predict_gives_probabilities_and_restores_every_mode(model, schema):
    inputs = random_inputs(schema, 8)
    model.train()
    model.embedding.eval()
    modes = [module.training for module in model.modules()]
    probability = model.predict(inputs)
    assert [module.training for module in model.modules()] == modes
    assert not probability.requires_grad
    assert torch.equal(probability, model.eval()(inputs).sigmoid())
    assert torch.equal(model.predict(inputs), probability)


def test_the_bias_moves_every_logit(model, schema):
    model.eval()
    inputs = random_inputs(schema, 4)
    before = model(inputs)
    with torch.no_grad():
        model.output_bias.add_(2.0)
    torch.testing.assert_close(model(inputs), before + 2.0)


def test_misspelt_parameters_are_errors_with_a_hint(schema, config):
    name = config.model_name
    with pytest.raises(ConfigError, match=f"^model_name: unknown model .*mean '{name}'"):
        config_from_dict({"model_name": name[:-1]})
    with pytest.raises(ConfigError, match=r"hiden_units.*did you mean 'hidden_units'"):
        config_from_dict({"model_name": name, "dnn": {"hiden_units": [4]}})
    if name not in WITHOUT_NETWORK:
        misspelt = r"^dnn\.activation: .*'rleu'; did you mean 'relu'\?$"
        with pytest.raises(ConfigError, match=misspelt):
            build_model(schema, changed(config, "dnn", activation="rleu"))
    with pytest.raises(ConfigError, match=r"^feature\.init: .*did you mean 'xavier_uniform'\?$"):
        build_model(schema, changed(config, "feature", init="xavier_unifrom"))


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operators, self.dtypes = set(), set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.operators.add(function.overloadpacket.__name__)
        tensors = torch.utils._pytree.tree_leaves((args, kwargs, result))
        self.dtypes |= {t.dtype for t in tensors if isinstance(t, torch.Tensor)}
        return result


@pytest.mark.parametrize("scope", ["batch", "table"])
def test_a_training_step_uses_nothing_that_mps_lacks(schema, config, scope, monkeypatch):
    monkeypatch.setattr(encoders, "counted_positions", lambda mask: None)  # which is the CPU's way
    config = changed(config, "feature", embedding_l2_scope=scope)
    model = build_model(schema, changed(config, "dnn", dropout=0.1))
    inputs, label = model.located(random_inputs(schema, 8)), labels(8)  # as the host prepares them
    with _Recorder() as recorder:
        loss = F.binary_cross_entropy_with_logits(model(inputs), label)
        (loss + model.get_l2_reg_loss(inputs)).backward()
        model.predict(inputs)
    assert torch.float64 not in recorder.dtypes
    of_dropouts = set() if config.model_name in WITHOUT_DROPOUT else ON_CPU_ONLY
    assert recorder.operators - ON_MPS <= of_dropouts
    assert "embedding_dense_backward" in recorder.operators  # the backward pass was recorded
