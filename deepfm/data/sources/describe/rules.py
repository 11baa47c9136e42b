"""Network, batches and steps that suit a table, by its size: the rule that docs/describe.md states.

The size of a table is what can be learnt from it: its training rows, or 20 times the training rows
of the rarer class where that is less.
"""

import math
from typing import Any, NamedTuple

from deepfm.data.sources.describe.labels import LabelGuess

TRAINED = 0.8  # share of rows where the split is drawn
ROWS_PER_POSITIVE = 20  # by which few rows of a class count
L2_OF_A_SHARE = 0.15
FEW_OF_A_CLASS = 500  # that are said
# Up to here all rows of all tables are updated in each step, and kept small by L2 over all of them.
DENSE_ROWS, DENSE_VALUES = 1_000_000, 300_000


class TableSize(NamedTuple):
    """How much there is to learn from.

    Attributes:
        rows: Training rows.
        smallest_class: Those of the rarest class; all of a number.
        values: Different values of all ids.
    """

    rows: int
    smallest_class: int
    values: int = 0

    @property
    def learnable(self) -> int:
        """Rows that count."""
        return max(1, min(self.rows, ROWS_PER_POSITIVE * self.smallest_class))


class Step(NamedTuple):
    """What suits tables of up to so many rows that count."""

    up_to: float
    embedding_dim: int
    hidden_units: tuple[int, ...]
    dropout: float
    norm: str
    init: str
    min_count: int
    lr: float
    epochs: int
    bins: int | None  # of piecewise numbers; None: the default


STEPS = (
    Step(10_000, 4, (64, 32), 0.5, "none", "normal(0.001)", 4, 2e-3, 30, 16),
    Step(30_000, 8, (128, 64), 0.3, "batch", "normal(0.01)", 3, 1e-3, 30, None),
    Step(1_000_000, 16, (256, 128, 64), 0.3, "batch", "normal(0.01)", 2, 1e-3, 20, None),
    Step(math.inf, 16, (400, 400, 400), 0.2, "batch", "normal(0.01)", 10, 1e-3, 5, None),
)


def step_of(size: TableSize) -> Step:
    """The row of the table of steps that a size belongs to."""
    return next(step for step in STEPS if size.learnable <= step.up_to)


def batch_size(rows: int) -> int:
    """The power of two nearest to a 150th of the training rows, 64 to 4,096.

    Example:
        >>> [batch_size(rows) for rows in (800, 40_000, 10_000_000)]
        [64, 256, 4096]
    """
    return int(2 ** min(12, max(6, round(math.log2(max(rows, 1) / 150)))))


def min_count(step: Step, distinct: int, once: int) -> int | None:
    """How often a value of an id must occur in training; None: once, as always.

    Args:
        distinct: Values of the column.
        once: Of those, how many occur once.
    """
    if distinct <= 20 or once < max(5, 0.05 * distinct):
        return None
    return step.min_count


def table_l2(size: TableSize, label: LabelGuess) -> float:
    """L2 of all table rows in every step: .15 times the share of the rarer class.

    What pulls a row away from zero, the gradient of the mean loss, falls with that share.

    Example:
        >>> from types import SimpleNamespace
        >>> clicks = SimpleNamespace(kind="binary")
        >>> table_l2(TableSize(80_000, 450), clicks), table_l2(TableSize(1_600, 320), clicks)
        (0.00084, 0.03)
    """
    share = 0.2 if label.kind == "number" else size.smallest_class / max(size.rows, 1)
    return float(f"{max(L2_OF_A_SHARE * share, 1e-5):.2g}")


def settings(size: TableSize, label: LabelGuess) -> dict[str, dict[str, Any]]:
    """The sections of a config below `data`."""
    step = step_of(size)
    training: dict[str, Any] = {
        "epochs": step.epochs,
        "batch_size": batch_size(size.rows),
        "lr": step.lr,
        "scheduler": "cosine",
        "early_stopping_patience": 8,
        "metric": "logloss",
    }
    network: dict[str, Any] = {
        "hidden_units": list(step.hidden_units),
        "dropout": step.dropout,
        "norm": step.norm,
    }
    evaluation: dict[str, Any] = {}
    if label.kind == "number":
        # Dropout changes the scale of what batch norm sees, which a number shows and a class hides.
        network["dropout"] = 0.0
        training |= {"losses": ["l2"], "metric": "rmse", "lr": 2 * step.lr}
        evaluation = {"metrics": ["rmse", "mae"]}
    elif label.kind == "class":
        training |= {"losses": ["softmax_cross_entropy"], "metric": "softmax_cross_entropy"}
        evaluation = {"metrics": ["accuracy", "multiclass_auc"]}
    feature: dict[str, Any] = {
        "embedding_dim": step.embedding_dim,
        "fm_embedding_dim": step.embedding_dim,
        "init": step.init,
    }
    if size.rows > DENSE_ROWS or size.values > DENSE_VALUES:
        training["sparse_optimizer"] = "lazy_adam"
    elif size.values:
        feature |= {"embedding_l2_reg": table_l2(size, label), "embedding_l2_scope": "table"}
    sections = {
        "feature": feature,
        "dnn": network,
        "training": training,
    }
    return sections | ({"evaluation": evaluation} if evaluation else {})


HISTORY = 20  # events that a row of a ranking sees, as in MovieLens' config


def ranking_settings() -> dict[str, dict[str, Any]]:
    """The sections below `data` of a task that ranks items; those of MovieLens' config."""
    return {
        "feature": {
            "embedding_dim": 64,
            "fm_embedding_dim": 64,
            "init": "normal(0.03)",
            "embedding_l2_reg": 5e-5,
            "embedding_l2_scope": "table",
        },
        "dnn": {"hidden_units": [128, 64], "dropout": 0.3, "norm": "none"},
        "training": {
            "epochs": 16,
            "batch_size": 2048,
            "lr": 4e-3,
            "optimizer": {"name": "adamw", "weight_decay": 1.0},
            "sparse_optimizer": "adam",
            "scheduler": "cosine",
            "metric": "ranking_99.ndcg@10",
        },
    }
