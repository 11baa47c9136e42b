"""The items of a model that ranks, encoded once, whatever scores them."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import pyarrow as pa

from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.few_values import NotPlain
from deepfm.data.sources.rows_given import Given, plain_columns


class ServedItems:
    """What is known of the items before anybody asks for a list.

    Args:
        table: The items.
        encoders: Encode them.

    Attributes:
        table: The items.
        arrays: Their fields of group `item`, encoded.
    """

    def __init__(self, table: pa.Table, encoders: Encoders) -> None:
        self.table, self._schema = table, encoders.schema
        self.arrays = encoders.encode_arrays(table, "item")
        self._values: dict[str, list[object]] = {}

    def values(self, column: str) -> list[object]:
        """A raw column as Python values, one per item."""
        if column not in self._values:
            self._values[column] = self.table[column].to_pylist()
        return self._values[column]

    @cached_property
    def any_item(self) -> Mapping[str, Given]:
        """The raw columns of the first item that fields read, one value each.

        Of those that context fields read the ones that the table has.
        """
        fields, known = self._schema.fields.values(), self.table.column_names
        read = {name for field in fields if field.group == "item" for name in field.raw_columns}
        of_context = {n for f in fields if f.group == "context" for n in f.raw_columns}
        first = self.table.slice(0, 1).select(sorted(read | (of_context & set(known))))
        try:
            return plain_columns(first)[0]
        except NotPlain:
            return dict(zip(first.column_names, first.columns, strict=True))


def best_of(logits: np.ndarray, count: int) -> np.ndarray:
    """The places of the largest numbers, the largest first; of equal ones the first comes first.

    Example:
        >>> best_of(np.array([1.0, 3.0, 2.0, 3.0]), 3).tolist()
        [1, 3, 2]
    """
    keys = -logits
    places = np.arange(len(keys))
    if 0 < count < len(keys):
        last = np.partition(keys, count - 1)[count - 1]
        if not np.isnan(last):  # which sorts behind all numbers
            places = np.flatnonzero(keys <= last)
    order = np.argsort(keys[places], kind="stable")[:count]
    best: np.ndarray = places[order]
    return best
