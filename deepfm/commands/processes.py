"""Several processes of one command on this machine, as `torchrun` starts them.

Each gets the same arguments and the variables by which `deepfm.utils.workers` finds the others.
What ends one ends all.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from deepfm.errors import ConfigError
from deepfm.utils.interrupt import catch_signals

_MOST = 1024
_GRACE = 10.0  # seconds in which the others end by themselves, once one has failed
_TICK = 0.1


def run_processes(count: int, arguments: Sequence[str]) -> int:
    """Run `deepfm` with these arguments in so many processes, and give their exit code.

    That is 0 if all end well, else the one of the first that did not. A signal is passed on, and
    waited for, since they save what they have.
    """
    threads = str(max(1, (os.cpu_count() or 1) // count))
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    # torch would say in lines of its own that a store is gone, of which ours tell.
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
    given = {"OMP_NUM_THREADS": threads, **quiet, **os.environ, **address}
    of_all = given | {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    command = [sys.executable, "-m", "deepfm", *arguments]
    processes = [
        subprocess.Popen(
            command,
            env=of_all | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            start_new_session=True,  # a Ctrl-C reaches them through this process, once
        )
        for rank in range(count)
    ]
    try:
        with catch_signals() as received:
            return _ended(processes, received)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def is_one_of_several(count: int) -> bool:
    """Whether this is one of so many processes, which somebody has started.

    Raises:
        ConfigError: There is another number of them, or `count` is none.
    """
    if not 1 <= count <= _MOST:
        raise ConfigError(f"--processes: expected 1 to {_MOST}, found {count}")
    started = int(os.environ.get("WORLD_SIZE", "1"))
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


def free_port() -> int:
    """A port of this machine that nobody listens to now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
