"""A row that a model can read, of what its encoders and tables know: to show, and to warm up."""

from collections.abc import Iterable, Mapping
from typing import Any

from deepfm.data.sources.tables import SideTables

_A_TIME = "2024-01-31T12:00:00"
_OF_TIMES = ("hour", "weekday", "hour_of_week")


def example_row(
    columns: Iterable[str], ids: Mapping[str, str], tables: SideTables, plain: Mapping[str, Any]
) -> dict[str, object]:
    """A value for each column that is not looked up by the id of a user or of an item.

    Args:
        columns: What rows may bring.
        ids: The columns of the ids by `users` and `items`.
        tables: Where others are looked up.
        plain: Fields and tables as `deepfm.data.encoding.few_rows_spec` gives them.
    """
    found: dict[str, object] = {}
    looked_up = {
        name
        for side, table in tables._asdict().items()
        if table is not None and side in ids
        for name in table.column_names
        if name != ids[side]
    }
    fields = plain["fields"]
    for name in columns:
        if name in looked_up:
            continue
        reader = next((field for field in fields if name in field["columns"]), None)
        if reader is not None:
            found[name] = _value(reader, plain["tables"])
    for side, column in ids.items():
        table = getattr(tables, side)
        if table is not None and len(table):
            found[column] = table[column][0].as_py()
    return found


def _value(field: Mapping[str, Any], tables: Mapping[str, Any]) -> object:
    if field["type"] == "dense":
        numbers = [1.0] * field["value_dim"]
        return numbers if len(numbers) > 1 else numbers[0]
    if field["transform"] is not None and field["transform"][0] in _OF_TIMES:
        return _A_TIME
    value = _of_table(tables.get(field["table"], {"kind": ""}))
    if field["type"] != "sequence":
        return value
    return str(value) if field["cut"] else [value]


def _of_table(table: Mapping[str, Any]) -> object:
    """A value that has an id."""
    words = table.get("words")
    if words is None:
        return "a" if table["kind"] == "hash_buckets" else 1
    if "offsets" in words:
        start, end = words["offsets"][:2] if len(words["offsets"]) > 1 else (0, 0)
        return bytes(words["data"][start:end]).decode()
    return words["values"][0].item() if len(words["values"]) else 0
