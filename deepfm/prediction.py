"""Scores and recommendations from a checkpoint alone."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from deepfm.checkpoint import load_checkpoint
from deepfm.data.dataset import Catalogue
from deepfm.data.schema import RawTables
from deepfm.errors import DataError
from deepfm.evaluation.scoring import score, score_items, sigmoid


class Recommendation(NamedTuple):
    """One recommended item, with its title (None where the data has no titles)."""

    item: object
    title: str | None
    probability: float


class Predictor:
    """A trained model together with everything it needs to read raw rows.

    Args:
        checkpoint: Path of a `best_model.pt` or `last.pt`.
        device: Where the model runs.
        batch_size: Rows per scoring batch; the checkpoint's `evaluation.batch_size` by default.

    Raises:
        CheckpointError: The checkpoint cannot be used.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        device: torch.device | str = "cpu",
        batch_size: int | None = None,
    ) -> None:
        loaded = load_checkpoint(checkpoint)
        self.encoders = loaded.encoders
        self.schema = loaded.encoders.schema
        self.model = loaded.build_model().to(device)
        self.batch_size = batch_size or loaded.config.evaluation.batch_size
        self._tables = RawTables(None, loaded.users, loaded.items)
        self._history = loaded.history

    def predict(self, columns: pa.Table) -> np.ndarray:
        """Probability of the positive class for each raw row, (N,) float64.

        User and item columns that are missing are looked up by id; an id that training has not
        seen is served as unknown. Other columns are ignored.

        Raises:
            DataError: A column is missing that cannot be looked up, or a value cannot be read.
        """
        inputs = self.encoders.encode(self._tables.complete(self.schema, columns))
        return sigmoid(score(self.model, inputs, batch_size=self.batch_size))

    def knows_user(self, user: object) -> bool:
        """Whether the user stands in the user table."""
        return self._position(user) is not None

    def recommend(self, user: object, *, top: int = 10) -> list[Recommendation]:
        """The items with the highest probability, without those the user has a history with.

        An unknown user is served as a new one: unknown features and no history.

        Raises:
            DataError: The data has context fields, which a list has no values for.
        """
        fields = self.schema.fields.values()
        if context := [field.name for field in fields if field.group == "context"]:
            raise DataError(f"recommend has no values for the context fields {', '.join(context)}")
        item_field = self.schema.fields[self.schema.item_field]
        row = self._user_row(user)
        for column in {field.column for field in fields if field.group == "item"}:
            any_item = self._tables.items[column].slice(0, 1)  # each item replaces it by its own
            row = row.append_column(column, any_item)
        row = self._tables.complete(self.schema, row)
        items = np.arange(len(self._tables.items))
        if (position := self._position(user)) is not None:
            items = np.setdiff1d(items, self._history.items_of(position))
        catalogue = Catalogue.of(self.schema, self.encoders.encode(self._tables.items, "item"))
        inputs = self.encoders.encode(row)
        logits = score_items(
            self.model, inputs, items[None], catalogue, batch_size=self.batch_size
        )[0]
        best = np.argsort(-logits, kind="stable")[:top]
        titles = self.schema.item_title_column
        found = self._tables.items.take(items[best])
        return [
            Recommendation(item, title, float(probability))
            for item, title, probability in zip(
                found[item_field.column].to_pylist(),
                found[titles].to_pylist() if titles else [None] * len(best),
                sigmoid(logits[best]),
                strict=True,
            )
        ]

    def _user_row(self, user: object) -> pa.Table:
        return pa.table({self.schema.fields[self.schema.user_field].column: pa.array([user])})

    def _position(self, user: object) -> int | None:
        return self._tables.positions(self.schema, self._user_row(user), "user")[0].as_py()
