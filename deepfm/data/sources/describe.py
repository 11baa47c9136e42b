"""A first declaration of a file that nobody has described yet: guesses, with what they rest on.

Everything here is a guess that its user reads and edits, so each is written next to the numbers
that led to it, and nothing is trained on it unseen.
"""

import csv
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.files.columns import combined, is_list, is_text
from deepfm.data.files.packed import DAMAGED, opened
from deepfm.data.files.read import format_of, read_rows
from deepfm.data.files.text import NUMBER, looks_like_header
from deepfm.errors import DataError, Place

MAX_ROWS = 1_000_000  # enough to guess from; the whole file is read when it is prepared
DELIMITERS = ("\t", ",", ";", "|", "::")
_LABEL_NAMES = ("label", "click", "clicked", "is_click", "target", "y", "conversion", "converted")
_FEW = 50  # numbers with at most this many distinct values are taken for categories
_NAMES_SOMETHING = r"(^|_)(id|code|zip|user|item)s?($|_)"  # in a column's name
_LONG_RANGE = 150  # more whole numbers without gaps are no ages: they number something
_MANY = 10_000  # categories with more values than this get a min_count
_EXAMPLES = 3
_HEAD_BYTES = 1 << 16  # from which delimiter and header are guessed
_DATE = r"^\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2})?.*)?$"


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


class Description(NamedTuple):
    """How a file is divided, and its columns; `rows` were read, which may not be all."""

    path: Path
    delimiter: str | None
    encoding: str
    columns: tuple[str, ...]  # given to a file without a header
    rows: int
    is_whole_file: bool
    summaries: tuple[ColumnSummary, ...]


def describe(path: str | Path, *, max_rows: int = MAX_ROWS, encoding: str = "utf-8") -> Description:
    """Read the head of a file and summarize its columns.

    Raises:
        DataError: The file cannot be read, or holds no row.
    """
    path = Path(path)
    delimiter: str | None = None
    columns: tuple[str, ...] = ()
    if not format_of(path).is_typed:
        delimiter, columns = _guess_text(path, encoding)
    batches = (
        rows.table
        for rows in read_rows([path], delimiter=delimiter, columns=columns, encoding=encoding)
    )
    tables: list[pa.Table] = []
    total, is_whole_file = 0, True
    for table in batches:
        tables.append(table.slice(0, max_rows - total))
        total += len(tables[-1])
        if total >= max_rows:
            is_whole_file = len(tables[-1]) == len(table) and next(batches, None) is None
            break
    if not total:
        raise DataError("holds no row to describe", place=Place(file=str(path)))
    whole = pa.concat_tables(tables)
    summaries = tuple(_summary(name, whole[name]) for name in whole.column_names)
    return Description(path, delimiter, encoding, columns, total, is_whole_file, summaries)


def to_yaml(found: Description) -> str:
    """An experiment on the file, with a comment beside each guess."""
    label = _guess_label(found.summaries)
    kept = "all" if found.is_whole_file else "the first"
    lines = [
        f"# Guessed from {kept} {found.rows:,} rows of {found.path.name}; check each field.",
        "model_name: deepfm",
        "data:",
        "  dataset_name: tabular",
        f"  data_dir: {_quoted(str(found.path.parent))}",
        "  split_strategy: random # or time, predefined, leave_one_out",
        "  split_fractions: [0.8, 0.1, 0.1]",
        "  table:",
        f"    files: {_quoted(found.path.name)}",
    ]
    if found.delimiter is not None:
        lines.append(f"    delimiter: {_quoted(found.delimiter)}")
    if found.encoding != "utf-8":
        lines.append(f"    encoding: {_quoted(found.encoding)}")
    if found.columns:
        names = ", ".join(_quoted(name) for name in found.columns)
        lines.append(f"    columns: [{names}] # the file has no header: names are made up")
    lines += _label_lines(label, found)
    lines.append("    fields:")
    for column in found.summaries:
        if label is None or column.name != label.name:
            lines += _field_lines(column, found.rows)
    lines += ["training:", "  epochs: 10", "  sparse_optimizer: lazy_adam"]
    return "\n".join(lines) + "\n"


def to_lines(found: Description) -> list[str]:
    """A table for people: one line per column."""
    widths = max(6, *(len(column.name) for column in found.summaries))
    lines = [f"{'column':<{widths}}  {'kind':<6}  {'distinct':>9}  {'missing':>7}  examples"]
    for column in found.summaries:
        examples = ", ".join(_short(text) for text in column.examples)
        lines.append(
            f"{column.name:<{widths}}  {column.kind:<6}  {column.distinct:>9,}  "
            f"{column.missing:>7.1%}  {examples}"
        )
    return lines


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


def _summary(name: str, column: pa.ChunkedArray) -> ColumnSummary:
    values = combined(column) if is_list(column.type) else column.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    missing = values.null_count / len(values)
    if is_list(values.type):
        longest = pc.max(pc.list_value_length(values)).as_py() or 0
        elements = values.flatten()
        shortest = pc.min(pc.list_value_length(values)).as_py()
        is_vector = pa.types.is_floating(elements.type) and shortest == longest > 1
        kind = "vector" if is_vector else "list"
        return ColumnSummary(
            name, kind, _distinct(elements), missing, False, 0, 0, None, longest,
            _examples(values),
        )  # fmt: skip
    known = values.drop_null()
    separator, longest = _vector(known)
    if separator is not None:
        return ColumnSummary(
            name, "vector", _distinct(known), missing, False, 0, 0, separator, longest,
            _examples(known),
        )  # fmt: skip
    separator, longest = _separator(known)
    if separator is not None:
        elements = pc.split_pattern(known, separator).flatten()
        return ColumnSummary(
            name, "list", _distinct(elements), missing, False, 0, 0, separator, longest,
            _examples(known),
        )  # fmt: skip
    kind, numbers = _kind(known)
    finite = numbers[np.isfinite(numbers)]
    return ColumnSummary(
        name=name,
        kind=kind,
        distinct=_distinct(known),
        missing=missing,
        is_whole=bool(len(finite) and (finite == np.floor(finite)).all()),
        low=float(finite.min()) if len(finite) else 0.0,
        high=float(finite.max()) if len(finite) else 0.0,
        separator=None,
        longest=0,
        examples=_examples(known),
    )


def _kind(known: pa.Array) -> tuple[str, np.ndarray]:
    """`number`, `date` or `text`, and the numbers."""
    nothing = np.zeros(0)
    if pa.types.is_temporal(known.type):
        return "date", nothing
    if is_text(known.type):
        if not len(known):
            return "text", nothing
        if pc.all(pc.match_substring_regex(known, _DATE)).as_py():
            return "date", nothing
        if not pc.all(pc.match_substring_regex(known, NUMBER)).as_py():
            return "text", nothing
        known = pc.utf8_trim_whitespace(known)
    elif pa.types.is_boolean(known.type):
        known = known.cast(pa.int8())
    try:
        return "number", known.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        return "text", nothing


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


def _guess_label(columns: Sequence[ColumnSummary]) -> ColumnSummary | None:
    """The column that is most likely the label: zeros and ones, else the last of two texts."""
    binary = [
        column
        for column in columns
        if column.kind == "number"
        and column.distinct == 2
        and (column.low, column.high) == (0, 1)
        and not column.missing
    ]
    named = [column for column in binary if column.name.lower() in _LABEL_NAMES]
    answers = [c for c in columns if c.kind == "text" and c.distinct == 2 and not c.missing]
    return next(iter([*named, *binary, *answers[::-1]]), None)


def _label_lines(label: ColumnSummary | None, found: Description) -> list[str]:
    if label is not None and label.kind == "number":
        return [f"    label: {_quoted(label.name)} # zeros and ones"]
    if label is not None:
        rule = f"{{column: {_quoted(label.name)}, positive: {_quoted(label.examples[-1])}}}"
        return ["    label: positive", "    labels:", f"      positive: {rule} # one of two texts"]
    ratings = [c for c in found.summaries if c.name.lower() in ("rating", "stars", "score")]
    if ratings:
        return [
            "    label: positive",
            "    labels:",
            f"      positive: {{column: {_quoted(ratings[0].name)}, threshold: 4}}",
        ]
    return [
        "    label: CHANGE_ME # no column of zeros and ones was found; of others make one:",
        "    # labels:",
        "    #   CHANGE_ME: {column: rating, threshold: 4} # or positive: some text",
    ]


def _field_lines(column: ColumnSummary, rows: int) -> list[str]:
    name = re.sub(r"\W", "_", column.name)
    settings = _settings(column)
    if name != column.name:
        settings["column"] = column.name
    facts = f"{column.distinct:,} values, {column.missing:.1%} missing"
    if column.kind == "number":
        facts += f", {column.low:g} to {column.high:g}"
    body = ", ".join(f"{key}: {_quoted(value)}" for key, value in settings.items())
    reason = _reason_against(column, rows)
    mark = "# " if reason else ""
    return [f"      {mark}{_quoted(name)}: {{{body}}} # {facts}{reason}"]


def _settings(column: ColumnSummary) -> dict[str, Any]:
    if column.kind == "list":
        settings: dict[str, Any] = {"type": "sequence", "max_length": min(column.longest, 50)}
        if column.separator is not None:
            settings["separator"] = column.separator
    elif column.kind == "vector":
        settings = {"type": "dense", "value_dim": column.longest, "scale": "standard"}
        if column.separator is not None:
            settings["separator"] = column.separator
        if column.missing:
            settings["missing"] = "indicator"
        return settings
    elif column.kind == "date":
        settings = {"type": "sparse", "transform": "hour()"}
    elif column.kind == "number" and _is_quantity(column):
        wide = column.low >= 0 and column.high > 1000
        settings = {"type": "dense", "scale": "log1p" if wide else "standard"}
        if column.missing:
            settings["missing"] = "indicator"
        return settings
    else:
        settings = {"type": "sparse"}
    if column.distinct > _MANY:
        settings["min_count"] = 2 if column.distinct < 10 * _MANY else 10
    return settings


def _is_quantity(column: ColumnSummary) -> bool:
    """Whether numbers measure something; otherwise they name something."""
    if not column.is_whole:
        return True
    if column.distinct <= _FEW or re.search(_NAMES_SOMETHING, column.name.lower()):
        return False
    span = column.high - column.low + 1
    is_numbering = column.distinct > max(_LONG_RANGE, span / 2)  # most of a long range occurs
    is_far_from_zero = column.low > 5 * span
    return not (is_numbering or is_far_from_zero)


def _reason_against(column: ColumnSummary, rows: int) -> str:
    """Why a column is only proposed, in a comment; empty for a good one."""
    if column.distinct <= 1:
        return "; a constant says nothing"
    if (
        column.kind == "text"
        and rows > _FEW
        and column.distinct > 0.95 * rows * (1 - column.missing)
    ):
        return "; nearly every row has its own value"
    if column.kind == "number" and column.is_whole and rows > _FEW:
        if column.distinct > 0.99 * rows * (1 - column.missing):
            return "; nearly every row has its own value: a row number?"
        if 5e8 < column.low <= column.high < 4e9:
            return "; seconds since 1970? then a time_column, or transform: hour()"
    return ""


def _distinct(values: pa.Array) -> int:
    return int(pc.count_distinct(values, mode="only_valid").as_py())


def _examples(known: pa.Array) -> tuple[str, ...]:
    head = pc.drop_null(known.slice(0, 1000)).to_pylist()
    different = dict.fromkeys(map(str, head))
    return tuple(islice(different, _EXAMPLES))


def _short(text: str, width: int = 24) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _quoted(value: object) -> str:
    """A YAML scalar: plain where that is safe, in double quotes otherwise."""
    if not isinstance(value, str):
        return str(value)
    if re.fullmatch(r"[A-Za-z_][\w./()-]*", value) and value.lower() not in _YAML_WORDS:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    escaped = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", escaped)
    return f'"{escaped}"'


_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
