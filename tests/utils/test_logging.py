"""The log file of a run, on a disk that fails."""

import io
import logging

import pytest

from deepfm.errors import DeepFMError
from deepfm.utils.logging import LOGGER, RunLog


class FullDisk(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")

    flush = close = lambda self: self.write("")


def test_a_log_that_cannot_be_opened_is_one_error(tmp_path):
    with RunLog() as log, pytest.raises(DeepFMError, match=r"cannot write .*: Is a directory"):
        log.write_to(tmp_path)


def test_a_disk_that_fills_costs_the_log_alone_and_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.FileHandler, "_open", lambda handler: FullDisk())
    with RunLog() as log:
        LOGGER.warning("one")
        log.write_to(tmp_path / "train.log")
        LOGGER.warning("two")
    (line,) = (text for text in caplog.messages if text not in ("one", "two"))
    assert line.endswith("train.log: No space left on device; its last lines are lost")
