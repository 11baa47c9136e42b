"""Histories of rows that are served: what their users did before, by the events of a checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from deepfm.data.encoding.arrays import EncodedArrays
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
from deepfm.data.event_ids import age_ids, item_columns
from deepfm.data.files.columns import combined, named_in_errors
from deepfm.data.labels import NO_GROUP, group_ids, refuse_bad
from deepfm.data.last_events import EventTimes, LastEvents, PaddedEvents, SeenEvents
from deepfm.data.schema import AGES, DatasetSchema
from deepfm.data.sources.tables import find, id_field
from deepfm.data.split_times import Times
from deepfm.errors import DataError, Place, nearest, shown
from deepfm.utils.logging import LOGGER

if TYPE_CHECKING:
    from deepfm.data.batch import Inputs

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
    """Finds the events that rows see, and adds them as the built fields of a schema."""

    def __init__(self, events: LastEvents, schema: DatasetSchema) -> None:
        self._events = EventTimes(events)
        self._schema = schema
        self._user = id_field(schema, "user").column
        self._time = str(schema.time_column)
        self._max_length = schema.built_fields[0].max_length

    def seen_by_rows(
        self, columns: pa.Table, times: Times, place: Callable[[int], Place]
    ) -> SeenEvents:
        """The events before each row's time.

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
        return self._events.before(users, now)

    def seen_by_user(self, user: object, time: object = None) -> SeenEvents:
        """All events of a user up to a time, by default up to now, as one row sees them.

        Raises:
            DataError: The time is none.
        """
        try:
            users = _hashes(column_of([user], 1))
        except NotPlain:
            row = pa.table({self._user: pa.array([user])})
            users = group_ids(row, [self._user])[:, 0].view(np.uint64)
        now = np.array([self.moment(time)])
        return self._events.before(users, now, with_equal=True)

    def seen_by_few(self, columns: Mapping[str, Values], rows: int) -> SeenEvents:
        """What `seen_by_rows` gives, without Arrow.

        Args:
            columns: N rows, as `deepfm.data.encoding.few_rows.FewRows` takes them.
            rows: N.

        Raises:
            NotPlain: A column is missing, or a row has no time that is a number.
        """
        if self._user not in columns or self._time not in columns:
            raise NotPlain("no user or no time")
        times = column_of(columns[self._time], rows)
        if times.is_list or times.kind not in (WHOLE, REAL, SINGLE):
            raise NotPlain(f"times that are {times.kind}")
        now = np.array(times.values, np.float64)  # None is NaN
        if not (np.abs(now) < 2.0**63).all():
            raise NotPlain("a time that is no number")
        users = _hashes(column_of(columns[self._user], rows))
        return self._events.before(users, now)

    def added(self, arrays: EncodedArrays, seen: SeenEvents) -> EncodedArrays:
        """Encoded rows with the built fields behind their sequences, padded."""
        return self._with(arrays, self._events.padded(seen))

    def added_to_inputs(self, inputs: "Inputs", seen: SeenEvents) -> "Inputs":
        """The same of tensors, with built fields that are padded when rows are selected."""
        return self._events.histories(seen).added_to(inputs, self._schema)

    def added_given(
        self, arrays: EncodedArrays, given: GivenHistory, items: np.ndarray, time: object = None
    ) -> EncodedArrays:
        """One encoded row with a history in the place of the user's own.

        An event without a time is one of this moment.

        Args:
            items: The sparse fields of group `item`, one row per item.

        Raises:
            DataError: The time is none.
        """
        now = self.moment(time)
        last = given.items[-self._max_length :]
        times = np.where(np.isnan(given.times), now, given.times)[-self._max_length :]
        lengths = np.array([len(last)])
        columns = item_columns(self._schema)
        if not len(last):
            nothing = np.zeros((1, 1), np.int64)
            return self._with(
                arrays, PaddedEvents(dict.fromkeys(columns, nothing), nothing, lengths)
            )
        ids = {name: items[last, place][None].astype(np.int64) for name, place in columns.items()}
        return self._with(arrays, PaddedEvents(ids, age_ids(now - times)[None], lengths))

    def _with(self, arrays: EncodedArrays, found: PaddedEvents) -> EncodedArrays:
        built = self._schema.built_fields
        ids = (found.ages if field.built == AGES else found.ids[field.name] for field in built)
        return arrays.with_sequences(tuple(ids), (found.lengths,) * len(built))

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
