"""The raw rows of a declared table, each with its split and labels, as a stream."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from deepfm.data.files.columns import named_in_errors
from deepfm.data.files.read import read_rows
from deepfm.data.files.rows import Rows
from deepfm.data.labels import LabelRule, refuse_bad
from deepfm.data.options import TableConfig
from deepfm.data.schema import DatasetSchema
from deepfm.data.sources import tabular
from deepfm.data.sources.tables import SideTables
from deepfm.data.splits import Placed, RowsToSplit, StreamedSplit
from deepfm.data.store.history_records import TimesOfRows
from deepfm.utils.logging import LOGGER
from deepfm.utils.places import AnyPath
from deepfm.utils.progress import ProgressBar

BLOCK_SIZE = 16 << 20  # bytes of text that are encoded at once


class DividedRows(NamedTuple):
    """Raw rows on their way, N of them.

    Attributes:
        rows: The raw columns, side tables looked up.
        first: Number of the first row over all files.
        split: Index in `SPLIT_NAMES` of each row, -1 for rows that are dropped, (N,).
        label: (N,) float32, or (N, T) of several labels.
        bad: Bad values by column, of the columns that are no field's.
        time: Of each row, NaN where it has none, (N,) float64; None where nobody asks.
    """

    rows: Rows
    first: int
    split: np.ndarray
    label: np.ndarray
    bad: Counter[str]
    time: np.ndarray | None = None


class RowStream:
    """The raw rows of a table, each with its split and labels; can be gone through repeatedly.

    Args:
        table: What is declared.
        schema: Of the table.
        files: By role: the files of rows.
        sides: The tables of users and items.
        labels: The rule of each label, by name.
        split: How rows are divided; it looks at all rows here, if it has to.

    Attributes:
        rows: How many rows there are, known after the first time.
        files: As given.
    """

    def __init__(
        self,
        table: TableConfig,
        schema: DatasetSchema,
        files: Mapping[str, list[AnyPath]],
        sides: SideTables,
        labels: Mapping[str, LabelRule],
        split: StreamedSplit,
    ) -> None:
        self.rows = 0
        self.files = dict(files)
        self._table, self._schema, self._sides = table, schema, sides
        self._labels = tuple(labels.values())
        self._split = split
        self._times = None if table.history is None else TimesOfRows(str(table.time_column))
        self._columns = self._needed_columns()
        if split.surveyed or split.surveys_classes:
            self._survey()

    def __iter__(self) -> Iterator[DividedRows]:
        self._split.restart()
        first = 0
        for role in self.files:
            for rows in self._read(self._columns, role):
                rows = rows._replace(table=self._sides.complete(self._schema, rows.table))
                label, bad = self._read_labels(rows)
                time = self._read_times(rows, bad)
                placed = self._split.divide(self._to_split(rows, role, first, label, bad))
                self._refuse_unplaced(rows, placed)
                if placed.bad is not None:
                    bad = bad | dict.fromkeys(self._split.columns, placed.bad)
                split, counts = placed.split, Counter[str]()
                for column, mask in bad.items():
                    if mask.any():
                        counts[column] += int(mask.sum())
                        split = np.where(mask, -1, split)
                yield DividedRows(rows, first, split, label, counts, time)
                first += len(label)
        self.rows = first

    def _survey(self) -> None:
        """Let the split look at all rows, of which only the columns that it needs are read."""
        columns = list(self._split.surveyed)
        if self._split.surveys_classes:
            columns.append(self._labels[0].column)
        first = 0
        for role in self.files:
            for rows in self._read(columns, role):
                label: np.ndarray = np.zeros(len(rows.table), np.float32)
                bad: dict[str, np.ndarray] = {}
                if self._split.surveys_classes:
                    label, bad = self._read_labels(rows, self._labels[:1])
                to_split = self._to_split(rows, role, first, label, bad)
                unread = self._split.survey(to_split)
                self._refuse_unplaced(rows, Placed(to_split.numbers, unread))
                first += len(label)

    def _to_split(
        self,
        rows: Rows,
        role: str,
        first: int,
        label: np.ndarray,
        bad: Mapping[str, np.ndarray],
    ) -> RowsToSplit:
        numbers = first + np.arange(len(label))
        classes = np.zeros(len(label), int)
        if self._labels[0].classes:
            is_bad = bad.get(self._labels[0].column, np.zeros(len(label), bool))
            own = label if label.ndim == 1 else label[:, 0]
            classes = np.where(is_bad, -1, own).astype(int)
        return RowsToSplit(rows.table, role, numbers, classes)

    def _refuse_unplaced(self, rows: Rows, placed: Placed) -> None:
        for column in self._split.columns if placed.bad is not None else ():
            refuse_unless_dropped(self._table, rows, column, placed.bad, self._split.expected)

    def _needed_columns(self) -> list[str]:
        """The columns to read from the files of rows: not those that only a side table has."""
        table = self._table
        wanted = [name for field in self._schema.fields.values() for name in field.raw_columns]
        wanted += [rule.column for rule in self._labels]
        wanted += [table.sample_weight] if table.sample_weight is not None else []
        wanted += [*table.group_columns, *self._split.columns]
        wanted += [] if self._times is None else [self._times.column]
        wanted = list(dict.fromkeys(wanted))
        looked_up = self._sides.column_names
        if looked_up & set(wanted):
            present = next(self._read(None, next(iter(self.files)))).table.column_names
            wanted = [name for name in wanted if name in present or name not in looked_up]
        return wanted

    def _read(self, columns: list[str] | None, role: str) -> Iterator[Rows]:
        options = tabular.text_options(self._table)
        return read_rows(self.files[role], **options, only=columns, block_size=BLOCK_SIZE)

    def _read_labels(
        self, rows: Rows, rules: tuple[LabelRule, ...] | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Labels (N,), or (N, T) of several rules, and which are bad, by column."""
        labels: list[np.ndarray] = []
        bad: dict[str, np.ndarray] = {}
        for rule in self._labels if rules is None else rules:
            with named_in_errors(rule.column):
                label, is_bad = rule.read(rows.table[rule.column].combine_chunks())
            refuse_unless_dropped(
                self._table, rows, rule.column, is_bad, rule.expected, rule.remedy
            )
            labels.append(label)
            bad[rule.column] = bad.get(rule.column, False) | is_bad
        return (labels[0] if len(labels) == 1 else np.stack(labels, axis=1)), bad

    def _read_times(self, rows: Rows, bad: dict[str, np.ndarray]) -> np.ndarray | None:
        """Times, (N,), if there are histories; what cannot be read is added to the bad values."""
        if self._times is None:
            return None
        time, is_bad = self._times.read(rows)
        column = self._times.column
        refuse_unless_dropped(self._table, rows, column, is_bad, self._times.expected)
        bad[column] = bad.get(column, False) | is_bad
        return time


def refuse_unless_dropped(
    table: TableConfig,
    rows: Rows,
    column: str,
    bad: np.ndarray | None,
    expected: str,
    remedy: Callable[[object], str] = lambda value: "",
) -> None:
    """Raise for the first bad value of a column that is no field's, unless its row is dropped.

    A label, a weight or a time cannot be `unknown`: that policy is an error here.

    Raises:
        DataError: With file, line, column and value.
    """
    if bad is not None and table.bad_values != "drop":
        refuse_bad(
            rows.table[column],
            bad,
            expected,
            lambda index: rows.place(index)._replace(column=column),
            remedy,
        )


class PassOverRows:
    """One time through all rows: a bar while it runs, a log line when it is done."""

    def __init__(self, title: str, stream: RowStream) -> None:
        self._title, self._stream = title, stream
        paths = [path for paths in stream.files.values() for path in paths]
        self._sizes = [path.stat().st_size for path in paths]
        self._bar = ProgressBar(title, total=100)

    def rows(self) -> Iterator[DividedRows]:
        """The stream's rows, as they are counted."""
        count, before, path = 0, 0, None
        for some in self._stream:
            if some.rows.path != path:
                before, path = before + (path is not None), some.rows.path
            count += len(some.split)
            if self._bar.due():
                done = sum(self._sizes[:before]) + self._sizes[before] * some.rows.done
                self._bar.show(int(100 * done / max(sum(self._sizes), 1)), self._speed(count))
            yield some

    def _speed(self, rows: int) -> str:
        return f"{rows:,} rows, {rows / (time.perf_counter() - self._start):,.0f} rows/s"

    def __enter__(self) -> "PassOverRows":
        self._start = time.perf_counter()
        self._bar.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._bar.__exit__(kind, *error)
        if kind is None:
            seconds = time.perf_counter() - self._start
            LOGGER.info(f"{self._title}: {self._speed(self._stream.rows)}, {seconds:.1f} s")


def training_rows(batches: Iterable[DividedRows]) -> Iterator[pa.Table | Rows]:
    """The rows of the training split, which still know where they stand in the file."""
    for batch in batches:
        is_chosen = batch.split == 0
        if is_chosen.all():
            yield batch.rows
        elif is_chosen.any():
            yield batch.rows.where(is_chosen)
