"""What a model sees (`Inputs`) and what a training step sees (`Batch`), after encoding."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


def _rows(tensor: Tensor, rows: Tensor | slice | int) -> Tensor:
    if isinstance(rows, Tensor) and rows.dim() == 1 and rows.dtype is torch.int64:
        # A third of the time that indexing takes, which allows for negative numbers.
        return tensor.index_select(0, rows)
    return tensor[rows]


class Ragged:
    """Lists of ids of any lengths, end to end, as a data set holds those that are never cut.

    Args:
        ids: Of all rows, (E,).
        starts: Where each row's list begins, (N,) int64.
        lengths: Of each row, (N,).
    """

    def __init__(self, ids: Tensor, starts: Tensor, lengths: Tensor) -> None:
        self.ids, self.starts, self.lengths = ids, starts, lengths

    @classmethod
    def of(cls, ids: Tensor, lengths: Tensor) -> "Ragged":
        return cls(ids, lengths.cumsum(0) - lengths, lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def flat(self, rows: Tensor) -> Tensor:
        """The ids of some rows end to end, (sum of their lengths,)."""
        lengths = self.lengths[rows]
        before = lengths.cumsum(0) - lengths
        places = torch.arange(int(lengths.sum()))
        return self.ids[places + (self.starts[rows] - before).repeat_interleave(lengths)]

    def __getitem__(self, rows: Tensor | slice | int) -> Tensor:
        """The lists of some rows, padded with 0 to the longest of them: (B, L), L at least 1; that
        of one row is (L,).
        """
        if isinstance(rows, int):
            return self[torch.tensor([rows % len(self)])].squeeze(0)
        starts, lengths = _rows(self.starts, rows), _rows(self.lengths, rows).unsqueeze(1)
        longest = int(lengths.max()) if len(lengths) else 0
        if not longest:
            return torch.zeros(len(lengths), 1, dtype=self.ids.dtype)
        position = torch.arange(longest, dtype=lengths.dtype)
        places = starts.unsqueeze(1) + position  # (B, L); beyond a list stand those of others
        places.clamp_(max=len(self.ids) - 1)
        found = self.ids.index_select(0, places.flatten()).view(places.shape)
        return found.masked_fill_(position >= lengths, 0)


class Inputs(NamedTuple):
    """Encoded features of B rows; fields stand in schema order within their type.

    Attributes:
        sparse: Ids of the sparse fields, (B, F_sparse) int64; a stored data set may hold int32.
            -1 means no value in a field without `padding_idx`.
        dense: Values of the dense fields, `value_dim` columns each, (B, sum of value_dim) float32.
        sequence_ids: Per sequence field the padded ids, (B, L) int64. Where nothing is cut, L is
            that of the longest list, and a data set may hold them as `Ragged`.
        sequence_lengths: Per sequence field the number of valid ids, (B,) int64.
        located: What the host has found of the rows of tables that these very rows read, those
            of their `pairs` included; see `deepfm.models.layers.tables.Located`. None: nothing
            yet. Other rows that are made of these have none.
    """

    sparse: Tensor
    dense: Tensor
    sequence_ids: "tuple[Tensor | Ragged, ...]"
    sequence_lengths: tuple[Tensor, ...]
    located: Mapping[str, tuple[Tensor, Tensor, Tensor]] | None = None

    @property
    def num_rows(self) -> int:
        return self.sparse.shape[0]

    @property
    def padded_ids(self) -> tuple[Tensor, ...]:
        """Return `sequence_ids` of a batch, which holds none as `Ragged`."""
        ids = tuple(ids for ids in self.sequence_ids if isinstance(ids, Tensor))
        assert len(ids) == len(self.sequence_ids)
        return ids

    def select(self, rows: Tensor | slice | int) -> "Inputs":
        """Return the given rows, by an operation on whole arrays.

        Ids stored as int32 become int64, and `Ragged` ones padded.

        Args:
            rows: Row numbers from 0 on (int64), a boolean mask, or a slice.
        """

        return Inputs(
            _rows(self.sparse, rows).long(),
            _rows(self.dense, rows),
            tuple(
                (ids[rows] if isinstance(ids, Ragged) else _rows(ids, rows)).long()
                for ids in self.sequence_ids
            ),
            tuple(_rows(lengths, rows).long() for lengths in self.sequence_lengths),
        )

    def to(self, device: torch.device | str) -> "Inputs":
        """Return the same on a device, where all ids are int64."""
        return self.moved(lambda tensor: _widened(tensor.to(device)))

    def moved(self, function: Callable[[Tensor], Tensor]) -> "Inputs":
        """Return the same after a function that changes no tensor's numbers.

        What the host keeps of `located` stays as it is.
        """
        moved = self.map(function)
        if self.located is None:
            return moved
        located = {
            name: (function(rows), function(place), host)
            for name, (rows, place, host) in self.located.items()
        }
        return moved._replace(located=located)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Inputs":
        """Return what a function makes of each tensor; `Ragged` ids, of no batch, stay."""
        return Inputs(
            function(self.sparse),
            function(self.dense),
            tuple(ids if isinstance(ids, Ragged) else function(ids) for ids in self.sequence_ids),
            tuple(function(lengths) for lengths in self.sequence_lengths),
        )


class Pairs(NamedTuple):
    """The items that the positive row of a user is compared with, D distinct ones in all.

    Attributes:
        items: The item fields of those, D rows, and no other fields.
        own: The place of each row's own item among them, (B,).
        negatives: The places of sampled items: (N,) for all rows, or (B, N).
        allowed: Which of them count as negatives of a row, (B, N) bool.
        log_q: Logarithm of the share of each item among those drawn, (D,) float32; None: all are
            drawn alike.
        halves: The B rows without their items, and the D items without users, as a model reads
            them whose logit adds up; None: nobody has made them yet.
    """

    items: Inputs
    own: Tensor
    negatives: Tensor
    allowed: Tensor
    log_q: Tensor | None = None
    halves: tuple[Inputs, Inputs] | None = None

    def part(self, rows: slice) -> "Pairs":
        """Return those of some rows; the items are still those of all."""
        negatives = self.negatives if self.negatives.dim() == 1 else self.negatives[rows]
        own, allowed = self.own[rows], self.allowed[rows]
        return self._replace(own=own, negatives=negatives, allowed=allowed, halves=None)

    def moved(self, function: Callable[[Tensor], Tensor]) -> "Pairs":
        """Return the same after a function that changes no tensor's numbers."""
        own, negatives, allowed = map(function, (self.own, self.negatives, self.allowed))
        log_q = None if self.log_q is None else function(self.log_q)
        halves = self.halves
        if halves is not None:
            halves = halves[0].moved(function), halves[1].moved(function)
        return Pairs(self.items.moved(function), own, negatives, allowed, log_q, halves)


class Batch(NamedTuple):
    """Inputs with their labels.

    Attributes:
        inputs: What the model sees.
        label: 0 or 1, the number of a class, or any number, as the loss needs it, (B,) float32; of
            several labels (B, T), a column per label of the schema.
        weight: How much each row counts in the training loss; None: all rows alike.
        group: Which group each row belongs to, (B, G) int64, a column per group column of the
            schema; None without any.
        pairs: What each row's item is compared with; None where rows stand for themselves.
        rows_of_all: How many rows the batch has of which these are the part of one process; 0:
            these are all.
    """

    inputs: Inputs
    label: Tensor
    weight: Tensor | None = None
    group: Tensor | None = None
    pairs: Pairs | None = None
    rows_of_all: int = 0

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """Return the same on a device, where all ids are int64.

        Args:
            non_blocking: Do not wait for what `packed` gave with `pin`.
        """
        return self.moved(lambda tensor: _widened(tensor.to(device, non_blocking=non_blocking)))

    def packed(self, *, pin: bool) -> "Batch":
        """Return the same as it travels to a device: whole numbers as int32 where they fit.

        Args:
            pin: Lay it where a GPU fetches it by itself, in memory that is never swapped out.
        """

        def pack(tensor: Tensor) -> Tensor:
            tensor = _narrowed(tensor)
            return tensor.pin_memory() if pin else tensor

        return self.moved(pack)

    def moved(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the same after a function that changes no tensor's numbers."""
        weight, group = (
            None if tensor is None else function(tensor) for tensor in (self.weight, self.group)
        )
        pairs = None if self.pairs is None else self.pairs.moved(function)
        inputs, label = self.inputs.moved(function), function(self.label)
        return Batch(inputs, label, weight, group, pairs, self.rows_of_all)


def _narrowed(tensor: Tensor) -> Tensor:
    """Whole numbers as int32, if all of them fit."""
    if tensor.dtype is not torch.int64 or not tensor.numel():
        return tensor
    low, high = torch.aminmax(tensor)
    return tensor.int() if int(low) >= -(2**31) and int(high) < 2**31 else tensor


def _widened(tensor: Tensor) -> Tensor:
    return tensor.long() if tensor.dtype is torch.int32 else tensor
