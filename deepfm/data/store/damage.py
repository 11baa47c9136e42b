"""The error of a store that is not what was written."""

from pathlib import Path

from deepfm.errors import DataError, Place


class DamagedStore(DataError):
    """A store that has been changed from outside, or by its disk."""

    def __str__(self) -> str:
        return f"{super().__str__()}; `deepfm prepare --verify` makes the store again"


def damaged(path: Path, problem: str) -> DamagedStore:
    """The error that says what is wrong with a file of a store, and what to do."""
    return DamagedStore(problem, place=Place(file=str(path)))
