"""Logits of positive rows and of their negatives in training, with gradients.

Decided here: what is computed once per user and once per item, what per pair, and how much of that
is kept for the backward pass.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from deepfm.data.batch import Inputs, Pairs
from deepfm.data.item_columns import ItemColumns
from deepfm.errors import ConfigError
from deepfm.models.base import BaseCTRModel
from deepfm.models.layers.precision import as_now
from deepfm.models.pairs import Halves, Terms
from deepfm.objectives import PairLogits
from deepfm.utils.logging import LOGGER

HELD = 2**29  # bytes that the pairs of a batch may hold; beyond, tiles are computed twice
# Bytes that one tile holds. On one core, 1,024 x 1,024 pairs behind a DNN's layer of 64 units take
# half the time in tiles of 4 MiB, computed twice, that they take at once: these fit into caches.
# Whole rows come in larger ones, because a gradient of whole tables is made for each tile.
CPU_TILE, TILE = 2**22, 2**27
_MEASURED = 16  # pairs, at most, by which the bytes of one are measured


class Plan(NamedTuple):
    """How the pairs of a batch are computed.

    Attributes:
        at_once: Pairs in one tile.
        twice: Whether a tile is computed once more in the backward pass, and not held till then.
    """

    at_once: int
    twice: bool

    @classmethod
    def of(cls, pairs: int, bytes_of_pair: int, tile: int) -> "Plan":
        at_once = min(pairs, max(tile // bytes_of_pair, 1)) if bytes_of_pair else pairs
        return cls(at_once, twice=pairs * bytes_of_pair > HELD)


Tile = Callable[[slice, slice], Tensor]


class TrainingPairs:
    """Computes `PairLogits` of batches.

    Where the logit adds up over fields (`pair_branches`), the embedding is read once for the B
    users, and once for the D distinct items: as in `PairScorer`, a pair's logit is a dot product
    of factors, (B, K) times (K, N), and what the DNN makes of the sum of two hidden vectors. Of a
    model without DNN that is all. With one, the layers after the first are computed for each
    pair. Where the logit does not add up, each pair is a whole row.

    What is computed per pair is cut into tiles. They are held for the backward pass if they take
    `HELD` bytes at most. Else each is computed again there, with the same dropout masks, so that
    one at a time is held.

    Batch norm would compare pairs with each other, and a tile that is computed twice would count
    twice in its statistics, so it is refused.

    Source: T. Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016,
    arXiv:1604.06174, for computing tiles twice.

    Args:
        model: Of one task with one logit; in training mode when it is called.

    Raises:
        ConfigError: The model has batch norm.
    """

    def __init__(self, model: BaseCTRModel) -> None:
        refuse_batch_norm(model)
        self.model = model
        self.task = model.tasks[0].name
        self.columns = ItemColumns.of(model.schema)
        self._columns_there = self.columns.to(model.device)
        self.branches = model.pair_branches()
        self.first: nn.Linear | None = None  # of the DNN
        if self.branches is not None and self.branches.dnn is not None:
            self.first, others = self.branches.network.opened()
            self.rest = nn.Sequential(others, self.branches.dnn[1])
        self._has_said = False

    def __call__(self, inputs: Inputs, pairs: Pairs) -> PairLogits:
        """The logits of B rows and their negatives.

        Args:
            inputs: Of the rows, their own items in place.
        """
        compute = self._by_rows if self.branches is None else self._by_halves
        own, negatives = compute(inputs, pairs)
        of_own = of_negatives = None
        if pairs.log_q is not None:
            of_own, of_negatives = pairs.log_q[pairs.own], pairs.log_q[pairs.negatives]
        return PairLogits(own, negatives, pairs.allowed, of_own, of_negatives)

    def rows_read(self, inputs: Inputs, pairs: Pairs) -> Inputs:
        """Rows that refer to every row of a table that a batch refers to, and to no other.

        Those are the batch's own, and the D items alone.
        """
        return _joined(inputs, self._columns_for(inputs).alone(pairs.items, inputs))

    def prepared(self, inputs: Inputs, pairs: Pairs) -> Pairs:
        """Pairs on the CPU with the halves that are read, and their rows of the tables.

        Where each pair is a whole row, a tile finds its own rows.
        """
        if self.branches is None:
            return pairs
        users, items = map(self.model.located, self._halves_read(inputs, pairs.items))
        return pairs._replace(halves=(users, items))

    def _halves_read(self, inputs: Inputs, items: Inputs) -> tuple[Inputs, Inputs]:
        """The B rows without their items, and the D items alone."""
        columns = self._columns_for(inputs)
        return columns.without_item(inputs), columns.alone(items, inputs)

    def _columns_for(self, inputs: Inputs) -> ItemColumns:
        """The columns on the device of these rows: the host's, or the model's."""
        device = inputs.sparse.device
        return self._columns_there if device == self.model.device else self.columns.to(device)

    def _by_halves(self, inputs: Inputs, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Logits (B,) and (B, N) of halves."""
        users, items = self._halves(*pairs.halves or self._halves_read(inputs, pairs.items))
        own = self._logits(users, items.select(pairs.own.unsqueeze(1))).squeeze(1)

        def tile(rows: slice, columns: slice) -> Tensor:
            shared = pairs.negatives.dim() == 1
            places = pairs.negatives[columns] if shared else pairs.negatives[rows, columns]
            return self._logits(users.select(rows), items.select(places))

        return own, self._tiled(tile, tuple(pairs.allowed.shape))

    def _halves(self, of_users: Inputs, of_items: Inputs) -> tuple[Halves, Halves]:
        """Halves of the B users and of the D items."""
        branches, bias = self.branches, self.model.bias
        assert branches is not None  # else there are no halves
        assert bias is not None
        users, alone = self._terms(of_users), self._terms(of_items)
        own = alone.select(slice(-1)).beyond(alone.select(slice(-1, None)))
        if self.first is None:
            hidden = users.flat[:, :0], own.flat[:, :0]
        else:
            hidden = self.first(users.flat), own.flat @ self.first.weight.T  # (B, H), (D, H)
        return Halves(hidden[0], users.user_factors(bias)), Halves(hidden[1], own.item_factors())

    def _terms(self, inputs: Inputs) -> Terms:
        assert self.branches is not None
        return Terms.of(self.model, inputs, second_order=self.branches.second_order)

    def _logits(self, users: Halves, items: Halves) -> Tensor:
        """Logits (b, n) of b users, and n items for all of them, (n, K), or for each, (b, n, K)."""
        if items.factors.dim() == 2:
            linear = users.factors @ items.factors.T
        else:
            linear = (items.factors @ users.factors.unsqueeze(2)).squeeze(2)
        if self.first is None:
            return linear
        hidden = users.hidden.unsqueeze(1) + items.hidden  # (b, n, H)
        deep: Tensor = self.rest(hidden.flatten(0, 1))  # (b * n, 1)
        return linear + deep.view_as(linear)

    def _by_rows(self, inputs: Inputs, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Logits (B,) and (B, N) of whole rows."""
        shape = inputs.num_rows, 1 + pairs.negatives.shape[-1]
        negatives = pairs.negatives.expand(shape[0], -1)
        places = torch.cat([pairs.own.unsqueeze(1), negatives], dim=1)  # (B, 1 + N)
        number = torch.arange(shape[0], device=places.device).unsqueeze(1).expand(shape)
        columns_of_rows = self._columns_for(inputs)

        def tile(rows: slice, columns: slice) -> Tensor:
            of_users = inputs.select(number[rows, columns].flatten())
            of_items = pairs.items.select(places[rows, columns].flatten())
            logits = self.model.training_logits(columns_of_rows.replaced(of_users, of_items))
            return logits[self.task].view(places[rows, columns].shape)

        own, others = self._tiled(tile, shape).split([1, shape[1] - 1], dim=1)
        return own.squeeze(1), others

    def _tiled(self, tile: Tile, shape: tuple[int, ...]) -> Tensor:
        """What a function gives for all cells of `shape`, (B, N), a tile at a time."""
        rows, columns = shape
        with _unchanged_randomness(self.model.device):
            held = _bytes_of_pair(tile, rows)  # of each batch, so that a resumed run has its tiles
        small = self.branches is not None and self.model.device.type == "cpu"
        plan = Plan.of(rows * columns, held, CPU_TILE if small else TILE)
        if not self._has_said:
            self._say(plan, shape, held)
        width = min(columns, plan.at_once)
        height = plan.at_once // width

        def cell(row: int, column: int) -> Tensor:
            part = slice(row, row + height), slice(column, column + width)
            if not plan.twice:
                return tile(*part)
            found: Tensor = checkpoint(tile, *part, use_reentrant=False, context_fn=as_now)
            return found

        bands = [
            torch.cat([cell(row, column) for column in range(0, columns, width)], dim=1)
            for row in range(0, rows, height)
        ]
        return torch.cat(bands)

    def _say(self, plan: Plan, shape: tuple[int, ...], held: int) -> None:
        """Log what the pairs of a batch cost."""
        self._has_said = True
        pairs = shape[0] * shape[1]
        if self.branches is None:
            what = "a whole row for each, because the logit does not add up over fields"
        elif self.first is None:
            what = "a dot product for each"
        else:
            linears = [part for part in self.rest.modules() if isinstance(part, nn.Linear)]
            passes = 4 if plan.twice else 3  # forward, and twice as much backward
            flops = 2 * passes * pairs * sum(part.weight.numel() for part in linears)
            what = f"the DNN behind its first layer for each, {flops / 1e9:,.1f} GFLOP per step"
        memory = f"{pairs * held / 2**20:,.0f} MiB held"
        if plan.twice:
            memory = (
                f"computed twice, {plan.at_once:,} at once, so that "
                f"{plan.at_once * held / 2**20:,.0f} MiB are held in the place of "
                f"{pairs * held / 2**20:,.0f}"
            )
        LOGGER.info(f"{shape[0]:,} x {shape[1]:,} pairs in a step: {what}; {memory}")


def refuse_batch_norm(model: nn.Module) -> None:
    """Refuse a model that compares rows with each other.

    Raises:
        ConfigError: It has batch norm.
    """
    if any(isinstance(part, nn.BatchNorm1d) for part in model.modules()):
        raise ConfigError(
            "batch norm (or the activation Dice, which has one) would compare the pairs of a "
            "positive and its negatives with each other; set dnn.norm: layer or none",
            key="dnn.norm",
        )


def _joined(first: Inputs, second: Inputs) -> Inputs:
    """The rows of both, one after the other."""
    pad = torch.nn.functional.pad
    ids = []
    for own, other in zip(first.padded_ids, second.padded_ids, strict=True):
        width = max(own.shape[1], other.shape[1])
        ids.append(torch.cat([pad(part, (0, width - part.shape[1])) for part in (own, other)]))
    lengths = zip(first.sequence_lengths, second.sequence_lengths, strict=True)
    return Inputs(
        torch.cat([first.sparse, second.sparse]),
        torch.cat([first.dense, second.dense]),
        tuple(ids),
        tuple(torch.cat(parts) for parts in lengths),
    )


def _bytes_of_pair(tile: Tile, rows: int) -> int:
    """What a pair more holds for the backward pass, measured on pairs of different rows."""
    more = min(_MEASURED, rows)
    few = more // 2
    held = _held_bytes(tile, more) - (_held_bytes(tile, few) if few else 0)
    return held // (more - few)


def _held_bytes(tile: Tile, rows: int) -> int:
    """The memory of all that so many pairs of different rows keep for the backward pass."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        _kept = tile(
            slice(rows), slice(1)
        )  # while it lives, so do all that it keeps, each at its own address
    return sum(sizes.values())


def _unchanged_randomness(device: torch.device) -> AbstractContextManager[None]:
    """While it lasts, draws do not change the generators that training draws from."""
    devices = [device] if device.type == "cuda" else []
    return torch.random.fork_rng(devices=devices)
