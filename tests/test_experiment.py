"""What the composition root checks, and warm starts."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import pytest
import torch

from deepfm import data as registry
from deepfm import experiment, preflight
from deepfm.checkpoint import Checkpoint, RunDirectory, load_checkpoint, transfer
from deepfm.cli import main
from deepfm.config import config_from_dict, load_config
from deepfm.data.schema import DatasetSchema, RawTables
from deepfm.errors import CheckpointError, ConfigError
from deepfm.evaluation.scoring import score
from deepfm.experiment import load_data
from deepfm.models import build_model
from deepfm.prediction import Predictor
from deepfm.preflight import check_settings
from tests import tiny
from tests.models.conftest import changed, config, random_inputs, schema

__all__ = ["config", "schema"]


@pytest.mark.parametrize("strategy", ["predefined", "random", "time"])
def test_a_ranking_metric_needs_a_split_that_makes_a_ranking_task(strategy):
    table = {
        "files": "train.csv",
        "label": "click",
        "time_column": "time",
        "fields": {"city": {"type": "sparse"}},
    }
    if strategy == "predefined":
        table["valid_files"] = "valid.csv"
    raw = {
        "data": {"dataset_name": "tabular", "split_strategy": strategy, "table": table},
        "training": {"metric": "ndcg@10"},
    }
    with pytest.raises(ConfigError, match=r"training\.metric: ndcg@10 needs a ranking task"):
        check_settings(config_from_dict(raw))
    check_settings(config_from_dict(raw | {"training": {"metric": "auc"}}))


def test_settings_are_checked_on_small_tables_however_large_the_declared_ones_are(monkeypatch):
    rows = []

    def build(schema, config):
        rows.extend(field.vocabulary_size for field in schema.fields.values())
        return build_model(schema, config)

    declared = {
        "a": {"type": "sparse", "vocabulary": {"x": 20_000_000}, "oov_id": 30_000_000},
        "b": {"type": "sparse", "num_buckets": 20_000_000, "default": "9"},
        "c": {"type": "sequence", "hash_buckets": 20_000_000, "padding": False},
        "d": {"type": "sparse"},
    }
    table = {"files": "x.csv", "label": "click", "fields": declared}
    raw = {"dataset_name": "tabular", "split_strategy": "random", "table": table}
    monkeypatch.setattr(preflight, "build_model", build)
    check_settings(config_from_dict({"data": raw}))
    assert rows == [2, 2, 2, 2]


def test_the_size_of_a_model_is_shown_in_a_unit_that_suits_it():
    fields = {name: {"type": "sparse", "num_buckets": 10} for name in "ab"}
    table = {"files": "x.csv", "label": "click", "fields": fields}
    raw = {
        "model_name": "wide_and_deep",
        "data": {"dataset_name": "tabular", "split_strategy": "random", "table": table},
        "dnn": {"hidden_units": [4], "use_batch_norm": False},
    }
    parameters, weights = preflight.describe_size(config_from_dict(raw))
    # (2 * 16 + 1) * 4 and an output layer under the global bias; 20 rows of 16 + 1 numbers
    assert parameters == ("parameters: 137 dense, 320 in embedding tables, 20 in wide tables")
    assert weights.startswith("weights: 1.9 KiB; ")


def load_before(data_dir, auto_download) -> RawTables:
    """The small data set before the last users and items came."""
    tables = tiny.load(data_dir, auto_download)
    known = pc.and_(
        pc.less(tables.interactions["user"], 30), pc.less(tables.interactions["item"], 50)
    )
    return RawTables(tables.interactions.filter(known), tables.users[:30], tables.items[:50])


@pytest.fixture
def base(tiny_config, monkeypatch, tmp_path):
    """The best checkpoint of a run on the data as it was before."""
    before = SimpleNamespace(schema=tiny.schema, load=load_before)
    monkeypatch.setitem(registry.ADAPTERS, "before", before)
    path = tiny_config("before", output_dir=str(tmp_path / "before"), data__dataset_name="before")
    experiment.train(load_config(path))
    return tmp_path / "before" / "best_model.pt"


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (
            {"scheduler": {"name": "cosine_annealing"}},
            r"training\.scheduler: cosine_annealing: t_max: expected at least 1, found 0",
        ),
        (
            {
                "sparse_optimizer": "adagrad",
                "sparse_scheduler": {"name": "manual_step", "sizes": [2]},
            },
            r"training\.sparse_scheduler: manual_step: expected one of lrs for each of sizes",
        ),
        (
            {
                "part_optimizers": [
                    {
                        "pattern": "dnn.*",
                        "optimizer": "sgd",
                        "scheduler": {"name": "exponential", "decay_size": 0},
                    }
                ]
            },
            r"training\.part_optimizers\.scheduler: exponential: decay_size",
        ),
        (
            {"optimizer": {"name": "sgd", "nesterov": True}},
            r"training\.optimizer: sgd: Nesterov momentum requires a momentum",
        ),
        (
            {"part_optimizers": [{"pattern": "dnn.wieght", "optimizer": "sgd"}]},
            r"training\.part_optimizers: 'dnn.wieght' matches no whole name",
        ),
        ({"sparse_update": "backward"}, r"training\.sparse_update: backward needs"),
    ],
)
def test_what_contradicts_itself_is_refused_before_data_is_read(tiny_config, training, message):
    config = load_config(tiny_config(data__data_dir="nowhere"))
    raw = config.to_dict()
    raw["training"] |= training
    with pytest.raises(ConfigError, match=f"^{message}"):
        experiment.train(config_from_dict(raw))


def test_the_log_says_what_was_kept_and_that_all_rows_were_scored(tiny_config, caplog):
    config = tiny_config(
        training__metric="logloss",
        training__epochs=2,
        training__keep="last",
        training__evaluate_every_steps=3,
        training__early_stopping_patience=None,
        evaluation__max_batches=2,
        evaluation__batch_size=16,
    )
    with caplog.at_level("INFO"):
        metrics = experiment.train(load_config(config))
    lines = [record.getMessage() for record in caplog.records]
    assert sum("in-training, first 32 rows" in line for line in lines) > 2
    (said,) = (line for line in lines if line.endswith("; final evaluation of all rows"))
    assert "kept are the last weights, of epoch 2" in said
    run = RunDirectory(load_config(config).output_dir)
    table = pa.parquet.read_table(run.predictions)
    label, probability = (table[name].to_numpy() for name in ("label", "probability"))
    odds = probability / (1 - probability) * np.exp(metrics["test"]["prior_correction"])
    by_hand = np.mean(np.log1p(odds) - label * np.log(odds))
    assert len(label) > 32
    assert metrics["test"]["logloss_prior_corrected"] == pytest.approx(by_hand, rel=1e-6)
    kept, last = load_checkpoint(run.best), load_checkpoint(run.last)
    assert all(torch.equal(kept.model[name], last.model[name]) for name in kept.model)


def test_a_run_goes_on_from_its_file_with_all_that_it_has(tiny_config):
    """Averages, schedules, parts, metrics of batches: through `last.pt`, plain data only."""
    settings = {
        "metric": "logloss",
        "gradient_accumulation_steps": 2,
        "ema_decay": 0.9,
        "sparse_optimizer": "adagrad",
        "scheduler": {"name": "exponential", "decay_size": 3, "warmup_size": 4},
        "sparse_scheduler": {"name": "cosine_restarts", "t_0": 5},
        "part_optimizers": [
            {"pattern": "dnn.*", "optimizer": "adagrad", "scheduler": "reduce_on_plateau"}
        ],
        "metrics": [{"name": "auc", "decay_step": 3}, {"name": "accuracy", "decay_step": 2}],
        "evaluate_every_steps": 3,
    }
    changes = {f"training__{key}": value for key, value in settings.items()}
    config = load_config(tiny_config(training__epochs=3, **changes))
    expected = experiment.train(replace(config, output_dir=config.output_dir + "_whole"))
    experiment.train(replace(config, training=replace(config.training, epochs=1)))
    assert experiment.train(config, resume=True) == expected
    whole, parts = (
        RunDirectory(path) for path in (config.output_dir + "_whole", config.output_dir)
    )
    histories = [
        [json.loads(line) | {"seconds": 0} for line in run.history.read_text().splitlines()]
        for run in (whole, parts)
    ]
    assert histories[0] == histories[1]
    assert {"train_auc", "train_accuracy", "evaluations", "sparse_lr"} <= histories[0][0].keys()
    one, other = (load_checkpoint(run.last) for run in (whole, parts))
    for name in ("model", "best_model", "ema"):
        tensors, same = one.training[name], other.training[name]
        assert tensors
        assert all(torch.equal(tensors[key], same[key]) for key in tensors.keys() | same.keys())


def test_a_warm_start_keeps_known_rows_and_initializes_new_ones(base, tiny_config, tmp_path):
    checkpoint, config = load_checkpoint(base), load_config(tiny_config(seed=7))
    data = load_data(config, base=checkpoint.encoders)
    model = build_model(data.encoders.schema, config)
    fresh = copy.deepcopy(model.state_dict())
    transfer(model, checkpoint)
    sizes = {name: len(table) for name, table in model.embedding.tables.state_dict().items()}
    assert (sizes["user.weight"], sizes["item.weight"], sizes["tags.weight"]) == (41, 61, 6)
    for name, weight in model.state_dict().items():
        saved = checkpoint.model[name]
        if not name.startswith("embedding.tables."):
            assert torch.equal(weight, saved), name
            continue
        assert torch.equal(weight[: len(saved)], saved), name
        assert torch.equal(weight[len(saved) :], fresh[name][len(saved) :]), name
        assert weight[len(saved) :].abs().sum(1).all(), name

    rows = load_before(tmp_path, False).interactions
    rows = rows.take(load_data(checkpoint.config).events.split.train)
    inputs = data.encoders.encode(data.events.tables.complete(data.encoders.schema, rows))
    logits = score(model, inputs, batch_size=1000)
    predictor = Predictor(base)
    old = predictor.encoders.encode(data.events.tables.complete(predictor.schema, rows))
    assert len(rows) > 400
    np.testing.assert_array_equal(logits, score(predictor.model, old, batch_size=1000))


def test_training_starts_from_the_checkpoint_with_a_new_optimizer(base, tiny_config, tmp_path):
    saved = load_checkpoint(base).model
    path = tiny_config(training__lr=1e-12, training__epochs=1)
    assert main(["train", "--config", str(path), "--init-from", str(base)]) == 0
    assert f", from {base} with 20 new values" in (tmp_path / "run" / "train.log").read_text()
    last = load_checkpoint(tmp_path / "run" / "last.pt")
    assert last.training["epoch"] == 1
    for name, weight in last.model.items():
        if "running_" not in name and "num_batches" not in name:
            known = weight[: len(saved[name])] if weight.dim() else weight
            torch.testing.assert_close(known, saved[name], msg=name, rtol=0, atol=1e-8)


def test_a_resumed_run_goes_on_from_its_own_checkpoint(base, tiny_config, tmp_path):
    def train(name, epochs, *flags):
        path = tiny_config(output_dir=str(tmp_path / name), training__epochs=epochs)
        assert main(["train", "--config", str(path), *map(str, flags)]) == 0
        return json.loads((tmp_path / name / "metrics.json").read_text())

    whole = train("whole", 3, "--init-from", base)
    train("parts", 1, "--resume", "--init-from", base)  # there is nothing to resume yet
    base.unlink()
    assert train("parts", 3, "--resume", "--init-from", base) == whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_name": "xdeepfm", "dnn__hidden_units": [4]},
            "changed: dnn.hidden_units ([8, 4] -> [4]), model_name ('deepfm' -> 'xdeepfm')",
        ),
        ({"feature__fm_embedding_dim": 4}, "changed: feature.fm_embedding_dim (16 -> 4)"),
        (
            {"feature__embedding_dims": {"user": 4, "tags": 6}},
            "field tags: embedding_dim (4 -> 6); field user: embedding_dim (8 -> 4)",
        ),
        ({"data__dataset_name": "other"}, "field city is not in the checkpoint; field user is "),
        ({"data__dataset_name": "reversed"}, "the fields stand in another order (user, age, "),
    ],
)
def test_a_checkpoint_of_another_model_or_of_other_fields_is_refused(
    base, tiny_config, monkeypatch, capsys, tmp_path, changes, message
):
    """Before any data is read: these data sets have none."""
    fields = tiny.schema().fields
    others = [replace(fields["user"], name="city"), *list(fields.values())[1:]]
    for name, own in (("other", others), ("reversed", reversed(fields.values()))):
        made = DatasetSchema(fields={field.name: field for field in own}, label_field="stars")
        adapter = SimpleNamespace(schema=lambda made=made: made)
        monkeypatch.setitem(registry.ADAPTERS, name, adapter)
    path = tiny_config(**changes)
    capsys.readouterr()
    assert main(["train", "--config", str(path), "--init-from", str(base)]) == 2
    errors = capsys.readouterr().err
    assert "--init-from needs the " in errors
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_to_start_from_must_be_there(tiny_config, capsys, tmp_path):
    arguments = ["train", "--config", str(tiny_config()), "--init-from", str(tmp_path / "x.pt")]
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors == f"error: {tmp_path / 'x.pt'}: cannot be read: No such file or directory\n"


def checkpoint_of(model) -> Checkpoint:
    weights = copy.deepcopy(model.state_dict())
    encoders = SimpleNamespace(schema=model.schema)
    return Checkpoint(model.config, encoders, None, None, None, weights)


def test_shared_hashed_and_unpadded_tables_are_taken_over(schema, config):
    schema = schema.with_fields({"type": {"hash_buckets": 7}})
    old = build_model(schema, config).eval()
    grown = {name: {"vocabulary_size": 15} for name in ("items", "item", "children")}
    new = build_model(schema.with_fields(grown), changed(config, "dnn", dropout=0.5)).eval()
    transfer(new, checkpoint_of(old))
    assert len(new.embedding.tables["items"]) == 15
    assert torch.equal(new.embedding.tables["type"], old.embedding.tables["type"])
    inputs = random_inputs(schema, 50)
    assert torch.equal(new(inputs), old(inputs))


@pytest.mark.parametrize(
    ("fields", "sections", "message"),
    [
        ({"type": {"hash_buckets": 9}}, {}, r"field type: hash_buckets \(0 -> 9\)"),
        ({"tags": {"combiner": "mean"}}, {}, r"field tags: combiner \(max -> mean\)"),
        (
            {"user": {"vocabulary_size": 5}},
            {},
            r"tables\.user\.weight has the shape \(12, 4\), not",
        ),
        ({}, {"dnn": {"hidden_units": (16,)}}, r"dnn\.0\.layers\.1\.0\.weight is unknown"),
        ({}, {"fm": {"use_first_order": False}}, r"dense_first_order is unknown"),
    ],
)
def test_weights_that_do_not_fit_leave_the_model_as_it_was(
    schema, config, fields, sections, message
):
    checkpoint = checkpoint_of(build_model(schema, config))
    for section, values in sections.items():
        config = changed(config, section, **values)
    model = build_model(schema.with_fields(fields), config)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=message):
        transfer(model, checkpoint)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_data_without_a_test_split_gives_validation_metrics_only(
    tiny_config, monkeypatch, capsys, tmp_path
):
    def without_test(*arguments, **keywords):
        return load_data(*arguments, **keywords)._replace(test=None)

    monkeypatch.setattr(experiment, "load_data", without_test)
    config = load_config(tiny_config(training__epochs=1))
    assert set(experiment.train(config)) == {"valid", "protocol"}
    rows = pyarrow.parquet.read_table(tmp_path / "run" / "predictions.parquet")["row"]
    assert rows.to_pylist() == load_data(config).valid.row.tolist()
    capsys.readouterr()
    arguments = ["evaluate", "--checkpoint", str(tmp_path / "run" / "best_model.pt")]
    assert main([*arguments, "--split", "valid"]) == 0
    assert main([*arguments, "--split", "test"]) == 2
    assert capsys.readouterr().err == "error: --split test: the data has no such split\n"


def test_variational_dropout_leaves_a_table_of_each_group(tiny_config, tmp_path):
    """Sorted by usefulness, replaced with the run, and equal for equal seeds."""
    groups = {"wide": ["user", "item"], "deep": ["user", "item", "tags", "income"], "fm": ["tags"]}
    feature = {"groups": groups, "variational_dropout": 0.05}
    texts = []
    for name in ("first", "second"):
        path = tiny_config(feature=feature, output_dir=str(tmp_path / name))
        experiment.train(load_config(path))
        files = sorted((tmp_path / name).glob("feature_dropout_ratio_*.csv"))
        assert [file.stem.rpartition("_")[2] for file in files] == ["deep", "wide"]
        texts.append([file.read_text() for file in files])
    assert texts[0] == texts[1]
    header, *rows = texts[0][0].splitlines()
    assert header == "feature_name,mean_drop_p"
    rows = [row.split(",") for row in rows]
    assert {name for name, _ in rows} == set(groups["deep"])
    drop = [float(q) for _, q in rows]
    assert drop == sorted(drop)
    best = load_checkpoint(tmp_path / "first" / "best_model.pt").build_model()
    assert drop == pytest.approx(sorted(best.embedding.dropouts["deep"].probability.tolist()))
    plain = tiny_config(output_dir=str(tmp_path / "first"))
    experiment.train(load_config(plain), overwrite=True)
    assert not list((tmp_path / "first").glob("feature_dropout_ratio_*.csv"))


def test_groups_are_checked_before_data_is_read(tiny_config):
    path = tiny_config(data__data_dir="nowhere", feature={"groups": {"deep": ["user", "itme"]}})
    with pytest.raises(ConfigError, match=r"^feature\.groups\.deep: no field 'itme'.*'item'"):
        experiment.train(load_config(path))


def test_a_missing_wide_group_is_said_once(tiny_config, caplog):
    path = tiny_config(feature={"groups": {"deep": ["user", "item"]}}, training={"epochs": 1})
    with caplog.at_level("INFO"):
        experiment.train(load_config(path))
    lines = [r.getMessage() for r in caplog.records if "no group wide" in r.getMessage()]
    assert len(lines) == 1


def test_the_baselines_of_a_ranking_task_are_recommenders(tiny_config):
    config = load_config(tiny_config())
    head, *rows = experiment.baselines(config)
    assert head.split() == [
        "valid",
        "hr@10",
        "valid",
        "ndcg@10",
        "test",
        "hr@10",
        "test",
        "ndcg@10",
    ]
    found = {name: list(map(float, values)) for name, *values in map(str.split, rows)}
    assert list(found) == ["popularity", "user_item_bias", "item_knn", "ease", "ials", "markov"]
    data = experiment.load_data(config)
    task, events = data.test.ranking, data.events
    liked = events.label[events.split.train] > 0
    counts = np.bincount(events.item[events.split.train][liked], minlength=60)
    hits = []
    for own, *others in task.items[:, :31].tolist():
        above = sum(counts[k] > counts[own] for k in others if k >= 0)
        tied = sum(counts[k] == counts[own] for k in others if k >= 0)
        hits.append(min(max((10 - above) / (tied + 1), 0), 1))
    assert found["popularity"][2] == pytest.approx(np.mean(hits), abs=6e-5)
