"""AUC and calibration of parts of the rows: by values of a field, and by how common its ids are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepfm.errors import cut
from deepfm.evaluation.segments import SegmentFigures
from deepfm.report.drawing import HEIGHT, INK, colour, drawn
from deepfm.report.panel import Panel
from deepfm.report.table import Table, interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABEL = 15  # characters of a segment's name beside a chart
_ROW = 24  # pixels


def segment_panel(
    title: str, hint: str, found: Sequence[SegmentFigures], overall: float | None, *, name: str
) -> Panel:
    """AUC at the left, predicted and observed share of positives at the right, a line each."""
    place = np.arange(len(found))[::-1]

    def paint(axes: "list[Axes]") -> None:
        left, right = axes
        if overall is not None:
            left.axvline(overall, color=INK, linewidth=0.8)
        for y, one in zip(place, found, strict=True):
            if one.auc is not None and one.auc_low is not None and one.auc_high is not None:
                left.plot([one.auc_low, one.auc_high], [y, y], color=colour(0), linewidth=1.4)
                left.plot([one.auc], [y], "o", color=colour(0))
            right.plot(
                [one.observed_low, one.observed_high], [y, y], color=colour(1), linewidth=1.4
            )
            right.plot([one.observed], [y], "o", color=colour(1))
            if one.predicted is not None:
                right.plot([one.predicted], [y - 0.22], "D", color=colour(2), markersize=5)
        left.set_yticks(place, [cut(one.name, _LABEL) for one in found])
        left.set_ylim(-0.6, len(found) - 0.4)
        left.set_xlabel("AUC")
        right.set_xlabel("positives")
        right.tick_params(labelleft=False)
        for axis in axes:
            axis.locator_params(axis="x", nbins=3)
            axis.margins(x=0.12)

    rows = [
        [
            one.name,
            one.rows,
            one.positives,
            one.auc,
            interval(one.auc_low, one.auc_high),
            one.predicted,
            one.observed,
            interval(one.observed_low, one.observed_high),
        ]
        for one in found
    ]
    head = [
        "segment", "rows", "positives", "AUC", "95 % interval", "predicted", "observed",
        "95 % interval",
    ]  # fmt: skip
    height = max(HEIGHT // 2, 70 + _ROW * len(found))
    chart = drawn(
        name,
        f"AUC, and predicted and observed share of positives, {title}",
        paint,
        columns=2,
        left=0.33,
        bottom=48 / height,
        height=height,
        share_y=True,
    )
    series = {"AUC": "dot", "observed share of positives": "dot"}
    if any(one.predicted is not None for one in found):
        series["mean predicted probability"] = "diamond"
    return Panel(title, hint, Table(head, rows), chart, list(series), list(series.values()))
