"""Parts of rows by what a field says: its values, how large it is, how common its id, how long.

Shapes: N rows.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepfm.data.batch import Inputs
from deepfm.data.dataset import TabularDataset
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.ids import Vocabulary
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.evaluation.segments import Segments

MOST_VALUES = 9  # values of a field that have a segment each; the others share one
_BANDS = 4  # of ids by how common they are, and of numbers by size
_COUNTED_ROWS = 1_000_000  # training rows that ids are counted in, if there are more
_LENGTHS = (0, 1, 2, 4, 8, 16, 32)  # where bands of lengths begin


class FieldSegments(NamedTuple):
    """The parts of rows by a field.

    Attributes:
        title: What they are parts by.
        hint: What they mean.
        segments: Which row is in which.
    """

    title: str
    hint: str
    segments: Segments


def field_segments(
    rows: TabularDataset, train: TabularDataset, encoders: Encoders
) -> Iterator[FieldSegments]:
    """Parts of rows by each field; by the popularity of the item first, where there are items."""
    schema = rows.schema
    names = _value_names(encoders)
    ordered = sorted(
        enumerate(schema.sparse_fields), key=lambda pair: pair[1].name != schema.item_field
    )
    for place, field in ordered:
        ids = rows.inputs.sparse[:, place].numpy()
        yield _of_ids(field, ids, names.get(field.name), train, place, schema)
    column = 0
    for field in schema.dense_fields:
        if field.value_dim == 1:
            yield _of_numbers(field, rows.inputs.dense[:, column].numpy())
        column += field.value_dim
    for field, lengths in zip(schema.sequence_fields, rows.inputs.sequence_lengths, strict=True):
        yield _of_lengths(field, lengths.numpy())


def training_counts(train: TabularDataset, place: int, at_least: int) -> NDArray[np.int64]:
    """How many training rows have each id of a sparse field; of the first million rows.

    Args:
        place: Of the field among the sparse ones.
        at_least: How many ids there are.
    """
    ids = train.inputs.sparse[:_COUNTED_ROWS, place].numpy()
    return np.bincount(ids[ids >= 0], minlength=at_least)


def _of_ids(
    field: FieldSchema,
    ids: NDArray[np.int64],
    names: pa.Array | None,
    train: TabularDataset,
    place: int,
    schema: DatasetSchema,
) -> FieldSegments:
    distinct, number, count = np.unique(ids, return_inverse=True, return_counts=True)
    if field.name != schema.item_field and (
        len(distinct) <= MOST_VALUES + 1 or field.vocabulary_size <= 50
    ):
        kept = np.argsort(-count, kind="stable")[:MOST_VALUES]
        of_value = np.full(len(distinct), len(kept))
        of_value[kept] = np.arange(len(kept))
        titles = [_name_of(int(distinct[k]), field, names) for k in kept]
        return FieldSegments(
            f"By {field.name}",
            "A value whose AUC lies far below the others, or whose diamond lies off its interval, "
            "is one that the model does not understand.",
            Segments([*titles, "other values"], of_value[number]),
        )
    counts = training_counts(train, place, max(1, field.vocabulary_size))
    common = np.where(ids >= 0, counts[np.maximum(ids, 0)], 0)
    if field.padding_idx is not None:  # what is unknown has no rows of its own
        common = np.where(ids == field.padding_idx, 0, common)
    is_item = field.name == schema.item_field
    return FieldSegments(
        "By popularity of the item" if is_item else f"By how common {field.name} is",
        f"Rows by how many training rows have the same {field.name}. Rare ids are hard; a model "
        "that fails at them lives off the common ones.",
        _bands(common, "never in training", whole=True),
    )


def _of_numbers(field: FieldSchema, values: NDArray[np.float32]) -> FieldSegments:
    scaled = "" if field.scale == "none" else f", as scaled by {field.scale}"
    return FieldSegments(
        f"By {field.name}",
        f"Rows by the size of {field.name}{scaled}, in parts of about equally many.",
        _bands(values.astype(np.float64), None, whole=False),
    )


def _of_lengths(field: FieldSchema, lengths: NDArray[np.int64]) -> FieldSegments:
    ends = [*_LENGTHS[1:], None]
    titles = [
        str(low)
        if high == low + 1
        else f"{low} or more"
        if high is None
        else f"{low} to {high - 1}"
        for low, high in zip(_LENGTHS, ends, strict=True)
    ]
    of_row = np.searchsorted(_LENGTHS, lengths, side="right") - 1
    return FieldSegments(
        f"By length of {field.name}",
        f"Rows by how many elements {field.name} has. Short ones say little.",
        Segments(titles, of_row.astype(np.int64)),
    )


def _bands(values: NDArray[np.float64], of_zero: str | None, *, whole: bool) -> Segments:
    """Bands of about equally many rows; equal values share one.

    Args:
        of_zero: What the value 0 is called, which has a band of its own; None: it has none.
        whole: Whether the values are whole numbers.
    """
    banded = values > 0 if of_zero is not None else np.ones(len(values), bool)
    own = values[banded]
    titles = [] if of_zero is None else [of_zero]
    if not len(own):
        return Segments(titles, np.zeros(len(values), np.int64))
    distinct = np.unique(own)
    if len(distinct) <= _BANDS:
        starts = distinct
    else:
        starts = np.unique(np.sort(own)[np.arange(_BANDS) * len(own) // _BANDS])
        if len(starts) == 1:  # three quarters of the rows and more have the smallest value
            starts = distinct[:2]
    number = np.searchsorted(starts, values, side="right") - 1
    for k, low in enumerate(starts):
        high = own[number[banded] == k].max()
        form = ",.0f" if whole else ".3g"
        titles.append(f"{low:{form}}" if low == high else f"{low:{form}} to {high:{form}}")
    first = 0 if of_zero is None else 1
    return Segments(titles, np.where(banded, number + first, 0).astype(np.int64))


def _value_names(encoders: Encoders) -> Mapping[str, pa.Array]:
    """The values of each field with a vocabulary, in the order of their ids from 1 on."""
    return {
        reader.field.name: encoder.names
        for reader, encoder in encoders.parts()
        if isinstance(encoder, Vocabulary)
    }


def _name_of(value: int, field: FieldSchema, names: pa.Array | None) -> str:
    if value < 0 or value == field.padding_idx:
        return "unknown or none"
    if names is None or value > len(names):
        return f"id {value}"
    return str(names[value - 1].as_py())


def exchangeable(schema: DatasetSchema) -> dict[str, "Columns"]:
    """Where each field stands in the inputs; fields of one sequence of events go together."""
    found: dict[str, Columns] = {}
    for place, field in enumerate(schema.sparse_fields):
        found[field.name] = Columns((place,), (), ())
    at = 0
    for field in schema.dense_fields:
        found[field.name] = Columns((), tuple(range(at, at + field.value_dim)), ())
        at += field.value_dim
    for place, field in enumerate(schema.sequence_fields):
        name = "history" if field.built else field.sequence or field.name
        before = found.get(name, Columns((), (), ()))
        found[name] = before._replace(sequences=(*before.sequences, place))
    return found


class Columns(NamedTuple):
    """Columns of `Inputs` that belong together: sparse and dense ones, and sequences."""

    sparse: tuple[int, ...]
    dense: tuple[int, ...]
    sequences: tuple[int, ...]


def exchanged(
    inputs: Inputs, columns: Mapping[str, Columns], rows: Mapping[str, NDArray[np.int64]]
) -> Inputs:
    """Inputs whose fields come from the given rows of their own: row numbers, (N,), by name."""
    import torch

    sparse, dense = inputs.sparse.clone(), inputs.dense.clone()
    ids, lengths = list(inputs.sequence_ids), list(inputs.sequence_lengths)
    for name, own in columns.items():
        order = torch.tensor(rows[name])
        for place in own.sparse:
            sparse[:, place] = inputs.sparse[order, place]
        for place in own.dense:
            dense[:, place] = inputs.dense[order, place]
        for place in own.sequences:
            ids[place] = inputs.sequence_ids[place][order]
            lengths[place] = inputs.sequence_lengths[place][order]
    return Inputs(sparse, dense, tuple(ids), tuple(lengths))
