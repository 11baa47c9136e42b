"""What a table means: one `FieldSchema` per model input, one `DatasetSchema` per data set.

Everything that depends on the data (encoders, embedding layer, models, ranking) is built from
these two; a field's name is written nowhere else but in an adapter or a config file.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.hashing import FUNCTIONS
from deepfm.data.transforms import LIST_TRANSFORM, NEVER_ABSENT, argument_of, name_of
from deepfm.data.words import WordIds
from deepfm.errors import ConfigError, DataError, nearest


class FeatureType(StrEnum):
    """How the values of a field are read."""

    SPARSE = "sparse"  # one categorical value per row
    DENSE = "dense"  # one number per row, or a vector of `value_dim` numbers
    SEQUENCE = "sequence"  # a list of categorical values per row


COMBINERS = ("mean", "sum", "max")
GROUPS = ("user", "item", "context")
BAD_VALUES = ("error", "unknown", "drop")
SCALES = ("none", "min_max", "standard", "log1p")
MISSING = ("error", "zero", "mean", "indicator")
KEEP = ("first", "last")
OUT_OF_RANGE = ("error", "zero", "row0")
# What decides ids; a field has at most one, and by default the vocabulary of the training split.
ID_KINDS = ("min_count", "hash_buckets", "quantiles", "num_buckets", "vocabulary", "boundaries")
FIXED_KINDS = ("num_buckets", "vocabulary", "boundaries")  # ids are those declared, from 0 on


@dataclass(frozen=True)
class FieldSchema:
    """One input field of a model.

    Attributes:
        name: Unique identifier; names the field's embedding tables.
        feature_type: `sparse`, `dense` or `sequence`.
        column: Raw column that the field reads; the field's name by default.
        columns: Raw columns of a cross, in the place of `column`: its values are those of the
            columns joined by `_`, for several values per column all combinations. Where a column
            has no value, the cross has none.
        separator: What cuts the text of a vector, of a cross's columns, or of a sequence whose
            elements are transformed. (Other sequences are cut by the transform `split`.)
        transform: Declared transform of the raw column, such as `prefix(3)` or
            `bucket(1, 18, 25)`; see `deepfm.data.transforms`. With `separator` it is that of each
            element.
        default: What stands in for an absent value (null or an empty text): a text or number that
            is no longer transformed, in a sequence or vector cut like a value. In a dense field
            it is used as it is, neither scaled nor `missing`. None: nothing does.
        vocabulary_size: Rows of the embedding table, with row 0 where it is reserved. For hashes
            and for ids that are declared it is known at once, otherwise when the encoders are
            fitted; 0 before, and for dense fields.
        embedding_dim: Width of the field's embedding vector.
        embedding_name: Fields with one embedding_name share vocabulary and tables; the field's
            name by default.
        min_count: Values rarer than this in the training split are unknown.
        hash_buckets: Instead of a vocabulary: ids are hashes, modulo this; 0 for none.
        hash_function: Of `hash_buckets`: `xxh64`, `murmur64a` or `farm64`.
        num_buckets: Instead of a vocabulary: values are whole numbers below this, and ids as they
            are; 0 for none.
        out_of_range: What a whole number is that `num_buckets` has no row for: an `error`, `zero`
            (no value), or the id 0 (`row0`).
        vocabulary: Words and their ids, instead of those of the training split.
        oov_id: The id of a text that is none of those words; None: it is no value.
        boundaries: Instead of a vocabulary: a number's id is how many of these lie below it.
        quantiles: Instead of a vocabulary: a number's id is its bucket, of this many that hold
            equally many training rows; 0 for none.
        scale: Of a dense field: `none`, `min_max` to [0, 1], `standard` to mean 0 and deviation
            1, or `log1p`; ranges and moments are those of the training split.
        missing: What an absent number of a dense field is: an `error`, `zero`, the `mean` of the
            training split, or the mean with an `indicator` field beside it.
        bad_values: What a value is that the field cannot read: an `error`, `unknown` (as if it
            were absent), or a reason to `drop` the row.
        group: Semantic grouping: `user`, `item` or `context`. The features of an item are the
            fields of group `item`.
        max_length: Elements of a sequence that are kept; 0 keeps all of them.
        keep: Which elements those are: the `first` or the `last` ones.
        combiner: How a sequence's vectors are pooled: `mean`, `sum` or `max`.
        padding_idx: The id of padding and of unknown values, whose row is zero and never
            trained. None where every row is an ordinary one: always with `num_buckets`,
            `vocabulary` and `boundaries`, and for `hash_buckets` on demand. No value is -1 then.
        dense_embedding: `none` feeds a dense field raw to the DNN and to the first-order term;
            `linear` gives it a learned vector, present in every view.
        value_dim: How many numbers a dense field has per row.
        init: Initializer of the field's embedding table; that of the config by default.
        trainable: Whether training changes the field's tables.

    Raises:
        ConfigError: A value is out of range; the message names the field.
    """

    name: str
    feature_type: FeatureType
    _: KW_ONLY
    column: str = ""
    columns: tuple[str, ...] = ()
    separator: str = ""
    transform: str | None = None
    default: str | float | None = None
    vocabulary_size: int = 0
    embedding_dim: int = 16
    embedding_name: str = ""
    min_count: int = 1
    hash_buckets: int = 0
    hash_function: str = "xxh64"
    num_buckets: int = 0
    out_of_range: str = "error"
    vocabulary: WordIds | None = None
    oov_id: int | None = None
    boundaries: tuple[float, ...] = ()
    quantiles: int = 0
    scale: str = "min_max"
    missing: str = "error"
    bad_values: str = "error"
    group: str = "context"
    max_length: int = 0
    keep: str = "first"
    combiner: str = "mean"
    padding_idx: int | None = 0
    dense_embedding: str = "none"
    value_dim: int = 1
    init: str = ""
    trainable: bool = True

    def __post_init__(self) -> None:
        if self.column and self.columns and self.column != self.name:
            raise ConfigError(f"field {self.name}: choose column or columns, not both")
        object.__setattr__(self, "column", self.column or self.name)
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        object.__setattr__(self, "default", None if self.default == "" else self.default)
        object.__setattr__(self, "embedding_name", self.embedding_name or self.name)
        if not self.name or "." in self.name:
            raise ConfigError(f"field name {self.name!r}: expected a non-empty name without '.'")
        if self.feature_type not in list(FeatureType):
            hint = nearest(self.feature_type, FeatureType)
            kind = str(self.feature_type)
            raise ConfigError(f"field {self.name}: unknown feature_type {kind!r}; {hint}")
        object.__setattr__(self, "feature_type", FeatureType(self.feature_type))
        if self.embedding_dim < 1:
            raise ConfigError(f"field {self.name}: embedding_dim {self.embedding_dim} is below 1")
        for key in ("max_length", "hash_buckets", "num_buckets", "quantiles"):
            if (value := getattr(self, key)) < 0:
                raise ConfigError(f"field {self.name}: {key} {value} is below 0")
        if self.value_dim < 1:
            raise ConfigError(f"field {self.name}: value_dim {self.value_dim} is below 1")
        for key, value, choices in (
            ("combiner", self.combiner, COMBINERS),
            ("group", self.group, GROUPS),
            ("dense_embedding", self.dense_embedding, ("none", "linear")),
            ("bad_values", self.bad_values, BAD_VALUES),
            ("scale", self.scale, SCALES),
            ("missing", self.missing, MISSING),
            ("keep", self.keep, KEEP),
            ("hash_function", self.hash_function, FUNCTIONS),
            ("out_of_range", self.out_of_range, OUT_OF_RANGE),
        ):
            if value not in choices:
                hint = nearest(value, choices)
                raise ConfigError(f"field {self.name}: unknown {key} {value!r}; {hint}")
        if self.vocabulary is not None:
            try:
                object.__setattr__(self, "vocabulary", WordIds.of(self.vocabulary))
            except ConfigError as error:
                raise ConfigError(f"field {self.name}: vocabulary: {error}") from None
        self._check_combination()
        if self.has_fixed_ids:
            object.__setattr__(self, "padding_idx", None)
        if rows := self._declared_rows():
            object.__setattr__(self, "vocabulary_size", rows)

    def _check_combination(self) -> None:
        """Refuse settings that the field's type, or another setting, gives no meaning."""
        defaults = type(self).__dataclass_fields__
        given = {key for key, item in defaults.items() if getattr(self, key) != item.default}
        kind = self.feature_type
        for key in sorted(given & _ONLY_FOR.keys()):
            if kind not in _ONLY_FOR[key]:
                raise ConfigError(f"field {self.name}: {key} means nothing for a {kind} field")
        if self.embedding_name != self.name and kind is FeatureType.DENSE:
            raise ConfigError(f"field {self.name}: a dense field has no table to share")
        kinds = [key for key in ID_KINDS if key in given]
        if len(kinds) > 1:
            raise ConfigError(f"field {self.name}: choose one of {' and '.join(kinds)}")
        for key, needed in _ONLY_WITH.items():
            if key in given and needed not in given:
                raise ConfigError(f"field {self.name}: {key} means nothing without {needed}")
        if not 0 <= (self.oov_id or 0) < 2**31:
            raise ConfigError(f"field {self.name}: oov_id {self.oov_id} is no id")
        if self.boundaries:
            self._check_boundaries()
        if self.columns:
            self._check_cross(given)
        if self.separator and kind is FeatureType.SPARSE:
            raise ConfigError(f"field {self.name}: separator means nothing for one value per row")
        if self.default is not None:
            self._check_default(given)

    def _check_boundaries(self) -> None:
        with np.errstate(over="ignore"):
            edges = np.array(self.boundaries, np.float32)
        if not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
            raise ConfigError(
                f"field {self.name}: boundaries: expected finite numbers that rise, also when "
                f"rounded to float32, found {list(self.boundaries)}"
            )

    def _check_cross(self, given: set[str]) -> None:
        if self.feature_type is FeatureType.DENSE:
            raise ConfigError(f"field {self.name}: columns means nothing for a dense field")
        if len(self.columns) < 2:
            raise ConfigError(f"field {self.name}: columns: expected two or more to cross")
        for key in ("transform", "quantiles", "num_buckets", "boundaries"):
            if key in given:
                raise ConfigError(f"field {self.name}: {key} means nothing for a cross of columns")

    def _check_default(self, given: set[str]) -> None:
        """Refuse a default that could never be used, or that the field cannot read."""
        if "missing" in given:
            raise ConfigError(
                f"field {self.name}: choose default or missing: a default stands in for every "
                "absent value"
            )
        if name_of(self.transform) in NEVER_ABSENT:
            raise ConfigError(
                f"field {self.name}: default means nothing with {self.transform}, which always "
                "has a value"
            )
        elements = self.default_elements
        if self.feature_type is FeatureType.DENSE:
            if len(elements) not in (1, self.value_dim):
                raise ConfigError(
                    f"field {self.name}: default: expected {self.value_dim} numbers, found "
                    f"{self.default!r}"
                )
            expected = "a number"
        elif self.num_buckets:
            expected = f"a whole number below num_buckets {self.num_buckets}"
        elif self.boundaries or self.quantiles:
            expected = "a number"
        else:
            return
        for element in elements:
            try:
                value = float(element)
                fits = abs(value) <= float(np.finfo(np.float32).max)
                if self.num_buckets:
                    fits = element.isdecimal() and int(element) < self.num_buckets
            except ValueError:
                fits = False
            if not fits:
                raise ConfigError(
                    f"field {self.name}: default: expected {expected}, found {element!r}"
                )

    def _declared_rows(self) -> int:
        """Rows of the table, as far as they follow from the declaration; else 0."""
        if self.hash_buckets:
            return self.hash_buckets + (self.padding_idx is not None)
        if self.vocabulary is not None:
            return max(self.vocabulary.rows, (self.oov_id or 0) + 1)
        return self.num_buckets or (len(self.boundaries) + 1 if self.boundaries else 0)

    @property
    def raw_columns(self) -> tuple[str, ...]:
        """The raw columns that the field reads."""
        return self.columns or (self.column,)

    @property
    def has_fixed_ids(self) -> bool:
        """Whether ids are those that the declaration says."""
        return bool(self.num_buckets or self.vocabulary or self.boundaries)

    @property
    def absent_id(self) -> int:
        """The id of no value: -1 where the ids from 0 on are those of values, else 0."""
        is_free = self.has_fixed_ids or (self.hash_buckets and self.padding_idx is None)
        return -1 if is_free else 0

    @property
    def cut_at(self) -> str:
        """What cuts a text into the elements of a sequence or vector; empty: nothing does."""
        if self.separator or name_of(self.transform) != LIST_TRANSFORM:
            return self.separator
        return argument_of(self.transform)

    @property
    def default_elements(self) -> list[str]:
        """The elements of the default, as text."""
        text = self.default
        if not isinstance(text, str):
            return [str(int(text)) if float(text).is_integer() else str(text)]
        is_list = self.feature_type is not FeatureType.SPARSE and self.cut_at
        return [part for part in text.split(self.cut_at) if part] if is_list else [text]

    @property
    def is_embedded(self) -> bool:
        """Whether the field has a vector in `field_embeddings`."""
        return self.feature_type is not FeatureType.DENSE or self.dense_embedding == "linear"


_EMBEDDED = (FeatureType.SPARSE, FeatureType.SEQUENCE)
_ONLY_FOR = {
    "min_count": _EMBEDDED,
    "hash_buckets": _EMBEDDED,
    "hash_function": _EMBEDDED,
    "num_buckets": _EMBEDDED,
    "out_of_range": _EMBEDDED,
    "vocabulary": _EMBEDDED,
    "oov_id": _EMBEDDED,
    "boundaries": _EMBEDDED,
    "quantiles": (FeatureType.SPARSE,),
    "scale": (FeatureType.DENSE,),
    "missing": (FeatureType.DENSE,),
    "dense_embedding": (FeatureType.DENSE,),
    "value_dim": (FeatureType.DENSE,),
    "trainable": _EMBEDDED,
    "max_length": (FeatureType.SEQUENCE,),
    "keep": (FeatureType.SEQUENCE,),
    "combiner": (FeatureType.SEQUENCE,),
}
_ONLY_WITH = {
    "hash_function": "hash_buckets",
    "out_of_range": "num_buckets",
    "oov_id": "vocabulary",
    "keep": "max_length",
}
# What shapes a table, or decides which value has which row of it.
_OF_A_TABLE = (
    "embedding_dim", "min_count", "hash_buckets", "hash_function", "quantiles", "num_buckets",
    "vocabulary", "oov_id", "boundaries", "padding_idx",
)  # fmt: skip


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
        group_columns: Raw columns whose values group the rows, in the order of `Batch.group`.
        label_columns: Names of the labels, in the order of the columns of `Batch.label`, where it
            has several; empty for one label.
    """

    fields: Mapping[str, FieldSchema]
    label_field: str
    user_field: str | None = None
    item_field: str | None = None
    time_column: str | None = None
    item_title_column: str | None = None
    group_columns: tuple[str, ...] = ()
    label_columns: tuple[str, ...] = ()
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
        self._check_shared_tables()
        by_type = {
            kind: tuple(f for f in self.fields.values() if f.feature_type is kind)
            for kind in FeatureType
        }
        object.__setattr__(self, "_by_type", by_type)

    def _check_shared_tables(self) -> None:
        """Fields with one embedding_name must agree on everything that shapes their table."""
        first: dict[str, FieldSchema] = {}
        for item in self.fields.values():
            if item.feature_type is FeatureType.DENSE:
                continue
            other = first.setdefault(item.embedding_name, item)
            for key in _OF_A_TABLE:
                if (mine := getattr(item, key)) != (theirs := getattr(other, key)):
                    raise ConfigError(
                        f"fields {other.name} and {item.name} share the table "
                        f"{item.embedding_name}, but have {key} {theirs} and {mine}"
                    )

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
        fields = {f["name"]: _field_of(f) for f in plain["fields"]}
        return cls(**{**plain, "fields": fields})


class RawTables(NamedTuple):
    """The raw columns of a data set, as an adapter gives them.

    Attributes:
        interactions: One row per event, in file order: user, item, label and time columns, and
            context columns.
        users, items: One row per user and per item, with their raw feature columns. The item
            table is the catalogue that negatives and candidates are drawn from. None: there is
            nothing to look up.
    """

    interactions: pa.Table
    users: pa.Table | None
    items: pa.Table | None

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
                column
                for field in schema.fields.values()
                for column in field.raw_columns
                if field.group == group and column not in present
            ]
            if table is None:
                continue
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
    plain = asdict(item) | {"feature_type": item.feature_type.value}
    if item.vocabulary is not None:
        plain["vocabulary"] = item.vocabulary.to_tensor()
    return plain


def _field_of(plain: Mapping[str, Any]) -> FieldSchema:
    """The inverse of `_plain_field`."""
    plain = dict(plain)
    if plain.get("vocabulary") is not None:
        plain["vocabulary"] = WordIds.from_tensor(plain["vocabulary"])
    return FieldSchema(**plain)
