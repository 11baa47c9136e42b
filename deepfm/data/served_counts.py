"""How many values of served rows are missing, and how many training has not seen."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from deepfm.data.encoding.few_values import REAL, SINGLE, Column
from deepfm.data.schema import DatasetSchema
from deepfm.data.served_rows import ReadRows


def missing_values(schema: DatasetSchema, read: ReadRows) -> dict[str, int]:
    """Rows without a value by field; of a cross, without one of its first column.

    An empty text or list is a value.
    """
    rows, known = read.arrays.num_rows, dict[str, int]()
    found = {}
    for field in schema.read_fields:
        name = field.raw_columns[0]
        if name not in known:
            known[name] = _missing(read.columns.get(name), rows)
        found[field.name] = known[name]
    return found


def unknown_values(
    schema: DatasetSchema, sparse: np.ndarray, missing: Mapping[str, int]
) -> dict[str, int]:
    """Rows with a value that training has not seen, by sparse field with a vocabulary.

    Args:
        sparse: The ids of all sparse fields, (N, F).
        missing: Rows without a value, which is not unknown, of each field that is counted.
    """
    zeros = np.count_nonzero(sparse == 0, axis=0).tolist()
    found = {}
    for field, count in zip(schema.sparse_fields, zeros, strict=True):
        if field.encoder.counts_unknown and field.name in missing:
            absent = missing[field.name] if field.default is None else 0
            found[field.name] = max(count - absent, 0)
    return found


def _missing(values: Any, rows: int) -> int:
    """How many of a column's values are none; all, where there is no column."""
    if values is None:
        return rows
    if isinstance(values, Column):
        count = values.values.count(None)
        if values.kind in (REAL, SINGLE):
            count += sum(value != value for value in values.values)
        return count
    if isinstance(values, np.ndarray):
        return int(np.isnan(values).sum()) if values.dtype.kind == "f" else 0
    if hasattr(values, "null_count"):
        return int(values.null_count)
    return sum(value is None for value in values)
