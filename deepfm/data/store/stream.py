"""The raw rows of a declared table, each with its split and labels, as a stream."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from deepfm.data.files.columns import named_in_errors
from deepfm.data.files.read import column_names, read_parts
from deepfm.data.files.rows import Rows
from deepfm.data.labels import LabelRule, refuse_bad
from deepfm.data.options import TableConfig
from deepfm.data.schema import DatasetSchema
from deepfm.data.sources import tabular
from deepfm.data.sources.tables import SideTables
from deepfm.data.splits import Placed, RowsToSplit, StreamedSplit
from deepfm.data.store.history_records import TimesOfRows
from deepfm.data.store.shares import Share, SharePart, by_role
from deepfm.utils.places import AnyPath
from deepfm.utils.processes import Report
from deepfm.utils.threads import Threads

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
        done: How many bytes of the stream are behind it, about.
    """

    rows: Rows
    first: int
    split: np.ndarray
    label: np.ndarray
    bad: Counter[str]
    time: np.ndarray | None = None
    done: float = 0.0


class RowStream:
    """The raw rows of a share of a table, each with its split and labels.

    It can be gone through repeatedly.

    Args:
        table: What is declared.
        schema: Of the table.
        files: By role: all files of rows.
        sides: The tables of users and items.
        labels: The rule of each label, by name.
        split: How rows are divided; where it looks at them first, `survey` comes before all else.
        share: The rows.
        are_dates: What the times of all rows are, as `Times` takes it.
        threads: That parse.

    Attributes:
        rows: How many rows there are, known after the first time.
        split: As given.
    """

    def __init__(
        self,
        table: TableConfig,
        schema: DatasetSchema,
        files: Mapping[str, list[AnyPath]],
        sides: SideTables,
        labels: Mapping[str, LabelRule],
        split: StreamedSplit,
        share: Share,
        *,
        are_dates: bool | None,
        threads: Threads,
    ) -> None:
        self.rows = 0
        self._files, self._parts, self._before = files, by_role(share.parts), share.before
        self._threads = threads
        self._table, self._schema, self._sides = table, schema, sides
        self._labels = tuple(labels.values())
        self.split = split
        self._times = None
        if table.history is not None:
            self._times = TimesOfRows(str(table.time_column), are_dates)
        split.know_times(are_dates)
        self._columns = self._needed_columns()

    def __iter__(self) -> Iterator[DividedRows]:
        self.split.restart()
        first, behind = self._before, 0.0
        for role, parts in self._parts.items():
            for rows, done in _with_bytes(self._read(self._columns, role), parts, behind):
                completed = self._sides.complete(self._schema, rows.table)
                rows = rows._replace(table=completed, before=first)
                label, bad = self._read_labels(rows)
                time = self._read_times(rows, bad)
                placed = self.split.divide(self._to_split(rows, role, first, label, bad))
                self._refuse_unplaced(rows, placed)
                if placed.bad is not None:
                    bad = bad | dict.fromkeys(self.split.columns, placed.bad)
                split, counts = placed.split, Counter[str]()
                for column, mask in bad.items():
                    if mask.any():
                        counts[column] += int(mask.sum())
                        split = np.where(mask, -1, split)
                yield DividedRows(rows, first, split, label, counts, time, done)
                first += len(label)
            behind += sum(part.size for part in parts)
        self.rows = first - self._before

    def survey(self, report: Report) -> None:
        """Let the split look at all rows, of which only the columns that it needs are read."""
        columns = list(self.split.surveyed)
        if self.split.surveys_classes:
            columns.append(self._labels[0].column)
        first, behind = self._before, 0.0
        for role, parts in self._parts.items():
            for rows, done in _with_bytes(self._read(columns, role), parts, behind):
                label: np.ndarray = np.zeros(len(rows.table), np.float32)
                bad: dict[str, np.ndarray] = {}
                if self.split.surveys_classes:
                    label, bad = self._read_labels(rows, self._labels[:1])
                to_split = self._to_split(rows, role, first, label, bad)
                unread = self.split.survey(to_split)
                self._refuse_unplaced(rows, Placed(to_split.numbers, unread))
                first += len(label)
                report(done, first - self._before)
            behind += sum(part.size for part in parts)

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
        for column in self.split.columns if placed.bad is not None else ():
            refuse_unless_dropped(self._table, rows, column, placed.bad, self.split.expected)

    def _needed_columns(self) -> list[str]:
        """The columns to read from the files of rows: not those that only a side table has."""
        table = self._table
        wanted = [name for field in self._schema.fields.values() for name in field.raw_columns]
        wanted += [rule.column for rule in self._labels]
        wanted += [table.sample_weight] if table.sample_weight is not None else []
        wanted += [*table.group_columns, *self.split.columns]
        wanted += [] if self._times is None else [self._times.column]
        wanted = list(dict.fromkeys(wanted))
        looked_up = self._sides.column_names
        if looked_up & set(wanted):
            first = next(iter(self._files.values()))[0]
            present = column_names(first, tabular.text_options(self._table))
            wanted = [name for name in wanted if name in present or name not in looked_up]
        return wanted

    def _read(self, columns: list[str], role: str) -> Iterator[Rows]:
        return read_parts(
            [some.part for some in self._parts[role]],
            tabular.text_options(self._table),
            like=self._files[role][0],
            only=columns,
            block_size=BLOCK_SIZE,
            run=lambda blocks: self._threads.map(_called, blocks),
        )

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


def _called(block: Callable[[], Rows]) -> Rows:
    return block()


def _with_bytes(
    read: Iterable[Rows], parts: Sequence[SharePart], behind: float
) -> Iterator[tuple[Rows, float]]:
    """The rows of some parts, with how many bytes of all parts are read by then."""
    number, path = -1, None
    for rows in read:
        if rows.path != path:
            behind += parts[number].size if number >= 0 else 0.0
            number, path = min(number + 1, len(parts) - 1), rows.path
        yield rows, behind + parts[number].size * rows.done


def reported(stream: RowStream, report: Report) -> Iterator[DividedRows]:
    """The rows of a stream; what comes before each batch is reported."""
    rows = 0
    for batch in stream:
        rows += len(batch.split)
        report(batch.done, rows)
        yield batch


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


def training_rows(batches: Iterable[DividedRows]) -> Iterator[pa.Table | Rows]:
    """The rows of the training split, which still know where they stand in the file."""
    for batch in batches:
        is_chosen = batch.split == 0
        if is_chosen.all():
            yield batch.rows
        elif is_chosen.any():
            yield batch.rows.where(is_chosen)
