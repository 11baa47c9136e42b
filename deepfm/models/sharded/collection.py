"""Tables of one width, of which each process holds parts, and the optimizer that works in them.

Decided here: what an update rule of ours is called in TorchRec, and that padding does not count.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepfm.models.layers.tables import Table
from deepfm.models.sharded.library import import_torchrec
from deepfm.models.sharded.plan import Placed, Plan, padded, sharding_of, unsharded

# The sparse optimizers that exist, by their names here.
KERNELS = {
    "lazy_sgd": "EXACT_SGD",
    "adagrad": "EXACT_ADAGRAD",
    "rowwise_adagrad": "EXACT_ROWWISE_ADAGRAD",
}
ROWWISE = "rowwise_adagrad"


class Rule(NamedTuple):
    """An update rule: its name in `KERNELS`, and what is added to the root of its sum."""

    name: str = "lazy_sgd"
    eps: float = 1e-10


class Collection:
    r"""Tables of one width d, stored D = `padded(d)` columns wide; one exchange reads them all.

    The columns beyond d are zero, and so is their gradient. They do not count in SGD and Adagrad,
    whose numbers are each column's own. Row-wise Adagrad, of a gradient g in step t, is

        s_t = s_{t-1} + |g|^2 / d,    w_t = w_{t-1} - lr g / (sqrt(s_t) + eps),

    and the kernel divides by D instead. Here it gets h = c g with c = sqrt(D / d), and the rate
    lr / c:

        |h|^2 / D = (D / d) |g|^2 / D = |g|^2 / d,    (lr / c) h = lr g,

    so that both its sum, which checkpoints hold, and its step are those above, with the same eps.

    Every process calls `vectors` as often as any other: it is an exchange. A backward pass through
    them updates the tables.

    Args:
        tables: By name, all d wide.
        plan: Of these tables and perhaps others.
        rank: Number of this process.
        rule: By which a backward pass updates the tables.

    Attributes:
        weights: By name, what this process holds of each table, (own rows, own columns): views.
        sums: The same of the sums of squares, with one column if that is kept by row; empty for
            a rule without.
    """

    def __init__(self, tables: Mapping[str, Table], plan: Plan, *, rank: int, rule: Rule) -> None:
        import_torchrec()
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from torchrec.distributed.embedding import EmbeddingCollectionSharder
        from torchrec.distributed.types import ShardingEnv

        self.dim = next(iter(tables.values())).dim
        self._keys = {f"table_{number}": name for number, name in enumerate(tables)}
        self._factor = 1.0
        if rule.name == ROWWISE:
            self._factor = (padded(self.dim) / self.dim) ** 0.5
        kernel = getattr(EmbOptimType, KERNELS[rule.name])
        fused = {"optimizer": kernel, "learning_rate": 0.0}
        if rule.name != "lazy_sgd":
            fused["eps"] = rule.eps
        sharder = EmbeddingCollectionSharder(fused_params=fused)
        with torch.random.fork_rng(devices=[]):  # the kernels begin with random numbers
            self._sharded = sharder.shard(
                unsharded({key: tables[name] for key, name in self._keys.items()}),
                {key: sharding_of(plan[name]) for key, name in self._keys.items()},
                ShardingEnv.from_process_group(torch.distributed.group.WORLD),
                torch.device("cpu"),
            )
        self._kernels = [part for lookup in self._sharded._lookups for part in lookup._emb_modules]
        nothing = torch.empty(0, self.dim)
        self.weights: dict[str, Tensor] = dict.fromkeys(tables, nothing)
        self.sums: dict[str, Tensor] = {}
        if rule.name != "lazy_sgd":
            empty = nothing[:, :1] if rule.name == ROWWISE else nothing
            self.sums = dict.fromkeys(tables, empty)
        for part in self._kernels:
            self._take(part, plan, rank)

    def _take(self, part: Any, plan: Plan, rank: int) -> None:
        """Keep views of what one of TorchRec's groups of tables holds."""
        kernel = part.emb_module
        weights = kernel.split_embedding_weights()
        names = [self._keys[table.name] for table in part.config.embedding_tables]
        for name, weight in zip(names, weights, strict=True):
            weight.zero_()
            self.weights[name] = self._own_columns(weight, plan[name], rank)
        if self.sums:
            for name, states in zip(names, kernel.split_optimizer_states(), strict=True):
                state = states[0]
                by_row = state.dim() == 1
                self.sums[name] = (
                    state.unsqueeze(1) if by_row else self._own_columns(state, plan[name], rank)
                )

    def _own_columns(self, held: Tensor, placed: Placed, rank: int) -> Tensor:
        """A view without padding."""
        return held[:, : max(self.dim - placed.of(rank).columns[0], 0)]

    def set_rate(self, lr: float) -> None:
        """The rate of the backward passes from now on."""
        for part in self._kernels:
            part.emb_module.set_learning_rate(lr / self._factor)

    def vectors(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of each table the rows of these numbers, (n, d); the numbers (n,) are distinct."""
        from torchrec import KeyedJaggedTensor

        asked = [rows[name] for name in self._keys.values()]
        found = self._sharded(
            KeyedJaggedTensor(
                keys=list(self._keys),
                values=torch.cat(asked),
                lengths=torch.tensor([len(own) for own in asked]),
            )
        )
        vectors = {name: found[key].values()[:, : self.dim] for key, name in self._keys.items()}
        if self._factor != 1:
            vectors = {name: _scaled(found, self._factor) for name, found in vectors.items()}
        return vectors


def _scaled(values: Tensor, factor: float) -> Tensor:
    scaled: Tensor = _Scaled.apply(values, factor)  # type: ignore[no-untyped-call]
    return scaled


class _Scaled(torch.autograd.Function):
    """A tensor as it is, whose gradient is multiplied on its way back."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * gradients[0], None
