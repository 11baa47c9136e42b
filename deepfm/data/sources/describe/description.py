"""From a file to all guesses about it: label, fields, times, split, training."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from deepfm.data.sources.describe import rules
from deepfm.data.sources.describe.columns import (
    ColumnSummary,
    Head,
    codes_of,
    joined,
    read_head,
    summarized,
    words_of,
)
from deepfm.data.sources.describe.evidence import (
    SUSPECT,
    Evidence,
    Signal,
    depends_on,
    evidence_of,
)
from deepfm.data.sources.describe.fields import (
    ABSENT,
    FieldGuess,
    names_something,
    scale_of,
    speaks_against,
    with_own_names,
)
from deepfm.data.sources.describe.labels import LabelGuess, guess_label
from deepfm.data.sources.describe.times import DAY, TimeColumn, guess_time, time_columns
from deepfm.errors import ConfigError, DataError, Place, nearest

MAX_ROWS = 1_000_000  # enough to guess from; the whole file is read when it is prepared
_ROWS_OF_A_USER = 3  # of which one trains, one validates, one tests
_SPLIT_NEEDS = 10  # rows of each class in each split


class Wishes(NamedTuple):
    """What the user of `describe` says himself; None: it is guessed."""

    label: str | None = None
    positive: str | None = None
    user: str | None = None
    item: str | None = None
    time: str | None = None


class Description(NamedTuple):
    """What a file holds, and what is guessed of it.

    Attributes:
        label: None in a ranking task of positives only.
        settings: The sections of the config below `data`.
        notes: What was decided, for people.
        warnings: What they should know before they trust a figure.
    """

    head: Head
    valid: Path | None
    wishes: Wishes
    summaries: tuple[ColumnSummary, ...]
    label: LabelGuess | None
    time: TimeColumn | None
    split: str
    split_reason: str
    fields: tuple[FieldGuess, ...]
    settings: dict[str, dict[str, Any]]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Rows that were looked at."""
        return len(self.head.rows)

    @property
    def smallest_class(self) -> int:
        """Rows of the rarest class; of a number all."""
        return self.rows if self.label is None else self.label.smallest_class_of(self.rows)

    @property
    def is_whole_file(self) -> bool:
        """Whether these are all rows."""
        return self.head.is_whole


def describe(
    path: str | Path,
    *,
    valid: str | Path | None = None,
    wishes: Wishes = Wishes(),  # noqa: B008  immutable
    max_rows: int = MAX_ROWS,
    encoding: str = "utf-8",
) -> Description:
    """Read the head of a file and guess a config.

    Args:
        valid: Validation rows in a file of their own.

    Raises:
        DataError: A file cannot be read, or holds no row.
        ConfigError: A column that is named is not there, or cannot be what it is named for.
    """
    head = read_head(Path(path), max_rows=max_rows, encoding=encoding)
    table = head.rows
    if valid is not None:
        table = joined(
            head, read_head(Path(valid), max_rows=max_rows, encoding=encoding, like=head)
        )
    return _of_table(head, table, wishes, valid)


def describe_table(
    rows: pa.Table,
    *,
    name: str = "rows.parquet",
    wishes: Wishes = Wishes(),  # noqa: B008
) -> Description:
    """Guess a config for rows in memory, as if they stood in a Parquet file.

    Args:
        name: Of that file, which the config names.

    Raises:
        DataError: There is no row.
        ConfigError: As in `describe`.
    """
    if not len(rows):
        raise DataError("expected a row or more to describe, found none")
    return _of_table(_head_of(rows, Path(name)), rows, wishes, None)


def describe_labelled(
    rows: pa.Table,
    label: LabelGuess,
    *,
    wishes: Wishes = Wishes(),  # noqa: B008
) -> Description:
    """Guess fields and settings for training rows whose labels stand beside them.

    All columns were put there to predict from: none counts as a leak, and where something speaks
    against every one of them, that is for the caller to see in `Description.fields`.

    Args:
        rows: N of them, all of which are trained on.
        label: With no column, (N,) values.
    """
    head = _head_of(rows, Path("rows"))
    summaries = tuple(summarized(name, rows[name]) for name in rows.column_names)
    apart = Path("valid")  # whose rows are not among these
    return _Guessing(head, summaries, label, wishes, apart, finds_leaks=False).description()


def _head_of(rows: pa.Table, path: Path) -> Head:
    """Rows in memory as those of a file that has been read to its end."""
    return Head(path, None, "utf-8", (), rows, True, len(rows))


def _of_table(head: Head, table: pa.Table, wishes: Wishes, valid: str | Path | None) -> Description:
    summaries = tuple(summarized(name, table[name]) for name in table.column_names)
    by_name = {column.name: column for column in summaries}
    for option, name in (("--user", wishes.user), ("--item", wishes.item)):
        if name is not None and name not in by_name:
            raise ConfigError(f"{option}: no column {name!r}; {nearest(name, by_name)}")
        if name is not None and by_name[name].kind in ("list", "vector"):
            raise ConfigError(f"{option}: {name} holds several values in a row, and is no id")
    sides = {name for name in (wishes.user, wishes.item) if name is not None}
    rankable = wishes.user is not None and wishes.item is not None
    others = [column for column in summaries if column.name not in sides]
    label = None
    if not (rankable and _has_positives_only(others, wishes)):
        label = guess_label(others, wishes.label, wishes.positive)
    found = _Guessing(head, summaries, label, wishes, valid).description()
    if all(field.against for field in found.fields):
        reasons = "; ".join(f"{field.name}: {field.against}" for field in found.fields)
        raise DataError(
            f"no column is left to predict from ({reasons})", place=Place(file=str(head.path))
        )
    return found


def _has_positives_only(columns: list[ColumnSummary], wishes: Wishes) -> bool:
    """Whether rows are positives by being there: no column has two answers."""
    if wishes.label is not None:
        return any(c.name == wishes.label and c.distinct < 2 for c in columns)
    if wishes.positive is not None:
        return False
    answers = [c for c in columns if c.distinct == 2 and c.kind in ("number", "text")]
    words = {"label", "click", "clicked", "rating", "ratings", "stars", "target", "purchase"}
    named = [c for c in columns if set(words_of(c.name)) & words and c.distinct > 1]
    return not answers and not named


class _Guessing:
    """The guesses about one table, each made from those before it."""

    def __init__(
        self,
        head: Head,
        summaries: tuple[ColumnSummary, ...],
        label: LabelGuess | None,
        wishes: Wishes,
        valid: str | Path | None,
        *,
        finds_leaks: bool = True,
    ) -> None:
        self.head, self.summaries, self.label, self.wishes = head, summaries, label, wishes
        self.finds_leaks = finds_leaks
        self.valid = None if valid is None else Path(valid)
        self.is_ranking = label is None
        rows = len(head.rows)  # those of the validation file come after them
        self.signal = None
        if label is not None:
            values = label.values[:rows]
            if label.kind == "class":
                known = values[np.isfinite(values)].astype(int)
                most = np.bincount(known).argmax() if len(known) else 0
                values = np.where(np.isfinite(values), values == most, np.nan)
            self.signal = Signal(values, is_binary=label.kind != "number")
        sides = {"user": wishes.user, "item": wishes.item}
        self.owners = {  # the id of each row, by side
            side: codes_of(column)
            for side, name in sides.items()
            for column in summaries
            if column.name == name
        }
        self.own = None if label is None or label.column is None else label.column.name
        self.columns = [column for column in summaries if column.name != self.own]
        self.times = time_columns(self.columns)
        self.evidence = {column.name: self._evidence(column) for column in self.columns}
        safe = [t for t in self.times if not self.evidence[t.column.name].leak]
        self.time = guess_time(safe, self.columns, wishes.time)
        self.split, self.split_reason = self._split()
        share = rules.TRAINED if valid is None else 1.0
        smallest = rows if label is None else label.smallest_class_of(rows)
        scale = head.total / rows * share
        self.size = rules.TableSize(round(rows * scale), round(smallest * scale))
        self.step = rules.step_of(self.size)

    def description(self) -> Description:
        """All of it."""
        fields = [field for column in self.columns for field in self._fields(column)]
        if self.is_ranking:
            settings = rules.ranking_settings()
        else:
            assert self.label is not None
            settings = rules.settings(self.size._replace(values=self._values(fields)), self.label)
        return Description(
            self.head, self.valid, self.wishes, self.summaries, self.label, self.time, self.split,
            self.split_reason, tuple(with_own_names(fields)), settings, tuple(self._notes()),
            tuple(self._warnings(fields)),
        )  # fmt: skip

    def _values(self, fields: list[FieldGuess]) -> int:
        """How many values all ids of the fields have."""
        ids = {
            field.settings["column"]
            for field in fields
            if field.settings["type"] != "dense"
            and "transform" not in field.settings
            and not field.against
        }
        return sum(column.distinct for column in self.columns if column.name in ids)

    def _evidence(self, column: ColumnSummary) -> Evidence:
        if self.signal is None:
            return Evidence()
        found = evidence_of(column, self.signal)
        return found if self.finds_leaks else found._replace(leak="")

    def _split(self) -> tuple[str, str]:
        if self.valid is not None:
            return "predefined", "the validation rows are given"
        if self.is_ranking:
            if self.time is None:
                raise ConfigError(
                    "--user and --item with positives only make a ranking task, which holds out "
                    "each user's last row: --time names a column of times"
                )
            if np.bincount(self.owners["user"]).max() < _ROWS_OF_A_USER:
                raise ConfigError(
                    f"--user: no {self.wishes.user} has {_ROWS_OF_A_USER} rows, two of which could "
                    "be held out"
                )
            return "leave_one_out", "positives only: each user's last row tests"
        if self.time is None:
            return "random", "or time, predefined, leave_one_out"
        if self.time.days <= 1:
            return "random", f"all rows are of one day of {self.time.column.name}"
        if lacking := self._lacking_by_time():
            return "random", lacking
        return "time", f"{self.time.days:,.0f} days of {self.time.column.name}: old rows train"

    def _lacking_by_time(self) -> str:
        """Why a split by time would leave nothing to measure by; empty if it would not."""
        assert self.time is not None
        assert self.label is not None
        if self.label.kind == "number" or not self.head.is_whole:
            return ""
        seconds, values = self.time.seconds, self.label.values
        known = np.isfinite(values)
        cuts = np.quantile(seconds[np.isfinite(seconds)], [0.8, 0.9], method="higher")
        part = np.searchsorted(cuts, seconds, side="right")
        for number, name in enumerate(("training", "validation", "test")):
            of_part = values[known & (part == number)].astype(int)
            counts = np.bincount(of_part, minlength=2) if len(of_part) else np.zeros(2, int)
            if self.label.kind == "binary" and counts.min() < _SPLIT_NEEDS:
                return f"by time the {name} rows would have {counts.min()} of one class"
        return ""

    def _fields(self, column: ColumnSummary) -> list[FieldGuess]:
        """The fields that a column gives."""
        evidence = self.evidence[column.name]
        facts = f"{column.distinct:,} values, {column.missing:.1%} missing"
        if column.kind == "number":
            facts += f", {column.low:g} to {column.high:g}"
        if column.no_numbers:
            facts += f", {', '.join(map(repr, column.no_numbers))} for none"
        if evidence.strength is not None:
            facts += f", alone {_measure(self.label)} {evidence.strength:.2f}"
        time = next((t for t in self.times if t.column.name == column.name), None)
        if time is not None and column.name not in (self.wishes.user, self.wishes.item):
            return self._time_fields(time, facts, evidence)
        settings, why = self._settings(column, evidence)
        if why:
            facts += f"; {why}"
        if (group := self._group(column)) is not None:
            settings["group"] = group
        against = evidence.leak or self._against(column)
        if column.name in (self.wishes.user, self.wishes.item):
            against = ""
        return [FieldGuess(column.name, settings | {"column": column.name}, facts, against)]

    def _time_fields(self, time: TimeColumn, facts: str, evidence: Evidence) -> list[FieldGuess]:
        fields = []
        known = time.seconds[np.isfinite(time.seconds)]
        trained_days = float(np.ptp(np.sort(known)[: max(1, int(0.8 * len(known)))])) / DAY
        for name in ("hour", "weekday"):
            against = evidence.leak
            if self.is_ranking:
                against = against or "a list of recommended items has no time of its own"
            elif not time.varies(name):
                against = against or f"the same {name} in all rows"
            elif name == "weekday" and self.split == "time" and trained_days < 6:
                against = against or f"the training rows have {trained_days:.1f} days"
            settings = {"type": "sparse", "transform": time.transform(name)}
            settings["column"] = time.column.name
            fields.append(FieldGuess(f"{time.column.name}_{name}", settings, facts, against))
        return fields

    def _settings(self, column: ColumnSummary, evidence: Evidence) -> tuple[dict[str, Any], str]:
        """What a field says, and why where that is not plain."""
        if column.name in (self.wishes.user, self.wishes.item):
            return self._sparse(column), "an id, as told"
        if column.kind == "list":
            found: dict[str, Any] = {"type": "sequence", "max_length": min(column.longest, 50)}
            if column.separator is not None:
                found["separator"] = column.separator
            return found, ""
        if column.kind == "vector":
            found = {"type": "dense", "value_dim": column.longest, "scale": "standard"}
            found["dense_embedding"] = "linear"
            if column.separator is not None:
                found["separator"] = column.separator
            return found | self._missing(column), ""
        if column.kind == "number":
            is_id, why = names_something(column, evidence)
            return (self._sparse(column) if is_id else self._dense(column)), why
        return self._sparse(column), ""

    def _sparse(self, column: ColumnSummary) -> dict[str, Any]:
        absent = {"default": ABSENT} if column.missing else {}
        return {"type": "sparse"} | self._min_count(column) | absent

    def _min_count(self, column: ColumnSummary) -> dict[str, Any]:
        if self.is_ranking:
            return {}
        counts = np.bincount(codes_of(column)[: len(self.head.rows)])
        once = int((counts == 1).sum())
        count = rules.min_count(self.step, column.distinct, once)
        return {} if count is None else {"min_count": count}

    def _dense(self, column: ColumnSummary) -> dict[str, Any]:
        # Numbers below 0 may follow where not all were seen, and have no logarithm.
        scale = scale_of(column) if self.head.is_whole else "standard"
        settings: dict[str, Any] = {"type": "dense", "scale": scale}
        settings["dense_embedding"] = "piecewise"
        if self.step.bins is not None:
            settings["bins"] = self.step.bins
        if column.no_numbers:
            settings["bad_values"] = "unknown"
        return settings | self._missing(column)

    def _missing(self, column: ColumnSummary) -> dict[str, Any]:
        if column.missing:
            return {"missing": "indicator"}
        return {} if self.head.is_whole else {"missing": "mean"}

    def _group(self, column: ColumnSummary) -> str | None:
        """Whose field it is, where users and items are named."""
        names = {"user": self.wishes.user, "item": self.wishes.item}
        may_depend = column.kind not in ("list", "vector") and column.distinct > 1
        for side, codes in self.owners.items():
            if column.name == names[side]:
                return side
            if may_depend and depends_on(column, codes):
                return side
        return None

    def _against(self, column: ColumnSummary) -> str:
        """Why a column is only proposed; empty for a good one."""
        if self.time is not None and column.name == self.time.column.name:
            return "it puts the rows in order"
        return speaks_against(column)

    def _notes(self) -> list[str]:
        notes = []
        if self.label is None:
            notes.append("positives only: a ranking task, with negatives drawn among the items")
        else:
            notes.append(f"label {self.own} ({self.label.kind}): {self.label.reason}")
        notes.append(f"split {self.split}: {self.split_reason}")
        return notes

    def _warnings(self, fields: list[FieldGuess]) -> list[str]:
        found = [f"{field.name} left out: {field.against}" for field in fields if field.against]
        found += self._suspects(fields)
        if self.label is not None and self.label.kind != "number":
            count = self.size.smallest_class
            if count < rules.FEW_OF_A_CLASS:
                found.append(
                    f"only about {count:,} training rows of the rarest class: figures will have "
                    "wide intervals, and the network is small"
                )
        if self.head.columns:
            found.append("the file has no header: the names of its columns are made up")
        return found

    def _suspects(self, fields: list[FieldGuess]) -> list[str]:
        """Columns that are fields though they almost know the label."""
        found: dict[str, str] = {}  # a column of times gives several fields
        for field in fields if self.finds_leaks else []:
            column = field.settings.get("column", field.name)
            strength = self.evidence[column].strength
            if strength is not None and strength > SUSPECT and not field.against:
                found[column] = (
                    f"{column} alone {_measure(self.label)} {strength:.2f}: if it is only known "
                    f"once {self.own} is, comment it out"
                )
        return list(found.values())


def _measure(label: LabelGuess | None) -> str:
    return "explains" if label is not None and label.kind == "number" else "AUC"
