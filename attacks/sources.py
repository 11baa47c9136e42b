"""Data that changes between the start of a run and --resume, or that does not, but looks so."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from attacks import workloads
from attacks.children import one_line, run
from attacks.kills import TRAIN
from attacks.state import Case

FILES = {
    "declared": ("a.csv", "b.csv"),
    "by_time": ("rows.csv", "items.csv"),
    "ranking": ("ratings.csv", "users.csv", "items.csv"),
}


def _a_digit(path: Path, rng: random.Random) -> None:
    """Another digit somewhere below the header; the size stays."""
    content = bytearray(path.read_bytes())
    places = [k for k, byte in enumerate(content) if chr(byte).isdigit()]
    place = rng.choice([k for k in places if k > content.index(b"\n")])
    content[place] = ord("1") if content[place] != ord("1") else ord("2")
    path.write_bytes(content)


def changed_with_equal_times(path: Path, rng: random.Random) -> None:
    status = path.stat()
    _a_digit(path, rng)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def swapped_rows(path: Path, rng: random.Random) -> None:
    lines = path.read_text().splitlines(keepends=True)
    lines[5], lines[9] = lines[9], lines[5]
    path.write_text("".join(lines))


def one_row_less(path: Path, rng: random.Random) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def one_row_more(path: Path, rng: random.Random) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[3]]))


def touched(path: Path, rng: random.Random) -> None:
    os.utime(path, (rng.randrange(10**9), rng.randrange(10**9)))


def written_again(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


CHANGES = (_a_digit, changed_with_equal_times, swapped_rows, one_row_less, one_row_more)
NO_CHANGES = (touched, written_again)
SHORT = (changed_with_equal_times, touched)


def cases(folder: Path, names: list[str], *, short: bool = False) -> Iterator[Case]:
    for name in names:
        for file in FILES[name][:1] if short else FILES[name]:
            for change in SHORT if short else (*CHANGES, *NO_CHANGES):
                yield Case(
                    f"{'changed' if change in CHANGES else 'equal'} {name} {file} "
                    f"{change.__name__.strip('_')}",
                    lambda n=name, f=file, c=change: _case(folder, n, f, c),
                )


def _case(folder: Path, name: str, file: str, change: Callable[[Path, random.Random], None]) -> str:
    begun = folder / f"begun-{name}"
    if not begun.exists():
        workloads.write(name, begun)
        ended = run(begun, [*TRAIN, "--override", "training.epochs=1"])
        if ended.code:
            return ended.errors
    used = folder / f"changed-{name}"
    shutil.rmtree(used, ignore_errors=True)
    shutil.copytree(begun, used, copy_function=shutil.copy2)
    change(used / "data" / file, random.Random(f"{name} {file} {change.__name__}"))
    ended = run(used, [*TRAIN, "--resume"])
    if problem := one_line(ended):
        return problem
    if change in NO_CHANGES:
        return ended.errors if ended.code else ""
    if not ended.code:
        return "went on with other data"
    if f"error: data/{file}: " not in ended.errors:
        return f"the file is not named: {ended.errors}"
    return ""
