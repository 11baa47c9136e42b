"""Training with losses by pairs: gradient modes, accumulation, L2, resuming, and what is said."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from deepfm import experiment
from deepfm.cli import main
from deepfm.config import load_config
from deepfm.errors import ConfigError
from deepfm.models import build_model
from deepfm.prediction import Predictor, ScoredItem
from deepfm.training.optimizers import assign_optimizers
from deepfm.training.schedules import Schedule
from deepfm.training.steps import TrainingStep
from deepfm.training.trainer import Trainer
from deepfm.utils.interrupt import Interrupted


@pytest.fixture
def by_pairs(tiny_config):
    """Path of a config with sampled softmax; dotted keys with `__` for the dot."""

    def config(**changes):
        options = {
            "training__losses": "sampled_softmax",
            "data__num_neg_train": 20,
            "data__negatives_shared": True,
            "dnn__norm": "none",
            "dnn__dropout": 0.0,
        }
        return tiny_config(**(options | changes))

    return config


def weights_after(config, data, batches, *, every=1):
    """The model's weights after one update with the gradients of some batches."""
    model = build_model(data.encoders.schema, config).train()
    assigned = assign_optimizers(model, config.training)
    step = TrainingStep(
        model, config.training, assigned, [Schedule(item.optimizer) for item in assigned]
    )
    with step.gradient_mode():
        for batch in batches:
            step.add(batch)
        step.update()
    return model.state_dict()


def assert_equal_weights(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, msg=name, **tolerance)


@pytest.mark.parametrize("name", ["deepfm", "fm", "xdeepfm"])
@pytest.mark.parametrize("every", [1, 2])
def test_compact_rows_get_the_gradients_of_whole_tables(by_pairs, name, every):
    """L2 of the batch too, which is added to the loss in one mode, and to gradients in the other;
    SGD without momentum, so that weights show the gradients."""
    found = []
    for sparse in (None, "lazy_sgd"):
        path = by_pairs(
            model_name=name,
            training__optimizer="sgd",
            training__sparse_optimizer=sparse,
            training__gradient_accumulation_steps=every,
            training__gradient_clip_norm=None,
            training__lr=0.5,
            feature__embedding_l2_reg=0.05,
        )
        config = load_config(path)
        data = experiment.load_data(config)
        batches = list(data.train.epoch(64, seed=1, epoch=0).batches())[:every]
        found.append(weights_after(config, data, batches))
    start = build_model(data.encoders.schema, config).state_dict()
    table = next(key for key in start if key.endswith("item.weight"))
    assert (found[0][table] != start[table]).any()
    assert_equal_weights(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_accumulated_gradients_are_the_mean_of_those_of_the_batches(by_pairs):
    def config(every):
        path = by_pairs(
            training__optimizer="sgd",
            training__gradient_accumulation_steps=every,
            training__gradient_clip_norm=None,
            training__lr=1.0,
        )
        return load_config(path)

    data = experiment.load_data(config(1))
    batches = list(data.train.epoch(64, seed=1, epoch=0).batches())[:2]
    start = build_model(data.encoders.schema, config(1)).state_dict()
    one, other = (weights_after(config(1), data, [batch]) for batch in batches)
    both = weights_after(config(2), data, batches)
    expected = {key: (one[key] + other[key]) / 2 for key in start}
    assert_equal_weights(both, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"training__sparse_optimizer": "lazy_adam"},
        {"training__losses": "bpr", "data__negatives_shared": False, "model_name": "fm"},
        {"data__negatives_from": "popularity", "feature__embedding_l2_scope": "table"},
        {"data__negatives_from": "in_batch", "model_name": "attention_deepfm"},
    ],
)
def test_a_run_that_is_resumed_ends_where_an_uninterrupted_one_does(by_pairs, changes):
    config = load_config(by_pairs(dnn__dropout=0.2, **changes))
    data = experiment.load_data(config)

    def fit(stop_after=None, state=None):
        model, steps = build_model(data.encoders.schema, config), iter(range(10**6))
        trainer = Trainer(config.training, config.evaluation, seed=3)
        trainer.fit(
            model,
            data.train,
            data.valid,
            state=state,
            should_stop=lambda: 15 if next(steps) == stop_after else 0,
            save=lambda state, is_best: states.append(state),
        )
        return model.state_dict()

    states = []
    expected = fit()
    states.clear()
    with pytest.raises(Interrupted):
        fit(stop_after=5)
    assert states[-1].step
    found = fit(state=states[-1])
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name


def test_scores_and_no_probabilities(by_pairs, tmp_path, capsys):
    """What a run writes, and what is said of its predictions."""
    path = by_pairs(
        training__losses="sampled_softmax",
        training__epochs=6,
        training__lr=0.03,
        model_name="fm",
        training__batch_size=64,
    )
    assert main(["train", "--config", str(path)]) == 0
    log = capsys.readouterr().out
    assert "each compared with 20 items that its batch shares" in log
    assert "64 x 20 pairs in a step: a dot product for each" in log
    assert len(re.findall("only put items in order", log)) == 2  # a line for each split
    run = tmp_path / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["logloss"] is None
    assert metrics["test"]["base_rate_logloss"] is None
    assert metrics["test"]["auc"] > 0.6
    assert metrics["valid"]["ndcg@10"] > 0.25  # by chance 0.15
    table = pq.read_table(run / "predictions.parquet")
    assert table.column_names == ["row", "label", "score"]
    assert not np.all((table["score"].to_numpy() >= 0) & (table["score"].to_numpy() <= 1))
    predictor = Predictor(run / "best_model.pt")
    found = predictor.recommend(3, top=5)
    assert [type(item) for item in found] == [ScoredItem] * 5
    assert sorted((item.score for item in found), reverse=True) == [item.score for item in found]
    arguments = ["--checkpoint", str(run / "best_model.pt"), "--user", "3", "--top", "2"]
    assert main(["recommend", *arguments]) == 0
    assert "score" in capsys.readouterr().out


def test_every_model_learns_by_pairs(by_pairs):
    for name in ("deepfm", "xdeepfm", "attention_deepfm", "wide_and_deep"):
        steps = {"epochs": 6, "batch_size": 32, "lr": 0.03, "precision": "fp32"}
        path = by_pairs(model_name=name, **{f"training__{k}": v for k, v in steps.items()})
        metrics = experiment.train(load_config(path), overwrite=True)
        assert metrics["test"]["auc"] > 0.55, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data__explicit_negatives": True},
            r"^data\.explicit_negatives: sampled_softmax compares positives",
        ),
        ({"data__num_neg_train": 0}, r"^data\.num_neg_train: sampled_softmax needs 1 negative"),
        (
            {"training__losses": ["bpr", "binary_cross_entropy"]},
            r"^training\.losses: bpr sees positive rows only, of which binary_cross_entropy",
        ),
        ({"dnn__norm": "batch"}, r"^dnn\.norm: batch norm"),
        ({"training__metrics": ["auc"]}, r"^training\.metrics: sampled_softmax trains on positive"),
        ({"training__metric": "logloss"}, r"^training\.metric: logloss reads the size of prob"),
        (
            {"evaluation__metrics": [{"name": "auc", "thresholds": 200}]},
            r"^evaluation\.metrics\.thresholds: sampled_softmax gives no probabilities",
        ),
        (
            {"training__losses": "binary_cross_entropy"},
            r"^data\.negatives_shared: binary_cross_entropy learns from single rows",
        ),
        (
            {
                "training__losses": "binary_cross_entropy",
                "data__negatives_shared": False,
                "data__negatives_from": "in_batch",
            },
            r"^data\.negatives_from: binary_cross_entropy learns from single rows",
        ),
        (
            {"data__negatives_from": "batch"},
            r"data\.negatives_from: expected one of .*mean 'in_batch'",
        ),
    ],
)
def test_settings_that_contradict_losses_by_pairs(by_pairs, changes, message):
    with pytest.raises(ConfigError, match=message):
        experiment.check_settings(load_config(by_pairs(**changes)))


def test_in_batch_needs_no_number_of_negatives(by_pairs):
    path = by_pairs(data__num_neg_train=0, data__negatives_from="in_batch", training__epochs=1)
    assert experiment.train(load_config(path))["valid"]["auc"] > 0.4


def test_rows_without_negatives_are_refused(by_pairs, tiny_data):
    """As those of a data set that was loaded for another loss."""
    config = load_config(by_pairs())
    model = build_model(tiny_data.encoders.schema, config)
    with pytest.raises(ConfigError, match="sampled_softmax needs rows with negatives"):
        Trainer(config.training).fit(model, tiny_data.train, tiny_data.valid)


def test_data_that_ranks_nothing_has_no_pairs():
    from deepfm.config import config_from_dict

    table = {
        "files": "*.csv",
        "label": "y",
        "fields": {"a": {"type": "sparse"}},
    }
    config = config_from_dict(
        {
            "data": {"dataset_name": "tabular", "split_strategy": "random", "table": table},
            "training": {"losses": "bpr"},
        }
    )
    with pytest.raises(ConfigError, match=r"^training\.losses: bpr compares .*: random does not"):
        experiment.check_settings(config)
