"""In which precision the matrix products of a network are computed, and by which kernels.

Decided here: what a training step and the scoring loop open around a model (`products_in`), and
what the layers compute within (`product`). Weights, gradients of weights, norms, the
factorization machine, logits and losses are float32 in any case. Outside of `products_in` a
layer is plain torch, in the type of its weights.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Precision = Literal["fp32", "bf16"]

_PRECISION: ContextVar[Precision | None] = ContextVar("precision of products", default=None)
_AMPERE = (8, 0)
MANY_ROWS = 1024  # of fewer, calls from Python cost more than passes over numbers


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """While it lasts, layers of this thread compute their matrix products in a precision.

    A backward pass computes in that of its forward pass, wherever it runs.
    """
    token = _PRECISION.set(precision)
    try:
        yield
    finally:
        _PRECISION.reset(token)


def as_now() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what `torch.utils.checkpoint` enters, so that it computes again in this precision."""
    precision = _precision()
    return nullcontext(), nullcontext() if precision is None else products_in(precision)


def has_bf16_products(device: torch.device) -> bool:
    """Whether a device has units for products in bf16: said by its flags, never measured.

    Of processors those with AVX512-BF16 or AMX-BF16, of GPUs of NVIDIA those from Ampere on.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _AMPERE
    flags = _flags() if device.type == "cpu" else {}
    return _has_onednn() and bool(
        flags.get("avx512_bf16") or (flags.get("amx_tile") and flags.get("amx_bf16"))
    )


def is_open() -> bool:
    """Whether this thread is within `products_in`."""
    return _precision() is not None


def _precision() -> Precision | None:
    # A compiled or exported layer is plain torch; tracing knows no context variables.
    return None if torch.compiler.is_compiling() else _PRECISION.get()


def _flags() -> dict[str, Any]:
    """What torch knows about this processor; older releases know it by other functions."""
    if (read := getattr(torch.cpu, "get_capabilities", None)) is not None:
        return dict(read())
    names = {
        "avx512_bf16": "_is_avx512_bf16_supported",
        "amx_tile": "_is_amx_tile_supported",
        "amx_bf16": "_is_amx_tile_supported",
        "avx512_f": "_is_avx512_supported",
    }
    known = {flag: getattr(torch.cpu, name, None) for flag, name in names.items()}
    return {flag: bool(function and function()) for flag, function in known.items()}


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _runs_in_onednn(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether oneDNN's kernel is the fast one for a product of this type.

    In float32 it computes in float32, unless the program has allowed torch less by
    `torch.set_float32_matmul_precision`, which is left as it is. On a processor with AVX-512 it is
    up to twice as fast as MKL for widths that are no multiple of 16, and 10 % for others; a call
    costs 15 µs more.
    """
    is_worth_it = dtype is torch.bfloat16 or (x.dim() == 2 and len(x) >= MANY_ROWS)
    return is_worth_it and _KERNELS.get((dtype, x.device.type), False)


_KERNELS = {
    (torch.bfloat16, "cpu"): has_bf16_products(torch.device("cpu")),
    (torch.float32, "cpu"): _has_onednn() and bool(_flags().get("avx512_f")),
}


def product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    relu: bool = False,
    narrow: bool = False,
) -> Tensor:
    """The linear map x W^T + b, (..., in_features) -> (..., out_features), as `products_in` says.

    Args:
        weight: (out_features, in_features).
        bias: (out_features,).
        relu: Whether its ReLU is given.
        narrow: Whether a result in bf16 may stay in that type; else it is in the weights'.
    """
    precision = _precision()
    if precision is None or weight.dtype != torch.float32:
        y = F.linear(x, weight, bias)
        return y.relu() if relu else y
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if _runs_in_onednn(x, dtype):
        y = _linear_by_onednn(x, weight, bias, dtype, relu)
    else:
        y = F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
        y = y.relu() if relu else y
    return y if narrow else y.float()


def narrowed(x: Tensor) -> Tensor:
    """A float32 tensor that only products read, in the type that they read."""
    is_narrow = _precision() == "bf16" and x.dtype is torch.float32
    return x.bfloat16() if is_narrow else x


class ProductLinear(nn.Linear):
    """`nn.Linear` whose product is computed as `products_in` says.

    Args:
        narrow: Whether what follows can read bf16.
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, narrow: bool = False
    ) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.narrow = narrow

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        return product(x, self.weight, self.bias, relu=relu, narrow=self.narrow)


class _Product(torch.autograd.Function):
    """A linear map by oneDNN, its ReLU within the same pass; gradients of weights in float32.

    The gradient of the weights is `torch.mm`'s: there oneDNN's kernel for linear maps is slower,
    and sums in longer chains.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, relu: bool
    ) -> Tensor:
        narrow, weights = x.to(dtype), weight.to(dtype)
        y = _onednn(narrow, weights, bias, relu)
        ctx.type = x.dtype
        ctx.save_for_backward(narrow, weights, y if relu else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight, y = ctx.saved_tensors
        if y is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = _onednn(gradient, weight.t(), None, False).to(ctx.type)
        rows = gradient.flatten(0, -2)
        if ctx.needs_input_grad[1]:
            of_weight = torch.mm(rows.t(), x.flatten(0, -2)).float()
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0).float()
        return of_x, of_weight, of_bias, None, None


_product: Callable[..., Tensor] = _Product.apply


def _linear_by_onednn(
    x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, relu: bool
) -> Tensor:
    if torch.is_grad_enabled():
        return _product(x, weight, bias, dtype, relu)
    return _onednn(x.to(dtype), weight.to(dtype), bias, relu)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """The kernel, which is slow for rows that do not stand end to end."""
    bias = None if bias is None else bias.to(x.dtype)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(
        x.contiguous(), weight, bias, "relu" if relu else "none", [], ""
    )
    return y
