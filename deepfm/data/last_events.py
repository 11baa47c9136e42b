"""The newest events of each user, as a checkpoint holds them, and the histories made of them.

Decided here: what a served row sees. A row to predict sees the events before its time, and none of
its own time, because it is not among them itself. A user who is asked about now sees all events up
to now. Which events there are is what training decided: with `until: split` those of the training
split, so that a held-out row that is served sees what it saw when it was evaluated; except that
of the last events, those of the row's own time leave no room for older ones.

Shapes: U users with events, E events, N rows.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deepfm.data.event_ids import age_ids
from deepfm.data.schema import ITEMS, DatasetSchema

if TYPE_CHECKING:
    from deepfm.data.history import Histories


class LastEvents(NamedTuple):
    """The newest events of users, user by user, the oldest first.

    Attributes:
        user: Hashes of the users that have any, ascending, (U,) uint64; those of
            `deepfm.data.labels.group_ids`.
        starts: Where each user's events begin, and at the end how many there are, (U + 1,) int64.
        time: (E,) float64.
        ids: By built field of items, (E,) int64.
    """

    user: np.ndarray
    starts: np.ndarray
    time: np.ndarray
    ids: dict[str, np.ndarray]

    @classmethod
    def of(
        cls,
        user: np.ndarray,
        order: np.ndarray,
        time: np.ndarray,
        ids: Mapping[str, np.ndarray],
        max_length: int,
    ) -> "LastEvents":
        """The last `max_length` of each user's events, by `order` and then by their row.

        Args:
            user: Hash of each event's user, (N,) uint64.
            order: Anything sortable, in the order of the times, (N,).
            time: (N,) float64.
            ids: By built field of items, (N,).
        """
        rows = np.lexsort((order, user))  # a stable sort: equal times keep the order of rows
        users, counts = np.unique(user, return_counts=True)
        to_come = np.repeat(np.cumsum(counts), counts) - 1 - np.arange(len(rows))
        rows = rows[to_come < max_length]
        starts = np.concatenate([[0], np.cumsum(np.minimum(counts, max_length))])
        return cls(users, starts, time[rows], {name: of[rows] for name, of in ids.items()})

    @property
    def num_bytes(self) -> int:
        """What they add to a checkpoint."""
        numbers = self.user.nbytes + self.starts.nbytes + self.time.nbytes
        return numbers + sum(4 * len(ids) for ids in self.ids.values())

    def to_plain(self) -> dict[str, Any]:
        """As tensors, which a checkpoint can hold."""
        import torch

        return {
            "user": torch.from_numpy(self.user.view(np.int64)),  # which every torch can hold
            "starts": torch.from_numpy(self.starts),
            "time": torch.from_numpy(self.time),
            "ids": {name: torch.from_numpy(ids.astype(np.int32)) for name, ids in self.ids.items()},
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], schema: DatasetSchema) -> "LastEvents":
        """The inverse of `to_plain`, of tensors or of arrays.

        Raises:
            KeyError, TypeError, ValueError: They are none that fit the schema.
        """
        user, starts, time = (np.asarray(plain[key]) for key in ("user", "starts", "time"))
        ids = {name: np.asarray(of).astype(np.int64) for name, of in plain["ids"].items()}
        found = cls(user.view(np.uint64), starts, time.astype(np.float64), ids)
        found._check(schema)
        return found

    def _check(self, schema: DatasetSchema) -> None:
        """Refuse arrays that do not fit each other, or ids that their tables do not have."""
        built = {field.name for field in schema.built_fields if field.built == ITEMS}
        is_new = np.zeros(len(self.time), bool)
        fits = (
            len(self.starts) == len(self.user) + 1
            and self.starts[0] == 0
            and self.starts[-1] == len(self.time)
            and bool((np.diff(self.starts) > 0).all())
            and bool((self.user[1:] > self.user[:-1]).all())
            and self.ids.keys() == built
            and all(len(ids) == len(self.time) for ids in self.ids.values())
        )
        if fits:
            is_new[self.starts[:-1]] = True
            fits = bool((is_new[1:] | (np.diff(self.time) >= 0)).all())
        if not fits:
            raise ValueError("the events of users do not fit each other")
        for name, ids in self.ids.items():
            size = schema.fields[name].vocabulary_size
            lowest = 0 if schema.fields[name].padding_idx is not None else -1  # no value
            if len(ids) and not lowest <= ids.min() <= ids.max() < size:
                raise ValueError(f"an event of {name} has an id outside its {size} rows")


class SeenEvents(NamedTuple):
    """Which of the events each of N rows sees.

    Attributes:
        starts: Where those of each row begin, (N,) int64.
        lengths: How many they are, (N,) int64.
        now: The time of each row, (N,) float64.
    """

    starts: np.ndarray
    lengths: np.ndarray
    now: np.ndarray

    def select(self, rows: slice) -> "SeenEvents":
        """Those of some rows."""
        return SeenEvents(self.starts[rows], self.lengths[rows], self.now[rows])


class PaddedEvents(NamedTuple):
    """The events before each of N rows, padded with 0 to the longest list, L at least 1.

    Attributes:
        ids: By built field of items, (N, L) int64.
        ages: The classes of the times since them, (N, L) int64.
        lengths: How many there are, (N,) int64.
    """

    ids: dict[str, np.ndarray]
    ages: np.ndarray
    lengths: np.ndarray


class EventTimes:
    """Finds what users did before a time, whole arrays at once."""

    def __init__(self, events: LastEvents) -> None:
        self.events = events
        ordered = np.sort(events.time)
        self._distinct = ordered[np.diff(ordered, prepend=-np.inf) > 0]
        of_user = np.repeat(np.arange(len(events.user)), np.diff(events.starts))
        self._keys = self._key(of_user, np.searchsorted(self._distinct, events.time))

    @property
    def newest(self) -> float:
        """The time of the newest event of all; 0 where there is none."""
        return float(self._distinct[-1]) if len(self._distinct) else 0.0

    def before(self, user: np.ndarray, now: np.ndarray, *, with_equal: bool = False) -> SeenEvents:
        """What each row's user did before the row's time; nothing for a user without events.

        Args:
            user: Hash of each row's user, (N,) uint64.
            now: The time of each row, (N,) float64.
            with_equal: Count the events of that very time, too.
        """
        events = self.events
        place = np.searchsorted(events.user, user)
        known = place < len(events.user)
        known[known] = events.user[place[known]] == user[known]
        place[~known] = 0
        rank = np.searchsorted(self._distinct, now, side="right" if with_equal else "left")
        end = np.searchsorted(self._keys, self._key(place, rank))
        start = events.starts[place]
        return SeenEvents(np.where(known, start, 0), np.where(known, end - start, 0), now)

    def histories(self, seen: SeenEvents) -> "Histories":
        """What rows see, as tensors that share the list of all events."""
        import torch

        from deepfm.data.history import Histories

        events = self.events
        return Histories(
            {name: torch.from_numpy(ids) for name, ids in events.ids.items()},
            torch.from_numpy(events.time),
            torch.from_numpy(seen.starts),
            torch.from_numpy(seen.lengths),
            torch.from_numpy(np.array(seen.now)),  # which Arrow may have lent read-only
        )

    def padded(self, seen: SeenEvents) -> "PaddedEvents":
        """What rows see, as a batch holds it."""
        events, lengths = self.events, seen.lengths
        longest = int(lengths.max(initial=0))
        if not longest:
            nothing = np.zeros((len(lengths), 1), np.int64)
            return PaddedEvents(dict.fromkeys(events.ids, nothing), nothing, lengths)
        position = np.arange(longest)
        there = position < lengths[:, None]
        places = np.where(there, seen.starts[:, None] + position, 0)
        ids = {name: np.where(there, of[places], 0) for name, of in events.ids.items()}
        ages = np.where(there, age_ids(seen.now[:, None] - events.time[places]), 0)
        return PaddedEvents(ids, ages, lengths)

    def _key(self, user: np.ndarray, rank: np.ndarray) -> np.ndarray:
        """A number that rises with the user's place and then with the time's, (N,) int64."""
        found: np.ndarray = user * (len(self._distinct) + 1) + rank
        return found
