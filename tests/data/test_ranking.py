"""Ranking tasks of declared tables: what is of the user and of the item, and by which times."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from deepfm import experiment
from deepfm.config import config_from_dict
from deepfm.data.sources import tabular
from deepfm.errors import ConfigError, DataError

CLUSTERS, PER_CLUSTER, USERS, EVENTS = 5, 20, 60, 12


def ranking(folder, fields=None, **changes) -> dict:
    """Users who take items of their own cluster only, without a word about groups."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(USERS), EVENTS)
    own = [rng.choice(PER_CLUSTER, EVENTS, replace=False) for _ in range(USERS)]
    item = np.concatenate(own) * CLUSTERS + user % CLUSTERS
    order = rng.permutation(len(user))
    rows = {"user": user[order], "item": item[order], "time": np.arange(len(user))}
    rows["click"] = np.ones(len(user), int)
    pa.csv.write_csv(pa.table(rows), folder / "rows.csv")
    fields = fields or {"user": {"type": "sparse"}, "item": {"type": "sparse"}}
    table = {
        "files": "rows.csv",
        "label": "click",
        "user_field": "user",
        "item_field": "item",
        "time_column": "time",
        "fields": fields,
    }
    return {
        "device": "cpu",
        "output_dir": str(folder / "run"),
        "data": {
            "dataset_name": "tabular",
            "data_dir": str(folder),
            "num_neg_eval": 80,
            "table": table | changes.pop("table", {}),
        },
        "dnn": {"hidden_units": [16]},
        "training": {"epochs": 15, "batch_size": 256, "lr": 0.02, "metric": "hr@10"},
    } | changes


def test_ids_without_groups_rank_well(tmp_path):
    metrics = experiment.train(config_from_dict(ranking(tmp_path)))
    assert metrics["test"]["hr@10"] > 0.6  # of 80 others; chance is 0.12


def test_what_reads_an_id_is_of_its_side(tmp_path):
    fields = {
        "user": {"type": "sparse"},
        "item": {"type": "sparse"},
        "first": {"type": "sparse", "column": "item", "transform": "prefix(1)"},
        "number": {"type": "dense", "column": "user", "missing": "indicator"},
        "hour": {"type": "sparse", "column": "time", "transform": "hour()"},
    }
    table = config_from_dict(ranking(tmp_path, fields)).data.table
    groups = {name: field.group for name, field in tabular.schema(table).fields.items()}
    assert groups == {
        "user": "user", "item": "item", "first": "item", "number": "user",
        "number_missing": "user", "hour": "context",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "changes", "message"),
    [
        (
            {"user": {"type": "sparse"}, "item": {"type": "sparse", "group": "context"}}, {},
            r"data\.table\.fields\.item\.group: expected item, .* found context",
        ),
        (
            {
                "user": {"type": "sparse"}, "item": {"type": "sparse"},
                "of": {"type": "sparse", "column": "user", "group": "item"},
            }, {},
            r"data\.table\.fields\.of\.group: expected user, .* found item",
        ),
        (
            {
                "user": {"type": "sparse"}, "item": {"type": "sparse"},
                "pair": {"type": "sparse", "columns": ["user", "item"], "hash_buckets": 100},
            }, {},
            r"data\.table\.fields\.pair: .*column item.* another item",
        ),
        (
            None, {"feature": {"groups": {"deep": ["user"], "fm": ["user"], "wide": ["user"]}}},
            r"feature\.groups: no field of the model changes with the item",
        ),
        (
            {"user": {"type": "sparse"}, "item": {"type": "sparse"}},
            {"table": {"item_field": "user"}},
            r"data\.table\.item_field: user and item are both read from user",
        ),
    ],
)  # fmt: skip
def test_what_cannot_rank_is_refused(tmp_path, fields, changes, message):
    with pytest.raises(ConfigError, match=message):
        experiment.load_data(config_from_dict(ranking(tmp_path, fields, **changes)))


def test_a_users_last_row_is_so_by_the_calendar(tmp_path):
    """By the text, 2024-01-09T23 at -02:00 would come before 2024-01-10T00 in UTC."""
    times = ["2024-01-09T23:00-02:00", "2024-01-10T00:00Z", "2024-01-08T00:00Z"]
    raw = ranking(tmp_path)
    rows = {"user": [7] * 3, "item": [1, 2, 3], "time": times, "click": [1] * 3}
    pa.csv.write_csv(pa.table(rows), tmp_path / "rows.csv")
    data = experiment.load_data(config_from_dict(raw))
    assert (data.train.row.tolist(), data.valid.row.tolist(), data.test.row.tolist()) == (
        [2], [1], [0]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("time", "31.12.2023", r"row 2, column time: expected a time .*found '31\.12\.2023'"),
        ("time", None, r"row 2, column time: expected a time .*found nothing"),
    ],
)
def test_a_row_without_a_time_is_no_last_row(tmp_path, column, value, message):
    raw = ranking(tmp_path)
    rows = {"user": [7] * 3, "item": [1, 2, 3], "time": ["1", "2", "3"], "click": [1] * 3}
    rows[column][1] = value
    pa.csv.write_csv(pa.table(rows), tmp_path / "rows.csv")
    with pytest.raises(DataError, match=message):
        experiment.load_data(config_from_dict(raw))


@pytest.mark.parametrize("key", ["time_column", "label"])
def test_a_missing_column_is_named(tmp_path, key):
    raw = ranking(tmp_path, table={key: "tim"})
    with pytest.raises(DataError, match=r"no column 'tim'; did you mean 'time'"):
        experiment.load_data(config_from_dict(raw))
