"""Embeddings of numbers from a file to a prediction: stores, checkpoints, warm starts."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pytest
import yaml

from deepfm import experiment, preparing
from deepfm.checkpoint import load_checkpoint
from deepfm.config import config_from_dict, load_config
from deepfm.data.declared import declared_schema
from deepfm.errors import CheckpointError, ConfigError
from deepfm.prediction import Predictor

DENSE = {
    "amount": {
        "type": "dense", "scale": "log1p", "clip": 0.01, "missing": "indicator",
        "dense_embedding": "piecewise", "bins": 8, "embedding_dim": 4,
    },
    "when": {
        "type": "dense", "scale": "standard", "dense_embedding": "periodic", "frequencies": 4,
        "frequency_scale": 0.3, "embedding_dim": 4,
    },
}  # fmt: skip


def write_rows(path, rows=400, seed=0):
    rng = np.random.default_rng(seed)
    amount, when = rng.lognormal(3, 2, rows), rng.random(rows)
    label = ((amount > 20) ^ (rng.random(rows) < 0.1)).astype(int)
    amount = [None if k % 10 == 0 else x for k, x in enumerate(amount)]
    pc.write_csv(pa.table({"amount": amount, "when": when, "click": label}), path)


def write_config(folder, fields=DENSE, **changes):
    config = {
        "device": "cpu",
        "output_dir": str(folder / "run"),
        "data": {
            "dataset_name": "tabular",
            "data_dir": str(folder),
            "store_dir": str(folder / "stores"),
            "split_strategy": "random",
            "table": {"files": ["rows.csv"], "label": "click", "fields": fields},
        },
        "dnn": {"hidden_units": [8]},
        "training": {"epochs": 2, "batch_size": 64},
    } | changes
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_run_predicts_resumes_and_starts_another(tmp_path):
    write_rows(tmp_path / "rows.csv")
    path = write_config(tmp_path)
    experiment.train(load_config(path))
    best = tmp_path / "run" / "best_model.pt"
    checkpoint = load_checkpoint(best)
    edges = checkpoint.encoders.schema.fields["amount"].edges
    assert len(edges) == 9
    assert list(edges) == sorted(edges)
    row = pa.table({"amount": [7.0, None], "when": [0.5, 0.1]})
    model = checkpoint.build_model()
    inputs = checkpoint.encoders.encode(row)
    expected = model.predict(inputs).tolist()
    assert Predictor(best).predict(row).tolist() == pytest.approx(expected)

    experiment.train(load_config(path, ["training.epochs=3"]), resume=True)
    write_rows(tmp_path / "rows.csv", seed=1)
    grown = load_config(path, [f"output_dir={tmp_path / 'grown'}"])
    experiment.train(grown, init_from=best)
    again = load_checkpoint(tmp_path / "grown" / "best_model.pt")
    assert again.encoders.schema.fields["amount"].edges == edges  # weights belong to bins
    other = load_config(path, [f"output_dir={tmp_path / 'x'}", "data.table.fields.amount.bins=4"])
    with pytest.raises(CheckpointError, match=r"field amount: bins \(8 -> 4\)"):
        experiment.train(other, init_from=best)


def test_a_store_belongs_to_the_arithmetic_of_its_numbers(tmp_path):
    """What only the model does with a number is no reason to encode it anew."""
    write_rows(tmp_path / "rows.csv")

    def store(**settings):
        fields = DENSE | {"amount": DENSE["amount"] | settings}
        fields["amount"] = {k: v for k, v in fields["amount"].items() if v is not None}
        return preparing.prepare_data(load_config(write_config(tmp_path, fields)))

    first = store()
    assert store(embedding_dim=7) == first
    assert len({first, store(bins=7), store(clip=0.02), store(scale="plain_log1p")}) == 4
    linear = store(dense_embedding="linear", bins=None)
    assert linear == store(dense_embedding="none", bins=None, embedding_dim=None)


def test_the_embedding_of_all_dense_fields_that_say_none(tmp_path):
    fields = {
        "a": {"type": "dense"},
        "b": {"type": "dense", "dense_embedding": "none"},
        "c": {"type": "dense", "dense_embedding": "periodic"},
        "d": {"type": "sparse"},
    }
    feature = {"dense_embedding": "piecewise", "embedding_dim": 5}
    config = load_config(write_config(tmp_path, fields, feature=feature))
    found = declared_schema(config).fields
    kinds = {name: field.dense_embedding for name, field in found.items()}
    assert kinds == {"a": "piecewise", "b": "none", "c": "periodic", "d": "none"}
    assert {name: field.embedding_dim for name, field in found.items() if field.is_embedded} == {
        "a": 5, "c": 5, "d": 5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bins": 4}, "bins means nothing without dense_embedding: piecewise"),
        ({"frequencies": 4, "dense_embedding": "piecewise"}, "frequencies means nothing without "),
        ({"dense_embedding": "peicewise"}, "found 'peicewise'"),
        ({"dense_embedding": "piecewise", "bins": 0}, "bins: expected at least 1, found 0"),
        ({"clip": 0.5}, "clip: expected below 0.5, found 0.5"),
        ({"type": "sparse", "clip": 0.1}, "clip means nothing for a sparse field"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    field = {"type": "dense"} | settings
    table = {"files": ["x.csv"], "label": "y", "fields": {"a": field}}
    data = {"dataset_name": "tabular", "split_strategy": "random", "table": table}
    with pytest.raises(ConfigError) as caught:
        declared_schema(config_from_dict({"data": data}))
    assert message in str(caught.value)
    assert "data.table.fields.a" in str(caught.value)


def test_training_starts_at_the_base_rate_unless_told_otherwise(tmp_path, caplog):
    """What a run that learns nothing ends with is where it started."""
    write_rows(tmp_path / "rows.csv")
    caplog.set_level("INFO", "deepfm")
    path = write_config(tmp_path)

    def bias(*overrides, **how):
        asleep = ["training.lr=1e-30", "training.epochs=1", *overrides]
        experiment.train(load_config(path, asleep), **how)
        return load_checkpoint(tmp_path / "run" / "last.pt").model["bias"].item()

    label = experiment.load_data(load_config(path)).train.label
    positives = label.sum().item()
    expected = math.log(positives / (len(label) - positives))
    assert bias() == pytest.approx(expected, abs=1e-5)
    assert f"the output bias starts at {expected:.4f}" in caplog.text
    assert bias("training.initial_bias=zero", overwrite=True) == pytest.approx(0, abs=1e-5)
    zero = tmp_path / "run" / "last.pt"
    kept = tmp_path / "zero.pt"
    kept.write_bytes(zero.read_bytes())
    assert bias(overwrite=True, init_from=kept) == pytest.approx(0, abs=1e-5)
    caplog.clear()
    bias("training.epochs=2", resume=True)
    assert "resumed" in caplog.text
    assert "the output bias starts" not in caplog.text
