"""Where held-out positives stand among their candidates, over the length of the list."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepfm.evaluation.bootstrap import affordable_samples, bootstrap_mean
from deepfm.evaluation.ranking import RankCounts, hit_rate, ndcg
from deepfm.report.drawing import MUTED, colour, dash, drawn
from deepfm.report.panel import Panel
from deepfm.report.table import Table, interval, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LENGTHS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50)
_METRICS: tuple[tuple[str, Callable[[RankCounts, int], NDArray[np.float64]]], ...] = (
    ("HR", hit_rate),
    ("NDCG", ndcg),
)


def ranking(
    runs: Mapping[str, RankCounts],
    references: Mapping[str, RankCounts],
    *,
    num_negatives: int,
    prefix: str,
) -> list[Panel]:
    """HR@K and NDCG@K over K, of runs and of simple methods on the same candidates."""
    lengths = [k for k in LENGTHS if k <= num_negatives]
    found = []
    for name, metric in _METRICS:
        curves = {
            title: [float(metric(counts, k).mean()) for k in lengths]
            for title, counts in {**runs, **references}.items()
        }
        users = len(next(iter(runs.values())).above)
        found.append(
            Panel(
                f"{name}@K among {num_negatives:,} others",
                f"{_said(runs, name, metric)} over {users:,} held-out positives (95 % interval). "
                + _WHAT[name]
                + (" Thin lines are simple methods." if references else ""),
                Table(
                    ["method", *(f"K = {k}" for k in lengths)],
                    [[title, *values] for title, values in curves.items()],
                ),
                drawn(
                    f"{prefix}-{name.lower()}",
                    f"{name}@K over K. {_said(runs, name, metric)}",
                    _painter(lengths, curves, len(runs)),
                ),
                list(curves) if len(curves) <= 8 else list(curves)[:8],
            )
        )
    return found


_WHAT = {
    "HR": "How often the positive is among the first K.",
    "NDCG": "The same, where a place further up counts more.",
}


def _said(
    runs: Mapping[str, RankCounts],
    name: str,
    metric: Callable[[RankCounts, int], NDArray[np.float64]],
) -> str:
    parts = []
    for run, counts in runs.items():
        values = metric(counts, 10)
        ends = bootstrap_mean(values, samples=affordable_samples(len(values)))
        parts.append(
            f"{run}: {name}@10 {shown(float(values.mean()))} {interval(*ends or (None,) * 2)}"
        )
    return "; ".join(parts)


def _painter(
    lengths: list[int], curves: Mapping[str, list[float]], runs: int
) -> "Callable[[list[Axes]], None]":
    def paint(axes: "list[Axes]") -> None:
        (axis,) = axes
        for place, values in enumerate(curves.values()):
            is_run = place < runs
            axis.plot(
                lengths,
                values,
                color=colour(place),
                linestyle=dash(place),
                linewidth=2.2 if is_run else 1.1,
                marker="o" if is_run else None,
            )
        axis.axhline(0, color=MUTED, linewidth=0.8)
        axis.set_xscale("log")
        shown_at = [k for k in (1, 2, 5, 10, 20, 50) if k in lengths]
        axis.set_xticks(shown_at, [str(k) for k in shown_at])
        axis.minorticks_off()
        axis.set(xlabel="K", ylim=(0, None))
        axis.locator_params(axis="y", nbins=5)

    return paint
