"""The kinds of encoders."""

from collections.abc import Iterable
from typing import Any

from deepfm.data.encoding.ids import (
    Boundaries,
    DeclaredVocabulary,
    HashBuckets,
    NumBuckets,
    Quantiles,
    QuantileSample,
    Vocabulary,
    VocabularyCounter,
)
from deepfm.data.encoding.numbers import Moments, Scaler
from deepfm.data.schema import FeatureType, FieldSchema
from deepfm.errors import DataError


class NoAccumulator:
    """Nothing to learn: the id of a value does not depend on other values."""

    def __init__(self, field: FieldSchema, position: int) -> None:
        pass

    @staticmethod
    def finish(accumulators: Iterable["NoAccumulator"], field: FieldSchema) -> Any:
        return KINDS[kind_of(field)][1].of(field)


# The kinds of encoders by name: the accumulator that fits one, and the encoder itself.
KINDS: dict[str, tuple[type, type]] = {
    "vocabulary": (VocabularyCounter, Vocabulary),
    "hash_buckets": (NoAccumulator, HashBuckets),
    "num_buckets": (NoAccumulator, NumBuckets),
    "declared_vocabulary": (NoAccumulator, DeclaredVocabulary),
    "boundaries": (NoAccumulator, Boundaries),
    "quantiles": (QuantileSample, Quantiles),
    "scaler": (Moments, Scaler),
}
Encoder = (
    Vocabulary | HashBuckets | NumBuckets | DeclaredVocabulary | Boundaries | Quantiles | Scaler
)


def kind_of(field: FieldSchema) -> str:
    """The key of `KINDS` for a field."""
    if field.feature_type is FeatureType.DENSE:
        return "scaler"
    if field.vocabulary is not None:
        return "declared_vocabulary"
    for kind in ("hash_buckets", "num_buckets", "boundaries", "quantiles"):
        if getattr(field, kind):
            return kind
    return "vocabulary"


def must_be_fitted(field: FieldSchema) -> bool:
    """Whether what the field's values become depends on the training split."""
    if field.feature_type is FeatureType.DENSE:
        return field.scale in ("min_max", "standard") or field.missing in ("mean", "indicator")
    return KINDS[kind_of(field)][0] is not NoAccumulator


def grown(name: str, new: Encoder, base: Encoder) -> Encoder:
    """A table's encoder with all that `base` has learnt.

    Raises:
        DataError: The two differ in kind, or so that the ids of base would mean something else.
    """
    if type(new) is not type(base):
        kinds = {encoder: kind for kind, (_, encoder) in KINDS.items()}
        raise DataError(f"table {name}: {kinds[type(base)]} before, {kinds[type(new)]} now")
    try:
        return new.grown_from(base)
    except DataError as error:
        raise DataError(f"table {name}: {error}") from None
