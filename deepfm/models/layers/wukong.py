"""The layer of Wukong: factorization machines and linear maps over fields, stacked."""

import torch
from torch import Tensor, nn

from deepfm.errors import ArgumentError
from deepfm.models.layers.dnn import INITS, MLP, initialize_linears
from deepfm.models.layers.precision import ProductLinear, narrowed, product


class WukongLayer(nn.Module):
    r"""LN(concat(FMB(X), LCB(X)) + residual(X)), (B, N, D) -> (B, N', D).

        FMB(X) = reshape(W MLP(LN(flatten(X (X^T Y)))) + b)        (B, F, D)
        LCB(X) = W_L X                                             (B, L, D)

    with N' = F + L. Y, (N, K), keeps the pairwise dot products at N K instead of N^2. The residual
    is X itself where N' = N, else a linear map of the fields. All maps of fields are one product.

    Source: B. Zhang et al., "Wukong: Towards a Scaling Law for Large-Scale Recommendation", ICML
    2024, arXiv:2403.02545.

    NOTE[DIFF]: Y is one learned matrix for all rows, the MLP ends in a linear map, and the residual
    has a map of its own only where N' is another number than N, all as in TorchEasyRec.

    Args:
        num_fields, embedding_dim: N and D.
        factorized, linear: F and L, vectors that leave the layer.
        mlp: Of N K numbers, with the name K of `compressed` below.
        compressed: K.
        init: `xavier_uniform`; `torch`: linear maps of a vector as `nn.Linear`, those of the
            fields as `nn.init.kaiming_uniform_` of a matrix (N, outputs) would.

    Raises:
        ArgumentError: The init is unknown.

    Example:
        >>> layer = WukongLayer(5, 4, factorized=2, linear=3, compressed=2, mlp=MLP(10, (8,)))
        >>> layer(torch.zeros(7, 5, 4)).shape
        torch.Size([7, 5, 4])
    """

    def __init__(
        self,
        num_fields: int,
        embedding_dim: int,
        *,
        factorized: int,
        linear: int,
        compressed: int,
        mlp: MLP,
        init: str = "xavier_uniform",
    ) -> None:
        super().__init__()
        if init not in INITS:
            raise ArgumentError("init", f"{init!r} is none of {', '.join(INITS)}")
        self.num_outputs = factorized + linear
        self.compress = nn.Parameter(torch.empty(compressed, num_fields))
        self.linear = nn.Parameter(torch.empty(linear, num_fields))
        self.residual = None
        if self.num_outputs != num_fields:
            self.residual = nn.Parameter(torch.empty(self.num_outputs, num_fields))
        self.products_norm = nn.LayerNorm(num_fields * compressed)
        self.mlp = mlp
        self.output = ProductLinear(mlp.output_dim, factorized * embedding_dim)
        self.norm = nn.LayerNorm(embedding_dim)
        self._factorized = factorized
        initialize_linears([self.output], init)
        for weight in (self.compress, self.linear, self.residual):
            if weight is not None and init == "torch":
                limit = (6 / len(weight)) ** 0.5
                nn.init.uniform_(weight, -limit, limit)
            elif weight is not None:
                nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor) -> Tensor:
        compressed, kept = self._of_fields(x)
        products = torch.bmm(narrowed(x), narrowed(compressed)).to(x.dtype)  # (B, N, K)
        hidden = self.mlp(self.products_norm(products.flatten(1)))
        factorized = self.output(hidden).unflatten(1, (self._factorized, -1))  # (B, F, D)
        if self.residual is None:
            y = torch.cat([factorized, kept], dim=1) + x
        else:
            mixed, linear = kept.tensor_split([self._factorized], dim=1)
            y = torch.cat([mixed + factorized, linear], dim=1)
        normalized: Tensor = self.norm(y)
        return normalized

    def _of_fields(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """X^T Y, (B, D, K), and W_L X with what the residual's own map adds to it, (B, ·, D)."""
        maps: list[Tensor] = [self.compress, self.linear]
        if self.residual is not None:
            mixed, linear = self.residual.tensor_split([self._factorized])
            maps = [self.compress, mixed, linear + self.linear]
        columns = x.transpose(1, 2).flatten(0, 1)  # (B * D, N)
        mapped = product(columns, torch.cat(maps)).unflatten(0, (-1, x.shape[2]))
        compressed, kept = mapped.tensor_split([len(self.compress)], dim=2)
        return compressed, kept.transpose(1, 2)
