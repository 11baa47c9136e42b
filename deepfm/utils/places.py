"""Where files are: on this machine, or in an object store that a URI names.

Decided here: which URIs there are and what may stand in one. `file://` is a local path from the
start; `s3://bucket/key`, and what else pyarrow has, is a `RemoteFile`. A key is taken as it is
written, nothing in it is decoded. Credentials are the environment's affair: a URI that carries one
is refused, and of a refused URI no error shows more than the scheme.

Whoever reads a file that may be elsewhere asks here; what talks to a store is in
`deepfm.utils.object_store`, which is imported when the first URI is met; nothing here needs Arrow,
because the parent of a server's workers does without it.
"""

import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple
from urllib.parse import unquote

from deepfm.errors import ConfigError, DeepFMError, nearest

STORES = ("s3", "gs", "gcs", "abfs", "abfss")  # what pyarrow's wheels reach
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://", re.ASCII)
_QUERY = re.compile(r"\?[\w.-]+=")
_CHUNK = 4 << 20


class Status(NamedTuple):
    """What a store says of a file.

    Attributes:
        st_size: Bytes, under the name that `os.stat` has for it.
        version: Equal as long as the file is; its ETag, with the time and number that it has there.
    """

    st_size: int
    version: str


@dataclass(frozen=True)
class RemoteFile:
    """A file, or a folder of files, in an object store.

    It has those attributes of `Path` that readers need, and is none: what is for local files alone
    must not take it for one.

    Example:
        >>> file = RemoteFile("s3://bucket/day=1/rows.csv.gz")
        >>> file.name, file.suffix, str(file.parent / "items.csv")
        ('rows.csv.gz', '.gz', 's3://bucket/day=1/items.csv')
    """

    uri: str

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> "RemoteFile":
        return RemoteFile(f"{self.uri.rstrip('/')}/{name}")

    @property
    def scheme(self) -> str:
        return self.uri.partition("://")[0]

    @property
    def bucket(self) -> str:
        return self.uri.partition("://")[2].partition("/")[0]

    @property
    def key(self) -> str:
        """What the file is called in its bucket; empty of the bucket itself."""
        return self.uri.partition("://")[2].partition("/")[2].rstrip("/")

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2] or self.bucket

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "RemoteFile":
        return RemoteFile(f"{self.scheme}://{self.bucket}/{self.key.rpartition('/')[0]}")

    def resolve(self) -> "RemoteFile":
        """Return the file itself: a store has no links."""
        return self

    def exists(self) -> bool:
        """Whether there is such a file.

        Raises:
            DeepFMError: The store does not say.
        """
        try:
            self.stat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise DeepFMError(f"{self}: {error.strerror}") from None
        return True

    def stat(self) -> Status:
        """What the store says of the file now.

        Raises:
            OSError: There is none, or the store does not say; `strerror` is the reason.
        """
        from deepfm.utils import object_store

        return object_store.status(self)


AnyPath = Path | RemoteFile


def is_uri(text: object) -> bool:
    """Whether a text is a URI, of any scheme.

    Example:
        >>> is_uri("s3://bucket/key"), is_uri("data/rows.csv")
        (True, False)
    """
    return isinstance(text, str) and _URI.match(text) is not None


def is_readable_uri(text: str) -> bool:
    """Whether a text is a URI of a scheme that can be read."""
    found = _URI.match(text)
    return found is not None and found[1].lower() in ("file", *STORES)


def path_of(name: "str | os.PathLike[str] | RemoteFile") -> AnyPath:
    """The file that a path or a URI names, whether it is there or not.

    Raises:
        ConfigError: A URI of an unknown scheme, without a bucket, or with credentials in it.

    Example:
        >>> path_of("s3://bucket/rows.csv")
        RemoteFile(uri='s3://bucket/rows.csv')
        >>> path_of("file:///tmp/my%20rows.csv") == Path("/tmp/my rows.csv")
        True
    """
    if isinstance(name, RemoteFile):
        return name
    if not isinstance(name, str) or (found := _URI.match(name)) is None:
        return Path(name)
    scheme, rest = found[1].lower(), name[found.end() :]
    refuse_credentials(name)
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost") or not slash:
            raise ConfigError("expected file:///path, found file:// with a host in front of it")
        return Path(unquote(f"/{path}"))
    if scheme not in STORES:
        known = ", ".join(f"{one}://" for one in ("file", *STORES))
        hint = nearest(scheme, STORES) if scheme.startswith("s3") else "copy the file to one first"
        raise ConfigError(f"{scheme}:// cannot be read or written, but {known}; {hint}")
    if not rest.partition("/")[0] or glob.has_magic(rest.partition("/")[0]):
        raise ConfigError(f"expected {scheme}://bucket/key, found no bucket")
    return RemoteFile(f"{scheme}://{rest}")


def refuse_credentials(text: str, key: str = "") -> None:
    """Refuse a URI that holds more than a bucket and a key, which may be a secret.

    Args:
        key: Of a config, that the URI stands under.

    Raises:
        ConfigError: It does; what it holds is not shown.
    """
    if (found := _URI.match(text)) is None:
        return
    scheme = found[1].lower()
    rest = text[found.end() :]
    authority = rest.partition("/")[0]
    # A container of Azure stands in front of an @; a secret may hold a slash.
    has_user = "@" in authority and scheme not in ("abfs", "abfss")
    if has_user or ":" in authority or _QUERY.search(rest):
        raise ConfigError(
            f"{scheme}://…: expected a bucket and a key and nothing else; credentials and options "
            "are read from the environment (docs/elsewhere.md)",
            key=key,
        )
    if not rest.isprintable():
        raise ConfigError(f"{scheme}://…: expected printable characters", key=key)


def refuse_remote(text: str, key: str, why: str) -> None:
    """Refuse a URI where a local path is needed.

    Raises:
        ConfigError: It is one.
    """
    if is_uri(text):
        refuse_credentials(text, key)
        raise ConfigError(f"expected a local path, found {text}: {why}", key=key)


def below(folder: AnyPath, name: str) -> AnyPath:
    """The file that a name means in a folder: below it, unless it is a URI or an absolute path.

    Raises:
        ConfigError: As `path_of`.
    """
    if is_uri(name) or isinstance(folder, Path) or os.path.isabs(name):
        found = path_of(name)
        return folder / found if isinstance(folder, Path) and isinstance(found, Path) else found
    return folder / name


def matching(pattern: AnyPath) -> list[AnyPath]:
    """The file of that name, or those that a glob means, in order of name.

    Raises:
        OSError: The store does not say; `strerror` is the reason.
    """
    if isinstance(pattern, Path):
        if os.path.isfile(pattern):
            return [pattern]
        return [*sorted(map(Path, glob.glob(str(pattern))))]
    from deepfm.utils import object_store

    if glob.has_magic(pattern.uri) and (found := object_store.matching(pattern)):
        return list(found)
    try:
        pattern.stat()
    except FileNotFoundError:
        return []
    return [pattern]


def is_same_file(one: AnyPath, other: AnyPath) -> bool:
    """Whether two names are of one file that is there."""
    if isinstance(one, Path) and isinstance(other, Path):
        with suppress(OSError, ValueError):  # one of them is not there
            return os.path.samefile(one, other)
        return False
    return one == other


@contextmanager
def reading(path: AnyPath, buffering: int = -1) -> Iterator[BinaryIO]:
    """An open file; one in a store is refused at the end if it changed while it was read.

    Args:
        buffering: As that of `open`; 0 makes one request of each read.

    Raises:
        OSError: It cannot be read, or it changed; `strerror` is the reason.
    """
    if isinstance(path, Path):
        with path.open("rb", buffering) as file:
            yield file
        return
    from deepfm.utils import object_store

    with object_store.unchanged(path, is_buffered=buffering != 0) as remote:
        yield remote


@contextmanager
def fetched(path: AnyPath) -> Iterator[BinaryIO]:
    """An open file of this machine: the file itself, or a private copy that is gone afterwards.

    Raises:
        OSError: It cannot be read, or it changed while it was copied; `strerror` is the reason.
    """
    if isinstance(path, Path):
        with path.open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as copy:
        with reading(path, buffering=0) as remote:
            while chunk := remote.read(_CHUNK):
                copy.write(chunk)
        copy.seek(0)
        yield copy


@contextmanager
def whole_file(path: AnyPath) -> Iterator[BinaryIO]:
    """A binary file that takes the name `path` when the block ends, and never if it fails.

    One for a store is written to a temporary file of this machine and goes there in one piece.
    What stood there before stays until it is replaced.

    Raises:
        DeepFMError: The disk or the store refuses; any other error of the block passes unchanged.
    """
    from deepfm.utils.io import atomic_writer, make_directory

    if isinstance(path, Path):
        make_directory(path.parent, f"cannot write {path}")
        with atomic_writer(path) as file:
            yield file
        return
    from deepfm.utils import object_store

    object_store.refuse_absent_bucket(path)
    with tempfile.TemporaryDirectory(prefix="deepfm-") as folder:
        local = Path(folder) / "whole"
        with atomic_writer(local) as file:
            yield file
        object_store.upload(local, path)


def put(source: Path, target: AnyPath) -> None:
    """Copy a local file to a name that is there when the copy is whole.

    Raises:
        DeepFMError: The disk or the store refuses.
    """
    if isinstance(target, RemoteFile):
        from deepfm.utils import object_store

        object_store.upload(source, target)
        return
    with source.open("rb") as file, whole_file(target) as copy:
        shutil.copyfileobj(file, copy, _CHUNK)


def files_below(folder: AnyPath) -> list[AnyPath]:
    """All files in a folder and in those below it; none where there is no such folder.

    Raises:
        DeepFMError: The store does not say.
    """
    if isinstance(folder, Path):
        return [path for path in folder.rglob("*") if path.is_file()]
    from deepfm.utils import object_store

    try:
        return [*object_store.files_below(folder)]
    except OSError as error:
        raise DeepFMError(f"{folder}: cannot be listed: {error.strerror}") from None


def remove(path: AnyPath) -> None:
    """Delete a file, if it is there.

    Raises:
        DeepFMError: The disk or the store refuses.
    """
    try:
        if isinstance(path, Path):
            path.unlink(missing_ok=True)
            return
        from deepfm.utils import object_store

        object_store.remove(path)
    except OSError as error:
        raise DeepFMError(f"{path}: cannot be removed: {error.strerror or error}") from None
