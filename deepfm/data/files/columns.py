"""What kind of values a raw column holds, and its values as one array."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.errors import DataError, Place


@contextmanager
def named_in_errors(column: str) -> Iterator[None]:
    """While it lasts, what is refused about values names their column."""
    try:
        yield
    except DataError as error:
        if error.place.column:
            raise
        raise error.at(error.place._replace(column=column)) from None
    except pa.ArrowException as error:
        raise DataError(str(error).splitlines()[0], place=Place(column=column)) from None


def is_text(kind: pa.DataType) -> bool:
    """Whether values are texts."""
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether values are lists, of any lengths or all of one length."""
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def is_number(kind: pa.DataType) -> bool:
    """Whether values are numbers, or true and false."""
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(test(kind) for test in tests)


def combined(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array: lists of one length as ordinary ones, a column of nulls as text.

    Views of texts become texts: as Arrow finds their distinct values, null is the empty text.
    """
    kind = column.type
    if pa.types.is_null(kind):
        column = column.cast(pa.string())
    elif kind == pa.string_view():
        column = column.cast(pa.large_string())
    elif pa.types.is_fixed_size_list(kind):
        column = column.cast(pa.list_(kind.value_type))
    elif pa.types.is_string(kind) and column.nbytes >= 1 << 31:  # beyond its offsets
        column = column.cast(pa.large_string())
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def list_lengths(lists: pa.Array) -> np.ndarray:
    """How many elements each list has, none if it is null, (N,)."""
    lengths: np.ndarray = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(
        zero_copy_only=False
    )
    return lengths
