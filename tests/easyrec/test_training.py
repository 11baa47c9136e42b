"""Pipelines trained, killed, resumed, evaluated and used, on generated rows of their columns."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from deepfm.checkpoint import load_checkpoint
from deepfm.cli import main
from deepfm.config import load_config
from deepfm.easyrec.pipelines import load_pipeline
from deepfm.prediction import Predictor
from tests.clicks import CALIBRATION
from tests.easyrec.pipelines import TRAIN, write

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "easyrec" / "deepfm_criteo.config"
EXAMPLES = ROOT / "examples"
ROWS, SIZE = 2400, 40  # SIZE: rows of a capped table
CAPPED = f"feature_configs[id_feature.num_buckets>{SIZE}].id_feature.num_buckets={SIZE}"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="the shared data is not here")


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def criteo_rows(seed: int, rows: int) -> pa.Table:
    """Columns of the Criteo pipelines: a label that ids and numbers tell something about."""
    rng = np.random.default_rng(seed)
    cats = {f"cat_{k}": rng.integers(0, 3, rows) for k in range(26)}
    ints = {f"int_{k}": rng.random(rows, np.float32) for k in range(13)}
    odds = 3.0 * (cats["cat_0"] == cats["cat_9"]) + 2.0 * cats["cat_19"] + 2.0 * ints["int_3"] - 4
    label = (rng.random(rows) < 1 / (1 + np.exp(-odds))).astype(np.int64)
    return pa.table({"label": label} | ints | cats)


@pytest.fixture(scope="module")
def criteo(tmp_path_factory) -> Path:
    """A folder with train/ and valid/, in Parquet."""
    folder = tmp_path_factory.mktemp("criteo")
    for name, parts in (("train", 2), ("valid", 1)):
        (folder / name).mkdir()
        for part in range(parts):
            rows = criteo_rows(part if name == "train" else 2, ROWS // 2)
            pa.parquet.write_table(rows, folder / name / f"part-{part}.parquet")
    return folder


def criteo_overrides(folder: Path, run_dir: Path, *more: str) -> list[str]:
    changes = (
        f"train_input_path={folder}/train/*.parquet;eval_input_path={folder}/valid",
        f"model_dir={run_dir}",
        "data_config.batch_size=50;train_config.log_step_count_steps=10",
        "feature_configs[id_feature.num_buckets>1].id_feature.num_buckets=3"
        if "small" in more
        else CAPPED,
        *(change for change in more if change != "small"),
    )
    return [word for change in changes for word in ("--override", change)]


def weights_of(run_dir: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(run_dir / "last.pt").model)


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("metrics.json", "predictions.parquet"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@needs_real
def test_the_real_pipeline_trains_evaluates_and_predicts(criteo, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_dir = tmp_path / "run"
    changes = criteo_overrides(
        criteo, run_dir, "train_config.save_checkpoints_steps=20", "eval_config.num_steps=2",
        "train_config.dense_optimizer.adam_optimizer.lr=0.003",
        "train_config.sparse_optimizer.adagrad_optimizer.lr=0.1",
    )  # fmt: skip
    code, printed, errors = run(capsys, "train", "--config", REAL, *changes)
    assert (code, errors) == (0, "")
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["valid"]["auc"] > 0.75
    assert "binary_cross_entropy" in metrics["valid"]
    (epoch,) = map(json.loads, (run_dir / "history.jsonl").read_text().splitlines())
    assert [found["step"] for found in epoch["evaluations"]] == [20, 40]
    assert "in-training, first 100 rows" in printed
    assert "final evaluation of all rows" in printed

    checkpoint = load_checkpoint(run_dir / "best_model.pt")
    model = checkpoint.build_model()
    dense = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("embedding."))
    assert dense == 393_793
    fields = checkpoint.encoders.schema.fields
    assert {fields[f"cat_{k}"].feature_type.value for k in range(26)} == {"sparse"}
    sizes = [min(f.num_buckets, SIZE) for f in fields.values() if f.num_buckets]
    assert [f.vocabulary_size for f in fields.values() if f.num_buckets] == sizes

    best = ("--checkpoint", run_dir / "best_model.pt")
    code, printed, errors = run(capsys, "evaluate", *best)  # valid is the only split to evaluate
    assert (code, errors) == (0, "")
    assert f"{metrics['valid']['auc']:.4f}" in printed
    other = criteo / "train" / "part-0.parquet"
    code, printed, errors = run(
        capsys, "evaluate", *best, "--config", REAL, *changes,
        "--override", f"eval_input_path={other}",
    )  # fmt: skip
    assert (code, errors) == (0, "")
    assert f"{metrics['valid']['auc']:.4f}" not in printed
    code, _, errors = run(capsys, "evaluate", *best, "--override", f"eval_input_path={other}")
    assert (code, errors.count("\n")) == (2, 1)

    source = criteo / "valid" / "part-0.parquet"
    code, _, errors = run(
        capsys, "predict", "--checkpoint", run_dir / "best_model.pt", "--input", source,
        "--output", "scored.parquet", "--columns", "label",
    )  # fmt: skip
    assert (code, errors) == (0, "")
    scored = pa.parquet.read_table("scored.parquet")
    assert len(scored) == ROWS // 2
    kept = pa.parquet.read_table(run_dir / "predictions.parquet")
    np.testing.assert_allclose(scored["probability"], kept["probability"], rtol=1e-5)


@needs_real
def test_wide_and_deep_on_the_same_columns(criteo, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = criteo_overrides(
        criteo, tmp_path / "run", "data_config.fg_encoded=true",
        "model_config.wide_and_deep=deep { hidden_units: [512, 256, 128] }",
        "train_config.sparse_optimizer.adagrad_optimizer.lr=0.1",
    )  # fmt: skip
    code, printed, errors = run(capsys, "train", "--config", REAL, *changes)
    assert (code, "error" in errors) == (0, False)  # a warning: its LogLoss may be a constant's
    assert "wide_and_deep reads wide, deep; group 'fm' is left out" in printed
    assert json.loads(Path("run/metrics.json").read_text())["valid"]["auc"] > 0.7
    checkpoint = load_checkpoint("run/best_model.pt")
    model = checkpoint.build_model()
    dense = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("embedding."))
    assert dense == 384_384 + 128 + 1  # the deep network and the output layer
    tables = {name: tuple(model.embedding.tables[name].shape) for name in ("cat_0", "cat_0_wide")}
    assert tables == {"cat_0": (SIZE, 16), "cat_0_wide": (SIZE, 4)}


KILLED = ("small", "train_config.save_checkpoints_steps=2", "eval_config.num_steps=1")


@pytest.fixture(scope="module")
def uninterrupted(criteo, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        changes = criteo_overrides(criteo, folder / "run", *KILLED)
        assert main(["train", "--config", str(REAL), *changes]) == 0
    return folder / "run"


@needs_real
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_killed_within_its_epoch_is_the_same_run(
    criteo, uninterrupted, tmp_path, capsys, number, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    changes = criteo_overrides(criteo, tmp_path / "killed", *KILLED)
    command = [sys.executable, "-m", "deepfm", "train", "--config", str(REAL), *changes]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
    )  # fmt: skip
    while not (tmp_path / "killed" / "last.pt").exists():
        assert child.poll() is None, child.communicate()
        time.sleep(0.005)
    child.send_signal(number)
    child.communicate()
    assert child.returncode == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    assert not (tmp_path / "killed" / "metrics.json").exists()
    code, printed, errors = run(capsys, "train", "--config", REAL, *changes, "--resume")
    assert (code, errors) == (0, "")
    assert "resumed in epoch 1" in printed
    assert_same_run(tmp_path / "killed", uninterrupted)


@pytest.mark.parametrize("name", ["deepfm_criteo", "wide_and_deep_criteo"])
def test_a_pipeline_and_its_yaml_train_to_the_same_weights(
    criteo, tmp_path, capsys, name, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    changes = criteo_overrides(criteo, tmp_path / "run")
    config = EXAMPLES / f"{name}.config"
    code, printed, errors = run(
        capsys, "convert", "--config", config, "--output", "x.yaml", *changes
    )
    assert (code, errors) == (0, "")
    assert "parameters: " in printed
    assert run(capsys, "convert", "--config", config, "--output", "x.yaml", *changes)[0] == 2
    assert load_config("x.yaml") == load_pipeline(config, changes[1::2])[0]
    assert run(capsys, "train", "--config", config, *changes)[0] == 0
    assert run(capsys, "train", "--config", "x.yaml", "--override", "output_dir=other")[0] == 0
    assert_same_run(tmp_path / "run", tmp_path / "other")


def test_convert_refuses_what_it_cannot_write(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = EXAMPLES / "deepfm_criteo.config"
    for arguments, expected in (
        (("--config", "x.yaml", "--output", "y.yaml"), "x.yaml: expected a pipeline"),
        (("--config", config, "--output", "y.config"), "y.config: expected a file that ends in"),
        (("--config", "x.config", "--output", "y.yaml"), "x.config: cannot read the config"),
        (("--config", config, "--output", "y.yaml", "--override", "training.epochs=2"),
         "training is a key of the YAML form"),
    ):  # fmt: skip
        code, _, errors = run(capsys, "convert", *arguments)
        assert code == 2
        assert expected in errors
        assert errors.count("\n") == 1
    code, _, errors = run(capsys, "compare", config)
    assert (code, errors.count("\n")) == (2, 1)
    assert "compare takes YAML" in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("parts", "line", "expected"),
    [
        ({"losses": "losses { binary_cross_entropy { label_smoothing: 1.5 } }"}, "losses",
         "training.losses.label_smoothing: binary_cross_entropy needs a number below 1"),
        ({"metrics": "metrics { auc { thresholds: 1 } }"}, "metrics",
         "evaluation.metrics.thresholds: auc needs at least 2"),
        ({"train": TRAIN.replace("0.001 } }\n  num", "0.001 } cosine_annealing_learning_rate "
                                 "{ T_max: 0 } }\n  num")}, "dense_optimizer",
         "training.scheduler: cosine: t_max: expected at least 1, found 0"),
        ({"train": TRAIN.replace("0.001 } }\n  num", "0.001 }\n part_optimizers { "
                                 "sgd_optimizer {} regex_pattern: 'no.*' } }\n  num")},
         "part_optimizers", "training.part_optimizers: 'no.*' matches no whole name"),
    ],
)  # fmt: skip
def test_what_is_refused_late_names_the_line_too(
    tmp_path, capsys, parts, line, expected, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    rows = pa.table({"y": [0, 1] * 4, "a": [*range(8)], "b": [*range(8)], "n": [0.5] * 8})
    for name in ("t.parquet", "v.parquet"):
        pa.parquet.write_table(rows, name)
    config = write(tmp_path, data="fg_mode: FG_NONE", **parts)
    code, _, errors = run(capsys, "train", "--config", config)
    assert (code, errors.count("\n")) == (2, 1)
    assert expected in errors
    number = 1 + [line in text for text in config.read_text().splitlines()].index(True)
    assert f"error: {config}:{number}: " in errors


@pytest.mark.parametrize("field", ["train_input_path", "eval_input_path"])
def test_a_missing_file_names_the_line_of_its_path(tmp_path, capsys, field, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = pa.table({"y": [0, 1] * 4, "a": [*range(8)], "b": [*range(8)], "n": [0.5] * 8})
    pa.parquet.write_table(rows, "there.parquet")
    paths = {"train_input_path": "there.parquet", "eval_input_path": "there.parquet"}
    paths |= {field: "none/*.parquet"}
    text = "\n".join(f"{key}: '{path}'" for key, path in paths.items())
    config = write(tmp_path, data="fg_mode: FG_NONE", paths=text)
    code, _, errors = run(capsys, "train", "--config", config)
    line = 1 + config.read_text().splitlines().index(f"{field}: 'none/*.parquet'")
    assert code == 2
    assert errors == f"error: {config}:{line}: {field}: none/*.parquet: no such file\n"


def test_convert_counts_the_whole_tables(tmp_path, capsys):
    config, output = EXAMPLES / "deepfm_criteo.config", tmp_path / "x.yaml"
    code, printed, _ = run(capsys, "convert", "--config", config, "--output", output)
    assert code == 0
    assert "393,793 dense, 3,266,953,408 in embedding tables, 816,738,352 in wide" in printed
    assert output.read_text() == (EXAMPLES / "deepfm_criteo.yaml").read_text()


STRANGER = """
# Wide & Deep, written by somebody else
train_input_path: "train-0.csv,train-1.csv"   # two files
eval_input_path: 'valid.csv';
model_dir: "run" "/wd"
train_config: {
  sparse_optimizer < rowwise_adagrad_optimizer { lr: 1e-1 } >
  dense_optimizer { adamw_optimizer: {lr: .01, weight_decay: 0.01}
                    cosine_annealing_learning_rate { T_max: 60 min_learning_rate: 1e-4 }
                    part_optimizers { adam_optimizer { lr: .005 } regex_pattern: "output_mlp.*" } }
  num_steps: 60
  save_checkpoints_steps: 25
  use_tensorboard: false
  grad_clipping { clipping_type: "Norm" max_gradient: 10 }
}
eval_config: {}
data_config {
  batch_size: 100  eval_batch_size: 300
  dataset_type: CsvDataset
  fg_encoded: true
  delimiter: "|"
  label_fields: [ "clk" ]
  input_fields: [ { input_name: "clk" input_type: INT32 },
    { input_name: "age", input_type: DOUBLE }, { input_name: "user" input_type: INT64 },
    { input_name: "tags" } ]
  input_fields { input_name: "price" input_type: FLOAT }
}
feature_configs: { id_feature: { feature_name: "user", num_buckets: 50, embedding_dim: 8 } }
feature_configs { id_feature { feature_name: 'tags' hash_bucket_size: 9
  embedding_dim: 12 pooling: "mean"  # unequal dims are for wide and deep only
} }
feature_configs { raw_feature { feature_name: "age" boundaries: [
    10, 20,
    30
  ] embedding_dim: 4 fg_encoded_default_value: "1" } }
feature_configs { raw_feature { feature_name: "price" fg_encoded_default_value: "0.5" } }
model_config: {
  feature_groups { group_name: "wide" feature_names: ["user", 'tags', "age"] group_type: WIDE }
  feature_groups { group_name: "deep" feature_names: "user" feature_names: ["tags", "age"]
                   feature_names: "price" }
  wide_and_deep {
    deep { hidden_units: [16, 8] dropout_ratio: 0.1 activation: "nn.LeakyReLU(negative_slope=0.2)"
           use_ln: true }
    wide_init_fn: "nn.init.zeros_"
  }
  metrics { auc {} } metrics: { grouped_auc { grouping_key: "user" } }
  metrics { normalized_entropy {} } train_metrics { auc {} decay_step: 10 }
  losses { binary_cross_entropy { label_smoothing: 0.01 } }
}
"""


def test_somebody_elses_wide_and_deep(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    for name in ("train-0", "train-1", "valid"):
        lines = []
        for _ in range(1500):
            user, tags = rng.integers(50), rng.integers(0, 11, rng.integers(0, 4))
            age = rng.choice(["", "0", "1", "2", "3"])
            label = int(rng.random() < (0.85 if user % 3 == 0 or 4 in tags else 0.15))
            shown = "\x03".join(map(str, tags))  # ids 9 and 10 have no row
            lines.append(f"{label}|{age}|{user}|{shown}|{'' if user == 7 else user / 50}")
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "wd.config").write_text(STRANGER)
    code, printed, errors = run(capsys, "train", "--config", "wd.config")
    assert code == 0  # ids without a row are counted, and get row 0
    assert re.fullmatch(r"warning: bad values by column: tags: [\d,]+\n", errors)
    assert "use_tensorboard is ignored" in printed
    metrics = json.loads(Path("run/wd/metrics.json").read_text())["valid"]
    assert metrics["auc"] > 0.8
    assert 0 <= metrics["gauc"] <= 1
    assert 0 < metrics["normalized_entropy"] < 1
    fields = load_checkpoint("run/wd/best_model.pt").encoders.schema.fields
    assert {name: field.feature_type.value for name, field in fields.items()} == {
        "user": "sparse", "tags": "sequence", "age": "sparse", "price": "dense",
    }  # fmt: skip


OPERATORS = """
train_input_path: "train.{ending}"  eval_input_path: "valid.{ending}"  model_dir: "run"
train_config {{
  sparse_optimizer {{ adagrad_optimizer {{ lr: 0.1 }} }}
  dense_optimizer {{ adam_optimizer {{ lr: 0.01 }} }}
  num_epochs: 2
}}
data_config {{ batch_size: 100 fg_mode: {mode} with_header: true label_fields: "y"
               dataset_type: CsvDataset sample_weight_fields: "w" shuffle: true }}
feature_configs {{ id_feature {{ feature_name: "num" expression: "user:num" num_buckets: 30
                                 embedding_dim: 8 default_value: "0" }} }}
feature_configs {{ id_feature {{ feature_name: "hash" expression: "user:word" hash_bucket_size: 100
                                 embedding_dim: 8 separator: "," }} }}
feature_configs {{ id_feature {{ feature_name: "list" expression: "user:word" embedding_dim: 8
    vocab_list: ["abc", "efg"] default_value: "xyz" separator: "," pooling: "mean" }} }}
feature_configs {{ id_feature {{ feature_name: "dict" expression: "user:word" embedding_dim: 8
    vocab_dict [ {{ key: "abc" value: 2 }}, {{ key: "efg" value: 2 }} ] separator: "," }} }}
feature_configs {{ id_feature {{ feature_name: "file" expression: "user:word" embedding_dim: 8
    vocab_file: "words.txt" default_bucketize_value: 0 separator: "," }} }}
feature_configs {{ combo_feature {{ feature_name: "cross" expression: ["user:num", "user:word"]
    hash_bucket_size: 500 embedding_dim: 8 separator: "," }} }}
feature_configs {{ raw_feature {{ feature_name: "plain" expression: "item:x" }} }}
feature_configs {{ raw_feature {{ feature_name: "vector" expression: "item:v" value_dim: 3
    separator: "," }} }}
feature_configs {{ raw_feature {{ feature_name: "bucket" expression: "item:x" embedding_dim: 8
    boundaries: [0.05, 0.15, 0.25] }} }}
feature_configs {{ raw_feature {{ feature_name: "log" expression: "item:x"
    normalizer: "method=log10,threshold=0.05,default=-1" }} }}
feature_configs {{ raw_feature {{ feature_name: "z" expression: "item:x"
    normalizer: "method=zscore,mean=0.1,standard_deviation=10" }} }}
feature_configs {{ raw_feature {{ feature_name: "range" expression: "item:x"
    normalizer: "method=minmax,min=0.1,max=0.6" }} }}
feature_configs {{ raw_feature {{ feature_name: "formula" expression: "item:x"
    normalizer: "method=expression,expr=log(x+3)" }} }}
feature_configs {{ raw_feature {{ feature_name: "mlp" expression: "item:x" embedding_dim: 8
    mlp {{}} }} }}
model_config {{
  feature_groups {{ group_name: "wide" group_type: WIDE
                    feature_names: ["num", "hash", "list", "dict", "file", "cross", "bucket"] }}
  feature_groups {{ group_name: "fm"
                    feature_names: ["num", "hash", "list", "dict", "file", "cross", "bucket",
                                    "mlp"] }}
  feature_groups {{ group_name: "deep"
                    feature_names: ["num", "hash", "list", "dict", "file", "cross", "bucket", "mlp",
                                    "plain", "vector", "log", "z", "range", "formula"] }}
  deepfm {{ deep {{ hidden_units: [16, 8] }} final {{ hidden_units: 8 }} }}
  variational_dropout {{ regularization_lambda: 0.001 }}
  losses {{ binary_cross_entropy {{}} }}  metrics {{ auc {{}} }}
}}
"""


def operator_rows(mode: str, rows: int, seed: int) -> dict[str, list]:
    """Raw columns; in FG_BUCKETIZE one of each feature's name, after normalizers and crosses."""
    rng = np.random.default_rng(seed)
    words = [",".join(rng.choice(["abc", "efg", "hij"], rng.integers(0, 3))) for _ in range(rows)]
    num = [str(n) if n else "" for n in rng.integers(0, 30, rows)]
    x = [f"{v:.3f}" for v in rng.random(rows)]
    v = [",".join(f"{n:.2f}" for n in rng.random(3)) for _ in range(rows)]
    label = [int("abc" in word) ^ int(rng.random() < 0.1) for word in words]
    columns = {"y": label, "w": rng.integers(1, 3, rows).tolist()}
    if mode != "FG_BUCKETIZE":
        return columns | {"num": num, "word": words, "x": x, "v": v}
    cross = [
        ",".join(f"{n}_{word}" for word in words_of.split(",") if n and word)
        for n, words_of in zip(num, words, strict=True)
    ]
    columns |= dict.fromkeys(("hash", "list", "dict", "file"), words)
    columns |= dict.fromkeys(("plain", "bucket", "log", "z", "range", "formula", "mlp"), x)
    return columns | {"num": num, "cross": cross, "vector": v}


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("FG_NORMAL", "csv"), ("FG_BUCKETIZE", "csv"), ("FG_DAG", "parquet")],
)
def test_all_operators(tmp_path, capsys, monkeypatch, mode, ending):
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("none 0\nabc 1\nefg 5\n")
    for name, seed in (("train", 1), ("valid", 2)):
        table = pa.table(operator_rows(mode, 1200, seed))
        if ending == "csv":
            rows = ["\t".join(table.column_names).replace("\t", ",")]
            for row in table.to_pylist():
                rows.append(",".join(f'"{value}"' for value in row.values()))
            Path(f"{name}.csv").write_text("\n".join(rows) + "\n")
        else:
            pa.parquet.write_table(table, f"{name}.parquet")
    Path("x.config").write_text(OPERATORS.format(mode=mode, ending=ending))
    code, _, errors = run(capsys, "train", "--config", "x.config")
    assert (code, errors) == (0, "")
    assert json.loads(Path("run/metrics.json").read_text())["valid"]["auc"] > 0.85

    checkpoint = load_checkpoint("run/best_model.pt")
    fields = checkpoint.encoders.schema.fields
    rows = {"num": 30, "hash": 100, "list": 4, "dict": 3, "file": 6, "cross": 500, "bucket": 4}
    assert {name: fields[name].vocabulary_size for name in rows} == rows
    raw = {"y": [0], "w": [1], "num": ["7"], "word": ["abc,hij"], "x": ["0.2"], "v": ["1,2,3"]}
    if mode == "FG_BUCKETIZE":
        raw = {"num": ["7"], "cross": ["7_abc,7_hij"], "vector": ["1,2,3"]}
        raw |= {name: ["abc,hij"] for name in ("hash", "list", "dict", "file")}
        raw |= {
            name: ["0.2"] for name in ("plain", "bucket", "log", "z", "range", "formula", "mlp")
        }
    inputs = checkpoint.encoders.encode(pa.table(raw))
    schema = checkpoint.encoders.schema
    ids = {f.name: inputs.sparse[0, k].tolist() for k, f in enumerate(schema.sparse_fields)}
    for field, part, length in zip(
        schema.sequence_fields, inputs.sequence_ids, inputs.sequence_lengths, strict=True
    ):
        ids[field.name] = part[0, : int(length[0])].tolist()
    assert ids["hash"] == [33, 66]  # golden values of the hash, modulo 100
    assert ids["list"] == [2, 1]
    assert ids["dict"] == [2, 1]
    assert ids["file"] == [1, 0]
    assert ids["bucket"] == 2
    assert ids["num"] in (7, [7])
    assert len(ids["cross"]) == 2
    starts = np.cumsum([0, *(f.value_dim for f in schema.dense_fields)])
    dense = {
        f.name: inputs.dense[0, start : start + f.value_dim].tolist()
        for f, start in zip(schema.dense_fields, starts, strict=False)
    }
    normalized = mode != "FG_BUCKETIZE"
    assert dense["plain"] == pytest.approx([0.2])
    assert dense["vector"] == pytest.approx([1, 2, 3])
    assert dense["log"] == pytest.approx([np.log10(0.2) if normalized else 0.2])
    assert dense["z"] == pytest.approx([0.01 if normalized else 0.2])
    assert dense["range"] == pytest.approx([0.2])
    assert dense["formula"] == pytest.approx([np.log(3.2) if normalized else 0.2])
    assert Predictor("run/best_model.pt") is not None


TINY_TRAIN = """
  sparse_optimizer { %s } dense_optimizer { %s }
  num_epochs: 2 save_checkpoints_steps: 10
"""
ADAGRAD, ADAM = "adagrad_optimizer { lr: 0.1 }", "adam_optimizer { lr: 0.01 }"
PARTS = """
  sgd_optimizer { lr: 0.1 } cosine_annealing_warm_restarts_learning_rate { T_0: 5 }
  part_optimizers { adam_optimizer { lr: 0.01 } regex_pattern: "deep_mlp.*" } ema { decay: 0.9 }
"""
TASKS = {
    "fallback": {
        "groups": 'feature_groups { group_name: "deep" feature_names: ["a", "b"] }',
        "reports": {"auc", "binary_cross_entropy"},
    },
    "xdeepfm": {
        "model": "xdeepfm { cin { cin_layer_size: [6, 5] } deep { hidden_units: 8 } "
        "final { hidden_units: 4 } } variational_dropout {}",
        "reports": {"auc", "binary_cross_entropy"},
    },
    "numbers": {
        "losses": "losses { l2_loss {} }",
        "metrics": "metrics { mean_absolute_error {} } metrics { mean_squared_error {} } "
        "metrics { xauc { in_batch: true } } metrics { grouped_xauc { grouping_key: 'a' } } "
        "train_metrics { mean_squared_error {} decay_step: 3 }",
        "reports": {"mae", "mse", "xauc", "grouped_xauc", "l2"},
    },
    "classes": {
        "model": "deepfm { deep { hidden_units: [8, 4] } final { hidden_units: 4 } } num_class: 3",
        "losses": "losses { softmax_cross_entropy { label_smoothing: 0.1 } }",
        "metrics": "metrics { multiclass_auc {} } metrics { accuracy {} }",
        "reports": {"multiclass_auc", "accuracy", "softmax_cross_entropy"},
    },
    "sessions": {
        "model": "wide_and_deep { deep { hidden_units: 8 } final { hidden_units: 4 } } "
        "num_class: 2",
        "losses": "losses { jrc_loss { session_name: 'a' } } losses { softmax_cross_entropy {} }",
        "metrics": "metrics { auc {} } metrics { grouped_auc { grouping_key: 'b' } }",
        "reports": {"auc", "gauc", "gauc_groups", "jrc", "softmax_cross_entropy"},
    },
    "parts": {
        "train": TINY_TRAIN
        % ("adam_optimizer { lr: 0.01 } exponential_decay_learning_rate { decay_size: 5 }", PARTS)
        + "gradient_accumulation_steps: 3 "
        "grad_clipping { clipping_type: 'value' max_gradient: 0.1 }",
        "losses": "losses { binary_focal_loss {} }",
        "metrics": "metrics { auc {} } metrics { normalized_entropy {} }",
        "reports": {"auc", "normalized_entropy", "binary_focal"},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_every_task_trains(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    parts = {"train": TINY_TRAIN % (ADAGRAD, ADAM), "data": "batch_size: 50"} | TASKS[name]
    reports, rng = parts.pop("reports"), np.random.default_rng(0)
    for file, rows in (("t", 1500), ("v", 400)):
        a, b = rng.integers(0, 10, rows), rng.integers(0, 20, rows)
        label = {"numbers": (a + b) / 10, "classes": (a >= 4) + (b >= 10)}.get(name, a >= b / 2)
        columns = {"y": label * 1, "a": a, "b": b, "n": rng.random(rows)}
        pa.parquet.write_table(pa.table(columns), f"{file}.parquet")
    write(tmp_path, **parts)
    code, _, errors = run(capsys, "train", "--config", "x.config")
    assert (code, errors) == (0, "")
    metrics = json.loads(Path("out/metrics.json").read_text())["valid"]
    figure = "rmse" if "mse" in reports else "logloss"
    calibration = set() if name in ("numbers", "classes") else CALIBRATION
    assert metrics.keys() == reports | {figure, f"base_rate_{figure}"} | calibration
    (loss,) = {"l2", "binary_focal", "jrc", "softmax_cross_entropy", "binary_cross_entropy"} & (
        reports - ({"softmax_cross_entropy"} if "jrc" in reports else set())
    )
    epochs = [json.loads(line) for line in Path("out/history.jsonl").read_text().splitlines()]
    assert epochs[1][loss] < epochs[0][loss]
    code, _, errors = run(
        capsys, "predict", "--checkpoint", "out/best_model.pt", "--input", "v.parquet",
        "--output", "p.parquet", "--columns", "y",
    )  # fmt: skip
    assert (code, errors) == (0, "")
    assert pa.parquet.read_table("p.parquet").num_columns == (4 if name == "classes" else 2)
