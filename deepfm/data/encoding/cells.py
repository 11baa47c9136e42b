"""How the cells of raw columns are read: as numbers, whole numbers, texts and times."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.encoding.few_values import NUMBER
from deepfm.data.files.columns import is_text
from deepfm.errors import DataError

# Unix seconds, in the year 5138: larger numbers are milliseconds (from 1973 on), beyond a
# thousand times that microseconds, and again nanoseconds.
LATEST = 10**11
A_TIME = "a time (ISO 8601, or a number of unix time)"


class Reading(NamedTuple):
    """What a column's values were read as.

    Attributes:
        values: Null where nothing stood or nothing could be read; of numbers a NumPy array, with
            NaN there.
        bad: Where something stood that cannot be read, (N,) bool; None: nowhere.
        expected: What should have stood at the first such place, such as "a number".
    """

    values: pa.Array
    bad: np.ndarray | None = None
    expected: str = ""

    def then(self, after: "Reading") -> "Reading":
        """The reading of a second step, with what could not be read in either."""
        if self.bad is None:
            return after
        bad = self.bad if after.bad is None else self.bad | after.bad
        return Reading(after.values, bad, self.expected)


def read_numbers(values: pa.Array) -> Reading:
    """The values as float64, NaN where none is there; a text must be a number as a whole.

    NaN counts as absent, infinity as bad.

    Raises:
        DataError: The values are of a type that is no number, such as dates or lists.
    """
    kind = values.type
    if pa.types.is_null(kind):
        return Reading(np.full(len(values), np.nan))
    try:
        if is_text(kind):
            values, texts = _parse_floats(values), values
        else:
            values, texts = values.cast(pa.float64(), safe=False), None
    except pa.ArrowException:
        raise DataError(f"expected numbers, found {kind}") from None
    numbers = pc.fill_null(values, np.nan).to_numpy(zero_copy_only=False)
    bad = np.isinf(numbers)
    first_infinite = int(np.argmax(bad)) if bad.any() else len(bad)
    if texts is not None and values.null_count > texts.null_count:
        unread = where(pc.and_(values.is_null(), pc.not_equal(texts, "")))
        bad = bad | unread
        if unread.any() and np.argmax(unread) < first_infinite:
            first_infinite = len(bad)
    if not bad.any():
        return Reading(numbers)
    expected = "a finite number" if first_infinite < len(bad) else "a number"
    return Reading(np.where(bad, np.nan, numbers), bad, expected)


def read_integers(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Texts of whole numbers as int64 or uint64, null where a text is none or does not fit."""
    texts = texts.cast(pa.large_string())
    sign = "-?" if kind == pa.int64() else ""
    short = pc.match_substring_regex(texts, rf"^{sign}0*\d{{1,18}}$")
    numbers = pc.if_else(short, texts, None).cast(kind)
    long = where(pc.match_substring_regex(texts, rf"^{sign}\d{{19,}}$")) & ~where(short)
    if not long.any():
        return numbers
    limits = np.iinfo(kind.to_pandas_dtype())  # few are as long: one by one, and exact
    found = numbers.to_pylist()
    for place in np.flatnonzero(long):
        number = int(texts[place].as_py())
        found[place] = number if limits.min <= number <= limits.max else None
    return pa.array(found, kind)


def read_whole_numbers(values: pa.Array) -> Reading:
    """The values as int64, null where none is there; 17.0 is 17, and "17.0" no whole number.

    Numbers beyond int64 become negative ones.

    Raises:
        DataError: The values are of a type that is no number, such as dates or lists.
    """
    kind = values.type
    if kind == pa.uint64():  # the upper half becomes negative
        return Reading(values.cast(pa.int64(), safe=False))
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return Reading(values.cast(pa.int64()))
    if pa.types.is_boolean(kind):
        return Reading(values.cast(pa.int8()).cast(pa.int64()))
    if pa.types.is_floating(kind):
        numbers = pc.fill_null(values.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)
        absent = np.isnan(numbers)
        bad = ~absent & ((numbers != np.floor(numbers)) | np.isinf(numbers))
        inside = np.abs(numbers) < 2.0**63  # NaN compares false
        whole = np.where(inside & ~bad, numbers, -1.0).astype(np.int64)
        mask = absent | bad
        return Reading(pa.array(whole, mask=mask), bad if bad.any() else None, "a whole number")
    if not is_text(kind):
        raise DataError(f"expected whole numbers, found {kind}")
    values = pc.if_else(pc.equal(values, ""), None, values)
    try:
        # Arrow reads 0x1F, too, which is no decimal number (two searches are faster than one that
        # ignores the case)
        if not any(pc.any(pc.match_substring(values, mark)).as_py() for mark in "xX"):
            return Reading(values.cast(pa.int64()))
    except pa.ArrowInvalid:
        pass
    texts = values.cast(pa.large_string())
    numbers = read_integers(texts, pa.int64())
    is_whole = where(pc.match_substring_regex(texts, r"^-?\d+$"))
    too_long = is_whole & numbers.is_null().to_numpy(zero_copy_only=False)
    if too_long.any():
        numbers = pc.if_else(pa.array(too_long), -1, numbers)
    bad = ~is_whole & where(texts.is_valid())
    return Reading(numbers, bad if bad.any() else None, "a whole number")


def as_text(values: pa.Array) -> pa.Array:
    """The values as large_string: 17.0 is "17", True is "1", NaN is null.

    Raises:
        DataError: The values are nested, or bytes that are not UTF-8.
    """
    kind = values.type
    if pa.types.is_boolean(kind):
        values = values.cast(pa.int8())
    elif pa.types.is_floating(kind):
        if kind == pa.float16():
            values = values.cast(pa.float32())
        values = pc.if_else(pc.is_nan(values), None, values)
        numbers = pc.fill_null(values, np.nan).to_numpy(zero_copy_only=False).astype(np.float64)
        whole = (np.abs(numbers) < 2.0**63) & (numbers == np.floor(numbers))
        integers = pa.array(np.where(whole, numbers, 0).astype(np.int64), mask=~whole)
        if whole.all():
            return integers.cast(pa.large_string())
        return pc.coalesce(*(part.cast(pa.large_string()) for part in (integers, values)))
    try:
        return values.cast(pa.large_string())
    except pa.ArrowInvalid as error:
        raise DataError(f"not UTF-8: {error}") from None
    except pa.ArrowException:
        raise DataError(f"expected single values, found {kind}") from None


def _parse_floats(texts: pa.Array) -> pa.Array:
    """Texts as float64, null where the text is no number."""
    try:
        return texts.cast(pa.float64())
    except pa.ArrowInvalid:
        texts = texts.cast(pa.large_string())
        readable = pc.match_substring_regex(texts, f"(?i)^{NUMBER}$")
        return pc.if_else(readable, texts, None).cast(pa.float64())


def where(mask: pa.Array) -> np.ndarray:
    found: np.ndarray = pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
    return found


_ISO = (
    r"^(?P<Y>\d{4})[-/](?P<m>0[1-9]|1[0-2])[-/](?P<d>0[1-9]|[12]\d|3[01])"
    r"(?:[T ](?P<H>[01]\d|2[0-3])(?::(?P<M>[0-5]\d)(?::(?P<S>[0-5]\d)(?:[.,]\d+)?)?)?"
    r" ?(?:Z|(?P<sign>[+-])(?P<oh>[01]\d|2[0-3]):?(?P<om>[0-5]\d)?)?)?$"
)


def read_times(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Unix seconds of times in any form that needs no format, and where one could be read.

    Whole numbers are seconds, or finer units by their size; see `LATEST`.

    Raises:
        DataError: The values are of a type that is no time.
    """
    kind = values.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        if pa.types.is_date(kind):
            values = values.cast(pa.timestamp("s"))
        per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[values.type.unit]
        ticks = pc.fill_null(values.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
        return ticks // per_second, where(values.is_valid())
    if is_text(kind):
        seconds, read = read_formatted(values.cast(pa.large_string()), _ISO)
        whole = read_integers(values, pa.int64())
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
        seconds, read = np.zeros(len(values), np.int64), np.zeros(len(values), bool)
        if pa.types.is_integer(kind):
            whole = values.cast(pa.int64(), safe=False)
        else:
            numbers = read_numbers(values).values
            known = np.abs(numbers) < 2.0**63  # NaN compares false
            floor = np.floor(np.where(known, numbers, 0)).astype(np.int64)
            whole = pa.array(floor, mask=~known)
    else:
        raise DataError(f"expected times, found {kind}")
    unix = pc.fill_null(whole, 0).to_numpy(zero_copy_only=False)
    size, is_unix = np.abs(unix), where(whole.is_valid())
    limits = [size < LATEST * 10**power for power in (0, 3, 6)]
    units = np.select(limits, [1, 10**3, 10**6], 10**9)
    return np.where(is_unix, unix // units, seconds), read | is_unix


def read_formatted(texts: pa.Array, pattern: str) -> tuple[np.ndarray, np.ndarray]:
    """Unix seconds of the texts that match, and which do; no day beyond its month's last."""
    found = pc.extract_regex(texts, pattern)
    read = where(found.is_valid())
    names = {item.name for item in found.type}

    def number(name: str, default: int) -> np.ndarray:
        if name not in names:
            return np.full(len(texts), default, np.int64)
        group = pc.struct_field(found, name)
        group = pc.if_else(pc.equal(group, ""), str(default), group)  # a group left out
        known = pc.fill_null(group.cast(pa.int64()), default)
        numbers: np.ndarray = known.to_numpy(zero_copy_only=False)
        return numbers

    year = number("Y", 1972)  # a leap year, for formats without one
    if "y" in names:
        year = number("y", 72)
        year = year + np.where(year < 69, 2000, 1900)  # as POSIX has it
    month = ((year - 1970) * 12 + number("m", 1) - 1).astype("datetime64[M]")
    first, following = (m.astype("datetime64[D]").astype(np.int64) for m in (month, month + 1))
    days = first + number("d", 1) - 1
    read &= days < following
    seconds = days * 86400 + number("H", 0) * 3600 + number("M", 0) * 60 + number("S", 0)
    if "sign" in names:
        east = np.where(where(pc.equal(pc.struct_field(found, "sign"), "-")), -1, 1)
        seconds -= east * (number("oh", 0) * 3600 + number("om", 0) * 60)
    return seconds, read
