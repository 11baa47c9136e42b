"""What a model sees (`Inputs`) and what a training step sees (`Batch`), after encoding."""

from typing import NamedTuple

import torch
from torch import Tensor


class Inputs(NamedTuple):
    """Encoded features of B rows; fields stand in schema order within their type.

    Attributes:
        sparse: Ids of the sparse fields, (B, F_sparse) int64; a stored data set may hold int32.
            -1 means no value in a field without `padding_idx`.
        dense: Values of the dense fields, `value_dim` columns each, (B, sum of value_dim) float32.
        sequence_ids: Per sequence field the padded ids, (B, L) int64.
        sequence_lengths: Per sequence field the number of valid ids, (B,) int64.
    """

    sparse: Tensor
    dense: Tensor
    sequence_ids: tuple[Tensor, ...]
    sequence_lengths: tuple[Tensor, ...]

    @property
    def num_rows(self) -> int:
        return self.sparse.shape[0]

    def select(self, rows: Tensor | slice) -> "Inputs":
        """The given rows, as a whole-array operation; ids stored as int32 become int64.

        Args:
            rows: Row numbers from 0 on (int64), a boolean mask, or a slice.
        """

        def select(tensor: Tensor) -> Tensor:
            if isinstance(rows, Tensor) and rows.dim() == 1 and rows.dtype is torch.int64:
                # A third of the time that indexing takes, which allows for negative numbers.
                return tensor.index_select(0, rows)
            return tensor[rows]

        return Inputs(
            select(self.sparse).long(),
            select(self.dense),
            tuple(select(ids).long() for ids in self.sequence_ids),
            tuple(select(lengths).long() for lengths in self.sequence_lengths),
        )

    def to(self, device: torch.device | str) -> "Inputs":
        return self.map(lambda tensor: tensor.to(device))

    def map(self, function) -> "Inputs":
        """Apply a function to each tensor."""
        return Inputs(
            function(self.sparse),
            function(self.dense),
            tuple(function(ids) for ids in self.sequence_ids),
            tuple(function(lengths) for lengths in self.sequence_lengths),
        )


class Batch(NamedTuple):
    """Inputs with their labels, (B,) float32.

    Attributes:
        inputs: What the model sees.
        label: 0 or 1, the number of a class, or any number, as the loss needs it.
        weight: How much each row counts in the training loss; None: all rows alike.
        group: Which group each row belongs to, (B, G) int64, a column per group column of the
            schema; None without any.
    """

    inputs: Inputs
    label: Tensor
    weight: Tensor | None = None
    group: Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        weight, group = (
            None if tensor is None else tensor.to(device) for tensor in (self.weight, self.group)
        )
        return Batch(self.inputs.to(device), self.label.to(device), weight, group)
