"""What few rows do not bring along of their users and items, without Arrow."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import pyarrow as pa

from deepfm.data.encoding.few_values import (
    NOTHING,
    REAL,
    TEXT,
    WHOLE,
    Column,
    NotPlain,
    Values,
    column_of,
)
from deepfm.data.files.columns import is_text
from deepfm.data.schema import DatasetSchema
from deepfm.data.sources.rows_given import plain_columns
from deepfm.data.sources.tables import SideTables

_LONGEST = 18  # digits; numbers of so many are int64


class SideValues:
    """Completes few rows as `SideTables.complete` does a table.

    The ids of a table, and a column of it, become Python values when they are first needed, of
    about 100 and 50 bytes a row. Threads may share it, and it can be pickled, without these values.
    """

    def __init__(self, tables: SideTables, schema: DatasetSchema) -> None:
        self._tables, self._schema = tables, schema
        self._sides: dict[str, _Side] = {}
        for side, name, table in (
            ("user", schema.user_field, tables.users),
            ("item", schema.item_field, tables.items),
        ):
            if name is not None and table is not None:
                self._sides[side] = _Side(table, schema.fields[name].column)
        self._plans: dict[tuple[str, ...], dict[str, list[str]]] = {}

    def __reduce__(self) -> tuple[object, ...]:
        return SideValues, (self._tables, self._schema)

    def completed(self, columns: Mapping[str, Values], rows: int) -> Mapping[str, Values]:
        """The columns, with those of users and items that can be looked up.

        Raises:
            NotPlain: An id is missing, or of a type that is looked up by Arrow.
        """
        given = tuple(columns)
        missing = self._plans.get(given)
        if missing is None:
            missing = self._tables.missing(self._schema, given)
            if len(self._plans) < _PLANS:
                self._plans[given] = missing
        if not missing:
            return columns
        found = dict(columns)
        for side, names in missing.items():
            of_side = self._sides.get(side)
            if of_side is None or of_side.id_column not in columns:
                raise NotPlain(f"no column that identifies the {side}")
            places = of_side.places(column_of(columns[of_side.id_column], rows))
            for name in names:
                found[name] = of_side.taken(name, places)
        return found

    def places(self, side: str, wanted: Sequence[object]) -> list[int | None]:
        """The row of the table that belongs to each id; None: it has none.

        Raises:
            NotPlain: As in `completed`, or there is no such table.
        """
        if side not in self._sides:
            raise NotPlain(f"no table of {side}s")
        return self._sides[side].places(column_of(wanted, len(wanted)))


_PLANS = 64  # kinds of rows whose missing columns are remembered


class _Side:
    """A table of users or of items."""

    def __init__(self, table: pa.Table, id_column: str) -> None:
        self._table, self.id_column = table, id_column
        self._columns: dict[str, Column] = {}

    @cached_property
    def _places(self) -> dict[object, int]:
        """The first row of each id."""
        kind = self._table[self.id_column].type
        if not is_text(kind) and not pa.types.is_integer(kind):
            raise NotPlain(f"ids of type {kind}")
        places: dict[object, int] = {}
        for place, value in enumerate(self._table[self.id_column].to_pylist()):
            if value is not None:
                places.setdefault(value, place)
        return places

    def places(self, wanted: Column) -> list[int | None]:
        """The row of each id, as `deepfm.data.sources.tables.find` finds it."""
        if wanted.is_list:
            raise NotPlain("lists of ids")
        known = self._places
        values = wanted.values
        are_texts = is_text(self._table[self.id_column].type)
        if wanted.kind == WHOLE:
            if are_texts:
                values = [None if value is None else str(value) for value in values]
        elif wanted.kind == TEXT:
            if not are_texts:
                values = [None if value is None else _number(str(value)) for value in values]
        elif wanted.kind == REAL and not are_texts:
            if not all(value is None or value == value // 1 for value in values):
                raise NotPlain("ids that are no whole numbers")
        elif wanted.kind != NOTHING:
            raise NotPlain(f"ids that are {wanted.kind}")
        return [known.get(value) for value in values]

    def taken(self, name: str, places: list[int | None]) -> Column:
        """A column of the table in some rows; None where there is no row."""
        column = self._columns.get(name)
        if column is None:
            table = self._table.select([name])
            column = self._columns[name] = column_of(plain_columns(table)[0][name], len(table))
        values = column.values
        return column._replace(
            values=[None if place is None else values[place] for place in places]
        )


def _number(text: str) -> int | None:
    """The number that a text is, however the texts beside it are written; None: it is none.

    Raises:
        NotPlain: Arrow reads it in some company, and in another not.
    """
    if not text or text[0].isalpha():
        return None
    digits = text.removeprefix("-")
    is_short = digits.isascii() and digits.isdigit() and len(digits) <= _LONGEST
    if not is_short or str(int(text)) != text:
        raise NotPlain("a number that is not written as numbers are")
    return int(text)
