"""Raw rows of a table to the arrays of each split."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from deepfm.config import TableConfig
from deepfm.data.batch import Inputs, Ragged
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.labels import group_ids, sample_weight
from deepfm.data.store.stream import PARTS, StreamPart, refuse_bad

_MAX_THREADS = 8  # each holds a batch of rows


class _Encoded(NamedTuple):
    """Arrays to append, by split and name, with what was left out of them."""

    arrays: dict[str, dict[str, np.ndarray]]
    dropped: int
    bad: Counter


class RowEncoding:
    """Raw rows to the arrays of each split; has no state, so that threads can share it."""

    def __init__(self, encoders: Encoders, table: TableConfig) -> None:
        self._encoders = encoders
        self._table = table
        sizes = [
            max((field.vocabulary_size for field in fields), default=0)
            for fields in (encoders.schema.sparse_fields, encoders.schema.sequence_fields)
        ]
        self._sparse, self._sequence = (
            np.int32 if size <= np.iinfo(np.int32).max else np.int64 for size in sizes
        )

    def __call__(self, part: StreamPart) -> _Encoded:
        rows, parts, bad = part.rows, part.parts, Counter(part.bad)
        weight = None
        if (column := self._table.sample_weight) is not None:
            weight, is_bad = sample_weight(rows.table[column].combine_chunks())
            refuse_bad(self._table, rows, column, is_bad, "a finite number of at least 0")
            if is_bad.any():
                bad[column] += int(is_bad.sum())
                parts = np.where(is_bad, -1, parts)
        encoded = self._encoders.encode_rows(rows)
        bad.update(encoded.bad)
        kept = encoded.kept
        whole = self._arrays(encoded.inputs) | {
            "label": part.label[kept],
            "row": part.first + kept.astype(np.int64),
        }
        if weight is not None:
            whole["weight"] = weight[kept]
        if columns := self._table.group_columns:
            whole["group"] = group_ids(rows.table, columns)[kept]
        parts = parts[kept]
        arrays = {}
        for number, name in enumerate(PARTS):
            chosen = np.flatnonzero(parts == number)
            if len(chosen) == len(parts):
                arrays[name] = whole
            elif len(chosen):
                arrays[name] = {key: values[chosen] for key, values in whole.items()}
            else:
                continue
            arrays[name] |= self._sequences(encoded.inputs, chosen)
        return _Encoded(arrays, len(part.parts) - int((parts >= 0).sum()), bad)

    def _arrays(self, inputs: Inputs) -> dict[str, np.ndarray]:
        arrays = {"sparse": inputs.sparse.numpy().astype(self._sparse)}
        arrays["dense"] = inputs.dense.numpy()
        return arrays

    def _sequences(self, inputs: Inputs, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Arrays of the sequence fields for some rows; of a ragged one without its starts."""
        rows, arrays = torch.from_numpy(chosen), {}
        for k, (ids, lengths) in enumerate(
            zip(inputs.sequence_ids, inputs.sequence_lengths, strict=True)
        ):
            found = ids.flat(rows) if isinstance(ids, Ragged) else ids[rows]
            arrays[f"sequence{k}_ids"] = found.numpy().astype(self._sequence)
            arrays[f"sequence{k}_lengths"] = lengths[rows].numpy().astype(np.int32)
        return arrays


def read_ahead(items: Iterable, depth: int = 2) -> Iterator:
    """The same items, made by another thread while the caller works on earlier ones."""
    items, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        pending = deque(pool.submit(next, items, end) for _ in range(depth))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, items, end))
            yield item


def in_threads(function: Callable, items: Iterable) -> Iterator:
    """The function's results in the order of the items, computed by as many threads as cores."""
    workers = min(_MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        pending: deque = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
