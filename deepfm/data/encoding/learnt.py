"""What is learnt of the training split for ids: which values there are, and a sample of numbers.

An accumulator sees the training split batch by batch. What it keeps grows with the distinct values,
never with the rows, and what it finds depends neither on how the rows were cut into batches nor on
how they were shared out: its `state` holds all that another one needs to `merge` it.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.encoding.cells import as_text
from deepfm.data.encoding.kinds import NumbersOfRows, State, TrainingValues
from deepfm.data.order import mix

SAMPLE = 1 << 20  # numbers that quantiles are taken of, if there are more
COUNTER_SLACK = 1 << 16  # counts that may wait before they are merged, at least


class VocabularyCounter:
    """Counts categorical values; counts that wait are merged when they are as many as all others.

    What other counters have found stays as it is until the end, where most of it is not needed.
    """

    def __init__(self) -> None:
        self._merged: list[pa.Table] = []  # each with one row per distinct value
        self._waiting: list[pa.Table] = []
        self._rows_waiting = 0

    def learn(self, values: TrainingValues) -> None:
        self.add(*values.counted())

    def add(self, values: pa.Array, counts: np.ndarray) -> None:
        """Count values as `plain` gives them, each with its number of rows; nulls are left out."""
        table = pa.table({"value": values, "count": counts})
        if values.null_count:
            table = table.filter(values.is_valid())
        if not len(table):
            return
        self._waiting.append(table)
        self._rows_waiting += len(table)
        if self._rows_waiting > max(sum(map(len, self._merged)), COUNTER_SLACK):
            self._merged = [merged_counts(self._merged + self._waiting)]
            self._waiting, self._rows_waiting = [], 0

    def tables(self) -> list[pa.Table]:
        """What was counted; a value stands in each table once, or not at all."""
        return self._merged + ([merged_counts(self._waiting)] if self._waiting else [])

    def state(self) -> State:
        if not (parts := self._merged + self._waiting):
            return {}
        table = merged_counts(parts)
        return {name: table[name].combine_chunks() for name in table.column_names}

    def merge(self, state: State) -> None:
        if state:
            self._merged.append(pa.table(state))

    @staticmethod
    def finish(counters: Iterable["VocabularyCounter"], min_count: int) -> pa.Array:
        """All values that were counted `min_count` times or more, sorted."""
        values = _counted(counters, min_count)["value"].combine_chunks()
        return values.take(pc.sort_indices(values))

    @staticmethod
    def by_count(counters: Iterable["VocabularyCounter"], min_count: int) -> pa.Array:
        """As `finish`, the most frequent first; of equally many the smaller value."""
        table = _counted(counters, min_count)
        order = pc.sort_indices(table, [("count", "descending"), ("value", "ascending")])
        return table["value"].combine_chunks().take(order)


def _counted(counters: Iterable[VocabularyCounter], min_count: int) -> pa.Table:
    """Values with their counts, those of `min_count` or more."""
    parts = [table for counter in counters for table in counter.tables()]
    if not parts:
        return pa.table({"value": pa.array([], pa.large_string()), "count": np.zeros(0, np.int64)})
    parts = _of_one_type(parts)
    if 1 < min_count <= len(parts):
        parts = [parts[0], _all_counts(parts[1:])]
    if len(parts) > 1:
        some = -(-min_count // len(parts))  # so often it is in one part, if it is in all together
        parts = [_all_counts(parts) if some <= 1 else _counts_of(_frequent(parts, some), parts)]
    return parts[0].filter(pc.greater_equal(parts[0]["count"], min_count))


def _all_counts(parts: list[pa.Table]) -> pa.Table:
    """As `merged_counts`, of many parts with no more of them in memory than needed."""
    joint = VocabularyCounter()
    for part in parts:
        joint.add(part["value"].combine_chunks(), part["count"].to_numpy())
    return merged_counts(joint.tables())


def _frequent(parts: list[pa.Table], count: int) -> pa.Array:
    """The distinct values that some part counts so often."""
    often = [part.filter(pc.greater_equal(part["count"], count)) for part in parts]
    return pa.concat_tables(often)["value"].unique()


def _counts_of(values: pa.Array, parts: list[pa.Table]) -> pa.Table:
    """The counts of some distinct values in all parts.

    Most values are rare. To find those that are asked for among them takes a third of the time in
    which a table of all is made.
    """
    counts = np.zeros(len(values), np.int64)
    for part in parts:
        places = pc.index_in(part["value"], values)
        found = places.is_valid().to_numpy()
        own = np.bincount(
            places.drop_null().to_numpy(), part["count"].to_numpy()[found], minlength=len(values)
        )
        counts += own.astype(np.int64)  # exact to 2^53
    return pa.table({"value": values, "count": counts})


def _of_one_type(parts: list[pa.Table]) -> list[pa.Table]:
    """The parts, with values as text if they are of unequal types."""
    if len({part["value"].type for part in parts}) == 1:
        return parts
    texts = [pa.chunked_array([as_text(part["value"].combine_chunks())]) for part in parts]
    return [part.set_column(0, "value", text) for part, text in zip(parts, texts, strict=True)]


def merged_counts(parts: list[pa.Table]) -> pa.Table:
    """One row per distinct value, in no particular order; values of unequal types become text."""
    table = pa.concat_tables(_of_one_type(parts)).combine_chunks()
    encoded = table["value"].combine_chunks().dictionary_encode()
    counts = np.bincount(encoded.indices.to_numpy(), table["count"].to_numpy())  # exact to 2^53
    return pa.table({"value": encoded.dictionary, "count": counts.astype(np.int64)})


class QuantileSample:
    """Keeps numbers for their quantiles: all of up to 2^20, else a uniform sample of that size.

    The sample is the numbers whose places have the smallest hashes, so it is always the same one.

    Args:
        position: Of the field in its schema: the places of fields that share buckets are different
            ones.
        size: Of the sample.
    """

    def __init__(self, position: int, size: int = SAMPLE) -> None:
        self._first = position << 40
        self._size = size
        self._hashes: list[np.ndarray] = []
        self._numbers: list[np.ndarray] = []

    def learn(self, values: TrainingValues) -> None:
        self.add(values.numbers())

    def add(self, found: NumbersOfRows) -> None:
        places = found.places.astype(np.uint64) + np.uint64(self._first)
        self._append(splitmix64(places), found.numbers)

    def state(self) -> State:
        self._cut()
        return {"hash": pa.array(self._hashes[0]), "number": pa.array(self._numbers[0])}

    def merge(self, state: State) -> None:
        self._append(state["hash"].to_numpy(), state["number"].to_numpy())

    def _append(self, hashes: np.ndarray, numbers: np.ndarray) -> None:
        self._hashes.append(hashes)
        self._numbers.append(numbers)
        if sum(map(len, self._hashes)) > 2 * self._size:
            self._cut()

    def _cut(self) -> None:
        hashes = np.concatenate([np.zeros(0, np.uint64), *self._hashes])
        numbers = np.concatenate([np.zeros(0), *self._numbers])
        if len(hashes) > self._size:
            smallest = np.argpartition(hashes, self._size)[: self._size]
            hashes, numbers = hashes[smallest], numbers[smallest]
        self._hashes, self._numbers = [hashes], [numbers]

    def numbers(self) -> np.ndarray:
        """The sample, rising."""
        self._cut()
        return np.sort(self._numbers[0])

    @staticmethod
    def finish(samples: Sequence["QuantileSample"], count: int) -> np.ndarray:
        """The edges of at most `count` buckets, rising.

        Edge k is the smallest number that k/n of the rows do not exceed; equal ones merge.
        """
        joint = QuantileSample(0, samples[0]._size)
        for sample in samples:
            joint._hashes += sample._hashes
            joint._numbers += sample._numbers
        numbers = joint.numbers()
        if not len(numbers):
            return np.zeros(0)
        count = min(count, len(numbers))  # as many buckets as numbers: there cannot be more
        places = -(-np.arange(1, count) * len(numbers) // count) - 1  # ceil(k N / n)-th smallest
        edges = np.unique(numbers[places])
        below: np.ndarray = edges[edges < numbers[-1]]  # nothing stands above the largest
        return below


def splitmix64(numbers: np.ndarray) -> np.ndarray:
    """A hash of uint64 numbers, none of which share one.

    Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014
    (the generator's output after `number + 1` steps from seed 0).
    """
    return mix(numbers * np.uint64(0x9E3779B97F4A7C15))
