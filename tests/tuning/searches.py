"""Searches that take a second, and processes that run them and can be killed."""

import multiprocessing
import os
import signal
from pathlib import Path

import torch

from deepfm.config import ExperimentConfig
from deepfm.tuning.space import Choices, Range
from deepfm.tuning.study import Claim
from deepfm.tuning.tune import tune
from tests import clicks

SPACE = {
    "training.lr": Range(1e-3, 1e-1, log=True),
    "dnn.hidden_units": Choices(([8], [16, 8])),
    "dnn.dropout": Range(0.0, 0.5),
}


def config(folder: Path, **changes: object) -> ExperimentConfig:
    if not (folder / "rows.csv").exists():
        clicks.write_rows(folder, count=600)
    return clicks.config(folder, **changes)


def search(folder: Path, name: str = "study", trials: int = 4, **options: object):
    torch.set_num_threads(1)
    return tune(
        config(folder, training__early_stopping_patience=None),
        options.pop("space", SPACE),
        folder=folder / name,
        trials=trials,
        **options,
    )


def dies_in_trial(folder: Path, number: int, epochs: float, trials: int) -> None:
    """A search whose process is killed at an evaluation of one of its trials."""
    report = Claim.report

    def report_and_die(claim, so_far, value):
        found = report(claim, so_far, value)
        if claim.number == number and so_far == epochs:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    Claim.report = report_and_die
    search(folder, trials=trials)


def process(target, *arguments):
    """A process that has all imports behind it, and shares no thread with this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    started = context.Process(target=target, args=arguments)
    started.start()
    return started
