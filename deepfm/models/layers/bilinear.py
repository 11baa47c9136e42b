"""The bilinear form of two vectors, head by head."""

import torch
from torch import Tensor, nn

from deepfm.errors import ArgumentError
from deepfm.models.layers.dnn import INITS
from deepfm.models.layers.precision import narrowed


class BilinearFusion(nn.Module):
    r"""x_h^T W_h y_h of each head h and output, (B, M), (B, N) -> (B, heads, outputs).

    x and y are cut into as many pieces as there are heads, and piece h of one meets piece h of the
    other: M N / heads weights per output. One batched product over all heads gives x_h^T W_h.

    Source: K. Mao et al., "FinalMLP", AAAI 2023, arXiv:2304.00902: multi-head bilinear
    fusion.

    Args:
        x_dim, y_dim: M and N.
        num_heads: Must divide both.
        num_outputs: How many forms there are of each head.
        init: `xavier_uniform` of each W_h; `torch`: as `nn.Bilinear`, uniform in
            ±1 / sqrt(M / heads).

    Raises:
        ArgumentError: The heads do not divide a width, or the init is unknown.

    Example:
        >>> BilinearFusion(4, 6, num_heads=2)(torch.zeros(3, 4), torch.zeros(3, 6)).shape
        torch.Size([3, 2, 1])
    """

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        *,
        num_heads: int,
        num_outputs: int = 1,
        init: str = "xavier_uniform",
    ) -> None:
        super().__init__()
        for width in (x_dim, y_dim):
            if width % num_heads:
                raise ArgumentError("num_heads", f"{num_heads} does not divide the width {width}")
        if init not in INITS:
            raise ArgumentError("init", f"{init!r} is none of {', '.join(INITS)}")
        self.num_heads = num_heads
        rows, columns = x_dim // num_heads, y_dim // num_heads
        self.weight = nn.Parameter(torch.empty(num_heads, rows, num_outputs * columns))
        limit = (6 / (rows + columns)) ** 0.5 if init == "xavier_uniform" else rows**-0.5
        nn.init.uniform_(self.weight, -limit, limit)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = (side.unflatten(1, (self.num_heads, -1)).transpose(0, 1) for side in (x, y))
        mapped = torch.bmm(narrowed(x), narrowed(self.weight)).to(y.dtype)  # (H, B, C * N / H)
        mapped = mapped.unflatten(2, (-1, y.shape[2]))  # (H, B, C, N / H)
        forms: Tensor = (mapped * y.unsqueeze(2)).sum(3)
        return forms.transpose(0, 1)
