"""A panel: a chart with a sentence on what to look for and the table behind it."""

from collections.abc import Sequence
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
        series: Names of what is drawn, in the order of the colours; one needs no key.
    """

    title: str
    hint: str
    table: Table
    chart: Markup | None = None
    series: Sequence[str] = ()

    def markup(self) -> Markup:
        """The panel as a figure, or as a section where nothing is drawn."""
        if self.chart is None:
            parts = [element("h3", self.title), element("p", self.hint)] if self.title else []
            return element("section", *parts, self.table.markup(self.title or self.hint))
        behind = element(
            "details",
            element("summary", "Numbers of ", self.title),
            self.table.markup(self.title),
        )
        head = element("figcaption", element("h3", self.title), element("p", self.hint))
        return element("figure", head, self.chart, self._key(), behind)

    def _key(self) -> Markup:
        """What each colour and dash stands for."""
        if len(self.series) < 2:
            return Markup()
        items = [element("li", _sample(place), name) for place, name in enumerate(self.series)]
        return element("ul", joined(items), attributes={"class": "key"})


_SAMPLES = (None, "5 2", "1.5 1.5", "6 2 1.5 2")  # dashes, as the charts have them


def _sample(series: int) -> Markup:
    line = element(
        "path",
        attributes={
            "d": "M0 5H26",
            "class": f"stroke-series-{series % NUM_SERIES}",
            "stroke-width": 2,
            "stroke-dasharray": _SAMPLES[series % len(_SAMPLES)],
        },
    )
    return element("svg", line, attributes={"viewBox": "0 0 26 10", "aria-hidden": "true"})
