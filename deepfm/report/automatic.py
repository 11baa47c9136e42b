"""The page that `deepfm train` ends with, for at most 5 % of what the run took.

Decided here: nothing is scored again and no simple method learns: the page shows what the final
evaluation has found, of fewer rows where there are many. It stops adding parts of the rows when its
share is used up, and a run whose share is too small for any page gets a line instead.
"""

import time
from importlib.util import find_spec

from deepfm.experiment import Finished
from deepfm.report import details, sections
from deepfm.report.make import lines_of, write
from deepfm.report.page import Page
from deepfm.report.rivals import Rivals, constants
from deepfm.report.runs import Files, Loaded, ReportedRun, costs_of, history
from deepfm.report.scores import sampled, scores_of
from deepfm.utils.logging import LOGGER

SHARE = 0.05  # of the CPU that the run took
LEAST = 2.0  # seconds of CPU that a page takes; half of them import the charting library
_ROWS, _RANKED = 50_000, 50_000  # that the page looks at
_SPENT = 0.7  # of the share, from which on nothing is added


def write_automatically(finished: Finished) -> None:
    """Write `report.html` into the folder of a run, or say in a line why there is none."""
    if finished.config.training.report == "never":
        return
    path = finished.run.path
    if find_spec("matplotlib") is None:
        LOGGER.info("no report.html: pip install 'deepfm[report]' makes one after each training")
        return
    allowed = SHARE * finished.used.cpu_seconds
    if allowed < LEAST:
        LOGGER.info(
            f"no report.html: it would take more than {SHARE:.0%} of the run's "
            f"{finished.used.cpu_seconds:.0f} s of CPU; deepfm report {path} makes it"
        )
        return
    begun = time.process_time()
    try:
        page = _page(finished, _SPENT * allowed)
        LOGGER.info(
            f"the report is in {write(page, finished.run.report)} "
            f"({time.process_time() - begun:.1f} s of CPU); deepfm report {path} adds simple "
            "methods, importance, pairs and items"
        )
    except Exception as error:  # the run is whole and written, whatever a chart fails at
        reason = " ".join(str(error).split()) or type(error).__name__
        LOGGER.warning(f"no report.html: {reason}; the run itself is complete")


def _page(finished: Finished, allowed: float) -> Page:
    begun = time.process_time()

    def may_go_on() -> bool:
        return time.process_time() - begun < allowed

    run, loaded = _read(finished)
    beside = constants(run.valid)
    rivals = Rivals(beside.losses, {})
    shown = [sections.learning_section([run]), *sections.validation([run], rivals)]
    if may_go_on():
        unnamed = run._replace(name="")
        shown.append(details.segments(unnamed, loaded, prefix="run-0", may_go_on=may_go_on))
    return Page(
        f"{run.name}: {run.config.model_name}",
        lines_of([run], rivals),
        [
            f"Written after training, for at most {SHARE:.0%} of its CPU, of {run.valid.seen()}. "
            f"deepfm report {finished.run.path} adds simple methods, importance of fields, "
            "strength of pairs and the map of items."
        ],
        [
            *shown,
            sections.test_section([run]),
            sections.costs_section([run]),
            sections.facts_section([run]),
        ],
    )


def _read(finished: Finished) -> tuple[ReportedRun, Loaded]:
    config, data, run = finished.config, finished.data, finished.run
    sample = sampled(data.valid, most=_ROWS, most_ranked=_RANKED)
    tasks = [task.fitted(sample.rows.schema) for task in config.task_list()]
    valid = scores_of(
        "valid",
        sample.rows,
        sample.of(finished.results["valid"]),
        tasks,
        data.train,
        of_rows=len(data.valid),
    )
    used = finished.used
    environment = {
        "cpu_seconds": used.cpu_seconds,
        "wall_seconds": used.wall_seconds,
        "peak_memory": used.peak_memory,
    }
    files = Files(run.path, finished.metrics, environment, history(config, finished.history))
    reported = ReportedRun(
        run.path.name,
        config,
        files,
        valid,
        costs_of(finished.model, run, environment),
        data.fingerprint,
    )
    return reported, Loaded(finished.model, data, data.encoders, sample.rows, tasks)
