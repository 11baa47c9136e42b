"""The training loop: what a step does, when it stops, and that resuming changes nothing."""

import copy
import dataclasses
import itertools
import math
import re

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from deepfm.config import config_from_dict
from deepfm.data.dataset import TabularDataset
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.errors import ConfigError, DataError, DeepFMError
from deepfm.evaluation.scoring import evaluate_metric
from deepfm.models import build_model
from deepfm.objectives.losses import weighted_loss
from deepfm.training.trainer import Interrupted, Trainer, TrainingState
from deepfm.utils.seeding import derive_seed
from tests.models.plain import PlainEmbedding

LOGLOSS = "logloss_prior_corrected"  # of data with sampled negatives


def make(data, evaluation=None, **training):
    config = config_from_dict(
        {
            "dnn": {"hidden_units": [8], "dropout": 0.3},
            "feature": {"embedding_l2_reg": 0.01},
            "training": {"epochs": 3, "batch_size": 200, "metric": "ndcg@10"} | training,
            "evaluation": evaluation or {},
        }
    )
    trainer = Trainer(config.training, config.evaluation, seed=5)
    return build_model(data.encoders.schema, config), trainer


def arrays(labels):
    """Rows of one field, encoded."""
    schema = DatasetSchema(
        fields={"city": FieldSchema("city", "sparse", vocabulary_size=3)}, label_field="y"
    )
    ids = [k % 3 for k in range(len(labels))]
    return TabularDataset.from_arrays(schema, {"city": ids}, labels)


@pytest.mark.parametrize(
    ("loss", "num_class", "labels", "message"),
    [
        ("binary_cross_entropy", 1, [0, 1, 7, 1], "expects 0 or 1, found 7 in row 2"),
        ("binary_cross_entropy", 1, [0, 1, 1, 0.5], "expects 0 or 1, found 0.5 in row 3"),
        ("softmax_cross_entropy", 3, [0, 3, 1, 2], "expects a class from 0 to 2, found 3 in row 1"),
        ("softmax_cross_entropy", 3, [0, -1, 1, 2], "from 0 to 2, found -1 in row 1"),
    ],
)
def test_labels_without_a_meaning_for_the_loss_are_refused(loss, num_class, labels, message):
    config = config_from_dict(
        {"num_class": num_class, "training": {"losses": [loss], "epochs": 1, "metric": "logloss"}}
    )
    good, bad = arrays([0, 1, 1, 0]), arrays(labels)
    for train, valid in ((bad, good), (good, bad)):
        with pytest.raises(DataError, match=message):
            Trainer(config.training).fit(build_model(good.schema, config), train, valid)


def test_a_single_row_cannot_be_trained_on_with_batch_norm():
    for norm, batch_size, rows in (("batch", 8, 1), ("batch", 1, 4), ("layer", 8, 1)):
        config = config_from_dict(
            {
                "dnn": {"hidden_units": [4], "norm": norm},
                "training": {"epochs": 1, "batch_size": batch_size, "metric": "logloss"},
            }
        )
        train, valid = arrays([1, 0, 1, 0][:rows]), arrays([0, 1])
        model = build_model(train.schema, config)
        if norm == "layer":
            Trainer(config.training).fit(model, train, valid)
            continue
        with pytest.raises(ConfigError, match=r"^training\.batch_size: batch norm cannot train on"):
            Trainer(config.training).fit(model, train, valid)


def same_weights(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


def comparable(history):
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in history]


DENSE = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("optimizer", DENSE)
def test_steps_equal_a_plain_loop(tiny_data, optimizer, every):
    """Loss, L2, clipping and update, step by step, in the order that the seed gives."""
    model, trainer = make(
        tiny_data,
        epochs=1,
        precision="fp32",
        optimizer=optimizer,
        gradient_clip_norm=0.05,
        gradient_accumulation_steps=every,
    )
    plain = with_plain_tables(model)
    update = DENSE[optimizer](plain.parameters(), lr=1e-3)
    plain_epoch(plain, tiny_data, [update], every=every)
    trainer.fit(model, tiny_data.train, tiny_data.valid)
    expected = plain.state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], msg=name, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("every", "sparse_update"), [(1, "step"), (4, "step"), (4, "backward")])
@pytest.mark.parametrize("optimizer", ["lazy_sgd", "adagrad"])
def test_steps_of_an_exact_sparse_optimizer_equal_a_plain_loop(
    tiny_data, optimizer, every, sparse_update
):
    """These two need no rows but the touched ones, so the dense update is their textbook."""
    model, trainer = make(
        tiny_data,
        epochs=1,
        precision="fp32",
        sparse_optimizer={"name": optimizer, "lr": 0.05},
        gradient_clip_norm=0.05,
        gradient_clip_scope="all" if sparse_update == "step" else "dense",
        gradient_accumulation_steps=every,
        sparse_update=sparse_update,
    )
    plain = with_plain_tables(model)
    tables = list(plain.embedding.tables.parameters())
    others = [p for p in plain.parameters() if not any(p is table for table in tables)]
    classes = {"lazy_sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad}
    updates = [torch.optim.Adam(others, lr=1e-3)]
    at_once = classes[optimizer](tables, lr=0.05)
    if sparse_update == "step":
        plain_epoch(plain, tiny_data, [*updates, at_once], every=every)
    else:
        plain_epoch(plain, tiny_data, updates, every=every, at_once=at_once, clipped=others)
    trainer.fit(model, tiny_data.train, tiny_data.valid)
    expected = plain.state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], msg=name, rtol=1e-4, atol=1e-5)


def with_plain_tables(model):
    """A copy of a model with one parameter per logical table, looked up field by field."""
    plain = copy.deepcopy(model)
    plain.embedding = PlainEmbedding(plain.embedding)
    return plain


def plain_epoch(plain, data, optimizers, *, every=1, at_once=None, clipped=None) -> None:
    """11 batches; with `every` 4, three steps, the last one of three batches."""
    epoch = data.train.epoch(200, seed=5, epoch=0)
    assert len(epoch) == 11
    with torch.random.fork_rng():
        for step, (inputs, label, *_) in enumerate(epoch.batches()):
            torch.manual_seed(derive_seed(5, "dropout", 0, step))
            loss = binary_cross_entropy_with_logits(plain(inputs), label)
            if step % every == 0:
                plain.zero_grad()
            ((loss + plain.embedding.l2_reg(*inputs, rate=0.01)) / every).backward()
            if at_once is not None:
                at_once.step()
                at_once.zero_grad()
            if step % every < every - 1 and step < 10:
                continue
            torch.nn.utils.clip_grad_norm_(clipped or plain.parameters(), 0.05)
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


@pytest.mark.parametrize("optimizer", ["adamw", "lazy_adam", "adagrad", "sgd"])
def test_tables_that_are_not_trained_stay_as_they_are(tiny_data, optimizer):
    """Whatever reaches for them: the gradient, L2, weight decay; the others move."""
    schema = tiny_data.encoders.schema.with_fields({"age": {"trainable": False}})
    extra = {"optimizer": "adamw"} if optimizer == "adamw" else {"sparse_optimizer": optimizer}
    model, trainer = make(tiny_data, epochs=1, ema_decay=0.5, **extra)
    model = type(model)(schema, model.config, model.tasks)
    before = copy.deepcopy(model.state_dict())
    trainer.fit(model, tiny_data.train, tiny_data.valid)
    for table in model.embedding.tables.places:
        name = f"embedding.tables.{table}.weight"
        frozen = table in ("age", "age_wide")
        assert torch.equal(model.state_dict()[name], before[name]) == frozen, table


def test_a_rate_of_zero_freezes_a_part_whatever_the_schedule(tiny_data):
    still = {"pattern": r"dnn\..*", "optimizer": {"name": "sgd", "lr": 0}}
    schedule = {"name": "manual_step", "sizes": [2], "lrs": [0.5]}
    model, trainer = make(
        tiny_data, epochs=1, part_optimizers=[still], scheduler=schedule, keep="last"
    )
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer.fit(model, tiny_data.train, tiny_data.valid)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]) == name.startswith("dnn."), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_runs_are_equal_bit_by_bit_and_another_seed_is_not(tiny_data, precision):
    results = []
    for seed in (5, 5, 6):
        model, trainer = make(tiny_data, precision=precision)
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
    reported = LOGLOSS if metric == "logloss" else metric
    values = [entry[reported] for entry in state.history]
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


SCHEDULE = {"name": "exponential", "decay_size": 4, "warmup_size": 5, "warmup_lr": 1e-4}
ACCUMULATED = {"gradient_accumulation_steps": 3, "gradient_clip_scope": "dense"}


@pytest.mark.parametrize("stop_at", [1, 4, 11, 12, 13, 30])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"sparse_optimizer": "sgd", "scheduler": "cosine"},
        {"sparse_optimizer": "lazy_adam"},
        {"sparse_optimizer": "rowwise_adagrad"},
        {"scheduler": SCHEDULE, "ema_decay": 0.9, "shuffle": False, "drop_last": True},
        {**ACCUMULATED, "sparse_optimizer": "lazy_adam", "ema_decay": 0.8},
        {
            **ACCUMULATED,
            "sparse_optimizer": "adagrad",
            "sparse_update": "backward",
            "scheduler": SCHEDULE | {"name": "exponential", "by_epoch": True, "warmup_size": 1},
            "sparse_scheduler": {"name": "cosine_restarts", "t_0": 7},
            "part_optimizers": [
                {
                    "pattern": "dnn.*",
                    "optimizer": {"name": "adamw", "amsgrad": True},
                    "scheduler": {"name": "manual_step", "sizes": [9, 20], "lrs": [0.02, 0.01]},
                },
            ],
        },
        {**ACCUMULATED, "max_steps": 29, "keep": "last", "ema_decay": 0.5},
        {
            "evaluate_every_steps": 4, "lr": 0.05, "metric": "logloss", "ema_decay": 0.3,
            "early_stopping_patience": None, "sparse_optimizer": "adagrad",
            "metrics": [{"name": "auc", "decay_step": 3}, {"name": "accuracy", "decay_step": 5}],
            "losses": ["binary_cross_entropy", "binary_focal"],
        },
        {**ACCUMULATED, "evaluate_every_steps": 2, "lr": 0.05, "optimizer": "adagrad"},
        {"precision": "bf16", "evaluate_every_steps": 3},
    ],
)  # fmt: skip
def test_a_resumed_run_ends_bit_by_bit_like_an_uninterrupted_one(tiny_data, stop_at, extra):
    model, trainer = make(tiny_data, **extra)
    state = trainer.fit(model, tiny_data.train, tiny_data.valid)
    weights, history = stopped_and_resumed(tiny_data, stop_at, **extra)
    assert history == comparable(state.history)
    assert same_weights(weights, model.state_dict())


def test_a_run_killed_after_a_checkpoint_ends_like_an_uninterrupted_one(tiny_data):
    """Without a word: from whatever was saved last, inside an accumulation or not."""
    training = {
        **ACCUMULATED,
        "sparse_optimizer": "adagrad",
        "scheduler": SCHEDULE,
        "ema_decay": 0.7,
        "evaluate_every_steps": 5,
        "checkpoint_every_steps": 4,
        "metric": "logloss",
        "lr": 0.05,
    }
    saved = []
    model, trainer = make(tiny_data, **training)
    state = trainer.fit(
        model,
        tiny_data.train,
        tiny_data.valid,
        save=lambda state, is_best: saved.append(copy.deepcopy(vars(state))),
    )
    assert len(saved) > 8
    for one in saved:
        assert one["step"] % 3 == 0 or one["step"] == 11
        fresh, trainer = make(tiny_data, **training)
        resumed = trainer.fit(
            fresh, tiny_data.train, tiny_data.valid, state=TrainingState(**copy.deepcopy(one))
        )
        assert comparable(resumed.history) == comparable(state.history)
        assert (resumed.best_value, resumed.best_step) == (state.best_value, state.best_step)
        assert same_weights(fresh.state_dict(), model.state_dict())


def test_a_stop_waits_for_the_update(tiny_data):
    model, trainer = make(tiny_data, gradient_accumulation_steps=4)
    places, count = [], itertools.count(1)
    with pytest.raises(Interrupted):
        trainer.fit(
            model,
            tiny_data.train,
            tiny_data.valid,
            save=lambda state, is_best: places.append((state.epoch, state.step)),
            should_stop=lambda: int(next(count) == 9),
        )
    assert places == [(0, 11)]  # 8 + 3, which are left over


def test_a_run_ends_after_its_steps_and_the_epoch_counts(tiny_data):
    model, trainer = make(tiny_data, epochs=9, max_steps=14, log_every_steps=1)
    lines = []
    state = trainer.fit(model, tiny_data.train, tiny_data.valid, log=lines.append)
    assert (state.epoch, state.step, state.total_steps) == (2, 0, 14)
    assert [entry["epoch"] for entry in state.history] == [1, 2]
    assert sum(line.startswith("step ") for line in lines) == 14
    longer = Trainer(dataclasses.replace(trainer.config, max_steps=11), seed=5)
    state = longer.fit(
        type(model)(model.schema, model.config, model.tasks), tiny_data.train, tiny_data.valid
    )
    assert (state.epoch, state.total_steps) == (1, 11)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_the_last_weights_are_kept_where_that_is_asked(tiny_data, ema_decay):
    settings = {"epochs": 4, "lr": 0.1, "metric": "logloss", "ema_decay": ema_decay}
    model, trainer = make(tiny_data, keep="last", **settings)
    calls = []
    state = trainer.fit(
        model,
        tiny_data.train,
        tiny_data.valid,
        save=lambda state, is_best: calls.append((is_best, copy.deepcopy(state))),
    )
    assert state.best_epoch < 4  # else nothing is seen
    assert [is_best for is_best, _ in calls] == [True] * 4
    assert same_weights(model.state_dict(), calls[-1][1].best_model)
    assert same_weights(model.state_dict(), calls[-1][1].model) == (ema_decay is None)
    again = evaluate_metric(model, tiny_data.valid, "logloss", batch_size=1000)[LOGLOSS]
    assert again == state.history[-1][LOGLOSS]
    best, trainer = make(tiny_data, **settings)
    other = trainer.fit(best, tiny_data.train, tiny_data.valid)
    assert comparable(other.history) == comparable(state.history)
    assert not same_weights(best.state_dict(), model.state_dict())


def test_without_patience_nothing_stalls(tiny_data):
    model, trainer = make(tiny_data, epochs=8, lr=1e-12, early_stopping_patience=None)
    state = trainer.fit(model, tiny_data.train, tiny_data.valid)
    assert len(state.history) == 8
    assert state.stale_epochs > 5


def test_evaluations_within_an_epoch_are_candidates_for_the_best(tiny_data):
    model, trainer = make(tiny_data, epochs=4, lr=0.05, metric="logloss", evaluate_every_steps=4)
    lines, saved = [], []
    state = trainer.fit(
        model,
        tiny_data.train,
        tiny_data.valid,
        log=lines.append,
        save=lambda state, is_best: saved.append((is_best, state.total_steps)),
    )
    found = [item for entry in state.history for item in entry["evaluations"]]
    assert [item["step"] for item in found] == [4, 8, 12, 16, 20, 24, 28, 32, 36, 40]
    ends = [(11 * entry["epoch"], entry[LOGLOSS]) for entry in state.history]
    values = dict([*((item["step"], item[LOGLOSS]) for item in found), *ends])
    assert state.best_value == min(values.values())
    assert values[state.best_step] == state.best_value
    assert state.best_step % 11  # else nothing is seen
    assert state.best_epoch == state.best_step // 11 + 1
    again = evaluate_metric(model, tiny_data.valid, "logloss", batch_size=1000)[LOGLOSS]
    assert again == state.best_value
    best_so_far = [step for step in sorted(values) if values[step] == min(
        value for other, value in values.items() if other <= step
    )]  # fmt: skip
    assert [step for is_best, step in saved if is_best] == best_so_far
    rows = f"in-training, all {len(tiny_data.valid):,} rows"
    inside = [line for line in lines if line.startswith("step ")]
    assert len(inside) == 10
    assert all(line.endswith(rows) for line in inside)
    assert sum(" (best)" in line for line in lines) == len(best_so_far)
    plain, trainer = make(tiny_data, epochs=4, lr=0.05, metric="logloss")
    ends = [entry[LOGLOSS] for entry in state.history]
    state = trainer.fit(plain, tiny_data.train, tiny_data.valid)
    assert [entry[LOGLOSS] for entry in state.history] == ends  # training does not notice them


def test_evaluations_in_training_may_see_the_first_rows_only(tiny_data):
    model, trainer = make(
        tiny_data,
        {"batch_size": 8, "max_batches": 3},
        epochs=2,
        metric="auc",
        evaluate_every_steps=5,
    )
    lines = []
    state = trainer.fit(model, tiny_data.train, tiny_data.valid, log=lines.append)
    assert len(lines) == 6
    assert all("in-training, first 24 rows" in line for line in lines)
    first = TabularDataset(
        tiny_data.valid.schema,
        tiny_data.valid.inputs.select(slice(0, 24)),
        tiny_data.valid.label[:24],
    )
    assert evaluate_metric(model, first, "auc", batch_size=99)["auc"] == state.best_value
    ones = torch.argsort(tiny_data.valid.label, descending=True)
    sorted_rows = type(first)(
        first.schema, tiny_data.valid.inputs.select(ones), first.label.new_ones(len(ones))
    )
    sorted_rows.label[24:] = 0
    with pytest.raises(ConfigError, match="holds one class only"):
        trainer.fit(model, tiny_data.train, sorted_rows)


def test_log_lines_tell_step_losses_and_rates(tiny_data):
    lines = {}
    for every in (1, 4):
        model, trainer = make(
            tiny_data,
            epochs=1,
            log_every_steps=every,
            lr=0.01,
            scheduler={"name": "exponential", "decay_size": 1, "decay_factor": 0.5},
            sparse_optimizer={"name": "adagrad", "lr": 0.5},
            sparse_scheduler="none",
        )
        lines[every] = []
        state = trainer.fit(model, tiny_data.train, tiny_data.valid, log=lines[every].append)
    assert [line.split("  ")[0] for line in lines[4]] == ["step 4", "step 8", "epoch 1/1"]
    assert "lr 0.00125 (dense), 0.5 (tables)" in lines[4][0]  # of step 4 itself: 0.01 / 2^3
    assert state.history[0]["lr"] == 0.01 / 2**10
    assert state.history[0]["sparse_lr"] == 0.5
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines[1][:8]]
    means = [float(line.split("loss ")[1].split()[0]) for line in lines[4][:2]]
    assert means == pytest.approx([sum(losses[:4]) / 4, sum(losses[4:]) / 4], abs=1e-4)


def test_metrics_of_the_training_batches_and_each_loss_are_shown(tiny_data):
    losses = ["binary_cross_entropy", {"name": "binary_focal", "gamma": 0.0}]
    metric = {"name": "accuracy", "decay_step": 4}
    model, trainer = make(
        tiny_data, epochs=1, metric="auc", losses=losses, metrics=metric, log_every_steps=4
    )
    lines = []
    state = trainer.fit(model, tiny_data.train, tiny_data.valid, log=lines.append)
    total, cross_entropy, focal = (
        float(
            lines[0].replace("(", " ").split(f"{name} ")[1].split(")")[0].split(",")[0].split()[0]
        )
        for name in ("loss", "binary_cross_entropy", "binary_focal")
    )
    assert total == pytest.approx(cross_entropy + focal, abs=2e-4)
    assert focal == pytest.approx(cross_entropy / 2, abs=1e-4)  # gamma 0, alpha 1/2
    assert "  train accuracy 0." in lines[0]
    assert 0 < state.history[0]["train_accuracy"] < 1
    shown = float(lines[-1].split("loss ")[1].split()[0])
    assert state.history[0]["train_loss"] == pytest.approx(shown, abs=1e-4)
    assert shown > 1.2 * cross_entropy  # the sum, not one of them


def test_the_model_is_validated_and_kept_with_its_average_and_trained_without(tiny_data):
    """The averages by hand from the weights after each step; batch norm's statistics stay."""
    settings = {"epochs": 2, "lr": 0.05, "metric": "logloss", "checkpoint_every_steps": 1}
    plain, trainer = make(tiny_data, **settings)
    weights = []
    trainer.fit(
        plain,
        tiny_data.train,
        tiny_data.valid,
        save=lambda state, is_best: weights.append(copy.deepcopy(state.model)),
    )
    model, trainer = make(tiny_data, **settings, ema_decay=0.9, keep="last")
    saved = []
    state = trainer.fit(
        model,
        tiny_data.train,
        tiny_data.valid,
        save=lambda state, is_best: saved.append(copy.deepcopy(state)),
    )
    assert len(saved) == len(weights) == 24  # each step, and the end of each epoch
    assert all(same_weights(s.model, w) for s, w in zip(saved, weights, strict=True))
    steps = weights[:11] + weights[12:23]
    averaged = {
        name for name, _ in plain.named_parameters() if not name.startswith("embedding.")
    } | {
        name
        for name in plain.state_dict()
        if name.startswith("embedding.") and ".tables." not in name
    }
    expected = dict(steps[-1])
    for name in averaged:
        value = steps[0][name].double()
        for step in steps[1:]:
            value = 0.9 * value + 0.1 * step[name].double()
        expected[name] = value.float()
    assert "dnn.0.layers.0.1.running_mean" in expected.keys() - averaged
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name, rtol=1e-4, atol=1e-6)
    again = evaluate_metric(model, tiny_data.valid, "logloss", batch_size=1000)[LOGLOSS]
    assert state.history[-1][LOGLOSS] == again


def test_an_epoch_in_file_order_and_of_whole_batches(tiny_data):
    settings = {"epochs": 1, "shuffle": False, "drop_last": True, "keep": "last"}
    model, trainer = make(tiny_data, **settings)
    state = trainer.fit(model, tiny_data.train, tiny_data.valid)
    assert state.total_steps == tiny_data.train.epoch(200, seed=5, epoch=0).num_rows // 200
    trainer.config = dataclasses.replace(trainer.config, batch_size=10**6)
    with pytest.raises(ConfigError, match=r"^training\.drop_last: .*fewer than batch_size"):
        trainer.fit(model, tiny_data.train, tiny_data.valid)


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


@pytest.mark.parametrize("decides", [False, True])
def test_a_metric_that_decides_nothing_need_not_exist(tiny_data, decides):
    """The first rows of a sorted file may be of one class; the last weights are kept anyway."""
    valid = TabularDataset(
        tiny_data.encoders.schema, tiny_data.valid.inputs, torch.zeros(len(tiny_data.valid))
    )
    patience = 5 if decides else None
    model, trainer = make(
        tiny_data,
        metric="auc",
        keep="last",
        early_stopping_patience=patience,
        scheduler="none",
        evaluate_every_steps=2,
    )
    lines = []
    if decides:
        with pytest.raises(ConfigError, match="one class only"):
            trainer.fit(model, tiny_data.train, valid)
        return
    state = trainer.fit(model, tiny_data.train, valid, log=lines.append)
    assert state.best_value is None
    assert [entry["auc"] for entry in state.history] == [None] * 3
    assert all(entry["train_loss"] > 0 for entry in state.history)
    assert all("  valid auc -  " in line for line in lines)
    assert same_weights(state.best_model, model.state_dict())


def test_a_state_prints_as_one_short_line(tiny_data):
    model, trainer = make(tiny_data, epochs=1)
    shown = repr(trainer.fit(model, tiny_data.train, tiny_data.valid))
    assert len(shown) < 200
    assert "tensor" not in shown
    assert "epoch=1, step=0, total_steps=" in shown


@pytest.mark.parametrize(("batch_size", "steps"), [(2000, 2), (200, 11)])
def test_an_epoch_of_a_few_steps_is_warned_of_once(tiny_data, caplog, batch_size, steps):
    model, trainer = make(tiny_data, epochs=2, batch_size=batch_size)
    trainer.fit(model, tiny_data.train, tiny_data.valid)
    assert len(tiny_data.train.epoch(batch_size, seed=0, epoch=0)) == steps
    said = [line for line in caplog.messages if "training.batch_size" in line]
    assert len(said) == (steps < 10)
    if said:
        assert said[0].startswith("an epoch has 2 steps: 2,005 rows in batches of 2,000; ")
        (smaller,) = re.findall(r"training.batch_size: (\d+) makes", said[0])
        assert len(tiny_data.train.epoch(int(smaller), seed=0, epoch=0)) >= 10


def test_a_line_says_which_figure_is_of_which_split(tiny_data):
    model, trainer = make(tiny_data, epochs=1, log_every_steps=5, evaluate_every_steps=5)
    lines = []
    trainer.fit(model, tiny_data.train, tiny_data.valid, log=lines.append)
    assert all(re.search(r"  (train loss|valid ndcg@10) \d", line) for line in lines)
    assert re.search(r"  train loss \d\.\d{4}  .*valid ndcg@10 \d\.\d{4}", lines[-1])
