"""The line of a terminal, on a pseudo-terminal: it names the work, moves, and stays out of logs."""

import io
import logging
import os
import pty
import re
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import yaml

from deepfm.utils import progress
from deepfm.utils.progress import ProgressBar, working, write_above
from tests import clicks

FRAME = re.compile(r"\r\x1b\[K")


@contextmanager
def terminal(monkeypatch):
    """Standard error as a pseudo-terminal; yields what reads its next frames."""
    controller, end = pty.openpty()
    with open(end, "w") as written, open(controller, "rb", buffering=0) as read:
        monkeypatch.setattr(sys, "stderr", written)
        text = io.StringIO()

        def frames(until):
            """All that was drawn, as soon as that holds for it; a test that waits in vain hangs."""
            while not until(found := [f for f in FRAME.split(text.getvalue()) if f]):
                text.write(os.read(read.fileno(), 4096).decode())
            return found

        yield frames


def test_work_of_any_length_moves_while_nobody_says_anything(monkeypatch):
    with terminal(monkeypatch) as frames:
        with working("reading the data"):
            found = frames(lambda found: len(set(found)) >= 4)
        assert all("reading the data" in frame for frame in found)


def test_a_long_step_moves_and_says_what_was_said_last(monkeypatch):
    with terminal(monkeypatch) as frames, ProgressBar("training", total=4) as bar:
        bar.show(1, "train loss 0.5")
        found = frames(lambda found: len({f for f in found if "0.5" in f}) >= 3)
        assert any("[#####...............] 1/4" in frame for frame in found)


def test_many_short_steps_are_drawn_ten_times_a_second_at_most(monkeypatch):
    monkeypatch.setattr(progress, "_TICK", 1000)
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with terminal(monkeypatch) as frames, ProgressBar("training", total=10000) as bar:
        drawn = 0
        for step in range(10000):  # of a millisecond each
            now += 0.001
            if bar.due():
                bar.show(step, f"step {step}")
                drawn += 1
        assert 90 <= drawn <= 100
        frames(lambda found: len(found) == 1 + drawn)


def test_without_a_terminal_long_work_says_how_far_it_is(monkeypatch, caplog):
    """Once a minute, and later whenever a tenth of its time has passed in silence."""
    caplog.set_level(logging.INFO, "deepfm")
    now, said = 0.0, []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with ProgressBar("epoch 1/2", total=40_000) as bar:
        for step in range(1, 40_001):  # of a tenth of a second each
            now += 0.1
            if bar.due() or step == 40_000:
                bar.show(step, f"train loss {step}")
            if len(caplog.records) > len(said):
                said.append(now)
    assert said[:9] == pytest.approx([60.0 * k for k in range(1, 10)], abs=1.0)
    pauses = np.diff(said[10:])
    assert pauses == pytest.approx(np.array(said[11:]) * 0.1, rel=0.01)
    assert 26 <= len(said) <= 28
    assert caplog.messages[9].startswith("epoch 1/2  15% after 10:00  train loss 600")


def test_short_work_and_work_of_unknown_length_are_silent_without_a_terminal(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "deepfm")
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with ProgressBar("short", total=10) as bar, working("reading"):
        for step in range(10):
            now += 5.9
            bar.show(step, "")
        now += 600.0
    assert caplog.messages == []


def test_the_innermost_is_shown_and_lines_stand_above(monkeypatch):
    monkeypatch.setattr(progress, "_TICK", 1000)
    with terminal(monkeypatch) as frames:
        with working("outer") as rename:
            rename("renamed")
            with ProgressBar("inner", total=2):
                rename("hidden")
                write_above("a line of the log", sys.stderr)
            rename("last")
        found = frames(lambda found: any("last 0:" in frame for frame in found))
    titles = [re.sub(r"^[|/\\-] (\w+) .*", r"\1", frame) for frame in found]
    assert titles == ["outer", "renamed", "inner", "a line of the log\r\n", "inner", "last"]


def test_nothing_is_written_and_no_thread_started_where_there_is_no_terminal(capfd):
    before = threading.active_count()
    with working("reading"), ProgressBar("training", total=3) as bar:
        assert not bar.due()
        bar.show(1, "text")
        assert threading.active_count() == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_train_names_its_phases_and_figures_on_a_terminal(tmp_path):
    clicks.write_rows(tmp_path)
    config = clicks.config(tmp_path, training__epochs=2, training__batch_size=2).to_dict()
    (tmp_path / "clicks.yaml").write_text(yaml.safe_dump(config))
    controller, end = pty.openpty()
    command = [sys.executable, "-m", "deepfm", "train", "--config", str(tmp_path / "clicks.yaml")]
    with subprocess.Popen(command, stdout=end, stderr=end, env=os.environ | {"COLUMNS": "160"}):
        os.close(end)
        text = ""
        while True:
            try:
                text += os.read(controller, 4096).decode()
            except OSError:  # the other side is closed
                break
    os.close(controller)
    found = FRAME.split(text)
    assert found[0] == ""  # the first thing of all is the line
    assert "loading torch" in found[1]
    for phase in ("checking the settings", "reading the data", "evaluating on valid, epoch 1/2"):
        assert any(phase in frame for frame in found), phase
    training = [frame for frame in found if "training, epoch" in frame and "train loss" in frame]
    pattern = r"train loss \d+\.\d{4}, [\d,]+ rows/s, \d+:\d\d left"
    assert all(re.search(pattern, frame) for frame in training)
    second = [frame for frame in training if "epoch 2/2" in frame]
    assert all("best valid auc 0." in frame for frame in second)
