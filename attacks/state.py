"""Which cases are done, in a file that a stopped run goes on from."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Case(NamedTuple):
    """One thing that is tried.

    Attributes:
        name: Unique within its attack.
        run: Gives what went wrong, empty if nothing did.
    """

    name: str
    run: Callable[[], str]


class State:
    """Finished cases of all attacks.

    Args:
        folder: Of the output; the file there is named after the package's sources.
        deadline: When no further case begins, in seconds of `time.monotonic`.
    """

    def __init__(self, folder: Path, deadline: float) -> None:
        self.folder, self.deadline = folder, deadline
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"state-{sources()}.jsonl"
        self._done: dict[tuple[str, str], str] = {}
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                attack, name, problem = json.loads(line)
                self._done[attack, name] = problem

    def run(self, attack: str, cases: Iterable[Case], end: float | None = None) -> None:
        """Run the cases that are not done, until the deadline or `end`."""
        for case in cases:
            if (attack, case.name) in self._done:
                continue
            if time.monotonic() > min(self.deadline, end or self.deadline):
                print(f"{attack}: out of time, {case.name} and what follows is left")
                return
            problem = " ".join(case.run().split())[:400]
            self._done[attack, case.name] = problem
            with self._path.open("a") as file:
                file.write(json.dumps([attack, case.name, problem]) + "\n")
            if problem:
                print(f"{attack}: {case.name}: {problem}", flush=True)

    def failures(self) -> list[str]:
        return [f"{a}: {name}: {problem}" for (a, name), problem in self._done.items() if problem]

    def report(self) -> str:
        """A table of all attacks, by what stands before the first blank of a case's name."""
        held, tried = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for (attack, name), problem in self._done.items():
            key = attack, name.split()[0]
            tried[key] += 1
            held[key] += not problem
        lines = ["| attack | of | held | tried |", "|---|---|--:|--:|"]
        lines += [
            f"| {attack} | {kind} | {held[attack, kind]:,} | {count:,} |"
            for (attack, kind), count in tried.items()
        ]
        lines += ["", *(f"- {failure}" for failure in self.failures())]
        return "\n".join(lines)


def sources() -> str:
    """A digest of the package's code and of this one."""
    hashed = hashlib.sha256()
    for folder in ("deepfm", "attacks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            hashed.update(path.read_bytes())
    return hashed.hexdigest()[:12]
