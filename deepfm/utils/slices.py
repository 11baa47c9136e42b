"""Tensors of a checkpoint that is larger than one file: each process writes what it holds.

Beside a checkpoint `last.pt` stands a folder `last.slices-…`: a file per rectangle of a tensor, and
`manifest.json`, which is written last and says of each file its checksum and which rows and
columns of which tensor are in it. The checkpoint names the folder and the manifest's checksum. A
reader maps the files into memory and reads the rows that it wants; it runs nothing that stands in
them.
"""

import hashlib
import json
import pickle
import shutil
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepfm.errors import CheckpointError
from deepfm.utils.io import atomic_write_bytes, atomic_writer, make_directory, sha256

MANIFEST = "manifest.json"
_FORMAT = "deepfm slices"
_Bounds = tuple[int, int]


class Slice(NamedTuple):
    """A rectangle of a tensor (rows, columns) that stands in a checkpoint.

    Attributes:
        at: Where: the keys that lead to it, of one place or of several.
        shape: Of the whole tensor.
        rows, columns: First and end.
        values: The rectangle.
    """

    at: Sequence[Sequence[str | int]]
    shape: _Bounds
    rows: _Bounds
    columns: _Bounds
    values: Tensor

    @property
    def name(self) -> str:
        """Its key in a file.

        Example:
            >>> Slice([["model", "a"]], (9, 2), (4, 9), (0, 2), torch.zeros(5, 2)).name
            'model/a[4:9, 0:2]'
        """
        (a, b), (c, d) = self.rows, self.columns
        return f"{'/'.join(map(str, self.at[0]))}[{a}:{b}, {c}:{d}]"


def folder_of(path: Path, token: str) -> Path:
    """Where the slices of a checkpoint stand.

    Example:
        >>> folder_of(Path("run/last.pt"), "0a").name
        'last.slices-0a'
    """
    return path.with_name(f"{path.stem}.slices-{token}")


def forget_slices(path: Path, keep: Path | None = None) -> None:
    """Remove the folders of a checkpoint's slices but for one."""
    for folder in path.parent.glob(f"{path.stem}.slices-*"):
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)


def write_slices(folder: Path, rank: int, slices: Iterable[Slice]) -> list[dict[str, Any]]:
    """Write what a process holds, one after the other; gives what the manifest says of it.

    Raises:
        DeepFMError: The disk refuses.
    """
    make_directory(folder, f"{folder}: cannot be written")
    told = []
    for number, item in enumerate(item for item in slices if item.values.numel()):
        path = folder / f"rank-{rank}-{number}.pt"
        with atomic_writer(path) as file:
            torch.save({item.name: item.values.clone()}, file)  # not all that it is a view of
        own = item._asdict() | {"file": path.name, "name": item.name, "sha256": _digest(path)}
        told.append({key: value for key, value in own.items() if key != "values"})
    return told


def write_manifest(folder: Path, slices: Sequence[Mapping[str, Any]]) -> str:
    """Write what all processes said of their files; gives its checksum."""
    told = {"format": _FORMAT, "format_version": 1, "slices": slices}
    text = json.dumps(told, indent=1).encode()
    atomic_write_bytes(folder / MANIFEST, text)
    return sha256(text)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _File(NamedTuple):
    """A rectangle of a tensor, and the file that holds it under a name."""

    rows: _Bounds
    columns: _Bounds
    path: Path
    name: str
    digest: str

    def read(self) -> Tensor:
        """The rectangle, mapped into memory.

        Raises:
            CheckpointError: The file is missing, another one than was written, or holds a number
                that is none.
        """
        try:
            if _digest(self.path) != self.digest:
                raise CheckpointError(f"{self.path}: damaged: it has another checksum")
            read: dict[str, Tensor] = torch.load(self.path, mmap=True, weights_only=True)
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: cannot be read: {error.strerror or error}"
            ) from None
        except (pickle.UnpicklingError, RuntimeError) as error:
            raise CheckpointError(f"{self.path}: damaged: {type(error).__name__}") from None
        found = read[self.name]
        if not found.sum().isfinite() and not found.isfinite().all():
            raise CheckpointError(f"{self.path}: {self.name} has a NaN or an infinite number")
        return found


class SlicedTensor:
    """A tensor (rows, columns) that lies in several files, of which parts are read.

    Example:
        >>> SlicedTensor((4, 2)).shape, SlicedTensor((4, 2)).dim()
        (torch.Size([4, 2]), 2)
    """

    def __init__(self, shape: _Bounds) -> None:
        self.shape = torch.Size(shape)
        self._files: list[_File] = []

    def dim(self) -> int:
        return len(self.shape)

    def add(self, file: _File) -> None:
        """Say that a rectangle stands in a file."""
        self._files.append(file)

    def is_whole(self) -> bool:
        """Whether the rectangles, of which no two overlap, are all of it."""
        held = ((f.rows[1] - f.rows[0]) * (f.columns[1] - f.columns[0]) for f in self._files)
        return sum(held) == self.shape.numel()

    def __getitem__(self, place: slice | tuple[slice, slice]) -> Tensor:
        """Some rows and columns, copied from the files that hold them.

        Raises:
            CheckpointError: One of these is missing, damaged, or holds a NaN.
        """
        wanted = place if isinstance(place, tuple) else (place, slice(None))
        (r0, r1, _), (c0, c1, _) = (
            part.indices(size) for part, size in zip(wanted, self.shape, strict=True)
        )
        found = torch.zeros(max(r1 - r0, 0), max(c1 - c0, 0))
        for file in self._files:
            (a, b), (c, d) = file.rows, file.columns
            top, bottom, left, right = max(a, r0), min(b, r1), max(c, c0), min(d, c1)
            if top < bottom and left < right:
                own = file.read()[top - a : bottom - a, left - c : right - c]
                found[top - r0 : bottom - r0, left - c0 : right - c0] = own
        return found


def open_slices(folder: Path, digest: str) -> Iterator[tuple[Sequence[str | int], SlicedTensor]]:
    """The tensors of a folder, each with the keys that lead to its places in the checkpoint.

    Raises:
        CheckpointError: The manifest is missing, damaged, of a newer format, or does not cover a
            tensor.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    if sha256(text) != digest:
        raise CheckpointError(f"{path}: damaged: it has another checksum")
    read = json.loads(text)
    if read["format_version"] != 1:
        raise CheckpointError(f"{path}: format {read['format_version']}, this release reads 1")
    found: dict[str, tuple[list[list[str | int]], SlicedTensor]] = {}
    for item in read["slices"]:
        rows, columns = tuple(item["rows"]), tuple(item["columns"])
        own = folder / Path(item["file"]).name
        _, tensor = found.setdefault(
            json.dumps(item["at"]), (item["at"], SlicedTensor(tuple(item["shape"])))
        )
        tensor.add(_File(rows, columns, own, item["name"], item["sha256"]))
    for places, tensor in found.values():
        if not tensor.is_whole():
            raise CheckpointError(f"{path}: damaged: rows of {places[0][-1]} are missing")
        for place in places:
            yield place, tensor


def put_back(content: MutableMapping[Any, Any], at: Sequence[str | int], value: object) -> None:
    """Put a value where these keys lead.

    Example:
        >>> content = {"a": [{}, {5: {}}]}
        >>> put_back(content, ["a", 1, 5, "b"], 7)
        >>> content
        {'a': [{}, {5: {'b': 7}}]}
    """
    below: Any = content
    for key in at[:-1]:
        below = below[key]
    below[at[-1]] = value
