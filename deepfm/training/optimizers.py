"""Which optimizer updates which parameters.

Decided here: who updates the embedding tables, what that may be combined with, and which other
parameters have an optimizer of their own.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deepfm.config import PartOptimizerConfig, TrainingConfig
from deepfm.easyrec.names import parameter_names
from deepfm.errors import ConfigError, nearest
from deepfm.models.base import BaseCTRModel
from deepfm.training.options import (
    SPARSE_OPTIMIZERS,
    OptimizerConfig,
    ScheduleConfig,
    SparseOptimizerConfig,
)
from deepfm.training.sparse_optimizers import SparseOptimizer

# Measured on one core, in units of 0.07 ns: what a step costs per table weight under dense Adam,
# per other weight and row (the matrix products, forward and backward), and at least.
_PER_TABLE_WEIGHT = 40
_PER_WEIGHT_AND_ROW = 1
_PER_STEP = 30_000_000
MOST_ADDED_UP = 2**22  # weights of tables, 16 MiB


class Assigned(NamedTuple):
    """An optimizer, and the settings of its schedule.

    Attributes:
        role: `dense`, `tables`, or the pattern of a part.
        optimizer: Holds the parameters.
        scheduler_key, scheduler: Where the schedule is given, and its options.
    """

    role: str
    optimizer: torch.optim.Optimizer
    scheduler_key: str
    scheduler: ScheduleConfig


def assign_optimizers(model: BaseCTRModel, config: TrainingConfig) -> list[Assigned]:
    """Which optimizer updates which parameters; those that are not trained have none.

    `config.sparse_optimizer` takes the embedding tables, first-order weights included; if it is
    one of `SPARSE_OPTIMIZERS`, it is a `SparseOptimizer`. Of `config.part_optimizers`, the first
    whose pattern matches the whole name of any other parameter takes that. `config.optimizer`
    has the rest, the tables too where there is no sparse one.

    Raises:
        ConfigError: The tables' storage cannot do what the settings ask for, a pattern matches
            nothing, or an option cannot be used.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    of_tables = {id(parameter) for parameter in model.embedding.tables.parameters()}
    tables = [parameter for parameter in trained.values() if id(parameter) in of_tables]
    names = {id(weight): name for name, weight in model.state_dict(keep_vars=True).items()}
    dense = {names[id(p)]: p for p in trained.values() if id(p) not in of_tables}
    known = {
        name: (name, *parameter_names(name, model.config.name, model.tower_names)) for name in dense
    }
    parts = _parts(dense, config.part_optimizers, known)
    _check_own_optimizers(model, config)
    shared = dense if config.sparse_optimizer is not None else trained
    rest = [parameter for parameter in shared.values() if id(parameter) not in parts]
    common = ("training.scheduler", config.scheduler)
    found = []
    if rest:
        optimizer = config.optimizer.build(rest, config.lr, "training.optimizer")
        found.append(Assigned("dense", optimizer, *common))
    if config.sparse_optimizer is not None:
        if tables:
            schedule = common
            if config.sparse_scheduler is not None:
                schedule = ("training.sparse_scheduler", config.sparse_scheduler)
            found.append(
                Assigned(
                    "tables",
                    _build_sparse(model, tables, config.sparse_optimizer, config),
                    *schedule,
                )
            )
    elif config.sparse_scheduler is not None:
        raise ConfigError(
            "the tables share training.optimizer and its schedule; give them a "
            "training.sparse_optimizer",
            key="training.sparse_scheduler",
        )
    elif config.sparse_update == "backward":
        raise ConfigError(
            f"backward needs a training.sparse_optimizer of {', '.join(SPARSE_OPTIMIZERS)}",
            key="training.sparse_update",
        )
    for number, part in enumerate(config.part_optimizers):
        own = [p for p in dense.values() if parts.get(id(p)) == number]
        if own:
            key = "training.part_optimizers"
            optimizer = part.optimizer.build(own, config.lr, f"{key}.optimizer")
            schedule = common if part.scheduler is None else (f"{key}.scheduler", part.scheduler)
            found.append(Assigned(part.pattern, optimizer, *schedule))
    return found


def _parts(
    dense: Mapping[str, Tensor],
    parts: Sequence[PartOptimizerConfig],
    names: Mapping[str, Sequence[str]],
) -> dict[int, int]:
    """By id of a parameter, the number of the part that it belongs to.

    A pattern matches the whole name of a parameter, or what TorchEasyRec calls it.

    Args:
        names: All names of a parameter, by ours.
    """
    found: dict[int, int] = {}
    for number, part in enumerate(parts):
        pattern = re.compile(part.pattern)
        matches = [
            parameter
            for name, parameter in dense.items()
            if any(pattern.fullmatch(known) for known in names[name])
        ]
        if not matches:
            raise ConfigError(
                f"{part.pattern!r} matches no whole name of a dense parameter; "
                f"{_near(part.pattern, names)}",
                key="training.part_optimizers",
            )
        for parameter in matches:
            found.setdefault(id(parameter), number)
    return found


def _near(pattern: str, names: Mapping[str, Sequence[str]]) -> str:
    """Names that hold a word of the pattern, or hold it in the original, or all.

    Args:
        names: Those of a parameter, by ours.
    """
    words = [word for word in re.findall(r"\w{2,}", pattern) if word not in ("weight", "bias")]
    near = [
        name for name, known in names.items() if any(word in k for word in words for k in known)
    ]
    return f"near ones: {', '.join(near)}" if near else nearest(pattern, names)


def _build_sparse(
    model: BaseCTRModel,
    tables: Sequence[Tensor],
    chosen: OptimizerConfig | SparseOptimizerConfig,
    config: TrainingConfig,
) -> torch.optim.Optimizer:
    if isinstance(chosen, OptimizerConfig):
        if config.sparse_update == "backward":
            known = ", ".join(SPARSE_OPTIMIZERS)
            raise ConfigError(
                f"backward needs one of {known} as training.sparse_optimizer",
                key="training.sparse_update",
            )
        return chosen.build(tables, config.lr, "training.sparse_optimizer")
    _check_capabilities(model, chosen.name, config)
    return chosen.build(model.embedding.tables, config.lr)


def _check_capabilities(model: BaseCTRModel, name: str, config: TrainingConfig) -> None:
    """Refuse what the tables cannot do under the sparse optimizer of a name."""
    can, feature = model.embedding.tables.capabilities, model.config.feature
    clips = (config.gradient_clip_norm, config.gradient_clip_value) != (None, None)
    problem = None
    if name not in can.optimizers:
        known = ", ".join(can.optimizers) or "dense optimizers"
        problem = f"these tables are updated by {known} only"
    elif feature.embedding_l2_reg and feature.embedding_l2_scope == "table" and not can.table_l2:
        problem = (
            "it updates touched rows only, and feature.embedding_l2_scope: table decays every "
            "row; choose batch there, or a dense optimizer here"
        )
    elif config.gradient_clip_scope == "all" and clips:
        if not can.global_clipping:
            problem = (
                "these tables have no part in training.gradient_clip_norm and _value; set "
                "training.gradient_clip_scope: dense"
            )
        elif config.sparse_update == "backward" and config.gradient_accumulation_steps > 1:
            problem = (
                "with training.sparse_update: backward the tables are updated before the whole "
                "gradient is known; set training.gradient_clip_scope: dense"
            )
    if problem:
        raise ConfigError(f"{name}: {problem}", key="training.sparse_optimizer")


def _check_own_optimizers(model: BaseCTRModel, config: TrainingConfig) -> None:
    """Refuse what needs a gradient of tables that leave none, or several ones at once."""
    can, feature = model.embedding.tables.capabilities, model.config.feature
    if not can.only_own_optimizers:
        return
    known = ", ".join(can.optimizers)
    storage = f"feature.storage: {feature.storage}"
    compared = [task.name or "the task" for task in model.tasks if task.by_pairs]
    problem = None
    if not isinstance(config.sparse_optimizer, SparseOptimizerConfig):
        problem = "sparse_optimizer", f"{storage} updates tables by one of {known} only"
    elif config.gradient_accumulation_steps > 1 and config.sparse_update == "step":
        problem = (
            "gradient_accumulation_steps",
            f"{storage} updates tables in every backward pass; set training.sparse_update: "
            "backward, which says so",
        )
    elif compared:
        problem = "losses", f"{storage} has no losses that compare items: {', '.join(compared)}"
    elif feature.embedding_l2_reg:
        raise ConfigError(
            f"{storage} has no penalty on table rows; set it to 0",
            key="feature.embedding_l2_reg",
        )
    if problem:
        key, text = problem
        raise ConfigError(text, key=f"training.{key}")


def refuse_whole_tables(model: BaseCTRModel, assigned: Sequence[Assigned]) -> None:
    """Refuse large tables whose gradients several processes would have to add up as a whole.

    Raises:
        ConfigError: An optimizer that is not one of touched rows has more of them than
            `MOST_ADDED_UP`.
    """
    if model.embedding.tables.capabilities.only_own_optimizers:
        return
    if any(isinstance(item.optimizer, SparseOptimizer) for item in assigned):
        return
    weights = sum(
        weight.numel() for weight in model.embedding.tables.parameters() if weight.requires_grad
    )
    if weights > MOST_ADDED_UP:
        raise ConfigError(
            f"several processes would exchange all {weights:,} weights of the embedding tables in "
            f"every step; choose one of {', '.join(SPARSE_OPTIMIZERS)}, which exchange the rows "
            "of a batch only",
            key="training.sparse_optimizer",
        )


def dense_update_dominates(model: BaseCTRModel, batch_size: int) -> bool:
    """Whether updating every table weight is estimated to cost more than the rest of a step."""
    tables = sum(parameter.numel() for parameter in model.embedding.tables.parameters())
    others = sum(parameter.numel() for parameter in model.parameters()) - tables
    rest = _PER_STEP + _PER_WEIGHT_AND_ROW * others * batch_size
    return _PER_TABLE_WEIGHT * tables > rest
