"""Feature selection: the probability of dropping each field is learned."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

TEMPERATURE = 0.1


class VariationalDropout(nn.Module):
    r"""Multiplies each field's numbers with one mask, whose distribution is learned, (B, total).

    Field f has one weight p_f and the drop probability q_f = sigmoid(p_f). With u uniform in
    [0, 1), drawn per row and field, and eps that of the dtype:

        z = sigmoid([ln(q + eps) - ln(1 - q + eps) + ln(u + eps) - ln(1 - u + eps)] / 0.1)

    Training multiplies with 1 - z, evaluation with 1 - q. `penalty`, in the loss, pulls q towards
    1, so a field is kept as far as it earns it: the lower its q, the more useful it is.

    Source: C. J. Maddison et al., "The Concrete Distribution", ICLR 2017, arXiv:1611.00712, for z;
    the rest is what TorchEasyRec calls variational dropout.

    Args:
        dims: Width of each field by its name, in the order of the input's columns.

    Attributes:
        names: The fields.

    Example:
        >>> layer = VariationalDropout({"a": 4, "b": 3, "c": 2})
        >>> layer(torch.ones(2, 9)).shape
        torch.Size([2, 9])
    """

    field: Tensor

    def __init__(self, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.names = tuple(dims)
        field = torch.tensor([k for k, dim in enumerate(dims.values()) for _ in range(dim)])
        self.register_buffer("field", field, persistent=False)  # of each column
        self.weight = nn.Parameter(torch.empty(len(dims)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)

    @property
    def probability(self) -> Tensor:
        """q, the probability that a field is dropped, (F,)."""
        return torch.sigmoid(self.weight)

    def ratios(self) -> dict[str, float]:
        """q by field."""
        return dict(zip(self.names, self.probability.tolist(), strict=True))

    def penalty(self) -> Tensor:
        """sum_f (1 - q_f), ()."""
        return (1 - self.probability).sum()

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2 or x.shape[1] != len(self.field):
            raise ValueError(f"expected (B, {len(self.field)}), got {tuple(x.shape)}")
        drop = self.probability.unsqueeze(0)  # (1, F)
        if self.training:
            eps = torch.finfo(x.dtype).eps
            u = torch.rand(len(x), len(self.names), dtype=x.dtype, device=x.device)
            odds = (drop + eps).log() - (1 - drop + eps).log() + (u + eps).log()
            drop = torch.sigmoid((odds - (1 - u + eps).log()) / TEMPERATURE)  # (B, F)
        return x * (1 - drop).index_select(1, self.field)
