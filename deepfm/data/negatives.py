"""The items that each positive row of a batch is compared with, for losses by pairs.

Decided here: which items may be drawn, how often, and that a user's known items are none of the
negatives. A draw is a function of the rows of its batch and a random generator, which the epoch
makes of seed, epoch and step.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from deepfm.data.batch import Inputs, Pairs
from deepfm.data.sampling import Interactions
from deepfm.errors import DataError


@dataclass(frozen=True, kw_only=True)
class PairSampling:
    """How the rows of a batch get items to be compared with.

    `uniform` draws all items alike, `popularity` in proportion to `counts`; a row's draws are its
    own, or with `shared` those of the whole batch. `in_batch` takes the items of all rows of the
    batch, for all of them. Draws of a row's own miss its user's excluded items; of shared ones
    these do not count. All draws are with replacement.

    Where items are not drawn alike, a softmax over them is that over all items once the logarithm
    of each item's share of the draws is subtracted from its logit, the positive's too.

    Source: X. Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
    Recommendations", RecSys 2019, Section 3, for `in_batch` and the correction.

    NOTE[DIFF]: The paper estimates the shares from a stream of batches; here they are those of
    the training rows.

    Attributes:
        count: Draws of a row, or of a batch; `in_batch` draws none.
        source: As `data.negatives_from`.
        shared: Whether all rows of a batch have the same draws.
        item: Item position of each training row, (N,).
        counts: How many positive rows each item has, (num_items,).
        excluded: Pairs that are no negatives.
        items: The item fields of all items, a row each.
    """

    count: int
    source: str
    shared: bool
    item: np.ndarray
    counts: np.ndarray
    excluded: Interactions
    items: Inputs

    def pairs(self, rows: np.ndarray, user: np.ndarray, rng: np.random.Generator) -> Pairs:
        """What the rows of a batch are compared with.

        Args:
            rows: Numbers of training rows, (B,).
            user: User position of each, (B,).

        Raises:
            DataError: No item is left to be drawn for a user.
        """
        own = self.item[rows]
        if self.source == "in_batch":
            drawn = own
        elif self.shared:
            drawn = self._items_at(rng.random(self.count))
        else:
            drawn = self._drawn_per_row(user, rng)
        if drawn.ndim == 1:
            allowed = ~self.excluded.grid(user, drawn)
        else:
            allowed = np.ones(drawn.shape, bool)
        distinct, place = np.unique(np.concatenate([own, drawn.ravel()]), return_inverse=True)
        return Pairs(
            self.items.select(torch.from_numpy(distinct)),
            torch.from_numpy(place[: len(own)]),
            torch.from_numpy(place[len(own) :].reshape(drawn.shape)),
            torch.from_numpy(allowed),
            None if self.source == "uniform" else torch.from_numpy(self._log_share[distinct]),
        )

    def _drawn_per_row(self, user: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Items of each row, (B, count), none of them excluded."""
        if (full := self.without_negatives[user]).any():
            raise DataError(
                f"a user (position {user[full][0]}) has interacted with every item that is drawn"
            )
        users = np.repeat(user, self.count)
        items = self._items_at(rng.random(len(users)))
        pending = np.flatnonzero(self.excluded.contains(users, items))
        while len(pending):
            items[pending] = self._items_at(rng.random(len(pending)))
            pending = pending[self.excluded.contains(users[pending], items[pending])]
        return items.reshape(len(user), self.count)

    def _items_at(self, places: np.ndarray) -> np.ndarray:
        """The items at places in [0, 1) of a line on which each has the length of its share."""
        if self.source == "uniform":
            return (places * len(self.counts)).astype(np.int64)
        found: np.ndarray = np.searchsorted(self._ends, places * self._ends[-1], side="right")
        return found

    @cached_property
    def without_negatives(self) -> np.ndarray:
        """Of which users no item is left to be drawn for a row, (num_users,) bool; none, where
        rows share their items and get along without any."""
        if self.shared or self.source == "in_batch":
            return np.zeros(self.excluded.num_users, bool)
        is_drawn = np.full(len(self.counts), self.source == "uniform") | (self.counts > 0)
        user, item = self.excluded.pairs
        known = np.bincount(user[is_drawn[item]], minlength=self.excluded.num_users)
        full: np.ndarray = known >= np.count_nonzero(is_drawn)
        return full

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.counts)

    @cached_property
    def _log_share(self) -> np.ndarray:
        """Of every item, (num_items,) float32; -inf of one without a positive row."""
        with np.errstate(divide="ignore"):
            found: np.ndarray = np.log(self.counts / self.counts.sum()).astype(np.float32)
        return found
