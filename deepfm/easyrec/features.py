"""Features of a pipeline as fields of a declared table.

What the columns hold depends on `data_config.fg_mode`. In FG_NONE they hold ids and numbers, and
the options of a feature only say how many rows its table has. In FG_BUCKETIZE the column of a
feature's name holds its values, which become ids here. In FG_NORMAL and FG_DAG the column is that
of the feature's expression, and its values are normalized or crossed first.

An id feature may have any number of values per row, so it is a sequence of unlimited length
unless it is known to have one: by `value_dim: 1`, or by a column of whole numbers.

A feature of a sequence has one value per step; the steps stand in a list, or in a text cut at
`sequence_delim`. Those of a `sequence_feature` are fields called `sequence__feature`, and with
expressions their columns are `sequence__column`. Outside of FG_NONE a step without a value, and
a row without steps, are one step of the default, which is never empty.

NOTE[DIFF]: a feature whose ids and whose table size come from two different options is refused;
a null number without a default is an error rather than a NaN; a step has one value.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from deepfm.data.encoding.words import read_words
from deepfm.easyrec.pipeline_pb2 import FG_DAG, FG_NONE, FG_NORMAL, FgMode, SequenceFeature
from deepfm.easyrec.reading import Keys, Pipeline, shortest
from deepfm.errors import ConfigError, DataError, nearest, problem_of
from deepfm.models.layers.initializers import initializer_from

EXPRESSING = (FG_NORMAL, FG_DAG)
INTEGER, LIST, OTHER = "integer", "list", "other"  # what a column holds, where it is known
_POOLINGS = ("sum", "mean")
_DATA_TYPES = ("FP32", "FP16")
_ID_OPTIONS = ("hash_bucket_size", "vocab_list", "vocab_dict", "vocab_file", "num_buckets")
_MLP_INIT = "nn.init.xavier_normal_"  # deviation sqrt(2 / (value_dim + embedding_dim))
_FARM_HASH = "USE_FARM_HASH_TO_BUCKETIZE"  # read by the original, too


class Feature(NamedTuple):
    """One feature of a pipeline.

    Attributes:
        name: Of the feature and its field.
        path: Of its message in the pipeline.
        keys: Of the declared field.
        table: Name of the embedding table in the original; None without one.
        rows: Of the table; 0 where it is not known yet.
        pooling: Of the vectors of several values, whether or not a row may have several.
        is_sequence: Whether it has steps, rather than values of which the order means nothing.
    """

    name: str
    path: str
    keys: Keys
    table: str | None = None
    rows: int = 0
    pooling: str = ""
    is_sequence: bool = False

    @property
    def dim(self) -> int:
        """Width of the feature's vector, or of its numbers."""
        return int(self.keys.get("embedding_dim") or self.keys.get("value_dim", 1))

    @property
    def is_raw(self) -> bool:
        """Whether the feature is numbers, with or without a vector made from them."""
        return bool(self.keys["type"] == "dense")


def read_features(pipeline: Pipeline, columns: dict[str, str]) -> dict[str, Feature]:
    """All features by name.

    Args:
        columns: What a column holds, by name, as far as that is known.

    Raises:
        ConfigError: A feature is incomplete, has options that contradict each other, or needs
            what is not supported.
    """
    found: dict[str, Feature] = {}
    for reader, kind in _readers(pipeline, columns):
        feature = reader.raw() if kind == "raw_feature" else reader.ids(kind == "combo_feature")
        if feature.name in found:
            raise pipeline.error(reader.path, f"a second feature {feature.name!r}")
        found[feature.name] = feature
    _share_tables(pipeline, found)
    return found


def _readers(pipeline: Pipeline, columns: dict[str, str]) -> Iterator[tuple["_Reader", str]]:
    """A reader of each feature, and its kind, in the order of the pipeline."""
    for k, config in enumerate(pipeline.message.feature_configs):
        kind = config.WhichOneof("feature")
        if kind is None:
            path = f"feature_configs[{k}]"
            raise pipeline.error(path, "expected an id_feature, raw_feature or combo_feature")
        path, message = f"feature_configs[{k}].{kind}", getattr(config, kind)
        if kind == "sequence_feature":
            yield from _readers_of_sequence(pipeline, path, message, columns)
            continue
        steps, own = None, kind.removeprefix("sequence_")
        if own != kind:
            steps = _Steps(
                message.feature_name, "", message.sequence_delim, message.sequence_length, path
            )
        yield _Reader(pipeline, path, message, columns, steps), own


def _readers_of_sequence(
    pipeline: Pipeline, path: str, message: SequenceFeature, columns: dict[str, str]
) -> Iterator[tuple["_Reader", str]]:
    name = message.sequence_name
    if not name:
        raise pipeline.error(path, "sequence_name: a value is needed")
    if not message.features:
        raise pipeline.error(path, "features: a value is needed")
    steps = _Steps(name, f"{name}__", message.sequence_delim, message.sequence_length, path)
    for k, config in enumerate(message.features):
        kind = config.WhichOneof("feature")
        below = f"{path}.features[{k}]"
        if kind is None:
            raise pipeline.error(below, "expected an id_feature, raw_feature or combo_feature")
        yield _Reader(pipeline, f"{below}.{kind}", getattr(config, kind), columns, steps), kind


class _Steps(NamedTuple):
    """What a feature of a sequence has besides.

    Attributes:
        name: Of the sequence; of a feature that is a sequence by itself, its own.
        prefix: Of the names of its fields and columns.
        delimiter: Between steps in a text.
        length: Steps that are read at most, outside of FG_NONE; 0: all.
        path: Of the message with these.
    """

    name: str
    prefix: str
    delimiter: str
    length: int
    path: str


class _Reader:
    """One feature's message, with what it takes to read it."""

    def __init__(
        self,
        pipeline: Pipeline,
        path: str,
        config: Any,
        columns: dict[str, str],
        steps: _Steps | None = None,
    ) -> None:
        self.pipeline, self.path, self.config, self.columns = pipeline, path, config, columns
        self.mode, self.steps = fg_mode(pipeline), steps
        if not config.feature_name:
            raise pipeline.error(path, "feature_name: a value is needed")
        self.name = (steps.prefix if steps else "") + config.feature_name
        if "." in self.name:
            raise self.error("feature_name", "a name with '.' cannot name a table")
        if config.data_type not in _DATA_TYPES:
            hint = nearest(config.data_type, _DATA_TYPES)
            raise self.error("data_type", f"unknown type {config.data_type!r}; {hint}")

    @property
    def _default_value(self) -> str:
        """What an absent value is read as, outside of FG_NONE; of a step never nothing."""
        given: str = self.config.default_value
        return given or ("0" if self.steps is not None else "")

    def error(self, field: str, problem: str) -> ConfigError:
        return self.pipeline.error(f"{self.path}.{field}", f"feature {self.name}: {problem}")

    def ids(self, is_combo: bool) -> Feature:
        """An id or a combo feature."""
        source = self._source(is_combo)
        if self.steps is not None:
            if len(source.get("columns", [])) > 1:
                mode = FgMode.Name(self.mode)
                problem = f"of a sequence it is supported in FG_NONE and FG_BUCKETIZE, not {mode}"
                raise self.pipeline.error(self.path, f"feature {self.name}: {problem}")
            self._check_one_value()
            rows, ids = self._encoded_ids() if self.mode == FG_NONE else self._bucketized()
            return self._embedded(source | ids | self._step_keys(), rows)
        is_single = self.config.HasField("value_dim") and self.config.value_dim == 1
        held = {self.columns.get(name) for name in source.get("columns", [self._column(source)])}
        keys: Keys = {"type": "sparse" if is_single or held == {INTEGER} else "sequence"} | source
        if not is_combo and self.config.weighted and held != {INTEGER}:
            keys["transform"] = "before(:)"
        if keys["type"] == "sequence":
            keys |= self._many()
        rows, ids = self._encoded_ids() if self.mode == FG_NONE else self._bucketized()
        return self._embedded(keys | ids | self._default(), rows)

    def raw(self) -> Feature:
        """A raw feature: numbers, or the buckets that they fall into."""
        if self.config.boundaries:
            return self._buckets()
        return self._numbers() if self.steps is None else self._number_steps()

    def _number_steps(self) -> Feature:
        """A sequence of numbers, which has no table."""
        self._check_one_value()
        if self.config.WhichOneof("dense_emb"):
            raise self.error(self.config.WhichOneof("dense_emb"), "not supported in a sequence")
        keys = self._source(is_combo=False) | {"numbers": True}
        keys |= self._transform() | self._step_keys()
        return Feature(self.name, self.path, keys, is_sequence=True)

    def _check_one_value(self) -> None:
        if self.config.DESCRIPTOR.name == "IdFeature" and self.config.weighted:
            raise self.error("weighted", "not supported in a sequence")
        if self.config.HasField("value_dim") and self.config.value_dim != 1:
            raise self.error(
                "value_dim",
                f"a step of a sequence has one value here, found value_dim: "
                f"{self.config.value_dim}",
            )

    def _step_keys(self) -> Keys:
        """How the steps stand in their column."""
        assert self.steps is not None
        steps, encoded = self.steps, self.mode == FG_NONE
        if not steps.delimiter:
            problem = "expected a text that separates steps, found none"
            raise self.pipeline.error(f"{steps.path}.sequence_delim", problem)
        keys: Keys = {
            "type": "sequence",
            "sequence": steps.name,
            "separator": steps.delimiter,
            "max_length": 0 if encoded else steps.length,
        }
        if not encoded and steps.length:
            keys["keep"] = "first"
        return keys | self._default()

    def _buckets(self) -> Feature:
        config, source = self.config, self._source(is_combo=False)
        rows = len(config.boundaries) + 1
        keys: Keys = {"type": "sparse" if config.value_dim == 1 else "sequence"} | source
        if self.columns.get(self._column(source)) == LIST:
            keys["type"] = "sequence"
        if self.steps is not None:
            self._check_one_value()
            keys |= self._step_keys()
        elif keys["type"] == "sequence":
            keys |= self._many()
        if self.mode == FG_NONE:
            keys |= {"num_buckets": rows, "out_of_range": "row0"}
        else:
            keys["boundaries"] = [shortest(edge) for edge in config.boundaries]
            keys |= self._transform()
        if self.steps is None:
            keys |= self._default()
        return self._embedded(keys, rows)

    def _numbers(self) -> Feature:
        config, source = self.config, self._source(is_combo=False)
        keys: Keys = {"type": "dense"} | source | self._transform() | {"scale": "none"}
        if config.value_dim != 1:
            if not config.value_dim:
                raise self.error("value_dim", "expected at least 1, found 0")
            keys |= {"value_dim": config.value_dim, "separator": self._separator()}
        keys |= self._default()
        if config.WhichOneof("dense_emb") == "mlp":
            keys |= {"dense_embedding": "linear", "embedding_dim": self._embedding_dim()}
            keys["init"] = _MLP_INIT
        return Feature(self.name, self.path, keys)

    def _embedded(self, keys: Keys, rows: int) -> Feature:
        config = self.config
        if config.pooling not in _POOLINGS:
            raise self.error("pooling", f"expected sum or mean, found {config.pooling!r}")
        keys["embedding_dim"] = self._embedding_dim()
        if config.init_fn:
            check_initializer(self.pipeline, f"{self.path}.init_fn", config.init_fn)
            keys["init"] = config.init_fn
        if not config.trainable:
            keys["trainable"] = False
        table, pooling = config.embedding_name or f"{self.name}_emb", config.pooling
        if self.steps is not None:
            keys["combiner"] = pooling
        return Feature(self.name, self.path, keys, table, rows, pooling, self.steps is not None)

    def _embedding_dim(self) -> int:
        if not self.config.embedding_dim:
            raise self.error("embedding_dim", "an embedded feature needs one above 0")
        return int(self.config.embedding_dim)

    def _many(self) -> Keys:
        return {
            "separator": self._separator(),
            "max_length": 0,
            "combiner": self.config.pooling,
        }

    def _separator(self) -> str:
        encoded = self.mode == FG_NONE
        data = self.pipeline.message.data_config
        found: str = data.fg_encoded_multival_sep if encoded else self.config.separator
        if not found:
            field = "data_config.fg_encoded_multival_sep" if encoded else f"{self.path}.separator"
            raise self.pipeline.error(field, "expected a text that separates values, found none")
        return found

    def _column(self, source: Keys) -> str:
        return str(source.get("column", self.name))

    def _source(self, is_combo: bool) -> Keys:
        """Where values stand: nothing to say for the column of the feature's name."""
        if self.mode not in EXPRESSING:
            return {}
        found = self.config.expression
        expressions = list(found) if is_combo else ([found] if found else [])
        if not expressions:
            mode = FgMode.Name(self.mode)
            raise self.error("expression", f"{mode} needs one, such as user:{self.name}")
        names = []
        for k, expression in enumerate(expressions):
            match = re.fullmatch(r"\s*(user|item|context)\s*:\s*([^:\s]+)\s*", expression)
            if match is None:
                raise self.error(
                    f"expression[{k}]" if is_combo else "expression",
                    f"not supported; expected side:column with user, item or context as side, "
                    f"found {expression!r}",
                )
            names.append((self.steps.prefix if self.steps else "") + match[2])
        if len(names) > 1:
            return {"columns": names}
        return {} if names[0] == self.name else {"column": names[0]}

    def _default(self) -> Keys:
        """What stands in for an absent value."""
        config = self.config
        if self.mode == FG_NONE:
            text = config.fg_encoded_default_value
        else:
            text = self._default_value
        if not text:
            return {}
        if config.DESCRIPTOR.name == "RawFeature" and not config.boundaries:
            number = _number(text)
            if config.value_dim == 1 and number is None:
                field = "fg_encoded_default_value" if self.mode == FG_NONE else "default_value"
                raise self.error(field, f"expected a number, found {text!r}")
            if config.value_dim == 1:
                return {"default": number}
            if number is not None:  # one number stands for all
                text = self._separator().join([text] * config.value_dim)
        return {"default": text}

    def _transform(self) -> Keys:
        """The normalizer, which has run already where columns hold a feature's values."""
        if self.mode not in EXPRESSING or not self.config.normalizer:
            return {}
        try:
            return {"transform": normalizer(self.config.normalizer)}
        except ValueError as error:
            raise self.error("normalizer", str(error)) from None

    def _options(self) -> list[str]:
        fields = self.config.DESCRIPTOR.fields_by_name
        return [name for name in _ID_OPTIONS if name in fields and getattr(self.config, name)]

    def _encoded_ids(self) -> tuple[int, Keys]:
        """Ids as they are; the first of the options says how many rows there are."""
        config, options = self.config, self._options()
        if "hash_bucket_size" in options:
            rows = config.hash_bucket_size
        elif "num_buckets" in options:
            rows = config.num_buckets
        elif options:
            words, oov = self._words(options[0])
            if words is None:
                rows = self._file_rows()
            else:
                rows = max([*words.values(), oov, *([0, 1] if self._reserves() else [])]) + 1
        else:
            raise self._no_option()
        return rows, {"num_buckets": rows, "out_of_range": "row0"}

    def _bucketized(self) -> tuple[int, Keys]:
        """Values to ids."""
        config, options = self.config, self._options()
        if not options:
            raise self._no_option()
        if len(options) > 1:
            raise self.error(options[1], f"choose one of {' and '.join(options)}")
        (option,) = options
        if option == "num_buckets":
            return config.num_buckets, {
                "num_buckets": config.num_buckets,
                "out_of_range": "row0",
            }
        if option == "hash_bucket_size":
            farm = os.environ.get(_FARM_HASH, "").lower() == "true"
            return config.hash_bucket_size, {
                "hash_buckets": config.hash_bucket_size,
                "hash_function": "farm64" if farm else "murmur64a",
                "padding": False,
            }
        words, oov = self._words(option)
        if words is None:
            rows = max(self._file_rows(), oov + 1)
            return rows, {"vocabulary_file": config.vocab_file, "oov_id": oov}
        return max([*words.values(), oov]) + 1, {"vocabulary": words, "oov_id": oov}

    def _no_option(self) -> ConfigError:
        fields = self.config.DESCRIPTOR.fields_by_name
        known = ", ".join(name for name in _ID_OPTIONS if name in fields)
        return self.pipeline.error(self.path, f"feature {self.name}: expected one of {known}")

    def _reserves(self) -> bool:
        """Whether id 0 is kept for the default value and 1 for unknown words."""
        return not self.config.HasField("default_bucketize_value")

    def _words(self, option: str) -> tuple[dict[str, int] | None, int]:
        """Words with their ids, and the id of all others; None for the words of a file."""
        config = self.config
        oov = 1 if self._reserves() else config.default_bucketize_value
        if option == "vocab_file":
            if self._reserves():
                raise self.error("vocab_file", "it needs default_bucketize_value")
            return None, oov
        if option == "vocab_list":
            first = 2 if self._reserves() else 0
            words = {word: first + k for k, word in enumerate(config.vocab_list)}
            if not self._reserves() and oov >= len(config.vocab_list):
                raise self.error(
                    "default_bucketize_value",
                    f"expected a place in vocab_list, below {len(config.vocab_list)}, found {oov}",
                )
            if self._reserves() and self._default_value:
                words = {self._default_value: 0} | words  # its place in the list counts
        else:
            words = dict(sorted(config.vocab_dict.items(), key=lambda item: (item[1], item[0])))
            if self._reserves() and self._default_value:
                words = {self._default_value: 0} | {
                    word: number for word, number in words.items() if word != self._default_value
                }
        return words, oov

    def _file_rows(self) -> int:
        """Rows that a vocabulary file needs."""
        try:
            return read_words(Path(), self.config.vocab_file).rows
        except (ConfigError, DataError) as error:
            raise self.error("vocab_file", str(error)) from None


def check_initializer(pipeline: Pipeline, path: str, text: str) -> None:
    """Refuse an initializer that is none of the declared set."""
    try:
        initializer_from(text)
    except ValueError as error:
        raise pipeline.error(path, problem_of(error)) from None


def fg_mode(pipeline: Pipeline) -> int:
    """What columns hold; the deprecated `fg_encoded` counts where it is set."""
    data = pipeline.message.data_config
    if not data.HasField("fg_encoded"):
        return data.fg_mode
    if data.fg_encoded:
        return FG_NONE
    return FG_DAG if data.fg_threads > 0 else FG_NORMAL


_NORMALIZERS = {
    "log10": ("threshold", "default"),
    "zscore": ("mean", "standard_deviation"),
    "minmax": ("min", "max"),
}


def normalizer(text: str) -> str:
    """A normalizer as a transform.

    Raises:
        ValueError: It is unknown or incomplete.

    Example:
        >>> normalizer("method=zscore,mean=0.1,standard_deviation=10")
        'zscore(0.1, 10)'
        >>> normalizer("method=expression,expr=log(max(x, 1))")
        'expression(log(max(x, 1)))'
    """
    match = re.fullmatch(r"\s*method\s*=\s*expression\s*,\s*expr\s*=(.*)", text, re.DOTALL)
    if match:
        return f"expression({match[1].strip()})"
    given = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key in given:
            raise ValueError(f"expected method=name,key=value,... with each key once, got {text!r}")
        given[key] = value
    method = given.pop("method", "")
    if method not in _NORMALIZERS:
        hint = nearest(method, [*_NORMALIZERS, "expression"])
        raise ValueError(f"unknown method {method!r}; {hint}")
    needed = _NORMALIZERS[method]
    if set(given) != set(needed) or None in map(_number, given.values()):
        raise ValueError(f"{method} needs the numbers {' and '.join(needed)}, found {text!r}")
    return f"{method}({', '.join(given[key] for key in needed)})"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _share_tables(pipeline: Pipeline, features: dict[str, Feature]) -> None:
    """Name the tables as fields do, and refuse features that cannot share one.

    A table has the name of its only feature, unless it has one of its own. In the original it is
    `<feature>_emb` then, and another feature may name that.
    """
    own = {f"{name}_emb": name for name, f in features.items() if f.table == f"{name}_emb"}
    first: dict[str, Feature] = {}
    for feature in features.values():
        if feature.table is None:
            continue
        other = first.setdefault(feature.table, feature)
        for what, theirs, mine in (
            ("rows", other.rows, feature.rows),
            ("embedding_dim", *(f.keys["embedding_dim"] for f in (other, feature))),
            ("pooling", other.pooling, feature.pooling),
            ("init_fn", *(f.keys.get("init", "") for f in (other, feature))),
            ("trainable", *(f.keys.get("trainable", True) for f in (other, feature))),
        ):
            if mine != theirs:
                raise pipeline.error(
                    f"{feature.path}.embedding_name",
                    f"features {other.name} and {feature.name} share the table {feature.table}, "
                    f"but have {what} {theirs} and {mine}",
                )
        shown = own.get(feature.table, feature.table)
        if shown == feature.table and shown in own.values():
            shown = f"{shown}_shared"  # the feature of that name has a table of its own
        if shown != feature.name:
            feature.keys["embedding_name"] = shown
