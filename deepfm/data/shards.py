"""Which process may have which shard of the training rows, where a host has one of them only."""

from deepfm.data.store.held_rows import HeldRows
from deepfm.errors import ConfigError, DataError
from deepfm.utils.workers import Workers


def refuse_other_shard(held: HeldRows | None, workers: Workers) -> None:
    """Refuse, in all processes, to train where one of them has other rows than its own.

    Of n shards each is for an n-th of the processes, in their order: the first ones have the
    first shard.

    Args:
        held: The rows that are here; None: all.

    Raises:
        ConfigError: The processes are no multiple of the shards.
        DataError: A process has another shard than its own.
    """
    problems = workers.texts("" if held is None else _problem(held, workers))
    if found := next(filter(None, problems), ""):
        kind, _, problem = found.partition(" ")
        raise ConfigError(problem, key="data.shards") if kind == "config" else DataError(problem)


def _problem(held: HeldRows, workers: Workers) -> str:
    """What is wrong, behind the kind of error; empty if nothing is."""
    number, of = held.shard
    if workers.world % of:
        return (
            f"config a store has shard {held.shard} of the training rows, and of {of} shards each "
            f"needs as many processes, found {workers.world} in all"
        )
    if (expected := workers.rank * of // workers.world) != number:
        return (
            f"data process {workers.rank + 1} of {workers.world} trains on shard {expected}/{of}, "
            f"and its host has shard {held.shard}: hosts have the shards in the order of their "
            "ranks"
        )
    return ""
