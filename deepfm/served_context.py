"""What the context fields of a model read when a list is made: values of the request.

Decided here: a list has one value per context field, which the request gives; a field may do
without only where its declaration says what stands in. Columns that the table of items has come
with each item, unless the request gives them. What a user's fields read may be given, too, in the
place of what is stored of the user.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from deepfm.data.encoding.transforms import transform_class
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.errors import DataError, nearest


class ListContext(NamedTuple):
    """What a request says beside the user.

    Attributes:
        columns: Raw columns of one value each, None where a field does without.
        time: What now is, as it was given; None: nobody says.
        by_item: Whether some context field reads columns that differ from item to item.
    """

    columns: dict[str, object]
    time: object
    by_item: bool


class ServedContext:
    """Checks the context of a request against the schema.

    Args:
        schema: The fields.
        item_columns: What the table of items has.
    """

    def __init__(self, schema: DatasetSchema, item_columns: Collection[str]) -> None:
        self._fields = [field for field in schema.read_fields if field.group == "context"]
        self._item_columns = frozenset(item_columns)
        self._user = _column(schema, schema.user_field)
        own = dict.fromkeys(name for field in self._fields for name in field.raw_columns)
        self._time = schema.time_column if schema.time_column in own else None
        of_users = [
            name
            for field in schema.read_fields
            if field.group == "user"
            for name in field.raw_columns
        ]
        ids = {self._user, _column(schema, schema.item_field)}
        self._columns = tuple(name for name in dict.fromkeys([*own, *of_users]) if name not in ids)

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns that a request may give."""
        return self._columns

    @property
    def reads_time(self) -> bool:
        """Whether a context field reads the time of a row."""
        return self._time is not None

    @property
    def required(self) -> tuple[str, ...]:
        """The raw columns that a request has to give."""
        needed = (name for field in self._fields for name in self._missing(field, ()))
        return tuple(dict.fromkeys(needed))

    def read(self, given: Mapping[str, object] | None, time: object) -> ListContext:
        """The context of a request.

        Of a model with a field that reads the time of a row, `time` and the context's column of
        times stand for each other.

        Raises:
            DataError: A field has no value and nothing that stands in, or a column is unknown.
        """
        columns = dict(given or {})
        if self._time is not None:
            if time is not None:
                columns.setdefault(self._time, time)
            time = columns.get(self._time) if time is None else time
        for name in columns:
            if name not in self._columns:
                raise DataError(f"context: {self._unknown(name)}")
        if lacking := [field for field in self._fields if self._missing(field, columns)]:
            named = ", ".join(_named(field, self._missing(field, columns)) for field in lacking)
            raise DataError(
                f"the context lacks a value of {named}; give one for each, null where there is none"
            )
        by_item = False
        for field in self._fields:
            for name in field.raw_columns:
                if name not in columns and name != self._user:
                    if name in self._item_columns:
                        by_item = True
                    else:
                        columns[name] = None
        return ListContext(columns, time, by_item)

    def _missing(self, field: FieldSchema, given: Collection[str]) -> list[str]:
        """The columns that a field needs, and that neither the request nor the items have."""
        if field.default is not None or (field.is_dense and field.missing != "error"):
            return []
        if transform_class(field.transform).tells_absence:
            return []
        there = {*given, *self._item_columns, self._user}
        return [name for name in field.raw_columns if name not in there]

    def _unknown(self, name: str) -> str:
        if not self._columns:
            return f"the model has no context, so {name!r} has no meaning"
        return f"{name!r} is no column of context or user fields; {nearest(name, self._columns)}"


def _column(schema: DatasetSchema, field: str | None) -> str | None:
    return None if field is None else schema.fields[field].column


def _named(field: FieldSchema, columns: list[str]) -> str:
    """The field, with its columns where they have other names."""
    read = ", ".join(columns)
    return field.name if columns == [field.name] else f"{field.name} (column {read})"
