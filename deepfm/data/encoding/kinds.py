"""What a kind of encoder says about itself, so that nothing else compares the kinds' names."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa

from deepfm.errors import DataError

if TYPE_CHECKING:
    from deepfm.data.schema import FieldSchema


class Counted(NamedTuple):
    """Categorical values, each with its number of rows."""

    values: pa.Array
    counts: np.ndarray


class NumbersOfRows(NamedTuple):
    """Numbers, each with a place that no other number of its field has.

    Attributes:
        numbers: (N,) float64 without NaN.
        places: The row of each over all rows, from 0, and of a vector of V numbers that times V and
            its place in the vector; rising, (N,) int64.
    """

    numbers: np.ndarray
    places: np.ndarray


State = Mapping[str, pa.Array]  # what an accumulator has learnt, by names of its own


class TrainingValues(Protocol):
    """The values of one field in some rows of the training split."""

    def counted(self) -> Counted:
        """Categorical values, as `plain` gives them, as good as distinct."""
        ...

    def numbers(self) -> NumbersOfRows:
        """The numbers that are there."""
        ...


class Accumulator(Protocol):
    """Sees the training split batch by batch, for one field.

    Rows may be shared out: the batches of a share are runs of rows that follow each other, and an
    accumulator that has merged the states of all shares, in their order, has learnt what one that
    saw all rows has, bit for bit.
    """

    def learn(self, values: TrainingValues) -> None:
        """Take in the values of some rows, which come after those seen before."""
        ...

    def state(self) -> State:
        """All that was learnt so far, for `merge`."""
        ...

    def merge(self, state: State) -> None:
        """Take in what another has learnt of later rows."""
        ...


class Encoder(ABC):
    """What the values of the fields with one `embedding_name` become.

    A class below it is a kind of encoder. Fields are read, and their settings checked, by what
    the class says about the kind.

    Attributes:
        kind: What the kind is called in messages.
        key: The setting of a field that chooses it.
        options: Settings of a field that mean something beside `key` only.
        table_options: Those of them that decide which value has which row, so that fields of one
            table must agree on them.
        free_settings: Settings that a warm start may change, because `grown_from` looks at what
            they decide.
        in_sequences: Whether the elements of a sequence can be encoded so.
        reads: What its values are read as: a `category` of any type, a `text`, a `whole number`
            or a `number`.
        has_declared_ids: Whether ids are those that the declaration says, from 0 on, so that no
            row is reserved.
        counts_unknown: Whether id 0 stands for values that training has not seen.
    """

    kind: ClassVar[str]
    key: ClassVar[str] = ""
    options: ClassVar[tuple[str, ...]] = ()
    table_options: ClassVar[tuple[str, ...]] = ()
    free_settings: ClassVar[tuple[str, ...]] = ()
    in_sequences: ClassVar[bool] = True
    reads: ClassVar[Literal["category", "text", "whole number", "number"]] = "category"
    has_declared_ids: ClassVar[bool] = False
    counts_unknown: ClassVar[bool] = False

    @property
    @abstractmethod
    def vocabulary_size(self) -> int:
        """Number of ids, the reserved one included; 0 where there is no table."""

    @property
    def learnt(self) -> dict[str, Any]:
        """What a field's schema says of it; the keys are `deepfm.data.schema.LEARNT`."""
        return {"vocabulary_size": self.vocabulary_size}

    @abstractmethod
    def encode(self, values: pa.Array) -> np.ndarray:
        """What each value becomes, (N,), or (N, value_dim) of vectors."""

    @abstractmethod
    def grown_from(self, base: Self) -> Self:
        """This encoder with all that `base` has learnt.

        Raises:
            DataError: An id of base would mean something else.
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain data and arrays of bytes; `from_dict` is the inverse, and takes tensors, too."""

    @classmethod
    @abstractmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self: ...

    @classmethod
    def chosen_by(cls, field: "FieldSchema") -> bool:
        """Whether the field's settings choose this kind."""
        return bool(getattr(field, cls.key))

    @classmethod
    def must_be_fitted(cls, field: "FieldSchema") -> bool:
        """Whether what the field's values become depends on the training split."""
        return True

    @classmethod
    def declared_rows(cls, field: "FieldSchema") -> int:
        """Rows of the table, as far as they follow from the declaration; else 0."""
        return 0

    @classmethod
    def absent_id(cls, field: "FieldSchema") -> int:
        """The id of no value: -1 where the ids from 0 on are those of values, else 0."""
        return -1 if cls.has_declared_ids else 0

    @classmethod
    def accumulator(cls, field: "FieldSchema", position: int) -> Accumulator | None:
        """What learns of the training split for a field; None: nothing is learnt.

        Args:
            position: Of the field in its schema.
        """
        return None

    @classmethod
    @abstractmethod
    def fitted(cls, fields: Sequence["FieldSchema"], learnt: Sequence[Any]) -> Self:
        """The encoder of the fields of one table.

        Args:
            learnt: The accumulator of each field, if the kind has any.
        """


def refuse_change(what: str, before: object, now: object) -> None:
    """Refuse a setting that another one of before does not allow.

    Raises:
        DataError: They differ.
    """
    if before != now:
        raise DataError(f"{before} {what} before, {now} now")
