"""The items of a checkpoint, encoded once, and their logits for one user after the other."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa

from deepfm.data.batch import Inputs
from deepfm.data.dataset import Catalogue
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.few_values import NotPlain
from deepfm.data.sources.rows_given import Given, plain_columns
from deepfm.evaluation.catalogue_scorer import CatalogueScorer
from deepfm.evaluation.measures import Array
from deepfm.evaluation.members import Members, mean_of
from deepfm.evaluation.scoring import fits_in_halves, refuse_several_logits, score, score_items
from deepfm.models.base import BaseCTRModel


class ServedItems:
    """What is known of the items before anybody asks for a list.

    Args:
        table: The items.
        encoders: Encode them.
        model: What scores them, frozen.
        batch_size: Rows at once, as in `score_items`.

    Attributes:
        table: The items.
        catalogue: The same, encoded.
    """

    def __init__(
        self,
        table: pa.Table,
        encoders: Encoders,
        model: BaseCTRModel | Members,
        *,
        batch_size: int,
    ) -> None:
        self.table, self._schema = table, encoders.schema
        self.catalogue = Catalogue.of(encoders.schema, encoders.encode(table, "item"))
        self._model, self._batch_size = model, batch_size
        self._models = model.models if isinstance(model, Members) else (model,)
        self._values: dict[str, list[object]] = {}

    def values(self, column: str) -> list[object]:
        """A raw column as Python values, one per item."""
        if column not in self._values:
            self._values[column] = self.table[column].to_pylist()
        return self._values[column]

    @cached_property
    def any_item(self) -> Mapping[str, Given]:
        """The raw columns of the first item that fields read, one value each.

        Of those that context fields read the ones that the table has.
        """
        fields, known = self._schema.fields.values(), self.table.column_names
        read = {name for field in fields if field.group == "item" for name in field.raw_columns}
        of_context = {n for f in fields if f.group == "context" for n in f.raw_columns}
        first = self.table.slice(0, 1).select(sorted(read | (of_context & set(known))))
        try:
            return plain_columns(first)[0]
        except NotPlain:
            return dict(zip(first.column_names, first.columns, strict=True))

    def logits(self, inputs: Inputs, items: np.ndarray) -> Array:
        """The logits of some items for one user: (D,) float32, of `Members` float64.

        Args:
            inputs: The user's row; what it holds of an item does not count.
            items: Their positions, (D,).

        Raises:
            ConfigError: The model gives several logits.
        """
        if self._scorers is None:
            of_users: Array = score_items(
                self._model, inputs, items[None], self.catalogue, batch_size=self._batch_size
            )
            first: Array = of_users[0]
            return first
        of_models = [scorer.all_logits(inputs)[items] for scorer in self._scorers]
        return mean_of(of_models) if isinstance(self._model, Members) else of_models[0]

    def logits_of_rows(self, rows: Inputs) -> Array:
        """The logits of whole rows, (C,), of a model whose context differs from item to item.

        Raises:
            ConfigError: The model gives several logits.
        """
        refuse_several_logits(self._model)
        return score(self._model, rows, batch_size=self._batch_size)

    @cached_property
    def _scorers(self) -> Sequence[CatalogueScorer] | None:
        """What scores all items, of each model; None where some model needs whole rows."""
        refuse_several_logits(self._model)
        every = len(self.table)
        if not all(fits_in_halves(model, every) for model in self._models):
            return None
        return [
            CatalogueScorer(model, self.catalogue, batch_size=self._batch_size)
            for model in self._models
        ]


def best_of(logits: np.ndarray, count: int) -> np.ndarray:
    """The places of the largest numbers, the largest first; of equal ones the first comes first.

    Example:
        >>> best_of(np.array([1.0, 3.0, 2.0, 3.0]), 3).tolist()
        [1, 3, 2]
    """
    keys = -logits
    places = np.arange(len(keys))
    if 0 < count < len(keys):
        last = np.partition(keys, count - 1)[count - 1]
        if not np.isnan(last):  # which sorts behind all numbers
            places = np.flatnonzero(keys <= last)
    order = np.argsort(keys[places], kind="stable")[:count]
    best: np.ndarray = places[order]
    return best
