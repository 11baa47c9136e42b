"""A panel: a chart with a sentence on what to look for and the table behind it."""

from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from deepfm.report.drawing import NUM_SERIES
from deepfm.report.html import Markup, element, joined
from deepfm.report.table import Table


class Panel(NamedTuple):
    """One piece of a page.

    Attributes:
        title: Of the panel.
        hint: What to look for.
        table: Its numbers.
        chart: What is drawn of them; None: the table stands for itself.
        series: Names of what is drawn, in the order of the colours; one needs no key. An empty
            name keeps its colour and has no place in the key.
        marks: What stands for each of them: `dot`, `diamond`, `cross` or `line`; empty: lines, each
            with its dash.
    """

    title: str
    hint: str
    table: Table
    chart: Markup | None = None
    series: Sequence[str] = ()
    marks: Sequence[str] = ()

    def markup(self) -> Markup:
        """The panel as a figure, or as a section where nothing is drawn."""
        if self.chart is None:
            parts = [element("h3", self.title), element("p", self.hint)] if self.title else []
            return element("section", *parts, self.table.markup(self.title or self.hint))
        behind = element(
            "details",
            element("summary", "Numbers: ", self.title),
            self.table.markup(self.title),
        )
        head = element("figcaption", element("h3", self.title), element("p", self.hint))
        return element("figure", head, self.chart, self._key(), behind)

    def _key(self) -> Markup:
        """What each colour and dash stands for."""
        if sum(map(bool, self.series)) < 2:
            return Markup()
        samples = map(_mark, count(), self.marks) if self.marks else map(_line, count())
        items = [
            element("li", sample, name)
            for sample, name in zip(samples, self.series, strict=False)
            if name
        ]
        return element("ul", joined(items), attributes={"class": "key"})


_SAMPLES = (None, "5 2", "1.5 1.5", "6 2 1.5 2")  # dashes, as the charts have them


def _line(series: int) -> Markup:
    return _sample(
        "M0 5H26",
        {
            "class": f"stroke-series-{series % NUM_SERIES}",
            "stroke-width": 2,
            "stroke-dasharray": _SAMPLES[series % len(_SAMPLES)],
        },
    )


def _mark(series: int, shape: str) -> Markup:
    if shape == "line":
        return _sample("M0 5H26", {"class": f"stroke-series-{series}", "stroke-width": 2})
    return _sample(_SHAPES[shape], {"class": f"fill-series-{series % NUM_SERIES}"})


_SHAPES = {
    "dot": "M9 5a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
    "diamond": "M13 0L18 5L13 10L8 5Z",
    "cross": "M8 2L10 0L13 3L16 0L18 2L15 5L18 8L16 10L13 7L10 10L8 8L11 5Z",
}


def _sample(path: str, attributes: dict[str, object]) -> Markup:
    drawn = element("path", attributes={"d": path, **attributes})
    return element("svg", drawn, attributes={"viewBox": "0 0 26 10", "aria-hidden": "true"})
