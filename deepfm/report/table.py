"""Tables of numbers: the one behind each chart, and those that stand for themselves."""

from collections.abc import Sequence
from typing import NamedTuple

from deepfm.report.html import Markup, element, joined

MOST_ROWS = 300  # of one table, so that a page stays small


class Table(NamedTuple):
    """A head and rows; the first cell of each row is its name.

    Attributes:
        head: Of each column.
        rows: Cells, text or numbers.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[object]]

    def markup(self, caption: str) -> Markup:
        """The table, in a frame that scrolls on its own where it is wider than the page."""
        head = joined(element("th", cell, attributes={"scope": "col"}) for cell in self.head)
        body = []
        for first, *others in self.rows[:MOST_ROWS]:
            name = element("th", shown(first), attributes={"scope": "row"})
            body.append(element("tr", name, joined(element("td", shown(v)) for v in others)))
        table = element(
            "table",
            element("caption", caption),
            element("thead", element("tr", head)),
            element("tbody", joined(body)),
        )
        frame: dict[str, object] = {
            "class": "frame", "tabindex": 0, "role": "region", "aria-label": caption
        }  # fmt: skip
        return element("div", table, attributes=frame)


def shown(value: object) -> str:
    """A cell: whole numbers with commas, others with four digits that count, None as a dash.

    Example:
        >>> shown(12345), shown(0.123456), shown(None), shown("a"), shown(1234.5), shown(2e-7)
        ('12,345', '0.1235', '-', 'a', '1,234', '2e-07')
    """
    if value is None:
        return "-"
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return str(value)
    if isinstance(value, int) or hasattr(value, "__index__"):
        return f"{int(value):,}"
    number = float(value)
    if number != number:
        return "-"
    if abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{number:.4f}" if number == 0 or abs(number) >= 0.001 else f"{number:.2g}"


def p_value(p: float) -> str:
    """A probability as a cell.

    Example:
        >>> p_value(0.03125), p_value(1e-9)
        ('0.0312', '< 0.0001')
    """
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def interval(low: float | None, high: float | None) -> str:
    """A 95 % interval as a cell.

    Example:
        >>> interval(0.25, 0.5), interval(None, None)
        ('[0.2500, 0.5000]', '-')
    """
    return "-" if low is None or high is None else f"[{shown(low)}, {shown(high)}]"
