"""Raw rows of a table to the arrays of each split."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from deepfm.data.batch import Inputs, Ragged
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.files.columns import named_in_errors
from deepfm.data.labels import WEIGHT_EXPECTED, group_ids, sample_weight
from deepfm.data.options import TableConfig
from deepfm.data.splits import SPLIT_NAMES
from deepfm.data.store.arrays import RaggedIds, SplitArrays, id_type
from deepfm.data.store.history_records import HistoryRecords
from deepfm.data.store.stream import DividedRows, refuse_unless_dropped

_MAX_THREADS = 8  # each holds a batch of rows

T = TypeVar("T")
R = TypeVar("R")


class EncodedBatch(NamedTuple):
    """Arrays to append, by split, with what was left out of them.

    Attributes:
        arrays: Of the splits that have rows.
        dropped: How many rows are in none of them.
        bad: Bad values by column.
        records: Of `HistoryRecords`, one for each row that was encoded; None without histories.
    """

    arrays: dict[str, SplitArrays]
    dropped: int
    bad: Counter[str]
    records: np.ndarray | None = None


class RowEncoding:
    """Raw rows to the arrays of each split; has no state, so that threads can share it.

    Attributes:
        records: Makes those that histories are found by; None: rows have no history.
    """

    def __init__(self, encoders: Encoders, table: TableConfig) -> None:
        self._encoders = encoders
        self._table = table
        self._sparse = id_type(encoders.schema.sparse_fields)
        self._sequence = id_type(encoders.schema.sequence_fields)
        self.records = None
        if table.history is not None:
            self.records = HistoryRecords(encoders.schema, table)

    def __call__(self, batch: DividedRows) -> EncodedBatch:
        rows, split, bad = batch.rows, batch.split, Counter(batch.bad)
        weight = None
        if (column := self._table.sample_weight) is not None:
            with named_in_errors(column):
                weight, is_bad = sample_weight(rows.table[column].combine_chunks())
            refuse_unless_dropped(self._table, rows, column, is_bad, WEIGHT_EXPECTED)
            if is_bad.any():
                bad[column] += int(is_bad.sum())
                split = np.where(is_bad, -1, split)
        encoded = self._encoders.encode_rows(rows)
        bad.update(encoded.bad)
        kept = encoded.kept
        whole = {
            "sparse": encoded.inputs.sparse.numpy().astype(self._sparse),
            "dense": encoded.inputs.dense.numpy(),
            "label": batch.label[kept],
            "row": batch.first + kept.astype(np.int64),
        }
        if weight is not None:
            whole["weight"] = weight[kept]
        if columns := self._table.group_columns:
            whole["group"] = group_ids(rows.table, columns)[kept]
        split, records = split[kept], None
        if self.records is not None and batch.time is not None:
            time, table = batch.time[kept], rows.table
            own = {"time": time, "row": whole["row"], "split": split, "label": whole["label"]}
            records = self.records.of(table, kept, encoded.inputs, **own)
            whole["history_time"] = np.nan_to_num(time)  # where there is none nothing is that old
        arrays = self._by_split(whole, encoded.inputs, split)
        return EncodedBatch(arrays, len(batch.split) - int((split >= 0).sum()), bad, records)

    def _by_split(
        self, whole: dict[str, np.ndarray], inputs: Inputs, split: np.ndarray
    ) -> dict[str, SplitArrays]:
        found = {}
        for number, name in enumerate(SPLIT_NAMES):
            chosen = np.flatnonzero(split == number)
            if not len(chosen):
                continue
            is_all = len(chosen) == len(split)
            plain = {key: array if is_all else array[chosen] for key, array in whole.items()}
            found[name] = self._with_sequences(plain, inputs, chosen)
        return found

    def _with_sequences(
        self, plain: dict[str, np.ndarray], inputs: Inputs, chosen: np.ndarray
    ) -> SplitArrays:
        """The arrays of some rows, with those of the sequence fields."""
        rows, ragged = torch.from_numpy(chosen), {}
        for k, (ids, lengths) in enumerate(
            zip(inputs.sequence_ids, inputs.sequence_lengths, strict=True)
        ):
            counts = lengths[rows].numpy().astype(np.int32)
            if isinstance(ids, Ragged):
                flat = ids.flat(rows).numpy().astype(self._sequence)
                ragged[f"sequence{k}"] = RaggedIds(flat, counts)
            else:
                plain[f"sequence{k}_ids"] = ids[rows].numpy().astype(self._sequence)
                plain[f"sequence{k}_lengths"] = counts
        return SplitArrays(plain, ragged)


def read_ahead(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """The same items, made by another thread while the caller works on earlier ones."""
    remaining = iter(items)
    with ThreadPoolExecutor(1) as pool:
        pending: deque[Future[list[T]]] = deque()
        for _ in range(depth):
            pending.append(pool.submit(_next_of, remaining))
        while item := pending.popleft().result():
            pending.append(pool.submit(_next_of, remaining))
            yield item[0]


def _next_of(items: Iterator[T]) -> list[T]:
    """The next item alone in a list, which is empty at the end."""
    return list(islice(items, 1))


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The function's results in the order of the items, computed by as many threads as cores."""
    workers = min(_MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[R]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
