"""Dot products of all pairs of vectors."""

from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from deepfm.models.layers.precision import narrowed


class PairwiseDots(nn.Module):
    """<x_i, x_j> for i < j, in the order of rows of the upper triangle, (B, F, D) -> (B, pairs).

    One batched product, of which a look-up takes the triangle. Because X X^T is symmetric, its
    gradient is a symmetric matrix times X: one product as well.

    Source: M. Naumov et al., "Deep Learning Recommendation Model for Personalization and
    Recommendation Systems", 2019, arXiv:1906.00091: the interaction of DLRM.

    Args:
        num_fields: F.

    Attributes:
        output_dim: F (F - 1) / 2.

    Example:
        >>> PairwiseDots(3)(torch.tensor([[[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]]]))
        tensor([[2., 0., 3.]])
    """

    _pairs: Tensor
    _of_pair: Tensor

    def __init__(self, num_fields: int) -> None:
        super().__init__()
        pairs = list(combinations(range(num_fields), 2))
        self.output_dim = len(pairs)
        of_pair = [self.output_dim] * num_fields**2  # the diagonal is of none
        for number, (i, j) in enumerate(pairs):
            of_pair[i * num_fields + j] = of_pair[j * num_fields + i] = number
        places = torch.tensor([i * num_fields + j for i, j in pairs], dtype=torch.int64)
        self.register_buffer("_pairs", places, persistent=False)
        self.register_buffer("_of_pair", torch.tensor(of_pair), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = narrowed(x)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            dots: Tensor = _Dots.apply(x, self._pairs, self._of_pair)  # type: ignore[no-untyped-call]
        else:
            dots = _dots(x, self._pairs)
        return dots.float() if dots.dtype is torch.bfloat16 else dots


def _dots(x: Tensor, pairs: Tensor) -> Tensor:
    return torch.bmm(x, x.transpose(1, 2)).flatten(1).index_select(1, pairs)


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pairs: Tensor, of_pair: Tensor) -> Tensor:
        ctx.save_for_backward(x, of_pair)
        return _dots(x, pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, of_pair = ctx.saved_tensors
        padded = torch.cat([gradient, gradient.new_zeros(len(gradient), 1)], dim=1)
        symmetric = padded.index_select(1, of_pair).view(len(x), x.shape[1], x.shape[1])
        return torch.bmm(symmetric, x), None, None
