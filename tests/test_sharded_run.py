"""Runs whose processes share tables out: checkpoints, kills, and who reads them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from deepfm.checkpoint import load_checkpoint
from deepfm.cli import main
from tests.test_processes import write_config
from tests.torchrec import needs_torchrec
from tests.training.processes import environments

pytestmark = [needs_torchrec, pytest.mark.slow]

EPOCHS = 12
CHANGES = {
    "feature__embedding_l2_reg": 0.0,
    "feature__embedding_dim": 6,
    "training__epochs": EPOCHS,
    "training__checkpoint_every_steps": 9,
    "training__gradient_clip_scope": "dense",
    "training__early_stopping_patience": None,
    "training__keep": "last",
}


def started(count, module, *arguments):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return [
        subprocess.Popen(
            command, env=one, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for one in environments(count)
    ]


def ended(processes):
    said = [process.communicate(timeout=300) for process in processes]
    return [process.returncode for process in processes], said


def steps_of(last):
    return load_checkpoint(last).training["total_steps"] if last.exists() else 0


def kill_one(processes, last):
    """Kill the last of the processes once there is another checkpoint than before."""
    before = last.stat().st_mtime_ns if last.exists() else 0
    for _ in range(2000):
        if last.exists() and last.stat().st_mtime_ns > before:
            break
        assert all(process.poll() is None for process in processes), ended(processes)
        time.sleep(0.05)
    os.kill(processes[-1].pid, signal.SIGKILL)
    codes, said = ended(processes)
    assert codes[-1] == -signal.SIGKILL
    assert 0 not in codes, said


def losses_of(run):
    lines = (run / "history.jsonl").read_text().splitlines()
    return [json.loads(line)["train_loss"] for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """One process with packed tables."""
    folder = tmp_path_factory.mktemp("alone")
    assert main(["train", "--config", str(write_config(folder, **CHANGES))]) == 0
    return folder / "run"


@pytest.fixture(scope="module", params=["deepfm", "tests.saved_in_slices"])
def interrupted(request, tmp_path_factory):
    """2 processes, 1 and 4, the first two of which are killed."""
    folder = tmp_path_factory.mktemp("sharded")
    config = write_config(folder, **CHANGES, feature__storage="torchrec")
    last, steps = folder / "run" / "last.pt", [0]
    train = ("train", "--config", config)
    kill_one(started(2, request.param, *train), last)
    steps.append(steps_of(last))
    kill_one(started(1, request.param, *train, "--resume"), last)
    steps.append(steps_of(last))
    codes, said = ended(started(4, request.param, *train, "--resume"))
    assert codes == [0, 0, 0, 0], said
    steps.append(steps_of(last))
    assert steps == sorted(set(steps)), steps  # each of them has learned something
    assert "resumed in epoch" in said[0][0]
    return request.param, folder / "run"


def test_any_number_of_processes_goes_on_to_the_loss_of_one(uninterrupted, interrupted):
    _, run = interrupted
    losses, expected = losses_of(run), losses_of(uninterrupted)
    assert len(losses) == EPOCHS
    assert losses == pytest.approx(expected, abs=1e-6)
    one, other = (load_checkpoint(r / "best_model.pt").build_model() for r in (uninterrupted, run))
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], weight, rtol=0, atol=1e-5, msg=name)


def test_slices_are_there_where_one_file_is_not(interrupted):
    module, run = interrupted
    folders = sorted(path.name.partition("-")[0] for path in run.glob("*.slices-*"))
    if module == "deepfm":
        assert not folders
        return
    assert folders == ["best_model.slices", "last.slices"]
    (folder,) = run.glob("best_model.slices-*")
    manifest = json.loads((folder / "manifest.json").read_text())
    names = {item["at"][0][1] for item in manifest["slices"]}
    tables = {"user", "item", "user_wide", "item_wide"}
    assert names == {f"embedding.tables.{table}.weight" for table in tables}
    for item in manifest["slices"]:
        saved = torch.load(folder / item["file"], weights_only=True, mmap=True)
        assert list(saved) == [item["name"]]


def test_commands_read_it(interrupted, uninterrupted, tmp_path, capsys):
    _, run = interrupted
    shown = []
    for path in (uninterrupted, run):
        assert main(["evaluate", "--checkpoint", str(path / "best_model.pt")]) == 0
        shown.append(capsys.readouterr().out.split())
    assert len(shown[0]) == len(shown[1]) > 5
    rows, written = run.parent / "rows.csv", []
    for number, path in enumerate((uninterrupted, run)):
        target = tmp_path / f"{number}.csv"
        given = ("--checkpoint", path / "best_model.pt", "--input", rows, "--output", target)
        assert main(["predict", *map(str, given)]) == 0
        written.append(
            [float(line.rpartition(",")[2]) for line in target.read_text().splitlines()[1:]]
        )
    assert written[1] == pytest.approx(written[0], abs=1e-5)


def test_packed_tables_go_on_with_it(interrupted, uninterrupted, tmp_path):
    """A run is no matter of how its tables were stored."""
    run, other = (
        shutil.copytree(path, tmp_path / name)  # which other tests read, too
        for path, name in ((interrupted[1], "shared"), (uninterrupted, "alone"))
    )
    changed = ("feature.storage=packed", f"training.epochs={EPOCHS + 1}")
    overrides = [part for change in changed for part in ("--override", change)]
    for path, source, own in (
        (run, interrupted[1], overrides),
        (other, uninterrupted, overrides[2:]),
    ):
        resumed = ["train", "--config", str(source.parent / "config.yaml"), "--resume", *own]
        assert main([*resumed, "--override", f"output_dir={path}"]) == 0
        assert len(losses_of(path)) == EPOCHS + 1
    assert losses_of(run)[-1] == pytest.approx(losses_of(other)[-1], abs=1e-6)
