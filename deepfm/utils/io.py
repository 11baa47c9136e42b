"""Files that are whole or absent, checksums, and tables as bytes.

A reader never meets half a file, whatever interrupts the writer: the bytes go to a temporary name
in the same directory, reach the disk, and only then take the final name.
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa

from deepfm.errors import DeepFMError

if TYPE_CHECKING:
    from torch import Tensor


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the name `path` when the block ends, and never if it fails.

    What stood under `path` before stays until it is replaced. The directory must exist. A killed
    process can leave a `.<name>.<random>.tmp` behind, nothing else.

    Raises:
        DeepFMError: The disk refuses; any other error of the block passes unchanged.
    """
    # Random, so that two processes that write the same file do not share a temporary one.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except (OSError, RuntimeError) as error:
        # torch.save turns the OSError of a full disk into a RuntimeError about a position.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise DeepFMError(f"cannot write {path}: {cause.strerror or cause}") from error
    finally:
        with contextlib.suppress(OSError):  # absent after success
            temporary.unlink()


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file through `atomic_writer`."""
    with atomic_writer(path) as file:
        file.write(data)


def make_directory(path: Path, failure: str) -> None:
    """Make a directory, and those above it, unless it is there.

    Args:
        failure: What the error begins with, such as `cannot write a.csv`.

    Raises:
        DeepFMError: The disk refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeepFMError(f"{failure}: {error.strerror or error}") from None


def sha256(data: bytes) -> str:
    """Return the SHA-256 digest in hexadecimal.

    Example:
        >>> sha256(b"")[:16]
        'e3b0c44298fc1c14'
    """
    return hashlib.sha256(data).hexdigest()


def _sync_directory(directory: Path) -> None:
    """Makes a rename survive a power cut, where the file system can sync a directory."""
    with contextlib.suppress(OSError):  # Windows and some network mounts cannot
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def table_to_tensor(table: pa.Table) -> "Tensor":
    """A table as bytes, (n,) uint8, which a checkpoint can hold."""
    import torch  # seconds, which those who only write files need not wait

    return torch.from_numpy(table_to_array(table).copy())


def table_to_array(table: pa.Table) -> np.ndarray:
    """A table as bytes, (n,) uint8."""
    return np.frombuffer(table_to_bytes(table), np.uint8)


def arrays_as_tensors(plain: Any) -> Any:
    """Plain data with tensors in the place of its arrays, as a checkpoint can hold it."""
    import torch

    if isinstance(plain, np.ndarray):
        return torch.from_numpy(plain.copy())
    if isinstance(plain, Mapping):
        return {key: arrays_as_tensors(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return type(plain)(map(arrays_as_tensors, plain))
    return plain


def table_to_bytes(table: pa.Table) -> pa.Buffer:
    """A table as bytes, a stream of Arrow."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def tensor_to_table(tensor: "Tensor | np.ndarray") -> pa.Table:
    """The inverse of `table_to_tensor`, of a tensor or of an array.

    Raises:
        pa.ArrowException: The bytes are damaged.
    """
    table = pa.ipc.open_stream(pa.py_buffer(np.asarray(tensor))).read_all()
    table.validate(full=True)
    return table
