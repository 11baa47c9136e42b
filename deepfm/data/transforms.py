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

import ast
import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.errors import ConfigError, DataError, nearest

BLANK = np.iinfo(np.int64).min  # what criteo_log makes of a blank; no other result reaches it
LATEST = 10**11  # unix seconds, in the year 5138: larger numbers are milliseconds, not dates


class Reading(NamedTuple):
    """What a column's values were read as.

    Attributes:
        values: Null (NaN in an array of numbers) where nothing stood or nothing could be read.
        bad: Where something stood that cannot be read, (N,) bool; None: nowhere.
        expected: What should have stood at the first such place, such as "a number".
    """

    values: pa.Array | np.ndarray
    bad: np.ndarray | None = None
    expected: str = ""


Transform = Callable[[pa.Array], Reading]
NEVER_BAD = (None, "prefix", "split", "is_missing")  # they read any single value
NEVER_ABSENT = ("is_missing", "criteo_log")  # an absent value has a result, too
NUMERIC = ("log10", "zscore", "minmax", "expression")  # numbers to numbers
LIST_TRANSFORM = "split"
MAX_EXPRESSION = 500  # characters; longer ones could nest deeper than Python's stack


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
        unread = _where(pc.and_(values.is_null(), pc.not_equal(texts, "")))
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
    long = _where(pc.match_substring_regex(texts, rf"^{sign}\d{{19,}}$")) & ~_where(short)
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
    is_whole = _where(pc.match_substring_regex(texts, r"^-?\d+$"))
    too_long = is_whole & numbers.is_null().to_numpy(zero_copy_only=False)
    if too_long.any():
        numbers = pc.if_else(pa.array(too_long), -1, numbers)
    bad = ~is_whole & _where(texts.is_valid())
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


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()


# What Arrow's parser takes, in RE2; needed only where some text is no number.
_NUMBER = r"(?i)^[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|infinity|nan(\([0-9a-z_]*\))?)$"


def _parse_floats(texts: pa.Array) -> pa.Array:
    """Texts as float64, null where the text is no number."""
    try:
        return texts.cast(pa.float64())
    except pa.ArrowInvalid:
        texts = texts.cast(pa.large_string())
        readable = pc.match_substring_regex(texts, _NUMBER)
        return pc.if_else(readable, texts, None).cast(pa.float64())


def _where(mask: pa.Array) -> np.ndarray:
    return pc.fill_null(mask, False).to_numpy(zero_copy_only=False)


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
_ISO = (
    r"^(?P<Y>\d{4})-(?P<m>0[1-9]|1[0-2])-(?P<d>0[1-9]|[12]\d|3[01])"
    r"(?:[T ](?P<H>[01]\d|2[0-3])(?::(?P<M>[0-5]\d)(?::(?P<S>[0-5]\d)(?:[.,]\d+)?)?)?"
    r" ?(?:Z|(?P<sign>[+-])(?P<oh>[01]\d|2[0-3]):?(?P<om>[0-5]\d)?)?)?$"
)


def _time_transform(form: str, needed: str, part: Callable[[np.ndarray], np.ndarray]) -> Transform:
    form = form.strip()
    pattern = _pattern(form, needed) if form else None
    expected = f"a time like {form}" if form else "a time (ISO 8601 or unix seconds)"

    def transform(values: pa.Array) -> Reading:
        if pattern:
            seconds, read = _read_texts(as_text(values), pattern)
        else:
            seconds, read = read_times(values)
        bad = ~read & _where(values.is_valid())
        if pa.types.is_floating(values.type):
            bad &= ~_where(pc.is_nan(values))
        elif is_text(values.type):
            bad &= _where(pc.not_equal(values, ""))
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


def read_times(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Unix seconds of times in any form that needs no format, and where one could be read."""
    kind = values.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        if pa.types.is_date(kind):
            values = values.cast(pa.timestamp("s"))
        per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[values.type.unit]
        ticks = pc.fill_null(values.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
        return ticks // per_second, _where(values.is_valid())
    if is_text(kind):
        seconds, read = _read_texts(values.cast(pa.large_string()), _ISO)
        whole = read_integers(values, pa.int64())
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
        seconds, read = np.zeros(len(values), np.int64), np.zeros(len(values), bool)
        numbers = read_numbers(values).values
        numbers = np.where(np.abs(numbers) < LATEST, numbers, np.nan)  # NaN compares false
        whole = pa.array(np.floor(np.nan_to_num(numbers)).astype(np.int64), mask=np.isnan(numbers))
    else:
        raise DataError(f"expected times, found {kind}")
    unix = pc.fill_null(whole, LATEST).to_numpy(zero_copy_only=False)
    is_unix = np.abs(unix) < LATEST
    return np.where(is_unix, unix, seconds), read | is_unix


def _read_texts(texts: pa.Array, pattern: str) -> tuple[np.ndarray, np.ndarray]:
    """Unix seconds of the texts that match, and which do; no day beyond its month's last."""
    found = pc.extract_regex(texts, pattern)
    read = _where(found.is_valid())
    names = {item.name for item in found.type}

    def number(name: str, default: int) -> np.ndarray:
        if name not in names:
            return np.full(len(texts), default, np.int64)
        group = pc.struct_field(found, name)
        group = pc.if_else(pc.equal(group, ""), str(default), group)  # a group left out
        return pc.fill_null(group.cast(pa.int64()), default).to_numpy(zero_copy_only=False)

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
        east = np.where(_where(pc.equal(pc.struct_field(found, "sign"), "-")), -1, 1)
        seconds -= east * (number("oh", 0) * 3600 + number("om", 0) * 60)
    return seconds, read


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


def parse_expression(text: str) -> Callable[[np.ndarray], np.ndarray]:
    """An arithmetic expression of x as a function of arrays; it is parsed and never evaluated.

    Raises:
        ValueError: Something in it is not allowed; the message names the part.

    Example:
        >>> parse_expression("2 * max(x, 0) ** 2")(np.array([-1.0, 3.0])).tolist()
        [0.0, 18.0]
    """
    if len(text) > MAX_EXPRESSION:
        raise ValueError(f"expected at most {MAX_EXPRESSION} characters, found {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"{text!r} is no arithmetic expression") from None
    if not any(isinstance(node, ast.Name) and node.id == "x" for node in ast.walk(tree)):
        raise ValueError(f"{text!r} does not depend on x")
    compute = _compiled(tree, text.strip())
    return lambda numbers: np.broadcast_to(compute(numbers), numbers.shape)


_OPERATORS: dict[type, Callable] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide,
    ast.Pow: np.power, ast.USub: np.negative, ast.UAdd: np.positive,
}  # fmt: skip
_FUNCTIONS: dict[str, tuple[int, Callable]] = {
    "abs": (1, np.abs), "ceil": (1, np.ceil), "exp": (1, np.exp), "floor": (1, np.floor),
    "log": (1, np.log), "log10": (1, np.log10), "log1p": (1, np.log1p), "log2": (1, np.log2),
    "max": (2, np.maximum), "min": (2, np.minimum), "pow": (2, np.power), "round": (1, np.round),
    "sigmoid": (1, lambda x: 1.0 / (1.0 + np.exp(-x))), "sqrt": (1, np.sqrt), "tanh": (1, np.tanh),
}  # fmt: skip


def _compiled(node: ast.expr, text: str) -> Callable[[np.ndarray], Any]:
    """A node of the whitelist as a function of x."""
    part = ast.get_source_segment(text, node)
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            try:
                number = np.float64(value)
            except OverflowError:
                raise ValueError(f"{part} is too large") from None
            return lambda x: number
        case ast.Name(id="x"):
            return lambda x: x
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            operator, inner = _OPERATORS[type(op)], _compiled(operand, text)
            return lambda x: operator(inner(x))
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATORS:
            operator = _OPERATORS[type(op)]
            first, second = _compiled(left, text), _compiled(right, text)
            return lambda x: operator(first(x), second(x))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            count, function = _FUNCTIONS[name]
            if len(args) != count:
                raise ValueError(f"{part!r}: {name} takes {count}, found {len(args)}")
            inputs = [_compiled(arg, text) for arg in args]
            return lambda x: function(*(inner(x) for inner in inputs))
        case ast.BinOp(op=ast.BitXor()):
            raise ValueError(f"{part!r}: a power is written with **")
        case ast.Call(func=ast.Name(id=name)):
            raise ValueError(f"unknown function in {part!r}; {nearest(name, _FUNCTIONS)}")
        case ast.Name(id=name):
            raise ValueError(f"unknown name {name!r}; the number is called x")
    raise ValueError(f"{part!r} is no number, x, + - * / **, or one of {', '.join(_FUNCTIONS)}")


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
