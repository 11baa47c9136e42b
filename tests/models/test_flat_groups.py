"""Views of groups that a model names, and tables of their own, against rows of the tables."""

from types import MappingProxyType

import pytest
import torch

from deepfm.errors import ConfigError
from deepfm.models.base import BaseCTRModel
from deepfm.models.features import build_embedding
from deepfm.models.layers.embedding import FlatGroup
from deepfm.models.options import FeatureConfig
from tests.models.conftest import random_inputs

OWN = MappingProxyType(
    {
        "first": FlatGroup(("type", "price", "user"), "first", 5),
        "second": FlatGroup(("position", "type", "children"), "second"),
        "all": None,
    }
)


def build(schema, flat_groups=OWN, field_group="fm", **feature):
    return build_embedding(
        schema,
        FeatureConfig(fm_embedding_dim=4, **feature),
        model_name="deepfm",
        first_order=True,
        field_group=field_group,
        required=(),
        flat_groups=flat_groups,
    )


def test_each_group_reads_its_own_tables(schema):
    layer, inputs = build(schema), random_inputs(schema, 6)
    views = layer(*inputs)
    own = {name: layer.tables[name] for name in layer.tables.logical}
    assert own["type_first"].shape == (7, 5)
    assert own["type_second"].shape == (7, 3)
    first = [
        own["type_first"][inputs.sparse[:, 1]],
        inputs.dense[:, :1],
        own["user_first"][inputs.sparse[:, 0]],
    ]
    torch.testing.assert_close(views.groups["first"], torch.cat(first, 1))
    shown = layer.group_feature_dims("second")
    assert shown == {"position": 3, "type": 3, "children": 4}
    columns = layer.group_feature_dims("deep")
    start = sum(list(columns.values())[: list(columns).index("position")])
    # An encoded number has no table, so that it is the same in every group.
    assert torch.equal(views.groups["second"][:, :3], views.flat_embeddings[:, start : start + 3])
    second = own["type_second"][inputs.sparse[:, 1]]
    torch.testing.assert_close(views.groups["second"][:, 3:6], second)
    assert torch.equal(views.groups["all"], views.flat_embeddings)
    assert "price_first" not in own


def test_what_the_config_says_about_groups_counts_more(schema):
    layer = build(
        schema,
        groups={"first": ("user", "item"), "deep": ("type", "item"), "fm": ("user", "item")},
        table_suffixes={"first": "mine", "deep": "mine", "fm": "pairs", "wide": "linear"},
        flat_groups={"first": FlatGroup(("type",), "first")},
    )
    views = layer(*(inputs := random_inputs(schema, 6)))
    assert list(layer.tables.logical) == [
        "user_pairs", "items_pairs", "user_mine", "items_mine", "type_mine",
    ]  # fmt: skip
    item = layer.tables["items_mine"][inputs.sparse[:, 3]]
    torch.testing.assert_close(views.groups["first"][:, 4:], item)
    torch.testing.assert_close(views.flat_embeddings[:, 3:], item)
    expected = layer.tables["items_pairs"][inputs.sparse[:, 3]]
    torch.testing.assert_close(views.field_embeddings[:, 1], expected)


def test_first_order_weights_of_a_suffix_are_first_order_weights(schema):
    groups, suffixes = {"wide": ("user",)}, {"wide": "linear"}
    layer = build(schema, {}, None, groups=groups, table_suffixes=suffixes)
    assert "user_wide_linear" in layer.tables.logical
    inputs = random_inputs(schema, 6)
    expected = layer.tables["user_wide_linear"][inputs.sparse[:, 0]]
    torch.testing.assert_close(layer(*inputs).first_order, expected)
    assert [w.shape for w in layer.first_order_weights()] == [(12, 1)]


def test_field_vectors_may_be_those_of_a_group_of_the_models(schema):
    groups = {"sparse": ("user", "item", "type")}
    layer = build(schema, flat_groups={}, field_group="sparse", groups=groups)
    assert layer(*random_inputs(schema, 6)).field_embeddings.shape == (6, 3, 4)
    assert layer.num_fields == 3


def test_every_table_of_a_group_gets_a_gradient(schema):
    layer = build(schema)
    groups = layer(*random_inputs(schema, 64)).groups
    sum(group.square().sum() for group in groups.values()).backward()
    for name in ("type_first", "user_first", "type_second", "children_second", "user"):
        assert layer.tables[name].grad.any(), name
    assert not layer.tables["user_first"].grad[0].any()


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (
            {"table_suffixes": {"frist": "a"}},
            r"^feature\.table_suffixes\.frist: unknown group; did you mean 'first'\?$",
        ),
        (
            {"table_suffixes": {"first": "wide"}},
            r"^feature\.table_suffixes\.first: expected .*found 'wide'$",
        ),
        (
            {"table_suffixes": {"first": "a.b"}},
            r"^feature\.table_suffixes\.first: expected letters.*'a\.b'$",
        ),
        (
            {"table_suffixes": {"second": "first"}},
            r"^feature\.table_suffixes: groups first and second have one suffix 'first', and ",
        ),
        ({"groups": {"firts": ("user",)}}, r"^feature\.groups\.firts: .*mean 'first'\?$"),
    ],
    ids=["unknown", "of the first order", "no name", "two widths", "group"],
)
def test_groups_and_suffixes_that_are_refused(schema, feature, message):
    with pytest.raises(ConfigError, match=message):
        build(schema, **feature)


def test_a_suffix_that_makes_the_name_of_another_table_is_refused(schema):
    schema = schema.with_fields({"type": {"embedding_name": "user_own"}})
    with pytest.raises(ConfigError, match=r"table_suffixes\.deep: user has a table user_own then"):
        build(schema, table_suffixes={"deep": "own"})


def test_a_model_says_what_its_logits_are():
    class Nothing(BaseCTRModel):
        def _build_components(self):
            pass

    with pytest.raises(NotImplementedError, match=r"^Nothing needs _forward_components, or _parts"):
        Nothing._forward_components(Nothing.__new__(Nothing), None, None, None)
