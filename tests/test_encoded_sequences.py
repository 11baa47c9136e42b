"""Encoders of sequences, from raw rows to predictions: of built histories, of declared tables."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from deepfm import experiment
from deepfm.config import config_from_dict, load_config
from deepfm.errors import DataError
from deepfm.evaluation.scoring import score_tasks
from deepfm.prediction import Predictor

ENCODERS = {
    "din": [{"name": "din", "positions": True, "group": "fields"}],
    "behind": ["din", {"name": "multi_window_din", "windows": [2, 3]}, "self_attention"],
    "norm": [{"name": "din", "norm": "batch", "softmax": True}],
}


@pytest.mark.parametrize("encoders", ENCODERS)
def test_a_history_is_encoded_for_each_candidate(tiny_config, encoders):
    path = tiny_config(
        data__history={"max_length": 5, "tables": "shared"},
        feature__encoders=ENCODERS[encoders],
    )
    config = load_config(path)
    metrics = experiment.train(config)
    assert 0 < metrics["test"]["ndcg@10"] <= 1
    predictor = Predictor(f"{config.output_dir}/best_model.pt")
    assert predictor.model.pair_branches() is None
    data = experiment.load_data(config)
    logits = score_tasks(predictor.model, data.test.inputs, batch_size=7)
    at_once = score_tasks(predictor.model, data.test.inputs, batch_size=500)
    np.testing.assert_allclose(logits[""], at_once[""], atol=1e-5)
    user = data.events.tables.interactions["user"][0].as_py()
    found = predictor.recommend(user, top=4)
    assert len(found) == 4
    assert predictor.recommend(user, top=4, history=[1, 2]) != found


@pytest.mark.parametrize("loss", ["sampled_softmax", "bpr"])
def test_pairs_are_compared_as_whole_rows(tiny_config, loss):
    encoder = {"name": "din", "activation": "relu", "group": "fields"}
    path = tiny_config(
        model_name="fm",
        data__history={"max_length": 5},
        data__num_neg_train=3,
        feature__encoders=[encoder],
        training__losses=loss,
    )
    assert 0 < experiment.train(load_config(path))["valid"]["ndcg@10"] <= 1


TABLE = {
    "item": {"type": "sparse"},
    "level": {"type": "sparse", "num_buckets": 5},
    "items": {"type": "sequence", "separator": "|", "sequence": "clicks", "embedding_name": "item"},
    "levels": {"type": "sequence", "separator": "|", "sequence": "clicks", "num_buckets": 5},
    "prices": {"type": "sequence", "separator": "|", "sequence": "clicks", "numbers": True},
    "bins": {
        "type": "sequence", "separator": "|", "sequence": "clicks", "column": "prices",
        "boundaries": [-0.5, 0.5],
    },
}  # fmt: skip


def rows(count: int, seed: int = 0) -> dict[str, list]:
    """Rows whose label is whether the item is among the clicked ones."""
    rng = np.random.default_rng(seed)
    found = {"item": [], "level": [], "items": [], "levels": [], "prices": [], "label": []}
    for _ in range(count):
        length = int(rng.integers(0, 6))
        items = rng.integers(0, 8, length).tolist()
        item = int(rng.integers(0, 8))
        found["item"].append(item)
        found["level"].append(int(rng.integers(0, 5)))
        found["items"].append("|".join(map(str, items)))
        found["levels"].append("|".join(map(str, rng.integers(0, 5, length))))
        found["prices"].append("|".join(f"{x:.3f}" for x in rng.normal(size=length)))
        found["label"].append(int(item in items))
    return found


def config_of(folder, *, max_length=0, model_name="multi_tower_din", **changes):
    fields = {
        name: field | ({"max_length": max_length} if field["type"] == "sequence" else {})
        for name, field in TABLE.items()
    }
    sequence = ["items", "levels", "prices", "bins"]
    return config_from_dict(
        {
            "model_name": model_name,
            "output_dir": str(folder / "run"),
            "device": "cpu",
            "data": {
                "dataset_name": "tabular",
                "data_dir": str(folder),
                "store_dir": str(folder / "stores"),
                "split_strategy": "random",
                "table": {"files": "rows.csv", "label": "label", "fields": fields},
            },
            "feature": {
                "embedding_dim": 4,
                "sequences": {"clicks": {"query": ["item", "level"], "sequence": sequence}},
            },
            "dnn": {"hidden_units": [8], "norm": "none"},
            "training": {"epochs": 2, "batch_size": 64, "lr": 0.02},
        }
        | changes
    )


@pytest.mark.parametrize("max_length", [0, 4])
def test_a_declared_table_from_file_to_prediction(tmp_path, max_length):
    pyarrow.csv.write_csv(pa.table(rows(600)), tmp_path / "rows.csv")
    config = config_of(tmp_path, max_length=max_length)
    metrics = experiment.train(config)
    assert 0 < metrics["test"]["auc"] <= 1
    predictor = Predictor(f"{config.output_dir}/best_model.pt")
    more = rows(1500, seed=1)
    whole = predictor.predict(pa.table(more))  # through Arrow
    few = [
        predictor.predict({name: values[start : start + 30] for name, values in more.items()})
        for start in range(0, 120, 30)
    ]
    np.testing.assert_allclose(np.concatenate(few), whole[:120], atol=1e-6)


def test_rows_that_differ_in_length_are_refused_wherever_they_are_encoded(tmp_path):
    given = rows(200)
    pyarrow.csv.write_csv(pa.table(given), tmp_path / "rows.csv")
    config = config_of(tmp_path)
    experiment.train(config)
    predictor = Predictor(f"{config.output_dir}/best_model.pt")
    one = {name: values[:1] for name, values in given.items()} | {"levels": ["1|2|3|4|1|1|1"]}
    message = "field levels, column levels: expected .* elements, as many as field items"
    for table in (one, pa.table(one)):
        with pytest.raises(DataError, match=message):
            predictor.predict(table)
    given["prices"][7] = "1|1|1|1|1|1|1"
    pyarrow.csv.write_csv(pa.table(given), tmp_path / "rows.csv")
    place = re.escape(f"{tmp_path / 'rows.csv'}:9: field prices, column prices: expected ")
    with pytest.raises(DataError, match=place):
        experiment.train(config_of(tmp_path, output_dir=str(tmp_path / "other")))
