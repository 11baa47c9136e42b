"""Inputs of a store that are compared with their checksums before rows of them are given."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from deepfm.data.batch import Inputs, Ragged
from deepfm.data.store.checks import BlockChecks


class CheckedInputs(Inputs):
    """Inputs whose blocks are compared with their checksums before rows of them are given.

    Attributes:
        checks: Called with row numbers, (B,), or a slice.
    """

    checks: Callable[[np.ndarray | slice], None]

    @classmethod
    def of(cls, inputs: Inputs, checks: Callable[[np.ndarray | slice], None]) -> "CheckedInputs":
        found = cls(*inputs)
        found.checks = checks
        return found

    def select(self, rows: Tensor | slice | int) -> Inputs:
        """Return the given rows.

        Raises:
            DamagedStore: A block that they stand in differs from its checksum.
        """
        if isinstance(rows, slice):
            self.checks(rows)
        else:
            numbers = np.atleast_1d(np.asarray(rows))
            if numbers.dtype == bool:
                numbers = np.flatnonzero(numbers)
            self.checks(numbers % max(self.num_rows, 1))
        return Inputs(*self).select(rows)


def checks_of(
    checks: Mapping[str, BlockChecks], ragged: Mapping[str, Ragged], first: int = 0
) -> Callable[[np.ndarray | slice], None]:
    """What `CheckedInputs` calls.

    Args:
        checks: By array.
        ragged: Where each row's part is of those arrays that have no place for each row.
        first: The row of the arrays that is called 0.
    """
    by_row = [check for name, check in checks.items() if name not in ragged]
    by_range = [(check, ragged[name]) for name, check in checks.items() if name in ragged]

    def check(rows: np.ndarray | slice) -> None:
        for array_ in by_row:
            array_.check_rows(rows, first)
        chosen = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        for array_, lists in by_range:
            array_.check_ranges(lists.starts[chosen].numpy(), lists.lengths[chosen].numpy())

    return check
