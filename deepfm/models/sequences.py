"""The sequences of a schema and a config, and the encoders that read them.

Decided here: what a sequence is by default, what is refused about it, and which layer an encoder's
name leads to. Layers refuse a value with an ArgumentError; here it becomes a ConfigError about the
key.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from deepfm.data.schema import AGES, ITEMS, DatasetSchema, FeatureType, FieldSchema
from deepfm.errors import ArgumentError, ConfigError, nearest
from deepfm.models.layers.encoders import (
    DIN,
    MultiWindowDIN,
    Pooling,
    SelfAttention,
    SimpleAttention,
)
from deepfm.models.layers.sequences import Encoding, SequenceEncoder, SequenceFields
from deepfm.models.options import FeatureConfig
from deepfm.models.options.sequences import HISTORY, AttentionEncoder, EncoderConfig

# By the name of its options: the layer of a query and a sequence of some widths.
LAYERS: dict[str, Callable[[int, int, Any], nn.Module]] = {
    "din": lambda query, sequence, options: DIN(
        query, sequence, softmax=options.softmax, **_network(options)
    ),
    "simple_attention": lambda query, sequence, options: SimpleAttention(query, sequence),
    "pooling": lambda query, sequence, options: Pooling(sequence, combiner=options.combiner),
    "multi_window_din": lambda query, sequence, options: MultiWindowDIN(
        query,
        sequence,
        windows=options.windows,
        newest=options.newest,
        **_network(options),
    ),
    "self_attention": lambda query, sequence, options: SelfAttention(
        sequence,
        attention_dim=options.attention_dim,
        num_heads=options.num_heads,
        dropout=options.dropout,
    ),
}
WITHOUT_QUERY = ("pooling", "self_attention")


def _network(options: AttentionEncoder) -> dict[str, Any]:
    return {
        "hidden_units": options.hidden_units,
        "activation": options.activation,
        "norm": None if options.norm == "none" else options.norm,
        "dropout": options.dropout,
        "bias": options.bias,
        "init": options.init,
        "statistics": options.statistics,
    }


def sequences_of(schema: DatasetSchema, feature: FeatureConfig) -> dict[str, SequenceFields]:
    """The sequences by name: those of the config, and `history` where the data builds one.

    Raises:
        ConfigError: A field is unknown, is none that can stand there, or does not belong to the
            others; names the sequence.
    """
    found = {}
    for name, given in feature.sequences.items():
        key = f"feature.sequences.{name}"
        events = given.sequence or [f.name for f in schema.sequence_fields if f.sequence == name]
        if not events:
            named = list(dict.fromkeys(f.sequence for f in schema.sequence_fields if f.sequence))
            raise ConfigError(
                f"no field has this `sequence`; name some fields, or {nearest(name, named)}",
                key=f"{key}.sequence",
            )
        _check_names(schema, events, f"{key}.sequence")
        _check_names(schema, given.query, f"{key}.query")
        _check_events([schema.fields[event] for event in events], f"{key}.sequence")
        for field in given.query:
            if not schema.fields[field].is_dense and schema.fields[field].numbers:
                raise ConfigError(
                    f"field {field} is a sequence of numbers, which no query has",
                    key=f"{key}.query",
                )
        found[name] = SequenceFields(
            tuple(given.query), tuple(events), feature.table_suffixes.get(name, "")
        )
    built = schema.built_fields
    if built and HISTORY not in found:
        query = tuple(field.history_of for field in built if field.built == ITEMS)
        events, items = (
            tuple(field.name for field in built if field.built in kinds)
            for kinds in ((ITEMS, AGES), (ITEMS,))
        )
        # How long ago something was says nothing of what it was.
        suffix = feature.table_suffixes.get(HISTORY, "")
        found[HISTORY] = SequenceFields(query, events, suffix, items)
    return found


def _check_names(schema: DatasetSchema, names: Sequence[str], key: str) -> None:
    for name in names:
        if name not in schema.fields:
            raise ConfigError(f"no field {name!r}; {nearest(name, schema.fields)}", key=key)
        if list(names).count(name) > 1:
            raise ConfigError(f"field {name} stands there twice", key=key)


def _check_events(fields: Sequence[FieldSchema], key: str) -> None:
    """Refuse fields that are no sequences, or that nothing keeps equally long."""
    for field in fields:
        if field.feature_type is not FeatureType.SEQUENCE:
            raise ConfigError(
                f"field {field.name} is {field.feature_type}; expected sequence fields", key=key
            )
    first, *others = fields
    for other in others:
        is_one = bool(first.built and other.built) or bool(first.sequence) * (
            first.sequence == other.sequence
        )
        if not is_one:
            raise ConfigError(
                f"fields {first.name} and {other.name} need one `sequence`, found "
                f"{first.sequence!r} and {other.sequence!r}; without it their lists may be of "
                "unequal lengths",
                key=key,
            )


def input_of(encoder: EncoderConfig, sequences: Mapping[str, SequenceFields], key: str) -> str:
    """The sequence that an encoder reads.

    Raises:
        ConfigError: There is none of that name, or no name and not just one sequence.
    """
    if encoder.input in sequences:
        return encoder.input
    if encoder.input:
        problem = f"no sequence {encoder.input!r}; {nearest(encoder.input, sequences)}"
        raise ConfigError(problem, key=f"{key}.input")
    if len(sequences) != 1:
        found = f"found {', '.join(sequences)}" if sequences else "there is none"
        raise ConfigError(
            f"{encoder.name} needs a sequence of `feature.sequences`, and {found}",
            key=f"{key}.input",
        )
    return next(iter(sequences))


def encoders_add_up(schema: DatasetSchema, feature: FeatureConfig) -> bool:
    """Whether what encoders make depends on the item of a row alone, or not on its item at all.

    Then it is computed once per user or item, however many of them meet; of the other side, which
    has no events then, it is zero.
    """
    sequences = sequences_of(schema, feature) if feature.encoders else {}
    for encoder in feature.encoders:
        fields = sequences[input_of(encoder, sequences, "feature.encoders")].sequence
        sides = {schema.fields[name].group == "item" for name in fields}
        if encoder.name not in WITHOUT_QUERY or len(sides) > 1:
            return False
    return True


def build_encoders(
    schema: DatasetSchema,
    encoders: Sequence[EncoderConfig],
    sequences: Mapping[str, SequenceFields],
    key: str,
) -> list[Encoding]:
    """The encoders of a list in a config.

    Args:
        key: That of the list.

    Raises:
        ConfigError: An encoder has no sequence to read, or cannot be made.
    """
    found: list[Encoding] = []
    for options in encoders:
        name = input_of(options, sequences, key)
        fields = sequences[name]
        query, events = (
            sum(_width(schema.fields[field]) for field in names)
            for names in (fields.query, fields.sequence)
        )
        if not fields.query and options.name not in WITHOUT_QUERY:
            raise ConfigError(
                f"{options.name} compares events with a query",
                key=f"feature.sequences.{name}.query",
            )
        places = schema.fields[fields.sequence[0]].max_length if options.positions else 0
        if options.positions and not places:
            raise ConfigError(
                f"a place has a vector each, and field {fields.sequence[0]} has no max_length",
                key=f"{key}.positions",
            )
        try:
            layer = LAYERS[options.name](query, events, options)
        except ArgumentError as error:
            is_query = error.argument == "query"
            place = f"feature.sequences.{name}.query" if is_query else f"{key}.{error.argument}"
            raise ConfigError(error.problem, key=place) from None
        module = SequenceEncoder(
            layer,
            events,
            places=places,
            attends_unknown=options.unknown == "attend",
            max_length=options.max_length,
        )
        title = f"{options.name} of {name}"
        others = [one.name for one in found if one.name.partition(" (")[0] == title]
        title = f"{title} ({len(others) + 1})" if others else title
        found.append(Encoding(title, module, name, options.group))
    return found


def _width(field: FieldSchema) -> int:
    """Of what a field has in a query or an event."""
    if field.is_dense:
        return field.embedding_dim if field.is_embedded else field.value_dim
    return 1 if field.numbers else field.embedding_dim
