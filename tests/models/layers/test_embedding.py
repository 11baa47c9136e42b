from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from deepfm.models.features import field_specs
from deepfm.models.layers.embedding import FeatureEmbedding
from deepfm.models.layers.fields import DenseField, IdField
from deepfm.models.layers.initializers import initializer_from
from deepfm.models.layers.lookup import pool
from deepfm.models.layers.named_weights import NamedWeights
from tests import reference
from tests.models.conftest import random_inputs
from tests.models.oracle import embedding_weights


def build(schema, *, first_order=True, fm_embedding_dim=4, initializer="xavier_uniform"):
    torch.manual_seed(0)
    return FeatureEmbedding(
        field_specs(schema, initializer),
        fm_embedding_dim=fm_embedding_dim,
        first_order=first_order,
    )


def sequence(combiner, padding_idx=0, rows=6, dim=3):
    torch.manual_seed(0)
    spec = IdField("s", rows, dim, padding_idx, combiner, "normal(1.0)")
    return FeatureEmbedding([spec], fm_embedding_dim=dim, first_order=True)


def views_of(layer, ids, length):
    batch = torch.zeros(1, 0)
    return layer(batch.long(), batch, (torch.tensor([ids]),), (torch.tensor([length]),))[:3]


def test_views_equal_loops(schema):
    layer, inputs = build(schema), random_inputs(schema, 16)
    with torch.no_grad():
        for parameter in layer.encoded.parameters():
            parameter.normal_()
    expected = reference.feature_views(schema, inputs, embedding_weights(layer), 4)
    first_order, field_embeddings, flat_embeddings = layer(*inputs)[:3]
    assert first_order.shape == (16, 1)
    assert field_embeddings.shape == (16, layer.num_fields, 4)
    assert flat_embeddings.shape == (16, layer.total_dim)
    np.testing.assert_allclose(first_order.detach().squeeze(1), expected[0], atol=1e-5)
    np.testing.assert_allclose(field_embeddings.detach(), expected[1], atol=1e-5)
    np.testing.assert_allclose(flat_embeddings.detach(), expected[2], atol=1e-5)


def test_dims(schema):
    layer = build(schema)
    assert layer.num_fields == 14
    assert layer.rest_dim == 2
    assert layer.total_dim == schema.total_embedding_dim + 2
    assert layer.fm_embedding_dim == 4


def test_raw_dense_columns_are_the_last_of_flat_and_nowhere_else(schema, inputs):
    layer = build(schema)
    changed = inputs._replace(dense=inputs.dense.clone())
    changed.dense[:, [0, 2]] += 1.0  # price and distance
    before, after = layer(*inputs), layer(*changed)
    assert torch.equal(after.flat_embeddings[:, -2:], changed.dense[:, [0, 2]])
    assert torch.equal(after.flat_embeddings[:, :-2], before.flat_embeddings[:, :-2])
    assert torch.equal(after.field_embeddings, before.field_embeddings)
    weight = layer.dense_first_order[[0, 2]].sum()
    torch.testing.assert_close(after.first_order, before.first_order + weight)


def test_state_dict_speaks_of_logical_tables(schema):
    keys = [key for key in build(schema).state_dict() if key.startswith("tables.")]
    names = ["user", "items", "type", "tags", "children", "key"]
    assert keys == [f"tables.{name}.weight" for name in [*names, *(f"{n}_wide" for n in names)]]


def test_only_other_dims_are_projected_and_equal_dims_are_shared(schema, inputs):
    layer = build(schema)
    assert [key for key in layer.state_dict() if key.startswith("projections.")] == [
        f"projections.{name}.weight"
        for name in ["type", "age of user", "tags", "position", "keys", "locks"]
    ]
    _, field_embeddings, flat_embeddings = layer(*inputs)[:3]
    assert torch.equal(field_embeddings[:, 0], flat_embeddings[:, :4])  # user
    assert torch.equal(field_embeddings[:, 1], flat_embeddings[:, 4:8])  # items


def test_no_weights_for_views_that_nobody_reads(schema, inputs):
    layer = build(schema, first_order=False, fm_embedding_dim=None)
    assert not any("wide" in key or "first_order" in key for key in layer.state_dict())
    assert not list(layer.projections.parameters())
    first_order, field_embeddings, flat_embeddings = layer(*inputs)[:3]
    assert torch.equal(first_order, torch.zeros(4, 1))
    assert field_embeddings is None
    assert flat_embeddings.shape == (4, layer.total_dim)


def test_raw_dense_fields_alone():
    layer = FeatureEmbedding([DenseField("x", None)], fm_embedding_dim=4, first_order=True)
    views = layer(torch.zeros(2, 0, dtype=torch.int64), torch.ones(2, 1), (), ())
    assert [tuple(view.shape) for view in views[:3]] == [(2, 1), (2, 0, 4), (2, 1)]


@pytest.mark.parametrize("combiner", ["mean", "sum", "max"])
@pytest.mark.parametrize(("ids", "length"), [([3, 4], 0), ([0, 0], 2), ([0, 5], 1)])
def test_an_empty_bag_is_zero(combiner, ids, length):
    for view in views_of(sequence(combiner), ids, length):
        assert view.abs().max() == 0


@pytest.mark.parametrize("combiner", ["mean", "sum", "max"])
def test_padding_counts_neither_at_the_end_nor_inside(combiner):
    layer = sequence(combiner)
    expected = views_of(layer, [2, 5], 2)
    for ids, length in ([2, 5, 0, 0], 4), ([2, 0, 5, 0], 3), ([2, 5, 1, 3], 2):
        for actual, view in zip(views_of(layer, ids, length), expected, strict=True):
            torch.testing.assert_close(actual, view)


@pytest.mark.parametrize("combiner", ["mean", "sum", "max"])
def test_no_value_is_nothing(combiner):
    """-1 in a field without padding, one id or one element of a sequence."""
    layer = sequence(combiner, padding_idx=None)
    expected = views_of(layer, [0, 5], 2)
    for actual, view in zip(views_of(layer, [0, -1, 5], 3), expected, strict=True):
        torch.testing.assert_close(actual, view)
    for view in views_of(layer, [-1, -1], 2):
        assert view.abs().max() == 0
    ids, nothing = torch.tensor([[-1], [0]]), torch.zeros(2, 0)
    spec = IdField("s", 6, 3, None, None, "normal(1.0)")
    layer = FeatureEmbedding([spec], fm_embedding_dim=3, first_order=True)
    for view in layer(ids, nothing, (), ())[:3]:
        assert view[0].abs().max() == 0
        assert view[1].abs().max() > 0


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("combiner", ["mean", "sum", "max"])
def test_a_batch_without_any_element_is_zero(combiner, compact):
    layer = sequence(combiner)
    ids, nothing = torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0)
    inputs = (nothing.long(), nothing, (ids,), (torch.zeros(2, dtype=torch.int64),))
    with layer.tables.compact_mode(None) if compact else nullcontext():
        views = layer(*inputs)[:3]
        sum(view.sum() for view in views).backward()
    assert [view.abs().max().item() for view in views] == [0, 0, 0]
    assert layer.l2_reg(*inputs, rate=1.0, scope="batch").item() == 0


def test_dense_fields_of_several_numbers():
    """Raw, each is a column with a weight; linear, they are one vector through a matrix."""
    fields = [
        DenseField("x", None, 2),
        DenseField("y", 3, 4, "nn.init.constant_,val=0.5"),
        DenseField("z", None),
    ]
    layer = FeatureEmbedding(fields, fm_embedding_dim=3, first_order=True)
    dense = torch.randn(5, 7)
    first_order, field_embeddings, flat = layer(torch.zeros(5, 0).long(), dense, (), ())[:3]
    vector = 0.5 * dense[:, 2:6].sum(1, keepdim=True).expand(5, 3)
    torch.testing.assert_close(field_embeddings, vector.unsqueeze(1))
    torch.testing.assert_close(flat, torch.cat([vector, dense[:, [0, 1, 6]]], 1))
    weight = layer.dense_first_order.unsqueeze(1)
    assert weight.shape == (7, 1)
    torch.testing.assert_close(first_order, dense @ weight)
    assert layer.rest_dim == 3
    assert torch.equal(layer.rest(flat), dense[:, [0, 1, 6]])
    assert layer.group_feature_dims("deep") == {"y": 3, "x": 2, "z": 1}


@pytest.mark.parametrize("combiner", ["mean", "sum", "max"])
def test_without_padding_idx_id_0_is_an_ordinary_row(combiner):
    layer = sequence(combiner, padding_idx=None)
    _, _, flat = views_of(layer, [0, 1], 2)
    rows = reference.pooled(list(layer.tables["s"][:2].detach().double().numpy()), combiner, 3)
    np.testing.assert_allclose(flat[0].detach(), rows, atol=1e-6)
    flat.sum().backward()
    assert layer.tables["s"].grad[0].abs().max() > 0


def test_max_of_negative_vectors_is_negative():
    vectors = torch.tensor([[[-3.0], [-2.0], [5.0]]])
    assert pool(vectors, torch.tensor([[True, True, False]]), "max").item() == -2.0


def test_the_padding_row_is_zero_and_receives_no_gradient(schema):
    layer = build(schema)
    inputs = random_inputs(schema, 32)
    assert (inputs.sparse == 0).any()
    sum(view.square().sum() for view in layer(*inputs)[:3]).backward()
    for name in ("user", "items", "type", "tags"):
        for table in (layer.tables[name], layer.tables[f"{name}_wide"]):
            assert table[0].abs().max() == 0
            assert table.grad[0].abs().max() == 0
            assert table.grad.abs().max() > 0
    assert layer.tables["children"][0].abs().min() > 0


@pytest.mark.parametrize(
    ("initializer", "bound"),
    [
        ("xavier_uniform", lambda rows, dim: (6 / (rows + dim)) ** 0.5),
        ("uniform_rows", lambda rows, dim: rows**-0.5),
    ],
)
def test_uniform_initializers_use_the_tables_own_shape(initializer, bound):
    specs = [
        IdField("a", 2000, 4, 0, None, initializer),
        IdField("b", 50, 40, 0, None, initializer),
    ]
    layer = FeatureEmbedding(specs, fm_embedding_dim=4, first_order=True)
    for name, dim in ("a", 4), ("b", 40), ("a_wide", 1), ("b_wide", 1):
        weight = layer.tables[name]
        assert weight.shape[1] == dim
        limit = bound(*weight.shape)
        assert 0.85 * limit < weight.abs().max() <= limit


def test_normal_initializer():
    spec = IdField("a", 5000, 4, 0, None, "normal(1e-2)")
    layer = FeatureEmbedding([spec], fm_embedding_dim=4, first_order=True)
    for name in ("a", "a_wide"):
        assert layer.tables[name].std().item() == pytest.approx(0.01, rel=0.05)
        assert abs(layer.tables[name].mean().item()) < 0.001


@pytest.mark.parametrize(
    ("text", "spread", "bound"),
    [
        ("nn.init.uniform_,a=-0.01,b=0.01", 0.01 / 3**0.5, 0.01),
        ("nn.init.normal_,mean=0.0,std=0.02", 0.02, None),
        ("nn.init.trunc_normal_,mean=0,std=1,a=-0.5,b=0.5", 0.284, 0.5),
        ("torch.nn.init.xavier_uniform_(gain=2.0)", 2 * (2 / 2050) ** 0.5, 2 * (6 / 2050) ** 0.5),
        ("nn.init.xavier_normal_", (2 / 2050) ** 0.5, None),
        ("nn.init.kaiming_uniform_,a=1", (1 / 50) ** 0.5, (3 / 50) ** 0.5),
        ("nn.init.kaiming_normal_,mode='fan_out',nonlinearity=relu", (2 / 2000) ** 0.5, None),
        ("nn.init.zeros_", 0.0, 0.0),
    ],
)
def test_initializers_of_torch(text, spread, bound):
    torch.manual_seed(0)
    weight = initializer_from(text)(torch.full((2000, 50), 9.0))
    assert weight.std().item() == pytest.approx(spread, rel=0.03)
    assert abs(weight.mean().item()) < 0.02
    if bound is not None:
        assert weight.abs().max() <= bound


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "nn.init.uniform_,c=1",
            "^initializer: nn.init.uniform_: has no argument 'c'; known: a, b$",
        ),
        ("nn.init.uniform_,a=x", "^initializer: nn.init.uniform_: a is a number, got 'x'$"),
        ("nn.init.constant_", "^initializer: nn.init.constant_: .*missing"),
        ("nn.init.kaiming_normal_,mode=fan", "^initializer: nn.init.kaiming_normal_: "),
        ("nn.init.uniform_,a=2,b=1", "^initializer: nn.init.uniform_: .*from=2 > to=1"),
        ("nn.init.trunc_normal_,std=0", "^initializer: nn.init.trunc_normal_: .*division by zero"),
        ("nn.init.eye_", "^initializer: expected one of xavier_uniform,"),
        ("nn.init.zeros_,a=__import__('os')", "^expected a number"),
    ],
)
def test_initializers_of_torch_that_are_refused(text, message):
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        initializer_from(text)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "text", ["xavier", "normal", "normal()", "normal(0)", "normal(1e)", "normal(-1)"]
)
def test_unknown_initializers_are_refused(text):
    with pytest.raises(ValueError, match=r"^initializer: expected one of xavier_uniform, "):
        initializer_from(text)


def test_dense_weights_begin_within_the_xavier_bounds(schema):
    layer = build(schema)
    assert 0 < layer.dense_first_order.abs().max() <= (6 / 5) ** 0.5
    assert 0 < layer.dense_vectors["age of user"].abs().max() <= (6 / 7) ** 0.5
    assert 0 < layer.projections["keys"].abs().max() <= (6 / 9) ** 0.5


@pytest.mark.parametrize("first_order", [True, False])
def test_l2_of_a_batch_counts_each_touched_row_once(schema, first_order):
    layer, inputs = build(schema, first_order=first_order), random_inputs(schema, 16)
    weights = embedding_weights(layer)
    if not first_order:
        weights |= {f"{name}_wide": np.zeros((20, 1)) for name in list(weights)}
    actual = layer.l2_reg(*inputs, rate=0.3, scope="batch")
    assert actual.shape == ()
    assert actual.item() == pytest.approx(reference.l2_of_batch(schema, inputs, weights, 0.3))
    actual.backward()
    touched = set(inputs.sparse[:, 0].tolist()) - {0}
    rows = layer.tables["user"].grad.abs().sum(1).nonzero().flatten()
    assert set(rows.tolist()) == touched


def test_l2_of_the_tables_counts_every_row(schema, inputs):
    layer = build(schema)
    expected = sum(
        (weight.detach().double() ** 2).sum().item() for weight in layer.tables.parameters()
    )
    actual = layer.l2_reg(*inputs, rate=0.3, scope="table")
    assert actual.item() == pytest.approx(0.15 * expected)


def test_l2_of_unknown_ids_and_empty_sequences_is_zero():
    layer = sequence("mean")
    none = torch.zeros(2, 0)
    ids, lengths = (torch.tensor([[0, 0], [3, 4]]),), (torch.tensor([2, 0]),)
    assert layer.l2_reg(none.long(), none, ids, lengths, rate=1.0, scope="batch").item() == 0


def test_l2_scope_is_checked(schema, inputs):
    with pytest.raises(ValueError, match="scope: expected batch or table, got 'rows'"):
        build(schema).l2_reg(*inputs, rate=1.0, scope="rows")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparse": torch.zeros(4, 2).long()}, r"expected sparse ids \(B, 4\), got \(4, 2\)"),
        ({"dense": torch.zeros(4)}, r"expected dense values \(B, 9\), got \(4,\)"),
        ({"sequence_ids": ()}, r"expected ids of 4 sequence fields, got 0"),
    ],
)
def test_inputs_of_another_schema_are_refused(schema, inputs, change, message):
    with pytest.raises(ValueError, match=message):
        build(schema)(*inputs._replace(**change))


def test_named_weights_take_the_names_of_torch_methods_and_load_them():
    names = ["type", "keys", "training", "children", "train", "a b", "weight"]
    first, second = (nn.ModuleDict({"x": NamedWeights(dict.fromkeys(names, (2, 3)))}) for _ in "12")
    for weight in first.parameters():
        nn.init.normal_(weight)
    second.load_state_dict(first.state_dict())
    assert list(first.state_dict()) == [f"x.{name}.weight" for name in names]
    for name in names:
        assert torch.equal(first["x"][name], second["x"][name])


def test_named_weights_report_missing_and_unexpected_keys_by_their_own_names():
    weights = NamedWeights({"type": (2, 3)})
    problems = weights.load_state_dict({"typo.weight": torch.zeros(2, 3)}, strict=False)
    assert problems.missing_keys == ["type.weight"]
    assert problems.unexpected_keys == ["typo.weight"]
    with pytest.raises(RuntimeError, match="size mismatch for type"):
        weights.load_state_dict({"type.weight": torch.zeros(3, 3)})
