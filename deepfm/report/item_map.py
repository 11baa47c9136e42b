"""The table of items in two dimensions: what a model takes for alike lies close together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepfm.errors import cut
from deepfm.report.drawing import INK, WIDTH, colour, drawn
from deepfm.report.panel import Panel
from deepfm.report.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ITEMS = 300
_NAMED = 7  # titles written beside points: of the most frequent items that have room
_ROOM = 0.07  # of the height, which a title needs for itself


class Items(NamedTuple):
    """Items of a table, the most frequent ones first.

    Attributes:
        titles: What people call them, (I,).
        rows: Training rows of each, (I,).
        vectors: Of the table, (I, D).
    """

    titles: Sequence[str]
    rows: NDArray[np.int64]
    vectors: NDArray[np.float64]


class Flat(NamedTuple):
    """Vectors in two dimensions.

    Attributes:
        places: (I, 2).
        kept: Share of the variance that these two hold.
    """

    places: NDArray[np.float64]
    kept: float


def flattened(vectors: NDArray[np.float64]) -> Flat:
    """The two principal components of vectors, (I, D), the sign such that the largest is positive.

    Source: K. Pearson, "On Lines and Planes of Closest Fit to Systems of Points in Space",
    Philosophical Magazine 2, 1901.
    """
    centred = vectors - vectors.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(vectors), 2))
    count = min(2, left.shape[1])
    places[:, :count] = left[:, :count] * sizes[:count]
    largest = np.abs(places).argmax(axis=0)
    places *= np.where(places[largest, [0, 1]] < 0, -1.0, 1.0)
    total = float(np.square(sizes).sum())
    return Flat(places, float(np.square(sizes[:2]).sum()) / total if total else 0.0)


def nearest_items(vectors: NDArray[np.float64], count: int = 3) -> NDArray[np.int64]:
    """The items whose vectors have the smallest angle to each, the nearest first, (I, count)."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    count = min(count, len(vectors) - 1)
    return np.argsort(-likeness, axis=1, kind="stable")[:, :count]


def item_map(items: Items, of_items: int, *, name: str) -> Panel:
    """A point per item, the larger the more training rows it has.

    Args:
        of_items: How many the table has.
    """
    flat = flattened(items.vectors)
    x, y = flat.places.T
    named = _with_room(flat.places)

    def paint(axes: "list[Axes]") -> None:
        (axis,) = axes
        size = 8 + 60 * items.rows / max(1, items.rows.max())
        axis.scatter(x, y, s=size, color=colour(0), alpha=0.6, linewidths=0, gid="points")
        middle = (x.min() + x.max()) / 2
        for k in named:
            is_left = x[k] < middle
            axis.annotate(
                cut(items.titles[k], 20),
                (x[k], y[k]),
                xytext=(5 if is_left else -5, 0),
                textcoords="offset points",
                ha="left" if is_left else "right",
                va="center",
                fontsize=9,
                color=INK,
            )
        axis.set(xlabel="first component", ylabel="second component")
        axis.locator_params(nbins=4)
        axis.margins(0.08)

    alike = nearest_items(items.vectors)
    rows = [
        [title, int(count), *map(float, place), ", ".join(items.titles[k] for k in others)]
        for title, count, place, others in zip(
            items.titles, items.rows, flat.places, alike, strict=True
        )
    ]
    some = (
        f"The {len(items.titles):,} most frequent of {of_items:,} items"
        if (len(items.titles) < of_items)
        else f"All {of_items:,} items"
    )
    return Panel(
        "Map of items",
        f"{some}, larger with more training rows; the two axes hold {flat.kept:.0%} of what "
        "differs. Neighbours should have something in common; the table names those of each item "
        "in all dimensions. A ray of rare items from the middle is noise.",
        Table(["item", "training rows", "first", "second", "most alike"], rows),
        drawn(
            name,
            f"Map of {len(items.titles)} items by the first two principal components",
            paint,
            left=0.16,
            bottom=0.14,
            height=WIDTH,
            tips={
                "points": [
                    f"{t}: {int(n):,} rows" for t, n in zip(items.titles, items.rows, strict=True)
                ]
            },
        ),
    )


def _with_room(places: NDArray[np.float64]) -> list[int]:
    """Of the first items those that stand in a row of their own, so that titles do not overlap."""
    span = max(float(np.ptp(places[:, 1])), 1e-12)
    found: list[int] = []
    for k in range(len(places)):
        if all(abs(places[k, 1] - places[other, 1]) > _ROOM * span for other in found):
            found.append(k)
        if len(found) == _NAMED:
            break
    return found
