"""Counts that the workers of a server keep in files, so that any of them can tell the sums.

A worker has a file of its own, mapped into its memory: a number of 8 bytes per name, and the names
behind each other, one JSON line each. Only one process writes a file; a worker that takes the
place of a killed one goes on where that stood. Names are never taken back.
"""

import json
import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

_MOST = 16_384  # numbers of a file
_NAMES = 2**21  # bytes of their names
_HEAD = 8  # bytes: how many names are written
_SIZE = _HEAD + 8 * _MOST + _NAMES


class Name(NamedTuple):
    """What is counted: `requests`, and the values of its labels."""

    of: str
    labels: tuple[str, ...] = ()


class Counters:
    """The counts of one worker.

    Args:
        path: Of its file, which is made if it is not there.

    Attributes:
        values: The numbers by place, to be added to.
    """

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(_SIZE)
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self._written, self.values, self._text = _parts(self._map)
        self._places = {name: place for place, name in enumerate(_names(self._map))}
        self._end = sum(len(_line(name)) for name in self._places)

    def place(self, of: str, *labels: str) -> int:
        """The place of a name among `values`; a new name begins at 0.

        Raises:
            ValueError: There are too many names.
        """
        name = Name(of, labels)
        if name not in self._places:
            line = _line(name)
            if len(self._places) == _MOST or self._end + len(line) > _NAMES:
                raise ValueError("too many counters")
            self._text[self._end : self._end + len(line)] = np.frombuffer(line, np.uint8)
            self._end += len(line)
            self._places[name] = len(self._places)
            self._written[0] = len(self._places)  # last, so that a reader sees whole lines
        return self._places[name]

    def places(self, of: str, labels: Iterable[Sequence[str]]) -> np.ndarray:
        """The places of a name with each of several labels."""
        return np.array([self.place(of, *own) for own in labels], np.int64)

    def add(self, amount: float, of: str, *labels: str) -> None:
        """Add to one of the numbers."""
        self.values[self.place(of, *labels)] += amount


def totals(folder: Path) -> dict[Name, float]:
    """The sums over all workers that have counted in a folder."""
    found: dict[Name, float] = {}
    for path in sorted(folder.glob("*.counts")):
        with path.open("rb") as file, mmap.mmap(file.fileno(), _SIZE, access=mmap.ACCESS_READ) as m:
            names = _names(m)
            values = np.frombuffer(m[_HEAD : _HEAD + 8 * len(names)], np.float64).tolist()
        for name, value in zip(names, values, strict=True):
            found[name] = found.get(name, 0.0) + value
    return found


def _parts(file: mmap.mmap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The number of names, the numbers, and the bytes of the names."""
    return (
        np.frombuffer(file, np.int64, 1),
        np.frombuffer(file, np.float64, _MOST, _HEAD),
        np.frombuffer(file, np.uint8, _NAMES, _HEAD + 8 * _MOST),
    )


def _names(file: mmap.mmap) -> list[Name]:
    count = int.from_bytes(file[:_HEAD], "little")
    lines, start = [], _HEAD + 8 * _MOST
    for _ in range(count):
        end = file.find(b"\n", start)
        of, labels = json.loads(file[start:end])
        lines.append(Name(of, tuple(labels)))
        start = end + 1
    return lines


def _line(name: Name) -> bytes:
    return json.dumps([name.of, name.labels]).encode() + b"\n"
