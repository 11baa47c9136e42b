"""Raw rows of a table to the arrays of each split."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from deepfm.data.encoding.arrays import FlatLists
from deepfm.data.encoding.encoders import Encoders, KeptArrays
from deepfm.data.files.columns import named_in_errors
from deepfm.data.labels import WEIGHT_EXPECTED, group_ids, sample_weight
from deepfm.data.options import TableConfig
from deepfm.data.splits import SPLIT_NAMES
from deepfm.data.store.arrays import RaggedIds, SplitArrays, id_type
from deepfm.data.store.history_records import HistoryRecords
from deepfm.data.store.stream import DividedRows, refuse_unless_dropped


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
        encoded = self._encoders.encode_kept(rows)
        bad.update(encoded.bad)
        kept = encoded.kept
        whole = {
            "sparse": encoded.sparse.astype(self._sparse),
            "dense": encoded.dense,
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
            records = self.records.of(table, kept, encoded.sparse, **own)
            whole["history_time"] = np.nan_to_num(time)  # where there is none nothing is that old
        arrays = self._by_split(whole, encoded, split)
        return EncodedBatch(arrays, len(batch.split) - int((split >= 0).sum()), bad, records)

    def _by_split(
        self, whole: dict[str, np.ndarray], encoded: KeptArrays, split: np.ndarray
    ) -> dict[str, SplitArrays]:
        found = {}
        for number, name in enumerate(SPLIT_NAMES):
            chosen = np.flatnonzero(split == number)
            if not len(chosen):
                continue
            is_all = len(chosen) == len(split)
            plain = {key: array if is_all else array[chosen] for key, array in whole.items()}
            found[name] = self._with_sequences(plain, encoded, chosen)
        return found

    def _with_sequences(
        self, plain: dict[str, np.ndarray], encoded: KeptArrays, chosen: np.ndarray
    ) -> SplitArrays:
        """The arrays of some rows, with those of the sequence fields."""
        ragged = {}
        for k, (ids, lengths) in enumerate(
            zip(encoded.sequence_ids, encoded.sequence_lengths, strict=True)
        ):
            counts = lengths[chosen].astype(np.int32)
            if isinstance(ids, FlatLists):
                ragged[f"sequence{k}"] = RaggedIds(ids.of(chosen).astype(self._sequence), counts)
            else:
                plain[f"sequence{k}_ids"] = ids[chosen].astype(self._sequence)
                plain[f"sequence{k}_lengths"] = counts
        return SplitArrays(plain, ragged)
