"""Dropout with cheap random numbers, and what stands before it in one function with it."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from deepfm.models.layers.batch_norm import SharedBatchNorm


class Dropout(nn.Module):
    """Zeroes each number with probability p in training and scales the others by 1 / (1 - p).

    On the CPU a number costs 16 random bits of torch's generator, 5 times less than
    `nn.Dropout`'s draw; p is rounded to a multiple of 2^-16, and the scale is that of the
    rounded p. On other devices it is `nn.Dropout`.

    Source: N. Srivastava et al., "Dropout", JMLR 15, 2014.

    Args:
        p: Probability that a number is zeroed, in [0, 1).

    Example:
        >>> Dropout(0.5)(torch.ones(1000)).unique()
        tensor([0., 2.])
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_active:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        return (x * self.kept(x)).mul_(self.scale)

    @property
    def is_active(self) -> bool:
        """Whether it drops anything now."""
        return self.training and self.p > 0

    def kept(self, x: Tensor) -> Tensor:
        """Draw 0 for each number that is dropped, and 1 for the others, on the CPU."""
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        mask = torch.empty_like(x, requires_grad=False)  # a float mask: no pass to convert it
        torch.ge(bits, self._dropped - 2**15, out=mask)
        return mask

    def kept_and_scaled(self, x: Tensor) -> Tensor | None:
        """What a function that has dropout in it multiplies x with; None: nothing is dropped."""
        if not self.is_active:
            return None
        if x.device.type != "cpu":
            return F.dropout(torch.ones_like(x, requires_grad=False), self.p)
        return self.kept(x).mul_(self.scale)

    @property
    def _dropped(self) -> int:
        """How many of 2^16 equally likely numbers mean zero."""
        return min(round(self.p * 2**16), 2**16 - 1)

    @property
    def scale(self) -> float:
        """What the others are multiplied with: 1 / (1 - p) of the rounded p."""
        return 2**16 / (2**16 - self._dropped)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class ReLUDropout(Dropout):
    """`Dropout` of relu(x), the same numbers bit by bit; in training x is overwritten.

    Of both, the backward pass needs only which outputs are above 0, so nothing but the output is
    kept: per layer two arrays less than `nn.ReLU` and `Dropout` allocate and keep. Where x comes
    from must not need it, which linear maps and norms do not.

    Example:
        >>> ReLUDropout(0.5).eval()(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_active or x.device.type != "cpu":
            return super().forward(F.relu(x))
        return _relu_dropout(x, self.kept(x), self.scale)


class _ReLUDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        ctx.scale = scale
        return x.relu_().mul_(kept).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, y, 0).mul_(ctx.scale), None, None


_relu_dropout: Callable[[Tensor, Tensor, float], Tensor] = _ReLUDropout.apply


def norm_relu_dropout(x: Tensor, norm: nn.BatchNorm1d, dropout: ReLUDropout) -> Tensor:
    """dropout(norm(x)), (B, width), with fewer passes over numbers in training on the CPU.

    The scale of dropout moves into the weights of the norm, because relu(s * x) = s * relu(x) for
    s > 0: the result and its gradients are equal up to rounding. The running statistics are kept
    as the norm keeps them.
    """
    mean, variance = norm.running_mean, norm.running_var
    is_plain = norm.affine and norm.momentum is not None and mean is not None
    is_plain = is_plain and not isinstance(norm, SharedBatchNorm)
    if not (norm.training and is_plain and x.device.type == "cpu" and len(x) > 1):
        return dropout(norm(x))  # type: ignore[no-any-return]
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    kept, scale = (dropout.kept(x), dropout.scale) if dropout.is_active else (None, 1.0)
    return _norm_relu_dropout(
        x, norm.weight, norm.bias, mean, variance, norm.momentum, norm.eps, kept, scale
    )


class _NormReLUDropout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        momentum: float,
        eps: float,
        kept: Tensor | None,
        scale: float,
    ) -> Tensor:
        scaled = weight * scale
        y, of_batch, inverse = torch.native_batch_norm(
            x, scaled, bias * scale, mean, variance, True, momentum, eps
        )
        y.relu_()
        if kept is not None:
            y.mul_(kept)
        ctx.save_for_backward(x, y, scaled, of_batch, inverse)
        ctx.scale, ctx.eps = scale, eps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, mean, inverse = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, None, None, mean, inverse, True, ctx.eps, [True, True, True]
        )
        of_weight, of_bias = of_weight.mul_(ctx.scale), of_bias.mul_(ctx.scale)
        return of_x, of_weight, of_bias, None, None, None, None, None, None


_norm_relu_dropout: Callable[..., Tensor] = _NormReLUDropout.apply
