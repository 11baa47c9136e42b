"""The arrays of a store: one file without a header for each, written in parts and mapped to read.

`deepfm.data.store.prepare` says which arrays there are, and keeps their types and shapes.
"""

import contextlib
import math
import os
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from deepfm.data.schema import FieldSchema
from deepfm.data.store.checks import BlockChecks, BlockSums, damaged, digest_of, rows_per_block


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
            self.rows[split] += len(arrays.plain["row"])

    def append(self, folder: str, name: str, values: np.ndarray) -> None:
        """Append rows to one array, in the folder of a split or beside those."""
        file = self._file(folder, name, values)
        write_array(file, values)
        self._sums[folder, name].update(_bytes(values))
        self._shapes[folder][name]["shape"][0] += len(values)

    def shapes(self, folder: str) -> dict[str, ArrayShape]:
        """The arrays in a folder by name."""
        return self._shapes[folder]

    def _written(self, split: str, name: str) -> int:
        shape = self._shapes.get(split, {}).get(name)
        return 0 if shape is None else shape["shape"][0]

    def _file(self, split: str, name: str, values: np.ndarray) -> BinaryIO:
        if (split, name) not in self._files:
            (self._folder / split).mkdir(exist_ok=True)
            file = (self._folder / split / f"{name}.bin").open("xb")
            self._files[split, name] = self._stack.enter_context(file)
            empty: ArrayShape = {"dtype": values.dtype.name, "shape": [0, *values.shape[1:]]}
            self._shapes.setdefault(split, {})[name] = empty
            row = values.itemsize * math.prod(values.shape[1:])
            block = rows_per_block(values.dtype.name, values.shape) * row
            self._sums[split, name] = BlockSums(block)
        return self._files[split, name]

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


def write_array(file: BinaryIO, values: np.ndarray) -> None:
    """Append the bytes of an array."""
    if values.size:
        file.write(_bytes(values))


def _bytes(values: np.ndarray) -> memoryview:
    return np.ascontiguousarray(values).data.cast("B") if values.size else memoryview(b"")


class OpenArrays(NamedTuple):
    """Arrays of a folder by name, mapped into memory, and the checks of those not yet compared."""

    arrays: dict[str, np.ndarray]
    later: dict[str, BlockChecks]


def open_arrays(
    folder: Path, shapes: Mapping[str, ArrayShape], whole: Collection[str], *, check_all: bool
) -> OpenArrays:
    """The arrays that stand in a folder.

    Args:
        shapes: As `ArrayWriter.shapes` gave them.
        whole: Arrays that are read as a whole, and compared with their checksums now.
        check_all: Compare all checksums now.

    Raises:
        DamagedStore: A file is missing, has another size, or differs from its checksums.
    """
    arrays = {
        name: _mapped(folder / f"{name}.bin", shape["dtype"], shape["shape"])
        for name, shape in shapes.items()
    }
    later: dict[str, BlockChecks] = {}
    for name, shape in shapes.items():
        if "checksum" in shape:
            checks = BlockChecks(folder / f"{name}.bin", arrays[name], shape["checksum"])
            if check_all or name in whole:
                checks.check_all()
            else:
                later[name] = checks
    return OpenArrays(arrays, later)


def _mapped(path: Path, dtype: str, shape: Sequence[int]) -> np.ndarray:
    """An array of a store, read where it is used.

    Raises:
        DamagedStore: The file is missing or has another size.
    """
    expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        found = path.stat().st_size
        if found == expected:
            if not found:  # an empty file cannot be mapped
                return np.zeros(shape, dtype)
            return np.memmap(path, dtype, "r", shape=tuple(shape))
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror}") from None
    raise damaged(path, f"expected {expected:,} bytes, found {found:,}")


def as_tensor(array: np.ndarray) -> Tensor:
    """A mapped array, which stays where it is."""
    with warnings.catch_warnings():
        # Nothing writes to the rows of a data set: batches are copies.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def id_type(fields: Sequence[FieldSchema]) -> type[np.int32] | type[np.int64]:
    """What holds the ids of all of these fields."""
    largest = max((field.vocabulary_size for field in fields), default=0)
    return np.int32 if largest <= np.iinfo(np.int32).max else np.int64
