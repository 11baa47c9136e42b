"""Which columns hold times, how they are read, and which one puts the rows in order."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from deepfm.data.encoding.cells import as_text, read_formatted, read_times
from deepfm.data.encoding.times import time_pattern
from deepfm.data.sources.describe.columns import ColumnSummary, words_of
from deepfm.errors import ConfigError, nearest

DAY = 86_400
_WORDS = {
    "time", "ts", "date", "day", "hour", "datetime", "created", "at", "when", "seen",
}  # fmt: skip
# How whole numbers may write a time, by their digits.
_FORMATS = {
    8: ("%Y%m%d", "%y%m%d%H"),
    10: ("%Y%m%d%H",),
    12: ("%Y%m%d%H%M",),
    14: ("%Y%m%d%H%M%S",),
}
_EARLIEST, _LATEST = 3e8, 4.2e9  # unix seconds between 1979 and 2103


class TimeColumn(NamedTuple):
    """A column of times.

    Attributes:
        form: How it is written, for a transform; empty where it needs no format.
        seconds: Since 1970, NaN where there is none, (N,).
    """

    column: ColumnSummary
    form: str
    seconds: np.ndarray

    @property
    def days(self) -> float:
        """From the first to the last."""
        known = self.seconds[np.isfinite(self.seconds)]
        return float(np.ptp(known)) / DAY if len(known) else 0.0

    def transform(self, name: str) -> str:
        """A transform of the column."""
        return f"{name}({self.form})"

    def varies(self, name: str) -> bool:
        """Whether the `hour` or `weekday` is not the same in all rows."""
        known = self.seconds[np.isfinite(self.seconds)].astype(np.int64)
        parts = known // 3600 % 24 if name == "hour" else (known // DAY + 3) % 7
        return len(np.unique(parts)) > 1


def _is_named(column: ColumnSummary) -> bool:
    """Whether its name calls a column one of times."""
    words = words_of(column.name)
    return bool(_WORDS.intersection(words)) or any("time" in word for word in words)


def time_columns(columns: Sequence[ColumnSummary]) -> list[TimeColumn]:
    """The columns that hold times, those in the way of dates first."""
    found = [t for c in columns if c.kind == "date" and (t := _date(c)) is not None]
    return found + [t for c in columns if c.kind == "number" and (t := _number(c)) is not None]


def guess_time(times: Sequence[TimeColumn], columns: Sequence[ColumnSummary], name: str | None
) -> TimeColumn | None:  # fmt: skip
    """The column that puts rows in order.

    Args:
        name: The one that its user names; None: it is guessed.

    Raises:
        ConfigError: There is no such column, or it holds no times.
    """
    if name is not None:
        known = {column.name: column for column in columns}
        if name not in known:
            raise ConfigError(f"--time: no column {name!r}; {nearest(name, known)}")
        for time in times:
            if time.column.name == name:
                return time
        column = known[name]
        if column.numbers is not None and not column.missing:
            return TimeColumn(column, "", column.numbers)  # any numbers put rows in order
        raise ConfigError(
            f"--time: {name} holds no times in every row ({column.kind}; {column.missing:.1%} "
            "missing)"
        )
    complete = [time for time in times if not time.column.missing]
    named = [time for time in complete if _is_named(time.column)]
    return next(iter(named or complete), None)


def _looks_recent(seconds: np.ndarray) -> bool:
    """Whether numbers that no name calls times lie within ten years of this century."""
    return bool(seconds.min() > 9e8 and np.ptp(seconds) < 10 * 365 * DAY)


def _date(column: ColumnSummary) -> TimeColumn | None:
    values = column.values
    if pa.types.is_time(values.type) or pa.types.is_duration(values.type):
        return None
    seconds, read = read_times(values)
    if not read[column.is_present].all():
        return None
    return TimeColumn(column, "", np.where(read, seconds, np.nan))


def _number(column: ColumnSummary) -> TimeColumn | None:
    """Whole numbers that are unix times, or that write a date digit by digit."""
    numbers = column.numbers
    if numbers is None or not column.is_whole or column.low <= 0 or column.distinct < 2:
        return None
    absent = np.isnan(numbers)
    whole = pa.array(np.where(absent, 0, numbers).astype(np.int64), mask=absent)
    digits = len(f"{column.low:.0f}")
    if _is_named(column) and digits == len(f"{column.high:.0f}"):
        for form in _FORMATS.get(digits, ()):
            seconds, read = read_formatted(as_text(whole), time_pattern(form))
            if read[column.is_present].all():
                return TimeColumn(column, form, np.where(read, seconds, np.nan))
    seconds, read = read_times(whole)
    known = seconds[read]
    is_unix = len(known) and known.min() > _EARLIEST and known.max() < _LATEST
    if is_unix and (_is_named(column) or _looks_recent(known)):
        return TimeColumn(column, "", np.where(read, seconds, np.nan))
    return None
