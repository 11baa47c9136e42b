"""Candidates from files: both forms against the lines themselves, and lines that do not fit."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from deepfm import experiment
from deepfm.config import config_from_dict, load_config
from deepfm.errors import ConfigError, DataError, MissingDataError
from deepfm.held_out import evaluate_checkpoint

TRAIN = [  # user, item, rating, time; the last column decides, not the order of lines
    ("u1", "a", 5, 3), ("u1", "b", 1, 9), ("u1", "c", 4, 1),
    ("u2", "b", 2, 4), ("u2", "d", 5, 4), ("u2", "e", 3, 2),
    ("u3", "c", 3, 1), ("u3", "f", 3, 2), ("u3", "a", 3, 3),
]  # fmt: skip
TEST = [("u1", "d", 5, 10), ("u2", "a", 4, 10), ("u3", "b", 1, 0)]
LINES = [("u2", "a", ["c", "f", "g"]), ("u1", "d", ["g", "e"]), ("u3", "b", ["d"])]


def ncf(lines) -> str:
    return "".join("\t".join([f"({user},{item})", *others]) + "\n" for user, item, others in lines)


def raw_config(folder, candidates, **changes) -> dict:
    """A task whose test rows are in a file, with `g` an item of the item table alone."""
    for name, rows in (("train.tsv", TRAIN), ("test.tsv", TEST)):
        (folder / name).write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    (folder / "items.csv").write_text("item\n" + "\n".join("abcdefg") + "\n")
    table = {
        "files": "train.tsv",
        "test_files": "test.tsv",
        "columns": ["user", "item", "rating", "time"],
        "items": {"files": "items.csv"},
        "label": "rated",
        "labels": {"rated": {"column": "rating", "present": True}},
        "user_field": "user",
        "item_field": "item",
        "time_column": "time",
        "fields": {"user": {"type": "sparse"}, "item": {"type": "sparse"}},
    }
    data = {
        "dataset_name": "tabular",
        "data_dir": str(folder),
        "split_strategy": "predefined_ranking",
        "num_neg_eval": 3,
        "table": table | changes.pop("table", {}),
    }
    return {
        "device": "cpu",
        "output_dir": str(folder / "run"),
        "data": data | {"candidates": candidates} | changes,
        "dnn": {"hidden_units": [4]},
        "training": {"epochs": 1, "metric": "ndcg@10"},
    }


def ranked_items(data) -> dict[str, list[str]]:
    """By user, the raw items of the test task, the positive first."""
    users, items = (data.events.tables.users["user"], data.events.tables.items["item"])
    task = data.test.ranking
    return {
        users[int(data.events.user[data.test.row[row]])].as_py(): [
            items[int(k)].as_py() for k in line if k >= 0
        ]
        for row, line in zip(task.rows, task.items, strict=True)
    }


def as_ncf(folder):
    (folder / "c.negative").write_text(ncf(LINES))
    return {"files": "c.negative", "form": "ncf"}


def as_packed_ncf(folder):
    (folder / "c.gz").write_bytes(gzip.compress(ncf(LINES).encode()))
    return {"files": "c.gz", "form": "ncf"}


def as_csv(folder):
    rows = [f"{user},{item},{'; '.join(others)}" for user, item, others in LINES]
    (folder / "c.csv").write_text("user,positive,negatives\n" + "\n".join(rows) + "\n")
    return {"files": "c.csv", "separator": "; "}


def as_parquet(folder):
    for k, part in enumerate((LINES[:1], LINES[1:])):
        user, positive, negatives = (list(some) for some in zip(*part, strict=True))
        columns = {"negatives": negatives, "user": user, "more": user, "positive": positive}
        pa.parquet.write_table(pa.table(columns), folder / f"c{k}.parquet")
    return {"files": "c*.parquet"}


@pytest.mark.parametrize("write", [as_ncf, as_packed_ncf, as_csv, as_parquet])
def test_each_test_positive_is_ranked_among_its_line(write, tmp_path):
    config = config_from_dict(raw_config(tmp_path, write(tmp_path)))
    data = experiment.load_data(config)
    assert ranked_items(data) == {user: [item, *others] for user, item, others in LINES}
    assert (data.train.row.tolist(), data.valid.row.tolist(), data.test.row.tolist()) == (
        [0, 2, 3, 5, 6, 7], [1, 4, 8], [9, 10, 11],
    )  # fmt: skip


def test_the_protocol_stands_in_the_metrics(tmp_path):
    raw = raw_config(tmp_path, as_ncf(tmp_path))
    experiment.train(config_from_dict(raw))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    protocol = metrics["protocol"]
    assert protocol["split"] == "predefined_ranking"
    assert protocol["candidates"].startswith("c.negative (XXH3 ")
    assert protocol["candidates"].endswith("); validation 3 drawn, seed 0")
    assert "ranking_99" not in metrics["test"]
    raw["data"]["candidates"] = None
    data = experiment.load_data(config_from_dict(raw))
    assert data.protocol == {"split": "predefined_ranking", "candidates": "3 drawn, seed 0"}


def test_other_candidates_are_other_data(tmp_path):
    raw = raw_config(tmp_path, as_ncf(tmp_path))
    experiment.train(config_from_dict(raw))
    lines = [(user, item, others[::-1]) for user, item, others in LINES]
    (tmp_path / "c.negative").write_text(ncf(lines))
    with pytest.raises(DataError, match=r"c\.negative: its content is not what the run began with"):
        experiment.train(config_from_dict(raw), resume=True)
    found = evaluate_checkpoint(tmp_path / "run" / "best_model.pt")
    assert 0 <= found["test"]["ndcg@10"] <= 1


def test_a_checkpoint_is_evaluated_among_other_candidates(tmp_path):
    raw = raw_config(tmp_path, as_ncf(tmp_path))
    experiment.train(config_from_dict(raw))
    (tmp_path / "other").write_text(ncf([(user, item, ["f"]) for user, item, _ in LINES]))
    raw["data"] |= {"candidates": {"files": "other", "form": "ncf"}, "num_neg_eval": 1}
    found = evaluate_checkpoint(tmp_path / "run" / "best_model.pt", config=config_from_dict(raw))
    assert found["test"]["hr@5"] == 1.0  # two items in each list


def test_a_resumed_run_finds_the_same_lines_under_another_name(tmp_path):
    raw = raw_config(tmp_path, as_ncf(tmp_path))
    experiment.train(config_from_dict(raw))
    (tmp_path / "c.negative").rename(tmp_path / "moved")
    raw["data"]["candidates"]["files"] = "moved"
    experiment.train(config_from_dict(raw), resume=True)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["protocol"]["candidates"].startswith("moved (XXH3 ")


def changed(line: int, *, user=None, item=None, others=None):
    lines = list(LINES)
    old = lines[line]
    lines[line] = (user or old[0], item or old[1], old[2] if others is None else others)
    return lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ncf(changed(1, user="u9")), r"c:2: no user of the data has user 'u9'$"),
        (ncf(changed(1, item="z")), r"c:2: no item of the data has item 'z'$"),
        (ncf(changed(2, others=["d", "z"])), r"c:3: no item of the data has item 'z'$"),
        (
            ncf(changed(0, item="b")),
            r"c:1: user 'u2' has no positive test row of item 'b'; that user's: 'a'$",
        ),
        (ncf([*LINES, LINES[0]]), r"c:4: a second line of user 'u2' and item 'a'$"),
        (ncf(LINES[:1]), r"no line for user 'u1' and the test positive 'd', and none for 1 other"),
        (ncf(changed(2, others=[])), r"c:3: expected negatives, found none$"),
        (ncf(changed(0, others=["c", "a", "f"])), r"c:1: the positive is one of its own negatives"),
        (ncf(LINES) + "(u1 d)\tc\n", r"c:4: expected \(user,positive\) and negatives"),
        ("", r"c: expected a line of candidates, found none$"),
    ],
)
def test_lines_that_do_not_fit_are_named(text, message, tmp_path):
    (tmp_path / "c").write_text(text)
    config = config_from_dict(raw_config(tmp_path, {"files": "c", "form": "ncf"}))
    with pytest.raises(DataError, match=message):
        experiment.load_data(config)


def test_a_table_without_a_column_is_named(tmp_path):
    (tmp_path / "c.csv").write_text("user,positive,negative\nu1,d,c\n")
    config = config_from_dict(raw_config(tmp_path, {"files": "c.csv"}))
    with pytest.raises(DataError, match=r"c\.csv: no column 'negatives'.*did you mean 'negative'"):
        experiment.load_data(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_neg_eval": 4}, r"^data\.num_neg_eval: .* set it to 3, found 4$"),
        ({"candidates": {"form": "ncf"}}, r"^data\.candidates\.files: a value is needed$"),
        (
            {"candidates": {"files": "c.negative", "form": "ncf", "delimiter": ","}},
            r"^data\.candidates\.delimiter: form ncf says how",
        ),
        (
            {"split_strategy": "time", "table": {"test_files": []}},
            r"^data\.candidates: .* ranks nothing",
        ),
        ({"table": {"test_files": []}}, r"^data\.table\.test_files: a value is needed"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(changes, message, tmp_path):
    raw = raw_config(tmp_path, **({"candidates": as_ncf(tmp_path)} | changes))
    with pytest.raises(ConfigError, match=message):
        experiment.load_data(config_from_dict(raw))


def test_files_of_two_splits_and_missing_ones_are_refused(tmp_path):
    raw = raw_config(tmp_path, as_ncf(tmp_path), table={"test_files": ["test.tsv", "train.tsv"]})
    with pytest.raises(DataError, match=r"train\.tsv holds rows of two splits; .*test_files"):
        experiment.load_data(config_from_dict(raw))
    raw = raw_config(tmp_path, {"files": "nowhere"})
    with pytest.raises(MissingDataError, match=r"nowhere: no such file \(from data\.candidates"):
        experiment.load_data(config_from_dict(raw))


def test_negatives_that_were_trained_on_are_counted(tmp_path, caplog):
    (tmp_path / "c").write_text(ncf(changed(0, others=["c", "b", "e"])))
    config = config_from_dict(raw_config(tmp_path, {"files": "c", "form": "ncf"}))
    experiment.load_data(config)
    messages = [record.getMessage() for record in caplog.records]
    assert [m for m in messages if "2 of 6 negatives" in m and "of 1 positives" in m]


def test_drawn_candidates_out_of_a_file_are_the_same_task(tmp_path, tiny_config):
    """Data of an adapter, split by leave_one_out: what was drawn, written and read again."""
    config = load_config(tiny_config())
    drawn = experiment.load_data(config)
    task, events = drawn.test.ranking, drawn.events
    items = task.items[:, : 1 + task.num_negatives]
    table = {
        "user": events.user[drawn.test.row[task.rows]],  # ids are positions in this data
        "positive": items[:, 0],
        "negatives": [[k for k in line[1:] if k >= 0] for line in items.tolist()],
    }
    pa.parquet.write_table(pa.table(table), tmp_path / "c.parquet")
    longest = max(map(len, table["negatives"]))
    again = load_config(
        tiny_config(data__candidates={"files": "c.parquet"}, data__num_neg_eval=longest)
    )
    listed = experiment.load_data(again)
    np.testing.assert_array_equal(listed.test.ranking.items, items[:, : 1 + longest])
    assert "c.parquet" in listed.protocol["candidates"]
