"""The text of a file, or of a part of it, in UTF-8 and piece by piece."""

import codecs
from collections.abc import Iterator

import pyarrow as pa

from deepfm.data.files.packed import ARCHIVE, COMPRESSIONS, DAMAGED, opened
from deepfm.data.files.parts import FilePart
from deepfm.errors import DataError, Place

_BOM = "\ufeff".encode()
_UTF8 = ("utf-8", "utf-8-sig")


def can_be_cut(part: FilePart, encoding: str) -> bool:
    """Whether a reader can begin in the middle of a file: its bytes are text in UTF-8."""
    return encoding in _UTF8 and part.path.suffix not in (*COMPRESSIONS, ARCHIVE)


def utf8_pieces(part: FilePart, encoding: str, size: int) -> Iterator[tuple[bytes, float]]:
    """The text of a part in UTF-8, piece by piece, and how much of it has been read (0 to 1).

    Args:
        part: Of a file that cannot be cut it is the whole.
        size: Bytes of a piece.

    Raises:
        DataError: The file cannot be read, or is in another encoding.
    """
    path = part.path
    decoder = None if encoding in _UTF8 else codecs.getincrementaldecoder(encoding)()
    line, at_start = 1, not part.start
    try:
        with opened(path) as (source, raw):
            end = path.stat().st_size if part.end is None else part.end
            if part.start:
                source.seek(part.start)
            while True:
                wanted = max(size, 8) if at_start else size  # a whole mark, if any
                if part.end is not None:
                    wanted = min(wanted, part.end - raw.tell())
                piece = source.read(wanted)
                last = not piece
                if decoder:
                    piece = decoder.decode(piece, last).encode()
                    line += piece.count(b"\n")
                if at_start and piece:
                    at_start = False
                    piece = piece.removeprefix(_BOM)
                if piece:
                    yield piece, min(1.0, (raw.tell() - part.start) / max(end - part.start, 1))
                if last:
                    return
    except UnicodeDecodeError as error:
        line += error.object.count(b"\n", 0, error.start)
        raise DataError(
            f"not {encoding}: {error.reason}", place=Place(file=str(path), line=line)
        ) from None
    except (pa.ArrowException, *DAMAGED) as error:
        raise DataError(f"cannot be read: {error}", place=Place(file=str(path))) from None
    except OSError as error:
        reason = error.strerror or f"damaged or cut off: {error}"
        raise DataError(f"cannot be read: {reason}", place=Place(file=str(path))) from None
