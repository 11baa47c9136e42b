"""Functions called in other processes of this machine.

Processes are started anew (`spawn`), because threads and the locks of libraries do not survive a
copy. They end with this one, however it ends; one that dies ends the others. Scripts that ask for
more than one must keep their work below `if __name__ == "__main__":`, as Python demands of them.

Each has a pipe of its own, and they share no lock: one that is killed gives none back, for which
the others would wait for ever. `ProcessPoolExecutor` has such locks, and waits as long for a
process that it was starting when it found another one dead.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from ctypes import c_bool, c_double
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, NamedTuple, TypeVar, cast

from deepfm.errors import DeepFMError
from deepfm.utils.startup import leave_pandas_out

_POLL_S = 0.1  # between looks at how far the others are

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")
Report = Callable[[float, int], None]  # told how much is done, and of how many rows


class Stopped(Exception):
    """Work is no longer wanted."""


class _Inside(NamedTuple):
    """What a process has been given once.

    Attributes:
        shared: What every call gets.
        progress: How much each task has done, and of how many rows, end to end.
        stop: Set when nothing more is wanted.
    """

    shared: Any
    progress: Any
    stop: Any


class _Outcome(NamedTuple):
    """What became of a task: a result or an error."""

    result: Any = None
    error: BaseException | None = None


class Processes(Generic[S]):
    """Calls functions in so many other processes; with a count of 1, in this one.

    Args:
        count: How many there are at most; they start when they are needed.
        shared: What every call gets, sent to each process once.
    """

    def __init__(self, count: int, shared: S) -> None:
        self.count, self._shared = count, shared
        self._started: dict[Connection, SpawnProcess] = {}
        if count > 1:
            self._context = multiprocessing.get_context("spawn")
            self._progress = self._context.RawArray(c_double, 2 * count)
            self._stop = self._context.RawValue(c_bool, False)

    def map(
        self,
        function: Callable[[S, T, Report], R],
        tasks: Sequence[T],
        report: Report = lambda done, rows: None,
    ) -> list[R]:
        """What a function makes of each task, in their order.

        Args:
            function: Of a module, so that another process finds it; called with what is shared, a
                task, and what it may tell how far it is.
            tasks: Sent to where the function is called; those that report are at most `count`.
            report: Told how far all of them are together, now and then.

        Raises:
            DeepFMError: A process has died.
            Exception: What the function raised first in the order of the tasks; later ones are
                stopped.
        """
        if self.count == 1:
            return [function(self._shared, task, report) for task in tasks]
        self._progress[:] = [0.0] * len(self._progress)
        self._start(min(self.count, len(tasks)))
        waiting = enumerate(tasks)
        idle, busy = list(self._started), dict[Connection, int]()
        outcomes: dict[int, _Outcome] = {}
        try:
            for number in range(len(tasks)):
                while number not in outcomes:
                    for pipe, (later, task) in zip(idle, waiting, strict=False):
                        pipe.send((function, task, later % self.count))
                        busy[pipe] = later
                    idle = cast(list[Connection], wait(busy, _POLL_S))
                    outcomes |= {busy.pop(pipe): pipe.recv() for pipe in idle}
                    report(sum(self._progress[::2]), int(sum(self._progress[1::2])))
                if (error := outcomes[number].error) is not None:
                    raise error
        except (EOFError, ConnectionError):
            self._end_all()
            raise DeepFMError(
                "a process that worked for this one has died, killed from outside or because the "
                "memory is full; fewer of them need less"
            ) from None
        return [outcomes[number].result for number in range(len(tasks))]

    def _start(self, count: int) -> None:
        inside = _Inside(self._shared, self._progress, self._stop)
        with _interrupts_later():  # no process begins with one
            for _ in range(len(self._started), count):
                here, there = self._context.Pipe()
                process = self._context.Process(target=_serve, args=(there, inside))
                process.start()
                self._started[here] = process
                there.close()  # so that the pipe ends with the process

    def _end_all(self) -> None:
        for process in self._started.values():
            process.kill()

    def __enter__(self) -> "Processes[S]":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._started:
            self._stop.value = True
        for pipe in self._started:
            pipe.close()  # one that waits for a task ends
        for process in self._started.values():
            process.join()


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Ctrl-C waits for the end of this context, and for ever in processes that start within it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, inside: _Inside) -> None:
    """What another process does: a task after the other, until the pipe ends."""
    leave_pandas_out()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            function, task, place = pipe.recv()
            pipe.send(_outcome(inside, function, task, place))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _outcome(
    inside: _Inside, function: Callable[[Any, T, Report], R], task: T, place: int
) -> _Outcome:
    shared, progress, stop = inside

    def report(done: float, rows: int) -> None:
        if stop.value:
            raise Stopped
        progress[2 * place], progress[2 * place + 1] = done, rows

    try:
        return _Outcome(function(shared, task, report))
    except Exception as error:  # which is raised where the task was given
        if not isinstance(error, DeepFMError):
            error.add_note(f"In another process:\n{traceback.format_exc()}")
        return _Outcome(error=error)
