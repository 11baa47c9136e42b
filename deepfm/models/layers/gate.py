"""Gates of feature selection."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deepfm.models.layers.dnn import MLP, initialize_linears
from deepfm.models.layers.precision import ProductLinear


class FeatureGate(nn.Module):
    """x * 2 sigmoid(network(context)), (B, n) -> (B, n): 1 where the network says 0.

    Without a context the network reads a learned constant, and the gates are those of every row.

    Source: K. Mao et al., "FinalMLP", AAAI 2023, arXiv:2304.00902: stream-specific
    feature selection.

    NOTE[DIFF]: The constant begins uniform in ±0.02, with which every weight of the network learns;
    FuxiCTR's begins at 0, where the ReLU behind it is off for good.

    Args:
        width: n.
        context_dim: Width of the context; 0: there is none.
        constant_dim: Width of the learned constant in its place.
        hidden_units: Of the network, with ReLU.
        init: As in `initialize_linears`.

    Example:
        >>> gate = FeatureGate(6, context_dim=3, hidden_units=(4,))
        >>> gate(torch.zeros(2, 6), torch.zeros(2, 3)).shape
        torch.Size([2, 6])
    """

    def __init__(
        self,
        width: int,
        *,
        context_dim: int,
        hidden_units: Sequence[int],
        constant_dim: int = 16,
        init: str = "xavier_uniform",
    ) -> None:
        super().__init__()
        self.constant = None
        if context_dim == 0:
            self.constant = nn.Parameter(torch.empty(1, constant_dim).uniform_(-0.02, 0.02))
        self.network = MLP(context_dim or constant_dim, hidden_units, init=init)
        self.output = ProductLinear(self.network.output_dim, width)
        initialize_linears([self.output], init)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = self.constant if context is None else context
        return x * (2 * torch.sigmoid(self.output(self.network(context))))


class FieldGates(nn.Module):
    """e * (W e + b) with W over the fields, the same for each dim, (B, F, D) -> (B, F * D).

    Source: J. Zhu et al., "FINAL: Factorized Interaction Layer for CTR Prediction", SIGIR 2023,
    doi:10.1145/3539618.3591988: its gates of fields, as FuxiCTR has them, without a sigmoid.

    Args:
        num_fields: F.
        init: As in `initialize_linears`.

    Example:
        >>> FieldGates(3)(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 12])
    """

    def __init__(self, num_fields: int, *, init: str = "xavier_uniform") -> None:
        super().__init__()
        self.linear = ProductLinear(num_fields, num_fields)
        initialize_linears([self.linear], init)

    def forward(self, field_embeddings: Tensor) -> Tensor:
        gates: Tensor = self.linear(field_embeddings.transpose(1, 2)).transpose(1, 2)  # (B, F, D)
        return (field_embeddings * gates).flatten(1)
