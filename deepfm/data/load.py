"""From a config to encoded data: the one way, whichever the data set and its split."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from deepfm.config import ExperimentConfig
from deepfm.data.dataset import TabularDataset
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.fingerprint import Fingerprint, of_tables
from deepfm.data.labels import BinaryRule, LabelRule
from deepfm.data.options import TableConfig
from deepfm.data.ranking import Events, load_ranking
from deepfm.data.sampling import Interactions
from deepfm.data.schema import DatasetSchema
from deepfm.data.sources import tabular
from deepfm.data.sources.find_adapter import find_adapter
from deepfm.data.splits import SPLITS
from deepfm.data.store.prepare import load_store, prepare
from deepfm.errors import CheckpointError, ConfigError, nearest


class ExperimentData(NamedTuple):
    """The encoded splits of a data set, and what they were made from.

    Attributes:
        train, valid, test: The splits; a store may have no test split.
        encoders: Fitted on the training split, or those of a checkpoint.
        users, items: Raw side tables; None for data without them.
        events, history: Of a ranking task; None for a store.
        summary: Of a store, for `metrics.json`: rows per split, dropped rows, bad values.
        fingerprint: What the raw data was, by content.
    """

    train: TabularDataset
    valid: TabularDataset
    test: TabularDataset | None
    encoders: Encoders
    users: pa.Table | None
    items: pa.Table | None
    events: Events | None = None
    history: Interactions | None = None
    summary: dict[str, Any] | None = None
    fingerprint: Fingerprint | None = None


def load_data(
    config: ExperimentConfig,
    encoders: Encoders | None = None,
    *,
    base: Encoders | None = None,
    candidates: int = 0,
    expected: Fingerprint | None = None,
) -> ExperimentData:
    """Read, split, fit on the training split, encode.

    Args:
        config: Its `data`, `feature`, `evaluation` and `tasks` sections are used.
        encoders: Already fitted ones, of a checkpoint; they are used as they are.
        base: Of a checkpoint that training starts from; the fitted encoders grow from them.
        candidates: How many are drawn for each held-out row of a ranking task, at least.
        expected: What the raw data has to be.

    Raises:
        ConfigError: The data set is unknown, or settings contradict each other.
        DataError: The data is missing, not what its schema says, or not the expected one.
        CheckpointError: The given encoders belong to another schema.
    """
    data, schema, read = config.data, declared_schema(config), None
    if data.table is not None:  # at once, because a changed vocabulary is another schema
        read = tabular.fingerprint_of(data, tabular.source_files(data))
        if expected is not None:
            read.refuse_unless(expected)
    if encoders is not None and encoders.schema != _sized_like(schema, encoders.schema):
        raise CheckpointError(
            f"the checkpoint's schema is not that of {data.dataset_name} with these "
            f"feature.embedding_dims (its fields: {', '.join(encoders.schema.fields)})"
        )
    labels = label_rules(config, schema)
    if not data.split.makes_ranking:
        store = load_store(data, schema, encoders, base=base, labels=labels, read=read)
        return ExperimentData(
            store.parts["train"],
            store.parts["valid"],
            store.parts.get("test"),
            store.encoders,
            store.users,
            store.items,
            summary=store.summary,
            fingerprint=store.fingerprint,
        )
    found = load_ranking(
        data,
        schema,
        find_adapter(data),
        next(iter(labels.values())),
        encoders,
        base=base,
        candidate_seed=config.evaluation.candidate_seed,
        at_least=candidates,
    )
    if read is not None:
        read.refuse_changed()
        fingerprint = read.fingerprint
    else:
        tables = found.events.tables._asdict()
        fingerprint = of_tables(data.dataset_name, tables)
        if expected is not None:
            expected.refuse_other(fingerprint)
    return ExperimentData(
        found.train,
        found.valid,
        found.test,
        found.encoders,
        found.events.tables.users,
        found.events.tables.items,
        found.events,
        found.history,
        fingerprint=fingerprint,
    )


def prepare_data(config: ExperimentConfig, *, verify: bool = False) -> Path:
    """Encode a declared table into its store, unless that is there, and return its directory.

    Args:
        verify: Compare all checksums of a store that is there.

    Raises:
        ConfigError: The data is none that is prepared, or settings contradict each other.
        DataError: A file is missing or not what the config says.
        DeepFMError: The disk refuses.
    """
    data = config.data
    if data.table is None or data.split.makes_ranking:
        streamed = [name for name, split in SPLITS.items() if not split.makes_ranking]
        raise ConfigError(
            f"only declared tables split by {', '.join(streamed[:-1])} or {streamed[-1]} are "
            "prepared; all other data is read into memory when it is needed",
            key="data.split_strategy",
        )
    schema = declared_schema(config)
    return prepare(data, schema, labels=label_rules(config, schema), verify=verify)


def declared_schema(config: ExperimentConfig) -> DatasetSchema:
    """The fields of the data set, with the dims that `feature` says, before any is fitted.

    Raises:
        ConfigError: The data set is unknown, settings of a field contradict each other, or a dim
            is that of no field.
    """
    schema, dims = find_adapter(config.data).schema(), config.feature.embedding_dims
    for name in dims:
        if name not in schema.fields:
            hint = nearest(name, schema.fields)
            raise ConfigError(f"no field {name!r}; {hint}", key="feature.embedding_dims")
    if (common := config.feature.embedding_dim) is not None:
        dims = dict.fromkeys(_without_dim(config.data.table, schema), common) | dims
    labels = label_rules(config, schema)
    schema = schema.with_fields({name: {"embedding_dim": dim} for name, dim in dims.items()})
    return replace(
        schema,
        label_field=next(iter(labels.values())).column,
        label_columns=tuple(labels) if len(labels) > 1 else (),
    )


def _without_dim(table: TableConfig | None, schema: DatasetSchema) -> list[str]:
    """The embedded fields whose declaration says no dim; those of an adapter are all such."""
    declared = {} if table is None else table.fields
    said = {name for name, item in declared.items() if item.embedding_dim is not None}
    return [name for name, item in schema.fields.items() if item.is_embedded and name not in said]


def label_rules(config: ExperimentConfig, schema: DatasetSchema) -> dict[str, LabelRule]:
    """The rule of each label that a task of the experiment has, by the label's name.

    Data without a declared table has one, which is 1 from `data.label_threshold` on.
    """
    declared = config.label_rules()
    if not declared:
        return {"": BinaryRule(schema.label_field, threshold=config.data.label_threshold)}
    return {
        name: tabular.label_rule(
            label,
            num_class=max(task.num_class for task in config.task_list() if task.label == name),
        )
        for name, label in declared.items()
    }


def _sized_like(schema: DatasetSchema, fitted: DatasetSchema) -> DatasetSchema:
    """The schema with the vocabulary sizes of a fitted one."""
    return schema.with_fields(
        {
            name: {"vocabulary_size": fitted.fields[name].vocabulary_size}
            for name in schema.fields
            if name in fitted.fields
        }
    )
