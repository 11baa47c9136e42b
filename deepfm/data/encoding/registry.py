"""The kinds of encoders, and which of them a field has."""

from typing import TYPE_CHECKING, Any

from deepfm.data.encoding.ids import (
    Boundaries,
    DeclaredVocabulary,
    HashBuckets,
    NumberBits,
    NumBuckets,
    Quantiles,
    Vocabulary,
)
from deepfm.data.encoding.kinds import Encoder
from deepfm.data.encoding.numbers import Scaler
from deepfm.errors import DataError

if TYPE_CHECKING:
    from deepfm.data.schema import FieldSchema

# What gives ids to the values of a field; the vocabulary of the training split by default.
ID_ENCODERS: tuple[type[Encoder], ...] = (
    Vocabulary,
    HashBuckets,
    Quantiles,
    NumBuckets,
    DeclaredVocabulary,
    Boundaries,
    NumberBits,
)


def kind_of(field: "FieldSchema") -> type[Encoder]:
    """The kind of encoder that a field has."""
    if field.is_dense:
        return Scaler
    return next((kind for kind in ID_ENCODERS[::-1] if kind.chosen_by(field)), Vocabulary)


def grown(name: str, new: Encoder, base: Any) -> Encoder:
    """A table's encoder with all that `base` has learnt.

    Raises:
        DataError: The two differ in kind, or so that the ids of base would mean something else.
    """
    if type(new) is not type(base):
        raise DataError(f"table {name}: {base.kind} before, {new.kind} now")
    try:
        return new.grown_from(base)
    except DataError as error:
        raise DataError(f"table {name}: {error.problem}") from None
