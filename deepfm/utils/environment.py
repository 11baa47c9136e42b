"""What a process runs on, and what it has used so far."""

import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

_PACKAGES = ("torch", "numpy", "pyarrow", "scikit-learn", "scipy")


class Usage(NamedTuple):
    """What a process has used.

    Attributes:
        wall_seconds: By a clock that starts anywhere.
        cpu_seconds: Of all its threads.
        peak_memory: The most bytes that it held at once; None where the system does not tell.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_memory: int | None

    @classmethod
    def so_far(cls) -> "Usage":
        """Of this process, now."""
        return cls(time.monotonic(), time.process_time(), _peak_memory())

    def since(self, before: "Usage") -> "Usage":
        """What was used since then; the memory is the most of the whole process."""
        return Usage(
            self.wall_seconds - before.wall_seconds,
            self.cpu_seconds - before.cpu_seconds,
            self.peak_memory,
        )


def machine() -> dict[str, str | int]:
    """The system and the versions of what is computed with, by name."""
    found: dict[str, str | int] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count() or 1,
    }
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # another build of it, such as torch of a distributor
            continue
    return found


def _peak_memory() -> int | None:
    try:
        import resource
    except ModuleNotFoundError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)
