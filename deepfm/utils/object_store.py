"""Object stores by `pyarrow.fs`: reading ranges, listing, writing whole files.

Decided here: how patient we are. The client of S3 tries an operation again after an error of the
network or of the server, with growing pauses; what is silent for `REQUEST_TIMEOUT` seconds counts
as such an error. What fails in the end is an OSError whose `strerror` is one line, as the callers
expect it of files.

A store replaces files, it does not change them, but a reader makes many requests and might see the
old file in one and the new one in another. So the ETag at the end has to be that of the beginning.

NOTE: a stream of pyarrow that is dropped completes what was written to it, and offers no way to
give it up. Therefore only whole local files are uploaded, by a thread that no Ctrl-C reaches, and
their size is compared. (`pyarrow.fs.copy_files` does not say when the end of an upload fails.)
"""

import errno
import fnmatch
import glob
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from deepfm.errors import ConfigError, DeepFMError, cut
from deepfm.utils.places import RemoteFile, Status

if TYPE_CHECKING:
    from typing_extensions import Buffer

CONNECT_TIMEOUT = 5.0  # seconds
REQUEST_TIMEOUT = 15.0  # seconds without a byte
ATTEMPTS = 4
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_BUFFER = 4 << 20  # bytes of a request, where a reader asks for less
_VERSION = ("etag", "last-modified", "versionid", "generation")  # of what a store says of a file
_LONGEST_REASON = 400


def status(file: RemoteFile) -> Status:
    """What the store says of a file now; errors as those of `RemoteFile.stat`."""
    with _as_os_errors(file), _opened(file) as opened:
        return _status_of(opened)


@contextmanager
def unchanged(file: RemoteFile, *, is_buffered: bool) -> Iterator[BinaryIO]:
    """See `deepfm.utils.places.reading`."""
    with _as_os_errors(file):
        opened = _opened(file)
        before = _status_of(opened)
    with _Reader(file, opened, before.st_size) as reader:
        yield io.BufferedReader(reader, _BUFFER) if is_buffered else reader  # type: ignore[misc]
    if status(file) != before:
        problem = "changed while it was read; start again when it is whole"
        raise OSError(errno.EIO, problem, str(file))


class _Reader(io.RawIOBase):
    """A file of a store, read by one request per call."""

    def __init__(self, file: RemoteFile, opened: pa.NativeFile, size: int) -> None:
        self._file, self._opened, self._size = file, opened, size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: "Buffer") -> int:
        view = memoryview(buffer)
        with _as_os_errors(self._file):
            position = self._opened.tell()
            count: int = self._opened.readinto(view)
        if not count and len(view) and position < self._size:
            problem = f"ends after {position:,} of {self._size:,} bytes"
            raise OSError(errno.EIO, problem, str(self._file))
        return count

    def readall(self) -> bytes:
        """All that is left; Python's own way would make a request per 8 KiB."""
        return b"".join(iter(lambda: self.read(_BUFFER) or b"", b""))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _as_os_errors(self._file):
            found: int = self._opened.seek(offset, whence)
        return found

    def tell(self) -> int:
        position: int = self._opened.tell()
        return position

    def close(self) -> None:
        if not self.closed:
            self._opened.close()
        super().close()


def matching(pattern: RemoteFile) -> list[RemoteFile]:
    """The files that a glob means, in order of name; as in a local folder no `*` means a `/`.

    Raises:
        OSError: The store does not say.
    """
    with _as_os_errors(pattern):
        store, found = _store(pattern), [_base(pattern)]
        for part in pattern.key.split("/"):
            if not glob.has_magic(part):
                found = [f"{folder}/{part}" for folder in found]
                continue
            hidden = "" if part.startswith(".") else "."
            found = [
                info.path
                for folder in found
                for info in store.get_file_info(fs.FileSelector(folder, allow_not_found=True))
                if fnmatch.fnmatchcase(info.base_name, part)
                and not (hidden and info.base_name.startswith(hidden))
            ]
        is_file = {one.path for one in store.get_file_info(found) if one.type == fs.FileType.File}
    start = len(_base(pattern)) + 1
    keys = sorted((one[start:] for one in found if one in is_file), key=lambda key: key.split("/"))
    return [RemoteFile(f"{pattern.scheme}://{pattern.bucket}/{key}") for key in keys]


def refuse_absent_bucket(file: RemoteFile) -> None:
    """Refuse to write where no bucket is, before there is anything to write.

    Raises:
        DeepFMError: There is none, or the store does not answer.
    """
    try:
        with _as_os_errors(file):
            info = _store(file).get_file_info(_base(file))
    except PermissionError:  # of the bucket, which says nothing of a file in it
        return
    except OSError as error:
        raise DeepFMError(f"cannot write {file}: {error.strerror}") from None
    if info.type == fs.FileType.NotFound:
        raise DeepFMError(f"cannot write {file}: there is no bucket {file.bucket}")


def upload(source: Path, target: RemoteFile) -> None:
    """Write a whole local file to a store; its name is there when it is whole.

    Ctrl-C waits for it. A killed process may leave parts behind that have no name.

    Raises:
        DeepFMError: The store refuses, or has another size of it afterwards.
    """
    expected = source.stat().st_size
    try:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(_send, source, target).result()
        if (found := status(target).st_size) == expected:
            return
        remove(target)
    except OSError as error:
        raise DeepFMError(f"cannot write {target}: {error.strerror}") from None
    raise DeepFMError(
        f"cannot write {target}: {found:,} of {expected:,} bytes arrived; what did is removed"
    )


def _send(source: Path, target: RemoteFile) -> None:
    with _as_os_errors(target), source.open("rb") as file:
        stream = _store(target).open_output_stream(_path(target))
        try:
            while chunk := file.read(_BUFFER):
                stream.write(chunk)
        finally:
            stream.close()


def remove(file: RemoteFile) -> None:
    """Delete a file, if it is there.

    Raises:
        OSError: The store refuses.
    """
    with suppress(FileNotFoundError), _as_os_errors(file):
        _store(file).delete_file(_path(file))


def files_below(folder: RemoteFile) -> list[RemoteFile]:
    """All files whose names begin with that of the folder.

    Raises:
        OSError: The store does not say.
    """
    with _as_os_errors(folder):
        selector = fs.FileSelector(_path(folder), recursive=True, allow_not_found=True)
        found = _store(folder).get_file_info(selector)
    start = len(_path(folder)) + 1
    return [folder / one.path[start:] for one in found if one.type == fs.FileType.File]


def _opened(file: RemoteFile) -> pa.NativeFile:
    return _store(file).open_input_file(_path(file))


def _status_of(opened: pa.NativeFile) -> Status:
    said = {name.lower(): value for name, value in opened.metadata().items()}
    version = " ".join(said[name].decode() for name in _VERSION if name in said)
    if not version:
        raise OSError("the store says no ETag and no time of it, so a change would go unseen")
    return Status(opened.size(), version)


def _path(file: RemoteFile) -> str:
    return f"{_base(file)}/{file.key}" if file.key else _base(file)


def _base(file: RemoteFile) -> str:
    """What pyarrow calls a bucket, which in Azure has the account in front of it in a URI only."""
    return file.bucket.partition("@")[0]


def _store(file: RemoteFile) -> fs.FileSystem:
    if file.scheme != "s3":
        return _by_uri(f"{file.scheme}://{file.bucket}/")
    endpoint = next((found for name in _ENDPOINTS if (found := os.environ.get(name))), None)
    region = next((found for name in _REGIONS if (found := os.environ.get(name))), None)
    return _s3(file.bucket if endpoint is None and region is None else None, endpoint, region)


@lru_cache(16)
def _by_uri(root: str) -> fs.FileSystem:
    return fs.FileSystem.from_uri(root)[0]


@lru_cache(16)
def _s3(bucket: str | None, endpoint: str | None, region: str | None) -> fs.FileSystem:
    """The client of S3, or of what speaks its protocol at an endpoint.

    Args:
        bucket: Whose region is asked for, where the environment names none; else None.
    """
    options: dict[str, Any] = {"region": region}
    if endpoint is not None:
        address = urlsplit(endpoint)
        if address.scheme not in ("http", "https") or not address.netloc or "@" in address.netloc:
            raise ConfigError("AWS_ENDPOINT_URL: expected https://host:port without credentials")
        options = {
            "region": region or "us-east-1",  # what such stores call theirs, if they ask at all
            "scheme": address.scheme,
            "endpoint_override": address.netloc + address.path.rstrip("/"),
        }
    elif bucket is not None:
        options = {"region": fs.resolve_s3_region(bucket)}
    return fs.S3FileSystem(
        **options,
        connect_timeout=CONNECT_TIMEOUT,
        request_timeout=REQUEST_TIMEOUT,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


@contextmanager
def _as_os_errors(file: RemoteFile) -> Iterator[None]:
    """Within the block what pyarrow raises becomes an OSError with a reason of one line."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such file", str(file)) from None
    except (OSError, pa.ArrowException) as error:
        reason = cut(" ".join(str(error).split()), _LONGEST_REASON)
        code = errno.EACCES if "ACCESS_DENIED" in reason else errno.EIO
        raise OSError(code, reason, str(file)) from None
