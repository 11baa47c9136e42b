"""Cross networks: each layer multiplies its input with an input of the network, unit by unit.

Shapes: n width of the flat input.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from deepfm.errors import ArgumentError
from deepfm.models.layers.dnn import initialize_linears
from deepfm.models.layers.dropout import Dropout
from deepfm.models.layers.precision import ProductLinear, is_open, product


class VectorCrossNetwork(nn.Module):
    r"""Cross layers with a weight vector each, (B, n) -> (B, n).

    x_{l+1} = x_0 <w_l, x_l> + b_l + x_l

    Every x_l is s_l x_0 + t_l with a number s_l per row and a vector t_l that all rows share:

        s_{l+1} = s_l (1 + <w_l, x_0>) + <w_l, t_l>        t_{l+1} = t_l + b_l

    so that all layers cost one product of x_0 with L vectors and one pass that writes x_L.

    Source: R. Wang et al., "Deep & Cross Network for Ad Click Predictions", ADKDD 2017,
    arXiv:1708.05123, Eq. (3).

    Args:
        width: n.
        num_layers: Layers.

    Example:
        >>> VectorCrossNetwork(3, num_layers=2)(torch.zeros(4, 3)).shape
        torch.Size([4, 3])
    """

    def __init__(self, width: int, *, num_layers: int) -> None:
        super().__init__()
        self.output_dim = width
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for _ in range(num_layers):
            self.weights.append(nn.init.xavier_uniform_(nn.Parameter(torch.empty(1, width))))
            self.biases.append(nn.Parameter(torch.zeros(width)))

    def forward(self, x0: Tensor) -> Tensor:
        along = product(x0, torch.cat(list(self.weights)))  # (B, L)
        scale, shift = torch.ones_like(along[:, :1]), x0.new_zeros(self.output_dim)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            scale = scale * (1 + along[:, layer : layer + 1]) + (weight * shift).sum()  # (B, 1)
            shift = shift + bias  # (n,)
        return torch.addcmul(shift, scale, x0)


class CrossNetwork(nn.Module):
    r"""Cross layers with a matrix each, whole or of low rank, (B, n) -> (B, n).

    x_{l+1} = x_0 * (W_l x_l + b_l) + x_l

    A rank r replaces W by U V with U (n, r) and V (r, n). With `gate` each layer lets a part of
    its product pass:

        x_{l+1} = x_0 * (W_l x_l + b_l) * sigmoid(G_l x_l) + x_l

    A layer costs O(n^2), or O(n r); with a gate twice that.

    Source: R. Wang et al., "DCN V2", WWW 2021, arXiv:2008.13535, Section 3; the gate is that of
    F. Wang et al., "Towards Deeper, Lighter and Interpretable Cross Network for CTR Prediction"
    (GDCN), CIKM 2023, arXiv:2311.04635.

    NOTE[DIFF]: GDCN has no low rank; here a rank is that of the gate's matrix too.
    NOTE[DIFF]: The mixture of low-rank experts of DCN V2 is not there.

    Args:
        width: n.
        num_layers: Layers.
        rank: r; None: whole matrices.
        gate: Whether layers have gates.
        init: As in `deepfm.models.layers.dnn.initialize_linears`.

    Raises:
        ArgumentError: An unknown init.

    Example:
        >>> CrossNetwork(3, num_layers=2, rank=1, gate=True)(torch.zeros(4, 3)).shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        width: int,
        *,
        num_layers: int,
        rank: int | None = None,
        gate: bool = False,
        init: str = "xavier_uniform",
    ) -> None:
        super().__init__()
        self.output_dim = width
        self.maps = nn.ModuleList(_map(width, rank, bias=True) for _ in range(num_layers))
        gates = num_layers if gate else 0
        self.gates = nn.ModuleList(_map(width, rank, bias=False) for _ in range(gates))
        initialize_linears((m for m in self.modules() if isinstance(m, nn.Linear)), init)

    def forward(self, x0: Tensor) -> Tensor:
        x = x0
        for layer, mapped in enumerate(self.maps):
            y = mapped(x)
            if self.gates:
                y = y * self.gates[layer](x).sigmoid()
            x = torch.addcmul(x, x0, y)
        return x


def _map(width: int, rank: int | None, *, bias: bool) -> nn.Module:
    """A linear map (n) -> (n), by way of r numbers where there is a rank."""
    if rank is None:
        return ProductLinear(width, width, bias=bias)
    return nn.Sequential(
        ProductLinear(width, rank, bias=False, narrow=True), ProductLinear(rank, width, bias=bias)
    )


class MaskedCrossNetwork(nn.Module):
    r"""Cross layers whose second half is what a mask leaves of the first, (B, n) -> (B, n).

    h = W_l x_l  (n/2)        c = [h ; h * ReLU(LayerNorm(h))] + b_l
    x_{l+1} = a * c + x_l

    with a = x_0, which raises the order of the interactions by one per layer (linear), or a = x_l,
    which doubles it (exponential). A layer costs O(n^2 / 2).

    Source: H. Li et al., "DCNv3: Towards Next Generation Deep Cross Network for CTR Prediction",
    2024, arXiv:2407.13349.

    NOTE[DIFF]: b_l begins at 0; the authors' code draws it between 0 and 1.
    NOTE[DIFF]: Where n is odd, h has one number more than its masked half.

    Args:
        width: n, at least 2.
        num_layers: Layers.
        exponential: Whether a is x_l.
        dropout: Share of numbers left out after each layer, in training.

    Raises:
        ArgumentError: The width is 1.

    Example:
        >>> MaskedCrossNetwork(5, num_layers=2, exponential=True)(torch.zeros(4, 5)).shape
        torch.Size([4, 5])
    """

    def __init__(
        self, width: int, *, num_layers: int, exponential: bool, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if width < 2:
            raise ArgumentError("width", f"expected 2 or more, found {width}")
        self.output_dim, self.exponential = width, exponential
        half = width - width // 2
        self.maps = nn.ModuleList(ProductLinear(width, half, bias=False) for _ in range(num_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width // 2) for _ in range(num_layers))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(width)) for _ in range(num_layers))
        self.dropout = Dropout(dropout)
        initialize_linears(cast("list[nn.Linear]", list(self.maps)), "xavier_uniform")

    def forward(self, x0: Tensor) -> Tensor:
        x = x0
        is_fused = is_open() and torch.is_grad_enabled()
        for mapped, norm, bias in zip(self.maps, self.norms, self.biases, strict=True):
            assert isinstance(norm, nn.LayerNorm)
            h, anchor = mapped(x), None if self.exponential else x0
            if is_fused:
                kept = self.dropout.kept_and_scaled(x)
                x = _masked_cross(x, anchor, h, norm.weight, norm.bias, bias, norm.eps, kept)
            else:
                first = h[:, : len(bias) // 2]
                c = torch.cat([h, first * norm(first).relu()], dim=1) + bias  # (B, n)
                x = self.dropout(torch.addcmul(x, x if anchor is None else anchor, c))
        return x


class _MaskedCross(torch.autograd.Function):
    """What follows the product of a layer, dropout too, in about half as many passes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        anchor: Tensor | None,
        h: Tensor,
        weight: Tensor,
        shift: Tensor,
        bias: Tensor,
        eps: float,
        kept: Tensor | None,
    ) -> Tensor:
        half, masked = h.shape[1], len(weight)
        first = h[:, :masked].contiguous()
        mask, mean, inverse = torch.native_layer_norm(first, [masked], weight, shift, eps)
        mask = mask.relu_()
        c = torch.empty_like(x)
        torch.add(h, bias[:half], out=c[:, :half])
        torch.addcmul(bias[half:], first, mask, out=c[:, half:])
        ctx.is_exponential = anchor is None
        anchor = x if anchor is None else anchor
        ctx.save_for_backward(anchor, c, first, mask, mean, inverse, weight, shift, kept)
        y = torch.addcmul(x, anchor, c)
        return y if kept is None else y.mul_(kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        anchor, c, first, mask, mean, inverse, weight, shift, kept = ctx.saved_tensors
        masked, half = first.shape[1], c.shape[1] - first.shape[1]
        gradient = gradient if kept is None else gradient * kept
        of_h = gradient[:, :half] * anchor[:, :half]
        of_masked = gradient[:, half:] * anchor[:, half:]
        of_bias = torch.cat([of_h.sum(0), of_masked.sum(0)])
        of_norm, of_weight, of_shift = torch.ops.aten.native_layer_norm_backward(
            torch.ops.aten.threshold_backward(of_masked * first, mask, 0),
            first,
            [masked],
            mean,
            inverse,
            weight,
            shift,
            [True, True, True],
        )
        of_h[:, :masked].add_(of_norm.addcmul_(of_masked, mask))
        if ctx.is_exponential:
            of_x = torch.addcmul(gradient, gradient, c)
            return of_x, None, of_h, of_weight, of_shift, of_bias, None, None
        return gradient, gradient * c, of_h, of_weight, of_shift, of_bias, None, None


_masked_cross: Callable[..., Tensor] = _MaskedCross.apply
