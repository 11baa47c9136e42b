"""What is going on, in the last line of a terminal; a line of the log now and then without one.

Work says what it is by `working`, or by a `ProgressBar` where it knows how much there is; of
several at a time the innermost is shown. A thread draws the line anew twice a second, so that it
moves in steps of any length, and while other libraries work. Where standard error is no terminal,
work of known length says how far it is when it has been silent for a minute, and for a tenth of its
time.
"""

import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

_TICK = 0.5  # seconds between two drawings, where nothing else draws
_SOON = 0.1  # seconds after which a bar may be drawn again
_SILENCE = 60.0  # seconds after which a log has another line, and at least
_SILENT = 0.1  # of the time so far
_WIDTH = 20  # of a bar
_TURNS = "|/-\\"
_CLEAR = "\r\x1b[K"

_LOGGER = logging.getLogger("deepfm")  # as in `deepfm.utils.logging`, which draws above bars
_lock = threading.RLock()
_open: list["ProgressBar"] = []  # the innermost last
_stop = threading.Event()


class ProgressBar:
    """A line with a bar, what is said beside it, and the time since it began.

    Args:
        title: Names the work.
        total: Its steps; None: nobody knows.
        done: Those that are done already.
    """

    def __init__(self, title: str, *, total: int | None = None, done: int = 0) -> None:
        self._title, self._total, self._done, self._text = title, total, done, ""
        self._is_shown = sys.stderr.isatty()
        self._begun = self._last = time.monotonic()
        self._turn = 0

    def due(self) -> bool:
        """Whether it is time to say how far the work is."""
        now = time.monotonic()
        pause = _SOON if self._is_shown else max(_SILENCE, _SILENT * (now - self._begun))
        return now - self._last > pause

    def show(self, done: int, text: str) -> None:
        """Draw it with so many steps done, and a text; without a terminal say so if it is due."""
        self._done, self._text = done, text
        if self._is_shown:
            self._draw()
        elif self._total and self.due():
            self._last = time.monotonic()
            share, seconds = done / self._total, self._last - self._begun
            _LOGGER.info(f"{self._title}  {share:.0%} after {clock(seconds)}  {text}")

    def rename(self, title: str) -> None:
        """Go on to other work, whose time begins now."""
        self._title, self._text, self._begun = title, "", time.monotonic()
        self._draw()

    def __enter__(self) -> "ProgressBar":
        if self._is_shown:
            with _lock:
                _open.append(self)
                if len(_open) == 1:
                    _start()
            self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_shown:
            return
        with _lock:
            _open.remove(self)
            _write(_CLEAR)
            if not _open:
                _stop.set()

    def _draw(self) -> None:
        with _lock:
            if not _open or _open[-1] is not self:
                return
            self._last = time.monotonic()
            self._turn += 1
            width = shutil.get_terminal_size().columns - 1  # the last column may wrap
            _write(f"{_CLEAR}{self._line()[:width]}")

    def _line(self) -> str:
        if self._total is None:
            bar = ""
        else:
            filled = _WIDTH * self._done // max(self._total, 1)
            bar = f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {self._done:,}/{self._total:,} "
        text = f"  {self._text}" if self._text else ""
        seconds = time.monotonic() - self._begun
        return f"{_TURNS[self._turn % 4]} {self._title} {bar}{clock(seconds)}{text}"


@contextmanager
def working(title: str) -> Iterator[Callable[[str], None]]:
    """While this context lasts, the terminal names work of unknown length.

    Yields:
        A function that names what comes next.
    """
    with ProgressBar(title) as bar:
        yield bar.rename


def write_above(text: str, file: TextIO) -> None:
    """Write a line above what is going on."""
    with _lock:
        if _open:
            _write(_CLEAR)
        file.write(f"{text}\n")
        file.flush()
        if _open:
            _open[-1]._draw()


def clock(seconds: float) -> str:
    """A time for people.

    Example:
        >>> clock(7.9), clock(75), clock(3725)
        ('0:07', '1:15', '1:02:05')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _start() -> None:
    """Begin to draw; the thread ends when nothing is open."""
    global _stop
    _stop = threading.Event()
    threading.Thread(target=_redraw, args=(_stop,), daemon=True).start()


def _redraw(stop: threading.Event) -> None:
    while not stop.wait(_TICK):
        with _lock:
            if _open and not stop.is_set():
                _open[-1]._draw()


def _write(text: str) -> None:
    """Standard error may have been closed: a terminal that is gone stops no work."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        pass
