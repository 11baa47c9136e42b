"""Epochs, negatives, catalogues, and data sets from encoded arrays."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepfm.config import load_config
from deepfm.data.batch import Ragged
from deepfm.data.dataset import Catalogue, TabularDataset
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.errors import ConfigError, DataError
from deepfm.experiment import load_data
from tests import tiny


def rows_of(batches) -> torch.Tensor:
    return torch.cat([batch.inputs.sparse for batch in batches])


def test_an_epoch_holds_every_row_once_and_its_negatives(tiny_data):
    train = tiny_data.train
    epoch = train.epoch(100, seed=1, epoch=0)
    batches = list(epoch.batches())
    label = torch.cat([batch.label for batch in batches])
    assert epoch.num_rows == len(label) == 5 * len(train)
    assert int(label.sum()) == len(train)  # the tiny config trains on positives only
    positives = rows_of(batches)[label > 0]
    assert sorted(positives.tolist()) == sorted(train.inputs.sparse.tolist())


def test_negatives_take_the_users_features_and_all_features_of_another_item(tiny_data, tmp_path):
    schema = tiny_data.encoders.schema
    tables = tiny.load(tmp_path, False)
    items = tiny_data.encoders.encode(tables.items, group="item")
    features = {  # of an item, by its encoded id
        int(items.sparse[k, 0]): (
            items.dense[k].tolist(),
            items.sequence_ids[0][k].tolist(),
            int(items.sequence_lengths[0][k]),
        )
        for k in range(tiny.NUM_ITEMS)
    }
    users = {tuple(row) for row in tiny_data.train.inputs.sparse[:, :2].tolist()}
    assert [field.name for field in schema.sparse_fields] == ["user", "age", "item"]
    assert [field.name for field in schema.dense_fields] == ["income", "price"]
    train_rows = tiny_data.events.split.train
    known = set(
        zip(tiny_data.events.user[train_rows], tiny_data.events.item[train_rows], strict=True)
    )
    negatives = 0
    for batch in tiny_data.train.epoch(64, seed=1, epoch=3).batches():
        for k in range(len(batch.label)):
            user, age, item = batch.inputs.sparse[k].tolist()
            assert (user, age) in users
            found = (
                [float(batch.inputs.dense[k, 1])],
                batch.inputs.sequence_ids[0][k].tolist(),
                int(batch.inputs.sequence_lengths[0][k]),
            )
            assert found == features[item]
            if batch.label[k] == 0:
                negatives += 1
                # ids are positions + 1 here: every user and item occurs in the training split
                assert (user - 1, item - 1) not in known
    assert negatives == 4 * len(tiny_data.train)


def test_the_source_rows_are_not_changed_by_negatives(tiny_data):
    before = tiny_data.train.inputs.sparse.clone()
    list(tiny_data.train.epoch(64, seed=1, epoch=0).batches())
    assert (tiny_data.train.inputs.sparse == before).all()


def test_an_epoch_is_a_function_of_seed_and_number(tiny_data):
    def rows(seed, number):
        return rows_of(tiny_data.train.epoch(64, seed=seed, epoch=number).batches())

    assert (rows(1, 0) == rows(1, 0)).all()
    assert not (rows(1, 0) == rows(1, 1)).all()
    assert not (rows(1, 0) == rows(2, 0)).all()


def test_an_epoch_can_begin_in_its_middle(tiny_data):
    epoch = tiny_data.train.epoch(64, seed=1, epoch=0)
    whole = list(epoch.batches())
    rest = list(epoch.batches(first=3))
    assert len(rest) == len(whole) - 3
    assert (rows_of(rest) == rows_of(whole[3:])).all()


@pytest.mark.parametrize(("count", "sizes"), [(9, [4, 5]), (8, [4, 4]), (10, [4, 4, 2]), (1, [1])])
def test_a_single_last_row_joins_the_batch_before(count, sizes):
    data = encoded(count)
    assert [len(b.label) for b in data.epoch(4, seed=0, epoch=0).batches()] == sizes


def test_an_epoch_in_file_order_has_each_row_before_its_negatives(tiny_data):
    train = tiny_data.train
    batches = list(train.epoch(64, seed=1, epoch=2, shuffle=False).batches())
    label = torch.cat([batch.label for batch in batches])
    assert label.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0] * len(train)
    user = rows_of(batches)[:, 0]
    assert user.tolist() == train.inputs.sparse[:, 0].repeat_interleave(5).tolist()
    assert rows_of(batches)[label > 0].tolist() == train.inputs.sparse.tolist()
    same, other = (
        rows_of(train.epoch(64, seed=1, epoch=k, shuffle=False).batches()) for k in (2, 3)
    )
    assert torch.equal(same, rows_of(batches))
    assert not torch.equal(other, same)  # fresh negatives in each epoch


def test_an_epoch_without_negatives_in_file_order_is_the_data(tiny_data):
    valid = tiny_data.valid
    epoch = valid.epoch(7, seed=1, epoch=0, shuffle=False)
    assert torch.equal(rows_of(epoch.batches()), valid.inputs.sparse)
    assert torch.equal(rows_of(epoch.batches(first=2)), valid.inputs.sparse[14:])


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("count", "whole"), [(12, 12), (13, 12), (15, 12), (3, 0)])
def test_a_batch_that_is_not_full_can_be_dropped(count, whole, shuffle):
    epoch = encoded(count).epoch(4, seed=0, epoch=0, shuffle=shuffle, drop_last=True)
    assert epoch.num_rows == whole
    assert [len(batch.label) for batch in epoch.batches()] == [4] * (whole // 4)
    assert len(epoch) == whole // 4


@pytest.mark.parametrize("exclusion", ["train", "all"])
def test_negative_exclusion_decides_about_held_out_items(tiny_config, exclusion):
    config = load_config(tiny_config(data__negative_exclusion=exclusion))
    data = load_data(config)
    held_out = {
        (int(data.events.user[row]), int(data.events.item[row]))
        for rows in data.events.split[1:]
        for row in rows
    }
    drawn = set()
    for epoch in range(5):
        for batch in data.train.epoch(512, seed=0, epoch=epoch).batches():
            sparse = batch.inputs.sparse[batch.label == 0]
            drawn |= {(user - 1, item - 1) for user, _, item in sparse.tolist()}
    assert bool(drawn & held_out) == (exclusion == "train")


def test_explicit_negatives_are_trained_on_if_asked(tiny_config):
    data = load_data(load_config(tiny_config(data__explicit_negatives=True)))
    assert len(data.train) == len(data.events.split.train)
    epoch = data.train.epoch(512, seed=0, epoch=0)
    assert epoch.num_rows == len(data.train) + 4 * int(data.train.label.sum())


def test_training_without_any_negative_is_refused(tiny_config):
    with pytest.raises(ConfigError, match="training would see no negative"):
        load_data(load_config(tiny_config(data__num_neg_train=0)))


def test_candidates_depend_on_the_candidate_seed_alone(tiny_config):
    def items(**changes):
        return load_data(load_config(tiny_config(**changes))).test.ranking.items

    first = items()
    assert (items(seed=7, model_name="xdeepfm", data__negative_exclusion="all") == first).all()
    assert not (items(evaluation__candidate_seed=1) == first).all()


def test_candidates_are_items_the_user_never_met_and_the_positive_comes_first(tiny_data):
    events, task = tiny_data.events, tiny_data.test.ranking
    rows = tiny_data.test.row[task.rows]
    assert (events.label[rows] == 1).all()
    assert (task.items[:, 0] == events.item[rows]).all()
    for row, items in zip(rows, task.items[:, 1:], strict=True):
        met = set(events.item[events.user == events.user[row]])
        given = [item for item in items if item >= 0]
        assert set(given) == set(range(tiny.NUM_ITEMS)) - met  # fewer than 99: all of them
        assert len(given) == len(set(given))


def encoded(count: int) -> TabularDataset:
    schema = DatasetSchema(
        fields={
            "city": FieldSchema("city", "sparse", vocabulary_size=5),
            "size": FieldSchema("size", "dense"),
            "tags": FieldSchema("tags", "sequence", vocabulary_size=4, max_length=2),
        },
        label_field="click",
    )
    columns = {
        "city": np.arange(count) % 5,
        "size": np.linspace(0, 1, count),
        "tags": (np.ones((count, 2), int), np.full(count, 2)),
    }
    return TabularDataset.from_arrays(schema, columns, np.arange(count) % 2)


def test_a_dataset_from_arrays_gives_batches():
    batch = encoded(6)[torch.tensor([5, 0])]
    assert batch.inputs.sparse.tolist() == [[0], [0]]
    assert batch.inputs.dense.tolist() == [[1.0], [0.0]]
    assert batch.inputs.sequence_ids[0].tolist() == [[1, 1], [1, 1]]
    assert batch.label.tolist() == [1.0, 0.0]
    assert batch.label.dtype is torch.float32


@pytest.mark.parametrize(("bad", "found"), [(5, "id 5"), (-1, "id -1")])
def test_an_id_outside_the_vocabulary_is_refused(bad, found):
    data = encoded(3)
    columns = {"city": [0, bad, 1], "size": [0.0] * 3, "tags": (np.ones((3, 2)), np.ones(3))}
    with pytest.raises(DataError, match=f"field city: {found} is outside its vocabulary of 5 rows"):
        TabularDataset.from_arrays(data.schema, columns, [0, 1, 0])


def test_weights_go_with_their_rows_and_negatives_copy_them(tiny_data):
    train = tiny_data.train
    weight = torch.arange(1, len(train) + 1) / 3
    data = TabularDataset(
        train.schema, train.inputs, train.label, weight=weight, row=train.row,
        negatives=train.negatives,
    )  # fmt: skip
    rows = torch.tensor([5, 0, 5])
    assert torch.equal(data[rows].weight, weight[rows])
    assert torch.equal(data[2:4].to("cpu").weight, weight[2:4])
    assert tiny_data.train[rows].weight is None
    assert tiny_data.train[rows].to("cpu").weight is None

    batches = list(data.epoch(64, seed=1, epoch=0).batches())
    label, drawn = (torch.cat([batch[k] for batch in batches]) for k in (1, 2))
    assert sorted(drawn[label > 0].tolist()) == weight.tolist()
    assert sorted(drawn[label == 0].tolist()) == weight.repeat_interleave(4).tolist()


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0, -0.5, 2.0], "row 2: expected a finite sample weight of at least 0, found -0.5"),
        ([1.0, 2.0, float("nan")], "row 3: expected a finite sample weight .* found nan"),
        ([float("inf"), 1.0, 1.0], "row 1: .* found inf"),
        ([1e300, 1.0, 1.0], "row 1: .* found inf"),  # beyond float32
        ([0.0, 0.0, 0.0], "all sample weights are 0"),
        ([1.0, 2.0], r"expected weights \(3,\), one per row, got \(2,\)"),
        ([[1.0], [1.0], [1.0]], r"expected weights \(3,\), one per row, got \(3, 1\)"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(weight, message):
    data = encoded(3)
    columns = {"city": [0, 1, 1], "size": [0.0] * 3, "tags": (np.ones((3, 2)), np.ones(3))}
    with pytest.raises(DataError, match=message):
        TabularDataset.from_arrays(data.schema, columns, [0, 1, 0], weight=np.array(weight))


def test_a_bad_weight_is_named_by_its_row_in_the_raw_table():
    data = encoded(3)
    with pytest.raises(DataError, match="row 18: expected a finite sample weight"):
        TabularDataset(
            data.schema, data.inputs, data.label,
            weight=torch.tensor([1.0, 1.0, -1.0]), row=np.array([4, 9, 17]),
        )  # fmt: skip


def test_missing_arrays_and_other_lengths_are_refused():
    data = encoded(3)
    with pytest.raises(DataError, match="field city: no array of that name"):
        TabularDataset.from_arrays(data.schema, {}, [0, 1])
    with pytest.raises(DataError, match="3 encoded rows, but 2 labels"):
        TabularDataset(data.schema, data.inputs, torch.zeros(2))


@pytest.fixture
def small_schema():
    fields = (
        FieldSchema("c", "sparse", vocabulary_size=5),
        FieldSchema("x", "dense"),
        FieldSchema("s", "sequence", vocabulary_size=5, max_length=3),
    )
    return DatasetSchema(fields={field.name: field for field in fields}, label_field="y")


ARRAYS = {"c": [0, 1, 2, 3], "x": [0.5] * 4, "s": ([[1, 2, 0]] * 4, [2, 0, 3, 1])}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"c": [0, 1, 2]}, "field c: 3 rows, but 4 labels"),
        ({"x": [0.5] * 3}, "field x: 3 rows, but 4 labels"),
        ({"s": ([[1, 2, 0]] * 3, [1, 1, 1])}, "field s: 3 rows, but 4 labels"),
        ({"s": ([1, 1, 1, 1], [1, 1, 1, 1])}, r"field s: expected ids \(N, L\) and lengths"),
        ({"s": ([[1, 2, 0]] * 4, [1, 1, 1])}, r"field s: expected ids \(N, L\) and lengths"),
        ({"s": np.ones((4, 3), int)}, r"field s: expected \(ids \(N, L\), lengths \(N,\)\)"),
        ({"s": np.ones((2, 3), int)}, r"field s: expected \(ids \(N, L\), lengths \(N,\)\)"),
        ({"s": ([[1.5, 2, 0]] * 4, [1, 1, 1, 1])}, "field s: expected whole numbers, found 1.5"),
        ({"s": ([[1, 2, 0]] * 4, [1, 4, 1, 1])}, "lengths from 0 to 3, found 4 in row 1"),
        ({"s": ([[1, 2, 0]] * 4, [1, 1, -1, 1])}, "lengths from 0 to 3, found -1 in row 2"),
        ({"s": ([[1, 2, 0]] * 4, [1, 1, 0.5, 1])}, "expected whole numbers, found 0.5 in row 2"),
        ({"c": [0, 1.9, 2, 3]}, "field c: expected whole numbers, found 1.9 in row 1"),
        ({"c": [0, np.nan, 2, 3]}, "field c: expected whole numbers, found nan in row 1"),
        ({"c": ["a", "b", "c", "d"]}, "field c: expected an array of numbers"),
        ({"x": [1, 2, np.nan, 4]}, "field x: expected finite numbers, found another in row 2"),
        ({"x": [1, 2, np.inf, 4]}, "field x: expected finite numbers, found another in row 2"),
        ({"y": [0, 1, np.nan, 0]}, "label: expected finite numbers, found another in row 2"),
        ({"y": 1}, "label: expected an array of numbers"),
    ],
)
def test_arrays_that_are_not_as_promised_are_refused(small_schema, changes, message):
    columns = ARRAYS | changes
    label = columns.pop("y", [0, 1, 1, 0])
    with pytest.raises(DataError, match=message):
        TabularDataset.from_arrays(small_schema, columns, label)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.float64])
def test_whole_numbers_of_any_type_are_ids(small_schema, dtype):
    sequence = (np.array(ARRAYS["s"][0], dtype), np.array(ARRAYS["s"][1], dtype))
    columns = ARRAYS | {"c": np.array(ARRAYS["c"], dtype), "s": sequence}
    rows = TabularDataset.from_arrays(small_schema, columns, np.array([0, 1, 1, 0], bool))
    assert rows.inputs.sparse.tolist() == [[0], [1], [2], [3]]
    assert rows.inputs.sequence_lengths[0].tolist() == [2, 0, 3, 1]
    assert rows.label.tolist() == [0, 1, 1, 0]


def test_clearing_an_item_leaves_the_user(tiny_data):
    catalogue = tiny_data.test.ranking.catalogue
    full = tiny_data.test.inputs.select(slice(0, 5)).map(torch.clone)
    inputs = full.map(torch.clone)
    catalogue.clear(inputs)
    assert torch.equal(inputs.sparse[:, :2], full.sparse[:, :2])  # user, age
    assert torch.equal(inputs.dense[:, 0], full.dense[:, 0])  # income
    for item_features in (
        inputs.sparse[:, 2], inputs.dense[:, 1], *inputs.sequence_ids, *inputs.sequence_lengths
    ):  # fmt: skip
        assert not item_features.any()
    assert full.sparse[:, 2].all()


# --- vectors, lists of any length, no value ----------------------------------------------------


def test_arrays_of_vectors_and_of_no_value():
    fields = (
        FieldSchema("city", "sparse", num_buckets=4),
        FieldSchema("size", "dense"),
        FieldSchema("place", "dense", value_dim=2),
    )
    schema = DatasetSchema(fields={field.name: field for field in fields}, label_field="y")
    columns = {"city": [3, -1], "size": [1.0, 2.0], "place": [[3.0, 4.0], [5.0, 6.0]]}
    batch = TabularDataset.from_arrays(schema, columns, [0, 1])[:]
    assert batch.inputs.sparse.tolist() == [[3], [-1]]
    assert batch.inputs.dense.tolist() == [[1, 3, 4], [2, 5, 6]]
    for bad, message in (
        ({"city": [-2, 0]}, "field city: id -2 is outside its vocabulary of 4 rows"),
        ({"city": [4, 0]}, "field city: id 4 is outside"),
        ({"place": [1.0, 2.0]}, r"field place: expected \(N, 2\), got \(2,\)"),
        ({"place": [[1.0], [2.0]]}, r"field place: expected \(N, 2\), got \(2, 1\)"),
        ({"size": [[1.0, 2.0]] * 2}, r"field size: expected \(N,\), got \(2, 2\)"),
    ):
        with pytest.raises(DataError, match=message):
            TabularDataset.from_arrays(schema, columns | bad, [0, 1])


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1),
    st.lists(st.integers(0, 99), max_size=8),
)
def test_ragged_lists_against_lists(rows, chosen):
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.tensor([number for row in rows for number in row], dtype=torch.int32)
    ragged = Ragged.of(ids, lengths)
    chosen = [k % len(rows) for k in chosen]

    def check(found, expected):
        width = max([len(row) for row in expected] + [1])
        assert found.dtype == torch.int32
        assert found.shape == (len(expected), width)
        assert found.tolist() == [row + [0] * (width - len(row)) for row in expected]

    taken = [rows[k] for k in chosen]
    check(ragged[torch.tensor(chosen, dtype=torch.int64)], taken)
    check(ragged[1:3], rows[1:3])
    check(ragged[:], rows)
    mask = torch.tensor([k in chosen for k in range(len(rows))])
    check(ragged[mask], [row for k, row in enumerate(rows) if k in chosen])
    check(ragged[-1].unsqueeze(0), [rows[-1]])
    flat = ragged.flat(torch.tensor(chosen, dtype=torch.int64))
    assert flat.tolist() == [number for row in taken for number in row]


def test_items_with_vectors_and_lists_of_any_length():
    fields = (
        FieldSchema("user", "sparse", group="user"),
        FieldSchema("age", "dense", group="user", scale="none"),
        FieldSchema("item", "sparse", group="item"),
        FieldSchema("place", "dense", group="item", value_dim=2, scale="none"),
        FieldSchema("tags", "sequence", group="item"),
    )
    schema = DatasetSchema(fields={field.name: field for field in fields}, label_field="y")
    items = pa.table(
        {
            "item": ["a", "b", "c"],
            "place": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
            "tags": [["x"], ["x", "y", "z"], []],
        }
    )
    rows = items.append_column("user", [["u", "v", "u"]]).append_column("age", [[7.0, 8.0, 7.0]])
    encoders = Encoders.fit(schema, rows)
    catalogue = Catalogue.of(encoders.schema, encoders.encode(items, "item"))
    inputs = catalogue.with_room(encoders.encode(rows.slice(0, 1)))
    pairs = inputs.select(torch.zeros(3, dtype=torch.int64))
    catalogue.overwrite(pairs, torch.arange(3), torch.tensor([1, 2, 0]))
    assert pairs.sparse.tolist() == [[1, 2], [1, 3], [1, 1]]
    assert pairs.dense.tolist() == [[7, 3, 4], [7, 5, 6], [7, 1, 2]]
    assert pairs.sequence_ids[0].tolist() == [[1, 2, 3], [0, 0, 0], [1, 0, 0]]
    assert pairs.sequence_lengths[0].tolist() == [3, 0, 1]
    narrow = Catalogue.of(encoders.schema, encoders.encode(items.slice(0, 1), "item"))
    narrow.overwrite(pairs, torch.tensor([0]), torch.tensor([0]))
    assert pairs.sequence_ids[0].tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]
    catalogue.clear(pairs)
    assert pairs.dense.tolist() == [[7, 0, 0]] * 3
