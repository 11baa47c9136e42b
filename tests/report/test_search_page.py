"""The page of a search: what it says and draws, that nothing in it runs, and what is refused."""

import importlib.util
import json
import logging
import re
from xml.etree import ElementTree

import pytest
import yaml

from deepfm.cli import main
from deepfm.report import search_page
from deepfm.report.search_charts import curves, edge_of, progress, setting
from deepfm.report.search_page import make_search_report, verdict, write_after_search
from deepfm.report.searches import read_search
from tests.chromium import browser
from tests.report.conftest import texts
from tests.report.test_browser import OVERLAPS, UNDRAWN
from tests.report.trials import SPACE, TRIALS, trial, write_trials


def marks(chart: str, series: int) -> int:
    """How many marks of a colour stand in a chart; lines are paths."""
    root = ElementTree.fromstring(chart)
    return sum(
        node.get("class", "") != "" and f"fill-series-{series}" in node.get("class", "")
        for node in root.iter("use")
    )


def test_the_page_of_a_search_ends_it_and_is_made_anew(tmp_path, capsys):
    pytest.importorskip("optuna")
    from tests.tuning import searches

    config = searches.config(tmp_path, training__epochs=1)
    (tmp_path / "clicks.yaml").write_text(yaml.safe_dump(config.to_dict()))
    (tmp_path / "space.yaml").write_text(
        "training.lr: {low: 1e-3, high: 1e-1, log: true}\ndnn.hidden_units: [[8], [16, 8]]\n"
    )
    folder = tmp_path / "study"
    command = ["tune", "--config", str(tmp_path / "clicks.yaml"), "--trials", "3"]
    assert main([*command, "--space", str(tmp_path / "space.yaml"), "--output", str(folder)]) == 0
    page = folder / "report.html"
    assert f"the report is in {page}" in capsys.readouterr().out
    first = page.read_bytes()
    values = [one["value"] for one in json.loads((folder / "trials.json").read_text())["trials"]]
    best = max(values)
    said = texts(page)
    assert f"{best:.4f}" in said
    if best > values[0]:
        assert f"{best - values[0]:.4f} better than the config as it stands" in said
    assert page.read_text().count('class="chart"') == 2 + 2
    assert "dnn.hidden_units" in said
    assert "model_name" in said  # of best.yaml
    page.unlink()
    assert main(["report", str(folder)]) == 0
    assert page.read_bytes() == first
    other = tmp_path / "other.html"
    assert main(["report", str(folder), "--output", str(other)]) == 0
    assert other.read_bytes() == first


def test_nothing_that_a_search_is_called_can_run(tmp_path):
    page = make_search_report(write_trials(tmp_path / "<img src=x onerror=alert(2)>"))
    text = page.read_text()
    assert "<img" not in text
    assert "<script" not in text
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in text
    assert "$x^2$" in texts(page)
    assert text.count('class="chart"') == 2 + len(SPACE)
    hints = re.findall(r"<figcaption><h3>.*?</h3><p>(.*?)</p>", text)
    assert (
        len([hint for hint in hints if hint]) == text.count("<summary>Numbers: ") == 2 + len(SPACE)
    )


def test_states_have_shapes_and_colours_of_their_own(tmp_path):
    search = read_search(write_trials(tmp_path))
    panels = [progress(search, name="a"), *(setting(search, key, name="b") for key in SPACE)]
    for panel in panels:
        assert [marks(panel.chart, series) for series in range(3)] == [6, 1, 2]
        assert tuple(panel.series)[:3] == ("finished", "pruned", "failed")
        assert len(panel.table.rows) == len(TRIALS)
    drawn = curves(search, name="c")
    # The hopeless trial leaves the chart before its end, and failed ones were never evaluated.
    assert [marks(drawn.chart, series) for series in range(3)] == [5, 1, 0]
    assert drawn.series == ("finished", "pruned", "", "best trial")
    assert drawn.markup().count("<li>") == 3


@pytest.mark.parametrize("sign", [1, -1])
def test_the_line_is_the_best_finished_value_so_far(tmp_path, sign):
    """Either way round; a loop over the trials says what it is."""
    turned = [
        one
        | {
            "value": None if one["value"] is None else sign * one["value"],
            "evaluations": [[k, sign * v] for k, v in one["evaluations"]],
        }
        for one in TRIALS
    ]
    search = read_search(write_trials(tmp_path, trials=turned, maximize=sign < 0))
    rows = {row[0]: row[3] for row in progress(search, name="a").table.rows}
    seen: list[float] = []
    for one in turned:
        if one["state"] == "finished":
            seen.append(one["value"])
            assert rows[f"trial {one['number']}"] == (min(seen) if sign > 0 else max(seen))
        else:
            assert rows[f"trial {one['number']}"] is None


def test_a_hopeless_trial_takes_no_room_from_the_others(tmp_path):
    search = read_search(write_trials(tmp_path / "with"))
    edge = edge_of(search)
    assert edge is not None
    assert 0.47 < edge < 0.7
    without = [one for one in TRIALS if one["number"] != 4]
    assert edge_of(read_search(write_trials(tmp_path / "without", trials=without))) is None


@pytest.mark.parametrize(("rate", "said"), [(0.09, "upper end"), (1.1e-4, "lower end"), (0.01, "")])
def test_a_best_trial_at_an_end_of_its_range_is_pointed_out(tmp_path, rate, said):
    best = trial(0, "finished", 0.4)
    best["settings"]["training.lr"] = rate
    search = read_search(write_trials(tmp_path, trials=[best, trial(1, "finished", 0.5)], best=0))
    hint = setting(search, "training.lr", name="a").hint
    assert said in hint
    assert ("a wider one" in hint) == bool(said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Trial 3 of 10 is the best: validation logloss 0.4300, 0.0200 better than the config "
         "as it stands (0.4500)."),
        ({"as_it_stands": 3}, "The config as it stands is the best trial of 10: validation logloss "
         "0.4300."),
        ({"as_it_stands": None}, "Trial 3 of 10 is the best: validation logloss 0.4300. No trial "
         "is the config as it stands: it lies outside of the space."),
        ({"as_it_stands": 7}, "Trial 3 of 10 is the best: validation logloss 0.4300. The config as "
         "it stands, trial 7, has not finished."),
        ({"best": None, "trials": [TRIALS[7]]}, "No trial has finished."),
    ],
)  # fmt: skip
def test_one_line_says_what_the_search_has_won(tmp_path, changes, said):
    folder = write_trials(tmp_path, **changes)
    assert verdict(read_search(folder)) == said
    page = make_search_report(folder)
    assert said in texts(page)
    if "best" in changes:
        assert "the memory is full" in texts(page)
        assert 'class="chart"' not in page.read_text()


def test_a_page_never_fails_a_search(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    folder = write_trials(tmp_path)
    monkeypatch.setattr(search_page, "progress", lambda *a, **k: 1 / 0)
    write_after_search(folder)
    assert "no report.html: division by zero; the search itself is complete" in caplog.text
    find = importlib.util.find_spec
    monkeypatch.setattr(
        search_page, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    write_after_search(folder)
    assert "pip install 'deepfm[report]'" in caplog.text
    assert not (folder / "report.html").exists()


def test_what_is_no_finished_search_is_one_line(tmp_path, capsys):
    def error(*arguments: object) -> str:
        assert main(["report", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "study.yaml").write_text("metric: auc\n")
    assert "trials.json is not there yet" in error(begun)
    whole = write_trials(tmp_path / "whole")
    assert "name it alone" in error(whole, tmp_path)
    assert "reads no data" in error(whole, "--override", "seed=1")
    for content in ("{", "[]", '{"trials": [{}]}', '{"trials": 3}'):
        (whole / "trials.json").write_text(content)
        found = error(whole)
        assert "trials.json: damaged" in found
        assert "Traceback" not in found


def test_a_browser_draws_it_whole_on_phones_and_on_screens(tmp_path):
    page_of_all = make_search_report(write_trials(tmp_path))
    with browser() as chromium:
        for width, scheme in ((390, "dark"), (1440, "light")):
            page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            said: list[str] = []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.goto(page_of_all.as_uri())
            assert page.locator("svg.chart").count() == 2 + len(SPACE)
            assert page.evaluate(UNDRAWN) == []
            assert page.evaluate(OVERLAPS) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.close()
            assert said == []
