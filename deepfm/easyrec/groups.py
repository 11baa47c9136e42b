"""Groups of features of a pipeline: which fields feed a view, and which are sequences and queries.

A model reads some groups by fixed names, by the names in its own section, or the first one under
any name; the others are left out, with a log line. Sequence groups stand in a group of type DEEP,
with encoders whose outputs come behind the group's features, or they are groups of type SEQUENCE,
which a model names.

The original has the tables of sequence groups in a place of their own: a feature that stands in a
sequence group and in another one has two tables, even under one `embedding_name`; among sequence
groups the name shares. Here those tables have a suffix.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from deepfm.easyrec.features import Feature
from deepfm.easyrec.networks import attention, attention_network
from deepfm.easyrec.pipeline_pb2 import (
    FeatureGroupConfig,
    FeatureGroupType,
    ModelConfig,
    SeqGroupConfig,
)
from deepfm.easyrec.reading import Keys, Pipeline, shortest
from deepfm.errors import nearest

_IN_SEQUENCES = "sequence"  # what ends the names of tables of sequence groups


class Wanted(NamedTuple):
    """A group that a model reads.

    Attributes:
        name: Ours.
        kind: Its type in the format.
        is_needed: Whether the model does without it.
        encodes: Whether it may have sequence encoders.
    """

    name: str
    kind: str = "DEEP"
    is_needed: bool = True
    encodes: bool = False


class Groups(NamedTuple):
    """What feeds the views.

    Attributes:
        fields: Fields by our name of the group.
        sequences: Query and sequence by name.
        encoders: In their order.
        suffixes: Of tables, by group or sequence.
        paths: Of the group in the pipeline, by our name of the group or sequence.
    """

    fields: dict[str, list[str]]
    sequences: dict[str, Keys]
    encoders: list[Keys]
    suffixes: dict[str, str]
    paths: dict[str, str]

    @property
    def used(self) -> set[str]:
        """All fields that some view has."""
        found = {name for names in self.fields.values() for name in names}
        for sequence in self.sequences.values():
            found |= {*sequence["query"], *sequence["sequence"]}
        return found

    def keys(self) -> Keys:
        """Keys of the section `feature`."""
        found: Keys = {"groups": self.fields}
        if self.suffixes:
            found["table_suffixes"] = self.suffixes
        if self.sequences:
            found["sequences"] = self.sequences
        if self.encoders:
            found["encoders"] = self.encoders
        return found


def wanted_groups(pipeline: Pipeline, model: str) -> dict[str, Wanted]:
    """What a model reads, by the format's name of the group."""
    config: ModelConfig = pipeline.message.model_config
    names = [group.group_name for group in config.feature_groups]
    if model in ("deepfm", "wide_and_deep", "xdeepfm"):
        found = {"wide": Wanted("wide", "WIDE", is_needed=model != "deepfm")}
        if model == "deepfm":
            found["fm"] = Wanted("fm", is_needed=False)
        return found | {"deep": Wanted("deep", encodes=True)}
    if model in ("dlrm", "wukong"):
        if len(names) == 1:
            return {names[0]: Wanted("sparse")}
        return {"dense": Wanted("dense", is_needed=False), "sparse": Wanted("sparse")}
    if model in ("multi_tower", "multi_tower_din"):
        section = getattr(config, model)
        found = {tower.input: Wanted(tower.input, encodes=True) for tower in section.towers}
        if model == "multi_tower_din":
            found |= {t.input: Wanted(t.input, "SEQUENCE") for t in section.din_towers}
        return found
    return {
        name: Wanted("deep", encodes=True) for name in names[:1]
    }  # the first, whatever its name


def read_groups(pipeline: Pipeline, model: str, features: Mapping[str, Feature]) -> Groups:
    """The groups that a model reads.

    Raises:
        ConfigError: A group is missing, incomplete, of another type, or names no feature.
    """
    reader, wanted = _Reader(pipeline, features), wanted_groups(pipeline, model)
    seen: list[str] = []
    for k, group in enumerate(pipeline.message.model_config.feature_groups):
        path, name = f"model_config.feature_groups[{k}]", group.group_name
        if not name:
            raise pipeline.error(path, "group_name: a value is needed")
        if name in seen:
            raise pipeline.error(f"{path}.group_name", f"a second group {name!r}")
        seen.append(name)
        reader.check_names(path, group.feature_names)
        if name in wanted:
            reader.read(path, group, wanted[name])
        else:
            known = ", ".join(wanted)
            pipeline.note(path, f"{model} reads {known}; group {name!r} is left out")
    found = reader.found
    present = {*found.fields, *found.sequences}
    for name, needed in wanted.items():
        if needed.is_needed and needed.name not in present:
            raise pipeline.error(
                "model_config.feature_groups",
                f"{model} needs a group {name}; found: {', '.join(seen) or 'none'}",
            )
    if not wanted:
        raise pipeline.error("model_config", f"{model} needs a feature group; found none")
    order = [needed.name for needed in wanted.values()]
    found = found._replace(
        fields={name: found.fields[name] for name in order if name in found.fields}
    )
    if unused := [name for name in features if name not in found.used]:
        pipeline.note("feature_configs", f"in no group, left out: {', '.join(unused)}")
    reader.check_tables()
    return found


class _Reader:
    """Groups as they are read one after the other."""

    def __init__(self, pipeline: Pipeline, features: Mapping[str, Feature]) -> None:
        self.pipeline, self.features = pipeline, features
        self.found = Groups({}, {}, [], {}, {})

    def check_names(self, path: str, names: Iterable[str]) -> None:
        """Refuse a name that is no feature's, or stands twice."""
        seen: set[str] = set()
        for k, name in enumerate(names):
            where = f"{path}.feature_names[{k}]"
            if name not in self.features:
                hint = nearest(name, self.features)
                raise self.pipeline.error(where, f"no feature {name!r}; {hint}")
            if name in seen:
                raise self.pipeline.error(where, f"{name!r} stands twice")
            seen.add(name)

    def read(self, path: str, group: FeatureGroupConfig, wanted: Wanted) -> None:
        """A group that the model reads."""
        kind, names = FeatureGroupType.Name(group.group_type), list(group.feature_names)
        has_sequences = bool(group.sequence_groups or group.sequence_encoders)
        if kind == "JAGGED_SEQUENCE":
            supported = "DEEP, WIDE and SEQUENCE"
            raise self.pipeline.error(
                f"{path}.group_type", f"{kind} is not supported; supported are {supported}"
            )
        if kind != wanted.kind:
            raise self.pipeline.error(
                f"{path}.group_type", f"{group.group_name} is {wanted.kind}, found {kind}"
            )
        if has_sequences and not wanted.encodes:
            raise self.pipeline.error(
                path, f"group {group.group_name!r} cannot have sequence groups and encoders here"
            )
        self.found.paths[wanted.name] = path
        if kind == "SEQUENCE":
            self._sequence(path, wanted.name, names, group.embedding_name_suffix)
            self._check_query(path, wanted.name)  # which DIN compares with the steps
            return
        if not names:
            raise self.pipeline.error(path, f"feature_names: group {group.group_name!r} has none")
        if kind == "WIDE":
            self._check_wide(path, names)
        self.found.fields[wanted.name] = names
        if group.embedding_name_suffix:
            self.found.suffixes[wanted.name] = group.embedding_name_suffix
        if has_sequences:
            self._nested(path, group, wanted.name)

    def _check_wide(self, path: str, names: list[str]) -> None:
        for k, name in enumerate(names):
            if self.features[name].table is None:
                raise self.pipeline.error(
                    f"{path}.feature_names[{k}]",
                    f"dense feature {name!r} should not be configured in the wide group; give it "
                    "boundaries to make ids of it",
                )

    def _nested(self, path: str, group: FeatureGroupConfig, ours: str) -> None:
        """The sequence groups of a group, with their encoders."""
        if not group.sequence_encoders:
            raise self.pipeline.error(path, "sequence_groups need sequence_encoders; found none")
        if not group.sequence_groups:
            raise self.pipeline.error(path, "sequence_encoders need sequence_groups; found none")
        names: dict[str, str] = {}  # ours by the format's
        for k, nested in enumerate(group.sequence_groups):
            below = f"{path}.sequence_groups[{k}]"
            self.check_names(below, nested.feature_names)
            name = self._name(below, group, nested)
            own = name if name != group.group_name else f"{name}_{_IN_SEQUENCES}"
            if own in self.found.sequences:
                raise self.pipeline.error(below, f"a second sequence group {name!r}")
            suffix = nested.embedding_name_suffix or group.embedding_name_suffix
            self._sequence(below, own, list(nested.feature_names), suffix)
            names[name] = own
        unread = set(names)
        for k, encoder in enumerate(group.sequence_encoders):
            below, kind = f"{path}.sequence_encoders[{k}]", encoder.WhichOneof("seq_module")
            if kind is None:
                raise self.pipeline.error(below, f"expected one of {', '.join(_ENCODERS)}")
            config = getattr(encoder, kind)
            name = config.input or (next(iter(names)) if len(names) == 1 else "")
            if name not in names:
                problem = f"no sequence group {name!r}; {nearest(name, names)}"
                raise self.pipeline.error(f"{below}.{kind}.input", problem)
            unread.discard(name)
            self._encoder(f"{below}.{kind}", kind, config, names[name], ours)
        for name in names:
            if name in unread:
                raise self.pipeline.error(path, f"no encoder reads sequence group {name!r}")

    def _name(self, path: str, group: FeatureGroupConfig, nested: SeqGroupConfig) -> str:
        """A sequence group's name, which one that stands alone need not have."""
        if not nested.group_name and len(group.sequence_groups) > 1:
            raise self.pipeline.error(path, "group_name: one of several groups needs it")
        return str(nested.group_name or group.group_name)

    def _sequence(self, path: str, name: str, names: list[str], suffix: str) -> None:
        """Divide features into those of the query and those of the sequence."""
        parts: Keys = {"query": [], "sequence": []}
        for feature in names:
            is_step = self.features[feature].is_sequence
            parts["sequence" if is_step else "query"].append(feature)
        if not parts["sequence"]:
            raise self.pipeline.error(path, "feature_names: no feature of a sequence is there")
        self.found.sequences[name], self.found.paths[name] = parts, path
        self.found.suffixes[name] = "_".join(filter(None, [_IN_SEQUENCES, suffix]))
        self._join(parts["sequence"])

    def _join(self, names: list[str]) -> None:
        """Features of one group are one sequence, whose lengths are equal row by row."""
        joined = {self.features[name].keys["sequence"] for name in names}
        first = self.features[names[0]].keys["sequence"]
        for feature in self.features.values():
            if feature.is_sequence and feature.keys["sequence"] in joined:
                feature.keys["sequence"] = first

    def _check_query(self, path: str, name: str) -> None:
        """Refuse a query that an attention cannot compare with the steps."""
        parts = self.found.sequences[name]
        query, steps = (
            sum(self.features[feature].dim for feature in parts[side])
            for side in ("query", "sequence")
        )
        if not query:
            raise self.pipeline.error(
                path, "feature_names: a feature that is no sequence is needed"
            )
        if query > steps:
            raise self.pipeline.error(
                path, f"the query is {query} wide and the sequence {steps}; it may not be wider"
            )

    def _encoder(self, path: str, kind: str, config: Any, sequence: str, group: str) -> None:
        if kind not in ("pooling_encoder", "self_attention_encoder"):
            self._check_query(self.found.paths[sequence], sequence)
        keys: Keys = {"name": _ENCODERS[kind], "input": sequence, "unknown": "attend"}
        if kind == "din_encoder":
            keys = attention(self.pipeline, config.attn_mlp, f"{path}.attn_mlp", sequence)
        elif kind == "multi_window_din_encoder":
            if not config.windows_len:
                raise self.pipeline.error(path, "windows_len: a value is needed")
            keys |= attention_network(self.pipeline, config.attn_mlp, f"{path}.attn_mlp")
            keys |= {"windows": list(config.windows_len), "newest": "first"}
        elif kind == "pooling_encoder":
            if config.pooling_type not in ("sum", "mean"):
                problem = f"expected sum or mean, found {config.pooling_type!r}"
                raise self.pipeline.error(f"{path}.pooling_type", problem)
            keys["combiner"] = config.pooling_type
        elif kind == "self_attention_encoder":
            keys |= {
                "attention_dim": config.multihead_attn_dim,
                "num_heads": config.num_heads,
                "dropout": shortest(config.dropout),
            }
        if kind != "multi_window_din_encoder" and config.max_seq_length > 0:
            keys["max_length"] = config.max_seq_length
        self.found.encoders.append(keys | {"group": group})

    def check_tables(self) -> None:
        """Refuse two tables of one name, which only a suffix would tell apart in the original."""
        suffixes: dict[str, str] = {}
        for group, names in self.found.fields.items():
            suffix = self.found.suffixes.get(group, "")
            for feature in (self.features[name] for name in names):
                if feature.table is None:
                    continue
                table = "_".join(filter(None, [feature.table, "wide" * (group == "wide"), suffix]))
                if suffixes.setdefault(table, suffix) != suffix:
                    raise self.pipeline.error(
                        f"{self.found.paths[group]}.embedding_name_suffix",
                        f"table {table} would belong to groups of two suffixes, "
                        f"{suffixes[table]!r} and {suffix!r}",
                    )


_ENCODERS = {
    "din_encoder": "din",
    "simple_attention": "simple_attention",
    "pooling_encoder": "pooling",
    "multi_window_din_encoder": "multi_window_din",
    "self_attention_encoder": "self_attention",
}
