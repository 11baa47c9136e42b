"""Self-attention in which the positions are fields."""

from torch import Tensor, nn

from deepfm.errors import ArgumentError, nearest
from deepfm.models.layers.dropout import Dropout
from deepfm.models.layers.precision import ProductLinear

NORMS = ("after", "before", "none")


class FieldSelfAttention(nn.Module):
    """Stacked multi-head self-attention over fields, (B, F, D) -> (B, F, A).

    Every layer lets each field gather from all fields what resembles it, then adds the field's
    own projection (the residual), applies ReLU and LayerNorm. There is no position: permuted
    fields give permuted outputs. A layer costs O(F^2 * A + F * D * A).

    Source: W. Song et al., "AutoInt", CIKM 2019, arXiv:1810.11921, Eq. (5) to (8).

    NOTE[DIFF]: Scores are divided by sqrt(A / num_heads) (A. Vaswani et al., 2017,
    arXiv:1706.03762); Eq. (5) has the plain inner product, whose softmax saturates as A grows.
    `scale=False` is the paper's.
    NOTE[DIFF]: LayerNorm ends each layer, for stability when layers are stacked; Eq. (8) ends
    with the ReLU. FuxiCTR has the norm before the ReLU. `norm="none"` is the paper's.
    NOTE[DIFF]: `use_residual=False` leaves W_Res out of Eq. (8), and `is_projected=False` adds the
    input as it is where it is as wide as the output, as FuxiCTR does.
    NOTE[DIFF]: The paper drops no attention weights; FuxiCTR does.

    Args:
        embedding_dim: D.
        num_heads: Heads of a layer; each has A / num_heads dimensions.
        attention_dim: A, over all heads together.
        num_layers: Layers; those after the first read (B, F, A).
        use_residual: Whether a layer adds its projected input.
        is_projected: Whether it is projected where it has A numbers already.
        norm: Where LayerNorm stands, `after` or `before` the ReLU; or `none`.
        scale: Whether scores are divided.
        dropout: Share of attention weights left out in training.

    Raises:
        ArgumentError: `attention_dim` is no multiple of `num_heads`, or `norm` is another.

    Example:
        >>> import torch
        >>> layer = FieldSelfAttention(
        ...     4, num_heads=2, attention_dim=6, num_layers=1, use_residual=True
        ... )
        >>> layer(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 3, 6])
    """

    def __init__(
        self,
        embedding_dim: int,
        *,
        num_heads: int,
        attention_dim: int,
        num_layers: int,
        use_residual: bool,
        is_projected: bool = True,
        norm: str = "after",
        scale: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if attention_dim % num_heads:
            problem = f"{num_heads} does not divide attention_dim {attention_dim}"
            raise ArgumentError("num_heads", problem)
        if norm not in NORMS:
            raise ArgumentError("norm", f"unknown {norm!r}; {nearest(norm, NORMS)}")
        dims = [embedding_dim] + [attention_dim] * (num_layers - 1)
        self.output_dim = attention_dim
        self.layers = nn.Sequential(
            *(
                _AttentionLayer(
                    dim,
                    num_heads,
                    attention_dim,
                    adds_input=use_residual,
                    is_projected=is_projected or dim != attention_dim,
                    norm=norm,
                    scale=scale,
                    dropout=dropout,
                )
                for dim in dims
            )
        )

    def weights(self, field_embeddings: Tensor) -> Tensor:
        """Return how much each field reads of each other in the first layer, (B, heads, F, F)."""
        first = self.layers[0]
        assert isinstance(first, _AttentionLayer)
        weights: Tensor = first.weights(field_embeddings)
        return weights

    def forward(self, field_embeddings: Tensor) -> Tensor:
        attended: Tensor = self.layers(field_embeddings)
        return attended


class _AttentionLayer(nn.Module):
    def __init__(
        self,
        in_features: int,
        num_heads: int,
        attention_dim: int,
        *,
        adds_input: bool,
        is_projected: bool,
        norm: str,
        scale: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.divisor = (attention_dim // num_heads) ** 0.5 if scale else 1.0
        self.query = ProductLinear(in_features, attention_dim, bias=False, narrow=True)
        self.key = ProductLinear(in_features, attention_dim, bias=False, narrow=True)
        self.value = ProductLinear(in_features, attention_dim, bias=False, narrow=True)
        self.adds_input = adds_input
        self.residual = (
            ProductLinear(in_features, attention_dim, bias=False)
            if adds_input and is_projected
            else None
        )
        self.norm = None if norm == "none" else nn.LayerNorm(attention_dim)
        self.norm_first = norm == "before"
        self.dropout = Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for module in self.children():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def weights(self, x: Tensor) -> Tensor:
        """Return how much each field reads of each other, (B, heads, F, F); a row adds up to 1."""
        query, key = self._heads(self.query(x)), self._heads(self.key(x))
        scores = (query @ key.transpose(-2, -1)).to(x.dtype)
        if self.divisor != 1.0:
            scores = scores / self.divisor
        weights: Tensor = scores.softmax(-1)
        return weights

    def _heads(self, x: Tensor) -> Tensor:
        """Vectors by head, (B, heads, F, A / heads)."""
        heads: Tensor = x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return heads

    def forward(self, x: Tensor) -> Tensor:
        weights, value = self.dropout(self.weights(x)), self._heads(self.value(x))
        attended: Tensor = (
            (weights.to(value.dtype) @ value).transpose(1, 2).flatten(2).to(x.dtype)
        )  # (B, F, A)
        if self.adds_input:
            attended = attended + (x if self.residual is None else self.residual(x))
        if self.norm is None:
            return attended.relu()
        normalized: Tensor = self.norm(attended if self.norm_first else attended.relu())
        return normalized.relu() if self.norm_first else normalized
