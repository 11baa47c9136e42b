"""The command: mistakes are one line, and a page is served until a signal ends it."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from deepfm.cli import main

ROOT = Path(__file__).parents[2]


def test_a_port_that_is_taken_and_one_that_is_none_are_one_line(table, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["explore", "--checkpoint", str(table), "--port", str(port)]) == 2
    assert f"--port {port} cannot be used" in capsys.readouterr().err
    assert main(["explore", "--checkpoint", str(table), "--port", "70000"]) == 2
    assert "--port: expected 0 to 65535, found 70000" in capsys.readouterr().err


def test_a_checkpoint_that_is_missing_is_one_line(tmp_path, capsys):
    assert main(["explore", "--checkpoint", str(tmp_path / "no.pt"), "--port", "0"]) == 2
    assert "no.pt" in capsys.readouterr().err


def test_a_missing_extra_is_one_line(table, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["explore", "--checkpoint", str(table)]) == 2
    assert "deepfm explore needs uvicorn: pip install 'deepfm[serve]'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_is_served_until_a_signal(table):
    command = [sys.executable, "-u", "-m", "deepfm", "explore", "--checkpoint", str(table)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, text=True, env=environment
    ) as served:
        try:
            line = next(line for line in served.stdout if line.startswith("http"))
            with urllib.request.urlopen(line.split()[0]) as page:
                assert "<title>deepfm explore</title>" in page.read().decode()
            served.send_signal(signal.SIGTERM)
            assert served.wait() in (-signal.SIGTERM, 128 + signal.SIGTERM)
        finally:
            served.kill()
