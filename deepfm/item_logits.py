"""Logits of items for one user after the other, by torch."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from deepfm.data.dataset import Catalogue
from deepfm.data.encoding.arrays import EncodedArrays
from deepfm.data.encoding.tensors import inputs_of
from deepfm.evaluation.catalogue_scorer import CatalogueScorer
from deepfm.evaluation.measures import Array
from deepfm.evaluation.members import Members, mean_of
from deepfm.evaluation.scoring import fits_in_halves, refuse_several_logits, score, score_items
from deepfm.models.base import BaseCTRModel


class ItemLogits:
    """Scores the items of a list.

    Args:
        items: Their fields of group `item`, encoded.
        model: What scores them, frozen.
        batch_size: Rows at once, as in `score_items`.

    Attributes:
        catalogue: The items, as `score_items` takes them.

    Raises:
        ConfigError: The model gives several logits.
    """

    def __init__(
        self, items: EncodedArrays, model: BaseCTRModel | Members, *, batch_size: int
    ) -> None:
        refuse_several_logits(model)
        self.catalogue = Catalogue.of(model.schema, inputs_of(items))
        self._model, self._batch_size = model, batch_size
        self._models = model.models if isinstance(model, Members) else (model,)

    def logits(self, row: EncodedArrays, items: np.ndarray) -> Array:
        """The logits of some items for one user: (D,) float32, of `Members` float64.

        Args:
            row: The user's; what it holds of an item does not count.
            items: Their positions, (D,).
        """
        inputs = inputs_of(row)
        if self._scorers is None:
            of_users: Array = score_items(
                self._model, inputs, items[None], self.catalogue, batch_size=self._batch_size
            )
            first: Array = of_users[0]
            return first
        of_models = [scorer.all_logits(inputs)[items] for scorer in self._scorers]
        return mean_of(of_models) if isinstance(self._model, Members) else of_models[0]

    def logits_of_rows(self, rows: EncodedArrays) -> Array:
        """The logits of whole rows, (C,), of a model whose context differs from item to item."""
        return score(self._model, inputs_of(rows), batch_size=self._batch_size)

    @cached_property
    def _scorers(self) -> Sequence[CatalogueScorer] | None:
        """What scores all items, of each model; None where some model needs whole rows."""
        every = self.catalogue.inputs.num_rows
        if not all(fits_in_halves(model, every) for model in self._models):
            return None
        return [
            CatalogueScorer(model, self.catalogue, batch_size=self._batch_size)
            for model in self._models
        ]
