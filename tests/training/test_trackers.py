"""Trackers: what they are told, whatever way a run ends, and what TensorBoard reads of it."""

import json
from dataclasses import replace

import pytest

from deepfm import experiment
from deepfm.config import config_from_dict
from deepfm.errors import ConfigError
from deepfm.training.trackers import TensorBoard
from tests import clicks


class Told:
    """A tracker that keeps what it is told, and may stop the run."""

    def __init__(self, stops_at: int | None = None) -> None:
        self.calls, self.stops_at = [], stops_at

    def start(self, folder, config, step):
        self.calls.append(("start", folder, config, step))

    def record(self, step, figures):
        self.calls.append(("record", step, figures))
        if step == self.stops_at:
            raise RuntimeError("the tracker's own")

    def finish(self, metrics):
        self.calls.append(("finish", metrics))

    def records(self):
        return [
            (step, figures)
            for name, step, *rest in self.calls
            for figures in rest
            if name == "record"
        ]


@pytest.fixture
def config(tmp_path):
    clicks.write_rows(tmp_path)
    return clicks.config(tmp_path, training__evaluate_every_steps=3, training__log_every_steps=4)


def test_a_tracker_is_told_what_the_files_of_the_run_say(config, tmp_path):
    told = Told()
    metrics = experiment.train(config, trackers=[told])
    (first, folder, given, step), last = told.calls[0], told.calls[-1]
    assert (first, str(folder), step) == ("start", config.output_dir, 0)
    assert given["training"]["lr"] == 0.02
    assert last == ("finish", metrics)
    history = list(map(json.loads, (tmp_path / "run" / "history.jsonl").read_text().splitlines()))
    steps = -(-metrics["data"]["rows"]["train"] // 64)
    ends = {
        f["epoch"]: (s, f) for s, f in told.records() if float(f.get("epoch", 0.5)).is_integer()
    }
    assert list(ends) == [1, 2]
    for entry in history:
        step, figures = ends[entry["epoch"]]
        assert step == steps * entry["epoch"]
        assert figures["train/loss"] == entry["train_loss"]
        assert figures["train/lr"] == entry["lr"]
        assert figures["valid/auc"] == entry["auc"]
        for within in entry["evaluations"]:
            (found,) = [f for s, f in told.records() if s == within["step"] and "epoch" in f]
            assert found["valid/auc"] == within["auc"]
            assert found["epoch"] == pytest.approx(within["step"] / steps)
    logged = [s for s, f in told.records() if "train/loss" in f and "epoch" not in f]
    assert logged == [4, 8, 12, 16]


def test_every_tracker_is_told_of_the_end_of_a_run_that_fails(config):
    one, other = Told(stops_at=3), Told()
    with pytest.raises(RuntimeError, match="the tracker's own"):
        experiment.train(config, trackers=[other, one])
    assert one.calls[-1] == other.calls[-1] == ("finish", None)


def test_a_resumed_run_starts_its_tracker_where_it_stood(config):
    experiment.train(replace(config, training=replace(config.training, epochs=1)))
    told = Told()
    experiment.train(config, resume=True, trackers=[told])
    assert told.calls[0][3] == 8
    assert [s for s, f in told.records() if "epoch" in f] == [9, 12, 15, 16]


def test_figures_in_tensorboard_are_those_that_were_recorded(config):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(config, training=replace(config.training, trackers=(TensorBoard(),)))
    told = Told()
    metrics = experiment.train(config, trackers=[told])
    events = EventAccumulator(f"{config.output_dir}/tensorboard")
    events.Reload()
    wanted = [(s, f["valid/auc"]) for s, f in told.records() if "valid/auc" in f]
    found = [(item.step, item.value) for item in events.Scalars("valid/auc")]
    assert found == [(step, pytest.approx(value)) for step, value in wanted]
    (final,) = events.Scalars("final_test/auc")
    assert final.value == pytest.approx(metrics["test"]["auc"])


def test_an_unknown_tracker_is_a_line_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        config_from_dict({"training": {"trackers": ["tensorbord"]}})


def test_validation_only_leaves_the_test_split_alone(config, monkeypatch, tmp_path):
    class Canary:
        def __getattr__(self, name):
            raise AssertionError(f"the test split was asked for {name}")

        def __len__(self):
            raise AssertionError("the test split was counted")

    load = experiment.load_data
    monkeypatch.setattr(
        experiment, "load_data", lambda *a, **k: load(*a, **k)._replace(test=Canary())
    )
    metrics = experiment.train(config, validation_only=True)
    assert metrics.keys() == {"valid", "data"}
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()).keys() == metrics.keys()
    with pytest.raises(AssertionError, match="the test split"):
        experiment.train(config, overwrite=True)
