"""Functions called in other processes of this machine.

Processes are started anew (`spawn`), because threads and the locks of libraries do not survive a
copy. They end with this one, however it ends; one that dies ends the others. Scripts that ask for
more than one must keep their work below `if __name__ == "__main__":`, as Python demands of them.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from ctypes import c_double
from typing import Any, Generic, NamedTuple, TypeVar

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


_inside: _Inside | None = None


class Processes(Generic[S]):
    """Calls functions in so many other processes; with a count of 1, in this one.

    Args:
        count: How many there are at most; they start when they are needed.
        shared: What every call gets, sent to each process once.
    """

    def __init__(self, count: int, shared: S) -> None:
        self.count, self._shared = count, shared
        self._pool: ProcessPoolExecutor | None = None
        if count > 1:
            context = multiprocessing.get_context("spawn")
            self._progress = context.RawArray(c_double, 2 * count)
            self._stop = context.Event()
            inside = _Inside(shared, self._progress, self._stop)
            self._pool = ProcessPoolExecutor(count, context, _begin, (inside,))

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
        if self._pool is None:
            return [function(self._shared, task, report) for task in tasks]
        self._progress[:] = [0.0] * len(self._progress)
        with _interrupts_later():  # no process begins with one
            futures = [
                self._pool.submit(_call, function, task, number % self.count)
                for number, task in enumerate(tasks)
            ]
        try:
            return [self._result(future, report) for future in futures]
        except BrokenProcessPool:
            raise DeepFMError(
                "a process that worked for this one has died, killed from outside or because the "
                "memory is full; fewer of them need less"
            ) from None
        finally:
            for future in futures:
                future.cancel()

    def _result(self, future: Future[R], report: Report) -> R:
        while not wait([future], _POLL_S).done:
            report(sum(self._progress[::2]), int(sum(self._progress[1::2])))
        return future.result()

    def __enter__(self) -> "Processes[S]":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:
            if kind is not None:
                self._stop.set()
            self._pool.shutdown(cancel_futures=True)


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


def _begin(inside: _Inside) -> None:
    """Called in each process before any work."""
    global _inside
    _inside = inside
    leave_pandas_out()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(function: Callable[[Any, T, Report], R], task: T, place: int) -> R:
    assert _inside is not None
    shared, progress, stop = _inside

    def report(done: float, rows: int) -> None:
        if stop.is_set():
            raise Stopped
        progress[2 * place], progress[2 * place + 1] = done, rows

    return function(shared, task, report)
