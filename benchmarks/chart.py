"""The bar chart of a run: training rows per second, one panel per workload."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from figures import FLOOR, OURS, PEER, REFERENCE, Engine, Panel
from matplotlib.figure import Figure

_COLOURS = {
    (OURS, "fp32"): "#6aaed6",
    (OURS, "bf16"): "#1f5f9e",
    (PEER, "fp32"): "#b5b5b5",
    (PEER, "bf16"): "#7d7d7d",
    (REFERENCE, "fp32"): "#e3e3e3",
    (REFERENCE, "bf16"): "#d0d0d0",
}
_FLOOR_COLOURS = {"fp32": "#d9534f", "bf16": "#8e1b16"}


def draw(panels: Sequence[Panel], path: Path, *, caption: str) -> None:
    """Writes a PNG; ours is blue, darker in bfloat16, as the peers' greys are.

    A floor is a dashed line, a failed engine has no bar.
    """
    heights = [1.2 + 0.27 * len(_bars(panel)) for panel in panels]
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
    floors = {e.precision: e.train.median for e in panel.engines if e.role == FLOOR and e.train}
    widest = max([*floors.values(), *(engine.train.high for engine in bars if engine.train)])
    for position, engine in enumerate(bars):
        if engine.train is None:
            axis.text(0, position, " failed", va="center", fontsize=8, color="#b00020")
            continue
        median, low, high = engine.train
        axis.barh(position, median, color=_COLOURS[engine.role, engine.precision], height=0.76)
        axis.hlines(position, low, high, color="black", linewidth=1)
        axis.text(
            max(median, high) + widest * 0.01,
            position,
            _label(engine),
            va="center",
            fontsize=7.5,
            fontweight="bold" if engine.role == OURS else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            zorder=3,
        )
    axis.set_yticks(range(len(bars)), [_name(engine) for engine in bars], fontsize=7.5)
    for label, engine in zip(axis.get_yticklabels(), bars, strict=True):
        label.set_fontweight("bold" if engine.role == OURS else "normal")
    for line, (precision, floor) in enumerate(floors.items()):
        colour = _FLOOR_COLOURS[precision]
        axis.axvline(floor, color=colour, linestyle="--", linewidth=1.2, zorder=1)
        axis.text(
            floor,
            len(bars) - 0.45 + 0.6 * line,  # one above the other
            f" {precision} floor: matrix products alone, {floor:,.0f} ",
            color=colour,
            fontsize=7.5,
            ha="right" if floor > widest * 0.6 else "left",
            va="bottom",
        )
    axis.set_xlim(0, widest * 1.25)
    axis.set_ylim(-0.6, len(bars) - 0.4 + 0.6 * len(floors))
    axis.set_title(
        f"{panel.workload}: training rows/s, {panel.threads} thread{'s' * (panel.threads > 1)}",
        loc="left",
        fontsize=10,
    )
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _name(engine: Engine) -> str:
    less = " (learns less)" if engine.learns_less else ""
    return engine.name + less + (" (reference)" if engine.role == REFERENCE else "")


def _label(engine: Engine) -> str:
    ratio = engine.train_quotients.of_best_peer
    times = ""
    if ratio is not None and engine.role == OURS:
        times = f"  ({ratio:.2f} x the best {engine.precision} peer)"
    return f"{engine.train.median:,.0f}{times}"
