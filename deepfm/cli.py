"""Command line: parses arguments, calls, prints. A user's mistake is one line, never a traceback.

Exit codes: 0 done; 1 network, disk or a loss that is not a number; 2 a mistake in what was given;
128 + n stopped by signal n (130 is Ctrl-C), with a checkpoint that `--resume` continues.
"""

import argparse
import os
import sys
from pathlib import Path

from deepfm import comparison, experiment
from deepfm.config import DataConfig, load_config
from deepfm.data import ADAPTERS
from deepfm.data.files import check_ending, read_table, write_table
from deepfm.errors import ConfigError, DataError, DeepFMError
from deepfm.prediction import Predictor
from deepfm.training.trainer import Interrupted
from deepfm.utils.logging import LOGGER, configure_logging

_PROBABILITY = "probability"


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    configure_logging()
    parsed = _parser().parse_args(arguments)
    try:
        parsed.run(parsed)
        sys.stdout.flush()
    except DeepFMError as error:
        LOGGER.error(" ".join(str(error).splitlines()))
        return error.exit_code
    except Interrupted as stop:
        LOGGER.warning("stopped and saved; train goes on with --resume, compare by itself")
        return 128 + stop.reason
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _download_data(arguments: argparse.Namespace) -> None:
    defaults = DataConfig()
    folder = Path(arguments.data_dir or defaults.data_dir)
    ADAPTERS[defaults.dataset_name].download(folder)
    LOGGER.info(f"{defaults.dataset_name} is in {folder}")


def _train(arguments: argparse.Namespace) -> None:
    config = load_config(arguments.config, arguments.override)
    if arguments.profile:
        experiment.profile_training(config)
        return
    experiment.train(config, resume=arguments.resume, overwrite=arguments.overwrite)


def _evaluate(arguments: argparse.Namespace) -> None:
    config = load_config(arguments.config) if arguments.config else None
    metrics = experiment.evaluate_checkpoint(
        arguments.checkpoint, config=config, split=arguments.split
    )
    for line in experiment.format_metrics(metrics):
        LOGGER.info(line)


def _predict(arguments: argparse.Namespace) -> None:
    check_ending(Path(arguments.output))
    rows = read_table(arguments.input)
    if _PROBABILITY in rows.column_names:
        raise DataError(f"{arguments.input}: has a column {_PROBABILITY!r} already; rename it")
    try:
        probability = Predictor(arguments.checkpoint).predict(rows)
    except DataError as error:
        raise DataError(f"{arguments.input}: {error}") from None
    write_table(arguments.output, rows.append_column(_PROBABILITY, [probability]))
    LOGGER.info(f"{len(probability):,} rows scored into {arguments.output}")


def _recommend(arguments: argparse.Namespace) -> None:
    if arguments.top < 1:
        raise ConfigError(f"--top: expected at least 1, found {arguments.top}")
    predictor = Predictor(arguments.checkpoint)
    if not predictor.knows_user(arguments.user):
        LOGGER.warning(f"user {arguments.user} is unknown and served as a new user")
    found = predictor.recommend(arguments.user, top=arguments.top)
    for rank, (item, title, probability) in enumerate(found, start=1):
        LOGGER.info(f"{rank:>4}  {probability:.4f}  {item:>8}  {title or ''}".rstrip())


def _compare(arguments: argparse.Namespace) -> None:
    for line in comparison.compare(
        arguments.configs,
        seeds=arguments.seeds,
        references=arguments.references,
        overrides=arguments.override,
    ):
        LOGGER.info(line)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deepfm", description="Train, evaluate and use CTR models."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run, description: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=description, description=description)
        added.set_defaults(run=run)
        return added

    def add_override(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--override", action="append", default=[], metavar="a.b=c", help="change one setting"
        )

    def add_checkpoint(added: argparse.ArgumentParser) -> None:
        added.add_argument("--checkpoint", required=True, help="best_model.pt of a run")

    added = command("download-data", _download_data, "fetch MovieLens-100K")
    added.add_argument("--data-dir", help="where to put it (default: data/ml-100k)")

    added = command("train", _train, "train a model and evaluate it")
    added.add_argument("--config", required=True, help="a YAML file, see configs/")
    add_override(added)
    existing = added.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="continue a stopped run")
    existing.add_argument("--overwrite", action="store_true", help="replace an earlier run")
    existing.add_argument(
        "--profile",
        action="store_true",
        help="only show where the time of 30 steps goes; writes trace.json into the run's folder",
    )

    added = command("evaluate", _evaluate, "metrics of a checkpoint")
    add_checkpoint(added)
    added.add_argument("--config", help="other data paths and evaluation settings")
    added.add_argument("--split", choices=("valid", "test"), default="test")

    added = command("predict", _predict, "probabilities for the raw rows of a file")
    add_checkpoint(added)
    added.add_argument("--input", required=True, help="rows, .csv or .parquet")
    added.add_argument("--output", required=True, help="rows with probability, .csv or .parquet")

    added = command("recommend", _recommend, "a ranked list of items for a user")
    add_checkpoint(added)
    added.add_argument("--user", required=True, help="the user's id")
    added.add_argument("--top", type=int, default=10, help="length of the list (default: 10)")

    added = command("compare", _compare, "train several configs and tabulate their test metrics")
    added.add_argument("configs", nargs="+", help="YAML files")
    added.add_argument("--seeds", type=int, default=1, help="runs per config (default: 1)")
    added.add_argument(
        "--references", action="store_true", help="add popularity, bias, ItemKNN and EASE rows"
    )
    add_override(added)
    return parser
