"""The raw columns that a page asks for: what can be typed into each, and what is made of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.ids import Vocabulary
from deepfm.data.files.columns import is_list
from deepfm.data.schema import FieldSchema
from deepfm.data.sources.tables import SideTables
from deepfm.errors import DataError, nearest

MOST_CHOICES = 500  # values that an input suggests; a column with more suggests none
CUT = "|"  # between the elements of a list that no separator of its field cuts


class Column(NamedTuple):
    """A raw column of a form.

    Attributes:
        name: Of the column.
        fields: That read it.
        is_number: Whether each of these reads a number.
        is_list: Whether what is typed is cut at `CUT`.
        choices: Values to suggest, as texts.
    """

    name: str
    fields: tuple[str, ...]
    is_number: bool
    is_list: bool
    choices: tuple[str, ...]


class Form:
    """Columns by name, in the order of the schema's fields.

    Args:
        fields: That the form's columns are read by.
        more: Columns that no field reads, such as times.
    """

    def __init__(
        self,
        encoders: Encoders,
        tables: SideTables,
        fields: Iterable[FieldSchema],
        more: Iterable[str] = (),
    ) -> None:
        readers: dict[str, list[FieldSchema]] = {name: [] for name in more}
        for field in fields:
            for name in field.raw_columns:
                readers.setdefault(name, []).append(field)
        self.columns = {
            name: Column(
                name,
                tuple(field.name for field in read),
                bool(read) and all(field.encoder.reads == "number" for field in read),
                bool(read) and all(_is_cut(field) for field in read),
                _choices(name, read, encoders, tables),
            )
            for name, read in readers.items()
        }

    def values(self, typed: Mapping[str, str]) -> dict[str, object]:
        """What is typed as raw values; an empty text is no value.

        Raises:
            DataError: There is no such column.
        """
        found: dict[str, object] = {}
        for name, text in typed.items():
            if name not in self.columns:
                raise DataError(f"no column {name!r}; {nearest(name, self.columns)}")
            text = text.strip()
            elements = [part.strip() for part in text.split(CUT)]
            found[name] = (elements if self.columns[name].is_list else text) if text else None
        return found

    def plain(self) -> list[dict[str, object]]:
        """As JSON."""
        return [column._asdict() for column in self.columns.values()]


def as_typed(value: object) -> str:
    """A raw value as somebody would type it.

    Example:
        >>> as_typed(None), as_typed(1.5), as_typed(["a", "b"])
        ('', '1.5', 'a|b')
    """
    if value is None:
        return ""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return CUT.join(map(as_typed, value))
    return str(value)


def _is_cut(field: FieldSchema) -> bool:
    """Whether a raw value is a list that no text stands for."""
    is_several = field.feature_type == "sequence" or field.value_dim > 1
    return is_several and not field.cut_at


def _choices(
    name: str, readers: Sequence[FieldSchema], encoders: Encoders, tables: SideTables
) -> tuple[str, ...]:
    """Values of a user or item table, or of a vocabulary whose values are the raw ones."""
    for table in tables:
        if table is not None and name in table.column_names:
            return _distinct(table[name])
    for reader, encoder in encoders.parts():
        is_raw = reader.field in readers and reader.field.transform is None
        if is_raw and not reader.field.columns and isinstance(encoder, Vocabulary):
            return _distinct(encoder.values)
    return ()


def _distinct(values: pa.ChunkedArray | pa.Array) -> tuple[str, ...]:
    if is_list(values.type) or pa.types.is_floating(values.type):
        return ()
    found = pc.unique(values).drop_null()
    if len(found) > MOST_CHOICES:
        return ()
    return tuple(map(as_typed, sorted(found.to_pylist())))
