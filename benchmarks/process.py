"""Runs a script in a process of its own and reads the lines of JSON that it prints."""

import json
import os
import subprocess
import sys
from typing import Any

TIME_LIMIT_S = 3600


def start(command: list[str], threads: int) -> list[dict[str, Any]]:
    """Runs a script to its end and reads the lines of JSON that it printed.

    Raises:
        subprocess.SubprocessError: It failed, or took longer than `TIME_LIMIT_S`.
        OSError: There is no such interpreter.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if command[0] != sys.executable:
        environment.pop("PYTHONPATH", None)  # a peer's own packages only
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=TIME_LIMIT_S, env=environment
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def reason(error: Exception) -> str:
    """One line about a process that failed: the last that it wrote."""
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} is not there"
    if isinstance(error, subprocess.CalledProcessError) and error.stderr.strip():
        return error.stderr.strip().splitlines()[-1][:200]
    return str(error)[:200]
