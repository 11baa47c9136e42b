"""Models whose views show groups of fields, and their fusion, against float64 loops."""

import numpy as np
import pytest
import torch

from deepfm.config import (
    AttentionConfig,
    CINConfig,
    DNNConfig,
    ExperimentConfig,
    FeatureConfig,
    TrainingConfig,
)
from deepfm.data.batch import Inputs
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.errors import ConfigError
from deepfm.models import build_model
from deepfm.training.optimizers import assign_optimizers
from tests import reference
from tests.models.conftest import changed, experiment, random_inputs, replaced
from tests.models.oracle import (
    array,
    attention_layers,
    cin_filters,
    embedding_weights,
    mlp_layers,
)

GROUPS = {
    "wide": ("words", "only_wide", "b", "a"),
    "fm": ("b", "point", "a", "age"),
    "deep": ("price", "a", "b", "point", "words", "only_deep", "age", "city"),
}
EQUAL = {name: names for name, names in GROUPS.items() if name != "fm"} | {
    "deep": tuple(name for name in GROUPS["deep"] if name != "price")
}


def sparse(name, rows, dim=4, **options):
    return FieldSchema(
        name=name, feature_type="sparse", vocabulary_size=rows, embedding_dim=dim, **options
    )


def schema_of(*fields) -> DatasetSchema:
    return DatasetSchema(fields={field.name: field for field in fields}, label_field="label")


@pytest.fixture
def schema() -> DatasetSchema:
    """Fields of one view and of all; `a` and `city` share a table that only `a` reads as wide."""
    dense = {"feature_type": "dense"}
    return schema_of(
        sparse("a", 10, padding_idx=None),
        sparse("unread", 5),
        FieldSchema(name="price", **dense),
        sparse("only_wide", 7, dim=8),
        sparse("b", 9),
        FieldSchema(name="point", value_dim=4, **dense),
        FieldSchema(
            name="words",
            feature_type="sequence",
            vocabulary_size=6,
            embedding_dim=4,
            max_length=3,
            padding_idx=None,
        ),
        sparse("only_deep", 8),
        FieldSchema(name="age", value_dim=2, dense_embedding="linear", embedding_dim=4, **dense),
        sparse("city", 10, padding_idx=None, embedding_name="a"),
    )


@pytest.fixture
def config() -> ExperimentConfig:
    return experiment(
        feature=FeatureConfig(
            groups=GROUPS, wide_embedding_dim=3, unequal_dims="error", init="normal(0.5)"
        ),
        dnn=DNNConfig(hidden_units=(8, 5), dropout=0.0, use_batch_norm=False),
        cin=CINConfig(layer_sizes=(4, 3)),
        attention=AttentionConfig(num_heads=2, attention_dim=6),
    )


@pytest.fixture
def inputs(schema) -> Inputs:
    """In some rows `a`, `city` and an element of `words` have no value."""
    inputs = random_inputs(schema, 12)
    names = [field.name for field in schema.sparse_fields]
    inputs.sparse[2:4, names.index("a")] = -1
    inputs.sparse[3, names.index("city")] = -1
    inputs.sequence_ids[0][1, 1] = -1
    return inputs


def network(module, x):
    """A DNN or final network: layers, and the output layer if it has one."""
    mlp, *output = module
    x = reference.mlp(x, mlp_layers(mlp), "relu")
    for linear in output:
        bias = 0 if linear.bias is None else array(linear.bias)
        x = array(linear.weight) @ x + bias
    return x


def expected_logits(model, view):
    """Of one row; `view` is what `reference.group_views` gives for it."""
    name, final = model.config.name, model.config.final is not None
    first_order = [sum(sum(vector) for vector in view["wide"])]
    flat = np.concatenate(view["deep"])
    branches = [] if name == "xdeepfm" and model.config.cin.group == "wide" else [first_order]
    if name in ("deepfm", "attention_deepfm"):
        fm = reference.factorization_machine(view["fm"])
        branches.append(fm if final else [sum(fm)])
    if name == "xdeepfm":
        fields = view[model.config.cin.group]
        filters = cin_filters(model.cin, num_fields=len(fields))
        biases = [array(layer.bias) for layer in model.cin.layers if layer.bias is not None]
        explicit = reference.cin(fields, filters, model.config.cin.split_half, biases or None)
        branches.append(explicit if final else array(model.cin_output.weight) @ explicit)
    if name == "attention_deepfm":
        attended = reference.field_self_attention(view["fm"], attention_layers(model.attention), 2)
        groups = model.config.feature.groups
        outside = [
            vector
            for field, vector in zip(groups["deep"], view["deep"], strict=True)
            if field not in groups.get("fm", groups["deep"])
        ]
        flat = np.concatenate([attended.ravel(), *outside])
    branches.append(network(model.dnn, flat))
    bias = 0 if model.bias is None else array(model.bias)
    if final:
        return network(model.final, np.concatenate(branches)) + bias
    return sum(np.asarray(branch) for branch in branches) + bias


def check(schema, config, inputs):
    model = build_model(schema, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(generator=torch.Generator().manual_seed(7))
    groups = dict(config.feature.groups)
    if config.model_name in ("deepfm", "attention_deepfm") or config.model.cin.group == "fm":
        groups.setdefault("fm", groups["deep"])
    weights = embedding_weights(model.embedding)
    views = reference.group_views(schema, inputs, weights, groups, 4)
    expected = np.array([expected_logits(model, view) for view in views])
    expected = expected.squeeze(1) if config.num_class == 1 else expected
    assert model(inputs).shape == expected.shape
    np.testing.assert_allclose(model(inputs).detach(), expected, atol=1e-5, rtol=1e-5)
    return model


FINAL = DNNConfig(hidden_units=(6, 3), dropout=0.0, use_batch_norm=False, init="torch")


@pytest.mark.parametrize("num_class", [1, 3])
@pytest.mark.parametrize("final", [None, FINAL])
@pytest.mark.parametrize("groups", [GROUPS, EQUAL], ids=["fm", "fallback"])
@pytest.mark.parametrize("global_bias", [True, False])
@pytest.mark.parametrize("name", ["deepfm", "wide_and_deep", "xdeepfm", "attention_deepfm"])
def test_logits_equal_loops(schema, config, inputs, name, groups, final, num_class, global_bias):
    config = changed(config, "feature", groups=groups)
    options = {"final": final, "num_class": num_class, "global_bias": global_bias}
    model = check(schema, replaced(config, model_name=name, **options), inputs)
    assert (model.bias is None) != global_bias
    output = (model.dnn if final is None else model.final)[1]
    assert (output.bias is None) == global_bias


def masked(view, groups, embedding, masks):
    """A view whose groups are what variational dropout leaves of them; `masks` by group."""
    result = dict(view)
    for group, dropout in embedding.dropouts.items():
        assert dropout.names == groups[group]
        vectors = [np.asarray(vector) for vector in view[group]]
        dims = [len(vector) for vector in vectors]
        rows = reference.variational_dropout(
            [np.concatenate(vectors)], array(dropout.weight), dims, *masks[group]
        )
        result[group] = np.split(rows[0], np.cumsum(dims)[:-1])
    return result


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["deepfm", "xdeepfm", "xdeepfm of wide", "attention_deepfm"])
def test_variational_dropout_masks_each_group_by_itself(schema, config, inputs, name, training):
    name, *of_wide = name.split(" of ")
    config = replaced(changed(config, "feature", variational_dropout=0.02), model_name=name)
    groups = dict(GROUPS)
    if of_wide:
        config = changed(config, "cin", group="wide")
        del groups["fm"]
    model = build_model(schema, config).train(training)
    assert set(model.embedding.dropouts) == set(groups)
    views = reference.group_views(schema, inputs, embedding_weights(model.embedding), groups, 4)
    draws, eps = dict.fromkeys(groups, ()), torch.finfo(torch.float32).eps
    torch.manual_seed(11)
    if training:  # in this order
        draws = {
            group: array(torch.rand(12, len(groups[group])))
            for group in ("deep", "wide", "fm")
            if group in groups
        }
    torch.manual_seed(11)
    actual = model(inputs).detach()
    expected = []
    for b, view in enumerate(views):
        masks = {group: ([u[b]], eps) if training else () for group, u in draws.items()}
        view = masked(view, groups, model.embedding, masks)
        expected.append(expected_logits(model, view)[0])
    np.testing.assert_allclose(actual, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("unequal", ["project", "error"])
def test_without_a_group_fm_the_mask_of_deep_is_that_of_the_fm(
    schema, config, inputs, unequal, training
):
    """As in TorchEasyRec, where the FM reads what the embedding made of the group deep."""
    names = [name for name in GROUPS["deep"] if schema.fields[name].is_embedded]
    groups = {"wide": GROUPS["wide"], "deep": GROUPS["deep"] if unequal == "project" else names}
    dims = {schema.fields[name].embedding_dim for name in names}
    if unequal == "error" and len(dims) > 1:
        groups["deep"] = [n for n in names if schema.fields[n].embedding_dim == min(dims)]
    feature = {"variational_dropout": 0.02, "groups": groups, "unequal_dims": unequal}
    model = build_model(schema, changed(config, "feature", **feature)).train(training)
    embedding = model.embedding
    assert list(embedding.dropouts) == ["wide", "deep"]
    assert list(model.regularization_losses(12)) == ["wide_feature_p_loss", "deep_feature_p_loss"]
    _, fields, flat = embedding(*inputs)[:3]
    start, expected = 0, []
    for name, width in embedding.group_feature_dims("deep").items():
        vector = flat[:, start : start + width]
        start += width
        if schema.fields[name].is_embedded:
            if name in embedding.projections:
                vector = vector @ embedding.projections[name].T
            expected.append(vector)
    torch.testing.assert_close(fields, torch.stack(expected, 1))


def test_what_variational_dropout_adds_to_the_loss(schema, config, inputs):
    assert build_model(schema, config).regularization_losses(12) == {}
    groups = dict(GROUPS) | {"wide": ("a",)}  # one field alone is not selected from
    feature = {"variational_dropout": 0.02, "groups": groups}
    model = build_model(schema, changed(config, "feature", **feature))
    losses = model.regularization_losses(12)
    assert list(losses) == ["fm_feature_p_loss", "deep_feature_p_loss"]
    for group, loss in zip(("fm", "deep"), losses.values(), strict=True):
        q = [1 / (1 + np.exp(-p)) for p in array(model.embedding.dropouts[group].weight)]
        assert loss.item() == pytest.approx(0.02 / 12 * sum(1 - value for value in q))
    before = model.embedding.dropouts["fm"].probability.sum().item()
    losses["fm_feature_p_loss"].backward()
    torch.optim.SGD(model.embedding.dropouts.parameters(), lr=10.0).step()
    assert model.embedding.dropouts["fm"].probability.sum() > before


def test_variational_dropout_without_groups_masks_dense_terms_too(schema, config, inputs):
    feature = {"groups": {}, "unequal_dims": "project", "fm_embedding_dim": 4}
    config = changed(config, "feature", variational_dropout=0.1, **feature)
    embedding = build_model(schema, config).eval().embedding
    wide = embedding.dropouts["wide"]
    assert set(wide.names) == set(schema.fields)
    with torch.no_grad():
        wide.weight.fill_(-1e9)  # nothing is dropped, but for one field
        full = embedding(*inputs).first_order
        wide.weight[wide.names.index("price")] = 1e9
        without = embedding(*inputs).first_order
    lost = inputs.dense[:, :1] * embedding.dense_first_order[0]
    torch.testing.assert_close(full - without, lost)


@pytest.mark.parametrize("final", [None, FINAL])
@pytest.mark.parametrize("bias", [True, False])
def test_a_cin_of_wide_vectors_has_no_first_order_term_beside_it(
    schema, config, inputs, final, bias
):
    config = changed(config, "cin", group="wide", split_half=False, bias=bias, init="torch")
    config = changed(config, "dnn", init="torch")
    config = replaced(config, model_name="xdeepfm", final=final, global_bias=False)
    groups = {"wide": GROUPS["wide"], "deep": GROUPS["deep"]}
    config = changed(config, "feature", groups=groups)
    model = check(schema, config, inputs)
    assert all((layer.bias is not None) == bias for layer in model.cin.layers)
    assert not model.embedding.first_order
    assert model.embedding.num_fields == 4
    assert model.embedding.fm_embedding_dim == 3


def test_without_a_wide_group_the_first_order_term_is_zero(schema, config, inputs):
    groups = {name: names for name, names in GROUPS.items() if name != "wide"}
    for final, width in (None, None), (FINAL, 1 + 4 + 5):  # a zero stands for the term
        model = build_model(
            schema, replaced(changed(config, "feature", groups=groups), final=final)
        )
        assert not model.embedding(*inputs).first_order.any()
        assert not any("wide" in key for key in model.state_dict())
        if final is not None:
            assert model.final[0].layers[0][0].in_features == width


def test_the_groups_of_the_format_of_torcheasyrec(config):
    """cat_a, cat_b and int_a: dims, output shapes, and one number per row."""
    fields = [
        sparse(name, rows, 16, padding_idx=None) for name, rows in (("cat_a", 100), ("cat_b", 1000))
    ]
    schema = schema_of(*fields, FieldSchema(name="int_a", feature_type="dense"))
    groups = {"wide": ("cat_a", "cat_b"), "fm": ("cat_a", "cat_b")}
    groups["deep"] = ("cat_a", "cat_b", "int_a")
    feature = FeatureConfig(groups=groups, wide_embedding_dim=4, unequal_dims="error")
    config = replaced(
        config,
        feature=feature,
        dnn=DNNConfig(hidden_units=(8, 4), use_batch_norm=False),
        final=DNNConfig(hidden_units=(2,), use_batch_norm=False),
        global_bias=False,
    )
    model = build_model(schema, config).eval()
    inputs = Inputs(torch.tensor([[1, 4], [2, 7]]), torch.tensor([[0.2], [0.3]]), (), ())
    assert model(inputs).shape == (2,)
    assert model.predict(inputs).shape == (2,)
    embedding = model.embedding
    assert embedding.group_dims("wide") == [4, 4]
    assert embedding.group_feature_dims("deep") == {"cat_a": 16, "cat_b": 16, "int_a": 1}
    assert embedding.group_total_dim("deep") == 33
    assert [tuple(view.shape) for view in embedding(*inputs)[:3]] == [(2, 1), (2, 2, 16), (2, 33)]
    assert embedding.has_group("fm")
    assert not embedding.has_group("tall")
    with pytest.raises(ValueError, match="group: nothing reads 'tall'; known: wide, fm, deep"):
        embedding.group_dims("tall")


def test_the_fm_adds_its_sum_to_the_logit(config):
    """By hand: vectors [1, 2], [3, 4], [5, 6] add 23 + 44 = 67, and w = 0 adds nothing."""
    names = ("a", "b", "c")
    schema = schema_of(*(sparse(name, 2, 2, padding_idx=None) for name in names))
    feature = FeatureConfig(
        groups={"wide": names, "fm": names, "deep": names}, unequal_dims="error",
        wide_embedding_dim=4, wide_init="nn.init.zeros_",
    )  # fmt: skip
    dnn = DNNConfig(hidden_units=(3,), use_batch_norm=False, dropout=0.0)
    model = build_model(schema, replaced(config, feature=feature, dnn=dnn, global_bias=False))
    with torch.no_grad():
        for name, row in zip(names, ([1.0, 2.0], [3.0, 4.0], [5.0, 6.0]), strict=True):
            model.embedding.tables[name][1] = torch.tensor(row)
    inputs = Inputs(torch.ones(1, 3, dtype=torch.long), torch.zeros(1, 0), (), ())
    deep = model.dnn(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]))
    assert model(inputs).item() == pytest.approx(deep.item() + 67.0)


def test_a_wide_and_deep_of_the_format_on_several_values(config):
    """Ids 1 … 7 with the lengths 1, 2 of cat_a and 1, 3 of cat_b; dims 16, 8 and 1 are 25."""
    fields = [
        FieldSchema(
            name=name, feature_type="sequence", vocabulary_size=rows, embedding_dim=dim,
            padding_idx=None, combiner="sum",
        )
        for name, rows, dim in (("cat_a", 100, 16), ("cat_b", 1000, 8))
    ]  # fmt: skip
    schema = schema_of(*fields, FieldSchema(name="int_a", feature_type="dense"))
    groups = {"wide": ("cat_a", "cat_b"), "deep": ("cat_a", "cat_b", "int_a")}
    feature = FeatureConfig(
        groups=groups, wide_embedding_dim=4, unequal_dims="error", wide_init="nn.init.zeros_"
    )
    dnn = DNNConfig(hidden_units=(8, 4), use_batch_norm=False)
    options = {"model_name": "wide_and_deep", "feature": feature, "dnn": dnn}
    model = build_model(schema, replaced(config, **options, global_bias=False)).eval()
    ids = (torch.tensor([[1, 0], [2, 3]]), torch.tensor([[4, 0, 0], [5, 6, 7]]))
    lengths = (torch.tensor([1, 2]), torch.tensor([1, 3]))
    inputs = Inputs(torch.zeros(2, 0).long(), torch.tensor([[0.2], [0.3]]), ids, lengths)
    assert model.embedding.group_dims("wide") == [4, 4]
    assert model.embedding.group_dims("deep") == [16, 8, 1]
    first_order, _, flat = model.embedding(*inputs)[:3]
    assert (first_order.tolist(), flat.shape) == ([[0.0], [0.0]], (2, 25))
    tables = model.embedding.tables
    torch.testing.assert_close(flat[1, :16], tables["cat_a"][2:4].sum(0))
    torch.testing.assert_close(flat[1, 16:24], tables["cat_b"][5:8].sum(0))
    assert model(inputs).shape == model.predict(inputs).shape == (2,)


def test_dims_and_widths_of_views(schema, config, inputs):
    """deep dims [16, 8, 1] in all 25, wide dims [4, 4], and views of those widths."""
    schema = schema_of(
        sparse("cat_a", 100, 16),
        sparse("cat_b", 1000, 8),
        FieldSchema(name="int_a", feature_type="dense"),
    )
    groups = {"wide": ("cat_a", "cat_b"), "deep": ("cat_a", "cat_b", "int_a")}
    feature = FeatureConfig(groups=groups, wide_embedding_dim=4)
    config = replaced(config, model_name="xdeepfm", feature=feature)
    embedding = build_model(schema, changed(config, "cin", group="wide")).embedding
    assert embedding.group_dims("wide") == [4, 4]
    assert embedding.group_dims("deep") == [16, 8, 1]
    assert embedding.group_total_dim("deep") == embedding.total_dim == 25
    inputs = Inputs(torch.tensor([[1, 4], [2, 7]]), torch.tensor([[0.2], [0.3]]), (), ())
    _, wide, deep = embedding(*inputs)[:3]
    assert wide.flatten(1).shape == (2, 8)
    assert deep.shape == (2, 25)


def test_a_table_exists_only_if_a_view_shows_it(schema, config):
    def tables(name, **feature):
        model = build_model(
            schema, replaced(changed(config, "feature", **feature), model_name=name)
        )
        return {
            key.removeprefix("embedding.tables.").removesuffix(".weight")
            for key in model.state_dict()
            if key.startswith("embedding.tables.")
        }

    wide = {"words_wide", "only_wide_wide", "b_wide", "a_wide"}
    deep = {"a", "b", "words", "only_deep"}
    assert tables("deepfm") == wide | deep
    only = {"wide": ("only_wide",), "fm": ("b",), "deep": ("a", "price")}
    assert tables("deepfm", groups=only) == {"only_wide_wide", "a", "b"}
    assert tables("wide_and_deep", groups=only) == {"only_wide_wide", "a"}  # nothing reads fm


@pytest.mark.parametrize(
    ("name", "groups", "message"),
    [
        ("deepfm", {"wide": ("a",)}, r"^feature\.groups: the model needs a group deep, found wide"),
        ("wide_and_deep", {"deep": ("a",)}, r"needs a group wide, found deep$"),
        ("deepfm", {"depe": ("a",)}, r"^feature\.groups\.depe: .*did you mean 'deep'"),
        ("deepfm", {"deep": ("a", "wrods")}, r"^feature\.groups\.deep: no field 'wrods'.*'words'"),
        ("deepfm", {"deep": ("a", "a")}, r"^feature\.groups\.deep: field a stands there twice"),
        ("deepfm", {"deep": ()}, r"^feature\.groups\.deep: expected at least one field"),
        ("deepfm", {"wide": ("price",), "deep": ("a",)}, r"^feature\.groups\.wide: field price is"),
        ("deepfm", {"wide": ("age",), "deep": ("a",)}, r"^feature\.groups\.wide: field age is"),
        (
            "deepfm",
            {"deep": ("a", "only_wide", "price")},
            r"^feature\.unequal_dims: error: .*: a 4, only_wide 8, price 1$",
        ),
    ],
)
def test_groups_that_are_refused(schema, config, name, groups, message):
    config = replaced(changed(config, "feature", groups=groups), model_name=name)
    with pytest.raises(ConfigError, match=message):
        build_model(schema, config)


def test_a_cin_of_wide_vectors_needs_a_wide_group(schema, config):
    config = replaced(changed(config, "cin", group="wide"), model_name="xdeepfm")
    config = changed(config, "feature", groups={"deep": ("a",), "fm": ("b",)})
    with pytest.raises(ConfigError, match="needs a group wide, found deep, fm"):
        build_model(schema, config)


def test_projections_and_raw_fields_where_dims_may_differ(schema, config, inputs):
    """Falling back on `deep`, raw fields have no vector; naming one in `fm` is a mistake."""
    feature = {"unequal_dims": "project", "fm_embedding_dim": 4}
    groups = {"wide": ("b",), "deep": ("price", "only_wide", "a", "point")}
    config = changed(config, "feature", groups=groups, **feature)
    model = build_model(schema, config).eval()
    assert list(model.embedding.group_feature_dims("fm")) == ["only_wide", "a"]
    weights = embedding_weights(model.embedding)
    groups["fm"] = ("only_wide", "a")
    views = reference.group_views(schema, inputs, weights, groups, 4)
    expected = [expected_logits(model, view)[0] for view in views]
    np.testing.assert_allclose(model(inputs).detach(), expected, atol=1e-5)
    groups["fm"] = ("a", "point")
    with pytest.raises(ConfigError, match=r"^feature\.groups\.fm: field point is raw"):
        build_model(schema, changed(config, "feature", groups=groups))


def test_no_pair_branches_where_the_logit_is_another_sum(schema, config):
    plain = changed(config, "feature", groups={}, unequal_dims="project")
    for name in ("deepfm", "wide_and_deep"):
        plain = replaced(plain, model_name=name)
        assert build_model(schema, plain).pair_branches() is not None
        for other in (
            replaced(plain, final=FINAL),
            replaced(plain, num_class=2),
            replaced(plain, global_bias=False),
            changed(plain, "feature", variational_dropout=0.01),
            changed(plain, "feature", groups={"wide": ("a",), "deep": ("a", "price")}),
        ):
            assert build_model(schema, other).pair_branches() is None


def test_probabilities_of_several_classes(schema, config, inputs):
    for num_class in (2, 3):
        training = TrainingConfig(losses=("softmax_cross_entropy",))
        model = build_model(schema, replaced(config, num_class=num_class, training=training)).eval()
        expected = model(inputs).softmax(1)
        expected = expected[:, 1] if num_class == 2 else expected
        assert torch.equal(model.predict(inputs), expected)


@pytest.mark.parametrize("sparse_optimizer", [None, "lazy_adam", "rowwise_adagrad"])
def test_tables_that_are_not_trainable_stay_as_they_are(schema, config, inputs, sparse_optimizer):
    frozen = schema.with_fields({name: {"trainable": False} for name in ("b", "words")})
    model = build_model(frozen, config)
    training = TrainingConfig(
        optimizer={"name": "adamw", "weight_decay": 0.5}, sparse_optimizer=sparse_optimizer, lr=0.1
    )
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    optimizers = [assigned.optimizer for assigned in assign_optimizers(model, training)]
    tables = model.embedding.tables
    if sparse_optimizer is None:
        (model(inputs).square().sum() + model.get_l2_reg_loss(inputs)).backward()
        optimizers[0].step()
    else:
        with tables.compact_mode(optimizers[1]):
            model(inputs).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
    for name, weight in model.state_dict().items():
        table = name.removeprefix("embedding.tables.").removesuffix(".weight")
        kept = table in ("b", "b_wide", "words", "words_wide")
        assert torch.equal(weight, before[name]) == kept, name
    norm = sum(
        tables[name].square().sum()
        for name in tables.places
        if name not in ("b", "b_wide", "words", "words_wide")
    )
    penalty = model.embedding.l2_reg(*inputs, rate=2.0, scope="table")
    torch.testing.assert_close(penalty, norm)
