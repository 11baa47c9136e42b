"""Searches: equal seeds, several processes, kills, what is never read, and what is written."""

import json
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

pytest.importorskip("optuna")

from deepfm import experiment
from deepfm.config import config_from_dict, load_config
from deepfm.errors import ConfigError, DataError, DeepFMError
from deepfm.tuning.space import Choices, Range, with_settings
from deepfm.tuning.tune import tune
from tests.tuning import searches
from tests.tuning.searches import SPACE, config, process, search


def told(trials):
    """What must be equal of equal searches."""
    return [(t.number, t.state, t.settings, t.value, t.evaluations) for t in trials]


def test_equal_seeds_give_equal_trials_however_often_the_search_is_stopped(tmp_path):
    whole = search(tmp_path, "whole", trials=8)
    for trials in (1, 5, 8):
        parts = search(tmp_path, "parts", trials=trials)
        assert len(parts) == trials
    assert told(parts) == told(whole)
    assert whole[0].settings["training.lr"] == 0.02  # the config as it stands
    other = search(tmp_path, "other", trials=2, seed=1)
    assert other[1].settings != whole[1].settings


def test_a_trial_is_a_run_with_the_value_that_its_config_reaches(tmp_path):
    trials = search(tmp_path, trials=3)
    for trial in trials:
        metrics = json.loads((trial.run / "metrics.json").read_text())
        assert metrics.keys() == {"valid", "data"}
        assert trial.value == metrics["valid"]["auc"]
        again = with_settings(
            config(tmp_path, training__early_stopping_patience=None), trial.settings
        )
        again = replace(again, output_dir=str(tmp_path / f"again-{trial.number}"))
        assert experiment.train(again)["valid"]["auc"] == trial.value


def test_what_is_written_is_what_was_found(tmp_path):
    trials = search(tmp_path, trials=4)
    best = max((t for t in trials if t.state == "finished"), key=lambda t: t.value)
    found = load_config(tmp_path / "study" / "best.yaml")
    assert found.training.lr == best.settings["training.lr"]
    assert list(found.model.dnn.hidden_units) == best.settings["dnn.hidden_units"]
    content = json.loads((tmp_path / "study" / "trials.json").read_text())
    assert content["best"] == best.number
    assert [t["value"] for t in content["trials"]] == [t.value for t in trials]
    table = (tmp_path / "study" / "trials.md").read_text().splitlines()
    assert table[4].split("|")[1].strip() == str(best.number)
    assert len(table) == 4 + len(trials)


def test_trials_that_are_worse_than_the_median_are_pruned_and_shown(tmp_path):
    # Of rates that can learn nothing and those that do, chosen blindly.
    space = {"training.lr": Choices((0.02, 0.05, 1e-9))}
    trials = search(tmp_path, trials=12, space=space, sampler="random")
    pruned = [t for t in trials if t.state == "pruned"]
    assert pruned
    for trial in pruned:
        assert trial.settings == {"training.lr": 1e-9}
        assert trial.reason == f"worse than the median after {trial.epochs:.4g} epochs"
        finished = [t for t in trials[: trial.number] if t.state == "finished"]
        at_the_time = sorted(dict(t.evaluations)[trial.epochs] for t in finished)
        assert len(finished) >= 5
        assert trial.value < at_the_time[len(at_the_time) // 2] + 1e-9
        assert f"| {trial.number} " in (tmp_path / "study" / "trials.md").read_text()


def test_failed_trials_are_shown_and_the_search_goes_on(tmp_path):
    space = {"training.lr": Choices((0.02, 1e30))}
    trials = search(tmp_path, trials=6, space=space, sampler="random")
    states = {t.settings["training.lr"]: t.state for t in trials}
    assert states == {0.02: "finished", 1e30: "failed"}
    (reason,) = {t.reason.split(" in epoch")[0] for t in trials if t.state == "failed"}
    assert "NaN or infinite" in reason or "became nan" in reason
    assert "failed: the" in (tmp_path / "study" / "trials.md").read_text()


def test_without_a_finished_trial_the_error_says_why(tmp_path):
    with pytest.raises(DeepFMError, match=r"no trial has finished: the .* training.lr"):
        search(tmp_path, trials=1, space={"training.lr": Choices((1e30, 1e31))})


def test_the_test_split_is_never_read(tmp_path, monkeypatch):
    class Canary:
        def __getattr__(self, name):
            raise AssertionError(f"the test split was asked for {name}")

        def __len__(self):
            raise AssertionError("the test split was counted")

    load = experiment.load_data
    monkeypatch.setattr(
        experiment, "load_data", lambda *a, **k: load(*a, **k)._replace(test=Canary())
    )
    assert [t.state for t in search(tmp_path, trials=2)] == ["finished", "finished"]


def test_files_of_test_rows_are_not_even_opened(tmp_path):
    raw = config(tmp_path).to_dict()
    raw["data"]["split_strategy"] = "predefined"
    raw["data"]["table"] |= {"valid_files": ["rows.csv"], "test_files": ["gone.csv"]}
    used = config_from_dict(raw)
    trials = tune(used, SPACE, folder=tmp_path / "study", trials=1)
    assert trials[0].state == "finished"
    assert load_config(tmp_path / "study" / "best.yaml").data.table.test_files == ("gone.csv",)
    with pytest.raises(DataError, match=r"gone\.csv"):
        experiment.train(used)


def test_missing_data_ends_the_search_and_the_trial_goes_on_later(tmp_path):
    used = config(tmp_path)
    (tmp_path / "rows.csv").rename(tmp_path / "elsewhere.csv")
    for _ in range(3):
        with pytest.raises(DataError, match=r"rows\.csv"):
            tune(used, SPACE, folder=tmp_path / "study", trials=1)
    (tmp_path / "elsewhere.csv").rename(tmp_path / "rows.csv")
    assert [t.state for t in tune(used, SPACE, folder=tmp_path / "study", trials=1)] == ["finished"]


def test_another_search_in_the_same_folder_is_refused_with_what_differs(tmp_path):
    search(tmp_path, trials=1)
    with pytest.raises(
        ConfigError, match=r"another search \(space.dnn.dropout.high changed: .*0.5"
    ):
        search(tmp_path, trials=1, space=SPACE | {"dnn.dropout": Range(0.0, 0.4)})
    with pytest.raises(ConfigError, match="seed was 0, is 1"):
        search(tmp_path, trials=1, seed=1)


def test_after_the_timeout_no_trial_begins(tmp_path):
    search(tmp_path, trials=1)
    assert len(search(tmp_path, trials=5, timeout=0.0)) == 1


def test_a_trial_of_a_killed_process_is_resumed_once_and_ends_as_if_nothing_had_been(
    tmp_path, monkeypatch
):
    config(tmp_path)
    killed = process(searches.dies_in_trial, tmp_path, 1, 2.0, 3)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    resumed, train = [], experiment.train

    def spied(used, **options):
        resumed.append((Path(used.output_dir).name, options["resume"]))
        return train(used, **options)

    monkeypatch.setattr(experiment, "train", spied)
    trials = search(tmp_path, trials=3)
    assert resumed == [("0001", True), ("0002", False)]
    assert told(trials) == told(search(tmp_path, "undisturbed", trials=3))


def test_a_trial_that_kills_its_process_twice_at_one_place_has_failed(tmp_path):
    config(tmp_path)
    for _ in range(2):  # before its first checkpoint
        killed = process(searches.dies_in_trial, tmp_path, 1, 1.0, 2)
        killed.join()
        assert killed.exitcode == -signal.SIGKILL
    trials = search(tmp_path, trials=2)
    assert [t.state for t in trials] == ["finished", "failed"]
    assert trials[1].reason == "its process was killed twice at the same place"


def test_half_a_line_at_the_journals_end_is_cut_off(tmp_path):
    search(tmp_path, trials=1)
    journal = tmp_path / "study" / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "worker')
    assert [t.state for t in search(tmp_path, trials=2)] == ["finished", "finished"]
    assert all(json.loads(line) for line in journal.read_text().splitlines())
    assert journal.read_bytes().startswith(whole)


@pytest.mark.slow
def test_twenty_kills_of_one_of_two_processes_leave_exactly_the_trials(tmp_path):
    config(tmp_path)
    generator, total = random.Random(0), 24
    workers = [process(search, tmp_path, "study", total) for _ in range(2)]
    for _ in range(20):
        time.sleep(generator.uniform(0.05, 1.5))
        victim = generator.randrange(2)
        workers[victim].kill()
        workers[victim].join()
        workers[victim] = process(search, tmp_path, "study", total)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    trials = search(tmp_path, trials=total)
    assert [t.number for t in trials] == list(range(total))
    assert {t.state for t in trials} <= {"finished", "pruned", "failed"}
    for trial in trials:
        if trial.state == "failed":
            assert trial.reason == "its process was killed twice at the same place"
        assert (trial.run / "metrics.json").exists() == (trial.state == "finished")
    folders = {path.name for path in (tmp_path / "study" / "trials").iterdir()}
    assert folders == {t.run.name for t in trials}
    assert yaml.safe_load((tmp_path / "study" / "best.yaml").read_text())
