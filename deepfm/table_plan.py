"""How so many processes of so much memory would share out the tables of a config; nothing is made.

Decided here: what is counted is exact for tables, their padding and their statistics. What networks
and batches need is covered by the share of the memory that a plan leaves free.
"""

import re

import torch

from deepfm.config import ExperimentConfig
from deepfm.errors import ConfigError
from deepfm.models import build_model
from deepfm.models.sharded.plan import (
    COLUMN_WISE,
    KINDS,
    RESERVED,
    Placed,
    bytes_of_ranks,
    padded,
    plan_tables,
)
from deepfm.preflight import schema_of_known_sizes

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SHOWN = 20  # of the largest tables


def bytes_of(text: str) -> int:
    """A size with its unit, as bytes.

    Raises:
        ConfigError: It is none.

    Example:
        >>> bytes_of("8GB"), bytes_of("1.5 MiB")
        (8000000000, 1572864)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]i?B)", text)
    if found is None or not float(found[1]):
        raise ConfigError(
            f"--memory: expected a number with one of {', '.join(_UNITS)}, such as 8GB, found "
            f"{text!r}"
        )
    return int(float(found[1]) * _UNITS[found[2]])


def planned(config: ExperimentConfig, *, processes: int, memory: int) -> list[str]:
    """Lines on what each process would hold.

    Args:
        memory: Of each process, in bytes.

    Raises:
        ConfigError: The tables do not fit, rows of a table depend on the data, a setting is wrong,
            or TorchRec is not installed.
    """
    with torch.device("meta"):
        tables = build_model(schema_of_known_sizes(config), config).embedding.tables.logical
    optimizer = config.training.sparse_optimizer
    by_row = optimizer is not None and optimizer.name == "rowwise_adagrad"
    kinds = [kind for kind in KINDS if not (by_row and kind == COLUMN_WISE)]
    plan = plan_tables(tables, world=processes, memory=memory, kinds=kinds)
    largest = sorted(tables.values(), key=lambda t: t.rows * padded(t.dim), reverse=True)
    width = max(len(table.name) for table in largest[:_SHOWN])
    lines = [
        f"{table.name:<{width}}  {table.rows:>13,} x {table.dim:<3}  {_cut(plan[table.name])}"
        for table in largest[:_SHOWN]
    ]
    if len(largest) > _SHOWN:
        lines.append(f"and {len(largest) - _SHOWN} smaller tables")
    weights = bytes_of_ranks(plan, processes)
    for rank, own in enumerate(weights):
        lines.append(
            f"process {rank + 1}: {_readable(own)} of weights, {_readable(2 * own)} with a "
            f"statistic for each, of {_readable(memory)}"
        )
    numbers, size = sum(table.rows * table.dim for table in tables.values()), sum(weights)
    lines.append(
        f"in all {numbers:,} weights, {_readable(size)}, {_readable(2 * size)} with a statistic "
        f"for each; {RESERVED:.0%} of the memory is left to all else"
    )
    return lines


def _cut(placed: Placed) -> str:
    """How a table is cut.

    Example:
        >>> from deepfm.models.sharded.plan import Part
        >>> _cut(Placed("table_wise", (Part(2, (0, 9), (0, 16)),)))
        'table_wise, process 3'
    """
    ranks = [part.rank + 1 for part in placed.parts if part.numbers]
    if len(ranks) == 1:
        return f"{placed.kind}, process {ranks[0]}"
    return f"{placed.kind}, {len(ranks)} parts"


def _readable(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
