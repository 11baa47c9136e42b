"""The transforms of `deepfm.data.encoding.transforms` for few values, without Arrow."""

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


def _with_none(found: np.ndarray, absent: np.ndarray) -> list[Any]:
    values: list[Any] = found.tolist()
    for place in np.flatnonzero(absent).tolist():
        values[place] = None
    return values


# By name, each of the text between the parentheses. Those of times are left to Arrow.
TRANSFORMS: dict[str, Callable[[str], Transform]] = {
    "prefix": _prefix,
    "bucket": _bucket,
    "criteo_log": _criteo_log,
    "is_missing": _is_missing,
} | {name: _numeric(name) for name in FUNCTIONS}


def unchanged(kind: str, values: Sequence[Any], refuse: Refuse) -> Values:
    """Values as they are, of a field without a transform."""
    return kind, values
