"""The page after training: when it is written, what it may cost, and that it changes nothing."""

import json

import pytest

from deepfm import experiment
from deepfm.cli import main
from deepfm.report import automatic
from tests import clicks
from tests.report.conftest import texts


@pytest.fixture
def lines(caplog):
    """What is logged."""
    caplog.set_level("INFO", logger="deepfm")
    return lambda: [record.getMessage() for record in caplog.records]


def train(folder, run="run", **changes):
    clicks.write_rows(folder)
    config = clicks.config(folder, run, **changes)
    return experiment.train(config, afterwards=automatic.write_automatically)


def test_a_short_run_gets_a_line(tmp_path, lines):
    train(tmp_path)
    assert not (tmp_path / "run" / "report.html").exists()
    (line,) = [line for line in lines() if "report" in line]
    assert line.startswith("no report.html: it would take more than 5% of ")
    assert line.endswith(f"deepfm report {tmp_path / 'run'} makes it")


def test_a_long_run_gets_a_page_of_what_was_evaluated(tmp_path, lines, monkeypatch):
    monkeypatch.setattr(automatic, "LEAST", 0.0)
    monkeypatch.setattr(automatic, "SHARE", 100.0)
    metrics = train(tmp_path)
    said = " ".join(texts(tmp_path / "run" / "report.html").split())
    assert f"LogLoss {metrics['valid']['logloss']:.4f} over " in said
    for title in ("ROC", "Calibration", "By color", "Figures of the test split", "Time and memory"):
        assert title in said
    for title in ("Permutation importance", "boosting"):  # what takes long
        assert title not in said
    assert [line for line in lines() if line.startswith("the report is in ")]
    took = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert took["peak_memory"] > 2**20
    assert f"{took['peak_memory'] / 2**20:.1f} MiB" in said


def test_a_small_share_leaves_parts_out(tmp_path, monkeypatch):
    monkeypatch.setattr(automatic, "LEAST", 0.0)
    train(tmp_path)
    said = texts(tmp_path / "run" / "report.html")
    assert "ROC" in said
    assert "By color" not in said


def test_never_is_never_and_a_missing_library_a_line(tmp_path, lines, monkeypatch):
    monkeypatch.setattr(automatic, "LEAST", 0.0)
    train(tmp_path, "never", training__report="never")
    assert not [line for line in lines() if "report" in line]
    monkeypatch.setattr(automatic, "find_spec", lambda name: None)
    train(tmp_path, "without")
    assert [line for line in lines() if "pip install 'deepfm[report]'" in line]
    assert not list(tmp_path.glob("*/report.html"))


def test_a_chart_that_fails_fails_no_run(tmp_path, lines, monkeypatch):
    monkeypatch.setattr(automatic, "LEAST", 0.0)

    def fail(*arguments):
        raise ValueError("no such font")

    monkeypatch.setattr(automatic, "_page", fail)
    assert "valid" in train(tmp_path)
    assert "no report.html: no such font; the run itself is complete" in lines()


def test_the_report_is_no_part_of_what_equal_runs_share(tmp_path, monkeypatch):
    """All other files but those with times are equal with it and without."""
    monkeypatch.setattr(automatic, "LEAST", 0.0)
    train(tmp_path, "with")
    experiment.train(clicks.config(tmp_path, "without"))
    names = {path.name for path in (tmp_path / "with").iterdir()}
    assert names - {path.name for path in (tmp_path / "without").iterdir()} == {"report.html"}
    for name in ("metrics.json", "predictions.parquet"):
        one, other = ((tmp_path / run / name).read_bytes() for run in ("with", "without"))
        assert one == other


def test_an_overwritten_run_loses_its_page(tmp_path):
    clicks.write_rows(tmp_path)
    config = clicks.config(tmp_path)
    experiment.train(config)
    stale = tmp_path / "run" / "report.html"
    stale.write_text("of an earlier run")
    experiment.train(config, overwrite=True)
    assert not stale.exists()


def test_train_writes_one_and_compare_does_not(tmp_path, monkeypatch, capsys):
    import yaml

    monkeypatch.setattr(automatic, "LEAST", 0.0)
    monkeypatch.chdir(tmp_path)
    clicks.write_rows(tmp_path)
    path = tmp_path / "clicks.yaml"
    path.write_text(yaml.safe_dump(clicks.config(tmp_path).to_dict()))
    assert main(["train", "--config", str(path)]) == 0
    assert (tmp_path / "run" / "report.html").exists()
    assert main(["compare", str(path)]) == 0
    assert not list((tmp_path / "outputs").rglob("*.html"))
