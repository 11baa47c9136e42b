"""What data is, by its content: a digest of each file, or of each table that an adapter gives.

Names, places and times of files are no part of it. Times only decide whether a file has to be
read again: its digest is kept beside the stores, and holds as long as size, inode, time of change
(`mtime`) and time of the last change of its status (`ctime`, which no program can set) are the
same. A file that was changed less than two seconds before it was read is read again the next time,
because the clock of a file system is coarse. Of a file in an object store size and ETag take the
place of these. `data.verify: full` trusts neither.
"""

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import xxhash

from deepfm.errors import DataError, DeepFMError, Place
from deepfm.utils.io import atomic_write_bytes
from deepfm.utils.logging import LOGGER
from deepfm.utils.places import AnyPath, is_uri, reading
from deepfm.utils.progress import ProgressBar

CACHE = "digests.json"  # in the folder of the stores
_CHUNK = 4 << 20
_LARGE = 1 << 30  # bytes from which reading them is said
_COARSE = 2_000_000_000  # ns that a file system's clock may be behind
_TABLE_ROWS = 1 << 16


class Part(NamedTuple):
    """A file or a table.

    Attributes:
        name: The file's path as it was found, or what the table is.
        size: Bytes, or rows.
        digest: Of the content, 32 hexadecimal digits.
    """

    name: str
    size: int
    digest: str


class Fingerprint:
    """The parts of some data by role, such as `rows`, `users`; plain data in a checkpoint.

    Attributes:
        parts: By role, in the order in which they are read.
    """

    def __init__(self, parts: Mapping[str, Sequence[Part]]) -> None:
        self.parts = {role: tuple(some) for role, some in parts.items()}

    def content(self, roles: Iterable[str]) -> dict[str, list[tuple[int, str]]]:
        """Sizes and digests of some roles, without names."""
        return {role: [part[1:] for part in self.parts[role]] for role in roles}

    def to_plain(self) -> dict[str, list[list[Any]]]:
        return {role: [list(part) for part in some] for role, some in self.parts.items()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Sequence[Sequence[Any]]]) -> "Fingerprint":
        """The inverse of `to_plain`.

        Raises:
            TypeError, ValueError: It is none.
        """
        found: dict[str, list[Part]] = {}
        for role, some in plain.items():
            found[str(role)] = [
                Part(str(name), int(size), str(digest)) for name, size, digest in some
            ]
        return cls(found)

    def difference(self, now: "Fingerprint") -> tuple[str, str] | None:
        """The first part that is another one now, and how it differs; None if the data is equal."""
        for role in dict.fromkeys((*self.parts, *now.parts)):
            before, after = self.parts.get(role, ()), now.parts.get(role, ())
            for one, other in zip(before, after, strict=False):
                if one[1:] != other[1:]:
                    was = "" if one.name == other.name else f" ({one.name} then)"
                    return other.name, f"its content is not what the run began with{was}"
            if len(before) != len(after):
                more = max(before, after, key=len)[min(len(before), len(after))]
                return more.name, (
                    f"the run began with {len(before)} files of {role}, now there are {len(after)}"
                )
        return None

    def refuse_other(self, now: "Fingerprint") -> None:
        """Refuse data that is not this one.

        Raises:
            DataError: Names the first file whose content differs.
        """
        if (found := self.difference(now)) is not None:
            name, problem = found
            raise DataError(
                f"{problem}; --resume needs the same data, --overwrite starts anew",
                place=Place(file=name),
            )


class FilesRead:
    """The fingerprint of files, and whether they have changed since it was taken.

    Args:
        files: By role.
        cache: Where digests are kept; None: nowhere, all files are read.
        full: Read all files, whatever is kept.

    Raises:
        DataError: A file cannot be read, or is being written.
    """

    def __init__(
        self, files: Mapping[str, Sequence[AnyPath]], *, cache: Path | None, full: bool = False
    ) -> None:
        self._cache = cache
        self._files = files
        self._read: dict[AnyPath, tuple[list[Any], str]] = {}  # size, times, inode; digest
        kept = {} if cache is None or full else _read_cache(cache)
        paths = list(dict.fromkeys(path for some in files.values() for path in some))
        for path in paths:
            entry = kept.get(_kept_name(path), [])
            if entry[:-1] == (times := _times(path)):
                self._read[path] = times, entry[-1]
        self._uses_kept = bool(self._read)
        self._hash([path for path in paths if path not in self._read])

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(
            {
                role: [
                    Part(str(path), self._read[path][0][0], self._read[path][1]) for path in some
                ]
                for role, some in self._files.items()
            }
        )

    def refuse_unless(self, expected: Fingerprint) -> None:
        """As `Fingerprint.refuse_other`; what is kept of a file is no reason to refuse it."""
        try:
            expected.refuse_other(self.fingerprint)
        except DataError:
            if not self._uses_kept:
                raise
            self._hash(list(self._read))
            expected.refuse_other(self.fingerprint)

    def refuse_changed(self) -> None:
        """Refuse files that are being written while they are read.

        Raises:
            DataError: Names the file.
        """
        for path, (times, _) in self._read.items():
            if _times(path) != times:
                raise DataError(
                    "changed while it was read; start again when it is whole",
                    place=Place(file=str(path)),
                )

    def _hash(self, paths: list[AnyPath]) -> None:
        """Read files, and keep their digests."""
        sizes = [_times(path)[0] for path in paths]
        if sum(sizes) >= _LARGE:
            LOGGER.info(
                f"reading {sum(sizes) / 2**30:.1f} GiB in {len(paths)} files for their checksums, "
                "once as long as they do not change"
            )
        now, done = time.time_ns(), 0
        with ProgressBar("checksums", total=100) as bar:
            for path in paths:
                times, hashed = _times(path), xxhash.xxh3_128()
                for count in _chunks(path, hashed):
                    done += count
                    if bar.due():
                        bar.show(int(100 * done / max(sum(sizes), 1)), path.name)
                self._read[path] = times, hashed.hexdigest()
        self.refuse_changed()
        if paths and self._cache is not None:
            self._write_cache(self._cache, now)

    def _write_cache(self, cache: Path, now: int) -> None:
        entries = {
            _kept_name(path): [*times, digest]
            for path, (times, digest) in self._read.items()
            if max(times[1:3]) + _COARSE < now
        }
        older = {
            name: entry
            for name, entry in _read_cache(cache).items()
            if is_uri(name) or Path(name).exists()
        }
        if not entries:
            return
        with contextlib.suppress(OSError, DeepFMError):  # they are read again, which is all
            cache.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_bytes(cache, json.dumps(older | entries, indent=0).encode())


def of_tables(name: str, tables: Mapping[str, pa.Table]) -> Fingerprint:
    """The fingerprint of tables in memory, by their values.

    Args:
        name: Of the data set, for messages.
    """
    return Fingerprint(
        {
            role: [Part(f"{name}: {role}", len(table), _table_digest(table))]
            for role, table in tables.items()
        }
    )


def _table_digest(table: pa.Table) -> str:
    """Of names, types and values; how they lie in memory makes no difference."""
    hashed = xxhash.xxh3_128()
    for name, column in zip(table.column_names, table.columns, strict=True):
        hashed.update(f"{name}:{column.type}:{len(column)}\n".encode())
        is_plain = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        for start in range(0, len(column), _TABLE_ROWS):
            part = column.slice(start, _TABLE_ROWS)
            if is_plain and not part.null_count:
                hashed.update(part.to_numpy().tobytes())
            else:
                hashed.update(repr(part.to_pylist()).encode())
    return hashed.hexdigest()


def _chunks(path: AnyPath, hashed: xxhash.xxh3_128) -> Iterator[int]:
    """Read a file once into a hash; gives the sizes of the parts read.

    Raises:
        DataError: It cannot be read.
    """
    buffer = memoryview(bytearray(_CHUNK))
    try:
        with reading(path, buffering=0) as file:
            while count := file.readinto(buffer):  # type: ignore[attr-defined]  # it is raw
                hashed.update(buffer[:count])
                yield count
    except OSError as error:
        raise _unreadable(path, error) from None


def _kept_name(path: AnyPath) -> str:
    return str(path.absolute() if isinstance(path, Path) else path)


def _times(path: AnyPath) -> list[Any]:
    """Size, times of change in ns, and inode: equal as long as nobody has written to the file.

    Of a file in a store size and version, in a list of the same form.
    """
    try:
        if not isinstance(path, Path):
            size, version = path.stat()
            return [size, 0, 0, version]
        status = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):  # a device has no end
        raise DataError("expected a file", place=Place(file=str(path)))
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _unreadable(path: AnyPath, error: OSError) -> DataError:
    return DataError(f"cannot be read: {error.strerror or error}", place=Place(file=str(path)))


def _read_cache(path: Path) -> dict[str, list[Any]]:
    """Entries by path; those of another form are left out."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {
        name: entry
        for name, entry in content.items()
        if isinstance(entry, list) and len(entry) == 5 and isinstance(entry[-1], str)
    }
