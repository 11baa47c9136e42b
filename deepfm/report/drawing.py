"""Charts as SVG within a page: matplotlib draws, a style sheet gives the colours.

Decided here: a figure is drawn in stand-in colours, each of which becomes a class, so that one
drawing suits light, dark and paper. Style attributes, which the policy of the page forbids, become
attributes of their own. Texts stay texts and are never read as formulas.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from deepfm.report.html import Markup, element, text
from deepfm.utils.extras import needed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 380, 290  # of a chart, in the pixels of a page
NUM_SERIES = 8  # colours; more than that begin again with another dash
INK, MUTED, GRID = "#010101", "#020202", "#030303"
_CLASSES = {INK: "ink", MUTED: "muted", GRID: "grid"}
_CLASSES |= {f"#0a0a{k:02x}": f"series-{k}" for k in range(NUM_SERIES)}
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_SETTINGS = {
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.size": 11,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "svg.fonttype": "none",  # texts are the browser's
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 10,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 10,
}
_DROPPED = {"metadata", "style"}
_NO_ATTRIBUTES = {"font-family", "font-style", "font-weight", "font-stretch", "font-variant"}
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def colour(series: int) -> str:
    """The stand-in colour of a series."""
    return f"#0a0a{series % NUM_SERIES:02x}"


def dash(series: int) -> Any:
    """Its line style, which tells series apart where colours do not."""
    return _DASHES[series % len(_DASHES)]


def drawn(
    name: str,
    described: str,
    paint: "Callable[[list[Axes]], None]",
    *,
    columns: int = 1,
    left: float = 0.15,
    bottom: float = 0.17,
    height: int = HEIGHT,
    share_y: bool = False,
    tips: Mapping[str, Sequence[str]] | None = None,
) -> Markup:
    """One chart.

    Args:
        name: Distinct within a page; letters, digits and hyphens.
        described: What it shows, for those who do not see it.
        paint: Draws into the axes, one per column.
        columns: Axes side by side.
        left, bottom: Share of the chart that labels take.
        height: In pixels.
        share_y: Whether the columns have one vertical axis.
        tips: What points say when a pointer rests on them: texts of the points of a collection,
            by its `gid`.
    """
    matplotlib = needed("matplotlib", extra="report", wanted_by="deepfm report")
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    written = io.BytesIO()
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        axes = figure.subplots(1, columns, squeeze=False, sharey=share_y)
        figure.subplots_adjust(left=left, bottom=bottom, right=0.965, top=0.96, wspace=0.12)
        paint(list(axes[0]))
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas: Any = FigureCanvasSVG(figure)  # without types
        canvas.print_svg(written, metadata=empty)
    root = ElementTree.fromstring(written.getvalue())
    return _Page(name, root, tips or {}).markup(described, height)


class _Page:
    """What matplotlib wrote, as a part of a page."""

    def __init__(
        self, name: str, root: ElementTree.Element, tips: Mapping[str, Sequence[str]]
    ) -> None:
        self._name, self._root, self._tips = name, root, tips
        self._known: set[str] = set()
        for node in root.iter():
            for key, value in node.attrib.items():
                self._known |= set(_REFERENCE.findall(value))
                if key.endswith("href"):
                    self._known.add(value.removeprefix("#"))

    def markup(self, described: str, height: int) -> Markup:
        children = [self._converted(child, iter(())) for child in self._root]
        return element(
            "svg",
            *children,
            attributes={
                "class": "chart",
                "role": "img",
                "aria-label": described,
                "viewBox": f"0 0 {WIDTH} {height}",
                "width": WIDTH,
                "height": height,
                "stroke-linejoin": "round",
                "stroke-linecap": "butt",
            },
        )

    def _converted(self, node: ElementTree.Element, tips: Any) -> Markup:
        """A node with what is below it; points take the next of the tips that there are."""
        tag = node.tag.rpartition("}")[2]
        if tag in _DROPPED:
            return Markup()
        if (own := self._tips.get(node.get("id", ""))) is not None:
            tips = iter(own)
        attributes, classes = self._attributes(node)
        if classes:
            attributes["class"] = " ".join(sorted(classes))
        children = [self._converted(child, tips) for child in node]
        is_shape = tag == "use" or (tag == "path" and node.get("id") is None)
        if is_shape and (tip := next(tips, None)) is not None:
            children.append(element("title", tip))
        if tag == "g" and not attributes:  # says nothing
            return Markup("".join(children))
        if node.text and node.text.strip():
            children.insert(0, text(node.text))
        if tag == "defs" and not any(children):
            return Markup()
        return element(tag, *children, attributes=attributes)

    def _attributes(self, node: ElementTree.Element) -> tuple[dict[str, object], set[str]]:
        found: dict[str, object] = {}
        classes: set[str] = set()
        for name, value in node.attrib.items():
            key = name.rpartition("}")[2]
            if key == "style":
                for part in filter(None, map(str.strip, value.split(";"))):
                    what, _, setting = (piece.strip() for piece in part.partition(":"))
                    if setting in _CLASSES and what in ("fill", "stroke"):
                        classes.add(f"{what}-{_CLASSES[setting]}")
                    elif what not in _NO_ATTRIBUTES:
                        found[what] = self._linked(setting)
            elif key == "id":
                if value in self._known:
                    found["id"] = f"{self._name}-{value}"
            elif key == "href":
                found["href"] = f"#{self._name}-{value.removeprefix('#')}"
            elif key == "transform" and value.startswith("rotate(-0 "):
                continue
            elif key == "d":
                found["d"] = _rounded(" ".join(value.split()))
            else:
                found[key] = self._linked(_rounded(value))
        return found, classes

    def _linked(self, value: str) -> str:
        return _REFERENCE.sub(rf"url(#{self._name}-\1)", value)


def _rounded(value: str) -> str:
    """Coordinates to a hundredth of a pixel.

    Example:
        >>> _rounded("M 1.23456 7.5 L -0.001 3")
        'M 1.23 7.5 L 0 3'
    """
    return _LONG_NUMBER.sub(lambda found: f"{round(float(found[0]), 2) + 0.0:g}", value)
