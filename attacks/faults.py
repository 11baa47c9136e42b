"""A disk that refuses: each call that changes a file fails once, with ENOSPC and with EIO.

A full disk stays full, so after ENOSPC every later call of the kind fails; EIO comes once. The
calls of an undisturbed run are counted first; of a kind that has more than `sample`, so many are
drawn. Where the command failed, it did so with one line; what stands loads, and going on ends as
if nothing had been.
"""

import errno
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from attacks import workloads
from attacks.children import KINDS, Armed, one_line, run
from attacks.kills import PREPARE, TRAIN, Reference
from attacks.state import Case

SHORT = ("write", "fsync", "rename")
ERRORS = {"ENOSPC": (errno.ENOSPC, True), "EIO": (errno.EIO, False)}
PREDICT = [
    "predict", "--checkpoint", "run/best_model.pt", "--input", "data/a.csv", "--output", "out.csv",
]  # fmt: skip


def cases(folder: Path, sample: int, names: list[str], *, short: bool = False) -> Iterator[Case]:
    for name in names:
        for command in (TRAIN,) if short else (PREPARE, TRAIN):
            if command is TRAIN or workloads.WORKLOADS[name].is_prepared:
                place = folder / f"faults-{name}-{command[0]}"
                shutil.rmtree(place, ignore_errors=True)
                reference = Reference(name, place, command)
                calls = reference.calls
                if short:  # what a disk refuses most
                    calls = tuple(calls[k] * (KINDS[k] in SHORT) for k in range(len(KINDS)))
                for label, armed in _armed(calls, sample, f"{name} {command[0]}"):
                    yield Case(
                        f"{command[0]} {name} {label}",
                        lambda r=reference, a=armed: _case(r, a),
                    )
    if short:
        return
    place = folder / "faults-predict"
    shutil.rmtree(place, ignore_errors=True)
    workloads.write("declared", place)
    run(place, TRAIN)
    whole = run(place, PREDICT)
    if whole.code:
        raise RuntimeError(whole.errors)
    expected = (place / "out.csv").read_bytes()
    for label, armed in _armed(whole.calls, sample, "predict"):
        yield Case(f"predict {label}", lambda a=armed: _prediction(place, a, expected))


def _armed(calls: tuple[int, ...], sample: int, seed: str) -> Iterator[tuple[str, Armed]]:
    rng = random.Random(seed)
    for kind, name in enumerate(KINDS):
        numbers = range(1, calls[kind] + 1)
        chosen = sorted(rng.sample(numbers, min(sample, len(numbers))))
        for number in chosen:
            for label, (error, for_good) in ERRORS.items():
                yield f"{name} {number} {label}", Armed(kind, number, error, for_good)


def _case(reference: Reference, armed: Armed) -> str:
    from deepfm.checkpoint import RunDirectory, load_checkpoint

    folder = reference.fresh("faulty")
    ended = run(folder, reference.command, armed)
    if problem := one_line(ended):
        return problem
    if ended.code == 0:  # what failed is of no consequence, so all is there
        found = workloads.results_of(folder)
        if differing := workloads.differences(reference.expected, found):
            return f"said nothing, and differs: {differing}"
    directory = RunDirectory(folder / "run")
    for path in (directory.best, directory.last):
        if path.exists():
            try:
                load_checkpoint(path).build_model()
            except Exception as error:
                return f"{path.name} does not load: {error}"
    return reference.finish(folder)


def _prediction(folder: Path, armed: Armed, expected: bytes) -> str:
    """A file of predictions is whole or absent; one that was there stays until it is replaced."""
    output = folder / "out.csv"
    output.unlink(missing_ok=True)
    ended = run(folder, PREDICT, armed)
    if problem := one_line(ended):
        return problem
    if output.exists() and output.read_bytes() != expected:
        return "the output is not whole"
    if ended.code == 0 and not output.exists():
        return "said nothing, and there is no output"
    for path in folder.glob(".out.csv*"):
        path.unlink()  # where even removing it is refused
        if armed.kind != KINDS.index("unlink"):
            return f"left behind: {path.name}"
    return ""
