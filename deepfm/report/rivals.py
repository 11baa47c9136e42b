"""What a run is measured by: constants and simple methods on the same rows.

Decided here: a method learns from as many training rows as it can in seconds, and is left out,
with a line, where it would take minutes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepfm import experiment
from deepfm.data.dataset import TabularDataset
from deepfm.data.load import ExperimentData
from deepfm.evaluation.measures import Array, row_losses
from deepfm.evaluation.ranking import RankCounts, ndcg, rank_counts
from deepfm.evaluation.references import REFERENCES
from deepfm.evaluation.table_references import table_references, title_of
from deepfm.objectives import Task
from deepfm.report.scores import SplitScores

_TRAINING_ROWS = 100_000  # that a linear model and boosting learn from
_MOST_ITEMS, _MOST_CELLS = 4_000, 20_000_000  # of the matrices of recommenders


class Rivals(NamedTuple):
    """Methods beside a model.

    Attributes:
        losses: Per task and method, what each row counts, (N,).
        counts: How methods rank the positives that the model ranks.
        note: What was left out, and why.
    """

    losses: Mapping[str, Mapping[str, NDArray[np.float64]]]
    counts: Mapping[str, RankCounts]
    note: str = ""


def constants(scores: SplitScores) -> Rivals:
    """What needs no training: the base rate of each task, and a random order."""
    losses = {}
    for task in scores.tasks:
        if task.losses() is not None and np.isfinite(task.base_rate).all() and len(task.label):
            name = "mean" if task.kind == "number" else "base rate"
            constant = np.broadcast_to(task.base_rate, (len(task.label), *task.base_rate.shape))
            losses[task.name] = {name: losses_of(task.kind, task.label, constant)}
    return Rivals(losses, {})


def rivals(
    scores: SplitScores,
    rows: TabularDataset,
    data: ExperimentData,
    tasks: Sequence[Task],
    seed: int,
) -> Rivals:
    """The base rate and simple methods: of a ranking task recommenders, else of tables.

    Args:
        rows: Those that the scores are of.
    """
    known = constants(scores)
    if scores.counts is not None:
        counts, note = _recommenders(scores, rows, data)
        return Rivals(known.losses, counts, note)
    losses = dict(known.losses)
    for task, own in zip(tasks, scores.tasks, strict=True):
        if own.losses() is None or len(np.unique(own.label)) < 2:
            continue
        found = table_references(data.train, rows, None, task, seed=seed, max_rows=_TRAINING_ROWS)
        losses[task.name] = {
            title_of(name, task): losses_of(own.kind, own.label, one.valid[own.inside])
            for name, one in found.items()
        }
    some = len(data.train) > _TRAINING_ROWS
    note = f"Simple methods learn from {_TRAINING_ROWS:,} training rows." if some else ""
    return Rivals(losses, {}, note)


def losses_of(kind: str, label: Array, predicted: Array) -> NDArray[np.float64]:
    """What each row counts in the figure by which tasks of a kind are compared, (N,).

    Args:
        predicted: Logits, (N,) or (N, C), or numbers, (N,).
    """
    if kind == "number":
        return np.square(np.asarray(predicted, np.float64) - label)
    if kind == "binary":
        return row_losses(label, predicted)
    own = np.take_along_axis(predicted, label.astype(np.int64)[:, None], axis=1)[:, 0]
    return np.asarray(np.logaddexp.reduce(predicted, axis=1) - own)


def random_order(scores: SplitScores) -> NDArray[np.float64]:
    """NDCG@10 that a random order of the candidates is expected to reach, per positive, (U,)."""
    nothing = np.zeros(len(scores.ranked), np.int64)
    return ndcg(RankCounts(nothing, np.full_like(nothing, scores.num_negatives)), 10)


def _recommenders(
    scores: SplitScores, rows: TabularDataset, data: ExperimentData
) -> tuple[dict[str, RankCounts], str]:
    ranking, events = rows.ranking, data.events
    assert ranking is not None  # what ranks has both
    assert events is not None
    training = experiment.interactions_of(data)
    users, items = training.num_users, training.num_items
    if items > _MOST_ITEMS or users * items > _MOST_CELLS:
        return {}, f"Simple recommenders are left out: {users:,} users, {items:,} items."
    wanted = ranking.items[:, : 1 + ranking.num_negatives]
    user = events.user[rows.row[ranking.rows]]
    found = {}
    for name, reference in REFERENCES.items():
        found[name.replace("_", " ")] = rank_counts(
            reference(training)[user[:, None], wanted], wanted >= 0
        )
    return found, ""
