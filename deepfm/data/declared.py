"""What a config says of its data, before any is read: the schema, and the rule of each label."""

from dataclasses import replace

from deepfm.config import ExperimentConfig
from deepfm.data.history_fields import history_fields
from deepfm.data.labels import BinaryRule, LabelRule
from deepfm.data.options import TableConfig
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.data.sources import tabular
from deepfm.data.sources.find_adapter import find_adapter
from deepfm.errors import ConfigError, nearest


def declared_schema(config: ExperimentConfig) -> DatasetSchema:
    """The fields of the data set, with the dims that `feature` says, before any is fitted.

    Raises:
        ConfigError: The data set is unknown, settings of a field contradict each other, or a dim
            is that of no field.
    """
    schema, dims = find_adapter(config.data).schema(), config.feature.embedding_dims
    known = [*schema.fields, *(field.name for field in _built_fields(config, schema))]
    for name in dims:
        if name not in known:
            hint = nearest(name, known)
            raise ConfigError(f"no field {name!r}; {hint}", key="feature.embedding_dims")
    if (kind := config.feature.dense_embedding) is not None:
        silent = _silent(config.data.table, schema, "dense_embedding")
        dense = [name for name in silent if schema.fields[name].is_dense]
        schema = schema.with_fields({name: {"dense_embedding": kind} for name in dense})
    if (common := config.feature.embedding_dim) is not None:
        silent = _silent(config.data.table, schema, "embedding_dim")
        embedded = [name for name in silent if schema.fields[name].is_embedded]
        dims = dict.fromkeys(embedded, common) | dims
    labels = label_rules(config, schema)
    schema = schema.with_fields({name: {"embedding_dim": dim} for name, dim in dims.items()})
    built = {field.name: field for field in _built_fields(config, schema)}
    return replace(
        schema,
        fields={**schema.fields, **built},
        label_field=next(iter(labels.values())).column,
        label_columns=tuple(labels) if len(labels) > 1 else (),
    )


def _built_fields(config: ExperimentConfig, schema: DatasetSchema) -> list[FieldSchema]:
    """The fields of the user's history, if the data has one."""
    if (history := config.data.built_history) is None:
        return []
    key = config.data.history_key
    if (found := config.task_list()[0]).num_class > 1 or found.predicts_numbers:
        raise ConfigError(
            "a history is of rows with the label 1, and the label has more values", key=key
        )
    return history_fields(schema, history, config.feature.embedding_dims, key)


def _silent(table: TableConfig | None, schema: DatasetSchema, key: str) -> list[str]:
    """The fields whose declaration does not say `key`; those of an adapter are all such."""
    declared = {} if table is None else table.fields
    said = {name for name, item in declared.items() if getattr(item, key) is not None}
    return [name for name in schema.fields if name not in said]


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
            num_class=max(
                (task.num_class for task in config.task_list() if task.label == name), default=1
            ),
        )
        for name, label in declared.items()
    }
