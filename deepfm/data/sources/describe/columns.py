"""What the columns of a file hold: read its head, and summarize each."""

import csv
import re
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.files.columns import combined, is_list, is_text
from deepfm.data.files.packed import DAMAGED, opened
from deepfm.data.files.read import format_of, read_rows
from deepfm.data.files.text import NUMBER, looks_like_header
from deepfm.errors import DataError, Place, nearest

DELIMITERS = ("\t", ",", ";", "|", "::")
_EXAMPLES = 3
_HEAD_BYTES = 1 << 16  # from which delimiter and header are guessed
_DATE = r"^\d{4}[-/]\d{2}[-/]\d{2}([ T]\d{2}:\d{2}(:\d{2})?.*)?$"
_NO_NUMBERS = 3  # different texts that may stand for no number, such as NA and ?
_NUMBERS_AT_LEAST = 0.8  # share of a column's texts that are numbers, beside those


class ColumnSummary(NamedTuple):
    """What a column of a file holds.

    Attributes:
        kind: `number`, `text`, `list`, `vector` (lists of equally many numbers) or `date`.
        distinct: Number of different values, absent ones not counted.
        missing: Share of rows without a value.
        is_whole: All numbers are whole ones.
        low, high: Range of the numbers; 0 for others.
        separator: What cuts a text into a list or vector, None for single values.
        longest: Elements of the longest list.
        examples: Some values, as text.
        values: The column itself, (N,).
        numbers: Of a column of numbers, NaN where there is none, (N,); else None.
        no_numbers: Texts that stand among numbers.
    """

    name: str
    kind: str
    distinct: int
    missing: float
    is_whole: bool
    low: float
    high: float
    separator: str | None
    longest: int
    examples: tuple[str, ...]
    values: pa.Array
    numbers: np.ndarray | None = None
    no_numbers: tuple[str, ...] = ()

    @property
    def is_present(self) -> np.ndarray:
        """Where the column has a value, (N,) bool."""
        present: np.ndarray
        if self.numbers is not None:
            present = ~np.isnan(self.numbers)
        else:
            valid = self.values.is_valid()
            if is_text(self.values.type):
                valid = pc.and_(valid, pc.fill_null(pc.not_equal(self.values, ""), False))
            present = np.asarray(valid)
        return present


class Head(NamedTuple):
    """How a file is divided, and its first rows.

    Attributes:
        columns: Names given to the columns of a file without a header.
        rows: The rows that were read.
        is_whole: Whether these are all rows.
        total: Rows of the whole file, estimated where not all were read.
    """

    path: Path
    delimiter: str | None
    encoding: str
    columns: tuple[str, ...]
    rows: pa.Table
    is_whole: bool
    total: int


def read_head(path: Path, *, max_rows: int, encoding: str, like: Head | None = None) -> Head:
    """The first rows of a file.

    Args:
        like: Another file that is divided in the same way.

    Raises:
        DataError: The file cannot be read, or holds no row.
    """
    delimiter: str | None = None
    columns: tuple[str, ...] = ()
    if like is not None:
        delimiter, columns = like.delimiter, like.columns
    elif not format_of(path).is_typed:
        delimiter, columns = _guess_text(path, encoding)
    batches = read_rows([path], delimiter=delimiter, columns=columns, encoding=encoding)
    tables: list[pa.Table] = []
    count, done, is_whole = 0, 1.0, True
    for rows in batches:
        tables.append(rows.table.slice(0, max_rows - count))
        count, done = count + len(tables[-1]), rows.done * len(tables[-1]) / len(rows.table)
        if count >= max_rows:
            is_whole = len(tables[-1]) == len(rows.table) and next(batches, None) is None
            break
    if not count:
        raise DataError("holds no row to describe", place=Place(file=str(path)))
    total = count if is_whole else max(count, round(count / max(done, 1e-6)))
    return Head(path, delimiter, encoding, columns, pa.concat_tables(tables), is_whole, total)


def joined(head: Head, valid: Head) -> pa.Table:
    """The columns of both files, one below the other.

    Raises:
        DataError: The second one lacks a column, or has it in another type.
    """
    names = head.rows.column_names
    for name in names:
        if name not in valid.rows.column_names:
            hint = nearest(name, valid.rows.column_names)
            raise DataError(
                f"no column {name!r}, which {head.path} has; {hint}",
                place=Place(file=str(valid.path)),
            )
    try:
        return pa.concat_tables([head.rows, valid.rows.select(names)], promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(
            f"its columns are of other types than those of {head.path}: {error}",
            place=Place(file=str(valid.path)),
        ) from None


def _guess_text(path: Path, encoding: str) -> tuple[str, tuple[str, ...]]:
    """The delimiter, and made-up names if the first line is data and no header."""
    try:
        with opened(path) as file:
            text = (
                file.content.read(_HEAD_BYTES)
                .decode(encoding, errors="replace")
                .removeprefix("\ufeff")
            )
    except LookupError:
        raise DataError(f"unknown encoding {encoding!r}", place=Place(file=str(path))) from None
    except (OSError, pa.ArrowException, *DAMAGED) as error:
        raise DataError(f"cannot be read: {error}", place=Place(file=str(path))) from None
    lines = text.splitlines()
    head = [line for line in (lines[:-1] or lines) if line][:50]  # the last may be cut off
    if not head:
        raise DataError("empty", place=Place(file=str(path)))
    counts = {d: min(line.count(d) for line in head) for d in DELIMITERS}
    delimiter = max(counts, key=lambda d: (counts[d] * len(d), -DELIMITERS.index(d)))
    if not counts[delimiter]:
        delimiter = ","  # a single column
    cells = [_cells(line, delimiter) for line in head]
    first, others = cells[0], cells[1:]
    if not looks_like_header(first, others):
        return delimiter, tuple(f"column_{k}" for k in range(1, len(first) + 1))
    return delimiter, ()


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line])) if delimiter == "," else line.split(delimiter)


def summarized(name: str, column: pa.ChunkedArray) -> ColumnSummary:
    """What one column holds."""
    values = combined(column) if is_list(column.type) else column.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    missing = values.null_count / len(values)
    if is_list(values.type):
        lengths = pc.min_max(pc.list_value_length(values)).as_py()
        elements = values.flatten()
        is_vector = pa.types.is_floating(elements.type) and lengths["min"] == lengths["max"] > 1
        kind = "vector" if is_vector else "list"
        return ColumnSummary(
            name, kind, _distinct(elements), missing, False, 0, 0, None, lengths["max"] or 0,
            _examples(values), values,
        )  # fmt: skip
    known = values.drop_null()
    separator, longest = _vector(known)
    if separator is not None:
        return ColumnSummary(
            name, "vector", _distinct(known), missing, False, 0, 0, separator, longest,
            _examples(known), values,
        )  # fmt: skip
    separator, longest = _separator(known)
    if separator is not None:
        elements = pc.split_pattern(known, separator).flatten()
        return ColumnSummary(
            name, "list", _distinct(elements), missing, False, 0, 0, separator, longest,
            _examples(known), values,
        )  # fmt: skip
    kind, numbers, no_numbers = _kind(values)
    finite = numbers[np.isfinite(numbers)]
    if kind == "number":
        missing = 1 - len(finite) / len(values)
    return ColumnSummary(
        name=name,
        kind=kind,
        distinct=_distinct(known) if kind != "number" else len(np.unique(finite)),
        missing=missing,
        is_whole=bool(len(finite) and (finite == np.floor(finite)).all()),
        low=float(finite.min()) if len(finite) else 0.0,
        high=float(finite.max()) if len(finite) else 0.0,
        separator=None,
        longest=0,
        examples=_examples(known),
        values=values,
        numbers=numbers if kind == "number" else None,
        no_numbers=no_numbers,
    )


def _kind(values: pa.Array) -> tuple[str, np.ndarray, tuple[str, ...]]:
    """`number`, `date` or `text`; the numbers, (N,); texts that stand among numbers."""
    nothing = np.zeros(0)
    if pa.types.is_temporal(values.type):
        return "date", nothing, ()
    no_numbers: tuple[str, ...] = ()
    if is_text(values.type):
        values = pc.if_else(pc.equal(values, ""), None, values)
        known = values.drop_null()
        if not len(known):
            return "text", nothing, ()
        if pc.all(pc.match_substring_regex(known, _DATE)).as_py():
            return "date", nothing, ()
        is_number = pc.match_substring_regex(known, NUMBER)
        if not pc.all(is_number).as_py():
            others = pc.unique(known.filter(pc.invert(is_number))).to_pylist()
            if len(others) > _NO_NUMBERS or pc.mean(is_number).as_py() < _NUMBERS_AT_LEAST:
                return "text", nothing, ()
            no_numbers = tuple(sorted(others))
            values = pc.if_else(pc.is_in(values, pa.array(others, values.type)), None, values)
        values = pc.utf8_trim_whitespace(values)
    elif pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    try:
        numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        return "text", nothing, ()
    return "number", np.where(np.isfinite(numbers), numbers, np.nan), no_numbers


def _vector(known: pa.Array) -> tuple[str | None, int]:
    """What cuts the texts of a column into equally many numbers each, not all whole ones."""
    if not is_text(known.type) or not len(known):
        return None, 0
    for separator in ("|", "^", ";", ",", " "):
        counts = pc.min_max(pc.count_substring(known, separator)).as_py()
        if counts["min"] == counts["max"] >= 1:
            elements = pc.split_pattern(known, separator).flatten()
            if (
                pc.all(pc.match_substring_regex(elements, NUMBER)).as_py()
                and pc.any(pc.match_substring(elements, ".")).as_py()
            ):
                return separator, counts["max"] + 1
    return None, 0


def _separator(known: pa.Array) -> tuple[str | None, int]:
    """What cuts the texts of a column into lists of few different elements, if anything does."""
    if not is_text(known.type) or not len(known):
        return None, 0
    for separator in ("|", "^", ";", ",", " "):
        lengths = pc.add(pc.count_substring(known, separator), 1)
        longest = pc.max(lengths).as_py()
        if longest < 2:
            continue
        elements = pc.split_pattern(known, separator).flatten()
        # The elements of a list come back in other rows; the words of a title mostly do not, and
        # neither do the parts of a date or a name.
        repeated = _distinct(elements) < 0.5 * _distinct(known)
        if repeated and pc.mean(lengths).as_py() >= 1.2 and (separator != " " or longest > 8):
            return separator, longest
    return None, 0


def words_of(name: str) -> list[str]:
    """The words of a column's name, in small letters.

    Example:
        >>> words_of("deviceIp"), words_of("Clothing ID"), words_of("is_click")
        (['device', 'ip'], ['clothing', 'id'], ['is', 'click'])
    """
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return [word.lower() for word in re.split(r"[\W_]+", spaced) if word]


def as_texts(values: pa.Array) -> pa.Array:
    """Values as a label's rule sees them: texts."""
    return values if is_text(values.type) else values.cast(pa.string())


def codes_of(column: ColumnSummary) -> np.ndarray:
    """Which value each row has, numbered from 0, absent ones as one value, (N,) int64."""
    if column.numbers is not None:
        return np.unique(column.numbers, return_inverse=True)[1].astype(np.int64)
    encoded = column.values.dictionary_encode()
    codes: np.ndarray = pc.fill_null(encoded.indices, len(encoded.dictionary)).to_numpy(
        zero_copy_only=False
    )
    return codes.astype(np.int64)


def _distinct(values: pa.Array) -> int:
    return int(pc.count_distinct(values, mode="only_valid").as_py())


def _examples(known: pa.Array) -> tuple[str, ...]:
    head = pc.drop_null(known.slice(0, 1000)).to_pylist()
    different = dict.fromkeys(map(str, head))
    return tuple(islice(different, _EXAMPLES))
