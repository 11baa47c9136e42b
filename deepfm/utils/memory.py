"""How much memory there is."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CGROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def total_memory() -> int | None:
    """Bytes that this process may use at most: the machine's, or those of its container, service
    or job; None: unknown."""
    found = []
    for limit in _limits():
        with suppress(OSError, ValueError):  # no such limit, or `max`
            found.append(int(limit.read_text()))
    with suppress(AttributeError, ValueError, OSError):  # not on this system
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(found, default=None)


def _limits() -> Iterator[Path]:
    """Files that may have a limit: of the groups that this process is in, and those around them.

    Within a container the groups may be named as the host sees them, where nothing is; the
    container's own limit stands at the top.
    """
    groups = ["0::/", "0:memory:/"]
    with suppress(OSError):
        groups += _OWN.read_text().splitlines()
    for line in groups:
        _, controllers, name = line.split(":", 2)
        if not controllers:
            top, file = _CGROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            top, file = _CGROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        below = Path(name.lstrip("/"))
        yield from (top / part / file for part in (below, *below.parents))
