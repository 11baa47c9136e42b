"""Raw columns to what encoders take: one reader per field, of the class for its type.

Decided here: how lists and vectors are cut, where a default stands in, and what happens to a
value that cannot be read, which is named with its place in the file.

Work is done once per distinct value of a batch wherever that is less than once per row.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.encoding.arrow import append, as_lists, coded, distinct, fill_absent
from deepfm.data.encoding.cells import Reading, as_text, read_numbers, read_whole_numbers
from deepfm.data.encoding.crosses import cross
from deepfm.data.encoding.ids import plain
from deepfm.data.encoding.kinds import Counted, NumbersOfRows
from deepfm.data.encoding.located import Cells, FieldValues, LocatedRows, ReadSoFar
from deepfm.data.encoding.scales import FLOAT32_MAX, SCALES
from deepfm.data.encoding.transforms import Split, find_transform, transform_class
from deepfm.data.files.columns import combined, is_list, is_number, is_text, list_lengths
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.errors import DataError, Place, nearest, shown

T = TypeVar("T")


class FieldReader(ABC):
    """How one field reads its raw columns, up to what its encoder takes.

    Attributes:
        field: The field.
        can_fail: Whether there are values that it cannot read.
        takes_lists: Whether a row may have several values.
    """

    takes_lists: ClassVar[bool] = False

    def __init__(self, field: FieldSchema) -> None:
        self.field = field
        self.can_fail = True
        self._transform = find_transform(field.transform)
        self._cut = find_transform(f"{Split.name}({field.cut_at})") if field.cut_at else None

    def require(self, rows: LocatedRows) -> None:
        """Refuse rows without the field's columns."""
        names = rows.table.column_names
        for column in self.field.raw_columns:
            if column not in names:
                raise DataError(
                    f"no column {column!r}; {nearest(column, names)}; `column` of the field may "
                    f"name another, {self._remedy} lets rows do without",
                    place=Place(field=self.field.name),
                )

    def read(self, rows: LocatedRows, found: ReadSoFar) -> FieldValues:
        """The field's values in some rows.

        Args:
            found: What was read before of these rows; added to.

        Raises:
            DataError: The column is missing or of another type, or a value cannot be read.
        """
        name = self.field.name
        if name not in found.fields:
            found.fields[name] = self._read(rows, found)
        return found.fields[name]

    def numbers(self, rows: LocatedRows, row: np.ndarray) -> NumbersOfRows:
        """The numbers that are there.

        Args:
            row: The number of each row over all rows, rising, (N,) int64.
        """
        values, codes, _ = self.read(rows, ReadSoFar())
        numbers = values if codes is None else values[codes]
        places = row
        if numbers.ndim > 1:
            width = numbers.shape[1]
            places = row[:, None] * width + np.arange(width)
        there = ~np.isnan(numbers)
        if there.all():
            return NumbersOfRows(numbers.ravel(), places.ravel())
        return NumbersOfRows(numbers[there], places[there])

    def named(self, function: Callable[..., T], *args: object) -> T:
        """Call a function; its error names the field and the column."""
        try:
            return function(*args)
        except DataError as error:
            raise error.at(self._place()) from None
        except pa.ArrowException as error:
            raise DataError(str(error), place=self._place()) from None

    def counted(self, rows: LocatedRows) -> Counted:
        """Categorical values, as good as distinct, each with its number of rows."""
        return self._counted(rows, self._column(rows))

    def read_values(self, values: pa.Array) -> Reading:
        """Raw values, as good as distinct, as the encoder takes them."""
        return self.named(self._reading, values)

    @abstractmethod
    def _reading(self, values: pa.Array) -> Reading:
        """As `read_values`."""

    @property
    @abstractmethod
    def _remedy(self) -> str:
        """The setting with which rows may lack the field's columns."""

    @abstractmethod
    def can_do_without_columns(self) -> bool:
        """Whether rows without the field's columns are read as if the values were absent."""

    def _read(self, rows: LocatedRows, found: ReadSoFar) -> FieldValues:
        """As `read`."""
        return self._read_cells(rows, self._column(rows), None, found)

    def _counted(self, rows: LocatedRows, column: pa.ChunkedArray) -> Counted:
        values, counts = self.named(distinct, column)
        reading = self.read_values(values)
        if reading.bad is not None and self.field.bad_values == "error":
            self.read(rows, ReadSoFar())  # raises: it finds the row
        return Counted(reading.values, counts)

    def _column(self, rows: LocatedRows) -> pa.ChunkedArray:
        """The raw column."""
        return self._columns(rows)[0]

    def _columns(self, rows: LocatedRows) -> list[pa.ChunkedArray]:
        """The raw columns; nulls where one is absent and the field has a policy for that."""
        names, wanted = rows.table.column_names, self.field.raw_columns
        if not set(wanted) <= set(names) and not self.can_do_without_columns():
            self.require(rows)
        nulls = pa.chunked_array([pa.nulls(rows.table.num_rows, pa.string())])
        return [rows.table[column] if column in names else nulls for column in wanted]

    def _lists(self, column: pa.ChunkedArray) -> pa.Array:
        """The lists of a column, one per row, cut out of texts where the field says so."""
        values = self._cut_values(column)
        if column.null_count == len(column) and not is_list(values.type):
            values = pa.nulls(len(column), pa.list_(pa.string()))
        if not is_list(values.type):
            raise DataError(f"expected lists, found {values.type}")
        return values

    def _cut_values(self, column: pa.ChunkedArray) -> pa.Array:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        values = combined(column)
        return values if self._cut is None else self._cut(values).values

    def _read_cells(
        self,
        rows: LocatedRows,
        column: pa.ChunkedArray,
        row: np.ndarray | None,
        found: ReadSoFar,
    ) -> FieldValues:
        """The values of a column of cells, after the field's policies."""
        values, codes = self.named(self._distinct_values, column)
        reading = self.read_values(values)
        cells = Cells(rows, values, codes, row)
        self._apply_policies(cells, reading, found)
        return FieldValues(self._ready(cells, reading, found), codes, row)

    def _ready(self, cells: Cells, reading: Reading, found: ReadSoFar) -> pa.Array:
        """What was read, as the encoder takes it."""
        return reading.values

    def _distinct_values(self, column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray | None]:
        """Values, and which of them each cell has; where most differ, all cells as they are."""
        if self._reads_fast() and not pa.types.is_dictionary(column.type):
            return combined(column), None
        return coded(column)

    def _reads_fast(self) -> bool:
        """Whether reading a number costs less than finding the distinct ones."""
        return transform_class(self.field.transform).gives_numbers

    def _apply_policies(self, cells: Cells, reading: Reading, found: ReadSoFar) -> None:
        """Refuse or note what cannot be read, as `bad_values` says."""
        if reading.bad is None or not (unreadable := cells.of_values(reading.bad)).any():
            return
        if self.field.bad_values == "error":
            self._refuse(cells, int(np.argmax(unreadable)), reading.expected)
        found.bad[self.field.column].append(cells.in_rows(unreadable))

    def _refuse(self, cells: Cells, cell: int, expected: str, why: str = "") -> None:
        value = cells.value(cell)
        found = "no value" if value is None else shown(value)
        place = self._place(cells.place(cell))
        raise DataError(f"expected {expected}, found {found}{why}", place=place)

    def _place(self, place: Place | None = None) -> Place:
        """A place, with the field and its columns."""
        columns = ", ".join(self.field.raw_columns)
        return (place or Place())._replace(field=self.field.name, column=columns)


class IdReader(FieldReader):
    """Reads a sparse field: one categorical value per row."""

    def __init__(self, field: FieldSchema) -> None:
        super().__init__(field)
        self._kind = field.encoder
        # Elsewhere an empty text, which only Parquet has beside null, is a value like others.
        self._empty_is_absent = field.absent_id < 0 or field.default is not None
        self.can_fail = (
            self._kind.reads in ("number", "whole number")
            or not transform_class(field.transform).reads_anything
        )

    def _ready(self, cells: Cells, reading: Reading, found: ReadSoFar) -> pa.Array:
        if self._kind.reads == "whole number":
            return self._in_range(cells, reading.values, found)
        return reading.values

    def _column(self, rows: LocatedRows) -> pa.ChunkedArray:
        """The raw column, of a cross its combinations."""
        columns = self._columns(rows)
        if not self.field.columns:
            return columns[0]
        return pa.chunked_array([self.named(cross, columns, self._cut, self.takes_lists)])

    _remedy = "bad_values: unknown"

    def can_do_without_columns(self) -> bool:
        return self.field.bad_values == "unknown"

    def _reads_fast(self) -> bool:
        return super()._reads_fast() and self._kind.reads in ("number", "whole number")

    def _reading(self, values: pa.Array) -> Reading:
        reading = self._transform(values)
        if is_list(reading.values.type):
            raise DataError(f"expected single values, found {reading.values.type}")
        if self._kind.reads == "whole number":
            return reading.then(read_whole_numbers(reading.values))
        if self._kind.reads == "number":
            return self._with_default_number(reading.then(read_numbers(reading.values)))
        return reading._replace(values=self._categories(reading.values))

    def _categories(self, values: pa.Array) -> pa.Array:
        """Categorical values, with the default in the place of absent ones."""
        values = as_text(values) if self._kind.reads == "text" else plain(values)
        if self._empty_is_absent and is_text(values.type):
            values = pc.if_else(pc.equal(values, ""), None, values)
        return self._with_default(values)

    def _with_default(self, values: pa.Array) -> pa.Array:
        if self.field.default is None or not values.null_count:
            return values
        return fill_absent(values, self.field.default_elements[0])

    def _with_default_number(self, reading: Reading) -> Reading:
        if self.field.default is None:
            return reading
        numbers = reading.values
        filled = np.where(np.isnan(numbers), float(self.field.default), numbers)
        return reading._replace(values=filled)

    def _absent_number(self) -> int:
        """The id of a whole number that is not there."""
        return -1 if self.field.default is None else int(self.field.default_elements[0])

    def _in_range(self, cells: Cells, values: pa.Array, found: ReadSoFar) -> np.ndarray:
        """Whole numbers as ids, -1 for absent ones."""
        field, absent = self.field, None
        if values.null_count:
            absent = values.is_null().to_numpy(zero_copy_only=False)
            values = pc.fill_null(values, 0)
        ids: np.ndarray = values.to_numpy()
        outside = (ids < 0) | (ids >= field.vocabulary_size)
        if outside.any():
            if field.out_of_range == "error":
                cell = int(np.argmax(cells.of_values(outside)))
                expected = f"a whole number from 0 to {field.vocabulary_size - 1}"
                self._refuse(cells, cell, expected, " (`out_of_range` is error)")
            found.outside[field.column].append(cells.in_rows(cells.of_values(outside)))
            ids = np.where(outside, 0 if field.out_of_range == "row0" else -1, ids)
        return ids if absent is None else np.where(absent, self._absent_number(), ids)


class SequenceReader(IdReader):
    """Reads a sequence field: a list of categorical values per row."""

    takes_lists = True

    def __init__(self, field: FieldSchema) -> None:
        super().__init__(field)
        if transform_class(field.transform).gives_lists:
            self._transform = find_transform(None)  # it cuts the lists, and their elements stay
            self.can_fail = self._kind.reads in ("number", "whole number")

    def counted(self, rows: LocatedRows) -> Counted:
        lists = self.named(self._lists, self._column(rows))
        values, counts = self._counted(rows, pa.chunked_array([lists.flatten()]))
        empty = len(lists) - np.count_nonzero(list_lengths(lists))
        if self.field.default is None or not empty:
            return Counted(values, counts)
        own = np.full(len(self.field.default_elements), empty)
        with_own = append(values, self.field.default_elements)
        return Counted(with_own, np.append(counts, own))

    def _read(self, rows: LocatedRows, found: ReadSoFar) -> FieldValues:
        lists = self.named(self._lists, self._column(rows))
        row: np.ndarray = pc.list_parent_indices(lists).to_numpy()
        read = self._read_cells(rows, pa.chunked_array([lists.flatten()]), row, found)
        if self.field.default is None:
            return read
        return self._with_own_elements(read, row, np.flatnonzero(list_lengths(lists) == 0))

    def _with_own_elements(
        self, read: FieldValues, row: np.ndarray, empty: np.ndarray
    ) -> FieldValues:
        """The values with the default's elements in the empty rows."""
        if not len(empty):
            return read
        values, codes, elements = read.values, read.codes, self.field.default_elements
        codes = np.arange(len(values)) if codes is None else codes
        own = len(values) + np.arange(len(elements))
        codes = np.concatenate([codes, np.tile(own, len(empty))])
        row = np.concatenate([row, np.repeat(empty, len(own))])
        order = np.argsort(row, kind="stable")
        return FieldValues(append(values, elements), codes[order], row[order])

    def _cut_values(self, column: pa.ChunkedArray) -> pa.Array:
        values = super()._cut_values(column)
        if not is_number(values.type):
            return values
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), None, values)
        return as_lists(values)  # of one element

    # The default of a sequence stands in for its list, and for an element that keeps its place.

    def _with_default(self, values: pa.Array) -> pa.Array:
        return super()._with_default(values) if self.field.keeps_places else values

    def _with_default_number(self, reading: Reading) -> Reading:
        return super()._with_default_number(reading) if self.field.keeps_places else reading

    def _absent_number(self) -> int:
        return super()._absent_number() if self.field.keeps_places else -1


class NumberReader(FieldReader):
    """Reads a dense field: one number per row, or a vector of `value_dim` numbers."""

    def __init__(self, field: FieldSchema) -> None:
        super().__init__(field)
        self._above = SCALES[field.scale].above

    _remedy = "missing: mean or zero"

    def can_do_without_columns(self) -> bool:
        return self.field.missing != "error" or self.field.default is not None

    def _distinct_values(self, column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray | None]:
        if is_list(column.type):
            return combined(column), None
        return super()._distinct_values(column)

    def _reading(self, values: pa.Array) -> Reading:
        is_cut = self._cut is not None and not is_number(values.type)
        if is_cut or is_list(values.type) or self.field.value_dim > 1:
            return self._read_vectors(values)
        return self._read_finite(self._transform(values))

    def _read_finite(self, reading: Reading) -> Reading:
        """What a transform gave, as numbers that the scale has a value for."""
        if is_list(reading.values.type):
            raise DataError(f"expected single values, found {reading.values.type}")
        reading = reading.then(read_numbers(reading.values))
        reading = _refuse_where(reading, np.abs(reading.values) > FLOAT32_MAX, "a float32")
        if np.isfinite(self._above):
            is_below = reading.values <= self._above
            reading = _refuse_where(reading, is_below, f"a number above {self._above:g}")
        return reading

    def _read_vectors(self, values: pa.Array) -> Reading:
        """Lists or separated texts as vectors (N, value_dim), of one number as (N,)."""
        width, count = self.field.value_dim, len(values)
        lists = self._lists(pa.chunked_array([values]))
        lengths = list_lengths(lists)
        fits = lengths == width
        elements = self._transform(lists.filter(pa.array(fits)).flatten())
        found = np.full((count, width), np.nan)
        found[fits] = self._read_finite(elements).values.reshape(-1, width)
        bad = lengths != 0
        bad[fits] = np.isnan(found[fits]).any(1)
        found[bad] = np.nan
        vectors = found if width > 1 else found[:, 0]
        return Reading(vectors, bad if bad.any() else None, _numbered(width))

    def _apply_policies(self, cells: Cells, reading: Reading, found: ReadSoFar) -> None:
        field = self.field
        needs_number = field.missing == "error" and field.default is None
        if needs_number and field.bad_values == "unknown" and reading.bad is not None:
            unreadable = cells.of_values(reading.bad)
            if unreadable.any():
                why = " (unknown is absent, and `missing` is error)"
                self._refuse(cells, int(np.argmax(unreadable)), reading.expected, why)
        super()._apply_policies(cells, reading, found)
        if not needs_number:
            return
        absent = np.isnan(reading.values)
        absent = absent if absent.ndim == 1 else absent.all(1)
        if reading.bad is not None:
            absent = absent & ~reading.bad
        missing = cells.of_values(absent)
        if missing.any():
            expected = _numbered(field.value_dim)
            self._refuse(cells, int(np.argmax(missing)), expected, " (`missing` is error)")


class IndicatorReader(FieldReader):
    """Reads the dense field beside one with `missing: indicator`: 1 where that one has no number.

    Attributes:
        source: The reader of the other field, which decides what counts as a number; None: every
            value does.
    """

    def __init__(self, field: FieldSchema, source: NumberReader | None) -> None:
        super().__init__(field)
        self.can_fail = False
        self.source = source

    _remedy = "missing: indicator"

    def can_do_without_columns(self) -> bool:
        return True

    def _distinct_values(self, column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray | None]:
        if is_list(column.type):
            return combined(column), None
        return super()._distinct_values(column)

    def _reading(self, values: pa.Array) -> Reading:
        if self.source is None:
            return read_numbers(self._transform(values).values)
        absent = np.isnan(self.source.read_values(values).values)
        return Reading((absent if absent.ndim == 1 else absent.any(1)).astype(np.float64))


_READERS: dict[FeatureType, type[IdReader] | type[NumberReader]] = {
    FeatureType.SPARSE: IdReader,
    FeatureType.SEQUENCE: SequenceReader,
    FeatureType.DENSE: NumberReader,
}


def readers_of(schema: DatasetSchema) -> Mapping[str, FieldReader]:
    """A reader for each field that is read, by name, in the order of the schema."""
    return {field.name: _reader(field, schema) for field in schema.read_fields}


def _reader(field: FieldSchema, schema: DatasetSchema) -> FieldReader:
    if field.is_dense and transform_class(field.transform).tells_absence:
        sources = [
            NumberReader(other)
            for other in schema.dense_fields
            if other.missing == "indicator" and other.column == field.column
        ]
        return IndicatorReader(field, sources[-1] if sources else None)
    return _READERS[field.feature_type](field)


def kept_rows(
    readers: Mapping[str, FieldReader], rows: LocatedRows, found: ReadSoFar
) -> np.ndarray | None:
    """The rows without a value that drops its row; None: all of them."""
    for reader in readers.values():
        if reader.field.bad_values == "drop" and reader.can_fail:
            reader.read(rows, found)
    dropped = [mask for masks in found.bad.values() for mask in masks]
    return np.flatnonzero(~np.logical_or.reduce(dropped)) if dropped else None


def _numbered(count: int) -> str:
    return "a number" if count == 1 else f"{count} numbers"


def _refuse_where(reading: Reading, mask: np.ndarray, expected: str) -> Reading:
    """Count the numbers of a mask as bad, too."""
    if not mask.any():
        return reading
    return reading.then(Reading(np.where(mask, np.nan, reading.values), mask, expected))
