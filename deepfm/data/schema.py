"""What a table means: one `FieldSchema` per model input, one `DatasetSchema` per data set.

Everything that depends on the data (encoders, embedding layer, models, ranking) is built from
these two; a field's name is written nowhere else but in an adapter or a config file.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from deepfm.errors import ConfigError, DataError, nearest


class FeatureType(StrEnum):
    """How the values of a field are read."""

    SPARSE = "sparse"  # one categorical value per row
    DENSE = "dense"  # one number per row
    SEQUENCE = "sequence"  # a list of categorical values per row


COMBINERS = ("mean", "sum", "max")
GROUPS = ("user", "item", "context")


@dataclass(frozen=True)
class FieldSchema:
    """One input field of a model.

    Attributes:
        name: Unique identifier; names the field's embedding tables.
        feature_type: `sparse`, `dense` or `sequence`.
        column: Raw column that the field reads; the field's name by default.
        transform: Declared transform of the raw column, such as `prefix(3)` or
            `bucket(1, 18, 25)`; see `deepfm.data.transforms`.
        vocabulary_size: Rows of the embedding table, the reserved row 0 included. Known once the
            encoders are fitted; 0 before, and for dense fields.
        embedding_dim: Width of the field's embedding vector.
        group: Semantic grouping: `user`, `item` or `context`. The features of an item are the
            fields of group `item`.
        max_length: Elements of a sequence that are kept; 0 for other types.
        combiner: How a sequence's vectors are pooled: `mean`, `sum` or `max`.
        padding_idx: The id of padding and of unknown values, whose row is zero and never
            trained; None where every row is an ordinary one.
        dense_embedding: `none` feeds a dense field raw to the DNN and to the first-order term;
            `linear` gives it a learned vector, present in every view.

    Raises:
        ConfigError: A value is out of range; the message names the field.
    """

    name: str
    feature_type: FeatureType
    _: KW_ONLY
    column: str = ""
    transform: str | None = None
    vocabulary_size: int = 0
    embedding_dim: int = 16
    group: str = "context"
    max_length: int = 0
    combiner: str = "mean"
    padding_idx: int | None = 0
    dense_embedding: str = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "column", self.column or self.name)
        if not self.name or "." in self.name:
            raise ConfigError(f"field name {self.name!r}: expected a non-empty name without '.'")
        if self.feature_type not in list(FeatureType):
            hint = nearest(self.feature_type, FeatureType)
            kind = str(self.feature_type)
            raise ConfigError(f"field {self.name}: unknown feature_type {kind!r}; {hint}")
        object.__setattr__(self, "feature_type", FeatureType(self.feature_type))
        if self.embedding_dim < 1:
            raise ConfigError(f"field {self.name}: embedding_dim {self.embedding_dim} is below 1")
        if self.feature_type is FeatureType.SEQUENCE and self.max_length < 1:
            raise ConfigError(f"field {self.name}: a sequence needs max_length >= 1")
        for key, value, choices in (
            ("combiner", self.combiner, COMBINERS),
            ("group", self.group, GROUPS),
            ("dense_embedding", self.dense_embedding, ("none", "linear")),
        ):
            if value not in choices:
                hint = nearest(value, choices)
                raise ConfigError(f"field {self.name}: unknown {key} {value!r}; {hint}")

    @property
    def is_embedded(self) -> bool:
        """Whether the field has a vector in `field_embeddings`."""
        return self.feature_type is not FeatureType.DENSE or self.dense_embedding == "linear"


@dataclass(frozen=True, kw_only=True)
class DatasetSchema:
    """The fields of a data set, in the order that every view of them keeps.

    Attributes:
        fields: Field by name; the order is the field order of inputs and embeddings.
        label_field: Raw column of the label.
        user_field, item_field: Names of the fields that identify a user and an item; None where
            the data has no ranking task.
        time_column: Raw column that orders a user's interactions.
        item_title_column: Raw column of an item's title, for people to read.
    """

    fields: Mapping[str, FieldSchema]
    label_field: str
    user_field: str | None = None
    item_field: str | None = None
    time_column: str | None = None
    item_title_column: str | None = None
    _by_type: dict[FeatureType, tuple[FieldSchema, ...]] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for name, item in self.fields.items():
            if name != item.name:
                raise ConfigError(f"field {item.name!r} stands under the name {name!r}")
        for key in ("user_field", "item_field"):
            name = getattr(self, key)
            if name is not None and name not in self.fields:
                raise ConfigError(f"{key} {name!r} is no field; {nearest(name, self.fields)}")
        by_type = {
            kind: tuple(f for f in self.fields.values() if f.feature_type is kind)
            for kind in FeatureType
        }
        object.__setattr__(self, "_by_type", by_type)

    @property
    def sparse_fields(self) -> tuple[FieldSchema, ...]:
        return self._by_type[FeatureType.SPARSE]

    @property
    def dense_fields(self) -> tuple[FieldSchema, ...]:
        return self._by_type[FeatureType.DENSE]

    @property
    def sequence_fields(self) -> tuple[FieldSchema, ...]:
        return self._by_type[FeatureType.SEQUENCE]

    @property
    def total_embedding_dim(self) -> int:
        """Summed width of all embedding vectors; raw dense columns are not counted."""
        return sum(f.embedding_dim for f in self.fields.values() if f.is_embedded)

    def with_fields(self, changes: Mapping[str, Mapping[str, Any]]) -> "DatasetSchema":
        """A copy in which each named field has the given attributes replaced."""
        fields = {n: replace(f, **changes.get(n, {})) for n, f in self.fields.items()}
        return replace(self, fields=fields)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a checkpoint; `from_dict` is the inverse."""
        plain = {k: getattr(self, k) for k in self.__dataclass_fields__ if not k.startswith("_")}
        return plain | {"fields": [_plain_field(f) for f in self.fields.values()]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "DatasetSchema":
        fields = {f["name"]: FieldSchema(**f) for f in plain["fields"]}
        return cls(**{**plain, "fields": fields})


class RawTables(NamedTuple):
    """The raw columns of a data set, as an adapter gives them.

    Attributes:
        interactions: One row per event, in file order: user, item, label and time columns, and
            context columns.
        users, items: One row per user and per item, with their raw feature columns. The item
            table is the catalogue that negatives and candidates are drawn from.
    """

    interactions: pa.Table
    users: pa.Table
    items: pa.Table

    def positions(self, schema: DatasetSchema, columns: pa.Table, group: str) -> pa.Array:
        """Row of the `user` or `item` table for each row of `columns`; null where unknown.

        Raises:
            DataError: The id column is missing.
        """
        field = schema.fields[schema.user_field if group == "user" else schema.item_field]
        if field.column not in columns.column_names:
            hint = nearest(field.column, columns.column_names)
            raise DataError(f"no column {field.column!r}, which identifies the {group}; {hint}")
        table = self.users if group == "user" else self.items
        wanted, ids = (t[field.column].combine_chunks() for t in (columns, table))
        return find(wanted, ids)

    def complete(self, schema: DatasetSchema, columns: pa.Table) -> pa.Table:
        """Look up, by id, the user and item columns that the rows do not bring along.

        Columns that are there stay as they are; an unknown id gives nulls.
        """
        for group, table in (("user", self.users), ("item", self.items)):
            present = columns.column_names
            missing = [
                field.column
                for field in schema.fields.values()
                if field.group == group and field.column not in present
            ]
            if missing := [name for name in dict.fromkeys(missing) if name in table.column_names]:
                found = table.take(self.positions(schema, columns, group))
                for name in missing:
                    columns = columns.append_column(name, found[name])
        return columns


def find(values: pa.Array, vocabulary: pa.Array) -> pa.Array:
    """Position of each value in the vocabulary, null where it is not there or null itself.

    Values are compared as the vocabulary's type: integers find "17" and 17.0 as well as 17.

    Example:
        >>> find(pa.array(["20", "x", None]), pa.array([10, 20])).to_pylist()
        [1, None, None]
    """
    if values.type != vocabulary.type:
        try:
            values = values.cast(vocabulary.type)
        except pa.ArrowInvalid:  # some value is no number: compare all as text
            values, vocabulary = values.cast(pa.string()), vocabulary.cast(pa.string())
    return pc.index_in(values, value_set=vocabulary, skip_nulls=True)


def _plain_field(item: FieldSchema) -> dict[str, Any]:
    return asdict(item) | {"feature_type": item.feature_type.value}
