"""What Python gets back from a run: small objects that print as a table, here and in a notebook.

Each has its figures as plain data, and `plot` draws them with matplotlib, which the extra
`report` installs.
"""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from deepfm.evaluation.permutation import Importance
from deepfm.utils.extras import needed

Cells = Sequence[Sequence[str]]  # rows of a table, the first of which is its head
_NOT_DRAWN = ("epoch", "lr", "lr_sparse", "seconds", "evaluations")


class Shown:
    """Prints as a title with a table below it."""

    def _title(self) -> str:
        raise NotImplementedError

    def _cells(self) -> Cells:
        raise NotImplementedError

    def __repr__(self) -> str:
        cells = self._cells()
        widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
        lines = [
            "  ".join(
                cell.rjust(width) if place else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        return "\n".join([self._title(), *lines])

    def _repr_html_(self) -> str:
        head, *rows = self._cells()
        titles = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        caption = html.escape(self._title()).replace("\n", "<br>")
        return (
            f"<table><caption>{caption}</caption><thead><tr>{titles}</tr></thead>"
            f"<tbody>{body}</tbody></table>"
        )


@dataclass(frozen=True, repr=False)
class Evaluated(Shown):
    """The figures of a model on held-out rows.

    Attributes:
        name: Of what was evaluated.
        metrics: By split, as `metrics.json` has them.
    """

    name: str
    metrics: Mapping[str, Any]

    def plot(self, ax: Any = None) -> Any:
        """Draw each figure between 0 and 1 with its interval, and return the axes."""
        ax = _axes(ax)
        splits = self._splits()
        names = _figures_of(splits)
        drawn = [
            name
            for name in names
            if all(_is_share(of.get(name)) for of in splits.values() if of.get(name) is not None)
        ]
        for place, (split, of) in enumerate(splits.items()):
            points = [
                (row + 0.15 * place, of[name], of.get(f"{name}_interval"))
                for row, name in enumerate(drawn)
                if of.get(name) is not None
            ]
            rows, values = [row for row, _, _ in points], [value for _, value, _ in points]
            (line,) = ax.plot(values, rows, "o", label=split)
            for row, _, interval in points:
                if interval is not None:
                    ax.hlines(row, *interval, color=line.get_color())
        ax.set_yticks(range(len(drawn)), drawn)
        ax.invert_yaxis()
        ax.legend()
        return ax

    def _splits(self) -> dict[str, dict[str, Any]]:
        return {
            split: _flat(of)
            for split, of in self.metrics.items()
            if split not in ("data", "protocol")
        }

    def _title(self) -> str:
        return self.name

    def _cells(self) -> Cells:
        splits = self._splits()
        rows = [
            [name, *(_cell(of.get(name), of.get(f"{name}_interval")) for of in splits.values())]
            for name in _figures_of(splits)
        ]
        return [["", *splits], *rows]


@dataclass(frozen=True, repr=False)
class TrainedRun(Evaluated):
    """A finished run.

    Attributes:
        path: Its directory.
        history: A row per epoch.
    """

    path: Path = Path()
    history: pa.Table = field(default_factory=lambda: pa.table({}))

    @property
    def checkpoint(self) -> Path:
        """The weights that the run ended with, and all that prediction needs."""
        return self.path / "best_model.pt"

    def plot(self, ax: Any = None) -> Any:
        """Draw the figures of each epoch, and return the axes."""
        ax = _axes(ax)
        epochs = self.history["epoch"].to_pylist()
        for name in self.history.column_names:
            if name not in _NOT_DRAWN and pa.types.is_floating(self.history[name].type):
                ax.plot(epochs, self.history[name].to_pylist(), label=name)
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend()
        return ax


@dataclass(frozen=True, repr=False)
class Importances(Shown):
    """How much worse predictions are without each column, the most important one first.

    Attributes:
        figure: What grows worse: AUC falls, LogLoss and RMSE rise.
        rows: How many the figure is of.
        columns: What was found for each.
    """

    figure: str
    rows: int
    columns: tuple[Importance, ...]

    def __iter__(self) -> Iterator[Importance]:
        return iter(self.columns)

    @property
    def table(self) -> pa.Table:
        """`column`, `mean` and `deviation` over the shuffles."""
        return pa.table(
            {
                "column": [one.column for one in self.columns],
                "mean": [one.mean for one in self.columns],
                "deviation": [one.deviation for one in self.columns],
            }
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw a bar per column with its deviation, and return the axes."""
        ax = _axes(ax)
        names = [one.column for one in self.columns]
        means = [one.mean for one in self.columns]
        ax.barh(names, means, xerr=[one.deviation for one in self.columns])
        ax.invert_yaxis()
        ax.set_xlabel(f"loss of {self.figure} without the column")
        return ax

    def _title(self) -> str:
        return f"loss of {self.figure} without each column, {self.rows:,} rows"

    def _cells(self) -> Cells:
        rows = [[one.column, f"{one.mean:.4f}", f"{one.deviation:.4f}"] for one in self.columns]
        return [["", "mean", "deviation"], *rows]


def history_table(entries: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A row per epoch, with a column for whatever some epoch has."""
    names = dict.fromkeys(name for entry in entries for name in entry)
    return pa.table({name: [entry.get(name) for entry in entries] for name in names})


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    pyplot = needed("matplotlib.pyplot", extra="report", wanted_by="plot")
    return pyplot.subplots(layout="constrained")[1]


def _figures_of(splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The names of all figures, without those of intervals."""
    names = dict.fromkeys(name for of in splits.values() for name in of)
    return [name for name in names if not name.endswith("_interval")]


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested figures as one mapping, with dotted names."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        path = f"{prefix}{name}"
        found |= _flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return found


def _is_share(value: object) -> bool:
    return isinstance(value, float) and 0 <= value <= 1


def _cell(value: object, interval: Sequence[float] | None) -> str:
    """A figure with its interval, if it has one."""
    if value is None:
        return "-"
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text if interval is None else f"{text} [{interval[0]:.4f}, {interval[1]:.4f}]"
