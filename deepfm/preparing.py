"""Encoding a declared table once, for any number of runs; nothing here needs torch."""

from pathlib import Path

from deepfm.config import ExperimentConfig
from deepfm.data.declared import declared_schema, label_rules
from deepfm.data.schema import DatasetSchema
from deepfm.data.splits import SPLITS
from deepfm.data.store import prepare as stores
from deepfm.data.store.append import append
from deepfm.data.store.shard import Shard
from deepfm.errors import ConfigError
from deepfm.objectives.checks import check_losses


def prepare_data(config: ExperimentConfig, *, verify: bool = False, workers: int = 1) -> Path:
    """Encode a declared table into its store, unless that is there, and return its directory.

    Args:
        verify: Compare all checksums of a store that is there.
        workers: How many processes share the rows.

    Raises:
        ConfigError: The data is none that is prepared, settings contradict each other, or a loss
            does not fit the label.
        DataError: A file is missing or not what the config says.
        DeepFMError: The disk refuses.
    """
    schema = _checked_schema(config)
    labels = label_rules(config, schema)
    return stores.prepare(config.data, schema, labels=labels, verify=verify, workers=workers)


def append_data(config: ExperimentConfig, placed: str | None = None, *, workers: int = 1) -> Path:
    """Append the rows of new files of a declared table to its store; the directory of the new one.

    Args:
        placed: The split that they are put into; None: where the table's split says.
        workers: How many processes share the rows.

    Raises:
        ConfigError: The data is none that is prepared, or its split does not say where rows go.
        DataError: As in `prepare_data`, or there is no store that the files go on from.
        DeepFMError: The disk refuses.
    """
    schema = _checked_schema(config)
    return append(config.data, schema, label_rules(config, schema), placed, workers=workers)


def prepare_shard(config: ExperimentConfig, shard: str) -> None:
    """Do the next step of a shard, `i/n`, of a declared table; errors as in `prepare_data`.

    Raises:
        DataError: Another shard has not done the step before.
    """
    schema, own = _checked_schema(config), Shard.from_text(shard)
    stores.prepare_shard(config.data, schema, own, label_rules(config, schema))


def prepare_part(config: ExperimentConfig, shard: str, into: Path) -> Path:
    """The directory of the store of a shard, `i/n`, of the training rows; errors as in
    `prepare_data`.

    Args:
        into: A folder of stores of its own.
    """
    schema, own = _checked_schema(config), Shard.from_text(shard, "--part")
    return stores.prepare_part(config.data, schema, label_rules(config, schema), own, into)


def merge_shards(config: ExperimentConfig) -> Path:
    """The directory of the store that all shards have made; errors as in `prepare_data`.

    Raises:
        DataError: There are no shards, or one has not done all its steps.
    """
    schema = _checked_schema(config)
    return stores.merge_shards(config.data, schema, label_rules(config, schema))


def _checked_schema(config: ExperimentConfig) -> DatasetSchema:
    """The schema of a table that is prepared.

    Raises:
        ConfigError: The data is none that is, or a loss does not fit the label.
    """
    check_losses(config.task_list(), config.task_data())
    data = config.data
    if data.table is None or data.split.makes_ranking:
        streamed = [name for name, split in SPLITS.items() if not split.makes_ranking]
        raise ConfigError(
            f"only declared tables split by {', '.join(streamed[:-1])} or {streamed[-1]} are "
            "prepared; all other data is read into memory when it is needed",
            key="data.split_strategy",
        )
    return declared_schema(config)
