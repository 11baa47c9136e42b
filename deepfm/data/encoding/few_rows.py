"""Few rows to the arrays that a model sees, by dictionaries and plain arrays.

The kernels of Arrow, and what surrounds them, cost a request of a row many times what its values
do. Here a value costs one look-up. What comes out is what `Encoders.encode` gives for an Arrow
table of the same values, or `NotPlain`: the caller then takes that path, which has the result or
the error. From about a thousand rows on, that path is the faster one anyway.

Neither torch nor Arrow is imported here, so that a server without them can encode.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from deepfm.data.encoding.arrays import EncodedArrays
from deepfm.data.encoding.few_ids import Cross, Ids, Sequences
from deepfm.data.encoding.few_numbers import DenseFields
from deepfm.data.encoding.few_tables import TABLES
from deepfm.data.encoding.few_values import NOTHING, Column, Values, column_of, without_nan
from deepfm.data.encoding.few_values import NotPlain as NotPlain
from deepfm.data.encoding.sequences import first_difference

VERSION = 2  # of the plain data


class FewRows:
    """Encodes few rows; see `of_plain`.

    It remembers the ids of values that it has met, of up to 65,536 per field and type, and the
    lists of 4,096 texts per sequence field. A vocabulary of up to 262,144 values becomes a
    dictionary on its first use, of about 100 bytes a value; a larger one is searched as it is. It
    can be pickled, without what it remembers, and used by several threads.
    """

    def __init__(self, plain: Mapping[str, Any]) -> None:
        self._plain = plain
        self._tables = {name: TABLES[t["kind"]](t) for name, t in plain["tables"].items()}
        self._groups: dict[str | None, _Group] = {}

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> "FewRows":
        """From the data that `deepfm.data.encoding.few_rows_spec` gives: dicts, lists, texts,
        numbers and NumPy arrays.

        Raises:
            ValueError: It is of another version.
        """
        if plain["version"] != VERSION:
            raise ValueError(f"expected version {VERSION} of few rows, found {plain['version']}")
        return cls(plain)

    def __reduce__(self) -> tuple[Any, ...]:
        return FewRows.of_plain, (self._plain,)

    def encode(
        self, columns: Mapping[str, Values], rows: int, group: str | None = None
    ) -> EncodedArrays:
        """Encode raw rows; with `group`, the fields of that group only.

        Args:
            columns: By name, N values each: None, bool, int, float, str or lists of those, or NumPy
                arrays of one dimension. None and NaN are no value. Other columns than the fields'
                are ignored.
            rows: N.

        Raises:
            NotPlain: The rows need the path through Arrow: a value is of another type, cannot be
                read, or is missing; or a field's settings are rare ones.
        """
        if rows < 1:
            raise NotPlain("no rows")
        found = self._groups.get(group)
        if found is None:
            fields = [f for f in self._plain["fields"] if group in (None, f["group"])]
            found = self._groups[group] = _Group(fields, self._tables, self._plain["scalers"])
        return found.encode(columns, rows)


class _Group:
    """The fields that are encoded together."""

    def __init__(
        self,
        fields: Sequence[Mapping[str, Any]],
        tables: Mapping[str, Any],
        scalers: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._not_plain = ", ".join(f["name"] for f in fields if f["not_plain"])
        if self._not_plain:
            return
        of_type = {
            kind: [f for f in fields if f["type"] == kind]
            for kind in ("sparse", "dense", "sequence")
        }
        self._sparse = [(_Source(f), Ids(f, tables[f["table"]])) for f in of_type["sparse"]]
        self._sequences = [
            (_Source(f), Sequences(f, tables[f["table"]])) for f in of_type["sequence"]
        ]
        names_of = [sequence.sequence for _, sequence in self._sequences]
        self._together = [
            [k for k, own in enumerate(names_of) if own == name]
            for name in dict.fromkeys(filter(None, names_of))
        ]
        names = {field["name"] for field in of_type["dense"]}
        if any(field["source"] not in (None, *names) for field in of_type["dense"]):
            self._not_plain = "an indicator without its field"
            return
        self._dense_sources = [_Source(f) for f in of_type["dense"]]
        self._dense = DenseFields(of_type["dense"], scalers)

    def encode(self, columns: Mapping[str, Values], rows: int) -> EncodedArrays:
        """As `FewRows.encode`."""
        if self._not_plain:
            raise NotPlain(self._not_plain)
        read = _Columns(columns, rows)
        ids = []
        for source, sparse in self._sparse:
            column = source.column(read)
            if column.is_list:
                raise NotPlain("lists in a field with one value per row")
            ids.append(sparse.of(column.kind, without_nan(column)))
        if rows == 1:
            of_rows = np.array([[only for (only,) in ids]], np.int64)
        else:
            flat = np.fromiter(chain.from_iterable(ids), np.int64, rows * len(ids))
            of_rows = np.ascontiguousarray(flat.reshape(len(ids), rows).T)
        dense = self._dense.scaled([source.column(read) for source in self._dense_sources], rows)
        padded = [sequence.padded(source.column(read)) for source, sequence in self._sequences]
        for places in self._together:
            if first_difference({str(k): padded[k][2] for k in places}) is not None:
                raise NotPlain("lists of one sequence that are not equally long")
        ids_of_rows, lengths = (tuple(part[k] for part in padded) for k in (0, 1))
        return EncodedArrays(of_rows, dense, ids_of_rows, lengths)


class _Columns:
    """The raw columns of a request, each looked at once."""

    def __init__(self, columns: Mapping[str, Values], rows: int) -> None:
        self._columns, self.rows = columns, rows
        self._read: dict[str, Column | None] = {}

    def get(self, name: str) -> Column | None:
        """A column; None: it is not there."""
        if name not in self._read:
            values = self._columns.get(name)
            self._read[name] = None if values is None else column_of(values, self.rows)
        return self._read[name]


class _Source:
    """Where the values of a field come from."""

    def __init__(self, field: Mapping[str, Any]) -> None:
        self._names, self._is_needed = field["columns"], field["needs_columns"]
        self._cross = Cross(field) if len(self._names) > 1 else None

    def column(self, columns: _Columns) -> Column:
        """The field's column, of a cross its combinations; nothing, where it may be missing.

        Raises:
            NotPlain: It is missing and may not be.
        """
        found = [self._one(name, columns) for name in self._names]
        return found[0] if self._cross is None else self._cross.column(found)

    def _one(self, name: str, columns: _Columns) -> Column:
        found = columns.get(name)
        if found is not None:
            return found
        if self._is_needed:
            raise NotPlain(f"no column {name!r}")
        return Column(NOTHING, [None] * columns.rows)
