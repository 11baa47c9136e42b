"""Bodies of requests to what an engine takes, and mistakes in them to what is answered.

Decided here: rows come as a list with a dict per row, or as a dict with the values of each column.
Columns that the model does not read are left out. A mistake names the row, the field and the
column, as far as there are any; which row it is, is looked for only when there is a mistake.
"""

from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from deepfm.data.schema import DatasetSchema
from deepfm.engine import Engine
from deepfm.errors import DataError, cut, nearest, shown

Columns = Mapping[str, Sequence[object]]


class Refused(Exception):
    """A request that is answered with an error.

    Attributes:
        status: Of HTTP.
        content: What the answer says under `error`.
    """

    def __init__(self, status: int, message: str, **content: object) -> None:
        super().__init__(message)
        self.status = status
        self.content = {"status": status, "message": message} | content


class Rows(NamedTuple):
    """The rows of a request by column.

    Attributes:
        columns: The values, N of each.
        size: N.
        names: The names of the columns, sorted; requests of equal ones can be scored together.
    """

    columns: Columns
    size: int
    names: list[str]


class ListRequest(NamedTuple):
    """What a list is asked for with: arguments of `Engine.recommend`."""

    user: object
    arguments: dict[str, Any]


def rows_of(body: object, read: Collection[str], most: int) -> Rows:
    """The rows of a body.

    Args:
        body: What its JSON says.
        read: The columns that the model reads.
        most: Rows that a request may have.

    Raises:
        Refused: It says no rows, or too many.
    """
    if not isinstance(body, dict) or ("rows" in body) == ("columns" in body):
        raise Refused(400, 'expected {"rows": [{column: value, …}, …]} or {"columns": {…}}')
    if "rows" in body:
        return _of_rows(body["rows"], read, most)
    columns = body["columns"]
    if not isinstance(columns, dict) or not columns:
        raise Refused(400, f"columns: expected a list of values per column, found {shown(columns)}")
    first, *_ = columns
    for name, values in columns.items():
        if not isinstance(values, list):
            raise Refused(
                422, f"expected a list of values, found {shown(values)}", column=cut(name)
            )
        if len(values) != len(columns[first]):
            raise Refused(
                422,
                f"expected {len(columns[first]):,} values, as in column {cut(first)}, found "
                f"{len(values):,}",
                column=cut(name),
            )
    count = _counted(len(columns[first]), most)
    own = {name: values for name, values in columns.items() if name in read}
    return Rows(own, count, sorted(own))


def _of_rows(rows: object, read: Collection[str], most: int) -> Rows:
    if not isinstance(rows, list):
        raise Refused(400, f"rows: expected a list with an object per row, found {shown(rows)}")
    count = _counted(len(rows), most)
    if count > 1 and (columns := _of_equal_rows(rows, read)) is not None:
        return Rows(columns, count, sorted(columns))
    names: dict[str, None] = {}
    for place, row in enumerate(rows):
        if not isinstance(row, dict):
            raise Refused(422, f"expected an object, found {shown(row)}", row=place + 1)
        if row.keys() != names.keys():
            names.update(dict.fromkeys(row))
    wanted = [name for name in names if name in read]
    if count == 1:
        (row,) = rows
        return Rows({name: [row[name]] for name in wanted}, 1, sorted(wanted))
    return Rows({name: [row.get(name) for row in rows] for name in wanted}, count, sorted(wanted))


def _of_equal_rows(rows: list[Any], read: Collection[str]) -> dict[str, list[Any]] | None:
    """The columns of rows which all have the same keys, all of them read; None: they may differ.

    Values are taken row by row, as they lie in memory, and keys are counted but not compared.
    """
    if set(map(type, rows)) != {dict} or len(set(map(len, rows))) > 1:
        return None
    names = [name for name in rows[0] if name in read]
    if len(names) < 2 or len(names) < len(rows[0]):
        return None
    try:
        values = zip(*map(itemgetter(*names), rows), strict=True)
    except KeyError:
        return None
    return dict(zip(names, map(list, values), strict=True))


def _counted(count: int, most: int) -> int:
    if not count:
        raise Refused(400, "expected at least one row, found none")
    if count > most:
        raise Refused(413, f"expected at most {most:,} rows, found {count:,}")
    return count


_LIST_KEYS = ("user", "top", "context", "candidates", "exclude", "history", "time")


def list_request(body: object) -> ListRequest:
    """What a body asks a list for.

    Raises:
        Refused: A key is unknown, or its value is of another type.
    """
    if not isinstance(body, dict):
        raise Refused(400, f'expected {{"user": id, …}}, found {shown(body)}')
    for name in body:
        if name not in _LIST_KEYS:
            raise Refused(422, f"unknown key; {nearest(name, _LIST_KEYS)}", field=cut(name))
    given = {name: value for name, value in body.items() if value is not None}
    if "user" not in given:
        raise Refused(422, "expected the id of a user, found none", field="user")
    user = _id(given.pop("user"), "user")
    if "top" in given:
        top = given["top"]
        if type(top) is not int or top < 1:
            raise Refused(
                422, f"expected a whole number from 1 on, found {shown(top)}", field="top"
            )
        given["top"] = min(top, 2**31)
    context = given.get("context", {})
    if not isinstance(context, dict):
        raise Refused(422, f"expected a value per column, found {shown(context)}", field="context")
    for name in ("candidates", "exclude", "history"):
        if name in given:
            given[name] = _ids(given[name], name)
    if "time" in given:
        given["time"] = _time(given["time"], "time")
    return ListRequest(user, given)


def _ids(values: object, key: str) -> list[object]:
    if not isinstance(values, list):
        raise Refused(422, f"expected a list of ids, found {shown(values)}", field=key)
    if key == "history":
        return [_event(value, place) for place, value in enumerate(values, 1)]
    return [_id(value, key, place) for place, value in enumerate(values, 1)]


def _event(value: object, place: int) -> object:
    """An id, or a pair of id and time."""
    if not isinstance(value, list):
        return _id(value, "history", place)
    if len(value) != 2:
        raise Refused(
            422, f"expected an id or [id, time], found {shown(value)}", field="history", row=place
        )
    return _id(value[0], "history", place), _time(value[1], "history")


def _id(value: object, key: str, place: int | None = None) -> object:
    is_id = isinstance(value, str) or (type(value) is int and -(2**63) <= value < 2**63)
    if not is_id:
        where: dict[str, object] = {} if place is None else {"row": place}
        raise Refused(422, f"expected an id, found {shown(value)}", field=key, **where)
    return value


def _time(value: object, key: str) -> object:
    if not isinstance(value, str | int | float | None) or isinstance(value, bool):
        raise Refused(422, f"expected a time, found {shown(value)}", field=key)
    return value


def refusal(engine: Engine, rows: Rows, error: DataError) -> Refused:
    """What is answered to rows that cannot be read: the first row of them that cannot."""
    row = error.place.row
    if row is None:
        row, error = _first_bad(engine, rows, error)
    place = error.place
    field = place.field or _field_of(engine.schema, place.column)
    named = {"row": row, "field": field or None, "column": place.column or None}
    content = {name: value for name, value in named.items() if value is not None}
    return Refused(422, str(error.at(place._replace(row=row))), **content)


def _first_bad(engine: Engine, rows: Rows, error: DataError) -> tuple[int | None, DataError]:
    """The end of the shortest beginning of the rows that cannot be read, with its own error."""
    if rows.size == 1:
        return 1, error
    good, bad = 0, rows.size
    while good < bad - 1:
        middle = (good + bad) // 2
        try:
            engine.predict_counted({n: values[:middle] for n, values in rows.columns.items()})
            good = middle
        except DataError as earlier:
            bad, error = middle, earlier
    return bad, error


def _field_of(schema: DatasetSchema, column: str) -> str:
    """The first field that reads a column."""
    return next((f.name for f in schema.read_fields if column in f.raw_columns), "")


def list_refusal(engine: Engine, error: DataError) -> Refused:
    """What is answered to a list that cannot be made."""
    place = error.place._replace(row=None)
    field = place.field or _field_of(engine.schema, place.column)
    named = {"field": field, "column": place.column}
    content = {name: value for name, value in named.items() if value}
    return Refused(422, str(error.at(place)), **content)
