"""Raw values to values that an encoder can take: the named transforms.

Everything here is stateless and looks at one value at a time, so that what a value becomes never
depends on the rows around it. A transform is one of a declared set and never evaluated:

    bucket(e1, e2, …)   the largest edge that is not above the number, absent below the first
    prefix(n)           the first n characters
    before(s)           the text in front of the first s; all of it where there is none
    split(s)            a text cut at s; lists stay as they are
    criteo_log          floor(ln(x)^2) for x > 2, else x cut to a whole number; a blank is a value
                        of its own
    hour(format)        hour of day, 0 … 23
    weekday(format)     day of the week, 0 (Monday) … 6 (Sunday)
    hour_of_week(format)  24 * weekday + hour, 0 … 167
    is_missing          1.0 where no value is there, else 0.0
    log10(t, d)         the decimal logarithm of a number above t, d for others
    zscore(mean, std)   (x - mean) / std
    minmax(min, max)    (x - min) / (max - min)
    expression(e)       an arithmetic expression of the number x, such as log(x + 3)

An expression is made of numbers, x, + - * / ** and the functions abs ceil exp floor log (natural)
log10 log1p log2 max min pow round (halves to even) sigmoid sqrt tanh, in float64. Where it has no
finite value, the number is one that cannot be read.

`hour`, `weekday` and `hour_of_week` read a text or a whole number as the format says, with the
directives %Y %y %m %d %H %M %S %f and %% as `strptime` reads them. Without a format they read
Arrow timestamps and dates, ISO 8601 texts and whole numbers of unix time, in seconds or by their
size in milli-, micro- or nanoseconds; a time with an offset is taken to UTC, one without is UTC.
Where a number or a time is needed, an empty text is no value.
"""

import re
from abc import ABC, abstractmethod
from functools import cache
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.encoding.cells import (
    A_TIME,
    Reading,
    as_text,
    read_formatted,
    read_numbers,
    read_times,
    where,
)
from deepfm.data.encoding.functions import (
    FUNCTIONS,
    bucket_edges,
    criteo_logs,
    in_buckets,
    where_finite,
)
from deepfm.data.encoding.times import PARTS, time_pattern
from deepfm.data.files.columns import is_text
from deepfm.errors import ConfigError, nearest


class Transform(ABC):
    """Values to values, one at a time.

    Args:
        argument: What stands between the parentheses.

    Attributes:
        name: What a field calls it.
        reads_anything: Whether there is no single value that it cannot read.
        is_never_absent: Whether an absent value has a result, too.
        gives_numbers: Whether it leaves numbers what they are, or makes numbers of them.
        gives_lists: Whether it cuts a text into a list.
        tells_absence: Whether its result says only where a value is.

    Raises:
        ValueError: The argument is wrong.
    """

    name: ClassVar[str] = ""
    reads_anything: ClassVar[bool] = False
    is_never_absent: ClassVar[bool] = False
    gives_numbers: ClassVar[bool] = False
    gives_lists: ClassVar[bool] = False
    tells_absence: ClassVar[bool] = False

    def __init__(self, argument: str = "") -> None:
        if argument.strip():
            raise ValueError("takes no argument")

    @abstractmethod
    def __call__(self, values: pa.Array) -> Reading:
        """The values after the transform, and which of them it could not read."""


class Unchanged(Transform):
    """Values as they are, of a field without a transform."""

    reads_anything = True
    gives_numbers = True

    def __call__(self, values: pa.Array) -> Reading:
        return Reading(values)


class Bucket(Transform):
    name = "bucket"

    def __init__(self, argument: str) -> None:
        self._edges = bucket_edges(argument)

    def __call__(self, values: pa.Array) -> Reading:
        numbers, bad, expected = read_numbers(values)
        found, is_absent = in_buckets(self._edges, numbers)
        return Reading(pa.array(found, mask=is_absent), bad, expected)


class Prefix(Transform):
    name = "prefix"
    reads_anything = True

    def __init__(self, argument: str) -> None:
        if not argument.strip().isdecimal():
            raise ValueError("expected a number of characters")
        self._length = int(argument)

    def __call__(self, values: pa.Array) -> Reading:
        return Reading(pc.utf8_slice_codeunits(as_text(values), 0, self._length))


class Before(Transform):
    name = "before"
    reads_anything = True

    def __init__(self, argument: str) -> None:
        if not argument:
            raise ValueError("expected a text")
        self._end = argument

    def __call__(self, values: pa.Array) -> Reading:
        parts = pc.split_pattern(as_text(values), self._end, max_splits=1)
        return Reading(pc.list_element(parts, 0))


class Split(Transform):
    name = "split"
    reads_anything = True
    gives_lists = True

    def __init__(self, argument: str) -> None:
        if not argument:
            raise ValueError("expected a separator")
        self._separator = argument

    def __call__(self, values: pa.Array) -> Reading:
        if is_text(values.type):
            values = pc.if_else(pc.equal(values, ""), None, values)
            values = pc.split_pattern(values, self._separator)
        return Reading(values)


class CriteoLog(Transform):
    name = "criteo_log"
    is_never_absent = True

    def __call__(self, values: pa.Array) -> Reading:
        numbers, bad, expected = read_numbers(values)
        found, low = criteo_logs(numbers)
        if low.any():
            bad, expected = low if bad is None else bad | low, expected or "a number above -2^62"
        return Reading(pa.array(found, mask=bad), bad, expected)


class IsMissing(Transform):
    name = "is_missing"
    reads_anything = True
    is_never_absent = True
    tells_absence = True

    def __call__(self, values: pa.Array) -> Reading:
        absent = values.is_null(nan_is_null=True)
        if is_text(values.type):
            absent = pc.or_(absent, pc.fill_null(pc.equal(values, ""), True))
        return Reading(absent.cast(pa.float64()))


# --- times ---------------------------------------------------------------------------------


class TimePart(Transform):
    """A part of times, read as a format says or in the ways that need none.

    It is the one that `deepfm.data.encoding.times.PARTS` has under its name.
    """

    def __init__(self, argument: str) -> None:
        form = argument.strip()
        self._part = PARTS[self.name]
        self._pattern = time_pattern(form, self._part.needed) if form else None
        self._expected = f"a time like {form}" if form else A_TIME

    def __call__(self, values: pa.Array) -> Reading:
        if self._pattern:
            seconds, read = read_formatted(as_text(values), self._pattern)
        else:
            seconds, read = read_times(values)
        bad = ~read & where(values.is_valid())
        if pa.types.is_floating(values.type):
            bad &= ~where(pc.is_nan(values))
        elif is_text(values.type):
            bad &= where(pc.not_equal(values, ""))
        parts = pa.array(self._part.of(seconds), mask=~read)
        return Reading(parts, bad if bad.any() else None, self._expected)


class Hour(TimePart):
    name = "hour"


class Weekday(TimePart):
    name = "weekday"


class HourOfWeek(TimePart):
    name = "hour_of_week"


# --- numbers to numbers --------------------------------------------------------------------


class Numeric(Transform):
    """A function of float64 numbers; a result that is not finite is a value that cannot be read.

    It is the one that `deepfm.data.encoding.functions.FUNCTIONS` has under its name.
    """

    gives_numbers = True

    def __init__(self, argument: str) -> None:
        self._spec = f"{self.name}({argument})"
        if self.name in FUNCTIONS:
            self._function = FUNCTIONS[self.name](argument)

    def function(self, numbers: np.ndarray) -> np.ndarray:
        """The function's values, (N,) float64."""
        return self._function(numbers)

    def __call__(self, values: pa.Array) -> Reading:
        numbers, bad, expected = read_numbers(values)
        found, undefined = where_finite(self.function, numbers)
        if undefined.any():
            if bad is None or np.argmax(undefined) < np.argmax(bad):
                expected = f"a number that {self._spec} has a finite value for"
            bad = undefined if bad is None else bad | undefined
        return Reading(pa.array(found, mask=np.isnan(numbers) | undefined), bad, expected)


class Log10(Numeric):
    name = "log10"


class ZScore(Numeric):
    name = "zscore"


class MinMax(Numeric):
    name = "minmax"


class Expression(Numeric):
    name = "expression"


TRANSFORMS: dict[str, type[Transform]] = {
    transform.name: transform
    for transform in (
        Bucket, Prefix, Before, Split, CriteoLog, Hour, Weekday, HourOfWeek, IsMissing, Log10,
        ZScore, MinMax, Expression,
    )
}  # fmt: skip


@cache
def find_transform(spec: str | None) -> Transform:
    """The transform that a spec such as `prefix(3)` names; None leaves values as they are.

    Raises:
        ConfigError: The transform is unknown or its arguments are wrong.

    Example:
        >>> find_transform("bucket(1, 18, 25)")(pa.array([17, 18, 90])).values.to_pylist()
        [1, 18, 25]
    """
    if spec is None:
        return Unchanged()
    match = re.fullmatch(r"(\w+)(?:\((.*)\))?", spec.strip(), re.DOTALL)
    name = match[1] if match else spec
    if match is None or name not in TRANSFORMS:
        raise ConfigError(f"unknown transform {spec!r}; {nearest(name, TRANSFORMS)}")
    try:
        return TRANSFORMS[name](match[2] or "")
    except ValueError as error:
        raise ConfigError(f"transform {spec!r}: {error}") from None


def transform_class(spec: str | None) -> type[Transform]:
    """What a spec names, whatever its arguments.

    That of values as they are where nothing is named, or what `find_transform` refuses.
    """
    name = "" if spec is None else spec.split("(")[0].strip()
    return TRANSFORMS.get(name, Unchanged)


def argument_of(spec: str) -> str:
    """What stands between the parentheses of a spec.

    Example:
        >>> argument_of("split(|)")
        '|'
    """
    return spec.strip().partition("(")[2][:-1]
