"""Writes the histories of a store: the events of all users, and where each row's own begin.

Rows are sorted twice on disk, first by user and time, to see what came before each, then by number,
to stand as the rows of their split do. Memory grows with the users, by 16 bytes each, and not with
the rows.
"""

import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from deepfm.data.history_ranges import HistoryPass
from deepfm.data.options import HistoryConfig
from deepfm.data.splits import SPLIT_NAMES
from deepfm.data.store.arrays import ArrayWriter
from deepfm.data.store.event_counts import EventCounts
from deepfm.data.store.external_sort import ExternalSort
from deepfm.data.store.history_records import NOBODY
from deepfm.errors import ConfigError
from deepfm.utils.logging import LOGGER

FOLDER = "history"  # beside those of the splits, which share the events
_RANGE = np.dtype(
    [("row", np.int64), ("split", np.int8), ("start", np.int64), ("length", np.int32)]
)


class HistoryCounts(NamedTuple):
    """What was found.

    Attributes:
        events: In the histories of any later row.
        users: That have events.
        without: Rows without user or time, whose histories are empty, and which are no events.
        seen: By split, events in the histories of its rows together.
    """

    events: int
    users: int
    without: int
    seen: Counter[str]


class HistoryWriter:
    """Takes the records of all rows and writes the histories of those that a split has.

    Args:
        folder: Where the records are kept meanwhile.
        dtype: Of the records, as `HistoryRecords` makes them.
        history: What a row sees.

    Attributes:
        dtype: As given.
    """

    def __init__(self, folder: Path, dtype: np.dtype[np.void], history: HistoryConfig) -> None:
        self._history = history
        self.dtype = dtype
        self._rows = ExternalSort(folder, dtype, ("user", "time", "row"))
        self._ranges = ExternalSort(folder, _RANGE, ("row",))
        self._without = 0

    def add(self, records: np.ndarray) -> None:
        """Take some records; rows that no split has leave no trace."""
        records = records[records["split"] >= 0]
        is_known = (records["user"] != NOBODY) & ~np.isnan(records["time"])
        self._rows.add(records[is_known])
        self._add_ranges(records[~is_known], 0, 0)
        self._without += int((~is_known).sum())

    def write(self, out: ArrayWriter) -> HistoryCounts:
        """Write the arrays of the events and of each split's rows."""
        walk = HistoryPass(
            max_length=self._history.max_length, ties_in_order=self._history.ties == "order"
        )
        held_out = HistoryPass(max_length=1, ties_in_order=True)  # to see if training rows see any
        users, seen = EventCounts(), Counter[str]()
        self._append_events(out, np.zeros(0, self.dtype))  # so that there are files in any case
        for records in self._rows.blocks():
            is_event, trains = records["positive"], records["split"] == SPLIT_NAMES.index("train")
            if self._history.until == "split":
                is_event = is_event & trains
            before = held_out.ranges(records["user"], records["time"], is_event & ~trains)
            _refuse_held_out(records["row"][trains & (before.lengths > 0)])
            starts, lengths = walk.ranges(records["user"], records["time"], is_event)
            self._add_ranges(records, starts, lengths)
            events = records[is_event]
            self._append_events(out, events)
            users.add(events["user"])
            by_split = np.bincount(records["split"], lengths, len(SPLIT_NAMES))
            seen.update(dict(zip(SPLIT_NAMES, by_split.astype(int).tolist(), strict=True)))
        self._rows.close()
        found = users.all()
        out.append(FOLDER, "user", found.user)
        out.append(FOLDER, "user_events", found.events)
        self._write_ranges(out)
        return HistoryCounts(walk.events, len(found.user), self._without, seen)

    def summary(self, found: HistoryCounts) -> dict[str, Any]:
        """What is to be known of the histories, for the manifest and `metrics.json`."""
        kept: dict[str, Any] = {**self._history.what_is_seen()}
        return kept | {"events": found.events, "users": found.users, "without": found.without}

    def _add_ranges(
        self, records: np.ndarray, starts: np.ndarray | int, lengths: np.ndarray | int
    ) -> None:
        ranges = np.empty(len(records), _RANGE)
        ranges["row"], ranges["split"] = records["row"], records["split"]
        ranges["start"], ranges["length"] = starts, lengths
        self._ranges.add(ranges)

    def _append_events(self, out: ArrayWriter, events: np.ndarray) -> None:
        out.append(FOLDER, "time", np.ascontiguousarray(events["time"]))
        for position in range(events["items"].shape[1]):
            ids = np.ascontiguousarray(events["items"][:, position])
            out.append(FOLDER, f"ids{position}", ids)

    def _write_ranges(self, out: ArrayWriter) -> None:
        """Write them in the order of the rows, in which the splits' other arrays are."""
        for ranges in self._ranges.blocks():
            for number, split in enumerate(SPLIT_NAMES):
                own = ranges[ranges["split"] == number]
                if len(own):
                    out.append(split, "history_starts", np.ascontiguousarray(own["start"]))
                    out.append(split, "history_lengths", np.ascontiguousarray(own["length"]))

    def __enter__(self) -> "HistoryWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ranges.close()
        self._rows.close()


def write_histories(histories: HistoryWriter, out: ArrayWriter) -> dict[str, Any]:
    """Write the histories of all rows, and return what the manifest says about them."""
    start = time.perf_counter()
    found = histories.write(out)
    told = histories.summary(found)
    means = ", ".join(
        f"{found.seen[split] / count:.1f} {split}" for split, count in out.rows.items()
    )
    LOGGER.info(
        f"histories of at most {told['max_length']} events, on average {means}; ties: "
        f"{told['ties']}, until: {told['until']}; {found.events:,} events of {found.users:,} "
        f"users, {time.perf_counter() - start:.1f} s"
    )
    if found.without:
        LOGGER.warning(
            f"{found.without:,} rows without a user or a time have no history, and are in none"
        )
    return {"history": told, "event_arrays": out.shapes(FOLDER)}


def _refuse_held_out(rows: np.ndarray) -> None:
    """Refuse training rows that would see events of held-out rows, by their numbers.

    Raises:
        ConfigError: There is one.
    """
    if len(rows):
        raise ConfigError(
            f"row is for held-out rows that come after the training rows, and row {rows[0] + 1} "
            "of the training files comes after a held-out one of its user; set until: split",
            key="data.table.history.until",
        )
