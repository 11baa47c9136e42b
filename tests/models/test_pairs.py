"""Scores from halves against whole rows, for every kind of field on either side of a pair."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from deepfm.data.dataset import Catalogue
from deepfm.data.item_columns import ItemColumns
from deepfm.models import MODELS, build_model
from deepfm.models.deepfm import DeepFM
from deepfm.models.layers.dnn import ACTIVATIONS
from deepfm.models.options.sequences import SequenceConfig
from deepfm.models.pairs import Halves, PairScorer, _rectangles
from tests.models.conftest import OF_ONE_TASK, changed, random_inputs, replaced

ITEM_FIELDS = {"type", "tags", "distance", "children", "keys", "training"}
ALLOWED = [name for name in MODELS if name in ("deepfm", "wide_and_deep", "fm", "lr")]


def with_items(schema, names):
    return schema.with_fields(
        {name: {"group": "item" if name in names else "user"} for name in schema.fields}
    )


def unusual(model):
    """Evaluation mode; weights and batch norm statistics far from the initial ones."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("embedding.tables"):
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
                module.running_var.uniform_(0.2, 3.0, generator=generator)
    return model.eval()


def rows_of_pairs(users, catalogue, candidates):
    """Whole rows, one per pair, users first."""
    row = torch.arange(len(candidates)).repeat_interleave(candidates.shape[1])
    rows = users.select(row)
    catalogue.overwrite(rows, torch.arange(len(row)), candidates.flatten())
    return rows


@torch.inference_mode()
def logits_by_halves(model, users, catalogue, candidates, pairs_at_once=5):
    users = users.select(torch.arange(users.num_rows))
    empty = users.select([0]).map(torch.zeros_like)
    item_rows = empty.select([0] * catalogue.inputs.num_rows)
    everything = torch.arange(item_rows.num_rows)
    catalogue.overwrite(item_rows, everything, everything)
    catalogue.clear(users)
    scorer = PairScorer(model, empty)
    halves = scorer.user_halves(users), scorer.item_halves(item_rows)
    return scorer.logits(*halves, candidates, pairs_at_once=pairs_at_once)


def check(model, schema):
    users = random_inputs(schema, 6, seed=1)
    items = random_inputs(schema, 9, seed=2)  # of which the catalogue keeps the item fields
    catalogue = catalogue_of(schema, items)
    candidates = torch.randint(9, (6, 7), generator=torch.Generator().manual_seed(3))
    rows = rows_of_pairs(users, catalogue, candidates)
    halves = logits_by_halves(unusual(model), users, catalogue, candidates)
    assert halves.shape == (6, 7)
    assert len(halves.unique()) > 6
    double = deepcopy(model).double()(rows._replace(dense=rows.dense.double()))
    for expected in (model(rows), double):
        np.testing.assert_allclose(
            halves.flatten(), expected.detach().numpy(), rtol=0, atol=1e-5, err_msg=str(model)
        )


def catalogue_of(schema, rows):
    columns = ItemColumns.of(schema)
    inputs = rows._replace(
        sparse=rows.sparse[:, columns.sparse],
        dense=rows.dense[:, columns.dense],
        sequence_ids=tuple(rows.sequence_ids[k] for k in columns.sequences),
        sequence_lengths=tuple(rows.sequence_lengths[k] for k in columns.sequences),
    )
    return Catalogue(inputs, columns)


@pytest.mark.parametrize("name", OF_ONE_TASK)
def test_only_sums_over_fields_can_be_halved(schema, config, name):
    branches = build_model(schema, replaced(config, model_name=name)).pair_branches()
    assert (branches is not None) == (name in ALLOWED)


@pytest.mark.parametrize("items", [ITEM_FIELDS, {"user"}, {"price", "items"}, {"age of user"}])
@pytest.mark.parametrize("name", ALLOWED)
def test_any_field_may_be_an_items(schema, config, name, items):
    schema = with_items(schema, items)
    check(build_model(schema, replaced(config, model_name=name)), schema)


@pytest.mark.parametrize("terms", [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("name", ALLOWED)
def test_without_a_term_of_the_fm(schema, config, name, terms):
    schema = with_items(schema, ITEM_FIELDS)
    config = changed(config, "fm", use_first_order=terms[0], use_second_order=terms[1])
    check(build_model(schema, replaced(config, model_name=name)), schema)


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "Dice", "nn.PReLU", "nn.ELU(alpha=0.5)"])
@pytest.mark.parametrize("norm", [None, "batch", "layer"])
def test_any_norm_and_activation(schema, config, activation, norm):
    schema = with_items(schema, ITEM_FIELDS)
    norms = {"use_batch_norm": norm == "batch", "use_layer_norm": norm == "layer"}
    config = changed(config, "dnn", activation=activation, dropout=0.3, **norms)
    check(build_model(schema, config), schema)


def test_one_hidden_layer_and_one_dim_for_all(schema, config):
    schema = with_items(schema, ITEM_FIELDS)
    schema = schema.with_fields(
        {f.name: {"embedding_dim": 4} for f in schema.fields.values() if f.is_embedded}
    )
    check(build_model(schema, changed(config, "dnn", hidden_units=(6,))), schema)


def test_a_user_with_a_large_number_does_not_cost_the_others_digits(schema, config):
    """Halves are differences to the empty row, not to some other user's."""
    schema = with_items(schema, ITEM_FIELDS)
    model = unusual(build_model(schema, config))
    users, items = random_inputs(schema, 3), catalogue_of(schema, random_inputs(schema, 4))
    users.dense[0] = 1e7
    candidates = torch.arange(4).expand(3, 4)
    expected = model(rows_of_pairs(users, items, candidates)).view(3, 4)
    halves = logits_by_halves(model, users, items, candidates)
    torch.testing.assert_close(halves[1:], expected[1:], rtol=0, atol=1e-5)


def test_scoring_changes_no_weight(schema, config):
    schema = with_items(schema, ITEM_FIELDS)
    model = unusual(build_model(schema, config))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    users, items = random_inputs(schema, 3), catalogue_of(schema, random_inputs(schema, 4))
    logits_by_halves(model, users, items, torch.zeros(3, 4, dtype=torch.int64))
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_model_that_computes_otherwise_must_say_so_again(schema, config):
    class Doubled(DeepFM):
        def _forward_components(self, first_order, field_embeddings, flat_embeddings):
            parts = super()._forward_components(first_order, field_embeddings, flat_embeddings)
            return {name: 2 * part for name, part in parts.items()}

    class Renamed(DeepFM):
        pass

    class Declared(Doubled):
        def forward(self, inputs):
            return self.bias + super().forward(inputs)

        def _pair_branches(self):
            return "own"

    assert Doubled(schema, config.model, config.task_list()).pair_branches() is None
    assert Renamed(schema, config.model, config.task_list()).pair_branches() is not None
    assert Declared(schema, config.model, config.task_list()).pair_branches() == "own"


@pytest.mark.parametrize(
    ("rows", "columns", "size"), [(1, 1, 1), (5, 7, 3), (5, 7, 20), (4, 3, 100)]
)
def test_blocks_cover_every_pair_once(rows, columns, size):
    counts = np.zeros((rows, columns), int)
    for block in _rectangles(rows, columns, size):
        counts[block] += 1
        assert 0 < counts[block].size <= size
    assert (counts == 1).all()


def test_halves_are_selected_together():
    halves = Halves(torch.arange(6).view(3, 2), torch.arange(3).view(3, 1))
    assert [part.tolist() for part in halves.select(slice(1, 2))] == [[[2, 3]], [[1]]]


@pytest.mark.parametrize("items", [ITEM_FIELDS, {"user"}, {"tags", "items"}])
@pytest.mark.parametrize("name", ALLOWED)
def test_encoders_without_a_query_are_computed_once(schema, config, name, items):
    schema = with_items(schema, items)
    sequences = {"bought": {"sequence": ["items"]}, "tagged": {"sequence": ["tags"]}}
    options = {"attention_dim": 4, "num_heads": 2}
    encoders = [{"name": "pooling", "input": "bought", "positions": True, "group": "fields"}]
    if name not in ("fm", "lr"):  # which have no flat vectors
        encoders.append({"name": "self_attention", "input": "tagged", **options})
    sequences = {key: SequenceConfig(**value) for key, value in sequences.items()}
    config = changed(config, "feature", sequences=sequences, encoders=encoders)
    check(build_model(schema, replaced(config, model_name=name)), schema)


def test_encoders_with_a_query_need_whole_rows(schema, config):
    sequences = {"bought": SequenceConfig(query=("item",), sequence=("items",))}
    config = changed(config, "feature", sequences=sequences, encoders=("simple_attention",))
    assert build_model(schema, config).pair_branches() is None
