"""How well two classes are told apart: ROC, precision and recall, lift, scores by label."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from deepfm.evaluation.curves import Curve, average_precision, lift, precision_recall, roc
from deepfm.evaluation.delong import auc_interval
from deepfm.evaluation.measures import auc
from deepfm.report.drawing import MUTED, colour, dash, drawn
from deepfm.report.panel import Panel
from deepfm.report.scores import TaskScores
from deepfm.report.table import Table, interval, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GRID = np.round(np.linspace(0.0, 1.0, 21), 2)
_SCORE_BINS = 30
Series = Mapping[str, TaskScores]  # by name of the run, all of both classes


def discrimination(series: Series, *, prefix: str) -> list[Panel]:
    """ROC, precision over recall, and lift, each with a line per run."""
    return [
        _roc(series, f"{prefix}-roc"),
        _precision_recall(series, f"{prefix}-pr"),
        _lift(series, f"{prefix}-lift"),
    ]


def _roc(series: Series, name: str) -> Panel:
    curves, aucs = {}, []
    for run, scores in series.items():
        assert scores.score is not None
        curves[run] = roc(scores.label, scores.score)
        ends = auc_interval(scores.label, scores.score)
        value = shown(auc(scores.label, scores.score))
        aucs.append(f"{run}: AUC {value} {'' if ends is None else interval(*ends)}".strip())

    def paint(axes: "list[Axes]") -> None:
        axes[0].plot([0, 1], [0, 1], color=MUTED, linewidth=1)
        _lines(axes[0], curves)
        _square(axes[0], "false positive rate", "true positive rate")

    return Panel(
        "ROC",
        f"{'; '.join(aucs)} (95 % interval). The closer to the upper left corner the better; the "
        "straight line is chance.",
        _table(curves, "false positive rate"),
        drawn(name, f"ROC curve. {'; '.join(aucs)}", paint),
        list(series),
    )


def _precision_recall(series: Series, name: str) -> Panel:
    curves, values = {}, []
    share = 0.0
    for run, scores in series.items():
        assert scores.score is not None
        curves[run] = precision_recall(scores.label, scores.score)
        share = float((scores.label == 1).mean())
        precision = average_precision(scores.label, scores.score)
        values.append(f"{run}: average precision {shown(precision)}")

    def paint(axes: "list[Axes]") -> None:
        axes[0].axhline(share, color=MUTED, linewidth=1)
        _lines(axes[0], curves)
        _square(axes[0], "recall", "precision")

    return Panel(
        "Precision and recall",
        f"{'; '.join(values)}. What share of the rows above a threshold is positive, by the share "
        f"of positives found; the level line is all rows, {shown(share)}. Of rare positives it "
        "says more than ROC.",
        _table(curves, "recall"),
        drawn(name, f"Precision over recall. {'; '.join(values)}", paint),
        list(series),
    )


def _lift(series: Series, name: str) -> Panel:
    curves = {}
    for run, scores in series.items():
        assert scores.score is not None
        curves[run] = lift(scores.label, scores.score)
    tenth = {run: float(np.interp(0.1, *curve)) for run, curve in curves.items()}
    said = "; ".join(f"{run}: {value:.2f}" for run, value in tenth.items())

    def paint(axes: "list[Axes]") -> None:
        axes[0].axhline(1.0, color=MUTED, linewidth=1)
        _lines(axes[0], {run: _from_one_percent(curve) for run, curve in curves.items()})
        axes[0].set(xlim=(0, 1.02), xlabel="share of rows, highest scores first", ylabel="lift")
        axes[0].set_ylim(bottom=0)
        axes[0].locator_params(nbins=5)

    return Panel(
        "Lift",
        f"In the tenth of the rows with the highest scores, times the overall share of positives: "
        f"{said}. It should fall all the way; the level line is chance.",
        _table(curves, "share of rows", _GRID[1:]),
        drawn(name, f"Lift over the share of rows. In the first tenth, {said}", paint),
        list(series),
    )


def scores_by_label(scores: TaskScores, *, name: str) -> Panel:
    """How scores of negatives and of positives are spread, each class as shares of its rows."""
    values = scores.predicted if scores.logit is None else scores.score
    assert values is not None
    title = "logit" if scores.logit is not None else "score"
    low, high = np.quantile(values, (0.001, 0.999))
    edges = np.linspace(low, high if high > low else low + 1.0, _SCORE_BINS + 1)
    inside = np.clip(values, edges[0], edges[-1])
    heights = {
        kind: np.histogram(inside[scores.label == label], edges)[0]
        / max(1, (scores.label == label).sum())
        for kind, label in (("label 0", 0), ("label 1", 1))
    }

    def paint(axes: "list[Axes]") -> None:
        for place, shares in enumerate(heights.values()):
            axes[0].stairs(shares, edges, color=colour(place), linestyle=dash(place), linewidth=1.8)
            axes[0].stairs(shares, edges, color=colour(place), alpha=0.15, fill=True)
        axes[0].set(xlabel=title, ylabel="share of the class")
        axes[0].set_ylim(bottom=0)
        axes[0].locator_params(nbins=5)

    rows = [
        [f"{low:.3g} to {high:.3g}", *pair]
        for low, high, *pair in zip(edges[:-1], edges[1:], *heights.values(), strict=True)
    ]
    return Panel(
        "Scores by label",
        "The two heaps should lie apart. Where they overlap, no threshold tells the classes apart; "
        "a lone peak at one end may be a field that gives the label away.",
        Table([title, *heights], rows),
        drawn(name, f"Spread of the {title} by label", paint, left=0.18),
        list(heights),
    )


def _lines(axis: "Axes", curves: Mapping[str, Curve]) -> None:
    for place, curve in enumerate(curves.values()):
        axis.plot(curve.x, curve.y, color=colour(place), linestyle=dash(place))


def _square(axis: "Axes", x: str, y: str) -> None:
    axis.set(xlim=(-0.01, 1.02), ylim=(-0.01, 1.04), xlabel=x, ylabel=y)
    axis.locator_params(nbins=5)


def _from_one_percent(curve: Curve) -> Curve:
    """Without the first rows, whose lift is mostly chance."""
    kept = curve.x >= 0.01
    return Curve(curve.x[kept], curve.y[kept])


def _table(curves: Mapping[str, Curve], x: str, grid: np.ndarray = _GRID) -> Table:
    """Values on a grid, between points on a straight line."""
    columns = [np.interp(grid, curve.x, curve.y) for curve in curves.values()]
    rows = [[f"{at:g}", *map(float, values)] for at, *values in zip(grid, *columns, strict=True)]
    return Table([x, *curves], rows)
