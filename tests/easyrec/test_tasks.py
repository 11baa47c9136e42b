"""Task towers of pipelines as tasks."""

import json
from pathlib import Path

import pytest

from deepfm.cli import main
from deepfm.config import load_config
from deepfm.data.declared import declared_schema
from deepfm.easyrec.pipelines import load_pipeline
from deepfm.errors import ConfigError
from deepfm.models import count_parameters
from tests.easyrec.pipelines import write
from tests.easyrec.rows import write_rows

ROOT = Path(__file__).parents[2]
SIZE = "hash_bucket_size=50"
LOSS = "losses { binary_cross_entropy {} }"
DATA = "label_fields: ['clk', 'buy'] sample_weight_fields: ['w', 'v']"
TOWERS = f"""
task_towers {{ tower_name: "ctr" label_name: "clk" mlp {{ hidden_units: [4] }}
  metrics {{ auc {{}} }} metrics {{ grouped_auc {{ grouping_key: "a" }} }} {LOSS}
  train_metrics {{ auc {{ thresholds: 50 }} decay_step: 3 }} }}
task_towers {{ tower_name: "cvr" label_name: "buy" num_class: 2 weight: 0.5 sample_weight_name: "w"
  losses {{ jrc_loss {{ session_name: "b" }} }} metrics {{ auc {{ thresholds: 1000 }} }}
  task_space_indicator_label: "clk" in_task_space_weight: 2 out_task_space_weight: 0.25 }}
"""
BEST = "export_config {{ exporter_type: 'best' best_exporter_metric: '{}' {} }}"


def converted(tmp_path, towers: str = TOWERS, **parts):
    model = f"mmoe {{ expert_mlp {{ hidden_units: [4] }} {towers} }}"
    group = "feature_groups { group_name: 'all' feature_names: ['a', 'b', 'n'] }"
    given = {"groups": group, "model": model, "losses": "", "metrics": "", "data": DATA}
    return load_pipeline(write(tmp_path, **(given | parts)))


def test_towers_are_tasks(tmp_path):
    config, text, _ = converted(tmp_path)
    ctr, cvr = config.tasks.values()
    assert list(config.tasks) == ["ctr", "cvr"]
    assert (ctr.label, ctr.weight, ctr.num_class, ctr.sample_weight) == ("clk", 1, 1, None)
    assert [metric.name for metric in ctr.metrics] == ["auc", "gauc"]
    assert [(m.name, m.thresholds, m.decay_step) for m in ctr.train_metrics] == [("auc", 50, 3)]
    assert (ctr.space, [loss.name for loss in ctr.losses]) == (None, ["binary_cross_entropy"])
    assert (cvr.label, cvr.weight, cvr.num_class, cvr.sample_weight) == ("buy", 0.5, 2, "w")
    assert (cvr.space, cvr.in_space_weight, cvr.out_space_weight) == ("clk", 2, 0.25)
    table = config.data.table
    kinds = {name: label.kind for name, label in table.labels.items()}
    assert kinds == {"clk": "binary", "buy": "class"}
    assert table.group_columns == ("a", "b")
    assert (config.training.keep, config.training.metric) == ("last", "ctr.auc")
    sections = config.model.mmoe
    assert sections.towers["ctr"].hidden_units == (4,)
    assert (sections.towers["cvr"].hidden_units, sections.towers["cvr"].init) == ((), "torch")
    assert (sections.num_experts, sections.gate) == (3, None)
    (tmp_path / "x.yaml").write_text(text)
    assert load_config(tmp_path / "x.yaml") == config


def test_the_best_evaluation_has_the_name_of_the_format(tmp_path):
    for name, ours, more in (
        ("auc_ctr", "ctr.auc", ""),
        ("auc_cvr", "cvr.auc", ""),
        ("binary_cross_entropy_ctr", "ctr.binary_cross_entropy", "metric_larger_is_better: false"),
    ):
        config = converted(tmp_path, more=BEST.format(name, more)).config
        assert (config.training.keep, config.training.metric) == ("best", ours)
    with pytest.raises(ConfigError, match="'auc' is not evaluated; did you mean 'auc_"):
        converted(tmp_path, more=BEST.format("auc", ""))


def test_a_label_of_two_kinds_has_two_names(tmp_path):
    towers = TOWERS.replace('label_name: "buy"', 'label_name: "clk"')
    config = converted(tmp_path, towers).config
    assert [task.label for task in config.tasks.values()] == ["clk", "clk_class"]
    assert config.data.table.labels["clk_class"].column == "clk"


def test_a_tower_without_a_label_has_that_of_its_place(tmp_path):
    towers = TOWERS.replace('label_name: "clk"', "").replace('label_name: "buy"', "")
    data = "label_fields: ['buy'] " + DATA.replace("'clk', 'buy'", "'clk'")
    config = converted(tmp_path, towers.replace('"clk"', '"buy"'), data=data).config
    assert [task.label for task in config.tasks.values()] == ["y", "buy"]


def test_one_tower_alone(tmp_path):
    config = converted(tmp_path, TOWERS[: TOWERS.index('task_towers { tower_name: "cvr"')]).config
    assert list(config.tasks) == ["ctr"]
    assert config.training.metric == "auc"
    assert config.model.mmoe.tower.hidden_units == (4,)


def test_what_no_task_reads_is_said(tmp_path, caplog):
    caplog.set_level("INFO", "deepfm")
    converted(tmp_path, metrics="metrics { auc {} }")
    lines = [record.message.partition(": ")[2] for record in caplog.records]
    assert "data_config.label_fields: no task reads y" in lines
    assert "data_config.sample_weight_fields: no task reads v" in lines
    assert "model_config.metrics: the towers have their own; left out" in lines


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"ctr"', '"c t"', "task_towers[0].tower_name: expected letters, digits and _"),
        ('"cvr"', '"ctr"', "task_towers[1].tower_name: a second tower 'ctr'"),
        ('label_name: "buy"', 'label_name: "bye"',
         "task_towers[1].label_name: 'bye' is none of data_config.label_fields; did you mean"),
        ('sample_weight_name: "w"', 'sample_weight_name: "u"',
         "'u' is none of data_config.sample_weight_fields"),
        ('indicator_label: "clk"', 'indicator_label: "seen"',
         "task_space_indicator_label: 'seen' is none of data_config.label_fields"),
        ("num_class: 2", "num_class: 3", "losses[0].jrc_loss: it needs num_class: 2, found"),
        ("weight: 0.5", "pareto_min_loss_weight: 0.5", "pareto_min_loss_weight: not supported"),
        (LOSS, "", "task_towers[0]: losses: a value is needed"),
        (TOWERS, "", "model_config.mmoe: task_towers: a value is needed"),
        ('grouping_key: "a"', 'grouping_key: "z"', "grouped_auc.grouping_key: no feature 'z'"),
    ],
)  # fmt: skip
def test_what_contradicts_itself(tmp_path, old, new, expected):
    with pytest.raises(ConfigError) as caught:
        converted(tmp_path, TOWERS.replace(old, new, 1))
    assert str(caught.value).startswith(f"{tmp_path}/x.config:")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (f"dbmtl {{ mask_net {{ n_mask_blocks: 1 }} {TOWERS} }}",
         "model_config.dbmtl.mask_net: mask_net needs top_mlp { hidden_units }"),
        (f"ple {{ {TOWERS} }}", "model_config.ple: extraction_networks: a value is needed"),
        (f"ple {{ extraction_networks {{ expert_num_per_task: 1 }} {TOWERS} }}",
         "extraction_networks[0]: share_num: expected at least 1, found 0"),
        (f"mmoe {{ {TOWERS} }}", "mmoe needs expert_mlp { hidden_units }"),
        (f"dbmtl {{ {TOWERS} expert_mlp {{ hidden_units: 2 }} num_expert: 0 }}",
         "num_expert: expected at least 1, found 0"),
        (f"dbmtl {{ {TOWERS} task_towers {{ tower_name: 'x' label_name: 'buy' {LOSS} "
         "relation_tower_names: 'y' relation_mlp { hidden_units: 2 } } }",
         "dbmtl.relations.x.tasks"),
    ],
)  # fmt: skip
def test_models_that_contradict_themselves(tmp_path, model, expected):
    def build() -> None:
        config = converted(tmp_path, model=model).config
        count_parameters(declared_schema(config), config)

    with pytest.raises(ConfigError) as caught:
        build()
    assert expected in str(caught.value)


def test_the_example_and_its_twin(monkeypatch):
    monkeypatch.chdir(ROOT)
    config, text, _ = load_pipeline("examples/dbmtl_clicks.config")
    twin = ROOT / "examples" / "dbmtl_clicks.yaml"
    assert text == twin.read_text(), f"python -m deepfm convert makes another {twin.name}"
    assert load_config(twin) == config


def test_the_example_trains(tmp_path, monkeypatch, capsys):
    """Sequences with one table for the item and the clicks, tasks, a task's space."""
    monkeypatch.chdir(tmp_path)
    path = ROOT / "examples" / "dbmtl_clicks.config"
    changes = ["data_config.batch_size=32", "model_dir=run"]
    changes += ["feature_configs[id_feature.hash_bucket_size>0].id_feature.hash_bucket_size=50"]
    changes += [f"feature_configs[5].sequence_feature.features[0].id_feature.{SIZE}"]
    changes += write_rows(path, changes, tmp_path, 160, 64)
    words = [word for change in changes for word in ("--override", change)]
    assert main(["train", "--config", str(path), *words]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["valid"]
    assert metrics["ctr"].keys() & {"auc", "in_space"} == {"auc"}
    assert "auc" in metrics["cvr"]["in_space"]
    assert "error" not in capsys.readouterr().err
