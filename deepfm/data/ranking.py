"""A ranking task in memory: positives with sampled negatives, held-out rows among candidates."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from deepfm.data import Adapter
from deepfm.data.candidates import candidates_of, read_candidates
from deepfm.data.dataset import (
    Catalogue,
    NegativeSampling,
    Prior,
    RankingTask,
    TabularDataset,
    epoch_weights,
)
from deepfm.data.encoding.cells import A_TIME
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.files.columns import combined, named_in_errors
from deepfm.data.history import EarlierEvents, Histories, earlier_events, item_ids
from deepfm.data.labels import (
    WEIGHT_EXPECTED,
    LabelRule,
    class_weights,
    group_ids,
    refuse_bad,
    sample_weight,
)
from deepfm.data.last_events import LastEvents
from deepfm.data.negatives import PairSampling
from deepfm.data.options import CandidatesConfig, DataConfig, HistoryConfig
from deepfm.data.sampling import Interactions, draw_candidates
from deepfm.data.schema import DatasetSchema
from deepfm.data.sources.tables import RawTables, id_field
from deepfm.data.sources.tabular import candidate_files
from deepfm.data.split_times import Times
from deepfm.data.splits import RankedRows, RankingSplit, SplitOptions, Splits, sortable
from deepfm.errors import ConfigError, DataError, Place, nearest, shown
from deepfm.utils.logging import LOGGER
from deepfm.utils.places import path_of
from deepfm.utils.seeding import generator


class Events(NamedTuple):
    """The interactions of a data set before encoding, and their split; N rows.

    Attributes:
        tables: Raw.
        user, item: Positions in their tables, (N,) int64.
        rating, label: (N,).
        order: Anything sortable, in the order of the times, (N,).
        time: The times as numbers, (N,) float64.
        split: Row numbers.
    """

    tables: RawTables
    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    label: np.ndarray
    order: np.ndarray
    time: np.ndarray
    split: Splits

    def trains(self) -> np.ndarray:
        """Which rows are of the training split, (N,) bool."""
        found = np.zeros(len(self.label), bool)
        found[self.split.train] = True
        return found

    def positives(self, rows: np.ndarray) -> np.ndarray:
        """Which of some rows hold a positive: their places among these rows."""
        return np.flatnonzero(self.label[rows] > 0)


class RankingData(NamedTuple):
    """The encoded splits of a ranking task, and what they were made from.

    Attributes:
        train, valid, test: The splits.
        encoders: Fitted on the training split, or given.
        events: Before encoding.
        history: Every pair of the data set.
        last_events: The newest events of each user; None without histories.
    """

    train: TabularDataset
    valid: TabularDataset
    test: TabularDataset
    encoders: Encoders
    events: Events
    history: Interactions
    last_events: LastEvents | None = None


def load_ranking(
    data: DataConfig,
    schema: DatasetSchema,
    adapter: Adapter,
    label: LabelRule,
    encoders: Encoders | None = None,
    *,
    base: Encoders | None = None,
    candidate_seed: int,
    at_least: int,
    by_pairs: bool = False,
) -> RankingData:
    """Read, split, fit on the training split, encode, and draw the candidates.

    Args:
        data: Its `split_strategy` makes a ranking.
        adapter: What gives the raw tables.
        label: What makes an interaction a positive one.
        encoders: Those of a checkpoint, used as they are; without them new ones are fitted.
        base: Those of another checkpoint, from which the fitted ones grow.
        candidate_seed: Of the candidates.
        at_least: Candidates to draw per user, beside `data.num_neg_eval`.
        by_pairs: Whether a loss compares each positive with its negatives.

    Raises:
        ConfigError: Training would see no negative.
        DataError: The data is missing or not what its schema says, or holds nothing to train on.
    """
    if not (data.num_neg_train or data.explicit_negatives or by_pairs):
        raise ConfigError(
            "data.num_neg_train is 0 and data.explicit_negatives false: training would see no "
            "negative; change one of them"
        )
    events = _read_events(data, schema, adapter, label)
    tables, split = events.tables, events.split
    columns = tables.complete(schema, tables.interactions)
    if encoders is None:
        encoders = Encoders.fit(schema, columns.take(split.train))
        encoders = encoders if base is None else encoders.grown_from(base)
    history = _interactions(events, np.arange(len(events.user)))
    count = max(data.num_neg_eval, at_least)
    drawn = draw_candidates(count, history, generator(candidate_seed, "candidates"))
    valid, test = (
        drawn[events.user[part[events.positives(part)]]] for part in (split.valid, split.test)
    )
    if data.candidates is not None:
        test = _listed_candidates(data, data.candidates, events, schema)
    weight = _weights(data, tables.interactions)
    rows = _EncodedRows(events, columns, encoders, weight, data.built_history)
    train = rows.training(data, history, by_pairs=by_pairs)
    prior = rows.prior(train)
    found = RankingData(
        train,
        rows.held_out(split.valid, valid, data.num_neg_eval, prior),
        rows.held_out(split.test, test, data.num_neg_eval, prior),
        encoders,
        events,
        history,
        rows.last_events,
    )
    LOGGER.info(
        f"{data.dataset_name}: {len(events.user):,} interactions, {len(tables.users):,} users, "
        f"{len(tables.items):,} items; rows: {len(found.train):,} train ({_negatives(data, train)}"
        f"), {len(split.valid):,} valid, {len(split.test):,} test"
    )
    return found


def _negatives(data: DataConfig, train: TabularDataset) -> str:
    """Which negatives positive rows get in training, for the log."""
    if train.negatives is None or train.negatives.pairs is None:
        return f"+ {data.num_neg_train} sampled negatives per positive"
    if data.negatives_from == "in_batch":
        return "each compared with the items of its batch"
    how = " by popularity" if data.negatives_from == "popularity" else ""
    of_whom = " that its batch shares" if data.negatives_shared else ""
    return f"each compared with {data.num_neg_train:,} items{how}{of_whom}"


class _EncodedRows:
    """Makes data sets of some rows of the interactions."""

    def __init__(
        self,
        events: Events,
        columns: pa.Table,
        encoders: Encoders,
        weight: np.ndarray | None,
        history: HistoryConfig | None,
    ) -> None:
        self._events, self._columns, self._encoders = events, columns, encoders
        self._weight = weight
        grouping = encoders.schema.group_columns
        self._group = group_ids(columns, grouping) if grouping else None
        items = encoders.encode(events.tables.items, group="item")
        self._catalogue = Catalogue.of(encoders.schema, items)
        self._histories = None
        self.last_events: LastEvents | None = None
        if history is not None:
            ids = item_ids(encoders.schema, items)
            self._histories = _histories(events, history, ids)
            self.last_events = _last_events(events, history, ids, encoders.schema)
            _say(self._histories, events, history)

    def training(
        self, data: DataConfig, history: Interactions, *, by_pairs: bool
    ) -> TabularDataset:
        """The rows to train on, each positive one with sampled negatives.

        Args:
            by_pairs: Whether it is compared with these; else they are rows beside it.

        Raises:
            DataError: There is no positive row.
        """
        events = self._events
        trained = events.split.train
        if not data.explicit_negatives:
            trained = trained[events.label[trained] > 0]
        if not len(trained):
            raise DataError(
                f"no training row has {self._encoders.schema.label_field} >= "
                f"{data.label_threshold}: nothing to train on; lower data.label_threshold"
            )
        known = history
        if data.negative_exclusion == "train":
            known = _interactions(events, events.split.train)
        pairs = self._pairs(data, trained, known) if by_pairs else None
        if pairs is not None:
            full, advice = pairs.without_negatives, "set data.negatives_shared: true"
        else:
            full = (known.per_user() >= known.num_items) & (data.num_neg_train > 0)
            advice = "set data.num_neg_train: 0 and data.explicit_negatives: true"
        self._refuse_full(full, events.user[trained], advice)
        sampling = NegativeSampling(
            data.num_neg_train, events.user[trained], known, self._catalogue, pairs
        )
        return self._dataset(trained, negatives=sampling)

    def _pairs(self, data: DataConfig, trained: np.ndarray, known: Interactions) -> PairSampling:
        """How the rows that are trained on, all of them positive, get items to be compared with."""
        item = self._events.item[trained]
        return PairSampling(
            count=data.num_neg_train,
            source=data.negatives_from,
            shared=data.negatives_shared,
            item=item,
            counts=np.bincount(item, minlength=known.num_items),
            excluded=known,
            items=self._catalogue.inputs,
        )

    def _refuse_full(self, full: np.ndarray, user: np.ndarray, advice: str) -> None:
        """Refuse a user to train on for whom no negative is left, by the id that the data has.

        Args:
            full: Whether that is so of each user of the table.
            user: Those to train on.
            advice: What makes them usable.
        """
        found = np.flatnonzero(full)
        found = found[np.isin(found, user)]
        if len(found):
            tables = self._events.tables
            column = id_field(self._encoders.schema, "user").column
            name = shown(tables.users[column][int(found[0])].as_py())
            others = f" and {len(found) - 1:,} others" if len(found) > 1 else ""
            raise DataError(
                f"{column} {name}{others}: no item of all {len(tables.items):,} is left that the "
                f"user has not interacted with, so no negative can be drawn; {advice}, or leave "
                "the user out"
            )

    def prior(self, train: TabularDataset) -> Prior | None:
        """How often a training row is positive, as labelled and as trained on."""
        if train.negatives is None or not train.negatives.copies:
            return None
        rows = self._events.split.train
        weight = None if self._weight is None else self._weight[rows]
        explicit = class_weights(self._events.label[rows] > 0, weight, 2)
        trained = epoch_weights(train, train.label > 0, 2, train.weight)
        with np.errstate(divide="ignore"):
            odds = [np.log(positives) - np.log(rest) for rest, positives in (explicit, trained)]
        return Prior(*map(float, odds))

    def held_out(
        self,
        rows: np.ndarray,
        candidates: np.ndarray,
        num_negatives: int,
        prior: Prior | None,
    ) -> TabularDataset:
        """Some rows, of which each positive one is ranked among candidates.

        Args:
            candidates: Of each positive row, (U, C).
        """
        positive = self._events.positives(rows)
        items = np.column_stack([self._events.item[rows[positive]], candidates])
        task = RankingTask(positive, items, num_negatives, self._catalogue, prior)
        return self._dataset(rows, ranking=task)

    def _dataset(
        self,
        rows: np.ndarray,
        *,
        negatives: NegativeSampling | None = None,
        ranking: RankingTask | None = None,
    ) -> TabularDataset:
        schema = self._encoders.schema
        inputs = self._encoders.encode(self._columns.take(rows))
        if self._histories is not None:
            inputs = self._histories.of(rows).added_to(inputs, schema)
        return TabularDataset(
            schema,
            inputs,
            torch.from_numpy(self._events.label[rows]),
            weight=None if self._weight is None else torch.from_numpy(self._weight[rows]),
            group=None if self._group is None else torch.from_numpy(self._group[rows]),
            row=rows,
            negatives=negatives,
            ranking=ranking,
        )


def _histories(
    events: Events, history: HistoryConfig, ids: Mapping[str, torch.Tensor]
) -> Histories:
    """What each interaction sees of its user's earlier positives."""
    found = _seen(events, history)
    items = torch.from_numpy(events.item[found.events])
    return Histories(
        {name: of_items[items] for name, of_items in ids.items()},
        torch.from_numpy(events.time[found.events]),
        torch.from_numpy(found.starts),
        torch.from_numpy(found.lengths),
        torch.from_numpy(np.array(events.time)),  # which Arrow may have lent read-only
    )


def _seen(events: Events, history: HistoryConfig) -> EarlierEvents:
    """The events before each interaction; what trains sees none of a held-out one, whose file may
    be of any time."""

    def before(is_event: np.ndarray) -> EarlierEvents:
        return earlier_events(
            events.user,
            events.order,
            is_event,
            max_length=history.max_length,
            ties=history.ties,
        )

    trains = events.trains()
    of_training = before((events.label > 0) & trains)
    if history.until == "split":
        return of_training
    of_all, shift = before(events.label > 0), len(of_training.events)
    return EarlierEvents(
        np.concatenate([of_training.events, of_all.events]),
        np.where(trains, of_training.starts, shift + of_all.starts),
        np.where(trains, of_training.lengths, of_all.lengths),
    )


def _say(histories: Histories, events: Events, history: HistoryConfig) -> None:
    """Log how long the histories are, and what they may see."""
    lengths = histories.lengths.numpy().astype(np.float64)
    parts = zip(events.split._fields, events.split, strict=True)
    means = ", ".join(
        f"{lengths[rows].mean() if len(rows) else 0:.1f} {name}" for name, rows in parts
    )
    LOGGER.info(
        f"histories of at most {history.max_length} events, on average {means}; "
        f"ties: {history.ties}, until: {history.until}"
    )


def _last_events(
    events: Events, history: HistoryConfig, ids: Mapping[str, torch.Tensor], schema: DatasetSchema
) -> LastEvents:
    """The newest events of each user, which a checkpoint holds."""
    rows = np.flatnonzero(_is_event(events, history))
    users = group_ids(events.tables.users, [id_field(schema, "user").column])[:, 0]
    return LastEvents.of(
        users.view(np.uint64)[events.user[rows]],
        events.order[rows],
        events.time[rows],
        {name: of_items.numpy()[events.item[rows]] for name, of_items in ids.items()},
        history.max_length,
    )


def _is_event(events: Events, history: HistoryConfig) -> np.ndarray:
    """Which interactions may stand in a history, (N,) bool."""
    is_event: np.ndarray = events.label > 0
    return is_event & events.trains() if history.until == "split" else is_event


def _interactions(events: Events, rows: np.ndarray) -> Interactions:
    """The pairs of some rows."""
    return Interactions(
        events.user[rows],
        events.item[rows],
        num_users=len(events.tables.users),
        num_items=len(events.tables.items),
    )


def _read_events(
    data: DataConfig, schema: DatasetSchema, adapter: Adapter, rule: LabelRule
) -> Events:
    tables = adapter.load(path_of(data.data_dir), auto_download=data.auto_download)
    rows = tables.interactions
    user, item = (
        tables.positions(schema, rows, side).to_numpy(zero_copy_only=False).astype(np.int64)
        for side in ("user", "item")
    )
    _refuse_missing(rows, rule.column, "data.table.label")
    with named_in_errors(rule.column):
        label, bad = rule.read(rows[rule.column].combine_chunks())
    refuse_bad(rows[rule.column], bad, rule.expected, _places(rule.column), rule.remedy)
    rating = label  # where the label is no threshold on a number, there is nothing more explicit
    if rule.threshold is not None:
        rating = rows[rule.column].cast(pa.float64()).to_numpy()
    if schema.time_column is None:
        raise ConfigError("a value is needed", key="time_column")
    split = data.split
    assert issubclass(split, RankingSplit)
    options = SplitOptions(min_interactions=data.min_interactions)
    _refuse_missing(rows, schema.time_column, "data.table.time_column")
    with named_in_errors(schema.time_column):
        order, bad = sortable(combined(rows[schema.time_column]))
        time, _ = Times().read(combined(rows[schema.time_column]))
    refuse_bad(rows[schema.time_column], bad, A_TIME, _places(schema.time_column))
    parts = split.divide(RankedRows(user, order, tables.role), options)
    return Events(tables, user, item, rating, label, order, time, parts)


def _listed_candidates(
    data: DataConfig, config: CandidatesConfig, events: Events, schema: DatasetSchema
) -> np.ndarray:
    """The candidates of the positive rows of the test split, out of files, (U, C)."""
    files = candidate_files(data)["candidates"]
    test = events.split.test[events.positives(events.split.test)]
    return candidates_of(
        read_candidates(config, files, schema, events.tables),
        events.user[test],
        events.item[test],
        schema=schema,
        tables=events.tables,
        trained=_interactions(events, events.split.train),
        expected=data.num_neg_eval,
    )


def _weights(data: DataConfig, rows: pa.Table) -> np.ndarray | None:
    """The sample weight of each row, (N,) float32; None where none is declared."""
    if data.table is None or (column := data.table.sample_weight) is None:
        return None
    _refuse_missing(rows, column, "data.table.sample_weight")
    with named_in_errors(column):
        weight, bad = sample_weight(rows[column].combine_chunks())
    refuse_bad(rows[column], bad, WEIGHT_EXPECTED, _places(column))
    return weight


def _refuse_missing(rows: pa.Table, column: str, key: str) -> None:
    """Refuse rows without a column that a key names."""
    if column not in rows.column_names:
        raise DataError(f"{key}: no column {column!r}; {nearest(column, rows.column_names)}")


def _places(column: str) -> Callable[[int], Place]:
    """Where a value of a column in memory stands."""
    return lambda index: Place(row=index + 1, column=column)
