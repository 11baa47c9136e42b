"""Logits of the items of a catalogue, whose halves are computed once."""

import numpy as np
import torch
from torch import Tensor

from deepfm.data.batch import Inputs
from deepfm.data.dataset import Catalogue
from deepfm.data.schema import DatasetSchema
from deepfm.models.base import BaseCTRModel
from deepfm.models.pairs import Halves, PairScorer
from deepfm.models.precision import products_of_scoring

CPU_PAIRS = 2048  # by halves: the two widest activations of 2,048 pairs fit into the L2 cache


class CatalogueScorer:
    """Scores items for users, as long as the model's weights stay what they are.

    Nothing in it changes once it is made, so that threads may share it.

    Args:
        model: In evaluation mode, with `pair_branches`.
        catalogue: The items.
        items: Ascending positions of those that will be asked for, (D,); None: all of them.
        batch_size: Rows at once.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: BaseCTRModel,
        catalogue: Catalogue,
        *,
        items: np.ndarray | None = None,
        batch_size: int,
    ) -> None:
        self._device, self._size = model.device, batch_size
        on_cpu = self._device.type == "cpu"
        self._pairs_at_once = min(batch_size, CPU_PAIRS) if on_cpu else batch_size
        self._catalogue = catalogue
        num_items = catalogue.inputs.num_rows
        items = np.arange(num_items) if items is None else items
        self._position = np.zeros(num_items + 1, np.int64)  # -1 reads the last: any item
        self._position[items] = np.arange(len(items))
        empty = catalogue.with_room(_empty_row(model.schema))
        self._scorer = PairScorer(model, empty.to(self._device))
        parts = []
        with products_of_scoring(model):
            for wanted in torch.from_numpy(items).split(batch_size):
                rows = empty.select(torch.zeros_like(wanted))
                catalogue.overwrite(rows, torch.arange(len(wanted)), wanted)
                parts.append(self._scorer.item_halves(rows.to(self._device)))
        self._items = Halves(*map(torch.cat, zip(*parts, strict=True)))

    @torch.inference_mode()
    def logits(self, inputs: Inputs, items: np.ndarray) -> np.ndarray:
        """Logits of candidates of each of U rows, (U, C) float32.

        Args:
            inputs: U rows; what they hold of an item does not count.
            items: Positions of items, (U, C) int64; the logit of -1 is NaN.
        """
        candidates = torch.from_numpy(self._position[items])
        scores = torch.empty(items.shape)
        with products_of_scoring(self._scorer.model):
            for users in torch.arange(len(items)).split(self._size):
                scores[users] = self._scorer.logits(
                    self._users(inputs, users),
                    self._items,
                    candidates[users].to(self._device),
                    pairs_at_once=self._pairs_at_once,
                ).cpu()
        return scores.masked_fill_(torch.from_numpy(items < 0), torch.nan).numpy()

    @torch.inference_mode()
    def all_logits(self, inputs: Inputs) -> np.ndarray:
        """Logits of all D items for one row, (D,) float32."""
        with products_of_scoring(self._scorer.model):
            users = self._users(inputs, torch.zeros(1, dtype=torch.int64))
            found = self._scorer.all_logits(users, self._items, pairs_at_once=self._pairs_at_once)
        return found.cpu().numpy()

    def _users(self, inputs: Inputs, rows: Tensor) -> Halves:
        """The halves of rows, of which a copy loses its item."""
        inputs = inputs.select(rows)
        self._catalogue.clear(inputs)
        return self._scorer.user_halves(inputs.to(self._device))


def _empty_row(schema: DatasetSchema) -> Inputs:
    """A row whose ids, numbers and lengths are all 0; its sequences are one place wide."""
    sequences = len(schema.sequence_fields)
    return Inputs(
        torch.zeros(1, len(schema.sparse_fields), dtype=torch.int64),
        torch.zeros(1, sum(field.value_dim for field in schema.dense_fields)),
        tuple(torch.zeros(1, 1, dtype=torch.int64) for _ in range(sequences)),
        tuple(torch.zeros(1, dtype=torch.int64) for _ in range(sequences)),
    )
