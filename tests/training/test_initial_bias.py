"""Where training starts: the base rate of the rows as trained, and nearly nothing beside it."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F

from deepfm.config import config_from_dict
from deepfm.data.batch import Inputs
from deepfm.data.dataset import Catalogue, NegativeSampling, TabularDataset, epoch_weights
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.sampling import Interactions
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.models import build_model
from deepfm.training.initial_bias import start_at_base_rate
from tests.models.conftest import OF_ONE_TASK

ROWS = 1000


def skewed_rows(seed: int, dense_embedding: str) -> TabularDataset:
    """Lognormal columns at every scale, ids of few and many values, and 3 % of positives."""
    rng = np.random.default_rng(seed)
    scales = ("log1p", "standard", "min_max", "plain_log1p")
    columns = {f"x{k}": rng.lognormal(0, 1 + k / 4, ROWS) for k in range(8)}
    columns |= {f"id{size}": rng.integers(0, size, ROWS) for size in (2, 3, 9, 10, 300)}
    fields = {
        name: FieldSchema(name, "dense", scale=scales[k % 4], dense_embedding=dense_embedding)
        if name.startswith("x")
        else FieldSchema(name, "sparse")
        for k, name in enumerate(columns)
    }
    encoders = Encoders.fit(DatasetSchema(fields=fields, label_field="y"), pa.table(columns))
    label = torch.from_numpy((rng.random(ROWS) < 0.03).astype(np.float32))
    return TabularDataset(encoders.schema, encoders.encode(pa.table(columns)), label)


@pytest.mark.parametrize("name", OF_ONE_TASK)
def test_an_untrained_model_is_as_good_as_the_base_rate(name):
    """In evaluation, and as the first steps of training see it, with dropout and batch norm."""
    torch.manual_seed(0)
    for seed in range(20):
        kind = ("none", "linear", "piecewise", "periodic")[seed % 4]
        rows = skewed_rows(seed, kind)
        config = {"model_name": name, "seed": seed, "cin": {"layer_sizes": [32, 32]}}
        model = build_model(rows.schema, config_from_dict(config))
        start_at_base_rate(model, rows)
        rate = rows.label.mean().item()
        entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
        for training in (False, True):
            with torch.no_grad():
                logits = model.train(training)(rows.inputs)
            loss = F.binary_cross_entropy_with_logits(logits, rows.label).item()
            assert loss < 1.1 * entropy, (seed, kind, training)


def rows_of(labels, weight=None, **options) -> TabularDataset:
    field = FieldSchema(name="f", feature_type="sparse", vocabulary_size=9, group="item")
    schema = DatasetSchema(fields={"f": field}, label_field="y")
    ids = torch.arange(len(labels)).unsqueeze(1) % 9
    inputs = Inputs(ids, torch.zeros(len(labels), 0), (), ())
    return TabularDataset(schema, inputs, torch.tensor(labels), weight=weight, **options)


def start_of(rows, **config) -> float | list[float] | None:
    model = build_model(rows.schema, config_from_dict(config))
    found = start_at_base_rate(model, rows).get("")
    if found is not None:
        assert torch.equal(model.output_bias, found)
        expected = model.output_bias.detach().expand(len(rows), *found.shape[:1])
        torch.testing.assert_close(model.eval()(rows.inputs), expected.squeeze(), atol=0.5, rtol=0)
    return None if found is None else found.tolist()


def test_the_bias_is_the_logit_of_the_weighted_share(monkeypatch):
    labels = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert start_of(rows_of(labels)) == pytest.approx(math.log(2 / 5))
    weight = torch.tensor([3.0, 1.0, 0.0, 0.5, 1.0, 0.0, 2.0])
    monkeypatch.setattr("deepfm.data.labels._ROWS_AT_ONCE", 3)
    assert start_of(rows_of(labels, weight)) == pytest.approx(math.log(4 / 3.5))
    focal = {"training": {"losses": [{"name": "binary_focal", "gamma": 1}]}}
    assert start_of(rows_of(labels), **focal) == pytest.approx(math.log(2 / 5))


@pytest.mark.parametrize("explicit", [0, 3])
def test_sampled_negatives_are_counted(explicit):
    """-ln 4 at 1:4, and rows with the label 0 count once more; compared with an epoch's rows."""
    labels = [1.0] * 5 + [0.0] * explicit
    users = np.arange(len(labels)) % 2
    known = Interactions(users[:1], users[:1], num_users=2, num_items=5)
    catalogue = Catalogue.of(rows_of(labels).schema, rows_of([0.0] * 5).inputs)
    sampling = NegativeSampling(4, users, known, catalogue)
    found = start_of(rows_of(labels, negatives=sampling))
    assert found == pytest.approx(-math.log(4 + explicit / 5))
    weight = torch.arange(1.0, len(labels) + 1)
    weighted = rows_of(labels, weight, negatives=sampling)
    batches = list(weighted.epoch(3, seed=0, epoch=0).batches())
    label, weights = (torch.cat([b[k] for b in batches]) for k in (1, 2))
    of_class = [weights[label == k].sum().item() for k in (0, 1)]
    found = epoch_weights(weighted, weighted.label, 1, weighted.weight)
    assert found.tolist() == pytest.approx(of_class)


def test_several_classes_start_at_their_shares():
    labels = [0.0] * 6 + [1.0] * 3 + [2.0]
    softmax = {"num_class": 3, "training": {"losses": ["softmax_cross_entropy"]}}
    found = start_of(rows_of(labels), **softmax, global_bias=False)
    assert found == pytest.approx([math.log(0.6), math.log(0.3), math.log(0.1)])


@pytest.mark.parametrize(
    ("labels", "config"),
    [
        ([0.0, 0.0], {}),
        ([1.0, 1.0], {}),
        ([0.5, 3.0, 1.0], {"training": {"losses": ["l2"], "metric": "l2"}}),
    ],
)
def test_without_two_classes_nothing_changes(labels, config):
    rows = rows_of(labels)
    config = config_from_dict(config)
    model, before = (build_model(rows.schema, config) for _ in range(2))
    assert start_at_base_rate(model, rows) == {}
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before.state_dict()[name])


def test_every_output_layer_can_have_the_bias():
    rows = rows_of([1.0, 0.0, 0.0, 0.0])
    assert start_of(rows, model_name="fm") == pytest.approx(-math.log(3))
    for name in ("deepfm", "xdeepfm", "attention_deepfm", "wide_and_deep"):
        for options in ({}, {"final": {"hidden_units": [4]}}):
            for bias in (True, False):
                config = {"model_name": name, "global_bias": bias, **options}
                found = start_of(rows, **config)
                assert found == pytest.approx(-math.log(3) if bias else [-math.log(3)])


def test_weights_that_must_not_vanish_do_not():
    """A CIN multiplies first-order vectors: at zero they would stay there for ever."""
    fields = {
        name: FieldSchema(name=name, feature_type="sparse", vocabulary_size=9) for name in "ab"
    }
    schema = DatasetSchema(fields=fields, label_field="y")
    inputs = Inputs(torch.randint(9, (50, 2)), torch.zeros(50, 0), (), ())
    rows = TabularDataset(schema, inputs, (torch.arange(50) % 3 == 0).float())
    model = build_model(
        schema, config_from_dict({"model_name": "xdeepfm", "cin": {"group": "wide"}})
    )
    start_at_base_rate(model, rows)
    for name in model.embedding.tables.logical:
        assert model.embedding.tables[name].any(), name
