"""Trained models and what they are worth: train, evaluate, calibrate, compare."""

import argparse

from deepfm.commands.arguments import (
    Commands,
    add_checkpoints,
    add_override,
    config_if_given,
    config_of,
)
from deepfm.commands.processes import in_processes
from deepfm.errors import ConfigError
from deepfm.utils.logging import LOGGER
from deepfm.utils.progress import working


def add(commands: Commands) -> None:
    """Add these commands."""
    added = commands.add("train", in_processes(_train), "train a model and evaluate it")
    added.add_argument("--config", required=True, help="YAML, see configs/, or a pipeline .config")
    add_override(added)
    existing = added.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="continue a stopped run")
    existing.add_argument("--overwrite", action="store_true", help="replace an earlier run")
    existing.add_argument(
        "--profile",
        action="store_true",
        help="only show where the time of 30 steps goes; writes trace.json into the run's folder",
    )
    added.add_argument(
        "--init-from",
        metavar="CHECKPOINT",
        help="start from its weights, with new rows for new values; a path or a URI; a resumed "
        "run has its own",
    )
    added.add_argument(
        "--with-optimizer",
        action="store_true",
        help="and from what its optimizers have gathered: it is a last.pt",
    )

    _add_processes(added)

    added = commands.add("evaluate", in_processes(_evaluate), "metrics of a checkpoint")
    _add_processes(added)
    add_checkpoints(added)
    added.add_argument("--config", help="other data paths and evaluation settings")
    added.add_argument(
        "--split", choices=("valid", "test"), help="test by default, or valid where there is none"
    )
    add_override(added)

    added = commands.add(
        "calibrate", _calibrate, "make a checkpoint's probabilities fit its validation rows"
    )
    added.add_argument("--checkpoint", required=True, help="best_model.pt of a run")
    added.add_argument(
        "--method",
        choices=("temperature", "isotonic"),
        default="temperature",
        help="one factor for all logits (default), or rising steps of any shape",
    )
    added.add_argument("--task", help="one of several tasks (default: all with two classes)")
    added.add_argument(
        "--output", metavar="FILE", help="another file for the calibrated checkpoint"
    )
    added.add_argument(
        "--split",
        choices=("valid", "test"),
        default="valid",
        help="whose rows it is fitted on, and reported on (default: valid)",
    )
    added.add_argument("--config", help="other data paths")
    add_override(added)

    added = commands.add(
        "compare",
        _compare,
        "train several configs and tabulate their test metrics; runs and table.md go to "
        "outputs/compare",
    )
    added.add_argument("configs", nargs="+", help="YAML files")
    added.add_argument("--seeds", type=int, default=1, help="runs per config (default: 1)")
    added.add_argument(
        "--references",
        action="store_true",
        help="add rows of simple methods: base rate, logistic regression and boosting of a table, "
        "popularity, biases, ItemKNN and EASE of a ranking task",
    )
    add_override(added)


def _add_processes(added: argparse.ArgumentParser) -> None:
    added.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="share the work among N processes of this machine; as torchrun, which starts them on "
        "several",
    )


def _train(arguments: argparse.Namespace) -> None:
    with working("loading torch"):
        from deepfm import experiment
        from deepfm.report.automatic import write_automatically
        from deepfm.utils.environment_of_processes import restarts
        from deepfm.utils.workers import workers_of_environment

    with (
        workers_of_environment() as workers,
        config_of(arguments.config, arguments.override) as config,
    ):
        workers.give_up_after(config.distributed.timeout)
        if arguments.profile:
            if not workers.is_alone:
                raise ConfigError("--profile is of one process")
            experiment.profile_training(config)
            return
        goes_on = restarts() > 0  # what it began before is its own
        experiment.train(
            config,
            resume=arguments.resume or goes_on,
            overwrite=arguments.overwrite and not goes_on,
            init_from=arguments.init_from,
            with_optimizer=arguments.with_optimizer,
            afterwards=write_automatically,
            workers=workers,
        )


def _evaluate(arguments: argparse.Namespace) -> None:
    with working("loading torch"):
        from deepfm.experiment import format_metrics
        from deepfm.held_out import evaluate_checkpoint
        from deepfm.several import expanded
        from deepfm.utils.workers import workers_of_environment

    with workers_of_environment() as workers, config_if_given(arguments) as config:
        paths = expanded(arguments.checkpoint)
        metrics = evaluate_checkpoint(paths, config=config, split=arguments.split, workers=workers)
        for line in format_metrics(metrics):
            LOGGER.info(line)


def _calibrate(arguments: argparse.Namespace) -> None:
    with working("loading torch"):
        from deepfm.calibrate import calibrate

    with config_if_given(arguments) as config:
        calibrate(
            arguments.checkpoint,
            method=arguments.method,
            output=arguments.output,
            config=config,
            split=arguments.split,
            task=arguments.task,
        )


def _compare(arguments: argparse.Namespace) -> None:
    with working("loading torch"):
        from deepfm import comparison
    from deepfm.easyrec import is_pipeline

    for path in filter(is_pipeline, arguments.configs):
        raise ConfigError(f"{path}: compare takes YAML; deepfm convert writes it")
    for line in comparison.compare(
        arguments.configs,
        seeds=arguments.seeds,
        references=arguments.references,
        overrides=arguments.override,
    ):
        LOGGER.info(line)
