"""What each field is worth to a model: how much worse it is without what the field says."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepfm.errors import cut
from deepfm.evaluation.permutation import Importance
from deepfm.report.drawing import INK, colour, drawn
from deepfm.report.panel import Panel
from deepfm.report.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 25  # fields in a chart; the table has all


def importance_panel(found: Sequence[Importance], figure: str, rows: int, *, name: str) -> Panel:
    """A bar per field, the most important one first, with the spread over shuffles.

    Args:
        figure: What is lost, in words.
        rows: How many were looked at.
    """
    drawn_ones = found[:_MOST]
    place = np.arange(len(drawn_ones))[::-1]

    def paint(axes: "list[Axes]") -> None:
        (axis,) = axes
        means = [one.mean for one in drawn_ones]
        axis.barh(place, means, height=0.6, color=colour(0))
        axis.hlines(
            place,
            [one.mean - one.deviation for one in drawn_ones],
            [one.mean + one.deviation for one in drawn_ones],
            color=INK,
            linewidth=1.2,
        )
        axis.axvline(0, color=INK, linewidth=0.8)
        axis.set_yticks(place, [cut(one.column, 18) for one in drawn_ones])
        axis.set_ylim(-0.6, len(drawn_ones) - 0.4)
        axis.set_xlabel(f"loss of {figure}")
        axis.locator_params(axis="x", nbins=4)

    height = max(145, 70 + 22 * len(drawn_ones))
    return Panel(
        "Permutation importance",
        f"How much worse {figure} gets on {rows:,} rows when the field's values stand in other "
        f"rows, mean of {len(found[0].losses)} shuffles; the thin line is one standard deviation. "
        "One field far ahead of all may give the label away; a field at zero may be left out. Two "
        "fields that say the same share their importance.",
        Table(
            ["field", f"loss of {figure}", "deviation"],
            [[o.column, o.mean, o.deviation] for o in found],
        ),
        drawn(
            name,
            f"Loss of {figure} by field, the largest of {found[0].column}",
            paint,
            left=0.38,
            bottom=48 / height,
            height=height,
        ),
    )
