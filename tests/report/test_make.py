"""Whole pages of small runs: what they say, that nothing in them runs, and what is refused."""

import base64
import hashlib
import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from deepfm import experiment
from deepfm.cli import main
from deepfm.config import config_from_dict
from deepfm.errors import CheckpointError, ConfigError
from deepfm.report.make import make_report
from tests import clicks
from tests.report.conftest import INERT, texts

TAGS = {
    "html", "head", "meta", "title", "style", "body", "a", "header", "h1", "h2", "h3", "p", "nav",
    "main", "section", "div", "figure", "figcaption", "details", "summary", "table", "caption",
    "thead", "tbody", "tr", "th", "td", "ul", "li", "svg", "g", "path", "use", "defs", "text",
    "tspan", "clippath", "rect",
}  # fmt: skip


class Read(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.mark.parametrize("name", ["click_page", "ranking_page"])
def test_a_page_loads_and_runs_nothing(name, request):
    page = request.getfixturevalue(name)
    read = Read(page)
    assert {tag for tag, _ in read.tags} <= TAGS
    for tag, attributes in read.tags:
        assert not [key for key in attributes if key.startswith("on") or key in ("src", "style")]
        if "href" in attributes:
            assert attributes["href"].startswith("#"), tag
    text = page.read_text()
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [m["content"] for m in read.all("meta") if "http-equiv" in m]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert "unsafe" not in policy
    assert "url(" not in style
    assert len(text) < 2_000_000
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = {attributes["href"][1:] for _, attributes in read.tags if "href" in attributes}
    assert links <= set(ids)


def test_titles_stay_titles(ranking_page):
    """Those of items in tips, labels and tables, and that of the run."""
    text = ranking_page.read_text()
    assert "<img" not in text
    assert "</script" not in text
    assert text.count(html.escape(INERT)) > 60


def test_every_chart_has_its_words_its_numbers_and_a_description(ranking_page):
    text = ranking_page.read_text()
    figures = re.findall(r"<figure>(.*?)</figure>", text, re.DOTALL)
    assert len(figures) > 12
    for figure in figures:
        assert re.search(r"<figcaption><h3>.+?</h3><p>.+?</p></figcaption>", figure)
        assert re.search(r'<svg [^>]*role="img" aria-label="[^"]+"', figure)
        assert re.search(r"<details>.*<tbody><tr>.*</tbody>", figure, re.DOTALL)


def test_a_ranking_page_has_its_panels(ranking_page):
    titles = re.findall(r"<h3>(.*?)</h3>", ranking_page.read_text())
    for title in (
        "Training loss", "Validation ndcg@10", "HR@K among 30 others", "NDCG@K among 30 others",
        "ROC", "Precision and recall", "Lift", "Calibration", "Scores by label",
        "By popularity of the item", "Permutation importance", "Strength of field pairs, FM",
        "Attention between fields", "Map of items", "Figures of the test split",
        "Time and memory", "Beside simple methods", "Config",
    ):  # fmt: skip
        assert title in titles, title
    said = texts(ranking_page)
    for name in ("a random order", "popularity", "item knn", "ease", "markov"):
        assert name in said
    assert "held-out positives:" in said


def test_the_verdict_names_rivals_and_the_run_before(click_page, click_runs):
    said = " ".join(texts(click_page).split())
    figures = json.loads((click_runs[1] / "metrics.json").read_text())["valid"]
    assert re.search(rf"LogLoss {figures['logloss']:.4f} over \d+ validation rows:", said)
    for name in ("base rate (", "logistic regression (", "boosting ("):
        assert name in said
    before = json.loads((click_runs[0] / "metrics.json").read_text())["valid"]["auc"]
    assert re.search(
        rf"Validation auc {figures['auc']:.4f} is (better|worse) than that of the run before, one "
        rf"\({before:.4f}\)",
        said,
    )


def test_the_test_split_stands_in_one_panel(click_page, click_runs):
    figures = json.loads((click_runs[1] / "metrics.json").read_text())["test"]
    sections = re.findall(
        r'<section id="([\w-]+)">(.*?)(?=<section id=|</main>)', click_page.read_text(), re.DOTALL
    )
    where = {name for name, text in sections if f"{figures['auc']:.4f}" in text}
    assert where == {"test"}


def test_two_runs_stand_side_by_side_and_are_tested(click_runs, tmp_path, capsys):
    page = tmp_path / "both.html"
    code = main(["report", *map(str, click_runs), "--output", str(page)])
    assert code == 0, capsys.readouterr().err
    said = " ".join(texts(page).split())
    assert "one minus two" in said
    assert "Holm&#x27;s correction for 1 comparison." in page.read_text()
    assert re.search(r"(one is better|two is better|no significant difference)", said)
    same = tmp_path / "copy"
    shutil.copytree(click_runs[0], same)
    make_report([click_runs[0], same], output=page)
    rows = re.findall(r"minus copy</th>(.*?)</tr>", page.read_text())
    assert len(rows) == 2  # AUC and LogLoss
    assert all("no significant difference" in row for row in rows)


def test_equal_runs_give_equal_charts(click_runs, tmp_path):
    pages = [make_report([click_runs[0]], output=tmp_path / name) for name in ("a", "b")]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_runs_on_other_rows_are_refused(click_runs, tmp_path):
    other = clicks.trained(tmp_path, "other", data__split_fractions=[0.5, 0.3, 0.2])
    with pytest.raises(ConfigError, match=r"cannot stand side by side: .*rows differ") as error:
        make_report([click_runs[0], other])
    assert str(click_runs[0]) in str(error.value)
    assert str(other.parent) in str(error.value)


def test_other_content_is_refused(click_runs, tmp_path):
    clicks.write_rows(tmp_path, seed=5)
    other = clicks.trained(tmp_path, "other")
    with pytest.raises(ConfigError, match="is not the data of the first"):
        make_report([click_runs[0], other])


def test_what_is_no_run_is_one_line(click_runs, tmp_path, capsys):
    with pytest.raises(CheckpointError, match="runs beside it: one, two"):
        make_report([click_runs[0].parent / "tow"])
    with pytest.raises(ConfigError, match="named twice"):
        make_report([click_runs[0], click_runs[0]])
    assert main(["report", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["report", str(click_runs[0]), "--output", str(tmp_path / "no" / "a.html")]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_without_matplotlib_it_says_what_to_install(click_runs, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert main(["report", str(click_runs[0])]) == 2
    assert "deepfm report needs matplotlib: pip install 'deepfm[report]'" in capsys.readouterr().err


def test_several_tasks_numbers_and_classes_have_their_panels(tmp_path):
    clicks.write_rows(tmp_path)
    labels = {
        "clicked": {"column": "click"},
        "amount": {"column": "amount", "kind": "number"},
        "sort": {"column": "kind", "kind": "class"},
    }
    config = {
        "model_name": "shared_bottom",
        "output_dir": str(tmp_path / "tasks"),
        "device": "cpu",
        "data": {
            "dataset_name": "tabular",
            "data_dir": str(tmp_path),
            "store_dir": str(tmp_path / "stores"),
            "split_strategy": "random",
            "split_fractions": [0.5, 0.5, 0.0],
            "table": {
                "files": "rows.csv",
                "labels": labels,
                "fields": {"user": {"type": "sparse"}, "size": {"type": "dense"}},
            },
        },
        "tasks": {
            "click": {"label": "clicked"},
            "amount": {"label": "amount", "losses": ["l2"], "metrics": ["rmse"]},
            "sort": {
                "label": "sort",
                "losses": ["softmax_cross_entropy"],
                "num_class": 3,
                "metrics": ["accuracy"],
            },
        },
        "training": {"epochs": 1, "batch_size": 64, "metric": "click.auc"},
    }
    experiment.train(config_from_dict(config))
    titles = re.findall(r"<h[23]>(.*?)</h[23]>", make_report([tmp_path / "tasks"]).read_text())
    for title in (
        "Predictions of click on validation", "ROC", "By user (click)",
        "Predicted and true numbers", "Confusion of classes",
        "Permutation importance (amount)", "Permutation importance (sort)",
        "Beside simple methods: amount", "Beside simple methods: sort",
    ):  # fmt: skip
        assert title in titles, (title, titles)
