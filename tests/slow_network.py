"""Two hosts with a slow network between them, as network namespaces of this machine.

Each namespace has an interface whose packets come to this process, which hands them to the other
after a delay and no faster than a rate. Needs root, `ip`, and /dev/net/tun.
"""

import ctypes
import fcntl
import heapq
import os
import select
import struct
import subprocess
import threading
import time
from contextlib import contextmanager, suppress

_SET_INTERFACE, _TUN, _NO_HEADER = 0x400454CA, 0x0001, 0x1000
_NEW_NETWORK = 0x40000000


def why_not() -> str | None:
    """Why there can be no such network here."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun"
    try:
        done = subprocess.run(["ip", "netns", "list"], capture_output=True, check=False)
    except FileNotFoundError:
        return "there is no program ip"
    return None if done.returncode == 0 else "there are no network namespaces"


class SlowNetwork:
    """Hands packets over until it is cut.

    Args:
        names: Of the two namespaces, which exist.
        delay: Of each packet, in seconds.
        rate: Bytes per second, in each direction.
    """

    def __init__(self, names: tuple[str, str], *, delay: float, rate: float) -> None:
        self.names, self._delay, self._rate = names, delay, rate
        self._ends = [self._end(name, f"10.9.0.{k + 1}/24") for k, name in enumerate(names)]
        self.is_cut = self._is_over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _end(self, name: str, address: str) -> int:
        """The file of an interface in a namespace."""
        made: list[int] = []

        def make() -> None:  # a thread is in a namespace of its own
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/var/run/netns/{name}") as there:
                if libc.setns(there.fileno(), _NEW_NETWORK):
                    raise OSError(ctypes.get_errno(), "setns")
            end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(end, _SET_INTERFACE, struct.pack("16sH", b"slow0", _TUN | _NO_HEADER))
            made.append(end)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        for command in (f"addr add {address} dev slow0", "link set slow0 up", "link set lo up"):
            subprocess.run(["ip", "-n", name, *command.split()], check=True)
        return made[0]

    def _run(self) -> None:
        waiting: list[tuple[float, int, int, bytes]] = []  # due, number, to, packet
        free, number = [0.0, 0.0], 0
        while not self._is_over:
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _, _, to, packet = heapq.heappop(waiting)
                if not self.is_cut:
                    with suppress(BlockingIOError):  # lost, as packets are
                        os.write(self._ends[to], packet)
            pause = min(0.05, max(0.0, waiting[0][0] - now)) if waiting else 0.05
            for end in select.select(self._ends, [], [], pause)[0]:
                packet, to = os.read(end, 65536), 1 - self._ends.index(end)
                free[to] = max(free[to], time.monotonic()) + len(packet) / self._rate
                number += 1
                heapq.heappush(waiting, (free[to] + self._delay, number, to, packet))

    def cut(self) -> None:
        """Hand nothing over any more."""
        self.is_cut = True

    def close(self) -> None:
        self._is_over = True
        self._thread.join()
        for end in self._ends:
            os.close(end)


@contextmanager
def two_hosts(*, delay: float, rate: float):
    """A `SlowNetwork` of two new namespaces, whose addresses are 10.9.0.1 and 10.9.0.2."""
    names = tuple(f"deepfm-{os.getpid()}-{k}" for k in (1, 2))
    for name in names:
        subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        network = SlowNetwork(names, delay=delay, rate=rate)
        try:
            yield network
        finally:
            network.close()
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)
