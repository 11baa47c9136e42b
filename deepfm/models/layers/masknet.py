"""Mask blocks, alone, in rows and on each other, and the norm of vectors that they read."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepfm.models.layers.dnn import initialize_linears
from deepfm.models.layers.dropout import ReLUDropout
from deepfm.models.layers.precision import ProductLinear

_EPS = 1e-5  # of a norm, as torch's


class FieldNorm(nn.Module):
    """LayerNorm of each field's own vector, of vectors that stand end to end, (B, n) -> (B, n).

    Each field has its own scale and shift. Where all fields but those of one number have one
    width, a call of torch's norm does it; else two products with a matrix (n, F) that averages.

    Source: Z. Wang et al., "MaskNet", DLP-KDD 2021, arXiv:2102.07619: LN_EMB.

    NOTE[DIFF]: A field of one number, such as a raw dense one, passes as it is, scaled and
    shifted: the norm of a single number is 0 whatever it is.

    Args:
        dims: Width of each field's vector, in their order.

    Example:
        >>> FieldNorm([2, 1])(torch.tensor([[3.0, 5.0, 7.0]]))
        tensor([[-1.0000,  1.0000,  7.0000]], grad_fn=<AddcmulBackward0>)
    """

    _average: Tensor
    _spread: Tensor
    _eps: Tensor

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(sum(dims)))
        self.bias = nn.Parameter(torch.zeros(sum(dims)))
        self._width = max(dims, default=0)
        wide = [dim > 1 for dim in dims]
        first = sum(wide)
        self._is_even = set(dims[:first]) == {self._width} and not any(wide[first:])
        self._even = first * self._width
        if self._is_even:
            return
        of_field, start = torch.zeros(sum(dims), len(dims)), 0  # (n, F)
        for field, dim in enumerate(dims):
            of_field[start : start + dim, field] = 1.0
            start += dim
        counts = torch.tensor([float(dim) for dim in dims])
        self.register_buffer("_average", of_field * (counts > 1) / counts, persistent=False)
        self.register_buffer("_spread", of_field.t().contiguous(), persistent=False)
        self.register_buffer("_eps", torch.where(counts > 1, _EPS, 1.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self._is_even:
            fields, others = x[:, : self._even].unflatten(1, (-1, self._width)), x[:, self._even :]
            normed = F.layer_norm(fields, (self._width,), eps=_EPS).flatten(1)
            normed = torch.cat([normed, others], dim=1) if others.shape[1] else normed
        else:
            centered = x - (x @ self._average) @ self._spread
            variance = centered.square() @ self._average + self._eps  # (B, F)
            normed = centered * (variance.pow(-0.5) @ self._spread)
        return torch.addcmul(self.bias, normed, self.weight)


class MaskBlock(nn.Module):
    """ReLU(LN(W (m * h))) with a mask of the embedding e, (B, in_features) -> (B, units).

        m = W_2 ReLU(W_1 e + b_1) + b_2

    The mask has the width of h, so that it weighs each of its numbers for the row at hand.

    Source: Z. Wang et al., "MaskNet", arXiv:2102.07619: instance-guided mask and MaskBlock.

    NOTE[DIFF]: `bias` adds one to W, which the paper has not and TorchEasyRec has.
    NOTE[DIFF]: `norm=False` leaves the LayerNorm out, as FuxiCTR can.

    Args:
        in_features: Width of h.
        mask_features: Width of e.
        aggregation_dim: Units between W_1 and W_2.
        units: Width of the output.
        dropout: Probability that a unit is dropped in training.
        init: As in `initialize_linears`.

    Example:
        >>> block = MaskBlock(4, 6, aggregation_dim=12, units=3)
        >>> block(torch.zeros(2, 4), torch.zeros(2, 6)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        in_features: int,
        mask_features: int,
        *,
        aggregation_dim: int,
        units: int,
        norm: bool = True,
        bias: bool = False,
        dropout: float = 0.0,
        init: str = "xavier_uniform",
    ) -> None:
        super().__init__()
        self.aggregation = ProductLinear(mask_features, aggregation_dim, narrow=True)
        self.mask = ProductLinear(aggregation_dim, in_features)
        self.hidden = ProductLinear(in_features, units, bias=bias)
        self.norm = nn.LayerNorm(units) if norm else nn.Identity()
        self.activation = ReLUDropout(dropout)
        initialize_linears([self.aggregation, self.mask, self.hidden], init)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        mask = self.mask(self.aggregation(embedding, relu=True))
        y: Tensor = self.activation(self.norm(self.hidden(mask * x)))
        return y


class MaskBlocks(nn.Module):
    """Blocks on the normed embedding, (B, n) -> (B, output_dim).

    Parallel blocks read LN(e) and stand end to end; of serial ones each reads the output of the
    one before it. All make their masks of e.

    Source: Z. Wang et al., "MaskNet", arXiv:2102.07619.

    Args:
        dims: Width of each field's vector, in their order; n is their sum.
        hidden_units: Width of each block's output.
        parallel: Whether the blocks stand side by side.
        embedding_norm: `field`, `vector` (one LayerNorm over the whole) or `none`.
        reduction_ratio: Units of a mask's network for each number that its block reads.
        aggregation_dim: These units; None: as `reduction_ratio` says.
        **block: As in `MaskBlock`.

    Example:
        >>> MaskBlocks([4, 2], (3, 5))(torch.zeros(2, 6)).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        dims: Sequence[int],
        hidden_units: Sequence[int],
        *,
        parallel: bool = True,
        embedding_norm: str = "field",
        reduction_ratio: float = 1.0,
        aggregation_dim: int | None = None,
        **block: Any,
    ) -> None:
        super().__init__()
        width = read = sum(dims)
        norms: dict[str, nn.Module] = {"vector": nn.LayerNorm(width), "none": nn.Identity()}
        self.parallel = parallel
        self.norm = FieldNorm(dims) if embedding_norm == "field" else norms[embedding_norm]
        self.blocks = nn.ModuleList()
        for units in hidden_units:
            aggregated = aggregation_dim or max(1, int(read * reduction_ratio))
            self.blocks.append(
                MaskBlock(read, width, aggregation_dim=aggregated, units=units, **block)
            )
            read = width if parallel else units
        self.output_dim = sum(hidden_units) if parallel else read

    def forward(self, embedding: Tensor) -> Tensor:
        h: Tensor = self.norm(embedding)
        if self.parallel:
            return torch.cat([block(h, embedding) for block in self.blocks], dim=1)
        for block in self.blocks:
            h = block(h, embedding)
        return h
