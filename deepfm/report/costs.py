"""What a run took: seconds per epoch, CPU and memory, weights and files."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from deepfm.report.drawing import colour, drawn
from deepfm.report.learning import History
from deepfm.report.panel import Panel
from deepfm.report.table import Table, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Costs(NamedTuple):
    """What a run took, as far as it is known.

    Attributes:
        parameters, table_parameters: Weights in all, and those of embedding tables.
        checkpoint: Bytes of `best_model.pt`.
        cpu_seconds, wall_seconds: Of the whole training process.
        peak_memory: Bytes.
    """

    parameters: int
    table_parameters: int
    checkpoint: int | None
    cpu_seconds: float | None
    wall_seconds: float | None
    peak_memory: int | None


def costs(runs: Mapping[str, tuple[History, Costs]], *, name: str) -> Panel:
    """Seconds per epoch of each run, and the rest in a table."""

    def paint(axes: "list[Axes]") -> None:
        (axis,) = axes
        for place, (history, _) in enumerate(runs.values()):
            pairs = [(e["epoch"], e["seconds"]) for e in history.entries if "seconds" in e]
            axis.plot([p[0] for p in pairs], [p[1] for p in pairs], "o-", color=colour(place))
        axis.set(xlabel="epoch", ylabel="seconds", ylim=(0, None))
        axis.locator_params(axis="x", integer=True, nbins=6)
        axis.locator_params(axis="y", nbins=5)
        axis.margins(0.06)

    per_epoch = {
        run: [e["seconds"] for e in history.entries if "seconds" in e]
        for run, (history, _) in runs.items()
    }
    rows: list[list[object]] = [
        ["epochs", *(len(history.entries) for history, _ in runs.values())],
        ["seconds of training", *(float(sum(seconds)) for seconds in per_epoch.values())],
        ["seconds of the process", *(one.wall_seconds for _, one in runs.values())],
        ["CPU seconds of the process", *(one.cpu_seconds for _, one in runs.values())],
        ["peak memory of the process", *(_size(one.peak_memory) for _, one in runs.values())],
        ["parameters", *(one.parameters for _, one in runs.values())],
        ["of these in tables", *(one.table_parameters for _, one in runs.values())],
        ["best_model.pt", *(_size(one.checkpoint) for _, one in runs.values())],
    ]
    return Panel(
        "Time and memory",
        "Seconds of each epoch, without the evaluation at its end. They should be about equal: a "
        "first one that takes longer reads its data from disk.",
        Table(["", *runs], rows),
        drawn(name, "Seconds of each epoch", paint, left=0.17),
        list(runs),
    )


def _size(count: int | None) -> str:
    """Bytes for people.

    Example:
        >>> _size(1536), _size(3 * 2**30), _size(None)
        ('1.5 KiB', '3.0 GiB', '-')
    """
    if count is None:
        return shown(None)
    size = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
