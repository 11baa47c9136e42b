"""Child processes that run a command of the package, and the calls that fail or kill in them."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("calls.c")
KINDS = ("open", "write", "pwrite", "fsync", "rename", "unlink", "mkdir", "link")
ANY = len(KINDS)


def preloaded(folder: Path, arguments: list[str]) -> None:
    """Run this program again with `calls.c` preloaded, unless it is."""
    if "ATTACK_CALLS" in os.environ:
        return
    library = folder / "calls.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    environment = os.environ | {
        "ATTACK_CALLS": str(library.absolute()),
        "LD_PRELOAD": str(library.absolute()),
        "OMP_NUM_THREADS": "1",
    }
    os.execve(sys.executable, [sys.executable, "-m", "attacks", *arguments], environment)


class Armed(NamedTuple):
    """Which call fails.

    Attributes:
        kind: Index in `KINDS`, or `ANY`.
        number: From 1 on, of its kind.
        error: An errno; 0 kills.
        for_good: All later ones fail too, as on a full disk.
    """

    kind: int
    number: int
    error: int
    for_good: bool = False


class Ended(NamedTuple):
    """How a child ended.

    Attributes:
        code: Its exit code, or -n after signal n.
        errors: What it wrote to stderr.
        calls: How many calls of each kind it made, and of all; empty after a kill.
        seconds: How long it ran.
    """

    code: int
    errors: str
    calls: tuple[int, ...]
    seconds: float


class Child:
    """A forked process that runs a command in a folder.

    Args:
        folder: Where it runs, and below which calls are counted.
        command: Arguments of the command line, or a function.
        armed: The call that fails.
    """

    def __init__(
        self,
        folder: Path,
        command: list[str] | Callable[[], int],
        armed: Armed | None = None,
    ) -> None:
        self._errors = folder.parent / f"{folder.name}.stderr"
        self._calls = folder.parent / f"{folder.name}.calls"
        self._calls.unlink(missing_ok=True)
        self._start = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            self._run(folder, command, armed)

    def _run(self, folder, command, armed) -> None:
        code = 70
        try:
            os.chdir(folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(self._errors, flags), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            library = ctypes.CDLL(os.environ["ATTACK_CALLS"])
            kind, number, error, for_good = armed or Armed(-1, 0, 0)
            library.attack_arm(f"{folder}/".encode(), kind, number, error, int(for_good))
            # After a fork torch makes its pool of threads anew, and not safely if two threads are
            # the first that need it.
            import torch

            torch.set_num_threads(1)
            code = command() if callable(command) else _main(command)
            calls = [library.attack_count(kind) for kind in range(len(KINDS) + 1)]
            library.attack_arm(b"", -1, 0, 0, 0)
            sys.stderr.flush()
            self._calls.write_text(json.dumps(calls))
        except BaseException:
            traceback.print_exc()
            with contextlib.suppress(Exception):
                sys.stderr.flush()
        finally:
            os._exit(code)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> Ended:
        _, status = os.waitpid(self.pid, 0)
        seconds = time.monotonic() - self._start
        calls = json.loads(self._calls.read_text()) if self._calls.exists() else ()
        code = os.waitstatus_to_exitcode(status)
        return Ended(code, self._errors.read_text(errors="replace"), tuple(calls), seconds)

    def wait_at_most(self, seconds: float) -> Ended | None:
        """How it ended, or None if it still runs after so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return self.wait()
            time.sleep(0.002)
        return None


def _main(command: list[str]) -> int:
    from deepfm.cli import main

    try:
        return main(command)
    except SystemExit as leaving:  # of argparse
        return int(leaving.code or 0)


def run(folder: Path, command: list[str] | Callable[[], int], armed: Armed | None = None) -> Ended:
    return Child(folder, command, armed).wait()


def one_line(ended: Ended) -> str:
    """What is wrong with how a command failed; empty if it was one error line and no traceback."""
    if "Traceback" in ended.errors:
        return f"a traceback: {ended.errors[-600:]}"
    if ended.code == 0:
        return ""
    errors = [line for line in ended.errors.splitlines() if line.startswith("error: ")]
    others = [
        line for line in ended.errors.splitlines() if not line.startswith(("error: ", "warning: "))
    ]
    if ended.code not in (1, 2) or len(errors) != 1 or others:
        return f"exit code {ended.code}, stderr {ended.errors[-600:]!r}"
    return ""
