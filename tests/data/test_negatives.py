"""What positive rows are compared with, against sets of pairs and counts of draws."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from deepfm.config import load_config
from deepfm.data.batch import Inputs
from deepfm.data.negatives import PairSampling
from deepfm.data.sampling import Interactions
from deepfm.errors import DataError
from deepfm.experiment import load_data
from tests import tiny

KNOWN = [(0, 0), (0, 1), (1, 3), (2, 0), (2, 1), (2, 3)]
COUNTS = [4, 1, 0, 3, 2]


def sampling(source, *, shared=False, count=3, known=KNOWN, item=(0, 3, 1)):
    """Of 3 users and 5 items, whose only feature is their position + 1."""
    user, items = map(np.array, zip(*known, strict=True))
    catalogue = Inputs(torch.arange(1, 6).unsqueeze(1), torch.zeros(5, 0), (), ())
    return PairSampling(
        count=count,
        source=source,
        shared=shared,
        item=np.array(item),
        counts=np.array(COUNTS),
        excluded=Interactions(user, items, num_users=3, num_items=5),
        items=catalogue,
    )


def drawn(pairs):
    """Item positions: own (B,) and of the negatives, (N,) or (B, N)."""
    position = pairs.items.sparse[:, 0] - 1
    return position[pairs.own].tolist(), position[pairs.negatives].tolist()


USERS = np.array([0, 1, 2])


@pytest.mark.parametrize("source", ["uniform", "popularity"])
def test_a_rows_own_draws_miss_what_its_user_knows(source):
    pairs = sampling(source, count=200).pairs(np.arange(3), USERS, np.random.default_rng(1))
    own, negatives = drawn(pairs)
    assert own == [0, 3, 1]
    assert pairs.allowed.all()
    for user, row in zip(USERS, negatives, strict=True):
        left = {item for item in range(5) if (user, item) not in KNOWN}
        assert set(row) == (left - {2} if source == "popularity" else left)  # nobody likes item 2


@pytest.mark.parametrize(
    ("source", "share"),
    [("uniform", [1 / 5] * 5), ("popularity", [count / 10 for count in COUNTS])],
)
def test_shared_draws_have_the_shares_of_their_source(source, share):
    pairs = sampling(source, shared=True, count=20_000).pairs(
        np.arange(3), USERS, np.random.default_rng(2)
    )
    _, negatives = drawn(pairs)
    found = np.bincount(negatives, minlength=5) / 20_000
    np.testing.assert_allclose(found, share, atol=0.015)  # 4 deviations


@pytest.mark.parametrize("source", ["uniform", "popularity", "in_batch"])
def test_what_a_user_knows_does_not_count_among_shared_items(source):
    pairs = sampling(source, shared=True, count=9).pairs(
        np.arange(3), USERS, np.random.default_rng(3)
    )
    _, negatives = drawn(pairs)
    expected = [[(user, item) not in KNOWN for item in negatives] for user in USERS]
    assert pairs.allowed.tolist() == expected


def test_in_batch_takes_the_items_of_all_rows():
    pairs = sampling("in_batch", item=(0, 3, 3, 1)).pairs(
        np.array([1, 3, 2]), USERS, np.random.default_rng(4)
    )
    assert drawn(pairs) == ([3, 1, 3], [3, 1, 3])
    assert len(pairs.items.sparse) == 2  # each item once


@pytest.mark.parametrize("source", ["popularity", "in_batch"])
def test_the_logarithm_of_a_share_is_that_of_positive_rows(source):
    pairs = sampling(source, shared=True).pairs(np.arange(3), USERS, np.random.default_rng(5))
    for item, log_q in zip(pairs.items.sparse[:, 0].tolist(), pairs.log_q.tolist(), strict=True):
        assert log_q == pytest.approx(math.log(COUNTS[item - 1] / 10), abs=1e-6)


def test_a_user_who_knows_all_that_is_popular_is_refused():
    known = [*KNOWN, (1, 0), (1, 1), (1, 4)]
    drawing = sampling("popularity", known=known)
    with pytest.raises(DataError, match=r"a user \(position 1\) has interacted with every item"):
        drawing.pairs(np.arange(3), USERS, np.random.default_rng(6))
    uniform = sampling("uniform", known=known).pairs(np.arange(3), USERS, np.random.default_rng(6))
    assert drawn(uniform)[1][1] == [2, 2, 2]


@pytest.mark.parametrize("cells", [2**30, 0])
def test_a_grid_is_what_its_pairs_are(cells, monkeypatch):
    monkeypatch.setattr("deepfm.data.sampling._BITMAP_CELLS", cells)
    excluded = sampling("uniform").excluded
    found = excluded.grid(np.array([2, 0, 2]), np.array([4, 0, 2, 4]))
    expected = [[(user, item) in KNOWN for item in (4, 0, 2, 4)] for user in (2, 0, 2)]
    assert found.tolist() == expected


@pytest.fixture
def by_pairs(tiny_config):
    def load(**changes):
        path = tiny_config(training__losses="sampled_softmax", dnn__norm="none", **changes)
        return load_data(load_config(path))

    return load


def test_an_epoch_has_the_positive_rows_once(by_pairs):
    train = by_pairs(data__num_neg_train=7).train
    epoch = train.epoch(100, seed=1, epoch=0)
    batches = list(epoch.batches())
    rows = torch.cat([batch.inputs.sparse for batch in batches])
    assert epoch.num_rows == len(train)
    assert sorted(rows.tolist()) == sorted(train.inputs.sparse.tolist())
    assert all(batch.label.all() for batch in batches)
    for batch in batches:
        assert batch.pairs.negatives.shape == (len(batch.label), 7)
        item = batch.pairs.items.sparse[batch.pairs.own, 0]
        assert torch.equal(item, batch.inputs.sparse[:, 2])  # the row's own


def test_draws_are_a_function_of_seed_epoch_and_step(by_pairs):
    train = by_pairs(data__num_neg_train=50, data__negatives_shared=True).train

    def items(seed, epoch, first=0):
        batches = train.epoch(128, seed=seed, epoch=epoch).batches(first)
        return [b.pairs.items.sparse[b.pairs.negatives].tolist() for b in batches]

    whole = items(1, 0)
    assert items(1, 0, first=2) == whole[2:]
    assert len({str(one) for one in (*whole, *items(1, 1), *items(2, 0))}) == 3 * len(whole)


def test_training_rows_have_no_prior_that_they_could_be_corrected_by(by_pairs):
    assert by_pairs().valid.ranking.prior is None


@pytest.mark.parametrize("loss", ["bpr", "binary_cross_entropy"])
def test_a_user_without_negatives_is_named_before_training(tiny_config, monkeypatch, loss):
    """User 0 knows all items; shared draws can do without any for one user."""
    tables = tiny.load

    def greedy(data_dir, auto_download):
        loaded = tables(data_dir, auto_download)
        rows = pa.table(
            {
                "user": np.zeros(tiny.NUM_ITEMS, int),
                "item": np.arange(tiny.NUM_ITEMS),
                "stars": np.full(tiny.NUM_ITEMS, 5),
                "time": np.full(tiny.NUM_ITEMS, -1),
            }
        )
        return loaded._replace(interactions=pa.concat_tables([rows, loaded.interactions]))

    monkeypatch.setattr(tiny, "load", greedy)
    own = load_config(tiny_config(training__losses=loss))
    advice = "negatives_shared: true" if loss == "bpr" else "num_neg_train: 0"
    with pytest.raises(DataError, match=f"^user 0: no item of all 60 is left .*{advice}"):
        load_data(own)
    if loss == "bpr":
        shared = load_data(
            load_config(tiny_config(training__losses=loss, data__negatives_shared=True))
        )
        batch = next(shared.train.epoch(512, seed=1, epoch=0).batches())
        first = batch.inputs.sparse[:, 0] == 1  # the encoded id of user 0
        assert first.any()
        assert not batch.pairs.allowed[first].any()
