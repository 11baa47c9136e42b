"""Columns that linear models and trees read, made of the encoded rows of a table.

Shapes: N rows, K columns, T targets, E elements of the sequences of all rows.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from deepfm.data.batch import Inputs
from deepfm.data.dataset import TabularDataset
from deepfm.utils.seeding import generator

MOST_CATEGORIES = 250  # of a column of categories
MOST_ELEMENTS = 50  # of a sequence that have a column of their own
FOLDS, SMOOTHING = 5, 20.0  # of means of targets; SMOOTHING rows have the mean of all
_ROWS_AT_ONCE = 65_536

Ids = NDArray[np.int64]
Numbers = NDArray[np.float64]


class Elements(NamedTuple):
    """Ids of the lists of some rows end to end, (E,), and how many each row has, (N,)."""

    ids: Ids
    lengths: Ids

    @property
    def row(self) -> Ids:
        """The row of each element, from 0, (E,)."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


class RowValues(NamedTuple):
    """The encoded values of some rows.

    Attributes:
        sparse: Ids, (N, F_sparse).
        dense: Numbers, (N, columns).
        sequences: Of each sequence field.
    """

    sparse: Ids
    dense: Numbers
    sequences: tuple[Elements, ...]


def values_of(dataset: TabularDataset, rows: Ids) -> RowValues:
    """The values of some rows; those of sequences without padding."""
    parts = [_values(inputs) for inputs in _parts(dataset, rows)]
    sequences = zip(*(part.sequences for part in parts), strict=True)
    return RowValues(
        np.concatenate([part.sparse for part in parts]),
        np.concatenate([part.dense for part in parts]),
        tuple(Elements(*map(np.concatenate, zip(*own, strict=True))) for own in sequences),
    )


def _parts(dataset: TabularDataset, rows: Ids) -> Iterator[Inputs]:
    for start in range(0, max(len(rows), 1), _ROWS_AT_ONCE):
        yield dataset.inputs.select(torch.from_numpy(rows[start : start + _ROWS_AT_ONCE]))


def _values(inputs: Inputs) -> RowValues:
    sequences = []
    for ids, lengths in zip(inputs.padded_ids, inputs.sequence_lengths, strict=True):
        there = torch.arange(ids.shape[1]) < lengths[:, None]
        sequences.append(Elements(ids[there].numpy(), lengths.numpy()))
    return RowValues(inputs.sparse.numpy(), inputs.dense.double().numpy(), tuple(sequences))


class _Known(NamedTuple):
    """Ids that were seen, ascending, and how often."""

    ids: Ids
    counts: Ids

    @classmethod
    def of(cls, ids: Ids) -> "_Known":
        return cls(*np.unique(ids, return_counts=True))

    def place(self, ids: Ids) -> Ids:
        """The place of each id among those seen; -1 where it is none of them."""
        if not len(self.ids):
            return np.full(ids.shape, -1)
        found = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[found] == ids, found, -1)


class OneHotColumns:
    """A column of 0 and 1 per category or element that occurs, and standardised numbers.

    Args:
        dataset, rows: The training rows, which say what occurs.
    """

    def __init__(self, dataset: TabularDataset, rows: Ids) -> None:
        values = values_of(dataset, rows)
        self._sparse = [_Known.of(ids) for ids in values.sparse.T]
        self._sequences = [_Known.of(elements.ids) for elements in values.sequences]
        self._mean = values.dense.mean(axis=0)
        deviation = values.dense.std(axis=0)
        self._deviation = np.where(deviation > 0, deviation, 1.0)

    def __call__(self, dataset: TabularDataset, rows: Ids) -> Any:
        """The columns of some rows, a sparse matrix (N, K) in compressed rows."""
        from scipy import sparse

        values = values_of(dataset, rows)
        dense = (values.dense - self._mean) / self._deviation
        blocks = [sparse.csr_matrix(dense)]
        for known, ids in zip(self._sparse, values.sparse.T, strict=True):
            blocks.append(_indicators(known, Elements(ids, np.ones(len(ids), np.int64))))
        for known, elements in zip(self._sequences, values.sequences, strict=True):
            blocks.append(_indicators(known, elements))
        return sparse.hstack(blocks, format="csr")


def _indicators(known: _Known, elements: Elements) -> Any:
    """1 where a row has an id that is known, (N, known) in compressed rows."""
    from scipy import sparse

    place = known.place(elements.ids)
    there = place >= 0
    shape = (len(elements.lengths), len(known.ids))
    found = sparse.csr_matrix(
        (np.ones(int(there.sum())), (elements.row[there], place[there])), shape=shape
    )
    found.data[:] = 1.0  # an element that a list holds twice was added up
    return found


class CategoryColumns:
    """Categories as whole numbers, means of targets, and numbers as they are.

    Of a field with more than 250 categories the rarest are folded into one, and it gets a column
    per target beside: the target's mean over the category's training rows, smoothed. For a
    training row that mean is of the other folds' rows. A sequence has its length, the mean of
    such means over its elements, and a column of 0 and 1 for each of its 50 most frequent ones.

    Args:
        dataset, rows: The training rows.
        targets: Of those rows, (N, T).
        weight: Of those rows, (N,).
        seed: Of the folds.

    Attributes:
        is_category: Which columns hold categories, (K,) bool.
    """

    def __init__(
        self, dataset: TabularDataset, rows: Ids, targets: Numbers, weight: Numbers, seed: int
    ) -> None:
        values = values_of(dataset, rows)
        fold = generator(seed, "folds").integers(FOLDS, size=len(rows))
        self._sparse = [_Categories(ids) for ids in values.sparse.T]
        self._means: list[_Means | None] = [
            _Means(Elements(ids, np.ones(len(ids), np.int64)), targets, weight, fold)
            if categories.are_folded
            else None
            for categories, ids in zip(self._sparse, values.sparse.T, strict=True)
        ]
        self._sequences = [_Means(own, targets, weight, fold) for own in values.sequences]
        self._elements = [_Frequent.of(own.ids) for own in values.sequences]
        self._training = values, fold
        columns = [np.ones(len(self._sparse), bool)]
        others = self._columns(values, fold).shape[1] - len(self._sparse)
        self.is_category = np.concatenate([*columns, np.zeros(others, bool)])

    def of_training(self) -> Numbers:
        """The columns of the training rows, (N, K); each mean is of the other folds' rows."""
        return self._columns(*self._training)

    def __call__(self, dataset: TabularDataset, rows: Ids) -> Numbers:
        """The columns of other rows, (N, K)."""
        return self._columns(values_of(dataset, rows), None)

    def _columns(self, values: RowValues, fold: Ids | None) -> Numbers:
        ones = np.ones(len(values.sparse), np.int64)
        columns = [
            categories(ids) for categories, ids in zip(self._sparse, values.sparse.T, strict=True)
        ]
        for means, ids in zip(self._means, values.sparse.T, strict=True):
            if means is not None:
                columns += list(means(Elements(ids, ones), fold).T)
        for means, frequent, own in zip(
            self._sequences, self._elements, values.sequences, strict=True
        ):
            columns += [own.lengths.astype(np.float64), *means(own, fold).T]
            columns += list(frequent(own).T)
        columns += list(values.dense.T)
        return np.column_stack(columns) if columns else np.zeros((len(values.sparse), 0))


class _Categories:
    """Numbers below 250 for the ids of a field.

    Attributes:
        are_folded: Whether the rarest ids have one number together, as have ids that are unknown;
            otherwise an unknown one is NaN.
    """

    def __init__(self, ids: Ids) -> None:
        self._known = _Known.of(ids)
        count = len(self._known.ids)
        self.are_folded = count > MOST_CATEGORIES
        self._number = np.arange(count, dtype=np.float64)
        if self.are_folded:
            order = np.argsort(-self._known.counts, kind="stable")
            self._number[order] = np.minimum(np.arange(count), MOST_CATEGORIES - 1)

    def __call__(self, ids: Ids) -> Numbers:
        unknown = MOST_CATEGORIES - 1 if self.are_folded else np.nan
        return np.append(self._number, unknown)[self._known.place(ids)]


class _Means:
    """Means of targets by id; of a list, the mean over its elements."""

    def __init__(self, elements: Elements, targets: Numbers, weight: Numbers, fold: Ids) -> None:
        self._known = _Known.of(elements.ids)
        size = len(self._known.ids)
        place = self._known.place(elements.ids)
        bucket = fold[elements.row] * size + place
        weights = weight[elements.row]

        def sums(values: Numbers) -> Numbers:
            found = np.bincount(bucket, values, FOLDS * size).astype(np.float64)
            return found.reshape(FOLDS, size)

        counts = sums(weights)[..., None]
        totals = np.stack([sums(weights * own[elements.row]) for own in targets.T], axis=-1)
        self._mean = np.average(targets, axis=0, weights=weight)
        self._of_others = self._smoothed(totals.sum(0) - totals, counts.sum(0) - counts)
        self._of_all = self._smoothed(totals.sum(0), counts.sum(0))

    def _smoothed(self, totals: Numbers, counts: Numbers) -> Numbers:
        found: Numbers = (totals + SMOOTHING * self._mean) / (counts + SMOOTHING)
        return found

    def __call__(self, elements: Elements, fold: Ids | None) -> Numbers:
        """The means of rows, (N, T); NaN where a list is empty.

        Args:
            fold: Of training rows; None: the rows are others.
        """
        place, row = self._known.place(elements.ids), elements.row
        found = self._of_all[place] if fold is None else self._of_others[fold[row], place]
        found = np.where(place[:, None] >= 0, found, self._mean)
        totals = [np.bincount(row, own, len(elements.lengths)) for own in found.T]
        with np.errstate(invalid="ignore"):
            return np.stack(totals, axis=1) / elements.lengths[:, None]


class _Frequent(NamedTuple):
    """The most frequent elements of a sequence."""

    known: _Known

    @classmethod
    def of(cls, ids: Ids) -> "_Frequent":
        known = _Known.of(ids)
        kept = np.sort(np.argsort(-known.counts, kind="stable")[:MOST_ELEMENTS])
        return cls(_Known(known.ids[kept], known.counts[kept]))

    def __call__(self, elements: Elements) -> Numbers:
        """Whether each row has each of them, (N, elements)."""
        found: Numbers = _indicators(self.known, elements).toarray().astype(np.float64)
        return found
