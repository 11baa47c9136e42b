"""The matrix products of a training step, by shape, as a floor for any model.

A step of the model runs once, on the CPU, and every product that torch computes in it is written
down: operator, shapes, and how its operands lie in memory. They are then timed alone, in the same
order, into buffers that exist already. What is between products (lookups, norms, activations,
copies, the optimizer) is not there.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from deepfm.data.batch import Inputs
from deepfm.models.base import BaseCTRModel
from deepfm.models.frozen import frozen
from deepfm.models.layers.precision import products_in


class Operand(NamedTuple):
    """How an operand lies in memory; a stride of 0 repeats what is there."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor) -> "Operand":
        return cls(tuple(x.shape), x.stride())

    def drawn(self, dtype: torch.dtype, device: str) -> Tensor:
        kept = [n if step else 1 for n, step in zip(self.shape, self.stride, strict=True)]
        x = torch.empty_strided(kept, self.stride, dtype=torch.float32, device=device).normal_()
        return x.to(dtype).expand(self.shape)


class Product(NamedTuple):
    """A product of two matrices, or of two batches of such."""

    left: Operand
    right: Operand

    @property
    def flops(self) -> int:
        """Two operations per multiplication."""
        *batch, rows, inner = self.left.shape
        return 2 * int(torch.Size(batch).numel()) * rows * inner * self.right.shape[-1]

    def call(self, dtype: torch.dtype, device: str) -> Callable[[], object]:
        """The product, ready to be called."""
        left, right = self.left.drawn(dtype, device), self.right.drawn(dtype, device)
        function = torch.mm if left.dim() == 2 else torch.bmm
        return partial(function, left, right, out=function(left, right))


def _operands(name: str, arguments: tuple[Any, ...]) -> tuple[Tensor, Tensor] | None:
    if name in ("mm", "bmm"):
        return arguments[0], arguments[1]
    if name in ("addmm", "baddbmm"):
        return arguments[1], arguments[2]
    if name == "_linear_pointwise":  # of oneDNN; its weight is (out, in)
        return arguments[0].flatten(0, -2), arguments[1].t()
    return None


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Product] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if (pair := _operands(function.overloadpacket.__name__, args)) is not None:
            left, right = pair
            if left.numel() and right.numel():
                self.found.append(Product(Operand.of(left), Operand.of(right)))
        return function(*args, **(kwargs or {}))


def of_training_step(
    model: BaseCTRModel, inputs: Inputs, label: Tensor
) -> tuple[list[Product], list[Product]]:
    """Those of a forward pass, and those of its backward pass."""
    model.train()
    with products_in("fp32"):
        with _Recorder() as forward:
            loss = nn.functional.binary_cross_entropy_with_logits(model(inputs), label)
        with _Recorder() as backward:
            loss.backward()
    model.zero_grad()
    return forward.found, backward.found


def of_scoring(model: BaseCTRModel, inputs: Inputs) -> list[Product]:
    """Those of a forward pass as the scoring loop has it."""
    with products_in("fp32"), torch.no_grad(), _Recorder() as recorder:
        frozen(model)(inputs)
    return recorder.found
