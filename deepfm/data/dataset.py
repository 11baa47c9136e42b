"""Encoded rows as whole arrays: batches, epochs with fresh negatives, the ranking task."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepfm.data.batch import Batch, Inputs, Pairs, Ragged
from deepfm.data.encoding.functions import number_ids
from deepfm.data.encoding.sequences import first_difference
from deepfm.data.item_columns import ItemColumns
from deepfm.data.labels import class_weights
from deepfm.data.negatives import PairSampling
from deepfm.data.order import Order, ShardedOrder
from deepfm.data.sampling import Interactions, draw_negatives
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.errors import DataError, shown
from deepfm.utils.seeding import generator


class Catalogue(NamedTuple):
    """The encoded features of all items, and where they stand in the inputs of a full row.

    Attributes:
        inputs: The fields of group `item`, one row per item.
        columns: Where those fields stand in a full row.
    """

    inputs: Inputs
    columns: ItemColumns

    @classmethod
    def of(cls, schema: DatasetSchema, inputs: Inputs) -> "Catalogue":
        """Of encoded items, whose ids a data set may hold as int32."""
        return cls(inputs.to("cpu"), ItemColumns.of(schema))

    def overwrite(self, inputs: Inputs, rows: Tensor, items: Tensor) -> None:
        """Overwrite, in place, the item features of some rows with those of the given items."""
        inputs.sparse[rows[:, None], self.columns.sparse] = self.inputs.sparse[items]
        inputs.dense[rows[:, None], self.columns.dense] = self.inputs.dense[items]
        for own, position in enumerate(self.columns.sequences):
            ids, there = self.inputs.sequence_ids[own][items], _padded(inputs, position)
            there[rows] = _widened(ids, there)
            inputs.sequence_lengths[position][rows] = self.inputs.sequence_lengths[own][items]

    def with_room(self, inputs: Inputs) -> Inputs:
        """The inputs, with the item sequences wide enough for those of any item."""
        ids = list(inputs.sequence_ids)
        for own, position in enumerate(self.columns.sequences):
            ids[position] = _widened(_padded(inputs, position), _padded(self.inputs, own))
        return inputs._replace(sequence_ids=tuple(ids))

    def clear(self, inputs: Inputs) -> None:
        """Overwrite, in place, the item features of all rows with ids, numbers and lengths of 0."""
        inputs.sparse[:, self.columns.sparse] = 0
        inputs.dense[:, self.columns.dense] = 0.0
        for position in self.columns.sequences:
            _padded(inputs, position).zero_()
            inputs.sequence_lengths[position].zero_()


@dataclass(frozen=True)
class NegativeSampling:
    """How a training epoch is completed with sampled negatives.

    Attributes:
        count: Negatives per positive row.
        user: User position of each row, (N,).
        excluded: Pairs that are never drawn.
        catalogue: The items to draw from.
        pairs: How positive rows get items that they are compared with, where a loss does that: an
            epoch has no sampled copies then, whatever `count` is; None: no loss does.
    """

    count: int
    user: np.ndarray
    excluded: Interactions
    catalogue: Catalogue
    pairs: PairSampling | None = None

    @property
    def copies(self) -> int:
        """Sampled copies per positive row in an epoch."""
        return 0 if self.pairs is not None else self.count


class Prior(NamedTuple):
    """Log-odds of a positive row of the training split.

    Attributes:
        explicit: Among its rows as they are labelled; infinite where all labels are equal.
        trained: Among the rows of an epoch, sampled negatives included.
    """

    explicit: float
    trained: float

    @property
    def shift(self) -> float:
        """What the logit of a model of the trained rows lacks to be one of the labelled rows.

        Source: G. King, L. Zeng, "Logistic Regression in Rare Events Data", Political Analysis
        2001, section 4.1 (prior correction).
        """
        return self.explicit - self.trained


class RankingTask(NamedTuple):
    """Held-out positives that are ranked among sampled candidates.

    Attributes:
        rows: Rows of the data set that hold a positive, (U,).
        items: Item positions, (U, 1 + C) int64: the positive first, then its candidates in the
            order they were drawn; -1 where a user has fewer.
        num_negatives: How many of the candidates the main protocol uses; there may be more.
        catalogue: The items.
        prior: Of training with sampled negatives, which held-out rows have none of; None where
            none are sampled.
    """

    rows: np.ndarray
    items: np.ndarray
    num_negatives: int
    catalogue: Catalogue
    prior: Prior | None = None


class TabularDataset(torch.utils.data.Dataset[Batch]):
    """Encoded rows with labels; indexing takes a row number, a slice or an index tensor.

    Attributes:
        schema: The fitted schema of the rows.
        inputs: All rows, encoded.
        label: (N,) float32; of several labels (N, T), a column per `label_columns` of the schema.
        weight: How much each row counts in the training loss, (N,) float32; None: all rows alike.
            Evaluation takes no account of it.
        group: Which group each row belongs to, (N, G) int64, a column per `group_columns` of the
            schema; None without any.
        row: Row number of each row in the raw table, (N,); 0 … N-1 by default.
        shards: In how many runs the rows are shuffled, each within itself; 1: all together.
        held: The rows whose features are here, where others are elsewhere.

    Raises:
        DataError: Labels, weights or groups are not one per row, or a weight is negative or not
            finite.
    """

    def __init__(
        self,
        schema: DatasetSchema,
        inputs: Inputs,
        label: Tensor,
        *,
        weight: Tensor | None = None,
        group: Tensor | None = None,
        row: np.ndarray | None = None,
        negatives: NegativeSampling | None = None,
        ranking: RankingTask | None = None,
    ) -> None:
        if len(label) != inputs.num_rows:
            raise DataError(f"{inputs.num_rows} encoded rows, but {len(label)} labels")
        if (task := negatives or ranking) is not None:
            inputs = task.catalogue.with_room(inputs)
        self.schema = schema
        self.inputs = inputs
        self.label = label
        self.row = np.arange(len(label)) if row is None else row
        self.shards = 1
        self.held: range | None = None
        self.weight = None if weight is None else _checked_weight(weight, self.row)
        self.group = group
        several = (len(schema.label_columns),) if schema.label_columns else ()
        if label.shape != (len(label), *several):
            raise DataError(f"expected labels {(len(label), *several)}, got {tuple(label.shape)}")
        expected = (len(label), len(schema.group_columns))
        if group is not None and group.shape != expected:
            raise DataError(f"expected groups {expected} (N, G), got {tuple(group.shape)}")
        self.negatives = negatives
        self.ranking = ranking

    @classmethod
    def from_arrays(
        cls,
        schema: DatasetSchema,
        columns: Mapping[str, Any],
        label: Any,
        *,
        weight: Any = None,
        group: Any = None,
    ) -> "TabularDataset":
        """Return the data set of arrays that are encoded already, one per field.

        Ids of fields of one id per row are held as int32 where they fit, in half the memory.

        Args:
            schema: With vocabulary sizes.
            columns: By field name: ids (N,) for sparse fields (-1 for no value in a field without
                `padding_idx`), finite numbers (N,) or vectors (N, value_dim) for dense ones, and
                (ids (N, L), lengths (N,)) for sequences; in the place of ids, finite numbers for
                sequences of numbers.
            label: 0 or 1, the number of a class, or any finite number, as the loss needs it, (N,),
                or (N, T), a column per `label_columns` of the schema.
            weight: Of each row in the training loss, (N,).
            group: Whole numbers that tell groups of rows apart, (N, G), a column per
                `group_columns` of the schema.

        Raises:
            DataError: A field is missing, has another shape or other rows than the label, an id or
                length is no whole number or outside its range, a number or label is not finite,
                or a weight cannot be used.
        """
        label = _finite(label, "label")
        by_type: dict[FeatureType, list[Tensor]] = {kind: [] for kind in FeatureType}
        sequences: list[tuple[Tensor, Tensor]] = []
        together: dict[str, dict[str, np.ndarray]] = {}
        for field in schema.fields.values():
            if field.name not in columns:
                raise DataError(f"field {field.name}: no array of that name")
            values, place = columns[field.name], f"field {field.name}"
            kind = field.feature_type
            if kind is FeatureType.SEQUENCE:
                ids, lengths = _padded_sequence(values, place, of_numbers=field.numbers)
                sequences.append((ids, lengths))
                if field.sequence:
                    together.setdefault(field.sequence, {})[field.name] = lengths.numpy()
            else:
                read = _finite if kind is FeatureType.DENSE else _whole
                ids = read(values, place)
                by_type[kind].append(_as_columns(ids, field))
            if len(ids) != len(label):
                raise DataError(f"{place}: {len(ids)} rows, but {len(label)} labels")
            _check_ids(ids, field)
        for name, of_fields in together.items():
            if (found := first_difference(of_fields)) is not None:
                row, first, other = found
                raise DataError(
                    f"field {other}: expected {of_fields[first][row]} elements, as many as field "
                    f"{first} of the same sequence {name}, found {of_fields[other][row]} in row "
                    f"{row}"
                )
        inputs = Inputs(
            _columns(by_type[FeatureType.SPARSE], len(label), _id_type(schema)),
            _columns(by_type[FeatureType.DENSE], len(label), torch.float32),
            tuple(ids for ids, _ in sequences),
            tuple(lengths for _, lengths in sequences),
        )
        weight = None if weight is None else torch.as_tensor(weight)
        group = None if group is None else _whole(group, "group")
        return cls(schema, inputs, label, weight=weight, group=group)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int | slice | Tensor) -> Batch:
        weight, group = (
            None if tensor is None else tensor[index] for tensor in (self.weight, self.group)
        )
        return Batch(self.inputs.select(index), self.label[index], weight, group)

    def epoch(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> "Epoch":
        """Return all rows in the order of one training epoch, with its negatives."""
        return Epoch(self, batch_size, seed, epoch, shuffle=shuffle, drop_last=drop_last)


class Epoch:
    """The batches of one training epoch, a pure function of (data set, seed, epoch).

    Every row comes once, and per positive row `negatives.count` copies whose item is a sampled
    one and whose label is 0; a copy keeps the weight and the groups of its row. Where a loss
    compares a positive with its negatives there are no copies, and each batch has its `pairs`,
    which are drawn as it is made. A last batch of one row, which batch normalisation cannot train
    on, joins the batch before. Without negatives the order is a `deepfm.data.order.Order`, which
    never holds more than a window of it, or of a data set in `shards` a `ShardedOrder`; with them
    it is held as a whole. Without `shuffle` the rows come in the order of the data set, each
    followed by its negatives. With `drop_last` every batch has `batch_size` rows, and what is left
    is not seen.

    Attributes:
        num_rows: In all batches.

    No thread works ahead, because there is next to nothing to gain: of the 7 s in which an epoch
    of `configs/deepfm_movielens.yaml` trains on one core, drawing its 218,000 negatives and its
    order takes 9 ms, and making its batches 40 ms.
    """

    def __init__(
        self,
        dataset: TabularDataset,
        batch_size: int,
        seed: int,
        epoch: int,
        *,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        self._dataset = dataset
        self._batch_size = batch_size
        self._rows: np.ndarray | None = None  # without negatives, `_order` numbers the rows
        self._items: Tensor | None = None
        self._order: Order | None = None  # None and no `_rows`: the rows as they stand
        self._sharded: ShardedOrder | None = None
        self._seed, self._epoch = seed, epoch
        if dataset.negatives is None or not dataset.negatives.copies:
            self.num_rows = len(dataset)
            if shuffle and dataset.shards == 1:
                self._order = Order(self.num_rows, seed, epoch)
        else:
            self._draw(seed, epoch, shuffle=shuffle)
        if drop_last:
            self.num_rows -= self.num_rows % batch_size
        if shuffle and dataset.shards > 1:
            self._sharded = ShardedOrder(
                len(dataset),
                seed,
                epoch,
                shards=dataset.shards,
                batch_size=batch_size,
                batches=len(self),
            )

    def _draw(self, seed: int, epoch: int, *, shuffle: bool) -> None:
        """The rows with their negatives, in order."""
        dataset, negatives = self._dataset, self._dataset.negatives
        assert negatives is not None
        label = dataset.label if dataset.label.dim() == 1 else dataset.label[:, 0]
        positive = np.flatnonzero(label.numpy() > 0)
        drawn = draw_negatives(
            negatives.user[positive],
            negatives.count,
            negatives.excluded,
            generator(seed, "negatives", epoch),
        )
        items = np.concatenate([np.full(len(dataset), -1), drawn.ravel()])
        rows = np.concatenate([np.arange(len(dataset)), np.repeat(positive, negatives.count)])
        if shuffle:
            order = generator(seed, "order", epoch).permutation(len(rows))
        else:
            order = np.argsort(rows, kind="stable")
        self.num_rows = len(rows)
        self._rows = rows[order]
        self._items = torch.from_numpy(items[order])

    def __len__(self) -> int:
        count = -(-self.num_rows // self._batch_size)
        return count - (count > 1 and (self.num_rows - 1) % self._batch_size == 0)

    def batches(
        self, first: int = 0, part: Callable[[int], slice] | None = None
    ) -> Iterator[Batch]:
        """The batches from number `first` on; the ones before cost nothing.

        Args:
            part: Which rows of a batch of so many are given; None: all.
        """
        for number in range(first, len(self)):
            start = number * self._batch_size
            end = self.num_rows if number == len(self) - 1 else start + self._batch_size
            own = slice(None) if part is None else part(end - start)
            if self._sharded is not None:  # the rows of others need not be here
                chosen = self._sharded.rows(start, end, own)
                if own == slice(0, 1) and (held := self._dataset.held) is not None:
                    # Perhaps of a process without a row of the batch, which does not count it.
                    chosen = chosen.clip(held.start, held.stop - 1)
                batch = self._dataset[torch.from_numpy(chosen)]
                yield batch._replace(rows_of_all=0 if part is None else end - start)
                continue
            rows = self._rows_at(start, end)
            batch = self._dataset[rows[own]]
            if (negatives := self._dataset.negatives) is not None and self._items is not None:
                items = self._items[start:end][own]
                sampled = torch.nonzero(items >= 0).squeeze(1)
                negatives.catalogue.overwrite(batch.inputs, sampled, items[sampled])
                batch.label[sampled] = 0.0
            if (pairs := self._pairs(rows.numpy(), number)) is not None and part is not None:
                pairs = pairs.part(own)
            yield batch._replace(pairs=pairs, rows_of_all=0 if part is None else len(rows))

    def _pairs(self, rows: np.ndarray, step: int) -> Pairs | None:
        """What the rows of a batch are compared with; None where no loss does that."""
        negatives = self._dataset.negatives
        if negatives is None or negatives.pairs is None:
            return None
        rng = generator(self._seed, "negatives", self._epoch, step)
        return negatives.pairs.pairs(rows, negatives.user[rows], rng)

    def _rows_at(self, start: int, end: int) -> Tensor:
        """The rows at the places `start` to `end` - 1, (end - start,)."""
        if self._rows is not None:
            return torch.from_numpy(self._rows[start:end])
        if self._order is not None:
            return torch.from_numpy(self._order.rows(start, end))
        return torch.arange(start, end)


def _checked_weight(weight: Tensor, row: np.ndarray) -> Tensor:
    """Weights as float32; an error names the row of the raw table, from 1."""
    if weight.shape != row.shape:
        raise DataError(f"expected weights ({len(row)},), one per row, got {tuple(weight.shape)}")
    weight = weight.float()
    if not (usable := weight.isfinite() & (weight >= 0)).all():
        bad = int(usable.to(torch.uint8).argmin())
        raise DataError(
            f"row {row[bad] + 1}: expected a finite sample weight of at least 0, found "
            f"{weight[bad]:g}"
        )
    if len(row) and not weight.any():
        raise DataError("all sample weights are 0: there is nothing to train on")
    return weight


def _tensor(values: Any, place: str) -> Tensor:
    """An array of at least one dimension."""
    try:
        found = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{place}: expected an array of numbers: {error}") from None
    if not found.dim() or found.is_complex():
        raise DataError(f"{place}: expected an array of numbers, got {shown(values)}")
    return found


def _finite(values: Any, place: str) -> Tensor:
    """Numbers as float32."""
    found = _tensor(values, place).float()
    if not (finite := found.isfinite()).all():
        row = int(torch.nonzero(~finite)[0, 0])
        raise DataError(f"{place}: expected finite numbers, found another in row {row}")
    return found


def _whole(values: Any, place: str) -> Tensor:
    """Whole numbers, of whatever type, as int64."""
    found = _tensor(values, place)
    whole = found.long()
    if found.is_floating_point() and not (same := whole == found).all():
        row = int(torch.nonzero(~same)[0, 0])
        raise DataError(
            f"{place}: expected whole numbers, found {float(found[row].flatten()[0]):g} in row "
            f"{row}"
        )
    return whole


def _padded_sequence(values: Any, place: str, *, of_numbers: bool) -> tuple[Tensor, Tensor]:
    """The padded ids (N, L) of a sequence field, and its lengths (N,)."""
    if not isinstance(values, tuple | list) or len(values) != 2:
        raise DataError(f"{place}: expected (ids (N, L), lengths (N,)), got {shown(type(values))}")
    ids, lengths = values[0], _whole(values[1], place)
    if of_numbers:
        ids = torch.from_numpy(number_ids(_finite(ids, place).double().numpy()))
    else:
        ids = _whole(ids, place)
    if ids.dim() != 2 or lengths.shape != ids.shape[:1]:
        raise DataError(
            f"{place}: expected ids (N, L) and lengths (N,), got {tuple(ids.shape)} and "
            f"{tuple(lengths.shape)}"
        )
    outside = (lengths < 0) | (lengths > ids.shape[1])
    if outside.any():
        row = int(outside.to(torch.uint8).argmax())
        raise DataError(
            f"{place}: expected lengths from 0 to {ids.shape[1]}, found {int(lengths[row])} in "
            f"row {row}"
        )
    return ids, lengths


def _check_ids(ids: Tensor, field: FieldSchema) -> None:
    if field.feature_type is FeatureType.DENSE or not ids.numel():
        return
    low, high = int(ids.min()), int(ids.max())
    is_single = field.feature_type is FeatureType.SPARSE
    may_be_absent = field.padding_idx is None and (is_single or field.keeps_places)
    lowest = -1 if may_be_absent else 0
    if low < lowest or high >= field.vocabulary_size:
        bad = low if low < lowest else high
        size = field.vocabulary_size
        raise DataError(f"field {field.name}: id {bad} is outside its vocabulary of {size} rows")


def _columns(arrays: list[Tensor], rows: int, dtype: torch.dtype) -> Tensor:
    width = sum(array.shape[1] for array in arrays)
    found = torch.empty(rows, width, dtype=dtype)
    for own, array in zip(found.split([a.shape[1] for a in arrays], dim=1), arrays, strict=True):
        own.copy_(array)
    return found


def _id_type(schema: DatasetSchema) -> torch.dtype:
    """What holds the ids of all sparse fields."""
    largest = max((field.vocabulary_size for field in schema.sparse_fields), default=0)
    return torch.int32 if largest < 2**31 else torch.int64


def _as_columns(values: Tensor, field: FieldSchema) -> Tensor:
    """The values of a sparse or dense field as columns, (N, value_dim)."""
    columns = values.unsqueeze(1) if values.dim() == 1 else values
    if columns.dim() != 2 or columns.shape[1] != field.value_dim:
        shape = "(N,)" if field.value_dim == 1 else f"(N, {field.value_dim})"
        raise DataError(f"field {field.name}: expected {shape}, got {tuple(values.shape)}")
    return columns


def _padded(inputs: Inputs, position: int) -> Tensor:
    """The ids of a sequence field as a padded tensor, as those of a ranking task are."""
    ids = inputs.sequence_ids[position]
    return ids[:] if isinstance(ids, Ragged) else ids


def _widened(ids: Tensor, like: Tensor) -> Tensor:
    """Padded ids with as many columns as others have, at least."""
    missing = like.shape[1] - ids.shape[1]
    return torch.nn.functional.pad(ids, (0, missing)) if missing > 0 else ids


def epoch_weights(
    train: TabularDataset, label: Tensor, num_class: int, weight: Tensor | None
) -> np.ndarray:
    """The summed weight of each class in a training epoch, (C,) float64, of two for one logit.

    Args:
        label: Of each row, before negatives are sampled, (N,).
        weight: Of each row, (N,); None: all alike.
    """
    of_rows = None if weight is None else weight.numpy()
    found = class_weights(label.numpy(), of_rows, num_class)
    if train.negatives is not None:
        found[0] += train.negatives.copies * found[1]  # copies of positive rows, with their weight
    return found
