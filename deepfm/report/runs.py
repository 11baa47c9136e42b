"""A finished run as a page looks at it: what its files say, and what its model predicts now.

Decided here: the checkpoint scores the validation rows again, so that a page tells of the model
that is there, calibration included; figures of the test split are those that training wrote.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from deepfm.checkpoint import RunDirectory
from deepfm.config import ExperimentConfig
from deepfm.data.dataset import TabularDataset
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.fingerprint import Fingerprint
from deepfm.data.load import ExperimentData
from deepfm.errors import CheckpointError, ConfigError
from deepfm.evaluation.members import Members
from deepfm.evaluation.scoring import evaluate, reported_as
from deepfm.held_out import held_out
from deepfm.models import parameters_of
from deepfm.models.base import BaseCTRModel
from deepfm.objectives import Task
from deepfm.objectives.tasks import is_larger_better
from deepfm.preflight import resolve_device
from deepfm.report.costs import Costs
from deepfm.report.learning import History, history_of
from deepfm.report.scores import SplitScores, sampled, scores_of
from deepfm.several import calibration_lines, scorer_of
from deepfm.utils.logging import LOGGER


class Files(NamedTuple):
    """What the files of a run say.

    Attributes:
        path: Of the run.
        metrics: Of `metrics.json`; empty where training has not ended.
        environment: Of `environment.json`; empty of an earlier release.
        history: Of `history.jsonl`.
    """

    path: Path
    metrics: Mapping[str, Any]
    environment: Mapping[str, Any]
    history: History


class Loaded(NamedTuple):
    """What a run is looked into by, as long as that lasts.

    Attributes:
        model: Scores rows.
        data: All splits.
        encoders: That made the rows.
        rows: The validation rows that are looked at.
        tasks: What the model predicts.
    """

    model: BaseCTRModel | Members
    data: ExperimentData
    encoders: Encoders
    rows: TabularDataset
    tasks: Sequence[Task]

    @property
    def first_model(self) -> BaseCTRModel:
        """The model, or the first of several."""
        return self.model.models[0] if isinstance(self.model, Members) else self.model


class ReportedRun(NamedTuple):
    """A run as a page shows it.

    Attributes:
        name: Distinct among the runs of a page.
        config: Of the experiment.
        files: What its files say.
        valid: What it predicts for validation rows.
        costs: What it took.
        fingerprint: Of its data; None of an earlier release.
        notes: What else is to be known.
    """

    name: str
    config: ExperimentConfig
    files: Files
    valid: SplitScores
    costs: Costs
    fingerprint: Fingerprint | None
    notes: tuple[str, ...] = ()


def directory(path: str | Path) -> RunDirectory:
    """The directory of a run, named by itself or by one of its checkpoints.

    Raises:
        CheckpointError: It holds no run.
    """
    given = Path(path)
    run = RunDirectory(given.parent if given.suffix == ".pt" else given)
    if not run.best.is_file():
        near = sorted(p.parent.name for p in run.path.parent.glob("*/best_model.pt"))
        hint = f"; runs beside it: {', '.join(near[:8])}" if near else ""
        raise CheckpointError(
            f"{path}: expected the folder of a run, with best_model.pt in it{hint}"
        )
    return run


def read_files(run: RunDirectory, config: ExperimentConfig) -> Files:
    """What stands beside a checkpoint; what is not there is empty.

    Raises:
        CheckpointError: A file is damaged.
    """
    metrics, environment = _json(run.metrics), _json(run.environment)
    entries: list[dict[str, Any]] = []
    if run.history.is_file():
        try:
            entries = [json.loads(line) for line in run.history.read_text().splitlines()]
        except ValueError as error:
            raise CheckpointError(f"{run.history}: damaged: {error}") from None
    return Files(run.path, metrics, environment, history(config, entries))


def history(config: ExperimentConfig, entries: Sequence[Mapping[str, Any]]) -> History:
    """The epochs of a run of a config."""
    metric = config.training.metric
    reported = reported_as(metric, entries[-1]) if entries else metric
    return history_of(
        entries, reported, larger_is_better=is_larger_better(metric), keep=config.training.keep
    )


def read_run(
    path: str | Path, name: str, config: ExperimentConfig | None = None
) -> tuple[ReportedRun, Loaded]:
    """A run, with its validation rows scored by its checkpoint.

    Args:
        config: Takes the place of the checkpoint's own, where data has moved.

    Raises:
        CheckpointError: There is no run, or it cannot be used with this data.
        ConfigError: `config` changes more than it may.
        DataError: The data is missing, or not what it was.
    """
    run = directory(path)
    LOGGER.info(f"{run.path}: validation rows are scored")
    held = held_out([run.best], config=config, split="valid")
    (checkpoint,) = held.checkpoints
    device = resolve_device("auto" if config is None else config.device)
    model = scorer_of(held.checkpoints).to(device)
    rows = sampled(held.rows).rows
    tasks = [task.fitted(rows.schema) for task in held.config.task_list()]
    found = evaluate(model, rows, tasks, batch_size=held.config.evaluation.batch_size)
    valid = scores_of("valid", rows, found, tasks, held.data.train, of_rows=len(held.rows))
    notes = tuple(calibration_lines(checkpoint.calibration, "valid"))
    files = read_files(run, held.config)
    if not files.metrics:
        notes += ("The run has not ended: there are no figures of the test split yet.",)
    loaded = Loaded(model, held.data, checkpoint.encoders, rows, tasks)
    costs = costs_of(loaded.first_model, run, files.environment)
    found_run = ReportedRun(name, held.config, files, valid, costs, checkpoint.fingerprint, notes)
    return found_run, loaded


def costs_of(model: BaseCTRModel, run: RunDirectory, environment: Mapping[str, Any]) -> Costs:
    """What a run took, as far as its files tell."""
    count = parameters_of(model)
    return Costs(
        sum(count),
        count.embedding + count.wide,
        run.best.stat().st_size if run.best.exists() else None,
        environment.get("cpu_seconds"),
        environment.get("wall_seconds"),
        environment.get("peak_memory"),
    )


def refuse_other_rows(first: ReportedRun, other: ReportedRun) -> None:
    """Refuse a run that was not evaluated on the rows of the first.

    Raises:
        ConfigError: Names both and what differs.
    """
    problem = _difference(first, other)
    if problem:
        raise ConfigError(
            f"{first.files.path} and {other.files.path} cannot stand side by side: {problem}"
        )


def _difference(first: ReportedRun, other: ReportedRun) -> str:
    before, now = first.fingerprint, other.fingerprint
    if before is not None and now is not None and (found := before.difference(now)):
        return f"{found[0]} is not the data of the first"
    one, two = first.valid, other.valid
    if one.of_rows != two.of_rows or not (one.row == two.row).all():
        return f"their validation rows differ ({one.of_rows:,} and {two.of_rows:,})"
    if [task.name for task in one.tasks] != [task.name for task in two.tasks]:
        names = (", ".join(t.name or "one task" for t in run.tasks) for run in (one, two))
        return f"they predict different things ({' and '.join(names)})"
    for a, b in zip(one.tasks, two.tasks, strict=True):
        if a.kind != b.kind:
            return f"they predict different things ({a.kind} and {b.kind})"
        if a.label.shape != b.label.shape or not (a.label == b.label).all():
            return "the labels of their validation rows differ"
    if (one.counts is None) != (two.counts is None):
        return "only one of them ranks items"
    protocols = [
        (run.config.data.num_neg_eval, run.config.evaluation.candidate_seed)
        for run in (first, other)
    ]
    if one.counts is not None and protocols[0] != protocols[1]:
        return "they rank among other candidates"
    return ""


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """What runs are called: the ends of their paths, as long as it takes to tell them apart.

    Example:
        >>> distinct_names([Path("a/run"), Path("b/run")]), distinct_names([Path("a/one")])
        (['a/run', 'b/run'], ['one'])
    """
    parts = [path.absolute().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ConfigError(f"a run is named twice: {', '.join(map(str, paths))}")


def previous_run(files: Files, config: ExperimentConfig) -> tuple[str, Mapping[str, Any]] | None:
    """The run before a run: of those beside it on the same data the newest that is older.

    Returns:
        Its name, and what its `metrics.json` holds; None where there is no such run. Whether the
        data is the same is told by its section of the config, and by what is said of its rows.
    """
    own = files.path / "metrics.json"
    if not own.exists():
        return None
    written = own.stat().st_mtime_ns
    beside = [
        (path.stat().st_mtime_ns, path)
        for path in files.path.absolute().parent.glob("*/metrics.json")
        if path.parent.name != files.path.absolute().name
    ]
    data = config.to_dict()["data"]
    for _, path in sorted((pair for pair in beside if pair[0] < written), reverse=True)[:20]:
        try:
            saved = yaml.safe_load((path.parent / "config.yaml").read_text())
            metrics = json.loads(path.read_text())
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if not isinstance(saved, dict) or not isinstance(metrics, dict):
            continue
        same = all(metrics.get(key) == files.metrics.get(key) for key in ("data", "protocol"))
        if saved.get("data") == data and same:
            return path.parent.name, metrics
    return None


def _json(path: Path) -> dict[str, Any]:
    """What a file holds; nothing where it is not there."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: damaged: expected names and values")
    return found
