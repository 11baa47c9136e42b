"""train, load, evaluate, describe of Python: what they give back, and that it prints short."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import deepfm
from deepfm.cli import main
from deepfm.errors import CheckpointError, ConfigError
from tests import clicks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clicks")
    clicks.write_rows(folder)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return deepfm.train(clicks.config(folder), {"training.epochs": 3})


@pytest.fixture
def axes(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def test_a_run_is_what_the_command_leaves(run, folder):
    assert run.path == folder / "run"
    assert run.metrics == json.loads((run.path / "metrics.json").read_text())
    lines = (run.path / "history.jsonl").read_text().splitlines()
    assert run.history.to_pylist() == [json.loads(line) for line in lines]
    assert run.history["epoch"].to_pylist() == [1, 2, 3]
    assert run.checkpoint.exists()


def test_a_config_may_be_a_file_nested_data_or_an_object(run, folder, tmp_path):
    used = clicks.config(folder, "other", training__epochs=3)
    path = tmp_path / "other.json.yaml"
    path.write_text(json.dumps(used.to_dict()))
    for given in (path, str(path), used.to_dict()):
        other = deepfm.train(given, ["training.batch_size=64"], overwrite=True)
        assert other.metrics == run.metrics
    with pytest.raises(ConfigError, match="holds a run already"):
        deepfm.train(used)
    with pytest.raises(ConfigError, match=r"unknown key 'training.epoch'; did you mean 'epochs'"):
        deepfm.train(used, {"training.epoch": 1})


def test_results_print_as_a_short_table(run):
    text = repr(run)
    assert text.splitlines()[0] == f"deepfm, 3 epochs, in {run.path}"
    assert f"{run.metrics['test']['auc']:.4f}" in text
    assert len(text) < 3000
    html = run._repr_html_()
    assert html.startswith("<table>")
    assert html.count("<tr>") == len(text.splitlines()) - 1
    assert "&lt;" in deepfm.describe({"<b>": [1, 2] * 30, "click": [0, 1] * 30})._repr_html_()


def test_load_takes_a_run_its_directory_and_files(run):
    rows = {"user": [1, 2], "color": ["c1", "c2"], "size": [0.1, -1.0]}
    expected = deepfm.Predictor(run.checkpoint).predict(rows)
    for given in (run, run.path, str(run.path), run.checkpoint, [run, run.checkpoint]):
        np.testing.assert_allclose(deepfm.load(given).predict(rows), expected, rtol=1e-12)
    assert repr(deepfm.load(run)) == "Predictor(DeepFM of 3 fields: user, color, size)"
    with pytest.raises(CheckpointError, match=r"holds no run, whose best_model.pt would be read"):
        deepfm.load(run.path.parent)


def test_evaluate_gives_the_figures_of_a_split(run):
    found = deepfm.evaluate(run)
    assert list(found.metrics) == ["test"]
    assert found.metrics["test"] == run.metrics["test"]
    assert f"{found.metrics['test']['logloss']:.4f}" in repr(found)
    valid = deepfm.evaluate(run.path, split="valid")
    assert valid.metrics["valid"] == run.metrics["valid"]
    with pytest.raises(ConfigError, match="overrides change a config"):
        deepfm.evaluate(run, overrides={"evaluation.batch_size": 8})


def test_plots_show_what_the_figures_are(run, axes):
    drawn = run.plot()
    lines = {line.get_label(): line.get_ydata() for line in drawn.get_lines()}
    assert lines["train_loss"].tolist() == run.history["train_loss"].to_pylist()
    assert "seconds" not in lines
    _, ax = axes.subplots()
    assert deepfm.evaluate(run).plot(ax) is ax
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    (points,) = ax.get_lines()
    assert points.get_xdata()[labels.index("auc")] == run.metrics["test"]["auc"]


def test_importances_are_drawn_as_bars(axes):
    from deepfm.evaluation.permutation import Importance
    from deepfm.results import Importances

    found = Importances("auc", 10, (Importance("a", np.array([0.2, 0.4])),))
    ax = found.plot()
    assert [bar.get_width() for bar in ax.patches] == [pytest.approx(0.3)]
    assert repr(found).splitlines() == [
        "loss of auc without each column, 10 rows",
        "     mean  deviation",
        "a  0.3000     0.1414",
    ]


def frame(folder) -> pd.DataFrame:
    return pd.read_csv(folder / "rows.csv")[["user", "color", "size", "click"]]


def test_a_file_and_its_frame_are_described_alike(folder):
    rows = frame(folder)
    rows.to_csv(folder / "four.csv", index=False)
    of_file = deepfm.describe(folder / "four.csv")
    for given in (rows, pl.from_pandas(rows), pa.Table.from_pandas(rows, preserve_index=False)):
        found = deepfm.describe(given)
        assert found.fields == of_file.fields
        assert found.notes == of_file.notes
    assert "click (binary)" in of_file.notes[0]
    assert [line.split()[-1] for line in repr(of_file).splitlines()[-4:]] == [
        "sparse",
        "sparse",
        "dense",
        "label",
    ]


def test_a_described_frame_trains(folder, tmp_path):
    found = deepfm.describe(frame(folder), label="click", user="user")
    path = found.save(tmp_path / "mine.yaml")
    assert pa.parquet.read_table(tmp_path / "mine.parquet").num_rows == 1200
    changes = {
        "output_dir": str(tmp_path / "run"),
        "data.store_dir": str(tmp_path / "stores"),
        "training.epochs": 2,
    }
    assert deepfm.train(path, changes).metrics["test"]["auc"] > 0.5
    with pytest.raises(ConfigError, match=r"mine.yaml exists already; overwrite=True replaces it"):
        found.save(path)
    found.save(path, overwrite=True)
    estimator = deepfm.CTRClassifier(fields=found.fields, settings={"training.epochs": 2})
    rows = frame(folder)
    assert (
        estimator.fit(rows.drop(columns="click"), rows.click).score(
            rows.drop(columns="click"), rows.click
        )
        > 0.5
    )


def test_python_describes_a_file_as_the_command_does(folder, tmp_path, monkeypatch, capsys):
    rows = folder / "rows.csv"
    monkeypatch.chdir(tmp_path)
    assert main(["describe", str(rows), "--label", "click", "--output", "told.yaml"]) == 0
    capsys.readouterr()
    deepfm.describe(rows, label="click").save("found.yaml")
    assert (tmp_path / "found.yaml").read_text() == (tmp_path / "told.yaml").read_text()
    with pytest.raises(ConfigError, match="valid is for rows in a file"):
        deepfm.describe(frame(folder), valid=rows)


def test_without_matplotlib_a_plot_says_what_to_install(run, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"plot needs matplotlib: pip install 'deepfm\[report\]'"):
        run.plot()
