"""The inputs of a split of which a store has some rows."""

import torch
from torch import Tensor

from deepfm.data.batch import Inputs
from deepfm.data.store.damage import DamagedStore
from deepfm.data.store.held_rows import HeldRows, damaged_part
from deepfm.errors import DataError


class PartOfInputs(Inputs):
    """The inputs of a split, of which some rows alone are here.

    Attributes:
        held: Those, and which they are.
    """

    held: tuple[Inputs, HeldRows]

    @classmethod
    def of(cls, inputs: Inputs, rows: HeldRows) -> "PartOfInputs":
        found = cls(*inputs)
        found.held = inputs, rows
        return found

    @property
    def num_rows(self) -> int:
        """Of all shards."""
        return self.held[1].of

    def select(self, rows: Tensor | slice | int) -> Inputs:
        """Return the given rows.

        Raises:
            DataError: One is in another shard.
        """
        inputs, held = self.held
        numbers = torch.arange(held.of)[rows] if isinstance(rows, slice) else torch.as_tensor(rows)
        if numbers.dtype == torch.bool:
            numbers = numbers.nonzero().squeeze(1)
        is_own = (numbers >= held.start) & (numbers < held.end)
        is_first = (numbers >= 0) & (numbers < held.first)
        outside = ~(is_own | is_first)
        if outside.any():
            row = int(numbers.reshape(-1)[int(outside.reshape(-1).to(torch.uint8).argmax())])
            raise DataError(
                f"training row {row:,} is not here: the store has shard {held.shard} of the rows, "
                f"{held.start:,} to {held.end - 1:,}; what reads all rows needs the whole store"
            )
        local = torch.where(is_own, numbers - held.start + held.first, numbers)
        try:
            return inputs.select(int(local) if isinstance(rows, int) else local)
        except DamagedStore as error:
            raise damaged_part(error, held.shard) from None
