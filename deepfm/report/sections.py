"""The sections of a page that runs share: a line per run in each chart, where there are several."""

from collections.abc import Mapping, Sequence
from typing import Any

from deepfm.checkpoint import flatten
from deepfm.evaluation.calibration_figures import INTERVAL
from deepfm.evaluation.ranking import ndcg
from deepfm.report.comparison import tests_of
from deepfm.report.confusion import confusion
from deepfm.report.costs import costs
from deepfm.report.discrimination import discrimination, scores_by_label
from deepfm.report.learning import learning
from deepfm.report.page import Section
from deepfm.report.panel import Panel
from deepfm.report.ranking import ranking
from deepfm.report.reliability import numbers, reliability
from deepfm.report.rivals import Rivals, random_order
from deepfm.report.runs import ReportedRun
from deepfm.report.scores import TaskScores
from deepfm.report.table import Table, interval, shown
from deepfm.report.verdict import LOG_LOSS, NDCG, RMSE, Verdict, judged

Runs = Sequence[ReportedRun]


def verdicts(run: ReportedRun, rivals: Rivals) -> list[tuple[str, Verdict]]:
    """Of each task the run beside its rivals, and of a ranking task its rankings; by task."""
    found: list[tuple[str, Verdict]] = []
    valid = run.valid
    if valid.counts is not None and len(valid.ranked):
        values = ndcg(valid.counts, 10)
        others = {"a random order": random_order(valid)}
        others |= {name: ndcg(counts, 10) for name, counts in rivals.counts.items()}
        over = f"{len(values):,} held-out positives"
        return [("", judged(NDCG, values, others, over=over))]
    for task in valid.tasks:
        losses = task.losses()
        if losses is None or len(losses) < 2 or not (own := rivals.losses.get(task.name)):
            continue
        figure = RMSE if task.kind == "number" else LOG_LOSS
        over = f"{len(losses):,} validation rows"
        found.append((task.name, judged(figure, losses, own, over=over)))
    return found


def validation(runs: Runs, rivals: Rivals) -> list[Section]:
    """What the validation rows say, a section per task and one of rankings."""
    found = []
    for number, task in enumerate(runs[0].valid.tasks):
        series = {run.name: run.valid.tasks[number] for run in runs}
        of_task = f" of {task.name}" if task.name else ""
        found.append(
            Section(
                f"validation-{number}",
                f"Predictions{of_task} on validation",
                f"{runs[0].valid.seen()}.",
                _predictions(series, f"valid-{number}"),
            )
        )
    counts = {run.name: run.valid.counts for run in runs if run.valid.counts is not None}
    if counts and len(runs[0].valid.ranked):
        panels = ranking(
            counts,
            rivals.counts,
            num_negatives=runs[0].valid.num_negatives,
            prefix="ranking",
        )
        short = {run.name: run.valid.counts_99 for run in runs if run.valid.counts_99 is not None}
        if len(short) == len(runs):
            panels += ranking(short, {}, num_negatives=99, prefix="ranking-99")
        found.insert(0, Section("ranking", "Rankings on validation", rivals.note, panels))
    return found


def _predictions(series: Mapping[str, TaskScores], prefix: str) -> list[Panel]:
    tasks = list(series.values())
    if tasks[0].kind == "number":
        return [numbers(series, name=f"{prefix}-numbers")] if len(tasks[0].label) > 1 else []
    if tasks[0].kind == "classes":
        return [
            _named(confusion(task, name=f"{prefix}-confusion-{k}"), run, len(series))
            for k, (run, task) in enumerate(series.items())
            if len(task.label)
        ]
    if not all(task.has_both_classes for task in tasks):
        return []
    panels = discrimination(series, prefix=prefix)
    if (found := reliability(series, name=f"{prefix}-calibration")) is not None:
        panels.append(found)
    panels += [
        _named(scores_by_label(task, name=f"{prefix}-scores-{k}"), run, len(series))
        for k, (run, task) in enumerate(series.items())
    ]
    return panels


def _named(panel: Panel, run: str, runs: int) -> Panel:
    return panel._replace(title=f"{panel.title}: {run}") if runs > 1 else panel


def learning_section(runs: Runs) -> Section:
    """The learning curves of all runs that have some."""
    histories = {run.name: run.files.history for run in runs if run.files.history.entries}
    panels = learning(histories, prefix="learning") if histories else []
    return Section("learning", "Training", "", panels)


def tests_section(runs: Runs) -> Section:
    """Paired tests of every pair of runs; none of one run alone."""
    panels = tests_of({run.name: run.valid for run in runs}) if len(runs) > 1 else []
    return Section(
        "tests",
        "Which run is better",
        "On validation rows. Runs of one config with several seeds say more than these tests: they "
        "cover the choice of rows, not that of the seed.",
        panels,
    )


def test_section(runs: Runs) -> Section:
    """What training wrote about the test split: one table, to be looked at last."""
    found = {
        run.name: flatten(dict(run.files.metrics["test"]))
        for run in runs
        if isinstance(run.files.metrics.get("test"), dict)
    }
    if not found:
        return Section("test", "Test", "", [])
    names = dict.fromkeys(name for one in found.values() for name in one)
    rows = [
        [name, *(_figure(one, name) for one in found.values())]
        for name in names
        if not name.endswith(INTERVAL)
    ]
    panel = Panel(
        "Figures of the test split",
        "For the end: whoever chooses by these figures has no test split left.",
        Table(["figure", *found], rows),
    )
    return Section("test", "Test", "", [panel])


def _figure(figures: Mapping[str, Any], name: str) -> str:
    ends = figures.get(f"{name}{INTERVAL}")
    value = shown(figures.get(name))
    return value if ends is None else f"{value} {interval(*ends)}"


def costs_section(runs: Runs) -> Section:
    """Time and memory of all runs."""
    by_name = {run.name: (run.files.history, run.costs) for run in runs}
    return Section("costs", "Costs", "", [costs(by_name, name="costs")])


def facts_section(runs: Runs) -> Section:
    """Data, config and environment of all runs, as tables."""
    data = [_facts("Data", run, runs, _data_rows(run)) for run in runs[:1]]
    configs = [_facts("Config", run, runs, _config_rows(run)) for run in runs]
    where = [
        _facts(
            "Environment", run, runs, list(map(list, flatten(dict(run.files.environment)).items()))
        )
        for run in runs
        if run.files.environment
    ]
    return Section("facts", "Data, config, environment", "", [], [*data, *configs, *where])


def _facts(title: str, run: ReportedRun, runs: Runs, rows: list[list[object]]) -> Panel:
    name = f"{title}: {run.name}" if len(runs) > 1 else title
    return Panel(name, "", Table(["", "value"], rows))


def _data_rows(run: ReportedRun) -> list[list[object]]:
    found: list[list[object]] = []
    for key in ("data", "protocol"):
        known = run.files.metrics.get(key)
        if isinstance(known, dict):
            found += [[name, _plain(value)] for name, value in flatten(known).items()]
    if run.fingerprint is not None:
        found += [
            [f"{role}: {part.name}", f"{part.size:,}, XXH3 {part.digest}"]
            for role, parts in run.fingerprint.parts.items()
            for part in parts
        ]
    return found


def _config_rows(run: ReportedRun) -> list[list[object]]:
    return [[name, _plain(value)] for name, value in flatten(run.config.to_dict()).items()]


def _plain(value: object) -> str:
    """A setting as it stands in YAML, about."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
