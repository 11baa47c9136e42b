"""What a user did before each row: the earlier positives, as sequence fields of the model.

Decided here: which events a row sees, and how the time since an event becomes an id.

- Earlier is by (time, row number), and never the row itself. With `ties: exclude` events of the
  row's own time are left out too, because nothing says that they came before it.
- An event is a positive row. Which splits may give events is for the caller to say.
- A history is a part of the list of all events in the order of (user, time, row number), oldest
  first; so rows share that list, and each has a start and a length in it.
- The time since an event is one of `AGE_IDS` - 1 classes, half a unit of ln(1 + age) wide each.

Shapes: N rows, E events.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepfm.data.batch import Inputs, Ragged
from deepfm.data.event_ids import AGE_IDS as AGE_IDS
from deepfm.data.event_ids import age_ids as age_ids
from deepfm.data.event_ids import item_columns
from deepfm.data.history_ranges import HistoryPass
from deepfm.data.schema import AGES, DatasetSchema


class EarlierEvents(NamedTuple):
    """What came before each row.

    Attributes:
        events: Row numbers of all events, in the order of (user, time, row number), (E,).
        starts, lengths: Of each row's part of `events`, (N,).
    """

    events: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


def earlier_events(
    user: np.ndarray, time: np.ndarray, is_event: np.ndarray, *, max_length: int, ties: str
) -> EarlierEvents:
    """The last `max_length` events of each row's user that are earlier than the row.

    Args:
        user: User of each row, (N,) int.
        time: Anything sortable, (N,).
        is_event: Which rows may stand in a history, (N,) bool.
        max_length: Events that a row sees at most.
        ties: `order`: of equal times, rows in front of it are earlier; `exclude`: none is.

    Example:
        >>> user, time, is_event = np.zeros(3, int), np.array([5, 5, 7]), np.ones(3, bool)
        >>> earlier_events(user, time, is_event, max_length=9, ties="exclude").lengths
        array([0, 0, 2])
        >>> earlier_events(user, time, is_event, max_length=9, ties="order").lengths
        array([0, 1, 2])
    """
    order = np.lexsort((time, user))  # a stable sort: equal times keep the order of rows
    seen = HistoryPass(max_length=max_length, ties_in_order=ties == "order")
    found = seen.ranges(user[order], time[order], is_event[order])
    starts, lengths = np.empty_like(found.starts), np.empty_like(found.lengths)
    starts[order], lengths[order] = found
    return EarlierEvents(order[is_event[order]], starts, lengths)


class Ages(Ragged):
    """The times since the events of each row, as ids that are made when rows are asked for.

    Args:
        ids: The times of all events, (E,) float64.
        starts, lengths: As those of `Ragged`.
        now: The time of each row, (N,) float64.
    """

    def __init__(self, ids: Tensor, starts: Tensor, lengths: Tensor, now: Tensor) -> None:
        super().__init__(ids, starts, lengths)
        self._now = now

    def flat(self, rows: Tensor) -> Tensor:
        """The ids of some rows end to end, (sum of their lengths,)."""
        now = self._now[rows].repeat_interleave(self.lengths[rows])
        return _age_ids(now - super().flat(rows))

    def __getitem__(self, rows: Tensor | slice | int) -> Tensor:
        """As of `Ragged`: padded with 0, (B, L), or (L,) of one row."""
        if isinstance(rows, int):
            return self[torch.tensor([rows % len(self)])].squeeze(0)
        ids = _age_ids(self._now[rows].unsqueeze(1) - super().__getitem__(rows))
        position = torch.arange(ids.shape[1])
        return ids.masked_fill_(position >= self.lengths[rows].unsqueeze(1), 0)


def _age_ids(age: Tensor) -> Tensor:
    return torch.from_numpy(age_ids(age.numpy()))


class Histories(NamedTuple):
    """The histories of N rows, which share the list of their events.

    Attributes:
        ids: Of the events, (E,) by field that is built of items.
        times: Of the events, (E,) float64.
        starts, lengths: Of each row, (N,) int64.
        now: The time of each row, (N,) float64.
    """

    ids: Mapping[str, Tensor]
    times: Tensor
    starts: Tensor
    lengths: Tensor
    now: Tensor

    def of(self, rows: np.ndarray) -> "Histories":
        """Those of some rows, over the same events."""
        places = torch.from_numpy(rows)
        of_rows = (t.index_select(0, places) for t in (self.starts, self.lengths, self.now))
        return Histories(self.ids, self.times, *of_rows)

    def added_to(self, inputs: Inputs, schema: DatasetSchema) -> Inputs:
        """Inputs of the same rows, with the built fields of the schema behind their sequences."""
        ids, lengths = list(inputs.sequence_ids), list(inputs.sequence_lengths)
        for field in schema.built_fields:
            if field.built == AGES:
                ids.append(Ages(self.times, self.starts, self.lengths, self.now))
            else:
                ids.append(Ragged(self.ids[field.name], self.starts, self.lengths))
            lengths.append(self.lengths)
        return inputs._replace(sequence_ids=tuple(ids), sequence_lengths=tuple(lengths))


def item_ids(schema: DatasetSchema, items: Inputs) -> dict[str, Tensor]:
    """What each built field of items holds for each item, (number of items,) int64.

    Args:
        items: The fields of group `item`, encoded, one row per item.
    """
    return {name: items.sparse[:, place].long() for name, place in item_columns(schema).items()}
