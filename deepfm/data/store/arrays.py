"""The arrays of a store: one file without a header for each, written in parts.

`deepfm.data.store.prepare` says which arrays there are, and keeps their types and shapes.
"""

import contextlib
import errno
import math
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, NotRequired, TypedDict

import numpy as np
import xxhash

from deepfm.data.schema import FieldSchema
from deepfm.data.store.damage import damaged
from deepfm.data.store.sums import BlockSums, digest_of, rows_per_block

_COPIED_AT_ONCE = 4 << 20  # bytes
# What a file system says that gives a file no second name, or no more of them.
_NO_LINKS = {errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}


class RaggedIds(NamedTuple):
    """Lists of ids end to end, (E,), and how many each row has, (N,)."""

    ids: np.ndarray
    lengths: np.ndarray


class SplitArrays(NamedTuple):
    """Arrays of some rows of a split.

    Attributes:
        plain: By name, (N, …) each.
        ragged: By the name of a sequence.
    """

    plain: Mapping[str, np.ndarray]
    ragged: Mapping[str, RaggedIds]


class ArrayShape(TypedDict):
    """Type and shape of an array, and the checksum of its checksums, as the manifest has them.

    A store of format 1 has no checksums.
    """

    dtype: str
    shape: list[int]
    checksum: NotRequired[str]


class Piece(NamedTuple):
    """The arrays that one writer wrote into a folder, which another one may put behind its own.

    Attributes:
        rows: By split.
        shapes: By split, and by array.
        ragged: By split, the sequences whose ids are end to end.
    """

    rows: dict[str, int]
    shapes: dict[str, dict[str, ArrayShape]]
    ragged: dict[str, list[str]]


class ArrayWriter:
    """Appends arrays to the files of a store; they reach the disk when the block ends.

    Attributes:
        rows: Written so far, by split.
    """

    def __init__(self, folder: Path) -> None:
        self.rows: Counter[str] = Counter()
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._files: dict[tuple[str, str], BinaryIO] = {}
        self._shapes: dict[str, dict[str, ArrayShape]] = {}  # by folder and array
        self._ragged: dict[str, list[str]] = {}
        self._sums: dict[tuple[str, str], BlockSums] = {}

    def write(self, by_split: Mapping[str, SplitArrays]) -> None:
        """Append arrays; of ragged ids it writes where each row's list begins, too."""
        for split, arrays in by_split.items():
            for name, values in arrays.plain.items():
                self.append(split, name, values)
            for name, (ids, lengths) in arrays.ragged.items():
                counts = lengths.astype(np.int64)
                before = self._written(split, f"{name}_ids")
                self.append(split, f"{name}_starts", before + np.cumsum(counts) - counts)
                self.append(split, f"{name}_ids", ids)
                self.append(split, f"{name}_lengths", lengths)
            self._ragged.setdefault(split, [*arrays.ragged])
            self.rows[split] += len(arrays.plain["row"])

    def append(self, folder: str, name: str, values: np.ndarray) -> None:
        """Append rows to one array, in the folder of a split or beside those."""
        if (folder, name) not in self._files:
            self._open(folder, name, values.dtype.name, values.shape[1:], "xb")
        write_array(self._files[folder, name], values)
        self._sums[folder, name].update(_bytes(values))
        self._shapes[folder][name]["shape"][0] += len(values)

    def append_piece(self, folder: Path, piece: Piece) -> None:
        """Append all arrays of a piece, whose files are removed."""
        for split, shapes in piece.shapes.items():
            starts = {f"{name}_starts": f"{name}_ids" for name in piece.ragged[split]}
            before = {name: self._written(split, ids) for name, ids in starts.items()}
            for name, shape in shapes.items():
                path = folder / split / f"{name}.bin"
                if (split, name) not in self._files:
                    self._adopt(split, name, path, shape)
                    continue
                for values in _in_parts(path, shape):
                    self.append(split, name, values + before[name] if name in before else values)
                path.unlink()
            self._ragged.setdefault(split, piece.ragged[split])
            self.rows[split] += piece.rows[split]

    def go_on_from(
        self, store: Path, arrays: Mapping[str, Mapping[str, ArrayShape]], grown: Collection[str]
    ) -> None:
        """Begin with all arrays of a store, behind which more are appended.

        Their bytes are not copied: both stores have the same files, of which each reads the rows
        that its own manifest says. Only where rows that nobody reads stand behind those of the
        store, or the file system has no hard links, a file is copied.

        Args:
            store: Its directory.
            arrays: By split, as its manifest has them.
            grown: The splits that will have more rows.

        Raises:
            DamagedStore: Checksums, or the last block of an array, are not what was written.
        """
        for split, shapes in arrays.items():
            for name, shape in shapes.items():
                self._share(store, split, name, shape, grows=split in grown)
            self.rows[split] += shapes["row"]["shape"][0]

    def piece(self) -> Piece:
        """What was written, once the block has ended."""
        return Piece(dict(self.rows), self._shapes, self._ragged)

    def shapes(self, folder: str) -> dict[str, ArrayShape]:
        """The arrays in a folder by name."""
        return self._shapes[folder]

    def _written(self, split: str, name: str) -> int:
        shape = self._shapes.get(split, {}).get(name)
        return 0 if shape is None else shape["shape"][0]

    def _open(
        self, folder: str, name: str, dtype: str, shape: Sequence[int], mode: str
    ) -> BlockSums:
        """Open the file of an array, whose rows have a shape; the checksums of its blocks."""
        path = self._folder / folder / f"{name}.bin"
        path.parent.mkdir(exist_ok=True)
        file: BinaryIO = path.open(mode)  # type: ignore[assignment]
        self._files[folder, name] = self._stack.enter_context(file)
        self._shapes.setdefault(folder, {})[name] = {"dtype": dtype, "shape": [0, *shape]}
        row = np.dtype(dtype).itemsize * math.prod(shape)
        sums = BlockSums(rows_per_block(dtype, (0, *shape)) * row)
        self._sums[folder, name] = sums
        return sums

    def _adopt(self, folder: str, name: str, path: Path, shape: ArrayShape) -> None:
        """Take over the file of an array, which has been written elsewhere, as the first one."""
        own = self._folder / folder / f"{name}.bin"
        own.parent.mkdir(exist_ok=True)
        os.replace(path, own)
        self._go_on(folder, name, shape, path.with_suffix(".sums").read_bytes())

    def _go_on(self, folder: str, name: str, shape: ArrayShape, all_sums: bytes) -> memoryview:
        """Write behind the rows of a file that is there; the bytes of its last block, if not whole.

        Args:
            all_sums: The checksums of its blocks.
        """
        sums = self._open(folder, name, shape["dtype"], shape["shape"][1:], "ab")
        self._shapes[folder][name]["shape"][0] = shape["shape"][0]
        size = size_of(shape)
        if not size:
            return memoryview(b"")
        whole = size // sums.size
        with (self._folder / folder / f"{name}.bin").open("rb") as file:
            file.seek(whole * sums.size)
            rest = memoryview(file.read(size - whole * sums.size))
        sums.go_on(all_sums[: 8 * whole], rest)
        return rest

    def _share(
        self, store: Path, folder: str, name: str, shape: ArrayShape, *, grows: bool
    ) -> None:
        """Go on with an array of another store, in its own file if nobody else's rows are there."""
        path, own = store / folder / f"{name}.bin", self._folder / folder / f"{name}.bin"
        own.parent.mkdir(exist_ok=True)
        try:
            all_sums, found = path.with_suffix(".sums").read_bytes(), path.stat().st_size
        except OSError as error:
            raise damaged(path, f"cannot be read: {error.strerror or error}") from None
        size = size_of(shape)
        if found < size:
            raise damaged(path, f"expected {size:,} bytes, found {found:,}")
        if digest_of(all_sums) != shape.get("checksum"):
            raise damaged(path.with_suffix(".sums"), "damaged (another checksum than in the store)")
        if (grows and found > size) or not linked(path, own):
            copy_start(path, own, size)
        rest = self._go_on(folder, name, shape, all_sums)
        if len(rest) and xxhash.xxh3_64_intdigest(rest) != int.from_bytes(all_sums[-8:], "little"):
            raise damaged(path, "damaged (its last rows have another checksum)")

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._stack:
            if kind is None:
                for (split, name), sums in self._sums.items():
                    data = sums.end()
                    self._shapes[split][name]["checksum"] = digest_of(data)
                    path = self._folder / split / f"{name}.sums"
                    sums_file = self._stack.enter_context(path.open("xb"))
                    sums_file.write(data)
                    self._files[split, f"{name}.sums"] = sums_file
                for file in self._files.values():
                    file.flush()
                    os.fsync(file.fileno())


def size_of(shape: ArrayShape) -> int:
    """How many bytes an array has."""
    return math.prod(shape["shape"]) * np.dtype(shape["dtype"]).itemsize


def linked(path: Path, name: Path) -> bool:
    """Give a file a second name; False where the file system has no such."""
    try:
        os.link(path, name)
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True


def copy_start(path: Path, target: Path, size: int) -> None:
    """Copy the first bytes of a file into a new one."""
    with path.open("rb") as file, target.open("xb") as out:
        while size and (data := file.read(min(size, _COPIED_AT_ONCE))):
            out.write(data)
            size -= len(data)


def write_array(file: BinaryIO, values: np.ndarray) -> None:
    """Append the bytes of an array."""
    if values.size:
        file.write(_bytes(values))


def _bytes(values: np.ndarray) -> memoryview:
    return np.ascontiguousarray(values).data.cast("B") if values.size else memoryview(b"")


def _in_parts(path: Path, shape: ArrayShape) -> Iterator[np.ndarray]:
    """The rows of an array in a file, some at a time."""
    dtype, (rows, *row) = np.dtype(shape["dtype"]), shape["shape"]
    size = max(1, dtype.itemsize * math.prod(row))
    step = max(1, _COPIED_AT_ONCE // size)
    with path.open("rb") as file:
        for start in range(0, rows, step):
            count = min(step, rows - start)
            data = file.read(count * dtype.itemsize * math.prod(row))
            yield np.frombuffer(data, dtype).reshape(count, *row)


def id_type(fields: Sequence[FieldSchema]) -> type[np.int32] | type[np.int64]:
    """What holds the ids of all of these fields."""
    largest = max((field.vocabulary_size for field in fields), default=0)
    return np.int32 if largest <= np.iinfo(np.int32).max else np.int64
