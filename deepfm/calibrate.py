"""Fits calibrations to a checkpoint on half of its held-out rows, and reports on the other half.

Decided here: which half a row is in follows from a hash of its user where the data has users, so
that no user is in both and a map that only knows these users does not look good; otherwise, and
for users that training has not seen, from a hash of its row number. The map that is stored is
the one that is reported on, not one of all rows. Rankings are not calibrated: their models are
trained with drawn candidates, and a list needs no probabilities.
"""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepfm.config import ExperimentConfig
from deepfm.data.dataset import TabularDataset
from deepfm.data.order import mix
from deepfm.errors import ConfigError, DataError, nearest
from deepfm.evaluation.base_rate import kind_of
from deepfm.evaluation.bootstrap import affordable_samples, bootstrap_auc
from deepfm.evaluation.calibration import METHODS, Calibration
from deepfm.evaluation.calibration_figures import (
    INTERVAL,
    Figure,
    calibration_figures,
    calibration_intervals,
    calibration_noise,
)
from deepfm.evaluation.measures import Array, auc, log_loss
from deepfm.evaluation.scoring import score_tasks
from deepfm.held_out import held_out
from deepfm.objectives import Task
from deepfm.objectives.tasks import doubled
from deepfm.preflight import resolve_device
from deepfm.utils.logging import LOGGER
from deepfm.utils.places import path_of

_SHOWN = {
    "ece": "ECE",
    "noise": "ECE of noise alone",
    "logloss": "LogLoss",
    "normalized_entropy": "normalized entropy",
    "calibration_ratio": "predicted / positives",
    "auc": "AUC",
}
_HELPS = ("ece", "logloss")  # figures that a map is made for


class Halves:
    """Which rows a map is fitted on, and which it is reported on."""

    def __init__(self, rows: TabularDataset) -> None:
        keys = mix(rows.row.astype(np.uint64))
        self.by = "rows"
        if rows.schema.user_field is not None:
            names = [field.name for field in rows.schema.sparse_fields]
            users = rows.inputs.sparse[:, names.index(rows.schema.user_field)].numpy()
            keys = np.where(users > 0, mix(users.astype(np.uint64)), keys)
            self.by = "users"
        self.fitted: NDArray[np.bool_] = keys % np.uint64(2) == 0
        self.reported: NDArray[np.bool_] = ~self.fitted

    def within(self, rows: NDArray[np.bool_]) -> "Halves":
        """Return the same halves of some rows."""
        found = copy.copy(self)
        found.fitted, found.reported = self.fitted & rows, self.reported & rows
        return found


def calibrate(
    path: str | Path,
    *,
    method: str = "temperature",
    output: str | Path | None = None,
    config: ExperimentConfig | None = None,
    split: str = "valid",
    task: str | None = None,
) -> dict[str, tuple[dict[str, Figure], dict[str, Figure]]]:
    """Store a calibration in a checkpoint, in the place of one that it may have.

    Args:
        path: A `best_model.pt` or `last.pt`, or its URI.
        method: One of `METHODS`.
        output: Where the calibrated checkpoint goes; None: it replaces the one that was read. A
            crash leaves that one as it was.
        config: As in `evaluate_checkpoint`.
        split: Whose rows are fitted and reported on.
        task: One of several; None: all that have two classes.

    Returns:
        By task the figures of the half that was not fitted on, before and after.

    Raises:
        ConfigError: There is no such task, split or method, or none that can be calibrated.
        DataError: One half of the rows has labels of one class only.
        CheckpointError: The checkpoint cannot be used.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown calibration {method!r}; {nearest(method, METHODS)}")
    target = path_of(path if output is None else output)
    if not isinstance(target, Path):
        raise ConfigError(
            f"a calibrated checkpoint is written to this machine, found {target}; --output names a "
            "file"
        )
    held = held_out(path, config=config, split=split)
    (checkpoint,) = held.checkpoints
    chosen = _chosen(held.config, task)
    device = resolve_device("auto" if config is None else config.device)
    logits = score_tasks(
        checkpoint.build_model().to(device),
        held.rows.inputs,
        batch_size=held.config.evaluation.batch_size,
    )
    every, maps, found = Halves(held.rows), dict(checkpoint.calibration), {}
    for one in chosen:
        inside = one.in_space(held.rows.label, held.rows.schema) if one.is_of_space else None
        halves = every if inside is None else every.within(inside.numpy())
        label = one.label_of(held.rows.label, held.rows.schema).numpy()
        log_odds = one.log_odds(doubled(logits))
        assert log_odds is not None  # of what has two classes
        fitted, before, after = _fit(method, label, log_odds.numpy(), halves, split, one.name)
        if one.name in maps:
            LOGGER.info(f"{_of(one)}replaces {maps[one.name].described()}")
        maps[one.name], found[one.name] = fitted, (before, after)
        for line in _lines(one, fitted, halves, before, after):
            LOGGER.info(line)
        _warn_of_no_help(one, before, after)
    dataclasses.replace(checkpoint, calibration=maps).save(target)
    LOGGER.info(f"stored in {target}; predict and evaluate apply it")
    return found


def _chosen(config: ExperimentConfig, name: str | None) -> list[Task]:
    """The tasks to calibrate.

    Raises:
        ConfigError: There are none, and why.
    """
    tasks = list(config.task_list())
    if config.task_data().ranks:
        raise ConfigError(
            "a ranking model is not calibrated: with split_strategy leave_one_out it learns from "
            "drawn candidates, whose share of positives is none that rows have elsewhere"
        )
    if name is not None:
        names = [task.name for task in tasks if task.name]
        if name not in names:
            hint = nearest(name, names) if names else "the model has one task, which has no name"
            raise ConfigError(f"--task: unknown task {name!r}; {hint}")
        tasks = [task for task in tasks if task.name == name]
    binary = [task for task in tasks if kind_of(task) == "binary" and "numbers" not in task.gives]
    if not binary:
        task = tasks[0]
        why = "its logit stands for a number, and not for a probability alone"
        if kind_of(task) == "classes":
            why = f"it has {task.num_class} classes, and a map of one logit is for two"
        raise ConfigError(f"{_of(task)}cannot be calibrated: {why}")
    return binary


def _fit(
    method: str, label: Array, logit: Array, halves: Halves, split: str, task: str
) -> tuple[Calibration, dict[str, Figure], dict[str, Figure]]:
    """A map of one half, with the figures of the other before and after it."""
    rows = int(halves.fitted.sum() + halves.reported.sum())
    for half in (halves.fitted, halves.reported):
        if len(np.unique(label[half])) < 2:
            raise DataError(
                f"half of the {rows:,} rows of {split}, split by {halves.by}, has no two "
                f"classes{f' of {task}' if task else ''}: there is nothing to calibrate by"
            )
    fitted = METHODS[method].fit(label[halves.fitted], logit[halves.fitted], split=split)
    label, logit = label[halves.reported], logit[halves.reported]
    return fitted, _figures(label, logit), _figures(label, fitted.apply(logit))


def _figures(label: Array, logit: Array) -> dict[str, Figure]:
    """The figures in `_SHOWN` with their intervals."""
    samples = affordable_samples(len(label))
    interval = bootstrap_auc(label, logit[None], samples=samples)
    return calibration_figures(label, logit) | {
        "logloss": log_loss(label, logit),
        f"logloss{INTERVAL}": calibration_intervals(label, logit)["logloss"],
        "noise": calibration_noise(logit),
        "auc": auc(label, logit),
        f"auc{INTERVAL}": None if interval is None else list(interval),
    }


def _lines(
    task: Task,
    fitted: Calibration,
    halves: Halves,
    before: Mapping[str, Figure],
    after: Mapping[str, Figure],
) -> Iterator[str]:
    """A table of the figures of the half that was not fitted on."""
    yield (
        f"{_of(task)}{fitted.described()}, fitted on {fitted.rows:,} rows of {fitted.split}; of "
        f"the other {halves.reported.sum():,}, by {halves.by}:"
    )
    yield f"{'':<22}{'before':>26}{'after':>26}"
    for name, title in _SHOWN.items():
        yield f"{title:<22}" + "".join(f"{_cell(part, name):>26}" for part in (before, after))


def _cell(figures: Mapping[str, Figure], name: str) -> str:
    value, interval = figures[name], figures.get(f"{name}{INTERVAL}")
    assert isinstance(value, float)  # both classes are there
    return f"{value:.4f}" + (
        f" [{interval[0]:.4f}, {interval[1]:.4f}]" if isinstance(interval, list) else ""
    )


def _warn_of_no_help(task: Task, before: Mapping[str, Figure], after: Mapping[str, Figure]) -> None:
    """Say of a map that it does not help on the rows that it was not fitted on."""
    worse = []
    for name in _HELPS:
        was, now = before[name], after[name]
        if isinstance(was, float) and isinstance(now, float) and now >= was:
            worse.append(f"{_SHOWN[name]} was {was:.4f} and is {now:.4f}")
    if worse:
        LOGGER.warning(
            f"{_of(task)}the map does not help on the rows it was not fitted on: {', '.join(worse)}"
        )


def _of(task: Task) -> str:
    return f"{task.name}: " if task.name else ""
