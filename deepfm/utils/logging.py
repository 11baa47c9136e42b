"""Log lines for people and files, and a progress bar on a terminal only."""

import logging
import logging.handlers
import sys
import time
from pathlib import Path

from deepfm.errors import DeepFMError

LOGGER = logging.getLogger("deepfm")


class _TerminalHandler(logging.Handler):
    """Writes lines above a running progress bar: warnings to stderr, the rest to stdout."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm  # which those do without who show nothing

        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            tqdm.write(f"{record.levelname.lower()}: {text}", file=sys.stderr)
        else:
            tqdm.write(text, file=sys.stdout)


def configure_logging() -> None:
    """Show the package's log lines; only the CLI calls this."""
    LOGGER.handlers.clear()
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    LOGGER.addHandler(_TerminalHandler())


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


class ProgressBar:
    """A bar on standard error if that is a terminal; silent otherwise."""

    def __init__(self, title: str, *, total: int, done: int = 0) -> None:
        from tqdm import tqdm

        # leave=False: the epoch's log line takes the place of the finished bar
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=title,
            leave=False,
            disable=None,
            bar_format="{desc} {percentage:3.0f}%|{bar:20}| {n}/{total}{postfix}",
        )
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether the bar is shown and was last drawn more than 0.1 s ago."""
        return not self._bar.disable and time.monotonic() - self._last > 0.1

    def show(self, done: int, text: str) -> None:
        self._last = time.monotonic()
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
