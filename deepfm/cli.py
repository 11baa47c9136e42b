"""Command line: parses arguments, calls, prints. A user's mistake is one line, never a traceback.

Exit codes: 0 done; 1 network, disk or a loss that is not a number; 2 a mistake in what was given;
128 + n stopped by signal n (130 is Ctrl-C), with a checkpoint that `--resume` continues.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import deepfm
from deepfm.errors import ConfigError, DataError, DeepFMError, nearest
from deepfm.utils.interrupt import Interrupted
from deepfm.utils.logging import LOGGER, ProgressBar, configure_logging
from deepfm.utils.openmp import wait_passively

if TYPE_CHECKING:
    import pyarrow as pa

    from deepfm.config import ExperimentConfig


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    configure_logging()
    wait_passively()
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
    except MemoryError:
        LOGGER.error("the memory is full; smaller batches or dims need less")
        return 1
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _download_data(arguments: argparse.Namespace) -> None:
    from deepfm.config import DataConfig
    from deepfm.data.sources import movielens

    defaults = DataConfig()
    folder = Path(arguments.data_dir or defaults.data_dir)
    movielens.download(folder)
    LOGGER.info(f"{defaults.dataset_name} is in {folder}")


def _describe(arguments: argparse.Namespace) -> None:
    from deepfm.data.sources.describe import Wishes, describe, to_lines, to_yaml
    from deepfm.utils.io import atomic_write_bytes

    if (arguments.file is None) == (arguments.data is None):
        raise ConfigError("describe: expected one file of rows, describe FILE")
    data = arguments.file or arguments.data
    output = Path(arguments.output or f"{Path(data).name.split('.')[0]}.yaml")
    if output.exists():
        raise ConfigError(f"{output} exists already; --output writes elsewhere")
    wishes = Wishes(
        arguments.label, arguments.positive, arguments.user, arguments.item, arguments.time
    )
    found = describe(data, valid=arguments.valid, wishes=wishes, encoding=arguments.encoding)
    for line in to_lines(found):
        LOGGER.info(line)
    for note in found.notes:
        LOGGER.info(note)
    for warning in found.warnings:
        LOGGER.warning(warning)
    atomic_write_bytes(output, to_yaml(found).encode())
    LOGGER.info(f"{found.rows:,} rows looked at; a first config is in {output}: look at it, then")
    LOGGER.info(f"python -m deepfm train --config {output}")
    if arguments.baseline:
        from deepfm import experiment
        from deepfm.config import load_config

        for line in experiment.baselines(load_config(output)):
            LOGGER.info(line)


@contextmanager
def _config(path: str, overrides: Sequence[str] = ()) -> "Iterator[ExperimentConfig]":
    """A config in YAML, or a pipeline of TorchEasyRec; while it lasts, errors name its lines."""
    from deepfm.config import load_config
    from deepfm.easyrec import is_pipeline

    if not is_pipeline(path):
        yield load_config(path, overrides)
        return
    from deepfm.easyrec.pipelines import lines_in_errors, load_pipeline

    loaded = load_pipeline(path, overrides)
    with lines_in_errors(loaded):
        yield loaded.config


def _convert(arguments: argparse.Namespace) -> None:
    from deepfm.easyrec import is_pipeline
    from deepfm.easyrec.pipelines import lines_in_errors, load_pipeline
    from deepfm.preflight import describe_size
    from deepfm.utils.io import atomic_write_bytes

    output = Path(arguments.output)
    if not is_pipeline(arguments.config):
        raise ConfigError(f"{arguments.config}: expected a pipeline, .config or .json")
    if is_pipeline(output) or output.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{output}: expected a file that ends in .yaml")
    if output.exists() and not arguments.overwrite:
        raise ConfigError(f"{output} exists already; --overwrite replaces it")
    loaded = load_pipeline(arguments.config, arguments.override, is_read=False)
    with lines_in_errors(loaded):
        for line in describe_size(loaded.config):
            LOGGER.info(line)
    atomic_write_bytes(output, loaded.text.encode())
    LOGGER.info(f"the same experiment is in {output}; python -m deepfm train --config {output}")


def _prepare(arguments: argparse.Namespace) -> None:
    from deepfm import experiment

    with _config(arguments.config, arguments.override) as config:
        path = experiment.prepare_data(config, verify=arguments.verify)
    LOGGER.info(f"the data is in {path}")


def _train(arguments: argparse.Namespace) -> None:
    from deepfm import experiment

    with _config(arguments.config, arguments.override) as config:
        if arguments.profile:
            experiment.profile_training(config)
            return
        experiment.train(
            config,
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            init_from=arguments.init_from,
        )


def _evaluate(arguments: argparse.Namespace) -> None:
    from deepfm.experiment import format_metrics
    from deepfm.held_out import evaluate_checkpoint
    from deepfm.several import expanded

    with _config_if_given(arguments) as config:
        paths = expanded(arguments.checkpoint)
        metrics = evaluate_checkpoint(paths, config=config, split=arguments.split)
    for line in format_metrics(metrics):
        LOGGER.info(line)


def _config_if_given(
    arguments: argparse.Namespace,
) -> "AbstractContextManager[ExperimentConfig | None]":
    """The config that takes the place of a checkpoint's own."""
    if arguments.config:
        return _config(arguments.config, arguments.override)
    if arguments.override:
        raise ConfigError("--override changes a config: name it with --config")
    return nullcontext()


def _calibrate(arguments: argparse.Namespace) -> None:
    from deepfm.calibrate import calibrate

    with _config_if_given(arguments) as config:
        calibrate(
            arguments.checkpoint,
            method=arguments.method,
            output=arguments.output,
            config=config,
            split=arguments.split,
            task=arguments.task,
        )


def _predict(arguments: argparse.Namespace) -> None:
    from deepfm.data.files.writer import TableWriter, writable_format
    from deepfm.prediction import Predictor
    from deepfm.several import expanded
    from deepfm.utils.startup import leave_pandas_out

    leave_pandas_out()
    source, output = arguments.input, arguments.output
    writable_format(Path(output))
    checkpoints = expanded(arguments.checkpoint)
    read = (("--input", source), *(("--checkpoint", path) for path in checkpoints))
    for name, given in read:
        with suppress(OSError, ValueError):  # one of them is not there
            if os.path.samefile(given, output):
                raise ConfigError(f"--output {output} is the file of {name}; name another")
    if os.path.exists(output) and not arguments.overwrite:
        raise ConfigError(f"{output} exists already; --overwrite replaces it")
    predictor = Predictor(checkpoints)
    count = 0
    unknown: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    with TableWriter(output) as writer, ProgressBar("predict", total=100) as bar:
        for rows, predictions, unknown_here, bad_here in predictor.predict_file(source):
            writer.write(_with_predictions(source, rows.table, arguments.columns, predictions))
            count += rows.table.num_rows
            unknown.update(unknown_here)
            bad.update(bad_here)
            if bar.due():
                bar.show(int(100 * rows.done), f"{count:,} rows")
    counts = _counts("unknown values", unknown) + _counts("values that cannot be read", bad)
    LOGGER.info(f"{count:,} rows scored into {output}{counts}")


def _with_predictions(
    source: str, table: "pa.Table", columns: str | None, predictions: "dict[str, pa.Array]"
) -> "pa.Table":
    chosen = columns.split(",") if columns is not None else table.column_names
    for name in chosen:
        if name not in table.column_names:
            hint = nearest(name, table.column_names)
            raise DataError(f"--columns: {source} has no column {name!r}; {hint}")
    table = table.select(chosen)
    for name, values in predictions.items():
        if name in chosen:
            raise DataError(
                f"{source}: has a column {name!r} already; rename it or leave it out of --columns"
            )
        table = table.append_column(name, values)
    return table


def _counts(title: str, counts: Counter[str]) -> str:
    """The largest counts as the end of a line, empty if all are zero."""
    found = [(name, count) for name, count in counts.most_common() if count]
    shown = [f"{name} {count:,}" for name, count in found[:5]]
    if len(found) > len(shown):
        shown.append(f"{len(found) - len(shown)} more")
    return f"; {title}: {', '.join(shown)}" if found else ""


def _recommend(arguments: argparse.Namespace) -> None:
    from deepfm.prediction import Predictor, ScoredItem
    from deepfm.several import expanded
    from deepfm.utils.startup import leave_pandas_out

    leave_pandas_out()
    if arguments.top < 1:
        raise ConfigError(f"--top: expected at least 1, found {arguments.top}")
    predictor = Predictor(expanded(arguments.checkpoint))
    if not predictor.knows_user(arguments.user):
        LOGGER.warning(f"user {arguments.user} is unknown and served as a new user")
    history = None if arguments.history is None else arguments.history.split(",")
    found = predictor.recommend(
        arguments.user, top=arguments.top, history=history, time=arguments.time
    )
    if found and isinstance(found[0], ScoredItem):
        LOGGER.info("rank   score      item")  # in the place of probabilities
    for rank, (item, title, value) in enumerate(found, start=1):
        LOGGER.info(f"{rank:>4}  {value:.4f}  {item:>8}  {title or ''}".rstrip())


def _compare(arguments: argparse.Namespace) -> None:
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


def _config_help(arguments: argparse.Namespace) -> None:
    from deepfm.config_help import commented_yaml, json_schema

    if arguments.json_schema:
        text = json_schema(arguments.model)
    elif arguments.model is not None:
        text = commented_yaml(arguments.model)
    else:
        from deepfm.models import MODELS

        raise ConfigError(f"--model: a value is needed; {nearest('', MODELS)}")
    sys.stdout.write(text)


def _models(arguments: argparse.Namespace) -> None:
    from deepfm.model_help import in_full, listed

    sys.stdout.write(listed() if arguments.name is None else in_full(arguments.name))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deepfm", description="Train, evaluate and use CTR models."
    )
    parser.add_argument("--version", action="version", version=f"deepfm {deepfm.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(
        name: str, run: Callable[[argparse.Namespace], None], description: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=description, description=description)
        added.set_defaults(run=run)
        return added

    def add_override(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--override",
            action="extend",
            nargs="+",
            default=[],
            metavar="a.b=c",
            help="change settings; may be given several times",
        )

    def add_checkpoints(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--checkpoint",
            required=True,
            nargs="+",
            help="best_model.pt of a run; of several, or of a pattern such as 'runs/*/best_model"
            ".pt', the logits are averaged",
        )

    added = command("download-data", _download_data, "fetch MovieLens-100K")
    added.add_argument("--data-dir", help="where to put it (default: data/ml-100k)")

    added = command("describe", _describe, "guess a config for a file of rows")
    added.add_argument(
        "file", nargs="?", help="rows, .csv, .tsv (plain, .gz, .zst or .zip) or .parquet"
    )
    added.add_argument("--data", help="the same, by name")
    added.add_argument("--valid", metavar="FILE", help="validation rows in a file of their own")
    added.add_argument("--label", metavar="COLUMN", help="what is to be predicted")
    added.add_argument(
        "--positive", metavar="VALUE", help="the value of the label that counts as 1"
    )
    added.add_argument("--user", metavar="COLUMN", help="whose row it is")
    added.add_argument("--item", metavar="COLUMN", help="what the row is about")
    added.add_argument("--time", metavar="COLUMN", help="when it was")
    added.add_argument("--encoding", default="utf-8", help="of a text file (default: utf-8)")
    added.add_argument("--output", help="where to write the YAML (default: <file name>.yaml)")

    added.add_argument(
        "--baseline",
        action="store_true",
        help="then show what base rate, logistic regression and boosting reach with that config",
    )

    added = command("config", _config_help, "print every key that a model reads, as YAML")
    added.add_argument("--model", help="a model_name")
    added.add_argument(
        "--json-schema", action="store_true", help="print a JSON schema for editors instead"
    )

    added = command("models", _models, "list the models: what each is, its options, its source")
    added.add_argument("name", nargs="?", help="one of them, in full")

    added = command("convert", _convert, "write a pipeline of TorchEasyRec as a YAML config")
    added.add_argument("--config", required=True, help="a pipeline, .config or .json")
    added.add_argument("--output", required=True, help="where to write the YAML")
    added.add_argument("--overwrite", action="store_true", help="replace that file")
    add_override(added)

    added = command("prepare", _prepare, "encode a declared table once, for any number of runs")
    added.add_argument("--config", required=True, help="YAML, see configs/, or a pipeline .config")
    added.add_argument(
        "--verify", action="store_true", help="compare all checksums; what is damaged is made again"
    )
    add_override(added)

    added = command("train", _train, "train a model and evaluate it")
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
        help="start from its weights, with new rows for new values; a resumed run has its own",
    )

    added = command("evaluate", _evaluate, "metrics of a checkpoint")
    add_checkpoints(added)
    added.add_argument("--config", help="other data paths and evaluation settings")
    added.add_argument(
        "--split", choices=("valid", "test"), help="test by default, or valid where there is none"
    )
    add_override(added)

    added = command(
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

    added = command("predict", _predict, "predictions for the raw rows of a file")
    add_checkpoints(added)
    added.add_argument(
        "--input", required=True, help="rows, .csv, .tsv (plain, .gz or .zst) or .parquet"
    )
    added.add_argument(
        "--output",
        required=True,
        help="rows with predictions, .csv, .tsv (plain, .gz or .zst) or .parquet",
    )
    added.add_argument("--overwrite", action="store_true", help="replace that file")
    added.add_argument(
        "--columns", metavar="a,b,c", help="columns of the input to write (default: all)"
    )

    added = command("recommend", _recommend, "a ranked list of items for a user")
    add_checkpoints(added)
    added.add_argument("--user", required=True, help="the user's id")
    added.add_argument("--top", type=int, default=10, help="length of the list (default: 10)")
    added.add_argument(
        "--history",
        metavar="a,b,c",
        help="items, the oldest first, in the place of what the user did, for a model that reads "
        "it",
    )
    added.add_argument(
        "--time", help="what now is for such a model (default: the newest event that it knows)"
    )

    added = command(
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
    return parser
