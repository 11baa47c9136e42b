"""From runs to a page: reads, scores, draws, writes."""

from collections.abc import Sequence
from pathlib import Path

from deepfm.checkpoint import flatten
from deepfm.config import ExperimentConfig
from deepfm.errors import DeepFMError
from deepfm.evaluation.scoring import reported_as
from deepfm.objectives.tasks import is_larger_better
from deepfm.report import details, sections
from deepfm.report.page import Page, Section
from deepfm.report.rivals import Rivals, rivals
from deepfm.report.runs import (
    Loaded,
    ReportedRun,
    directory,
    distinct_names,
    previous_run,
    read_run,
    refuse_other_rows,
)
from deepfm.report.table import shown
from deepfm.utils.extras import needed
from deepfm.utils.io import atomic_write_bytes
from deepfm.utils.logging import LOGGER

NAME, NAME_OF_SEVERAL = "report.html", "comparison.html"


def make_report(
    paths: Sequence[str | Path],
    *,
    output: str | Path | None = None,
    config: ExperimentConfig | None = None,
) -> Path:
    """Write a page about a run, or about several on the same rows, and return where it is.

    Args:
        paths: Folders of runs, or checkpoints in them.
        output: The page; by default `report.html` in the folder of the run, of several
            `comparison.html` in that of the first.
        config: Where data is now, of runs that it has moved from.

    Raises:
        ConfigError: matplotlib is missing, or runs are not of the same rows.
        CheckpointError, DataError: A run, or its data, is not to be had.
        DeepFMError: The disk refuses.
    """
    needed("matplotlib", extra="report", wanted_by="deepfm report")
    folders = [directory(path).path for path in paths]
    names = distinct_names(folders)
    runs: list[ReportedRun] = []
    inside: list[Section] = []
    beside = Rivals({}, {})
    for place, (folder, name) in enumerate(zip(folders, names, strict=True)):
        run, loaded = read_run(folder, name, config)
        if runs:
            refuse_other_rows(runs[0], run)
        else:
            LOGGER.info("simple methods learn the same rows")
            beside = rivals(run.valid, loaded.rows, loaded.data, loaded.tasks, run.config.seed)
        LOGGER.info(f"{run.files.path}: fields, pairs and items are looked at")
        inside += _details(run, loaded, place, len(names))
        runs.append(run)
    title = (
        f"{', '.join(names)}: {runs[0].config.model_name}" if len(runs) == 1 else ", ".join(names)
    )
    page = Page(
        title,
        lines_of(runs, beside),
        [note for run in runs for note in _notes(run, len(runs))],
        [
            sections.tests_section(runs),
            _beside(runs, beside),
            sections.learning_section(runs),
            *sections.validation(runs, beside),
            *inside,
            sections.test_section(runs),
            sections.costs_section(runs),
            sections.facts_section(runs),
        ],
    )
    default = folders[0] / (NAME if len(runs) == 1 else NAME_OF_SEVERAL)
    return write(page, default if output is None else Path(output))


def write(page: Page, path: Path) -> Path:
    """Write a page, whole or not at all.

    Raises:
        DeepFMError: The disk refuses, or there is no such folder.
    """
    if not path.parent.is_dir():
        raise DeepFMError(f"cannot write {path}: there is no folder {path.parent}")
    atomic_write_bytes(path, page.document().encode())
    return path


def lines_of(runs: Sequence[ReportedRun], beside: Rivals) -> list[str]:
    """The verdict of each run, a line per task, and of the run before it."""
    found = []
    for run in runs:
        name = f"{run.name}: " if len(runs) > 1 else ""
        for task, one in sections.verdicts(run, beside):
            found.append(f"{name}{task + ': ' if task else ''}{one.line()}")
        if len(runs) == 1:
            found += _before(run)
    return found


def _before(run: ReportedRun) -> list[str]:
    """The watched figure beside that of the run before, which only `report` of both can test."""
    before = previous_run(run.files, run.config)
    if before is None:
        return []
    name, metrics = before
    own, theirs = (flatten(dict(one.get("valid", {}))) for one in (run.files.metrics, metrics))
    metric = run.config.training.metric
    metric = reported_as(metric, own)
    now, then = own.get(metric), theirs.get(metric)
    if not isinstance(now, float | int) or not isinstance(then, float | int):
        return []
    rises = is_larger_better(run.config.training.metric)
    word = "equal to" if now == then else "better than" if (now > then) == rises else "worse than"
    return [
        f"Validation {metric} {shown(now)} is {word} that of the run before, {name} "
        f"({shown(then)}), which is not tested: a report of both does that."
    ]


def _beside(runs: Sequence[ReportedRun], beside: Rivals) -> Section:
    """The tests behind the verdicts, a table per run and task."""
    panels = []
    for run in runs:
        for task, one in sections.verdicts(run, beside):
            panel = one.panel()
            names = [name for name in (run.name if len(runs) > 1 else "", task) if name]
            title = ": ".join([panel.title, *names])
            panels.append(panel._replace(title=title))
    return Section("verdict", "Verdict", beside.note, panels)


def _details(run: ReportedRun, loaded: Loaded, place: int, runs: int) -> list[Section]:
    """What the model of a run tells; less of each where several share a page."""
    prefix = f"run-{place}"
    named = run if runs > 1 else run._replace(name="")
    return [
        details.segments(named, loaded, prefix=prefix, may_go_on=lambda: True, runs=runs),
        details.inside_the_model(named, loaded, prefix=prefix, runs=runs),
    ]


def _notes(run: ReportedRun, runs: int) -> list[str]:
    name = f"{run.name}: " if runs > 1 else ""
    return [f"{name}{note}" for note in run.notes]
