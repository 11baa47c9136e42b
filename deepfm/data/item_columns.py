"""Which inputs of a row are its item's, so that it can be taken out, put in, or stand alone."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from deepfm.data.batch import Inputs
from deepfm.data.schema import DatasetSchema, FieldSchema


class ItemColumns(NamedTuple):
    """Where the fields of group `item` stand in the inputs of a row.

    Rows without an item, and those of an item alone, hold nothing in the other fields: an id that
    no row of a table belongs to, the number 0, or a sequence of length 0.

    Attributes:
        sparse, dense: Their columns in a row's `sparse` and `dense`.
        sequences: Their positions among a row's sequence fields.
        nothing: Of every sparse field the id that means nothing, (F_sparse,).
    """

    sparse: Tensor
    dense: Tensor
    sequences: tuple[int, ...]
    nothing: Tensor

    @classmethod
    def of(cls, schema: DatasetSchema) -> "ItemColumns":
        def positions(fields: Iterable[FieldSchema]) -> list[int]:
            return [k for k, field in enumerate(fields) if field.group == "item"]

        by_column = [field for field in schema.dense_fields for _ in range(field.value_dim)]
        padding = [field.padding_idx for field in schema.sparse_fields]
        return cls(
            torch.tensor(positions(schema.sparse_fields), dtype=torch.int64),
            torch.tensor(positions(by_column), dtype=torch.int64),
            tuple(positions(schema.sequence_fields)),
            torch.tensor([-1 if idx is None else idx for idx in padding], dtype=torch.int64),
        )

    def to(self, device: torch.device) -> "ItemColumns":
        sparse, dense, nothing = (t.to(device) for t in (self.sparse, self.dense, self.nothing))
        return ItemColumns(sparse, dense, self.sequences, nothing)

    def without_item(self, inputs: Inputs) -> Inputs:
        """Rows whose item fields hold nothing."""
        own = range(len(inputs.sequence_ids))
        return Inputs(
            inputs.sparse.index_copy(
                1, self.sparse, self.nothing[self.sparse].expand(inputs.num_rows, -1)
            ),
            inputs.dense.index_fill(1, self.dense, 0.0),
            tuple(
                ids.new_zeros(len(ids), 1) if k in self.sequences else ids
                for k, ids in zip(own, inputs.padded_ids, strict=True)
            ),
            tuple(
                torch.zeros_like(lengths) if k in self.sequences else lengths
                for k, lengths in zip(own, inputs.sequence_lengths, strict=True)
            ),
        )

    def alone(self, items: Inputs, like: Inputs) -> Inputs:
        """Rows of D items that hold nothing else, and behind them a row that holds nothing at all.

        A sequence of which they hold nothing is one place wide, however long those of users are.

        Args:
            items: Their fields only, D rows.
            like: Rows of all fields.
        """
        rows = items.num_rows + 1
        sparse = self.nothing.repeat(rows, 1)
        sparse[:-1, self.sparse] = items.sparse
        dense = like.dense.new_zeros(rows, like.dense.shape[1])
        dense[:-1, self.dense] = items.dense
        ids = [sparse.new_zeros(rows, 1) for _ in like.sequence_ids]
        lengths = [sparse.new_zeros(rows) for _ in like.sequence_ids]
        for own, position in enumerate(self.sequences):
            ids[position] = torch.nn.functional.pad(items.padded_ids[own], (0, 0, 0, 1))
            lengths[position][:-1] = items.sequence_lengths[own]
        return Inputs(sparse, dense, tuple(ids), tuple(lengths))

    def replaced(self, inputs: Inputs, items: Inputs) -> Inputs:
        """Rows with the item fields of as many items in the place of their own."""
        ids, lengths = list(inputs.padded_ids), list(inputs.sequence_lengths)
        for own, position in enumerate(self.sequences):
            ids[position] = items.padded_ids[own]
            lengths[position] = items.sequence_lengths[own]
        return Inputs(
            inputs.sparse.index_copy(1, self.sparse, items.sparse),
            inputs.dense.index_copy(1, self.dense, items.dense),
            tuple(ids),
            tuple(lengths),
        )
