"""Vectors of numbers by an encoding: bins between quantiles, or sines and cosines.

Decided here: what the encodings are, and that fields of one shape are encoded and mapped to their
vectors together.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deepfm.errors import ArgumentError
from deepfm.models.layers.fields import DenseField
from deepfm.models.layers.initializers import initializer_from


class PiecewiseLinear(nn.Module):
    r"""A linear map of where each of C numbers lies among its bins, (B, C) -> (B, C, W).

    With the edges b_0 < ... < b_T of a number's bins, component t of its encoding is

        clamp((x - b_{t-1}) / (b_t - b_{t-1}), 0, 1) / sqrt(T):

    full in the bins below that of x, 0 in those above, and in its own how far x is through it. A
    linear map of it is a continuous function of x, linear in each bin.

    The encoding is never made: its product with a weight is the sum of the rows of all lower bins,
    which is the same for every x of a bin, and a part of the bin's own row. So a number costs two
    rows, however many bins there are.

    Source: Y. Gorishniy, I. Rubachev, A. Babenko, "On Embeddings for Numerical Features in Tabular
    Deep Learning", NeurIPS 2022, arXiv:2203.05556, Eq. (1).

    NOTE[DIFF]: The components are divided by the root of the number's own T. A step of Adam moves
    every weight of the lower bins alike, so that without it a step would move the vector T times
    as far as that of an id, and many numbers together diverge.

    NOTE[DIFF]: The paper goes on linearly beyond the outer edges. Here a number beyond them is
    encoded like the edge, because an outer bin can be so narrow that a number a little beyond it
    would be encoded in thousands.

    Args:
        edges: Of each number, rising, two at least.

    Attributes:
        num_features: T, of the number with the most bins; weights of bins that a number has not
            stay as they are.

    Example:
        >>> encoding = PiecewiseLinear([[0.0, 1.0, 3.0], [0.0, 2.0]])
        >>> encoding(torch.tensor([[2.0, 1.0]]), torch.eye(2).expand(2, 2, 2))
        tensor([[[0.7071, 0.3536],
                 [0.5000, 0.0000]]])
    """

    _lower: Tensor
    _width: Tensor
    _first_rows: Tensor
    _scale: Tensor

    def __init__(self, edges: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.num_features = max(map(len, edges), default=1) - 1
        limits = torch.finfo(torch.float32)
        lower, width = [], []
        for of_number in edges:
            rising = [min(max(edge, limits.min), limits.max) for edge in of_number]
            widths = [min(b - a, limits.max) for a, b in itertools.pairwise(rising)]
            if not widths or min(widths) <= 0:
                raise ArgumentError("edges", f"expected 2 or more that rise, got {list(of_number)}")
            missing = self.num_features - len(widths)
            lower.append([*rising[:-1], *[math.inf] * missing])  # above every number
            width.append([*(max(w, limits.tiny) for w in widths), *[1.0] * missing])
        counts = torch.tensor([float(len(of_number) - 1) for of_number in edges])
        first_rows = torch.arange(len(lower)).unsqueeze(0) * self.num_features
        self.register_buffer("_lower", torch.tensor(lower), persistent=False)
        self.register_buffer("_width", torch.tensor(width).flatten(), persistent=False)
        self.register_buffer("_first_rows", first_rows, persistent=False)
        self.register_buffer("_scale", counts.rsqrt().view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """The encoding of x, (B, C), times the weight of each number, (C, T, W)."""
        bins = torch.searchsorted(self._lower, x.detach().t().contiguous(), right=True) - 1
        rows = bins.clamp(min=0).t() + self._first_rows  # (B, C), of all bins end to end
        lower = self._lower.flatten()[rows]
        share = ((x - lower) / self._width[rows]).clamp(0.0, 1.0)
        weight = weight * self._scale
        below = weight.cumsum(1) - weight  # of all lower bins
        both = torch.cat([below, weight], 2).flatten(0, 1)  # (C * T, 2 W)
        whole, own = nn.functional.embedding(rows, both).chunk(2, dim=2)
        return torch.addcmul(whole, share.unsqueeze(2), own)


class Periodic(nn.Module):
    r"""A linear map of sines and cosines of each of C numbers, (B, C) -> (B, C, W).

        [sin(2 pi c_1 x), ..., sin(2 pi c_K x), cos(2 pi c_1 x), ..., cos(2 pi c_K x)]

    The frequencies c are trained, and each number has its own; `reset_parameters` draws them.

    Source: Gorishniy et al., arXiv:2203.05556, Eq. (2); the frequencies begin as N(0, scale).

    Args:
        num_numbers, num_frequencies: C and K.
        scale: Deviation of the frequencies before training.

    Attributes:
        num_features: 2K.
    """

    def __init__(self, num_numbers: int, num_frequencies: int, scale: float) -> None:
        super().__init__()
        self.num_features = 2 * num_frequencies
        self.scale = scale
        self.frequency = nn.Parameter(torch.zeros(num_numbers, num_frequencies))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.frequency, 0.0, self.scale)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """The encoding of x, (B, C), times the weight of each number, (C, 2K, W)."""
        angle = (2 * math.pi) * x.unsqueeze(-1) * self.frequency  # (B, C, K)
        encoded = torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)
        return torch.bmm(encoded.transpose(0, 1), weight).transpose(0, 1)


class EncodedFields(nn.Module):
    """Vectors (B, F, D) of fields of one shape: encoding, linear map, for periodic fields ReLU.

    Each field has its own weights, (value_dim * num_features, D), and bias, (D,).

    Source: Gorishniy et al., arXiv:2203.05556, Section 3.4: PLE-L (the encoding and a linear map)
    and PLR (periodic, linear, ReLU).

    Args:
        fields: All of one `shape`.
        columns: Which columns of the dense inputs they have, field by field.
        first_order: Whether piecewise fields have first-order weights, one per bin.

    Attributes:
        names: Of the fields.
        columns: As given.
    """

    _columns: Tensor

    def __init__(
        self, fields: Sequence[DenseField], columns: Sequence[int], *, first_order: bool
    ) -> None:
        super().__init__()
        self.names = tuple(field.name for field in fields)
        self._initializers = [field.initializer for field in fields]
        first = fields[0]
        assert first.dim is not None
        self.encoding: PiecewiseLinear | Periodic
        if first.edges:
            edges = [field.edges for field in fields for _ in range(field.value_dim)]
            self.encoding = PiecewiseLinear(edges)
        else:
            self.encoding = Periodic(len(columns), first.frequencies, first.frequency_scale)
        self._value_dim = first.value_dim
        num_features = first.value_dim * self.encoding.num_features
        self.columns = tuple(columns)
        self.register_buffer("_columns", torch.tensor(columns), persistent=False)
        self.weight = nn.Parameter(torch.empty(len(fields), num_features, first.dim))
        self.bias = nn.Parameter(torch.empty(len(fields), first.dim))
        self.first_order = None
        if first_order and first.edges:
            self.first_order = nn.Parameter(torch.empty(len(columns), self.encoding.num_features))

    def reset_parameters(self) -> None:
        """Weights by each field's initializer; biases and first-order weights are zero."""
        for initializer, weight in zip(self._initializers, self.weight.detach(), strict=True):
            initializer_from(initializer)(weight)
        nn.init.zeros_(self.bias)
        if self.first_order is not None:
            nn.init.zeros_(self.first_order)
        if isinstance(self.encoding, Periodic):
            self.encoding.reset_parameters()

    def forward(self, dense: Tensor) -> tuple[Tensor, Tensor | None]:
        """Vectors of B rows of dense inputs, and the first-order terms of their columns, (B, C)."""
        numbers = dense.index_select(1, self._columns)  # (B, C)
        weight = self.weight.unflatten(1, (self._value_dim, -1)).flatten(0, 1)  # (C, N, D)
        terms = None
        if self.first_order is not None:
            weight = torch.cat([weight, self.first_order.unsqueeze(2)], 2)
        mapped = self.encoding(numbers, weight)
        if self.first_order is not None:
            mapped, terms = mapped[..., :-1], mapped[..., -1]
        vectors: Tensor = mapped.unflatten(1, (-1, self._value_dim)).sum(2) + self.bias
        if isinstance(self.encoding, Periodic):
            vectors = torch.relu(vectors)
        return vectors, terms


def groups_of_one_shape(fields: Sequence[DenseField]) -> dict[str, list[DenseField]]:
    """Encoded fields, in order, by a name of their shape.

    Example:
        >>> fields = [DenseField("a", 4, edges=(0.0, 1.0)), DenseField("b", 4, frequencies=8)]
        >>> list(groups_of_one_shape([*fields, DenseField("c", 4, edges=(0.0, 1.0, 2.0))]))
        ['piecewise_4', 'periodic_4_of_8_at_0_1']
    """
    groups: dict[str, list[DenseField]] = {}
    for field in fields:
        if field.is_encoded:
            groups.setdefault(field.shape, []).append(field)
    return groups
