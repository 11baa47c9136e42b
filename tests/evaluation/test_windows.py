"""Decayed metrics of training batches: golden values, loops over windows, and their state."""

import io
import math

import numpy as np
import pytest
import torch

from deepfm.data.batch import Batch
from deepfm.data.schema import DatasetSchema
from deepfm.evaluation.metrics import TRAIN_METRICS
from deepfm.evaluation.scored import Scored
from deepfm.objectives import LOSSES, Task
from deepfm.training.train_metrics import TrainMetrics, scored_batch
from tests import reference

EIGHT = [k / 10 for k in range(1, 9)]


def spec(name, **options):
    return TRAIN_METRICS[name](**options)


class Shown:
    """A window that takes in what a model says of a batch, by name."""

    def __init__(self, window):
        self.window = window
        self.state_dict, self.load_state_dict = window.state_dict, window.load_state_dict

    @property
    def value(self):
        return self.window.value

    def update(self, outputs, batch):
        found = {name: output.detach().double().numpy() for name, output in outputs.items()}
        probs, y = found.get("probs"), found.get("y")
        one = found.get("probs1", probs)
        self.window.update(
            Scored(
                batch.label.double().numpy(),
                y if one is None else one,
                y,
                num_class=probs.shape[1] if probs is not None and probs.ndim == 2 else 1,
                classes=probs if probs is not None and probs.ndim == 2 else None,
            )
        )


def build_train_metrics(metrics):
    task, schema = Task(train_metrics=tuple(metrics)), DatasetSchema(fields={}, label_field="y")
    return {name: Shown(w) for name, w in TrainMetrics([task], schema).by_name.items()}


def named_outputs(logits, task):
    return task.outputs({"": logits})


def made(name, **options):
    (metric,) = build_train_metrics([spec(name, **options)]).values()
    return metric


def rows(label):
    return Batch(None, torch.tensor(label, dtype=torch.float32))


def test_golden_values_of_the_auc():
    """TorchEasyRec's own test: windows of one step, decay 0.9, 10 thresholds."""
    metric = made("auc", thresholds=10, decay_step=1, decay_rate=0.9)
    outputs = {"probs": torch.tensor(EIGHT)}
    assert metric.value == 0
    for label, expected in (
        ([1, 0, 1, 0, 0, 0, 1, 1], 0.5625),
        ([1, 0, 1, 0, 0, 0, 1, 1], 0.5625),
        ([1, 0, 1, 0, 1, 0, 1, 0], 0.54375),
    ):
        metric.update(outputs, rows(label))
        assert metric.value == pytest.approx(expected)


def test_golden_values_of_the_mean_error():
    """TorchEasyRec's own test: 0.1, then 0.11."""
    metric = made("mae", decay_step=1, decay_rate=0.9)
    metric.update({"y": torch.tensor([0.1, 0.2])}, rows([0.2, 0.3]))
    assert metric.value == pytest.approx(0.1)
    metric.update({"y": torch.tensor([0.1, 0.2])}, rows([0.3, 0.4]))
    assert metric.value == pytest.approx(0.11)


CASES = [
    ("auc", {"thresholds": 7}),
    ("mae", {}),
    ("mse", {}),
    ("accuracy", {"threshold": 0.6}),
    ("xauc", {"in_batch": True}),
    ("xauc", {"sample_ratio": 1.0}),
]


def batches(seed=0, count=14):
    """Batches of 1 to 6 rows: (outputs, batch) each."""
    rng = np.random.default_rng(seed)
    losses = Task(objectives=tuple(LOSSES[name]() for name in ("binary_cross_entropy", "l2")))
    for _ in range(count):
        size = rng.integers(1, 7)
        logits = torch.from_numpy(rng.normal(size=size))
        yield named_outputs(logits, losses), rows(rng.integers(0, 2, size).tolist())


def of_window(name, options, window):
    """The metric of some batches by the loops of `reference`."""
    label = [y for _, batch in window for y in batch.label.tolist()]
    y = [v for outputs, _ in window for v in outputs["y"].tolist()]
    probs = [v for outputs, _ in window for v in outputs["probs"].tolist()]
    if name == "mae":
        return sum(abs(a - b) for a, b in zip(y, label, strict=True)) / len(y)
    if name == "mse":
        return sum((a - b) ** 2 for a, b in zip(y, label, strict=True)) / len(y)
    if name == "accuracy":
        return reference.accuracy(label, probs, options["threshold"], 1)
    if options.get("in_batch"):
        counts = [reference.concordant(b.label.tolist(), o["y"].tolist()) for o, b in window]
        shares = [right / pairs for right, pairs in counts if pairs]
        return sum(shares) / len(shares)
    right, pairs = reference.concordant(label, y)
    return right / pairs


@pytest.mark.parametrize(("name", "options"), CASES[1:])
def test_windows_are_averaged_as_they_end(name, options):
    metric = made(name, decay_step=4, decay_rate=0.7, **options)
    seen, expected = [], 0.0
    for step, pair in enumerate(batches(), start=1):
        seen.append(pair)
        metric.update(*pair)
        if step % 4 == 0:
            value = of_window(name, options, seen[-4:])
            expected = value if step == 4 else 0.7 * expected + 0.3 * value
        assert metric.value == pytest.approx(expected, abs=1e-9)
    assert expected > 0


def test_counts_of_the_auc_are_averaged_as_windows_end():
    """Rows with weights: those of a window count 1 - rate, those before rate times as much."""
    metric = made("auc", thresholds=7, decay_step=4, decay_rate=0.75)
    seen = []
    for step, pair in enumerate(batches(), start=1):
        seen.append(pair)
        metric.update(*pair)
        if step == 12:
            break
    # With rate 3/4 the windows weigh 9, 3 and 4 sixteenths: repeat their rows as often.
    label, probability = [], []
    for number, (outputs, batch) in enumerate(seen):
        times = (9, 3, 4)[number // 4]
        label += batch.label.tolist() * times
        probability += outputs["probs"].tolist() * times
    assert metric.value == pytest.approx(reference.binned_auc(label, probability, 7))


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("stop", [0, 3, 4, 6])
def test_a_saved_state_goes_on_exactly(name, options, stop):
    whole = made(name, decay_step=4, **options)
    stopped = made(name, decay_step=4, **options)
    later = list(batches())
    for pair in later:
        whole.update(*pair)
    for pair in later[:stop]:
        stopped.update(*pair)
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    for pair in later[stop:]:  # must not reach what was saved
        stopped.update(*pair)
    file.seek(0)
    resumed = made(name, decay_step=4, **options)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for pair in later[stop:]:
        resumed.update(*pair)
    assert resumed.value == stopped.value == whole.value != 0


def test_classes_and_names():
    losses = Task(objectives=(LOSSES["softmax_cross_entropy"](),))
    made_by_name = build_train_metrics(
        [
            spec("accuracy", decay_step=1),
            spec("accuracy", decay_step=1, top_k=2),
            spec("auc", decay_step=1),
        ]
    )
    assert list(made_by_name) == ["accuracy[1]", "accuracy[2]", "auc"]
    outputs = named_outputs(torch.tensor([[0.1, 0.9], [0.2, 0.1], [0.0, 0.5]]), losses)
    for metric in made_by_name.values():
        metric.update(outputs, rows([1, 1, 0]))
    values = [metric.value for metric in made_by_name.values()]
    assert values[:2] == [pytest.approx(1 / 3), 1.0]
    expected = reference.binned_auc([1, 1, 0], outputs["probs1"].tolist(), 200)
    assert values[2] == pytest.approx(expected)


def test_outputs_with_gradients_are_left_alone():
    logits = torch.zeros(2, requires_grad=True)
    metric = made("mae", decay_step=1)
    metric.update({"y": logits}, rows([1, 1]))
    assert metric.value == 1
    assert not math.isnan(metric.value)
    assert logits.requires_grad


def test_a_batch_is_scored_in_the_precision_of_its_logits():
    schema = DatasetSchema(fields={}, label_field="y")
    logits = {"": torch.tensor([[0.3, 0.1], [-2.0, 1.0]])}
    task = Task(objectives=(LOSSES["softmax_cross_entropy"](),), num_class=2)
    scored = scored_batch(task, logits, rows([1, 0]), schema)
    expected = logits[""].softmax(1).double().numpy()
    np.testing.assert_array_equal(scored.of_classes, expected)
    np.testing.assert_array_equal(scored.predicted, expected[:, 1])
    assert scored.value is None
    both = Task(objectives=(LOSSES["l2"](), LOSSES["binary_cross_entropy"]()))
    scored = scored_batch(both, {"": torch.tensor([0.3, -1.0])}, rows([1, 0]), schema)
    np.testing.assert_array_equal(scored.numbers, torch.tensor([0.3, -1.0]).double().numpy())
    np.testing.assert_array_equal(
        scored.predicted, torch.tensor([0.3, -1.0]).sigmoid().double().numpy()
    )


def test_batches_that_are_read_together_count_as_one_by_one(monkeypatch):
    """As those of a GPU are read, which are many when somebody asks."""
    schema = DatasetSchema(fields={}, label_field="y")
    task = Task(train_metrics=(spec("auc", thresholds=20, decay_step=3),))
    at_once, together = TrainMetrics([task], schema), TrainMetrics([task], schema)
    for step in range(8):
        logits = {"": torch.linspace(-1, 1, 6) * (step - 3)}
        batch = rows([0, 1, 0, 1, 1, step % 2])
        at_once.update(logits, batch)
        with monkeypatch.context() as patch:
            patch.setattr(TrainMetrics, "_read", lambda self: None)
            together.update(logits, batch)
    assert 0 < at_once.values()["auc"] < 1
    assert together.values() == at_once.values()
    for name, state in at_once.state_dict().items():
        other = together.state_dict()[name]
        assert all(np.array_equal(state[key], other[key]) for key in state), name
