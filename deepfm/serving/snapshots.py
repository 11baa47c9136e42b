"""The files of a model as they were when they were loaded, whatever becomes of their names.

A worker that takes the place of a killed one must answer with the model of the others, also if a
broken file stands where theirs was read from. So files are copied into the server's own folder, or
linked there where they are large and on one file system: who renames a new file over an old name,
as everything that writes checkpoints does, leaves the linked one as it is. What is in an object
store is fetched when it is kept, at the start and when a reload is asked for; nobody watches it.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import xxhash

from deepfm.errors import CheckpointError
from deepfm.utils.places import AnyPath, fetched

_COPIED = 64 * 2**20  # bytes; larger files are linked
_CHUNK = 2**24


class Snapshot(NamedTuple):
    """A model's files.

    Attributes:
        files: Where they stand now; of a directory, where that stands.
        version: A digest of their content.
        folder: Of them, and of what workers make of them.
    """

    files: tuple[Path, ...]
    version: str
    folder: Path

    def discard(self) -> None:
        """Remove the files; whoever has them mapped keeps what was read."""
        shutil.rmtree(self.folder, ignore_errors=True)


Stamp = tuple[tuple[int, int, int], ...]


def stamp(sources: Sequence[AnyPath]) -> Stamp | None:
    """What changes when one of the local files does; None while one is not there."""
    local = [source for source in sources if isinstance(source, Path)]
    try:
        found = [os.stat(file) for source in local for file in _files(source)]
    except OSError:
        return None
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)


def snapshot(sources: Sequence[AnyPath], folder: Path) -> Snapshot:
    """Keep the files, or all files of a directory, as they are now, below `folder`.

    Raises:
        CheckpointError: One cannot be read.
    """
    hashed, arrived = xxhash.xxh3_128(), folder / "arrived"
    try:
        local = [_local(source, arrived / str(number)) for number, source in enumerate(sources)]
        for source in local:
            for file in _files(source):
                hashed.update(f"{file.relative_to(source)}\0".encode())
                with file.open("rb") as opened:
                    while chunk := opened.read(_CHUNK):
                        hashed.update(chunk)
        version = hashed.hexdigest()[:16]
        own = folder / version
        kept = []
        for number, source in enumerate(local):
            target = own / "files" / f"{number}-{source.name}"
            for file in _files(source):
                place = target / file.relative_to(source)
                if not place.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    _keep(file, place)
            kept.append(target)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: cannot be read: {error.strerror or error}"
        ) from None
    finally:
        shutil.rmtree(arrived, ignore_errors=True)
    return Snapshot(tuple(kept), version, own)


def _local(source: AnyPath, folder: Path) -> Path:
    """The file or directory itself, or a copy of what is elsewhere, in the folder."""
    if isinstance(source, Path):
        return source
    folder.mkdir(parents=True)
    with fetched(source) as file, (folder / source.name).open("xb") as copy:
        shutil.copyfileobj(file, copy, _CHUNK)
    return folder / source.name


def _files(source: Path) -> list[Path]:
    """A file, or all files of a directory, sorted."""
    if not source.is_dir():
        return [source]
    return sorted(path for path in source.rglob("*") if path.is_file())


def _keep(source: Path, target: Path) -> None:
    if source.stat().st_size > _COPIED:
        try:
            os.link(source.resolve(), target)
            return
        except OSError:  # another file system, or one without links
            pass
    shutil.copyfile(source, target)
