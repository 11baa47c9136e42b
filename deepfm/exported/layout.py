"""What stands under which name in an exported directory, and what a graph is fed."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from deepfm.data.encoding.arrays import EncodedArrays
from deepfm.data.schema import AGES, DatasetSchema, FieldSchema

FORMAT = "deepfm export"
FORMAT_VERSION = 1
MANIFEST, SIGNATURE, PARITY = "manifest.json", "signature.json", "parity.json"
WEIGHTS = "weights.bin"
ENCODERS = "encoders"  # .json and .npz
USERS, ITEMS = "users.arrow", "items.arrow"
INTERACTIONS, EVENTS = "interactions.npy", "events.npz"
ROWS, USER, ITEM, PAIR = "model", "user", "item", "pair"  # graphs


class ExportedTask(NamedTuple):
    """What is predicted, as `deepfm.objectives.Task` says it.

    Attributes:
        name: Empty where it is the model's only task.
        num_class: 1 where one logit stands for two classes, or for a number.
        by_pairs: Whether a score is predicted, which puts items in order and is no probability.
        ranks: Whether its one logit orders items.
        predicts_numbers: Whether numbers are predicted, and no probabilities.
        predicts_logit: Whether what is predicted is the logit itself.
        columns: Names of the columns of predictions.
        output: The output of the graph that holds what is predicted.
    """

    name: str
    num_class: int
    by_pairs: bool
    ranks: bool
    predicts_numbers: bool
    predicts_logit: bool
    columns: list[str]
    output: str

    def prediction_names(self) -> list[str]:
        """Names of the columns of predictions."""
        return list(self.columns)


class InputLayout:
    """The inputs of a graph: ids and numbers side by side, and a pair of arrays per sequence.

    An input that would have no columns is left out.

    Args:
        schema: The fields.
        groups: Those whose fields are inputs; None: all.
    """

    def __init__(self, schema: DatasetSchema, groups: Sequence[str] | None = None) -> None:
        def own(fields: Sequence[FieldSchema]) -> list[FieldSchema]:
            return [field for field in fields if groups is None or field.group in groups]

        every = [field for field in schema.dense_fields for _ in range(field.value_dim)]
        self.sparse = _places(schema.sparse_fields, groups)
        self.dense = _places(every, groups)
        self.sequences = _places(schema.sequence_fields, groups)
        self._fields = [own(f) for f in (schema.sparse_fields, every, schema.sequence_fields)]

    @property
    def names(self) -> list[str]:
        """Of the inputs, in their order."""
        several = range(len(self.sequences))
        names = ["sparse"] * bool(len(self.sparse)) + ["dense"] * bool(len(self.dense))
        return [*names, *(f"ids_{k}" for k in several), *(f"lengths_{k}" for k in several)]

    def described(self) -> list[dict[str, Any]]:
        """The inputs for `signature.json`: name, type, shape, and the fields of the columns."""
        sparse, dense, sequences = ([f.name for f in fields] for fields in self._fields)
        found: list[dict[str, Any]] = []
        for name, of, kind in (("sparse", sparse, "int64"), ("dense", dense, "float32")):
            if of:
                shape = ["batch", len(of)]
                found.append({"name": name, "type": kind, "shape": shape, "fields": of})
        for name, more in (("ids", ["length"]), ("lengths", [])):
            found += [
                {"name": f"{name}_{k}", "type": "int64", "shape": ["batch", *more], "fields": [f]}
                for k, f in enumerate(sequences)
            ]
        return found

    def taken(self, rows: EncodedArrays) -> list[np.ndarray]:
        """The inputs, of rows of all fields."""
        return self.given(
            EncodedArrays(
                _chosen(rows.sparse, self.sparse),
                _chosen(rows.dense, self.dense),
                tuple(rows.sequence_ids[k] for k in self.sequences),
                tuple(rows.sequence_lengths[k] for k in self.sequences),
            )
        )

    def given(self, rows: EncodedArrays) -> list[np.ndarray]:
        """The inputs, of rows of these fields alone."""
        parts = [part for part in (rows.sparse, rows.dense) if part.shape[1]]
        return [*parts, *rows.sequence_ids, *rows.sequence_lengths]

    def random(self, rows: int, rng: np.random.Generator) -> EncodedArrays:
        """Encoded rows of these fields alone, whose values are drawn at random.

        Lists of no events and of the longest ones are among them, and values without an id.
        """
        sparse, dense, sequences = self._fields
        ids, lengths = [], []
        for field in sequences:
            longest = min(field.max_length or _LONGEST, _LONGEST)
            of_rows = rng.integers(0, longest, size=rows, endpoint=True)
            ids.append(_drawn(field, (rows, longest), rng))
            lengths.append(of_rows)
        columns = [_drawn(field, (rows,), rng) for field in sparse]
        return EncodedArrays(
            np.stack(columns, 1) if columns else np.zeros((rows, 0), np.int64),
            rng.normal(size=(rows, len(dense))).astype(np.float32),
            tuple(ids),
            tuple(lengths),
        )


_LONGEST = 50  # elements of a list that is drawn


def _chosen(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Some columns; all of them without a copy."""
    found: np.ndarray = rows if len(columns) == rows.shape[1] else rows[:, columns]
    return found


def _places(fields: Sequence[FieldSchema], groups: Sequence[str] | None) -> np.ndarray:
    wanted = [k for k, field in enumerate(fields) if groups is None or field.group in groups]
    return np.array(wanted, np.int64)


def _drawn(field: FieldSchema, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Ids of a field, (shape) int64."""
    if field.numbers:
        bits: np.ndarray = rng.normal(size=shape).astype(np.float32).view(np.int32)
        return bits.astype(np.int64)
    lowest = -1 if field.padding_idx is None and field.built != AGES and len(shape) == 1 else 0
    return rng.integers(lowest, field.vocabulary_size, size=shape)
