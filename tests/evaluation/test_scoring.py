"""Scoring in batches, and users x items by halves and by whole rows."""

import numpy as np
import pytest
import torch

from deepfm.config import load_config
from deepfm.evaluation import scoring
from deepfm.evaluation.scoring import evaluate_metric, score, score_items
from deepfm.models import build_model
from tests import tiny
from tests.models.conftest import OF_ONE_TASK


@pytest.fixture(params=OF_ONE_TASK)
def model(request, tiny_config, tiny_data):
    """With batch norm statistics other than 0 and 1."""
    config = load_config(tiny_config(feature__init="normal(0.3)", model_name=request.param))
    model = build_model(tiny_data.train.schema, config)
    with torch.no_grad():
        model(tiny_data.train.inputs)
    return model


@pytest.fixture
def users(tiny_data):
    return tiny_data.test.inputs.select(slice(0, 12))


@pytest.fixture
def catalogue(tiny_data):
    return tiny_data.test.ranking.catalogue


def pair_by_pair(model, users, items, catalogue):
    """A forward pass in float64 per pair."""
    double = type(model)(model.schema, model.config, model.tasks).double()
    double.load_state_dict(model.state_dict())
    double.eval()
    expected = np.full(items.shape, np.nan)
    for user, column in zip(*np.nonzero(items >= 0), strict=True):
        row = users.select([user])
        catalogue.overwrite(row, torch.tensor([0]), torch.tensor(items[user, column])[None])
        with torch.no_grad():
            expected[user, column] = double(row._replace(dense=row.dense.double())).item()
    return expected


@pytest.fixture
def counted(monkeypatch):
    """Which way of scoring was taken, in order."""
    taken = []
    for name in ("_score_rows", "_score_halves"):
        real = getattr(scoring, name)

        def way(*args, name=name, real=real):
            taken.append(name.removeprefix("_score_"))
            return real(*args)

        monkeypatch.setattr(scoring, name, way)
    return taken


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_scores_of_pairs_equal_forward_passes(model, users, catalogue, counted, batch_size):
    items = np.random.default_rng(0).integers(tiny.NUM_ITEMS, size=(12, 30))
    items[3, 10:], items[5, 0] = -1, -1
    before = users.map(torch.clone)
    scores = score_items(model, users, items, catalogue, batch_size=batch_size)
    halved = model.pair_branches() is not None
    assert counted == ["halves" if halved else "rows"]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(
        scores, pair_by_pair(model, users, items, catalogue), rtol=0, atol=1e-5
    )
    rows = scoring._score_rows(model, users, items, catalogue, batch_size)
    np.testing.assert_allclose(scores, rows, rtol=0, atol=1e-5)
    assert torch.equal(users.sparse, before.sparse)
    assert torch.equal(users.dense, before.dense)
    assert all(map(torch.equal, users.sequence_ids, before.sequence_ids))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored(model, users, catalogue, training):
    model.train(training)
    score_items(model, users, np.ones((12, 30), int), catalogue, batch_size=100)
    assert model.training is training
    assert model.embedding.training is training


def test_a_module_that_its_user_froze_stays_in_evaluation_mode(model, tiny_data):
    model.train()
    model.embedding.eval()
    before = [module.training for module in model.modules()]
    score(model, tiny_data.valid.inputs, batch_size=100)
    assert [module.training for module in model.modules()] == before
    evaluate_metric(model, tiny_data.valid, "ndcg@5", batch_size=100)
    assert [module.training for module in model.modules()] == before
    assert model.training
    assert not model.embedding.training


def test_halves_only_where_they_save_work(users, catalogue, counted, tiny_config, tiny_data):
    model = build_model(tiny_data.train.schema, load_config(tiny_config()))

    def way(items, inputs=users):
        scores = score_items(model, inputs, items, catalogue, batch_size=100)
        np.testing.assert_array_equal(np.isnan(scores), items < 0)
        return counted.pop()

    everything = np.tile(np.arange(tiny.NUM_ITEMS), (12, 1))
    assert way(everything) == "halves"
    assert way(everything[:1], users.select(slice(0, 1))) == "rows"  # each item once anyway
    assert way(everything[0].reshape(12, 5)) == "rows"
    mostly_padding = np.where(np.arange(60) < 25, everything, -1)
    assert way(mostly_padding) == "rows"
    assert way(np.full((12, 3), -1)) == "rows"
    assert way(np.zeros((12, 0), int)) == "rows"


def test_a_cache_beyond_its_limit_is_not_made(
    users, catalogue, counted, tiny_config, tiny_data, monkeypatch
):
    model = build_model(tiny_data.train.schema, load_config(tiny_config()))
    items = np.tile(np.arange(10), (12, 1))
    width = model.config.dnn.hidden_units[0]
    for limit, way in ((10 * width, "halves"), (10 * width - 1, "rows")):
        monkeypatch.setattr(scoring, "MAX_CACHED", limit)
        score_items(model, users, items, catalogue, batch_size=100)
        assert counted.pop() == way


def test_the_metric_of_an_epoch_is_the_same_by_rows(tiny_config, tiny_data, counted, monkeypatch):
    model = build_model(tiny_data.train.schema, load_config(tiny_config()))
    halves = evaluate_metric(model, tiny_data.valid, "ndcg@10", batch_size=500)
    monkeypatch.setattr(scoring, "MAX_CACHED", 0)
    assert evaluate_metric(model, tiny_data.valid, "ndcg@10", batch_size=500) == halves
    assert counted == ["halves", "rows"]


@pytest.mark.parametrize(("asked", "largest"), [(100, 100), (10_000, 50)])
def test_batches_on_the_cpu_are_cut(model, tiny_data, monkeypatch, asked, largest):
    inputs = tiny_data.train.inputs
    expected = score(model, inputs, batch_size=10_000)
    monkeypatch.setattr(scoring, "CPU_ROWS", 50 if largest == 50 else 1000)
    sizes = []
    model.register_forward_pre_hook(lambda _, args: sizes.append(args[0].num_rows))
    scores = score(model, inputs, batch_size=asked)
    assert max(sizes) == largest
    assert sum(sizes) == inputs.num_rows
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


def test_batches_on_an_accelerator_are_as_asked_for(model):
    assert scoring._rows_at_once(model.device, 16_384) == scoring.CPU_ROWS
    assert scoring._rows_at_once(model.to("meta").device, 16_384) == 16_384
