"""Trains several configs over several seeds and tabulates what they reach on the test split.

Intervals are 95 % bootstrap intervals over the evaluated users, of values averaged over seeds;
`±` is the standard deviation over seeds. Data without a test split is compared on its validation
split, which chose the epochs. LogLoss of runs that were trained with sampled negatives is that
after the prior correction. Runs are put into one table, and tested against each other, only
if they were evaluated on the same rows and labels, and ranked among the same candidates. Below the
runs of a config stands the mean of their logits, which is one model made of all.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import yaml

from deepfm import experiment
from deepfm.checkpoint import RunDirectory, load_checkpoint, settled_as
from deepfm.comparison_means import mean_counts
from deepfm.config import ExperimentConfig, config_from_dict, load_config
from deepfm.data.dataset import TabularDataset
from deepfm.data.download import DownloadError
from deepfm.data.load import ExperimentData
from deepfm.data.options import CandidatesConfig
from deepfm.data.ranking import Events
from deepfm.data.sources import tabular
from deepfm.errors import ConfigError, DeepFMError, MissingDataError
from deepfm.evaluation.bootstrap import affordable_samples, bootstrap_auc, bootstrap_mean
from deepfm.evaluation.measures import log_odds_of
from deepfm.evaluation.ranking import SHORT_RANKING, RankCounts, hit_rate, ndcg, rank_counts
from deepfm.evaluation.references import REFERENCES
from deepfm.evaluation.table_references import table_references, title_of
from deepfm.utils.io import atomic_write_bytes
from deepfm.utils.logging import LOGGER

FOLDER = Path("outputs/compare")
_COLUMNS = ("AUC", "LogLoss", "HR@10 of 100", "NDCG@10 of 100", "HR@10", "NDCG@10")
_ROUNDING = 1e-9  # differences that differ by less are equal


class Result(NamedTuple):
    """The results of one row of the table, over S runs.

    Attributes:
        name: Config or reference.
        seeds: Of the runs, (S,); none for a reference, which is no model.
        row, label: Raw row number and label of the N held-out rows.
        scores: Per run, (S, N): logits, or what else ranks rows as the model does.
        per_user: By metric name, values per run and user (or row), (S, U).
    """

    name: str
    seeds: tuple[int, ...]
    row: np.ndarray
    label: np.ndarray
    scores: np.ndarray
    per_user: dict[str, np.ndarray]

    def runs(self) -> dict[str, np.ndarray]:
        """By column: the metric of each run, (S,)."""
        from sklearn.metrics import roc_auc_score  # slow to import

        auc = np.array([roc_auc_score(self.label, scores) for scores in self.scores])
        return {"AUC": auc} | {name: v.mean(axis=1) for name, v in self.per_user.items()}

    def intervals(self) -> dict[str, tuple[float, float] | None]:
        """By column: the interval over users of the mean over seeds."""
        intervals = {
            "AUC": bootstrap_auc(
                self.label, self.scores, samples=affordable_samples(len(self.label))
            )
        }
        return intervals | {
            name: bootstrap_mean(values.mean(axis=0), samples=affordable_samples(values.shape[1]))
            for name, values in self.per_user.items()
        }


def compare(
    paths: Sequence[str],
    *,
    seeds: int = 1,
    references: bool = False,
    overrides: Iterable[str] = (),
) -> list[str]:
    """Train each config with `seeds` seeds, from its own seed upwards, and return table lines.

    A run goes to `outputs/compare/<config>-<seed>` and is taken from there if its config is
    equal; an unfinished one is continued. A config whose data is not to be had is skipped.

    Raises:
        ConfigError: A config is wrong, or two of them have one file name.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds: expected at least 1, found {seeds}")
    names = [Path(path).stem for path in paths]
    if len(set(names)) < len(names):
        raise ConfigError(f"two configs have one file name: {', '.join(names)}")
    configs = {name: load_config(path, overrides) for name, path in zip(names, paths, strict=True)}
    for name, config in configs.items():
        tasks = config.task_list()
        if len(tasks) > 1 or "probability" not in tasks[0].main.gives(tasks[0].num_class):
            raise ConfigError(f"{name}: compare tabulates probabilities of one class only")
    groups: list[tuple[str, ExperimentConfig, list[Result]]] = []
    means: dict[str, Result] = {}
    for name, config in configs.items():
        try:
            runs = [_run(name, config, config.seed + offset) for offset in range(seeds)]
        except (MissingDataError, DownloadError) as error:
            LOGGER.warning(f"{name} is skipped: {error}")
            continue
        title, result = _title(config, runs[0]), _result(name, config, runs)
        if seeds > 1:
            means[name] = _mean_result(result, config, runs)
        for other_title, other, results in groups:
            same_task = title == other_title and _protocol(config) == _protocol(other)
            if same_task and _same_rows(results[0], result):
                results.append(result)
                break
        else:
            groups.append((title, config, [result]))
    lines, titles = [], set()
    for title, config, results in groups:
        if title in titles:
            title = f"{title}, other rows or candidates than above"
        titles.add(title)
        rows = [row for one in results for row in (one, means.get(one.name)) if row is not None]
        simple = _references(config) if references else []
        lines += ["", title, "", *_table(rows + simple)]
        lines += _significance(results) + _beside_references(rows, simple)
    if lines:
        atomic_write_bytes(FOLDER / "table.md", "\n".join([*lines, ""]).encode())
    return lines


def _run(name: str, config: ExperimentConfig, seed: int) -> RunDirectory:
    """The finished run of a config with a seed, trained now if need be."""
    folder = FOLDER / f"{name}-{seed}"
    config = dataclasses.replace(config, seed=seed, output_dir=str(folder))
    run = RunDirectory(folder)
    equal = run.config.exists() and _is_of(config, yaml.safe_load(run.config.read_text()))
    if equal and (found := _other_data(run, config)):
        LOGGER.warning(f"{folder} is trained anew: {found}")
        equal = False
    if equal and run.metrics.exists():
        LOGGER.info(f"{folder}: finished earlier")
    else:
        experiment.train(config, resume=equal, overwrite=not equal)
    return run


def _is_of(config: ExperimentConfig, saved: object) -> bool:
    """Whether a run has this config, as far as that does not leave it to the machine."""
    if saved == config.to_dict() or not isinstance(saved, dict):
        return saved == config.to_dict()
    try:
        return bool(saved == settled_as(config, config_from_dict(saved)).to_dict())
    except DeepFMError:  # of another release
        return False


def _other_data(run: RunDirectory, config: ExperimentConfig) -> str:
    """Which file of a declared table has changed since a run began; empty if none has."""
    if config.data.table is None or not run.last.exists():
        return ""
    before = load_checkpoint(run.last).fingerprint
    try:
        files = tabular.source_files(config.data)
    except MissingDataError:  # what is finished needs no data
        return ""
    read = tabular.fingerprint_of(config.data, files)
    found = None if before is None else before.difference(read.fingerprint)
    return "" if found is None else ": ".join(found)


def _title(config: ExperimentConfig, run: RunDirectory) -> str:
    """Data and split of a table."""
    data = config.data
    name = data.dataset_name if data.table is None else f"{data.dataset_name} in {data.data_dir}"
    if "test" in json.loads(run.metrics.read_text()):
        return f"{name}, test split"
    return f"{name}, validation split, which chose the epochs (there is no test split)"


def _protocol(config: ExperimentConfig) -> tuple[int, int, CandidatesConfig | None]:
    """What decides which candidates a row is ranked among."""
    return config.data.num_neg_eval, config.evaluation.candidate_seed, config.data.candidates


def _same_rows(one: Result, other: Result) -> bool:
    """Whether both were evaluated on the same rows, so that their runs are pairs."""
    return np.array_equal(one.row, other.row) and np.array_equal(one.label, other.label)


def _result(name: str, config: ExperimentConfig, runs: list[RunDirectory]) -> Result:
    predictions = [pyarrow.parquet.read_table(run.predictions) for run in runs]
    row, label = (predictions[0][column].to_numpy() for column in ("row", "label"))
    logit = np.stack([_logit(table) for table in predictions])
    per_user = {}
    if not config.task_list()[0].by_pairs:  # whose scores have no LogLoss
        per_user["LogLoss"] = _losses(label, logit + _prior_correction(runs[0]))
    if runs[0].ranks.exists():  # otherwise the data has no ranking task
        ranks = [pyarrow.parquet.read_table(run.ranks) for run in runs]
        for column, suffix, _ in _protocols(config.data.num_neg_eval):
            counts = [
                RankCounts(table[f"above{suffix}"].to_numpy(), table[f"tied{suffix}"].to_numpy())
                for table in ranks
            ]
            per_user |= _ranking_values(column, counts)
    seeds = tuple(range(config.seed, config.seed + len(runs)))
    return Result(name, seeds, row, label, logit, per_user)


def _logit(predictions: pa.Table) -> np.ndarray:
    """The logit of each row, (N,); runs of earlier releases have probabilities only."""
    for column in ("logit", "score"):
        if column in predictions.column_names:
            logit: np.ndarray = predictions[column].to_numpy()
            return logit
    return log_odds_of(predictions["probability"].to_numpy())


def _losses(label: np.ndarray, logit: np.ndarray) -> np.ndarray:
    """The LogLoss of each row, (S, N), by logits of that shape."""
    losses: np.ndarray = np.logaddexp(0.0, np.where(label > 0, -logit, logit))
    return losses


def _mean_result(result: Result, config: ExperimentConfig, runs: list[RunDirectory]) -> Result:
    """One model made of a config's runs: the mean of their logits."""
    logit = result.scores.mean(axis=0, keepdims=True)  # (1, N)
    per_user = {}
    if "LogLoss" in result.per_user:
        per_user["LogLoss"] = _losses(result.label, logit + _prior_correction(runs[0]))
    if runs[0].ranks.exists() and (counts := mean_counts(result.name, config, runs)) is not None:
        for column, _, size in _protocols(config.data.num_neg_eval):
            per_user |= _ranking_values(column, [counts.of(size)])
    name = f"{result.name}, mean of {len(runs)} seeds"
    return Result(name, (), result.row, result.label, logit, per_user)


def _prior_correction(run: RunDirectory) -> float:
    """What is added to the logits of a run that was trained with sampled negatives; else 0."""
    metrics = json.loads(run.metrics.read_text())
    split = metrics.get("test", metrics["valid"])
    return float(split.get("prior_correction") or 0.0)


def _protocols(num_negatives: int) -> list[tuple[str, str, int]]:
    """Column of the table, ending of columns of `ranks.parquet`, and candidates of each ranking."""
    both = [("HR@10 of 100", "_99", SHORT_RANKING), ("HR@10", "", num_negatives)]
    return both[:1] if num_negatives == SHORT_RANKING else both


def _ranking_values(column: str, counts: list[RankCounts]) -> dict[str, np.ndarray]:
    def values(metric: Callable[[RankCounts, int], np.ndarray]) -> np.ndarray:
        return np.stack([metric(run, 10) for run in counts])

    return {column: values(hit_rate), column.replace("HR", "NDCG"): values(ndcg)}


def _references(config: ExperimentConfig) -> list[Result]:
    """What simple methods reach on the same split, and among the same candidates."""
    data = experiment.load_data(config)
    if not config.task_data().ranks:
        return _table_references(config, data)
    training = experiment.interactions_of(data)
    assert data.test is not None  # what ranks has both
    assert data.events is not None
    return [
        _reference_result(name, reference(training), data.test, data.events)
        for name, reference in REFERENCES.items()
    ]


def _table_references(config: ExperimentConfig, data: ExperimentData) -> list[Result]:
    (task,) = config.task_list()
    rows = data.valid if data.test is None else data.test
    label = task.label_of(rows.label, rows.schema).numpy()
    found = []
    for name, reference in table_references(
        data.train, data.valid, data.test, task, seed=config.seed
    ).items():
        logit = reference.valid if reference.test is None else reference.test
        per_row = {"LogLoss": _losses(label, logit[None])}
        found.append(Result(title_of(name, task), (), rows.row, label, logit[None], per_row))
    return found


def _reference_result(
    name: str, scores: np.ndarray, test: TabularDataset, events: Events
) -> Result:
    user, task = events.user[test.row], test.ranking
    assert task is not None
    ranked = scores[user[task.rows][:, None], task.items]
    per_user: dict[str, np.ndarray] = {}
    for column, _, size in _protocols(task.num_negatives):
        part = slice(0, 1 + size)
        counts = rank_counts(ranked[:, part], task.items[:, part] >= 0)
        per_user |= _ranking_values(column, [counts])
    label = test.label.numpy()
    probability = scores[user, events.item[test.row]][None]
    return Result(name, (), test.row, label, probability, per_user)


def _table(results: list[Result]) -> list[str]:
    """A Markdown table; the intervals stand in a second row below each result."""
    columns = _columns(results)
    rows = [["", "runs", *columns]]
    for result in results:
        runs, intervals = result.runs(), result.intervals()
        rows.append([result.name, str(len(result.scores)), *(_mean(runs, c) for c in columns)])
        rows.append(["", "", *(_interval(intervals.get(column)) for column in columns)])
    return _markdown(rows)


def _significance(results: list[Result]) -> list[str]:
    """Each model against the best of its column by a paired two-sided t test over seeds.

    The p-values are not corrected for the number of comparisons.

    Source: Student, "The Probable Error of a Mean", Biometrika 6, 1908, for the test of the mean
    of the differences.
    """
    if len(results) < 2:
        return []
    count = len(results[0].seeds)
    if count < 2:
        return ["", "One run per config: no significance test; --seeds 5 makes five."]
    runs = [result.runs() for result in results]
    columns = [column for column in _COLUMNS if all(column in run for run in runs)]
    rows = [["", *columns], *([result.name] for result in results)]
    for column in columns:
        means = [run[column].mean() for run in runs]
        best = int(np.argmin(means) if column == "LogLoss" else np.argmax(means))
        for k, cells in enumerate(rows[1:]):
            if k == best:
                cells.append("best")
            elif results[k].seeds != results[best].seeds:
                cells.append("other seeds")
            else:
                cells.append(_difference(runs[k][column], runs[best][column]))
    title = (
        f"Mean difference to the best, with p of a paired two-sided t test over {count} seeds "
        "(not corrected for the number of comparisons)"
    )
    return ["", title, "", *_markdown(rows)]


def _beside_references(results: list[Result], references: list[Result]) -> list[str]:
    """Each model against the best simple method of a column: the mean difference over the same
    users (or rows) of values averaged over seeds, with its paired bootstrap interval."""
    found = {column for one in references for column in one.per_user}
    columns = [c for c in _COLUMNS if c in found and any(c in one.per_user for one in results)]
    if not columns:
        return []
    rows = [["", *columns], *([result.name] for result in results)]
    for column in columns:
        means = {one.name: one.per_user[column].mean(axis=0) for one in references}
        best = (min if column == "LogLoss" else max)(means, key=lambda name: means[name].mean())
        rows[0][rows[0].index(column)] = f"{column}, {best}"
        for cells, result in zip(rows[1:], results, strict=True):
            if column not in result.per_user:
                cells.append("")
                continue
            difference = result.per_user[column].mean(axis=0) - means[best]
            interval = bootstrap_mean(difference, samples=affordable_samples(len(difference)))
            cells.append(f"{difference.mean():+.4f} {_interval(interval)}")
    title = (
        "Mean difference to the best simple method, with its paired bootstrap interval over users"
    )
    return ["", title, "", *_markdown(rows)]


def _difference(values: np.ndarray, best: np.ndarray) -> str:
    """Mean difference of paired values, (S,) each, and its p-value where it has one."""
    from scipy.stats import ttest_rel  # slow to import

    difference = values - best
    mean = difference.mean()
    if np.ptp(difference) >= _ROUNDING:
        return f"{mean:+.4f} (p {ttest_rel(values, best).pvalue:.2g})"
    return "equal in every seed" if abs(mean) < _ROUNDING else f"{mean:+.4f} in every seed"


def _columns(results: list[Result]) -> list[str]:
    """The columns that any result has, in their order."""
    return [c for c in _COLUMNS if c == "AUC" or any(c in result.per_user for result in results)]


def _mean(runs: dict[str, np.ndarray], column: str) -> str:
    if column not in runs:
        return ""
    values = runs[column]
    return f"{values.mean():.4f}" + (f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else "")


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def _markdown(rows: list[list[str]]) -> list[str]:
    """Lines of a table whose first row is its head."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
