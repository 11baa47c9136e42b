"""Modules to programs of `torch.export`, for any number of rows and any length of lists."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

BATCH, LENGTH = "batch", "length"  # what the dimensions of a graph are called


def row_dimensions(tensors: Sequence[Tensor], names: Sequence[str]) -> list[dict[int, Any]]:
    """Which dimensions of the inputs of an `InputLayout` may be of any size.

    Lengths of lists that meet in one layer are equal; torch finds out which do.
    """
    batch = Dim(BATCH)
    return [
        {0: batch, 1: Dim.DYNAMIC} if name.startswith("ids_") else {0: batch}
        for _, name in zip(tensors, names, strict=True)
    ]


def program_of(
    module: nn.Module, tensors: list[Tensor], dimensions: list[dict[int, Any]]
) -> ExportedProgram:
    """What the module computes of a list of tensors, as a program.

    Args:
        tensors: An example with three rows or more, and lists of two elements or more.
        dimensions: Of each tensor, those that may be of any size.
    """
    with torch.no_grad():
        return torch.export.export(
            module.eval(), (tensors,), dynamic_shapes=(dimensions,), strict=False
        )
