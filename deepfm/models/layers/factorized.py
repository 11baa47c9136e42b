"""Factorized interaction layers: a linear map whose halves are multiplied."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from deepfm.errors import ArgumentError
from deepfm.models.layers.dnn import NORMS, activation_from, initialize_linears, rates_of_layers
from deepfm.models.layers.dropout import Dropout, ReLUDropout, norm_relu_dropout
from deepfm.models.layers.precision import ProductLinear

Combine = Literal["concat", "sum"]


class FactorizedBlock(nn.Module):
    r"""Layers of h = W x + b in two halves, (B, in_features) -> (B, output_dim).

        concat:  [h_2 ; h_1 * h_2]        sum:  h_2 + h_1 * h_2

    and then a norm, an activation and dropout. The product doubles the degree, so that L layers
    reach 2^L.

    Source: J. Zhu et al., "FINAL: Factorized Interaction Layer for CTR Prediction", SIGIR 2023,
    doi:10.1145/3539618.3591988.

    NOTE[DIFF]: `concat` is FuxiCTR's, which published the figures of FinalNet: it costs half the
    products of `sum` for as many units.
    NOTE[DIFF]: The factors pass no sigmoid between them, as in FuxiCTR.
    NOTE[DIFF]: Each layer has its own dropout. In FuxiCTR a layer with rate 0 among others shifts
    the rates of those behind it.

    Args:
        hidden_units: Width of each layer's output; even with `concat`.
        activation: As `activation_from` reads it.
        norm: `batch`, `layer` or None.
        dropout: Probability that a unit is dropped in training: of all layers, or of each.
        combine: How the halves are combined.
        init: As in `initialize_linears`.

    Raises:
        ArgumentError: No hidden units, an odd number of them, dropout for another number of
            layers, or an unknown activation, norm or init.

    Example:
        >>> FactorizedBlock(3, (8, 2))(torch.zeros(4, 3)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        in_features: int,
        hidden_units: Sequence[int],
        *,
        activation: str = "none",
        norm: str | None = "batch",
        dropout: float | Sequence[float] = 0.0,
        bias: bool = True,
        combine: Combine = "concat",
        init: str = "xavier_uniform",
    ) -> None:
        super().__init__()
        if not hidden_units:
            raise ArgumentError("hidden_units", "expected at least one layer")
        if norm not in (None, *NORMS):
            raise ArgumentError("norm", f"{norm!r} is none of {', '.join(NORMS)}")
        if combine == "concat" and any(width % 2 for width in hidden_units):
            raise ArgumentError("hidden_units", f"expected even widths, got {list(hidden_units)}")
        rates = rates_of_layers(dropout, len(hidden_units))
        self.output_dim = hidden_units[-1]
        self._is_sum = combine == "sum"
        self.linears, self.tails = nn.ModuleList(), nn.ModuleList()
        for width, rate in zip(hidden_units, rates, strict=True):
            mapped = 2 * width if self._is_sum else width
            self.linears.append(ProductLinear(in_features, mapped, bias=bias))
            tail = nn.Sequential() if norm is None else nn.Sequential(NORMS[norm](width))
            function = activation_from(activation, width)
            if type(function) is nn.ReLU:
                tail.append(ReLUDropout(rate))
            else:
                tail.extend([function, Dropout(rate)])
            self.tails.append(tail)
            in_features = width
        initialize_linears((one for one in self.linears if isinstance(one, nn.Linear)), init)

    def forward(self, x: Tensor) -> Tensor:
        for linear, tail in zip(self.linears, self.tails, strict=True):
            second, first = linear(x).chunk(2, dim=1)
            if self._is_sum:
                x = torch.addcmul(second, first, second)
            else:
                x = torch.cat([second, first * second], dim=1)
            assert isinstance(tail, nn.Sequential)
            x = _finished(x, tail)
        return x


def _finished(x: Tensor, tail: nn.Sequential) -> Tensor:
    """Norm, activation and dropout, in as few passes over numbers as can be."""
    first, last = tail[0], tail[-1]
    if isinstance(first, nn.BatchNorm1d) and isinstance(last, ReLUDropout):
        return norm_relu_dropout(x, first, last)
    y: Tensor = tail(x)
    return y
