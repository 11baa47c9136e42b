"""Second-order interactions with a strength per pair of fields."""

import math
from itertools import combinations

import torch
from torch import Tensor, nn

from deepfm.models.layers.precision import product


class FieldWeightedFM(nn.Module):
    r"""Weighted sum of the dot products of all pairs of fields, (B, F, D) -> (B, 1).

    sum_{i<j} r_ij <e_i, e_j>  =  1/2 * sum_d e_d^T R e_d

    with e_d the F numbers of dimension d and R symmetric, zero on its diagonal. The right-hand
    side is one matrix product that reads and writes O(F * D) numbers per row, and computes with
    O(F^2 * D); the pairs themselves are never laid out.

    Source: J. Pan et al., "Field-weighted Factorization Machines for Click-Through Rate Prediction
    in Display Advertising", WWW 2018, arXiv:1806.03514.

    NOTE[DIFF]: The strengths begin at 1, with which it is a factorization machine.

    Args:
        num_fields: F.

    Attributes:
        strengths: r, (F (F - 1) / 2,): pairs (0, 1), (0, 2), ... (1, 2), ...

    Example:
        >>> e = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])  # B=1, F=3, D=2
        >>> FieldWeightedFM(3)(e)  # <e1,e2> + <e1,e3> + <e2,e3> = 11 + 17 + 39
        tensor([[67.]], grad_fn=<MulBackward0>)
    """

    _place: Tensor

    def __init__(self, num_fields: int) -> None:
        super().__init__()
        pairs = list(combinations(range(num_fields), 2))
        self.strengths = nn.Parameter(torch.ones(len(pairs)))
        place = [len(pairs)] * num_fields**2  # of the zero after the last pair
        for number, (i, j) in enumerate(pairs):
            place[i * num_fields + j] = place[j * num_fields + i] = number
        self.register_buffer("_place", torch.tensor(place), persistent=False)

    def matrix(self) -> Tensor:
        """R, (F, F), symmetric and zero on its diagonal."""
        strengths = torch.cat([self.strengths, self.strengths.new_zeros(1)])
        fields = math.isqrt(len(self._place))
        return strengths.index_select(0, self._place).view(fields, fields)

    def forward(self, field_embeddings: Tensor) -> Tensor:
        if field_embeddings.dim() != 3:
            raise ValueError(f"expected embeddings (B, F, D), got {tuple(field_embeddings.shape)}")
        by_dim = field_embeddings.transpose(1, 2).contiguous()  # (B, D, F)
        weighted = product(by_dim, self.matrix())
        return 0.5 * (by_dim * weighted).sum((1, 2)).unsqueeze(1)
