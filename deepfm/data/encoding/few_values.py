"""Values of few rows, as Python objects: what type a column has, and its values as texts or numbers.

The answers are those of `deepfm.data.encoding.cells` for an Arrow array of the same values. Where a
case is rare, or Arrow's answer depends on the values around it, it is `NotPlain`.
"""

import re
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

NOTHING, FLAG, WHOLE, REAL, SINGLE, TEXT = "null", "bool", "int", "float", "float32", "text"

_TYPES: dict[type, str] = {bool: FLAG, int: WHOLE, float: REAL, str: TEXT}
_SCALARS = (np.integer, np.float64, np.bool_)  # of NumPy, that Python has equals of
_EXACT = 2**53  # whole numbers up to here are floats, too
_LARGEST = 2**63  # whole numbers below are int64
_LONGEST = 1000  # digits; Python reads no more than a few thousand
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"-?\d+", re.ASCII)
# Texts that are no numbers to Arrow, whatever stands beside them; others are left to it.
_NO_NUMBER = re.compile(r"[^\W\d_][^\W_]*( [^\W_]+)*", re.ASCII)
_NEARLY_NUMBERS = re.compile(r"0x|inf|nan", re.ASCII | re.IGNORECASE)


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
    values: list[object]
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
    elements = list(chain.from_iterable(filter(None, found)))  # type: ignore[arg-type]
    kind, converted = _kind(elements)
    if kind == "list":
        raise NotPlain("lists of lists")
    if converted is elements:
        return Column(kind, found, True)
    floats = iter(converted)  # of lists with whole numbers and others
    lists = [None if part is None else [next(floats) for _ in part] for part in found]  # type: ignore[attr-defined]
    return Column(kind, lists, True)  # type: ignore[arg-type]


def _kind(values: Sequence[object]) -> tuple[str, list[object]]:
    """The type of some values; of lists `list`."""
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
        if any(type(value) is int and abs(value) > _EXACT for value in found):  # type: ignore[arg-type]
            raise NotPlain("whole numbers that are no float")
        return REAL, [None if value is None else float(value) for value in found]  # type: ignore[arg-type]
    if any(issubclass(one, _SCALARS) for one in types):
        return _kind([value.item() if isinstance(value, _SCALARS) else value for value in found])
    raise NotPlain(f"values of {', '.join(sorted(t.__name__ for t in types))}")


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


def without_nan(column: Column) -> list[object]:
    """The values with None in the place of NaN."""
    if column.kind not in (REAL, SINGLE):
        return column.values
    return [None if value != value else value for value in column.values]


def check_texts(texts: Sequence[object]) -> None:
    """Refuse texts that are no UTF-8, as Arrow does.

    Raises:
        NotPlain: There is one.
    """
    try:
        "".join([text for text in texts if text]).encode()  # type: ignore[misc]
    except UnicodeEncodeError:
        raise NotPlain("a text that is no UTF-8") from None


def as_texts(kind: str, values: Sequence[object]) -> list[str | None]:
    """The values as `deepfm.data.encoding.cells.as_text` gives them; NaN is none.

    Raises:
        NotPlain: A number is none that is written alike everywhere.
    """
    if kind == TEXT:
        return values  # type: ignore[return-value]
    if kind == WHOLE or kind == FLAG:
        return [None if value is None else str(whole(value)) for value in values]
    return [_real_as_text(kind, value) for value in values]


def _real_as_text(kind: str, value: object) -> str | None:
    if value is None or value != value:
        return None
    assert isinstance(value, float)
    size = abs(value)
    if size < _LARGEST and value.is_integer():
        return str(int(value))
    if kind == SINGLE or not 1e-4 <= size < 1e15:
        raise NotPlain(f"the number {value!r} as a text")
    return repr(value)


def whole(value: object) -> int:
    """A whole number, or true or false as one.

    Raises:
        NotPlain: It does not fit into int64.
    """
    number = int(value)  # type: ignore[call-overload]
    if not -_LARGEST <= number < _LARGEST:
        raise NotPlain(f"a whole number as large as {number}")
    return number


def real_of_text(text: str) -> float | None:
    """The number that a text is, as float64; NaN for an empty text, None for a text that is none.

    Raises:
        NotPlain: It is a number to some only, or infinite.
    """
    if not text:
        return np.nan
    if _NUMBER.fullmatch(text):
        number = float(text)
        if abs(number) == np.inf:
            raise NotPlain("an infinite number")
        return number
    refuse_doubtful(text)
    return None


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


def refuse_doubtful(text: str) -> None:
    """Refuse a text that Arrow may read as a number.

    Raises:
        NotPlain: It is not one that is certainly none.
    """
    if not _NO_NUMBER.fullmatch(text) or _NEARLY_NUMBERS.match(text):
        raise NotPlain(f"the text {text!r} as a number")
