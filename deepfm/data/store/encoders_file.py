"""The file of a store's fitted encoders, which is written and read without torch."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from deepfm.data.encoding.encoders import Encoders
from deepfm.data.plain import packed, unpacked
from deepfm.data.schema import DatasetSchema
from deepfm.data.store.damage import damaged
from deepfm.data.store.sums import digest_of
from deepfm.utils.io import atomic_writer

ENCODERS = "encoders.npz"
_EARLIER = "encoders.pt"  # of stores whose manifest names no file
_PLAIN = "plain"  # what is no array, as JSON


def name_in(manifest: Mapping[str, Any]) -> str:
    """The file of the encoders of a store."""
    return str(manifest.get("encoders_file", _EARLIER))


def write_encoders(path: Path, encoders: Encoders) -> None:
    """Write fitted encoders; equal ones make equal files."""
    arrays: dict[str, np.ndarray] = {}
    plain = json.dumps(packed(encoders.to_dict()["fitted"], arrays))
    arrays[_PLAIN] = np.frombuffer(plain.encode(), np.uint8)
    with atomic_writer(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_encoders(path: Path, checksum: str | None, schema: DatasetSchema) -> Encoders:
    """Fitted encoders in a file.

    Args:
        checksum: Of the file; None: of an older store.
        schema: Of the fields that they encode.

    Raises:
        DamagedStore: The file cannot be read, or is not what was written.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror or error}") from None
    if checksum is not None and digest_of(data) != checksum:
        raise damaged(path, "damaged (another checksum than in manifest.json)")
    try:
        fitted = _of_tensors(data) if path.suffix == ".pt" else _of_arrays(data)
        return Encoders.from_dict({"fitted": fitted, "schema": schema.to_dict()})
    except Exception as error:  # damaged bytes fail in a dozen ways; with a checksum they do not
        reason = " ".join(str(error).split()) or type(error).__name__
        raise damaged(path, f"cannot be read: {reason}") from None


def digest_of_encoders(encoders: Encoders) -> str:
    """A hash of what was fitted."""
    hashed = xxhash.xxh3_64()

    def update(plain: object) -> None:
        if isinstance(plain, Mapping):
            for key, value in plain.items():
                hashed.update(f"{key}:".encode())
                update(value)
        elif isinstance(plain, np.ndarray):
            hashed.update(np.ascontiguousarray(plain).data)
        else:
            hashed.update(json.dumps(plain).encode())

    update(encoders.to_dict()["fitted"])
    return hashed.hexdigest()


def _of_arrays(data: bytes) -> Any:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return unpacked(json.loads(arrays[_PLAIN].tobytes()), arrays)


def _of_tensors(data: bytes) -> Any:
    import torch  # seconds, for the file of an earlier release

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)["fitted"]
