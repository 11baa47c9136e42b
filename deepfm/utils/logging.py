"""Log lines for people and files."""

import contextlib
import logging
import logging.handlers
import sys
from collections.abc import Iterator
from pathlib import Path

from deepfm.errors import DeepFMError
from deepfm.utils.progress import write_above

LOGGER = logging.getLogger("deepfm")


class _TerminalHandler(logging.Handler):
    """Writes lines above what is going on: warnings to stderr, the rest to stdout."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            write_above(f"{record.levelname.lower()}: {text}", sys.stderr)
        else:
            write_above(text, sys.stdout)


def configure_logging() -> None:
    """Show the package's log lines; only the CLI calls this."""
    LOGGER.handlers.clear()
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    LOGGER.addHandler(_TerminalHandler())


@contextlib.contextmanager
def quiet(*, warnings: bool = True) -> Iterator[None]:
    """Within this context a terminal shows warnings only, or not even those; files have all."""
    terminals = [one for one in LOGGER.handlers if isinstance(one, _TerminalHandler)]
    for handler in terminals:
        handler.setLevel(logging.WARNING if warnings else logging.ERROR)
    try:
        yield
    finally:
        for handler in terminals:
            handler.setLevel(logging.NOTSET)


class _LogFile(logging.FileHandler):
    """A file of log lines; one that cannot be written is said once, and stops nothing."""

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(path, encoding="utf-8")
        except OSError as error:
            raise DeepFMError(f"cannot write {path}: {error.strerror or error}") from None
        self._has_failed = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self._has_failed:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        self._warn(sys.exc_info()[1])

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # what was written last did not reach the disk
            self._warn(error)

    def _warn(self, error: BaseException | None) -> None:
        if not self._has_failed:
            self._has_failed = True
            reason = getattr(error, "strerror", None) or error
            LOGGER.warning(f"cannot write {self.baseFilename}: {reason}; its last lines are lost")


class RunLog(logging.handlers.MemoryHandler):
    """Keeps the lines of a run until its directory is ready, then writes them to a file there."""

    def __init__(self) -> None:
        super().__init__(capacity=10**6, flushLevel=logging.CRITICAL + 1)

    def write_to(self, path: Path) -> None:
        """Append all lines so far, and every later one as it comes.

        Raises:
            DeepFMError: The file cannot be opened.
        """
        file = _LogFile(path)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.setTarget(file)
        self.flush()
        self.flushLevel = logging.NOTSET

    def __enter__(self) -> "RunLog":
        LOGGER.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        LOGGER.removeHandler(self)
        target = self.target
        self.close()
        if target is not None:
            target.close()
