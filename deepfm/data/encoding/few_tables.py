"""Values to ids by plain arrays, for few values: what the encoders of one table do without Arrow.

Each class is made of the plain data that `deepfm.data.encoding.few_rows_spec` takes from an
encoder, and gives the ids that the encoder gives.
"""

import bisect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from deepfm.data.encoding.few_values import (
    TEXT,
    as_texts,
    real_of_text,
    whole_of_text,
)
from deepfm.data.encoding.functions import boundary_ids, number_ids, quantile_ids
from deepfm.data.encoding.hashing import hash_few

# Values of a vocabulary that a dictionary is made of, on its first use: about 100 bytes each.
# Larger vocabularies are searched by bisection, in the arrays they are given as.
DICTIONARY = 1 << 18


class Table(Protocol):
    """What gives the values of a table's fields their ids."""

    def ids(self, kind: str, values: Sequence[Any]) -> list[int]:
        """The ids of values of a kind of `few_values`; None is no value.

        Of a table that reads numbers, the values are NaN where there is none.
        """
        ...


class Words:
    """Texts to their places from 1 on, 0 for others.

    Args:
        data: The texts in UTF-8 end to end, (bytes,) uint8.
        offsets: Where each begins, and where the last one ends, (n + 1,) int64.
        order: The places from 0 on, in sorted order, (n,) int64; None: they are sorted.
    """

    def __init__(self, data: np.ndarray, offsets: np.ndarray, order: np.ndarray | None) -> None:
        self._data, self._offsets, self._order = data, offsets, order
        self._places: dict[bytes, int] | None = None

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def places(self, texts: Sequence[str | None]) -> list[int]:
        if len(self) > DICTIONARY:
            return [0 if text is None else self._searched(text.encode()) for text in texts]
        if self._places is None:
            all_bytes, offsets = self._data.tobytes(), self._offsets.tolist()
            cut = map(slice, offsets[:-1], offsets[1:])
            self._places = {all_bytes[own]: place for place, own in enumerate(cut, 1)}
        get = self._places.get
        return [0 if text is None else get(text.encode(), 0) for text in texts]

    def _searched(self, text: bytes) -> int:
        """Bytes in UTF-8 sort as the texts do."""
        place = bisect.bisect_left(range(len(self)), text, key=self._text)
        if place == len(self) or self._text(place) != text:
            return 0
        return 1 + (place if self._order is None else int(self._order[place]))

    def _text(self, rank: int) -> bytes:
        place = rank if self._order is None else self._order[rank]
        return self._data[self._offsets[place] : self._offsets[place + 1]].tobytes()


class Numbers:
    """Numbers to their places from 1 on, 0 for others.

    Args:
        values: Distinct, (n,) int64, uint64, float32 or float64.
        order: As that of `Words`.
    """

    def __init__(self, values: np.ndarray, order: np.ndarray | None) -> None:
        self._values, self._order = values, order
        self._places: dict[float, int] | None = None
        self._sorted: np.ndarray | None = None

    @property
    def are_whole(self) -> bool:
        return self._values.dtype.kind != "f"

    @property
    def are_positive(self) -> bool:
        return self._values.dtype.kind == "u"

    def rounded(self, number: float) -> float:
        """A number as one of the type that the values have."""
        if self._values.dtype.itemsize == 8:
            return float(number)
        with np.errstate(over="ignore"):
            return float(np.float32(number))

    def places(self, numbers: Sequence[float | None]) -> list[int]:
        if len(self._values) > DICTIONARY:
            return [0 if number is None else self._searched(number) for number in numbers]
        if self._places is None:
            self._places = {value: k for k, value in enumerate(self._values.tolist(), 1)}
        get = self._places.get
        return [get(number, 0) for number in numbers]  # type: ignore[arg-type]

    def _searched(self, number: float) -> int:
        if self._sorted is None:
            self._sorted = self._values if self._order is None else self._values[self._order]
        if self.are_whole:
            limits = np.iinfo(self._values.dtype)
            if not limits.min <= number <= limits.max or number != int(number):
                return 0
        wanted = self._values.dtype.type(number)
        place = int(np.searchsorted(self._sorted, wanted))
        if place == len(self._sorted) or self._sorted[place] != wanted:
            return 0
        return 1 + (place if self._order is None else int(self._order[place]))


def words_of(plain: Mapping[str, Any]) -> Words | Numbers:
    """A vocabulary of plain data."""
    order = plain.get("order")
    if "offsets" in plain:
        return Words(plain["data"], plain["offsets"], order)
    return Numbers(plain["values"], order)


class PlainVocabulary:
    """As `deepfm.data.encoding.ids.Vocabulary`."""

    def __init__(self, plain: Mapping[str, Any]) -> None:
        self._words = words_of(plain["words"])
        self._buckets = plain.get("overflow_buckets", 0)

    def ids(self, kind: str, values: Sequence[Any]) -> list[int]:
        places = self._places(kind, values)
        if not (buckets := self._buckets):
            return places
        ids = [place + buckets if place else 0 for place in places]
        texts = as_texts(kind, values)
        others = [k for k, text in enumerate(texts) if not ids[k] and text is not None]
        hashes = hash_few([str(texts[k]).encode() for k in others], "xxh64")
        for k, hashed in zip(others, hashes, strict=True):
            ids[k] = hashed % buckets + 1
        return ids

    def _places(self, kind: str, values: Sequence[Any]) -> list[int]:
        words = self._words
        if isinstance(words, Words):
            return words.places(as_texts(kind, values))
        if words.are_whole:
            # a float finds the whole number that it equals
            return words.places(_wholes(words, values) if kind == TEXT else values)
        return words.places([None if v is None else words.rounded(v) for v in _reals(kind, values)])


def _wholes(words: Numbers, texts: Sequence[str | None]) -> list[int | None]:
    found: list[int | None] = []
    for text in texts:
        is_none = text is None or (words.are_positive and text.startswith("-"))
        found.append(None if is_none or text is None else whole_of_text(text))
    return found


def _reals(kind: str, values: Sequence[Any]) -> Sequence[float | None]:
    if kind != TEXT:
        return values
    numbers = [None if text is None else real_of_text(text) for text in values]
    return [number if number is None or abs(number) < np.inf else None for number in numbers]


class PlainHashBuckets:
    """As `deepfm.data.encoding.ids.HashBuckets`."""

    def __init__(self, plain: Mapping[str, Any]) -> None:
        self._buckets, self._function = plain["hash_buckets"], plain["function"]
        self._padding = int(plain["padding"])

    def ids(self, kind: str, values: Sequence[Any]) -> list[int]:
        texts = as_texts(kind, values)
        hashes = iter(
            hash_few([text.encode() for text in texts if text is not None], self._function)
        )
        buckets, padding = self._buckets, self._padding
        return [padding - 1 if text is None else next(hashes) % buckets + padding for text in texts]


class PlainDeclaredVocabulary:
    """As `deepfm.data.encoding.ids.DeclaredVocabulary`."""

    def __init__(self, plain: Mapping[str, Any]) -> None:
        self._words = words_of(plain["words"])
        self._ids = plain["ids"]
        self._other = -1 if plain["oov_id"] is None else plain["oov_id"]

    def ids(self, kind: str, values: Sequence[Any]) -> list[int]:
        assert isinstance(self._words, Words)
        texts = as_texts(kind, values)
        places = self._words.places(texts)
        return [
            int(self._ids[place - 1]) if place else (-1 if text is None else self._other)
            for place, text in zip(places, texts, strict=True)
        ]


class PlainNumBuckets:
    """As `deepfm.data.encoding.ids.NumBuckets`: what reads its numbers has seen to their range."""

    def __init__(self, plain: Mapping[str, Any]) -> None:
        pass

    def ids(self, kind: str, values: Sequence[Any]) -> list[int]:
        return list(values)


class PlainEdges:
    """As `deepfm.data.encoding.ids.Quantiles` and `Boundaries`."""

    def __init__(self, plain: Mapping[str, Any]) -> None:
        is_quantiles = "edges" in plain
        self._ids_of = quantile_ids if is_quantiles else boundary_ids
        edges, dtype = (
            plain["edges" if is_quantiles else "boundaries"],
            float if is_quantiles else np.float32,
        )
        self._edges = np.array(edges, dtype)

    def ids(self, kind: str, values: Sequence[Any]) -> list[int]:
        found: list[int] = self._ids_of(self._edges, np.asarray(values, np.float64)).tolist()
        return found


class PlainNumberBits:
    """As `deepfm.data.encoding.ids.NumberBits`."""

    def __init__(self, plain: Mapping[str, Any]) -> None:
        pass

    def ids(self, kind: str, values: Sequence[Any]) -> list[int]:
        found: list[int] = number_ids(np.asarray(values, np.float64)).tolist()
        return found


# By the kind of the encoder.
TABLES: Mapping[str, Callable[[Mapping[str, Any]], Table]] = {
    "vocabulary": PlainVocabulary,
    "vocabulary_with_buckets": PlainVocabulary,  # a kind of its own, which older releases refuse
    "hash_buckets": PlainHashBuckets,
    "declared_vocabulary": PlainDeclaredVocabulary,
    "num_buckets": PlainNumBuckets,
    "quantiles": PlainEdges,
    "boundaries": PlainEdges,
    "numbers": PlainNumberBits,
}
