"""Which pairs of fields a model makes interact, as a heat map."""

from typing import TYPE_CHECKING

import numpy as np

from deepfm.errors import cut
from deepfm.models.pair_strengths import PairStrengths
from deepfm.report.drawing import WIDTH, colour, drawn
from deepfm.report.panel import Panel
from deepfm.report.table import Table, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 16  # fields that a chart has room for: those with the strongest pairs
_TITLES = {
    "fm": "Strength of field pairs, FM",
    "fwfm": "Strength of field pairs, FwFM",
    "attention": "Attention between fields",
}
_HINTS = {
    "fm": "The mean size of the pair's term in the logit. A dark pair is where a combination says "
    "more than its two fields alone.",
    "fwfm": "The mean size of the pair's term in the logit, its learned weight included. A dark "
    "pair is where a combination says more than its two fields alone.",
    "attention": "How much the field of a row reads the one of a column in the first layer; a row "
    "adds up to 1. A dark column is a field that all others look at.",
}


def pairs_panel(found: PairStrengths, rows: int, *, name: str) -> Panel:
    """A square per pair, the darker the stronger."""
    strongest = np.argsort(-(found.matrix.sum(0) + found.matrix.sum(1)), kind="stable")[:_MOST]
    kept = np.sort(strongest)
    fields = [found.fields[k] for k in kept]
    matrix = found.matrix[np.ix_(kept, kept)]
    top = float(matrix.max()) or 1.0
    tips = [
        f"{row} x {column}: {shown(float(value))}"
        for row, values in zip(fields, matrix, strict=True)
        for column, value in zip(fields, values, strict=True)
    ]

    def paint(axes: "list[Axes]") -> None:
        from matplotlib.collections import PolyCollection
        from matplotlib.colors import to_rgba

        (axis,) = axes
        corners = [
            [(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)]
            for y in range(len(fields))
            for x in range(len(fields))
        ]
        shades = [to_rgba(colour(0), float(value) / top) for value in matrix.ravel()]
        axis.add_collection(PolyCollection(corners, facecolors=shades, gid="cells"))
        middle = np.arange(len(fields)) + 0.5
        names = [cut(field, 13) for field in fields]
        axis.set_xticks(middle, names, rotation=90)
        axis.set_yticks(middle, names)
        axis.set(xlim=(0, len(fields)), ylim=(len(fields), 0))
        axis.grid(False)
        axis.tick_params(length=0)

    left_out = len(found.fields) - len(fields)
    note = f" {left_out} fields with weaker pairs are in the table only." if left_out else ""
    return Panel(
        _TITLES[found.part],
        f"{_HINTS[found.part]} Means over {rows:,} rows.{note}",
        _table(found),
        drawn(
            name,
            f"{_TITLES[found.part]}: {len(fields)} fields",
            paint,
            left=0.29,
            bottom=0.29,
            height=WIDTH,
            tips={"cells": tips},
        ),
    )


def _table(found: PairStrengths) -> Table:
    """The pairs, the strongest first."""
    count = len(found.fields)
    if found.part == "attention":
        places = [(i, j) for i in range(count) for j in range(count)]
    else:
        places = [(i, j) for i in range(count) for j in range(i + 1, count)]
    places.sort(key=lambda pair: -found.matrix[pair])
    arrow = " reads " if found.part == "attention" else " x "
    rows = [
        [f"{found.fields[i]}{arrow}{found.fields[j]}", float(found.matrix[i, j])] for i, j in places
    ]
    return Table(["pair", "strength"], rows)
