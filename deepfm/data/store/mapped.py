"""The arrays of a store, mapped into memory and compared with their checksums."""

import mmap
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deepfm.data.store.arrays import ArrayShape, size_of
from deepfm.data.store.checks import BlockChecks
from deepfm.data.store.damage import damaged
from deepfm.utils.memory import total_memory


class OpenArrays(NamedTuple):
    """Arrays of a folder by name, mapped into memory, and the checks of those not yet compared."""

    arrays: dict[str, np.ndarray]
    later: dict[str, BlockChecks]


def open_arrays(
    folder: Path,
    shapes: Mapping[str, ArrayShape],
    whole: Collection[str],
    *,
    check_all: bool,
    at_random: bool = False,
) -> OpenArrays:
    """The arrays that stand in a folder.

    Args:
        shapes: As `ArrayWriter.shapes` gave them.
        whole: Arrays that are read as a whole, and compared with their checksums now.
        check_all: Compare all checksums now.
        at_random: Whether rows are read in any order. Where the arrays take more than half of the
            memory, the system is told to read these rows only, and not what stands around them.

    Raises:
        DamagedStore: A file is missing, has another size, or differs from its checksums.
    """
    memory = total_memory() if at_random else None
    is_larger = memory is not None and sum(map(size_of, shapes.values())) > memory / 2
    arrays = {
        name: _mapped(folder / f"{name}.bin", shape, alone=is_larger and name not in whole)
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


def _mapped(path: Path, shape: ArrayShape, *, alone: bool) -> np.ndarray:
    """An array of a store, read where it is used.

    Args:
        alone: Whether only what is used is read, page by page.

    Raises:
        DamagedStore: The file is missing or too short.
    """
    expected = size_of(shape)
    try:
        found = path.stat().st_size
        if found >= expected:  # rows of a store that goes on from this one stand behind its own
            if not expected:  # an empty file cannot be mapped
                return np.zeros(shape["shape"], shape["dtype"])
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), expected, access=mmap.ACCESS_READ)
            if alone and hasattr(mmap, "MADV_RANDOM"):
                mapped.madvise(mmap.MADV_RANDOM)
            return np.frombuffer(mapped, shape["dtype"]).reshape(shape["shape"])
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror}") from None
    raise damaged(path, f"expected {expected:,} bytes, found {found:,}")
