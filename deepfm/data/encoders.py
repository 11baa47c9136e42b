"""Raw columns to encoded inputs: one reader per field, one encoder per table, and their bundle.

`Encoders.encode` and `encode_rows` are the only ways from raw rows to `Inputs`; training,
evaluation and prediction call them alike, so they cannot disagree. Encoders are fitted on the
training split, in a stream, and travel with the model as plain data.

Work is done once per distinct value of a batch wherever that is less than once per row.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from deepfm.data.batch import Inputs
from deepfm.data.field_encoders import (
    FLOAT32_MAX,
    KINDS,
    Encoder,
    check_same_kind,
    kind_of,
    pad,
    plain,
)
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.data.transforms import (
    NEVER_BAD,
    Reading,
    as_text,
    find_transform,
    name_of,
    read_numbers,
)
from deepfm.errors import DataError, nearest

if TYPE_CHECKING:
    from deepfm.data.files import Rows

FIT_ROWS = 1 << 20  # rows that are counted at once, if they come in smaller batches
FIT_BYTES = 1 << 28
_TILE = 2048  # rows


class EncodedRows(NamedTuple):
    """A batch after encoding, without the rows that the policy `drop` left out.

    Attributes:
        inputs: The K rows that are kept.
        kept: Their numbers in the batch, (K,) int64, rising.
        bad: By raw column how many cells could not be read, under the policies `unknown` and
            `drop`; of a dropped row only the cells it was dropped for. Columns without any are
            left out.
    """

    inputs: Inputs
    kept: np.ndarray
    bad: dict[str, int]


class Encoders:
    """The fitted encoders of a schema: raw columns in, `Inputs` out.

    Args:
        schema: The fields; their vocabulary sizes are filled in here.
        by_table: Encoder by `embedding_name`, which fields may share.

    Attributes:
        schema: The schema with its vocabulary sizes; models are built from it.
    """

    def __init__(self, schema: DatasetSchema, by_table: Mapping[str, Encoder]) -> None:
        sizes = {
            field.name: {"vocabulary_size": by_table[field.embedding_name].vocabulary_size}
            for field in schema.fields.values()
        }
        self.schema = schema.with_fields(sizes)
        self._by_table = dict(by_table)
        self._readers = _readers(self.schema)

    @classmethod
    def fit(
        cls, schema: DatasetSchema, batches: "pa.Table | Iterable[pa.Table | Rows]"
    ) -> "Encoders":
        """Learn vocabularies, ranges and edges from the rows of the training split.

        Rows that a policy `drop` leaves out are not seen, nor are values that cannot be read.

        Args:
            batches: The rows at once, or in batches of any size; the result is the same.

        Raises:
            DataError: A raw column is missing or of another type, a value cannot be read, or
                there is no row.
            ConfigError: A transform is unknown.
        """
        readers = _readers(schema)
        accumulators = {
            reader.field.name: KINDS[kind_of(reader.field)][0](reader.field, position)
            for position, reader in enumerate(readers)
        }
        rows = 0
        for block in _blocks(batches, schema):
            for reader in readers:
                reader.require(block)
            block = block.select(_kept(readers, block, {}, {}))
            rows += block.table.num_rows
            for reader in readers:
                accumulators[reader.field.name].add(*reader.learn(block))
        if not rows:
            raise DataError("the training split is empty: no encoder can be fitted")
        fields: dict[str, list[FieldSchema]] = defaultdict(list)
        for field in schema.fields.values():
            fields[field.embedding_name].append(field)
        by_table = {
            name: KINDS[kind_of(sharing[0])][0].finish(
                [accumulators[field.name] for field in sharing], sharing[0]
            )
            for name, sharing in fields.items()
        }
        return cls(schema, by_table)

    def encode(self, columns: pa.Table, group: str | None = None) -> Inputs:
        """Encode raw rows, every one of them; with `group`, the fields of that group only.

        A row that the policy `drop` would leave out stays, as if the value were absent; only
        `encode_rows` says which those are.

        Args:
            columns: N raw rows; other columns than the fields' are ignored.

        Raises:
            DataError: A raw column is missing or of another type, or a value cannot be read.
        """
        return self._encode(_Block.of(columns), group, {}, {})

    def encode_rows(self, rows: "pa.Table | Rows") -> EncodedRows:
        """Encode a batch without the rows that the policy `drop` leaves out.

        Raises:
            DataError: As in `encode`; the message begins with the place of the row.
        """
        block, readings, bad = _Block.of(rows), {}, {}
        kept = _kept(self._readers, block, readings, bad)
        counts = _counted_cells(bad)
        if kept is not None:
            block, readings, bad = block.select(kept), {}, {}
        inputs = self._encode(block, None, readings, bad)
        for column, count in _counted_cells(bad).items():
            counts[column] = counts.get(column, 0) + count
        if kept is None:
            kept = np.arange(inputs.num_rows)
        return EncodedRows(inputs, kept, counts)

    def _encode(self, block: "_Block", group: str | None, readings: dict, bad: dict) -> Inputs:
        count = block.table.num_rows
        readers = [reader for reader in self._readers if group in (None, reader.field.group)]

        def of(kind: FeatureType) -> list[_Reader]:
            return [reader for reader in readers if reader.field.feature_type is kind]

        columns: dict[FeatureType, list] = {FeatureType.SPARSE: [], FeatureType.DENSE: []}
        for reader in of(FeatureType.SPARSE):
            values, codes = reader.read(block, readings, bad)
            ids = self._by_table[reader.field.embedding_name].ids(values)
            columns[FeatureType.SPARSE].append((ids, codes))
        for reader in of(FeatureType.DENSE):
            values, codes = reader.read(block, readings, bad)
            scaled = self._by_table[reader.field.embedding_name].transform(values)
            columns[FeatureType.DENSE].append((scaled, codes))
        sparse = _rows_of(columns[FeatureType.SPARSE], count, np.int64)
        dense = _rows_of(columns[FeatureType.DENSE], count, np.float32)
        sequences = []
        for reader in of(FeatureType.SEQUENCE):
            lists, _ = reader.read(block, readings, bad)
            values, codes = _coded(pa.chunked_array([lists.flatten()]))
            ids = reader.named(self._by_table[reader.field.embedding_name].ids, values)[codes]
            row = pc.list_parent_indices(lists).to_numpy()
            sequences.append(pad(ids, row, count, reader.field.max_length, reader.field.keep))
        return Inputs(
            torch.from_numpy(sparse),
            torch.from_numpy(dense),
            tuple(torch.from_numpy(ids) for ids, _ in sequences),
            tuple(torch.from_numpy(lengths) for _, lengths in sequences),
        )

    def grown_from(self, base: "Encoders") -> "Encoders":
        """These encoders with all that `base` has learnt, and what is new appended.

        A vocabulary has the values of base with their ids, then its own new ones in sorted
        order; ranges and quantile edges are those of base. Tables that base lacks stay.

        Raises:
            DataError: A table is of another kind in base, so that its ids mean something else.
        """
        by_table = dict(self._by_table)
        for name in by_table.keys() & base._by_table.keys():
            check_same_kind(name, by_table[name], base._by_table[name])
            by_table[name] = by_table[name].grown_from(base._by_table[name])
        return Encoders(self.schema, by_table)

    def to_dict(self) -> dict[str, Any]:
        """Plain data and tensors, schema included; `from_dict` is the inverse."""
        fitted = {name: encoder.to_dict() for name, encoder in self._by_table.items()}
        return {"schema": self.schema.to_dict(), "fitted": fitted}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Encoders":
        schema = DatasetSchema.from_dict(stored["schema"])
        by_table = {
            field.embedding_name: KINDS[kind_of(field)][1].from_dict(
                stored["fitted"][field.embedding_name]
            )
            for field in schema.fields.values()
        }
        return cls(schema, by_table)


class _Block:
    """Raw rows with the place that each came from."""

    def __init__(
        self, table: pa.Table, parts: list["pa.Table | Rows"], rows: np.ndarray | None = None
    ) -> None:
        self.table = table
        self._parts = parts
        self._rows = rows  # of `parts`, where some are left out

    @classmethod
    def of(cls, *parts: "pa.Table | Rows") -> "_Block":
        tables = [_table(part) for part in parts]
        return cls(tables[0] if len(tables) == 1 else pa.concat_tables(tables), list(parts))

    def select(self, rows: np.ndarray | None) -> "_Block":
        if rows is None:
            return self
        return _Block(self.table.take(pa.array(rows)), self._parts, rows)

    def place(self, index: int) -> str:
        index = index if self._rows is None else int(self._rows[index])
        for part in self._parts:
            if index < (count := _table(part).num_rows):
                return f"row {index + 1}" if isinstance(part, pa.Table) else part.place(index)
            index -= count
        raise IndexError(index)


def _table(part: "pa.Table | Rows") -> pa.Table:
    return part if isinstance(part, pa.Table) else part.table


def _blocks(
    batches: "pa.Table | Iterable[pa.Table | Rows]", schema: DatasetSchema
) -> Iterator[_Block]:
    """Batches in larger blocks, of which each distinct value is counted once."""
    if isinstance(batches, pa.Table):
        for start in range(0, batches.num_rows, FIT_ROWS):
            table = batches.slice(start, FIT_ROWS)
            yield _Block(table, [batches], np.arange(start, start + table.num_rows))
        return
    columns = {field.column for field in schema.fields.values()}
    waiting: list[Any] = []
    rows = size = 0
    for part in batches:
        table = _table(part)
        if waiting and (
            rows + table.num_rows > FIT_ROWS
            or size > FIT_BYTES
            or table.schema != _table(waiting[0]).schema
        ):
            yield _Block.of(*waiting)
            waiting, rows, size = [], 0, 0
        waiting.append(part)
        rows += table.num_rows
        size += table.select([name for name in table.column_names if name in columns]).nbytes
    if waiting:
        yield _Block.of(*waiting)


def _readers(schema: DatasetSchema) -> list["_Reader"]:
    return [_Reader(field, schema) for field in schema.fields.values()]


def _kept(readers: list["_Reader"], block: _Block, readings: dict, bad: dict) -> np.ndarray | None:
    """The rows without a value that drops its row; None: all of them."""
    for reader in readers:
        if reader.field.bad_values == "drop" and reader.can_fail:
            reader.read(block, readings, bad)
    dropped = [mask for masks in bad.values() for mask in masks]
    return np.flatnonzero(~np.logical_or.reduce(dropped)) if dropped else None


def _counted_cells(bad: dict[str, list[np.ndarray]]) -> dict[str, int]:
    return {name: int(np.logical_or.reduce(masks).sum()) for name, masks in bad.items()}


class _Reader:
    """How one field reads its raw column, up to what its encoder takes.

    Args:
        field: The field.
        schema: Of the data set, in which the indicator of a dense field finds that field: absent
            is what the other one could not read.
    """

    def __init__(self, field: FieldSchema, schema: DatasetSchema) -> None:
        self.field = field
        self._transform = find_transform(field.transform)
        self._is_sequence = field.feature_type is FeatureType.SEQUENCE
        self._is_dense = field.feature_type is FeatureType.DENSE
        self._is_number = self._is_dense or field.quantiles > 0
        self.can_fail = self._is_number or name_of(field.transform) not in NEVER_BAD
        self._source: _Reader | None = None
        self._is_indicator = name_of(field.transform) == "is_missing"
        if self._is_dense and self._is_indicator:
            for other in schema.dense_fields:
                if other.missing == "indicator" and other.column == field.column:
                    self._source = _Reader(other, schema)

    def require(self, block: _Block) -> None:
        """Refuse rows without the field's column."""
        field, names = self.field, block.table.column_names
        if field.column not in names:
            hint = nearest(field.column, names)
            raise DataError(f"field {field.name}: no column {field.column!r}; {hint}")

    def learn(self, block: _Block) -> tuple:
        """What the field's accumulator takes: numbers, or values with their counts."""
        if self._is_number:
            numbers, codes = self.read(block, {}, {})
            numbers = numbers if codes is None else numbers[codes]
            return (numbers[~np.isnan(numbers)],)
        if self._is_sequence:
            lists, _ = self.read(block, {}, {})
            values, counts = _distinct(pa.chunked_array([lists.flatten()]))
            return self.named(plain, values), counts
        values, counts = self.named(_distinct, block.table[self.field.column])
        reading = self.named(self._read, values)
        if reading.bad is not None and self.field.bad_values == "error":
            self.read(block, {}, {})  # raises: it finds the row
        return reading.values, counts

    def read(
        self, block: _Block, readings: dict, bad: dict
    ) -> tuple[pa.Array | np.ndarray, np.ndarray | None]:
        """Values, and for each row which of them it has (None: row n has value n).

        Args:
            block: Raw rows.
            readings: What was returned before for these rows, by field name; added to.
            bad: By column, masks of the cells that a policy excused; added to.

        Raises:
            DataError: The column is missing or of another type, or a value cannot be read.
        """
        field = self.field
        if field.name not in readings:
            values, codes = self.named(self._levels, self._column(block))
            reading = self.named(self._read, values)
            self._apply_policies(block, values, codes, reading, bad)
            readings[field.name] = reading.values, codes
        return readings[field.name]

    def named(self, function: Any, *args: Any) -> Any:
        """Call a function; its error names the field and the column."""
        try:
            return function(*args)
        except (DataError, pa.ArrowException) as error:
            raise DataError(
                f"field {self.field.name}, column {self.field.column}: {error}"
            ) from None

    def _column(self, block: _Block) -> pa.ChunkedArray:
        """The raw column; where it is absent and the field has a policy for that, nulls."""
        field = self.field
        if field.column not in block.table.column_names:
            if self._is_dense:
                excused = self._is_indicator or field.missing != "error"
            else:
                excused = field.bad_values == "unknown"
            if not excused:
                self.require(block)
            kind = pa.list_(pa.string()) if self._is_sequence else pa.string()
            return pa.chunked_array([pa.nulls(block.table.num_rows, kind)])
        return block.table[field.column]

    def _levels(self, column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray | None]:
        plain_numbers = self._is_number and self.field.transform is None
        if self._is_sequence or (plain_numbers and not pa.types.is_dictionary(column.type)):
            return _combined(column), None
        return _coded(column)

    def _read(self, values: pa.Array) -> Reading:
        """Distinct values as the encoder takes them."""
        if self._source is not None:
            numbers = self._source._read(values).values
            return Reading(np.isnan(numbers).astype(np.float64))
        reading = self._transform(values)
        if _is_list(reading.values.type) != self._is_sequence:
            expected = "lists" if self._is_sequence else "single values"
            raise DataError(f"expected {expected}, found {reading.values.type}")
        if self._is_sequence:
            return reading
        if not self._is_number:
            clean = as_text if self.field.hash_buckets else plain
            return reading._replace(values=clean(reading.values))
        reading = _either(reading, read_numbers(reading.values))
        if self._is_dense:
            reading = _refuse_where(reading, np.abs(reading.values) > FLOAT32_MAX, "a float32")
            if self.field.scale == "log1p":
                reading = _refuse_where(reading, reading.values <= -1, "a number above -1")
        return reading

    def _apply_policies(
        self,
        block: _Block,
        values: pa.Array,
        codes: np.ndarray | None,
        reading: Reading,
        bad: dict,
    ) -> None:
        field, column = self.field, self.field.column

        def rows(mask: np.ndarray) -> np.ndarray:
            return mask if codes is None else mask[codes]

        def refuse(row: int, expected: str, why: str = "") -> None:
            value = values[row if codes is None else int(codes[row])].as_py()
            found = "no value" if value is None else repr(value)
            raise DataError(
                f"{block.place(row)}: field {field.name}, column {column}: expected {expected}, "
                f"found {found}{why}"
            )

        unreadable = None
        if reading.bad is not None and (unreadable := rows(reading.bad)).any():
            row = int(np.argmax(unreadable))
            if field.bad_values == "error":
                refuse(row, reading.expected)
            if field.bad_values == "unknown" and self._is_dense and field.missing == "error":
                refuse(row, reading.expected, " (unknown is absent, and `missing` is error)")
            bad.setdefault(column, []).append(unreadable)
        if self._is_dense and field.missing == "error" and self._source is None:
            absent = rows(np.isnan(reading.values))
            if unreadable is not None:
                absent = absent & ~unreadable
            if absent.any():
                refuse(int(np.argmax(absent)), "a number", " (`missing` is error)")


def _rows_of(
    columns: list[tuple[np.ndarray, np.ndarray | None]], count: int, dtype: type
) -> np.ndarray:
    """Columns side by side, (N, F), each given as values and which of them every row has.

    Some rows at a time: a whole column after the other would miss the processor's cache with
    every number, which takes three times as long.
    """
    rows = np.empty((count, len(columns)), dtype)
    for start in range(0, count, _TILE):
        part = slice(start, start + _TILE)
        for column, (values, codes) in enumerate(columns):
            rows[part, column] = values[part] if codes is None else values[codes[part]]
    return rows


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


def _is_list(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    )


def _combined(column: pa.ChunkedArray) -> pa.Array:
    kind = column.type
    if pa.types.is_null(kind):
        column = column.cast(pa.string())
    elif pa.types.is_fixed_size_list(kind):
        column = column.cast(pa.list_(kind.value_type))
    elif pa.types.is_string(kind) and column.nbytes >= 1 << 31:  # beyond its offsets
        column = column.cast(pa.large_string())
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _refuse_nested(kind: pa.DataType) -> None:
    if pa.types.is_nested(kind):
        raise DataError(f"expected single values, found {kind}")


def _coded(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Values, as good as distinct, and which of them each row has; null is such a value."""
    _refuse_nested(column.type)
    if not pa.types.is_dictionary(column.type):
        encoded = _combined(column).dictionary_encode(null_encoding="encode")
        return encoded.dictionary, encoded.indices.to_numpy()
    encoded = _combined(column.unify_dictionaries())
    values = pa.concat_arrays([encoded.dictionary, pa.nulls(1, encoded.dictionary.type)])
    codes = encoded.indices.cast(pa.int64())
    return values, pc.fill_null(codes, len(values) - 1).to_numpy(zero_copy_only=False)


def _distinct(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Values, each with the number of rows that have it; none has no row."""
    _refuse_nested(column.type)
    if pa.types.is_dictionary(column.type):
        values, codes = _coded(column)
        counts = np.bincount(codes, minlength=len(values))
        return values.take(pa.array(np.flatnonzero(counts))), counts[counts > 0]
    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    counted = pc.value_counts(column)
    return counted.field(0), counted.field(1).to_numpy()
