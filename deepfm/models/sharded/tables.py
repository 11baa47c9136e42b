"""Embedding tables of which each process holds a part, so that they may outgrow a machine.

Decided here: which tables share an exchange, what a process holds of a table, and what this
storage cannot do.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from deepfm.errors import ConfigError
from deepfm.models.layers.fields import IdField
from deepfm.models.layers.layouts import LaidOutTables
from deepfm.models.layers.tables import Capabilities, Ids, Read
from deepfm.models.sharded.collection import KERNELS, ROWWISE, Collection, Rule
from deepfm.models.sharded.library import import_torchrec
from deepfm.models.sharded.optimizer import FusedOptimizer
from deepfm.models.sharded.plan import COLUMN_WISE, KINDS, Plan, agreed, plan_tables
from deepfm.utils.environment_of_processes import whole_number
from deepfm.utils.memory import total_memory

_UNKNOWN_MEMORY = 2**40  # where a system does not say how much there is


class _Run(NamedTuple):
    """Tables that lie end to end in a layout, and what is found of a batch goes into one answer.

    Attributes:
        layout: Its name.
        dim: Of the tables.
        names: Of the tables, in order.
        starts: Their first rows in the layout.
    """

    layout: str
    dim: int
    names: list[str]
    starts: list[int]


class ShardedTables(LaidOutTables):
    """Embedding tables that the processes of torch's default group share out, by TorchRec's plan.

    What a process holds of a table is a rectangle of it, which may be empty: `table[name]`, the
    entry of `state_dict` and what an optimizer keeps are that rectangle. `held` says which one it
    is, and `gathered` makes a whole table of all parts.

    A lookup is an exchange per width: each process asks for the distinct rows of its batch, whose
    gradients go the same way back. So all processes make equally many lookups. A backward pass
    updates the tables by the rule of `own_optimizer`, with the sum of the gradients of all
    processes; before that is called, it does not change them.

    Without a group the process makes one of its own, which it is alone in.

    Args:
        fields, reads: As of `Tables`.
        kinds: How tables may be cut; see `plan_tables`.

    Attributes:
        plan: How they are cut, by name.

    Raises:
        ConfigError: TorchRec is not installed, or the tables do not fit into the processes'
            memory.
    """

    capabilities = Capabilities(
        optimizers=tuple(KERNELS),
        global_clipping=False,
        table_l2=False,
        only_own_optimizers=True,
    )

    def __init__(
        self, fields: Sequence[IdField], reads: Sequence[Read], *, kinds: Sequence[str] = KINDS
    ) -> None:
        super().__init__(fields, reads)
        self._parameters_of: dict[str, str] = {
            name: f"part_{number}" for number, name in enumerate(self.logical)
        }
        self._rate: Callable[[], float] = lambda: 0.0
        self._rank = 0
        self.plan: Plan = {}
        self._collections: list[Collection] = []  # no modules: their parameters are those here
        if torch.get_default_device().type == "meta":  # to be counted
            for name, table in self.logical.items():
                self._hold(name, torch.empty(table.shape))
            return
        import_torchrec()
        group: Any = torch.distributed  # whose type hints leave stores out
        if not group.is_initialized():
            group.init_process_group("gloo", store=group.HashStore(), rank=0, world_size=1)
        self._rank, world = group.get_rank(), group.get_world_size()
        hosts = max(world // whole_number("LOCAL_WORLD_SIZE", 1, least=1), 1)
        memory = _memory_of_each(world // hosts)
        self.plan = agreed(
            lambda: plan_tables(self.logical, world=world, memory=memory, hosts=hosts, kinds=kinds),
            self._rank,
        )
        self._shard(Rule())
        self._runs = self._find_runs()

    def _shard(self, rule: Rule) -> None:
        """Give the tables to kernels of an update rule, width by width, with their weights."""
        before, self._collections = self._collections, []
        for dim in sorted({table.dim for table in self.logical.values()}):
            tables = {name: table for name, table in self.logical.items() if table.dim == dim}
            old = before.pop(0) if before else None  # the one before it is gone now
            made = Collection(tables, self.plan, rank=self._rank, rule=rule)
            for name, weight in made.weights.items():
                if old is not None:
                    weight.copy_(old.weights[name])
                self._hold(name, weight)
            self._collections.append(made)

    def _hold(self, name: str, weight: Tensor) -> None:
        """Make a part the parameter of a table; one that there is stays the same object."""
        known = self._parameters.get(self._parameters_of[name])
        if known is not None:
            known.data = weight
            return
        parameter = nn.Parameter(weight, requires_grad=self.logical[name].trainable)
        self.register_parameter(self._parameters_of[name], parameter)

    def _find_runs(self) -> list[_Run]:
        """The tables of each answer, in the order of `answers`."""
        found = []
        for layout_name, layout in self.layouts.items():
            for columns in layout.columns.values():
                places = {
                    name: place.rows.start
                    for name, place in self.places.items()
                    if place.layout == layout_name and place.columns == columns
                }
                names = sorted(places, key=places.__getitem__)
                starts = [places[name] for name in names]
                found.append(_Run(layout_name, self.logical[names[0]].dim, names, starts))
        return found

    def parameter_of(self, name: str) -> nn.Parameter:
        """What this process holds of a table."""
        parameter: nn.Parameter = getattr(self, self._parameters_of[name])
        return parameter

    def held(self, name: str) -> tuple[slice, slice]:
        """The rows and columns of a table that this process holds."""
        own, dim = self.plan[name].of(self._rank), self.logical[name].dim
        left, right = (min(column, dim) for column in own.columns)
        return slice(*own.rows), slice(left, right)

    def gathered(
        self, name: str, own: Tensor, joined: Callable[[Sequence[Tensor]], list[Tensor]]
    ) -> Tensor:
        """A whole table, or what an optimizer keeps for it, of the parts of all processes."""
        flat = joined([own.flatten()])[0]
        table, placed = self.logical[name], self.plan[name]
        width = table.dim if placed.kind == COLUMN_WISE else own.shape[1]
        whole = own.new_zeros(table.rows, width)
        start = 0
        for rank in range(torch.distributed.get_world_size()):
            part = placed.of(rank)
            place = whole[slice(*part.rows), slice(*part.columns)]
            place.copy_(flat[start : start + place.numel()].view(place.shape))
            start += place.numel()
        return whole

    def lookup(self, ids: Ids) -> list[Tensor]:
        """The vectors of all ids of a batch, (B, C, dim) for each of `answers`."""
        with ExitStack() as stack:
            if torch.is_grad_enabled():
                for collection in self._collections:
                    collection.set_rate(self._rate())
            else:  # the kernels refuse tensors of inference mode
                stack.enter_context(torch.inference_mode(False))
                stack.enter_context(torch.no_grad())
            return self._lookup(ids)

    def _lookup(self, ids: Ids) -> list[Tensor]:
        wanted: dict[str, Tensor] = {}
        spots = {}
        for name, layout in self.layouts.items():
            rows, place, _ = self._located(name, ids)
            counts = rows != layout.null
            own = rows[counts]
            # "Nothing" is the zero vector behind the rows that are found.
            spot = (counts.cumsum(0) - 1).masked_fill(~counts, len(own))
            spots[name] = spot[place]  # (B, C)
            for run in self._runs:
                if run.layout == name:
                    edges = torch.searchsorted(own, torch.tensor(run.starts)).tolist()
                    ends = [*edges[1:], len(own)]
                    for table, start, edge, end in zip(
                        run.names, run.starts, edges, ends, strict=True
                    ):
                        wanted[table] = own[edge:end] - start
        found: dict[str, Tensor] = {}
        for collection in self._collections:
            found |= collection.vectors(wanted)
        return [self._answer(run, found, spots[run.layout]) for run in self._runs]

    def _answer(self, run: _Run, found: Mapping[str, Tensor], spot: Tensor) -> Tensor:
        """The vectors of a run at these spots, (B, C, dim)."""
        vectors = torch.cat([found[name] for name in run.names])
        if not self.layouts[run.layout].trainable:
            vectors = vectors.detach()
        vectors = F.pad(vectors, (0, 0, 0, 1))
        return vectors.index_select(0, spot.flatten()).view(*spot.shape, run.dim)

    def own_optimizer(self, name: str, options: Mapping[str, object]) -> Optimizer | None:
        """The optimizer of these names, which works within backward passes from now on.

        Raises:
            ConfigError: It cannot do what an option asks for, or keeps a number per row of a
                table that is cut by columns.
        """
        if name not in KERNELS:
            return None
        if options.get("max_gradient") is not None:
            raise ConfigError(
                f"{name}: sharded tables have no max_gradient", key="training.sparse_optimizer"
            )
        cut = [table for table, placed in self.plan.items() if placed.kind == COLUMN_WISE]
        if name == ROWWISE and cut:
            raise ConfigError(
                f"{name} keeps one number per row, and table {cut[0]} is cut by columns; choose "
                "adagrad",
                key="training.sparse_optimizer",
            )
        self._shard(Rule(name, float(str(options.get("eps", 1e-10)))))
        sums = {
            self.parameter_of(table): collection.sums.get(table)
            for collection in self._collections
            for table in collection.weights
            if self.logical[table].trainable
        }
        made = FusedOptimizer(
            {weight: sums[weight] for weight in self.parameters() if weight in sums}, options
        )
        self._rate = lambda: made.rate
        return made

    def squared_norms(self, ids: Ids) -> list[Tensor]:
        """Refuse: a process does not know which rows others read.

        Raises:
            ConfigError: Always.
        """
        raise _no_penalty()

    def squared_norms_of_all(self) -> list[Tensor]:
        """Refuse, as `squared_norms` does."""
        raise _no_penalty()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ShardedTables":
        moved = fn(torch.empty(0, dtype=torch.float32))
        if self._collections and (moved.dtype, moved.device.type) != (torch.float32, "cpu"):
            raise ConfigError(
                f"torchrec keeps tables on the CPU in float32, not as {moved.dtype} on "
                f"{moved.device.type}; device: cpu",
                key="feature.storage",
            )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _no_penalty() -> ConfigError:
    return ConfigError(
        "feature.storage: torchrec has no penalty on table rows; set it to 0",
        key="feature.embedding_l2_reg",
    )


def _memory_of_each(local: int) -> int:
    """Bytes for a process, of so many on this host: the least that any process has."""
    own = torch.tensor((total_memory() or _UNKNOWN_MEMORY) // max(local, 1))
    torch.distributed.all_reduce(own, torch.distributed.ReduceOp.MIN)
    return int(own)
