"""What a peer's user can give it in a line: a fused Adam, the faster products, autocast.

- `shipped`: the peer as its own examples use it.
- `best`: `torch.optim.Adam(fused=True)`, and `torch.set_float32_matmul_precision("medium")` where
  that computes in float32 all the same, as it does on a CPU without AMX.
- `bf16`: the two, and `torch.autocast(..., torch.bfloat16)` around the forward pass. What the
  model returns is made float32 again, so that the loss is computed as before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

SHIPPED, BEST, BF16 = VARIANTS = ("shipped", "best", "bf16")
_FLOAT32_ERROR = 1e-5  # relative to the largest entry; bfloat16's is above 1e-3, TF32's above 1e-4


def precision_of(variant: str) -> str:
    """What the DNN's products are computed in: `fp32` or `bf16`."""
    return "bf16" if variant == BF16 else "fp32"


def medium_is_float32() -> bool:
    """Whether `set_float32_matmul_precision("medium")` loses no precision on this processor.

    It allows bfloat16 inside of a product. Without AMX oneDNN makes no use of that: it computes in
    float32, by other kernels than MKL's. With AMX it does.
    """
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(512, 432, generator=generator)
    right = torch.randn(432, 512, generator=generator)
    exact = left.double() @ right.double()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        error = (left @ right - exact).abs().max() / exact.abs().max()
    finally:
        torch.set_float32_matmul_precision(before)
    return bool(error < _FLOAT32_ERROR)


def set_products(variant: str, device: str) -> str:
    """Sets the precision of float32 products for the process; says what it is then."""
    if variant == SHIPPED:
        return "as shipped"
    given = ["fused Adam"]
    if device == "cpu" and medium_is_float32():
        torch.set_float32_matmul_precision("medium")
        given.append('float32 products "medium"')
    return ", ".join(given + ["bfloat16 autocast"] * (variant == BF16))


def adam(
    parameters: Iterable[nn.Parameter], variant: str, *, lr: float, **options: Any
) -> torch.optim.Adam:
    """Adam as the variant has it."""
    return torch.optim.Adam(parameters, lr=lr, **adam_options(variant), **options)


def adam_options(variant: str) -> dict[str, bool]:
    """What the variant adds to the arguments of `torch.optim.Adam`."""
    return {} if variant == SHIPPED else {"fused": True}


def autocast(model: nn.Module, device: str) -> None:
    """Runs the model's forward pass in bfloat16 from here on, wherever it is called."""
    forward = model.forward

    def in_bfloat16(*arguments: Any, **options: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            found = forward(*arguments, **options)
        return _float32(found)

    model.forward = in_bfloat16


def _float32(found: Any) -> Any:
    """A tensor, or a dict or tuple of such, in float32; all else as it is."""
    if isinstance(found, torch.Tensor):
        return found.float() if found.dtype == torch.bfloat16 else found
    if isinstance(found, dict):
        return {name: _float32(value) for name, value in found.items()}
    if isinstance(found, tuple | list):
        return type(found)(_float32(value) for value in found)
    return found
