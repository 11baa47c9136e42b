"""From a config to encoded data: the one way, whichever the data set and its split."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from deepfm.config import ExperimentConfig
from deepfm.data.dataset import TabularDataset
from deepfm.data.declared import declared_schema, label_rules
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.fingerprint import FilesRead, Fingerprint, of_tables
from deepfm.data.labels import mean_and_deviation
from deepfm.data.last_events import LastEvents
from deepfm.data.options import DataConfig
from deepfm.data.ranking import Events, load_ranking
from deepfm.data.sampling import Interactions
from deepfm.data.schema import LEARNT, DatasetSchema, LabelScale
from deepfm.data.sources import tabular
from deepfm.data.sources.find_adapter import find_adapter
from deepfm.data.sources.tables import RawTables, id_field
from deepfm.data.store.appended import of_files
from deepfm.data.store.held_rows import HeldRows
from deepfm.data.store.loading import load_store
from deepfm.data.store.opening import Store
from deepfm.errors import CheckpointError, ConfigError


class ExperimentData(NamedTuple):
    """The encoded splits of a data set, and what they were made from.

    Attributes:
        train, valid, test: The splits; a store may have no test split.
        encoders: Fitted on the training split, or those of a checkpoint.
        users, items: Raw side tables; None for data without them.
        events, history: Of a ranking task; None for a store.
        summary: Of a store, for `metrics.json`: rows per split, dropped rows, bad values.
        protocol: Of a ranking task, for `metrics.json`: what is ranked among what.
        last_events: The newest events of each user, of data with histories.
        fingerprint: What the raw data was, by content.
        held: The training rows whose features are there, of a store that is a part; None: all.
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
    protocol: dict[str, Any] | None = None
    last_events: LastEvents | None = None
    fingerprint: Fingerprint | None = None
    held: HeldRows | None = None


def load_data(
    config: ExperimentConfig,
    encoders: Encoders | None = None,
    *,
    base: Encoders | None = None,
    candidates: int = 0,
    expected: Fingerprint | None = None,
    may_be_part: bool = False,
) -> ExperimentData:
    """Read, split, fit on the training split, encode.

    Args:
        config: Its `data`, `feature`, `evaluation` and `tasks` sections are used.
        encoders: Already fitted ones, of a checkpoint; they are used as they are.
        base: Of a checkpoint that training starts from; the fitted encoders grow from them.
        candidates: How many are drawn for each held-out row of a ranking task, at least.
        expected: What the raw data has to be.
        may_be_part: Whether the features of some training rows will do, as `data.order: sharded`
            needs them.

    Raises:
        ConfigError: The data set is unknown, or settings contradict each other.
        DataError: The data is missing, not what its schema says, or not the expected one.
        CheckpointError: The given encoders belong to another schema.
    """
    data, schema, read = config.data, declared_schema(config), None
    if data.split.makes_ranking:
        _check_ranking(config, schema)
    if data.table is not None:  # at once, because a changed vocabulary is another schema
        read = tabular.fingerprint_of(data, tabular.source_files(data))
        if expected is not None:
            read.refuse_unless(of_files(expected))
    like = None if encoders is None else _sized_like(schema, encoders.schema, data)
    if encoders is not None and encoders.schema != like:
        raise CheckpointError(
            f"the checkpoint's schema is not that of {data.dataset_name} with these "
            f"feature.embedding_dims (its fields: {', '.join(encoders.schema.fields)})"
        )
    labels = label_rules(config, schema)
    if not data.split.makes_ranking:
        store = load_store(
            data,
            schema,
            encoders,
            base=base,
            labels=labels,
            read=read,
            may_be_part=may_be_part and data.order == "sharded",
        )
        if expected is not None and store.fingerprint is not None:
            expected.refuse_other(store.fingerprint)
        train = store.parts["train"]
        train.shards = data.shards
        if encoders is not None:
            scales = encoders.schema.label_scales
        else:
            _refuse_no_positive(config, train)
            scales = _label_scales(config, train) | ({} if base is None else _known(config, base))
        return ExperimentData(
            train,
            store.parts["valid"],
            store.parts.get("test"),
            store.encoders.with_label_scales(scales),
            store.users,
            store.items,
            summary=store.summary,
            last_events=_last_events(data, store),
            fingerprint=store.fingerprint,
            held=store.held,
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
        by_pairs=any(task.by_pairs for task in config.task_list()),
    )
    if read is not None:
        read.refuse_changed()
        fingerprint = read.fingerprint
    else:
        fingerprint = _of_adapter(data, found.events.tables)
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
        protocol=_protocol(config, fingerprint),
        last_events=found.last_events,
        fingerprint=fingerprint,
    )


def _of_adapter(data: DataConfig, tables: RawTables) -> Fingerprint:
    """The content of an adapter's tables, and of the files of candidates beside them."""
    named = {"interactions": tables.interactions, "users": tables.users, "items": tables.items}
    files = FilesRead(tabular.candidate_files(data), cache=None).fingerprint
    return Fingerprint({**of_tables(data.dataset_name, named).parts, **files.parts})


def _last_events(data: DataConfig, store: Store) -> LastEvents | None:
    """The newest events of each user in a store, of data with histories."""
    if (history := data.built_history) is None or store.events is None:
        return None
    return store.events.last(history.max_length)


def _protocol(config: ExperimentConfig, fingerprint: Fingerprint) -> dict[str, Any]:
    """What the ranking metrics of a run mean: how rows are split, and what is ranked among what."""
    drawn = f"{config.data.num_neg_eval} drawn, seed {config.evaluation.candidate_seed}"
    listed = ", ".join(
        f"{Path(part.name).name} (XXH3 {part.digest})"
        for part in fingerprint.parts.get("candidates", ())
    )
    candidates = f"{listed}; validation {drawn}" if listed else drawn
    found: dict[str, Any] = {"split": config.data.split_strategy, "candidates": candidates}
    if (history := config.data.built_history) is not None:
        found["history"] = history.what_is_seen()
    return found


def _own_label(train: TabularDataset, position: int) -> np.ndarray:
    """One label of several, (N,), which may be mapped from a file."""
    own = train.label if train.label.dim() == 1 else train.label[:, position]
    return own.numpy()


def _refuse_no_positive(config: ExperimentConfig, train: TabularDataset) -> None:
    """Refuse a label whose positive value no training row has, perhaps by a misspelling.

    Raises:
        ConfigError: There is one.
    """
    for position, (name, label) in enumerate(config.label_rules().items()):
        if label.positive is not None and not _own_label(train, position).any():
            raise ConfigError(
                f"no training row has {label.column} {label.positive!r}",
                key=f"data.table.labels.{name}.positive",
            )


def _label_scales(config: ExperimentConfig, train: TabularDataset) -> dict[str, LabelScale]:
    """Mean and deviation of each label that is to be standardised, by its training rows."""
    weight = None if train.weight is None else train.weight.numpy()
    found = {}
    for position, (name, label) in enumerate(config.label_rules().items()):
        if label.standardize:
            found[name] = LabelScale(*mean_and_deviation(_own_label(train, position), weight))
    return found


def _known(config: ExperimentConfig, base: Encoders) -> dict[str, LabelScale]:
    """Of a checkpoint that training starts from, whose outputs mean what they meant there."""
    wanted = {name for name, label in config.label_rules().items() if label.standardize}
    return {name: scale for name, scale in base.schema.label_scales.items() if name in wanted}


def _check_ranking(config: ExperimentConfig, schema: DatasetSchema) -> None:
    """Refuse fields by which the candidates of a row could not be told apart.

    Raises:
        ConfigError: An id is not of its side, a field would keep the id of the row's own item, or
            no field that the model reads is the item's.
    """
    for side in ("user", "item"):
        if (field := id_field(schema, side)).group != side:
            raise ConfigError(
                f"field {field.name} identifies the {side}, but its group is {field.group}",
                key=f"{side}_field",
            )
    item = id_field(schema, "item")
    for name, field in schema.fields.items():
        if field.group != "item" and set(field.raw_columns) & set(item.raw_columns):
            raise ConfigError(
                f"it reads the column {item.column} beside others, and has no value for another "
                f"item than the row's own, which split_strategy {config.data.split_strategy} needs",
                key=f"data.table.fields.{name}",
            )
    groups = config.feature.groups
    read = {name for names in groups.values() for name in names} if groups else set(schema.fields)
    if not any(field.group == "item" and name in read for name, field in schema.fields.items()):
        raise ConfigError(
            "no field of the model changes with the item, so that all items would have one score; "
            f"name {item.name} in one of them",
            key="feature.groups",
        )


def _sized_like(schema: DatasetSchema, fitted: DatasetSchema, data: DataConfig) -> DatasetSchema:
    """The schema with what a fitted one knows beyond the declaration.

    That is what encoders have learnt, label scales, and where nothing is ranked the semantic
    groups, which older releases did not derive from ids.
    """
    groups = () if data.split.makes_ranking else ("group",)
    schema = replace(schema, label_scales=fitted.label_scales)
    return schema.with_fields(
        {
            name: {key: getattr(fitted.fields[name], key) for key in (*LEARNT, *groups)}
            for name, field in schema.fields.items()
            if name in fitted.fields
            and field.dense_embedding == fitted.fields[name].dense_embedding
        }
    )
