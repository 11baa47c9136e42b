"""The training split to the encoders of a schema, whether its rows come in one run or in shares."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from deepfm.data.encoding.kinds import Accumulator, Counted, Encoder, NumbersOfRows, State
from deepfm.data.encoding.located import LocatedRows, ReadSoFar, table_of
from deepfm.data.encoding.readers import FieldReader, kept_rows, readers_of
from deepfm.data.files.rows import Rows
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.errors import DataError

FIT_ROWS = 1 << 20  # rows that are counted at once, if they come in smaller batches
FIT_BYTES = 1 << 28


def has_to_learn(schema: DatasetSchema) -> bool:
    """Whether some field needs the training split; all others' encoders are declared."""
    return any(field.encoder.must_be_fitted(field) for field in schema.read_fields)


def refuse_untrained(rows: int) -> None:
    """Refuse to fit encoders of no training rows.

    Raises:
        DataError: There are none.
    """
    if not rows:
        raise DataError("the training split is empty: no encoder can be fitted")


class Learning:
    """What the fields of a schema learn of training rows.

    Of rows that are shared out, each share has a `Learning` of its own, and the `states` of all, in
    their order, merged into another one make that what it would be had it seen all rows.

    Attributes:
        rows: How many training rows were seen, without those that a policy `drop` leaves out.
    """

    def __init__(self, schema: DatasetSchema) -> None:
        self.rows = 0
        self._schema = schema
        self._accumulators: dict[str, Accumulator] = {}
        for position, field in enumerate(schema.read_fields):
            accumulator = field.encoder.accumulator(field, position)
            if accumulator is not None:
                self._accumulators[field.name] = accumulator

    def learn(self, batches: "pa.Table | Iterable[pa.Table | Rows]") -> None:
        """See rows, all but those that a policy `drop` leaves out.

        Args:
            batches: As `Encoders.fit` takes them.

        Raises:
            DataError: A raw column is missing or of another type, or a value cannot be read.
            ConfigError: A transform is unknown.
        """
        readers = readers_of(self._schema)
        for rows, numbers in _large_batches(batches, self._schema):
            for reader in readers.values():
                reader.require(rows)
            kept = kept_rows(readers, rows, ReadSoFar())
            if kept is not None:
                rows, numbers = rows.select(kept), numbers[kept]
            self.rows += len(numbers)
            for name, accumulator in self._accumulators.items():
                accumulator.learn(_TrainingRows(readers[name], rows, numbers))

    def states(self) -> Iterator[tuple[str, State]]:
        """What each field has learnt, by its name."""
        for name, accumulator in self._accumulators.items():
            yield name, accumulator.state()

    def merge(self, states: Iterable[tuple[str, State]]) -> None:
        """Take in what the fields have learnt of later rows, all of them or some."""
        for name, state in states:
            self._accumulators[name].merge(state)

    def tables(self) -> dict[str, list[FieldSchema]]:
        """The fields that share each table, by its name."""
        found: dict[str, list[FieldSchema]] = defaultdict(list)
        for field in self._schema.read_fields:
            found[field.embedding_name].append(field)
        return dict(found)

    def fitted(self) -> dict[str, Encoder]:
        """The encoder of each table.

        Raises:
            DataError: There was no row to learn from.
        """
        if has_to_learn(self._schema):
            refuse_untrained(self.rows)
        return {name: self.fitted_table(fields) for name, fields in self.tables().items()}

    def fitted_table(self, fields: list[FieldSchema]) -> Encoder:
        """The encoder of the table that some fields share."""
        learnt = [self._accumulators.get(field.name) for field in fields]
        return fields[0].encoder.fitted(fields, learnt)


class _TrainingRows(NamedTuple):
    """The values of one field in some rows of the training split.

    Attributes:
        row: The number of each row over all rows, rising, (N,) int64.
    """

    reader: FieldReader
    rows: LocatedRows
    row: np.ndarray

    def counted(self) -> Counted:
        return self.reader.counted(self.rows)

    def numbers(self) -> NumbersOfRows:
        return self.reader.numbers(self.rows, self.row)


def _large_batches(
    batches: "pa.Table | Iterable[pa.Table | Rows]", schema: DatasetSchema
) -> Iterator[tuple[LocatedRows, np.ndarray]]:
    """Larger batches, of which each distinct value is counted once, and the numbers of the rows."""
    if isinstance(batches, pa.Table):
        for start in range(0, batches.num_rows, FIT_ROWS):
            table = batches.slice(start, FIT_ROWS)
            numbers = np.arange(start, start + table.num_rows)
            yield LocatedRows(table, [batches], numbers), numbers
        return
    columns = {column for field in schema.fields.values() for column in field.raw_columns}
    waiting: list[pa.Table | Rows] = []
    counted: list[np.ndarray] = []
    rows = size = seen = 0
    for part in batches:
        table = table_of(part)
        if waiting and (
            rows + table.num_rows > FIT_ROWS
            or size > FIT_BYTES
            or table.schema != table_of(waiting[0]).schema
        ):
            yield LocatedRows.of(*waiting), np.concatenate(counted)
            waiting, counted, rows, size = [], [], 0, 0
        waiting.append(part)
        counted.append(_numbers(part, seen))
        rows += table.num_rows
        seen += table.num_rows
        size += table.select([name for name in table.column_names if name in columns]).nbytes
    if waiting:
        yield LocatedRows.of(*waiting), np.concatenate(counted)


def _numbers(part: "pa.Table | Rows", seen: int) -> np.ndarray:
    """The numbers of some rows over all rows, (N,): where nobody has counted, as they come."""
    if isinstance(part, pa.Table) or part.before is None:
        return seen + np.arange(table_of(part).num_rows)
    if part.chosen is not None:
        return part.before + part.chosen
    return part.before + np.arange(part.table.num_rows)
