"""Commands run by several processes: what they write, how they stop, and how they fail."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
import yaml

import deepfm
from deepfm.checkpoint import load_checkpoint
from deepfm.cli import main
from tests.training.processes import environments

ROWS = 1500
# Of a run that is stopped at any time, and compared with one that is not.
LASTING = {"training__early_stopping_patience": None, "training__keep": "last"}


def write_config(folder: Path, **changes: object) -> Path:
    """A config of a ranking task that trains in seconds; dotted keys with `__` for the dot."""
    rng = np.random.default_rng(5)
    user, item = rng.integers(0, 60, ROWS), rng.integers(0, 80, ROWS)
    table = pa.table(
        {
            "user": user,
            "item": item,
            "price": (item % 7).astype(float),
            "at": np.arange(ROWS),
            "like": ((user + item) % 3 == 0).astype(int),
        }
    )
    folder.mkdir(exist_ok=True)
    pyarrow.csv.write_csv(table, folder / "rows.csv")
    config: dict = {
        "output_dir": str(folder / "run"),
        "device": "cpu",
        "data": {
            "dataset_name": "tabular",
            "data_dir": str(folder),
            "split_strategy": "leave_one_out",
            "num_neg_eval": 20,
            "table": {
                "files": "rows.csv",
                "label": "like",
                "user_field": "user",
                "item_field": "item",
                "time_column": "at",
                "fields": {
                    "user": {"type": "sparse"},
                    "item": {"type": "sparse"},
                    "price": {"type": "dense", "group": "item"},
                },
            },
        },
        "feature": {"embedding_dim": 4, "fm_embedding_dim": 4},
        "dnn": {"hidden_units": [8], "norm": "none", "dropout": 0.0},
        "training": {
            "epochs": 3, "batch_size": 100, "lr": 0.01, "precision": "fp32", "threads": 1,
            "sparse_optimizer": {"name": "adagrad", "initial_accumulator_value": 0.1},
            "optimizer": "sgd",
        },
        "evaluation": {"batch_size": 16},
    }  # fmt: skip
    for key, value in changes.items():
        *sections, last = key.split("__")
        below = config
        for section in sections:
            below = below.setdefault(section, {})
        below[last] = value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def command(*arguments, **options):
    """The command, started as a user does."""
    return subprocess.Popen(
        [sys.executable, "-m", "deepfm", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **options,
    )


def done(*arguments):
    """Its exit code, and what it says."""
    process = command(*arguments)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def wait_for(path: Path) -> None:
    """Wait until a file is there."""
    for _ in range(1200):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} is not there")


def assert_as_alone(last: Path, folder: Path, epochs: int, tolerance: float) -> None:
    """The weights of a run are those of one process that nobody stops."""
    config = write_config(folder, training__epochs=epochs, **LASTING)
    assert main(["train", "--config", str(config)]) == 0
    one = load_checkpoint(folder / "run" / "last.pt").model
    for name, weight in load_checkpoint(last).model.items():
        torch.testing.assert_close(weight, one[name], rtol=tolerance, atol=tolerance)


def files_of(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in ("metrics.json", "ranks.parquet")}


def ranks_of(parent: int) -> dict[int, int]:
    """Process ids of the children of a command, by their numbers."""
    found = {}
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        for variable in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            if variable.startswith(b"RANK="):
                found[int(variable[5:])] = int(child)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert main(["train", "--config", str(write_config(folder))]) == 0
    return folder


def test_a_run_of_two_processes_is_that_of_one(finished, tmp_path):
    code, out, err = done("train", "--config", write_config(tmp_path), "--processes", 2)
    assert code == 0, err
    assert out.count("in each of 2 processes") == 1
    one, two = (load_checkpoint(f / "run" / "best_model.pt").model for f in (finished, tmp_path))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-5, atol=1e-5)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == sorted(
        p.name for p in (finished / "run").iterdir()
    )
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    expected = (finished / "run" / "history.jsonl").read_text().splitlines()
    for line, of_one in zip(lines, expected, strict=True):
        assert json.loads(line)["train_loss"] == pytest.approx(
            json.loads(of_one)["train_loss"], abs=1e-6
        )


@pytest.mark.parametrize("count", [2, 4])
def test_a_checkpoint_is_evaluated_alike_by_any_number(finished, count):
    config, run = finished / "config.yaml", finished / "run"
    before = files_of(run)
    for name in before:
        (run / name).unlink()
    code, _, err = done("train", "--config", config, "--resume", "--processes", count)
    assert code == 0, err
    assert files_of(run) == before


def test_the_command_evaluate_says_the_same(finished):
    given = ("evaluate", "--checkpoint", finished / "run" / "best_model.pt")
    assert done(*given, "--processes", 2) == done(*given)


def test_a_lost_process_ends_the_run_which_another_number_continues(finished, tmp_path):
    config = write_config(
        tmp_path, training__epochs=100, training__checkpoint_every_steps=5, **LASTING,
    )  # fmt: skip
    process = command("train", "--config", config, "--processes", 2)
    last = tmp_path / "run" / "last.pt"
    wait_for(last)
    os.kill(ranks_of(process.pid)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert "another of the 2 processes is gone" in line
    assert "train --resume" in line
    steps = load_checkpoint(last).training["total_steps"]
    short = ("--override", "training.epochs=10")
    assert steps < 10 * 24
    code, out, err = done("train", "--config", config, "--resume", *short)
    assert code == 0, err
    assert "resumed in epoch" in out
    assert_as_alone(last, tmp_path / "alone", 10, 1e-4)


def test_a_signal_stops_all_of_them_with_a_checkpoint(tmp_path):
    config = write_config(tmp_path, training__epochs=4000, training__early_stopping_patience=None)
    process = command("train", "--config", config, "--processes", 2)
    best = tmp_path / "run" / "best_model.pt"
    wait_for(best)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert err.count("stopped and saved") == 1
    assert load_checkpoint(tmp_path / "run" / "last.pt").training["total_steps"] > 0


def test_a_mistake_is_said_once(tmp_path):
    config = write_config(tmp_path)
    code, _, err = done(
        "train", "--config", config, "--processes", 2, "--override", "training.epoch=3"
    )
    assert code == 2
    (line,) = err.splitlines()
    assert "did you mean 'epochs'?" in line


@pytest.mark.parametrize("count", ["0", "5000"])
def test_a_count_that_is_none(tmp_path, count, capsys):
    config = write_config(tmp_path)
    assert main(["train", "--config", str(config), "--processes", count]) == 2
    assert "--processes: expected 1 to 1024" in capsys.readouterr().err


def test_processes_that_were_started_otherwise(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert main(["train", "--config", str(write_config(tmp_path)), "--processes", "2"]) == 2
    assert "WORLD_SIZE says that there are 3" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["two", "0", "-1", ""])
def test_a_number_of_processes_that_is_none(tmp_path, monkeypatch, capsys, given):
    monkeypatch.setenv("WORLD_SIZE", given)
    assert main(["train", "--config", str(write_config(tmp_path))]) == 2
    said = capsys.readouterr().err
    assert "WORLD_SIZE" in said
    assert f"expected a whole number from 1 on, found {given!r}" in said


def test_a_variable_of_several_processes_alone_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "--config", str(write_config(tmp_path))]) == 2
    said = capsys.readouterr().err
    assert "RANK, MASTER_ADDR, MASTER_PORT is not there" in said
    assert "torchrun" in said


def test_large_tables_need_an_optimizer_of_touched_rows(tmp_path):
    config = write_config(
        tmp_path, feature__embedding_dim=None, training__sparse_optimizer=None,
        data__table__fields__item={"type": "sparse", "num_buckets": 300_000, "embedding_dim": 16},
    )  # fmt: skip
    code, _, err = done("train", "--config", config, "--processes", 2)
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert "training.sparse_optimizer" in line
    assert "lazy_adam" in line


def test_hosts_without_a_directory_in_common_are_refused(tmp_path):
    """Two hosts, as the variables have it, that work in different folders."""
    config = write_config(tmp_path, output_dir="run")
    processes = []
    for rank, variables in enumerate(environments(2)):
        folder = tmp_path / f"host{rank}"
        folder.mkdir()
        variables |= {
            "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
            "PYTHONPATH": str(Path(deepfm.__file__).parents[1]),
        }  # fmt: skip
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "deepfm", "train", "--config", str(config)],
                env=variables, cwd=folder, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    said = "".join(process.communicate(timeout=120)[1] for process in processes)
    assert [process.returncode for process in processes] == [2, 2]
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert "is not one directory for all hosts" in line


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
def test_torchrun_starts_a_run_anew_which_goes_on(tmp_path):
    """A process that is killed costs what came after the last checkpoint, and nobody does
    anything about it."""
    config = write_config(
        tmp_path, training__epochs=15, training__checkpoint_every_steps=5, **LASTING,
    )  # fmt: skip
    restarting = [*TORCHRUN, "--max-restarts", "1", "-m", "deepfm", "train", "--config", config]
    process = subprocess.Popen(
        list(map(str, restarting)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    last = tmp_path / "run" / "last.pt"
    wait_for(last)
    os.kill(ranks_of(process.pid)[1], signal.SIGKILL)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    assert "resumed in epoch" in out
    assert_as_alone(last, tmp_path / "alone", 15, 1e-3)


def test_batch_norm_has_the_statistics_of_each_process_and_needs_two_rows_of_it(tmp_path):
    config = write_config(tmp_path, dnn={"hidden_units": [8], "norm": "batch"})
    code, _, err = done("train", "--config", config, "--processes", 2)
    assert code == 0, err  # all of them have the mean of what each saw, or the weights would differ
    code, _, err = done(
        "train", "--config", config, "--processes", 4, "--overwrite", "--override",
        "training.batch_size=6",
    )  # fmt: skip
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert "batch norm cannot train on batches of one row" in line
