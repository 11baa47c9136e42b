"""Raw rows that are served: what a model sees of them, whatever form they are given in.

Decided here: few rows are read by dictionaries and plain arrays, as long as their values are plain;
all others go through Arrow. The inputs are the same, and errors are those of Arrow's path.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from deepfm.data.encoding.arrays import EncodedArrays
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.few_rows import FewRows
from deepfm.data.encoding.few_rows_spec import few_rows, few_rows_spec
from deepfm.data.encoding.few_values import Column, NotPlain, Values
from deepfm.data.last_events import SeenEvents
from deepfm.data.schema import DatasetSchema
from deepfm.data.served_example import example_row
from deepfm.data.served_histories import ServedHistories
from deepfm.data.sources.rows_given import Given, as_table, plain_columns
from deepfm.data.sources.side_values import SideValues
from deepfm.data.sources.tables import SideTables, id_field
from deepfm.data.split_times import Times
from deepfm.errors import Place
from deepfm.utils.logging import LOGGER

FEW = 1000  # rows; from about there on Arrow is the faster one


class ReadRows(NamedTuple):
    """Rows as they are scored.

    Attributes:
        arrays: What a model sees, N rows, without the fields of a history.
        seen: The events of their histories; None of a model without.
        columns: The raw columns by name, with those that were looked up.
    """

    arrays: EncodedArrays
    seen: SeenEvents | None
    columns: Mapping[str, Values | pa.ChunkedArray]


class ServedRows:
    """Reads raw rows: looks up what is known of users and items, encodes, finds their events.

    Threads may share it, and it can be pickled.
    """

    def __init__(
        self, encoders: Encoders, tables: SideTables, histories: ServedHistories | None
    ) -> None:
        self._encoders, self._tables, self._histories = encoders, tables, histories
        self._side_values = SideValues(tables, encoders.schema)
        fields = encoders.schema.fields.values()
        self._wanted = tuple(dict.fromkeys(name for field in fields for name in field.raw_columns))
        self._read_columns = frozenset(columns_read(encoders.schema))

    def absent(self, columns: Collection[str]) -> list[str]:
        """The raw columns that fields do without in rows of these columns."""
        return [name for name in self._wanted if name not in columns]

    @cached_property
    def _few_rows(self) -> FewRows:
        return few_rows(self._encoders)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is made at the first request, which is made anew."""
        return {name: value for name, value in vars(self).items() if name != "_few_rows"}

    def read(self, given: Given) -> ReadRows:
        """What a model sees of rows in any of the forms of `deepfm.data.sources.rows_given`.

        Raises:
            DataError: They are in none, a column is missing that cannot be looked up, or a value
                cannot be read.
        """
        try:
            if _may_be_few(given):
                columns, rows = plain_columns(given, self._read_columns)
                if rows <= FEW:
                    return self._read_few(columns, rows)
        except NotPlain:
            pass
        return self._read_by_arrow(given)

    def of_user(self, column: str, user: object, others: Mapping[str, Given]) -> EncodedArrays:
        """One encoded row of a user, without a history.

        Args:
            column: Of the id.
            others: Columns of one value, of what is no user's.

        Raises:
            DataError: A value cannot be read.
        """
        try:
            row = self._side_values.completed({column: [user], **others}, 1)
            return self._few_rows.encode(row, 1)
        except NotPlain:
            plain = {k: v.values if isinstance(v, Column) else v for k, v in others.items()}
            table = as_table({column: [user], **plain})
            table = self._tables.complete(self._encoders.schema, table)
            return self._encoders.encode_arrays(table)

    def place(self, side: str, wanted: object) -> int | None:
        """The row of the `user` or `item` table that belongs to an id; None: it has none.

        Raises:
            DataError: There is no such table.
        """
        try:
            return self._side_values.places(side, [wanted])[0]
        except NotPlain:
            column = id_field(self._encoders.schema, side).column
            row = as_table({column: [wanted]})
            found = self._tables.positions(self._encoders.schema, row, side)[0].as_py()
            return None if found is None else int(found)

    def places(self, side: str, wanted: Sequence[object]) -> list[int | None]:
        """What `place` gives for each of several ids."""
        try:
            return self._side_values.places(side, wanted)
        except NotPlain:  # ids of several types, such as a number among texts
            return [self.place(side, one) for one in wanted]

    def of_items(
        self, columns: Mapping[str, object], items: pa.Table, history: EncodedArrays
    ) -> EncodedArrays:
        """An encoded row per item, whose other columns and history are the same in all.

        Args:
            columns: A value of each column that is no item's, or that overrides the items'.
            items: Their raw columns, C rows.
            history: One row; its built fields count alone.

        Raises:
            DataError: A value cannot be read.
        """
        rows, schema = items.num_rows, self._encoders.schema
        own = items.select([name for name in items.column_names if name not in columns])
        repeated = as_table({name: [value] * rows for name, value in columns.items()})
        for name in own.column_names:
            repeated = repeated.append_column(name, own[name])
        arrays = self._encoders.encode_arrays(self._tables.complete(schema, repeated))
        first = len(arrays.sequence_ids)  # built fields stand behind all others
        of_history = history.select(np.zeros(rows, np.int64))
        return arrays.with_sequences(
            of_history.sequence_ids[first:], of_history.sequence_lengths[first:]
        )

    def example(self) -> dict[str, object]:
        """A row that can be read as far as can be known, without what is looked up."""
        schema = self._encoders.schema
        ids = {
            side: schema.fields[name].column
            for side, name in (("users", schema.user_field), ("items", schema.item_field))
            if name is not None
        }
        plain = few_rows_spec(self._encoders)
        row = example_row(columns_read(schema), ids, self._tables, plain)
        if self._histories is not None:
            row[str(schema.time_column)] = int(self._histories.moment(None)) + 1
        return row

    def _read_by_arrow(self, given: Given) -> ReadRows:
        table = self._tables.complete(self._encoders.schema, as_table(given, self._read_columns))
        arrays, seen = self._encoders.encode_arrays(table), None
        if self._histories is not None:
            seen = self._histories.seen_by_rows(table, Times(), _row)
        return ReadRows(arrays, seen, dict(zip(table.column_names, table.columns, strict=True)))

    def _read_few(self, columns: Mapping[str, Values], rows: int) -> ReadRows:
        columns = self._side_values.completed(columns, rows)
        arrays, seen = self._few_rows.encode(columns, rows), None
        if self._histories is not None:
            seen = self._histories.seen_by_few(columns, rows)
        return ReadRows(arrays, seen, columns)


def columns_read(schema: DatasetSchema) -> list[str]:
    """The raw columns that rows may bring: of fields, of the ids, of the time."""
    read = [name for field in schema.fields.values() for name in field.raw_columns]
    ids = (schema.user_field, schema.item_field)
    read += [schema.fields[name].column for name in ids if name is not None]
    if schema.time_column is not None:
        read.append(schema.time_column)
    return list(dict.fromkeys(read))


def warn_of_absent(columns: Collection[str], rows: int) -> None:
    """Say that rows were scored without columns that the model was trained with."""
    if columns and rows:
        LOGGER.warning(
            f"no column {', '.join(columns)}: all {rows:,} rows are scored as if it were empty, as "
            "its field allows"
        )


def _may_be_few(given: Given) -> bool:
    """Whether rows are so few, as far as that is known without looking at them."""
    if isinstance(given, Mapping):
        return all(len(values) <= FEW for values in given.values() if hasattr(values, "__len__"))
    return not hasattr(given, "__len__") or len(given) <= FEW


def _row(index: int) -> Place:
    """Where a row of a table in memory stands."""
    return Place(row=index + 1)
