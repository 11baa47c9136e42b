"""What is known before any data is read: settings that contradict each other, sizes, the device."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from deepfm.config import ExperimentConfig
from deepfm.data.declared import declared_schema, label_rules
from deepfm.data.schema import DatasetSchema, FeatureType
from deepfm.errors import ConfigError, nearest
from deepfm.models import build_model, count_parameters
from deepfm.models.precision import resolve_precision
from deepfm.models.training_pairs import refuse_batch_norm
from deepfm.objectives import check_losses, check_metrics
from deepfm.training.optimizers import assign_optimizers
from deepfm.training.schedules import build_schedules
from deepfm.training.steps import check_batch_norm
from deepfm.utils.memory import total_memory

_COUNTED_ROWS = 1024  # rows of a batch whose inputs are counted, at most
_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def check_settings(config: ExperimentConfig) -> None:
    """Refuse settings that contradict each other whatever the data is, before it is read.

    Model and optimizers are built for the fields with 2 values each, so that what they refuse is
    written once.

    Raises:
        ConfigError: Names the key.
    """
    tasks, offered = config.task_list(), config.task_data()
    check_losses(tasks, offered)
    check_metrics(tasks, config.training.metric, offered)
    _check_shards(config)
    schema = declared_schema(config)
    _refuse_leaks(schema, config)
    edges: dict[str, Mapping[str, object]] = {
        field.name: {"edges": tuple(map(float, range(field.bins + 1)))}
        for field in schema.dense_fields
        if field.dense_embedding == "piecewise"
    }
    schema = schema.with_fields(edges)
    unknown = {
        field.name: {"vocabulary_size": 2}
        for field in schema.fields.values()
        if not field.is_dense and not field.vocabulary_size
    }
    check_memory(schema.with_fields(unknown), config)
    small = {
        field.name: {
            "vocabulary_size": 2,
            "num_buckets": min(field.num_buckets, 2),
            "hash_buckets": min(field.hash_buckets, 2),
            "vocabulary": None,  # whose ids may be of any size
            "oov_id": None,
            "default": None,  # which need not be below 2
        }
        for field in schema.fields.values()
        if field.feature_type is not FeatureType.DENSE
    }
    model = build_model(schema.with_fields(small), config)
    check_batch_norm(model, config.training.batch_size)
    if any(task.by_pairs for task in tasks):
        refuse_batch_norm(model)
    assigned = assign_optimizers(model, config.training)
    build_schedules(assigned, config.training, maximize=True)


def _check_shards(config: ExperimentConfig) -> None:
    """Refuse batches that have no equal parts of all shards of the training rows.

    Raises:
        ConfigError: There are such, or nothing is shuffled.
    """
    if config.data.shards > 1 and not config.training.shuffle:
        raise ConfigError(
            "sharded is a way to shuffle, and training.shuffle is false", key="data.order"
        )
    shards, size = config.data.shards, config.training.batch_size
    if size % shards:
        lower = max(size // shards, 1) * shards
        raise ConfigError(
            f"each batch has equal parts of all {shards} shards, and training.batch_size is "
            f"{size:,}; set it to {lower:,} or {lower + shards:,}",
            key="data.shards",
        )


def check_memory(schema: DatasetSchema, config: ExperimentConfig) -> None:
    """Refuse a model that is larger than the machine's memory.

    What is counted: all weights, the state of their optimizers, gradients of the dense ones, and
    the inputs of some rows: dense values, and padded sequences with their vectors. Tables that
    several processes share out are for their plan to refuse.

    Raises:
        ConfigError: Says how much is needed and what would make it less.
    """
    if config.feature.storage != "packed":
        return
    training = config.training
    rows = min(training.batch_size, _COUNTED_ROWS)
    of_row = sum(
        field.max_length * (8 + 4 * field.embedding_dim) for field in schema.sequence_fields
    )
    of_row += 4 * sum(field.value_dim for field in schema.dense_fields)
    inputs, memory = rows * of_row, total_memory()
    try:
        if memory is not None and inputs > memory:
            raise MemoryError
        dense, tables, wide = count_parameters(schema, config)
    except (ArithmeticError, MemoryError, RuntimeError, TypeError):  # beyond what torch can count
        raise ConfigError(
            "the model does not fit into any memory; smaller dims (embedding_dim, hidden_units, "
            "value_dim, num_class), fewer rows (num_buckets, hash_buckets) or shorter sequences "
            "(max_length) make it less"
        ) from None
    of_tables = training.sparse_optimizer or training.optimizer
    weights = 4 * (tables + wide)
    needed = weights * (1 + of_tables.states) + 4 * dense * (2 + training.optimizer.states) + inputs
    if memory is not None and needed > memory:
        parts = (weights, 4 * dense, inputs, needed, memory)
        of_tables_, of_dense, of_inputs, total, there = map(_readable, parts)
        raise ConfigError(
            f"the model does not fit into memory: {of_tables_} of embedding tables, {of_dense} of "
            f"dense weights, {of_inputs} of dense values and padded sequences and, with the state "
            f"of {of_tables.name}, {total} in all, on a machine with {there}; fewer rows "
            "(num_buckets, hash_buckets, min_count), a smaller embedding_dim, hidden_units, "
            "value_dim or max_length make it less"
        )


def _refuse_leaks(schema: DatasetSchema, config: ExperimentConfig) -> None:
    """Refuse a field that reads the column of a label which is trained on.

    Raises:
        ConfigError: Names the field.
    """
    predicted = {task.label for task in config.task_list()}  # and not what is a space only
    rules = label_rules(config, schema).items()
    labels = {rule.column for name, rule in rules if rule.tells and name in predicted}
    for name, field in schema.fields.items():
        if leaked := labels.intersection(field.raw_columns):
            raise ConfigError(
                f"reads {', '.join(leaked)}, of which the label is made: the model would see what "
                "it is to predict; remove the field",
                key=f"data.table.fields.{name}",
            )


def _readable(size: float) -> str:
    """Bytes in the unit that suits them.

    Example:
        >>> _readable(3 * 2**20), _readable(15 * 2**40)
        ('3.0 MiB', '15,360.0 GiB')
    """
    unit, name = next((u for u in _UNITS if size >= u[0]), _UNITS[-1])
    return f"{size / unit:,.1f} {name}"


def resolve_device(name: str) -> torch.device:
    """`auto` is MPS, then CUDA, then CPU, whichever is there first.

    Raises:
        ConfigError: The device is unknown or not on this machine.
    """
    available = {
        "mps": torch.backends.mps.is_available(),
        "cuda": torch.cuda.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if name not in available:
        hint = nearest(name, ["auto", *available])
        raise ConfigError(f"unknown device {name!r}; {hint}", key="device")
    if not available[name]:
        raise ConfigError(f"no {name} on this machine; use auto or cpu", key="device")
    return torch.device(name)


def settle(config: ExperimentConfig, device: torch.device) -> ExperimentConfig:
    """Return a config that says what `auto` stands for on a device.

    Raises:
        ConfigError: The device has no products in bf16, which are asked for.
    """
    settled: dict[str, Any] = {}
    for section in ("training", "evaluation"):
        asked = getattr(config, section)
        found = resolve_precision(asked.precision, device, key=f"{section}.precision")
        settled[section] = replace(asked, precision=found)
    return replace(config, **settled)


def schema_of_known_sizes(config: ExperimentConfig) -> DatasetSchema:
    """The declared schema of a config whose tables have a size without any data.

    Raises:
        ConfigError: Settings contradict each other, or rows of a table depend on the data.
    """
    schema = declared_schema(config)
    for field in schema.fields.values():
        if field.feature_type is not FeatureType.DENSE and not field.vocabulary_size:
            raise ConfigError("its rows depend on the data", key=f"data.table.fields.{field.name}")
        if field.dense_embedding == "piecewise":
            raise ConfigError("its bins depend on the data", key=f"data.table.fields.{field.name}")
    return schema


def describe_size(config: ExperimentConfig) -> list[str]:
    """Lines on how many parameters a model has, counted without allocating or reading anything.

    Raises:
        ConfigError: As of `schema_of_known_sizes`.
    """
    schema = schema_of_known_sizes(config)
    dense, tables, wide = count_parameters(schema, config)
    size = _readable(4 * (dense + tables + wide))  # float32
    return [
        f"parameters: {dense:,} dense, {tables:,} in embedding tables, {wide:,} in wide tables",
        f"weights: {size}; optimizers keep one to two times as much beside them",
    ]
