"""The fully connected network of every deep branch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_weights

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "none": nn.Identity,
}
NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


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
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped = min(round(self.p * 2**16), 2**16 - 1)  # of 2^16 equally likely numbers
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        mask = torch.empty_like(x, requires_grad=False)  # a float mask: no pass to convert it
        torch.ge(bits, dropped - 2**15, out=mask)
        return x * mask.mul_(2**16 / (2**16 - dropped))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class MLP(nn.Module):
    """Fully connected layers, (B, in_features) -> (B, output_dim).

    Each layer is Linear -> norm -> activation -> dropout, the last one too: a logit needs a
    `Linear` after it. With batch norm the linear map has no bias, because the norm subtracts it
    again. Weights begin Xavier uniform, biases zero.

    Source: S. Ioffe and C. Szegedy, "Batch Normalization", ICML 2015, arXiv:1502.03167, for the
    norm between the linear map and the activation.

    Args:
        in_features: Width of the input.
        hidden_units: Width of each layer; `output_dim` is the last.
        activation: A key of `ACTIVATIONS`.
        norm: `batch`, `layer` or None.
        dropout: Probability that a unit is dropped in training.
        return_hidden: Return the outputs of all layers as a list, first to last.

    Raises:
        ValueError: No hidden units, or an unknown activation or norm; begins with the argument.

    Example:
        >>> import torch
        >>> MLP(3, (8, 2))(torch.zeros(4, 3)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        in_features: int,
        hidden_units: Sequence[int],
        *,
        activation: str = "relu",
        norm: str | None = None,
        dropout: float = 0.0,
        return_hidden: bool = False,
    ) -> None:
        super().__init__()
        if not hidden_units:
            raise ValueError("hidden_units: expected at least one layer")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation: {activation!r} is none of {', '.join(ACTIVATIONS)}")
        if norm not in (None, *NORMS):
            raise ValueError(f"norm: {norm!r} is none of {', '.join(NORMS)}")
        self.output_dim = hidden_units[-1]
        self.return_hidden = return_hidden
        self.layers = nn.ModuleList()
        for width in hidden_units:
            layer = nn.Sequential(nn.Linear(in_features, width, bias=norm != "batch"))
            if norm is not None:
                layer.append(NORMS[norm](width))
            layer.append(ACTIVATIONS[activation]())
            layer.append(Dropout(dropout))
            self.layers.append(layer)
            in_features = width
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for layer in self.layers:
            nn.init.xavier_uniform_(layer[0].weight)
            if layer[0].bias is not None:
                nn.init.zeros_(layer[0].bias)

    def folded(self) -> list[nn.Sequential]:
        """The layers for evaluation only, on weights of their own: fewer passes over the numbers.

        With fixed statistics batch norm is a scale and a shift per unit and moves into the linear
        map before it; there is no dropout; activations overwrite their input where torch can.
        The linear map, which always has a bias, comes first in each layer.
        """
        layers = []
        for linear, *others in self.layers:
            weight, bias = linear.weight, linear.bias
            if isinstance(norm := others[0], nn.BatchNorm1d):
                statistics = (norm.running_mean, norm.running_var, norm.eps)
                weight, bias = fuse_linear_bn_weights(
                    weight, bias, *statistics, norm.weight, norm.bias
                )
            layer = nn.Sequential(_linear(weight, bias))
            for module in others:
                if hasattr(module, "inplace"):
                    layer.append(type(module)(inplace=True))
                elif not isinstance(module, nn.BatchNorm1d | Dropout):
                    layer.append(module)
            layers.append(layer)
        return layers

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        hidden = []
        for layer in self.layers:
            x = layer(x)
            hidden.append(x)
        return hidden if self.return_hidden else x


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A linear map with these weights, (out_features, in_features) and (out_features,)."""
    linear = nn.Linear(*weight.T.shape, device="meta")
    linear.weight, linear.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return linear
