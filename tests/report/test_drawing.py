"""Charts become parts of a page: classes for colours, no style attribute, texts as they are."""

import re
from xml.etree import ElementTree

import pytest

from deepfm.report.drawing import INK, colour, drawn
from deepfm.report.html import element
from deepfm.report.panel import Panel
from deepfm.report.table import Table

INERT = "</script><img src=x onerror=alert(1)>"


def chart(name: str = "a", label: str = "x") -> str:
    def paint(axes):
        axes[0].plot([0, 1], [0, 1], color=colour(1), linestyle=":")
        axes[0].scatter([0, 0.5, 1], [0, 0.5, 1], color=colour(0), alpha=0.5, gid="points")
        axes[0].text(0.2, 0.8, label, color=INK)

    return drawn(name, f"of {label}", paint, tips={"points": [f"{label} {k}" for k in range(3)]})


def test_it_is_xml_in_the_colours_of_the_page():
    found = chart()
    ElementTree.fromstring(found)
    assert "style" not in found
    assert not re.search(r"#0[1-4a]0", found)  # stand-in colours
    assert "stroke-series-1" in found
    assert "fill-series-0" in found
    assert "fill-ink" in found
    assert "<!--" not in found


def test_texts_are_escaped_and_no_formulas():
    found = chart(label=f"$x^2$ {INERT}")
    assert "<img" not in found
    texts = ["".join(node.itertext()) for node in ElementTree.fromstring(found).iter("text")]
    assert f"$x^2$ {INERT}" in texts


def test_each_point_says_its_own_tip():
    tips = [node.text for node in ElementTree.fromstring(chart(label="point")).iter("title")]
    assert tips == ["point 0", "point 1", "point 2"]


def test_names_of_two_charts_do_not_meet():
    """Every link of a chart leads to a part of its own."""
    ids = []
    for name in ("a", "b"):
        root = ElementTree.fromstring(chart(name))
        own = [node.get("id") for node in root.iter() if node.get("id")]
        links = [node.get("href") for node in root.iter() if node.get("href")]
        links += re.findall(r"url\((#[^)]+)\)", chart(name))
        assert links
        assert {link[1:] for link in links} <= set(own)
        ids += own
    assert len(set(ids)) == len(ids)


def test_equal_charts_are_equal_text():
    assert chart() == chart()


def test_markup_is_made_by_elements_only():
    assert element("p", INERT, attributes={"title": '"><b>'}) == (
        '<p title="&quot;&gt;&lt;b&gt;">&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;</p>'
    )


@pytest.mark.parametrize("series", [("one",), ("one", "two")])
def test_a_key_stands_where_there_is_something_to_tell_apart(series):
    table = Table(["a", "b"], [["x", 1]])
    found = Panel("title", INERT, table, element("svg"), series).markup()
    assert ('class="key"' in found) == (len(series) > 1)
    assert "<img" not in found
    assert "<details>" in found
