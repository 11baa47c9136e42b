"""Which rows of a split a store has, where it has not all of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from deepfm.data.store.damage import DamagedStore
from deepfm.data.store.shard import Shard
from deepfm.errors import DataError

# Arrays that are read when a store is opened; a part of a store has them of all rows.
OF_ALL_ROWS = ("label", "weight", "group", "row")
# Rows that every part has, the first of all: by them a training settles how it begins.
FIRST_ROWS = 1024


class HeldRows(NamedTuple):
    """Which training rows a store has the features of: those of a shard, and the first of all.

    Attributes:
        shard: Which shard of how many.
        start, end: Its rows.
        of: How many there are in all shards.
    """

    shard: Shard
    start: int
    end: int
    of: int

    @classmethod
    def of_shard(cls, shard: Shard, rows: int) -> "HeldRows":
        """Of so many rows in all.

        Example:
            >>> HeldRows.of_shard(Shard(1, 3), 10)[1:]
            (3, 6, 10)
        """
        number, of = shard
        return cls(shard, rows * number // of, rows * (number + 1) // of, rows)

    @property
    def first(self) -> int:
        """How many of the first rows there are that are not in the shard."""
        return min(FIRST_ROWS, self.start)

    @property
    def ranges(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Begin and end of the rows that are here, in their order."""
        return (0, self.first), (self.start, self.end)


def damaged_part(error: DamagedStore, shard: Shard | None = None) -> DataError:
    """The error of a part, which is not made again from its files."""
    of = "i/n" if shard is None else str(shard)
    advice = f"remove this store and copy it again: `deepfm prepare --part {of} --into DIR`"
    return DataError(f"{error.problem}; {advice}", place=error.place)


def held_rows(manifest: Mapping[str, Any]) -> HeldRows | None:
    """Which training rows the store of a manifest has; None: all."""
    if (part := manifest.get("part")) is None:
        return None
    return HeldRows.of_shard(Shard(*part), manifest["arrays"]["train"]["label"]["shape"][0])
