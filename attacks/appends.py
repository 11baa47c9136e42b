"""Kills at calls that change files while rows are appended: the old store or the new one is there.

The old one stays whole for its readers, and appending again makes what an undisturbed process does.
"""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from attacks import workloads
from attacks.children import ANY, Armed, run
from attacks.state import Case

FIRST = ["prepare", "--config", "run.yaml", "--override", "data.table.files=[a.csv]"]
APPEND = ["prepare", "--config", "run.yaml", "--append"]


def cases(folder: Path, sample: int) -> Iterator[Case]:
    """Kills at up to `sample` of all calls, drawn."""
    place = folder / "appends"
    shutil.rmtree(place, ignore_errors=True)
    fresh = workloads.write("declared", place / "fresh")
    if (ended := run(fresh, FIRST)).code:
        raise RuntimeError(ended.errors)
    whole = place / "whole"
    shutil.copytree(fresh, whole)
    ended = run(whole, APPEND)
    if ended.code:
        raise RuntimeError(ended.errors)
    old, expected = _manifests(fresh), _new_store(fresh, whole)
    calls = range(1, ended.calls[ANY] + 1)
    # in no order, so that a stopped attack has seen calls of all kinds
    for number in random.Random(0).sample(calls, min(sample, len(calls))):
        yield Case(f"call {number}", lambda n=number: _killed(fresh, n, old, expected))


def _killed(fresh: Path, number: int, old: dict[str, bytes], expected: dict[str, str]) -> str:
    """Kill at one call, look, and append again; gives what is wrong."""
    folder = fresh.with_name(f"killed{number}")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(fresh, folder)
    ended = run(folder, APPEND, Armed(ANY, number, 0))
    if ended.code != -9:
        return f"was not killed: {ended.code}, {ended.errors[-500:]}"
    there = _manifests(folder)
    if {name: there.get(name) for name in old} != old:
        return "the manifest of the old store has changed"
    for command in ([*FIRST, "--verify"], APPEND):
        ended = run(folder, command)
        if ended.code or "made again" in ended.errors:
            return f"{' '.join(command)}: {ended.errors[-500:]}"
    left = [path for path in folder.rglob(".*") if path.name.endswith(".tmp")]
    if left:
        return f"left behind: {', '.join(path.name for path in left)}"
    if differing := workloads.differences(expected, _new_store(fresh, folder)):
        return f"differs: {differing}"
    shutil.rmtree(folder)
    return ""


def _manifests(folder: Path) -> dict[str, bytes]:
    """Of the stores that are there, by the name of their directory."""
    paths = (folder / "stores").glob("*/manifest.json")
    return {path.parent.name: path.read_bytes() for path in paths}


def _new_store(fresh: Path, folder: Path) -> dict[str, str]:
    """The files of the store that was made by appending, which has the same name everywhere."""
    return {
        name: digest
        for name, digest in workloads.results_of(folder).items()
        if name.startswith("stores/") and name.split("/")[1] not in _manifests(fresh)
    }
