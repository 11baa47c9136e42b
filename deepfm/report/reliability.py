"""Whether probabilities fit what happens."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from deepfm.evaluation.calibration_figures import (
    BINS,
    calibration_noise,
    expected_calibration_error,
    probability_of,
)
from deepfm.evaluation.curves import reliability as bins_of
from deepfm.report.drawing import MUTED, colour, dash, drawn
from deepfm.report.panel import Panel
from deepfm.report.scores import TaskScores
from deepfm.report.table import Table, interval, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def reliability(series: Mapping[str, TaskScores], *, name: str) -> Panel | None:
    """Observed over predicted shares of positives; None where nothing is a probability."""
    found, said, corrected = {}, [], False
    for run, scores in series.items():
        if scores.logit is None:
            continue
        corrected |= scores.is_corrected
        probability = probability_of(scores.logit)
        found[run] = bins_of(scores.label, probability, bins=BINS)
        error = expected_calibration_error(scores.label, probability)
        noise = calibration_noise(scores.logit)
        said.append(f"{run}: ECE {shown(error)}, of noise alone {shown(noise)}")
    if not found:
        return None

    def paint(axes: "list[Axes]") -> None:
        (axis,) = axes
        axis.plot([0, 1], [0, 1], color=MUTED, linewidth=1)
        for place, bins in enumerate(found.values()):
            axis.vlines(bins.predicted, bins.low, bins.high, color=colour(place), linewidth=1)
            axis.plot(
                bins.predicted,
                bins.observed,
                color=colour(place),
                linestyle=dash(place),
                marker="o",
            )
        top = max(max(bins.predicted.max(), bins.high.max()) for bins in found.values())
        axis.set(xlim=(0, min(1.02, top * 1.05)), ylim=(0, min(1.02, top * 1.05)))
        axis.set(xlabel="predicted probability", ylabel="share of positives")
        axis.locator_params(nbins=5)

    rows = [
        [f"{run}, bin {k + 1}", int(rows), p, o, interval(low, high)]
        for run, bins in found.items()
        for k, (p, o, low, high, rows) in enumerate(
            zip(bins.predicted, bins.observed, bins.low, bins.high, bins.rows, strict=True)
        )
    ]
    after = " After the prior correction for sampled negatives." if corrected else ""
    return Panel(
        "Calibration",
        f"{'; '.join(said)}.{after} Points below the line are predicted too high, above it too "
        "low; deepfm calibrate mends a bend.",
        Table(["bin", "rows", "predicted", "observed", "95 % interval"], rows),
        drawn(name, f"Observed over predicted share of positives. {'; '.join(said)}", paint),
        list(found),
    )


def numbers(series: Mapping[str, TaskScores], *, name: str) -> Panel:
    """Means of predicted and true numbers, in bins of equally many rows by prediction."""
    found, said = {}, []
    for run, scores in series.items():
        order = np.argsort(scores.predicted, kind="stable")
        parts = [part for part in np.array_split(order, BINS) if len(part)]
        found[run] = [
            (len(p), float(scores.predicted[p].mean()), float(scores.label[p].mean()))
            for p in parts
        ]
        error = float(np.sqrt(np.square(scores.predicted - scores.label).mean()))
        said.append(f"{run}: RMSE {shown(error)}")

    def paint(axes: "list[Axes]") -> None:
        (axis,) = axes
        ends = [value for bins in found.values() for _, *pair in bins for value in pair]
        axis.plot([min(ends), max(ends)], [min(ends), max(ends)], color=MUTED, linewidth=1)
        for place, bins in enumerate(found.values()):
            axis.plot(
                [b[1] for b in bins],
                [b[2] for b in bins],
                color=colour(place),
                linestyle=dash(place),
                marker="o",
            )
        axis.set(xlabel="mean prediction", ylabel="mean of the label")
        axis.locator_params(nbins=5)

    rows = [
        [f"{run}, bin {k + 1}", *values]
        for run, bins in found.items()
        for k, values in enumerate(bins)
    ]
    return Panel(
        "Predicted and true numbers",
        f"{'; '.join(said)}. Points should lie on the line; below it predictions are too large.",
        Table(["bin", "rows", "mean prediction", "mean of the label"], rows),
        drawn(name, f"Mean label over mean prediction. {'; '.join(said)}", paint, left=0.19),
        list(found),
    )
