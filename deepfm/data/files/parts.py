"""Parts of files: runs of whole rows, so that several readers can share a file."""

from typing import NamedTuple, TypeVar

from deepfm.utils.places import AnyPath

T = TypeVar("T")


class FilePart(NamedTuple):
    """A run of whole rows of a file; by default all of them.

    Attributes:
        path: The file.
        start, end: Where it begins and ends: bytes of a text, row groups of a Parquet file; None:
            where the file ends.
        first: Number of its first row in the file, from 1; of a text, of its line.
    """

    path: AnyPath
    start: int = 0
    end: int | None = None
    first: int = 1


class CountedPart(NamedTuple):
    """A part, and how many rows it has; None: that is known only by reading it."""

    part: FilePart
    rows: int | None


def whole_in_the_middle(path: AnyPath, count: int) -> list[FilePart | None]:
    """A file that cannot be cut, as the middle one of so many places."""
    found: list[FilePart | None] = [None] * count
    found[count // 2] = FilePart(path)
    return found


def same(value: T) -> T:
    """What a block gives that has been read already."""
    return value
