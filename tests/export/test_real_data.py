"""Exports of models of MovieLens, Frappe and Adult: raw rows to probabilities without torch."""

import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml

from deepfm import runtime
from deepfm.cli import main
from deepfm.prediction import Predictor

ROOT = Path(__file__).parents[2]
FRAPPE = ROOT.parent / "shared" / "data" / "frappe"
pytestmark = pytest.mark.slow  # `test_kinds` and `test_ranking` are shorter ones of the kind


def exported(folder: Path, config: dict) -> tuple[Predictor, runtime.Runtime]:
    """Both engines of a model that was trained for a few steps."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "--config", str(folder / "config.yaml")]) == 0
    path = f"{config['output_dir']}/best_model.pt"
    assert main(["export", "--checkpoint", path, "--output", str(folder / "out")]) == 0
    return Predictor(path), runtime.load(folder / "out", threads=1)


def test_movielens_with_histories(movielens_dir, tmp_path):
    config = {
        "output_dir": str(tmp_path / "run"),
        "device": "cpu",
        "data": {
            "data_dir": str(movielens_dir),
            "auto_download": False,
            "num_neg_eval": 20,
            "history": {"max_length": 10},
        },
        "feature": {"embedding_dim": 4, "fm_embedding_dim": 4, "init": "normal(0.5)"},
        "dnn": {"hidden_units": [8]},
        "training": {"epochs": 1, "max_steps": 3, "batch_size": 2048},
    }
    predictor, served = exported(tmp_path, config)
    rng = np.random.default_rng(0)
    for count in (1, 50, 6000):
        rows = {
            "user_id": rng.integers(1, 960, count),
            "movie_id": rng.integers(1, 1690, count),
            "timestamp": rng.integers(874_724_710, 893_286_638, count),
        }
        expected = predictor.predict(pa.table(rows))
        np.testing.assert_allclose(served.predict(rows), expected, rtol=0, atol=1e-6)
    requests = [{}, {"history": [50, 172, (1, 880_000_000)]}, {"time": 880_000_000}]
    for request in requests:
        for user in (1, 405, 5000):
            expected, found = (e.recommend(user, top=20, **request) for e in (predictor, served))
            assert [one.title for one in found] == [one.title for one in expected]
            values = [[one.probability for one in listed] for listed in (found, expected)]
            np.testing.assert_allclose(*values, rtol=0, atol=1e-6)


@pytest.mark.skipif(not FRAPPE.is_dir(), reason="the shared data is not here")
def test_frappe_and_the_example(tmp_path):
    text = (ROOT / "configs" / "deepfm_frappe.yaml").read_text()
    config = yaml.safe_load(text) | {"output_dir": str(tmp_path / "run"), "device": "cpu"}
    config["data"] |= {"data_dir": str(FRAPPE), "store_dir": str(tmp_path / "stores")}
    config["training"] |= {"epochs": 1, "max_steps": 5}
    predictor, served = exported(tmp_path, config)
    rows = pyarrow.parquet.read_table(FRAPPE / "valid.parquet").slice(0, 10_000)
    expected = predictor.predict(rows)
    np.testing.assert_allclose(served.predict(rows), expected, rtol=0, atol=1e-6)
    example = runpy.run_path(str(ROOT / "examples" / "frappe_onnxruntime.py"))
    texts = [{name: str(value) for name, value in row.items()} for row in rows.to_pylist()]
    np.testing.assert_allclose(
        example["Scorer"](tmp_path / "out").predict(texts), expected, rtol=0, atol=1e-6
    )


def test_adult(tmp_path):
    text = (ROOT / "configs" / "deepfm_adult.yaml").read_text()
    config = yaml.safe_load(text) | {"output_dir": str(tmp_path / "run"), "device": "cpu"}
    folder = ROOT / "data" / "adult"  # fetched there once, as the config says
    config["data"] |= {"data_dir": str(folder), "store_dir": str(tmp_path / "stores")}
    config["training"] |= {"epochs": 1, "max_steps": 20}
    predictor, served = exported(tmp_path, config)
    rows = pyarrow.parquet.read_table(folder / "adult.parquet")
    for count in (1, 7, 30_000):
        some = rows.slice(0, count)
        expected = predictor.predict(some)
        assert count == 1 or expected.std() > 1e-3
        np.testing.assert_allclose(served.predict(some), expected, rtol=0, atol=1e-6)
