"""Histories against plain loops, and what may not change them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow.csv import write_csv

from deepfm.config import ExperimentConfig, config_from_dict
from deepfm.data import load as data_load
from deepfm.data.dataset import TabularDataset
from deepfm.data.declared import declared_schema
from deepfm.data.history import AGE_IDS, Ages, age_ids, earlier_events
from deepfm.data.load import load_data
from deepfm.data.sources import tabular
from deepfm.errors import ConfigError


def oracle(user, time, is_event, max_length, ties):
    """The rows that each row sees, oldest first, by loops over all pairs."""
    found = []
    for row in range(len(user)):
        seen = [
            other
            for other in range(len(user))
            if user[other] == user[row]
            and is_event[other]
            and (
                time[other] < time[row]
                or (ties == "order" and time[other] == time[row] and other < row)
            )
        ]
        seen.sort(key=lambda other: (time[other], other))
        found.append(seen[-max_length:])
    return found


@pytest.mark.parametrize("ties", ["exclude", "order"])
@pytest.mark.parametrize("max_length", [1, 3, 50])
@pytest.mark.parametrize("seed", range(4))
def test_earlier_events(ties, max_length, seed):
    rng = np.random.default_rng(seed)
    user, time = rng.integers(4, size=60), rng.integers(8, size=60)
    is_event = rng.random(60) < 0.7
    found = earlier_events(user, time, is_event, max_length=max_length, ties=ties)
    rows = [
        found.events[start : start + length].tolist()
        for start, length in zip(found.starts, found.lengths, strict=True)
    ]
    assert rows == oracle(user, time, is_event, max_length, ties)


def test_of_no_rows():
    nothing = np.zeros(0, np.int64)
    found = earlier_events(nothing, nothing, nothing > 0, max_length=3, ties="order")
    assert [len(part) for part in found] == [0, 0, 0]


def test_ages():
    times, now = torch.tensor([0.0, 10.0, 10.0, 500.0]), torch.tensor([20.0, 1e40, 10.0])
    ages = Ages(times.double(), torch.tensor([0, 0, 1]), torch.tensor([2, 4, 0]), now.double())
    expected = [
        [1 + int(2 * np.log1p(20)), 1 + int(2 * np.log1p(10)), 0, 0],
        [AGE_IDS - 1] * 4,
        [0, 0, 0, 0],
    ]
    assert ages[:].tolist() == expected
    assert ages[torch.tensor([2, 0])].tolist() == [[0, 0], expected[0][:2]]
    assert ages[1].tolist() == expected[1]
    assert ages.flat(torch.tensor([0, 2, 1])).tolist() == expected[0][:2] + expected[1]
    assert age_ids(np.array([-5.0])).tolist() == [1]


TABLE = {
    "files": "rows.csv",
    "label": "liked",
    "user_field": "user",
    "item_field": "item",
    "time_column": "time",
    "fields": {
        "user": {"type": "sparse"},
        "item": {"type": "sparse"},
        "kind": {"type": "sparse", "group": "item", "embedding_dim": 8},
    },
    "history": {"fields": ["item", "kind"], "max_length": 4},
}


def config_of(folder: Path, **history: object) -> ExperimentConfig:
    data = {
        "dataset_name": "tabular",
        "data_dir": str(folder),
        "num_neg_eval": 5,
        "table": TABLE | {"history": TABLE["history"] | history},
    }
    return config_from_dict({"model_name": "deepfm", "data": data})


def rows_of(seed: int = 0) -> pa.Table:
    """Rows of 12 users with many ties, each user's in any order of time."""
    rng = np.random.default_rng(seed)
    item = rng.integers(30, size=200)
    return pa.table(
        {
            "user": rng.integers(12, size=200),
            "item": item,
            "kind": item % 7,
            "time": rng.integers(40, size=200),
            "liked": (rng.random(200) < 0.6).astype(int),
        }
    )


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    """Loads a config over some rows in memory; what it gives are the three splits and the data."""

    def load(rows: pa.Table, **history: object) -> data_load.ExperimentData:
        monkeypatch.setattr(tabular, "_whole", lambda source, folder: rows)
        (tmp_path / "rows.csv").touch()
        return load_data(config_of(tmp_path, **history))

    return load


def history_of(data: data_load.ExperimentData, split: TabularDataset, name: str) -> list[list[int]]:
    """The ids of a history of each row."""
    fields = [field.name for field in split.schema.sequence_fields]
    k = fields.index(name)
    ids, lengths = split.inputs.sequence_ids[k][:], split.inputs.sequence_lengths[k]
    return [row[:n].tolist() for row, n in zip(ids, lengths, strict=True)]


@pytest.mark.parametrize("ties", ["exclude", "order"])
@pytest.mark.parametrize("until", ["split", "row"])
def test_what_rows_of_a_ranking_see(loaded, ties, until):
    rows = rows_of()
    data = loaded(rows, ties=ties, until=until)
    user, time, liked = (rows[name].to_numpy() for name in ("user", "time", "liked"))
    is_event = liked > 0
    if until == "split":
        is_event = is_event & np.isin(np.arange(200), data.events.split.train)
    expected = oracle(user, time, is_event, 4, ties)
    encoded = {
        name: data.encoders.encode(rows, "item").sparse[:, k].numpy()
        for k, name in enumerate(["item", "kind"])
    }
    for split in (data.train, data.valid, data.test):
        ages = history_of(data, split, "history_age")
        for k, row in enumerate(split.row):
            for name in ("item", "kind"):
                found = history_of(data, split, f"history_{name}")[k]
                assert found == encoded[name][expected[row]].tolist()
            assert ages[k] == age_ids(time[row] - time[expected[row]].astype(float)).tolist()


def arrays_of(split: TabularDataset) -> list[list[object]]:
    inputs = split.inputs
    ids = [ids[:].tolist() for ids in inputs.sequence_ids]
    lengths = [lengths.tolist() for lengths in inputs.sequence_lengths]
    return [inputs.sparse.tolist(), ids, lengths, split.label.tolist(), split.row.tolist()]


@pytest.mark.parametrize("until", ["split", "row"])
def test_held_out_labels_change_no_training_row(loaded, until):
    rows = rows_of()
    before = loaded(rows, until=until)
    held_out = np.concatenate([before.events.split.valid, before.events.split.test])
    liked = rows["liked"].to_numpy().copy()
    liked[held_out] = 1 - liked[held_out]
    after = loaded(rows.set_column(4, "liked", pa.array(liked)), until=until)
    assert arrays_of(after.train) == arrays_of(before.train)
    if until == "split":  # the label of the validation row is none of the test row's business
        assert arrays_of(after.test)[1:3] == arrays_of(before.test)[1:3]


@pytest.mark.parametrize("ties", ["exclude", "order"])
def test_later_and_tied_rows_do_not_change_what_a_row_sees(ties):
    rng = np.random.default_rng(3)
    user, time = rng.integers(3, size=40), rng.integers(10, size=40)
    everything = np.ones(40, bool)
    before = earlier_events(user, time, everything, max_length=9, ties=ties)
    for row in range(40):
        later = (time > time[row]) | ((time == time[row]) & (np.arange(40) >= row))
        if ties == "exclude":
            later |= time == time[row]
        after = earlier_events(user, time, ~later, max_length=9, ties=ties)
        seen = [
            found.events[found.starts[row] : found.starts[row] + found.lengths[row]].tolist()
            for found in (before, after)
        ]
        assert seen[0] == seen[1]


def test_a_sampled_negative_has_the_history_of_its_positive(loaded):
    data = loaded(rows_of())
    (batch,) = data.train.epoch(10_000, seed=1, epoch=0, shuffle=False).batches()
    k = [field.name for field in data.train.schema.sequence_fields].index("history_item")
    ids, lengths = batch.inputs.sequence_ids[k], batch.inputs.sequence_lengths[k]
    own = history_of(data, data.train, "history_item")
    found = [row[:n].tolist() for row, n in zip(ids, lengths, strict=True)]
    assert found == [row for row in own for _ in range(5)]  # each with its four negatives


def test_dims_and_tables(tmp_path):
    schema = declared_schema(config_of(tmp_path))
    assert [field.name for field in schema.built_fields] == [
        "history_item",
        "history_kind",
        "history_age",
    ]
    assert [field.embedding_dim for field in schema.built_fields] == [16, 8, 16]
    assert schema.fields["history_kind"].embedding_name == "history_kind"
    shared = declared_schema(config_of(tmp_path, tables="shared"))
    assert shared.fields["history_kind"].embedding_name == "kind"


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        ({"fields": ["user"]}, "expected a sparse field of group item, found 'user'"),
        ({"fields": ["itme"]}, "'itme'; did you mean 'item'"),
        ({"ties": "first"}, "exclude"),
        ({"max_length": 0}, "max_length"),
    ],
)
def test_refused(tmp_path, history, problem):
    with pytest.raises(ConfigError, match=problem):
        declared_schema(config_of(tmp_path, **history))


def test_what_trains_sees_nothing_of_test_rows_in_files_of_their_own(tmp_path):
    """Whatever their times; the validation rows do, with `until: row`."""
    rows = rows_of()
    is_test = np.arange(200) % 9 == 0
    for name, chosen in (("rows.csv", ~is_test), ("test.csv", is_test)):
        write_csv(rows.filter(pa.array(chosen)), tmp_path / name)
    config = config_of(tmp_path, until="row", ties="order").to_dict()
    config["data"]["split_strategy"] = "predefined_ranking"
    config["data"]["table"]["test_files"] = ["test.csv"]
    before = load_data(config_from_dict(config))
    liked = np.where(is_test, 1 - rows["liked"].to_numpy(), rows["liked"].to_numpy())
    changed = rows.set_column(4, "liked", pa.array(liked)).filter(pa.array(is_test))
    write_csv(changed, tmp_path / "test.csv")
    after = load_data(config_from_dict(config))
    assert arrays_of(after.train) == arrays_of(before.train)
    assert history_of(after, after.valid, "history_item") != history_of(
        before, before.valid, "history_item"
    )
