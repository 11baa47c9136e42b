"""Processes at once: two trainings into one directory, four that prepare one store."""

import random
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from attacks import workloads
from attacks.children import Child, one_line, run
from attacks.kills import PREPARE, TRAIN, Reference
from attacks.state import Case


def cases(folder: Path, rounds: int) -> Iterator[Case]:
    references: dict[str, Reference] = {}

    def reference(command: list[str]) -> Reference:
        if command[0] not in references:
            place = folder / f"together-{command[0]}"
            shutil.rmtree(place, ignore_errors=True)
            references[command[0]] = Reference("declared", place, command)
        return references[command[0]]

    for number in range(rounds):
        yield Case(f"train {number}", lambda n=number: _trainings(reference(TRAIN), n))
        yield Case(f"prepare {number}", lambda n=number: _prepares(reference(PREPARE), n))
        yield Case(f"killed {number}", lambda n=number: _after_a_kill(reference(TRAIN), n))


def _trainings(reference: Reference, number: int) -> str:
    """Of two that overwrite, started within a moment, one ends; what stands is of one of them."""
    rng = random.Random(number)
    folder = reference.fresh(f"two{number}")
    first = Child(folder, [*TRAIN, "--overwrite"])
    time.sleep(rng.uniform(0, 0.8 * reference.seconds))
    # Its own stderr, so that both can be read.
    view = folder.parent / f"view{number}"
    view.unlink(missing_ok=True)
    view.symlink_to(folder)
    second = Child(view, [*TRAIN, "--overwrite"])
    ends = {first.pid: first.wait(), second.pid: second.wait()}
    view.unlink()
    for ended in ends.values():
        if problem := one_line(ended):
            return problem
    refused = [pid for pid, ended in ends.items() if ended.code]
    if len(refused) > 1:
        return f"both were refused: {[ended.errors for ended in ends.values()]}"
    for pid in refused:
        (other,) = ends.keys() - {pid}
        found = re.search(r"process (\d+|\(unknown\)) trains into it", ends[pid].errors)
        if not found or found[1] not in (str(other), "(unknown)"):
            return f"the other process is not named: {ends[pid].errors}"
    if differing := workloads.differences(reference.expected, workloads.results_of(folder)):
        return f"differs: {differing}"
    shutil.rmtree(folder)
    return ""


def _prepares(reference: Reference, number: int) -> str:
    folder = reference.fresh(f"four{number}")
    children = []
    for k in range(4):
        view = folder.parent / f"view{number}-{k}"
        view.unlink(missing_ok=True)
        view.symlink_to(folder)
        children.append((Child(view, PREPARE), view))
    for child, view in children:
        ended = child.wait()
        view.unlink()
        if problem := one_line(ended) or ended.code:
            return f"{problem}: {ended.errors}"
    if differing := workloads.differences(reference.expected, workloads.results_of(folder)):
        return f"differs: {differing}"
    shutil.rmtree(folder)
    return ""


def _after_a_kill(reference: Reference, number: int) -> str:
    """The lock of a killed process keeps nobody away."""
    folder = reference.fresh(f"lock{number}")
    child = Child(folder, TRAIN)
    lock = folder / "run" / ".lock"
    while not (lock.exists() and lock.read_text()):
        time.sleep(0.001)
    child.kill()
    child.wait()
    if not lock.exists():
        return "the lock is gone before it was tried"
    ended = run(folder, TRAIN if not any((folder / "run").glob("*.pt")) else [*TRAIN, "--resume"])
    return one_line(ended) or (ended.errors if ended.code else reference.finish(folder))
