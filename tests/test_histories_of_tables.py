"""Declared tables with histories from the command line on: train, evaluate, stop and go on."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from deepfm import experiment
from deepfm.checkpoint import load_checkpoint
from deepfm.cli import main
from deepfm.config import ExperimentConfig, config_from_dict
from deepfm.data.files.read import read_rows
from deepfm.data.history import age_ids
from deepfm.data.load import load_data
from deepfm.prediction import Predictor
from deepfm.training.trainer import Interrupted
from tests.data.store.test_store_histories import config, rows, write
from tests.test_out_of_core import stop_after


@pytest.fixture
def used(tmp_path) -> ExperimentConfig:
    """A table of 400 rows, split by time, whose last users and items know no training."""
    write(tmp_path, rows())
    return config(tmp_path, "time")


def test_train_evaluate_and_load(used, capsys):
    metrics = experiment.train(used)
    assert metrics["data"]["history"]["ties"] == "exclude"
    best = Path(used.output_dir) / "best_model.pt"
    assert main(["evaluate", "--checkpoint", str(best)]) == 0
    assert f"{metrics['test']['logloss']:.4f}" in capsys.readouterr().out
    weights = load_checkpoint(best).model
    assert "embedding.positions.history_item.weight" in weights
    written = json.loads((Path(used.output_dir) / "metrics.json").read_text())
    assert written["data"]["history"]["until"] == "split"


def test_a_checkpoint_knows_what_its_users_did(used):
    """Raw test rows alone get what the run gave them; without their past they do not."""
    experiment.train(used)
    best = Path(used.output_dir) / "best_model.pt"
    saved = pyarrow.parquet.read_table(Path(used.output_dir) / "predictions.parquet")
    raw = pa.concat_tables(
        part.table for part in read_rows([Path(used.data.data_dir) / "rows.csv"])
    ).take(saved["row"])
    found = Predictor(best).predict(raw)
    np.testing.assert_allclose(found, saved["probability"].to_numpy(), rtol=1e-5)
    place = raw.column_names.index("time")
    early = raw.set_column(place, "time", pa.array(["-1"] * len(raw)))
    assert np.abs(Predictor(best).predict(early) - found).max() > 1e-4


def test_a_run_stopped_in_an_epoch_ends_as_an_uninterrupted_one(used, monkeypatch):
    expected = experiment.train(used)
    last = Path(used.output_dir) / "last.pt"
    straight = load_checkpoint(last)
    monkeypatch.setattr(experiment, "catch_signals", lambda: stop_after(5))
    with pytest.raises(Interrupted):
        experiment.train(used, overwrite=True)
    monkeypatch.undo()
    assert experiment.train(used, resume=True) == expected
    resumed = load_checkpoint(last)
    for name, weights in straight.model.items():
        assert (resumed.model[name] == weights).all(), name


# --- MovieLens-100K as a declared table ---------------------------------------------------------


def movielens_config(data_dir: Path, folder: Path, split: str, **history: object):
    table = {
        "files": "u.data",
        "delimiter": "\t",
        "columns": ["user", "item", "rating", "time"],
        "label": "liked",
        "labels": {"liked": {"column": "rating", "threshold": 4}},
        "user_field": "user",
        "item_field": "item",
        "time_column": "time",
        "fields": {"user": {"type": "sparse"}, "item": {"type": "sparse"}},
        "history": {"max_length": 20} | history,
    }
    data = {
        "dataset_name": "tabular",
        "data_dir": str(data_dir),
        "store_dir": str(folder / "stores"),
        "split_strategy": split,
        "table": table,
    }
    return config_from_dict({"output_dir": str(folder / "run"), "data": data})


def last_liked(
    rows: dict[str, list], split: np.ndarray, *, ties: str, until: str
) -> list[list[int]]:
    """The rows that each row sees, by one walk through each user's rows in order of time."""
    found: list[list[int]] = [[] for _ in split]
    by_user = defaultdict(list)
    for row in sorted(range(len(split)), key=lambda row: (rows["time"][row], row)):
        by_user[rows["user"][row]].append(row)
    for own in by_user.values():
        liked: list[int] = []
        earlier, time = 0, None
        for row in own:
            if rows["time"][row] != time:
                earlier, time = len(liked), rows["time"][row]
            visible = liked[:earlier] if ties == "exclude" else liked
            found[row] = visible[-20:]
            if int(rows["rating"][row]) >= 4 and (until == "row" or split[row] == 0):
                liked.append(row)
    return found


@pytest.mark.parametrize(
    ("split", "ties", "until"),
    [("time", "exclude", "split"), ("time", "order", "row"), ("random", "exclude", "split")],
)
def test_what_users_of_movielens_did_before(movielens_dir, tmp_path, split, ties, until):
    data = load_data(movielens_config(movielens_dir, tmp_path, split, ties=ties, until=until))
    lines = [line.split("\t") for line in (movielens_dir / "u.data").read_text().splitlines()]
    columns = zip(*lines, strict=True)
    rows = dict(zip(("user", "item", "rating", "time"), columns, strict=True))
    rows["time"] = [int(time) for time in rows["time"]]
    time = np.array(rows["time"])
    parts = (data.train, data.valid, data.test)
    of_row = np.full(len(lines), -1)
    for number, part in enumerate(parts):
        of_row[part.row] = number
    seen = last_liked(rows, of_row, ties=ties, until=until)
    items = data.encoders.encode(pa.table({name: rows[name] for name in ("user", "item")})).sparse
    for part in parts:
        inputs = part[:].inputs
        ids, ages = (found.numpy() for found in inputs.padded_ids)
        lengths = np.array([len(seen[row]) for row in part.row])
        assert (inputs.sequence_lengths[0].numpy() == lengths).all()
        filled = np.arange(ids.shape[1]) < lengths[:, None]
        events = np.array([event for row in part.row for event in seen[row]])
        assert (ids[filled] == items[events, 1].numpy()).all()
        since = np.repeat(time[part.row], lengths) - time[events]
        assert (ages[filled] == age_ids(since)).all()
    assert data.summary["history"]["without"] == 0
