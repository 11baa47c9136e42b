"""The arrays of a store: one file without a header for each, written in parts and mapped to read.

`deepfm.data.store` says which arrays there are, and keeps their types and shapes.
"""

import contextlib
import os
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from deepfm.data.batch import Inputs, Ragged
from deepfm.data.dataset import TabularDataset
from deepfm.data.schema import DatasetSchema
from deepfm.errors import DataError, Place


class ArrayWriter:
    """Appends arrays to the files of a store; they reach the disk when the block ends.

    Attributes:
        rows: Written so far, by split.
    """

    def __init__(self, folder: Path) -> None:
        self.rows: Counter = Counter()
        self._written: Counter = Counter()  # rows or elements, by split and array
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._files: dict[tuple[str, str], BinaryIO] = {}
        self._forms: dict[str, dict[str, dict[str, Any]]] = {}

    def write(self, arrays_by_part: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Append arrays, by split and name; of ragged ids the starts are added here."""
        for part, arrays in arrays_by_part.items():
            for name, values in arrays.items():
                if name.endswith("_ids") and values.ndim == 1:
                    lengths = arrays[name.replace("_ids", "_lengths")].astype(np.int64)
                    starts = self._written[part, name] + np.cumsum(lengths) - lengths
                    self._append(part, name.replace("_ids", "_starts"), starts)
                self._append(part, name, values)
            self.rows[part] += len(arrays["label"])

    def _append(self, part: str, name: str, values: np.ndarray) -> None:
        write_array(self._file(part, name, values), values)
        self._written[part, name] += len(values)

    def forms(self, part: str) -> dict[str, dict[str, Any]]:
        """By array of a split: its `dtype` and `shape`."""
        return {
            name: form | {"shape": [self._written[part, name], *form["shape"]]}
            for name, form in self._forms[part].items()
        }

    def _file(self, part: str, name: str, values: np.ndarray) -> BinaryIO:
        if (part, name) not in self._files:
            (self._folder / part).mkdir(exist_ok=True)
            file = (self._folder / part / f"{name}.bin").open("xb")
            self._files[part, name] = self._stack.enter_context(file)
            form = {"dtype": values.dtype.name, "shape": values.shape[1:]}
            self._forms.setdefault(part, {})[name] = form
        return self._files[part, name]

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            if kind is None:
                for file in self._files.values():
                    file.flush()
                    os.fsync(file.fileno())


def write_array(file: BinaryIO, values: np.ndarray) -> None:
    """Append the bytes of an array."""
    if values.size:
        file.write(memoryview(np.ascontiguousarray(values)).cast("B"))


def open_split(
    folder: Path, forms: Mapping[str, Mapping[str, Any]], schema: DatasetSchema
) -> TabularDataset:
    """The split that stands in a folder, mapped into memory.

    Args:
        forms: As `ArrayWriter.forms` gave them.
        schema: With vocabulary sizes.

    Raises:
        DataError: A file is missing or has another size.
    """
    arrays = {name: _mapped(folder / f"{name}.bin", **form) for name, form in forms.items()}
    tensors = {name: _tensor(array) for name, array in arrays.items() if name != "row"}
    sequences = range(len(schema.sequence_fields))
    inputs = Inputs(
        tensors["sparse"],
        tensors["dense"],
        tuple(_sequence_ids(tensors, k) for k in sequences),
        tuple(tensors[f"sequence{k}_lengths"] for k in sequences),
    )
    return TabularDataset(
        schema,
        inputs,
        tensors["label"],
        weight=tensors.get("weight"),
        group=tensors.get("group"),
        row=arrays["row"],
    )


def _sequence_ids(tensors: Mapping[str, Tensor], number: int) -> Tensor | Ragged:
    ids, starts, lengths = (
        tensors.get(f"sequence{number}_{part}") for part in ("ids", "starts", "lengths")
    )
    return ids if starts is None else Ragged(ids, starts, lengths)


def _mapped(path: Path, dtype: str, shape: list[int]) -> np.ndarray:
    """An array of a store, read where it is used.

    Raises:
        DataError: The file is missing or has another size.
    """
    expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        found = path.stat().st_size
        if found == expected:
            if not found:  # an empty file cannot be mapped
                return np.zeros(shape, dtype)
            return np.memmap(path, dtype, "r", shape=tuple(shape))
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}; remove the store", place=Place(file=str(path))
        ) from None
    raise DataError(
        f"expected {expected:,} bytes, found {found:,}; remove the store",
        place=Place(file=str(path)),
    )


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # Nothing writes to the rows of a data set: batches are copies.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
