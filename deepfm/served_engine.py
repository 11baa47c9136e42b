"""What every engine does alike, whatever runs its model; nothing here imports torch."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

import numpy as np

from deepfm.data.encoding.arrays import EncodedArrays
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.last_events import LastEvents
from deepfm.data.sampling import Interactions
from deepfm.data.served_counts import missing_values, unknown_values
from deepfm.data.served_histories import ServedHistories
from deepfm.data.served_rows import ReadRows, ServedRows, warn_of_absent
from deepfm.data.sources.rows_given import Given
from deepfm.data.sources.tables import SideTables
from deepfm.engine import CountedPredictions, PredictedTask, Recommendation, ScoredItem
from deepfm.errors import CheckpointError, DataError
from deepfm.served_lists import ItemScorer, ServedLists


class ServedEngine(ABC):
    """Raw rows to predictions, and users to lists; a subclass runs the model.

    Args:
        encoders: Read raw rows.
        tables: What is looked up of users and items.
        interactions: The items that users have interacted with; None of a model that ranks none.
        events: The newest events of each user; None of a model without histories.
        tasks: What the model predicts.

    Raises:
        CheckpointError: The events are missing.
    """

    tasks: Sequence[PredictedTask]

    def __init__(
        self,
        encoders: Encoders,
        tables: SideTables,
        interactions: Interactions | None,
        events: LastEvents | None,
        tasks: Sequence[PredictedTask],
    ) -> None:
        self.encoders, self.schema, self.tasks = encoders, encoders.schema, tasks
        self._tables, self._history = tables, interactions
        self._histories: ServedHistories | None = None
        if self.schema.built_fields:
            if events is None:
                raise CheckpointError("the checkpoint lacks the events that its histories need")
            self._histories = ServedHistories(events, self.schema)
        self._rows = ServedRows(encoders, tables, self._histories)

    @abstractmethod
    def _predicted(self, read: ReadRows) -> dict[str, np.ndarray]:
        """What is predicted for encoded rows, by task, (N,) or (N, C) float64."""

    @abstractmethod
    def _item_scorer(self, items: EncodedArrays) -> ItemScorer:
        """What scores items of these fields of group `item`."""

    @abstractmethod
    def _predicted_by(self, logits: np.ndarray) -> np.ndarray:
        """What logits of the only task mean, (D,) float64."""

    def predict(self, rows: Given) -> np.ndarray:
        """Return the probability of the positive class for each raw row, (N,) float64.

        Of three classes or more, the probability of each, (N, C); of a regression the number, (N,);
        of losses that only put items in order the logit, (N,).

        User and item columns that are missing are looked up by id; an id that training has not
        seen is served as unknown. Other columns are ignored. A warning names columns that fields
        do without.

        Args:
            rows: N rows as an Arrow table, a frame of pandas or polars, a list with a dict per row,
                or a dict with the values of each column, in lists or arrays.

        Raises:
            DataError: The rows are in none of these forms, a column is missing that cannot be
                looked up, or a value cannot be read.
            ValueError: The model has several tasks.
        """
        found = self.predict_tasks(rows)
        if "" not in found:
            raise ValueError(f"the model has several tasks: {', '.join(found)}")
        return found[""]

    def predict_tasks(self, rows: Given) -> dict[str, np.ndarray]:
        """Return what `predict` does for a model of any number of tasks, by their names."""
        read = self._rows.read(rows)
        warn_of_absent(self._rows.absent(read.columns), read.arrays.num_rows)
        return self._predicted(read)

    def predict_counted(self, rows: Given) -> CountedPredictions:
        """Return what `predict_tasks` does by column, and count unknown and missing values.

        It does not warn of columns that fields do without.
        """
        read = self._rows.read(rows)
        predictions = self._columns(self._predicted(read))
        missing = missing_values(self.schema, read)
        return CountedPredictions(
            predictions, unknown_values(self.schema, read.arrays.sparse, missing), missing
        )

    def example_row(self) -> dict[str, object]:
        """A row that `predict` can read as far as can be known, without what it looks up."""
        return self._rows.example()

    def example_list(self) -> dict[str, object] | None:
        """Arguments that `recommend` can answer, as far as can be known; None: it ranks nothing."""
        if self._tables.users is None:
            return None
        try:
            lists = self._lists
        except DataError:
            return None
        needed, columns = lists.context.required, lists.context.columns
        user = self._tables.users[lists.user_column][0].as_py()
        row = self.example_row()
        context = {name: row.get(name) for name in columns if name in needed}
        return {"user": user, "context": context} if context else {"user": user}

    def context_columns(self) -> tuple[str, ...]:
        """The columns that the `context` of `recommend` may have; none, where it ranks nothing."""
        try:
            return self._lists.context.columns
        except DataError:
            return ()

    def knows_user(self, user: object) -> bool:
        """Return whether the user stands in the user table.

        Raises:
            DataError: The checkpoint has no items to rank.
        """
        return self._lists.knows_user(user)

    def recommend(
        self,
        user: object,
        *,
        top: int = 10,
        history: Sequence[object] | None = None,
        time: object = None,
        context: Mapping[str, object] | None = None,
        candidates: Sequence[object] | None = None,
        exclude: Collection[object] = (),
    ) -> list[Recommendation] | list[ScoredItem]:
        """Return the items with the highest logits, without those the user has a history with.

        An unknown user is served as a new one: unknown features and no history. A model with
        histories sees all events that the checkpoint holds of the user.

        Args:
            history: In the place of these events: raw ids of items, or pairs of id and time, the
                oldest first. Its items are not recommended. An event without a time is one of now.
            time: What now is, for the time since each event, and later events are left out; by
                default that of the newest event of all users that the checkpoint holds.
            context: A value by raw column, of the context fields, and of the user's fields in the
                place of what the checkpoint holds of the user. A context field without a value is
                served its `default` or what its `missing` says.
            candidates: Raw ids: these items alone are ranked, also those that the user has a
                history with.
            exclude: Raw ids of items that are not recommended; unknown ones do not matter.

        Raises:
            DataError: The checkpoint has no items to rank; a context field has neither a value nor
                a default, or a column of the context is none; a candidate is unknown; a time is
                none; or a model that reads no history is given one, or a time.
        """
        return self._lists.recommend(
            user,
            top=top,
            history=history,
            time=time,
            context=context,
            candidates=candidates,
            exclude=exclude,
        )

    @cached_property
    def _lists(self) -> ServedLists:
        """Makes lists of items.

        Raises:
            DataError: The checkpoint has no items, or nothing to rank them by.
        """
        return ServedLists(
            self.encoders,
            self._tables.items,
            self._history,
            self.tasks,
            self._rows,
            self._histories,
            scorer=self._item_scorer,
            predicted=self._predicted_by,
        )

    def _columns(self, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The columns of all tasks, of what each predicts by its name."""
        found: dict[str, np.ndarray] = {}
        for task in self.tasks:
            values = predictions[task.name]
            columns = values.T if values.ndim == 2 else [values]
            found |= dict(zip(task.prediction_names(), columns, strict=True))
        return found
