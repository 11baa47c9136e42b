"""Arrow columns: what they hold, and their values as one array."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.encoding.cells import as_text
from deepfm.data.files.columns import combined
from deepfm.errors import DataError


def as_lists(values: pa.Array) -> pa.Array:
    """Single values as lists of one, null as an empty list."""
    lengths = values.is_valid().to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, values.drop_null())


def append(values: pa.Array | np.ndarray, texts: list[str]) -> pa.Array | np.ndarray:
    """Values and some texts, as values of their type; all are text where a text is none of it."""
    if isinstance(values, np.ndarray):
        return np.concatenate([values, np.array(texts, np.float64).astype(values.dtype)])
    more = pa.array(texts, pa.large_string())
    try:
        more = more.cast(values.type)
    except pa.ArrowException:
        values = as_text(values)
    return pa.concat_arrays([values, more])


def fill_absent(values: pa.Array, default: str) -> pa.Array:
    """Values with a text in the place of nulls; all are text where it is none of their type."""
    joined = append(values, [default])
    return pc.fill_null(joined[:-1], joined[-1])


def refuse_nested(kind: pa.DataType) -> None:
    if pa.types.is_nested(kind):
        raise DataError(f"expected single values, found {kind}")


def coded(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Values, as good as distinct, and which of them each row has; null is such a value."""
    refuse_nested(column.type)
    if not pa.types.is_dictionary(column.type):
        encoded = combined(column).dictionary_encode(null_encoding="encode")
        return encoded.dictionary, encoded.indices.to_numpy()
    encoded = combined(column.unify_dictionaries())
    values = pa.concat_arrays([encoded.dictionary, pa.nulls(1, encoded.dictionary.type)])
    codes = encoded.indices.cast(pa.int64())
    return values, pc.fill_null(codes, len(values) - 1).to_numpy(zero_copy_only=False)


def distinct(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Values, each with the number of rows that have it; none has no row."""
    refuse_nested(column.type)
    if pa.types.is_dictionary(column.type):
        values, codes = coded(column)
        counts = np.bincount(codes, minlength=len(values))
        return values.take(pa.array(np.flatnonzero(counts))), counts[counts > 0]
    counted = pc.value_counts(combined(column))
    return counted.field(0), counted.field(1).to_numpy()
