"""A run goes on only as what it was: with its data, its weights, its history, and alone."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from deepfm import experiment, held_out
from deepfm.checkpoint import RunDirectory, load_checkpoint
from deepfm.cli import main
from deepfm.config import load_config
from deepfm.errors import ConfigError, DataError
from deepfm.utils.logging import LOGGER, RunLog
from tests.data.store import test_store
from tests.data.store.test_store import rows, write_table

WORDS = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n"


@pytest.fixture
def table(tmp_path):
    """A declared table with a side table and a vocabulary file; gives a config of some epochs."""
    folder = tmp_path / "data"
    folder.mkdir()
    whole = rows(600)
    write_table(folder / "rows.csv", whole.drop_columns(["price"]))
    (folder / "people.csv").write_text("id,price\n" + "".join(f"{k},{k}\n" for k in range(300)))
    (folder / "words.txt").write_text(WORDS)
    fields = {
        "user": {"type": "sparse", "column": "id", "group": "user"},
        "price": {"type": "dense", "group": "user", "missing": "zero"},
        "tags": {"type": "sequence", "separator": "|", "vocabulary_file": "words.txt",
                 "bad_values": "unknown", "max_length": 4},
    }  # fmt: skip

    def config(epochs: int = 1, **changes: object):
        return test_store.config(
            folder,
            output_dir=str(tmp_path / "run"),
            data__store_dir=str(tmp_path / "stores"),
            data__table__files="rows.csv",
            data__table__users={"files": "people.csv"},
            data__table__user_field="user",
            data__table__fields=fields,
            training__epochs=epochs,
            **changes,
        )

    return config


def flip_label(path) -> None:
    """Another label in the middle; size and mtime stay."""
    status, content = path.stat(), bytearray(path.read_bytes())
    place = content.index(b'\n"', len(content) // 2) + 2
    content[place] ^= 1  # 0 to 1, 1 to 0
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_flipped_labels_are_refused_with_the_file_that_has_them(table, tmp_path, capsys):
    experiment.train(table())
    flip_label(tmp_path / "data" / "rows.csv")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(table(2).to_dict()))
    capsys.readouterr()  # warnings of that training, where an earlier test shows log lines
    assert main(["train", "--config", str(tmp_path / "run.yaml"), "--resume"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"error: {tmp_path}/data/rows.csv: its content is not what the run began with; --resume "
        "needs the same data, --overwrite starts anew"
    )


@pytest.mark.parametrize("name", ["people.csv", "words.txt"])
def test_side_tables_and_vocabularies_are_data_too(table, tmp_path, name):
    experiment.train(table())
    path = tmp_path / "data" / name
    path.write_text(path.read_text().replace("7", "8").replace("j\n", "k\n"))
    with pytest.raises(DataError, match=f"{name}: its content is not what the run began with"):
        experiment.train(table(2), resume=True)


def test_equal_content_goes_on_whatever_its_time_and_place(table, tmp_path):
    expected = experiment.train(table(2))
    shutil.rmtree(tmp_path / "run")
    experiment.train(table())
    for path in (tmp_path / "data").iterdir():
        path.touch()
    moved = tmp_path / "elsewhere"
    (tmp_path / "data").rename(moved)
    (moved / "rows.csv").rename(moved / "other.csv")
    config = table(2)
    renamed = dataclasses.replace(config.data.table, files=("other.csv",))
    data = dataclasses.replace(
        config.data, data_dir=str(moved), store_dir=str(tmp_path / "more"), table=renamed
    )
    config = dataclasses.replace(config, data=data)
    assert experiment.train(config, resume=True) == expected


@pytest.mark.parametrize("name", ["ratings.csv", "users.csv", "items.csv"])
def test_files_of_a_ranking_task_are_compared(tmp_path, name):
    folder = tmp_path / "data"
    folder.mkdir()
    ratings = [f"{u},{i},{1 + (u * i) % 5},{u + i}" for u in range(12) for i in range(9)]
    (folder / "ratings.csv").write_text("user,item,stars,time\n" + "\n".join(ratings) + "\n")
    (folder / "users.csv").write_text("user,age\n" + "".join(f"{u},{u}\n" for u in range(12)))
    (folder / "items.csv").write_text("item,kind\n" + "".join(f"{u},{u % 3}\n" for u in range(9)))
    raw = {
        "device": "cpu",
        "output_dir": str(tmp_path / "run"),
        "data": {
            "dataset_name": "tabular",
            "data_dir": str(folder),
            "num_neg_eval": 5,
            "table": {
                "files": "ratings.csv",
                "users": {"files": "users.csv"},
                "items": {"files": "items.csv"},
                "label": "liked",
                "labels": {"liked": {"column": "stars", "threshold": 3}},
                "user_field": "user",
                "item_field": "item",
                "time_column": "time",
                "fields": {
                    "user": {"type": "sparse", "group": "user"},
                    "age": {"type": "dense", "group": "user"},
                    "item": {"type": "sparse", "group": "item"},
                    "kind": {"type": "sparse", "group": "item"},
                },
            },
        },
        "dnn": {"hidden_units": [4]},
        "training": {"epochs": 1, "batch_size": 64},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
    experiment.train(load_config(tmp_path / "run.yaml"))
    longer = load_config(tmp_path / "run.yaml", ["training.epochs=2"])
    path = folder / name
    before = path.read_text()
    path.write_text(before[:-2] + ("2" if before[-2] != "2" else "1") + "\n")
    with pytest.raises(DataError, match=f"{name}: its content is not what the run began with"):
        experiment.train(longer, resume=True)
    path.write_text(before)
    experiment.train(longer, resume=True)


def test_tables_of_an_adapter_are_compared_by_value(tiny_config, monkeypatch):
    from tests import tiny

    experiment.train(load_config(tiny_config(training__epochs=1)))
    real = tiny.load

    def load(data_dir, auto_download):
        tables = real(data_dir, auto_download)
        stars = tables.interactions["stars"].to_numpy().copy()
        stars[17] = 7 - stars[17]
        index = tables.interactions.column_names.index("stars")
        return tables._replace(interactions=tables.interactions.set_column(index, "stars", [stars]))

    monkeypatch.setattr(tiny, "load", load)
    with pytest.raises(DataError, match="tiny: interactions: its content is not what"):
        experiment.train(load_config(tiny_config(training__epochs=2)), resume=True)


def test_a_checkpoint_that_does_not_know_its_data_goes_on_with_one_warning(tiny_config, caplog):
    config = load_config(tiny_config(training__epochs=1))
    experiment.train(config)
    run = RunDirectory(config.output_dir)
    content = torch.load(run.last, weights_only=True)
    del content["fingerprint"]
    torch.save(content, run.last)
    longer = load_config(tiny_config(training__epochs=2))
    experiment.train(longer, resume=True)
    assert caplog.text.count("last.pt is of an earlier release and does not know its data") == 1
    assert load_checkpoint(run.last).fingerprint is not None


def test_a_run_without_its_last_checkpoint_is_not_begun_anew(tiny_config):
    config = load_config(tiny_config(training__epochs=1))
    experiment.train(config)
    run = RunDirectory(config.output_dir)
    run.last.unlink()
    before = run.best.read_bytes()
    message = r"--resume needs last\.pt, which is missing beside history\.jsonl, metrics\.json, "
    with pytest.raises(ConfigError, match=message):
        experiment.train(config, resume=True)
    assert run.best.read_bytes() == before
    for file in (run.history, run.metrics, run.predictions, run.ranks, run.environment):
        file.unlink()
    with pytest.raises(ConfigError, match=r"missing beside best_model\.pt; --overwrite starts"):
        experiment.train(config, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_what_a_failed_start_leaves_blocks_nothing(tiny_config, tmp_path, resume):
    config = load_config(tiny_config(training__epochs=1))
    run = RunDirectory(config.output_dir)
    run.make()
    run.config.write_text("model_name: deepfm\n")
    run.log.write_text("an earlier start\n")
    (run.path / ".lock").write_text("1")
    assert experiment.train(config, resume=resume)
    assert run.metrics.exists()


def test_a_start_that_fails_leaves_no_empty_directory(tiny_config, tmp_path):
    config = load_config(tiny_config(data__data_dir="nowhere"))
    with pytest.raises(DataError, match="nowhere is not there"):
        experiment.train(config)
    assert not RunDirectory(config.output_dir).path.exists()


@pytest.mark.parametrize("missing", ["history", "best"])
def test_what_was_lost_after_the_last_checkpoint_is_written_again(tiny_config, missing):
    config = load_config(tiny_config(training__epochs=2))
    experiment.train(config)
    run = RunDirectory(config.output_dir)
    path = getattr(run, missing)
    before = path.read_bytes()
    if missing == "history":  # killed before its last line
        path.write_bytes(before[: before.index(b"\n") + 1])
    else:
        path.unlink()
    experiment.train(config, resume=True)
    if missing == "history":
        assert path.read_bytes() == before
    else:
        assert load_checkpoint(path).model.keys() == load_checkpoint(run.last).model.keys()


def test_a_checkpoint_is_saved_before_what_is_made_of_it(tiny_config, monkeypatch):
    """Killed in between, a run is one that --resume goes on with."""
    config, saved = load_config(tiny_config(training__epochs=1)), []
    real = experiment.Checkpoint.save

    def save(self, path):
        saved.append(path.name)
        real(self, path)

    monkeypatch.setattr(experiment.Checkpoint, "save", save)
    experiment.train(config)
    assert saved == ["last.pt", "best_model.pt"]


def test_two_trainings_into_one_directory_are_one(tiny_config, tmp_path):
    config = tiny_config(training__epochs=400)
    command = [sys.executable, "-m", "tests.tiny", "train", "--config", str(config), "--overwrite"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lock = tmp_path / "run" / ".lock"
    while not (lock.exists() and lock.read_text()):
        assert first.poll() is None
        time.sleep(0.01)
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    first.kill()
    first.communicate()
    assert run.returncode == 2
    assert run.stderr == (
        f"error: {tmp_path}/run: process {first.pid} trains into it; wait until it has ended, or "
        "write elsewhere with --override output_dir=…\n"
    )
    assert lock.exists()  # it was killed
    experiment.train(load_config(tiny_config(training__epochs=1)), overwrite=True)
    assert not lock.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device of a full disk")
def test_a_log_that_cannot_be_written_is_one_warning(caplog, capsys):
    with RunLog() as log:
        log.write_to(Path("/dev/full"))
        LOGGER.warning("one")
        LOGGER.warning("two")
    (line,) = (text for text in caplog.messages if "/dev/full" in text)
    assert line == "cannot write /dev/full: No space left on device; its last lines are lost"
    assert "Traceback" not in capsys.readouterr().err


def test_history_without_times_is_that_of_an_uninterrupted_run(tiny_config):
    whole = load_config(tiny_config(training__epochs=3))
    experiment.train(whole)
    path = RunDirectory(whole.output_dir).history

    def lines():
        entries = map(json.loads, path.read_text().splitlines())
        return [{k: v for k, v in entry.items() if k != "seconds"} for entry in entries]

    expected = lines()
    experiment.train(load_config(tiny_config(training__epochs=1)), overwrite=True)
    path.unlink()
    experiment.train(whole, resume=True)
    assert lines() == expected


def test_compare_trains_anew_what_was_trained_on_other_data(table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(table().to_dict()))
    assert main(["compare", "run.yaml"]) == 0
    before = Path("outputs/compare/table.md").read_text()
    assert main(["compare", "run.yaml"]) == 0
    assert "outputs/compare/run-42: finished earlier" in capsys.readouterr().out
    flip_label(tmp_path / "data" / "rows.csv")
    assert main(["compare", "run.yaml"]) == 0
    assert "warning: outputs/compare/run-42 is trained anew: " in capsys.readouterr().err
    assert Path("outputs/compare/table.md").read_text() != before


def test_evaluate_says_that_the_data_has_changed(table, tmp_path, caplog):
    experiment.train(table())
    held_out.evaluate_checkpoint(tmp_path / "run" / "best_model.pt")
    assert "rows.csv: its content" not in caplog.text
    flip_label(tmp_path / "data" / "rows.csv")
    held_out.evaluate_checkpoint(tmp_path / "run" / "best_model.pt")
    assert caplog.text.count("rows.csv: its content is not what the run began with") == 1


def test_a_directory_whose_name_no_disk_holds_is_one_line(table, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(table().to_dict()))
    name = f"output_dir={tmp_path}/{'x' * 200}" + 30 * f"/{'x' * 200}"
    assert main(["train", "--config", str(tmp_path / "run.yaml"), "--override", name]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "cannot be written: File name too long" in line
