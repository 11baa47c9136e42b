"""Scores of users x items from what is computed once per user and once per item.

Decided here: what the two halves of a pair are, and how an item gets a half of its own although
the embedding layer reads whole rows.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepfm.data.batch import Inputs
from deepfm.errors import ArgumentError
from deepfm.models.base import BaseCTRModel


class Halves(NamedTuple):
    """What one side of a pair contributes, for B users or B items.

    Attributes:
        hidden: To the DNN's first linear map, (B, H).
        factors: To everything else, (B, K), as one side of a dot product.
    """

    hidden: Tensor
    factors: Tensor

    def select(self, rows: Tensor | slice) -> "Halves":
        return Halves(self.hidden[rows], self.factors[rows])


class Terms(NamedTuple):
    """What adds up over the fields of B rows.

    Attributes:
        flat: Flat embeddings, (B, total).
        linear: First order, (B, 1).
        total, squares: The sum (B, D) and the sum of squares (B, 1) of the field vectors, D = 0
            without second order.
    """

    flat: Tensor
    linear: Tensor
    total: Tensor
    squares: Tensor

    @classmethod
    def of(cls, model: BaseCTRModel, inputs: Inputs, *, second_order: bool) -> "Terms":
        first_order, fields, flat, *_ = model.embedding(*inputs)
        if not second_order:
            fields = first_order.new_zeros(len(first_order), 1, 0)
        squares = fields.square().sum((1, 2)).unsqueeze(1)
        return cls(flat, first_order, fields.sum(1), squares)

    def select(self, rows: slice) -> "Terms":
        return Terms(*(term[rows] for term in self))

    def beyond(self, empty: "Terms") -> "Terms":
        """What these rows have that the empty row, (1, ...), does not."""
        return Terms(*(own - other for own, other in zip(self, empty, strict=True)))

    def user_factors(self, bias: Tensor) -> Tensor:
        """(s_u, f_u, 1) with the bias in f_u, (B, D + 2)."""
        scalar = self._scalar(bias + self.linear)
        return torch.cat([self.total, scalar, torch.ones_like(scalar)], 1)

    def item_factors(self) -> Tensor:
        """(s_i, 1, f_i), (B, D + 2)."""
        scalar = self._scalar(self.linear)
        return torch.cat([self.total, torch.ones_like(scalar), scalar], 1)

    def _scalar(self, linear: Tensor) -> Tensor:
        """A linear term and the second order within these fields, (B, 1)."""
        return linear + 0.5 * (self.total.square().sum(1, keepdim=True) - self.squares)


class PairScorer:
    """Logits of a model for pairs of a user half u and an item half i.

    logit = rest of DNN(hidden_u + hidden_i) + <factors_u, factors_i>

    Each field belongs to the user or to the item, so what is linear in the fields' vectors is a
    sum of two halves: the DNN's first linear map, the first-order term, and the sum s of all field
    vectors. With f the bias, the first-order term and the second-order terms within one half,
    the factors are (s_u, f_u, 1) and (s_i, 1, f_i): the pairs of a user field with an item field
    add up to <s_u, s_i>. Per pair there remain a sum of two vectors, that dot product, and the
    layers after the first.

    An item's half is what its features change in a row whose ids, numbers and lengths are all 0,
    the empty row; a user's half is the user's row with an empty item, and has the bias. Fields
    for which id 0 is an ordinary row of the table are thereby counted once.

    The weights are read when the scorer is made. Use it in inference mode. Halves are float32 in
    any precision of products: they are few, and their sum is what the network begins with.

    Source: S. Rendle, "Factorization Machines", ICDM 2010, Lemma 3.1, for the sum over pairs.

    Args:
        model: In evaluation mode, with `pair_branches`.
        empty: Inputs of the empty row.
    """

    def __init__(self, model: BaseCTRModel, empty: Inputs) -> None:
        branches, bias = model.pair_branches(), model.bias
        if branches is None or bias is None:
            raise ArgumentError("model", "its logit does not add up over fields")
        self.model, self.bias = model, bias
        self.second_order = branches.second_order
        self.first: nn.Linear | None = None
        if branches.dnn is not None:
            (first, *others), *layers = branches.network.folded()
            assert isinstance(first, nn.Linear)
            self.first = first
            self.rest = nn.Sequential(*others, *layers, branches.dnn[1])
        self.empty = self._terms(empty)

    def user_halves(self, inputs: Inputs) -> Halves:
        """Halves of users from their rows with an empty item."""
        terms = self._terms(inputs)
        hidden = terms.flat[:, :0]
        if self.first is not None:
            hidden = F.linear(terms.flat, self.first.weight, self.first.bias)  # (B, H)
        return Halves(hidden, terms.user_factors(self.bias))

    def item_halves(self, inputs: Inputs) -> Halves:
        """Halves of items from empty rows with their features in place."""
        terms = self._terms(inputs).beyond(self.empty)
        hidden = terms.flat[:, :0]
        if self.first is not None:
            hidden = F.linear(terms.flat, self.first.weight)  # (B, H)
        return Halves(hidden, terms.item_factors())

    def logits(
        self, users: Halves, items: Halves, candidates: Tensor, *, pairs_at_once: int
    ) -> Tensor:
        """Logits (U, C) of U users and the items at the positions `candidates`, (U, C)."""
        logits = users.factors.new_empty(candidates.shape)
        users_of, candidates_of = candidates.shape
        for part in _rectangles(users_of, candidates_of, pairs_at_once):
            logits[part] = self._logits(users.select(part[0]), items, candidates[part])
        return logits

    def all_logits(self, user: Halves, items: Halves, *, pairs_at_once: int) -> Tensor:
        """Logits (I,) of one user and all I items, of which no copy is gathered."""
        logits = items.factors @ user.factors[0]
        if self.first is not None:
            for start in range(0, len(logits), pairs_at_once):
                part = slice(start, start + pairs_at_once)
                deep: Tensor = self.rest(items.hidden[part] + user.hidden)  # (I, 1)
                logits[part] += deep.squeeze(1)
        return logits

    def _logits(self, users: Halves, items: Halves, candidates: Tensor) -> Tensor:
        shape, flat = (*candidates.shape, -1), candidates.flatten()
        factors = items.factors.index_select(0, flat).view(shape)  # (U, C, K)
        linear = (factors @ users.factors.unsqueeze(2)).squeeze(2)  # (U, C)
        if self.first is None:
            return linear
        hidden = items.hidden.index_select(0, flat).view(shape)  # (U, C, H)
        hidden += users.hidden.unsqueeze(1)
        deep: Tensor = self.rest(hidden.flatten(0, 1))  # (U * C, 1)
        return linear + deep.view_as(linear)

    def _terms(self, inputs: Inputs) -> Terms:
        return Terms.of(self.model, inputs, second_order=self.second_order)


def _rectangles(rows: int, columns: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Rectangles of at most `size` cells, of about equal widths, that cover rows x columns."""
    width = -(-columns // -(-columns // size))
    height = size // width
    for row in range(0, rows, height):
        for column in range(0, columns, width):
            yield slice(row, row + height), slice(column, column + width)
