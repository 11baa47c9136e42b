"""Exports of fields of every kind, of histories and of several tasks, read without torch."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from deepfm import runtime
from deepfm.cli import main
from deepfm.data.encoding.words import WordIds
from deepfm.data.history_fields import history_fields
from deepfm.data.labels import group_ids
from deepfm.data.last_events import LastEvents
from deepfm.data.options import HistoryConfig
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.errors import DataError
from deepfm.evaluation.calibration import Isotonic, Temperature
from deepfm.export.graphs import calibrated
from deepfm.prediction import Predictor
from tests import untrained

SPARSE, DENSE, SEQUENCE = FeatureType.SPARSE, FeatureType.DENSE, FeatureType.SEQUENCE
FIELDS = (
    FieldSchema("word", SPARSE, min_count=2, embedding_dim=4),
    FieldSchema("number", SPARSE, column="whole", embedding_dim=3),
    FieldSchema("hashed", SPARSE, column="word", hash_buckets=7, hash_function="murmur64a"),
    FieldSchema("farm", SPARSE, column="word", hash_buckets=7, hash_function="farm64"),
    FieldSchema("declared", SPARSE, column="word", vocabulary=WordIds.of({"w1": 0, "w2": 3}),
                padding_idx=None, oov_id=1),
    FieldSchema("own", SPARSE, column="whole", num_buckets=30, out_of_range="zero",
                padding_idx=None),
    FieldSchema("bounds", SPARSE, column="real", boundaries=(-0.5, 0.5), padding_idx=None),
    FieldSchema("quantile", SPARSE, column="real", quantiles=4, bad_values="unknown"),
    FieldSchema("bucket", SPARSE, column="whole", transform="bucket(3, 9)"),
    FieldSchema("prefix", SPARSE, column="word", transform="prefix(1)"),
    FieldSchema("hour", SPARSE, column="at", transform="hour"),
    FieldSchema("cross", SPARSE, columns=("word", "whole"), embedding_dim=2),
    FieldSchema("known", SPARSE, column="gap", transform="is_missing"),
    FieldSchema("size", DENSE, column="real", bad_values="drop"),
    FieldSchema("log", DENSE, column="gap", scale="log1p", missing="mean"),
    FieldSchema("standard", DENSE, column="real", scale="standard", clip=0.05),
    FieldSchema("gap", DENSE, missing="indicator", embedding_dim=4, dense_embedding="linear"),
    FieldSchema("vector", DENSE, separator=" ", value_dim=3, scale="none"),
    FieldSchema("piece", DENSE, column="real", dense_embedding="piecewise", bins=4),
    FieldSchema("wave", DENSE, column="real", dense_embedding="periodic", frequencies=3),
    FieldSchema("tags", SEQUENCE, max_length=3, keep="last"),
    FieldSchema("uncut", SEQUENCE, column="text", transform="split(|)", combiner="max"),
    FieldSchema("items", SEQUENCE, column="tags", hash_buckets=5, combiner="position",
                max_length=4),
)  # fmt: skip


# What a config of tasks needs, and a checkpoint does not read.
TABLE = {
    "dataset_name": "tabular",
    "split_strategy": "random",
    "table": {
        "files": "rows.csv",
        "labels": {name: {"column": name} for name in ("click", "kind", "amount")},
        "fields": {"word": {"type": "sparse"}},
    },
}
KNOTS = np.array([-1.0, -0.2, 0.0, 0.1, 0.7])
STEPS = Isotonic(split="valid", rows=9, knots=KNOTS, values=np.array([-3.0, -1.0, -1.0, 0.5, 2.0]))


def table(count: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    lists = [[f"t{k}" for k in rng.integers(0, 9, rng.integers(0, 6))] for _ in range(count)]
    gap = np.where(rng.random(count) < 0.3, np.nan, rng.random(count) * 9)
    return pa.table(
        {
            "word": [f"w{k}" if k else None for k in rng.integers(0, 12, count)],
            "whole": rng.integers(0, 40, count),
            "real": rng.normal(size=count),
            "at": [f"2024-05-{k:02} {k % 24:02}:30:00" for k in rng.integers(1, 30, count)],
            "gap": pa.array(gap, from_pandas=True),
            "vector": [" ".join(map(str, one.round(3))) for one in rng.random((count, 3))],
            "tags": lists,
            "text": ["|".join(one) for one in lists[::-1]],
        }
    )


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory):
    """An exported model with a field of every kind, and its checkpoint."""
    folder = tmp_path_factory.mktemp("kinds")
    schema = DatasetSchema(fields={f.name: f for f in FIELDS}, label_field="y")
    found = untrained.checkpoint(schema, table(500), feature={"unequal_dims": "project"})
    found.save(folder / "model.pt")
    assert main(["export", "--checkpoint", f"{folder}/model.pt", "--output", f"{folder}/out"]) == 0
    return folder


def test_fields_of_every_kind_are_read_alike(every_kind):
    predictor = Predictor(every_kind / "model.pt")
    served = runtime.load(every_kind / "out", threads=1)
    assert served.schema == predictor.schema
    for count in (1, 7, 3000):  # by dictionaries, and by Arrow
        given = table(count, seed=count)
        expected, found = predictor.predict(given), served.predict(given)
        assert np.ptp(expected) > 0.01 or count == 1
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    bad = {**table(1).to_pydict(), "at": ["never"]}
    for engine in (predictor, served):
        with pytest.raises(DataError, match="never"):
            engine.predict(bad)


WITHOUT_TORCH = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"{{name}} is not to be imported", name=name)
sys.meta_path.insert(0, Refused())
import pyarrow.parquet
from deepfm import runtime
served = runtime.load({output!r}, threads=1)
rows = pyarrow.parquet.read_table({rows!r})
print(*map(float.hex, served.predict(rows).tolist()))
print(*map(float.hex, served.predict(rows.slice(0, 5).to_pylist()).tolist()))
"""
# Whatever the package needs beside NumPy, pyarrow, xxhash and ONNX Runtime.
REFUSED = ("torch", "yaml", "scipy", "sklearn", "pandas", "polars", "tqdm", "google", "onnx")


def test_it_is_served_without_torch(every_kind):
    given = table(1500, seed=3)
    pyarrow.parquet.write_table(given, every_kind / "rows.parquet")
    code = WITHOUT_TORCH.format(
        names=REFUSED, output=str(every_kind / "out"), rows=str(every_kind / "rows.parquet")
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    many, few = (
        [float.fromhex(one) for one in line.split()] for line in done.stdout.split("\n")[:2]
    )
    expected = Predictor(every_kind / "model.pt").predict(given)
    np.testing.assert_allclose(many, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(few, expected[:5], rtol=0, atol=1e-6)


def test_calibrated_logits_and_a_tasks_own_units_are_in_the_graph(tmp_path):
    """Of three tasks the first one is calibrated, the others have classes and numbers."""
    schema = DatasetSchema(
        fields={f.name: f for f in FIELDS if f.name in ("word", "size", "tags")},
        label_field="y",
        label_columns=("click", "kind", "amount"),
    )
    tasks = {
        "click": {"label": "click"},
        "kind": {"label": "kind", "num_class": 3, "losses": "softmax_cross_entropy",
                 "metrics": "multiclass_auc"},
        "amount": {"label": "amount", "losses": "l2", "metrics": "mae"},
    }  # fmt: skip
    found = untrained.checkpoint(
        schema,
        table(300),
        model_name="shared_bottom",
        data=TABLE,
        tasks=tasks,
        training={"metric": "click.auc"},
    )
    found.calibration = {"click": STEPS}
    found.save(tmp_path / "model.pt")
    arguments = ["--checkpoint", f"{tmp_path}/model.pt", "--output", f"{tmp_path}/out"]
    assert main(["export", *arguments]) == 0
    predictor = Predictor(tmp_path / "model.pt")
    served = runtime.load(tmp_path / "out", threads=1)
    expected, got = (e.predict_tasks(table(400, seed=5)) for e in (predictor, served))
    assert list(got) == list(expected) == list(tasks)
    for name, values in expected.items():
        relative = 1e-6 if name == "amount" else 0  # of numbers of any size
        np.testing.assert_allclose(got[name], values, rtol=relative, atol=1e-6)
    for one, other in zip(served.tasks, predictor.tasks, strict=True):
        assert one.prediction_names() == other.prediction_names()
    with pytest.raises(ValueError, match="several tasks: click, kind, amount"):
        served.predict(table(1))


ONE_STEP = Isotonic(split="valid", rows=9, knots=np.array([0.3]), values=np.array([1.5]))


@pytest.mark.parametrize(
    "calibration", [STEPS, ONE_STEP, Temperature(split="valid", rows=9, temperature=0.7)]
)
def test_calibrations_of_graphs_are_the_maps_themselves(calibration):
    logits = np.concatenate([np.linspace(-2, 2, 81), KNOTS, KNOTS + 1e-12, [-9e9, 9e9]])
    found = calibrated(calibration)(torch.from_numpy(logits))
    np.testing.assert_allclose(found.numpy(), calibration.apply(logits), rtol=0, atol=1e-12)
    two = np.column_stack([np.ones_like(logits), logits + 1])
    found = calibrated(calibration)(torch.from_numpy(two)).numpy()
    np.testing.assert_allclose(
        found[:, 1] - found[:, 0], calibration.apply(two[:, 1] - two[:, 0]), rtol=1e-12, atol=1e-9
    )


def test_histories_are_those_of_the_events(tmp_path):
    plain = DatasetSchema(
        fields={
            "user": FieldSchema("user", SPARSE, group="user", embedding_dim=4),
            "item": FieldSchema("item", SPARSE, group="item", embedding_dim=4),
        },
        label_field="y",
        user_field="user",
        item_field="item",
        time_column="time",
    )
    own = history_fields(plain, HistoryConfig(max_length=5), {}, "data.history")
    schema = replace(plain, fields=plain.fields | {f.name: f for f in own})
    rng = np.random.default_rng(2)
    rows = {"user": rng.integers(0, 9, 400), "item": rng.integers(0, 30, 400)}
    found = untrained.checkpoint(schema, pa.table(rows))
    time = rng.integers(0, 10**6, 400)
    hashes = group_ids(pa.table(rows), ["user"])[:, 0].view(np.uint64)
    ids = {own[0].name: found.encoders.encode(pa.table(rows)).sparse[:, 1].numpy()}
    found.events = LastEvents.of(hashes, time, time.astype(np.float64), ids, 5)
    found.save(tmp_path / "model.pt")
    assert (
        main(["export", "--checkpoint", f"{tmp_path}/model.pt", "--output", f"{tmp_path}/o"]) == 0
    )
    predictor, served = Predictor(tmp_path / "model.pt"), runtime.load(tmp_path / "o", threads=1)
    for count in (1, 6, 2000):
        given = {"user": rng.integers(0, 11, count), "item": rng.integers(0, 33, count)}
        given["time"] = rng.integers(0, 10**6, count)
        expected, got = (engine.predict(given) for engine in (predictor, served))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_a_program_of_torch_is_the_model_too(tmp_path):
    few = {f.name: f for f in FIELDS if f.name in ("word", "size", "tags")}
    schema = DatasetSchema(fields=few, label_field="y")
    untrained.checkpoint(schema, table(300)).save(tmp_path / "model.pt")
    arguments = ["--checkpoint", f"{tmp_path}/model.pt", "--output", f"{tmp_path}/out"]
    assert main(["export", *arguments, "--format", "pt2"]) == 0
    assert (tmp_path / "out" / "model.pt2").exists()
    assert main(["export", *arguments]) == 2  # it is there
    with pytest.raises(Exception, match="exported with --format pt2"):
        runtime.load(tmp_path / "out")


def test_what_is_no_export_is_not_replaced(every_kind, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    arguments = ["--checkpoint", f"{every_kind}/model.pt", "--output", str(tmp_path)]
    assert main(["export", *arguments, "--overwrite"]) == 2
    assert "holds no export" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert main(["export", *arguments, "--format", "onx"]) == 2
    assert "did you mean 'onnx'" in capsys.readouterr().err
