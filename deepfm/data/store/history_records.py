"""What of a row decides histories: whose it is, when, in which split, and if it is an event."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.encoding.cells import A_TIME, where
from deepfm.data.files.columns import is_text, named_in_errors
from deepfm.data.files.rows import Rows
from deepfm.data.labels import group_ids
from deepfm.data.options import TableConfig
from deepfm.data.schema import ITEMS, DatasetSchema
from deepfm.data.sources.tables import id_field
from deepfm.data.split_times import Times
from deepfm.data.store.arrays import id_type

NOBODY = 0  # as `group_ids` has it


class TimesOfRows:
    """Reads the time of each row in a stream; a row may have none.

    Attributes:
        column: The raw column.
        expected: What must stand in it, for an error.

    Args:
        column: The raw column.
        are_dates: As `Times` takes it.

    NOTE[DIFF]: texts of one second are one time here; where all rows are in memory, fractions of
    a second order them.
    """

    def __init__(self, column: str, are_dates: bool | None) -> None:
        self.column, self.expected = column, A_TIME
        self._times = Times(are_dates)

    def read(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Times (N,) float64, NaN where there is none, and what cannot be read, (N,) bool.

        Raises:
            DataError: The column is of a type that is no time.
        """
        values = rows.table[self.column].combine_chunks()
        with named_in_errors(self.column):
            time, is_none = self._times.read(values)
        is_absent = where(values.is_null(nan_is_null=True))
        if is_text(values.type):
            is_absent |= where(pc.equal(values, ""))
        return np.where(is_none, np.nan, time), is_none & ~is_absent


class HistoryRecords:
    """Rows to records that can be sorted; has no state, so that threads can share it.

    Args:
        schema: Fitted, with the built fields.
        table: What is declared.

    Attributes:
        dtype: Of a record: `user`, a hash of its text; `time` (NaN: none); `row`, its number over
            all files; `split`, an index in `SPLIT_NAMES` or -1; `positive`; and `items`, for each
            built field of items the row's id.
    """

    def __init__(self, schema: DatasetSchema, table: TableConfig) -> None:
        self._user = id_field(schema, "user").column
        self._sources = [
            position
            for field in schema.built_fields
            if field.built == ITEMS
            for position, source in enumerate(schema.sparse_fields)
            if source.name == field.history_of
        ]
        self.dtype = self._record_type(schema)

    def of(
        self,
        rows: pa.Table,
        kept: np.ndarray,
        sparse: np.ndarray,
        *,
        time: np.ndarray,
        row: np.ndarray,
        split: np.ndarray,
        label: np.ndarray,
    ) -> np.ndarray:
        """The records of some rows, (M,).

        Args:
            rows: Raw columns, N rows.
            kept: Which of them the arguments below are of, (M,) int64.
            sparse: Their ids, (M, F_sparse) int64.
        """
        found = np.zeros(len(kept), self.dtype)
        found["user"] = group_ids(rows, [self._user])[kept, 0].view(np.uint64)
        found["time"], found["row"], found["split"] = time, row, split
        found["positive"] = (label if label.ndim == 1 else label[:, 0]) > 0
        found["items"] = sparse[:, self._sources]
        return found

    def _record_type(self, schema: DatasetSchema) -> np.dtype[np.void]:
        ids = id_type([schema.sparse_fields[position] for position in self._sources])
        return np.dtype(
            [
                ("user", np.uint64),
                ("time", np.float64),
                ("row", np.int64),
                ("split", np.int8),
                ("positive", np.bool_),
                ("items", ids, (len(self._sources),)),
            ]
        )
