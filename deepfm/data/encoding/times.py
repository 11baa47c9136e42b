"""How times are written, and their parts, in NumPy alone; unix seconds throughout."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

# Unix seconds, in the year 5138: larger numbers are milliseconds (from 1973 on), beyond a
# thousand times that microseconds, and again nanoseconds.
LATEST = 10**11

ISO = (
    r"^(?P<Y>\d{4})[-/](?P<m>0[1-9]|1[0-2])[-/](?P<d>0[1-9]|[12]\d|3[01])"
    r"(?:[T ](?P<H>[01]\d|2[0-3])(?::(?P<M>[0-5]\d)(?::(?P<S>[0-5]\d)(?:[.,]\d+)?)?)?"
    r" ?(?:Z|(?P<sign>[+-])(?P<oh>[01]\d|2[0-3]):?(?P<om>[0-5]\d)?)?)?$"
)
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
# What stands for a part that is left out; 1972 was a leap year.
LEFT_OUT = {"Y": 1972, "m": 1, "d": 1, "H": 0, "M": 0, "S": 0, "oh": 0, "om": 0}


class TimePart(NamedTuple):
    """A part of times.

    Attributes:
        needed: The directives that a format must have.
        of: The part of unix seconds, (N,) int64.
    """

    needed: str
    of: Callable[[np.ndarray], np.ndarray]


PARTS: Mapping[str, TimePart] = {
    "hour": TimePart("H", lambda seconds: seconds // 3600 % 24),
    # 1970-01-01 was a Thursday
    "weekday": TimePart("md", lambda seconds: (seconds // 86400 + 3) % 7),
    "hour_of_week": TimePart("mdH", lambda seconds: (seconds // 3600 + 3 * 24) % 168),
}


def time_pattern(form: str, needed: str = "") -> str:
    """A format of `strptime` as a regular expression with a group per directive.

    Raises:
        ValueError: A directive is unknown, stands there twice or is missing.
    """
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


def seconds_of_parts(
    parts: Mapping[str, np.ndarray], is_west: np.ndarray | None, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Unix seconds of times in parts, and which have no day beyond their month's last, both (N,).

    Args:
        parts: Numbers by directive, (N,) int64 each, of those that are there; `oh` and `om` are
            hours and minutes of an offset.
        is_west: Where that is a negative one; None: there is none.
        count: N.
    """

    def part(name: str) -> np.ndarray:
        return parts[name] if name in parts else np.full(count, LEFT_OUT[name], np.int64)

    year = part("Y")
    if "y" in parts:
        year = parts["y"] + np.where(parts["y"] < 69, 2000, 1900)  # as POSIX has it
    month = ((year - 1970) * 12 + part("m") - 1).astype("datetime64[M]")
    first, following = (m.astype("datetime64[D]").astype(np.int64) for m in (month, month + 1))
    days = first + part("d") - 1
    seconds = days * 86400 + part("H") * 3600 + part("M") * 60 + part("S")
    if is_west is not None:
        seconds -= np.where(is_west, -1, 1) * (part("oh") * 3600 + part("om") * 60)
    return seconds, days < following


def seconds_of_numbers(unix: np.ndarray) -> np.ndarray:
    """Whole seconds of unix times in seconds, or in finer units by their size, (N,) int64."""
    size = np.abs(unix)
    limits = [size < LATEST * 10**power for power in (0, 3, 6)]
    seconds: np.ndarray = unix // np.select(limits, [1, 10**3, 10**6], 10**9)
    return seconds
