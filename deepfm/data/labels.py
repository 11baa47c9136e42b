"""The label of a row, its weight, and the groups it belongs to, from what raw columns hold."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.encoding.cells import as_text, read_numbers, where
from deepfm.data.encoding.hashing import hash_texts
from deepfm.data.files.columns import combined, is_list, is_text, named_in_errors
from deepfm.errors import DataError, Place, nearest, shown

_ROWS_AT_ONCE = 1 << 20
# Of words that answer a question the one that says yes, however they are written.
_YES = {
    form(word): form(yes)
    for no, yes in (("no", "yes"), ("n", "y"), ("f", "t"))
    for word in (no, yes)
    for form in (str.lower, str.upper, str.capitalize)
}
NO_GROUP = 0  # a hash is 0 once in 2^64


@dataclass(frozen=True)
class LabelRule(ABC):
    """Where a label comes from, and what it is.

    Attributes:
        column: The raw column.
        threshold, positive: What counts as 1, as in `binary_label`.
        num_class: How many classes there are.
        values: Those of the classes, in the order of their numbers; empty: they are numbers.
        tells: Whether the column says what the label is, so that no field may read it.
    """

    tells: ClassVar[bool] = True

    column: str
    threshold: float | None = None
    positive: str | None = None
    num_class: int = 1
    values: tuple[str, ...] = ()

    @property
    @abstractmethod
    def expected(self) -> str:
        """What must stand in the column, for an error."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """How many different labels there are; 0: any number."""

    @property
    def key(self) -> dict[str, object]:
        """What it depends on beside the column, for the key of a store."""
        return {}

    def remedy(self, value: object) -> str:
        """How to declare a label that holds such a bad value, as the end of an error."""
        return ""

    @abstractmethod
    def read(self, values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Labels (N,) float32, and which values are bad, (N,) bool; a bad one's label is 0."""


class BinaryRule(LabelRule):
    """0 or 1, or without a rule false or true."""

    classes = 2

    @property
    def expected(self) -> str:
        return "0 or 1" if self.threshold is None else "a number"

    def remedy(self, value: object) -> str:
        if value is None or (self.threshold, self.positive) != (None, None):
            return ""
        start = f"labels: {{{self.column}: {{column: {self.column}"
        number = _numbers(pa.array([str(value)]))[0]
        if np.isfinite(number):
            threshold = max(number, 0)  # of -1 and 1 the latter is 1
            return (
                f"; from which number on it is 1 say {start}, threshold: {threshold:g}}}}}, or "
                "with kind: number learn the number itself"
            )
        positive = _YES.get(str(value), "…")
        return f'; which text is 1 say {start}, positive: "{positive}"}}}}'

    def read(self, values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        return binary_label(values, threshold=self.threshold, positive=self.positive)


class PresentRule(BinaryRule):
    """1 in every row, which must hold a value: rows that are positives by being there."""

    expected = "a value"
    tells = False

    @property
    def key(self) -> dict[str, object]:
        return {"present": True}

    def remedy(self, value: object) -> str:
        return ""

    def read(self, values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        absent = np.asarray(values.is_null(nan_is_null=True))
        return (~absent).astype(np.float32), absent


class ClassRule(LabelRule):
    """A class: its number, from 0 on, or one of the values that are declared."""

    @property
    def expected(self) -> str:
        if self.values:
            return f"one of the declared classes {', '.join(self.values)}"
        return f"a class from 0 to {self.num_class - 1}"

    def remedy(self, value: object) -> str:
        if value is None or self.values:
            return ""
        return (
            f"; other values than these numbers name labels: {{{self.column}: {{column: "
            f"{self.column}, kind: class, classes: [first, second]}}}}"
        )

    @property
    def classes(self) -> int:
        return max(2, self.num_class)

    @property
    def key(self) -> dict[str, object]:
        return {"num_class": self.num_class} | ({"classes": self.values} if self.values else {})

    def read(self, values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        return class_label(values, self.num_class, self.values)


class NumberRule(LabelRule):
    """Any number."""

    expected = "a finite number"
    classes = 0

    def read(self, values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        return number_label(values)


class WeightRule(LabelRule):
    """No label, but what a row counts for a task; it stands among the labels for their way."""

    classes = 0
    tells = False

    @property
    def expected(self) -> str:
        return WEIGHT_EXPECTED

    @property
    def key(self) -> dict[str, object]:
        return {"column": self.column, "kind": "weight"}

    def read(self, values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        return sample_weight(values)


# By what a config calls the kind of a label.
LABEL_RULES: dict[str, type[LabelRule]] = {
    "binary": BinaryRule,
    "class": ClassRule,
    "number": NumberRule,
}


def refuse_bad(
    column: pa.ChunkedArray,
    bad: np.ndarray,
    expected: str,
    place: Callable[[int], Place],
    remedy: Callable[[object], str] = lambda value: "",
) -> None:
    """Raise for the first bad value of a column that is no field's.

    Args:
        column: The raw values, (N,).
        bad: Which of them are bad, (N,) bool.
        place: Where row `index` stands, with the column.
        remedy: What to do about a bad value, to end the message with.

    Raises:
        DataError: There is one.
    """
    if bad.any():
        index = int(np.argmax(bad))
        value = column[index].as_py()
        found = "nothing" if value is None else shown(value)
        problem = f"expected {expected}, found {found}{remedy(value)}"
        raise DataError(problem, place=place(index))


def binary_label(
    values: pa.Array, *, threshold: float | None = None, positive: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) float32, and which values are bad, (N,) bool; a bad one's label is 0.

    With `positive`, 1 where the value's text is that one. With `threshold`, 1 for numbers from
    it on. With neither, values are 0 or 1 already, or the texts false or true. Bad are absent
    values, and what is no finite number or, without a threshold, any other number.

    Raises:
        DataError: Numbers are needed, and the values are of a type that is none.

    Example:
        >>> binary_label(pa.array(["1", "0", "2"]))
        (array([1., 0., 0.], dtype=float32), array([False, False,  True]))
    """
    if positive is not None:
        values = _decoded(values)
        equal = pc.equal(values.cast(pa.string()), positive)
        return np.asarray(equal.fill_null(False)).astype(np.float32), np.asarray(values.is_null())
    values = _decoded(values)
    numbers = _numbers(values)
    if threshold is None:
        label = numbers == 1
        bad = ~label & (numbers != 0)
        if bad.any() and is_text(values.type):
            words = pc.utf8_lower(pc.utf8_trim_whitespace(values))
            is_true = where(pc.equal(words, "true"))
            label, bad = label | is_true, bad & ~is_true & ~where(pc.equal(words, "false"))
    else:
        label = numbers >= threshold
        bad = np.isnan(numbers)
    return label.astype(np.float32), bad


def class_label(
    values: pa.Array, num_class: int, classes: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of classes, (N,) float32, and which values are bad, (N,) bool; a bad one's is 0.

    Good are the whole numbers 0 … num_class - 1; or with `classes` values whose text is one of
    these (17, 17.0 and "17" are one), whose number is its place among them.

    Raises:
        DataError: The values are of a type that is no number.

    Example:
        >>> class_label(pa.array(["2", "0", "3", "0.5"]), 3)[1]
        array([False, False,  True,  True])
        >>> class_label(pa.array([3, 1]), 3, ("1", "2", "3"))[0]
        array([2., 0.], dtype=float32)
    """
    if classes:
        texts = as_text(_decoded(values))
        found = pc.index_in(texts, value_set=pa.array(classes, texts.type))
        places = pc.fill_null(found, 0).to_numpy(zero_copy_only=False)
        return places.astype(np.float32), np.asarray(found.is_null())
    numbers = _numbers(values)
    good = (numbers >= 0) & (numbers < num_class) & (numbers == np.floor(numbers))
    return np.where(good, numbers, 0).astype(np.float32), ~good


def number_label(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Numbers, (N,) float32, and which values are no finite ones, (N,) bool; a bad one's is 0.

    Raises:
        DataError: The values are of a type that is no number.
    """
    numbers = _numbers(values)
    with np.errstate(over="ignore"):
        numbers = numbers.astype(np.float32)
    bad = ~np.isfinite(numbers)  # a number beyond float32 is not finite either
    return np.where(bad, np.float32(0), numbers), bad


def mean_and_deviation(label: np.ndarray, weight: np.ndarray | None) -> tuple[float, float]:
    """Of numbers that count as much as their rows do in the loss; 1.0 where all are equal.

    Args:
        label: (N,), which may be mapped from a file; it is read a part at a time.
        weight: At least 0, (N,); None: all rows alike.
    """

    def weighted_mean(of: Callable[[np.ndarray], np.ndarray]) -> float:
        total = mass = 0.0
        for start in range(0, len(label), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            values = of(np.asarray(label[part], np.float64))
            own = np.ones(len(values)) if weight is None else np.asarray(weight[part], np.float64)
            total, mass = total + float(own @ values), mass + float(own.sum())
        return total / mass if mass else 0.0

    mean = weighted_mean(lambda values: values)
    deviation = weighted_mean(lambda values: np.square(values - mean)) ** 0.5
    return mean, deviation or 1.0


def class_weights(label: np.ndarray, weight: np.ndarray | None, num_class: int) -> np.ndarray:
    """The summed weight of each class, (C,) float64, of two for one logit.

    Args:
        label, weight: As in `mean_and_deviation`.
    """
    found = np.zeros(max(2, num_class))
    for start in range(0, len(label), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        own = None if weight is None else np.asarray(weight[part], np.float64)
        found += np.bincount(np.asarray(label[part], np.int64), own, len(found))
    return found


def group_ids(table: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """Which group each row belongs to by each column, (N, G) int64.

    The xxh64 (seed 0) of the value's text, so that the id of a value is the same everywhere; 17,
    17.0 and "17" are one value. All rows without a value, or with an empty text, are one group.
    Of a list the first element counts.

    Raises:
        DataError: A column is missing, or holds neither values nor lists of values.
    """
    found = np.empty((table.num_rows, len(columns)), np.int64)
    for index, column in enumerate(columns):
        if column not in table.column_names:
            hint = nearest(column, table.column_names)
            raise DataError(f"data.table.group_columns: no column {column!r}; {hint}")
        with named_in_errors(column):
            values = combined(table[column])
            if is_list(values.type):
                values = pc.list_slice(values, 0, 1, return_fixed_size_list=True)  # null if empty
                values = pc.list_element(values, 0)
            encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
            texts = as_text(encoded.dictionary)
        texts = pc.if_else(pc.equal(texts, ""), None, texts)  # absent, as it is everywhere else
        hashes = hash_texts(texts, "xxh64")  # 0 where there is none
        hashes = np.append(hashes, np.uint64(NO_GROUP)).view(np.int64)
        codes = encoded.indices.fill_null(len(hashes) - 1)
        found[:, index] = hashes[codes.to_numpy(zero_copy_only=False)]
    return found


WEIGHT_EXPECTED = "a finite number of at least 0"


def sample_weight(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Weights (N,) float32, and which values are no finite numbers >= 0, (N,) bool.

    A bad one's weight is 0.

    Raises:
        DataError: The values are of a type that is no number.
    """
    numbers = read_numbers(values).values
    with np.errstate(over="ignore"):
        weights = numbers.astype(np.float32)
    bad = ~(np.isfinite(weights) & (numbers >= 0))  # a number beyond float32 is not finite either
    return np.where(bad, np.float32(0), weights), bad


def _numbers(values: pa.Array) -> np.ndarray:
    """As float64, NaN where there is no finite number; blanks around a text do not count."""
    values = _decoded(values)
    if is_text(values.type):
        values = pc.utf8_trim_whitespace(values)
    numbers: np.ndarray = read_numbers(values).values
    return numbers


def _decoded(values: pa.Array) -> pa.Array:
    """Values in the place of dictionary codes."""
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
