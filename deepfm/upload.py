"""A run or an export taken to an object store, so that a reader sees all of it or nothing.

Decided here: `upload.json` says what an upload is, and is there only while it is whole. It is
removed before the first file of another upload arrives, and written after the last one has; a
reader that wants more than one file waits for it. Names beside an upload are left alone.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import deepfm
from deepfm.checkpoint import RunDirectory
from deepfm.errors import ConfigError, DataError, DeepFMError, Place
from deepfm.exported.layout import MANIFEST as EXPORT_MANIFEST
from deepfm.utils.places import (
    AnyPath,
    files_below,
    is_uri,
    path_of,
    put,
    reading,
    remove,
    whole_file,
)
from deepfm.utils.progress import ProgressBar

MANIFEST = "upload.json"
FORMAT, FORMAT_VERSION = "deepfm upload", 1


def upload(folder: str | Path, uri: str, *, overwrite: bool = False) -> dict[str, Any]:
    """Copy the files of a run or of an export to a URI, and return what `upload.json` says.

    Hidden files and a `trace.json` are no part of either.

    Args:
        folder: Of a run that nobody trains into, or of `deepfm export`.
        uri: What stands in front of the files' names.
        overwrite: Replace an upload that is there.

    Raises:
        ConfigError: The folder holds neither, the URI is none, or it holds files already.
        DataError: A file changed while it was copied.
        DeepFMError: The disk or the store refuses.
    """
    folder, target = Path(folder), _target(uri)
    with _held(folder):
        names = list(_names(folder))
        old = _existing(target, overwrite)
        before = {name: _stamp(folder / name) for name in names}
        files = {name: _described(folder / name) for name in names}
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "deepfm": deepfm.__version__,
            "files": files,
        }
        remove(target / MANIFEST)
        total, done = sum(one["bytes"] for one in files.values()), 0
        with ProgressBar("upload", total=100) as bar:
            for name in names:
                put(folder / name, target / name)
                done += files[name]["bytes"]
                if bar.due():
                    bar.show(int(100 * done / max(total, 1)), name)
        for name in names:
            if _stamp(folder / name) != before[name]:
                raise DataError(
                    "changed while it was copied; the upload is not whole, start it again",
                    place=Place(file=str(folder / name)),
                )
        with whole_file(target / MANIFEST) as file:
            file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
        for name in old - files.keys():
            remove(target / name)
    return content


def _target(uri: str) -> AnyPath:
    if not is_uri(uri):
        raise ConfigError(f"expected a URI such as s3://bucket/folder, found {uri}")
    return path_of(uri)


def _held(folder: Path) -> AbstractContextManager[None]:
    """Keeps others from training into a run.

    Raises:
        ConfigError: The folder holds neither a run nor an export, or somebody trains into it.
    """
    run = RunDirectory(folder)
    if run.best.exists() or run.last.exists():
        return run.locked()
    if (folder / EXPORT_MANIFEST).exists():
        return nullcontext()
    raise ConfigError(
        f"{folder}: holds no run ({run.best.name} or {run.last.name}) and no export "
        f"({EXPORT_MANIFEST})"
    )


def _names(folder: Path) -> Iterator[str]:
    """The files that go, by their names below the folder."""
    left_out = RunDirectory(folder).trace
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or path == left_out or any(part[0] == "." for part in name.parts):
            continue
        if name.as_posix() == MANIFEST:
            raise ConfigError(f"{path}: an upload has a file of this name itself; rename it")
        yield name.as_posix()


def _existing(target: AnyPath, overwrite: bool) -> set[str]:
    """The names of an upload that is there and may be replaced.

    Raises:
        ConfigError: There are files, and they may not.
    """
    there = files_below(target)
    is_whole = any(str(path) == str(target / MANIFEST) for path in there)
    if there and not overwrite:
        what = "an upload" if is_whole else "files, and no whole upload: one was stopped, perhaps"
        raise ConfigError(f"{target} holds {what}; --overwrite replaces it")
    if not is_whole:
        return set()
    try:
        with reading(target / MANIFEST) as file:
            content = json.loads(file.read())
    except OSError as error:
        raise DeepFMError(f"{target / MANIFEST}: cannot be read: {error.strerror}") from None
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f"{target / MANIFEST} is not of an upload, and stays; name another place")
    names = {str(path).removeprefix(f"{target}/") for path in there}
    return names & set(content.get("files", ()))  # a name that leads elsewhere is none of these


def _described(path: Path) -> dict[str, Any]:
    with _read_errors(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _stamp(path: Path) -> tuple[int, int]:
    with _read_errors(path):
        found = path.stat()
    return found.st_size, found.st_mtime_ns


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DeepFMError(f"{path}: cannot be read: {error.strerror or error}") from None
