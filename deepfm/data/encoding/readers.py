"""Raw columns to what encoders take: one reader per field.

Decided here: how lists and vectors are cut, how columns are crossed, where a default stands in,
and what happens to a value that cannot be read, which is named with its place in the file.

Work is done once per distinct value of a batch wherever that is less than once per row.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.encoding.arrow import (
    append,
    as_lists,
    coded,
    combined,
    distinct,
    fill_absent,
    is_list,
    is_number,
    list_lengths,
)
from deepfm.data.encoding.cells import Reading, as_text, is_text, read_numbers, read_whole_numbers
from deepfm.data.encoding.ids import plain
from deepfm.data.encoding.numbers import FLOAT32_MAX
from deepfm.data.encoding.transforms import (
    LIST_TRANSFORM,
    NEVER_BAD,
    NUMERIC,
    find_transform,
    name_of,
)
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.errors import DataError, nearest

if TYPE_CHECKING:
    from deepfm.data.files.rows import Rows


class Block:
    """Raw rows with the place that each came from."""

    def __init__(
        self, table: pa.Table, parts: list["pa.Table | Rows"], rows: np.ndarray | None = None
    ) -> None:
        self.table = table
        self._parts = parts
        self._rows = rows  # of `parts`, where some are left out

    @classmethod
    def of(cls, *parts: "pa.Table | Rows") -> "Block":
        tables = [table_of(part) for part in parts]
        return cls(tables[0] if len(tables) == 1 else pa.concat_tables(tables), list(parts))

    def select(self, rows: np.ndarray | None) -> "Block":
        if rows is None:
            return self
        return Block(self.table.take(pa.array(rows)), self._parts, rows)

    def place(self, index: int) -> str:
        index = index if self._rows is None else int(self._rows[index])
        for part in self._parts:
            if index < (count := table_of(part).num_rows):
                return f"row {index + 1}" if isinstance(part, pa.Table) else part.place(index)
            index -= count
        raise IndexError(index)


def table_of(part: "pa.Table | Rows") -> pa.Table:
    """The columns of rows, whether or not they know their place in a file."""
    return part if isinstance(part, pa.Table) else part.table


class Found:
    """What was read of a block of rows so far.

    Attributes:
        readings: What `FieldReader.read` returned, by field name.
        bad: By column, masks of the cells that could not be read and were excused.
        outside: By column, masks of the cells with a whole number that has no row.
    """

    def __init__(self) -> None:
        self.readings: dict[str, tuple] = {}
        self.bad: dict[str, list[np.ndarray]] = defaultdict(list)
        self.outside: dict[str, list[np.ndarray]] = defaultdict(list)

    def bad_cells(self, *, with_outside: bool = True) -> Counter:
        """How many cells stand in any of the masks, by column."""
        counts = Counter()
        for column in [*self.bad, *(self.outside if with_outside else ())]:
            masks = list(self.bad.get(column, ()))
            if with_outside:
                masks += self.outside.get(column, ())
            counts[column] = int(np.logical_or.reduce(masks).sum())
        return counts


class FieldReader:
    """How one field reads its raw columns, up to what its encoder takes.

    Args:
        field: The field.
        schema: Of the data set, in which the indicator of a dense field finds that field: absent
            is what the other one could not read.
    """

    def __init__(self, field: FieldSchema, schema: DatasetSchema) -> None:
        self.field = field
        transform = name_of(field.transform)
        self._is_sequence = field.feature_type is FeatureType.SEQUENCE
        self._is_dense = field.feature_type is FeatureType.DENSE
        self._is_number = self._is_dense or field.quantiles > 0 or len(field.boundaries) > 0
        self._is_listed = self._is_sequence and transform == LIST_TRANSFORM
        self._transform = find_transform(None if self._is_listed else field.transform)
        self._cut = find_transform(f"{LIST_TRANSFORM}({field.cut_at})") if field.cut_at else None
        # Elsewhere an empty text, which only Parquet has beside null, is a value like others.
        self._empty_is_absent = field.absent_id < 0 or field.default is not None
        self.can_fail = (
            self._is_number
            or field.num_buckets > 0
            or (not self._is_listed and transform not in NEVER_BAD)
        )
        self._source: FieldReader | None = None
        self._is_indicator = transform == "is_missing"
        if self._is_dense and self._is_indicator:
            for other in schema.dense_fields:
                if other.missing == "indicator" and other.column == field.column:
                    self._source = FieldReader(other, schema)

    def require(self, block: Block) -> None:
        """Refuse rows without the field's columns."""
        names = block.table.column_names
        for column in self.field.raw_columns:
            if column not in names:
                hint = nearest(column, names)
                raise DataError(f"field {self.field.name}: no column {column!r}; {hint}")

    def learn(self, block: Block) -> tuple:
        """What the field's accumulator takes: numbers, or values with their counts."""
        if self._is_number:
            numbers, codes, _ = self.read(block, Found())
            numbers = numbers if codes is None else numbers[codes]
            return (numbers[~np.isnan(numbers)],)
        column, empty = self._column(block), 0
        if self._is_sequence:
            lists = self.named(self._lists, column)
            column = pa.chunked_array([lists.flatten()])
            if self.field.default is not None:
                empty = len(lists) - np.count_nonzero(list_lengths(lists))
        values, counts = self.named(distinct, column)
        reading = self.named(self._read, values)
        if reading.bad is not None and self.field.bad_values == "error":
            self.read(block, Found())  # raises: it finds the row
        if not empty:
            return reading.values, counts
        own = np.full(len(self.field.default_elements), empty)
        return append(reading.values, self.field.default_elements), np.append(counts, own)

    def read(
        self, block: Block, found: Found
    ) -> tuple[pa.Array | np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Values; which of them each row, or each element of a sequence, has (None: the n-th has
        value n); and for a sequence the row of each element.

        Args:
            block: Raw rows.
            found: What was found before in these rows; added to.

        Raises:
            DataError: The column is missing or of another type, or a value cannot be read.
        """
        field = self.field
        if field.name not in found.readings:
            column, row = self._column(block), None
            if self._is_sequence:
                lists = self.named(self._lists, column)
                row = pc.list_parent_indices(lists).to_numpy()
                column = pa.chunked_array([lists.flatten()])
            values, codes = self.named(self._levels, column)
            reading = self.named(self._read, values)
            places = _Places(block, values, codes, row)
            self._apply_policies(places, reading, found)
            ready = reading.values
            if field.num_buckets:
                ready = self._in_range(places, ready, found)
            if self._is_sequence and field.default is not None:
                empty = np.flatnonzero(list_lengths(lists) == 0)
                ready, codes, row = self._with_default(ready, codes, row, empty)
            found.readings[field.name] = ready, codes, row
        return found.readings[field.name]

    def named(self, function: Any, *args: Any) -> Any:
        """Call a function; its error names the field and the column."""
        try:
            return function(*args)
        except (DataError, pa.ArrowException) as error:
            raise DataError(f"{self._place}: {error}") from None

    @property
    def _place(self) -> str:
        field = self.field
        several = f"columns {', '.join(field.columns)}"
        return f"field {field.name}, {several if field.columns else f'column {field.column}'}"

    def _column(self, block: Block) -> pa.ChunkedArray:
        """The raw column, of a cross its values; where it is absent and the field has a policy
        for that, nulls."""
        field, names = self.field, block.table.column_names
        if absent := [column for column in field.raw_columns if column not in names]:
            if self._is_dense:
                has_policy = field.missing != "error" or field.default is not None
                excused = self._is_indicator or has_policy
            else:
                excused = field.bad_values == "unknown"
            if not excused:
                self.require(block)
        columns = [
            pa.chunked_array([pa.nulls(block.table.num_rows, pa.string())])
            if column in absent
            else block.table[column]
            for column in field.raw_columns
        ]
        if field.columns:
            return pa.chunked_array([self.named(cross, columns, self._cut, self._is_sequence)])
        return columns[0]

    def _lists(self, column: pa.ChunkedArray) -> pa.Array:
        """The lists of a sequence or of a vector, one per row."""
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        values = combined(column)
        if self._cut is not None:
            values = self._cut(values).values
        if self._is_sequence and is_number(values.type):  # one element
            if pa.types.is_floating(values.type):
                values = pc.if_else(pc.is_nan(values), None, values)
            values = as_lists(values)
        if column.null_count == len(column) and not is_list(values.type):
            values = pa.nulls(len(column), pa.list_(pa.string()))
        if not is_list(values.type):
            raise DataError(f"expected lists, found {values.type}")
        return values

    def _levels(self, column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray | None]:
        """Values, and which of them each cell has; where most differ, all cells as they are."""
        is_read_fast = name_of(self.field.transform) in (None, *NUMERIC) and (
            self._is_number or self.field.num_buckets > 0
        )
        if is_list(column.type) and self._is_dense:
            return combined(column), None
        if is_read_fast and not pa.types.is_dictionary(column.type):
            return combined(column), None
        return coded(column)

    def _read(self, values: pa.Array) -> Reading:
        """Distinct values as the encoder takes them."""
        if self._source is not None:
            numbers = self._source._read(values).values
            absent = np.isnan(numbers)
            return Reading((absent if absent.ndim == 1 else absent.any(1)).astype(np.float64))
        is_cut = self._cut is not None and not is_number(values.type)
        is_vector = is_cut or is_list(values.type) or self.field.value_dim > 1
        if self._is_dense and is_vector and not self._is_indicator:
            return self._read_vectors(values)
        reading = self._transform(values)
        if is_list(reading.values.type):
            raise DataError(f"expected single values, found {reading.values.type}")
        if self.field.num_buckets:
            return _either(reading, read_whole_numbers(reading.values))
        if not self._is_number:
            return reading._replace(values=self._categories(reading.values))
        reading = self._read_finite(reading)
        if not self._is_dense and not self._is_sequence and self.field.default is not None:
            filled = np.where(np.isnan(reading.values), float(self.field.default), reading.values)
            return reading._replace(values=filled)
        return reading

    def _categories(self, values: pa.Array) -> pa.Array:
        """Categorical values, with the default in the place of absent ones."""
        field = self.field
        is_text_only = field.hash_buckets or field.vocabulary is not None
        values = as_text(values) if is_text_only else plain(values)
        if self._empty_is_absent and is_text(values.type):
            values = pc.if_else(pc.equal(values, ""), None, values)
        if field.default is None or self._is_sequence or not values.null_count:
            return values
        return fill_absent(values, field.default_elements[0])

    def _read_finite(self, reading: Reading) -> Reading:
        """What a transform gave, as numbers that the encoder has a value for."""
        reading = _either(reading, read_numbers(reading.values))
        if self._is_dense:
            reading = _refuse_where(reading, np.abs(reading.values) > FLOAT32_MAX, "a float32")
            if self.field.scale == "log1p":
                reading = _refuse_where(reading, reading.values <= -1, "a number above -1")
        return reading

    def _read_vectors(self, values: pa.Array) -> Reading:
        """Lists or separated texts as vectors (N, value_dim), of one number as (N,)."""
        width, count = self.field.value_dim, len(values)
        lists = self._lists(pa.chunked_array([values]))
        lengths = list_lengths(lists)
        fits = lengths == width
        elements = self._transform(lists.filter(pa.array(fits)).flatten())
        reading = self._read_finite(elements)
        found = np.full((count, width), np.nan)
        found[fits] = reading.values.reshape(-1, width)
        bad = lengths != 0
        bad[fits] = np.isnan(found[fits]).any(1)
        found[bad] = np.nan
        found = found if width > 1 else found[:, 0]
        return Reading(found, bad if bad.any() else None, _numbered(width))

    def _with_default(
        self,
        values: pa.Array | np.ndarray,
        codes: np.ndarray | None,
        row: np.ndarray,
        empty: np.ndarray,
    ) -> tuple[pa.Array | np.ndarray, np.ndarray | None, np.ndarray]:
        """What `read` gives for a sequence, with the default's elements in the empty rows."""
        if not len(empty):
            return values, codes, row
        elements = self.field.default_elements
        codes = np.arange(len(values)) if codes is None else codes
        own = len(values) + np.arange(len(elements))
        codes = np.concatenate([codes, np.tile(own, len(empty))])
        row = np.concatenate([row, np.repeat(empty, len(own))])
        order = np.argsort(row, kind="stable")
        return append(values, elements), codes[order], row[order]

    def _in_range(self, places: "_Places", values: pa.Array, found: Found) -> np.ndarray:
        """Whole numbers as ids, -1 for absent ones."""
        field = self.field
        absent = None
        if values.null_count:
            absent = values.is_null().to_numpy(zero_copy_only=False)
            values = pc.fill_null(values, 0)
        ids = values.to_numpy()
        outside = (ids < 0) | (ids >= field.num_buckets)
        if outside.any():
            if field.out_of_range == "error":
                place = int(np.argmax(places.cells(outside)))
                expected = f"a whole number from 0 to {field.num_buckets - 1}"
                self._refuse(places, place, expected, " (`out_of_range` is error)")
            found.outside[field.column].append(places.rows(places.cells(outside)))
            ids = np.where(outside, 0 if field.out_of_range == "row0" else -1, ids)
        if absent is not None:
            use_default = field.default is not None and not self._is_sequence
            ids = np.where(absent, int(field.default_elements[0]) if use_default else -1, ids)
        return ids

    def _refuse(self, places: "_Places", cell: int, expected: str, why: str = "") -> None:
        value = places.value(cell)
        shown = "no value" if value is None else repr(value)
        raise DataError(
            f"{places.place(cell)}: {self._place}: expected {expected}, found {shown}{why}"
        )

    def _apply_policies(self, places: "_Places", reading: Reading, found: Found) -> None:
        field = self.field
        needs_number = self._is_dense and field.missing == "error" and field.default is None
        unreadable = None
        if reading.bad is not None and (unreadable := places.cells(reading.bad)).any():
            cell = int(np.argmax(unreadable))
            if field.bad_values == "error":
                self._refuse(places, cell, reading.expected)
            if field.bad_values == "unknown" and needs_number:
                why = " (unknown is absent, and `missing` is error)"
                self._refuse(places, cell, reading.expected, why)
            found.bad[field.column].append(places.rows(unreadable))
        if needs_number and self._source is None:
            absent = np.isnan(reading.values)
            absent = places.cells(absent if absent.ndim == 1 else absent.all(1))
            if unreadable is not None:
                absent = absent & ~unreadable
            if absent.any():
                self._refuse(
                    places, int(np.argmax(absent)), _numbered(field.value_dim),
                    " (`missing` is error)",
                )  # fmt: skip


class _Places(NamedTuple):
    """Where the values of a field stand: in cells, which are rows or the elements of lists.

    Attributes:
        block: The rows.
        levels: Values, of which cells have one each.
        codes: Which of them each cell has; None: the n-th cell has value n.
        row: The row of each cell; None: the n-th row is cell n.
    """

    block: Block
    levels: pa.Array
    codes: np.ndarray | None
    row: np.ndarray | None

    def cells(self, mask: np.ndarray) -> np.ndarray:
        """A mask of values as one of cells."""
        return mask if self.codes is None else mask[self.codes]

    def rows(self, mask: np.ndarray) -> np.ndarray:
        """A mask of cells as one of rows: those with any such cell."""
        if self.row is None:
            return mask
        rows = np.zeros(self.block.table.num_rows, bool)
        rows[self.row[mask]] = True
        return rows

    def value(self, cell: int) -> Any:
        return self.levels[cell if self.codes is None else int(self.codes[cell])].as_py()

    def place(self, cell: int) -> str:
        return self.block.place(cell if self.row is None else int(self.row[cell]))


def cross(columns: list[pa.ChunkedArray], cut: Callable | None, as_lists: bool) -> pa.Array:
    """The combinations of several columns' values, joined by `_`, in the order of the columns.

    Args:
        columns: With N values each; a null or an empty text is no value, and where a column has
            none, there is no combination.
        cut: What makes lists of texts; None: each cell is one value.
        as_lists: Whether a row may have several combinations.

    Returns:
        (N,) texts or lists of them.

    Raises:
        DataError: A row has several values, but may have one only.
    """
    parts = [_parts(column, cut) for column in columns]
    rows = len(columns[0])
    texts, lengths = parts[0]
    for more, counts in parts[1:]:
        own = np.repeat(np.arange(len(texts)), np.repeat(counts, lengths))
        products = lengths * counts
        row = np.repeat(np.arange(rows), products)
        first = np.cumsum(products) - products
        place = np.arange(len(row)) - first[row]  # of the combination among those of its row
        other = (np.cumsum(counts) - counts)[row] + place % np.maximum(counts, 1)[row]
        texts = pc.binary_join_element_wise(
            texts.take(pa.array(own)), more.take(pa.array(other)), pa.scalar("_", pa.large_string())
        )
        lengths = products
    if not as_lists:
        if (lengths > 1).any():
            raise DataError("expected single values, found lists")
        places = np.cumsum(lengths) - lengths
        return texts.take(pa.array(places, mask=lengths == 0))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, texts)


def _parts(column: pa.ChunkedArray, cut: Callable | None) -> tuple[pa.Array, np.ndarray]:
    """The values of a column's cells end to end, as text, and how many each cell has."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    values = combined(column)
    if cut is not None:
        values = cut(values).values
    if not is_list(values.type):
        values = as_lists(as_text(values))
    texts, row = as_text(values.flatten()), pc.list_parent_indices(values).to_numpy()
    has_value = pc.fill_null(pc.not_equal(texts, ""), False)
    row = row[has_value.to_numpy(zero_copy_only=False)]
    return texts.filter(has_value), np.bincount(row, minlength=len(values))


def _numbered(count: int) -> str:
    return "a number" if count == 1 else f"{count} numbers"


def _either(first: Reading, then: Reading) -> Reading:
    """The second of two steps, with what could not be read in either."""
    if first.bad is None:
        return then
    bad = first.bad if then.bad is None else first.bad | then.bad
    return Reading(then.values, bad, first.expected)


def _refuse_where(reading: Reading, mask: np.ndarray, expected: str) -> Reading:
    """Count the numbers of a mask as bad, too."""
    if not mask.any():
        return reading
    return _either(reading, Reading(np.where(mask, np.nan, reading.values), mask, expected))
