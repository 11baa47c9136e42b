"""Ctrl-C and SIGTERM as a flag that long work asks for."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def catch_signals() -> Iterator[Callable[[], int]]:
    """Within this context the first SIGINT or SIGTERM only sets a flag; a second one acts at once.

    Yields:
        A function that gives the number of the signal received, 0 before. Outside the main
        thread, where Python delivers no signals, it always gives 0.
    """
    received = 0
    if threading.current_thread() is not threading.main_thread():
        yield lambda: received
        return
    before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def note(number: int, frame: object) -> None:
        nonlocal received
        received = number
        for other, handler in before.items():
            signal.signal(other, handler)

    for caught in (signal.SIGINT, signal.SIGTERM):
        before[caught] = signal.signal(caught, note)
    try:
        yield lambda: received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interrupted(Exception):
    """Training stopped on request, after its state was saved; `reason` is the signal's number."""

    def __init__(self, reason: int) -> None:
        super().__init__(reason)
        self.reason = reason
