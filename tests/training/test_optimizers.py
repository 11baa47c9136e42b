"""Sparse optimizers against textbook updates in float64, and state by logical table."""

import copy
import re

import pytest
import torch

from deepfm.config import config_from_dict
from deepfm.errors import CheckpointError, ConfigError
from deepfm.models import build_model
from deepfm.training import sparse_optimizers
from deepfm.training.optimizer_state import load_optimizer_state, optimizer_state
from deepfm.training.optimizers import assign_optimizers
from deepfm.training.options import OPTIMIZERS, SPARSE_OPTIMIZERS
from deepfm.training.sparse_optimizers import LazyAdam
from tests.models.conftest import random_inputs
from tests.models.plain import PlainEmbedding

L2 = 0.05
# The update rules by name.
SPARSE_OPTIMIZER_CLASSES = {
    name: getattr(sparse_optimizers, options.__name__)
    for name, options in SPARSE_OPTIMIZERS.items()
}


def make(schema, sparse="lazy_adam", dtype=torch.float64, **sections):
    raw = {
        "feature": {"fm_embedding_dim": 4, "embedding_l2_reg": L2},
        "dnn": {"hidden_units": [8], "dropout": 0.0},
        "training": {"sparse_optimizer": sparse, "lr": 0.01},
    }
    for section, values in sections.items():
        raw[section] = raw[section] | values
    config = config_from_dict(raw)
    model = build_model(schema, config).to(dtype)
    return model, config.training, optimizers_of(model, config.training)


def optimizers_of(model, training):
    return [assigned.optimizer for assigned in assign_optimizers(model, training)]


def batches(schema, count, num_rows=24, dtype=torch.float64):
    for seed in range(count):
        inputs = random_inputs(schema, num_rows, seed)
        yield inputs._replace(dense=inputs.dense.to(dtype))


def sparse_steps(model, optimizer, inputs_of_steps, clip=None):
    tables = model.embedding.tables
    with tables.compact_mode(optimizer):
        for inputs in inputs_of_steps:
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            values = [touched.values for touched in tables.touched()]
            for rows in values:
                rows.grad.add_(rows.detach(), alpha=L2)
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(values, clip)
            optimizer.step()


class Textbook:
    """Each rule as its paper writes it, on the touched rows of one logical table at a time."""

    def __init__(self, name, lr, *, start=0.0, limit=float("inf")):
        self.name, self.lr, self.step, self.state = name, lr, 0, {}
        self.start, self.limit = start, limit

    def update(self, table, weight, gradient, rows):
        for row in rows.tolist():
            g, key = gradient[row].clamp(-self.limit, self.limit), (table, row)
            if self.name == "lazy_sgd":
                weight[row] -= self.lr * g
            elif self.name == "adagrad":
                self.state[key] = self.state.get(key, self.start) + g**2
                weight[row] -= self.lr * g / (self.state[key] ** 0.5 + 1e-10)
            elif self.name == "rowwise_adagrad":
                self.state[key] = self.state.get(key, 0) + (g**2).mean()
                weight[row] -= self.lr * g / (self.state[key] ** 0.5 + 1e-10)
            else:
                m, v = self.state.get(key, (0, 0))
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
                self.state[key] = m, v
                m_hat, v_hat = m / (1 - 0.9**self.step), v / (1 - 0.999**self.step)
                weight[row] -= self.lr * m_hat / (v_hat**0.5 + 1e-8)


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize(
    ("name", "options", "hand"),
    [
        *((name, {}, {}) for name in SPARSE_OPTIMIZER_CLASSES),
        *((name, {"max_gradient": 0.02}, {"limit": 0.02}) for name in SPARSE_OPTIMIZER_CLASSES),
        ("adagrad", {"initial_accumulator_value": 0.3}, {"start": 0.3}),
    ],
)
def test_steps_equal_the_textbook(schema, name, options, hand, clip):
    """Ids repeat within a batch and between batches; padding, sequences, L2, clipping."""
    model, _, (_, optimizer) = make(schema, {"name": name, **options})
    plain = copy.deepcopy(model)
    plain.embedding = PlainEmbedding(plain.embedding)
    inputs_of_steps = list(batches(schema, 5))
    sparse_steps(model, optimizer, inputs_of_steps, clip)

    textbook, largest = Textbook(name, 0.01, **hand), 0.0
    tables = plain.embedding.tables
    for inputs in inputs_of_steps:
        tables.zero_grad()
        loss = plain(inputs).square().sum()
        (loss + plain.embedding.l2_reg(*inputs, rate=L2)).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(tables.parameters(), clip)
        textbook.step += 1
        touched = plain.embedding.touched(inputs[0], inputs[2], inputs[3])
        with torch.no_grad():
            for field, rows in touched.items():
                for table in (field, f"{field}_wide"):
                    largest = max(largest, tables[table].grad.abs().max().item())
                    textbook.update(table, tables[table], tables[table].grad, rows)
    assert largest > options.get("max_gradient", 0)  # else nothing is seen of it
    for table in model.embedding.tables.places:
        torch.testing.assert_close(model.embedding.tables[table], tables[table].detach(), msg=table)


def by_hand(name, weight, gradients, *, lr, **options):
    """A weight after steps with the given gradients, each rule written out number by number."""
    o = OPTIMIZERS[name]().to_dict() | options
    found = []
    for w, series in zip(weight.flatten().tolist(), zip(*gradients, strict=True), strict=True):
        m = v = v_max = buffer = 0.0
        total = o.get("initial_accumulator_value", 0.0)
        for t, g in enumerate(series, start=1):
            decay = o["weight_decay"]
            if name == "adamw":
                w -= lr * decay * w
            else:
                g += decay * w
            if name == "sgd":
                buffer = g if t == 1 else o["momentum"] * buffer + (1 - o["dampening"]) * g
                moving = g + o["momentum"] * buffer if o["nesterov"] else buffer
                w -= lr * (moving if o["momentum"] else g)
            elif name == "adagrad":
                total += g * g
                w -= lr * g / (total**0.5 + o["eps"])
            else:
                one, two = o["betas"]
                m, v = one * m + (1 - one) * g, two * v + (1 - two) * g * g
                v_max = max(v_max, v)
                second = (v_max if o["amsgrad"] else v) / (1 - two**t)
                w -= lr * m / (1 - one**t) / (second**0.5 + o["eps"])
        found.append(w)
    return torch.tensor(found, dtype=torch.float64).view_as(weight)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {}),
        ("sgd", {"momentum": 0.9, "weight_decay": 0.1}),
        ("sgd", {"momentum": 0.9, "dampening": 0.3}),
        ("sgd", {"momentum": 0.9, "nesterov": True}),
        ("adagrad", {}),
        ("adagrad", {"initial_accumulator_value": 0.5, "eps": 0.1, "weight_decay": 0.1}),
        ("adam", {}),
        ("adam", {"betas": [0.8, 0.9], "eps": 0.01, "weight_decay": 0.1, "amsgrad": True}),
        ("adamw", {}),
        ("adamw", {"weight_decay": 0.3, "amsgrad": True, "betas": [0.5, 0.6]}),
    ],
)
def test_dense_steps_equal_updates_by_hand(schema, name, options):
    model, _, (optimizer,) = make(
        schema, None, training={"optimizer": {"name": name, "lr": 0.05, **options}}
    )
    generator = torch.Generator().manual_seed(0)
    parameters = optimizer.param_groups[0]["params"]
    assert {id(p) for p in parameters} == {id(p) for p in model.parameters()}
    before = [parameter.detach().clone() for parameter in parameters]
    gradients = [[] for _ in parameters]
    for step in range(6):
        for parameter, series in zip(parameters, gradients, strict=True):
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = draw * 0.5**step
            series.append(parameter.grad.flatten().tolist())
        optimizer.step()
    for parameter, start, series in zip(parameters, before, gradients, strict=True):
        expected = by_hand(name, start, series, lr=0.05, **options)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-9, atol=1e-12)


def test_what_torch_refuses_names_the_key(schema):
    with pytest.raises(ConfigError, match=r"^training\.optimizer: sgd: Nesterov"):
        make(schema, training={"optimizer": {"name": "sgd", "nesterov": True}})


def part(pattern, lr=0.5, **extra):
    return {"pattern": pattern, "optimizer": {"name": "sgd", "lr": lr}, **extra}


def test_parts_have_optimizers_of_their_own_and_the_first_match_wins(schema):
    model, config, _ = make(
        schema,
        training={
            "part_optimizers": [
                part(r"dnn\.0\.layers\.0\.0\.weight", 0.1, scheduler="none"),
                part(r"dnn.*", 0.2),
                part(r"dnn\.1.*", 0.3),  # all taken by the one before
                part(r"embedding\.dense_vectors\.training\.weight", 0.4),
            ],
            "scheduler": "cosine",
        },
    )
    names = {id(weight): name for name, weight in model.state_dict(keep_vars=True).items()}
    found = assign_optimizers(model, config)
    lists = [[names.get(id(p)) for p in a.optimizer.param_groups[0]["params"]] for a in found]
    assert [a.role for a in found] == [
        "dense",
        "tables",
        *(config.part_optimizers[k].pattern for k in (0, 1, 3)),
    ]
    assert [a.optimizer.param_groups[0]["lr"] for a in found] == [0.01, 0.01, 0.1, 0.2, 0.4]
    assert [a.scheduler.name for a in found] == ["cosine", "cosine", "none", "cosine", "cosine"]
    assert lists[2] == ["dnn.0.layers.0.0.weight"]
    assert set(lists[3]) == {n for n in names.values() if n.startswith("dnn.")} - {*lists[2]} - {
        n for n in names.values() if "running" in n or "num_batches" in n
    }
    assert lists[4] == ["embedding.dense_vectors.training.weight"]
    everything = {p for a in found for p in map(id, a.optimizer.param_groups[0]["params"])}
    assert everything == {id(p) for p in model.parameters()}
    assert sum(len(a.optimizer.param_groups[0]["params"]) for a in found) == len(everything)


@pytest.mark.parametrize("final", [None, {"hidden_units": [3], "use_batch_norm": False}])
@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        (r"model\.deep\..*", 3),  # linear without bias, and the norm's two
        (r"model\.final\.mlp\.0\.perceptron\.0\.(weight|bias)", 2),
        (r"group_variational_dropouts\..*\.feature_p", 3),
        (r"deep_mlp\.mlp\.0\.perceptron\.0\.weight", 1),
        (r"model\.deep_mlp\.mlp\.\d+\.perceptron\.1\.(weight|bias)", 2),
        (r"(model\.)?output_mlp\..*", 1),
        (r"model\.cin\.cin_layers\.\d\.weight", 2),
    ],
)
def test_names_of_the_format_match_too(schema, pattern, count, final):
    config = config_from_dict(
        {
            "model_name": "xdeepfm",
            "dnn": {"hidden_units": [8]},
            "final": final,
            "feature": {"variational_dropout": 0.1},
            "training": {"part_optimizers": [part(pattern)]},
        }
    )
    model = build_model(schema, config)
    if "final" in pattern and final is None:
        with pytest.raises(ConfigError, match="matches no whole name"):
            assign_optimizers(model, config.training)
        return
    _, one = assign_optimizers(model, config.training)
    assert len(one.optimizer.param_groups[0]["params"]) == count


def test_tables_are_no_part(schema):
    model, config, _ = make(schema, training={"part_optimizers": [part(".*")]})
    tables, everything = assign_optimizers(model, config)
    assert (tables.role, everything.role) == ("tables", ".*")
    held = {id(p) for p in everything.optimizer.param_groups[0]["params"]}
    assert held.isdisjoint(map(id, model.embedding.tables.parameters()))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("dnn", "'dnn' matches no whole name of a dense parameter; near ones: dnn.0.layers.0.0"),
        ("deep_mlp.weight", "near ones: dnn.0.layers.0.0.weight, dnn"),
        ("embedding.tables.*", "near ones: embedding.dense"),
        ("qqq", "known: "),
    ],
)
def test_a_pattern_that_matches_nothing_shows_near_names(schema, pattern, message):
    with pytest.raises(ConfigError, match=rf"^training\.part_optimizers: .*{re.escape(message)}"):
        make(schema, training={"part_optimizers": [part(pattern)]})


def test_a_pattern_that_is_no_regex_is_refused():
    with pytest.raises(ConfigError, match=r"^training\.part_optimizers\.pattern: '\(' is no"):
        config_from_dict({"training": {"part_optimizers": [part("(")]}})
    with pytest.raises(ConfigError, match=r"part_optimizers\.optimizer: unknown optimizer 'sg'"):
        config_from_dict({"training": {"part_optimizers": [{"pattern": ".*", "optimizer": "sg"}]}})


def test_a_schedule_for_tables_needs_an_optimizer_for_them(schema):
    with pytest.raises(ConfigError, match=r"^training\.sparse_scheduler: .*sparse_optimizer"):
        make(schema, None, training={"sparse_scheduler": "cosine"})


def test_parameters_that_are_not_trained_have_no_optimizer(schema):
    model, config, _ = make(schema)
    frozen = {id(p) for p in [model.bias, *model.embedding.tables.parameters()][:2]}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) not in frozen)
    dense, tables = assign_optimizers(model, config)
    held = {id(p) for a in (dense, tables) for p in a.optimizer.param_groups[0]["params"]}
    assert held == {id(p) for p in model.parameters()} - frozen
    state = optimizer_state(tables.optimizer, model)
    load_optimizer_state(tables.optimizer, model, state)


def test_a_state_of_an_earlier_release_gets_the_options_that_it_lacks(schema):
    model, _, (_, optimizer) = make(schema, {"name": "adagrad", "max_gradient": 0.5})
    saved = optimizer_state(optimizer, model)
    del saved["param_groups"][0]["max_gradient"]
    load_optimizer_state(optimizer, model, saved)
    assert optimizer.param_groups[0]["max_gradient"] == 0.5


def test_lazy_adam_on_rows_that_every_step_touches_is_adam(schema):
    model, _, (_, optimizer) = make(schema, feature={"embedding_l2_reg": 0.0})
    inputs = next(batches(schema, 1, num_rows=400))
    dense = copy.deepcopy(model)
    exact = torch.optim.Adam(dense.embedding.tables.parameters(), lr=0.01)
    tables = model.embedding.tables
    with tables.compact_mode(optimizer):
        for _ in range(5):
            for own, update in ((model, optimizer), (dense, exact)):
                update.zero_grad()
                own(inputs).square().sum().backward()
                update.step()
    for table in tables.places:
        torch.testing.assert_close(tables[table], dense.embedding.tables[table], msg=table)


@pytest.mark.parametrize("name", SPARSE_OPTIMIZER_CLASSES)
def test_untouched_rows_and_padding_stay_as_they_are(schema, name):
    model, _, (_, optimizer) = make(schema, name)
    inputs_of_steps = list(batches(schema, 3, num_rows=4))
    before = copy.deepcopy(model.embedding.tables.state_dict())
    touched = {}
    for inputs in inputs_of_steps:
        plain = PlainEmbedding(model.embedding)
        for field, rows in plain.touched(inputs[0], inputs[2], inputs[3]).items():
            touched.setdefault(field, set()).update(rows.tolist())
    sparse_steps(model, optimizer, inputs_of_steps)
    for field, rows in touched.items():
        for table in (field, f"{field}_wide"):
            after = model.embedding.tables[table]
            moved = (after != before[f"{table}.weight"]).any(1).nonzero().flatten().tolist()
            assert set(moved) == rows, table


def test_a_sparse_optimizer_needs_compact_mode(schema):
    _, _, (_, optimizer) = make(schema)
    with pytest.raises(RuntimeError, match="LazyAdam needs its tables in compact mode"):
        optimizer.step()


@pytest.mark.parametrize("name", SPARSE_OPTIMIZER_CLASSES)
def test_weights_and_state_are_equal_bit_by_bit_at_one_and_two_threads(schema, name):
    results = []
    for threads in (1, 2):
        model, _, (_, optimizer) = make(schema, name, dtype=torch.float32)
        tables = model.embedding.tables
        torch.set_num_threads(threads)
        try:
            with tables.compact_mode(optimizer):
                for inputs in batches(schema, 3, num_rows=20_000, dtype=torch.float32):
                    optimizer.zero_grad()
                    model.embedding(*inputs).flat_embeddings.square().sum().backward()
                    optimizer.step()
        finally:
            torch.set_num_threads(1)
        results.append((tables.state_dict(), optimizer_state(optimizer, model)["state"]))
    assert_equal(*results)


def assert_equal(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict | list | tuple):
        assert len(one) == len(other)
        keys = one if isinstance(one, dict) else range(len(one))
        for key in keys:
            assert_equal(one[key], other[key])
    else:
        assert one == other


@pytest.mark.parametrize("name", [*SPARSE_OPTIMIZER_CLASSES, "adam", "sgd"])
def test_state_names_logical_tables_and_loads_into_another_order(schema, name):
    spec = {"name": name, "momentum": 0.9} if name == "sgd" else name
    model, _, (_, optimizer) = make(schema, spec)
    steps(model, optimizer, batches(schema, 3))
    saved = copy.deepcopy(optimizer_state(optimizer, model))
    names = [f"embedding.tables.{table}.weight" for table in model.embedding.tables.places]
    assert saved["param_groups"][0]["param_names"] == names

    fields = dict(reversed(schema.fields.items()))
    reordered = type(schema)(fields=fields, label_field=schema.label_field)
    other, _, (_, fresh) = make(reordered, spec)
    load_optimizer_state(fresh, other, saved)
    again = optimizer_state(fresh, other)
    order = again["param_groups"][0]["param_names"]
    for index, key in enumerate(names):
        own = again["state"].get(order.index(key), {})
        assert_equal(saved["state"].get(index, {}), own)


def steps(model, optimizer, inputs_of_steps):
    if type(optimizer) in SPARSE_OPTIMIZER_CLASSES.values():
        sparse_steps(model, optimizer, inputs_of_steps)
        return
    for inputs in inputs_of_steps:
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()


def test_statistics_of_a_table_have_its_shape_or_one_column(schema):
    for name, key, width in (("lazy_adam", "exp_avg", 4), ("rowwise_adagrad", "sum", 1)):
        model, _, (_, optimizer) = make(schema, name)
        sparse_steps(model, optimizer, batches(schema, 1))
        saved = optimizer_state(optimizer, model)
        names = saved["param_groups"][0]["param_names"]
        embedding, wide = (
            saved["state"][names.index(f"embedding.tables.{table}.weight")][key]
            for table in ("user", "user_wide")
        )
        assert embedding.shape == (12, width)
        assert wide.shape == (12, 1)
        assert not torch.equal(embedding[:, :1], wide)


def test_state_of_plain_parameters_loads_by_position(schema):
    """What torch itself writes for one parameter per table, as earlier checkpoints hold it."""
    model, _, (optimizer,) = make(schema, None)
    plain = copy.deepcopy(model)
    plain.embedding = PlainEmbedding(plain.embedding)
    update = torch.optim.Adam(plain.parameters(), lr=0.01)
    inputs_of_steps = list(batches(schema, 4))
    steps(plain, update, inputs_of_steps[:2])
    model.load_state_dict(plain.state_dict())
    load_optimizer_state(optimizer, model, copy.deepcopy(update.state_dict()))
    steps(plain, update, inputs_of_steps[2:])
    steps(model, optimizer, inputs_of_steps[2:])
    expected = plain.state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], msg=name)


def test_state_of_other_parameters_is_refused(schema):
    model, _, (dense, optimizer) = make(schema)
    with pytest.raises(CheckpointError, match="that of other parameters"):
        load_optimizer_state(optimizer, model, optimizer_state(dense, model))


@pytest.mark.parametrize("name", SPARSE_OPTIMIZER_CLASSES)
def test_l2_of_whole_tables_needs_a_dense_optimizer(schema, name):
    with pytest.raises(
        ConfigError, match=rf"^training\.sparse_optimizer: {name}: .*feature\.embedding_l2_scope"
    ):
        make(schema, name, feature={"embedding_l2_scope": "table"})
    make(schema, name, feature={"embedding_l2_scope": "table", "embedding_l2_reg": 0.0})
    make(schema, "adam", feature={"embedding_l2_scope": "table"})


def test_what_the_storage_cannot_do_is_refused(schema, monkeypatch):
    model, config, _ = make(schema)
    can = model.embedding.tables.capabilities
    for less, message in (
        ({"optimizers": ("adagrad",)}, "updated by adagrad only"),
        ({"global_clipping": False}, r"training\.gradient_clip_scope: dense"),
    ):
        monkeypatch.setattr(type(model.embedding.tables), "capabilities", can._replace(**less))
        with pytest.raises(
            ConfigError, match=rf"training\.sparse_optimizer: lazy_adam: .*{message}"
        ):
            assign_optimizers(model, config)


def test_every_sparse_optimizer_of_the_config_is_built(schema):
    assert set(SPARSE_OPTIMIZERS) == set(SPARSE_OPTIMIZER_CLASSES)
    _, _, (_, optimizer) = make(schema, {"name": "lazy_adam", "lr": 0.5, "betas": [0.5, 0.6]})
    assert isinstance(optimizer, LazyAdam)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.6)
