"""The raw tables of a data set, and values looked up from one in another."""

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.files.columns import named_in_errors
from deepfm.errors import DataError, nearest

if TYPE_CHECKING:
    from deepfm.data.schema import DatasetSchema, FieldSchema


class SideTables(NamedTuple):
    """What is looked up by the id of a user or of an item.

    Attributes:
        users, items: One row per user and per item; None: there is nothing to look up.
    """

    users: pa.Table | None
    items: pa.Table | None

    @property
    def column_names(self) -> set[str]:
        """The columns of both tables."""
        return {name for table in self if table is not None for name in table.column_names}

    def positions(self, schema: "DatasetSchema", columns: pa.Table, side: str) -> pa.Array:
        """Row of the `user` or `item` table for each row of `columns`; null where unknown.

        Raises:
            DataError: The id column is missing.
        """
        field = id_field(schema, side)
        if field.column not in columns.column_names:
            hint = nearest(field.column, columns.column_names)
            raise DataError(f"no column {field.column!r}, which identifies the {side}; {hint}")
        table = self.users if side == "user" else self.items
        if table is None:
            raise DataError(f"there is no table of {side}s to look up")
        with named_in_errors(field.column):
            wanted, ids = (t[field.column].combine_chunks() for t in (columns, table))
            return find(wanted, ids)

    def missing(self, schema: "DatasetSchema", present: Collection[str]) -> dict[str, list[str]]:
        """The columns to look up by side, which fields read and rows do not bring along."""
        found: dict[str, list[str]] = {}
        present = set(present)
        for side, table in (("user", self.users), ("item", self.items)):
            if table is None:
                continue
            read = (
                column
                for field in schema.fields.values()
                if field.group == side
                for column in field.raw_columns
            )
            known = table.column_names
            names = [name for name in dict.fromkeys(read) if name not in present and name in known]
            if names:
                found[side] = names
                present.update(names)
        return found

    def complete(self, schema: "DatasetSchema", columns: pa.Table) -> pa.Table:
        """Look up, by id, the user and item columns that the rows do not bring along.

        Columns that are there stay as they are; an unknown id gives nulls.
        """
        for side, names in self.missing(schema, columns.column_names).items():
            table = self.users if side == "user" else self.items
            assert table is not None
            found = table.select(names).take(self.positions(schema, columns, side))
            for name in names:
                columns = columns.append_column(name, found[name])
        return columns


class RawTables(NamedTuple):
    """The raw columns of a data set, as an adapter gives them.

    Attributes:
        interactions: One row per event, in file order: user, item, label and time columns, and
            context columns.
        users, items: One row per user and per item, with their raw feature columns. The item
            table is the catalogue that negatives and candidates are drawn from.
        role: Index in `SPLIT_NAMES` of the files that each interaction stands in, (N,) int; None
            where each split has no files of its own.
    """

    interactions: pa.Table
    users: pa.Table
    items: pa.Table
    role: np.ndarray | None = None

    @property
    def sides(self) -> SideTables:
        return SideTables(self.users, self.items)

    def positions(self, schema: "DatasetSchema", columns: pa.Table, side: str) -> pa.Array:
        """Return what `SideTables.positions` does."""
        return self.sides.positions(schema, columns, side)

    def complete(self, schema: "DatasetSchema", columns: pa.Table) -> pa.Table:
        """Return what `SideTables.complete` does."""
        return self.sides.complete(schema, columns)


def id_field(schema: "DatasetSchema", side: str) -> "FieldSchema":
    """The field that identifies a `user` or an `item`.

    Raises:
        DataError: The schema names none.
    """
    name = schema.user_field if side == "user" else schema.item_field
    if name is None:
        raise DataError(f"no field identifies the {side}: {side}_field is not set")
    return schema.fields[name]


def find(values: pa.Array, vocabulary: pa.Array) -> pa.Array:
    """Position of each value in the vocabulary, null where it is not there or null itself.

    Values are compared as the vocabulary's type: integers find "17" and 17.0 as well as 17.

    Example:
        >>> find(pa.array(["20", "x", None]), pa.array([10, 20])).to_pylist()
        [1, None, None]
    """
    if values.type != vocabulary.type:
        try:
            values = values.cast(vocabulary.type)
        except pa.ArrowInvalid:  # some value is no number: compare all as text
            values, vocabulary = values.cast(pa.string()), vocabulary.cast(pa.string())
    return pc.index_in(values, value_set=vocabulary, skip_nulls=True)
