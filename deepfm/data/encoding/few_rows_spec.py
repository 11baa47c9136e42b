"""Fitted encoders to the plain data that `FewRows` is made of."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.few_rows import VERSION, FewRows
from deepfm.data.encoding.few_transforms import TRANSFORMS
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
from deepfm.data.encoding.numbers import FILLED_WITH_MEAN, Scaler
from deepfm.data.encoding.readers import FieldReader, IndicatorReader
from deepfm.data.encoding.scales import SCALES, Figures, Log1p, MinMax, PlainLog1p, Scale, Standard
from deepfm.data.encoding.transforms import (
    Before,
    Bucket,
    CriteoLog,
    Expression,
    Hour,
    HourOfWeek,
    IsMissing,
    Log10,
    Prefix,
    Transform,
    Weekday,
    ZScore,
    argument_of,
    transform_class,
)
from deepfm.data.encoding.transforms import MinMax as MinMaxTransform
from deepfm.data.files.columns import is_text

# Classes that `FewRows` knows; a field with another one, such as one of a plug-in, is not plain.
_TRANSFORMS: set[type[Transform]] = {
    Bucket, Prefix, Before, CriteoLog, IsMissing, Log10, ZScore, MinMaxTransform, Expression, Hour,
    Weekday, HourOfWeek,
}  # fmt: skip
_IN_LOGARITHMS: Mapping[type[Scale], bool] = {
    Scale: False, MinMax: False, Standard: False, Log1p: True, PlainLog1p: True,
}  # fmt: skip


def few_rows(encoders: Encoders) -> FewRows:
    """What encodes few rows as these encoders do."""
    return FewRows.of_plain(few_rows_spec(encoders))


def few_rows_spec(encoders: Encoders) -> dict[str, Any]:
    """Fields and tables as plain data: dicts, lists, texts, numbers and NumPy arrays."""
    fields: list[dict[str, Any]] = []
    tables: dict[str, Any] = {}
    scalers: dict[str, Any] = {}
    for reader, encoder in encoders.parts():
        field = _field(reader)
        fields.append(field)
        if isinstance(encoder, Scaler):
            scaler = _scaler(encoder)
            if scaler is None:
                field["not_plain"] = True
            else:
                scalers[field["name"]] = scaler
        elif (plain := _PLAIN.get(type(encoder))) is None:
            field["not_plain"] = True
        elif field["table"] not in tables:
            tables[field["table"]] = {"kind": encoder.kind} | plain(encoder)
    return {"version": VERSION, "fields": fields, "tables": tables, "scalers": scalers}


def _field(reader: FieldReader) -> dict[str, Any]:
    """How a field is read."""
    field = reader.field
    kind = transform_class(field.transform)
    transform = None
    not_plain = False
    if field.transform is not None and not (kind.gives_lists and reader.takes_lists):
        transform = [kind.name, argument_of(field.transform)]
        not_plain = kind not in _TRANSFORMS or kind.name not in TRANSFORMS
    is_indicator = isinstance(reader, IndicatorReader)
    source = reader.source if isinstance(reader, IndicatorReader) else None
    # an odd setting: what is missing of an indicator, which never is
    is_of_indicator = source is not None and transform_class(source.field.transform).tells_absence
    needs_number = field.is_dense and field.missing == "error" and field.default is None
    return {
        "name": field.name,
        "type": field.feature_type.value,
        "group": field.group,
        "columns": list(field.raw_columns),
        "needs_columns": not reader.can_do_without_columns(),
        "cut": field.cut_at,
        "transform": transform,
        "reads": field.encoder.reads,
        "bad_values": field.bad_values,
        "default": field.default_elements,
        "empty_is_absent": field.absent_id < 0 or field.default is not None,
        "absent_id": field.absent_id,
        "out_of_range": field.out_of_range,
        "vocabulary_size": field.vocabulary_size,
        "takes_lists": reader.takes_lists,
        "max_length": field.max_length,
        "keep": field.keep,
        "sequence": field.sequence,
        "keeps_places": field.keeps_places,
        "table": field.embedding_name,
        "value_dim": field.value_dim,
        "needs_number": needs_number and not is_indicator,
        "above": -np.inf if is_indicator else SCALES[field.scale].above,
        "is_indicator": is_indicator,
        "source": None if source is None else source.field.name,
        "not_plain": not_plain or (is_indicator and field.value_dim > 1) or is_of_indicator,
    }


def _scaler(scaler: Scaler) -> dict[str, Any] | None:
    """The figures of a dense field; None: its scale is not one of ours."""
    scale = SCALES[scaler.scale]
    if type(scale) not in _IN_LOGARITHMS:
        return None
    figures = Figures(scaler.low, scaler.high, scaler.mean, scaler.deviation)
    origin, span = scale.line(figures)
    mean = scaler.mean if scaler.filling is None else scaler.filling
    return {
        "fill": mean if scaler.missing in FILLED_WITH_MEAN else 0.0,
        "limits": None if scaler.limits is None else list(scaler.limits),
        "is_logarithmic": _IN_LOGARITHMS[type(scale)],
        "origin": origin,
        "span": span,
        "default": None if scaler.default is None else list(scaler.default),
    }


def _words(values: pa.Array) -> dict[str, Any]:
    """A vocabulary as arrays."""
    found: dict[str, Any]
    if is_text(values.type):
        texts = values.cast(pa.large_binary())
        lengths = pc.binary_length(texts).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        data = np.frombuffer(b"".join(texts.to_pylist()), np.uint8)
        found = {"data": data, "offsets": offsets}
    else:
        found = {"values": values.to_numpy(zero_copy_only=False)}
    order = pc.sort_indices(values).to_numpy()
    if not np.array_equal(order, np.arange(len(order))):
        found["order"] = order.astype(np.int64)
    return found


def _of_vocabulary(encoder: Vocabulary) -> dict[str, Any]:
    plain: dict[str, Any] = {"words": _words(encoder.values)}
    if encoder.buckets:
        plain |= {"kind": "vocabulary_with_buckets", "overflow_buckets": encoder.buckets}
    return plain


def _of_declared(encoder: DeclaredVocabulary) -> dict[str, Any]:
    words = encoder.words
    return {"words": _words(words.words), "ids": words.ids, "oov_id": encoder.oov_id}


_PLAIN: Mapping[type[Encoder], Callable[[Any], dict[str, Any]]] = {
    Vocabulary: _of_vocabulary,
    DeclaredVocabulary: _of_declared,
    HashBuckets: HashBuckets.to_dict,
    NumBuckets: NumBuckets.to_dict,
    Quantiles: Quantiles.to_dict,
    Boundaries: Boundaries.to_dict,
    NumberBits: NumberBits.to_dict,
}
