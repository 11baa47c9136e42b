"""A store under a temporary name, which takes its own name when it is whole."""

import os
import secrets
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from deepfm.data.schema import DatasetSchema
from deepfm.data.store.damage import DamagedStore
from deepfm.data.store.manifest import write_manifest
from deepfm.data.store.table_rows import RowsOfATable
from deepfm.errors import DeepFMError
from deepfm.utils.locks import exclusive_lock
from deepfm.utils.logging import LOGGER


def write_store(
    path: Path,
    rows: RowsOfATable,
    make: Callable[[Path], dict[str, Any]],
    about: dict[str, Any],
    *,
    check: bool = False,
) -> None:
    """Write a store, unless another process does meanwhile.

    Args:
        path: Its directory.
        rows: Its rows, whose files must not change meanwhile.
        make: Writes all but the manifest into a folder, and gives the manifest's content.
        about: What the manifest says of how it was made.
        check: A store that is there is compared with its checksums, and made again if damaged.

    Raises:
        DeepFMError: The disk refuses; what was written is removed.
    """
    failure = f"cannot write the store {path}"
    advice = "what was written of it is removed (data.store_dir says where stores are)"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        waiting = partial(LOGGER.info, f"another process prepares {path}: waiting for it")
        with exclusive_lock(path.with_name(f".{path.name}.lock"), waiting):
            if _is_whole(path, rows.schema, check=check):
                return  # another process has made it meanwhile
            _remove_remains(path)
            scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            try:
                scratch.mkdir()
                made = make(scratch)
                rows.read.refuse_changed()
                content = {"settings": rows.settings_key(), "content": rows.content()}
                steps = {"appended": [step._asdict() for step in rows.steps]} if rows.steps else {}
                write_manifest(scratch, made | about | content | steps)
                os.replace(scratch, path)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise DeepFMError(f"{failure}: {error.strerror or error}; {advice}") from None
    except KeyboardInterrupt:
        LOGGER.warning(f"stopped; {advice.split(' (')[0]}")
        raise


def _is_whole(path: Path, schema: DatasetSchema, *, check: bool) -> bool:
    """Whether there is a store; with `check` its checksums are compared, too."""
    if not (path / "manifest.json").exists():
        return False
    if check:
        from deepfm.data.store.opening import verify_store  # torch, which is not needed else

        try:
            verify_store(path, schema)
        except DamagedStore:
            return False
    return True


def _remove_remains(path: Path) -> None:
    """Remove a store that is not whole, and what killed processes left of it."""
    if path.exists():
        if not (path / "manifest.json").exists():
            LOGGER.warning(f"{path} is half-written (no manifest.json): it is made again")
        (path / "manifest.json").unlink(missing_ok=True)  # first, so that what is left is not used
        shutil.rmtree(path)
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        shutil.rmtree(left)
