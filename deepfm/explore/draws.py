"""The rows whose values stand in for those of an explained row.

Decided here: they are rows of the training split, read again by the checkpoint's own config, whose
content is compared with what the model was trained on; a checkpoint holds none. Nothing is
downloaded for it. Where the data is gone, what stands in for it is said beside every figure.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from deepfm import experiment
from deepfm.checkpoint import Checkpoint
from deepfm.config import ExperimentConfig
from deepfm.data.batch import Inputs
from deepfm.data.served_histories import ServedHistories
from deepfm.data.served_inputs import served_inputs
from deepfm.data.served_rows import ServedRows
from deepfm.data.sources.tables import SideTables
from deepfm.errors import DataError
from deepfm.explanation import features_of
from deepfm.held_out import settled_config
from deepfm.utils.logging import LOGGER

COUNT = 256


class Draws(NamedTuple):
    """Rows that values are drawn from.

    Attributes:
        inputs: Encoded, at most `COUNT` rows.
        features: Those of `features_of` that have values in them.
        source: What the rows are, for people.
    """

    inputs: Inputs
    features: tuple[str, ...]
    source: str


def draws_of(checkpoint: Checkpoint, config: ExperimentConfig | None = None) -> Draws:
    """Rows of the training split, or what stands in for them where the data is gone.

    Args:
        config: Whose data is read, as `held_out` takes it; None: the checkpoint's own, and without
            its data there are substitutes.

    Raises:
        ConfigError: `config` changes more than it may.
        DataError: The data of `config` is missing or not what it says.
    """
    if config is not None:
        return _of_training(checkpoint, settled_config(checkpoint, config))
    own = checkpoint.config
    try:
        return _of_training(checkpoint, replace(own, data=replace(own.data, auto_download=False)))
    except DataError as error:
        found = _of_tables(checkpoint) or _of_vocabularies(checkpoint)
        LOGGER.warning(
            f"the training rows cannot be read ({error}); --config says where they are. What "
            f"stands in for them: {found.source}"
        )
        return found


def _of_training(checkpoint: Checkpoint, config: ExperimentConfig) -> Draws:
    data = experiment.load_data(config, checkpoint.encoders)
    total = len(data.train)
    rng = np.random.default_rng(config.seed)
    rows = rng.choice(total, min(COUNT, total), replace=False)
    source = f"{len(rows):,} of {total:,} rows of the training split"
    if data.train.negatives is not None and data.train.negatives.count:
        source += ", without sampled negatives"
    before, now = checkpoint.fingerprint, data.fingerprint
    if before and now and (found := before.difference(now)):
        LOGGER.warning(": ".join(found))
        source += ", of data that is not what the model was trained on"
    inputs = data.train.inputs.select(torch.from_numpy(rows))
    return Draws(inputs, tuple(features_of(checkpoint.encoders.schema)), source)


def _of_tables(checkpoint: Checkpoint) -> Draws | None:
    """Pairs of a user and an item; None where their tables do not make whole rows."""
    encoders, (users, items) = checkpoint.encoders, (checkpoint.users, checkpoint.items)
    if users is None or items is None:
        return None
    rng = np.random.default_rng(checkpoint.config.seed)
    columns: dict[str, pa.ChunkedArray | pa.Array] = {}
    for table in (users, items):
        drawn = table.take(rng.integers(len(table), size=COUNT))
        columns |= dict(zip(drawn.column_names, drawn.columns, strict=True))
    histories = None
    if encoders.schema.built_fields and checkpoint.events is not None:
        histories = ServedHistories(checkpoint.events, encoders.schema)
        moment = pa.array([histories.moment(None)] * COUNT)
        columns[str(encoders.schema.time_column)] = moment
    rows = ServedRows(encoders, SideTables(users, items), histories)
    try:
        inputs = served_inputs(rows.read(pa.table(columns)), histories)
    except DataError:  # a field of the context has no value in either table
        return None
    source = (
        f"{COUNT} pairs of a user and an item, each drawn for itself from the checkpoint's tables, "
        "and no training rows"
    )
    return Draws(inputs, tuple(features_of(encoders.schema)), source)


def _of_vocabularies(checkpoint: Checkpoint) -> Draws:
    """Ids of each field for itself; numbers and lists have none to draw from."""
    schema = checkpoint.encoders.schema
    rng = np.random.default_rng(checkpoint.config.seed)
    sparse = torch.zeros(COUNT, len(schema.sparse_fields), dtype=torch.int64)
    for column, field in enumerate(schema.sparse_fields):
        first = 0 if field.padding_idx is None or field.vocabulary_size < 2 else 1
        sparse[:, column] = torch.from_numpy(rng.integers(first, field.vocabulary_size, COUNT))
    none = torch.zeros(COUNT, dtype=torch.int64)
    inputs = Inputs(
        sparse,
        torch.zeros(COUNT, sum(field.value_dim for field in schema.dense_fields)),
        tuple(none.unsqueeze(1) for _ in schema.sequence_fields),
        tuple(none for _ in schema.sequence_fields),
    )
    known = {field.name for field in schema.sparse_fields}
    features = tuple(_whole(features_of(schema), known))
    source = (
        f"{COUNT} values of each categorical field, all alike likely, and no training rows; "
        "numbers and lists have no such values and are left out"
    )
    return Draws(inputs, features, source)


def _whole(features: dict[str, tuple[str, ...]], known: set[str]) -> Iterator[str]:
    for name, fields in features.items():
        if known.issuperset(fields):
            yield name
