"""Optimizers and learning-rate schedules from a `TrainingConfig`."""

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau

from deepfm.config import TrainingConfig
from deepfm.models.base import BaseCTRModel

OPTIMIZER_CLASSES = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def build_optimizers(model: BaseCTRModel, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """One optimizer for all parameters, or a second one for the embedding tables.

    `config.sparse_optimizer` replaces `config.optimizer` for the tables, first-order weights
    included.
    """
    if config.sparse_optimizer is None:
        return [_build(model.parameters(), config.optimizer, config.lr)]
    tables = list(model.embedding.tables.parameters())
    of_tables = {id(parameter) for parameter in tables}
    dense = [p for p in model.parameters() if id(p) not in of_tables]
    return [
        _build(dense, config.optimizer, config.lr),
        _build(tables, config.sparse_optimizer, config.lr),
    ]


def _build(parameters, options: dict, lr: float) -> torch.optim.Optimizer:
    options = dict(options)
    optimizer_class = OPTIMIZER_CLASSES[options.pop("name")]
    options["lr"] = options["lr"] or lr
    return optimizer_class(parameters, fused=True, **options)


def build_schedulers(
    optimizers: list[torch.optim.Optimizer], config: TrainingConfig, *, maximize: bool
) -> list[LRScheduler]:
    """One schedule per optimizer, stepped once per epoch."""
    if config.scheduler == "reduce_on_plateau":
        return [
            ReduceLROnPlateau(
                optimizer,
                mode="max" if maximize else "min",
                factor=config.scheduler_factor,
                patience=config.scheduler_patience,
            )
            for optimizer in optimizers
        ]
    if config.scheduler == "cosine":
        t_max = config.scheduler_t_max or config.epochs
        return [CosineAnnealingLR(optimizer, T_max=t_max) for optimizer in optimizers]
    return []
