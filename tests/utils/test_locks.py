"""Locks: one holder at a time, nothing left behind that locks, the holder's process is named."""

import os
import subprocess
import sys

import pytest

from deepfm.utils.locks import HeldElsewhere, SoleLock, exclusive_lock

HOLD = """
import sys, time
from pathlib import Path
from deepfm.utils.locks import SoleLock
lock = SoleLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_holder_is_refused_with_the_process_of_the_first(tmp_path):
    path = tmp_path / ".lock"
    first = SoleLock(path)
    with pytest.raises(HeldElsewhere) as caught:
        SoleLock(path)
    assert caught.value.process == os.getpid()
    first.release()
    assert not path.exists()
    SoleLock(path).release()


def test_what_a_killed_process_leaves_locks_nothing(tmp_path):
    path = tmp_path / ".lock"
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(HeldElsewhere) as caught:
        SoleLock(path)
    assert caught.value.process == child.pid
    child.kill()
    child.communicate()
    assert path.exists()
    SoleLock(path).release()


def test_a_lock_that_its_holder_has_removed_is_not_taken_for_the_new_one(tmp_path, monkeypatch):
    """Opened before the release and locked after it, a file without a name locks nobody out."""
    path = tmp_path / ".lock"
    holder = SoleLock(path)
    real, calls = os.fstat, []

    def fstat(descriptor):
        calls.append(descriptor)
        return real(descriptor)

    opened = path.open("a+b")  # by the second process
    holder.release()
    third = SoleLock(path)  # a new file under the name
    monkeypatch.setattr(os, "fstat", fstat)
    monkeypatch.setattr(type(path), "open", lambda self, mode: opened)
    with pytest.raises(ValueError, match="closed file"):  # it was refused, closed and asked again
        SoleLock(path)
    assert calls
    monkeypatch.undo()
    with pytest.raises(HeldElsewhere):
        SoleLock(path)
    third.release()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    import fcntl

    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    SoleLock(tmp_path / ".lock").release()
    with exclusive_lock(tmp_path / "other"):
        pass
    assert caplog.text.count("the file system has no locks (Operation not supported)") == 2
