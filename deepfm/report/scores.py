"""What a model predicts for held-out rows, as arrays that panels are made of.

Decided here: a page looks at no more rows than a chart can show. They are drawn by a fixed seed,
alike for all runs on the same rows; how many of how many is said on the page.

Shapes: N rows, C classes, U ranked rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from deepfm.data.dataset import TabularDataset
from deepfm.evaluation.base_rate import base_rate, kind_of
from deepfm.evaluation.measures import Array, auc, row_losses
from deepfm.evaluation.ranking import RankCounts
from deepfm.evaluation.scoring import Evaluation
from deepfm.objectives import Task
from deepfm.utils.seeding import generator

MOST_ROWS = 200_000
MOST_RANKED = 2_000  # positives, each of which is ranked among up to a thousand candidates


class TaskScores(NamedTuple):
    """What is predicted for one task.

    Attributes:
        name: Empty where it is the only one.
        kind: `binary`, `classes` or `number`.
        classes: Their names, where there are several.
        inside: Which of the rows the task is measured on, (N,) bool.
        label: (N,) of those rows.
        predicted: Probabilities, (N,) or (N, C), numbers, or scores, (N,).
        score: What orders rows of a binary task, (N,); None of any other.
        logit: Of class 1, after the prior correction, (N,); None where nothing is a probability.
        is_corrected: Whether there was such a correction.
        base_rate: The logit, the logits (C,) or the number that training rows give alone.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    inside: NDArray[np.bool_]
    label: Array
    predicted: NDArray[np.float64]
    score: NDArray[np.float64] | None
    logit: NDArray[np.float64] | None
    is_corrected: bool
    base_rate: NDArray[np.float64]

    @property
    def has_both_classes(self) -> bool:
        """Whether it is binary and has rows of both."""
        return self.kind == "binary" and len(self.label) > 0 and len(np.unique(self.label)) > 1

    def losses(self) -> NDArray[np.float64] | None:
        """What each row counts in the figure that is compared: LogLoss, or squared error, (N,)."""
        if self.kind == "number":
            return np.square(self.predicted - self.label)
        if self.kind == "binary":
            return None if self.logit is None else row_losses(self.label, self.logit)
        own = np.take_along_axis(self.predicted, self.label.astype(np.int64)[:, None], axis=1)
        return np.asarray(-np.log(np.maximum(own[:, 0], np.exp(-100.0))))

    def auc(self) -> float | None:
        """The AUC of a binary task, of any other None."""
        return auc(self.label, self.score) if self.has_both_classes else None  # type: ignore[arg-type]


class SplitScores(NamedTuple):
    """What is predicted for the rows of a split that are looked at.

    Attributes:
        split: `valid` or `test`.
        row: Their numbers in the raw table, (N,).
        of_rows: How many the split has.
        tasks: What is predicted, by task.
        counts: How the ranked positives stand among all candidates; None without a ranking task.
        counts_99: The same among 99; None where that is all there are.
        ranked: Raw row numbers of these positives, (U,).
        num_negatives: Candidates beside each.
    """

    split: str
    row: NDArray[np.int64]
    of_rows: int
    tasks: tuple[TaskScores, ...]
    counts: RankCounts | None
    counts_99: RankCounts | None
    ranked: NDArray[np.int64]
    num_negatives: int

    def seen(self) -> str:
        """How many rows the page looks at.

        Example:
            >>> scores = SplitScores("valid", np.arange(10), 30, (), None, None, np.arange(0), 0)
            >>> scores.seen()
            '10 of 30 validation rows'
        """
        title = {"valid": "validation", "test": "test"}[self.split]
        some = f"{len(self.row):,} of " if len(self.row) < self.of_rows else ""
        return f"{some}{self.of_rows:,} {title} rows"


class Sample(NamedTuple):
    """The rows of a split that are looked at.

    Attributes:
        rows: Themselves.
        kept: Their places in the split, ascending, (N,).
        ranked: Places of their ranked positives among those of the split, ascending, (U,).
    """

    rows: TabularDataset
    kept: NDArray[np.int64]
    ranked: NDArray[np.int64]

    def of(self, found: Evaluation) -> Evaluation:
        """Of an evaluation of the split what it found for these rows."""

        def ranked(counts: RankCounts | None) -> RankCounts | None:
            if counts is None:
                return None
            return RankCounts(counts.above[self.ranked], counts.tied[self.ranked])

        return found._replace(
            predictions={name: values[self.kept] for name, values in found.predictions.items()},
            logits={name: values[self.kept] for name, values in found.logits.items()},
            counts=ranked(found.counts),
            counts_99=ranked(found.counts_99),
        )


def sampled(
    split: TabularDataset, *, seed: int = 0, most: int = MOST_ROWS, most_ranked: int = MOST_RANKED
) -> Sample:
    """A split, or as many of its rows as are looked at.

    Of a ranking task the ranked positives are drawn among the rows that are kept.
    """
    kept, of_kept, ranking = np.arange(len(split)), np.arange(0), split.ranking
    if len(split) > most:
        kept = np.sort(generator(seed, "report").choice(len(split), most, replace=False))
    if ranking is not None:
        of_kept = np.flatnonzero(np.isin(ranking.rows, kept))
        if len(of_kept) > most_ranked:
            drawn = generator(seed, "report", 1).choice(of_kept, most_ranked, replace=False)
            of_kept = np.sort(drawn)
        place = np.searchsorted(kept, ranking.rows[of_kept])
        ranking = ranking._replace(rows=place, items=ranking.items[of_kept])
    whole = split.ranking is None or len(of_kept) == len(split.ranking.rows)
    if len(kept) == len(split) and whole:
        return Sample(split, kept, of_kept)
    chosen = torch.from_numpy(kept)
    rows = TabularDataset(
        split.schema,
        split.inputs.select(chosen),
        split.label[chosen],
        weight=None if split.weight is None else split.weight[chosen],
        group=None if split.group is None else split.group[chosen],
        row=split.row[kept],
        ranking=ranking,
    )
    return Sample(rows, kept, of_kept)


def scores_of(
    split: str,
    rows: TabularDataset,
    found: Evaluation,
    tasks: Sequence[Task],
    train: TabularDataset,
    *,
    of_rows: int | None = None,
) -> SplitScores:
    """What an evaluation of some rows found, for panels.

    Args:
        rows: Those that were evaluated.
        tasks: Fitted to the schema of the rows.
        train: Rows whose base rate stands beside.
        of_rows: How many there are in the split, if these are some of them.
    """
    ranking = rows.ranking
    has_99 = ranking is not None and found.metrics.get("ranking_99") is not None
    return SplitScores(
        split,
        rows.row,
        len(rows) if of_rows is None else of_rows,
        tuple(_of_task(task, rows, found, train) for task in tasks),
        found.counts,
        found.counts_99 if has_99 else None,
        np.arange(0) if ranking is None else rows.row[ranking.rows],
        0 if ranking is None else min(ranking.num_negatives, ranking.items.shape[1] - 1),
    )


def _of_task(
    task: Task, rows: TabularDataset, found: Evaluation, train: TabularDataset
) -> TaskScores:
    label = task.label_of(rows.label, rows.schema).numpy()
    inside = np.ones(len(label), bool)
    if task.is_of_space and (space := task.in_space(rows.label, rows.schema)) is not None:
        inside = space.numpy()
    kind = kind_of(task)
    predicted = found.predictions[task.name][inside]
    score = logit = None
    prior = None if rows.ranking is None else rows.ranking.prior
    constant = base_rate(task, train) if prior is None else np.asarray(prior.explicit)
    if kind == "binary":
        own = found.logits.get(task.name)
        score = predicted if own is None else own[inside]
        if own is not None and (prior is None or np.isfinite(prior.shift)):
            logit = own[inside] + (0.0 if prior is None else prior.shift)
    return TaskScores(
        task.name,
        kind,
        task.classes,
        inside,
        label[inside],
        predicted,
        score,
        logit,
        prior is not None,
        constant,
    )
