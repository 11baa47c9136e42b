"""The page of a search, `report.html` in its folder: what the best config gains, and why that one.

Decided here: the page is made of `trials.json` and `best.yaml` alone, so that no library of a
search is needed for it, and nothing is scored again.
"""

from importlib.util import find_spec
from pathlib import Path

import yaml

from deepfm.checkpoint import flatten
from deepfm.report.make import NAME, write
from deepfm.report.page import Page, Section
from deepfm.report.panel import Panel
from deepfm.report.search_charts import curves, progress, setting
from deepfm.report.searches import STATES, Search, read_search
from deepfm.report.table import MOST_ROWS, Table, shown
from deepfm.utils.extras import needed
from deepfm.utils.logging import LOGGER
from deepfm.utils.settings import value_text


def make_search_report(folder: str | Path, *, output: str | Path | None = None) -> Path:
    """Write a page about a search, and return where it is.

    Args:
        folder: That `deepfm tune` has written to.
        output: The page; by default `report.html` in the folder.

    Raises:
        ConfigError: matplotlib is missing.
        CheckpointError: The search has not ended, or its file is damaged.
        DeepFMError: The disk refuses.
    """
    needed("matplotlib", extra="report", wanted_by="deepfm report")
    search = read_search(folder)
    return write(_page(search), Path(folder) / NAME if output is None else Path(output))


def write_after_search(folder: str | Path) -> None:
    """Write the page at the end of a search, or say in a line why there is none."""
    if find_spec("matplotlib") is None:
        LOGGER.info("no report.html: pip install 'deepfm[report]' makes one after each search")
        return
    try:
        LOGGER.info(f"the report is in {make_search_report(folder)}")
    except Exception as error:  # the search is whole and written, whatever a chart fails at
        reason = " ".join(str(error).split()) or type(error).__name__
        LOGGER.warning(f"no report.html: {reason}; the search itself is complete")


def _page(search: Search) -> Page:
    has_best = search.best is not None
    return Page(
        f"{search.folder.name}: {len(search.trials)} trials by {search.metric}",
        [verdict(search)],
        _notes(search),
        [
            Section("search", "Search", "", _search_panels(search) if has_best else []),
            Section(
                "settings",
                "Settings",
                "A point per trial. All settings changed together, so a panel shows one of them "
                "whatever the others were.",
                [
                    setting(search, key, name=f"setting-{place}")
                    for place, key in enumerate(search.space)
                ]
                if has_best
                else [],
            ),
            Section("best", "Best config", "", *_best(search)),
            Section("trials", "Trials", "", [_trials(search)]),
        ],
    )


def verdict(search: Search) -> str:
    """The best trial beside the config as it stands, in a line."""
    best, own = search.best, search.as_it_stands
    if best is None or best.value is None:
        return "No trial has finished."
    of_all, value = f"of {len(search.trials)}", f"validation {search.metric} {shown(best.value)}"
    if own is not None and own.number == best.number:
        return f"The config as it stands is the best trial {of_all}: {value}."
    found = f"Trial {best.number} {of_all} is the best: {value}"
    if own is None:
        return f"{found}. No trial is the config as it stands: it lies outside of the space."
    if own.state != "finished" or own.value is None:
        return f"{found}. The config as it stands, trial {own.number}, has not finished."
    gain = search.gain(best.value, own.value)
    difference = f"{shown(gain)} better than" if gain > 0 else "equal to"
    return f"{found}, {difference} the config as it stands ({shown(own.value)})."


def _notes(search: Search) -> list[str]:
    better = "larger is better" if search.maximize else "smaller is better"
    found = [
        f"{search.counts()}; sampler {search.sampler}, seed {search.seed}; of {search.metric} "
        f"{better}. What is far worse than most trials stands at the edge of a chart, as failed "
        "trials do; the tables have all values."
    ]
    if search.best is not None:
        found.append(
            "The best of many trials was chosen by the rows that its value is of, so that value "
            "flatters it. The test rows were not read: deepfm train --config "
            f"{search.folder / 'best.yaml'} trains the config and scores them."
        )
    return found


def _search_panels(search: Search) -> list[Panel]:
    return [progress(search, name="progress"), curves(search, name="curves")]


def _best(search: Search) -> tuple[list[Panel], list[Panel]]:
    """The settings of the best trial, and its whole config where `best.yaml` can be read."""
    best, own = search.best, search.as_it_stands
    if best is None:
        return [], []
    settings = Panel(
        "Settings of the best trial",
        "What is equal in both columns did not have to change.",
        Table(
            ["", "as it stands", f"trial {best.number}"],
            [
                [
                    key,
                    None if own is None else value_text(own.settings[key]),
                    value_text(best.settings[key]),
                ]
                for key in search.space
            ],
        ),
    )
    try:
        config = yaml.safe_load((search.folder / "best.yaml").read_text(encoding="utf-8"))
        rows = [[name, value_text(value)] for name, value in flatten(config).items()]
    except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError):
        return [settings], []
    return [settings], [Panel("best.yaml", "", Table(["", "value"], rows))]


def _trials(search: Search) -> Panel:
    """All trials, the best one first, those that have not finished at the end."""
    worst = -float("inf")
    ordered = sorted(
        search.trials,
        key=lambda t: (
            STATES.index(t.state),
            -(worst if t.value is None else search.gain(t.value, 0.0)),
        ),
    )
    rows = [
        [
            f"trial {t.number}",
            t.state,
            t.value,
            f"{t.epochs:g}",
            None if t.seconds is None else f"{t.seconds:.1f}",
            *(value_text(t.settings[key]) for key in search.space),
            t.reason,
        ]
        for t in ordered
    ]
    some = f" The first {MOST_ROWS} of them; trials.md has all." if len(rows) > MOST_ROWS else ""
    return Panel(
        "All trials",
        "The best first. Look whether the first few have settings in common, and at the reasons of "
        f"those that failed.{some}",
        Table(["trial", "", search.metric, "epochs", "seconds", *search.space, "reason"], rows),
    )
