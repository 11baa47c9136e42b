"""Models on another storage of their tables: no view, model or trainer knows about it."""

import copy
import dataclasses

import pytest
import torch

from deepfm.config import config_from_dict
from deepfm.data.batch import Inputs
from deepfm.data.dataset import TabularDataset
from deepfm.errors import ConfigError
from deepfm.models import build_model, count_parameters
from deepfm.models.base import BaseCTRModel
from deepfm.models.features import STORAGES, field_specs
from deepfm.models.layers.embedding import Views
from deepfm.models.layers.lookup import Lookup, Request
from deepfm.models.layers.storage import PackedTables
from deepfm.models.layers.tables import WIDE
from deepfm.models.layers.views import end_to_end, sums
from deepfm.training.optimizers import assign_optimizers
from deepfm.training.trainer import Trainer, TrainingState
from tests.models.conftest import OF_ONE_TASK, random_inputs
from tests.models.plain import PlainTables, SelfUpdatingTables

L2 = {"embedding_l2_reg": 0.01}


def config_of(name="deepfm", feature=None, **training):
    return config_from_dict(
        {
            "model_name": name,
            "dnn": {"hidden_units": [8]},
            "cin": {"layer_sizes": [4, 4]},
            "attention": {"num_heads": 2, "attention_dim": 4},
            "feature": L2 | (feature or {}),
            "training": {
                "epochs": 2, "batch_size": 200, "metric": "logloss", "lr": 0.02, "keep": "last",
                **training,
            },
        }
    )  # fmt: skip


@pytest.fixture
def data(tiny_data):
    """Rows with every kind of field in float64, so that rounding does not grow to a difference."""
    inputs = tiny_data.train.inputs
    label = (torch.arange(inputs.num_rows) % 3 == 0).double()
    return TabularDataset(
        tiny_data.encoders.schema, inputs._replace(dense=inputs.dense.double()), label
    )


def train(data, config, model=None, state=None):
    """A model after the epochs of its config, and the last state that was saved."""
    model = model or build_model(data.schema, config)
    saved = []
    trainer = Trainer(config.training, config.evaluation, seed=5)
    trainer.fit(
        model.double(),
        data,
        data,
        state=state,
        save=lambda state, is_best: saved.append(copy.deepcopy(vars(state))),
    )
    return model, saved[-1]


@pytest.fixture
def stored_as(monkeypatch):
    return lambda tables: monkeypatch.setitem(STORAGES, "packed", tables)


def check_equal(one, other):
    assert list(one) == list(other)
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], msg=name, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("scope", ["batch", "table"])
@pytest.mark.parametrize("name", OF_ONE_TASK)
def test_any_model_trains_on_plain_tables(data, stored_as, name, scope):
    # Adam would make steps of the rounding of gradients that are 0, as those before a batch norm.
    config = config_of(name, {"embedding_l2_scope": scope}, optimizer="sgd", lr=0.05)
    expected, _ = train(data, config)
    start = build_model(data.schema, config).state_dict()
    stored_as(PlainTables)
    plain = build_model(data.schema, config)
    assert type(plain.embedding.tables) is PlainTables
    for key, weight in plain.state_dict().items():
        assert torch.equal(weight, start[key]), key  # drawn alike, whatever the storage
    plain, _ = train(data, config, plain)
    check_equal(expected.state_dict(), plain.state_dict())
    of_wide = count_parameters(data.schema, config).wide
    assert (of_wide > 0) == build_model(data.schema, config).uses_first_order


@pytest.mark.parametrize("update", ["step", "backward"])
@pytest.mark.parametrize("optimizer", ["adagrad", "lazy_sgd"])
def test_the_optimizer_of_the_tables_may_live_in_them(data, stored_as, optimizer, update):
    config = config_of(
        sparse_optimizer={"name": optimizer, "lr": 0.05},
        sparse_update=update,
        gradient_accumulation_steps=2,
        gradient_clip_norm=0.1,
        gradient_clip_scope="all" if update == "step" else "dense",
    )
    expected, _ = train(data, config)
    stored_as(SelfUpdatingTables)
    before = SelfUpdatingTables.made
    actual, _ = train(data, config)
    assert SelfUpdatingTables.made == before + 1
    check_equal(expected.state_dict(), actual.state_dict())
    stored_as(PlainTables)
    with pytest.raises(ConfigError, match=rf"sparse_optimizer: {optimizer}: these tables are"):
        train(data, config)


@pytest.mark.parametrize("sparse", [None, {"name": "adagrad", "lr": 0.05}])
@pytest.mark.parametrize("there_and_back", [False, True])
def test_a_run_goes_on_in_another_storage(data, stored_as, sparse, there_and_back):
    """Weights and the optimizer's state speak of tables, whatever they are stored in."""
    config = config_of(sparse_optimizer=sparse)
    half = dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=1))
    expected, last = train(data, config)
    storages = [PackedTables, SelfUpdatingTables]
    first, second = reversed(storages) if there_and_back else storages
    stored_as(first)
    _, saved = train(data, half)
    stored_as(second)
    resumed, again = train(data, config, state=TrainingState(**saved))
    check_equal(expected.state_dict(), resumed.state_dict())
    for one, other in zip(last["optimizers"], again["optimizers"], strict=True):
        names, others = (o["param_groups"][0]["param_names"] for o in (one, other))
        assert names == others
        for index, own in one["state"].items():
            for key, value in own.items():
                torch.testing.assert_close(
                    torch.as_tensor(value),
                    torch.as_tensor(other["state"][index][key]),
                    rtol=1e-6,
                    atol=1e-8,
                )


class OnlySelfUpdatingTables(SelfUpdatingTables):
    """Tables whose backward passes leave no gradient to others, as they say."""

    capabilities = SelfUpdatingTables.capabilities._replace(
        global_clipping=False, only_own_optimizers=True
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sparse_optimizer": None}, "training.sparse_optimizer: .*one of adagrad, lazy_sgd only"),
        ({"sparse_optimizer": "sgd"}, "training.sparse_optimizer: .*one of adagrad, lazy_sgd only"),
        (
            {"sparse_optimizer": "lazy_adam"},
            "training.sparse_optimizer: lazy_adam: these tables are updated by adagrad, lazy_sgd",
        ),
        (
            {"gradient_accumulation_steps": 2},
            "training.gradient_accumulation_steps: .*set training.sparse_update: backward",
        ),
        (
            {"gradient_clip_norm": 1.0, "gradient_clip_scope": "all"},
            "training.sparse_optimizer: .*set training.gradient_clip_scope: dense",
        ),
        ({"losses": "sampled_softmax"}, "training.losses: .*no losses that compare items"),
        ({"embedding_l2_reg": 0.01}, "feature.embedding_l2_reg: .*set it to 0"),
    ],
)
def test_what_tables_without_gradients_cannot_do_is_refused(data, stored_as, changes, problem):
    stored_as(OnlySelfUpdatingTables)
    given = {"sparse_optimizer": "lazy_sgd", "embedding_l2_reg": 0.0} | changes
    feature = {"embedding_l2_reg": given.pop("embedding_l2_reg")}
    config = config_of(feature=feature, **given)
    with pytest.raises(ConfigError, match=problem):
        assign_optimizers(build_model(data.schema, config), config.training)


class HistoryViews(Lookup):
    """Views of the tests' schema: the item as a query of the `items` seen before, one by one.

    The query is read in a second table of that field, beside its embedding and first-order weight.
    """

    def __init__(self, fields, tables):
        requests = [
            Request(["items"], pooled=False),
            Request(["user", "item", "items"]),
            Request(["item"], "query", 4),
            Request(["item", "user"], WIDE, 1, ordered=False),
        ]
        super().__init__(fields, requests, tables=tables)
        self.deep = self.parts(["user", "item", "items"])
        self.reset_parameters()

    def forward(self, *inputs):
        vectors = self.vectors(*inputs)
        query = vectors.runs["query", "item"]  # (B, 1, 4)
        sequence, mask = vectors.sequences["", "items"]  # (B, L, 4) and (B, L)
        weights = (query @ sequence.transpose(1, 2)).squeeze(1).sigmoid() * mask  # (B, L)
        attended = (weights.unsqueeze(-1) * sequence).sum(1)
        flat = torch.cat([attended, *end_to_end(vectors, self.deep)], dim=1)
        return Views(sum(sums(vectors, WIDE)), None, flat)


def loop_over_rows(weights, inputs: Inputs) -> torch.Tensor:
    """The flat view and the first-order term, row by row from the tables of the state dict."""
    rows = []
    for row in range(inputs.num_rows):
        user, item = inputs.sparse[row, 0], inputs.sparse[row, 3]
        query = weights["tables.items_query.weight"][item]
        ids = [i for i in inputs.sequence_ids[0][row, : inputs.sequence_lengths[0][row]] if i]
        seen = [weights["tables.items.weight"][i] for i in ids]
        attended = sum(((query @ v).sigmoid() * v for v in seen), torch.zeros(4).to(query))
        mean = sum(seen, torch.zeros(4).to(query)) / max(len(seen), 1)
        own = weights["tables.user.weight"][user], weights["tables.items.weight"][item]
        wide = weights["tables.user_wide.weight"][user] + weights["tables.items_wide.weight"][item]
        rows.append(torch.cat([attended, *own, mean, wide]))
    return torch.stack(rows)


class HistoryModel(BaseCTRModel):
    """A model of the test suite on those views."""

    tables = PackedTables

    def _build_components(self):
        fields = field_specs(self.schema, "normal(0.3)")
        self.embedding = HistoryViews(fields, self.tables)
        self.dnn = self._dnn_branch(16)

    def _forward_components(self, first_order, field_embeddings, flat_embeddings):
        return self._fuse(first_order, None, self.dnn(flat_embeddings))

    def get_l2_reg_loss(self, inputs):
        return self.bias.new_zeros(())

    def regularization_losses(self, batch_size):
        return {}


class PlainHistoryModel(HistoryModel):
    tables = SelfUpdatingTables


NAMES = ["user", "items", "items_query", "user_wide", "items_wide"]


@pytest.mark.parametrize("tables", [PackedTables, PlainTables])
def test_a_field_may_have_several_tables_and_a_sequence_be_read_one_by_one(schema, tables):
    torch.manual_seed(0)
    layer = HistoryViews(field_specs(schema, "normal(0.3)"), tables).double()
    assert list(layer.state_dict()) == [f"tables.{name}.weight" for name in NAMES]
    calls, lookup = [], layer.tables.lookup
    layer.tables.lookup = lambda ids: calls.append(ids) or lookup(ids)
    inputs = random_inputs(schema, 20)
    inputs = inputs._replace(dense=inputs.dense.double())
    first_order, _, flat = layer(*inputs)[:3]
    assert len(calls) == 1
    expected = loop_over_rows(layer.state_dict(), inputs)
    torch.testing.assert_close(torch.cat([flat, first_order], 1), expected)
    _, mask = layer.vectors(*inputs).sequences["", "items"]
    places = torch.arange(5) < inputs.sequence_lengths[0].unsqueeze(1)
    assert torch.equal(mask, places & (inputs.sequence_ids[0] != 0))


def test_tables_of_the_same_readers_lie_side_by_side(schema):
    layer = HistoryViews(field_specs(schema, "normal(0.3)"), PackedTables)
    assert [layer.tables.widths(weight) for weight in layer.tables.parameters()] == [
        [4, 1],  # of user
        [4],  # of items, which the history reads too
        [4, 1],  # of items, which only the item reads
    ]


@pytest.mark.parametrize("optimizer", [None, "adagrad", "lazy_sgd", "rowwise_adagrad"])
def test_a_model_of_several_tables_and_a_history_trains_on_any_storage(schema, optimizer):
    config = config_of(
        feature={"embedding_l2_reg": 0.0},
        metric="logloss",
        sparse_optimizer=optimizer and {"name": optimizer, "lr": 0.05},
    )
    inputs = random_inputs(schema, 400)
    inputs = inputs._replace(dense=inputs.dense.double())
    data = TabularDataset(schema, inputs, (inputs.sparse[:, 3] % 2).double())
    weights, losses = [], []
    for model_class in (HistoryModel, PlainHistoryModel):
        if model_class is PlainHistoryModel and optimizer == "rowwise_adagrad":
            continue  # an update rule of packed tables alone
        torch.manual_seed(0)
        model, state = train(data, config, model_class(schema, config.model, config.task_list()))
        losses.append([entry["logloss"] for entry in state["history"]])
        weights.append(model.state_dict())
    assert losses[0][-1] < losses[0][0]
    check_equal(weights[0], weights[-1])
