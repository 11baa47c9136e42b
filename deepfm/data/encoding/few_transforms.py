"""The transforms of `deepfm.data.encoding.transforms` for few values, without Arrow."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepfm.data.encoding.few_values import (
    FLAG,
    NOTHING,
    REAL,
    TEXT,
    WHOLE,
    NotPlain,
    as_texts,
    real_of_text,
    whole_of_text,
)
from deepfm.data.encoding.functions import (
    FUNCTIONS,
    bucket_edges,
    criteo_logs,
    in_buckets,
    where_finite,
)
from deepfm.data.encoding.times import (
    ISO,
    LEFT_OUT,
    PARTS,
    seconds_of_numbers,
    seconds_of_parts,
    time_pattern,
)

Values = tuple[str, Sequence[Any]]  # a kind of `few_values`, and values of it, None where none is
Refuse = Callable[[], None]  # what is called where a value cannot be read, unless it is absent then
Transform = Callable[[str, Sequence[Any], Refuse], Values]


def reals(kind: str, values: Sequence[Any], refuse: Refuse) -> np.ndarray:
    """The values as float64, NaN where none is there or none can be read, (N,).

    As `deepfm.data.encoding.cells.read_numbers`.
    """
    if kind == TEXT:
        values = [np.nan if text is None else real_of_text(text) for text in values]
        if None in values:
            refuse()
    numbers = np.array(values, np.float64)
    infinite = np.isinf(numbers)
    if infinite.any():
        refuse()
        numbers[infinite] = np.nan
    return numbers


def wholes(kind: str, values: Sequence[Any], refuse: Refuse) -> list[int | None]:
    """The values as whole numbers, None where none is there or none can be read.

    As `deepfm.data.encoding.cells.read_whole_numbers`.
    """
    if kind in (WHOLE, FLAG, NOTHING):
        return [None if value is None else int(value) for value in values]
    if kind == TEXT:
        return [_whole_of_text(text, refuse) if text else None for text in values]
    found: list[int | None] = []
    for value in values:
        if value is None or value != value:
            found.append(None)
        elif not value.is_integer():  # nor is an infinite one
            refuse()
            found.append(None)
        else:
            found.append(int(value) if abs(value) < 2.0**63 else -1)
    return found


def _whole_of_text(text: str, refuse: Refuse) -> int | None:
    number = whole_of_text(text)
    if number is None:
        refuse()
        return None
    return number if -(2**63) <= number < 2**63 else -1


def _prefix(argument: str) -> Transform:
    length = int(argument)

    def transform(kind: str, values: Sequence[Any], refuse: Refuse) -> Values:
        return TEXT, [text if text is None else text[:length] for text in as_texts(kind, values)]

    return transform


def _before(argument: str) -> Transform:
    def transform(kind: str, values: Sequence[Any], refuse: Refuse) -> Values:
        texts = as_texts(kind, values)
        return TEXT, [text if text is None else text.partition(argument)[0] for text in texts]

    return transform


def _bucket(argument: str) -> Transform:
    edges = bucket_edges(argument)

    def transform(kind: str, values: Sequence[Any], refuse: Refuse) -> Values:
        found, absent = in_buckets(edges, reals(kind, values, refuse))
        return WHOLE, _with_none(found, absent)

    return transform


def _criteo_log(argument: str) -> Transform:
    def transform(kind: str, values: Sequence[Any], refuse: Refuse) -> Values:
        bad = []
        numbers = reals(kind, values, lambda: bad.append(True))
        if bad:  # which is absent afterwards, while what was absent before has a value
            raise NotPlain("a value that cannot be read, in criteo_log")
        found, low = criteo_logs(numbers)
        if low.any():
            refuse()
        return WHOLE, _with_none(found, low)

    return transform


def _is_missing(argument: str) -> Transform:
    def transform(kind: str, values: Sequence[Any], refuse: Refuse) -> Values:
        return REAL, [float(value is None or value != value or value == "") for value in values]

    return transform


def _numeric(name: str) -> Callable[[str], Transform]:
    def of(argument: str) -> Transform:
        function = FUNCTIONS[name](argument)

        def transform(kind: str, values: Sequence[Any], refuse: Refuse) -> Values:
            numbers = reals(kind, values, refuse)
            found, undefined = where_finite(function, numbers)
            if undefined.any():
                refuse()
            return REAL, _with_none(found, undefined | np.isnan(numbers))

        return transform

    return of


def _time(name: str) -> Callable[[str], Transform]:
    part = PARTS[name]

    def of(argument: str) -> Transform:
        form = argument.strip()
        pattern = re.compile(time_pattern(form, part.needed) if form else ISO, re.ASCII)

        def transform(kind: str, values: Sequence[Any], refuse: Refuse) -> Values:
            if form or kind == TEXT:
                texts = as_texts(kind, values)
                seconds, read = _seconds_of_texts(pattern, texts, allow_unix=not form)
                bad = any(
                    text and not known for text, known in zip(texts, read.tolist(), strict=True)
                )
            else:
                seconds, read, bad = _seconds_of_numbers(kind, values)
            if bad:
                refuse()
            return WHOLE, _with_none(part.of(seconds), ~read)

        return transform

    return of


def _seconds_of_texts(
    pattern: re.Pattern[str], texts: Sequence[str | None], allow_unix: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Unix seconds of the texts that are times, and which are, both (N,)."""
    matches = [pattern.fullmatch(text) if text else None for text in texts]
    read = np.array([match is not None for match in matches], bool)
    names = pattern.groupindex.keys() - {"sign"}

    def number(match: re.Match[str] | None, name: str) -> int:
        found = match[name] if match else None
        return int(found) if found else LEFT_OUT.get(name, 0)

    parts = {name: np.array([number(match, name) for match in matches], np.int64) for name in names}
    has_sign = "sign" in pattern.groupindex
    signs = [match is not None and match["sign"] == "-" for match in matches] if has_sign else None
    is_west = None if signs is None else np.array(signs, bool)
    seconds, is_day = seconds_of_parts(parts, is_west, len(texts))
    read &= is_day
    if allow_unix:
        whole = [whole_of_text(text) if text else None for text in texts]
        whole = [one if one is not None and -(2**63) <= one < 2**63 else None for one in whole]
        is_unix = np.array([one is not None for one in whole], bool)
        unix = np.array([one or 0 for one in whole], np.int64)
        seconds, read = np.where(is_unix, seconds_of_numbers(unix), seconds), read | is_unix
    return seconds, read


def _seconds_of_numbers(kind: str, values: Sequence[Any]) -> tuple[np.ndarray, np.ndarray, bool]:
    """Unix seconds of numbers of unix time, which there are, and whether another one is none."""
    if kind == FLAG:
        raise NotPlain("times that are true or false")
    if kind == WHOLE:
        read = np.array([value is not None for value in values], bool)
        unix = np.array([value or 0 for value in values], np.int64)
        return seconds_of_numbers(unix), read, False
    numbers = np.array(values, np.float64)
    read = np.abs(numbers) < 2.0**63  # NaN compares false
    unix = np.floor(np.where(read, numbers, 0)).astype(np.int64)
    return seconds_of_numbers(unix), read, bool((~read & ~np.isnan(numbers)).any())


def _with_none(found: np.ndarray, absent: np.ndarray) -> list[Any]:
    values: list[Any] = found.tolist()
    for place in np.flatnonzero(absent).tolist():
        values[place] = None
    return values


# By name, each of the text between the parentheses.
TRANSFORMS: dict[str, Callable[[str], Transform]] = {
    "prefix": _prefix,
    "before": _before,
    "bucket": _bucket,
    "criteo_log": _criteo_log,
    "is_missing": _is_missing,
}
TRANSFORMS |= {name: _time(name) for name in PARTS}
TRANSFORMS |= {name: _numeric(name) for name in FUNCTIONS}


def unchanged(kind: str, values: Sequence[Any], refuse: Refuse) -> Values:
    """Values as they are, of a field without a transform."""
    return kind, values
