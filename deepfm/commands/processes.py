"""Several processes of one command on this machine, as `torchrun` starts them.

Each gets the same arguments and the variables by which `deepfm.utils.workers` finds the others.
What ends one ends all.
"""

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from deepfm.errors import ConfigError
from deepfm.utils.environment_of_processes import started_processes
from deepfm.utils.interrupt import catch_signals
from deepfm.utils.threads import cores

_MOST = 1024
_GRACE = 10.0  # seconds in which the others end by themselves, once one has failed
_TICK = 0.1


def run_processes(count: int, arguments: Sequence[str]) -> int:
    """Run `deepfm` with these arguments in so many processes, and give their exit code.

    That is 0 if all end well, else the one of the first that did not. A signal is passed on, and
    waited for, since they save what they have.
    """
    command = [sys.executable, "-m", "deepfm", *arguments]
    processes = [
        subprocess.Popen(
            command,
            env=variables,
            start_new_session=True,  # a Ctrl-C reaches them through this process, once
        )
        for variables in environments(count)
    ]
    try:
        with catch_signals() as received:
            return _ended(processes, received)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def environments(count: int) -> list[dict[str, str]]:
    """The variables of each of so many processes of this machine, which find each other by them.

    They share the cores, unless `OMP_NUM_THREADS` is set.
    """
    common = {
        "OMP_NUM_THREADS": str(max(1, cores() // count)),
        # torch would say in lines of its own that a store is gone, of which ours tell.
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def check_count(count: int) -> None:
    """Refuse a number of processes that is none.

    Raises:
        ConfigError: It is none.
    """
    if not 1 <= count <= _MOST:
        raise ConfigError(f"--processes: expected 1 to {_MOST}, found {count}")


def in_processes(run: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], int]:
    """A command that `--processes N` has so many processes run."""

    def started(arguments: argparse.Namespace) -> int:
        count = arguments.processes
        if count is not None and not is_one_of_several(count):
            return run_processes(count, arguments.arguments)
        run(arguments)
        return 0

    return started


def is_one_of_several(count: int) -> bool:
    """Whether this is one of so many processes, which somebody has started.

    Raises:
        ConfigError: There is another number of them, or `count` is none.
    """
    check_count(count)
    started = started_processes()
    if started not in (1, count):
        raise ConfigError(f"--processes {count}, and WORLD_SIZE says that there are {started}")
    return started == count


def _ended(processes: Sequence["subprocess.Popen[bytes]"], received: Callable[[], int]) -> int:
    """Wait for all of them; gives the exit code."""
    told, failing, given_up = 0, 0.0, set()
    while any(process.poll() is None for process in processes):
        if received() and not told:
            told = received()
            for process in processes:
                process.send_signal(told)
        if not failing and any(process.poll() for process in processes):
            failing = time.monotonic()
        if failing and not told and time.monotonic() - failing > _GRACE:
            left = [process for process in processes if process.poll() is None]
            given_up |= {process.pid for process in left}
            for process in left:
                process.kill()
        time.sleep(_TICK)
    # One that a signal has ended, of a negative number, is why others have failed.
    codes = [process.returncode for process in processes if process.pid not in given_up]
    code = min(codes) or max(codes)
    return 128 - code if code < 0 else code


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
