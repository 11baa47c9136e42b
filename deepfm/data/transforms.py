"""Raw columns to encoded inputs: declared transforms, one encoder per field, and their bundle.

`Encoders.encode` is the only way from raw rows to `Inputs`; training, evaluation and prediction
call it alike, so they cannot disagree. Encoders are fitted on the training split and travel with
the model as plain data.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from deepfm.data.batch import Inputs
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema, find
from deepfm.errors import ConfigError, DataError, nearest


class LabelEncoder:
    """Categorical values to ids 1 … n in sorted order; null and unknown values become 0.

    Values are looked up by `deepfm.data.schema.find`, whatever type they come in.
    """

    def __init__(self, vocabulary: pa.Array) -> None:
        self.vocabulary = vocabulary

    @classmethod
    def fit(cls, values: pa.Array, field: FieldSchema) -> "LabelEncoder":
        known = pc.unique(values).drop_null()
        return cls(known.take(pc.sort_indices(known)))

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, the reserved 0 included."""
        return len(self.vocabulary) + 1

    def transform(self, values: pa.Array) -> np.ndarray:
        """Ids of the values, (N,) int64."""
        found = find(values, self.vocabulary)
        return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64) + 1

    def to_dict(self) -> dict[str, Any]:
        return {"type": str(self.vocabulary.type), "vocabulary": self.vocabulary.to_pylist()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "LabelEncoder":
        return cls(pa.array(plain["vocabulary"], pa.type_for_alias(plain["type"])))


class MultiHotEncoder:
    """Lists of categorical values to padded ids with lengths.

    Unknown and null elements are left out, then the first `max_length` are kept: absence is a
    length, never an id.
    """

    def __init__(self, elements: LabelEncoder, max_length: int) -> None:
        self.elements = elements
        self.max_length = max_length

    @classmethod
    def fit(cls, values: pa.Array, field: FieldSchema) -> "MultiHotEncoder":
        return cls(LabelEncoder.fit(values.flatten(), field), field.max_length)

    @property
    def vocabulary_size(self) -> int:
        return self.elements.vocabulary_size

    def transform(self, values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Padded ids (N, L) int64 and lengths (N,) int64."""
        ids = self.elements.transform(values.flatten())
        row = pc.list_parent_indices(values).to_numpy()
        ids, row = ids[ids > 0], row[ids > 0]
        starts = np.searchsorted(row, np.arange(len(values)))
        position = np.arange(len(row)) - starts[row]
        kept = position < self.max_length
        padded = np.zeros((len(values), self.max_length), np.int64)
        padded[row[kept], position[kept]] = ids[kept]
        return padded, np.bincount(row[kept], minlength=len(values)).astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        return {**self.elements.to_dict(), "max_length": self.max_length}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "MultiHotEncoder":
        return cls(LabelEncoder.from_dict(plain), plain["max_length"])


class MinMaxScaler:
    """Numbers to (x - min) / (max - min) of the training split; a constant becomes 0.

    Values outside the training range leave [0, 1]; they are not clipped.
    """

    vocabulary_size = 0

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high

    @classmethod
    def fit(cls, values: pa.Array, field: FieldSchema) -> "MinMaxScaler":
        numbers = _numbers(values)
        _refuse_missing(numbers)
        return cls(float(numbers.min()), float(numbers.max()))

    def transform(self, values: pa.Array) -> np.ndarray:
        """Scaled values, (N,) float32.

        Raises:
            DataError: A value is missing or not finite.
        """
        numbers = _numbers(values)
        _refuse_missing(numbers)
        span = self.high - self.low
        return ((numbers - self.low) / span if span else numbers * 0.0).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "MinMaxScaler":
        return cls(plain["low"], plain["high"])


_ENCODERS = {
    FeatureType.SPARSE: LabelEncoder,
    FeatureType.SEQUENCE: MultiHotEncoder,
    FeatureType.DENSE: MinMaxScaler,
}
Encoder = LabelEncoder | MultiHotEncoder | MinMaxScaler


class Encoders:
    """The fitted encoders of a schema: raw columns in, `Inputs` out.

    Attributes:
        schema: The schema with its vocabulary sizes filled in; models are built from it.
    """

    def __init__(self, schema: DatasetSchema, by_field: Mapping[str, Encoder]) -> None:
        sizes = {name: {"vocabulary_size": e.vocabulary_size} for name, e in by_field.items()}
        self.schema = schema.with_fields(sizes)
        self._by_field = dict(by_field)

    @classmethod
    def fit(cls, schema: DatasetSchema, columns: pa.Table) -> "Encoders":
        """Learn vocabularies and ranges from the rows of the training split.

        Raises:
            DataError: A raw column is missing or of another type, or there is no row.
        """
        if not columns.num_rows:
            raise DataError("the training split is empty: no encoder can be fitted")
        by_field = {
            field.name: _named(field, _ENCODERS[field.feature_type].fit, columns, field)
            for field in schema.fields.values()
        }
        return cls(schema, by_field)

    def encode(self, columns: pa.Table, group: str | None = None) -> Inputs:
        """Encode raw rows; with `group`, the fields of that semantic group only.

        Args:
            columns: N raw rows; other columns than the fields' are ignored.

        Raises:
            DataError: A raw column is missing or of another type.
        """
        encoded: dict[FeatureType, list] = {kind: [] for kind in FeatureType}
        for field in self.schema.fields.values():
            if group in (None, field.group):
                transform = self._by_field[field.name].transform
                encoded[field.feature_type].append(_named(field, transform, columns))
        sequences = encoded[FeatureType.SEQUENCE]
        return Inputs(
            _stack(encoded[FeatureType.SPARSE], columns.num_rows, torch.int64),
            _stack(encoded[FeatureType.DENSE], columns.num_rows, torch.float32),
            tuple(torch.from_numpy(ids) for ids, _ in sequences),
            tuple(torch.from_numpy(lengths) for _, lengths in sequences),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, schema included; `from_dict` is the inverse."""
        fitted = {name: encoder.to_dict() for name, encoder in self._by_field.items()}
        return {"schema": self.schema.to_dict(), "fitted": fitted}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Encoders":
        schema = DatasetSchema.from_dict(plain["schema"])
        by_field = {
            field.name: _ENCODERS[field.feature_type].from_dict(plain["fitted"][field.name])
            for field in schema.fields.values()
        }
        return cls(schema, by_field)


def _named(field: FieldSchema, function: Callable, columns: pa.Table, *args: Any) -> Any:
    """Apply a function to a field's raw column; an error names the field and the column."""
    if field.column not in columns.column_names:
        hint = nearest(field.column, columns.column_names)
        raise DataError(f"field {field.name}: no column {field.column!r}; {hint}")
    try:
        values = apply_transform(field.transform, columns[field.column].combine_chunks())
        is_list = pa.types.is_list(values.type) or pa.types.is_large_list(values.type)
        if is_list != (field.feature_type is FeatureType.SEQUENCE):
            expected = "single values" if is_list else "lists"
            raise DataError(f"expected {expected}, found {values.type}")
        return function(values, *args)
    except (DataError, pa.ArrowException) as error:
        raise DataError(f"field {field.name}, column {field.column}: {error}") from None


def _stack(arrays: list[np.ndarray], rows: int, dtype: torch.dtype) -> torch.Tensor:
    if not arrays:
        return torch.zeros(rows, 0, dtype=dtype)
    return torch.from_numpy(np.stack(arrays, axis=1))


def apply_transform(spec: str | None, values: pa.Array) -> pa.Array:
    """Apply a declared transform such as `prefix(3)`; None returns the values as they are.

    `bucket(e1, e2, …)`: the largest edge that is not above the number, null below the first;
    `prefix(n)`: the first n characters; `split(s)`: a text cut at s, lists stay as they are.

    Raises:
        ConfigError: The transform is unknown or its arguments are wrong.
        DataError: A value cannot be transformed; the message gives its row (from 1).

    Example:
        >>> apply_transform("bucket(1, 18, 25)", pa.array([17, 18, 90])).to_pylist()
        [1, 18, 25]
    """
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if spec is None:
        return values
    match = re.fullmatch(r"(\w+)\((.*)\)", spec.strip(), re.DOTALL)
    name = match[1] if match else spec
    if not match or name not in _TRANSFORMS:
        raise ConfigError(f"unknown transform {spec!r}; {nearest(name, _TRANSFORMS)}")
    return _TRANSFORMS[name](values, match[2], spec)


def _bucket(values: pa.Array, argument: str, spec: str) -> pa.Array:
    try:
        edges = np.array([int(edge) for edge in argument.split(",")])
    except ValueError:
        raise ConfigError(f"transform {spec!r}: expected whole numbers as edges") from None
    if (np.diff(edges) <= 0).any():
        raise ConfigError(f"transform {spec!r}: expected rising edges")
    numbers = _numbers(values)
    index = np.searchsorted(edges, numbers, side="right") - 1
    return pa.array(edges[index], mask=(index < 0) | np.isnan(numbers))


def _prefix(values: pa.Array, argument: str, spec: str) -> pa.Array:
    if not argument.strip().isdecimal():
        raise ConfigError(f"transform {spec!r}: expected a number of characters")
    return pc.utf8_slice_codeunits(values.cast(pa.string()), 0, int(argument))


def _split(values: pa.Array, argument: str, spec: str) -> pa.Array:
    if not argument:
        raise ConfigError(f"transform {spec!r}: expected a separator")
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = pc.if_else(pc.equal(values, ""), None, values)
        return pc.split_pattern(values, argument)
    return values


_TRANSFORMS = {"bucket": _bucket, "prefix": _prefix, "split": _split}


def _numbers(values: pa.Array) -> np.ndarray:
    """The values as float64, null as NaN.

    Raises:
        DataError: A value is no number; the message gives its row (from 1).
    """
    try:
        return pc.fill_null(values.cast(pa.float64()), float("nan")).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        for row, value in enumerate(values.to_pylist(), start=1):
            try:
                float(value if value is not None else "nan")
            except (TypeError, ValueError):
                raise DataError(f"row {row}: expected a number, found {value!r}") from None
        raise


def _refuse_missing(numbers: np.ndarray) -> None:
    if not (finite := np.isfinite(numbers)).all():
        row = int(np.argmin(finite))
        raise DataError(f"row {row + 1}: expected a finite number, found {numbers[row]}")
