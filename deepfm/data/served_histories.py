"""Histories of rows that are served: what their users did before, by the events of a checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from deepfm.data.batch import Inputs
from deepfm.data.encoding.cells import A_TIME
from deepfm.data.encoding.few_values import (
    REAL,
    SINGLE,
    WHOLE,
    Column,
    NotPlain,
    Values,
    as_texts,
    check_texts,
    column_of,
)
from deepfm.data.encoding.hashing import hash_few
from deepfm.data.files.columns import combined, named_in_errors
from deepfm.data.history import Histories, item_ids
from deepfm.data.labels import NO_GROUP, group_ids, refuse_bad
from deepfm.data.last_events import EventTimes, LastEvents, PaddedEvents
from deepfm.data.schema import AGES, DatasetSchema
from deepfm.data.sources.tables import find, id_field
from deepfm.data.splits import Times
from deepfm.errors import DataError, Place, nearest, shown
from deepfm.utils.logging import LOGGER

_SHOWN = 5  # unknown items that a warning names


class GivenHistory(NamedTuple):
    """A history in the place of a user's own, K events that the data knows the items of.

    Attributes:
        items: Positions in the table of items, oldest first, (K,) int64.
        times: (K,) float64; NaN where no time is given.
    """

    items: np.ndarray
    times: np.ndarray


class ServedHistories:
    """Adds the built fields of a schema to inputs that were read from raw rows."""

    def __init__(self, events: LastEvents, schema: DatasetSchema) -> None:
        self._events = EventTimes(events)
        self._schema = schema
        self._user = id_field(schema, "user").column
        self._time = str(schema.time_column)
        self._max_length = schema.built_fields[0].max_length

    def added_to_rows(
        self, inputs: Inputs, columns: pa.Table, times: Times, place: Callable[[int], Place]
    ) -> Inputs:
        """The inputs of raw rows with the events before each row's time.

        Args:
            columns: The rows, with the columns of users and times.
            times: Reads the times of all rows of a stream alike.
            place: Where row `index` stands.

        Raises:
            DataError: A column is missing, or a row has no time that can be read.
        """
        for column in (self._user, self._time):
            if column not in columns.column_names:
                raise DataError(
                    f"no column {column!r}, which the model needs to know what a row's user did "
                    f"before the row; {nearest(column, columns.column_names)}"
                )
        with named_in_errors(self._time):
            now, bad = times.read(combined(columns[self._time]))
        refuse_bad(columns[self._time], bad, A_TIME, lambda k: place(k)._replace(column=self._time))
        users = group_ids(columns, [self._user])[:, 0].view(np.uint64)
        return self._events.before(users, now).added_to(inputs, self._schema)

    def added_to_user(self, inputs: Inputs, user: object, time: object = None) -> Inputs:
        """The inputs of one row with all events of a user up to a time, by default up to now.

        Raises:
            DataError: The time is none.
        """
        try:
            users = _hashes(column_of([user], 1))
        except NotPlain:
            row = pa.table({self._user: pa.array([user])})
            users = group_ids(row, [self._user])[:, 0].view(np.uint64)
        now = np.array([self.moment(time)])
        return self._added(inputs, self._events.padded(users, now, with_equal=True))

    def added_to_few(self, inputs: Inputs, columns: Mapping[str, Values]) -> Inputs:
        """What `added_to_rows` gives, without Arrow.

        Args:
            columns: The rows, as `deepfm.data.encoding.few_rows.FewRows` takes them.

        Raises:
            NotPlain: A column is missing, or a row has no time that is a number.
        """
        if self._user not in columns or self._time not in columns:
            raise NotPlain("no user or no time")
        rows = inputs.num_rows
        times = column_of(columns[self._time], rows)
        if times.is_list or times.kind not in (WHOLE, REAL, SINGLE):
            raise NotPlain(f"times that are {times.kind}")
        now = np.array(times.values, np.float64)  # None is NaN
        if not (np.abs(now) < 2.0**63).all():
            raise NotPlain("a time that is no number")
        users = _hashes(column_of(columns[self._user], rows))
        return self._added(inputs, self._events.padded(users, now))

    def _added(self, inputs: Inputs, found: PaddedEvents) -> Inputs:
        lengths = torch.from_numpy(found.lengths)
        built = self._schema.built_fields
        ids = (found.ages if field.built == AGES else found.ids[field.name] for field in built)
        return inputs._replace(
            sequence_ids=(*inputs.sequence_ids, *map(torch.from_numpy, ids)),
            sequence_lengths=(*inputs.sequence_lengths, *(lengths for _ in built)),
        )

    def added_given(
        self, inputs: Inputs, given: GivenHistory, items: Inputs, time: object = None
    ) -> Inputs:
        """The inputs of one row with a history in the place of the user's own.

        An event without a time is one of this moment.

        Args:
            items: The fields of group `item`, encoded, one row per item.

        Raises:
            DataError: The time is none.
        """
        now = self.moment(time)
        last = torch.from_numpy(given.items[-self._max_length :])
        times = np.where(np.isnan(given.times), now, given.times)[-self._max_length :]
        history = Histories(
            {name: ids[last] for name, ids in item_ids(self._schema, items).items()},
            torch.from_numpy(times),
            torch.tensor([0]),
            torch.tensor([len(last)]),
            torch.tensor([now], dtype=torch.float64),
        )
        return history.added_to(inputs, self._schema)

    def moment(self, time: object) -> float:
        """A time as a number; None is that of the newest event that the checkpoint holds.

        Raises:
            DataError: It is no time.
        """
        return self._events.newest if time is None else _moment(time)

    def given(self, history: Sequence[object], table: pa.Table) -> GivenHistory:
        """The events of a list of raw ids of items, oldest first, or of pairs of id and time.

        Ids that the table of items does not have are named in a warning and left out.

        Raises:
            DataError: A time is none.
        """
        pairs = [event if isinstance(event, tuple) else (event, None) for event in history]
        times = np.array([np.nan if at is None else _moment(at) for _, at in pairs])
        column = id_field(self._schema, "item").column
        wanted = pa.array([str(item) for item, _ in pairs], pa.string())
        places = find(wanted, table[column].combine_chunks()).to_numpy(zero_copy_only=False)
        known = ~np.isnan(places.astype(np.float64))
        if not known.all():
            unknown = [pairs[k][0] for k in np.flatnonzero(~known)]
            named = ", ".join(map(shown, unknown[:_SHOWN])) + (", …" if unknown[_SHOWN:] else "")
            LOGGER.warning(
                f"{len(unknown):,} of {len(pairs):,} items of the history are unknown: {named}"
            )
        return GivenHistory(places[known].astype(np.int64), times[known])


def _hashes(users: Column) -> np.ndarray:
    """What `group_ids` gives for the users of few rows, (N,) uint64.

    Raises:
        NotPlain: A user is a list, or a number that is not written alike everywhere.
    """
    if users.is_list:
        raise NotPlain("lists of users")
    texts = as_texts(users.kind, users.values)
    check_texts(texts)
    hashes = hash_few([(text or "").encode() for text in texts], "xxh64")
    return np.array(
        [own if text else NO_GROUP for own, text in zip(hashes, texts, strict=True)], np.uint64
    )


def _moment(time: object) -> float:
    try:
        found, bad = Times().read(pa.array([time]))
    except (pa.ArrowException, DataError):
        raise DataError(f"expected {A_TIME}, found {shown(time)}") from None
    if bad[0]:
        raise DataError(f"expected {A_TIME}, found {shown(time)}")
    return float(found[0])
