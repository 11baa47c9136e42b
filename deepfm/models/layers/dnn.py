"""The fully connected network of every deep branch."""

from collections.abc import Sequence

from torch import Tensor, nn

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
            layer.append(nn.Dropout(dropout))
            self.layers.append(layer)
            in_features = width
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for layer in self.layers:
            nn.init.xavier_uniform_(layer[0].weight)
            if layer[0].bias is not None:
                nn.init.zeros_(layer[0].bias)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        hidden = []
        for layer in self.layers:
            x = layer(x)
            hidden.append(x)
        return hidden if self.return_hidden else x
