"""Numbers as labels, standardised for the loss and restored in every output."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
import yaml

from deepfm import experiment, held_out, preparing
from deepfm.checkpoint import load_checkpoint
from deepfm.config import config_from_dict
from deepfm.data.labels import mean_and_deviation
from deepfm.data.schema import DatasetSchema, FieldSchema, LabelScale
from deepfm.errors import ConfigError
from deepfm.evaluation.table_references import reference_metrics, table_references
from deepfm.objectives import Task
from deepfm.objectives.losses import L2
from deepfm.prediction import Predictor

MEAN, DEVIATION = 2_000.0, 500.0


def write_rows(path: Path, label: str = "price", *, seed: int = 0) -> np.ndarray:
    """Rows whose price, far from 0, follows from the city; a weight beside them."""
    rng = np.random.default_rng(seed)
    city = rng.integers(0, 8, 600)
    price = np.round(MEAN + DEVIATION * (city - 3.5) / 2 + rng.normal(0, 20, 600), 2)
    columns = {"city": city, label: price, "weight": rng.integers(0, 3, 600)}
    pa.csv.write_csv(pa.table(columns), path)
    return price


def config(folder: Path, *, standardize: bool = True, **changes) -> dict:
    table = {
        "files": "rows.csv",
        "label": "price",
        "labels": {"price": {"column": "price", "kind": "number", "standardize": standardize}},
        "fields": {"city": {"type": "sparse", "embedding_dim": 4}},
    }
    return {
        "device": "cpu",
        "output_dir": str(folder / "run"),
        "data": {
            "dataset_name": "tabular",
            "data_dir": str(folder),
            "store_dir": str(folder / "stores"),
            "split_strategy": "random",
            "table": table | changes.pop("table", {}),
        },
        "dnn": {"hidden_units": [8]},
        "training": {"epochs": 3, "batch_size": 64, "lr": 0.02, "losses": ["l2"], "metric": "rmse"}
        | changes,
        "evaluation": {"metrics": ["rmse", "mse", "mae"]},
    }


def train(raw: dict, **options) -> dict:
    return experiment.train(config_from_dict(raw), **options)


def test_mean_and_deviation_are_those_of_the_weighted_rows():
    rng = np.random.default_rng(1)
    label, weight = rng.normal(1e6, 3, 5_000).astype(np.float32), rng.integers(0, 4, 5_000)
    repeated = np.repeat(label.astype(np.float64), weight)
    assert mean_and_deviation(label, weight) == pytest.approx((repeated.mean(), repeated.std()))
    assert mean_and_deviation(np.full(9, 7.0), None) == (7.0, 1.0)


def test_trains_as_on_labels_that_were_standardised_beforehand(tmp_path):
    (tmp_path / "by_hand").mkdir()
    price = write_rows(tmp_path / "rows.csv")
    metrics = train(config(tmp_path))
    checkpoint = load_checkpoint(tmp_path / "run" / "best_model.pt")

    data = experiment.load_data(config_from_dict(config(tmp_path)))
    trained = data.train.label.numpy().astype(np.float64)
    scale = checkpoint.encoders.schema.label_scales["price"]
    assert scale == pytest.approx((trained.mean(), trained.std()), rel=1e-9)

    rows = pa.csv.read_csv(tmp_path / "rows.csv")
    by_hand = rows.set_column(1, "price", pa.array((price - trained.mean()) / trained.std()))
    pa.csv.write_csv(by_hand, tmp_path / "by_hand" / "rows.csv")
    other = train(config(tmp_path / "by_hand", standardize=False))
    found, expected = (
        pyarrow.parquet.read_table(folder / "run" / "predictions.parquet")
        for folder in (tmp_path, tmp_path / "by_hand")
    )
    restored = expected["prediction"].to_numpy() * trained.std() + trained.mean()
    np.testing.assert_allclose(found["prediction"], restored, rtol=1e-4)
    assert metrics["test"]["rmse"] == pytest.approx(other["test"]["rmse"] * trained.std(), rel=1e-3)


def test_labels_predictions_and_metrics_are_in_units_of_the_label(tmp_path):
    write_rows(tmp_path / "rows.csv")
    metrics = train(config(tmp_path))
    rows = pa.csv.read_csv(tmp_path / "rows.csv")
    written = pyarrow.parquet.read_table(tmp_path / "run" / "predictions.parquet")
    label = rows["price"].to_numpy()[written["row"].to_numpy()]
    np.testing.assert_allclose(written["label"], label, rtol=1e-6)
    error = written["prediction"].to_numpy() - label
    found = metrics["test"]
    assert found["mse"] == pytest.approx(np.square(error).mean(), rel=1e-4)
    assert found["l2"] == pytest.approx(np.square(error).mean(), rel=1e-4)
    assert found["rmse"] == pytest.approx(np.sqrt(np.square(error).mean()), rel=1e-4)
    assert found["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-4)
    assert found["rmse"] < 0.5 * label.std()

    best = tmp_path / "run" / "best_model.pt"
    assert held_out.evaluate_checkpoint(best)["test"] == pytest.approx(found)
    predicted = Predictor(best).predict(rows)[written["row"].to_numpy()]
    np.testing.assert_allclose(predicted, written["prediction"], rtol=1e-6)
    checkpoint = load_checkpoint(best)
    model, inputs = checkpoint.build_model(), checkpoint.encoders.encode(rows)
    with torch.no_grad():
        y = model.outputs(inputs)["y"]
    np.testing.assert_allclose(model.predict(inputs), y, rtol=1e-6)
    np.testing.assert_allclose(y[written["row"].to_numpy()], predicted.astype("f4"), rtol=1e-4)


def test_the_base_rate_and_simple_methods_are_in_units_of_the_label(tmp_path):
    write_rows(tmp_path / "rows.csv")
    found = train(config(tmp_path))["test"]
    settings = config_from_dict(config(tmp_path))
    data = experiment.load_data(settings)
    label, mean = data.test.label.double(), data.train.label.double().mean()
    expected = float((label - mean).square().mean().sqrt())
    assert found["base_rate_rmse"] == pytest.approx(expected)
    assert found["rmse"] < 0.5 * found["base_rate_rmse"]
    (task,) = settings.task_list()
    references = table_references(data.train, data.valid, data.test, task, seed=0)
    rmse = {
        name: reference_metrics(task, data.test, reference.test)["rmse"]
        for name, reference in references.items()
    }
    assert rmse["base_rate"] == pytest.approx(expected)
    assert 15 < rmse["linear"] < 30  # the noise has a deviation of 20
    assert 15 < rmse["boosting"] < 30


def test_sample_weights_count_in_the_mean(tmp_path):
    write_rows(tmp_path / "rows.csv")
    raw = config(tmp_path, table={"sample_weight": "weight"})
    data = experiment.load_data(config_from_dict(raw))
    label, weight = data.train.label.double(), data.train.weight.double()
    mean = float((label * weight).sum() / weight.sum())
    assert data.encoders.schema.label_scales["price"].mean == pytest.approx(mean, rel=1e-9)


def test_a_resumed_run_goes_on_with_its_scale(tmp_path):
    write_rows(tmp_path / "rows.csv")
    whole = train(config(tmp_path))
    raw = config(tmp_path) | {"output_dir": str(tmp_path / "halves")}
    train(raw | {"training": raw["training"] | {"epochs": 1}})
    assert train(raw, resume=True) == whole


def test_a_warm_start_keeps_the_scale_of_the_model_it_starts_from(tmp_path):
    write_rows(tmp_path / "rows.csv")
    train(config(tmp_path))
    best = tmp_path / "run" / "best_model.pt"
    before = load_checkpoint(best).encoders.schema.label_scales
    write_rows(tmp_path / "rows.csv", seed=1)
    raw = config(tmp_path) | {"output_dir": str(tmp_path / "warm")}
    train(raw, init_from=best)
    warm = load_checkpoint(tmp_path / "warm" / "best_model.pt")
    assert warm.encoders.schema.label_scales == before

    raw = config(tmp_path, standardize=False) | {"output_dir": str(tmp_path / "other")}
    with pytest.raises(ConfigError, match=r"labels\.price\.standardize.*--init-from"):
        train(raw, init_from=best)


def test_one_store_serves_both(tmp_path):
    write_rows(tmp_path / "rows.csv")
    paths = {
        preparing.prepare_data(config_from_dict(config(tmp_path, standardize=standardize)))
        for standardize in (False, True)
    }
    assert len(paths) == 1


def test_each_of_several_labels_has_its_own_scale():
    schema = DatasetSchema(
        fields={"a": FieldSchema("a", "sparse", vocabulary_size=3)},
        label_field="x",
        label_columns=("x", "y"),
        label_scales={"y": LabelScale(10.0, 2.0)},
    )
    assert DatasetSchema.from_dict(schema.to_dict()) == schema
    x, y = (Task(name=n, label=n, objectives=(L2(),)).fitted(schema) for n in ("x", "y"))
    logits = {"x": torch.tensor([1.5]), "y": torch.tensor([1.5])}
    assert x.prediction(logits).tolist() == [1.5]
    assert y.prediction(logits).tolist() == [13.0]


@pytest.mark.parametrize("kind", ["binary", "class"])
def test_only_numbers_are_standardised(tmp_path, kind):
    label = {"column": "price", "kind": kind, "standardize": True}
    with pytest.raises(ConfigError, match=f"standardize means nothing for a label of kind {kind}"):
        config_from_dict(config(tmp_path, table={"labels": {"price": label}}))


def test_a_run_of_the_yaml_says_what_it_was_trained_on(tmp_path):
    write_rows(tmp_path / "rows.csv")
    train(config(tmp_path))
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["data"]["table"]["labels"]["price"]["standardize"] is True
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["rmse"] > 0
