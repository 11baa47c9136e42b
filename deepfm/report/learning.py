"""Learning curves: what training reached after each epoch, and which epoch is kept."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from deepfm.report.drawing import INK, colour, dash, drawn
from deepfm.report.panel import Panel
from deepfm.report.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Entries = Sequence[Mapping[str, Any]]


class History(NamedTuple):
    """The epochs of a run.

    Attributes:
        entries: Of `history.jsonl`.
        metric: What was watched, as it is reported.
        kept: The epoch whose weights are kept; None where that cannot be told.
    """

    entries: Entries
    metric: str
    kept: int | None


def history_of(entries: Entries, metric: str, *, larger_is_better: bool, keep: str) -> History:
    """What `history.jsonl` says, and which epoch training kept: the best one, or the last.

    Example:
        >>> entries = [{"epoch": k, "auc": auc} for k, auc in ((1, 0.6), (2, 0.7), (3, 0.7))]
        >>> history_of(entries, "auc", larger_is_better=True, keep="best").kept
        2
    """
    known = []
    for entry in entries:
        values = [one.get(metric) for one in (entry, *entry.get("evaluations", ()))]
        numbers = [value for value in values if value is not None]
        if numbers:
            best = max(numbers) if larger_is_better else min(numbers)
            known.append((best, int(entry["epoch"])))
    if keep == "last":
        kept = int(entries[-1]["epoch"]) if entries else None
    elif known:
        sign = -1 if larger_is_better else 1
        kept = min(known, key=lambda pair: (sign * pair[0], pair[1]))[1]
    else:
        kept = None
    return History(entries, metric, kept)


def learning(histories: Mapping[str, History], *, prefix: str) -> list[Panel]:
    """A chart of the training loss and one of each watched metric, over epochs.

    Args:
        histories: By name of the run.
        prefix: Of the names of charts.
    """
    found = [
        _curve(
            histories,
            "train_loss",
            "Training loss",
            "It should fall and flatten out. Where it still falls at the end while the watched "
            "metric does not improve, the model learns its rows by heart.",
            f"{prefix}-loss",
        )
    ]
    for place, metric in enumerate(dict.fromkeys(one.metric for one in histories.values())):
        own = {name: one for name, one in histories.items() if one.metric == metric}
        found.append(
            _curve(
                own,
                metric,
                f"Validation {metric}",
                "The ringed epoch is the one whose weights are kept. If it is the last one, more "
                "epochs may help; if it comes early, a lower rate or more regularization may.",
                f"{prefix}-metric-{place}",
            )
        )
    return found


def _curve(histories: Mapping[str, History], key: str, title: str, hint: str, name: str) -> Panel:
    points = {
        run: [(e["epoch"], e[key]) for e in one.entries if e.get(key) is not None]
        for run, one in histories.items()
    }

    def paint(axes: "list[Axes]") -> None:
        (axis,) = axes
        for place, (run, pairs) in enumerate(points.items()):
            x, y = [p[0] for p in pairs], [p[1] for p in pairs]
            axis.plot(x, y, color=colour(place), linestyle=dash(place), marker="o")
            kept = histories[run].kept
            if kept is not None and kept in dict(pairs) and key != "train_loss":
                value = dict(pairs)[kept]
                axis.plot([kept], [value], "o", markersize=11, fillstyle="none", color=INK)
        axis.set_xlabel("epoch")
        axis.locator_params(axis="x", integer=True, nbins=6)
        axis.locator_params(axis="y", nbins=5)
        axis.margins(0.06)

    epochs = sorted({epoch for pairs in points.values() for epoch, _ in pairs})
    values = {run: dict(pairs) for run, pairs in points.items()}
    rows = [
        [
            f"{epoch}{_mark(histories, epoch)}",
            *(values[run].get(epoch) for run in histories),
        ]
        for epoch in epochs
    ]
    chart = drawn(name, f"{title} over {len(epochs)} epochs", paint, left=0.19)
    return Panel(title, hint, Table(["epoch", *histories], rows), chart, list(histories))


def _mark(histories: Mapping[str, History], epoch: int) -> str:
    kept = [name for name, one in histories.items() if one.kept == epoch]
    if not kept:
        return ""
    return " (kept)" if len(histories) == 1 else f" (kept: {', '.join(kept)})"
