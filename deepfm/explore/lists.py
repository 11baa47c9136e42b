"""Ranked lists for users as they are, or as a form describes them."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from deepfm.checkpoint import Checkpoint
from deepfm.data.batch import Inputs
from deepfm.data.encoding.tensors import arrays_of, inputs_of
from deepfm.data.schema import ITEMS
from deepfm.data.served_histories import ServedHistories
from deepfm.data.served_rows import ServedRows
from deepfm.errors import DataError, shown
from deepfm.evaluation.members import Members
from deepfm.explore.forms import Form, as_typed
from deepfm.item_logits import ItemLogits
from deepfm.models.base import BaseCTRModel
from deepfm.served_items import ServedItems, best_of

SUGGESTED = 20  # ids or titles that match what was typed


class Person(NamedTuple):
    """Whom a list is for, as the page describes them.

    Attributes:
        user: Their id; empty: nobody that training knows.
        typed: By column what was typed in the place of what the checkpoint knows.
        history: Ids of items, the oldest first, in the place of what they did; None: that.
    """

    user: str
    typed: Mapping[str, str]
    history: Sequence[str] | None


class Lists:
    """The items of a checkpoint, for one person after the other.

    Args:
        checkpoint: With users, items and what they had to do with each other.
        scorer: Of its model, or of several, frozen.
        form: The columns of users and of the context.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        scorer: BaseCTRModel | Members,
        rows: ServedRows,
        histories: ServedHistories | None,
        form: Form,
    ) -> None:
        schema = checkpoint.encoders.schema
        assert checkpoint.users is not None
        assert checkpoint.items is not None
        assert checkpoint.history is not None
        self._users, self._met = checkpoint.users, checkpoint.history
        self._rows, self._histories, self._form = rows, histories, form
        size = checkpoint.config.evaluation.batch_size
        self._items = ServedItems(checkpoint.items, checkpoint.encoders)
        self._logits = ItemLogits(self._items.arrays, scorer, batch_size=size)
        self.user_column, self.item_column = (
            schema.fields[str(name)].column for name in (schema.user_field, schema.item_field)
        )
        self._titles = schema.item_title_column
        self._task = scorer.tasks[0]
        self._reads = _place_of_items(checkpoint)

    @property
    def reads_history(self) -> bool:
        """Whether the model reads what a user did before."""
        return self._histories is not None

    def row(self, person: Person) -> Inputs:
        """The encoded row of a person, with an item that does not count.

        Raises:
            DataError: A value cannot be read, or an item of the history is unknown.
        """
        typed = {name: [value] for name, value in self._form.values(person.typed).items()}
        typed.pop(self.user_column, None)
        others = {**self._items.any_item, **typed}
        row = self._rows.of_user(self.user_column, person.user or None, others)
        if self._histories is None:
            if person.history is not None:
                raise DataError("the model reads no history, so it can be given none")
            return inputs_of(row)
        if person.history is None:
            seen = self._histories.seen_by_user(person.user or None)
            return inputs_of(self._histories.added(row, seen))
        self._places(person.history)
        given = self._histories.given(list(person.history), self._items.table)
        found = self._histories.added_given(row, given, self._items.arrays.sparse)
        return inputs_of(found).select(slice(None))  # with its lists padded

    def with_item(self, row: Inputs, item: str) -> Inputs:
        """The row of a person with an item.

        Raises:
            DataError: There is no such item.
        """
        catalogue = self._logits.catalogue
        found = catalogue.with_room(row).map(torch.clone)
        catalogue.overwrite(found, torch.tensor([0]), torch.tensor(self._places([item])))
        return found

    def ranked(self, person: Person, row: Inputs, top: int) -> list[dict[str, object]]:
        """The best items that a person has had nothing to do with, as JSON."""
        allowed = np.ones(len(self._items.table), bool)
        allowed[self._met_by(person.user)] = False
        allowed[self._places(person.history or ())] = False
        wanted = np.flatnonzero(allowed)
        logits = self._logits.logits(arrays_of(row), wanted)
        best = best_of(logits, top)
        predicted = self._task.predicted({"": logits[best]})
        return [
            {**self._named(place), "logit": logit, "prediction": value}
            for place, logit, value in zip(
                wanted[best].tolist(), logits[best].tolist(), predicted.tolist(), strict=True
            )
        ]

    def history(self, person: Person, row: Inputs) -> list[dict[str, object]]:
        """What the model reads of a person's past, oldest first; else the items they met."""
        if self._reads is None:
            return [self._named(place) for place in self._met_by(person.user).tolist()]
        sequence, column = self._reads
        length = int(row.sequence_lengths[sequence][0])
        of_items = self._items.arrays.sparse[:, column].tolist()
        places = {id_: place for place, id_ in reversed(list(enumerate(of_items)))}
        read = row.padded_ids[sequence][0, :length].tolist()
        return [self._named(places[id_]) for id_ in read if id_ in places]

    def known(self, user: str) -> dict[str, str] | None:
        """What the checkpoint knows of a user by column, as typed; None: nothing."""
        place = self._rows.place("user", user) if user else None
        if place is None:
            return None
        (values,) = self._users.slice(place, 1).to_pylist()
        return {name: as_typed(value) for name, value in values.items()}

    def item_values(self, item: str) -> dict[str, str]:
        """What the checkpoint knows of an item by column, as typed; with its id goes its title."""
        (place,) = self._places([item])
        (values,) = self._items.table.slice(place, 1).to_pylist()
        found = {name: as_typed(value) for name, value in values.items()}
        if self._titles and found[self._titles]:
            found[self.item_column] += f" {found[self._titles]}"
        return found

    def users_like(self, text: str) -> list[str]:
        """Ids of users that begin with a text."""
        ids = (as_typed(value) for value in self._users[self.user_column].to_pylist())
        return list(islice((user for user in ids if user.startswith(text)), SUGGESTED))

    def items_like(self, text: str) -> list[dict[str, object]]:
        """Items whose id begins with a text, or whose title has it."""
        text = text.casefold()
        ids = self._items.values(self.item_column)
        titles = self._items.values(self._titles) if self._titles else [None] * len(ids)
        pairs = enumerate(zip(ids, titles, strict=True))
        found = (
            self._named(place)
            for place, (id_, title) in pairs
            if as_typed(id_).casefold().startswith(text) or text in as_typed(title).casefold()
        )
        return list(islice(found, SUGGESTED))

    def _named(self, place: int) -> dict[str, object]:
        title = self._items.values(self._titles)[place] if self._titles else None
        return {"item": as_typed(self._items.values(self.item_column)[place]), "title": title}

    def _met_by(self, user: str) -> np.ndarray:
        place = self._rows.place("user", user) if user else None
        return np.array([], np.int64) if place is None else self._met.items_of(place)

    def _places(self, items: Sequence[str]) -> list[int]:
        """The rows of items.

        Raises:
            DataError: One is unknown.
        """
        found = []
        for item in items:
            if (place := self._rows.place("item", item)) is None:
                raise DataError(f"no item {shown(item)} in the checkpoint")
            found.append(place)
        return found


def _place_of_items(checkpoint: Checkpoint) -> tuple[int, int] | None:
    """Which sequence holds a user's earlier items, and which column of the catalogue these ids.

    None where the model reads no history, or none of the field that identifies items.
    """
    schema = checkpoint.encoders.schema
    of_items = [field.name for field in schema.sparse_fields if field.group == "item"]
    for place, field in enumerate(schema.sequence_fields):
        if field.built == ITEMS and field.history_of == schema.item_field:
            return place, of_items.index(field.history_of)
    return None
