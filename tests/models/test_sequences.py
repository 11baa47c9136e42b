"""Views of sequences and the encoders of a config, against float64 loops over rows."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from deepfm.config import config_from_dict
from deepfm.data.batch import Inputs
from deepfm.data.encoding.functions import number_ids
from deepfm.data.schema import AGES, ITEMS, DatasetSchema, FieldSchema
from deepfm.errors import ConfigError
from deepfm.models import build_model
from deepfm.models.features import build_embedding
from deepfm.models.frozen import frozen
from deepfm.models.layers.embedding import FlatGroup
from deepfm.models.layers.fm import FactorizationMachine
from deepfm.models.layers.precision import products_in
from tests import reference
from tests.models.oracle import array, mlp_layers


def sparse(name, rows, **options):
    options = {"embedding_dim": 4} | options
    return FieldSchema(name, "sparse", vocabulary_size=rows, **options)


def clicked(name, **options):
    options = {"embedding_dim": 4, "sequence": "clicks", "max_length": 5} | options
    return FieldSchema(name, "sequence", **options)


@pytest.fixture
def schema() -> DatasetSchema:
    """Events of three fields: with a reserved row, with none, and numbers."""
    fields = [
        sparse("user", 6),
        sparse("item", 9),
        sparse("level", 4, embedding_dim=2, num_buckets=4),
        FieldSchema("price", "dense"),
        clicked("items", vocabulary_size=9),
        FieldSchema("tags", "sequence", vocabulary_size=5, embedding_dim=3, max_length=4),
        clicked("levels", num_buckets=4, embedding_dim=2),
        clicked("prices", numbers=True),
    ]
    return DatasetSchema(fields={field.name: field for field in fields}, label_field="y")


CLICKS = {"query": ["item", "level", "price"], "sequence": ["items", "levels", "prices"]}


@pytest.fixture
def inputs() -> Inputs:
    """Rows of 0 to 5 events, of which some fields know nothing; beyond them stands anything."""
    rng = np.random.default_rng(2)
    lengths = torch.tensor([0, 1, 3, 5, 4, 5])
    items, levels = rng.integers(0, 4, (6, 5)), rng.integers(-1, 3, (6, 5))
    numbers = rng.normal(size=(6, 5)).astype(np.float32)
    numbers[rng.random((6, 5)) < 0.5] = np.nan
    items[3, 1], levels[3, 1], numbers[3, 1] = 0, -1, np.nan  # nothing is known of this event
    return Inputs(
        torch.from_numpy(rng.integers(0, 4, (6, 3))),
        torch.randn(6, 1, generator=torch.Generator().manual_seed(1)),
        (
            torch.from_numpy(items),
            torch.from_numpy(rng.integers(0, 5, (6, 4))),
            torch.from_numpy(levels),
            torch.from_numpy(number_ids(numbers.astype(np.float64))),
        ),
        (lengths, torch.tensor([0, 1, 2, 3, 4, 4]), lengths, lengths),
    )


def config_of(model_name="deepfm", **sections):
    feature = {"fm_embedding_dim": 4, "sequences": {"clicks": CLICKS}} | sections.pop("feature", {})
    return config_from_dict(
        {
            "model_name": model_name,
            "feature": feature,
            "dnn": {"hidden_units": [6], "dropout": 0, "norm": "none"},
            **sections,
        }
    )


def with_other_weights(model):
    """Weights that are not those before training; tables, with their zero rows, stay."""
    torch.manual_seed(4)
    of_tables = {id(weight) for weight in model.embedding.tables.parameters()}
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) not in of_tables:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    return model.eval()


def events(model, inputs, attends=False, suffix=""):
    """Per row the query, the events and which of them count, from rows of the tables."""
    tables = model.embedding.tables
    item, level, items, levels = (
        array(tables[f"{name}{suffix}"]) for name in ("item", "level", "items", "levels")
    )
    ids, _, bins, bits = inputs.sequence_ids
    found = []
    for b, length in enumerate(inputs.sequence_lengths[0].tolist()):
        query = [*item[inputs.sparse[b, 1]], *level[inputs.sparse[b, 2]], inputs.dense[b, 0].item()]
        if inputs.sparse[b, 1] == 0:
            query[:4] = [0.0] * 4
        sequence, counts = np.zeros((5, 7)), [False] * 5
        for t in range(length):
            if ids[b, t] > 0:
                sequence[t, :4] = items[ids[b, t]]
            if bins[b, t] >= 0:
                sequence[t, 4:6] = levels[bins[b, t]]
            if bits[b, t] >= 0:
                number = np.array([bits[b, t].item()], np.uint32).view(np.float32)
                sequence[t, 6] = number[0]
            known = ids[b, t] > 0 or bins[b, t] >= 0 or bits[b, t] >= 0
            counts[t] = attends or bool(known)
        found.append((np.array(query), sequence, counts, length))
    return found


def din_of(encoder, rows, *, softmax=False, places=None):
    """What the loops make of rows of events."""
    layers, activation = mlp_layers(encoder.mlp), "relu"
    weight, bias = array(encoder.linear.weight)[0], encoder.linear.bias.item()
    found = []
    for query, sequence, counts, length in rows:
        if places is not None:
            sequence = sequence.copy()
            for t in range(length):
                sequence[t] += places[min(length - 1 - t, len(places) - 1)] * counts[t]
        args = (layers, activation, weight, bias, softmax)
        found.append(reference.din(query, sequence, counts, *args))
    return np.stack(found)


def test_the_view_of_a_sequence(schema, inputs):
    model = with_other_weights(build_model(schema, config_of(feature={"encoders": ["pooling"]})))
    view = model.embedding(*inputs).sequences["clicks"]
    for b, (query, sequence, counts, length) in enumerate(events(model, inputs)):
        np.testing.assert_allclose(view.query[b].detach(), query, atol=1e-6)
        np.testing.assert_allclose(view.sequence[b].detach(), sequence, atol=1e-6)
        assert view.mask[b].tolist() == counts
        assert view.lengths[b] == length


@pytest.mark.parametrize("unknown", ["mask", "attend"])
@pytest.mark.parametrize("positions", [False, True])
def test_what_encoders_make_stands_behind_the_flat_vectors(schema, inputs, unknown, positions):
    encoders = [
        {"name": "din", "unknown": unknown, "positions": positions, "softmax": True},
        {"name": "pooling", "unknown": unknown, "combiner": "sum", "max_length": 2},
    ]
    model = with_other_weights(build_model(schema, config_of(feature={"encoders": encoders})))
    assert model.embedding.group_feature_dims("deep") == {
        "user": 4, "item": 4, "level": 2, "tags": 3, "price": 1,
        "din of clicks": 7, "pooling of clicks": 7,
    }  # fmt: skip
    flat = model.embedding(*inputs).flat_embeddings.detach()
    rows = events(model, inputs, attends=unknown == "attend")
    din = model.embedding.encoders[0]
    places = array(din.places) if positions else None
    expected = din_of(din.encoder, rows, softmax=True, places=places)
    np.testing.assert_allclose(flat[:, -14:-7], expected, atol=1e-5)
    sums = [sequence[:2].sum(0) for _, sequence, _, _ in rows]
    np.testing.assert_allclose(flat[:, -7:], sums, atol=1e-5)


def test_without_groups_encoded_fields_are_pooled_where_no_encoder_reads_them(schema, inputs):
    plain = build_model(schema, config_of(feature={"encoders": ["pooling"]}))
    assert plain.embedding.num_fields == 6  # with `items`, `levels` and `tags`, without numbers
    assert {"items_wide", "levels_wide"} <= set(plain.embedding.tables.logical)
    assert "prices" not in plain.embedding.tables.logical
    groups = {"deep": ["user", "items"], "fm": ["item", "tags"]}
    grouped = build_model(schema, config_of(feature={"encoders": ["pooling"], "groups": groups}))
    assert list(grouped.embedding.group_feature_dims("deep")) == [
        "user", "items", "pooling of clicks",
    ]  # fmt: skip


def test_an_encoder_in_the_place_of_pooled_vectors(schema, inputs):
    encoders = [{"name": "din", "group": "fields"}]
    config = config_of("deepfm", feature={"encoders": encoders, "fm_embedding_dim": 4})
    model = with_other_weights(build_model(schema, config))
    assert list(model.embedding.group_feature_dims("deep")) == [
        "user", "item", "level", "items", "tags", "levels", "price",
    ]  # fmt: skip
    views = model.embedding(*inputs)
    expected = din_of(model.embedding.encoders[0].encoder, events(model, inputs))
    flat = views.flat_embeddings.detach()
    np.testing.assert_allclose(flat[:, 10:14], expected[:, :4], atol=1e-5)
    np.testing.assert_allclose(flat[:, 17:19], expected[:, 4:6], atol=1e-5)
    fields = views.field_embeddings.detach()
    np.testing.assert_allclose(fields[:, 3], expected[:, :4], atol=1e-5)
    projection = array(model.embedding.projections["levels"])
    np.testing.assert_allclose(fields[:, 5], expected[:, 4:6] @ projection.T, atol=1e-5)
    assert model.pair_branches() is None


def test_a_factorization_machine_with_target_attention(schema, inputs):
    config = config_of("fm", feature={"encoders": [{"name": "din", "group": "fields"}]})
    model = with_other_weights(build_model(schema, config))
    views = model.embedding(*inputs)
    expected = model.bias + views.first_order.squeeze(1)
    expected = expected + FactorizationMachine()(views.field_embeddings).sum(1)
    torch.testing.assert_close(model(inputs), expected)


def test_multi_tower_din_equals_loops(schema, inputs):
    config = config_of(
        "multi_tower_din",
        feature={"groups": {"who": ["user", "price"], "what": ["item", "tags"]}},
        multi_tower_din={
            "towers": {
                "what": {"hidden_units": [5], "norm": "none", "dropout": 0},
                "who": {"hidden_units": [4, 3], "norm": "batch", "dropout": 0},
            },
            "din_towers": [{"name": "din", "hidden_units": [4]}, "simple_attention"],
        },
        final={"hidden_units": [6], "norm": "none", "dropout": 0},
    )
    model = with_other_weights(build_model(schema, config))
    user, item, tags = (array(model.embedding.tables[name]) for name in ("user", "item", "tags"))
    din = din_of(model.encoders[0].encoder, rows := events(model, inputs))
    _, padded, _, _ = inputs.sequence_ids
    for b, (query, sequence, counts, _) in enumerate(rows):
        own = [i for i in padded[b, : inputs.sequence_lengths[1][b]].tolist() if i]
        mean = reference.pooled([tags[i] for i in own], "mean", 3)
        what = [*(item[inputs.sparse[b, 1]] * bool(inputs.sparse[b, 1])), *mean]
        who = [*(user[inputs.sparse[b, 0]] * bool(inputs.sparse[b, 0])), inputs.dense[b, 0].item()]
        outputs = [
            *reference.mlp(what, mlp_layers(model.towers[0]), "relu"),
            *reference.mlp(who, mlp_layers(model.towers[1]), "relu"),
            *din[b],
            *reference.simple_attention(query, sequence, counts),
        ]
        hidden = reference.mlp(outputs, mlp_layers(model.final[0]), "relu")
        logit = array(model.final[1].weight)[0] @ hidden + model.bias.item()
        np.testing.assert_allclose(model(inputs)[b].item(), logit, atol=1e-4)


def test_without_final_the_parts_are_those_of_the_towers(schema, inputs):
    model = with_other_weights(build_model(schema, config_of("multi_tower_din")))
    assert list(model.branches(inputs)) == ["bias", "deep", "din of clicks"]


def test_tables_of_its_own(schema, inputs):
    feature = {"encoders": ["din"], "table_suffixes": {"clicks": "seq"}}
    model = with_other_weights(build_model(schema, config_of(feature=feature)))
    assert {"item", "item_seq", "level_seq", "items_seq", "levels_seq", "items"} <= set(
        model.embedding.tables.logical
    )
    flat = model.embedding(*inputs).flat_embeddings.detach()
    expected = din_of(model.embedding.encoders[0].encoder, events(model, inputs, suffix="_seq"))
    np.testing.assert_allclose(flat[:, -7:], expected, atol=1e-5)


def test_groups_of_a_model_get_encodings_too(schema, inputs):
    layer = build_embedding(
        schema,
        config_of(feature={"encoders": [{"name": "pooling", "group": "context"}]}).model.feature,
        model_name="deepfm",
        first_order=False,
        field_group=None,
        required=(),
        flat_embeddings=False,
        flat_groups={"context": FlatGroup(("price", "user")), "other": None},
    )
    views = layer(*inputs)
    assert views.groups["context"].shape == (6, 1 + 4 + 7)
    assert layer.group_total_dim("context") == 12
    assert layer.group_total_dim("other") == 14


def test_the_built_history_needs_no_declaration(inputs):
    fields = [
        sparse("user", 6, group="user"),
        sparse("item", 9, group="item", embedding_dim=8),
        sparse("genre", 5, group="item"),
        FieldSchema("day", "dense"),
    ]
    built = [
        ("history_genre", ITEMS, "genre", 5, 4),
        ("history_item", ITEMS, "item", 9, 8),
        ("history_age", AGES, "time", 64, 3),
    ]
    fields += [
        FieldSchema(
            name, "sequence", built=kind, history_of=of, vocabulary_size=rows, embedding_dim=dim,
            max_length=5,
        )
        for name, kind, of, rows, dim in built
    ]  # fmt: skip
    schema = DatasetSchema(fields={field.name: field for field in fields}, label_field="y")
    config = config_of(feature={"sequences": {}, "encoders": ["din"]})
    model = build_model(schema, config)
    items, _, _, _ = inputs.sequence_ids
    lengths = (inputs.sequence_lengths[0],) * 3
    rows = inputs._replace(sequence_ids=(items, items, items), sequence_lengths=lengths)
    view = model.embedding(*rows).sequences["history"]
    assert view.query.shape == (6, 4 + 8)
    assert view.sequence.shape == (6, 5, 4 + 8 + 3)
    genre = model.embedding.tables["genre"][rows.sparse[:, 2]]
    torch.testing.assert_close(view.query[:, :4], genre)
    # The age of an event that nothing else is known of makes it no event.
    below = torch.arange(5) < lengths[0].unsqueeze(1)
    assert torch.equal(view.mask, below & (items > 0))
    ages = torch.full_like(items, 7)
    others = rows._replace(sequence_ids=(items, items, ages))
    assert torch.equal(model.embedding(*others).sequences["history"].mask, view.mask)
    assert (below & ~view.mask).any()


def test_a_pooled_sequence_may_be_a_query(schema, inputs):
    sequences = {"clicks": CLICKS, "tagged": {"query": ["items"], "sequence": ["levels", "items"]}}
    encoders = [
        {"name": "pooling", "input": "clicks", "group": "fields"},
        {"name": "simple_attention", "input": "tagged"},
    ]
    config = config_of(feature={"encoders": encoders, "sequences": sequences})
    views = with_other_weights(build_model(schema, config)).embedding(*inputs)
    pooled = views.sequences["tagged"].query
    known = (inputs.sequence_ids[0] > 0) & views.sequences["clicks"].mask
    total = (views.sequences["clicks"].sequence[..., :4] * known.unsqueeze(2)).sum(1)
    torch.testing.assert_close(pooled, total / known.sum(1, keepdim=True).clamp(min=1))


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_frozen_model_gives_the_same_logits(schema, inputs, norm):
    encoders = [{"name": "din", "norm": norm}, {"name": "multi_window_din", "windows": [1, 2]}]
    model = with_other_weights(build_model(schema, config_of(feature={"encoders": encoders})))
    with torch.no_grad():
        torch.testing.assert_close(frozen(model)(inputs), model(inputs))


def test_products_in_bf16_are_near(schema, inputs):
    model = with_other_weights(build_model(schema, config_of(feature={"encoders": ["din"]})))
    with torch.no_grad(), products_in("bf16"):
        found = model(inputs)
    torch.testing.assert_close(found, model(inputs), atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ({"encoders": ["dim"]}, "feature.encoders: unknown encoder 'dim'; did you mean 'din'?"),
        (
            {"encoders": [{"name": "din", "sofmax": True}]},
            "feature.encoders: din has no option 'sofmax'; did you mean 'softmax'?",
        ),
        (
            {"encoders": [{"name": "din", "hidden_units": [0]}]},
            "feature.encoders.hidden_units: expected a number of at least 1, found 0",
        ),
        (
            {"encoders": [{"name": "din", "hidden_units": 8}]},
            "feature.encoders.hidden_units: expected a list of whole numbers, found 8",
        ),
        (
            {"encoders": [{"name": "din", "unknown": "drop"}]},
            "feature.encoders.unknown: expected one of mask, attend, found 'drop'",
        ),
        (
            {"encoders": [{"name": "din", "activation": "rleu"}]},
            "feature.encoders.activation: 'rleu' is none of relu,",
        ),
        (
            {"encoders": [{"name": "din", "input": "click"}]},
            "feature.encoders.input: no sequence 'click'; did you mean 'clicks'?",
        ),
        (
            {"encoders": ["din"], "sequences": {}},
            "feature.encoders.input: din needs a sequence of `feature.sequences`, and there is "
            "none",
        ),
        (
            {"encoders": [{"name": "din", "group": "depe"}]},
            "feature.encoders.group: deepfm reads no flat group 'depe'; did you mean 'deep'?",
        ),
        (
            {"encoders": [{"name": "self_attention", "group": "fields"}]},
            "feature.encoders.group: self_attention of clicks is 64 wide, and the fields that it "
            "would stand in for are 7",
        ),
        (
            {
                "encoders": [
                    {"name": "din", "group": "fields"},
                    {"name": "pooling", "group": "fields"},
                ]
            },
            "feature.encoders.group: din of clicks and pooling of clicks both stand in for the "
            "vector of field items",
        ),
        (
            {"encoders": ["din"], "sequences": {"clicks": {**CLICKS, "query": ["item", "users"]}}},
            "feature.sequences.clicks.query: no field 'users'; did you mean 'user'?",
        ),
        (
            {"encoders": ["din"], "sequences": {"clicks": {"sequence": ["items", "item"]}}},
            "feature.sequences.clicks.sequence: field item is sparse; expected sequence fields",
        ),
        (
            {"encoders": ["din"], "sequences": {"clicks": {"sequence": ["items", "tags"]}}},
            "feature.sequences.clicks.sequence: fields items and tags need one `sequence`, found "
            "'clicks' and ''",
        ),
        (
            {"encoders": ["din"], "sequences": {"click": {"query": ["item"]}}},
            "feature.sequences.click.sequence: no field has this `sequence`; name some fields, or "
            "did you mean 'clicks'?",
        ),
        (
            {"encoders": ["din"], "sequences": {"clicks": {"query": ["prices"]}}},
            "feature.sequences.clicks.query: field prices is a sequence of numbers",
        ),
        (
            {"encoders": ["din"], "sequences": {"clicks": {}}},
            "feature.sequences.clicks.query: din compares events with a query",
        ),
        (
            {
                "encoders": ["din"],
                "sequences": {"clicks": {"query": ["item", "user"]}},
            },
            "feature.sequences.clicks.query: 8 wide, and the sequence 7; it may not be wider",
        ),
        ({}, "field prices: a sequence of numbers counts only in a sequence that an encoder reads"),
        (
            {"encoders": ["din"], "groups": {"deep": ["user", "prices"]}},
            "feature.groups.deep: field prices is a sequence of numbers",
        ),
    ],
)
def test_unusable_settings_are_errors(schema, feature, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_model(schema, config_of(feature=feature))


def test_places_need_a_length(schema):
    changes = {name: {"max_length": 0} for name in ("items", "levels", "prices")}
    fields = {n: replace(f, **changes.get(n, {})) for n, f in schema.fields.items()}
    config = config_of(feature={"encoders": [{"name": "din", "positions": True}]})
    with pytest.raises(ConfigError, match="positions: a place has a vector each, and field items"):
        build_model(replace(schema, fields=fields), config)
