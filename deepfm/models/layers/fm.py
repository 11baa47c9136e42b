"""Second-order interactions of all field pairs in linear time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from deepfm.models.layers.precision import is_open


class FactorizationMachine(nn.Module):
    r"""Second-order term of a factorization machine, per embedding dimension, (B, F, D) -> (B, D).

    sum_{i<j} e_{i,d} e_{j,d}  =  1/2 * [ (sum_i e_{i,d})^2 - sum_i e_{i,d}^2 ]

    Summed over d this is the dot product of every pair of fields, sum_{i<j} <e_i, e_j>. The
    right-hand side costs O(F * D), the left one O(F^2 * D). Each square is taken within one
    dimension: squaring a sum over flattened fields would mix dimensions and is not an FM. The
    first-order term is not part of it.

    Source: S. Rendle, "Factorization Machines", ICDM 2010, Eq. (1) and Lemma 3.1; used as in
    DeepFM (H. Guo et al., IJCAI 2017, arXiv:1703.04247), Eq. (2).

    Example:
        >>> import torch
        >>> e = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])  # B=1, F=3, D=2
        >>> FactorizationMachine()(e).sum(-1)  # <e1,e2> + <e1,e3> + <e2,e3> = 11 + 17 + 39
        tensor([67.])
    """

    def forward(self, field_embeddings: Tensor) -> Tensor:
        if field_embeddings.dim() != 3:
            raise ValueError(f"expected embeddings (B, F, D), got {tuple(field_embeddings.shape)}")
        if is_open() and torch.is_grad_enabled():
            return _second_order(field_embeddings)
        square_of_sum = field_embeddings.sum(1).square()  # (B, D)
        sum_of_squares = field_embeddings.square().sum(1)  # (B, D)
        return 0.5 * (square_of_sum - sum_of_squares)


class _SecondOrder(torch.autograd.Function):
    """The layer, its gradient in two passes over the vectors: g_d * (sum_i e_{i,d} - e_{j,d})."""

    @staticmethod
    def forward(ctx: Any, fields: Tensor) -> Tensor:
        total = fields.sum(1)
        ctx.save_for_backward(fields, total)
        return total.square().sub_(fields.square().sum(1)).mul_(0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        fields, total = ctx.saved_tensors
        others: Tensor = total.unsqueeze(1) - fields
        return others.mul_(gradient.unsqueeze(1))


_second_order: Callable[[Tensor], Tensor] = _SecondOrder.apply
