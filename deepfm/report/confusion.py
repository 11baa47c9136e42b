"""Which of several classes is taken for which."""

from typing import TYPE_CHECKING

import numpy as np

from deepfm.errors import cut
from deepfm.report.drawing import WIDTH, colour, drawn
from deepfm.report.panel import Panel
from deepfm.report.scores import TaskScores
from deepfm.report.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 12  # classes that a chart has room for: the most frequent ones


def confusion(scores: TaskScores, *, name: str) -> Panel:
    """Shares of each class that are predicted as each class, a row per true class."""
    count = scores.predicted.shape[1]
    label, taken = scores.label.astype(np.int64), scores.predicted.argmax(axis=1)
    table = np.bincount(label * count + taken, minlength=count * count).reshape(count, count)
    rows = table.sum(axis=1)
    kept = np.sort(np.argsort(-rows, kind="stable")[:_MOST])
    names = [str(one) for one in (scores.classes or range(count))]
    shares = table / np.maximum(rows, 1)[:, None]

    def paint(axes: "list[Axes]") -> None:
        (axis,) = axes
        for y, true in enumerate(kept):
            for x, predicted in enumerate(kept):
                share = float(shares[true, predicted])
                axis.fill([x, x + 1, x + 1, x], [y, y, y + 1, y + 1], color=colour(0), alpha=share)
        middle = np.arange(len(kept)) + 0.5
        axis.set_xticks(middle, [cut(names[k], 12) for k in kept], rotation=90)
        axis.set_yticks(middle, [cut(names[k], 12) for k in kept])
        axis.set(xlim=(0, len(kept)), ylim=(len(kept), 0), xlabel="predicted", ylabel="true")
        axis.grid(False)
        axis.tick_params(length=0)

    accuracy = float((label == taken).mean())
    return Panel(
        "Confusion of classes",
        f"Accuracy {accuracy:.4f}. Each row is a true class, and its squares are the shares that "
        "are predicted as each class: the diagonal should be dark.",
        Table(
            ["true class", "rows", *names],
            [[names[k], int(rows[k]), *map(float, shares[k])] for k in range(count)],
        ),
        drawn(
            name,
            f"Confusion of {count} classes, accuracy {accuracy:.4f}",
            paint,
            left=0.29,
            bottom=0.29,
            height=WIDTH,
        ),
    )
