"""Processes tell each other that they live, and one whose peer has fallen silent ends.

A killed process is noticed at once by whoever exchanges tensors with it, since its connections
close. What no connection tells of is a host that is cut off, and a process may wait for minutes
where another one writes a checkpoint or prepares data. So each process says in a store that all of
them share that it lives, in a thread of its own. The first one looks at what all others said last,
and these look at the first one: when it ends, so do the connections of all.
"""

import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn, Protocol

_BEATS = 8  # within the time after which a silent process is given up, or more
_PAUSE = 1.0  # seconds between two beats, at most
_ENDED = b"ended"


class Store(Protocol):
    """What is asked of a store, such as `torch.distributed.TCPStore`."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...
    def set_timeout(self, timeout: timedelta) -> None: ...


class Heartbeat:
    """Says that a process lives, and calls `lost` if another one has been silent for too long.

    Two threads: one talks to the store, and may be stuck there; the other only looks at the time
    since each process was last heard.

    Args:
        store: A connection that nobody else uses.
        rank, world: Number of this process, and how many there are.
        silence: Seconds after which a process counts as lost.
        lost: Called with the number of such a process, once. It does not return.
    """

    def __init__(
        self,
        store: Store,
        *,
        rank: int,
        world: int,
        silence: float,
        lost: Callable[[int], None],
    ) -> None:
        self._store, self._rank, self._silence, self._lost = store, rank, silence, lost
        self._pause = min(silence / _BEATS, _PAUSE)
        self._said: dict[int, bytes] = {}
        self._heard = dict.fromkeys(range(1, world) if rank == 0 else [0], time.monotonic())
        self._stop = threading.Event()
        store.set_timeout(timedelta(seconds=silence))
        self._threads = [
            threading.Thread(target=work, daemon=True, name=f"heartbeat {work.__name__}")
            for work in (self._talk, self._look)
        ]
        for thread in self._threads:
            thread.start()

    def give_up_after(self, silence: float) -> None:
        """Another time, in seconds, after which a process counts as lost."""
        self._silence, self._pause = silence, min(silence / _BEATS, _PAUSE)
        self._store.set_timeout(timedelta(seconds=silence))

    def end(self, within: float | None = None) -> None:
        """Say no more; the others do not wait for this process.

        Args:
            within: How many seconds the threads are waited for; None: as long as a process may be
                silent. One that came back from the store, which knows no Python, while the
                interpreter is being taken down would end the process with an abort.
        """
        self._stop.set()
        for thread in self._threads:
            thread.join(self._silence if within is None else within)

    def _talk(self) -> None:
        beat = 0
        try:
            while not self._stop.wait(self._pause if beat else 0):
                beat += 1
                self._store.set(f"alive/{self._rank}", str(beat))
                for rank in list(self._heard):
                    self._listen(rank)
            self._store.set(f"alive/{self._rank}", _ENDED.decode())
        except RuntimeError:  # the store is gone, so nobody is heard any more
            return

    def _listen(self, rank: int) -> None:
        key = f"alive/{rank}"
        if not self._store.check([key]):
            return
        said = self._store.get(key)
        if said == _ENDED:
            self._heard[rank] = float("inf")
        elif said != self._said.get(rank):
            self._said[rank], self._heard[rank] = said, time.monotonic()

    def _look(self) -> None:
        while not self._stop.wait(self._pause):
            now = time.monotonic()
            for rank, heard in list(self._heard.items()):
                if now - heard > self._silence - self._pause:
                    self._lost(rank)
                    return


def end_now(exit_code: int) -> NoReturn:
    """End the process, whatever its other threads wait for."""
    os._exit(exit_code)
