"""Columns that are crossed: every combination of their values is a value of its own."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.encoding.arrow import as_lists
from deepfm.data.encoding.cells import as_text
from deepfm.data.encoding.transforms import Transform
from deepfm.data.files.columns import combined, is_list
from deepfm.errors import DataError


def cross(columns: list[pa.ChunkedArray], cut: Transform | None, as_lists: bool) -> pa.Array:
    """The combinations of several columns' values, joined by `_`, in the order of the columns.

    Args:
        columns: With N values each; a null or an empty text is no value, and where a column has
            none, there is no combination.
        cut: What makes lists of texts; None: each cell is one value.
        as_lists: Whether a row may have several combinations.

    Returns:
        (N,) texts or lists of them.

    Raises:
        DataError: A row has several values, but may have one only.
    """
    parts = [_parts(column, cut) for column in columns]
    rows = len(columns[0])
    texts, lengths = parts[0]
    for more, counts in parts[1:]:
        own = np.repeat(np.arange(len(texts)), np.repeat(counts, lengths))
        products = lengths * counts
        row = np.repeat(np.arange(rows), products)
        first = np.cumsum(products) - products
        place = np.arange(len(row)) - first[row]  # of the combination among those of its row
        other = (np.cumsum(counts) - counts)[row] + place % np.maximum(counts, 1)[row]
        texts = pc.binary_join_element_wise(
            texts.take(pa.array(own)), more.take(pa.array(other)), pa.scalar("_", pa.large_string())
        )
        lengths = products
    if not as_lists:
        if (lengths > 1).any():
            raise DataError("expected single values, found lists")
        places = np.cumsum(lengths) - lengths
        return texts.take(pa.array(places, mask=lengths == 0))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, texts)


def _parts(column: pa.ChunkedArray, cut: Transform | None) -> tuple[pa.Array, np.ndarray]:
    """The values of a column's cells end to end, as text, and how many each cell has."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    values = combined(column)
    if cut is not None:
        values = cut(values).values
    if not is_list(values.type):
        values = as_lists(as_text(values))
    texts, row = as_text(values.flatten()), pc.list_parent_indices(values).to_numpy()
    has_value = pc.fill_null(pc.not_equal(texts, ""), False)
    row = row[has_value.to_numpy(zero_copy_only=False)]
    return texts.filter(has_value), np.bincount(row, minlength=len(values))
