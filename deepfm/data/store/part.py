"""Stores that hold a shard of the training rows, for hosts that train together.

`prepare --part i/n --into DIR` copies from a whole store what host i of n needs:

    DIR/<name of the store>.part<i>of<n>/

Of the training split it has the features of the rows from N i // n up to N (i + 1) // n, and those
of the first 1,024, by which a training settles how it begins. Labels, weights, groups and row
numbers are those of all N rows, because base rates and the checks of labels count them all; so are
the other splits, the events of histories and the encoders. The manifest says which part it is.
Nothing makes such a store again by itself: a damaged one is an error.
"""

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from deepfm.data.fingerprint import CACHE
from deepfm.data.store.arrays import ArrayShape, ArrayWriter
from deepfm.data.store.encoders_file import name_in
from deepfm.data.store.held_rows import OF_ALL_ROWS, HeldRows
from deepfm.data.store.manifest import read_manifest, write_manifest
from deepfm.data.store.mapped import OpenArrays, open_arrays
from deepfm.data.store.shard import Shard
from deepfm.errors import ConfigError, DataError, DeepFMError, Place
from deepfm.utils.logging import LOGGER

_OF_A_MANIFEST = ("format", "format_version", "checksum")
_COPIED_AT_ONCE = 1 << 16  # rows


def path_of_part(store_dir: Path, name: str, shard: Shard) -> Path:
    """Where a shard of a store is, below the folder of the stores."""
    return store_dir / f"{name}.part{shard.number}of{shard.of}"


def find_part(store_dir: Path, name: str, shards: int) -> Path | None:
    """The part of a store, cut into so many, that this host has; None if it has none.

    Raises:
        DataError: It has several.
    """
    found = [
        path
        for number in range(shards)
        if (path := path_of_part(store_dir, name, Shard(number, shards))).exists()
    ]
    if len(found) > 1:
        raise DataError(
            f"expected one shard of the rows on this host, found {', '.join(p.name for p in found)}"
            "; remove all but its own",
            place=Place(file=str(store_dir)),
        )
    return found[0] if found else None


def copy_part(whole: Path, into: Path, shard: Shard) -> Path:
    """Make the store of a shard from the whole one; gives its directory.

    Raises:
        ConfigError: There are fewer training rows than shards.
        DamagedStore: What is copied is not what was written.
        DeepFMError: The disk refuses.
    """
    path = path_of_part(into, whole.name, shard)
    if (path / "manifest.json").exists():
        LOGGER.info(f"data prepared earlier, in {path}")
        return path
    manifest = read_manifest(whole)
    rows = HeldRows.of_shard(shard, manifest["arrays"]["train"]["label"]["shape"][0])
    if shard.of > rows.of:
        raise ConfigError(f"{rows.of:,} training rows have no {shard.of:,} shards", key="--part")
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        scratch.mkdir(parents=True)
        for other in whole.iterdir():
            if other.is_dir() and other.name != "train":
                shutil.copytree(other, scratch / other.name)
        shutil.copyfile(whole / name_in(manifest), scratch / name_in(manifest))
        with ArrayWriter(scratch) as out:
            _copy_rows(out, whole / "train", manifest["arrays"]["train"], rows)
        plain = {key: value for key, value in manifest.items() if key not in _OF_A_MANIFEST}
        plain["arrays"] = plain["arrays"] | {"train": out.shapes("train")}
        write_manifest(scratch, plain | {"part": list(shard)})
        os.replace(scratch, path)
        if (digests := whole.parent / CACHE).exists() and not (into / CACHE).exists():
            shutil.copyfile(digests, into / CACHE)  # else a host reads all files for them
    except OSError as error:
        raise DeepFMError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return path


def _copy_rows(
    out: ArrayWriter, folder: Path, shapes: Mapping[str, ArrayShape], rows: HeldRows
) -> None:
    """Copy the arrays of the training split, those of features for some rows only."""
    whole = _Arrays(*open_arrays(folder, shapes, (), check_all=False))
    for name, values in whole.arrays.items():
        sequence, _, kind = name.rpartition("_")
        is_ragged = f"{sequence}_starts" in whole.arrays and f"{sequence}_ids" in whole.arrays
        if name in OF_ALL_ROWS:
            whole.copy(out, name, 0, len(values))
            continue
        before = 0  # ids of lists in earlier ranges
        for start, end in rows.ranges:
            if is_ragged and kind in ("ids", "starts"):
                first, last = whole.bounds(sequence, start, end)
                if kind == "ids":
                    whole.copy(out, name, first, last)
                else:
                    whole.copy(out, name, start, end, shift=before - first)
                before += last - first
            else:
                whole.copy(out, name, start, end)


class _Arrays(OpenArrays):
    """The arrays of a split, whose rows are compared with their checksums before they are read."""

    def rows(self, name: str, start: int, end: int) -> np.ndarray:
        if start < end and name in self.later:
            self.later[name].check_rows(slice(start, end))
        return self.arrays[name][start:end]

    def copy(self, out: ArrayWriter, name: str, start: int, end: int, *, shift: int = 0) -> None:
        """Append some rows; each number of them is raised by `shift`."""
        for first in range(start, max(end, start + 1), _COPIED_AT_ONCE):
            values = self.rows(name, first, min(first + _COPIED_AT_ONCE, end))
            out.append("train", name, values + shift if shift else values)

    def bounds(self, sequence: str, start: int, end: int) -> tuple[int, int]:
        """Where the ids of some rows' lists begin and end, which lie end to end."""
        if start == end:
            return 0, 0
        starts = self.rows(f"{sequence}_starts", start, end)
        lengths = self.rows(f"{sequence}_lengths", start, end)
        return int(starts[0]), int(starts[-1]) + int(lengths[-1])
