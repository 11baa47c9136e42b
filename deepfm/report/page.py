"""The page: sections of panels in one file that loads nothing and runs nothing."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from deepfm.report.html import Markup, element, joined
from deepfm.report.panel import Panel

_STYLE = Path(__file__).with_name("style.css")


class Section(NamedTuple):
    """Panels under one heading.

    Attributes:
        anchor: Its name in addresses; letters, digits and hyphens.
        title: The heading.
        intro: A sentence below it; may be empty.
        panels: In their order.
        folded: More panels, which are shown when a reader asks for them.
    """

    anchor: str
    title: str
    intro: str
    panels: Sequence[Panel]
    folded: Sequence[Panel] = ()


class Page(NamedTuple):
    """What a page says.

    Attributes:
        title: Of the window and of the page.
        lines: Verdicts, a sentence each.
        notes: What else to know first.
        sections: Those without panels are left out.
    """

    title: str
    lines: Sequence[str]
    notes: Sequence[str]
    sections: Sequence[Section]

    def document(self) -> str:
        """The HTML of the page.

        Its policy allows for nothing but the style sheet that stands in it, which it names by its
        hash: no script, image, frame, font, form or address of another place.
        """
        style = _STYLE.read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = (
            f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        )
        filled = [one for one in self.sections if one.panels or one.folded]
        head = element(
            "head",
            element("meta", attributes={"charset": "utf-8"}),
            element(
                "meta",
                attributes={"http-equiv": "Content-Security-Policy", "content": policy},
            ),
            element(
                "meta",
                attributes={"name": "viewport", "content": "width=device-width, initial-scale=1"},
            ),
            element("meta", attributes={"name": "color-scheme", "content": "light dark"}),
            element("title", self.title),
            element("style", Markup(style)),
        )
        links = [element("a", one.title, attributes={"href": f"#{one.anchor}"}) for one in filled]
        body = element(
            "body",
            element("a", "Skip to the charts", attributes={"class": "skip", "href": "#main"}),
            element(
                "header",
                element("h1", self.title),
                joined(element("p", line, attributes={"class": "verdict"}) for line in self.lines),
                joined(element("p", note, attributes={"class": "note"}) for note in self.notes),
                element("nav", joined(links), attributes={"aria-label": "Sections"}),
            ),
            element("main", joined(map(_section, filled)), attributes={"id": "main"}),
        )
        return f"<!doctype html>\n{element('html', head, body, attributes={'lang': 'en'})}\n"


def _section(section: Section) -> Markup:
    parts = [element("h2", section.title)]
    if section.intro:
        parts.append(element("p", section.intro, attributes={"class": "intro"}))
    parts.append(_grid(section.panels))
    if section.folded:
        label = f"{len(section.folded)} more" if section.panels else "Show"
        summary = element("summary", label)
        parts.append(
            element("details", summary, _grid(section.folded), attributes={"class": "more"})
        )
    return element("section", *parts, attributes={"id": section.anchor})


def _grid(panels: Sequence[Panel]) -> Markup:
    return element(
        "div", joined(panel.markup() for panel in panels), attributes={"class": "panels"}
    )
