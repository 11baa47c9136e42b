"""The raw tables of a data set, and values looked up from one in another."""

from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from deepfm.errors import DataError, nearest

if TYPE_CHECKING:
    from deepfm.data.schema import DatasetSchema


class RawTables(NamedTuple):
    """The raw columns of a data set, as an adapter gives them.

    Attributes:
        interactions: One row per event, in file order: user, item, label and time columns, and
            context columns.
        users, items: One row per user and per item, with their raw feature columns. The item
            table is the catalogue that negatives and candidates are drawn from. None: there is
            nothing to look up.
    """

    interactions: pa.Table
    users: pa.Table | None
    items: pa.Table | None

    def positions(self, schema: "DatasetSchema", columns: pa.Table, group: str) -> pa.Array:
        """Row of the `user` or `item` table for each row of `columns`; null where unknown.

        Raises:
            DataError: The id column is missing.
        """
        field = schema.fields[schema.user_field if group == "user" else schema.item_field]
        if field.column not in columns.column_names:
            hint = nearest(field.column, columns.column_names)
            raise DataError(f"no column {field.column!r}, which identifies the {group}; {hint}")
        table = self.users if group == "user" else self.items
        wanted, ids = (t[field.column].combine_chunks() for t in (columns, table))
        return find(wanted, ids)

    def complete(self, schema: "DatasetSchema", columns: pa.Table) -> pa.Table:
        """Look up, by id, the user and item columns that the rows do not bring along.

        Columns that are there stay as they are; an unknown id gives nulls.
        """
        for group, table in (("user", self.users), ("item", self.items)):
            present = columns.column_names
            missing = [
                column
                for field in schema.fields.values()
                for column in field.raw_columns
                if field.group == group and column not in present
            ]
            if table is None:
                continue
            if missing := [name for name in dict.fromkeys(missing) if name in table.column_names]:
                found = table.take(self.positions(schema, columns, group))
                for name in missing:
                    columns = columns.append_column(name, found[name])
        return columns


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
