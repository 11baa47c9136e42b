"""The bar chart of a run: training rows per second, one panel per workload."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from report import FLOOR, OURS, REFERENCE, Engine, Panel

_COLOURS = {OURS: "#1f6fb4", REFERENCE: "#d9d9d9"}
_PEER_COLOUR = "#9a9a9a"


def draw(panels: Sequence[Panel], path: Path, *, caption: str) -> None:
    """Writes a PNG; ours is coloured, the floor is a dashed line, a failed engine has no bar."""
    heights = [1.1 + 0.36 * len(_bars(panel)) for panel in panels]
    figure = Figure(figsize=(9, sum(heights) + 0.5), layout="constrained", dpi=130)
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        _draw_panel(axis, panel)
    figure.supxlabel(caption, fontsize=8, color="#555555")
    figure.savefig(path)


def _bars(panel: Panel) -> list[Engine]:
    """The engines, slowest first: the axis begins at the bottom."""
    engines = [engine for engine in panel.engines if engine.role != FLOOR]
    return sorted(engines, key=lambda engine: engine.train.median if engine.train else 0.0)


def _draw_panel(axis: "matplotlib.axes.Axes", panel: Panel) -> None:
    bars = _bars(panel)
    floor = next((e.train.median for e in panel.engines if e.role == FLOOR and e.train), None)
    widest = max([floor or 0.0, *(engine.train.high for engine in bars if engine.train)])
    for position, engine in enumerate(bars):
        if engine.train is None:
            axis.text(0, position, " failed", va="center", fontsize=8, color="#b00020")
            continue
        median, low, high = engine.train
        axis.barh(position, median, color=_COLOURS.get(engine.role, _PEER_COLOUR), height=0.72)
        axis.hlines(position, low, high, color="black", linewidth=1)
        axis.text(
            max(median, high) + widest * 0.01,
            position,
            _label(engine),
            va="center",
            fontsize=8,
            fontweight="bold" if engine.role == OURS else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            zorder=3,
        )
    names = [f"{e.name} (reference)" if e.role == REFERENCE else e.name for e in bars]
    axis.set_yticks(range(len(bars)), names, fontsize=8)
    for label, engine in zip(axis.get_yticklabels(), bars, strict=True):
        label.set_fontweight("bold" if engine.role == OURS else "normal")
    if floor is not None:
        axis.axvline(floor, color="#c0392b", linestyle="--", linewidth=1.2, zorder=1)
        axis.text(
            floor,
            len(bars) - 0.45,
            f" floor: matrix products alone, {floor:,.0f} ",
            color="#c0392b",
            fontsize=8,
            ha="right" if floor > widest * 0.6 else "left",
            va="bottom",
        )
    axis.set_xlim(0, widest * 1.22)
    axis.set_ylim(-0.6, len(bars) + 0.1)
    axis.set_title(
        f"{panel.workload}: training rows/s, {panel.threads} thread{'s' * (panel.threads > 1)}",
        loc="left",
        fontsize=10,
    )
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _label(engine: Engine) -> str:
    ratio = engine.train_quotients.of_best_peer
    times = "" if ratio is None or engine.role != OURS else f"  ({ratio:.1f} x best peer)"
    return f"{engine.train.median:,.0f}{times}"
