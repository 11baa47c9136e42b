"""Sparse optimizers against textbook updates in float64, and state by logical table."""

import copy

import pytest
import torch

from deepfm.config import SPARSE_OPTIMIZERS, config_from_dict
from deepfm.errors import CheckpointError, ConfigError
from deepfm.models import build_model
from deepfm.training.optimizers import (
    SPARSE_OPTIMIZER_CLASSES,
    LazyAdam,
    build_optimizers,
    load_optimizer_state,
    optimizer_state,
)
from tests.models.conftest import random_inputs
from tests.models.plain import PlainEmbedding

L2 = 0.05


def make(schema, sparse="lazy_adam", dtype=torch.float64, **sections):
    raw = {
        "feature": {"fm_embedding_dim": 4, "embedding_l2_reg": L2},
        "dnn": {"hidden_units": [8], "dropout": 0.0},
        "training": {"sparse_optimizer": sparse, "lr": 0.01},
    }
    for section, values in sections.items():
        raw[section] |= values
    config = config_from_dict(raw)
    model = build_model(schema, config).to(dtype)
    return model, config.training, build_optimizers(model, config.training)


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

    def __init__(self, name, lr):
        self.name, self.lr, self.step, self.state = name, lr, 0, {}

    def update(self, table, weight, gradient, rows):
        for row in rows.tolist():
            g, key = gradient[row], (table, row)
            if self.name == "lazy_sgd":
                weight[row] -= self.lr * g
            elif self.name == "adagrad":
                self.state[key] = self.state.get(key, 0) + g**2
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
@pytest.mark.parametrize("name", SPARSE_OPTIMIZER_CLASSES)
def test_steps_equal_the_textbook(schema, name, clip):
    """Ids repeat within a batch and between batches; padding, sequences, L2, clipping."""
    model, _, (_, optimizer) = make(schema, name)
    plain = copy.deepcopy(model)
    plain.embedding = PlainEmbedding(plain.embedding)
    inputs_of_steps = list(batches(schema, 5))
    sparse_steps(model, optimizer, inputs_of_steps, clip)

    textbook = Textbook(name, 0.01)
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
                    textbook.update(table, tables[table], tables[table].grad, rows)
    for table in model.embedding.tables.places:
        torch.testing.assert_close(model.embedding.tables[table], tables[table].detach(), msg=table)


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
        ({"global_clipping": False}, r"training\.gradient_clip_norm"),
    ):
        monkeypatch.setattr(type(model.embedding.tables), "capabilities", can._replace(**less))
        with pytest.raises(
            ConfigError, match=rf"training\.sparse_optimizer: lazy_adam: .*{message}"
        ):
            build_optimizers(model, config)


def test_every_sparse_optimizer_of_the_config_is_built(schema):
    assert set(SPARSE_OPTIMIZERS) == set(SPARSE_OPTIMIZER_CLASSES)
    _, _, (_, optimizer) = make(schema, {"name": "lazy_adam", "lr": 0.5, "betas": [0.5, 0.6]})
    assert isinstance(optimizer, LazyAdam)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.6)
