"""Pages as a browser shows them: nothing on the console, every chart drawn, no overlap, keys."""

import pytest

from tests.chromium import browser

# Texts of one chart that cover each other, and panels that do; a pixel is rounding.
OVERLAPS = """() => {
  const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  const pairs = (nodes, name) => {
    const boxes = nodes.map(node => [name(node), node.getBoundingClientRect()])
      .filter(([, box]) => box.width > 0);
    const found = [];
    for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++)
      if (meet(boxes[i][1], boxes[j][1])) found.push(`${boxes[i][0]} | ${boxes[j][0]}`);
    return found;
  };
  const panels = [...document.querySelectorAll("figure, .panels > section")];
  const found = pairs(panels, node => node.querySelector("h3")?.textContent ?? "table");
  for (const chart of document.querySelectorAll("svg.chart"))
    found.push(...pairs([...chart.querySelectorAll("text")],
      node => `${chart.getAttribute("aria-label")}: ${node.textContent}`));
  return found;
}"""
# Charts without marks in a colour of a series, or with texts outside of them.
UNDRAWN = """() => [...document.querySelectorAll("svg.chart")].filter(chart => {
  const frame = chart.getBoundingClientRect();
  const marks = [...chart.querySelectorAll("[class*=series]")]
    .filter(node => { const b = node.getBoundingClientRect(); return b.width + b.height > 2; });
  const outside = [...chart.querySelectorAll("text")].some(node => {
    const b = node.getBoundingClientRect();
    return b.left < frame.left - 1 || b.right > frame.right + 1 || b.bottom > frame.bottom + 1;
  });
  return frame.width > 0 && (!marks.length || outside);
}).map(chart => chart.getAttribute("aria-label"))"""


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


@pytest.mark.parametrize("name", ["click_page", "ranking_page"])
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_it_is_drawn_whole_on_phones_and_on_screens(chromium, request, name, width, scheme):
    path = request.getfixturevalue(name)
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(path.as_uri())
    assert page.locator("svg.chart").count() > 10
    page.evaluate("document.querySelectorAll('details.more').forEach(part => part.open = true)")
    assert page.evaluate(UNDRAWN) == []
    assert page.evaluate(OVERLAPS) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelectorAll('script, img, iframe, object').length") == 0
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    page.close()
    assert said == []


def test_it_is_used_by_keys(chromium, ranking_page):
    """The first key leads past the head; numbers open, and a wide table scrolls."""
    page = chromium.new_page(viewport={"width": 390, "height": 800})
    page.goto(ranking_page.as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the charts"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    closed = page.evaluate("document.activeElement.parentElement.open")
    page.keyboard.press("Enter")
    assert (closed, page.evaluate("document.activeElement.parentElement.open")) == (False, True)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "region"
    page.close()


def test_paper_is_white_and_shows_no_links(chromium, click_page):
    page = chromium.new_page(color_scheme="dark")
    page.goto(click_page.as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    page.close()
