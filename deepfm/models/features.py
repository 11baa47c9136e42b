"""The embedding layer of a schema: specifications of the fields, and the groups that views show.

Decided here: what a config's groups mean, and what is refused about them. Layers refuse a value
with a ValueError that begins with their argument; here it becomes a ConfigError about the key.
"""

from collections.abc import Mapping, Sequence

from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.errors import ConfigError, nearest
from deepfm.models.layers.embedding import DenseSpec, FeatureEmbedding
from deepfm.models.layers.options import called
from deepfm.models.layers.storage import (
    INITIALIZERS,
    TableSpec,
    initializer_from,
    logical_tables,
    wide_name,
)
from deepfm.models.options import ModelConfig

GROUPS = ("wide", "fm", "deep")


def build_embedding(
    schema: DatasetSchema,
    config: ModelConfig,
    *,
    first_order: bool,
    field_group: str | None,
    required: Sequence[str],
) -> FeatureEmbedding:
    """The embedding layer for the views that a model reads.

    NOTE[DIFF]: TorchEasyRec makes the tables of every group, read or not, and fails where `wide`
    is missing; here a table exists if the model reads it, and the first-order term of a model
    that can do without `wide` is zero then.

    Args:
        first_order: Whether it reads the first-order term.
        field_group: The group whose vectors its `field_embeddings` are, `fm` or `wide`; None: it
            does not read that view.
        required: Groups that it cannot do without, if there are groups at all.

    Raises:
        ConfigError: Names the key or the field.
    """
    feature = config.feature
    specs = field_specs(schema, feature.init, feature.wide_init)
    groups = feature_groups(schema, feature.groups, required) if feature.groups else None
    dim = feature.fm_embedding_dim if field_group == "fm" else None
    falls_back = groups is not None and dim is not None and "fm" not in groups
    if groups is not None and dim is not None:
        if falls_back:
            groups["fm"] = groups["deep"]
            if feature.unequal_dims == "project":
                groups["fm"] = [f for f in groups["deep"] if schema.fields[f].is_embedded]
        elif feature.unequal_dims == "project":
            _check_embedded(schema, groups["fm"])
    if dim is not None and feature.unequal_dims == "error":
        embedded = [name for name, field in schema.fields.items() if field.is_embedded]
        dim = _common_dim(schema, embedded if groups is None else groups["fm"])
    layer = FeatureEmbedding(
        specs,
        fm_embedding_dim=dim,
        first_order=first_order,
        groups=groups,
        wide_dim=feature.wide_embedding_dim,
        field_group=field_group or "fm",
        fm_shows_deep=falls_back,
        variational_dropout=feature.variational_dropout is not None,
    )
    if field_group is not None and layer.num_fields == 0:
        raise ConfigError(
            f"model_name: {config.name} needs embedded fields, but all fields are raw "
            "dense ones; set dense_embedding: linear for some of them"
        )
    return layer


def feature_groups(
    schema: DatasetSchema, groups: Mapping[str, Sequence[str]], required: Sequence[str]
) -> dict[str, list[str]]:
    """The groups of a config, checked: known names, each field once, no dense field in `wide`.

    Raises:
        ConfigError: Names the group, and the field.
    """
    for group, names in groups.items():
        key = f"feature.groups.{group}"
        if group not in GROUPS:
            raise ConfigError(f"{key}: unknown group; {nearest(group, GROUPS)}")
        if not names:
            raise ConfigError(f"{key}: expected at least one field")
        for name in names:
            if name not in schema.fields:
                raise ConfigError(f"{key}: no field {name!r}; {nearest(name, schema.fields)}")
            if names.count(name) > 1:
                raise ConfigError(f"{key}: field {name} stands there twice")
            if group == "wide" and schema.fields[name].feature_type is FeatureType.DENSE:
                raise ConfigError(f"{key}: field {name} is dense, and a wide group has ids only")
    for group in required:
        if group not in groups:
            raise ConfigError(
                f"feature.groups: the model needs a group {group}, found {', '.join(groups)}"
            )
    return {group: list(names) for group, names in groups.items()}


def _check_embedded(schema: DatasetSchema, names: Sequence[str]) -> None:
    for name in names:
        if not schema.fields[name].is_embedded:
            raise ConfigError(
                f"feature.groups.fm: field {name} is raw and has no vector; set dense_embedding: "
                "linear"
            )


def _common_dim(schema: DatasetSchema, names: Sequence[str]) -> int:
    """The width that the vectors of all these fields have."""
    fields = [schema.fields[name] for name in names]
    dims = {f.name: f.embedding_dim if f.is_embedded else f.value_dim for f in fields}
    if len(set(dims.values())) > 1:
        found = ", ".join(f"{name} {dim}" for name, dim in dims.items())
        raise ConfigError(
            "feature.unequal_dims: error: the fields of the factorization machine differ in "
            f"embedding_dim: {found}"
        )
    return next(iter(dims.values()), 1)


def field_specs(
    schema: DatasetSchema, initializer: str, wide_initializer: str | None = None
) -> list[TableSpec | DenseSpec]:
    """The embedding layer's specifications, in schema order.

    Args:
        initializer: Of tables whose field has none of its own.
        wide_initializer: Of first-order weights; None: that of their table.

    Raises:
        ConfigError: A vocabulary is not known yet, two tables would have one name, fields
            disagree about the table that they share, or an initializer is unknown.
    """
    _check_initializer("feature.init", initializer)
    if wide_initializer is not None:
        _check_initializer("feature.wide_init", wide_initializer)
    specs = [_field_spec(f, initializer, wide_initializer) for f in schema.fields.values()]
    try:
        tables = logical_tables([spec for spec in specs if isinstance(spec, TableSpec)])
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for name in tables:
        if (clash := tables.get(wide_name(name))) is not None:
            raise ConfigError(
                f"field {clash.name}: its table has the name of the first-order table of {name}, "
                f"{wide_name(name)}; rename one of them"
            )
    return specs


def _field_spec(
    field: FieldSchema, initializer: str, wide_initializer: str | None
) -> TableSpec | DenseSpec:
    if field.init:
        _check_initializer(f"field {field.name}: init", field.init)
    if field.feature_type is FeatureType.DENSE:
        spec = DenseSpec(
            field.name, field.embedding_dim if field.is_embedded else None, field.value_dim
        )
        return spec._replace(initializer=field.init) if field.init else spec
    if field.vocabulary_size < 1:
        raise ConfigError(f"field {field.name}: vocabulary_size is 0; fit the encoders first")
    return TableSpec(
        name=field.name,
        rows=field.vocabulary_size,
        dim=field.embedding_dim,
        padding_idx=field.padding_idx,
        combiner=field.combiner if field.feature_type is FeatureType.SEQUENCE else None,
        initializer=field.init or initializer,
        table=field.embedding_name,
        wide_initializer=wide_initializer,
        trainable=field.trainable,
    )


def _check_initializer(key: str, text: str) -> None:
    try:
        initializer_from(text)
    except ValueError as error:
        name = called(text)
        if name in INITIALIZERS:
            reason = str(error).removeprefix("initializer: ")
            raise ConfigError(f"{key}: {reason}") from None
        hint = nearest(name, INITIALIZERS)
        raise ConfigError(f"{key}: unknown initializer {text!r}; {hint}") from None
