"""Objectives of several logits and models of several tasks, which are toys of these tests."""

import copy
import dataclasses
import itertools
import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from deepfm.cli import main
from deepfm.config import config_from_dict, load_config
from deepfm.data.dataset import TabularDataset
from deepfm.data.files.writer import TableWriter
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.errors import ConfigError
from deepfm.evaluation.metrics import METRICS, TRAIN_METRICS, Metric, OverBatches
from deepfm.evaluation.scoring import evaluate, evaluate_metric, score, score_tasks
from deepfm.held_out import evaluate_checkpoint
from deepfm.models import MODELS, Entry, build_model
from deepfm.models.base import BaseCTRModel
from deepfm.models.deepfm import DeepFM
from deepfm.models.options import DeepFMConfig
from deepfm.objectives import LOSSES, Objective, Task, check_losses, check_metrics, metric_names
from deepfm.objectives.losses import BinaryCrossEntropy
from deepfm.training.trainer import Interrupted, Trainer, TrainingState
from tests.clicks import CALIBRATION


@dataclass(frozen=True, kw_only=True)
class BranchLoss(BinaryCrossEntropy):
    """The same label, from the logits of a branch, which exist in training only."""

    name = "branch"
    only_in_training = True
    branch: str = ""

    def loss(self, logits, targets, task=""):
        return super().loss({task: logits[self.branch]}, targets, task)


@dataclass(frozen=True, kw_only=True)
class Product(Objective):
    """-ln of a probability that is the product of those of two other tasks."""

    name = "product"
    label_kinds = ("binary",)
    first: str = ""
    second: str = ""

    def log_probability(self, logits):
        return logsigmoid(logits[self.first]) + logsigmoid(logits[self.second])

    def row_losses(self, logits, targets, task=""):
        positive = self.log_probability(logits)
        return -torch.where(targets.label == 1, positive, torch.log(-torch.expm1(positive)))

    def prediction(self, logits, task=""):
        return self.log_probability(logits).exp()

    def outputs(self, logits, task=""):
        return {"probs": self.prediction(logits, task)}


@dataclass(frozen=True, kw_only=True)
class WithBranchConfig(DeepFMConfig):
    name = "with_branch"


@dataclass(frozen=True, kw_only=True)
class HeadsConfig(DeepFMConfig):
    name = "heads"


class WithBranch(DeepFM):
    """DeepFM, which in training shows the logits of its DNN alone."""

    def training_logits(self, inputs):
        return {"": self(inputs), "deep": self.dnn(self.embedding(*inputs)[2]).squeeze(1)}


class Heads(BaseCTRModel):
    """A logit, or one per class, for each task that has a loss of its own logits."""

    several_tasks = True
    uses_first_order = False
    uses_field_embeddings = False

    def _build_components(self):
        self.heads = nn.ModuleDict(
            {
                task.name: nn.Linear(self.embedding.total_dim, task.num_class)
                for task in self.tasks
                if task.main.name != "product"
            }
        )

    def _forward_components(self, first_order, field_embeddings, flat_embeddings):
        return {name: head(flat_embeddings).squeeze(1) for name, head in self.heads.items()}

    def forward(self, inputs):
        return self._forward_components(*self.embedding(*inputs)[:3])


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.setitem(LOSSES, "branch", BranchLoss)
    monkeypatch.setitem(LOSSES, "product", Product)
    for options in (WithBranchConfig, HeadsConfig):
        place = f"{__name__}:{options.__name__.removesuffix('Config')}"
        monkeypatch.setitem(MODELS, options.name, Entry(options, place))


BOTH = {
    "click": {"label": "clicked"},
    "buy": {
        "label": "bought",
        "losses": ["binary_focal", {"name": "binary_cross_entropy", "label_smoothing": 0.1}],
        "weight": 0.5,
        "metrics": ["auc", "normalized_entropy"],
        "train_metrics": [{"name": "accuracy", "decay_step": 3}],
    },
}
OF_BOTH = {"label": "both", "losses": {"name": "product", "first": "click", "second": "buy"}}


def settings(tasks=None, *, metric="buy.auc", model="heads", table=(), **sections):
    labels = {"clicked": {"column": "c"}, "bought": {"column": "b"}, "both": {"column": "cb"}}
    labels["kind"] = {"column": "k", "kind": "class"}
    declared = {
        "files": "rows.csv",
        "labels": labels,
        "fields": {"city": {"type": "sparse", "embedding_dim": 4}, "hour": {"type": "dense"}},
        **dict(table),
    }
    raw = {
        "model_name": model,
        "device": "cpu",
        "data": {"dataset_name": "tabular", "split_strategy": "random", "table": declared},
        "dnn": {"hidden_units": [8]},
        "training": {"epochs": 2, "batch_size": 64, "lr": 0.02, "metric": metric},
    }
    if tasks is not None:
        raw["tasks"] = tasks
    for name, section in sections.items():
        raw[name] = raw.get(name, {}) | section if isinstance(section, dict) else section
    return config_from_dict(raw)


def rows(labels=("clicked", "bought"), count=300, seed=0):
    """Rows whose labels follow from their city."""
    rng = np.random.default_rng(seed)
    city = rng.integers(1, 9, count)
    clicked = rng.random(count) < city / 10
    bought = rng.random(count) < 0.8 - city / 20
    columns = {"clicked": clicked, "bought": bought, "both": clicked & bought, "kind": city % 3}
    schema = DatasetSchema(
        fields={
            "city": FieldSchema("city", "sparse", vocabulary_size=9, embedding_dim=4),
            "hour": FieldSchema("hour", "dense"),
        },
        label_field=labels[0],
        label_columns=labels if len(labels) > 1 else (),
    )
    label = np.column_stack([columns[name] for name in labels]).astype(np.float32)
    inputs = {"city": city, "hour": rng.random(count)}
    return TabularDataset.from_arrays(schema, inputs, label if len(labels) > 1 else label[:, 0])


def check(config):
    check_losses(config.task_list(), config.task_data())
    check_metrics(config.task_list(), config.training.metric, config.task_data())


def trainer_of(config):
    return Trainer(config.training, config.evaluation, seed=5)


def same_weights(one, other):
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


# --- objectives that read more than their task's own logits --------------------------------------


def test_a_loss_on_a_branch_trains_it_and_is_not_evaluated():
    losses = ["binary_cross_entropy", {"name": "branch", "branch": "deep"}]
    more = {"losses": losses, "log_every_steps": 1, "epochs": 1}
    table = {"label": "clicked"}
    config = settings(model="with_branch", metric="auc", table=table, training=more)
    check(config)
    data = rows(("clicked",))
    model, lines = build_model(data.schema, config), []
    logits = model.training_logits(data.inputs)
    assert set(logits) == {"", "deep"}
    assert model(data.inputs).shape == logits["deep"].shape == (300,)  # forward is one tensor
    (task,) = model.tasks
    found = task.losses(logits, task.targets(data[:], data.schema))
    expected = binary_cross_entropy_with_logits(logits["deep"], data.label)
    assert torch.equal(found["branch"], expected)
    state = trainer_of(config).fit(model, data, data, log=lines.append)
    assert "(binary_cross_entropy 0." in lines[0]
    assert ", branch 0." in lines[0]
    assert set(state.history[0]) >= {"auc", "logloss"}
    assert "branch" not in state.history[0]
    assert set(evaluate(model, data, batch_size=100).metrics) == {"auc", "logloss"}
    assert "branch" not in metric_names(model.tasks)


def test_one_objective_reads_the_logits_of_two_tasks():
    config = settings(BOTH | {"both": OF_BOTH}, metric="both.auc")
    check(config)
    data = rows(("clicked", "bought", "both"))
    model = build_model(data.schema, config).eval()
    assert set(model(data.inputs)) == {"click", "buy"}
    outputs, predicted = model.outputs(data.inputs), model.predict(data.inputs)
    assert set(outputs) == {"logits_click", "probs_click", "logits_buy", "probs_buy", "probs_both"}
    product = outputs["probs_click"] * outputs["probs_buy"]
    torch.testing.assert_close(predicted["both"], product)
    result = evaluate(model, data, batch_size=100)
    np.testing.assert_allclose(
        result.predictions["both"], result.predictions["click"] * result.predictions["buy"]
    )
    expected = torch.nn.functional.binary_cross_entropy(product.double(), data.label[:, 2].double())
    assert result.metrics["both"]["product"] == pytest.approx(expected.item(), rel=1e-5)
    state = trainer_of(config).fit(model, data, data)
    assert state.history[-1]["both.product"] < expected.item()


@dataclass(frozen=True, kw_only=True)
class Brier(Metric):
    """Mean squared difference between probability and label."""

    name = "brier"
    needs = "probability"
    larger_is_better = False

    def value(self, scored):
        return float(np.square(scored.predicted - scored.label).mean())


@dataclass(frozen=True, kw_only=True)
class TrainBrier(OverBatches, Brier):
    """Mean over the rows of a window."""


def test_a_metric_is_a_class_and_its_name(monkeypatch):
    monkeypatch.setitem(METRICS, "brier", Brier)
    monkeypatch.setitem(TRAIN_METRICS, "brier", TrainBrier)
    sections = {
        "evaluation": {"metrics": ["brier"]},
        "training": {"metrics": [{"name": "brier", "decay_step": 2}]},
    }
    table = {"label": "clicked"}
    config = settings(model="deepfm", metric="brier", table=table, **sections)
    check(config)
    data = rows(("clicked",))
    model = build_model(data.schema, config)
    state = trainer_of(config).fit(model, data, data)
    values = [entry["brier"] for entry in state.history]
    assert state.best_value == min(values)
    assert 0 < state.history[-1]["train_brier"] < 1
    expected = np.square(model.predict(data.inputs).numpy() - data.label.numpy()).mean()
    assert evaluate(model, data, batch_size=50).metrics["brier"] == pytest.approx(expected)
    classes = {"losses": "softmax_cross_entropy", "num_class": 3, "label": "kind"}
    refused = settings({"kind": classes | {"metrics": "brier"}}, metric="brier", model="deepfm")
    with pytest.raises(ConfigError, match="brier needs a probability of class 1"):
        check(refused)


# --- a model of two tasks ------------------------------------------------------------------------


def test_what_belongs_to_a_task_carries_its_name():
    config, data = settings(BOTH), rows()
    model, lines = build_model(data.schema, config), []
    trainer = Trainer(
        dataclasses.replace(config.training, log_every_steps=1), config.evaluation, seed=5
    )
    state = trainer.fit(model, data, data, log=lines.append)
    assert set(state.history[0]) == {
        "epoch", "train_loss", "lr", "seconds", "click.auc", "click.logloss", "buy.auc",
        "buy.normalized_entropy", "buy.binary_focal", "buy.binary_cross_entropy",
        "train_buy.accuracy",
    }  # fmt: skip
    assert state.best_value == max(entry["buy.auc"] for entry in state.history)
    names = ["click.binary_cross_entropy", "buy.binary_focal", "buy.binary_cross_entropy"]
    assert [part.split()[0] for part in lines[0].split("(")[1].split(")")[0].split(", ")] == names
    result = evaluate(model, data, batch_size=100)
    assert {name: set(found) for name, found in result.metrics.items()} == {
        "click": {"auc", "logloss"},
        "buy": {"auc", "normalized_entropy", "binary_focal", "binary_cross_entropy"},
    }
    logits = score_tasks(model, data.inputs, batch_size=70)
    for place, name in enumerate(("click", "buy")):
        label = data.label[:, place].numpy()
        expected = roc_auc_score(label, logits[name])
        assert result.metrics[name]["auc"] == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="several tasks: click, buy"):
        score(model, data.inputs, batch_size=70)


def test_the_loss_is_the_weighted_sum_over_tasks():
    config, data = settings(BOTH), rows()
    model = build_model(data.schema, config)
    click, buy = model.tasks
    logits, batch = model.training_logits(data.inputs), data[:]
    losses = [task.losses(logits, task.targets(batch, data.schema)) for task in (click, buy)]
    expected = losses[0]["binary_cross_entropy"] + 0.5 * sum(losses[1].values())
    more = {"epochs": 1, "batch_size": 1000, "shuffle": False}
    trainer = Trainer(dataclasses.replace(config.training, **more), config.evaluation, seed=5)
    state = trainer.fit(model, data, data)
    assert state.history[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_a_run_of_two_tasks_is_resumed_bit_by_bit():
    config, data = settings(BOTH), rows()
    model = build_model(data.schema, config)
    whole = trainer_of(config).fit(model, data, data)
    stopped, saved, steps = build_model(data.schema, config), [], itertools.count(1)
    with pytest.raises(Interrupted):
        trainer_of(config).fit(
            stopped,
            data,
            data,
            save=lambda state, is_best: saved.append(copy.deepcopy(vars(state))),
            should_stop=lambda: int(next(steps) == 7),
        )
    fresh = build_model(data.schema, config)
    resumed = trainer_of(config).fit(fresh, data, data, state=TrainingState(**saved[-1]))
    assert same_weights(fresh.state_dict(), model.state_dict())
    drop = {"seconds": 0}
    assert [e | drop for e in resumed.history] == [e | drop for e in whole.history]


def test_a_task_of_classes_beside_one_of_clicks():
    kind = {"label": "kind", "losses": "softmax_cross_entropy", "num_class": 3}
    tasks = {"click": {"label": "clicked"}, "kind": kind | {"metrics": "multiclass_auc"}}
    config, data = settings(tasks, metric="kind.multiclass_auc"), rows(("clicked", "kind"))
    model = build_model(data.schema, config)
    trainer_of(config).fit(model, data, data)
    result = evaluate(model, data, batch_size=100)
    assert result.predictions["kind"].shape == (300, 3)
    assert result.metrics["kind"]["multiclass_auc"] > 0.9
    assert model.tasks[1].prediction_names() == [f"probability_kind_{k}" for k in range(3)]
    assert set(model.outputs(data.inputs)) == {
        "logits_click", "probs_click", "logits_kind", "probs_kind",
    }  # fmt: skip


def test_a_single_task_in_tasks_is_the_short_form():
    data = rows(("clicked",))
    task = {"label": "clicked", "losses": ["binary_focal"], "metrics": ["logloss"]}
    long = settings({"click": task}, metric="logloss", model="deepfm")
    sections = {"training": {"losses": ["binary_focal"]}, "evaluation": {"metrics": ["logloss"]}}
    short = settings(model="deepfm", metric="logloss", table={"label": "clicked"}, **sections)
    histories = []
    for config in (long, short):
        model = build_model(data.schema, config)
        state = trainer_of(config).fit(model, data, data)
        histories.append([entry | {"seconds": 0} for entry in state.history])
    assert histories[0] == histories[1]
    assert set(histories[0][0]) >= {"logloss", "binary_focal"}


# --- settings ------------------------------------------------------------------------------------


def test_tasks_survive_yaml_and_stand_there_only_if_given():
    config = settings(BOTH)
    assert config_from_dict(config.to_dict()) == config
    assert config.to_dict()["tasks"]["buy"]["losses"][0]["name"] == "binary_focal"
    assert "tasks" not in settings(table={"label": "c"}, metric="auc", model="deepfm").to_dict()


@pytest.mark.parametrize(
    ("tasks", "more", "message"),
    [
        (BOTH, {"metric": "auc"}, "training.metric: unknown metric 'auc'; did you mean"),
        (BOTH, {"training": {"losses": "l2"}}, "training.losses: each of the tasks says this"),
        (BOTH, {"num_class": 2}, "num_class: each of the tasks says this"),
        (BOTH, {"table": {"label": "clicked"}}, "data.table.label: each of the tasks says this"),
        ({"a b": {"label": "clicked"}}, {}, "tasks: 'a b' is no name of a task"),
        ({"click": {}}, {}, r"tasks\.click\.label: a value is needed"),
        (
            {"click": {"label": "clicked", "losses": "binary"}},
            {},
            r"tasks\.click\.losses: unknown loss 'binary'; did you mean",
        ),
        (
            {"click": {"label": "clicked", "weight": -1}},
            {"metric": "auc"},
            r"tasks\.click\.weight: expected at least 0, found -1",
        ),
    ],
)
def test_tasks_that_contradict_the_rest_are_refused(tasks, more, message):
    with pytest.raises(ConfigError, match=message):
        settings(tasks, **more)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"losses": "l2", "label": "kind"},
            "data.table.labels: tasks.buy.losses: l2 needs a label",
        ),
        (
            {"losses": "softmax_cross_entropy"},
            r"tasks\.buy\.num_class: tasks\.buy\.losses: softmax",
        ),
        (
            {"metrics": "mae"},
            r"tasks\.buy\.metrics: mae needs the loss l2, which tasks\.buy\.losses",
        ),
        ({"metrics": ["auc", "auc"]}, r"tasks\.buy\.metrics: auc is given twice"),
        ({"metrics": {"name": "gauc", "group": "x"}}, r"tasks\.buy\.metrics: gauc: group 'x'"),
        ({"losses": {"name": "binary_focal", "alpha": 1}}, r"tasks\.buy\.losses\.alpha: binary"),
        ({"train_metrics": "mse"}, r"tasks\.buy\.train_metrics: mse needs the loss l2"),
    ],
)
def test_a_task_that_does_not_fit_is_named(changes, message):
    buy = {"label": "bought"} | changes
    metrics = buy.pop("metrics", ["logloss"])
    config = settings(
        {"click": {"label": "clicked"}, "buy": buy | {"metrics": metrics}}, metric="click.auc"
    )
    with pytest.raises(ConfigError, match=message):
        check(config)


def test_a_model_of_one_head_refuses_several_tasks():
    with pytest.raises(ConfigError, match="tasks: deepfm predicts one, found click, buy"):
        build_model(rows().schema, settings(BOTH, model="deepfm"))


def test_two_tasks_never_share_a_column():
    kind = {"label": "kind", "losses": "softmax_cross_entropy", "num_class": 3}
    tasks = {"a": kind | {"metrics": "accuracy"}, "a_0": {"label": "clicked"}}
    config = settings(tasks, metric="a.accuracy")
    with pytest.raises(ConfigError, match="a and a_0 both have the column probability_a_0"):
        check(config)


def test_an_undefined_metric_of_a_task_is_refused():
    config, data = settings(BOTH), rows()
    data.label[:, 1] = 1.0
    model = build_model(data.schema, config)
    with pytest.raises(ConfigError, match=r"training\.metric: the validation split holds one"):
        trainer_of(config).fit(model, data, data)
    with pytest.raises(ConfigError, match=r"buy\.auc does not exist on the 300 rows"):
        evaluate_metric(model, data, "buy.auc", batch_size=100)


def test_a_task_by_itself_answers_what_metrics_need():
    assert Task().gives == {"probability", "probabilities"}
    assert Task(objectives=(LOSSES["l2"](),)).gives == {"numbers"}
    both = Task(objectives=(LOSSES["l2"](), BinaryCrossEntropy()))
    assert both.gives == {"numbers", "probability", "probabilities"}
    softmax = (LOSSES["softmax_cross_entropy"](),)
    assert Task(objectives=softmax, num_class=2).gives == {
        "probability",
        "probabilities",
        "classes",
    }
    assert Task(objectives=softmax, num_class=3).gives == {"probabilities", "classes"}


# --- from rows to predictions, by the command line -----------------------------------------------


def write_table(path, count=400, seed=1):
    """Raw rows with both labels."""
    rng = np.random.default_rng(seed)
    city = rng.integers(1, 9, count)
    table = pa.table(
        {
            "city": np.char.add("c", city.astype(str)),
            "hour": rng.random(count).round(3),
            "c": (rng.random(count) < city / 10).astype(int),
            "b": (rng.random(count) < 0.8 - city / 20).astype(int),
        }
    )
    with TableWriter(path) as writer:
        writer.write(table)
    return table


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_yaml(folder, run, **training):
    raw = settings(BOTH, training=training).to_dict()
    raw["output_dir"] = str(folder / run)
    raw["data"] |= {"data_dir": str(folder), "store_dir": str(folder / "stores")}
    path = folder / f"{run}.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


def weights_of(run):
    return torch.load(run / "best_model.pt", weights_only=True)["model"]


def test_two_tasks_from_rows_to_predictions(folder):
    table = write_table(folder / "rows.csv")
    assert main(["train", "--config", str(write_yaml(folder, "run", epochs=2))]) == 0
    run = folder / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics) == {"valid", "test", "data"}
    assert {name: set(found) for name, found in metrics["test"].items()} == {
        "click": {"auc", "logloss", "base_rate_logloss"} | CALIBRATION,
        "buy": {
            "auc", "normalized_entropy", "binary_focal", "binary_cross_entropy", "logloss",
            "base_rate_logloss",
        } | CALIBRATION,
    }  # fmt: skip
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in history] == [1, 2]
    assert set(history[0]) >= {"click.auc", "buy.auc", "train_buy.accuracy"}

    found = pyarrow.parquet.read_table(run / "predictions.parquet")
    labels, columns = ["label_click", "label_buy"], ["probability_click", "probability_buy"]
    logits = ["logit_click", "logit_buy"]
    assert found.column_names == ["row", *labels, *columns, *logits]
    for column, logit in zip(columns, logits, strict=True):
        np.testing.assert_allclose(found[column], 1 / (1 + np.exp(-found[logit].to_numpy())))
    rows_there = found["row"].to_numpy()
    for name, raw in zip(labels, ("c", "b"), strict=True):
        np.testing.assert_array_equal(found[name], table[raw].to_numpy()[rows_there])
    for task, label, column in zip(("click", "buy"), labels, columns, strict=True):
        expected = roc_auc_score(found[label], found[column])
        assert metrics["test"][task]["auc"] == pytest.approx(expected)

    best = run / "best_model.pt"
    assert evaluate_checkpoint(best) == {"test": metrics["test"]}
    command = ["predict", "--checkpoint", str(best), "--input", "rows.csv", "--output", "out.csv"]
    assert main(command) == 0
    scored = pa.csv.read_csv("out.csv")
    assert scored.column_names == [*table.column_names, *columns]
    for column in columns:
        served = scored[column].to_numpy()[rows_there]
        np.testing.assert_allclose(served, found[column].to_numpy(), rtol=1e-5)


def test_two_tasks_are_resumed_bit_by_bit_from_a_checkpoint(folder):
    write_table(folder / "rows.csv")
    assert main(["train", "--config", str(write_yaml(folder, "whole", epochs=2))]) == 0
    assert main(["train", "--config", str(write_yaml(folder, "cut", epochs=1))]) == 0
    more = ["--override", "training.epochs=2", "--resume"]
    assert main(["train", "--config", str(folder / "cut.yaml"), *more]) == 0
    assert same_weights(weights_of(folder / "cut"), weights_of(folder / "whole"))
    names = ("metrics.json", "predictions.parquet")
    assert all(
        (folder / "cut" / n).read_bytes() == (folder / "whole" / n).read_bytes() for n in names
    )


def test_evaluation_may_ask_a_task_for_other_metrics(folder):
    write_table(folder / "rows.csv")
    path = write_yaml(folder, "run", epochs=1)
    assert main(["train", "--config", str(path)]) == 0
    best = folder / "run" / "best_model.pt"
    changed = load_config(path, ["tasks.click.metrics=[accuracy]", "training.metric=buy.auc"])
    found = evaluate_checkpoint(best, config=changed)
    assert set(found["test"]["click"]) == {
        "accuracy", "binary_cross_entropy", "logloss", "base_rate_logloss",
    } | CALIBRATION  # fmt: skip
    other = load_config(path, ["tasks.click.weight=2"])
    with pytest.raises(ConfigError, match=r"it also changes tasks\.click\.weight"):
        evaluate_checkpoint(best, config=other)
