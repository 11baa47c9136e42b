"""Fields as a whole: raw columns to encoded inputs, by one encoder per table, and their bundle.

`Encoders.encode`, `encode_rows` and `encode_arrays` are the only ways from raw rows to what a model
sees; training, evaluation and prediction call them alike, so they cannot disagree. Encoders are
fitted on the training split, in a stream, and travel with the model as plain data.

All is NumPy until the last step: who wants no tensors imports no torch.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from deepfm.data.encoding.arrays import EncodedArrays, FlatLists
from deepfm.data.encoding.kinds import Encoder
from deepfm.data.encoding.learning import Learning, has_to_learn
from deepfm.data.encoding.located import LocatedRows, ReadSoFar
from deepfm.data.encoding.readers import FieldReader, kept_rows, readers_of
from deepfm.data.encoding.registry import grown
from deepfm.data.encoding.sequences import LONGEST_LIST, first_difference, pad, with_values
from deepfm.data.files.rows import Rows
from deepfm.data.schema import ITEMS, DatasetSchema, FeatureType, FieldSchema, LabelScale
from deepfm.errors import DataError

if TYPE_CHECKING:
    from deepfm.data.batch import Inputs

_TILE = 2048  # rows


class EncodedRows(NamedTuple):
    """A batch after encoding, without the rows that the policy `drop` left out.

    Attributes:
        inputs: The K rows that are kept.
        kept: Their numbers in the batch, (K,) int64, rising.
        bad: By raw column how many cells could not be read, under the policies `unknown` and
            `drop`; of a dropped row only the cells it was dropped for. Columns without any are
            left out.
        unknown: By sequence field how many elements its vocabulary does not have.
    """

    inputs: "Inputs"
    kept: np.ndarray
    bad: dict[str, int]
    unknown: dict[str, int]


class KeptArrays(NamedTuple):
    """What `EncodedRows` holds, in NumPy.

    Attributes:
        sparse, dense, sequence_lengths: As in `EncodedArrays`, K rows.
        sequence_ids: Per sequence field the padded ids, (K, L) int64, or of lists that are never
            cut all of them.
        kept, bad, unknown: As in `EncodedRows`.
    """

    sparse: np.ndarray
    dense: np.ndarray
    sequence_ids: tuple[np.ndarray | FlatLists, ...]
    sequence_lengths: tuple[np.ndarray, ...]
    kept: np.ndarray
    bad: dict[str, int]
    unknown: dict[str, int]


class Encoders:
    """The fitted encoders of a schema: raw columns in, `Inputs` out.

    Args:
        schema: The fields; their vocabulary sizes and edges are filled in here.
        by_table: Encoder by `embedding_name`, which fields may share.

    Attributes:
        schema: The schema with its vocabulary sizes and edges; models are built from it.
    """

    def __init__(self, schema: DatasetSchema, by_table: Mapping[str, Encoder]) -> None:
        learnt = {f.name: by_table[f.embedding_name].learnt for f in schema.read_fields}
        for field in schema.built_fields:
            if field.built == ITEMS:  # whose ids are those of another field
                learnt[field.name] = learnt[field.history_of]
        self.schema = schema.with_fields(learnt)
        self._by_table = dict(by_table)
        self._readers = readers_of(self.schema)

    @classmethod
    def fit(
        cls, schema: DatasetSchema, batches: "pa.Table | Iterable[pa.Table | Rows]"
    ) -> "Encoders":
        """Learn vocabularies, ranges and edges from the rows of the training split.

        Rows that a policy `drop` leaves out are not seen, nor are values that cannot be read.

        Args:
            batches: The rows at once, or in batches of any size; the result is the same. None are
                needed for a schema that `has_to_learn` nothing.

        Raises:
            DataError: A raw column is missing or of another type, a value cannot be read, or
                there is no row.
            ConfigError: A transform is unknown.
        """
        learning = Learning(schema)
        learning.learn(batches)
        return cls(schema, learning.fitted())

    @staticmethod
    def has_to_learn(schema: DatasetSchema) -> bool:
        """Whether some field needs the training split; all others' encoders are declared."""
        return has_to_learn(schema)

    def encode(self, columns: pa.Table, group: str | None = None) -> "Inputs":
        """Encode raw rows, every one of them; with `group`, the fields of that group only.

        The fields of a history are not among them: `deepfm.data.history.Histories` adds those.

        A row that the policy `drop` would leave out stays, as if the value were absent; only
        `encode_rows` says which those are.

        Args:
            columns: N raw rows; other columns than the fields' are ignored.

        Raises:
            DataError: A raw column is missing or of another type, or a value cannot be read.
        """
        from deepfm.data.encoding.tensors import inputs_of

        return inputs_of(self.encode_arrays(columns, group))

    def encode_arrays(self, columns: pa.Table, group: str | None = None) -> EncodedArrays:
        """What `encode` gives, in NumPy."""
        found = self._encode(LocatedRows.of(columns), group, ReadSoFar())
        padded = (ids.padded() if isinstance(ids, FlatLists) else ids for ids in found.ids)
        return EncodedArrays(found.sparse, found.dense, tuple(padded), found.lengths)

    def encode_rows(self, rows: "pa.Table | Rows") -> EncodedRows:
        """Encode a batch without the rows that the policy `drop` leaves out.

        Sequences that are never cut come as `Ragged`.

        Raises:
            DataError: As in `encode`; the message begins with the place of the row.
        """
        import torch

        from deepfm.data.batch import Inputs
        from deepfm.data.encoding.tensors import sequence_of

        found = self.encode_kept(rows)
        inputs = Inputs(
            torch.from_numpy(found.sparse),
            torch.from_numpy(found.dense),
            tuple(map(sequence_of, found.sequence_ids)),
            tuple(map(torch.from_numpy, found.sequence_lengths)),
        )
        return EncodedRows(inputs, found.kept, found.bad, found.unknown)

    def encode_kept(self, rows: "pa.Table | Rows") -> KeptArrays:
        """What `encode_rows` gives, in NumPy."""
        block, found = LocatedRows.of(rows), ReadSoFar()
        kept = kept_rows(self._readers, block, found)
        counts: Counter[str] = Counter()
        if kept is not None:
            counts += found.bad_cells(with_outside=False)
            block, found = block.select(kept), ReadSoFar()
        encoded = self._encode(block, None, found)
        counts += found.bad_cells()
        if kept is None:
            kept = np.arange(block.table.num_rows)
        return KeptArrays(*encoded, kept, dict(counts), found.unknown)

    def _encode(self, rows: LocatedRows, group: str | None, found: ReadSoFar) -> "_Encoded":
        count = rows.table.num_rows
        columns: dict[FeatureType, list[_Column]] = {FeatureType.SPARSE: [], FeatureType.DENSE: []}
        sequences: list[tuple[np.ndarray | FlatLists, np.ndarray]] = []
        together: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
        for name, reader in self._readers.items():
            if group not in (None, reader.field.group):
                continue
            field = self.schema.fields[name]
            values, codes, row = reader.read(rows, found)
            encoder = self._by_table[field.embedding_name]
            encoded = reader.named(encoder.encode, values)
            if row is None:
                columns[field.feature_type].append(_Column(encoded, codes))
            else:
                ids = encoded if codes is None else encoded[codes]
                if field.encoder.counts_unknown:
                    found.unknown[name] = _unknown(values, codes, ids, field.absent_id)
                _refuse_longer(rows, field, row, count)
                if field.sequence:
                    together[field.sequence][name] = np.bincount(row, minlength=count)
                sequences.append(_sequence(field, ids, row, count))
        for sequence, lengths in together.items():
            self._refuse_unequal(rows, sequence, lengths)
        return _Encoded(
            _side_by_side(columns[FeatureType.SPARSE], count, np.int64),
            _side_by_side(columns[FeatureType.DENSE], count, np.float32),
            tuple(ids for ids, _ in sequences),
            tuple(lengths for _, lengths in sequences),
        )

    def _refuse_unequal(
        self, rows: LocatedRows, sequence: str, lengths: Mapping[str, np.ndarray]
    ) -> None:
        """Refuse a row whose lists of one sequence of events are not equally long.

        Args:
            lengths: Of the lists, by field, (N,) each.

        Raises:
            DataError: Names the row, two fields, and their lengths.
        """
        if (found := first_difference(lengths)) is None:
            return
        index, first, other = found
        column = ", ".join(self.schema.fields[other].raw_columns)
        raise DataError(
            f"expected {lengths[first][index]} elements, as many as field {first} of the same "
            f"sequence {sequence}, found {lengths[other][index]}",
            place=rows.place(index)._replace(field=other, column=column),
        )

    def __reduce__(self) -> tuple[type["Encoders"], tuple[DatasetSchema, dict[str, Encoder]]]:
        return Encoders, (self.schema, self._by_table)  # readers hold functions, which travel badly

    def parts(self) -> Iterator[tuple[FieldReader, Encoder]]:
        """What reads each field that is read, and what encodes it, in the order of the schema."""
        for name, reader in self._readers.items():
            yield reader, self._by_table[self.schema.fields[name].embedding_name]

    def grown_from(self, base: "Encoders") -> "Encoders":
        """These encoders with all that `base` has learnt, and what is new appended.

        A vocabulary has the values of base with their ids, then its own new ones in sorted
        order; ranges and quantile edges are those of base. Tables that base lacks stay.

        Raises:
            DataError: A table is of another kind in base, so that its ids mean something else.
        """
        by_table = dict(self._by_table)
        for name in by_table.keys() & base._by_table.keys():
            by_table[name] = grown(name, by_table[name], base._by_table[name])
        return Encoders(self.schema, by_table)

    def with_label_scales(self, scales: Mapping[str, LabelScale]) -> "Encoders":
        """These encoders, with a schema that says how labels are standardised."""
        return Encoders(replace(self.schema, label_scales=dict(scales)), self._by_table)

    def to_dict(self) -> dict[str, Any]:
        """Plain data and arrays of bytes, schema included; `from_dict` is the inverse, and takes
        tensors of bytes as well."""
        fitted = {name: encoder.to_dict() for name, encoder in self._by_table.items()}
        return {"schema": self.schema.to_dict(), "fitted": fitted}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Encoders":
        schema = DatasetSchema.from_dict(stored["schema"])
        by_table = {
            field.embedding_name: field.encoder.from_dict(stored["fitted"][field.embedding_name])
            for field in schema.read_fields
        }
        for field in schema.read_fields:
            _probe(field, by_table[field.embedding_name])
        return cls(schema, by_table)


class _Encoded(NamedTuple):
    """Encoded rows as `EncodedArrays`, of which sequences that are never cut are not padded yet."""

    sparse: np.ndarray
    dense: np.ndarray
    ids: tuple[np.ndarray | FlatLists, ...]
    lengths: tuple[np.ndarray, ...]


def _probe(field: FieldSchema, encoder: Encoder) -> None:
    """Fail where a stored encoder has values of another kind than its own has.

    Raises:
        ValueError: It gives numbers or ids that no such encoder gives; other errors come from
            within it.
    """
    if encoder.reads == "whole number":
        return  # whose ids are the numbers themselves
    numbers = np.zeros((2, field.value_dim) if field.value_dim > 1 else 2)
    numbers[1] = np.nan
    texts = pa.array(["0", None], pa.large_string())
    encoded = encoder.encode(numbers if encoder.reads == "number" else texts)
    size = encoder.vocabulary_size
    fits = np.isfinite(encoded) if field.is_dense else (encoded >= -1) & (encoded < size)
    if not isinstance(size, int) or not fits.all():
        raise ValueError(f"the encoder of {field.name} gives {encoded.tolist()}")


def _unknown(values: pa.Array, codes: np.ndarray | None, ids: np.ndarray, absent: int) -> int:
    """How many elements have a value, but no id."""
    if not isinstance(values, pa.Array):
        return 0
    there = np.asarray(values.is_valid())
    return int(((ids == absent) & (there if codes is None else there[codes])).sum())


def _refuse_longer(rows: LocatedRows, field: FieldSchema, row: np.ndarray, count: int) -> None:
    """Refuse a list that would fill the memory: a batch is padded to its longest.

    Raises:
        DataError: A list that `max_length` does not cut is longer than `LONGEST_LIST`.
    """
    if field.max_length or len(row) <= LONGEST_LIST:
        return
    lengths = np.bincount(row, minlength=count)
    index = int(lengths.argmax())
    if lengths[index] > LONGEST_LIST:
        place = rows.place(index)._replace(field=field.name, column=", ".join(field.raw_columns))
        raise DataError(
            f"a list of {lengths[index]:,} elements, and without max_length at most "
            f"{LONGEST_LIST:,} are taken; set max_length, which keeps the first or the last ones",
            place=place,
        )


def _sequence(
    field: FieldSchema, ids: np.ndarray, row: np.ndarray, count: int
) -> tuple[np.ndarray | FlatLists, np.ndarray]:
    """The ids of a sequence field, of the elements' rows, padded where they are cut; lengths."""
    if not field.keeps_places:
        ids, row = with_values(ids, row, field.absent_id)
    if field.max_length:
        return pad(ids, row, count, field.max_length, field.keep)
    of_rows = np.bincount(row, minlength=count)
    ids = np.require(ids, requirements="W")  # a copy of what Arrow has lent
    return FlatLists(ids, of_rows), of_rows


class _Column(NamedTuple):
    """Values of a field, (V,) or (V, width), and which of them every row has (None: its own)."""

    values: np.ndarray
    codes: np.ndarray | None


def _side_by_side(columns: Sequence[_Column], count: int, dtype: type) -> np.ndarray:
    """Columns side by side, (N, sum of widths).

    Some rows at a time: a whole column after the other would miss the processor's cache with
    every number, which takes three times as long.
    """
    places: list[int | slice] = []
    width = 0
    for values, _ in columns:
        places.append(width if values.ndim == 1 else slice(width, width + values.shape[1]))
        width += 1 if values.ndim == 1 else values.shape[1]
    rows: np.ndarray = np.empty((count, width), dtype)
    for start in range(0, count, _TILE):
        some = slice(start, start + _TILE)
        for place, (values, codes) in zip(places, columns, strict=True):
            rows[some, place] = values[some] if codes is None else values[codes[some]]
    return rows
