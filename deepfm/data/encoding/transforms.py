"""Raw values to values that an encoder can take: the named transforms, and how cells are read.

Everything here is stateless and looks at one value at a time, so that what a value becomes never
depends on the rows around it. A transform is one of a declared set and never evaluated:

    bucket(e1, e2, …)   the largest edge that is not above the number, absent below the first
    prefix(n)           the first n characters
    split(s)            a text cut at s; lists stay as they are
    criteo_log          floor(ln(x)^2) for x > 2, else x cut to a whole number; a blank is a value
                        of its own
    hour(format)        hour of day, 0 … 23
    weekday(format)     day of the week, 0 (Monday) … 6 (Sunday)
    is_missing          1.0 where no value is there, else 0.0
    log10(t, d)         the decimal logarithm of a number above t, d for others
    zscore(mean, std)   (x - mean) / std
    minmax(min, max)    (x - min) / (max - min)
    expression(e)       an arithmetic expression of the number x, such as log(x + 3)

An expression is made of numbers, x, + - * / ** and the functions abs ceil exp floor log (natural)
log10 log1p log2 max min pow round (halves to even) sigmoid sqrt tanh, in float64. Where it has no
finite value, the number is one that cannot be read.

`hour` and `weekday` read a text or a whole number as the format says, with the directives
%Y %y %m %d %H %M %S %f and %% as `strptime` reads them. Without a format they read Arrow
timestamps and dates, ISO 8601 texts and whole numbers of unix seconds; a time with an offset is
taken to UTC, one without is UTC. Where a number or a time is needed, an empty text is no value.
"""

import re
from collections.abc import Callable
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.encoding.cells import (
    Reading,
    as_text,
    is_text,
    read_formatted,
    read_numbers,
    read_times,
    where,
)
from deepfm.data.encoding.expressions import parse_expression
from deepfm.errors import ConfigError, nearest

BLANK = np.iinfo(np.int64).min  # what criteo_log makes of a blank; no other result reaches it


Transform = Callable[[pa.Array], Reading]
NEVER_BAD = (None, "prefix", "split", "is_missing")  # they read any single value
NEVER_ABSENT = ("is_missing", "criteo_log")  # an absent value has a result, too
NUMERIC = ("log10", "zscore", "minmax", "expression")  # numbers to numbers
LIST_TRANSFORM = "split"


@cache
def find_transform(spec: str | None) -> Transform:
    """The function that a spec such as `prefix(3)` names; None leaves values as they are.

    Raises:
        ConfigError: The transform is unknown or its arguments are wrong.

    Example:
        >>> find_transform("bucket(1, 18, 25)")(pa.array([17, 18, 90])).values.to_pylist()
        [1, 18, 25]
    """
    if spec is None:
        return Reading
    match = re.fullmatch(r"(\w+)(?:\((.*)\))?", spec.strip(), re.DOTALL)
    name = match[1] if match else spec
    if name not in _TRANSFORMS:
        raise ConfigError(f"unknown transform {spec!r}; {nearest(name, _TRANSFORMS)}")
    try:
        return _TRANSFORMS[name](match[2] or "")
    except ValueError as error:
        raise ConfigError(f"transform {spec!r}: {error}") from None


def name_of(spec: str | None) -> str | None:
    """The name in a spec, without its arguments."""
    return spec and spec.split("(")[0].strip()


def argument_of(spec: str) -> str:
    """What stands between the parentheses of a spec.

    Example:
        >>> argument_of("split(|)")
        '|'
    """
    return spec.strip().partition("(")[2][:-1]


def _bucket(argument: str) -> Transform:
    try:
        edges = np.array([int(edge) for edge in argument.split(",")])
    except ValueError:
        raise ValueError("expected whole numbers as edges") from None
    if (np.diff(edges) <= 0).any():
        raise ValueError("expected rising edges")

    def bucket(values: pa.Array) -> Reading:
        numbers, bad, expected = read_numbers(values)
        index = np.searchsorted(edges, numbers, side="right") - 1
        return Reading(pa.array(edges[index], mask=(index < 0) | np.isnan(numbers)), bad, expected)

    return bucket


def _prefix(argument: str) -> Transform:
    if not argument.strip().isdecimal():
        raise ValueError("expected a number of characters")
    return lambda values: Reading(pc.utf8_slice_codeunits(as_text(values), 0, int(argument)))


def _split(argument: str) -> Transform:
    if not argument:
        raise ValueError("expected a separator")

    def split(values: pa.Array) -> Reading:
        if is_text(values.type):
            values = pc.if_else(pc.equal(values, ""), None, values)
            values = pc.split_pattern(values, argument)
        return Reading(values)

    return split


def _criteo_log(argument: str) -> Transform:
    _refuse_argument(argument)

    def criteo_log(values: pa.Array) -> Reading:
        numbers, bad, expected = read_numbers(values)
        blank = np.isnan(numbers)
        logs = np.floor(np.log(np.maximum(numbers, 1.0)) ** 2)
        found = np.where(numbers > 2, logs, np.trunc(numbers))
        low = found < -(2.0**62)  # no such integer exists, and the blank needs a value
        if low.any():
            bad, expected = low if bad is None else bad | low, expected or "a number above -2^62"
        found = np.where(blank | low, 0.0, found).astype(np.int64)
        return Reading(pa.array(np.where(blank, BLANK, found), mask=bad), bad, expected)

    return criteo_log


def _is_missing(argument: str) -> Transform:
    _refuse_argument(argument)

    def is_missing(values: pa.Array) -> Reading:
        absent = values.is_null(nan_is_null=True)
        if is_text(values.type):
            absent = pc.or_(absent, pc.fill_null(pc.equal(values, ""), True))
        return Reading(absent.cast(pa.float64()))

    return is_missing


def _hour(argument: str) -> Transform:
    return _time_transform(argument, "H", lambda seconds: seconds // 3600 % 24)


def _weekday(argument: str) -> Transform:
    # 1970-01-01 was a Thursday
    return _time_transform(argument, "md", lambda seconds: (seconds // 86400 + 3) % 7)


def _refuse_argument(argument: str) -> None:
    if argument.strip():
        raise ValueError("takes no argument")


# --- times ---------------------------------------------------------------------------------

_DIRECTIVES = {
    "Y": r"(?P<Y>\d{4})",
    "y": r"(?P<y>\d{2})",
    "m": r"(?P<m>1[0-2]|0[1-9]|[1-9])",
    "d": r"(?P<d>3[01]|[12]\d|0[1-9]|[1-9])",
    "H": r"(?P<H>2[0-3]|[01]\d|\d)",
    "M": r"(?P<M>[0-5]\d|\d)",
    "S": r"(?P<S>[0-5]\d|\d)",
    "f": r"\d{1,6}",
    "%": "%",
}


def _time_transform(form: str, needed: str, part: Callable[[np.ndarray], np.ndarray]) -> Transform:
    form = form.strip()
    pattern = _pattern(form, needed) if form else None
    expected = f"a time like {form}" if form else "a time (ISO 8601 or unix seconds)"

    def transform(values: pa.Array) -> Reading:
        if pattern:
            seconds, read = read_formatted(as_text(values), pattern)
        else:
            seconds, read = read_times(values)
        bad = ~read & where(values.is_valid())
        if pa.types.is_floating(values.type):
            bad &= ~where(pc.is_nan(values))
        elif is_text(values.type):
            bad &= where(pc.not_equal(values, ""))
        return Reading(pa.array(part(seconds), mask=~read), bad if bad.any() else None, expected)

    return transform


def _pattern(form: str, needed: str) -> str:
    """A format of `strptime` as a regular expression with a group per directive."""
    parts, seen = [], []
    for directive, text in re.findall(r"%(.?)|([^%]+)", form, re.DOTALL):
        if text:
            parts.append(re.escape(text))
        elif directive not in _DIRECTIVES:
            known = " ".join(f"%{name}" for name in _DIRECTIVES)
            raise ValueError(f"unknown directive '%{directive}'; known: {known}")
        else:
            parts.append(_DIRECTIVES[directive])
            seen.append(directive)
    if twice := [name for name in "YymdHMS" if seen.count(name) > 1]:
        raise ValueError(f"the format has %{twice[0]} twice")
    if missing := [name for name in needed if name not in seen]:
        raise ValueError(f"the format lacks %{missing[0]}")
    if "d" in needed and not {"Y", "y"} & set(seen):
        raise ValueError("the format lacks %Y or %y")
    return f"^{''.join(parts)}$"


# --- numbers to numbers --------------------------------------------------------------------


def _numeric(spec: str, function: Callable[[np.ndarray], np.ndarray]) -> Transform:
    """A transform by a function of float64 numbers; a result that is not finite is a bad value."""

    def transform(values: pa.Array) -> Reading:
        numbers, bad, expected = read_numbers(values)
        absent = np.isnan(numbers)
        with np.errstate(all="ignore"):
            found = function(np.where(absent, 1.0, numbers))
        undefined = ~np.isfinite(found) & ~absent
        if undefined.any():
            if bad is None or np.argmax(undefined) < np.argmax(bad):
                expected = f"a number that {spec} has a finite value for"
            bad = undefined if bad is None else bad | undefined
        return Reading(pa.array(found, mask=absent | undefined), bad, expected)

    return transform


def _numbers(argument: str, *names: str) -> list[float]:
    parts = argument.split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != len(names) or not np.isfinite(numbers).all():
        raise ValueError(f"expected {' and '.join(names)}, two finite numbers")
    return numbers


def _log10(argument: str) -> Transform:
    threshold, default = _numbers(argument, "threshold", "default")
    if threshold < 0:
        raise ValueError("expected a threshold of at least 0")

    def log10(numbers: np.ndarray) -> np.ndarray:
        above = numbers > threshold
        return np.where(above, np.log10(np.where(above, numbers, 1.0)), default)

    return _numeric(f"log10({argument})", log10)


def _zscore(argument: str) -> Transform:
    mean, deviation = _numbers(argument, "mean", "standard deviation")
    if deviation <= 0:
        raise ValueError("expected a standard deviation above 0")
    return _numeric(f"zscore({argument})", lambda numbers: (numbers - mean) / deviation)


def _minmax(argument: str) -> Transform:
    low, high = _numbers(argument, "min", "max")
    if low >= high:
        raise ValueError("expected min below max")
    return _numeric(f"minmax({argument})", lambda numbers: (numbers - low) / (high - low))


def _expression(argument: str) -> Transform:
    function = parse_expression(argument)
    return _numeric(f"expression({argument})", function)


_TRANSFORMS: dict[str, Callable[[str], Transform]] = {
    "bucket": _bucket,
    "prefix": _prefix,
    "split": _split,
    "criteo_log": _criteo_log,
    "hour": _hour,
    "weekday": _weekday,
    "is_missing": _is_missing,
    "log10": _log10,
    "zscore": _zscore,
    "minmax": _minmax,
    "expression": _expression,
}
