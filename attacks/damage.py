"""Bits that flip and files that end early: noticed, or without any consequence.

One random bit in each KiB, and an end at each KiB, of a checkpoint, of every file of a store, and
of its encoders.
"""

import dataclasses
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attacks import workloads
from attacks.children import run
from attacks.kills import PREPARE, TRAIN
from attacks.state import Case
from deepfm.data.store.encoders_file import ENCODERS

KIB = 1024


def cases(folder: Path, limit: int | None) -> Iterator[Case]:
    """All places of each file, or `limit` of them."""
    place = folder / "damage"
    shutil.rmtree(place, ignore_errors=True)
    workloads.write("declared", place)
    for command in (PREPARE, TRAIN):
        if (ended := run(place, command)).code:
            raise RuntimeError(ended.errors)
    (store,) = (path for path in (place / "stores").iterdir() if path.is_dir())
    for path in (place / "run" / "best_model.pt", place / "run" / "last.pt"):
        yield from _of_file("checkpoint", path, lambda p=path: _checkpoint(p), limit)
    for path in sorted(store.rglob("*")):
        if path.is_file() and path.stat().st_size:
            kind = "encoders" if path.name == ENCODERS else "store"
            yield from _of_file(kind, path, lambda: _store(place, store), limit)


def _of_file(kind: str, path: Path, read: Callable[[], str], limit: int | None) -> Iterator[Case]:
    content, expected = path.read_bytes(), read()
    rng = random.Random(path.name)
    places = range(0, len(content), KIB)
    chosen = places if limit is None else sorted(rng.sample(places, min(limit, len(places))))
    name = f"{path.parent.name}/{path.name}"
    for start in chosen:
        bit = rng.randrange(8 * start, 8 * min(start + KIB, len(content)))
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        for how, damaged in ((f"bit {bit}", bytes(flipped)), (f"end {start}", content[:start])):
            yield Case(
                f"{kind} {name} {how}",
                lambda d=damaged: _case(path, content, d, read, expected),
            )


def _case(
    path: Path, content: bytes, damaged: bytes, read: Callable[[], str], expected: str
) -> str:
    from deepfm.errors import DeepFMError

    path.write_bytes(damaged)
    try:
        return "" if read() == expected else "read, and not what was written"
    except DeepFMError as error:
        return "" if str(error).count("\n") == 0 else f"not one line: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        path.write_bytes(content)


def _checkpoint(path: Path) -> str:
    """A digest of all that a checkpoint holds."""
    from deepfm.checkpoint import load_checkpoint

    found = load_checkpoint(path)
    found.build_model()
    tables = [None if t is None else t.to_pylist() for t in (found.users, found.items)]
    plain: dict[str, Any] = {
        "config": found.config.to_dict(), "encoders": found.encoders.to_dict(), "tables": tables,
        "model": found.model, "training": found.training,
        "fingerprint": found.fingerprint and found.fingerprint.to_plain(),
    }  # fmt: skip
    return workloads.digest(plain)


def _store(folder: Path, store: Path) -> str:
    """A digest of all rows of a store."""
    from deepfm.config import load_config
    from deepfm.data.sources import tabular
    from deepfm.data.store.opening import open_store

    data = load_config(folder / "run.yaml").data
    data = dataclasses.replace(data, data_dir=str(folder / "data"))
    opened = open_store(store, data, tabular.schema(data.table))
    parts = {}
    for name, part in opened.parts.items():
        batch = part[:]
        parts[name] = [*batch.inputs, batch.label, batch.weight, batch.group, part.row.tolist()]
    return workloads.digest([parts, opened.encoders.to_dict(), opened.summary])
