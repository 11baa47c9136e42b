"""From raw rows to prepared ones: download-data, describe, convert, prepare."""

import argparse
from pathlib import Path

from deepfm.commands.arguments import Commands, add_override, config_of
from deepfm.errors import ConfigError
from deepfm.utils.logging import LOGGER


def add(commands: Commands) -> None:
    """Add these commands."""
    added = commands.add("download-data", _download_data, "fetch MovieLens-100K")
    added.add_argument("--data-dir", help="where to put it (default: data/ml-100k)")

    added = commands.add("describe", _describe, "guess a config for a file of rows")
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

    added = commands.add("convert", _convert, "write a pipeline of TorchEasyRec as a YAML config")
    added.add_argument("--config", required=True, help="a pipeline, .config or .json")
    added.add_argument("--output", required=True, help="where to write the YAML")
    added.add_argument("--overwrite", action="store_true", help="replace that file")
    add_override(added)

    added = commands.add(
        "prepare", _prepare, "encode a declared table once, for any number of runs"
    )
    added.add_argument("--config", required=True, help="YAML, see configs/, or a pipeline .config")
    added.add_argument(
        "--verify", action="store_true", help="compare all checksums; what is damaged is made again"
    )
    added.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes that share the rows (default: 1); the store is the same for any number",
    )
    added.add_argument(
        "--shard",
        metavar="i/n",
        help="do the next step of shard i of n, from 0, on any machine that shares the directory",
    )
    added.add_argument(
        "--merge", action="store_true", help="make the store of what all shards have done"
    )
    added.add_argument(
        "--append",
        action="store_true",
        help="append the rows of new files to the store of those before: known values keep their "
        "ids",
    )
    added.add_argument(
        "--as",
        dest="placed",
        choices=("train", "valid"),
        help="where appended rows go (default: where data.split_strategy says, if it can)",
    )
    added.add_argument(
        "--part",
        metavar="i/n",
        help="copy what host i of n, from 0, needs for data.order: sharded; with --into",
    )
    added.add_argument("--into", metavar="DIR", help="the host's own folder of stores")
    add_override(added)


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
    from deepfm.utils.places import refuse_remote

    if (arguments.file is None) == (arguments.data is None):
        raise ConfigError("describe: expected one file of rows, describe FILE")
    data = arguments.file or arguments.data
    output = Path(arguments.output or f"{Path(data).name.split('.')[0]}.yaml")
    if output.exists():
        raise ConfigError(f"{output} exists already; --output writes elsewhere")
    for name in filter(None, (data, arguments.valid, arguments.output)):
        refuse_remote(name, "", "describe reads and writes on this machine; copy some rows here")
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
    from deepfm import preparing
    from deepfm.utils.startup import leave_pandas_out

    leave_pandas_out()
    given = [
        name for name in ("shard", "merge", "part", "verify", "append") if getattr(arguments, name)
    ]
    is_alone = given and given[0] in ("shard", "merge", "part") and arguments.workers != 1
    if arguments.placed and given != ["append"]:
        raise ConfigError("--as says where the rows of --append go")
    if len(given) > 1 or is_alone:
        names = [f"--{name}" for name in given] + ["--workers"] * (arguments.workers != 1)
        raise ConfigError(f"expected one of {' and '.join(names)}")
    if (arguments.part is None) != (arguments.into is None):
        raise ConfigError("--part i/n and --into DIR go together")
    with config_of(arguments.config, arguments.override) as config:
        if arguments.part:
            path = preparing.prepare_part(config, arguments.part, Path(arguments.into))
            LOGGER.info(f"the data of shard {arguments.part} is in {path}")
            return
        if arguments.shard:
            preparing.prepare_shard(config, arguments.shard)
            return
        if arguments.merge:
            path = preparing.merge_shards(config)
            LOGGER.info(f"the data is in {path}")
            return
        if arguments.append:
            path = preparing.append_data(config, arguments.placed, workers=arguments.workers)
            LOGGER.info(f"the data is in {path}")
            return
        path = preparing.prepare_data(config, verify=arguments.verify, workers=arguments.workers)
    LOGGER.info(f"the data is in {path}")
