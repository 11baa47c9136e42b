"""Several runs on the same rows, side by side: figures, and paired tests of every pair of them."""

from collections.abc import Mapping
from itertools import combinations

from deepfm.evaluation.delong import auc_difference
from deepfm.evaluation.paired import Difference, holm, paired_difference, word_for
from deepfm.evaluation.ranking import ndcg
from deepfm.report.panel import Panel
from deepfm.report.scores import SplitScores
from deepfm.report.table import Table, interval, p_value
from deepfm.report.verdict import LOG_LOSS, NDCG, RMSE, Figure, comparisons

AUC = Figure("AUC", smaller_is_better=False)


def tests_of(
    runs: Mapping[str, SplitScores],
) -> list[Panel]:
    """A table per figure: every pair of runs with its difference, its test, and what it means."""
    found = []
    for place, task in enumerate(next(iter(runs.values())).tasks):
        of_task = f" of {task.name}" if task.name else ""
        scores = {name: run.tasks[place] for name, run in runs.items()}
        if all(one.has_both_classes for one in scores.values()):
            found.append(
                _panel(
                    AUC,
                    of_task,
                    {
                        (a, b): auc_difference(task.label, scores[a].score, scores[b].score)  # type: ignore[arg-type]
                        for a, b in combinations(scores, 2)
                    },
                    f"{len(task.label):,} rows, DeLong's test",
                )
            )
        losses = {name: one.losses() for name, one in scores.items()}
        if all(values is not None for values in losses.values()):
            figure = RMSE if task.kind == "number" else LOG_LOSS
            found.append(
                _panel(
                    figure,
                    of_task,
                    {
                        (a, b): paired_difference(losses[a], losses[b])  # type: ignore[arg-type]
                        for a, b in combinations(losses, 2)
                    },
                    f"{len(task.label):,} rows, paired t tests",
                )
            )
    counts = {name: run.counts for name, run in runs.items() if run.counts is not None}
    if len(counts) == len(runs):
        values = {name: ndcg(one, 10) for name, one in counts.items()}
        users = len(next(iter(values.values())))
        found.append(
            _panel(
                NDCG,
                "",
                {
                    (a, b): paired_difference(values[a], values[b])
                    for a, b in combinations(values, 2)
                },
                f"{users:,} held-out positives, paired t tests",
            )
        )
    return found


def _panel(
    figure: Figure,
    of_task: str,
    pairs: Mapping[tuple[str, str], Difference | None],
    over: str,
) -> Panel:
    known = {pair: one for pair, one in pairs.items() if one is not None}
    corrected = holm([one.p for one in known.values()])
    rows = []
    for (pair, one), p in zip(known.items(), corrected, strict=True):
        word = word_for(one, p, smaller_is_better=figure.smaller_is_better)
        ends = interval(one.low, one.high)
        said = _said(word, *pair)
        tested = [p_value(one.p), p_value(p)]
        rows.append([f"{pair[0]} minus {pair[1]}", said, one.mean, ends, *tested])
    what = "squared error" if figure.is_root else figure.title
    return Panel(
        f"Differences in {what}{of_task}",
        f"Every pair of runs on the same {over}; p after Holm's correction for "
        f"{comparisons(len(known))}. Without a significant difference take the cheaper run.",
        Table(["runs", "meaning", "difference", "95 % interval", "p", "p, Holm"], rows),
    )


def _said(word: str, one: str, other: str) -> str:
    """What a difference means for two runs.

    Example:
        >>> _said("worse", "a", "b"), _said("no significant difference", "a", "b")
        ('b is better', 'no significant difference')
    """
    if word == "better":
        return f"{one} is better"
    return f"{other} is better" if word == "worse" else word
