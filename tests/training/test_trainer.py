"""The training loop: what a step does, when it stops, and that resuming changes nothing."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from deepfm.config import config_from_dict
from deepfm.data.dataset import TabularDataset
from deepfm.errors import ConfigError, DeepFMError
from deepfm.evaluation.scoring import evaluate_metric
from deepfm.models import build_model
from deepfm.training.losses import weighted_loss
from deepfm.training.trainer import Interrupted, Trainer, TrainingState
from deepfm.utils.seeding import derive_seed
from tests.models.plain import PlainEmbedding


def make(data, **training):
    config = config_from_dict(
        {
            "dnn": {"hidden_units": [8], "dropout": 0.3},
            "feature": {"embedding_l2_reg": 0.01},
            "training": {"epochs": 3, "batch_size": 200, "metric": "ndcg@10"} | training,
        }
    )
    return build_model(data.encoders.schema, config), Trainer(config.training, seed=5)


def same_weights(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


def comparable(history):
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in history]


DENSE = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


@pytest.mark.parametrize("optimizer", DENSE)
def test_steps_equal_a_plain_loop(tiny_data, optimizer):
    """Loss, L2, clipping and update, step by step, in the order that the seed gives."""
    model, trainer = make(tiny_data, epochs=1, optimizer=optimizer, gradient_clip_norm=0.05)
    plain = with_plain_tables(model)
    update = DENSE[optimizer](plain.parameters(), lr=1e-3)
    plain_epoch(plain, tiny_data, [update])
    trainer.fit(model, tiny_data.train, tiny_data.valid)
    expected = plain.state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], msg=name, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["lazy_sgd", "adagrad"])
def test_steps_of_an_exact_sparse_optimizer_equal_a_plain_loop(tiny_data, optimizer):
    """These two need no rows but the touched ones, so the dense update is their textbook."""
    options = {"name": optimizer, "lr": 0.05}
    model, trainer = make(tiny_data, epochs=1, sparse_optimizer=options, gradient_clip_norm=0.05)
    plain = with_plain_tables(model)
    tables = list(plain.embedding.tables.parameters())
    others = [p for p in plain.parameters() if not any(p is table for table in tables)]
    classes = {"lazy_sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad}
    updates = [torch.optim.Adam(others, lr=1e-3), classes[optimizer](tables, lr=0.05)]
    plain_epoch(plain, tiny_data, updates)
    trainer.fit(model, tiny_data.train, tiny_data.valid)
    expected = plain.state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], msg=name, rtol=1e-4, atol=1e-5)


def with_plain_tables(model):
    """A copy of a model with one parameter per logical table, looked up field by field."""
    plain = copy.deepcopy(model)
    plain.embedding = PlainEmbedding(plain.embedding)
    return plain


def plain_epoch(plain, data, optimizers) -> None:
    epoch = data.train.epoch(200, seed=5, epoch=0)
    with torch.random.fork_rng():
        for step, (inputs, label, *_) in enumerate(epoch.batches()):
            torch.manual_seed(derive_seed(5, "dropout", 0, step))
            loss = binary_cross_entropy_with_logits(plain(inputs), label)
            plain.zero_grad()
            (loss + plain.embedding.l2_reg(*inputs, rate=0.01)).backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.05)
            for optimizer in optimizers:
                optimizer.step()


def test_the_weighted_loss_is_the_weighted_mean_of_the_rows():
    logits = torch.tensor([0.3, -2.0, 5.0, 40.0], dtype=torch.float64, requires_grad=True)
    label = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    weight = torch.tensor([2.0, 0.0, 0.5, 1.0], dtype=torch.float64)
    expected = 0.0
    for x, y, w in zip(logits.tolist(), label.tolist(), weight.tolist(), strict=True):
        expected += w * (math.log1p(math.exp(-x)) if y else x + math.log1p(math.exp(-x)))
    loss = weighted_loss(logits, label, weight)
    assert loss.item() == pytest.approx(expected / 3.5, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, weight * (logits.sigmoid() - label).detach() / 3.5)


def test_equal_weights_are_no_weights_and_no_weight_is_no_loss():
    logits = torch.randn(50, dtype=torch.float64, requires_grad=True)
    label = (torch.rand(50) < 0.3).double()
    mean = binary_cross_entropy_with_logits(logits, label)
    assert torch.equal(weighted_loss(logits, label, None), mean)
    for size in (1.0, 7.0, 1e-3, 1e-300):
        loss = weighted_loss(logits, label, torch.full((50,), size, dtype=torch.float64))
        torch.testing.assert_close(loss, mean)
    nothing = weighted_loss(logits, label, torch.zeros(50, dtype=torch.float64))
    assert nothing.item() == 0
    assert not torch.autograd.grad(nothing, logits)[0].any()


def test_a_row_of_weight_two_trains_like_two_rows(tiny_data):
    """One batch per epoch, no dropout and no batch norm, whose statistics count rows."""
    train = tiny_data.train
    twice = torch.arange(len(train)) % 3 == 0
    rows = torch.cat([torch.arange(len(train)), twice.nonzero().flatten()])
    inputs, label = train.inputs.select(rows), train.label[rows]
    label[::2] = 0.0  # the tiny config trains on positives only
    label[len(train) :] = label[: len(train)][twice]
    repeated = TabularDataset(train.schema, inputs, label)
    first = slice(0, len(train))
    weighted = TabularDataset(
        train.schema, inputs.select(first), label[first], weight=1.0 + twice.float()
    )
    results = []
    for data in (repeated, weighted):
        config = config_from_dict(
            {
                "dnn": {"hidden_units": [8], "dropout": 0.0, "use_batch_norm": False},
                "training": {"epochs": 3, "batch_size": 10_000, "metric": "logloss", "lr": 0.01},
            }
        )
        model = build_model(train.schema, config)
        state = Trainer(config.training).fit(model, data, tiny_data.valid)
        results.append((model.state_dict(), [entry["train_loss"] for entry in state.history]))
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=0)
    for name, tensor in results[0][0].items():
        torch.testing.assert_close(tensor, results[1][0][name], msg=name, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "lazy_sgd"])
def test_a_sparse_optimizer_takes_the_tables_and_only_them(tiny_data, optimizer):
    frozen = {"name": optimizer, "lr": 1e-30}
    model, trainer = make(tiny_data, epochs=1, sparse_optimizer=frozen)
    before = copy.deepcopy(model.state_dict())
    trainer.fit(model, tiny_data.train, tiny_data.valid)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]) == name.startswith("embedding.tables."), name


def test_two_runs_are_equal_bit_by_bit_and_another_seed_is_not(tiny_data):
    results = []
    for seed in (5, 5, 6):
        model, trainer = make(tiny_data)
        trainer.seed = seed
        state = trainer.fit(model, tiny_data.train, tiny_data.valid)
        results.append((model.state_dict(), comparable(state.history)))
    (first, history), (second, same_history), (third, _) = results
    assert same_weights(first, second)
    assert history == same_history
    assert not same_weights(first, third)


def test_the_callers_random_state_is_left_alone(tiny_data):
    model, trainer = make(tiny_data, epochs=1)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    trainer.fit(model, tiny_data.train, tiny_data.valid)
    assert torch.rand(1) == expected


def test_the_model_ends_with_the_weights_that_validated_best(tiny_data):
    model, trainer = make(tiny_data, epochs=8, lr=0.05, early_stopping_patience=8)
    state = trainer.fit(model, tiny_data.train, tiny_data.valid)
    values = [entry["ndcg@10"] for entry in state.history]
    assert state.best_value == max(values)
    assert state.best_epoch == values.index(max(values)) + 1
    again = evaluate_metric(model, tiny_data.valid, "ndcg@10", batch_size=1000)
    assert again["ndcg@10"] == max(values)
    assert same_weights(model.state_dict(), state.best_model)


def test_a_finished_run_that_goes_on_keeps_its_best_weights(tiny_data):
    """Their place in the state is the model's own memory, until training goes on."""
    model, trainer = make(tiny_data, epochs=1, metric="logloss")
    state = trainer.fit(model, tiny_data.train, tiny_data.valid)
    best = copy.deepcopy(state.best_model)
    state.optimizers[0]["param_groups"][0]["lr"] = 5.0  # spoils the next epoch
    longer = Trainer(dataclasses.replace(trainer.config, epochs=2), seed=5)
    state = longer.fit(model, tiny_data.train, tiny_data.valid, state=state)
    assert state.best_epoch == 1
    assert same_weights(state.best_model, best)
    assert same_weights(model.state_dict(), best)


def test_training_stops_when_the_metric_stalls(tiny_data):
    model, trainer = make(tiny_data, epochs=50, lr=1e-12, early_stopping_patience=3)
    state = trainer.fit(model, tiny_data.train, tiny_data.valid)
    assert len(state.history) == state.best_epoch + 3


@pytest.mark.parametrize("metric", ["auc", "logloss", "hr@5", "ranking_99.ndcg@20"])
def test_every_kind_of_metric_can_be_watched(tiny_data, metric):
    model, trainer = make(tiny_data, epochs=2, metric=metric)
    state = trainer.fit(model, tiny_data.train, tiny_data.valid)
    values = [entry[metric] for entry in state.history]
    assert state.best_value == (min(values) if metric == "logloss" else max(values))


def test_only_the_metrics_of_the_watched_kind_are_computed(tiny_data):
    for metric, absent in (
        ("auc", "ndcg@10"),
        ("ndcg@10", "auc"),
        ("ndcg@10", "ranking_99.ndcg@10"),
    ):
        model, trainer = make(tiny_data, epochs=1, metric=metric)
        state = trainer.fit(model, tiny_data.train, tiny_data.valid)
        assert absent not in state.history[0]


def test_the_rate_falls_on_a_plateau_and_along_a_cosine(tiny_data):
    stalled = {"lr": 1e-12, "epochs": 4, "scheduler_patience": 0, "scheduler_factor": 0.5}
    model, trainer = make(tiny_data, **stalled)
    rates = [entry["lr"] for entry in trainer.fit(model, tiny_data.train, tiny_data.valid).history]
    torch.testing.assert_close(rates, [1e-12, 1e-12, 5e-13, 2.5e-13])
    model, trainer = make(tiny_data, lr=1.0, epochs=4, scheduler="cosine")
    rates = [entry["lr"] for entry in trainer.fit(model, tiny_data.train, tiny_data.valid).history]
    torch.testing.assert_close(rates, [1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])


@pytest.mark.parametrize(("sparse", "warned"), [(None, True), ("lazy_adam", False)])
def test_a_dense_update_that_dominates_is_said_in_one_line(
    tiny_data, caplog, monkeypatch, sparse, warned
):
    monkeypatch.setattr("deepfm.training.optimizers._PER_STEP", 0)  # the tables are tiny
    model, trainer = make(tiny_data, epochs=1, batch_size=20, sparse_optimizer=sparse)
    trainer.fit(model, tiny_data.train, tiny_data.valid)
    lines = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert [line.startswith("every step updates every row") for line in lines] == [True] * warned
    caplog.clear()
    model, trainer = make(tiny_data, epochs=1, sparse_optimizer=sparse)
    trainer.fit(model, tiny_data.train, tiny_data.valid)
    assert not caplog.records


def test_the_gradient_mode_is_restored_when_training_ends_or_fails(tiny_data):
    model, trainer = make(tiny_data, epochs=1, sparse_optimizer="lazy_adam")
    trainer.fit(model, tiny_data.train, tiny_data.valid)
    assert not model.embedding.tables.is_compact
    with torch.no_grad():
        model.bias.fill_(float("nan"))
    with pytest.raises(DeepFMError, match="the loss became nan"):
        trainer.fit(model, tiny_data.train, tiny_data.valid)
    assert not model.embedding.tables.is_compact
    model(tiny_data.train.inputs).sum().backward()
    assert model.embedding.tables["user"].grad.any()


def stopped_and_resumed(data, stop_at: int, **training):
    """Weights and history of a run that is interrupted once, after `stop_at` steps in all."""
    saved = []
    count = itertools.count(1)

    def save(state, is_best):
        saved.append(copy.deepcopy(vars(state)))

    model, trainer = make(data, **training)
    with pytest.raises(Interrupted):
        trainer.fit(
            model, data.train, data.valid, save=save, should_stop=lambda: next(count) == stop_at
        )
    fresh, trainer = make(data, **training)
    state = trainer.fit(fresh, data.train, data.valid, state=TrainingState(**saved[-1]))
    return fresh.state_dict(), comparable(state.history)


@pytest.mark.parametrize("stop_at", [1, 4, 11, 12, 13, 30])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"sparse_optimizer": "sgd", "scheduler": "cosine"},
        {"sparse_optimizer": "lazy_adam"},
        {"sparse_optimizer": "rowwise_adagrad"},
    ],
)
def test_a_resumed_run_ends_bit_by_bit_like_an_uninterrupted_one(tiny_data, stop_at, extra):
    model, trainer = make(tiny_data, **extra)
    state = trainer.fit(model, tiny_data.train, tiny_data.valid)
    weights, history = stopped_and_resumed(tiny_data, stop_at, **extra)
    assert history == comparable(state.history)
    assert same_weights(weights, model.state_dict())


def test_checkpoints_come_every_few_steps_and_at_each_epochs_end(tiny_data):
    model, trainer = make(tiny_data, epochs=2, checkpoint_every_steps=3)
    steps = len(tiny_data.train.epoch(200, seed=5, epoch=0))
    places = []
    trainer.fit(
        model,
        tiny_data.train,
        tiny_data.valid,
        save=lambda state, is_best: places.append((state.epoch, state.step)),
    )
    inside = list(range(3, steps + 1, 3))
    assert places == [(0, s) for s in inside] + [(1, 0)] + [(1, s) for s in inside] + [(2, 0)]


def test_a_loss_that_is_not_finite_names_the_step_and_saves_nothing(tiny_data):
    model, trainer = make(tiny_data, checkpoint_every_steps=1)
    with torch.no_grad():
        model.bias.fill_(float("nan"))
    saved = []
    with pytest.raises(DeepFMError, match="the loss became nan in epoch 1, step 1; lower"):
        trainer.fit(model, tiny_data.train, tiny_data.valid, save=lambda *call: saved.append(call))
    assert saved == []


def test_weights_that_are_not_finite_are_never_saved(tiny_data):
    """The loss of a step is computed before its update, so it cannot tell."""
    model, trainer = make(tiny_data, checkpoint_every_steps=1, gradient_clip_norm=None, lr=1.0)
    model.embedding.dense_vectors["price"].register_hook(lambda grad: grad * float("inf"))
    saved = []
    with pytest.raises(DeepFMError, match="the weights became NaN or infinite in epoch 1, step 1"):
        trainer.fit(model, tiny_data.train, tiny_data.valid, save=lambda *call: saved.append(call))
    assert saved == []


def test_a_stop_during_validation_is_heard(tiny_data):
    model, trainer = make(tiny_data, epochs=1)
    finished = []
    with pytest.raises(Interrupted):
        trainer.fit(
            model,
            tiny_data.train,
            tiny_data.valid,
            should_stop=lambda: 2 * len(finished),
            log=finished.append,
        )
    assert len(finished) == 1


def test_a_metric_that_the_data_cannot_give_is_refused(tiny_data):
    ones = tiny_data.valid.inputs.select(tiny_data.valid.label > 0)
    label = torch.ones(ones.num_rows)
    valid = type(tiny_data.valid)(tiny_data.valid.schema, ones, label)
    for metric, message in (("auc", "holds one class only"), ("ndcg@10", "needs a ranking task")):
        model, trainer = make(tiny_data, metric=metric)
        with pytest.raises(ConfigError, match=message):
            trainer.fit(model, tiny_data.train, valid)
