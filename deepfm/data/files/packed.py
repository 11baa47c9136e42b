"""Files that are compressed, or stand alone in a .zip archive: their ending and their bytes."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from deepfm.errors import DataError, Place
from deepfm.utils.places import AnyPath, RemoteFile, is_uri, reading

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
ARCHIVE = ".zip"
# What reading damaged or cut bytes can raise, beside Arrow's errors and OSError.
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
_SHOWN = 3  # names in an error
_ENCRYPTED = 0x1  # a flag of a file in an archive


class Opened(NamedTuple):
    """A file of rows, open.

    Attributes:
        content: What it holds, unpacked; has `read(size)`.
        raw: The file itself, whose position says how far it has been read.
    """

    content: Any
    raw: BinaryIO


def file_ending(path: str | AnyPath) -> str:
    """The ending of a file's name, without that of a compression; in an archive the ending of the
    file that it holds. A URI in a text is taken by its name alone.

    Raises:
        DataError: The archive cannot be read, or does not hold one file.

    Example:
        >>> file_ending("part-0.tsv.gz"), file_ending("s3://bucket/rows.csv.zip")
        ('.tsv', '.csv')
    """
    if isinstance(path, str) and is_uri(path):
        return _ending_of(path)
    path = Path(path) if isinstance(path, str) else path
    if path.suffix == ARCHIVE and (isinstance(path, RemoteFile) or path.is_file()):
        try:
            with opened(path) as file:
                return PurePosixPath(file.content.name).suffix
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"cannot be read: {reason}", place=Place(file=str(path))) from None
    return _ending_of(path.name)


def _ending_of(name: str) -> str:
    path = PurePosixPath(name)
    is_packed = path.suffix in COMPRESSIONS or (path.suffix == ARCHIVE and len(path.suffixes) > 1)
    return path.with_suffix("").suffix if is_packed else path.suffix


@contextmanager
def opened(path: AnyPath) -> Iterator[Opened]:
    """The bytes of a file as its text or its table has them, in a stream.

    Raises:
        DataError: The archive cannot be read, or does not hold one file.
        OSError: The file cannot be read, or one in a store changed meanwhile.
    """
    with reading(path) as raw:
        if path.suffix == ARCHIVE:
            with _archive(raw, path) as archive, archive.open(_only_file(archive, path)) as file:
                yield Opened(file, raw)
        elif compression := COMPRESSIONS.get(path.suffix):
            stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), compression)
            yield Opened(stream, raw)
        else:
            yield Opened(raw, raw)


def _archive(raw: BinaryIO, path: AnyPath) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(raw)
    except DAMAGED as error:
        raise DataError(f"damaged, or no archive: {error}", place=Place(file=str(path))) from None


def _only_file(archive: zipfile.ZipFile, path: AnyPath) -> zipfile.ZipInfo:
    """The one file in an archive, beside those that macOS adds."""
    place = Place(file=str(path))
    files = [
        info
        for info in archive.infolist()
        if not info.is_dir()
        and not info.filename.startswith("__MACOSX/")
        and PurePosixPath(info.filename).name != ".DS_Store"
    ]
    names = ", ".join(info.filename for info in files[:_SHOWN])
    if len(files) != 1:
        more = ", …" if len(files) > _SHOWN else ""
        found = f"{len(files):,} ({names}{more})" if files else "none"
        raise DataError(
            f"expected an archive of one file, found {found}; unpack it and name the files",
            place=place,
        )
    if files[0].flag_bits & _ENCRYPTED:
        raise DataError(f"{names} in it is encrypted; unpack it first", place=place)
    if PurePosixPath(names).suffix in (*COMPRESSIONS, ARCHIVE):
        raise DataError(f"{names} in it is packed itself; unpack it first", place=place)
    if files[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{names} in it is packed in an unusual way; unpack it first", place=place)
    return files[0]
