"""What a table means: one `FieldSchema` per model input, one `DatasetSchema` per data set.

Everything that depends on the data (encoders, embedding layer, models, ranking) is built from
these two; a field's name is written nowhere else but in an adapter or a config file.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from deepfm.data.encoding.hashing import FUNCTIONS
from deepfm.data.encoding.kinds import Encoder
from deepfm.data.encoding.registry import ID_ENCODERS, kind_of
from deepfm.data.encoding.scales import SCALES
from deepfm.data.encoding.transforms import argument_of, transform_class
from deepfm.data.encoding.words import WordIds
from deepfm.data.sources.tables import RawTables as RawTables  # an adapter's result
from deepfm.errors import ConfigError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    A = TypeVar("A", Tensor, np.ndarray)


class FeatureType(StrEnum):
    """How the values of a field are read."""

    SPARSE = "sparse"  # one categorical value per row
    DENSE = "dense"  # one number per row, or a vector of `value_dim` numbers
    SEQUENCE = "sequence"  # a list of categorical values per row


COMBINERS = ("mean", "sum", "max", "position")
GROUPS = ("user", "item", "context")
BAD_VALUES = ("error", "unknown", "drop")
MISSING = ("error", "zero", "mean", "indicator")
KEEP = ("first", "last")
OUT_OF_RANGE = ("error", "zero", "row0")
DENSE_EMBEDDINGS = ("none", "linear", "piecewise", "periodic")
ITEMS, AGES = "items", "ages"
BUILT = ("", ITEMS, AGES)
LEARNT = ("vocabulary_size", "edges")  # attributes of a field that its encoder fills in


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
            `bucket(1, 18, 25)`; see `deepfm.data.encoding.transforms`. With `separator` it is that
            of each element.
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
        max_vocabulary: How many values a vocabulary has at most, also when it grows; 0 for any
            number. More are an error without `overflow_buckets`.
        overflow_buckets: Rows for the values that a bounded vocabulary does not have, by a hash
            modulo this; the most frequent values of the training split have rows of their own.
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
            1, `log1p` to mean 0 and deviation 1 of ln(1 + x), or `plain_log1p`, which is
            ln(1 + x); ranges and moments are those of the training split.
        clip: Before it is scaled, a number beyond the training split's quantiles `clip` and
            1 - `clip` becomes that quantile; 0 for none.
        missing: What an absent number of a dense field is: an `error`, `zero`, the `mean` of the
            training split, or the mean with an `indicator` field beside it.
        bad_values: What a value is that the field cannot read: an `error`, `unknown` (as if it
            were absent), or a reason to `drop` the row.
        group: Semantic grouping: `user`, `item` or `context`. The features of an item are the
            fields of group `item`.
        max_length: Elements of a sequence that are kept; 0 keeps all of them.
        keep: Which elements those are: the `first` or the `last` ones.
        sequence: Name of the sequence of events that a sequence field tells something about, in
            each row as much as the other fields of that name: an element without a value keeps its
            place. Empty: the field stands alone, and such elements are left out.
        numbers: Whether the elements of a sequence are numbers, as they are, and no categories.
            Their ids are the bits of float32 numbers, and -1 for none; there is no table.
        combiner: How a sequence's vectors are pooled: `mean`, `sum`, `max`, or `position`, which
            weighs them by how recent they are: the last element is the most recent one.
        padding_idx: The id of padding and of unknown values, whose row is zero and never
            trained. None where every row is an ordinary one: always with `num_buckets`,
            `vocabulary` and `boundaries`, and for `hash_buckets` on demand. No value is -1 then.
        dense_embedding: `none` feeds a dense field raw to the DNN and to the first-order term;
            `linear`, `piecewise` and `periodic` give it a learned vector, present in every view:
            of the number itself, of its place among bins of the training split, or of sines and
            cosines of it.
        bins: How many bins of equally many training rows a `piecewise` field has; those with
            equal edges are one.
        edges: Of those bins, scaled, rising; known when the encoders are fitted.
        frequencies: How many frequencies a `periodic` field has.
        frequency_scale: Deviation of those frequencies before training.
        value_dim: How many numbers a dense field has per row.
        init: Initializer of the field's embedding table; that of the config by default.
        trainable: Whether training changes the field's tables.
        built: What a field of the user's history holds: `items`, or `ages`, the times since then;
            empty for a field that is read from raw columns.
        history_of: The field whose ids a history repeats, or the raw column of the times.

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
    max_vocabulary: int = 0
    overflow_buckets: int = 0
    hash_buckets: int = 0
    hash_function: str = "xxh64"
    num_buckets: int = 0
    out_of_range: str = "error"
    vocabulary: WordIds | None = None
    oov_id: int | None = None
    boundaries: tuple[float, ...] = ()
    quantiles: int = 0
    scale: str = "min_max"
    clip: float = 0.0
    missing: str = "error"
    bad_values: str = "error"
    group: str = "context"
    max_length: int = 0
    keep: str = "first"
    sequence: str = ""
    numbers: bool = False
    combiner: str = "mean"
    padding_idx: int | None = 0
    dense_embedding: str = "none"
    bins: int = 128
    edges: tuple[float, ...] = ()
    frequencies: int = 16
    frequency_scale: float = 0.1
    value_dim: int = 1
    init: str = ""
    trainable: bool = True
    built: str = ""
    history_of: str = ""

    def __post_init__(self) -> None:
        if self.column and self.columns and self.column != self.name:
            raise ConfigError("choose column or columns, not both", key=f"field {self.name}")
        object.__setattr__(self, "column", self.column or self.name)
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        object.__setattr__(self, "edges", tuple(self.edges))
        object.__setattr__(self, "default", None if self.default == "" else self.default)
        object.__setattr__(self, "embedding_name", self.embedding_name or self.name)
        if not self.name or "." in self.name:
            raise ConfigError(f"field name {self.name!r}: expected a non-empty name without '.'")
        if self.feature_type not in list(FeatureType):
            hint = nearest(self.feature_type, FeatureType)
            kind = str(self.feature_type)
            raise ConfigError(f"unknown feature_type {kind!r}; {hint}", key=f"field {self.name}")
        object.__setattr__(self, "feature_type", FeatureType(self.feature_type))
        if self.embedding_dim < 1:
            raise ConfigError(
                f"embedding_dim {self.embedding_dim} is below 1", key=f"field {self.name}"
            )
        for key in (
            "max_length", "max_vocabulary", "overflow_buckets", "hash_buckets", "num_buckets",
            "quantiles",
        ):  # fmt: skip
            if (value := getattr(self, key)) < 0:
                raise ConfigError(f"{key} {value} is below 0", key=f"field {self.name}")
        for key in ("value_dim", "bins", "frequencies"):
            if (value := getattr(self, key)) < 1:
                raise ConfigError(f"{key} {value} is below 1", key=f"field {self.name}")
        if not 0 <= self.clip < 0.5:
            raise ConfigError(
                f"clip: expected a share below 0.5, found {self.clip}", key=f"field {self.name}"
            )
        if not 0 < self.frequency_scale < np.inf:
            raise ConfigError(
                f"frequency_scale: expected a number above 0, found {self.frequency_scale}",
                key=f"field {self.name}",
            )
        for key, value, choices in (
            ("combiner", self.combiner, COMBINERS),
            ("group", self.group, GROUPS),
            ("dense_embedding", self.dense_embedding, DENSE_EMBEDDINGS),
            ("bad_values", self.bad_values, BAD_VALUES),
            ("scale", self.scale, SCALES),
            ("missing", self.missing, MISSING),
            ("keep", self.keep, KEEP),
            ("hash_function", self.hash_function, FUNCTIONS),
            ("out_of_range", self.out_of_range, OUT_OF_RANGE),
            ("built", self.built, BUILT),
        ):
            if value not in choices:
                hint = nearest(value, choices)
                raise ConfigError(f"unknown {key} {value!r}; {hint}", key=f"field {self.name}")
        if self.vocabulary is not None:
            try:
                object.__setattr__(self, "vocabulary", WordIds.of(self.vocabulary))
            except ConfigError as error:
                raise ConfigError(
                    f"vocabulary: {error.problem}", key=f"field {self.name}"
                ) from None
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
                raise ConfigError(
                    f"{key} means nothing for a {kind} field", key=f"field {self.name}"
                )
        if self.embedding_name != self.name and kind is FeatureType.DENSE:
            raise ConfigError("a dense field has no table to share", key=f"field {self.name}")
        kinds = [encoder.key for encoder in ID_ENCODERS if encoder.key in given]
        if len(kinds) > 1:
            raise ConfigError(f"choose one of {' and '.join(kinds)}", key=f"field {self.name}")
        if self.max_vocabulary and self.encoder.key != "min_count":
            raise ConfigError(
                f"max_vocabulary means nothing with {self.encoder.key}", key=f"field {self.name}"
            )
        for key, needed in _ONLY_WITH.items():
            if key in given and needed not in given:
                raise ConfigError(f"{key} means nothing without {needed}", key=f"field {self.name}")
        for key, kind_of_vector in _ONLY_WITH_VECTOR.items():
            if key in given and self.dense_embedding != kind_of_vector:
                raise ConfigError(
                    f"{key} means nothing without dense_embedding: {kind_of_vector}",
                    key=f"field {self.name}",
                )
        if not 0 <= (self.oov_id or 0) < 2**31:
            raise ConfigError(f"oov_id {self.oov_id} is no id", key=f"field {self.name}")
        if self.boundaries:
            self._check_boundaries()
        if self.combiner == "position" and not self.max_length:
            raise ConfigError(
                "combiner position has a weight for each place, and needs max_length",
                key=f"field {self.name}",
            )
        if self.numbers and self.embedding_name != self.name:
            raise ConfigError(
                "a sequence of numbers has no table to share", key=f"field {self.name}"
            )
        if self.columns:
            self._check_cross(given)
        if self.separator and kind is FeatureType.SPARSE:
            raise ConfigError(
                "separator means nothing for one value per row", key=f"field {self.name}"
            )
        if self.default is not None:
            self._check_default(given)

    def _check_boundaries(self) -> None:
        with np.errstate(over="ignore"):
            edges = np.array(self.boundaries, np.float32)
        if not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
            raise ConfigError(
                f"boundaries: expected finite numbers that rise, also when "
                f"rounded to float32, found {list(self.boundaries)}",
                key=f"field {self.name}",
            )

    def _check_cross(self, given: set[str]) -> None:
        if self.feature_type is FeatureType.DENSE:
            raise ConfigError("columns means nothing for a dense field", key=f"field {self.name}")
        if len(self.columns) < 2:
            raise ConfigError("columns: expected two or more to cross", key=f"field {self.name}")
        of_numbers = [e.key for e in ID_ENCODERS if e.reads in ("number", "whole number")]
        for key in ("transform", *of_numbers):
            if key in given:
                raise ConfigError(
                    f"{key} means nothing for a cross of columns", key=f"field {self.name}"
                )

    def _check_default(self, given: set[str]) -> None:
        """Refuse a default that could never be used, or that the field cannot read."""
        if "missing" in given:
            raise ConfigError(
                "choose default or missing: a default stands in for every absent value",
                key=f"field {self.name}",
            )
        if transform_class(self.transform).is_never_absent:
            raise ConfigError(
                f"default means nothing with {self.transform}, which always has a value",
                key=f"field {self.name}",
            )
        elements = self.default_elements
        if self.feature_type is FeatureType.DENSE:
            if len(elements) not in (1, self.value_dim):
                raise ConfigError(
                    f"default: expected {self.value_dim} numbers, found {self.default!r}",
                    key=f"field {self.name}",
                )
            expected = "a number"
        elif self.encoder.reads == "whole number":
            expected = f"a whole number below {self.encoder.key} {self._declared_rows()}"
        elif self.encoder.reads == "number":
            expected = "a number"
        else:
            return
        is_whole = not self.is_dense and self.encoder.reads == "whole number"
        for element in elements:
            try:
                fits = abs(float(element)) <= float(np.finfo(np.float32).max)
                if is_whole:
                    fits = element.isdecimal() and int(element) < self._declared_rows()
            except ValueError:
                fits = False
            if not fits:
                raise ConfigError(
                    f"default: expected {expected}, found {element!r}", key=f"field {self.name}"
                )

    def _declared_rows(self) -> int:
        """Rows of the table, as far as they follow from the declaration; else 0."""
        return self.encoder.declared_rows(self)

    @property
    def is_dense(self) -> bool:
        """Whether its values are numbers or vectors, which have no table."""
        return self.feature_type is FeatureType.DENSE

    @property
    def encoder(self) -> type[Encoder]:
        """The kind of encoder that its settings choose."""
        return kind_of(self)

    @property
    def raw_columns(self) -> tuple[str, ...]:
        """The raw columns that the field reads; none of a history, which is built of rows."""
        return () if self.built else self.columns or (self.column,)

    @property
    def has_fixed_ids(self) -> bool:
        """Whether ids are those that the declaration says."""
        return self.encoder.has_declared_ids

    @property
    def absent_id(self) -> int:
        """The id of no value: -1 where the ids from 0 on are those of values, else 0."""
        return self.encoder.absent_id(self)

    @property
    def cut_at(self) -> str:
        """What cuts a text into the elements of a sequence or vector; empty: nothing does."""
        if self.separator or self.transform is None:
            return self.separator
        if not transform_class(self.transform).gives_lists:
            return self.separator
        return argument_of(self.transform)

    @property
    def default_elements(self) -> list[str]:
        """The elements of the default, as text."""
        text = self.default
        if text is None:
            return []
        if not isinstance(text, str):
            return [str(int(text)) if float(text).is_integer() else str(text)]
        is_list = self.feature_type is not FeatureType.SPARSE and self.cut_at
        return [part for part in text.split(self.cut_at) if part] if is_list else [text]

    @property
    def is_embedded(self) -> bool:
        """Whether the field has a vector in `field_embeddings`."""
        if self.is_dense:
            return self.dense_embedding != "none"
        return not self.numbers

    @property
    def keeps_places(self) -> bool:
        """Whether elements of a sequence without a value count as elements."""
        return bool(self.sequence) or self.numbers


_EMBEDDED = (FeatureType.SPARSE, FeatureType.SEQUENCE)
_ONLY_FOR: dict[str, tuple[FeatureType, ...]] = {
    key: _EMBEDDED if encoder.in_sequences else (FeatureType.SPARSE,)
    for encoder in ID_ENCODERS
    for key in (encoder.key, *encoder.options)
}
_ONLY_FOR |= {
    "scale": (FeatureType.DENSE,),
    "clip": (FeatureType.DENSE,),
    "bins": (FeatureType.DENSE,),
    "edges": (FeatureType.DENSE,),
    "frequencies": (FeatureType.DENSE,),
    "frequency_scale": (FeatureType.DENSE,),
    "missing": (FeatureType.DENSE,),
    "dense_embedding": (FeatureType.DENSE,),
    "value_dim": (FeatureType.DENSE,),
    "max_vocabulary": _EMBEDDED,
    "overflow_buckets": _EMBEDDED,
    "trainable": _EMBEDDED,
    "max_length": (FeatureType.SEQUENCE,),
    "keep": (FeatureType.SEQUENCE,),
    "combiner": (FeatureType.SEQUENCE,),
    "sequence": (FeatureType.SEQUENCE,),
    "numbers": (FeatureType.SEQUENCE,),
}
_ONLY_WITH = {key: encoder.key for encoder in ID_ENCODERS for key in encoder.options} | {
    "keep": "max_length",
    "overflow_buckets": "max_vocabulary",
}
_ONLY_WITH_VECTOR = {
    "bins": "piecewise",
    "edges": "piecewise",
    "frequencies": "periodic",
    "frequency_scale": "periodic",
}
# What shapes a table, or decides which value has which row of it.
_OF_A_TABLE = (
    "embedding_dim",
    "max_vocabulary",
    "overflow_buckets",
    *(key for encoder in ID_ENCODERS for key in (encoder.key, *encoder.table_options)),
    "padding_idx",
)


class LabelScale(NamedTuple):
    """How a label that is a number is standardised for its loss, by its training rows.

    Example:
        >>> LabelScale(20.0, 5.0).standardized(np.array([30.0]))
        array([2.])
    """

    mean: float
    deviation: float

    def standardized(self, label: "A") -> "A":
        """(label - mean) / deviation."""
        return (label - self.mean) / self.deviation

    def restored(self, output: "A") -> "A":
        """The inverse: what stands for a standardised label, in the label's own units."""
        return output * self.deviation + self.mean


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
        label_scales: Of the labels that are standardised, by name, known once the training rows
            are read.
    """

    fields: Mapping[str, FieldSchema]
    label_field: str
    user_field: str | None = None
    item_field: str | None = None
    time_column: str | None = None
    item_title_column: str | None = None
    group_columns: tuple[str, ...] = ()
    label_columns: tuple[str, ...] = ()
    label_scales: Mapping[str, LabelScale] = field(default_factory=dict)
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
        self._check_sequences()
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

    def _check_sequences(self) -> None:
        """Fields of one sequence must keep the same elements."""
        first: dict[str, FieldSchema] = {}
        for item in self.fields.values():
            if not item.sequence:
                continue
            other = first.setdefault(item.sequence, item)
            for key in ("max_length", "keep"):
                if (mine := getattr(item, key)) != (theirs := getattr(other, key)):
                    raise ConfigError(
                        f"fields {other.name} and {item.name} are of one sequence, "
                        f"{item.sequence}, but have {key} {theirs} and {mine}"
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
    def read_fields(self) -> tuple[FieldSchema, ...]:
        """The fields that are read from raw columns."""
        return tuple(field for field in self.fields.values() if not field.built)

    @property
    def built_fields(self) -> tuple[FieldSchema, ...]:
        """The fields of the user's history, which stand behind all others."""
        return tuple(field for field in self.fields.values() if field.built)

    @property
    def total_embedding_dim(self) -> int:
        """Summed width of all embedding vectors; raw dense columns are not counted."""
        return sum(f.embedding_dim for f in self.fields.values() if f.is_embedded)

    def with_fields(self, changes: Mapping[str, Mapping[str, Any]]) -> "DatasetSchema":
        """Return a copy in which each named field has the given attributes replaced."""
        fields = {n: replace(f, **changes.get(n, {})) for n, f in self.fields.items()}
        return replace(self, fields=fields)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for a checkpoint; `from_dict` is the inverse."""
        plain = {k: getattr(self, k) for k in self.__dataclass_fields__ if not k.startswith("_")}
        scales = {name: tuple(scale) for name, scale in self.label_scales.items()}
        fields = [_plain_field(f) for f in self.fields.values()]
        return plain | {"fields": fields, "label_scales": scales}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "DatasetSchema":
        fields = {f["name"]: _field_of(f) for f in plain["fields"]}
        scales = plain.get("label_scales", {})  # older checkpoints have none
        scales = {name: LabelScale(*map(float, scale)) for name, scale in scales.items()}
        if not all(np.isfinite(scale).all() and scale.deviation > 0 for scale in scales.values()):
            raise ValueError("a label's scale is no mean and deviation")
        return cls(**{**plain, "fields": fields, "label_scales": scales})


def _plain_field(item: FieldSchema) -> dict[str, Any]:
    plain = asdict(item) | {"feature_type": item.feature_type.value}
    if item.vocabulary is not None:
        plain["vocabulary"] = item.vocabulary.to_array()
    return plain


def _field_of(plain: Mapping[str, Any]) -> FieldSchema:
    """The inverse of `_plain_field`."""
    plain = dict(plain)
    if plain.get("vocabulary") is not None:
        plain["vocabulary"] = WordIds.from_bytes(plain["vocabulary"])
    return FieldSchema(**plain)
