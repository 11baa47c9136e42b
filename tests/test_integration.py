"""End to end on the real MovieLens-100K: every config trains, and what it leaves can be used."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from deepfm.cli import main
from deepfm.config import load_config
from deepfm.data.sources import movielens
from deepfm.prediction import Predictor

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*movielens*.yaml"))
CONFIGS = [path for path in CONFIGS if load_config(path).data.table is None]
# Both take a quarter of a minute; the other configs do the same on the same data in a third of it.
LONG = ("attention_deepfm_movielens", "din_movielens", "xdeepfm_movielens")
TRAINED = [
    pytest.param(path, marks=pytest.mark.slow if path.stem in LONG else ()) for path in CONFIGS
]


def train(config: Path, output_dir: Path, data_dir: Path) -> None:
    """One short epoch."""
    changes = {
        "output_dir": output_dir,
        "data.data_dir": data_dir,
        "data.auto_download": "false",
        "training.epochs": 1,
        "training.batch_size": 8192,
    }
    overrides = [f"--override={key}={value}" for key, value in changes.items()]
    assert main(["train", "--config", str(config), *overrides]) == 0


@pytest.fixture(scope="module")
def run(movielens_dir, tmp_path_factory) -> Path:
    output_dir = tmp_path_factory.mktemp("movielens") / "run"
    train(CONFIGS[1], output_dir, movielens_dir)
    return output_dir


def test_there_are_seven_configs():
    assert [path.stem for path in CONFIGS] == [
        "attention_deepfm_movielens",
        "deepfm_movielens",
        "deepfm_movielens_ratings",
        "din_movielens",
        "fm_movielens",
        "wide_and_deep_movielens",
        "xdeepfm_movielens",
    ]


@pytest.mark.parametrize("config", TRAINED, ids=lambda path: path.stem)
def test_every_config_trains_and_beats_chance(config, movielens_dir, tmp_path):
    train(config, tmp_path / "run", movielens_dir)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for name in ("valid", "test"):
        split = metrics[name]
        assert split["auc"] > 0.55
    assert metrics["test"]["ranking_users"] == 486
    assert metrics["valid"]["ranking_users"] == 493


def test_predicting_the_raw_test_rows_gives_the_probabilities_of_the_run(run, movielens_dir):
    """Raw rows through the checkpoint alone equal the evaluation's own encoding.

    Not so where the file's order decides which of a user's rows of one second came first: a row
    that is served sees none of its own second.
    """
    saved = pq.read_table(run / "predictions.parquet")
    tables = movielens.load(movielens_dir, auto_download=False)
    moments = tables.interactions.group_by(["user_id", "timestamp"]).aggregate([([], "count_all")])
    alone = moments.filter(pc.equal(moments["count_all"], 1)).select(["user_id", "timestamp"])
    rows = tables.interactions.take(saved["row"]).append_column("number", saved["row"])
    numbers = rows.join(alone, ["user_id", "timestamp"], join_type="inner")["number"]
    assert len(numbers) > 300
    saved = saved.filter(pc.is_in(saved["row"], numbers.combine_chunks()))
    rows = tables.interactions.take(saved["row"])
    predictor = Predictor(run / "best_model.pt")
    expected = saved["probability"].to_numpy()
    np.testing.assert_allclose(predictor.predict(rows), expected, rtol=1e-5)
    raw = tables.complete(movielens.schema(), rows)
    np.testing.assert_allclose(predictor.predict(raw), expected, rtol=1e-5)


def test_predict_reads_the_columns_as_a_person_writes_them(run, tmp_path, capsys):
    rows, output = tmp_path / "rows.csv", tmp_path / "scores.parquet"
    rows.write_text(
        "user_id,movie_id,timestamp,gender,age,occupation,zip_code,genres\n"
        "196,242,890000000,M,49,writer,55105,Comedy\n"  # as in u.user and u.item
        "196,242,890000000,M,45,writer,55199,Comedy\n"  # same age bucket and zip prefix
        "196,242,890000000,M,44,writer,55105,Comedy\n"  # another age bucket
        "196,50,890000000,M,49,writer,55105,Action|Adventure|Romance|Sci-Fi|War\n"
        "9999,99999,890000000,X,,nobody,,Unheard|Of\n"  # everything unknown
    )
    arguments = ["--checkpoint", run / "best_model.pt", "--input", rows, "--output", output]
    assert main(["predict", *map(str, arguments)]) == 0
    found = pq.read_table(output)["probability"].to_pylist()
    predictor = Predictor(run / "best_model.pt")
    ids = {"user_id": [196, 196], "movie_id": [242, 50], "timestamp": [890_000_000] * 2}
    known = predictor.predict(pa.table(ids))
    np.testing.assert_allclose([found[0], found[3]], known, rtol=1e-5)
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert found[2] != pytest.approx(found[0], rel=1e-6)
    assert 0 < found[4] < 1


def test_recommend_lists_titles_and_leaves_out_what_the_user_rated(run, movielens_dir, capsys):
    arguments = ["recommend", "--checkpoint", str(run / "best_model.pt"), "--top", "20"]
    assert main([*arguments, "--user", "196"]) == 0
    lines = capsys.readouterr().out.splitlines()
    tables = movielens.load(movielens_dir, auto_download=False)
    titles = dict(
        zip(
            tables.items["movie_id"].to_pylist(),
            tables.items["movie_title"].to_pylist(),
            strict=True,
        )
    )
    rated = tables.interactions.filter(pa.compute.field("user_id") == 196)["movie_id"].to_pylist()
    assert len(lines) == 20
    for line in lines:
        _, _, item, title = line.split(maxsplit=3)
        assert titles[int(item)] == title
        assert int(item) not in rated
    assert main([*arguments, "--user", "nobody"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 20
    assert captured.err == "warning: user nobody is unknown and served as a new user\n"


def test_a_checkpoint_serves_without_the_data(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no data folder here
    alone = tmp_path / "model.pt"
    alone.write_bytes((run / "best_model.pt").read_bytes())
    assert len(Predictor(alone).recommend(1, top=3)) == 3
