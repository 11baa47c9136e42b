"""The embedding layer of a schema: specifications of the fields, and the groups that views show.

Decided here: what a config's groups mean, and what is refused about them. Layers refuse a value
with an ArgumentError; here it becomes a ConfigError about the key.
"""

from collections.abc import Callable, Mapping, Sequence

from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.errors import ConfigError, nearest, problem_of
from deepfm.models.layers.embedding import FeatureEmbedding, FlatGroup, Groups, every_field
from deepfm.models.layers.fields import DenseField, Field, IdField, NumbersField, first_readers
from deepfm.models.layers.initializers import INITIALIZERS, initializer_from
from deepfm.models.layers.options import called
from deepfm.models.layers.sequences import FIELDS, Encoding, SequenceFields, only_encoded
from deepfm.models.layers.storage import PackedTables
from deepfm.models.layers.tables import WIDE, Read, Tables, is_wide, table_name
from deepfm.models.options import FeatureConfig
from deepfm.models.sequences import build_encoders, sequences_of

GROUPS = ("wide", "fm", "deep")
ENCODED_INIT = "normal(0.01)"  # of the maps from encoded numbers to their vectors


def _sharded(fields: Sequence[IdField], reads: Sequence[Read]) -> Tables:
    from deepfm.models.sharded.tables import ShardedTables

    return ShardedTables(fields, reads)


# How tables are stored, by `feature.storage`; another implementation of `Tables` stands here.
STORAGES: dict[str, Callable[[Sequence[IdField], Sequence[Read]], Tables]] = {
    "packed": PackedTables,
    "torchrec": _sharded,
}


def build_embedding(
    schema: DatasetSchema,
    feature: FeatureConfig,
    *,
    model_name: str,
    first_order: bool,
    field_group: str | None,
    required: Sequence[str],
    flat_embeddings: bool = True,
    flat_groups: Mapping[str, FlatGroup | None] | None = None,
    sequences: Sequence[str] = (),
) -> FeatureEmbedding:
    """The embedding layer for the views that a model reads.

    NOTE[DIFF]: TorchEasyRec makes the tables of every group, read or not, and fails where `wide`
    is missing; here a table exists if the model reads it, and the first-order term of a model
    that can do without `wide` is zero then.

    Args:
        model_name: For messages.
        first_order: Whether it reads the first-order term.
        field_group: The group whose vectors its `field_embeddings` are, `fm`, `wide` or one of
            the model's own; None: it does not read that view.
        required: Groups that it cannot do without, if there are groups at all.
        flat_embeddings: Whether it reads these.
        flat_groups: Further views that it reads, with the fields of those that the config does
            not name; None: those of `flat_embeddings`.
        sequences: Those that it reads, by name, beside those that encoders read.

    Raises:
        ConfigError: Names the key or the field.
    """
    fields = field_specs(schema, feature.init, feature.wide_init)
    flat_groups = {} if flat_groups is None else flat_groups
    own = [*flat_groups, *([field_group] if field_group else [])]
    known = list(dict.fromkeys([*GROUPS, *own, *required]))
    of_sequences = sequences_of(schema, feature)
    _check_suffixes(schema, feature.table_suffixes, [*known, *of_sequences])
    encodings = build_encoders(schema, feature.encoders, of_sequences, "feature.encoders")
    flat = [*(["deep"] if flat_embeddings else []), *flat_groups]
    _check_encodings(encodings, of_sequences, flat, model_name)
    read = dict.fromkeys([*sequences, *(encoding.sequence for encoding in encodings)])
    of_sequences = {name: of_sequences[name] for name in read}
    _check_numbers(schema, feature.groups, of_sequences)
    encoded = only_encoded(of_sequences, encodings)
    named = feature_groups(schema, feature.groups, required, known) if feature.groups else {}
    groups = None
    if named:
        groups = _groups_of_views(schema, feature, named, field_group)
    elif field_group == "wide":
        groups = every_field(fields, encoded)._replace(field_vectors="wide")
    others = _others(feature, named, flat_groups, groups or every_field(fields, encoded))
    dim = None if field_group in (None, "wide") else feature.fm_embedding_dim
    if dim is not None and feature.unequal_dims == "error":
        embedded = [name for name, field in schema.fields.items() if field.is_embedded]
        dim = _common_dim(schema, embedded if groups is None else groups.fm)
    layer = FeatureEmbedding(
        fields,
        fm_embedding_dim=dim,
        first_order=first_order,
        flat_embeddings=flat_embeddings,
        groups=groups,
        others=others,
        suffixes={
            "fm" if group == field_group else group: suffix
            for group, suffix in feature.table_suffixes.items()
            if group in (*GROUPS, field_group)
        },
        sequences=of_sequences,
        encodings=encodings,
        wide_dim=feature.wide_embedding_dim,
        variational_dropout=feature.variational_dropout is not None,
        tables=STORAGES[feature.storage],
    )
    if field_group is not None and layer.num_fields == 0:
        raise ConfigError(
            f"{model_name} needs embedded fields, but all fields are raw dense ones; set "
            "dense_embedding: piecewise for some of them",
            key="model_name",
        )
    return layer


def _groups_of_views(
    schema: DatasetSchema,
    feature: FeatureConfig,
    named: Mapping[str, Sequence[str]],
    field_group: str | None,
) -> Groups:
    """The groups that the views show: where the group of field vectors is not among them, `deep`
    stands in for it."""
    projects = feature.unequal_dims == "project"
    wide, deep = named.get("wide", ()), named.get("deep", ())
    if field_group in (None, "wide"):
        return Groups(wide, (), deep, field_vectors=field_group or "fm")
    if field_group not in named:
        fm = [name for name in deep if schema.fields[name].is_embedded] if projects else deep
        return Groups(wide, fm, deep, field_vectors="deep")
    if projects:
        _check_embedded(schema, named[field_group], field_group)
    return Groups(wide, named[field_group], deep)


def _others(
    feature: FeatureConfig,
    named: Mapping[str, Sequence[str]],
    flat_groups: Mapping[str, FlatGroup | None],
    groups: Groups,
) -> dict[str, FlatGroup]:
    """The further views of a model, with what the config says about them."""
    found: dict[str, FlatGroup] = {}
    widths: dict[str, tuple[str, int | None]] = {}
    for name, group in flat_groups.items():
        group = FlatGroup(groups.deep) if group is None else group
        suffix = feature.table_suffixes.get(name, group.suffix)
        found[name] = group._replace(fields=named.get(name, group.fields), suffix=suffix)
        other, dim = widths.setdefault(suffix, (name, group.dim))
        if dim != group.dim:
            raise ConfigError(
                f"groups {other} and {name} have one suffix {suffix!r}, and tables of different "
                "widths",
                key="feature.table_suffixes",
            )
    return found


def _check_encodings(
    encodings: Sequence[Encoding],
    sequences: Mapping[str, SequenceFields],
    flat: Sequence[str],
    model_name: str,
) -> None:
    """Refuse encoders whose output has no place.

    Args:
        flat: The flat views that the model reads.
    """
    replaced: dict[str, str] = {}
    for encoding in encodings:
        if encoding.group != FIELDS:
            if encoding.group not in flat:
                raise ConfigError(
                    f"{model_name} reads no flat group {encoding.group!r}; "
                    f"{nearest(encoding.group, [*flat, FIELDS])}",
                    key="feature.encoders.group",
                )
            continue
        fields = sequences[encoding.sequence].sequence
        width, dim = encoding.encoder.output_dim, encoding.encoder.sequence_dim
        if width != dim:
            raise ConfigError(
                f"{encoding.name} is {width} wide, and the fields that it would stand in for are "
                f"{dim}",
                key="feature.encoders.group",
            )
        for name in fields:
            if (other := replaced.setdefault(name, encoding.name)) != encoding.name:
                raise ConfigError(
                    f"{other} and {encoding.name} both stand in for the vector of field {name}",
                    key="feature.encoders.group",
                )


def _check_numbers(
    schema: DatasetSchema,
    groups: Mapping[str, Sequence[str]],
    sequences: Mapping[str, SequenceFields],
) -> None:
    """Refuse sequences of numbers that a group names, or that no sequence reads."""
    read = {name for fields in sequences.values() for name in fields.sequence}
    for field in schema.sequence_fields:
        if not field.numbers:
            continue
        for group, names in groups.items():
            if field.name in names:
                raise ConfigError(
                    f"field {field.name} is a sequence of numbers, which stands in "
                    "feature.sequences only",
                    key=f"feature.groups.{group}",
                )
        if field.name not in read:
            raise ConfigError(
                "a sequence of numbers counts only in a sequence that an encoder reads: name it in "
                "feature.sequences",
                key=f"field {field.name}",
            )


def _check_suffixes(
    schema: DatasetSchema, suffixes: Mapping[str, str], known: Sequence[str]
) -> None:
    """Refuse suffixes of unknown groups, and those that lead to the name of another table."""
    bases = {field.embedding_name for field in schema.fields.values() if not field.is_dense}
    for group, suffix in suffixes.items():
        key = f"feature.table_suffixes.{group}"
        if group not in known:
            raise ConfigError(f"unknown group; {nearest(group, known)}", key=key)
        if not suffix.isidentifier() or is_wide(suffix):
            raise ConfigError(
                f"expected letters, digits and _, and neither {WIDE} nor {WIDE}_…, found "
                f"{suffix!r}",
                key=key,
            )
        for base in bases:
            if (name := table_name(base, suffix)) in bases:
                raise ConfigError(f"{base} has a table {name} then, and so has {name}", key=key)


def feature_groups(
    schema: DatasetSchema,
    groups: Mapping[str, Sequence[str]],
    required: Sequence[str],
    known: Sequence[str] = GROUPS,
) -> dict[str, list[str]]:
    """The groups of a config, checked: known names, each field once, no dense field in `wide`.

    Raises:
        ConfigError: Names the group, and the field.
    """
    for group, names in groups.items():
        key = f"feature.groups.{group}"
        if group not in known:
            raise ConfigError(f"unknown group; {nearest(group, known)}", key=key)
        if not names:
            raise ConfigError("expected at least one field", key=key)
        for name in names:
            if name not in schema.fields:
                raise ConfigError(f"no field {name!r}; {nearest(name, schema.fields)}", key=key)
            if names.count(name) > 1:
                raise ConfigError(f"field {name} stands there twice", key=key)
            if group == "wide" and schema.fields[name].feature_type is FeatureType.DENSE:
                raise ConfigError(f"field {name} is dense, and a wide group has ids only", key=key)
    for group in required:
        if group not in groups:
            found = ", ".join(groups)
            raise ConfigError(
                f"the model needs a group {group}, found {found}", key="feature.groups"
            )
    return {group: list(names) for group, names in groups.items()}


def _check_embedded(schema: DatasetSchema, names: Sequence[str], group: str) -> None:
    for name in names:
        if not schema.fields[name].is_embedded:
            raise ConfigError(
                f"field {name} is raw and has no vector; set dense_embedding: piecewise",
                key=f"feature.groups.{group}",
            )


def _common_dim(schema: DatasetSchema, names: Sequence[str]) -> int:
    """The width that the vectors of all these fields have."""
    fields = [schema.fields[name] for name in names]
    dims = {f.name: f.embedding_dim if f.is_embedded else f.value_dim for f in fields}
    if len(set(dims.values())) > 1:
        found = ", ".join(f"{name} {dim}" for name, dim in dims.items())
        raise ConfigError(
            f"error: the fields of the factorization machine differ in embedding_dim: {found}",
            key="feature.unequal_dims",
        )
    return next(iter(dims.values()), 1)


def field_specs(
    schema: DatasetSchema, initializer: str, wide_initializer: str | None = None
) -> list[Field]:
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
        tables = first_readers(spec for spec in specs if isinstance(spec, IdField))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for name in tables:
        if (clash := tables.get(table_name(name, WIDE))) is not None:
            raise ConfigError(
                f"its table has the name of the first-order table of {name}, "
                f"{table_name(name, WIDE)}; rename one of them",
                key=f"field {clash.name}",
            )
    return specs


def _field_spec(field: FieldSchema, initializer: str, wide_initializer: str | None) -> Field:
    if field.init:
        _check_initializer(f"field {field.name}: init", field.init)
    if field.feature_type is FeatureType.DENSE:
        return _dense_spec(field)
    if field.numbers:
        return NumbersField(field.name)
    if field.vocabulary_size < 1:
        problem = "vocabulary_size is 0; fit the encoders first"
        raise ConfigError(problem, key=f"field {field.name}")
    return IdField(
        name=field.name,
        rows=field.vocabulary_size,
        dim=field.embedding_dim,
        padding_idx=field.padding_idx,
        combiner=field.combiner if field.feature_type is FeatureType.SEQUENCE else None,
        initializer=field.init or initializer,
        table=field.embedding_name,
        wide_initializer=wide_initializer,
        trainable=field.trainable,
        max_length=field.max_length,
    )


def _dense_spec(field: FieldSchema) -> DenseField:
    spec = DenseField(
        field.name, field.embedding_dim if field.is_embedded else None, field.value_dim
    )
    if field.dense_embedding == "piecewise":
        if not field.edges:
            problem = "its bins have no edges; fit the encoders first"
            raise ConfigError(problem, key=f"field {field.name}")
        spec = spec._replace(edges=field.edges, initializer=ENCODED_INIT)
    if field.dense_embedding == "periodic":
        spec = spec._replace(
            frequencies=field.frequencies,
            frequency_scale=field.frequency_scale,
            initializer=ENCODED_INIT,
        )
    return spec._replace(initializer=field.init) if field.init else spec


def _check_initializer(key: str, text: str) -> None:
    try:
        initializer_from(text)
    except ValueError as error:
        name = called(text)
        problem = problem_of(error)
        if name not in INITIALIZERS:
            problem = f"unknown initializer {text!r}; {nearest(name, INITIALIZERS)}"
        raise ConfigError(problem, key=key) from None
