"""Locks that the kernel holds for a process, and takes back when it dies.

A lock is a file that is locked (`flock`), not one that exists: what a killed process leaves behind
locks nothing. Where the system (Windows) or the file system has no such locks, a warning says so.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from deepfm.utils.logging import LOGGER


class HeldElsewhere(Exception):
    """Another process holds the lock; `process` is its id, 0 if it has not written it yet."""

    def __init__(self, process: int) -> None:
        super().__init__(process)
        self.process = process


@contextlib.contextmanager
def exclusive_lock(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Within this context no other process holds the lock `path`, an empty file that stays.

    Args:
        waiting: Called if another process holds the lock.

    Raises:
        OSError: The file cannot be opened.
    """
    with path.open("ab") as file:
        if not _locked(file, path, wait=False):
            waiting()
            _locked(file, path, wait=True)
        yield


class SoleLock:
    """A lock that is held from here to `release`, by one process at a time; nobody waits.

    The file holds the id of its process, and is removed at the end.

    Raises:
        HeldElsewhere: Another process holds the lock.
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _taken(path)
        try:
            self._file.truncate(0)
            self._file.write(str(os.getpid()).encode())
            self._file.flush()
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Give the lock back."""
        with contextlib.suppress(OSError):  # the directory may be gone, the disk full
            self._path.unlink()
        with contextlib.suppress(OSError):
            self._file.close()


def _taken(path: Path) -> BinaryIO:
    """The locked file, which still has its name: its last holder may have just removed it."""
    while True:
        file = path.open("a+b")
        try:
            if not _locked(file, path, wait=False):
                file.seek(0)
                text = file.read(20)
                raise HeldElsewhere(int(text) if text.isdigit() else 0)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()


def _locked(file: BinaryIO, path: Path, *, wait: bool) -> bool:
    """Lock an open file; False if another process has."""
    try:
        import fcntl
    except ImportError:
        LOGGER.warning(f"{path}: this system has no locks: keep other processes away yourself")
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        LOGGER.warning(
            f"{path}: the file system has no locks ({error.strerror}): keep other processes away "
            "yourself"
        )
    return True
