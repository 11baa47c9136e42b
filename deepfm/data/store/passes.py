"""What is said of one time through all rows."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from deepfm.utils.logging import LOGGER
from deepfm.utils.progress import ProgressBar


class PassOverRows:
    """One time through all rows, by however many processes.

    Args:
        title: What is done meanwhile.
        size: How many bytes there are to read.
    """

    def __init__(self, title: str, size: float) -> None:
        self._title, self._size = title, size
        self._bar = ProgressBar(title, total=100)
        self._start = time.perf_counter()

    def report(self, done: float, rows: int) -> None:
        """Show how far it is, in bytes and rows."""
        if self._bar.due():
            percent = min(100, int(100 * done / max(self._size, 1)))
            self._bar.show(percent, self._speed(rows))

    @contextmanager
    def shown(self) -> Iterator["PassOverRows"]:
        """While this context lasts, there is a bar."""
        with self._bar:
            yield self

    def end(self, rows: int) -> None:
        """Say how many rows there were, and how long they took."""
        seconds = time.perf_counter() - self._start
        LOGGER.info(f"{self._title}: {self._speed(rows)}, {seconds:.1f} s")

    def _speed(self, rows: int) -> str:
        return f"{rows:,} rows, {rows / (time.perf_counter() - self._start):,.0f} rows/s"
