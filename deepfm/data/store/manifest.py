"""`manifest.json` of a store: what its arrays are, what was counted, and the checksums of both."""

import json
from pathlib import Path
from typing import Any

from deepfm.data.store.damage import damaged
from deepfm.data.store.versions import FORMAT_VERSION, READ_ALIKE, hash_plain
from deepfm.errors import DataError
from deepfm.utils.io import atomic_write_bytes


def write_manifest(path: Path, content: dict[str, Any]) -> None:
    """Write the manifest of the store in a directory."""
    manifest = {"format": "deepfm store", "format_version": FORMAT_VERSION} | content
    manifest["checksum"] = hash_plain(manifest)
    atomic_write_bytes(path / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the store in a directory.

    Raises:
        DataError: There is no store.
        DamagedStore: It has no manifest, or one that cannot be used.
    """
    file = path / "manifest.json"
    try:
        manifest = json.loads(file.read_bytes())
    except FileNotFoundError:
        if not path.exists():
            raise DataError(f"the store {path} is not there; `prepare` makes it") from None
        raise damaged(path, "half-written (no manifest.json)") from None
    except OSError as error:
        raise damaged(file, f"cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise damaged(file, f"damaged: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != "deepfm store":
        raise damaged(file, "damaged (not that of a store)")
    version = manifest.get("format_version")
    if version == 1:
        return manifest
    if version not in READ_ALIKE:
        raise damaged(file, f"no store of this release (format {version!r})")
    if manifest.pop("checksum", None) != hash_plain(manifest):
        raise damaged(file, "damaged (another checksum)")
    return manifest
