"""What a declared table says about its rows, before any is read."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

from deepfm.data.fingerprint import FilesRead
from deepfm.data.labels import LabelRule
from deepfm.data.later_rows import LaterRows, Step
from deepfm.data.options import DataConfig, HistoryConfig, TableConfig
from deepfm.data.schema import ITEMS, LEARNT, DatasetSchema, FieldSchema
from deepfm.data.sources import tabular
from deepfm.data.sources.tables import SideTables
from deepfm.data.splits import SplitOptions, StreamedSplit
from deepfm.data.store.versions import FORMAT_VERSION, hash_plain
from deepfm.errors import ConfigError
from deepfm.utils.places import AnyPath, path_of

# What a model does with the ids is no part of a store.
_MODEL_ONLY = (
    *LEARNT, "embedding_dim", "combiner", "dense_embedding", "bins", "frequencies",
    "frequency_scale", "init", "trainable", "built", "history_of",
)  # fmt: skip
_OF_A_LABEL = ("column", "kind", "threshold", "positive")  # and what its rule adds
# What decides how rows are read, beside the fields, the labels and the content of the files.
_OF_THE_ROWS = (
    "delimiter", "columns", "encoding", "users", "items", "sample_weight", "group_columns",
    "user_field", "item_field", "time_column", "item_title_column", "bad_values",
)  # fmt: skip


class RowsOfATable:
    """What a declared table says about its rows, before any is read.

    Args:
        data: Its `table`, with a `split_strategy` that streams.
        schema: Of the table.
        labels: The rule of each trained label, by name; the table's own label by default.
        read: The content of its files, if it is known.

    Attributes:
        table, schema, labels: As given.
        files: By what they hold: a split's name or `rows`, `users`, `items`.
        read: The content of these files, and of vocabulary files.
        split: How rows are divided.
        split_names: The splits that the settings ask for.
        steps: What was appended to the table, in its order.
        before: How many rows were read before those of the files.
    """

    def __init__(
        self,
        data: DataConfig,
        schema: DatasetSchema,
        labels: Mapping[str, LabelRule] | None = None,
        read: FilesRead | None = None,
    ) -> None:
        self.table, self.schema = declared_table(data), schema
        self.labels = labels or {
            self.table.label: tabular.label_rule(self.table.trained_label, num_class=1)
        }
        self._data = data
        self.files = tabular.source_files(data)
        split = data.split
        if not issubclass(split, StreamedSplit):
            raise ConfigError(f"{split.name} is not prepared", key="data.split_strategy")
        self.steps: tuple[Step, ...] = ()
        self.before = 0
        self._kind_of_split = split
        self.split = self.new_split()
        self.split_names = self.split.split_names(self.files)
        self.read = read or tabular.fingerprint_of(data, self.files)
        if "valid" not in self.split_names:
            raise ConfigError(
                "the validation split needs a share above 0", key="data.split_fractions"
            )

    @cached_property
    def sides(self) -> SideTables:
        """The declared tables of users and items, read when they are first asked for."""
        return tabular.side_tables(self.table, self.schema, path_of(self._data.data_dir))

    @property
    def row_files(self) -> dict[str, list[AnyPath]]:
        """The files of rows, by role."""
        return {role: files for role, files in self.files.items() if role not in tabular.SIDES}

    @property
    def is_surveyed(self) -> bool:
        """Whether the split looks at all rows before any is divided."""
        return bool(self.split.surveyed) or self.split.surveys_classes

    def new_split(self) -> StreamedSplit:
        """A split that has not looked at any row."""
        split = self._kind_of_split(self._split_options())
        is_put = any(step.placed is not None for step in self.steps)
        return LaterRows(split, self.steps, self.before) if is_put else split

    def appended(self, steps: Sequence[Step]) -> "RowsOfATable":
        """The same rows, of which some were appended."""
        found = copy.copy(self)
        found.steps = tuple(steps)
        found.split = found.new_split()
        return found

    def later(self, files: Mapping[str, list[AnyPath]], before: int) -> "RowsOfATable":
        """The rows of some files alone, before which others were read."""
        found = copy.copy(self)
        sides = {role: paths for role, paths in self.files.items() if role in tabular.SIDES}
        found.files, found.before = {**files, **sides}, before
        found.split = found.new_split()
        return found

    def key(self) -> str:
        """A hash of everything that decides what a store holds, but for encoders from outside."""
        content = self.read.fingerprint.content(self.files)
        fields = [_settings_of(field) for field in self.schema.read_fields]
        return self._key(content, fields, [[step.before, step.placed] for step in self.steps])

    def settings_key(self) -> str:
        """A hash of what has to stay the same where rows are appended."""
        fields = [_settings_of(field) for field in self.schema.read_fields]
        for settings in fields:
            settings.pop("max_vocabulary", None)  # a vocabulary may be given more room
        return self._key(None, fields, [])

    def content(self) -> dict[str, list[list[object]]]:
        """Size and digest of each file of rows, by role."""
        found = self.read.fingerprint.content(self.row_files)
        return {role: [list(part) for part in parts] for role, parts in found.items()}

    def _key(self, content: object, fields: list[dict[str, Any]], steps: list[list[object]]) -> str:
        table = asdict(self.table)
        labels = [(name, self._label_key(name, rule)) for name, rule in self.labels.items()]
        decides = [
            FORMAT_VERSION,
            content,
            {name: table[name] for name in _OF_THE_ROWS},
            fields,
            labels if len(labels) > 1 else labels[0][1],  # a store holds several in their order
            self._kind_of_split.settings(self.split.options),
        ]
        if steps:
            decides.append(steps)
        if self.table.history is not None:
            decides.append(self._history_key(self.table.history))
        return hash_plain(decides)

    def _history_key(self, history: HistoryConfig) -> dict[str, object]:
        """What decides the events that each row sees, and what is known of them.

        Whether a model sees the ages, too, is its affair.
        """
        sources = [field.history_of for field in self.schema.built_fields if field.built == ITEMS]
        return {**history.what_is_seen(), "fields": sources}

    def _label_key(self, name: str, rule: LabelRule) -> dict[str, object]:
        """What a label depends on; a store holds it as it is, standardised later or not."""
        declared = asdict(self.table.label_of(name))
        return {key: declared[key] for key in _OF_A_LABEL} | rule.key

    def _split_options(self) -> SplitOptions:
        data = self._data
        return SplitOptions(
            data.split_fractions,
            data.split_seed,
            data.stratify,
            next(iter(self.labels.values())).classes,
            self.table.time_column,
        )


def _settings_of(field: FieldSchema) -> dict[str, Any]:
    """What a field says that decides its ids and numbers, and what is learnt for them."""
    settings = {key: value for key, value in asdict(field).items() if key not in _MODEL_ONLY}
    settings["vocabulary"] = None if field.vocabulary is None else field.vocabulary.digest
    for key in ("sequence", "numbers", "overflow_buckets"):  # which older stores do not know
        if not settings[key]:
            del settings[key]
    if not field.overflow_buckets:  # else a bound decides which values have ids of their own
        del settings["max_vocabulary"]
    if field.dense_embedding == "piecewise":
        settings["bins"] = field.bins
    return settings


def declared_table(data: DataConfig) -> TableConfig:
    """The table of a config that has one.

    Raises:
        ConfigError: It has none.
    """
    if data.table is None:
        raise ConfigError("no table is declared", key="data.table")
    return data.table
