"""Trains several configs over several seeds and tabulates what they reach on the test split.

Intervals are 95 % bootstrap intervals over the evaluated users, of values averaged over seeds;
`±` is the standard deviation over seeds.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet
import yaml

from deepfm import experiment
from deepfm.checkpoint import RunDirectory
from deepfm.config import ExperimentConfig, load_config
from deepfm.data.dataset import TabularDataset
from deepfm.data.download import DownloadError
from deepfm.errors import ConfigError, MissingDataError
from deepfm.evaluation.metrics import bootstrap_auc, bootstrap_mean
from deepfm.evaluation.ranking import RankCounts, hit_rate, ndcg, rank_counts
from deepfm.evaluation.references import REFERENCES, Training
from deepfm.evaluation.scoring import SHORT_RANKING
from deepfm.utils.io import atomic_write_bytes
from deepfm.utils.logging import LOGGER

FOLDER = Path("outputs/compare")
_COLUMNS = ("AUC", "LogLoss", "HR@10 of 100", "NDCG@10 of 100", "HR@10", "NDCG@10")


class Result(NamedTuple):
    """The test results of one row of the table, over S runs.

    Attributes:
        name: Config or reference.
        label: Of the N held-out rows.
        scores: Per run, (S, N); anything that ranks rows as the model does.
        per_user: By metric name, values per run and user (or row), (S, U).
    """

    name: str
    label: np.ndarray
    scores: np.ndarray
    per_user: dict[str, np.ndarray]

    def cells(self) -> dict[str, tuple[float, float, tuple[float, float]]]:
        """By column: mean over seeds, their standard deviation, and the interval over users."""
        from sklearn.metrics import roc_auc_score  # slow to import

        auc = np.array([roc_auc_score(self.label, scores) for scores in self.scores])
        cells = {"AUC": (auc.mean(), _deviation(auc), bootstrap_auc(self.label, self.scores))}
        for name, values in self.per_user.items():
            runs = values.mean(axis=1)
            cells[name] = (runs.mean(), _deviation(runs), bootstrap_mean(values.mean(axis=0)))
        return cells


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
    results: dict[str, list[Result]] = {}
    measured: dict[str, ExperimentConfig] = {}
    for name, config in configs.items():
        try:
            runs = [_run(name, config, config.seed + offset) for offset in range(seeds)]
        except (MissingDataError, DownloadError) as error:
            LOGGER.warning(f"{name} is skipped: {error}")
            continue
        results.setdefault(config.data.dataset_name, []).append(_result(name, runs))
        measured.setdefault(config.data.dataset_name, config)
    lines = []
    for dataset, rows in results.items():
        if references:
            rows = rows + _references(measured[dataset])
        lines += ["", f"{dataset}, test split", "", *_table(rows)]
    if lines:
        atomic_write_bytes(FOLDER / "table.md", "\n".join([*lines, ""]).encode())
    return lines


def _run(name: str, config: ExperimentConfig, seed: int) -> RunDirectory:
    """The finished run of a config with a seed, trained now if need be."""
    folder = FOLDER / f"{name}-{seed}"
    config = dataclasses.replace(config, seed=seed, output_dir=str(folder))
    run = RunDirectory(folder)
    equal = run.config.exists() and yaml.safe_load(run.config.read_text()) == config.to_dict()
    if equal and run.metrics.exists():
        LOGGER.info(f"{folder}: finished earlier")
    else:
        experiment.train(config, resume=equal, overwrite=not equal)
    return run


def _result(name: str, runs: list[RunDirectory]) -> Result:
    predictions = [pyarrow.parquet.read_table(run.predictions) for run in runs]
    label = predictions[0]["label"].to_numpy()
    probability = np.stack([table["probability"].to_numpy() for table in predictions])
    likely = np.clip(np.where(label > 0, probability, 1.0 - probability), 1e-15, None)
    per_user = {"LogLoss": -np.log(likely)}
    ranks = [pyarrow.parquet.read_table(run.ranks) for run in runs]
    for column, suffix in (("HR@10 of 100", "_99"), ("HR@10", "")):
        counts = [
            RankCounts(table[f"above{suffix}"].to_numpy(), table[f"tied{suffix}"].to_numpy())
            for table in ranks
        ]
        per_user |= _ranking_values(column, counts)
    return Result(name, label, probability, per_user)


def _ranking_values(column: str, counts: list[RankCounts]) -> dict[str, np.ndarray]:
    def values(metric: Callable[[RankCounts, int], np.ndarray]) -> np.ndarray:
        return np.stack([metric(run, 10) for run in counts])

    return {column: values(hit_rate), column.replace("HR", "NDCG"): values(ndcg)}


def _references(config: ExperimentConfig) -> list[Result]:
    """What simple recommenders reach on the same split and candidates."""
    data = experiment.load_data(config)
    events, rows = data.events, data.events.split.train
    training = Training(
        events.user[rows],
        events.item[rows],
        events.rating[rows].astype(np.float64),
        events.label[rows] > 0,
        len(events.tables.users),
        len(events.tables.items),
    )
    found = []
    for name, reference in REFERENCES.items():
        found.append(_reference_result(name, reference(training), data.test, events))
    return found


def _reference_result(
    name: str, scores: np.ndarray, test: TabularDataset, events: experiment.Events
) -> Result:
    user, task = events.user[test.row], test.ranking
    ranked = scores[user[task.rows][:, None], task.items]
    per_user: dict[str, np.ndarray] = {}
    for column, size in (("HR@10 of 100", SHORT_RANKING), ("HR@10", task.num_negatives)):
        part = slice(0, 1 + size)
        counts = rank_counts(ranked[:, part], task.items[:, part] >= 0)
        per_user |= _ranking_values(column, [counts])
    label = test.label.numpy()
    return Result(name, label, scores[user, events.item[test.row]][None], per_user)


def _table(results: list[Result]) -> list[str]:
    """A Markdown table; the intervals stand in a second row below each result."""
    rows = [["", "runs", *_COLUMNS]]
    for result in results:
        cells = result.cells()
        means, intervals = [result.name, str(len(result.scores))], ["", ""]
        for column in _COLUMNS:
            mean, deviation, interval = cells.get(column, (None, None, None))
            spread = f" ± {deviation:.4f}" if deviation is not None else ""
            means.append("" if mean is None else f"{mean:.4f}{spread}")
            intervals.append("" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]")
        rows += [means, intervals]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _deviation(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None
