"""The rows of a table shared out: runs of rows, one for each process that reads them."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from deepfm.data.files.parts import FilePart
from deepfm.data.files.read import parts_of, read_parts
from deepfm.data.files.rows import TextOptions
from deepfm.utils.places import AnyPath


class SharePart(NamedTuple):
    """A part of a file of rows.

    Attributes:
        role: What the settings call the files that it is of: a split's name, or `rows`.
        part: Its rows.
        size: How many bytes it has, about.
        rows: How many rows it has; None: that is not known.
    """

    role: str
    part: FilePart
    size: float
    rows: int | None = None


class Share(NamedTuple):
    """A run of the rows of a table.

    Attributes:
        parts: In the order of the rows.
        before: How many rows come before, in earlier shares.
    """

    parts: tuple[SharePart, ...]
    before: int = 0

    @property
    def size(self) -> float:
        return sum(part.size for part in self.parts)


class FileRanges(NamedTuple):
    """A file of rows, cut into ranges for shares that follow each other.

    Attributes:
        role: As in `SharePart`.
        path: The file.
        share: That the first range is for.
        ranges: For each share; None: nothing of the file.
        sizes: Of each range, in bytes.
    """

    role: str
    path: AnyPath
    share: int
    ranges: list[FilePart | None]
    sizes: list[float]


def one_share(files: Mapping[str, Sequence[AnyPath]]) -> Share:
    """All rows of some files, by role."""
    return Share(
        tuple(
            SharePart(role, FilePart(path), path.stat().st_size)
            for role, paths in files.items()
            for path in paths
        )
    )


def cut(
    files: Mapping[str, Sequence[AnyPath]], count: int, options: TextOptions
) -> list[FileRanges]:
    """Files cut into ranges for `count` shares of about as many bytes each.

    Raises:
        DataError: A file cannot be read.
    """
    all_files = [(role, path) for role, paths in files.items() for path in paths]
    sizes = [path.stat().st_size for _, path in all_files]
    ends = [sum(sizes) * share // count for share in range(1, count)]
    found = []
    for (role, path), size, before in zip(
        all_files, sizes, accumulate(sizes, initial=0), strict=False
    ):
        inside = [end - before for end in ends if before < end < before + size]
        at = [end / size for end in inside]
        ranges = parts_of(path).ranges(path, options, at)
        edges = [0, *inside, size]
        is_cut = sum(some is not None for some in ranges) > 1
        own = [float(end - start if is_cut else size) for start, end in pairwise(edges)]
        found.append(FileRanges(role, path, bisect_right(ends, before), ranges, own))
    return found


def ranges_by_share(files: Sequence[FileRanges], count: int) -> list[list[FilePart]]:
    """The ranges that are for each of `count` shares, which scans look at."""
    found: list[list[FilePart]] = [[] for _ in range(count)]
    for file in files:
        for place, some in enumerate(file.ranges):
            if some is not None:
                found[file.share + place].append(some)
    return found


def parts_by_share(
    files: Sequence[FileRanges], found: Sequence[Sequence[Any]], options: TextOptions
) -> list[list[SharePart]]:
    """The parts that ranges of files become when all have been looked at, for each share.

    Args:
        found: What `CuttableFormat.scan` found in the ranges that `ranges_by_share` gives.
    """
    in_order = list(map(iter, found))
    parts: list[list[SharePart]] = [[] for _ in found]
    for file in files:
        shares = [file.share + place for place, some in enumerate(file.ranges) if some is not None]
        scans = [next(in_order[share]) for share in shares]
        there = [some for some in file.ranges if some is not None]
        made = parts_of(file.path).parts(there, scans, options)
        for share, counted in zip(shares, made, strict=True):
            if counted is not None:
                size = file.sizes[share - file.share]
                parts[share].append(SharePart(file.role, counted.part, size, counted.rows))
    return parts


def uncounted(parts: Sequence[Sequence[SharePart]]) -> list[list[FilePart]]:
    """The parts in each share that have to be read for their number of rows.

    Those of the last share are none of them: no row comes behind them.
    """
    last = max((number for number, some in enumerate(parts) if some), default=0)
    return [
        [part.part for part in some if part.rows is None and number < last]
        for number, some in enumerate(parts)
    ]


def shares_of(parts: Sequence[Sequence[SharePart]], counts: Sequence[Sequence[int]]) -> list[Share]:
    """Shares of parts.

    Args:
        counts: How many rows each part that `uncounted` gives has.
    """
    found, before = [], 0
    for some, counted in zip(parts, counts, strict=True):
        found.append(Share(tuple(some), before))
        before += sum(part.rows or 0 for part in some) + sum(counted)
    return found


def rows_in(part: FilePart, options: TextOptions) -> int:
    """How many rows a part has, which is read for it.

    Raises:
        DataError: The file cannot be read.
    """
    return sum(len(rows.table) for rows in read_parts([part], options))


def by_role(parts: Iterable[SharePart]) -> dict[str, list[SharePart]]:
    """Parts by role, in their order."""
    found: dict[str, list[SharePart]] = {}
    for part in parts:
        found.setdefault(part.role, []).append(part)
    return found
