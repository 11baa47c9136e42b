"""What is learned besides clicks: classes, numbers, sessions; from the command line to columns."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import yaml

from deepfm import experiment
from deepfm.checkpoint import load_checkpoint
from deepfm.cli import main
from deepfm.config import config_from_dict, load_config
from deepfm.data.dataset import TabularDataset
from deepfm.data.files.writer import TableWriter
from deepfm.data.labels import group_ids
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.errors import ConfigError, DataError
from deepfm.evaluation.scoring import evaluate, evaluate_metric, score
from deepfm.prediction import Predictor
from tests import reference
from tests.clicks import CALIBRATION

CITIES = 12


def write_rows(path: Path, count: int = 900, seed: int = 0) -> pa.Table:
    """Rows whose labels follow from their city, but for a tenth of them."""
    rng = np.random.default_rng(seed)
    city = rng.integers(0, CITIES, count)
    noise = rng.random(count) < 0.1
    kind = np.where(noise, rng.integers(0, 3, count), city % 3)
    table = pa.table(
        {
            "city": np.char.add("c", city.astype(str)),
            "hour": rng.integers(0, 24, count).astype(str),
            "session": np.char.add("s", rng.integers(0, count // 9, count).astype(str)),
            "click": np.where(kind == 1, "1", "0"),
            "kind": kind.astype(str),
            "minutes": np.round(city / 2 + rng.normal(0, 0.3, count), 4).astype(str),
        }
    )
    with TableWriter(path) as writer:
        writer.write(table)
    return table


TASKS = {
    "focal": {
        "training": {"losses": ["binary_focal"], "metric": "gauc", "metrics": ["auc", "accuracy"]},
        "metrics": ["auc", "logloss", {"name": "gauc", "group": "session"}, "normalized_entropy"],
        "reported": {
            "auc", "logloss", "gauc", "gauc_groups", "normalized_entropy", "binary_focal",
        },
        "columns": ["probability"],
        "good": ("auc", 0.85),
    },
    "smoothed": {
        "training": {
            "losses": [{"name": "binary_cross_entropy", "label_smoothing": 0.1}],
            "metric": "binary_cross_entropy",
        },
        "metrics": [{"name": "auc", "thresholds": 200}, "accuracy"],
        "reported": {"auc", "accuracy", "binary_cross_entropy"},
        "columns": ["probability"],
        "good": ("accuracy", 0.9),
    },
    "classes": {
        "num_class": 3,
        "label": {"column": "kind", "kind": "class"},
        "training": {"losses": ["softmax_cross_entropy"], "metric": "multiclass_auc"},
        "metrics": ["accuracy", "multiclass_auc"],
        "reported": {"accuracy", "multiclass_auc", "softmax_cross_entropy"},
        "columns": ["probability_0", "probability_1", "probability_2"],
        "good": ("accuracy", 0.85),
    },
    "sessions": {
        "num_class": 2,
        "training": {"losses": [{"name": "jrc", "session": "session"}], "metric": "jrc"},
        "metrics": ["auc", "logloss", {"name": "gauc", "group": "session"}],
        "reported": {"auc", "logloss", "gauc", "gauc_groups", "jrc"},
        "columns": ["probability"],
        "good": ("auc", 0.85),
    },
    "numbers": {
        "label": {"column": "minutes", "kind": "number"},
        "training": {"losses": ["l2"], "metric": "mae", "metrics": ["mae", "mse"]},
        "metrics": ["mae", "mse", "xauc", {"name": "grouped_xauc", "group": "session"}],
        "reported": {"mae", "mse", "xauc", "grouped_xauc", "l2"},
        "columns": ["prediction"],
        "good": ("xauc", 0.85),
    },
}  # fmt: skip


def write_config(folder: Path, task: dict, model: str = "deepfm") -> Path:
    raw = {
        "model_name": model,
        "device": "cpu",
        "num_class": task.get("num_class", 1),
        "output_dir": str(folder / "run"),
        "data": {
            "dataset_name": "tabular",
            "data_dir": str(folder),
            "store_dir": str(folder / "stores"),
            "split_strategy": "random",
            "table": {
                "files": "rows.csv",
                "label": "target",
                "labels": {"target": task.get("label", {"column": "click"})},
                "group_columns": ["session"],
                "fields": {"city": {"type": "sparse"}, "hour": {"type": "dense"}},
            },
        },
        "dnn": {"hidden_units": [16]},
        "training": {"epochs": 12, "batch_size": 64, "lr": 0.02} | task["training"],
        "evaluation": {"metrics": task["metrics"], "batch_size": 64},
    }
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", TASKS)
def test_train_evaluate_predict(name, tmp_path, capsys):
    task, table = TASKS[name], write_rows(tmp_path / "rows.csv")
    path = write_config(tmp_path, task)
    code, _, errors = run(capsys, "train", "--config", path)
    assert (code, errors) == (0, "")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    figure = "rmse" if "mse" in task["reported"] else "logloss"
    is_binary = task["columns"] == ["probability"]
    reported = task["reported"] | {figure, f"base_rate_{figure}"}
    assert set(metrics["test"]) == reported | (CALIBRATION if is_binary else set())
    for key, value in metrics["test"].items():
        assert isinstance(value, list if key.endswith("_interval") else int | float)
    metric, least = task["good"]
    assert metrics["test"][metric] > least

    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    watched = [entry[task["training"]["metric"]] for entry in history]
    checkpoint = load_checkpoint(tmp_path / "run" / "last.pt")
    best = max(watched) if task["training"]["metric"].endswith("auc") else min(watched)
    assert checkpoint.training["best_value"] == best

    saved = pyarrow.parquet.read_table(tmp_path / "run" / "predictions.parquet")
    assert saved.column_names == ["row", "label", *task["columns"], *(["logit"] * is_binary)]
    label = table[task.get("label", {"column": "click"})["column"]].take(saved["row"])
    np.testing.assert_allclose(saved["label"], label.cast(pa.float32()))
    values = np.column_stack([saved[column].to_numpy() for column in task["columns"]])
    if name == "numbers":
        errors = np.abs(values[:, 0] - saved["label"].to_numpy())
        assert errors.mean() == pytest.approx(metrics["test"]["mae"], rel=1e-6)
    else:
        assert ((values >= 0) & (values <= 1)).all()
    if name == "classes":
        np.testing.assert_allclose(values.sum(axis=1), 1)
        right = values.argmax(axis=1) == saved["label"].to_numpy()
        assert right.mean() == pytest.approx(metrics["test"]["accuracy"])

    checkpoint = tmp_path / "run" / "best_model.pt"
    code, output, _ = run(capsys, "evaluate", "--checkpoint", checkpoint)
    assert code == 0
    shown = dict(line.split() for line in output.splitlines() if len(line.split()) == 2)
    assert shown[metric] == f"{metrics['test'][metric]:.4f}"

    output = tmp_path / "scored.csv"
    arguments = ["--checkpoint", checkpoint, "--input", tmp_path / "rows.csv", "--output", output]
    code, _, errors = run(capsys, "predict", *arguments, "--columns", "city")
    assert (code, errors) == (0, "")
    served = pyarrow.csv.read_csv(output)
    assert served.column_names == ["city", *task["columns"]]
    served = np.column_stack([served[column].to_numpy() for column in task["columns"]])
    np.testing.assert_allclose(served[saved["row"].to_numpy()], values, rtol=1e-4, atol=1e-6)


@pytest.fixture(params=["numbers", "classes", "sessions"])
def trained(request, tmp_path):
    """(name, config, splits, model) of a run of one epoch."""
    write_rows(tmp_path / "rows.csv", 300)
    config = load_config(write_config(tmp_path, TASKS[request.param]), ["training.epochs=1"])
    experiment.train(config)
    model = load_checkpoint(tmp_path / "run" / "best_model.pt").build_model()
    return request.param, config, experiment.load_data(config), model


def test_logits_keep_their_shape_through_scoring(trained):
    name, _, data, model = trained
    classes = {"classes": (3,), "sessions": (2,)}.get(name, ())
    rows = len(data.train)
    for size in (1, 7, rows):
        logits = score(model, data.train.inputs, batch_size=size)
        assert logits.shape == (rows, *classes)
    assert score(model, data.train.inputs, batch_size=7, max_rows=10).shape == (10, *classes)
    assert score(model, data.train.inputs, batch_size=7, max_rows=0).shape == (0, *classes)
    predicted = model.predict(data.train[:5].inputs)
    assert predicted.shape == (5, 3) if name == "classes" else (5,)
    result = evaluate(model, data.train, batch_size=50)
    assert result.predicted.shape == (rows, *(classes if name == "classes" else ()))
    np.testing.assert_allclose(result.predicted[:5], predicted, rtol=1e-4, atol=1e-6)


def test_the_first_rows_are_evaluated_alone(trained):
    name, config, data, model = trained
    metric = config.training.metric
    part = evaluate(model, data.train, batch_size=20, max_rows=50)
    assert len(part.predicted) == 50
    watched = evaluate_metric(model, data.train, metric, batch_size=20, max_rows=50)
    assert watched == {key: part.metrics[key] for key in watched}
    assert set(watched) == set(part.metrics)
    whole = evaluate(model, data.train, batch_size=20)
    assert whole.metrics[metric] != part.metrics[metric]
    assert evaluate(model, data.train, batch_size=20, max_rows=10**6).metrics == whole.metrics
    if name == "numbers":
        label = data.train.label[:50].numpy()
        expected = np.abs(part.predicted - label).mean()
        assert part.metrics["mae"] == pytest.approx(expected)


def test_the_loss_of_sessions_is_a_mean_over_batches_weighted_by_rows(trained):
    name, config, data, model = trained
    if name != "sessions":
        return
    split, size = data.train, 64
    logits, (loss,) = score(model, split.inputs, batch_size=size), config.training.losses
    total = 0.0
    for start in range(0, len(split), size):
        rows = slice(start, start + size)
        parts = [split.label[rows].tolist(), split.group[rows, 0].tolist()]
        total += sum(reference.row_losses(loss.to_dict(), logits[rows].tolist(), *parts))
    found = evaluate(model, split, batch_size=size).metrics["jrc"]
    assert found == pytest.approx(total / len(split), rel=1e-9)


def test_sample_weights_do_not_weigh_in_evaluation(tmp_path):
    write_rows(tmp_path / "rows.csv", 300)
    path = write_config(tmp_path, TASKS["numbers"])
    config = load_config(path, ["training.epochs=1", "data.table.sample_weight=hour"])
    experiment.train(config)
    data = experiment.load_data(config)
    assert data.train.weight is not None
    model = load_checkpoint(tmp_path / "run" / "best_model.pt").build_model()
    metrics = evaluate(model, data.train, batch_size=50).metrics
    assert metrics["l2"] == pytest.approx(metrics["mse"], rel=1e-6)


def test_evaluation_may_ask_for_other_metrics(tmp_path, capsys):
    write_rows(tmp_path / "rows.csv", 300)
    path = write_config(tmp_path, TASKS["numbers"])
    config = load_config(path, ["training.epochs=1"])
    experiment.train(config)
    other = config.to_dict()
    other["evaluation"]["metrics"] = ["mse"]
    path.write_text(yaml.safe_dump(other))
    checkpoint = tmp_path / "run" / "best_model.pt"
    arguments = ["evaluate", "--checkpoint", checkpoint, "--config", path]
    code, output, errors = run(capsys, *arguments)
    assert code == 2
    assert "training.metric: unknown metric 'mae'" in errors
    other["training"]["metric"] = "mse"
    other["evaluation"]["metrics"] = ["mse", "mae", "auc"]
    path.write_text(yaml.safe_dump(other))
    code, output, errors = run(capsys, *arguments)
    assert code == 2
    other["training"]["metric"] = "mae"
    path.write_text(yaml.safe_dump(other))
    code, output, errors = run(capsys, *arguments)
    assert "auc needs a probability of class 1" in errors
    other["evaluation"]["metrics"] = ["mae"]
    path.write_text(yaml.safe_dump(other))
    code, output, errors = run(capsys, *arguments)
    assert (code, errors) == (0, "")
    shown = [line.split()[0] for line in output.splitlines()[-4:]]
    assert shown == ["mae", "l2", "rmse", "base_rate_rmse"]


def test_a_metric_that_does_not_exist_on_the_validation_rows_is_named(tmp_path, capsys):
    write_rows(tmp_path / "rows.csv", 300)
    task = TASKS["focal"]
    path = write_config(tmp_path, task)
    constant = "data.table.labels.target.threshold=2"
    code, _, errors = run(capsys, "train", "--config", path, "--override", constant)
    assert code == 2
    assert "training.metric: gauc does not exist on the" in errors


def test_compare_refuses_what_has_no_probability(tmp_path, capsys):
    write_rows(tmp_path / "rows.csv", 100)
    path = write_config(tmp_path, TASKS["numbers"])
    code, _, errors = run(capsys, "compare", path)
    assert code == 2
    assert "task: compare tabulates probabilities of one class only" in errors


def test_a_class_outside_the_declared_ones_names_its_line(tmp_path, capsys):
    table = write_rows(tmp_path / "rows.csv", 300)
    line = table["kind"].to_pylist().index("2") + 2
    path = write_config(tmp_path, TASKS["classes"] | {"num_class": 2})
    code, _, errors = run(
        capsys, "train", "--config", path, "--override", "evaluation.metrics=[accuracy]",
        "--override", "training.metric=accuracy",
    )  # fmt: skip
    assert code == 2
    assert f"rows.csv:{line}: column kind: expected a class from 0 to 1, found '2'" in errors


def test_prepare_checks_the_losses_first(tmp_path, capsys):
    write_rows(tmp_path / "rows.csv", 100)
    path = write_config(tmp_path, TASKS["classes"] | {"num_class": 1})
    code, _, errors = run(capsys, "prepare", "--config", path)
    assert code == 2
    assert "softmax_cross_entropy needs more than 1, found 1" in errors
    assert not (tmp_path / "stores").exists()


def test_rows_held_in_memory_have_groups_and_their_negatives_too(tmp_path):
    """leave_one_out: a sampled negative stays in the groups of the row it is a copy of."""
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.permutation(20 * 15)[:200], 15)
    table = pa.table(
        {
            "user": user.astype(str),
            "item": item.astype(str),
            "day": rng.integers(0, 5, 200).astype(str),
            "time": np.arange(200).astype(str),
            "click": rng.integers(0, 2, 200).astype(str),
        }
    )
    with TableWriter(tmp_path / "rows.csv") as writer:
        writer.write(table)
    fields = {
        "user": {"type": "sparse", "group": "user"},
        "item": {"type": "sparse", "group": "item"},
    }
    raw = {
        "device": "cpu",
        "output_dir": str(tmp_path / "run"),
        "data": {
            "dataset_name": "tabular",
            "data_dir": str(tmp_path),
            "num_neg_eval": 5,
            "num_neg_train": 2,
            "table": {
                "files": "rows.csv",
                "label": "click",
                "user_field": "user",
                "item_field": "item",
                "time_column": "time",
                "group_columns": ["day", "user"],
                "fields": fields,
            },
        },
        "dnn": {"hidden_units": [4]},
        "training": {"epochs": 1, "batch_size": 50, "metric": "gauc[day]"},
        "evaluation": {"metrics": [{"name": "gauc", "group": g} for g in ("user", "day")]},
    }
    config = config_from_dict(raw)
    data = experiment.load_data(config)
    expected = group_ids(table, ["day", "user"])
    for part in (data.train, data.valid, data.test):
        np.testing.assert_array_equal(part.group, expected[part.row])
    of_user = {}
    for row in data.train[:].inputs.sparse[:, 0].tolist():
        of_user[row] = data.train.group[data.train.inputs.sparse[:, 0] == row, 1].unique().item()
    batches = list(data.train.epoch(50, seed=0, epoch=0).batches())
    assert sum(int((batch.label == 0).sum()) for batch in batches) == 2 * len(data.train)
    for batch in batches:
        users = [of_user[row] for row in batch.inputs.sparse[:, 0].tolist()]
        assert batch.group[:, 1].tolist() == users
    with pytest.raises(ConfigError, match=r"gauc\[user\] does not exist on the 20 rows"):
        # each user has one row there
        experiment.train(replace(config, training=replace(config.training, metric="gauc[user]")))
    metrics = experiment.train(config, overwrite=True)["test"]
    assert metrics["gauc[user]"] is None
    assert metrics["gauc_groups[user]"] == 0
    assert {"gauc[user]", "gauc_groups[user]", "gauc[day]", "hr@10"} <= set(metrics)


def test_arrays_may_have_groups(tmp_path):
    city = FieldSchema("city", "sparse", vocabulary_size=4)
    schema = DatasetSchema(fields={"city": city}, label_field="y", group_columns=("day",))
    arrays = {"city": [1, 2, 3]}
    rows = TabularDataset.from_arrays(schema, arrays, [0, 1, 1], group=[[5], [5], [6]])
    assert rows[1:].group.tolist() == [[5], [6]]
    with pytest.raises(DataError, match=r"expected groups \(3, 1\) \(N, G\), got \(3,\)"):
        TabularDataset.from_arrays(schema, arrays, [0, 1, 1], group=[5, 5, 6])


def test_what_is_no_probability_ranks_nothing(tmp_path, tiny_config):
    """Neither by Python, where no setting is checked, nor by a checkpoint."""
    config = load_config(tiny_config(training__epochs=1))
    experiment.train(config)
    path = tmp_path / "run" / "best_model.pt"
    trained = load_checkpoint(path)
    training = replace(config.training, losses=("l2",))
    replace(trained, config=replace(config, training=training)).save(path)
    with pytest.raises(DataError, match="it does not predict one probability"):
        Predictor(path).recommend(1)
