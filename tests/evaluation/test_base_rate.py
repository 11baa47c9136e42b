"""What the base rate alone reaches, beside a model's figure."""

import math

import numpy as np
import pytest
import torch

from deepfm.config import load_config
from deepfm.data.batch import Inputs
from deepfm.data.dataset import TabularDataset
from deepfm.data.schema import DatasetSchema
from deepfm.errors import ConfigError
from deepfm.evaluation.base_rate import base_rate, constant_of, figure, verdict
from deepfm.evaluation.scoring import check_metric, evaluate, evaluate_metric
from deepfm.experiment import load_data
from deepfm.models import build_model
from deepfm.objectives import LOSSES, Task

SCHEMA = DatasetSchema(fields={}, label_field="label")
NUMBER = Task(objectives=(LOSSES["l2"](),))
CLASSES = Task(objectives=(LOSSES["softmax_cross_entropy"](),), num_class=3)


def rows(label, weight=None):
    empty = Inputs(torch.zeros(len(label), 0), torch.zeros(len(label), 0), (), ())
    weight = None if weight is None else torch.tensor(weight)
    return TabularDataset(SCHEMA, empty, torch.tensor(label), weight=weight)


def test_the_base_rate_is_that_of_weighted_training_rows(monkeypatch):
    monkeypatch.setattr("deepfm.data.labels._ROWS_AT_ONCE", 3)
    train = rows([1.0, 0.0, 0.0, 1.0], [3.0, 1.0, 2.0, 1.0])
    assert base_rate(Task(), train) == pytest.approx(math.log(4 / 3))
    assert base_rate(NUMBER, train) == pytest.approx(4 / 7)
    train = rows([0.0, 2.0, 2.0, 1.0])
    np.testing.assert_allclose(base_rate(CLASSES, train), np.log([0.25, 0.25, 0.5]))


def test_a_class_without_training_rows_counts_as_half_a_row():
    assert constant_of("binary", np.zeros(9), None, 1) == pytest.approx(math.log(0.5 / 9))
    found = constant_of("classes", np.array([0, 0, 1]), None, 3)
    np.testing.assert_allclose(found, np.log([2 / 3, 1 / 3, 0.5 / 3]))


def test_figures_equal_loops_over_rows():
    rng = np.random.default_rng(0)
    label, logit = rng.integers(0, 3, 40).astype(float), rng.normal(0, 9, (40, 3))
    expected = 0.0
    for y, z in zip(label.astype(int), logit, strict=True):
        expected -= math.log(math.exp(z[y]) / sum(map(math.exp, z))) / 40
    assert figure("classes", label, logit) == pytest.approx(expected)
    label = (label > 0).astype(float)
    losses = [math.log1p(math.exp(-z if y else z)) for y, z in zip(label, logit[:, 0], strict=True)]
    assert figure("binary", label, logit[:, 0]) == pytest.approx(np.mean(losses))
    squares = [(z - y) ** 2 for y, z in zip(label, logit[:, 0], strict=True)]
    assert figure("number", label, logit[:, 0]) == pytest.approx(math.sqrt(np.mean(squares)))


def test_a_verdict_compares_on_the_same_rows():
    label, constant = np.array([1.0, 0.0, 0.0]), np.asarray(math.log(0.25))
    share = 0.2
    expected = -(math.log(share) + 2 * math.log(1 - share)) / 3
    good = verdict(Task(), label, np.array([2.0, -2.0, -2.0]), constant)
    bad = verdict(Task(), label, np.array([-2.0, 2.0, 2.0]), constant)
    assert good.base_rate == bad.base_rate == pytest.approx(expected)
    assert not good.is_worse
    assert bad.is_worse
    assert not bad._replace(is_corrected=True).is_worse


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_rows_of_one_class_have_no_verdict_and_the_reason(label):
    found = verdict(Task(), np.full(4, label), np.zeros(4), np.asarray(0.0))
    assert (found.value, found.base_rate, found.is_worse) == (None, None, False)
    assert found.why == f"all 4 labels are {label:g}: there is no AUC and no LogLoss"


# --- after training with sampled negatives ------------------------------------------------------


def scored(config, data, **options):
    model = build_model(data.train.schema, config)
    return model, evaluate(model, data.valid, batch_size=500, train=data.train, **options).metrics


def test_log_loss_on_explicit_labels_is_that_after_the_prior_correction(tiny_config, tiny_data):
    """King and Zeng: the logit, plus the log-odds of the labels, minus those of the epoch."""
    config = load_config(tiny_config(evaluation__metrics=["auc", "logloss", "normalized_entropy"]))
    model, found = scored(config, tiny_data)
    events = tiny_data.events
    liked = events.label[events.split.train] > 0
    epoch = tiny_data.train.epoch(100, seed=0, epoch=0)
    trained = torch.cat([batch.label for batch in epoch.batches()])
    odds = [float(share.mean() / (1 - share.mean())) for share in (liked, trained.numpy())]
    shift = math.log(odds[0]) - math.log(odds[1])
    assert found["prior_correction"] == pytest.approx(shift)
    with torch.no_grad():
        logit = model.eval()(tiny_data.valid.inputs).double().numpy() + shift
    label = tiny_data.valid.label.numpy()
    losses = np.log1p(np.exp(np.where(label > 0, -logit, logit)))
    assert found["logloss_prior_corrected"] == pytest.approx(losses.mean(), rel=1e-6)
    constant = math.log(odds[0])
    losses = np.log1p(np.exp(np.where(label > 0, -constant, constant)))
    assert found["base_rate_logloss"] == pytest.approx(losses.mean())
    assert "logloss" not in found
    assert "normalized_entropy" not in found
    assert found["normalized_entropy_prior_corrected"] > 0
    watched = evaluate_metric(model, tiny_data.valid, "logloss", batch_size=500)
    assert watched["logloss_prior_corrected"] == found["logloss_prior_corrected"]


def test_without_sampled_negatives_nothing_is_corrected(tiny_config):
    config = load_config(tiny_config(data__num_neg_train=0, data__explicit_negatives=True))
    _, found = scored(config, load_data(config))
    assert "logloss" in found
    assert not [name for name in found if "prior" in name]


def test_explicit_negatives_are_trained_on_beside_the_sampled_ones(tiny_config):
    config = load_config(tiny_config(data__num_neg_train=2, data__explicit_negatives=True))
    data = load_data(config)
    positives, rows = float(data.train.label.sum()), len(data.train)
    prior = data.test.ranking.prior
    assert prior.explicit == pytest.approx(math.log(positives / (rows - positives)))
    assert prior.trained == pytest.approx(math.log(positives / (rows + positives)))


def test_positives_only_have_neither_auc_nor_log_loss(tiny_config):
    config = load_config(tiny_config(data__label_threshold=1.0))
    data = load_data(config)
    model, found = scored(config, data)
    assert found["auc"] is None
    assert found["logloss_prior_corrected"] is None
    assert found["base_rate_logloss"] is None
    assert found["prior_correction"] is None
    assert found["hr@10"] >= 0
    with pytest.raises(ConfigError, match="one class only"):
        check_metric(model, data.valid, "logloss")


@pytest.mark.parametrize(("num_neg_eval", "twice"), [(30, True), (99, False), (500, False)])
def test_no_ranking_figure_stands_twice(tiny_config, num_neg_eval, twice):
    """60 items: beyond 59 candidates all of them are ranked."""
    config = load_config(tiny_config(data__num_neg_eval=num_neg_eval))
    _, found = scored(config, load_data(config))
    assert ("ranking_99" in found) is twice
    assert "hr@10" in found
