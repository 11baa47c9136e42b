"""The packed tables against one plain parameter per logical table, in float64."""

import copy

import pytest
import torch

from deepfm.models.features import field_specs
from deepfm.models.layers.embedding import FeatureEmbedding, Groups
from deepfm.models.layers.fields import IdField
from deepfm.models.layers.initializers import initializer_from
from deepfm.models.layers.layouts import distinct_rows
from deepfm.models.layers.storage import PackedTables
from deepfm.models.layers.tables import Read
from deepfm.training.sparse_optimizers import LazyAdam, LazySGD, RowwiseAdagrad
from tests.models.conftest import random_inputs
from tests.models.plain import PlainEmbedding


def build(schema, seed=0):
    torch.manual_seed(seed)
    layer = FeatureEmbedding(
        field_specs(schema, "xavier_uniform"), fm_embedding_dim=4, first_order=True
    )
    return layer.double()


def double(inputs):
    return inputs._replace(dense=inputs.dense.double())


def loss_of(views):
    """A scalar with a different gradient for each number of each view."""
    generator = torch.Generator().manual_seed(3)
    return sum(
        (view * torch.rand(view.shape, generator=generator, dtype=view.dtype)).square().sum()
        for view in views[:3]
    )


def located(layer, inputs):
    sparse, dense, ids, lengths, *_ = inputs
    return sparse, dense, ids, lengths, layer.located(sparse, ids, lengths)


@pytest.fixture
def layer(schema):
    return build(schema)


@pytest.fixture
def inputs(schema):
    return double(random_inputs(schema, 64))


def test_one_parameter_per_dim_and_one_lookup_each(layer, inputs, monkeypatch):
    widths = [parameter.shape[1] for parameter in layer.tables.parameters()]
    assert sorted(widths) == [3, 4, 5, 6]  # dims 2 to 5 with the first-order column
    calls, whole = [], []
    lookup = layer.tables.lookup
    embedding = torch.nn.functional.embedding

    def counted(rows, weight, **options):
        if any(weight is packed for packed in layer.tables.parameters()):
            calls.append(rows)
        return embedding(rows, weight, **options)

    monkeypatch.setattr(torch.nn.functional, "embedding", counted)
    monkeypatch.setattr(layer.tables, "lookup", lambda ids: whole.append(ids) or lookup(ids))
    layer(*inputs)
    assert len(calls) == 4
    assert len(whole) == 1  # one call carries them all


def test_equal_to_plain_tables_forward_and_backward(layer, inputs):
    plain = PlainEmbedding(layer)
    views, expected = layer(*inputs), plain(*inputs)
    torch.testing.assert_close(views, expected)
    loss_of(views).backward()
    weights = copy.deepcopy([p.grad for p in layer.projections.parameters()])
    layer.zero_grad()
    loss_of(layer(*inputs)).backward()
    plain.projections.zero_grad()
    loss_of(plain(*inputs)).backward()
    torch.testing.assert_close([p.grad for p in plain.projections.parameters()], weights)
    for name in layer.tables.places:
        torch.testing.assert_close(layer.tables[name].grad, plain.tables[name].grad, msg=name)


def compact_gradients(layer, batches, optimizer=None):
    """Per logical table its gradient, zero for rows that were not touched."""
    tables = layer.tables
    result = {name: torch.zeros_like(tables[name]) for name in tables.places}
    with tables.compact_mode(optimizer or LazySGD(tables, lr=1.0)):
        for inputs in batches:
            loss_of(layer(*inputs)).backward()
        assert all(parameter.grad is None for parameter in tables.parameters())
        touched = tables.touched()
    for weight, rows, values, _ in touched:
        gradient = torch.zeros_like(weight).index_add_(0, rows, values.grad)
        for name, place in tables.places.items():
            if getattr(tables, place.layout) is weight:
                result[name] = gradient[place.rows, place.columns]
    return result


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("num_batches", [1, 3])
def test_compact_gradients_equal_plain_ones(schema, layer, ahead, num_batches):
    """Also where rows were located before, and summed over several backward passes."""
    batches = [double(random_inputs(schema, 64, seed)) for seed in range(num_batches)]
    if ahead:
        batches = [located(layer, inputs) for inputs in batches]
    plain = PlainEmbedding(layer)
    for inputs in batches:
        loss_of(plain(*inputs)).backward()
    actual = compact_gradients(layer, batches)
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, plain.tables[name].grad, msg=name)


def test_compact_views_are_the_same_views(layer, inputs):
    expected = layer(*inputs)[:3]
    with layer.tables.compact_mode(LazySGD(layer.tables, lr=1.0)):
        for actual, view in zip(layer(*inputs)[:3], expected, strict=True):
            assert torch.equal(actual, view)


def test_only_rows_that_count_are_touched(layer, inputs):
    """Neither padding nor ids beyond a sequence's length, except the null row without gradient."""
    plain = PlainEmbedding(layer).touched(inputs[0], inputs[2], inputs[3])
    tables = layer.tables
    with tables.compact_mode(LazySGD(tables, lr=1.0)):
        loss_of(layer(*inputs)).backward()
        for weight, rows, values, _ in tables.touched():
            expected = set()
            for name, ids in plain.items():
                place = tables.places[name]
                if getattr(tables, place.layout) is weight:
                    expected |= {place.rows.start + k for k in ids.tolist()}
            others = [k for k, row in enumerate(rows.tolist()) if row not in expected]
            assert expected <= set(rows.tolist())
            assert not values.grad[others].any()
            assert len(others) <= 1


@pytest.mark.parametrize("total", [10, 10_000])  # ticked off, and sorted
def test_distinct_rows(total):
    rows = torch.tensor([7, 3, 7, 9, 3, 3])
    distinct, inverse = distinct_rows(rows, total)
    assert torch.equal(distinct[inverse], rows)
    assert distinct.tolist() == [3, 7, 9]


@pytest.mark.parametrize("total", [1, 500, 30_000, 2_000_000])
def test_distinct_rows_of_a_small_table_are_those_of_a_sort(total):
    rows = torch.randint(total, (20_000,), generator=torch.Generator().manual_seed(0))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found = distinct_rows(rows, total)
        torch.set_num_threads(1)
        for part, expected in zip(found, torch.unique(rows, return_inverse=True), strict=True):
            assert torch.equal(part, expected)


def test_gradients_are_equal_bit_by_bit_at_one_and_two_threads(schema):
    inputs = random_inputs(schema, 20_000)  # large enough for torch to share the work
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            layer = build(schema).float()
            results.append(compact_gradients(layer, [inputs]))
        finally:
            torch.set_num_threads(1)
    for name, gradient in results[0].items():
        assert torch.equal(gradient, results[1][name]), name


def test_another_optimizer_is_refused_in_compact_mode(layer):
    tables = layer.tables
    other = torch.optim.SGD(layer.parameters(), lr=0.1)
    others = torch.optim.SGD(layer.projections.parameters(), lr=0.1)
    with tables.compact_mode(LazySGD(tables, lr=0.1)):
        others.step()
        with pytest.raises(RuntimeError, match="SGD holds embedding tables, which are in compact"):
            other.step()
    assert not tables.is_compact
    other.step()


def test_state_loads_into_another_order_and_into_plain_tables(schema, layer):
    fields = dict(reversed(schema.fields.items()))
    other = build(type(schema)(fields=fields, label_field=schema.label_field), seed=1)
    other.load_state_dict({k: v for k, v in layer.state_dict().items() if "tables" in k}, False)
    plain = PlainEmbedding(build(schema, seed=2))
    plain.load_state_dict(layer.state_dict())
    for name in layer.tables.places:
        assert torch.equal(layer.tables[name], other.tables[name])
        assert torch.equal(layer.tables[name], plain.tables[name])
    back = build(schema, seed=3)
    back.load_state_dict(plain.state_dict())
    assert all(torch.equal(back.tables[n], layer.tables[n]) for n in layer.tables.places)


def test_initial_weights_are_drawn_table_by_table(schema):
    """In the order of the names, each by its own shape: the layout does not enter."""
    layer = build(schema).float()
    torch.manual_seed(0)
    for name, place in layer.tables.places.items():
        weight = torch.empty(layer.tables[name].shape)
        initializer_from("xavier_uniform")(weight)
        padded = name.removesuffix("_wide") not in ("children", "key")
        if padded:
            weight[0] = 0.0
        assert torch.equal(layer.tables[name], weight), place


def shared(**second):
    """An id `a` and a sequence `b` that read the table `t`, whose row 2 is null."""
    first = IdField("a", 5, 3, 2, None, "normal(1.0)", "t")
    return [first, IdField("b", 5, 3, 2, "sum", "normal(1.0)", "t")._replace(**second)]


@pytest.mark.parametrize("compact", [False, True])
def test_an_id_of_two_fields_is_one_row(compact):
    """Its gradient is the sum of both, its L2 counts once, and one step of Adam is one step."""
    torch.manual_seed(0)
    layer = FeatureEmbedding(shared(), fm_embedding_dim=3, first_order=True).double()
    tables = layer.tables
    assert list(layer.state_dict()) == ["tables.t.weight", "tables.t_wide.weight"]
    assert [tuple(parameter.shape) for parameter in tables.parameters()] == [(5, 4)]
    before, wide = tables["t"].clone(), tables["t_wide"].clone()
    inputs = (
        torch.tensor([[4], [2]]),  # one known id, one padding
        torch.zeros(2, 0).double(),
        (torch.tensor([[4, 2, 4], [1, 4, 4]]),),
        (torch.tensor([3, 1]),),
    )
    flat = layer(*inputs).flat_embeddings
    assert torch.equal(flat[0], torch.cat([before[4], 2 * before[4]]))
    assert torch.equal(flat[1], torch.cat([torch.zeros(3).double(), before[1]]))
    expected = (before[[1, 4]] ** 2).sum() + (wide[[1, 4]] ** 2).sum()
    torch.testing.assert_close(layer.l2_reg(*inputs, rate=2.0, scope="batch"), expected)
    expected = (before**2).sum() + (wide**2).sum()
    torch.testing.assert_close(layer.l2_reg(*inputs, rate=2.0, scope="table"), expected)

    count = torch.tensor([0, 1, 0, 0, 3]).double()  # how often each row is read
    if compact:
        optimizer = LazyAdam(tables, lr=0.1, betas=(0.9, 0.999), eps=1e-8)
        with tables.compact_mode(optimizer):
            layer(*inputs).flat_embeddings.sum().backward()
            ((_, rows, values, _),) = tables.touched()
            assert rows.tolist() == [1, 2, 4]
            assert torch.equal(values.grad[:, 0], count[rows])
            optimizer.step()
    else:
        layer(*inputs).flat_embeddings.sum().backward()
        assert torch.equal(tables["t"].grad, count.unsqueeze(1).expand(5, 3))
        torch.optim.Adam(tables.parameters(), lr=0.1).step()
    moved = 0.1 * (count > 0).unsqueeze(1).expand(5, 3)  # the first step of Adam is ± lr
    torch.testing.assert_close(tables["t"], before - moved)


@pytest.mark.parametrize(
    "second",
    [
        {"rows": 6},
        {"dim": 4},
        {"padding_idx": None},
        {"initializer": "uniform_rows"},
        {"wide_initializer": "uniform_rows"},
        {"trainable": False},
    ],
)
def test_fields_that_disagree_about_their_table_are_refused(second):
    ((key, value),) = second.items()
    with pytest.raises(
        ValueError, match=rf"^fields a and b share the table t, but have {key} .* and {value}$"
    ):
        PackedTables(shared(**second), [Read("a"), Read("b"), Read("a", "wide", 1)])


def split_tables(**options):
    """`a` and the sequence `b` read the table t, `a` its first-order weights only; `c` the
    embedding of another table of that width, `d` both of a third."""
    specs = [
        *shared(padding_idx=None),
        IdField("c", 4, 3, 0, None, "normal(1.0)"),
        IdField("d", 6, 3, None, None, "normal(1.0)"),
    ]
    specs[0] = specs[0]._replace(padding_idx=None)
    torch.manual_seed(0)
    return FeatureEmbedding(
        specs,
        fm_embedding_dim=3,
        first_order=True,
        groups=Groups(wide=["d", "a"], fm=["b", "d"], deep=["c", "b", "d"]),
        wide_dim=2,
        **options,
    ).double()


def split_inputs(num_rows=20):
    generator = torch.Generator().manual_seed(1)

    def draw(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    sparse = torch.stack([draw(-1, 5, num_rows), draw(0, 4, num_rows), draw(-1, 6, num_rows)], 1)
    return (
        sparse,
        torch.zeros(num_rows, 0).double(),
        (draw(-1, 5, num_rows, 3),),
        (draw(0, 4, num_rows),),
    )


def test_what_not_all_fields_read_lies_apart():
    tables = split_tables().tables
    answered = {}  # per parameter, the widths of embedding and first-order weights, and readers
    answers = iter(tables.answers)
    for name, held in tables.layouts.items():
        own = [next(answers) for _ in held.columns]
        widths = dict(zip(held.columns, held.widths, strict=True))
        readers = tuple(sorted({*own[0].sparse, *own[0].sequences}))
        answered[name] = (widths.get("", 0), widths.get("wide", 0), readers)
    layouts = list(answered.values())
    assert layouts == [(3, 0, ("b", "c")), (0, 2, ("a",)), (3, 2, ("d",))]
    assert [tables.widths(weight) for weight in tables.parameters()] == [[3], [2], [3, 2]]
    assert list(tables.places) == ["t", "c", "d", "t_wide", "d_wide"]
    assert tables["t_wide"].shape == (5, 2)


@pytest.mark.parametrize("ahead", [False, True])
def test_compact_gradients_of_parts_are_those_of_whole_tables(ahead):
    layer, inputs = split_tables(), split_inputs()
    loss_of(layer(*inputs)).backward()
    expected = {name: layer.tables[name].grad for name in layer.tables.places}
    layer.zero_grad()
    actual = compact_gradients(layer, [located(layer, inputs) if ahead else inputs])
    for name, gradient in actual.items():
        assert gradient.any()
        torch.testing.assert_close(gradient, expected[name], msg=name)
    (sparse, _, (ids,), (lengths,)) = inputs
    read = {"t_wide": sparse[:, 0], "c": sparse[:, 1], "d": sparse[:, 2]}
    read["t"] = ids[torch.arange(3) < lengths.unsqueeze(1)]
    for name, rows in read.items():
        touched = set(expected[name].any(1).nonzero().flatten().tolist())
        assert touched == set(rows.tolist()) - ({0} if name == "c" else {-1}), name


def test_l2_of_parts_counts_what_is_read():
    layer, inputs = split_tables(), split_inputs()
    (sparse, _, (ids,), (lengths,)), tables = inputs, layer.tables
    rows = {"t": ids[torch.arange(3) < lengths.unsqueeze(1)], "t_wide": sparse[:, 0]}
    rows |= {"c": sparse[:, 1], "d": sparse[:, 2], "d_wide": sparse[:, 2]}
    expected = 0
    for name, numbers in rows.items():
        nothing = 0 if name == "c" else -1
        expected += tables[name][numbers[numbers != nothing].unique()].square().sum()
    torch.testing.assert_close(layer.l2_reg(*inputs, rate=2.0, scope="batch"), expected)


def test_rowwise_statistics_are_those_of_each_table():
    """One step against a loop: the mean of the squared gradient over a row of one table."""
    layer, inputs = split_tables(), split_inputs()
    tables = layer.tables
    before = {name: tables[name].clone() for name in tables.places}
    gradients = compact_gradients(layer, [inputs])
    optimizer = RowwiseAdagrad(tables, lr=0.1, eps=1e-10)
    with tables.compact_mode(optimizer):
        loss_of(layer(*inputs)).backward()
        optimizer.step()
    for name, gradient in gradients.items():
        step = 0.1 * gradient / (gradient.square().mean(1, keepdim=True).sqrt() + 1e-10)
        torch.testing.assert_close(tables[name], before[name] - step, msg=name)


def test_each_table_has_its_own_initializer():
    specs = [
        IdField("a", 40, 3, None, None, "nn.init.constant_,val=2", None, "nn.init.zeros_"),
        IdField("b", 40, 3, 0, None, "nn.init.uniform_,a=-0.01,b=0.01"),
    ]
    tables = FeatureEmbedding(specs, fm_embedding_dim=3, first_order=True).tables
    assert (tables["a"] == 2).all()
    assert (tables["a_wide"] == 0).all()
    for name in ("b", "b_wide"):
        assert 0.009 < tables[name].abs().max() <= 0.01
        assert not tables[name][0].any()


def test_frozen_tables_lie_in_parameters_without_gradient():
    specs = [
        IdField("a", 5, 3, 0, None, "normal(1.0)"),
        IdField("b", 5, 3, 0, None, "normal(1.0)", trainable=False),
    ]
    layer = FeatureEmbedding(specs, fm_embedding_dim=3, first_order=True)
    trained, frozen = layer.tables.parameters()
    ids, nothing = torch.tensor([[1, 2], [0, 3]]), torch.zeros(2, 0)
    layer(ids, nothing, (), ()).flat_embeddings.sum().backward()
    assert trained.grad.any()
    assert frozen.grad is None
    assert not frozen.requires_grad
    optimizer = LazySGD(layer.tables, lr=0.1)
    with layer.tables.compact_mode(optimizer):
        layer(ids, nothing, (), ()).flat_embeddings.sum().backward()
        assert [touched.weight is trained for touched in layer.tables.touched()] == [True]
    (group,) = optimizer.param_groups
    assert [weight is trained for weight in group["params"]] == [True]
    rows = layer.tables["a"][[1]].square().sum() + layer.tables["a_wide"][[1]].square().sum()
    torch.testing.assert_close(layer.l2_reg(ids, nothing, (), (), rate=2.0, scope="batch"), rows)


def test_a_table_is_a_view(layer):
    layer.tables["user"][3] = 7.0
    assert (layer.state_dict()["tables.user.weight"][3] == 7.0).all()
    assert layer.tables["user"].grad is None


def test_saved_tables_that_are_missing_unknown_or_of_another_size_are_named(layer):
    state = layer.tables.state_dict()
    state["users.weight"] = state.pop("user.weight")
    problems = layer.tables.load_state_dict(state, strict=False)
    assert problems.missing_keys == ["user.weight"]
    assert problems.unexpected_keys == ["users.weight"]
    with pytest.raises(RuntimeError, match=r"size mismatch for tags\.weight: \(3, 3\) was saved"):
        layer.tables.load_state_dict({"tags.weight": torch.zeros(3, 3)}, strict=False)


@pytest.mark.parametrize(
    "optimizer", [torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.NAdam, torch.optim.AdamW]
)
def test_any_optimizer_of_torch_works_in_default_mode(layer, inputs, optimizer):
    plain = PlainEmbedding(layer)
    for module in (layer, plain):
        update = optimizer(module.tables.parameters(), lr=0.1)
        for _ in range(3):
            module.zero_grad()
            loss_of(module(*inputs)).backward()
            update.step()
    for name in layer.tables.places:
        torch.testing.assert_close(layer.tables[name], plain.tables[name], msg=name)


def test_moves_to_another_device_and_dtype(layer, inputs):
    meta = copy.deepcopy(layer).to("meta")
    assert {t.device.type for t in (*meta.parameters(), *meta.buffers())} == {"meta"}
    assert {p.dtype for p in copy.deepcopy(layer).half().parameters()} == {torch.float16}
    twin = copy.deepcopy(layer)
    twin.tables["user"].zero_()
    assert layer.tables["user"].any()
    assert torch.equal(twin(*inputs).field_embeddings[:, 1], layer(*inputs).field_embeddings[:, 1])
