"""What a sequence of events says about a query: encoders of (query, sequence, mask) to a vector.

Shapes: query (B, Dq), sequence (B, L, Ds), mask (B, L) bool, which says which positions count;
vectors (B, output_dim). A row without any position that counts gives zeros, but for parts of the
output that are the query itself. What stands at the other positions changes nothing.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepfm.errors import ArgumentError
from deepfm.models.layers.dnn import MLP, initialize_linears
from deepfm.models.layers.dropout import Dropout
from deepfm.models.layers.positions import after_first_product, counted_positions
from deepfm.models.layers.precision import ProductLinear, product

STATISTICS = ("valid", "padded")


class Pooling(nn.Module):
    """The mean or the sum of the positions that count, (B, Ds).

    Args:
        sequence_dim: Ds.
        combiner: `mean` or `sum`.

    Raises:
        ArgumentError: The combiner is another.

    Example:
        >>> mask = torch.tensor([[True, True, False]])
        >>> Pooling(1, combiner="mean")(None, torch.tensor([[[1.0], [4.0], [9.0]]]), mask)
        tensor([[2.5000]])
    """

    def __init__(self, sequence_dim: int, *, combiner: str) -> None:
        super().__init__()
        if combiner not in ("mean", "sum"):
            raise ArgumentError("combiner", f"expected mean or sum, got {combiner!r}")
        self.output_dim, self.combiner = sequence_dim, combiner

    def forward(self, query: Tensor | None, sequence: Tensor, mask: Tensor) -> Tensor:
        weights = mask.to(sequence.dtype)
        if self.combiner == "mean":
            weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
        return weighted_sum(weights, sequence)


class SimpleAttention(nn.Module):
    """The positions weighed by the softmax of <query, s_t>, (B, Ds).

    Source: as TorchEasyRec's encoder of this name; the inner product is that of M.-T. Luong et
    al., "Effective Approaches to Attention-based Neural Machine Translation", EMNLP 2015,
    arXiv:1508.04025 (the score `dot`). It is not divided by the root of Ds.

    NOTE[DIFF]: A query narrower than the sequence is filled up with zeros; TorchEasyRec fails.

    Args:
        query_dim, sequence_dim: Dq and Ds.

    Raises:
        ArgumentError: The query is wider than the sequence.
    """

    def __init__(self, query_dim: int, sequence_dim: int) -> None:
        super().__init__()
        _refuse_wider(query_dim, sequence_dim)
        self.output_dim, self._missing = sequence_dim, sequence_dim - query_dim

    def forward(self, query: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
        query = F.pad(query, (0, self._missing)) if self._missing else query
        scores = (sequence @ query.unsqueeze(2)).squeeze(2)  # (B, L)
        return weighted_sum(masked_softmax(scores, mask), sequence)


class _AttentionMLP(nn.Module):
    """Scores of positions, Linear(MLP(z_t)), where z_t is made of q, s_t and q * s_t.

    The network's first linear map is split into what it does with each of these, so that the part
    of the query is computed once per row. Its parameters stay those of one map of z_t. Of
    positions that do not count the score is 0, and on the CPU nothing is computed.

    Args:
        query_dim, sequence_dim: Dq and Ds; q is filled up with zeros to Ds.
        num_parts: Width of z_t, in multiples of Ds.
        hidden_units, activation, norm, dropout, bias, init: As those of `MLP`.
        statistics: Whether norms count `valid` positions or, as TorchEasyRec does, `padded` ones
            as well.

    Raises:
        ArgumentError: The query is wider than the sequence, `statistics` is another, or as `MLP`.
    """

    def __init__(
        self,
        query_dim: int,
        sequence_dim: int,
        num_parts: int,
        *,
        hidden_units: Sequence[int],
        activation: str,
        norm: str | None,
        dropout: float,
        bias: bool,
        init: str,
        statistics: str,
    ) -> None:
        super().__init__()
        _refuse_wider(query_dim, sequence_dim)
        if statistics not in STATISTICS:
            problem = f"{statistics!r} is none of {', '.join(STATISTICS)}"
            raise ArgumentError("statistics", problem)
        self._missing = sequence_dim - query_dim
        self._counts_padded = statistics == "padded"
        self.mlp = MLP(
            num_parts * sequence_dim,
            hidden_units,
            activation=activation,
            norm=norm,
            dropout=dropout,
            bias=bias,
            init=init,
        )
        self.linear = ProductLinear(self.mlp.output_dim, 1)
        initialize_linears([self.linear], init)

    def _split(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of the first weight, (H, width of z_t), for q and for [s_t, q * s_t]."""
        raise NotImplementedError

    def _padded(self, query: Tensor) -> Tensor:
        return F.pad(query, (0, self._missing)) if self._missing else query

    def _scores(self, query: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
        """Of all positions, (B, L); `query` is as wide as the sequence."""
        first = self.mlp.first
        of_query, of_both = self._split(first.weight)
        of_rows = product(query, of_query, first.bias)  # (B, H)
        takes_all = self.training and self._counts_padded
        places = None if takes_all else counted_positions(mask)
        if places is not None:
            row = places.div(mask.shape[1], rounding_mode="floor")
            events = sequence.flatten(0, 1).index_select(0, places)  # (N, Ds)
            both = torch.cat([events, query.index_select(0, row) * events], dim=1)
            hidden = product(both, of_both) + of_rows.index_select(0, row)
            found: Tensor = self.linear(after_first_product(self.mlp, hidden, None)).squeeze(1)
            scores = found.new_zeros(mask.numel()).index_copy(0, places, found)
            return scores.view(mask.shape)
        if takes_all:  # where there is no event, there may be a trained row 0
            sequence = sequence * mask.unsqueeze(2)
        both = torch.cat([sequence, query.unsqueeze(1) * sequence], dim=2)
        hidden = (product(both, of_both) + of_rows.unsqueeze(1)).flatten(0, 1)  # (B * L, H)
        counts = None if takes_all else mask.flatten()
        found = self.linear(after_first_product(self.mlp, hidden, counts))
        return found.view(mask.shape) * mask


class DIN(_AttentionMLP):
    r"""Target attention: the positions weighed by a network's scores, (B, Ds).

        sum_t a_t s_t   with   a_t = Linear(MLP([q, s_t, q - s_t, q * s_t]))

    With `softmax` the weights are the softmax of a_t over the positions that count.

    Source: G. Zhou et al., "Deep Interest Network", KDD 2018, arXiv:1706.06978, Eq. (3), whose
    weights are not normalized.

    NOTE[DIFF]: The paper's network reads q, s_t and their outer product; here it reads their
    difference and elementwise product, as the authors' program and TorchEasyRec do.
    NOTE[DIFF]: TorchEasyRec always takes the softmax, and batch norm and Dice count padding in
    their statistics: `softmax=True`, `statistics="padded"`.

    Args:
        query_dim, sequence_dim: Dq and Ds; q is filled up with zeros to Ds.
        softmax: Whether weights are normalized.
        options: Those of `_AttentionMLP`.

    Raises:
        ArgumentError: As `_AttentionMLP`.

    Example:
        >>> network = {"hidden_units": (4,), "activation": "Dice", "norm": None, "dropout": 0.0}
        >>> layer = DIN(2, 3, softmax=False, **network, bias=True, init="torch", statistics="valid")
        >>> layer(torch.ones(1, 2), torch.ones(1, 5, 3), torch.zeros(1, 5, dtype=torch.bool))
        tensor([[0., 0., 0.]], grad_fn=<SqueezeBackward1>)
    """

    def __init__(self, query_dim: int, sequence_dim: int, *, softmax: bool, **options: Any) -> None:
        super().__init__(query_dim, sequence_dim, 4, **options)
        self.output_dim, self.softmax = sequence_dim, softmax

    def _split(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        query, event, difference, both = weight.chunk(4, dim=1)
        return query + difference, torch.cat([event - difference, both], dim=1)

    def forward(self, query: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
        scores = self._scores(self._padded(query), sequence, mask)
        weights = masked_softmax(scores, mask) if self.softmax else scores
        return weighted_sum(weights, sequence)


class MultiWindowDIN(_AttentionMLP):
    r"""Target attention in windows of the sequence, and the query, (B, (windows + 1) * Ds).

    Of each window, end to end: sum_t a_t s_t over its positions that count, divided by how many
    these are, with a_t = PReLU(Linear(MLP([s_t, q * s_t, q]))). Behind them stands q.

    Source: as TorchEasyRec's encoder of this name; no paper is known to describe it.

    NOTE[DIFF]: There the first window begins at the first position, `newest="first"`. Here an
    event's place is counted over the positions that count.

    Args:
        query_dim, sequence_dim: Dq and Ds; q is filled up with zeros to Ds.
        windows: Positions of each window, one after the other.
        newest: The end at which the first window begins: `first` or `last`.
        options: Those of `_AttentionMLP`.

    Raises:
        ArgumentError: There is no window, one is empty, or as `_AttentionMLP`.
    """

    _starts: Tensor
    _sizes: Tensor

    def __init__(
        self,
        query_dim: int,
        sequence_dim: int,
        *,
        windows: Sequence[int],
        newest: str,
        **options: Any,
    ) -> None:
        super().__init__(query_dim, sequence_dim, 3, **options)
        if not windows or min(windows) < 1:
            raise ArgumentError("windows", f"expected lengths from 1 on, got {list(windows)}")
        if newest not in ("first", "last"):
            raise ArgumentError("newest", f"expected first or last, got {newest!r}")
        self.output_dim, self._is_last = (len(windows) + 1) * sequence_dim, newest == "last"
        self.active = nn.PReLU()
        starts = list(itertools.accumulate(windows, initial=0))[:-1]
        self.register_buffer("_starts", torch.tensor(starts), persistent=False)
        self.register_buffer("_sizes", torch.tensor(list(windows)), persistent=False)

    def _split(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        event, both, query = weight.chunk(3, dim=1)
        return query, torch.cat([event, both], dim=1)

    def forward(self, query: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
        query = self._padded(query)
        scores = self.active(self._scores(query, sequence, mask)) * mask  # (B, L)
        counts = mask.to(torch.int64)
        if self._is_last:
            place = counts.sum(1, keepdim=True) - counts.cumsum(1)
        else:
            place = counts.cumsum(1) - counts
        place = place.unsqueeze(1) - self._starts.unsqueeze(1)  # (B, W, L), in each window
        inside = mask.unsqueeze(1) & ~(place < 0) & (place < self._sizes.unsqueeze(1))
        weights = inside.to(scores.dtype)
        weights = weights / weights.sum(2, keepdim=True).clamp(min=1) * scores.unsqueeze(1)
        return torch.cat([(weights @ sequence).flatten(1), query], dim=1)


class SelfAttention(nn.Module):
    """The mean over positions of multi-head self-attention, (B, A).

    Positions attend to those that count, with the softmax of scaled inner products of maps of
    maps of s_t; the output of those that count is added up and divided by their number.

    Source: A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, Eq. (1), with
    a linear map of its own in front of queries, keys and values, as in TorchEasyRec. There are no
    positions, so the order counts for nothing.

    Args:
        sequence_dim: Ds.
        attention_dim: A, over all heads together.
        num_heads: Heads; each has A / num_heads dimensions.
        dropout: Of the attention weights, in training.

    Raises:
        ArgumentError: `attention_dim` is no multiple of `num_heads`.
    """

    def __init__(
        self, sequence_dim: int, *, attention_dim: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        if attention_dim % num_heads:
            problem = f"{num_heads} does not divide attention_dim {attention_dim}"
            raise ArgumentError("num_heads", problem)
        self.output_dim, self.num_heads = attention_dim, num_heads
        self.query = ProductLinear(sequence_dim, attention_dim)
        self.key = ProductLinear(sequence_dim, attention_dim)
        self.value = ProductLinear(sequence_dim, attention_dim)
        self.multihead_attn = nn.MultiheadAttention(attention_dim, num_heads, batch_first=True)
        self.dropout = Dropout(dropout)

    def forward(self, query: Tensor | None, sequence: Tensor, mask: Tensor) -> Tensor:
        inner = self.multihead_attn
        weights, biases = inner.in_proj_weight.chunk(3), inner.in_proj_bias.chunk(3)
        heads = [
            product(own(sequence), weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for own, weight, bias in zip(
                (self.query, self.key, self.value), weights, biases, strict=True
            )
        ]  # (B, heads, L, A / heads) each
        scores = heads[0] @ heads[1].transpose(2, 3) / heads[0].shape[-1] ** 0.5
        shares = self.dropout(masked_softmax(scores, mask.unsqueeze(1).unsqueeze(1)))
        # Of all positions together first: a third of the products with the values' width.
        shares = weighted_sum(_mean_weights(mask, shares), shares.flatten(0, 1))  # (B * heads, L)
        attended = shares.unsqueeze(1) @ heads[2].flatten(0, 1)  # (B * heads, 1, A / heads)
        attended = attended.view(sequence.shape[0], -1)
        found = product(attended, inner.out_proj.weight, inner.out_proj.bias)
        return found * mask.any(1, keepdim=True)


def _mean_weights(mask: Tensor, shares: Tensor) -> Tensor:
    """What each position counts in a mean of those that count, (B * heads, L)."""
    weights = mask.to(shares.dtype)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
    return weights.unsqueeze(1).expand(-1, shares.shape[1], -1).flatten(0, 1)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """The softmax over the last positions that count, zeros elsewhere; all zeros without any.

    Example:
        >>> masked_softmax(torch.zeros(2, 3), torch.tensor([[True, True, False], [False] * 3]))
        tensor([[0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 0.0000]])
    """
    # Not -inf, of which a row without positions would be all: that is NaN, and its gradient too.
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask, lowest).softmax(-1) * mask


def weighted_sum(weights: Tensor, sequence: Tensor) -> Tensor:
    """sum_t w_t s_t, (B, Ds), from (B, L) and (B, L, Ds)."""
    return (weights.unsqueeze(1) @ sequence).squeeze(1)


def _refuse_wider(query_dim: int, sequence_dim: int) -> None:
    if query_dim > sequence_dim:
        raise ArgumentError(
            "query", f"{query_dim} wide, and the sequence {sequence_dim}; it may not be wider"
        )
