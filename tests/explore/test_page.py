"""The page in a browser: drawn whole at two widths, moved by keys, silent on the console."""

import threading
import time
from pathlib import Path

import pytest
import uvicorn
from playwright import sync_api

from deepfm.commands.explore import listening
from deepfm.explore.app import app_of
from deepfm.explore.draws import draws_of
from deepfm.explore.examples import example_rows
from deepfm.explore.explorer import Explorer
from deepfm.several import load_several
from tests import tiny

CHROMIUM = Path("/usr/bin/chromium")  # Debian's package
pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"no {CHROMIUM}: install the package chromium"
)
PATIENCE = 120_000  # ms, on a busy machine
# Pairs of visible texts and controls that lie on each other, none within the other.
OVERLAPS = """() => {
  const chosen = 'label, input, button, p, h1, h2, h3, th, td, figcaption, summary, svg, li span';
  const shown = [...document.querySelectorAll(chosen)].filter(
    (one) => one.checkVisibility() && !one.closest('#history') && one.getClientRects().length
  );
  const boxes = [...shown, ...document.querySelectorAll('svg text')].map(
    (one) => [one, one.getBoundingClientRect()]
  );
  const found = [];
  boxes.forEach(([one, a], place) => {
    for (const [other, b] of boxes.slice(place + 1)) {
      if (one.contains(other) || other.contains(one)) continue;
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && high > 1) found.push([one.textContent, other.textContent]);
    }
    if (a.right > innerWidth + 1 && !one.closest('.scroll')) found.push([one.textContent, 'edge']);
  });
  return found;
}"""
CHARTS = """() => [...document.querySelectorAll('#charts svg')].map((svg) => [
  Number(svg.dataset.bars), svg.querySelectorAll('rect').length,
  svg.querySelectorAll('text').length / 2,
  svg.closest('figure').querySelectorAll('tbody tr').length,
])"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox"], timeout=PATIENCE
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def serve():
    """Serves checkpoints, each at an address that is returned."""
    servers = []

    def start(path):
        checkpoints = load_several(path)
        draws, examples = draws_of(checkpoints[0]), example_rows(checkpoints[0].config)
        app = app_of(Explorer(checkpoints, draws, examples))
        listener = listening(0)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        servers.append((server, thread, listener))
        while not server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"

    yield start
    for server, thread, listener in servers:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def people(ranking, serve):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepfm.data.ADAPTERS", {"tiny": tiny})
        return serve(ranking)


@pytest.fixture
def opened(browser):
    """Opens an address at a width; the console has to stay silent."""
    said, pages = [], []

    def at(address, width=1440, scheme="light"):
        page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        pages.append(page)
        page.goto(address)
        page.wait_for_selector("#list > *")
        return page

    at.said = said
    yield at
    for page in pages:
        page.close()
    assert said == []


def items(page):
    return page.locator("#list tbody button").all_text_contents()


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_every_chart_is_drawn_and_nothing_overlaps(people, opened, width, scheme):
    page = opened(people, width, scheme)
    page.locator("#list tbody button").first.click()
    page.wait_for_selector("#charts figure:nth-of-type(3) svg rect")
    charts = page.evaluate(CHARTS)
    assert len(charts) == 3
    assert charts[1][0] == 7  # features of the small data set
    assert all(bars == rects == texts == rows for bars, rects, texts, rows in charts)
    assert page.evaluate(OVERLAPS) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("summary").first.click()
    assert page.evaluate(OVERLAPS) == []


def test_a_row_is_predicted_and_another_one_too(table, serve, opened):
    page = opened(serve(table), 390)
    page.wait_for_selector("#charts figure:nth-of-type(3) svg rect")
    assert page.evaluate(OVERLAPS) == []
    before = page.locator("#list .large").text_content()
    page.get_by_role("button", name="Another row").click()
    page.wait_for_selector(f"#list .large:not(:text-is('{before}'))")
    page.get_by_label("size", exact=True).fill("much")
    page.wait_for_selector("#problem:has-text('expected a number')")
    assert opened.said == [
        "Failed to load resource: the server responded with a status of 422 (Unprocessable Entity)"
    ]
    opened.said.clear()  # a browser's own line about any mistake
    page.get_by_label("size", exact=True).fill("1.5")
    page.wait_for_selector("#problem:not(:has-text('expected'))", state="attached")


def test_the_keyboard_is_enough(people, opened):
    """A field is changed, the list moves, an item is chosen, an item of the history removed."""
    page = opened(people)
    page.wait_for_selector("#list tbody button")
    before = items(page)
    page.locator("body").press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the result"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "user"
    page.keyboard.press("Tab")  # to the first field
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.column") == "income"
    page.keyboard.press("Control+a")
    page.keyboard.type("50")
    page.wait_for_selector("#list .up, #list .down")
    assert items(page) != before
    status = page.locator("#status")
    assert "moved" in status.text_content()
    assert status.get_attribute("aria-live") == "polite"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "item":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("#charts svg rect")
    assert items(page)[0] in page.locator("#why-status").text_content()
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    count = page.locator("#history li").count()
    page.locator("#history button").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#past-note:has-text('Changed by hand')")
    assert page.locator("#history li").count() == count - 1


def test_texts_of_the_data_are_no_markup(ranking, serve, opened, monkeypatch):
    title = "<img src=x onerror=alert(1)>"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepfm.data.ADAPTERS", {"tiny": tiny})
        original = Explorer.ranked

        def ranked(self, person, top):
            found = original(self, person, top)
            found["items"][0]["title"] = title
            return found

        patch.setattr(Explorer, "ranked", ranked)
        page = opened(serve(ranking))
        assert items(page)[0] == title
        assert page.locator("img").count() == 0
