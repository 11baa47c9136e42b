"""Random items for a user: training negatives and the candidates of the ranking protocol.

Users and items are positions in their tables, not encoded ids: an item that the training split
has never seen is still one item of the catalogue.
"""

import numpy as np

from deepfm.errors import DataError

_BITMAP_CELLS = 2**30  # at most 1 GiB; beyond it, pairs are looked up in a sorted list


class Interactions:
    """A set of (user, item) pairs that answers whether a pair is in it, whole arrays at once."""

    def __init__(
        self, user: np.ndarray, item: np.ndarray, *, num_users: int, num_items: int
    ) -> None:
        self.num_users = num_users
        self.num_items = num_items
        keys = np.sort(user.astype(np.int64) * num_items + item)
        is_first = np.ones(len(keys), bool)  # np.unique takes many times longer
        is_first[1:] = keys[1:] != keys[:-1]
        self._keys = keys[is_first]
        self._bitmap = None
        if num_users * num_items <= _BITMAP_CELLS:
            self._bitmap = np.zeros(num_users * num_items, bool)
            self._bitmap[self._keys] = True

    @property
    def pairs(self) -> np.ndarray:
        """All pairs by user, then item: (2, number of pairs) int64."""
        return np.stack(np.divmod(self._keys, self.num_items))

    def contains(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Whether each pair is in the set, (N,) bool."""
        keys = user * self.num_items + item
        if self._bitmap is not None:
            is_there: np.ndarray = self._bitmap[keys]
            return is_there
        found = np.searchsorted(self._keys, keys)
        is_there = self._keys[np.minimum(found, len(self._keys) - 1)] == keys
        return np.asarray(is_there)

    def grid(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Whether each of B users has a pair with each of N items, (B, N) bool."""
        if self._bitmap is None:
            shape = (len(user), len(item))
            users, items = np.broadcast_to(user[:, None], shape), np.broadcast_to(item, shape)
            return self.contains(users.ravel(), items.ravel()).reshape(shape)
        by_user = self._bitmap.reshape(self.num_users, self.num_items)
        found: np.ndarray = by_user[user].take(item, axis=1)
        return found

    def per_user(self) -> np.ndarray:
        """Number of items of each user, (num_users,)."""
        return np.bincount(self._keys // self.num_items, minlength=self.num_users)

    def items_of(self, user: int) -> np.ndarray:
        """The items of one user, ascending."""
        start, end = np.searchsorted(
            self._keys, [user * self.num_items, (user + 1) * self.num_items]
        )
        return self._keys[start:end] - user * self.num_items


def draw_negatives(
    user: np.ndarray, count: int, excluded: Interactions, rng: np.random.Generator
) -> np.ndarray:
    """`count` items per row, uniform over the catalogue without the user's excluded items.

    Drawn with replacement: a draw that hits an excluded pair is repeated.

    Args:
        user: User positions, (N,).

    Returns:
        Item positions, (N, count) int64.

    Raises:
        DataError: A user's excluded items are the whole catalogue.
    """
    full = np.flatnonzero(excluded.per_user() >= excluded.num_items)
    if np.isin(user, full).any():
        raise DataError(
            f"a user (position {full[0]}) has interacted with all {excluded.num_items} items: "
            "no negative can be drawn; set data.num_neg_train to 0"
        )
    users = np.repeat(user, count)
    items = rng.integers(excluded.num_items, size=len(users))
    pending = np.flatnonzero(excluded.contains(users, items))
    while len(pending):
        items[pending] = rng.integers(excluded.num_items, size=len(pending))
        pending = pending[excluded.contains(users[pending], items[pending])]
    return items.reshape(len(user), count)


def draw_candidates(count: int, excluded: Interactions, rng: np.random.Generator) -> np.ndarray:
    """For every user, `count` different items in random order, none of the excluded ones.

    Returns:
        Item positions, (num_users, count) int64; where a user has fewer than `count` items left,
        all of them come first and -1 fills the row.
    """
    count = min(count, excluded.num_items)
    rows = []
    for start in range(0, excluded.num_users, 1024):  # bounds the memory of the random keys
        users = np.arange(start, min(start + 1024, excluded.num_users))
        keys = rng.random((len(users), excluded.num_items))
        pairs = (
            np.repeat(users, excluded.num_items),
            np.tile(np.arange(excluded.num_items), len(users)),
        )
        keys[excluded.contains(*pairs).reshape(keys.shape)] = 2.0  # behind every drawn key
        first = np.argpartition(keys, count - 1, axis=1)[:, :count]
        first_keys = np.take_along_axis(keys, first, axis=1)
        order = np.argsort(first_keys, axis=1)
        items = np.take_along_axis(first, order, axis=1)
        items[np.take_along_axis(first_keys, order, axis=1) == 2.0] = -1
        rows.append(items)
    return np.concatenate(rows)
