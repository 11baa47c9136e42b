"""What was appended to a store, as its manifest says, and the store that new files go on from."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deepfm.data.fingerprint import Fingerprint, Part
from deepfm.data.later_rows import Step
from deepfm.data.store.held_rows import held_rows
from deepfm.data.store.manifest import read_manifest
from deepfm.data.store.table_rows import RowsOfATable
from deepfm.errors import DataError, Place
from deepfm.utils.places import AnyPath

FITTED, APPENDED = "fitted", "appended"  # how a store was made that can be gone on from
ROLE = "appended"  # in a fingerprint


class Base(NamedTuple):
    """A store that new files go on from.

    Attributes:
        path: Its directory.
        manifest: What stands there.
        new: The files whose rows it lacks, by role.
    """

    path: Path
    manifest: dict[str, Any]
    new: dict[str, list[AnyPath]]


def steps_of(manifest: Mapping[str, Any]) -> tuple[Step, ...]:
    """What was appended to a store."""
    return tuple(Step(**plain) for plain in manifest.get("appended", ()))


def steps_at(path: Path) -> tuple[Step, ...]:
    """As `steps_of`, of a store that may not be there."""
    with contextlib.suppress(DataError):
        return steps_of(read_manifest(path))
    return ()


def with_steps(fingerprint: Fingerprint, steps: Iterable[Step]) -> Fingerprint:
    """A fingerprint that differs from one of the same files which were prepared at once."""
    parts = tuple(
        Part(f"rows appended behind {step.before:,}", step.before, step.placed or "")
        for step in steps
    )
    return Fingerprint({**fingerprint.parts, **({ROLE: parts} if parts else {})})


def of_files(fingerprint: Fingerprint) -> Fingerprint:
    """The fingerprint of files alone."""
    return Fingerprint({role: some for role, some in fingerprint.parts.items() if role != ROLE})


def base_of(rows: RowsOfATable, store_dir: Path) -> Base:
    """The store of the first files of a table that has most of them.

    Raises:
        DataError: There is none, or a new file has the rows of one that is in it.
    """
    settings, content = rows.settings_key(), rows.content()
    found: list[Base] = []
    others = 0
    for path in store_dir.glob("*/manifest.json"):
        with contextlib.suppress(DataError):
            manifest = read_manifest(path.parent)
            is_whole = held_rows(manifest) is None
            if not is_whole or manifest.get("made") not in (FITTED, APPENDED):
                continue
            others += 1
            if manifest["settings"] != settings:
                continue
            if (new := _new_files(rows, content, manifest["content"])) is not None:
                found.append(Base(path.parent, manifest, new))
    if not found:
        names = ", ".join(f"{path}" for paths in rows.row_files.values() for path in paths[:1])
        raise DataError(
            "expected a store of these settings whose files are the first ones of the config "
            f"({names}, …), found none among {others}; deepfm prepare without --append makes one "
            "of all files",
            place=Place(file=str(store_dir)),
        )
    base = min(found, key=lambda one: (sum(map(len, one.new.values())), one.path.name))
    _refuse_known(rows, content, base)
    return base


def _new_files(
    rows: RowsOfATable, content: Mapping[str, Any], before: Mapping[str, Any]
) -> dict[str, list[AnyPath]] | None:
    """The files behind those of a store, by role; None if it has others, or in another order."""
    if not before.keys() <= content.keys():
        return None
    new = {}
    for role, parts in content.items():
        known = before.get(role, [])
        if parts[: len(known)] != known:
            return None
        if len(parts) > len(known):
            new[role] = rows.row_files[role][len(known) :]
    return new


def _refuse_known(rows: RowsOfATable, content: Mapping[str, Any], base: Base) -> None:
    """Refuse a new file whose rows the store has already.

    Raises:
        DataError: Names both files.
    """
    seen: dict[tuple[str, str], AnyPath] = {}
    for role, parts in content.items():
        new = set(base.new.get(role, ()))
        for (_, digest), path in zip(parts, rows.row_files[role], strict=True):
            if path in new and (role, digest) in seen:
                raise DataError(
                    f"its content is that of {seen[role, digest]}, whose rows are there already",
                    place=Place(file=str(path)),
                )
            seen[role, digest] = path
