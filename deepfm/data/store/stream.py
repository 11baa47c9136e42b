"""The raw rows of a declared table, each with its split and label, as a stream."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from deepfm.config import DataConfig, TableConfig
from deepfm.data.files.read import read_rows
from deepfm.data.files.rows import Rows
from deepfm.data.labels import binary_label, class_label, number_label
from deepfm.data.schema import DatasetSchema, RawTables
from deepfm.data.sources import tabular
from deepfm.data.splits import RandomSplit, StratifiedSplit, Times, TimeSample, TimeSplit
from deepfm.errors import ConfigError, DataError
from deepfm.utils.logging import LOGGER, ProgressBar

PARTS = ("train", "valid", "test")
BLOCK_SIZE = 16 << 20  # bytes of text that are encoded at once


class StreamPart(NamedTuple):
    """Raw rows on their way, N of them.

    Attributes:
        rows: The raw columns, side tables looked up.
        first: Number of the first row over all files.
        parts: Index in `PARTS` of each row, -1 for rows that are dropped, (N,).
        label: (N,) float32.
        bad: Bad values by column, of the columns that are no field's.
    """

    rows: Rows
    first: int
    parts: np.ndarray
    label: np.ndarray
    bad: Counter


class RowStream:
    """The raw rows of a table, each with its split and label; can be gone through repeatedly.

    Attributes:
        expected: The splits that the settings ask for.
        rows: How many rows there are, known after the first time.
    """

    def __init__(
        self,
        data: DataConfig,
        schema: DatasetSchema,
        files: dict[str, list[Path]],
        num_class: int,
    ) -> None:
        self.rows = 0
        self.files = {role: paths for role, paths in files.items() if role in (*PARTS, "rows")}
        self._data, self._schema, self._table = data, schema, data.table
        self._num_class = num_class
        sides = side_tables(data, schema)
        self._sides = RawTables(None, sides.get("user"), sides.get("item"))
        self._columns = self._needed_columns()
        if data.split_strategy == "predefined":
            self.expected = tuple(part for part in PARTS if part in files)
        else:
            shares = zip(PARTS, data.split_fractions, strict=True)
            self.expected = tuple(part for part, share in shares if share > 0)
        if "valid" not in self.expected:
            raise ConfigError("data.split_fractions: the validation split needs a share above 0")
        self._split = self._prepared_split()

    def __iter__(self) -> Iterator[StreamPart]:
        split, first = self._split(), 0
        for role in self.files:
            for rows in self._read(self._columns, role):
                rows = rows._replace(table=self._sides.complete(self._schema, rows.table))
                label, bad = self._label(rows)
                numbers = first + np.arange(len(label))
                classes = np.where(bad, -1, label if self._has_classes else 0).astype(int)
                parts, unplaced = split(rows, role, numbers, classes)
                counts = Counter()
                for column, mask in (
                    (self._schema.label_field, bad),
                    (self._table.time_column, unplaced),
                ):
                    if mask is not None and mask.any():
                        counts[column] += int(mask.sum())
                        parts = np.where(mask, -1, parts)
                yield StreamPart(rows, first, parts, label, counts)
                first += len(label)
        self.rows = first

    def _needed_columns(self) -> list[str]:
        """The columns to read from the files of rows: not those that only a side table has."""
        table = self._table
        wanted = [name for field in self._schema.fields.values() for name in field.raw_columns]
        wanted += [self._schema.label_field, table.sample_weight, *table.group_columns]
        if self._data.split_strategy == "time":
            wanted.append(table.time_column)
        wanted = [column for column in dict.fromkeys(wanted) if column is not None]
        sides = [side for side in (self._sides.users, self._sides.items) if side is not None]
        looked_up = {name for side in sides for name in side.column_names}
        if looked_up & set(wanted):
            present = next(self._read(None, next(iter(self.files)))).table.column_names
            wanted = [name for name in wanted if name in present or name not in looked_up]
        return wanted

    def _read(self, columns: list[str] | None, role: str) -> Iterator[Rows]:
        form = tabular.form(self._table)
        return read_rows(self.files[role], **form, only=columns, block_size=BLOCK_SIZE)

    def _label(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        rule = self._table.trained_label
        values = rows.table[rule.column].combine_chunks()
        if rule.kind == "class":
            label, bad = class_label(values, self._num_class)
            expected = f"a class from 0 to {self._num_class - 1}"
        elif rule.kind == "number":
            label, bad = number_label(values)
            expected = "a finite number"
        else:
            label, bad = binary_label(values, threshold=rule.threshold, positive=rule.positive)
            expected = "a number" if rule.threshold is not None else "0 or 1"
        refuse_bad(self._table, rows, rule.column, bad, expected)
        return label, bad

    @property
    def _has_classes(self) -> bool:
        return self._table.trained_label.kind != "number"

    def _prepared_split(self) -> Callable[[], Callable]:
        """What makes, for one time through the rows, the function that splits a batch of them.

        That takes (rows, role, row numbers, classes), where the class of a row is its label or -1,
        and gives the parts and which rows have no time (None: all have).
        """
        data = self._data
        fractions, seed = data.split_fractions, data.split_seed
        if data.split_strategy == "predefined":
            return lambda: (
                lambda rows, role, numbers, classes: (
                    np.full(len(numbers), PARTS.index(role)),
                    None,
                )
            )
        if data.split_strategy == "time":
            return self._prepared_time_split()
        if data.stratify:
            if not self._has_classes:
                raise ConfigError("data.stratify: the label is a number, which has no classes")
            classes = max(2, self._num_class)
            sizes = np.zeros(classes, np.int64)
            for rows in self._read([self._schema.label_field], "rows"):
                label, bad = self._label(rows)
                sizes += np.bincount(label[~bad].astype(int), minlength=classes)

            def stratified() -> Callable:
                split = StratifiedSplit(fractions, seed, sizes.tolist())
                return lambda rows, role, numbers, classes: (split.parts(classes), None)

            return stratified
        split = RandomSplit(fractions, seed)
        return lambda: lambda rows, role, numbers, classes: (split.parts(numbers), None)

    def _prepared_time_split(self) -> Callable[[], Callable]:
        column, times, sample, first = self._table.time_column, Times(), TimeSample(), 0

        def read(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
            found, bad = times.read(rows.table[column].combine_chunks())
            refuse_bad(self._table, rows, column, bad, "a time")
            return found, bad

        for rows in self._read([column], "rows"):
            found, bad = read(rows)
            sample.add((first + np.arange(len(found)))[~bad], found[~bad])
            first += len(found)
        split = TimeSplit.of(self._data.split_fractions, sample.times)

        def parts(rows: Rows, role: str, numbers: np.ndarray, classes: np.ndarray) -> tuple:
            found, bad = read(rows)
            return split.parts(found), bad

        return lambda: parts


def refuse_bad(table: TableConfig, rows: Rows, column: str, bad: np.ndarray, expected: str) -> None:
    """Raise for the first bad value of a column that is no field's, unless its row is dropped.

    A label, a weight or a time cannot be `unknown`: that policy is an error here.

    Raises:
        DataError: The message names file, line, column and value.
    """
    if bad.any() and table.bad_values != "drop":
        index = int(np.argmax(bad))
        found = rows.table[column][index].as_py()
        found = "nothing" if found is None else repr(found)
        raise DataError(f"{rows.place(index)}: column {column}: expected {expected}, found {found}")


class Pass:
    """One time through all rows: a bar while it runs, a log line when it is done."""

    def __init__(self, title: str, stream: RowStream) -> None:
        self._title, self._stream = title, stream
        paths = [path for paths in stream.files.values() for path in paths]
        self._sizes = [path.stat().st_size for path in paths]
        self._bar = ProgressBar(title, total=100)

    def parts(self) -> Iterator[StreamPart]:
        """The stream's rows, as they are counted."""
        rows, before, path = 0, 0, None
        for part in self._stream:
            if part.rows.path != path:
                before, path = before + (path is not None), part.rows.path
            rows += len(part.parts)
            if self._bar.due():
                done = sum(self._sizes[:before]) + self._sizes[before] * part.rows.done
                self._bar.show(int(100 * done / max(sum(self._sizes), 1)), self._speed(rows))
            yield part

    def _speed(self, rows: int) -> str:
        return f"{rows:,} rows, {rows / (time.perf_counter() - self._start):,.0f} rows/s"

    def __enter__(self) -> "Pass":
        self._start = time.perf_counter()
        self._bar.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._bar.__exit__(kind, *error)
        if kind is None:
            seconds = time.perf_counter() - self._start
            LOGGER.info(f"{self._title}: {self._speed(self._stream.rows)}, {seconds:.1f} s")


class _ChosenRows(Rows):
    """Some of the rows of a table, which still know where they stand in the file."""

    @classmethod
    def of(cls, rows: Rows, is_chosen: np.ndarray) -> "_ChosenRows":
        # filter, because take is several times slower on columns of many chunks
        chosen = cls(*rows._replace(table=rows.table.filter(pa.array(is_chosen))))
        chosen.index = np.flatnonzero(is_chosen)
        return chosen

    def place(self, index: int) -> str:
        return super().place(int(self.index[index]))


def training_rows(parts: Iterable[StreamPart]) -> Iterator[Rows]:
    for part in parts:
        is_chosen = part.parts == 0
        if is_chosen.all():
            yield part.rows
        elif is_chosen.any():
            yield _ChosenRows.of(part.rows, is_chosen)


def find_all_files(data: DataConfig) -> dict[str, list[Path]]:
    """The files of a table by what they hold: `train`, `valid`, `test` or `rows`, and the sides."""
    table = data.table
    given: dict[str, tuple[str, ...]] = {"rows": table.files}
    if data.split_strategy == "predefined":
        given = {"train": table.files, "valid": table.valid_files, "test": table.test_files}
    for side in ("users", "items"):
        if (source := getattr(table, side)) is not None:
            given[side] = source.files
    return {
        role: tabular.find_files(Path(data.data_dir), patterns)
        for role, patterns in given.items()
        if patterns
    }


def side_tables(data: DataConfig, schema: DatasetSchema) -> dict[str, pa.Table]:
    """The declared tables of users and items, by `user` and `item`."""
    sources = {}
    for side in ("user", "item"):
        if (source := getattr(data.table, f"{side}s")) is not None:
            sources[side] = tabular.side_table(source, schema, side, Path(data.data_dir))
    return sources
