"""Searches for better settings of a config: trials, each a run, compared on validation rows.

The test split is never read: no trial has it, and files that hold nothing else are not opened.
"""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from deepfm import experiment
from deepfm.checkpoint import flatten
from deepfm.config import ExperimentConfig
from deepfm.errors import ConfigError, DivergenceError
from deepfm.evaluation.scoring import reported_as
from deepfm.objectives.tasks import is_larger_better, watched_metrics
from deepfm.preflight import check_settings
from deepfm.tuning.results import write_results
from deepfm.tuning.space import Space, settings_of, with_settings
from deepfm.tuning.study import Claim, Plan, Study, Trial
from deepfm.utils.logging import LOGGER, quiet
from deepfm.utils.settings import settings_text

_PAUSE = 0.5  # seconds between two looks at trials of other processes


def tune(
    config: ExperimentConfig,
    space: Space,
    *,
    folder: str | Path,
    trials: int,
    timeout: float | None = None,
    sampler: str = "tpe",
    seed: int = 0,
) -> list[Trial]:
    """Run trials until the folder has so many, write what they found, and return them all.

    Any number of processes may do so at a time, with equal arguments; each returns when all trials
    have ended. With one process, equal arguments give equal trials. The first trial is the config
    as it stands, if its values lie in the space.

    Args:
        config: What is changed; `training.metric` is compared.
        space: How.
        folder: Of the trials, and of what is written: `best.yaml`, `trials.md`, `trials.json`.
        trials: Of all processes and calls together.
        timeout: Seconds after which no trial begins, and nobody waits for those of others.
        sampler: `tpe` learns from the trials so far, `random` does not.
        seed: Of what is tried; a trial trains with the config's own.

    Raises:
        ConfigError: A setting is wrong, or the folder holds another search.
        DataError: The data is missing, or not what the config says.
        DeepFMError: Network or disk failed, or no trial has finished.
        Interrupted: A signal arrived; the trial goes on when the search does.
    """
    if trials < 1:
        raise ConfigError(f"--trials: expected at least 1, found {trials}")
    folder = Path(folder)
    tried = without_test(config)
    check_settings(tried)
    study = Study(folder, _plan(tried, space, sampler, seed))
    if len(study.plan.first) < len(space):
        missing = ", ".join(key for key in space if key not in study.plan.first)
        LOGGER.info(f"no trial is the config as it stands: its {missing} lies outside of the space")
    end = None if timeout is None else time.monotonic() + timeout
    is_first = True
    while True:
        may_begin = end is None or time.monotonic() < end
        with study.claimed(trials, may_begin=may_begin) as claim:
            if claim is not None:
                _run(study, claim, tried, show_warnings=is_first)
                is_first = False
                continue
        if not may_begin or not study.is_running():
            break
        time.sleep(_PAUSE)  # a process that dies leaves its trial to this one
    found = study.trials()
    for line in write_results(study, config):
        LOGGER.info(line)
    return found


def without_test(config: ExperimentConfig) -> ExperimentConfig:
    """A config without files that hold test rows only, where its split can do without them."""
    data = config.data
    if data.table is None or "test_files" in data.split.needs:
        return config
    return replace(config, data=replace(data, table=replace(data.table, test_files=())))


def _plan(config: ExperimentConfig, space: Space, sampler: str, seed: int) -> Plan:
    plain = config.to_dict()
    del plain["output_dir"]
    metric = config.training.metric
    return Plan(
        config=plain,
        space=space,
        metric=metric,
        maximize=is_larger_better(metric),
        sampler=sampler,
        seed=seed,
        first=settings_of(space, config),
    )


class _Pruned(Exception):
    """The trial is worse than others were at this point."""


class _Reporter:
    """A tracker that reports the watched metric of each evaluation, and ends a trial by it."""

    def __init__(self, claim: Claim, metric: str) -> None:
        self._claim, self._metric = claim, metric

    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        pass

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        of_valid = {
            name.removeprefix("valid/"): v for name, v in figures.items() if "valid/" in name
        }
        value = of_valid.get(reported_as(self._metric, of_valid))
        if value is not None and self._claim.report(figures["epoch"], value):
            raise _Pruned(f"worse than the median after {figures['epoch']:.4g} epochs")

    def finish(self, metrics: Mapping[str, Any] | None) -> None:
        pass


def _run(study: Study, claim: Claim, config: ExperimentConfig, *, show_warnings: bool) -> None:
    """Train a trial to its end, whatever that is, and say so in a line."""
    metric = config.training.metric
    try:
        used = with_settings(config, claim.trial().settings)
        used = replace(used, output_dir=str(claim.run.path))
        is_begun = claim.run.last.exists()
        with quiet(warnings=show_warnings):
            metrics = experiment.train(
                used,
                resume=is_begun,
                overwrite=not is_begun,
                validation_only=True,
                trackers=[_Reporter(claim, metric)],
            )
        value = _final_value(claim, used, metrics["valid"])
        if value is None:
            claim.end("failed", None, f"{metric} does not exist on the validation rows")
        else:
            claim.end("finished", value)
    except _Pruned as pruned:
        claim.end("pruned", None, str(pruned))
    except (ConfigError, DivergenceError) as error:  # of these settings; all else is of every trial
        claim.end("failed", None, str(error))
    except (MemoryError, torch.OutOfMemoryError):
        claim.end("failed", None, "the memory is full")
    with contextlib.suppress(OSError):  # of no use any more, and by far the largest file
        claim.run.last.unlink()
    _say(study, claim.trial())


def _final_value(claim: Claim, config: ExperimentConfig, valid: Mapping[str, Any]) -> float | None:
    """The watched metric of the weights that a trial ends with, which may be a mean of several.

    Args:
        valid: The final figures of the validation rows; those in the course of training count where
            a metric is none of `evaluation.metrics`.
    """
    figures = flatten(dict(valid))
    names = [reported_as(name, figures) for name in watched_metrics(config.training.metric)]
    if all(name in figures for name in names):
        values = [figures[name] for name in names if figures[name] is not None]
        return sum(values) / len(values) if len(values) == len(names) else None
    seen = [value for _, value in claim.trial().evaluations]
    if config.training.keep == "best":
        seen.sort(reverse=not is_larger_better(config.training.metric))
    return seen[-1] if seen else None


def _say(study: Study, trial: Trial) -> None:
    best = study.best()
    is_best = best is not None and best.number == trial.number
    value = "" if trial.value is None else f"  valid {study.plan.metric} {trial.value:.4f}"
    reason = f"  {trial.reason}" if trial.reason else ""
    LOGGER.info(
        f"trial {trial.number}  {trial.state}{value}{' (best)' if is_best else ''}{reason}  "
        f"{settings_text(trial.settings)}"
    )
