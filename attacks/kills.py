"""Kills at random moments and at calls that change files; afterwards a run ends as if never killed.

Both within a training, its `prepare` included, and within `prepare` alone. Some are killed twice.
"""

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from attacks import workloads
from attacks.children import ANY, Armed, Child, run
from attacks.state import Case

TRAIN = ["train", "--config", "run.yaml"]
PREPARE = ["prepare", "--config", "run.yaml"]


class Reference:
    """A workload that nothing disturbed: what it leaves, its calls, and how long it takes."""

    def __init__(self, name: str, folder: Path, command: list[str]) -> None:
        self.name, self.folder, self.command = name, folder, command
        workloads.write(name, folder / "whole")
        started = time.monotonic()
        ended = run(folder / "whole", command)
        if ended.code:
            raise RuntimeError(f"{name}: {ended.errors}")
        self.seconds = time.monotonic() - started
        self.calls = ended.calls
        self.expected = workloads.results_of(folder / "whole")
        self._fresh = workloads.write(name, folder / "fresh")

    def fresh(self, name: str) -> Path:
        """A folder with the data of the workload and nothing else."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._fresh, folder)
        return folder

    def finish(self, folder: Path) -> str:
        """Go on undisturbed and compare; gives what is wrong. If nothing is, the folder goes."""
        resume = [*self.command, "--resume"] if self.command[0] == "train" else self.command
        ended = run(folder, resume)
        if ended.code:
            return f"could not go on: {ended.errors[-500:]}"
        left = [path for path in folder.rglob(".*") if path.name.endswith(".tmp")]
        if left:
            return f"left behind: {', '.join(path.name for path in left)}"
        if differing := workloads.differences(self.expected, workloads.results_of(folder)):
            return f"differs: {differing}"
        shutil.rmtree(folder)
        return ""


def cases(folder: Path, count: int, names: list[str]) -> Iterator[Case]:
    """`count` kills, in turn of each workload and way."""
    ways = [(name, command) for name in names for command in (TRAIN, PREPARE)]
    ways = [w for w in ways if w[1] is TRAIN or workloads.WORKLOADS[w[0]].is_prepared]
    references: dict[tuple[str, str], Reference] = {}

    def case(number: int, name: str, command: list[str]) -> str:
        key = name, command[0]
        if key not in references:
            place = folder / f"{name}-{command[0]}"
            shutil.rmtree(place, ignore_errors=True)
            references[key] = Reference(name, place, command)
        reference, rng = references[key], random.Random(f"{number} {name}")
        killed = reference.fresh(f"killed{number}")
        for again in range(rng.choice((1, 1, 2))):
            used = [*command, "--resume"] if again and command is TRAIN else command
            at_call = number // len(ways) % 2 == 0
            if problem := _kill(reference, killed, used, rng, at_call=at_call, is_first=not again):
                return problem
        return reference.finish(killed)

    for number in range(count):
        name, command = ways[number % len(ways)]
        yield Case(
            f"{command[0]} {name} {number}",
            lambda n=number, w=name, c=command: case(n, w, c),
        )


def _kill(
    reference: Reference,
    folder: Path,
    command: list[str],
    rng: random.Random,
    *,
    at_call: bool,
    is_first: bool,
) -> str:
    """Kill a command once; one that ended before its kill is begun again, on the first time."""
    for _ in range(20):
        if at_call:
            ended = run(folder, command, Armed(ANY, rng.randint(1, reference.calls[ANY]), 0))
        else:
            child = Child(folder, command)
            ended = child.wait_at_most(rng.uniform(0, 1.1) * reference.seconds)
            if ended is None:
                child.kill()
                ended = child.wait()
        if ended.code == -9 or not is_first:
            return ""
        if ended.code:
            return f"failed before it was killed: {ended.errors[-500:]}"
        shutil.rmtree(folder)
        shutil.copytree(reference.folder / "fresh", folder)
    return "was never killed"
