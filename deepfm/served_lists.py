"""Ranked lists of items for users, whatever scores the items; nothing here imports torch."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from deepfm.data.encoding.arrays import EncodedArrays
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.sampling import Interactions
from deepfm.data.served_histories import GivenHistory, ServedHistories
from deepfm.data.served_rows import ServedRows
from deepfm.engine import PredictedTask, Recommendation, ScoredItem
from deepfm.errors import DataError, shown
from deepfm.served_context import ServedContext
from deepfm.served_items import ServedItems, best_of

_SHOWN = 5  # unknown candidates that an error names


class ItemScorer(Protocol):
    """Logits of items for one user."""

    def logits(self, row: EncodedArrays, items: np.ndarray) -> np.ndarray:
        """Those of some items by their positions, (D,), whatever item the user's row holds."""
        ...

    def logits_of_rows(self, rows: EncodedArrays) -> np.ndarray:
        """Those of whole rows, (C,)."""
        ...


class ServedLists:
    """Makes lists of items.

    What every list needs is made at the first one: the encoded items, and what scores them.
    Threads may share it.

    Args:
        encoders: Encode users and items.
        items: Their table; None: there are none to rank.
        interactions: The items that users have interacted with; None: likewise.
        tasks: What the model predicts.
        rows: Reads users.
        histories: Of a model that reads some.
        scorer: Makes what scores items, of all of them, encoded.
        predicted: What logits mean for the model's task, (D,) each.

    Raises:
        DataError: There is nothing to rank, or nothing to rank it by.
    """

    def __init__(
        self,
        encoders: Encoders,
        items: pa.Table | None,
        interactions: Interactions | None,
        tasks: Sequence[PredictedTask],
        rows: ServedRows,
        histories: ServedHistories | None,
        *,
        scorer: Callable[[EncodedArrays], ItemScorer],
        predicted: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        self._schema = schema = encoders.schema
        if items is None or interactions is None or not schema.user_field or not schema.item_field:
            raise DataError(
                "the checkpoint has no items to rank: it was not trained with split_strategy "
                "leave_one_out or predefined_ranking"
            )
        if not all(task.ranks for task in tasks):
            raise DataError("the checkpoint ranks no items: it does not predict one probability")
        self.table = items
        self.user_column, self.item_column = (
            schema.fields[name].column for name in (schema.user_field, schema.item_field)
        )
        self._encoders, self._interactions = encoders, interactions
        self._by_pairs = tasks[0].by_pairs
        self._rows, self._histories = rows, histories
        self._make_scorer, self._predicted = scorer, predicted
        self.context = ServedContext(schema, items.column_names)

    @cached_property
    def items(self) -> ServedItems:
        return ServedItems(self.table, self._encoders)

    @cached_property
    def scorer(self) -> ItemScorer:
        return self._make_scorer(self.items.arrays)

    def knows_user(self, user: object) -> bool:
        """Whether the user stands in the user table."""
        return self._rows.place("user", user) is not None

    def recommend(
        self,
        user: object,
        *,
        top: int,
        history: Sequence[object] | None,
        time: object,
        context: Mapping[str, object] | None,
        candidates: Sequence[object] | None,
        exclude: Collection[object],
    ) -> list[Recommendation] | list[ScoredItem]:
        """What `deepfm.engine.Engine.recommend` says."""
        request = self.context.read(context, time)
        items, histories = self.items, self._histories
        row = self._rows.of_user(
            self.user_column,
            user,
            {**items.any_item, **{name: [value] for name, value in request.columns.items()}},
        )
        given = None
        if histories is None:
            if history is not None or (time is not None and not self.context.reads_time):
                raise DataError("the model reads no history, so it can be given none, and no time")
        elif history is None:
            row = histories.added(row, histories.seen_by_user(user, request.time))
        else:
            given = histories.given(history, items.table)
            row = histories.added_given(row, given, items.arrays.sparse, request.time)
        wanted = self._wanted_items(user, candidates, exclude, given)
        if request.by_item and len(wanted):
            columns = {self.user_column: user, **request.columns}
            rows = self._rows.of_items(columns, items.table.take(wanted), row)
            logits = self.scorer.logits_of_rows(rows)
        else:
            logits = self.scorer.logits(row, wanted)
        best = best_of(logits, top)
        return self._listed(wanted[best], self._predicted(logits[best]))

    def _listed(
        self, places: np.ndarray, values: np.ndarray
    ) -> list[Recommendation] | list[ScoredItem]:
        titles = self._schema.item_title_column
        ids = self.items.values(self.item_column)
        texts: Sequence[Any] | None = self.items.values(titles) if titles else None
        listed = [
            (ids[place], None if texts is None else texts[place], value)
            for place, value in zip(places.tolist(), values.tolist(), strict=True)
        ]
        if self._by_pairs:
            return [ScoredItem(*one) for one in listed]
        return [Recommendation(*one) for one in listed]

    def _wanted_items(
        self,
        user: object,
        candidates: Sequence[object] | None,
        exclude: Collection[object],
        given: GivenHistory | None,
    ) -> np.ndarray:
        """The positions of the items that a list may hold, ascending.

        Raises:
            DataError: A candidate is unknown.
        """
        allowed = np.full(len(self.table), candidates is None)
        if candidates is not None:
            places = self._rows.places("item", candidates)
            if unknown := [
                one for one, place in zip(candidates, places, strict=True) if place is None
            ]:
                named = ", ".join(map(shown, unknown[:_SHOWN])) + ", …" * (len(unknown) > _SHOWN)
                raise DataError(
                    f"candidates: {named}: expected ids of the {len(allowed):,} items that the "
                    "checkpoint holds"
                )
            allowed[np.array(places, np.int64)] = True
        elif given is not None:
            allowed[given.items] = False
        if candidates is None and (position := self._rows.place("user", user)) is not None:
            allowed[self._interactions.items_of(position)] = False
        left_out = [p for p in self._rows.places("item", list(exclude)) if p is not None]
        allowed[left_out] = False
        return np.flatnonzero(allowed)
