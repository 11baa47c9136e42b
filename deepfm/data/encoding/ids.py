"""Values to the ids of embedding rows; what is learnt for them is in `learnt`."""

import bisect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.encoding.cells import as_text, read_integers, read_numbers
from deepfm.data.encoding.functions import BITS, boundary_ids, number_ids, quantile_ids
from deepfm.data.encoding.hashing import hash_texts
from deepfm.data.encoding.kinds import Encoder, refuse_change
from deepfm.data.encoding.learnt import QuantileSample, VocabularyCounter
from deepfm.data.encoding.words import WordIds
from deepfm.data.files.columns import is_text
from deepfm.errors import DataError, Place
from deepfm.utils.io import table_to_array, tensor_to_table

if TYPE_CHECKING:
    from deepfm.data.schema import FieldSchema


def plain(values: pa.Array) -> pa.Array:
    """Categorical values in the type that vocabularies hold: large_string, int64, uint64, floats.

    Booleans are 0 and 1; dates, times and decimals are text; NaN is null and -0.0 is 0.0.

    Raises:
        DataError: The values are of a type without single values, or bytes that are not UTF-8.
    """
    kind = values.type
    if pa.types.is_boolean(kind):
        return values.cast(pa.int8()).cast(pa.int64())
    if pa.types.is_integer(kind):
        return values if kind == pa.uint64() else values.cast(pa.int64())
    if pa.types.is_floating(kind):
        if kind == pa.float16():
            values = values.cast(pa.float32())
        numbers = pc.fill_null(values, np.nan).to_numpy(zero_copy_only=False) + 0.0  # no -0.0
        return pa.array(numbers, mask=np.isnan(numbers))
    return as_text(values)


class DeclaredEncoder(Encoder):
    """An encoder that learns nothing: the id of a value does not depend on other values."""

    @classmethod
    @abstractmethod
    def of(cls, field: "FieldSchema") -> Self:
        """The encoder that a field declares."""

    @classmethod
    def must_be_fitted(cls, field: "FieldSchema") -> bool:
        return False

    @classmethod
    def fitted(cls, fields: Sequence["FieldSchema"], learnt: Sequence[object]) -> Self:
        return cls.of(fields[0])


class Vocabulary(Encoder):
    """Categorical values to ids 1 … n; absent and unknown values become 0.

    With `buckets` the ids 1 … b are for unknown values, by a hash of their text (XXH64, seed 0)
    modulo b, and those of the vocabulary stand behind them.

    Values are found whatever type they come in: where integers were seen, "17" and 17.0 find 17;
    where texts were seen, 17 and 17.0 find "17".

    Args:
        values: The values in the order of their ids, as `plain` gives them; distinct, none null.
        buckets: For unknown values.
        most: How many values it may grow to; None: any number.

    Attributes:
        values, buckets: As given.
    """

    kind = "vocabulary"
    key = "min_count"
    free_settings = ("min_count", "max_vocabulary")
    counts_unknown = True

    def __init__(self, values: pa.Array, buckets: int = 0, most: int | None = None) -> None:
        self.values, self.buckets, self._most = values, buckets, most
        self._by_count: pa.Array | None = None  # all that were seen, the most frequent first
        self._order: np.ndarray | None = None  # of a number's or text's place when sorted

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, the reserved 0 included."""
        return len(self.values) + 1 + self.buckets

    @property
    def names(self) -> pa.Array:
        """What each id from 1 on stands for, for people."""
        if not self.buckets:
            return self.values
        names = [f"unknown, bucket {k}" for k in range(1, self.buckets + 1)]
        return pa.concat_arrays([pa.array(names, pa.large_string()), as_text(self.values)])

    @classmethod
    def chosen_by(cls, field: "FieldSchema") -> bool:
        return True  # unless another kind is chosen

    @classmethod
    def accumulator(cls, field: "FieldSchema", position: int) -> "VocabularyCounter":
        return VocabularyCounter()

    @classmethod
    def fitted(
        cls, fields: Sequence["FieldSchema"], learnt: Sequence["VocabularyCounter"]
    ) -> "Vocabulary":
        field = fields[0]
        values = VocabularyCounter.finish(learnt, field.min_count)
        if not (most := field.max_vocabulary):
            return cls(values)
        if not (buckets := field.overflow_buckets):
            _refuse_more(len(values), most, Place(field=field.name))
            return cls(values, most=most)
        by_count = VocabularyCounter.by_count(learnt, field.min_count)
        kept = by_count[:most]
        found = cls(kept.take(pc.sort_indices(kept)), buckets, most)
        found._by_count = by_count
        return found

    def encode(self, values: pa.Array) -> np.ndarray:
        """Ids of values, (N,) int64."""
        places = self._places(values)
        if not self.buckets:
            return places
        ids = np.where(places > 0, places + self.buckets, 0)
        if len(others := np.flatnonzero(places == 0)):
            texts = as_text(plain(values.take(pa.array(others))))
            there = texts.is_valid().to_numpy(zero_copy_only=False)
            hashes = hash_texts(texts, "xxh64") % np.uint64(self.buckets)
            ids[others] = np.where(there, hashes.astype(np.int64) + 1, 0)
        return ids

    def _places(self, values: pa.Array) -> np.ndarray:
        """Places among the values from 1 on, 0 for others, (N,) int64."""
        wanted = _converted(values, self.values.type)
        if not len(self.values) or not len(wanted):
            return np.zeros(len(wanted), np.int64)
        # Arrow builds its table of the whole vocabulary on each call: too much for a few values
        if len(wanted) * 64 < len(self.values):
            return self._search(wanted)
        found = pc.index_in(wanted, value_set=self.values, skip_nulls=True)
        places: np.ndarray = pc.fill_null(found, -1).to_numpy(zero_copy_only=False)
        return places.astype(np.int64) + 1

    def _search(self, wanted: pa.Array) -> np.ndarray:
        if self._order is None:
            self._order = pc.sort_indices(self.values).to_numpy()
        sorted_values = _Sorted(self.values, self._order)
        ids = np.zeros(len(wanted), np.int64)
        for row, value in enumerate(wanted.to_pylist()):
            if value is not None:
                place = bisect.bisect_left(sorted_values, value)
                if place < len(self._order) and sorted_values[place] == value:
                    ids[row] = self._order[place] + 1
        return ids

    def grown_from(self, base: "Vocabulary") -> "Vocabulary":
        """The values of `base` with their ids, then those of this one that are new, sorted.

        Where there is no room for all of them, the most frequent ones have it.

        Raises:
            DataError: There are too many, and no buckets; or base has other buckets.
        """
        refuse_change("overflow_buckets", base.buckets, self.buckets)
        seen = self.values if self._by_count is None else self._by_count
        new = seen.filter(pa.array(base._places(seen) == 0))
        if self._most is not None:
            if self.buckets:
                new = new[: max(0, self._most - len(base.values))]
            elif len(new):
                _refuse_more(len(base.values) + len(new), self._most)
        as_base = _converted(new, base.values.type)
        if as_base.null_count:  # a text among numbers: texts from now on
            as_base, known = as_text(new), as_text(base.values)
        else:
            known = base.values
        values = pa.concat_arrays([known, as_base.take(pc.sort_indices(as_base))])
        return Vocabulary(values, self.buckets, self._most)

    def to_dict(self) -> dict[str, Any]:
        buckets = {"overflow_buckets": self.buckets} if self.buckets else {}
        return {"vocabulary": table_to_array(pa.table({"value": self.values})), **buckets}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Vocabulary":
        if "type" in stored:  # an older form: a list
            return cls(plain(pa.array(stored["vocabulary"], pa.type_for_alias(stored["type"]))))
        values = tensor_to_table(stored["vocabulary"])["value"].combine_chunks()
        return cls(values, stored.get("overflow_buckets", 0))


def _refuse_more(found: int, most: int, place: Place | None = None) -> None:
    """Refuse more values than a vocabulary may have.

    Raises:
        DataError: There are more.
    """
    if found > most:
        raise DataError(
            f"expected at most {most:,} values (max_vocabulary), found {found:,}; raise it, or "
            "prepare all rows anew with a higher min_count or with overflow_buckets",
            place=place,
        )


class _Sorted:
    """Sorted values, one at a time and without a copy; texts sort by code point, as in Arrow."""

    def __init__(self, values: pa.Array, order: np.ndarray) -> None:
        self._values, self._order = values, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, place: int) -> Any:
        return self._values[int(self._order[place])].as_py()


class HashBuckets(DeclaredEncoder):
    """Ids by hash: hash(text) mod n, of one of the functions of `deepfm.data.encoding.hashing`.

    The text is that of `as_text`, in UTF-8: 17, 17.0 and "17" are one value. With `padding` all
    ids are one higher, from 1 on, and absent values are 0; without, they are -1.
    """

    kind = key = "hash_buckets"
    options = table_options = ("hash_function",)
    reads = "text"

    def __init__(self, buckets: int, function: str = "xxh64", padding: bool = True) -> None:
        self.buckets = buckets
        self.function = function
        self.padding = padding

    @classmethod
    def of(cls, field: "FieldSchema") -> "HashBuckets":
        return cls(field.hash_buckets, field.hash_function, field.padding_idx is not None)

    @classmethod
    def declared_rows(cls, field: "FieldSchema") -> int:
        return field.hash_buckets + (field.padding_idx is not None)

    @classmethod
    def absent_id(cls, field: "FieldSchema") -> int:
        return -1 if field.padding_idx is None else 0

    @property
    def vocabulary_size(self) -> int:
        return self.buckets + self.padding

    def encode(self, values: pa.Array) -> np.ndarray:
        """Ids of values, (N,) int64; one hash per value, so give distinct ones."""
        texts = as_text(values)
        ids = (hash_texts(texts, self.function) % np.uint64(self.buckets)).astype(np.int64)
        ids += self.padding
        if texts.null_count:
            ids[texts.is_null().to_numpy(zero_copy_only=False)] = self.padding - 1
        return ids

    def grown_from(self, base: "HashBuckets") -> "HashBuckets":
        refuse_change("hash_buckets", base.buckets, self.buckets)
        refuse_change("as hash_function", base.function, self.function)
        refuse_change("padding", base.padding, self.padding)
        return base

    def to_dict(self) -> dict[str, Any]:
        return {
            "hash_buckets": self.buckets, "function": self.function, "padding": self.padding,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "HashBuckets":
        # an older form has the number only
        before: dict[str, Any] = {"function": "xxh64", "padding": True}
        found = before | dict(stored)
        return cls(found["hash_buckets"], found["function"], found["padding"])


class NumBuckets(DeclaredEncoder):
    """Whole numbers that are ids already, 0 … n - 1; -1 is no value.

    NOTE[DIFF]: TorchEasyRec looks a number without a row up in row 0, with a warning. Here that is
    one of three policies, and natively an error (`FieldSchema.out_of_range`).
    """

    kind = key = "num_buckets"
    options = ("out_of_range",)
    free_settings = ("num_buckets", "out_of_range")
    reads = "whole number"
    has_declared_ids = True

    def __init__(self, buckets: int) -> None:
        self.buckets = buckets

    @classmethod
    def of(cls, field: "FieldSchema") -> "NumBuckets":
        return cls(field.num_buckets)

    @classmethod
    def declared_rows(cls, field: "FieldSchema") -> int:
        return field.num_buckets

    @property
    def vocabulary_size(self) -> int:
        return self.buckets

    def encode(self, values: np.ndarray) -> np.ndarray:
        """The numbers themselves, (N,) int64, whose range their reader has seen to."""
        return values

    def grown_from(self, base: "NumBuckets") -> "NumBuckets":
        if self.buckets < base.buckets:
            raise DataError(f"num_buckets {base.buckets} before, only {self.buckets} now")
        return self

    def to_dict(self) -> dict[str, Any]:
        return {"num_buckets": self.buckets}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "NumBuckets":
        return cls(stored["num_buckets"])


class DeclaredVocabulary(DeclaredEncoder):
    """Words to the ids that were declared for them; other texts to the OOV id, or to -1.

    The text of a value is that of `as_text`. An absent value is -1.
    """

    kind = "declared_vocabulary"
    key = "vocabulary"
    options = table_options = ("oov_id",)
    free_settings = ("vocabulary",)
    reads = "text"
    has_declared_ids = True

    def __init__(self, words: WordIds, oov_id: int | None) -> None:
        self.words = words
        self.oov_id = oov_id
        self._places = Vocabulary(words.words)
        self._ids = np.append(-1, words.ids)  # of place 0, which is no word's, and of the words

    @classmethod
    def chosen_by(cls, field: "FieldSchema") -> bool:
        return field.vocabulary is not None

    @classmethod
    def of(cls, field: "FieldSchema") -> "DeclaredVocabulary":
        assert field.vocabulary is not None
        return cls(field.vocabulary, field.oov_id)

    @classmethod
    def declared_rows(cls, field: "FieldSchema") -> int:
        return (
            0 if field.vocabulary is None else max(field.vocabulary.rows, (field.oov_id or 0) + 1)
        )

    @property
    def vocabulary_size(self) -> int:
        return max(self.words.rows, (self.oov_id or 0) + 1)

    def encode(self, values: pa.Array) -> np.ndarray:
        """Ids of values, (N,) int64."""
        texts = as_text(values)
        ids: np.ndarray = self._ids[self._places.encode(texts)]
        if self.oov_id is not None:
            has_text = texts.is_valid().to_numpy(zero_copy_only=False)
            ids = np.where((ids < 0) & has_text, self.oov_id, ids)
        return ids

    def grown_from(self, base: "DeclaredVocabulary") -> "DeclaredVocabulary":
        now = self._ids[self._places.encode(base.words.words)]
        moved = np.flatnonzero(now != base.words.ids)
        if len(moved):
            word = base.words.words[int(moved[0])].as_py()
            raise DataError(f"the word {word!r} has lost the id it had before")
        if self.oov_id != base.oov_id:
            raise DataError(f"oov_id {base.oov_id} before, {self.oov_id} now")
        return self

    def to_dict(self) -> dict[str, Any]:
        return {"words": self.words.to_array(), "oov_id": self.oov_id}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "DeclaredVocabulary":
        return cls(WordIds.from_bytes(stored["words"]), stored["oov_id"])


class Boundaries(DeclaredEncoder):
    """Numbers to how many of the declared boundaries lie below them; an absent one is -1.

    Number and boundaries are compared as float32, so that a number has one id whether it comes
    as text, as float64 or as float32.

    NOTE[DIFF]: TorchEasyRec does not say what a number that equals a boundary gets. Here the
    boundary is not below it, so it has the id of the numbers just under it.
    """

    kind = key = "boundaries"
    reads = "number"
    has_declared_ids = True

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = np.array(edges, np.float32)

    @classmethod
    def of(cls, field: "FieldSchema") -> "Boundaries":
        return cls(field.boundaries)

    @classmethod
    def declared_rows(cls, field: "FieldSchema") -> int:
        return len(field.boundaries) + 1

    @property
    def vocabulary_size(self) -> int:
        return len(self.edges) + 1

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Ids of float64 numbers, (N,) int64; NaN is absent."""
        return boundary_ids(self.edges, values)

    def grown_from(self, base: "Boundaries") -> "Boundaries":
        if not np.array_equal(self.edges, base.edges):
            raise DataError(f"boundaries {base.edges.tolist()} before, {self.edges.tolist()} now")
        return base

    def to_dict(self) -> dict[str, Any]:
        return {"boundaries": self.edges.tolist()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Boundaries":
        return cls(stored["boundaries"])


class NumberBits(DeclaredEncoder):
    """Numbers to the bits of float32 numbers, as whole numbers; an absent one is -1.

    So a sequence of numbers is held, cut and moved like any other, and `float32_of_bits` of the
    embedding layer gives the numbers back.
    """

    kind = key = "numbers"
    reads = "number"
    has_declared_ids = True

    @classmethod
    def of(cls, field: "FieldSchema") -> "NumberBits":
        return cls()

    @classmethod
    def declared_rows(cls, field: "FieldSchema") -> int:
        return BITS

    @property
    def vocabulary_size(self) -> int:
        return BITS

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Ids of float64 numbers, (N,) int64; NaN is absent."""
        return number_ids(values)

    def grown_from(self, base: "NumberBits") -> "NumberBits":
        return base

    def to_dict(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "NumberBits":
        return cls()


class Quantiles(Encoder):
    """Numbers to the ids 1 … m of buckets that hold equally many training rows; absent is 0.

    Bucket k holds the numbers above edge k - 1, up to and including edge k.

    Args:
        edges: Rising, (m - 1,).
    """

    kind = key = "quantiles"
    reads = "number"
    in_sequences = False

    def __init__(self, edges: np.ndarray) -> None:
        self.edges = edges

    @classmethod
    def accumulator(cls, field: "FieldSchema", position: int) -> "QuantileSample":
        return QuantileSample(position)

    @classmethod
    def fitted(
        cls, fields: Sequence["FieldSchema"], learnt: Sequence["QuantileSample"]
    ) -> "Quantiles":
        return cls(QuantileSample.finish(learnt, fields[0].quantiles))

    @property
    def vocabulary_size(self) -> int:
        return len(self.edges) + 2

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Ids of float64 numbers, (N,) int64; NaN is absent."""
        return quantile_ids(self.edges, values)

    def grown_from(self, base: "Quantiles") -> "Quantiles":
        return base

    def to_dict(self) -> dict[str, Any]:
        return {"edges": self.edges.tolist()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Quantiles":
        edges = np.array(stored["edges"], np.float64)
        if edges.ndim != 1 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
            raise ValueError("quantile edges are no rising numbers")
        return cls(edges)


def _converted(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Values as another of the types that `plain` gives; null where a value has no equal there."""
    values = plain(values)
    if values.type == kind:
        return values
    if is_text(kind):
        return as_text(values)
    if pa.types.is_integer(kind):
        if is_text(values.type):
            return read_integers(values, kind)
        limits = np.iinfo(kind.to_pandas_dtype())
        numbers = pc.fill_null(values, 0).to_numpy(zero_copy_only=False)
        if pa.types.is_floating(values.type):
            fits = (numbers >= float(limits.min)) & (numbers < float(limits.max))
            fits &= numbers == np.floor(numbers)
        else:
            fits = numbers >= 0 if kind == pa.uint64() else numbers <= np.uint64(limits.max)
        fits &= values.is_valid().to_numpy(zero_copy_only=False)
        return pa.array(np.where(fits, numbers, 0).astype(limits.dtype), mask=~fits)
    if is_text(values.type):
        numbers = read_numbers(values).values
    else:
        numbers = pc.fill_null(values.cast(pa.float64(), safe=False), np.nan).to_numpy(
            zero_copy_only=False
        )
    with np.errstate(over="ignore"):
        numbers = numbers.astype(kind.to_pandas_dtype())
    return pa.array(numbers, mask=np.isnan(numbers))
