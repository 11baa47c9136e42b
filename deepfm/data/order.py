"""The order of an epoch: a shuffle of any number of rows that is never held as a whole.

Up to 2^20 rows an order is NumPy's permutation. Beyond it:

1. Rows are cut into blocks of 64 neighbours, and the numbers of the blocks are permuted by a
   `Permutation`, which computes where a number goes and stores nothing.
2. Up to 16,384 blocks that follow each other in that order form a window, of about 2^20 rows.
   All windows of an epoch are of one size, give or take a block.
3. Inside a window the rows are permuted by NumPy's generator.

So 8 MiB hold the part of the order that is in use, and data that does not fit into memory is read
in runs of 64 rows (10 KB at 160 bytes per row), each from its place once per window.

How good a shuffle it is: every row can come at any place of the epoch. What differs from a full
shuffle is that 64 neighbours come within one window, so rows of one batch are neighbours more
often: a batch of 4,096 rows takes them from about 16,384 blocks instead of from all. Where
neighbours are equal (a file sorted by what is looked at), the mean over a batch deviates by about
sqrt(1 + 4096 / 16384) = 1.12 times what it does under a full shuffle (the tests measure it);
where rows are independent of their place, by just as much as under a full shuffle.
"""

import itertools

import numpy as np

from deepfm.errors import ConfigError
from deepfm.utils.seeding import derive_seed, generator

SMALL = 2**20  # rows up to which an order is one permutation in memory
BLOCK = 64
WINDOW = 16_384  # blocks
_ROUNDS = 4


class Permutation:
    """A pseudo-random permutation of 0 … size - 1, computed number by number.

    A Feistel network on the two digits of a number, whose base is the root of `size`, rounded up:
    each round adds a keyed hash of one digit to the other, which can be undone whatever the hash
    is. A result outside the range is put through again until it is inside.

    Source: J. Black, P. Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, methods
    "cycle walking" and "generalized Feistel". The hash is the finalizer of SplitMix64, so this is
    a good shuffle, not a cipher.

    Example:
        >>> sorted(Permutation(5, seed=1)(np.arange(5)).tolist())
        [0, 1, 2, 3, 4]
    """

    def __init__(self, size: int, *, seed: int) -> None:
        self.size = size
        self._low = np.uint64(max(1, int(np.ceil(np.sqrt(size)))))
        self._high = np.uint64(-(-size // int(self._low)) or 1)
        counters = np.arange(2 * _ROUNDS, dtype=np.uint64)
        self._keys = mix(mix(np.full(1, seed, np.uint64)) + counters)

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Where each number goes, (N,) int64; numbers lie in 0 … size - 1."""
        found = self._rounds(numbers.astype(np.uint64))
        while len(outside := np.flatnonzero(found >= self.size)):
            found[outside] = self._rounds(found[outside])
        return found.astype(np.int64)

    def _rounds(self, numbers: np.ndarray) -> np.ndarray:
        high: np.ndarray = numbers // self._low
        low: np.ndarray = numbers % self._low
        for one, two in self._keys.reshape(-1, 2):
            high = (high + mix(low ^ one) % self._high) % self._high
            low = (low + mix(high ^ two) % self._low) % self._low
        found: np.ndarray = high * self._low + low
        return found


class Order:
    """The order of `num_rows` rows in one epoch, a function of (seed, epoch) only.

    Rows can be asked for from any place on; only the window that was asked for last is kept.
    """

    def __init__(self, num_rows: int, seed: int, epoch: int) -> None:
        self.num_rows = num_rows
        self._counters = (seed, "order", epoch)
        self._held: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))
        if num_rows <= SMALL:
            self._starts = np.array([0, num_rows])
            return
        # The last blocks would be a window too small to mix; all are a little smaller instead.
        blocks = num_rows // BLOCK
        windows = -(-blocks // WINDOW)
        self._blocks = np.arange(windows + 1) * blocks // windows
        self._permutation = Permutation(blocks, seed=derive_seed(*self._counters))
        # The rows behind the last whole block come in some window, another one in each epoch.
        self._with_rest = derive_seed(seed, "order of the rest", epoch) % windows
        rest = num_rows % BLOCK
        self._starts = self._blocks * BLOCK + rest * (np.arange(windows + 1) > self._with_rest)

    def rows(self, start: int, end: int) -> np.ndarray:
        """The rows at the places `start` to `end` - 1 of the order, (end - start,) int64."""
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = [np.zeros(0, np.int64)]
        for window in range(first, len(self._starts) - 1):
            begin = int(self._starts[window])
            if begin >= end:
                break
            parts.append(self._window(window)[max(start - begin, 0) : end - begin])
        return np.concatenate(parts)

    def _window(self, window: int) -> np.ndarray:
        if self._held[0] != window:
            self._held = (-1, np.zeros(0, np.int64))  # not two at a time
            self._held = (window, self._shuffled(window))
        return self._held[1]

    def _shuffled(self, window: int) -> np.ndarray:
        if self.num_rows <= SMALL:
            return generator(*self._counters).permutation(self.num_rows)
        blocks = self._permutation(np.arange(self._blocks[window], self._blocks[window + 1]))
        rest = self.num_rows % BLOCK if window == self._with_rest else 0
        rows = np.empty(len(blocks) * BLOCK + rest, np.int64)
        whole = rows[: len(blocks) * BLOCK].reshape(-1, BLOCK)
        np.add(blocks[:, None] * BLOCK, np.arange(BLOCK), out=whole)
        rows[len(rows) - rest :] = np.arange(self.num_rows - rest, self.num_rows)
        generator(*self._counters, window).shuffle(rows)  # in place
        return rows


class ShardedOrder:
    """The order of an epoch whose rows are shuffled in shards, each within itself.

    A shard is a run of the rows, all of about equal length: of N rows in S shards the s-th has
    those from N s // S up to N (s + 1) // S. Each batch takes an S-th of its rows from every
    shard, in the shards' order, so that whoever has the s-th part of each batch needs the rows of
    one shard only. Every row comes once, and what comes does not depend on who reads it.

    What differs from a shuffle of all rows: rows of one shard never meet in greater numbers than
    an S-th of a batch.

    Args:
        num_rows: Of all shards.
        shards: S.
        batch_size: Divisible by S.
        batches: How many there are; the last one may have other rows than `batch_size`.

    Raises:
        ConfigError: `batch_size` is not divisible by S.
    """

    def __init__(
        self, num_rows: int, seed: int, epoch: int, *, shards: int, batch_size: int, batches: int
    ) -> None:
        if batch_size % shards:
            raise ConfigError(
                f"expected batches of equal parts of all {shards} shards, found batch_size "
                f"{batch_size:,}",
                key="data.shards",
            )
        self._batch_size, self._batches = batch_size, batches
        self._starts = [num_rows * shard // shards for shard in range(shards + 1)]
        self._orders = [
            Order(end - start, derive_seed(seed, "shard", shard), epoch)
            for shard, (start, end) in enumerate(itertools.pairwise(self._starts))
        ]

    def rows(self, start: int, end: int, of_batch: slice = slice(None)) -> np.ndarray:
        """The rows of a batch, which stands at the places `start` to `end` - 1, (B,) int64.

        Args:
            of_batch: The part of them that is asked for.
        """
        shards = len(self._orders)
        number = min(start // self._batch_size, self._batches - 1)
        before = number * (self._batch_size // shards)  # rows of each shard in earlier batches
        size = end - start
        begin, stop, _ = of_batch.indices(size)
        parts = [np.zeros(0, np.int64)]
        for shard, order in enumerate(self._orders):
            first, last = size * shard // shards, size * (shard + 1) // shards
            own = max(begin, first), min(stop, last)
            if own[0] < own[1]:
                found = order.rows(before + own[0] - first, before + own[1] - first)
                parts.append(self._starts[shard] + found)
        return np.concatenate(parts)


def mix(numbers: np.ndarray) -> np.ndarray:
    """A hash of 64-bit numbers in which every bit depends on every bit, (N,) uint64.

    Source: the finalizer of SplitMix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014).
    """
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)  # modulo 2^64, as are all products below
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashes: np.ndarray = numbers ^ (numbers >> np.uint64(31))
    return hashes
