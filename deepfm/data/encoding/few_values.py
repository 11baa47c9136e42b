"""Values of few rows, as Python objects: the type of a column, its values as texts and numbers.

The answers are those of `deepfm.data.encoding.cells` for an Arrow array of the same values. Where a
case is rare, or Arrow's answer depends on the values around it, it is `NotPlain`.
"""

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

NOTHING, FLAG, WHOLE, REAL, SINGLE, TEXT = "null", "bool", "int", "float", "float32", "text"

_TYPES: dict[type, str] = {bool: FLAG, int: WHOLE, float: REAL, str: TEXT}
_SCALARS = (np.integer, np.float64, np.bool_)  # of NumPy, that Python has equals of
_EXACT = 2**53  # whole numbers up to here are floats, too
_LARGEST = 2**63  # whole numbers below are int64
_LONGEST = 1000  # digits; Python reads no more than a few thousand
# What Arrow reads as a number, whatever the case.
NUMBER = r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|infinity|nan(\([0-9a-z_]*\))?)"
_NUMBER = re.compile(NUMBER, re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"-?\d+", re.ASCII)


class NotPlain(Exception):
    """Some values need the path through Arrow, which has the result or the error."""


class Column(NamedTuple):
    """A raw column.

    Attributes:
        kind: The type of its values, or of the elements of its lists.
        values: One per row; None where nothing stands, and NaN may stand for that, too.
        is_list: Whether the values are lists.
    """

    kind: str
    values: list[Any]
    is_list: bool = False


Values = Sequence[object] | np.ndarray | Column


def column_of(values: Values, rows: int) -> Column:
    """The values of a column and their type.

    Args:
        values: One per row: a list or tuple of Python objects, a NumPy array with one dimension, or
            a column whose type is known.

    Raises:
        NotPlain: There are more or fewer of them, they are of several types, or of another one.
    """
    if isinstance(values, Column):
        if len(values.values) != rows:
            raise NotPlain("values of another number than the rows")
        return values
    if len(values) != rows:
        raise NotPlain("values of another number than the rows")
    if isinstance(values, np.ndarray):
        return _of_array(values)
    kind, found = _kind(values)
    if kind != "list":
        return Column(kind, found)
    lists: list[Any] = found
    elements: list[object] = list(chain.from_iterable(filter(None, lists)))
    kind, converted = _kind(elements)
    if kind == "list":
        raise NotPlain("lists of lists")
    if kind == TEXT:
        check_texts(elements)
    elif kind == WHOLE:
        check_wholes(elements)
    if converted is not elements:  # of whole numbers and others
        each = iter(converted)
        lists = [None if part is None else [next(each) for _ in part] for part in lists]
    return Column(kind, lists, True)


def _kind(values: Sequence[Any]) -> tuple[str, list[Any]]:
    """The type of some values, and the values in it; of lists `list`."""
    types = set(map(type, values))
    types.discard(type(None))
    found = values if isinstance(values, list) else list(values)
    if not types:
        return NOTHING, found
    if len(types) == 1:
        (only,) = types
        if only in _TYPES:
            return _TYPES[only], found
    if types <= {list, tuple}:
        return "list", found
    if types == {int, float}:
        if any(type(value) is int and abs(value) > _EXACT for value in found):
            raise NotPlain("whole numbers that are no float")
        return REAL, [None if value is None else float(value) for value in found]
    if any(issubclass(one, _SCALARS) for one in types):
        return _kind([value.item() if isinstance(value, _SCALARS) else value for value in found])
    raise NotPlain(f"values of {', '.join(sorted(one.__name__ for one in types))}")


_DTYPES = {"b": FLAG, "i": WHOLE, "u": WHOLE, "U": TEXT}


def _of_array(values: np.ndarray) -> Column:
    if values.ndim != 1:
        raise NotPlain("an array of several dimensions")
    kind = values.dtype.kind
    if kind in _DTYPES:
        return Column(_DTYPES[kind], values.tolist())
    if kind == "f" and values.dtype.itemsize <= 8:
        return Column(REAL if values.dtype.itemsize == 8 else SINGLE, values.tolist())
    raise NotPlain(f"an array of {values.dtype}")


def without_nan(column: Column) -> list[Any]:
    """The values with None in the place of NaN."""
    if column.kind not in (REAL, SINGLE):
        return column.values
    return [None if value != value else value for value in column.values]


def check_texts(texts: Sequence[Any]) -> None:
    """Refuse texts that are no UTF-8, as Arrow does.

    Raises:
        NotPlain: There is one.
    """
    try:
        "".join([text for text in texts if text]).encode()
    except UnicodeEncodeError:
        raise NotPlain("a text that is no UTF-8") from None


def check_wholes(values: Sequence[Any]) -> None:
    """Refuse whole numbers that do not fit into int64.

    Raises:
        NotPlain: There is one.
    """
    if any(value is not None and not -_LARGEST <= value < _LARGEST for value in values):
        raise NotPlain("a whole number beyond int64")


def as_texts(kind: str, values: Sequence[Any]) -> list[str | None]:
    """The values as `deepfm.data.encoding.cells.as_text` gives them; NaN is none.

    Raises:
        NotPlain: A number is none that is written alike everywhere.
    """
    if kind == TEXT:
        return list(values)
    if kind in (WHOLE, FLAG):
        return [None if value is None else str(int(value)) for value in values]
    return [_real_as_text(kind, value) for value in values]


def _real_as_text(kind: str, value: float | None) -> str | None:
    if value is None or value != value:
        return None
    size = abs(value)
    if size < _LARGEST and value.is_integer():
        return str(int(value))
    if not 1e-4 <= size < 1e7:  # beyond, Arrow and Python choose their exponents differently
        raise NotPlain(f"the number {value!r} as a text")
    return repr(value) if kind == REAL else str(np.float32(value))


def real_of_text(text: str) -> float | None:
    """The number that a text is, as float64, infinite or not; NaN for an empty text; None: none."""
    if not text:
        return np.nan
    if not _NUMBER.fullmatch(text):
        return None
    return np.nan if "(" in text else float(text)


def whole_of_text(text: str) -> int | None:
    """The whole number of any size that a text is, in digits with or without -; None: it is none.

    Raises:
        NotPlain: It is too long to be read.
    """
    if not _WHOLE.fullmatch(text):
        return None
    if len(text) > _LONGEST:
        raise NotPlain("a very long number")
    return int(text)
