"""Pipelines as experiments: every section, real files, and what contradicts itself."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from deepfm.config import load_config
from deepfm.easyrec.pipelines import load_pipeline
from deepfm.errors import ConfigError
from tests.easyrec.pipelines import FEATURES, GROUPS, MODEL, TRAIN, write

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data" / "easyrec"
PATHS = "train_input_path=a/*.parquet;eval_input_path=b.parquet"
SIZES = (
    40000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 40000000, 3067956, 405282, 10, 2209,
    11938, 155, 4, 976, 14, 40000000, 40000000, 40000000, 590152, 12973, 108, 36,
)  # fmt: skip


def convert(tmp_path, *changes, **parts):
    return load_pipeline(write(tmp_path, **parts), changes)[0]


def named(items):
    """Losses or metrics as a config says them."""
    return tuple(item.to_dict() for item in items)


def problem(tmp_path, *changes, **parts) -> str:
    with pytest.raises(ConfigError) as caught:
        convert(tmp_path, *changes, **parts)
    message = str(caught.value)
    assert message.startswith((f"{tmp_path}/x.config:", "--override"))
    assert "\n" not in message
    return message


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
def test_the_real_deepfm_pipeline(caplog):
    caplog.set_level("INFO", "deepfm")
    config = load_pipeline(SHARED / "deepfm_criteo.config", [PATHS]).config
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "data_config.num_workers is ignored: the data is read by threads of its own"
    ]
    table = config.data.table
    assert (table.files, table.valid_files, table.label) == (
        ("a/*.parquet",),
        ("b.parquet",),
        "label",
    )
    ints, cats = [f"int_{k}" for k in range(13)], [f"cat_{k}" for k in range(26)]
    assert list(table.fields) == [*ints, *cats]
    assert [table.fields[name].num_buckets for name in cats] == list(SIZES)
    assert {table.fields[name].out_of_range for name in cats} == {"row0"}
    assert {table.fields[name].embedding_dim for name in cats} == {16}
    assert {(f.type, f.scale, f.missing) for f in (table.fields[n] for n in ints)} == {
        ("dense", "none", None)
    }
    feature = config.feature
    assert {name: list(group) for name, group in feature.groups.items()} == {
        "wide": cats, "fm": cats, "deep": [*ints, *cats],
    }  # fmt: skip
    assert (feature.wide_embedding_dim, feature.unequal_dims) == (4, "error")
    assert (feature.init, feature.wide_init, feature.embedding_l2_reg) == ("uniform_rows", None, 0)
    assert (config.model_name, config.num_class, config.model.global_bias) == ("deepfm", 1, False)
    assert config.model.dnn.hidden_units == (512, 256, 128)
    assert config.model.final.hidden_units == (64,)
    for network in (config.model.dnn, config.model.final):
        assert (network.activation, network.dropout, network.init) == ("nn.ReLU", 0.0, "torch")
        assert (network.norm, network.bias) == ("none", True)
    training = config.training
    assert (training.epochs, training.max_steps, training.batch_size) == (1, None, 8192)
    assert (training.shuffle, training.drop_last) == (False, False)
    assert training.optimizer.name == "adam"
    assert training.optimizer.lr == 0.001
    assert training.sparse_optimizer.to_dict() == {
        "name": "adagrad", "lr": 0.001, "eps": 1e-8, "initial_accumulator_value": 0.0,
        "max_gradient": None,
    }  # fmt: skip
    assert training.scheduler.name == training.sparse_scheduler.name == "none"
    assert (training.gradient_clip_norm, training.gradient_clip_value) == (None, None)
    assert training.early_stopping_patience is None
    assert (training.keep, training.metric) == ("last", "auc")
    assert (training.checkpoint_every_steps, training.evaluate_every_steps) == (1000, 1000)
    assert training.log_every_steps == 100
    losses, metrics = named(training.losses), named(config.evaluation.metrics)
    assert losses == ({"name": "binary_cross_entropy", "label_smoothing": 0.0},)
    assert (config.evaluation.batch_size, config.evaluation.max_batches) == (8192, 100)
    assert metrics == ({"name": "auc", "thresholds": 200},)
    assert config.output_dir == "experiments/deepfm_criteo"


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("deepfm_criteo", [],
         ":1: train_input_path: only local files and s3:// can be read, found "
         "odps://{PROJECT}/tables/criteo_terabyte_train_hashed_v1; set such a path, here or with "
         "--override train_input_path=<path>; its ending says whether it is CSV or Parquet"),
        ("deepfm_criteo", ["train_input_path=a.parquet"], ":2: eval_input_path: only local files"),
        ("masknet_criteo", [], ":1: train_input_path: a path is needed"),
    ],
)  # fmt: skip
def test_real_pipelines_that_cannot_be_trained_as_they_are(name, changes, expected):
    path = SHARED / f"{name}.config"
    with pytest.raises(ConfigError) as caught:
        load_pipeline(path, changes)
    assert str(caught.value).startswith(f"{path}{expected}")


@pytest.mark.parametrize("name", ["deepfm_criteo", "wide_and_deep_criteo"])
def test_an_example_and_its_twin_are_one_experiment(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    config, text, _ = load_pipeline(f"examples/{name}.config")
    twin = ROOT / "examples" / f"{name}.yaml"
    assert text == twin.read_text(), f"python -m deepfm convert makes another {twin.name}"
    assert load_config(twin) == config
    assert [f.num_buckets for f in config.data.table.fields.values() if f.type == "sparse"] == [
        *SIZES
    ]


EVERYTHING = {
    "train": """
      sparse_optimizer {
        rowwise_adagrad_optimizer { lr: 0.05 gradient_clipping: true max_gradient: 0.5 }
        manual_step_learning_rate { schedule_sizes: [2, 4] learning_rates: [0.3, .1] warmup: true }
      }
      dense_optimizer: {
        adamw_optimizer: { lr: 1e-3 weight_decay: 0.1 fused: true },
        exponential_decay_learning_rate { decay_size: 10 decay_factor: .5 warmup_size: 2 }
        part_optimizers { sgd_optimizer { } regex_pattern: "final_mlp.*" }
        part_optimizers { adagrad_optimizer { lr: .5 } regex_pattern: "a.*"
                          cosine_annealing_learning_rate { T_max: 7 by_epoch: true } }
        ema { decay: 0.99 }
      }
      num_steps: 30;
      gradient_accumulation_steps: 2
      grad_clipping { clipping_type: "NORM" max_gradient: 5 norm_type: 1 }
      save_checkpoints_steps: 7  log_step_count_steps: 3
    """,
    "data": "batch_size: 64 eval_batch_size: 128 shuffle: true drop_remainder: true "
    'fg_mode: FG_NORMAL with_header: true delimiter: "\\t" sample_weight_fields: ["w", "v"]',
    "model": """deepfm {
        deep { hidden_units: [8, 4] dropout_ratio: [0.1, 0.2] use_bn: true activation: "Dice" }
        final { hidden_units: 4 dropout_ratio: 0.3 activation: "nn.LeakyReLU(negative_slope=0.1)"
                use_ln: true bias: false }
        wide_init_fn: "nn.init.zeros_" wide_embedding_dim: 0
      }
      variational_dropout { regularization_lambda: 0.02 }
      num_class: 2 kernel: TRITON""",
    "losses": "losses { softmax_cross_entropy { label_smoothing: 0.1 } } "
    'losses { jrc_loss { session_name: "a" alpha: 0.3 } }',
    "metrics": "metrics { auc { thresholds: 100 } } metrics { grouped_auc { grouping_key: 'b' } } "
    "metrics { multiclass_auc {} } metrics { accuracy { top_k: 1 } } "
    "train_metrics { auc {} decay_step: 5 decay_rate: 0.7 }",
    "paths": "train_input_path: 't-*.tsv, u.csv' eval_input_path: 'v.csv'",
    "more": "eval_config { num_steps: 9 use_dense_ema: true } "
    'export_config { exporter_type: "best" best_exporter_metric: "jrc_loss" '
    "metric_larger_is_better: false }",
}  # fmt: skip


def test_every_section(tmp_path):
    config = convert(tmp_path, **EVERYTHING)
    training = config.training
    assert training.sparse_optimizer.to_dict() == {
        "name": "rowwise_adagrad", "lr": 0.05, "eps": 1e-8, "max_gradient": 0.5,
    }  # fmt: skip
    assert training.sparse_scheduler.to_dict() == {
        "name": "manual_step", "sizes": (2, 4), "lrs": (0.3, 0.1), "warmup": True,
        "by_epoch": False,
    }  # fmt: skip
    assert training.optimizer.to_dict() == {
        "name": "adamw", "lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1,
        "amsgrad": False,
    }  # fmt: skip
    assert training.scheduler.to_dict() == {
        "name": "exponential", "decay_size": 10, "decay_factor": 0.5, "staircase": True,
        "warmup_lr": 0.0, "warmup_size": 2, "min_lr": 0.0, "by_epoch": False,
    }  # fmt: skip
    first, second = training.part_optimizers
    assert first.pattern == "final_mlp.*"
    assert first.optimizer.to_dict() == {  # the format's defaults, which are not torch's
        "name": "sgd", "lr": 0.002, "momentum": 0.9, "dampening": 0.0, "nesterov": False,
        "weight_decay": 0.0,
    }  # fmt: skip
    assert first.scheduler is None  # that of the dense optimizer
    assert second.optimizer.name == "adagrad"
    assert second.scheduler.to_dict() == {
        "name": "cosine", "t_max": 7, "min_lr": 0.0, "warmup_lr": 0.0, "warmup_size": 0,
        "by_epoch": True, "at_end": "stay",
    }  # fmt: skip
    assert (training.epochs, training.max_steps, training.ema_decay) == (30, 30, 0.99)
    assert (training.gradient_accumulation_steps, training.sparse_update) == (2, "backward")
    assert (training.gradient_clip_norm, training.gradient_clip_norm_type) == (5, 1)
    assert (training.gradient_clip_value, training.gradient_clip_scope) == (None, "dense")
    assert (training.checkpoint_every_steps, training.evaluate_every_steps) == (7, 7)
    assert (training.log_every_steps, training.batch_size) == (3, 64)
    assert (training.shuffle, training.drop_last) == (True, True)
    losses, metrics = named(training.losses), named(config.evaluation.metrics)
    assert losses == (
        {"name": "softmax_cross_entropy", "label_smoothing": 0.1},
        {"name": "jrc", "session": "a", "alpha": 0.3},
    )
    (trained,) = named(training.metrics)
    assert {key: trained[key] for key in ("name", "thresholds", "decay_rate", "decay_step")} == {
        "name": "auc", "thresholds": 200, "decay_rate": 0.7, "decay_step": 5,
    }  # fmt: skip
    assert (training.keep, training.metric) == ("best", "jrc")
    assert metrics == (
        {"name": "auc", "thresholds": 100},
        {"name": "gauc", "group": "b"},
        {"name": "multiclass_auc", "thresholds": 200, "average": "macro"},
        {"name": "accuracy", "threshold": 0.5, "top_k": 1},
    )
    assert (config.evaluation.batch_size, config.evaluation.max_batches) == (128, 9)
    table = config.data.table
    assert (table.files, table.valid_files) == (("t-*.tsv", "u.csv"), ("v.csv",))
    assert (table.delimiter, table.columns) == ("\t", ())
    assert table.labels["y"].kind == "class"
    assert (table.label, table.sample_weight, table.group_columns) == ("y", "w", ("a", "b"))
    assert config.model.dnn.dropout == (0.1, 0.2)
    assert (config.model.dnn.activation, config.model.dnn.norm) == ("Dice", "batch")
    assert (config.model.final.dropout, config.model.final.hidden_units) == (0.3, (4,))
    assert config.model.final.activation == "nn.LeakyReLU(negative_slope=0.1)"
    assert (config.model.final.norm, config.model.final.bias) == ("layer", False)
    feature = config.feature
    assert (feature.wide_init, feature.wide_embedding_dim) == ("nn.init.zeros_", 4)
    assert (feature.variational_dropout, config.num_class) == (0.02, 2)


@pytest.mark.parametrize("parts", [{}, EVERYTHING], ids=["small", "every section"])
def test_yaml_is_the_same_experiment(tmp_path, parts):
    config, text, _ = load_pipeline(write(tmp_path, **parts))
    (tmp_path / "x.yaml").write_text(text)
    assert load_config(tmp_path / "x.yaml") == config


def test_other_models(tmp_path):
    config = convert(tmp_path, model="wide_and_deep { deep { hidden_units: 8 } }")
    assert (config.model_name, config.model.final) == ("wide_and_deep", None)
    assert config.feature.wide_embedding_dim == 4
    assert set(config.feature.groups) == {"wide", "deep"}  # it has no fm
    config = convert(
        tmp_path,
        model="xdeepfm { cin { cin_layer_size: [6, 5] } deep { hidden_units: 8 } "
        "final { hidden_units: 4 } }",
    )
    assert (config.model_name, config.feature.wide_embedding_dim) == ("xdeepfm", 16)
    cin = config.model.cin
    assert (cin.layer_sizes, cin.split_half, cin.group) == ((6, 5), False, "wide")
    assert (cin.bias, cin.init) == (True, "torch")


def test_metrics_of_one_name_are_told_apart(tmp_path):
    metrics = "metrics { auc {} } metrics { auc { thresholds: 50 } }"
    assert convert(tmp_path, metrics=metrics).training.metric == "auc[200]"
    best = "export_config { exporter_type: 'best' }"
    assert convert(tmp_path, metrics=metrics, more=best).training.metric == "auc[50]"
    assert convert(tmp_path, metrics="").training.metric == "binary_cross_entropy"


def test_defaults_of_the_format(tmp_path):
    train = """
      sparse_optimizer { adam_optimizer {} exponential_decay_learning_rate { decay_size: 3 } }
      dense_optimizer { sgd_optimizer {} cosine_annealing_warm_restarts_learning_rate { T_0: 5 } }
      num_epochs: 2 save_checkpoints_epochs: 1 log_step_count_steps: 0
    """
    training = convert(tmp_path, train=train).training
    assert training.batch_size == 1024
    assert training.sparse_optimizer.to_dict() == {
        "name": "lazy_adam", "lr": 0.002, "betas": (0.9, 0.999), "eps": 1e-8,
        "max_gradient": None,
    }  # fmt: skip
    assert training.optimizer.lr == 0.002
    assert training.optimizer.momentum == 0.9
    assert training.sparse_scheduler.decay_factor == 0.95
    assert training.sparse_scheduler.staircase is True
    assert training.scheduler.t_0 == 5
    assert training.scheduler.t_mult == 1
    assert (training.checkpoint_every_steps, training.evaluate_every_steps) == (None, None)
    assert (training.log_every_steps, training.sparse_update) == (None, "step")
    train = train.replace("adam_optimizer {}", "sgd_optimizer {}", 1)
    assert convert(tmp_path, train=train).training.sparse_optimizer.to_dict() == {
        "name": "lazy_sgd", "lr": 0.002, "max_gradient": None,
    }  # fmt: skip


def test_losses_decide_the_label(tmp_path):
    def label(losses, more=""):
        return convert(tmp_path, losses=losses, metrics="", model=MODEL + more).data.table

    assert label("losses { binary_focal_loss { gamma: 3 } }").labels == {}
    assert label("losses { l2_loss {} }").labels["y"].kind == "number"
    both = label("losses { l2_loss {} } losses { binary_cross_entropy {} }")
    assert both.trained_label.kind == "binary"
    assert label("losses { jrc_loss { session_name: 'a' } }", "num_class: 2").labels["y"].kind == (
        "class"
    )
    config = convert(
        tmp_path,
        losses="losses { l2_loss {} }",
        metrics="metrics { mean_absolute_error {} } metrics { mean_squared_error {} } "
        "metrics { xauc { max_pairs: 50 } } metrics { grouped_xauc { grouping_key: 'a' } }",
    )
    metrics = named(config.evaluation.metrics)
    assert [metric["name"] for metric in metrics] == [
        "mae", "mse", "xauc", "grouped_xauc",
    ]  # fmt: skip
    assert metrics[2]["max_pairs"] == 50
    assert config.training.metric == "mae"


def test_fg_encoded_overrides_the_mode(tmp_path):
    def column(data):
        feature = FEATURES.replace('expression: "user:a"', 'expression: "user:z"')
        return convert(tmp_path, data=data, features=feature).data.table.fields["a"].column

    assert column("fg_mode: FG_DAG") == "z"
    assert column("fg_mode: FG_DAG fg_encoded: true") is None
    assert column("fg_encoded: false") == "z"  # FG_DAG
    assert column("fg_encoded: false fg_threads: 0") == "z"  # FG_NORMAL


def test_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def table(train, valid="v.parquet", data=""):
        paths = f"train_input_path: '{train}' eval_input_path: '{valid}'"
        return convert(tmp_path, paths=paths, data=data).data.table

    assert table("a.parquet, b/*.parquet").files == ("a.parquet", "b/*.parquet")
    (tmp_path / "rows").mkdir()
    assert table("rows", data="dataset_type: ParquetDataset").files == ("rows/*.parquet",)
    pa.parquet.write_table(pa.table({"a": [1]}), tmp_path / "rows" / "part-0.parquet")
    assert table("rows").files == ("rows/*.parquet",)
    assert table("rows/", data="dataset_type: CsvDataset").files == ("rows/*.parquet",)
    named = "dataset_type: CsvDataset input_fields_str: 'y:INT;a:BIGINT;b:STRING;n:FLOAT'"
    found = table("none/", "v.csv", data=named)
    assert (found.files, found.valid_files) == (("none/*.csv",), ("v.csv",))
    assert (found.columns, found.delimiter) == (("y", "a", "b", "n"), ",")
    assert found.fields["a"].type == "sparse"
    typed = "dataset_type: CsvDataset delimiter: '|' input_fields { input_name: 'y' }"
    assert table("x.txt", "v.csv", data=typed).columns == ("y",)
    assert table("x.csv", "v.csv").columns == ()  # the first line has the names
    untyped = "dataset_type: CsvDataset input_fields { input_name: 'a' }"  # INT32 is its default
    assert table("x.csv", "v.csv", data=untyped).fields["a"].type == "sequence"
    for train, valid, data, expected in (
        ("x.csv", "v.parquet", "with_header: true", "eval_input_path: training and evaluation"),
        ("nowhere", "v.csv", "", "train_input_path: nowhere: no such file or directory"),
        ("", "v.csv", "", "train_input_path: a path is needed"),
        ("x.parquet", "", "", "eval_input_path: a path is needed"),
        ("x.parquet", "odps://p/tables/t", "", "eval_input_path: only local files"),
        ("x.parquet", "v.parquet", "dataset_type: KafkaDataset", "KafkaDataset is not supported"),
        ("x.csv", "v.csv", "input_fields_str: 'y:INTEGER'", "unknown type 'INTEGER'"),
        ("x.csv", "v.csv", "input_fields_str: 'y'", "expected name:TYPE;..., found 'y'"),
    ):
        paths = f"train_input_path: '{train}' eval_input_path: '{valid}'"
        assert expected in problem(tmp_path, paths=paths, data=data)


def group(name: str, names: str, kind: str = "DEEP", more: str = "") -> str:
    return f"feature_groups {{ group_name: '{name}' feature_names: [{names}] group_type: {kind} {more} }}\n"  # noqa: E501


WIDE, FM, DEEP = group("wide", "'a'", "WIDE"), group("fm", "'a', 'b'"), group("deep", "'a', 'n'")
TALL = FEATURES.replace("num_buckets: 20 embedding_dim: 4", "num_buckets: 20 embedding_dim: 8")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"groups": WIDE + DEEP},
         "embedding dimensions of the deep group must be the same (read by the FM, as there is no "
         "group fm), found a 4, n 1"),
        ({"features": TALL}, "dimensions of the fm group must be the same, found a 4, b 8"),
        ({"groups": group("wide", "'a', 'n'", "WIDE") + FM + DEEP},
         "dense feature 'n' should not be configured in the wide group"),
        ({"groups": WIDE + FM}, "deepfm needs a group deep; found: wide, fm"),
        ({"groups": FM + DEEP, "model": "wide_and_deep { deep { hidden_units: 8 } }"},
         "wide_and_deep needs a group wide; found: fm, deep"),
        ({"groups": WIDE + FM + group("deep", "'a', 'z'")}, "no feature 'z'; known: a, b, n"),
        ({"groups": WIDE + FM + DEEP + FM}, "a second group 'fm'"),
        ({"groups": WIDE + group("fm", "'a', 'a'") + DEEP}, "'a' stands twice"),
        ({"groups": group("wide", "'a'") + FM + DEEP}, "wide is WIDE, found DEEP"),
        ({"groups": WIDE + group("fm", "'a'", "WIDE") + DEEP}, "fm is DEEP, found WIDE"),
        ({"groups": WIDE + group("deep", "'a'", "SEQUENCE")}, "deep is DEEP, found SEQUENCE"),
        ({"groups": WIDE + group("deep", "'a'", "JAGGED_SEQUENCE")},
         "JAGGED_SEQUENCE is not supported; supported are DEEP, WIDE and SEQUENCE"),
        ({"groups": WIDE + FM + group("deep", "'a'", more="sequence_groups { who: 'knows' }")},
         "unknown field 'model_config.feature_groups[2].sequence_groups[0].who'"),
        ({"groups": group("fm", "") + DEEP},
         "feature_groups[0]: feature_names: group 'fm' has none"),
        ({"groups": WIDE + group("deep", "")}, "feature_names: group 'deep' has none"),
        ({"train": TRAIN.replace("0.001 }", "0.001 } exponential_decay_learning_rate {}", 1)},
         "sparse_optimizer.exponential_decay_learning_rate: decay_size: a value is needed"),
        ({"train": TRAIN.replace("dense_optimizer {",
                                 "dense_optimizer { cosine_annealing_learning_rate {}")},
         "dense_optimizer.cosine_annealing_learning_rate: T_max: a value is needed"),
        ({"features": FEATURES.replace("num_buckets: 10",
                                       "num_buckets: 10 init_fn: 'nn.init.uniform_,a=2,b=1'")},
         "id_feature.init_fn: nn.init.uniform_: uniform_ expects"),
        ({"features": FEATURES + FEATURES}, "a second feature 'a'"),
        ({"features": FEATURES + "feature_configs {}"}, "expected an id_feature, raw_feature or"),
        ({"model": ""}, "model_config: expected a model, one of deepfm, wide_and_deep, xdeepfm"),
        ({"model": "deepfm { }"}, "model_config.deepfm.deep: hidden_units: a value is needed"),
        ({"model": "deepfm { deep { hidden_units: 4 } final { } }"}, "deepfm.final: hidden_units"),
        ({"model": "deepfm { deep { hidden_units: 4 use_bn: true use_ln: true } }"},
         "deep.use_ln: choose use_bn or use_ln, not both"),
        ({"model": "deepfm { deep { hidden_units: [4, 2] dropout_ratio: [0.1, 0.1, 0.1] } }"},
         "expected one number, or one for each of 2 hidden units, found 3"),
        ({"model": "deepfm { deep { hidden_units: 4 activation: 'nn.Sine' } }"},
         "deepfm.deep.activation: 'nn.Sine' is none of"),
        ({"model": MODEL.replace("deep {", "wide_init_fn: 'os.system' deep {")},
         "deepfm.wide_init_fn: expected one of"),
        ({"model": "xdeepfm { cin { cin_layer_size: 4 } deep { hidden_units: 4 } }"},
         "xdeepfm needs final { hidden_units }"),
        ({"model": "xdeepfm { deep { hidden_units: 4 } final { hidden_units: 4 } }"},
         "cin_layer_size: a value is needed"),
        ({"model": MODEL + "use_pareto_loss_weight: true"},
         "use_pareto_loss_weight: not supported"),
        ({"model": MODEL + "num_class: 3"},
         "losses[0].binary_cross_entropy: it needs num_class: 1, found num_class: 3"),
        ({"losses": "losses { softmax_cross_entropy {} }"}, "it needs num_class above 1, found"),
        ({"losses": "losses { jrc_loss { session_name: 'a' } }"}, "it needs num_class: 2, found"),
        ({"losses": "losses { jrc_loss {} }", "model": MODEL + "num_class: 2"}, "session_name"),
        ({"losses": ""}, "losses: a value is needed"),
        ({"losses": "losses {}"}, "losses[0]: expected a loss, one of"),
        ({"losses": "losses { l2_loss {} }"}, "metrics[0].auc: it is of probabilities"),
        ({"metrics": "metrics { mean_squared_error {} }"}, "it is of predicted numbers"),
        ({"metrics": "metrics { multiclass_auc {} }"}, "it needs num_class above 1, found 1"),
        ({"metrics": "metrics { recall_at_k {} }"}, "recall_at_k: not supported; matching models"),
        ({"metrics": "metrics { grouped_auc { grouping_key: 'z' } }"}, "no feature 'z'; known:"),
        ({"metrics": "metrics { grouped_auc { grouping_key: 'n' } }"}, "'n' is no id_feature"),
        ({"metrics": "metrics { grouped_auc { } }"}, "grouped_auc: grouping_key: is needed"),
        ({"metrics": "metrics { }"}, "metrics[0]: expected a metric, one of auc"),
        ({"train": TRAIN + "num_steps: 4"}, "train_config: choose one of num_epochs and num_steps"),
        ({"train": TRAIN.replace("num_epochs: 1", "")}, "choose one of num_epochs and num_steps"),
        ({"train": TRAIN.replace("adagrad_optimizer", "lamb_optimizer")},
         "lamb_optimizer: not supported; supported sparse optimizers: sgd_optimizer, adagrad_"),
        ({"train": TRAIN.replace("adam_optimizer", "rmsprop_optimizer")},
         "rmsprop_optimizer: not supported; supported dense optimizers"),
        ({"train": TRAIN.replace("adagrad_optimizer { lr: 0.001 }",
                                 "adam_optimizer { weight_decay: 0.1 }")},
         "sparse_optimizer.adam_optimizer.weight_decay: not supported"),
        ({"train": TRAIN.replace("adam_optimizer { lr: 0.001 }", "")},
         "train_config.dense_optimizer: expected one of sgd_optimizer"),
        ({"train": TRAIN.replace("sparse_optimizer { adagrad_optimizer { lr: 0.001 } }", "")},
         "train_config.sparse_optimizer: expected one of sgd_optimizer"),
        ({"train": TRAIN + "grad_clipping { clipping_type: 'l2' }"},
         "expected norm, value or none, found 'l2'"),
        ({"train": TRAIN + "fine_tune_checkpoint: 'x'"}, "fine_tune_checkpoint: not supported"),
        ({"data": "batch_size: 0"}, "data_config.batch_size: expected at least 1"),
        ({"data": "sample_mask_prob: 0.1"}, "sample_mask_prob: not supported"),
        ({"data": "negative_sampler { what: 'ever' }"}, "negative_sampler: not supported"),
        ({"more": "eval_config { use_dense_ema: true }"}, "eval_config.use_dense_ema: with ema"),
        ({"more": "export_config { exporter_type: 'final' }"}, "unknown type 'final'"),
        ({"more": "export_config { exporter_type: 'best' best_exporter_metric: 'accuracy' }"},
         "'accuracy' is not evaluated; known: auc, binary_cross_entropy"),
        ({"more": "export_config { exporter_type: 'best' metric_larger_is_better: false }"},
         "of auc the larger is better"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_or_is_refused(tmp_path, parts, expected):
    assert expected in problem(tmp_path, **parts)


def test_a_field_set_to_its_default_is_not_refused(tmp_path):
    data = "sample_mask_prob: 0 negative_sample_mask_prob: 0.0"
    assert convert(tmp_path, data=data) == convert(tmp_path)


def test_several_refused_fields(tmp_path):
    parts = {"data": "sample_mask_prob: 0.1", "model": "dssm_v2 { mlp { } }"}
    found = problem(tmp_path, **parts)
    assert "model_config.dssm_v2: not supported (1 more fields are not); supported models" in found
    found = problem(tmp_path, train=TRAIN + "fine_tune_checkpoint: 'x'", data=parts["data"])
    assert "fine_tune_checkpoint: not supported (1 more" in found  # the first in the file


def test_what_is_left_out_is_said_once(tmp_path, caplog):
    caplog.set_level("INFO", "deepfm")
    features = FEATURES.replace("embedding_dim: 4", "embedding_dim: 4 data_type: 'FP16'")
    convert(
        tmp_path,
        features=features + FEATURES.splitlines()[1].replace('"a"', '"unused"'),
        train=TRAIN + "use_tensorboard: false is_profiling: true",
        data="label_fields: 'z' pin_memory: false",
        groups=GROUPS + group("extra", "'a'"),
    )
    lines = [record.message.partition(": ")[2] for record in caplog.records]
    assert lines == [
        "train_config.is_profiling is ignored: train --profile shows where the time goes",
        "train_config.use_tensorboard is ignored: the history is in history.jsonl",
        "data_config.pin_memory is ignored: how batches reach a GPU",
        "feature_configs[0].id_feature.data_type is ignored (as in 1 more places): tables are "
        "float32",
        "model_config.feature_groups[3]: deepfm reads wide, fm, deep; group 'extra' is left out",
        "feature_configs: in no group, left out: unused",
        "data_config.label_fields: the first is trained on, z left out",
    ]


def test_mixed_precision_is_that_of_products(tmp_path, caplog):
    caplog.set_level("INFO", "deepfm")
    for said, expected in (("", "fp32"), ("BF16", "bf16"), ("FP16", "fp32")):
        config = convert(tmp_path, train=f"{TRAIN} mixed_precision: '{said}'")
        assert (config.training.precision, config.evaluation.precision) == (expected, "fp32")
    (line,) = (record.message.partition(": ")[2] for record in caplog.records)
    assert line == "train_config.mixed_precision: FP16 is trained in fp32; BF16 is supported"
    found = problem(tmp_path, train=f"{TRAIN} mixed_precision: 'FP8'")
    assert "train_config.mixed_precision: expected BF16 or FP16, found 'FP8'" in found


def test_overrides_come_before_the_checks(tmp_path):
    config = convert(tmp_path, "feature_configs[:].id_feature.num_buckets=7")
    assert [f.num_buckets for f in config.data.table.fields.values()] == [7, 7, None]
    found = problem(tmp_path, "data_config.sample_mask_prob=0.5")
    assert found.startswith("--override: data_config.sample_mask_prob: not supported")


def test_the_largest_number_as_the_norm(tmp_path):
    clipping = "grad_clipping { clipping_type: 'norm' norm_type: inf }"
    config, text, _ = load_pipeline(write(tmp_path, train=TRAIN + clipping))
    assert config.training.gradient_clip_norm_type == math.inf
    (tmp_path / "x.yaml").write_text(text)
    assert load_config(tmp_path / "x.yaml") == config
    problem(tmp_path, train=TRAIN + clipping.replace("inf", "nan"))


@pytest.mark.parametrize(
    "model",
    [
        "simple_multi_task", "dc2vr", "pepnet", "dlrm_hstu", "ultra_hstu", "dssm", "dssm_v2", "dat",
        "hstu_match", "mind", "tdm", "rocket_launching", "sid_rqvae", "sid_rqkmeans",
        "generative_qwen",
    ],
)  # fmt: skip
def test_a_model_that_is_not_built_is_named_before_all_else(tmp_path, model):
    """Also before other names that the format lacks."""
    parts = {
        "train": TRAIN + "who: 'knows'",
        "model": f"{model} {{ tower {{ a: [1, 2] }} }} losses {{ recon_loss {{ }} }}",
        "features": FEATURES + "feature_configs { lookup_feature { map: 'x' } }",
    }
    found = problem(tmp_path, **parts)
    assert f"model_config.{model}: not supported" in found
    assert "supported models: deepfm, " in found
    assert "did you mean" not in found


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        *((f"{name} {{ x: 1 }}", name) for name in (
            "lookup_feature", "match_feature", "expr_feature", "overlap_feature",
            "tokenize_feature", "custom_feature", "kv_dot_product", "bool_mask_feature",
            "combine_feature", "sequence_lookup_feature", "sequence_match_feature",
            "sequence_expr_feature", "sequence_overlap_feature", "sequence_tokenize_feature",
            "sequence_custom_feature", "sequence_kv_dot_product", "sequence_bool_mask_feature",
            "sequence_combine_feature",
        )),
        ("sequence_feature { features { id_feature { } } features { expr_feature { a: 1 } } }",
         "sequence_feature.features[1].expr_feature"),
    ],
)  # fmt: skip
def test_a_kind_of_feature_that_is_not_built_is_named(tmp_path, kind, path):
    features = FEATURES + f"feature_configs {{ {kind} }}"
    found = problem(tmp_path, features=features, data="who: 'knows' sample_mask_prob: 0.1")
    assert f"feature_configs[3].{path}: not supported (1 more" in found
    assert "supported features: id_feature, raw_feature, combo_feature" in found


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"losses": "losses { contrastive_loss { } }"},
         "losses[0].contrastive_loss: not supported; supported losses: binary_cross_entropy"),
        ({"features": FEATURES.replace("num_buckets: 10", "zch { zch_size: 5 }")},
         "feature_configs[0].id_feature.zch: not supported; supported tables"),
        ({"features": FEATURES.replace("num_buckets: 10", "dynamicemb { max_capacity: 5 }")},
         "feature_configs[0].id_feature.dynamicemb: not supported; supported tables"),
        ({"features": FEATURES.replace('"item:n"', '"item:n" autodis { num_channels: 3 }')},
         "feature_configs[2].raw_feature.autodis: not supported; supported dense embeddings"),
        ({"data": "hard_negative_sampler_v2 { a: 1 }"}, "hard_negative_sampler_v2: not supported"),
        ({"model": MODEL + "use_pareto_loss_weight: true"}, "use_pareto_loss_weight: not supp"),
    ],
)  # fmt: skip
def test_other_parts_that_are_not_built_are_named(tmp_path, parts, expected):
    assert expected in problem(tmp_path, **parts)


def test_empty_paths_convert_and_are_refused_when_read(tmp_path, caplog):
    caplog.set_level("INFO", "deepfm")
    for data, ending in (("", "parquet"), ("dataset_type: CsvDataset", "csv")):
        path = write(tmp_path, paths="train_input_path: ''", data=data)
        path.write_text(path.read_text().replace('model_dir: "out"', 'model_dir: ""'))
        config = load_pipeline(path, is_read=False).config
        table = config.data.table
        assert table.files == (f"train_input_path.{ending}",)
        assert table.valid_files == (f"eval_input_path.{ending}",)
        assert config.output_dir == "outputs/x"
        with pytest.raises(ConfigError, match="train_input_path: a path is needed"):
            load_pipeline(path)
    table = load_pipeline(path, ["train_input_path=a.parquet"], is_read=False).config.data.table
    assert (table.files, table.valid_files) == (("a.parquet",), ("eval_input_path.parquet",))
    lines = [record.message.partition(": ")[2] for record in caplog.records]
    assert "model_dir: it is empty: outputs/x" in lines
    assert any(line.startswith("eval_input_path: a path is needed") for line in lines)
