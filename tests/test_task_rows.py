"""Which rows train a task and which measure it: weights of its own, its space; and ESMM."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import yaml
from sklearn.metrics import log_loss, roc_auc_score
from torch.nn.functional import binary_cross_entropy_with_logits

from deepfm.calibrate import calibrate
from deepfm.checkpoint import load_checkpoint
from deepfm.cli import main
from deepfm.config import config_from_dict
from deepfm.data.dataset import TabularDataset
from deepfm.data.files.writer import TableWriter
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.errors import ConfigError, DataError
from deepfm.evaluation.scoring import evaluate, evaluate_metric
from deepfm.experiment import baselines
from deepfm.held_out import evaluate_checkpoint
from deepfm.models import build_model
from deepfm.objectives import Task, is_larger_better, metric_names
from deepfm.objectives.tasks import watched_metrics
from deepfm.prediction import Predictor
from deepfm.training.initial_bias import start_at_base_rate
from deepfm.training.steps import TrainingStep
from deepfm.training.trainer import Trainer

ESMM = {
    "ctr": {"label": "clicked"},
    "cvr": {"label": "bought", "space": "clicked", "weight": 0},
    "ctcvr": {"label": "bought"},
}
SMALL = {"tower": {"hidden_units": [8], "dropout": 0.0}}


def raw_config(tasks, *, model="mmoe", metric=None, **sections):
    raw = {
        "model_name": model,
        "device": "cpu",
        "data": {
            "dataset_name": "tabular",
            "split_strategy": "random",
            "table": {
                "files": "rows.csv",
                "labels": {"clicked": {"column": "c"}, "bought": {"column": "b"}},
                "group_columns": ["session"],
                "fields": {"city": {"type": "sparse", "embedding_dim": 4}},
            },
        },
        "tasks": tasks,
        model: SMALL | ({"expert": {"hidden_units": [8]}} if model == "mmoe" else {}),
        "training": {"epochs": 1, "batch_size": 64, "lr": 0.02, "metric": metric or "ctr.auc"},
    }
    for name, section in sections.items():
        raw[name] = raw[name] | section
    return raw


def settings(tasks, **kwargs):
    return config_from_dict(raw_config(tasks, **kwargs))


def drawn(count=400, seed=0):
    """City, click, purchase after a click, weight."""
    rng = np.random.default_rng(seed)
    city = rng.integers(1, 9, count)
    click = rng.random(count) < city / 10
    buy = click & (rng.random(count) < 0.8 - city / 20)
    return city, click, buy, rng.random(count).round(3), rng.integers(0, 20, count)


def rows(config, count=400, seed=0):
    """The columns of labels that a config needs, encoded."""
    city, click, buy, weight, session = drawn(count, seed)
    columns = {"clicked": click, "bought": buy, "weight of w": weight}
    names = tuple(config.label_rules())
    schema = DatasetSchema(
        fields={"city": FieldSchema("city", "sparse", vocabulary_size=9, embedding_dim=4)},
        label_field="c",
        label_columns=names,
        group_columns=("session",),
    )
    label = np.column_stack([columns[name] for name in names]).astype(np.float32)
    return TabularDataset.from_arrays(
        schema, {"city": city}, label, group=session[:, None], weight=np.full(count, 2.0)
    )


def losses_of(config, data):
    """Those of one step over all rows, and the logits before it."""
    torch.manual_seed(0)
    model = build_model(data.schema, config)
    step = TrainingStep(model, config.training, [], [])
    found = step.add(data[:])
    return found.losses, {name: own.double() for name, own in found.logits.items()}


SPACE = {"space": "clicked", "in_space_weight": 2.0, "out_space_weight": 0.5, "sample_weight": "w"}


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"sample_weight": "w"},
        {"space": "clicked", "out_space_weight": 0},
        {"space": "clicked", "in_space_weight": 3, "out_space_weight": 0.25},
        SPACE,
    ],
    ids=["plain", "weight", "inside", "both", "all"],
)
def test_the_loss_of_a_task_is_the_weighted_mean_over_its_rows(keys):
    config = settings({"ctr": {"label": "clicked"}, "cvr": {"label": "bought"} | keys})
    data = rows(config)
    losses, logits = losses_of(config, data)
    _, click, buy, w, _ = drawn()
    total = mass = 0.0
    for row in range(len(data)):
        weight = w[row] if "sample_weight" in keys else 2.0
        if "space" in keys:
            inside = "in_space_weight" if click[row] else "out_space_weight"
            weight *= keys.get(inside, 1.0)
        z, y = logits["cvr"][row], torch.tensor(float(buy[row]), dtype=torch.float64)
        total += weight * float(binary_cross_entropy_with_logits(z, y))
        mass += weight
    assert losses["cvr.binary_cross_entropy"].item() == pytest.approx(total / mass, rel=1e-5)


def test_a_task_of_weight_zero_is_measured_and_not_trained():
    tasks = {"ctr": {"label": "clicked"}, "cvr": {"label": "bought", "weight": 0}}
    config = settings(tasks)
    data = rows(config)
    model = build_model(data.schema, config)
    tower = {name: own.clone() for name, own in model.towers[1].state_dict().items()}
    state = Trainer(config.training, config.evaluation, seed=1).fit(model, data, data)
    assert all(torch.equal(own, tower[name]) for name, own in model.towers[1].named_parameters())
    assert state.history[0]["cvr.auc"] is not None


def test_metrics_over_all_rows_and_over_the_space():
    tasks = {
        "ctr": {"label": "clicked"},
        "cvr": {
            "label": "bought",
            "space": "clicked",
            "metrics": ["auc", "logloss", {"name": "gauc", "group": "session"}],
        },
    }
    config = settings(tasks, metric="cvr.in_space.auc")
    data = rows(config)
    model = build_model(data.schema, config)
    result = evaluate(model, data, batch_size=100, train=data)
    _, click, buy, _, _ = drawn()
    predicted = result.predictions["cvr"]
    found = result.metrics["cvr"]
    assert found["auc"] == pytest.approx(roc_auc_score(buy, predicted))
    inside = found["in_space"]
    assert inside["rows"] == click.sum()
    assert inside["auc"] == pytest.approx(roc_auc_score(buy[click], predicted[click]))
    assert inside["logloss"] == pytest.approx(log_loss(buy[click], predicted[click]))
    assert {"gauc", "gauc_groups"} <= set(inside)
    assert "in_space" not in result.metrics["ctr"]
    watched = evaluate_metric(model, data, "cvr.in_space.auc", batch_size=100)
    assert watched["cvr.in_space.auc"] == inside["auc"]
    assert watched["cvr.auc"] == found["auc"]
    few = evaluate_metric(model, data, "cvr.in_space.auc", batch_size=100, max_rows=300)
    some = click[:300]
    expected = roc_auc_score(buy[:300][some], predicted[:300][some])
    assert few["cvr.in_space.auc"] == pytest.approx(expected)


def test_what_a_task_means_in_its_space_only_is_judged_there():
    config = settings(ESMM, model="esmm")
    data = rows(config)
    model = build_model(data.schema, config)
    result = evaluate(model, data, batch_size=100, train=data)
    _, click, buy, _, _ = drawn()
    inside, share = result.metrics["cvr"]["in_space"], buy[click].mean()
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    assert inside["base_rate_logloss"] == pytest.approx(entropy, rel=1e-5)
    assert "ece" in inside
    assert "base_rate_logloss" not in result.metrics["cvr"]
    assert "base_rate_logloss" in result.metrics["ctcvr"]
    assert [found.task for found in result.verdicts] == ["ctr", "cvr", "ctcvr"]


def test_output_biases_start_at_the_base_rate_of_each_task():
    config = settings(ESMM, model="esmm")
    data = rows(config)
    model = build_model(data.schema, config)
    found = start_at_base_rate(model, data)
    _, click, buy, _, _ = drawn()
    for name, share in (("ctr", click.mean()), ("cvr", buy[click].mean())):
        assert found[name].item() == pytest.approx(np.log(share / (1 - share)), rel=1e-5)
    logits = model.eval()(data.inputs)
    share = buy.mean()
    assert logits["ctcvr"].mean().item() == pytest.approx(np.log(share / (1 - share)), abs=0.1)


def test_an_empty_space_has_no_metrics_and_cannot_be_watched():
    tasks = {"ctr": {"label": "bought"}, "cvr": {"label": "bought", "space": "clicked"}}
    config = settings(tasks, metric="cvr.in_space.auc")
    data = rows(config)
    data.label[:, 1] = 0
    model = build_model(data.schema, config)
    result = evaluate(model, data, batch_size=100, train=data)
    assert result.metrics["cvr"]["in_space"] == {"rows": 0, "auc": None, "logloss": None}
    trainer = Trainer(config.training, config.evaluation, seed=1)
    with pytest.raises(ConfigError, match=r"cvr\.in_space\.auc needs rows of its space"):
        trainer.fit(model, data, data)
    tasks["cvr"] |= {"out_space_weight": 0}
    config = settings(tasks)
    model = build_model(data.schema, config)
    trainer = Trainer(config.training, config.evaluation, seed=1)
    with pytest.raises(DataError, match=r"cvr has nothing to train on.*no row is above 0 in click"):
        trainer.fit(model, data, data)


# --- early stopping by a mean --------------------------------------------------------------------


def test_the_mean_of_metrics_is_watched():
    metric = "mean(ctr.auc, cvr.in_space.auc)"
    tasks = {"ctr": {"label": "clicked"}, "cvr": {"label": "bought", "space": "clicked"}}
    config = settings(tasks, metric=metric, training={"epochs": 2})
    data = rows(config)
    model = build_model(data.schema, config)
    state = Trainer(config.training, config.evaluation, seed=1).fit(model, data, data)
    for entry in state.history:
        assert entry[metric] == (entry["ctr.auc"] + entry["cvr.in_space.auc"]) / 2
    assert state.best_value == max(entry[metric] for entry in state.history)
    assert is_larger_better(metric)
    assert not is_larger_better("mean(ctr.logloss, cvr.logloss)")


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("mean(ctr.auc, cvr.logloss)", r"has no direction: better is a larger ctr\.auc, and a sma"),
        ("mean(ctr.auc)", "a mean is of two different metrics or more"),
        ("mean(ctr.auc, ctr.auc)", "a mean is of two different metrics or more"),
        ("mean(ctr.auc, cvr.auk)", r"unknown metric 'cvr\.auk'; did you mean 'cvr\.auc'"),
        ("ctr.in_space.auc", r"unknown metric 'ctr\.in_space\.auc'"),
    ],
)
def test_a_mean_that_says_nothing_is_refused(metric, message):
    tasks = {"ctr": {"label": "clicked"}, "cvr": {"label": "bought"}}
    with pytest.raises(ConfigError, match=rf"training\.metric: .*{message}"):
        settings(tasks, metric=metric)


def test_names_in_a_mean_may_have_commas_in_brackets():
    assert watched_metrics("mean(a.gauc[x,1], b.auc)") == ("a.gauc[x,1]", "b.auc")
    task = Task(name="cvr", label="bought", space="clicked")
    assert "cvr.in_space.auc" in metric_names([task])


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cvr", "message"),
    [
        ({"in_space_weight": 2}, "mean nothing without a space"),
        ({"space": "clicked", "in_space_weight": 0, "out_space_weight": 0}, "are both 0"),
        ({"use_pareto_loss_weight": True}, r"cvr\.use_pareto_loss_weight: Pareto weights .* not"),
        ({"pareto_min_loss_weight": 0.1}, r"cvr\.pareto_min_loss_weight: Pareto weights .* not"),
        ({"sample_weight": 3}, r"tasks\.cvr\.sample_weight: expected a text"),
    ],
)
def test_keys_that_mean_nothing_are_refused(cvr, message):
    with pytest.raises(ConfigError, match=message):
        settings({"ctr": {"label": "clicked"}, "cvr": {"label": "bought"} | cvr})


def test_pareto_weights_are_refused_at_the_top():
    raw = raw_config({"ctr": {"label": "clicked"}, "cvr": {"label": "bought"}})
    with pytest.raises(ConfigError, match=r"^use_pareto_loss_weight: Pareto weights of losses"):
        config_from_dict(raw | {"use_pareto_loss_weight": True})


def test_a_space_is_no_class():
    raw = raw_config({"ctr": {"label": "clicked"}, "cvr": {"label": "bought", "space": "kind"}})
    raw["data"]["table"]["labels"]["kind"] = {"column": "k", "kind": "class"}
    with pytest.raises(ConfigError, match=r"tasks\.cvr\.space: the rows above 0 of a label are"):
        config_from_dict(raw)


def test_esmm_refuses_a_purchase_without_a_click():
    config = settings(ESMM, model="esmm")
    data = rows(config)
    place = int(np.flatnonzero(~drawn()[1])[3])
    data.label[place, 1] = 1.0
    model = build_model(data.schema, config)
    trainer = Trainer(config.training, config.evaluation, seed=1)
    with pytest.raises(DataError, match=f"^row {place + 1}: a conversion without a click"):
        trainer.fit(model, data, data)


# --- from rows to predictions --------------------------------------------------------------------


def write(path, *, weight=None, seed=1, count=900):
    city, click, buy, w, session = drawn(count, seed)
    w = w.astype(str)
    for place, value in (weight or {}).items():
        w[place] = value
    table = pa.table(
        {
            "city": np.char.add("c", city.astype(str)),
            "session": session.astype(str),
            "c": click.astype(int),
            "b": buy.astype(int),
            "w": w,
        }
    )
    with TableWriter(path) as writer:
        writer.write(table)
    return table


def write_config(folder, raw):
    raw["output_dir"] = str(folder / "run")
    raw["data"] |= {"data_dir": str(folder), "store_dir": str(folder / "stores")}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return str(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("value", "found"), [("-1", "'-1'"), ("", "nothing"), ("x", "'x'")])
def test_a_bad_weight_is_an_error_with_its_line(folder, capsys, value, found):
    write(folder / "rows.csv", weight={4: value})
    tasks = {"ctr": {"label": "clicked"}, "cvr": {"label": "bought", "sample_weight": "w"}}
    assert main(["train", "--config", write_config(folder, raw_config(tasks))]) == 2
    error = capsys.readouterr().err
    assert "rows.csv:6: column w: expected a finite number of at least 0" in error
    assert f"found {found}" in error


def test_esmm_from_rows_to_three_columns(folder, capsys):
    table = write(folder / "rows.csv")
    raw = raw_config(ESMM, model="esmm", metric="mean(ctr.auc, ctcvr.auc)")
    path = write_config(folder, raw)
    assert main(["train", "--config", path]) == 0
    metrics = json.loads((folder / "run" / "metrics.json").read_text())["test"]
    assert set(metrics) == {"ctr", "cvr", "ctcvr"}
    assert 0 < metrics["cvr"]["in_space"]["rows"] < 90
    found = pyarrow.parquet.read_table(folder / "run" / "predictions.parquet")
    columns = [f"probability_{name}" for name in ESMM]
    assert set(columns) <= set(found.column_names)
    ctr, cvr, both = (found[name].to_numpy() for name in columns)
    np.testing.assert_allclose(both, ctr * cvr, rtol=1e-5)
    best = folder / "run" / "best_model.pt"
    served = Predictor(best).predict_tasks(table)
    place = found["row"].to_numpy()
    np.testing.assert_allclose(served["ctcvr"][place], both, rtol=1e-5)
    assert main(["predict", "--checkpoint", str(best), "--input", "rows.csv", "--output",
                 "out.csv"]) == 0  # fmt: skip
    assert set(columns) <= set(pa.csv.read_csv("out.csv").column_names)
    assert evaluate_checkpoint(best)["test"]["cvr"]["in_space"] == metrics["cvr"]["in_space"]
    assert any("cvr.in_space.auc" in line for line in capsys.readouterr().out.splitlines())


def test_calibration_of_a_task_of_a_space_reads_its_rows(folder):
    write(folder / "rows.csv", count=3000)
    path = write_config(folder, raw_config(ESMM, model="esmm"))
    assert main(["train", "--config", path]) == 0
    best = folder / "run" / "best_model.pt"
    found = calibrate(best, split="test")
    assert set(found) == {"ctr", "cvr", "ctcvr"}
    clicked = pyarrow.parquet.read_table("run/predictions.parquet")["label_ctr"].to_numpy().sum()
    assert 0 < load_checkpoint(best).calibration["cvr"].rows < clicked


def test_simple_methods_learn_a_task_of_a_space_from_its_rows(folder):
    write(folder / "rows.csv")
    write_config(folder, raw_config(ESMM, model="esmm"))
    raw = yaml.safe_load((folder / "run.yaml").read_text())
    lines = baselines(config_from_dict(raw))
    assert [line for line in lines if line.endswith(":")] == [
        "ctr:",
        "cvr, in its space:",
        "ctcvr:",
    ]


def test_jrc_and_focal_losses_of_tasks(folder):
    write(folder / "rows.csv")
    jrc = {"name": "jrc", "session": "session"}
    gauc = {"name": "gauc", "group": "session"}
    tasks = {
        "ctr": {"label": "clicked", "losses": jrc, "num_class": 2, "metrics": ["auc", gauc]},
        "cvr": {"label": "bought", "losses": "binary_focal", "sample_weight": "w"},
        "both": {"label": "bought", "losses": "softmax_cross_entropy", "num_class": 2},
    }
    raw = raw_config(tasks, model="dbmtl", metric="ctr.gauc")
    raw["dbmtl"] |= {"relations": {"cvr": {"tasks": ["ctr"], "network": {"hidden_units": [4]}}}}
    assert main(["train", "--config", write_config(folder, raw)]) == 0
    metrics = json.loads((folder / "run" / "metrics.json").read_text())["test"]
    assert {"auc", "gauc", "jrc"} <= set(metrics["ctr"])
    assert "binary_focal" in metrics["cvr"]
