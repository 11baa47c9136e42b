"""Which process holds which part of which table: the planner's choice, as plain data.

Decided here: what the planner may choose from, and that the first process plans and tells the
others, since the choice among equals differs from process to process.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from deepfm.errors import ConfigError
from deepfm.models.layers.tables import Table
from deepfm.models.sharded.library import import_torchrec

ROW_WISE, TABLE_WISE, COLUMN_WISE = "row_wise", "table_wise", "column_wise"
KINDS = (ROW_WISE, TABLE_WISE, COLUMN_WISE)
RESERVED = 0.1  # of the memory: for networks, batches and what is on its way
_MULTIPLE = 4  # columns: what the kernels need
_NARROWEST = 128  # columns of a part that the planner may cut off, as TorchRec's own default
_BYTES = 4  # of a number, float32


class Part(NamedTuple):
    """A rectangle of a table, and who holds it.

    Attributes:
        rank: Number of the process.
        rows, columns: First and end; columns count those that are padding.
    """

    rank: int
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def numbers(self) -> int:
        return (self.rows[1] - self.rows[0]) * (self.columns[1] - self.columns[0])


class Placed(NamedTuple):
    """How a table is cut: one of `KINDS`, and its parts, of which a process has one at most."""

    kind: str
    parts: tuple[Part, ...]

    def of(self, rank: int) -> Part:
        """The part of a process; an empty one where it has none."""
        found = [part for part in self.parts if part.rank == rank]
        return found[0] if found else Part(rank, (0, 0), self.parts[0].columns)


Plan = Mapping[str, Placed]  # by name of a table


def padded(dim: int) -> int:
    """Columns of a table of this width.

    Example:
        >>> padded(1), padded(6), padded(16)
        (4, 8, 16)
    """
    return -(-dim // _MULTIPLE) * _MULTIPLE


def plan_tables(
    tables: Mapping[str, Table],
    *,
    world: int,
    memory: int,
    hosts: int = 1,
    kinds: Sequence[str] = KINDS,
) -> Plan:
    """What TorchRec's planner makes of the tables; nothing is allocated.

    A column-wise part has at least 128 columns, unless that is the only kind allowed; a table
    that cannot be cut so is cut by rows.

    Args:
        tables: By name.
        world: How many processes there are.
        memory: Of each, in bytes, a tenth of which is left to all else.
        hosts: On which they run, the same number on each.
        kinds: What the planner may choose from.

    Raises:
        ConfigError: The tables, with a statistic for each weight, do not fit.
    """
    import_torchrec()
    from torchrec.distributed.planner.types import PlannerError

    try:
        found = _planned(tables, world, memory, hosts, kinds)
        if any(_share_a_process(placed) for placed in found.values()):
            found = _planned(tables, world, memory, hosts, (ROW_WISE, TABLE_WISE))
    except PlannerError as error:
        needed = 2 * _BYTES * sum(table.rows * padded(table.dim) for table in tables.values())
        largest = max(tables.values(), key=lambda table: table.rows * padded(table.dim))
        raise ConfigError(
            f"torchrec: the tables need {_gigabytes(needed)} with a statistic for each weight, "
            f"{largest.name} alone {_gigabytes(2 * _BYTES * largest.rows * padded(largest.dim))}, "
            f"and {world} processes with {_gigabytes(memory)} each have "
            f"{_gigabytes(int((1 - RESERVED) * memory) * world)} for them; more processes, fewer "
            f"rows or a smaller embedding_dim make them fit ({type(error).__name__})",
            key="feature.storage",
        ) from None
    return {name: found[name] for name in tables}


def _planned(
    tables: Mapping[str, Table], world: int, memory: int, hosts: int, kinds: Sequence[str]
) -> dict[str, Placed]:
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.planner import EmbeddingShardingPlanner
    from torchrec.distributed.planner.storage_reservations import (
        FixedPercentageStorageReservation,
    )
    from torchrec.distributed.planner.types import (
        HardwareConfig,
        KernelConfig,
        ParameterConstraints,
        TopologyFactory,
        TrainerConfig,
    )

    topology = TopologyFactory.create_topology(
        TrainerConfig(world_size=world, local_world_size=world // hosts),
        HardwareConfig(ddr_cap_bytes=memory),
        KernelConfig(compute_device="cpu"),
    )
    names = dict(zip(_keys(tables), tables, strict=True))
    dims = sorted({table.dim for table in tables.values()})
    collections = nn.ModuleDict()
    for dim in dims:
        of_dim = {key: tables[name] for key, name in names.items() if tables[name].dim == dim}
        collections[str(dim)] = unsharded(of_dim)
    for weight in collections.parameters():
        weight._optimizer_classes = [torch.optim.Adagrad]  # type: ignore[attr-defined]
    planner = EmbeddingShardingPlanner(
        topology=topology,
        constraints={
            key: ParameterConstraints(**_choices(padded(tables[name].dim), world, kinds))
            for key, name in names.items()
        },
        storage_reservation=FixedPercentageStorageReservation(RESERVED),
        stats=[],
        debug=False,
    )
    found = planner.plan(collections, [EmbeddingCollectionSharder()])
    return {
        names[key]: _placed(sharding)
        for of_collection in found.plan.values()
        for key, sharding in of_collection.items()
    }


def _choices(columns: int, world: int, kinds: Sequence[str]) -> dict[str, Any]:
    """What the planner may do with a table of so many columns."""
    can_cut = world > 1 and columns % (_MULTIPLE * world) == 0
    if tuple(kinds) == (COLUMN_WISE,):
        kinds = kinds if can_cut else (ROW_WISE,)
    elif not can_cut or columns // world < _NARROWEST:
        kinds = [kind for kind in kinds if kind != COLUMN_WISE]
    width = columns // world if COLUMN_WISE in kinds else None
    return {"sharding_types": list(kinds), "min_partition": width}


def _keys(tables: Mapping[str, Table]) -> list[str]:
    """Names within TorchRec, which has no room for dots."""
    return [f"table_{number}" for number in range(len(tables))]


def unsharded(tables: Mapping[str, Table]) -> Any:
    """TorchRec's collection of tables of one width by key, without memory."""
    from torchrec import EmbeddingCollection, EmbeddingConfig

    configs = [
        EmbeddingConfig(
            name=key,
            embedding_dim=padded(table.dim),
            num_embeddings=table.rows,
            feature_names=[key],
        )
        for key, table in tables.items()
    ]
    return EmbeddingCollection(tables=configs, device=torch.device("meta"))


def _placed(sharding: Any) -> Placed:
    parts = []
    for shard in sharding.sharding_spec.shards:
        (row, column), (rows, columns) = shard.shard_offsets, shard.shard_sizes
        own = Part(shard.placement.rank(), (row, row + rows), (column, column + columns))
        parts.append(own)
    return Placed(sharding.sharding_type, tuple(parts))


def _share_a_process(placed: Placed) -> bool:
    return len({part.rank for part in placed.parts}) < len(placed.parts)


def sharding_of(placed: Placed) -> Any:
    """TorchRec's own words for where a table lies."""
    from torch.distributed._shard.metadata import ShardMetadata
    from torch.distributed._shard.sharding_spec import (  # type: ignore[attr-defined]
        EnumerableShardingSpec,
    )
    from torchrec.distributed.types import ParameterSharding

    shards = [
        ShardMetadata(
            shard_offsets=[part.rows[0], part.columns[0]],
            shard_sizes=[part.rows[1] - part.rows[0], part.columns[1] - part.columns[0]],
            placement=f"rank:{part.rank}/cpu",
        )
        for part in placed.parts
    ]
    return ParameterSharding(
        sharding_type=placed.kind,
        compute_kernel="fused",
        ranks=[part.rank for part in placed.parts],
        sharding_spec=EnumerableShardingSpec(shards),
    )


def agreed(make: Callable[[], Plan], rank: int) -> Plan:
    """The plan of the first process of a group, in all of them."""
    text = json.dumps(make()).encode() if rank == 0 else b""
    size = torch.tensor(len(text))
    torch.distributed.broadcast(size, 0)
    told = torch.zeros(int(size), dtype=torch.uint8)
    if rank == 0:
        told.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    torch.distributed.broadcast(told, 0)
    read = json.loads(bytes(told.tolist()))
    return {
        name: Placed(kind, tuple(Part(rank, (a, b), (c, d)) for rank, (a, b), (c, d) in parts))
        for name, (kind, parts) in read.items()
    }


def bytes_of_ranks(plan: Plan, world: int) -> list[int]:
    """Of the weights that each process holds, padding included."""
    found = [0] * world
    for placed in plan.values():
        for part in placed.parts:
            found[part.rank] += _BYTES * part.numbers
    return found


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
