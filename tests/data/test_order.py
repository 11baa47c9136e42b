"""The order of an epoch: every row once, from any place on, and how good a shuffle it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfm.data import order
from deepfm.data.order import Order, Permutation, ShardedOrder, mix
from deepfm.errors import ConfigError
from deepfm.utils.seeding import generator

MASK = 2**64 - 1


def plain_mix(number: int) -> int:
    """SplitMix64 in Python's integers."""
    number = (number + 0x9E3779B97F4A7C15) & MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK
    return number ^ (number >> 31)


def whole(rows: Order, batch: int = 4096) -> np.ndarray:
    n = rows.num_rows
    return np.concatenate([rows.rows(start, min(start + batch, n)) for start in range(0, n, batch)])


@pytest.fixture
def small_windows(monkeypatch):
    """Orders of a few thousand rows take the way of large ones: windows of 16 blocks of 8."""
    monkeypatch.setattr(order, "SMALL", 100)
    monkeypatch.setattr(order, "BLOCK", 8)
    monkeypatch.setattr(order, "WINDOW", 16)


@given(st.lists(st.integers(0, MASK), min_size=1))
def test_the_hash_equals_python_integers(numbers):
    assert mix(np.array(numbers, np.uint64)).tolist() == [plain_mix(n) for n in numbers]


def test_the_hash_is_splitmix64():
    # the first outputs of the generator with seed 1234567, as its authors' C code gives them
    state = np.array([1234567, (1234567 + 0x9E3779B97F4A7C15) & MASK], np.uint64)
    assert mix(state).tolist() == [6457827717110365317, 3203168211198807973]


@given(st.integers(1, 3000), st.integers(0, 2**63 - 1))
def test_a_permutation_reaches_every_number_once(size, seed):
    found = Permutation(size, seed=seed)(np.arange(size))
    assert np.sort(found).tolist() == list(range(size))


@pytest.mark.parametrize("size", [2, 7, 64])
def test_every_number_goes_everywhere_equally_often(size):
    """Chi-square over (number, place) for 20,000 seeds, within 4 deviations of a true shuffle."""
    seeds, counts = 20_000, np.zeros((size, size))
    for seed in range(seeds):
        counts[np.arange(size), Permutation(size, seed=seed)(np.arange(size))] += 1
    expected, freedom = seeds / size, (size - 1) ** 2
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - freedom) < 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("rows", [0, 1, 4096, 2**20])
def test_up_to_a_million_rows_it_is_numpys_permutation(rows):
    expected = generator(3, "order", 5).permutation(rows)
    np.testing.assert_array_equal(Order(rows, 3, 5).rows(0, rows), expected)


@settings(max_examples=50)
@given(st.integers(101, 3000), st.integers(0, 5), st.integers(0, 3), st.integers(1, 700))
def test_every_row_comes_once(rows, seed, epoch, batch):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("SMALL", 100), ("BLOCK", 8), ("WINDOW", 16)):
            patch.setattr(order, name, value)
        found = whole(Order(rows, seed, epoch), batch)
        assert np.sort(found).tolist() == list(range(rows))


def test_any_part_can_be_had_alone(small_windows):
    expected = whole(Order(1003, 1, 2))
    for start, end in [(1000, 1003), (0, 1), (100, 400), (500, 500), (0, 1003)]:
        np.testing.assert_array_equal(Order(1003, 1, 2).rows(start, end), expected[start:end])


def test_it_depends_on_seed_and_epoch(small_windows):
    orders = [whole(Order(1003, *key)).tolist() for key in [(1, 2), (1, 3), (2, 2), (1, 2)]]
    assert orders[0] == orders[3]
    assert len({tuple(one) for one in orders}) == 3


def test_every_row_comes_everywhere(small_windows):
    """Thirds of the rows against thirds of the epoch, over 2,000 epochs; the last row too."""
    rows, epochs, counts, last = 1003, 2000, np.zeros((3, 3)), np.zeros(3)
    third = np.minimum(np.arange(rows) * 3 // rows, 2)
    for epoch in range(epochs):
        found = whole(Order(rows, 0, epoch))
        np.add.at(counts, (third, third[found]), 1)
        last[third[np.flatnonzero(found == rows - 1)]] += 1
    np.testing.assert_allclose(counts / counts.sum(), 1 / 9, atol=0.003)
    np.testing.assert_allclose(last / epochs, 1 / 3, atol=0.05)


def test_ten_million_rows_are_mixed_as_well_as_said():
    """Batch means of the row number, the worst case: neighbours are equal as far as they go."""
    rows, batch = 10_000_037, 4096
    shuffled = Order(rows, 1, 0)
    found = whole(shuffled, batch)
    assert (np.bincount(found, minlength=rows) == 1).all()
    means = found[: rows // batch * batch].reshape(-1, batch).mean(1) / rows
    full = np.sqrt(1 / 12 / batch)  # of a full shuffle
    # 2,441 batches: the deviation itself is known to about 1.4 %
    assert means.std() / full == pytest.approx(np.sqrt(1 + batch / 16384), rel=0.06)
    blocks = [len(np.unique(found[k * batch : (k + 1) * batch] // 64)) for k in range(0, 2000, 100)]
    assert np.mean(blocks) > 0.85 * batch  # of 4,096 at most
    assert max(len(part) for _, part in [shuffled._held]) <= 2**20 + 63


def batches_of(rows: int, size: int) -> list[tuple[int, int]]:
    """Begin and end of each batch, as an epoch has them: a last row alone joins the one before."""
    count = -(-rows // size)
    count -= count > 1 and (rows - 1) % size == 0
    return [(k * size, rows if k == count - 1 else (k + 1) * size) for k in range(count)]


def sharded(rows: int, shards: int, size: int, *, seed: int = 1, epoch: int = 2) -> ShardedOrder:
    count = len(batches_of(rows, size))
    return ShardedOrder(rows, seed, epoch, shards=shards, batch_size=size, batches=count)


@settings(max_examples=50)
@given(st.integers(1, 3000), st.integers(1, 6), st.integers(1, 60))
def test_every_row_comes_once_and_each_batch_has_equal_parts_of_all_shards(rows, shards, share):
    size = shards * share
    found, bounds = sharded(rows, shards, size), np.arange(shards + 1) * rows // shards
    batches = [found.rows(*batch) for batch in batches_of(rows, size)]
    assert np.sort(np.concatenate(batches)).tolist() == list(range(rows))
    for batch in batches[:-1]:
        of = np.searchsorted(bounds, batch, side="right") - 1
        assert of.tolist() == np.repeat(np.arange(shards), share).tolist()


def test_a_part_of_a_batch_asks_its_own_shards_alone(monkeypatch):
    rows, size = 1001, 40
    expected = [sharded(rows, 4, size).rows(*batch) for batch in batches_of(rows, size)]
    for part in (slice(0, 7), slice(10, 20), slice(5, 35), slice(0, 1)):
        found = sharded(rows, 4, size)
        for batch, whole_batch in zip(batches_of(rows, size), expected, strict=True):
            np.testing.assert_array_equal(found.rows(*batch, part), whole_batch[part])
    found = sharded(rows, 4, size)
    asked = []
    for number, one in enumerate(found._orders):
        monkeypatch.setattr(
            one, "rows", lambda start, end, n=number: asked.append(n) or np.zeros(1)
        )
    found.rows(40, 80, slice(10, 20))
    assert asked == [1]


def test_batches_without_equal_parts_are_refused():
    with pytest.raises(ConfigError, match="of all 3 shards, found batch_size 40"):
        sharded(1000, 3, 40)


def test_shards_are_shuffled_apart_and_anew():
    orders = [sharded(1000, 2, 40, seed=s, epoch=e).rows(0, 40).tolist() for s, e in
              ((1, 2), (1, 3), (2, 2), (1, 2))]  # fmt: skip
    assert orders[0] == orders[3]
    assert len({tuple(one) for one in orders}) == 3
    first, second = np.array(orders[0][:20]), np.array(orders[0][20:])
    assert (first < 500).all()
    assert (second >= 500).all()
    assert (first != second - 500).any()
