"""The configuration: defaults, strictness, and errors that say what to do."""

import dataclasses
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deepfm.config import (
    ExperimentConfig,
    TrainingConfig,
    config_from_dict,
    load_config,
    metric_names,
)
from deepfm.data.declared import declared_schema
from deepfm.errors import ConfigError
from deepfm.utils.settings import expand_name


@pytest.fixture
def config_file(tmp_path):
    def write(text: str, *, complete: bool = False):
        """`complete` adds a line, without which a file says too little to be a config."""
        path = tmp_path / "my_run.yaml"
        path.write_text(f"{text}\nmodel_name: deepfm\n" if complete else text)
        return path

    return write


def test_a_model_name_alone_gives_the_defaults_and_an_output_dir_of_its_name(config_file):
    config = load_config(config_file("", complete=True))
    assert config == dataclasses.replace(ExperimentConfig(), output_dir="outputs/my_run")
    assert (config.training.lr, config.model.dnn.hidden_units) == (1e-3, (256, 128, 64))


def test_scientific_notation_is_a_number(config_file):
    config = load_config(
        config_file("training: {lr: 1e-3}\nfeature: {embedding_l2_reg: 2E+0}", complete=True)
    )
    assert config.training.lr == 0.001
    assert config.feature.embedding_l2_reg == 2.0


def test_overrides_replace_values_and_reach_into_mappings(config_file):
    path = config_file("training: {lr: 0.5}", complete=True)
    overrides = ["training.lr=1e-2", "dnn.hidden_units=[4, 2]", "feature.embedding_dims.genres=3"]
    config = load_config(path, overrides)
    assert config.training.lr == 0.01
    assert config.model.dnn.hidden_units == (4, 2)
    assert config.feature.embedding_dims == {"genres": 3}


def test_the_effective_config_spells_out_every_default_and_reads_back_equal(config_file):
    config = load_config(
        config_file(
            "model_name: attention_deepfm\ntraining: {optimizer: {name: sgd, momentum: 0.9}}"
        )
    )
    plain = config.to_dict()
    assert plain["training"]["optimizer"] == {
        "name": "sgd",
        "lr": None,
        "momentum": 0.9,
        "dampening": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
    }
    assert plain["attention"]["num_layers"] == 1
    assert config_from_dict(yaml.safe_load(yaml.safe_dump(plain))) == config


@given(
    lr=st.floats(1e-9, 10, allow_nan=False),
    units=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    metric=st.sampled_from(metric_names()),
    clip=st.none() | st.floats(0.1, 5),
)
def test_any_valid_config_survives_yaml(lr, units, metric, clip):
    raw = {
        "training": {"lr": lr, "metric": metric, "gradient_clip_norm": clip},
        "dnn": {"hidden_units": units},
    }
    config = config_from_dict(raw)
    assert config_from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainig: {lr: 1}", "my_run.yaml:1: unknown key 'trainig'; did you mean 'training'?"),
        ("seed: 1\ntraining:\n  learning: 1", "my_run.yaml:3: unknown key 'training.learning'"),
        ("training: {lr: fast}", "training.lr: expected a number, found 'fast'"),
        ("training: {lr: 0}", "training.lr: expected above 0, found 0.0"),
        ("training: {lr: .nan}", "training.lr: nan is not finite"),
        ("training: {epochs: true}", "training.epochs: expected a whole number, found true"),
        ("training: {epochs: 1.5}", "training.epochs: expected a whole number, found 1.5"),
        ("training: {scheduler: cosin}", "did you mean 'cosine'?"),
        ("training: {metric: ndgc@10}", "did you mean 'ndcg@10'?"),
        ("training: {optimizer: adm}", "unknown optimizer 'adm'; did you mean 'adam'?"),
        ("training: {optimizer: {name: adam, momentum: 1}}", "adam has no option 'momentum'"),
        ("training: {optimizer: {name: adam, betas: 1}}", "expected two numbers in [0, 1)"),
        ("training: {sparse_optimizer: 3}", "a text or a mapping with a name and options or null"),
        ("dnn: {hidden_units: [8, 0]}", "dnn.hidden_units: expected at least 1, found 0"),
        ("dnn: {dropout: 1}", "dnn.dropout: expected below 1, found 1.0"),
        ("dnn: 5", "dnn: expected keys below it, found 5"),
        ("feature: {embedding_dims: {genres: x}}", "a mapping of names to whole numbers"),
        ("format_version: 9", "format_version 9: this release reads versions 1 and 2"),
        ("seed: 1\nseed: 2", "my_run.yaml:2: key 'seed' is given twice"),
        ("seed: [", "my_run.yaml:1: "),
        ("- 1", "expected sections with keys, found list"),
        ("seed: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ],
)
def test_a_wrong_config_is_one_line_that_names_the_place(config_file, text, message):
    with pytest.raises(ConfigError) as caught:
        load_config(config_file(text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.lrr=1", "--override unknown key 'training.lrr'; did you mean 'lr'?"),
        ("training.lr=x", "--override training.lr: expected a number, found 'x'"),
        ("training.lr", "expected section.key=value"),
        ("training.lr=: a: b", "is no YAML value"),
    ],
)
def test_a_wrong_override_says_so(config_file, override, message):
    with pytest.raises(ConfigError) as caught:
        load_config(config_file(""), [override])
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nope\.yaml: cannot read the config"):
        load_config(tmp_path / "nope.yaml")


def test_the_python_api_checks_optimizers_too():
    assert TrainingConfig(optimizer="adamw").optimizer.weight_decay == 0.01
    with pytest.raises(ConfigError, match="unknown optimizer"):
        TrainingConfig(optimizer="rmsprop")


def warned(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


TABLE = """
data:
  dataset_name: tabular
  split_strategy: random
  table:
    files: x.csv
    columns: [click, I1..I2, C09..C11]
    label: click
    fields:
      [user, item]: {type: sparse, min_count: 3}
      I1..I2: {type: dense}
      C09..C11: {type: sparse}
"""
LONG = """
data:
  dataset_name: tabular
  split_strategy: random
  table:
    files: x.csv
    columns: [click, I1, I2, C09, C10, C11]
    label: click
    fields:
      user: {type: sparse, min_count: 3}
      item: {type: sparse, min_count: 3}
      I1: {type: dense}
      I2: {type: dense}
      C09: {type: sparse}
      C10: {type: sparse}
      C11: {type: sparse}
"""


def test_ranges_and_lists_of_names_stand_for_each_in_written_order(config_file):
    short, long = load_config(config_file(TABLE)), load_config(config_file(LONG))
    assert short == long
    assert list(short.data.table.fields) == list(long.data.table.fields)
    changed = load_config(config_file(TABLE), ["data.table.fields.C09..C10.min_count=7"])
    counts = [changed.data.table.fields[name].min_count for name in ("C09", "C10", "C11")]
    assert counts == [7, 7, None]
    dims = "feature: {embedding_dims: {C1..C3: 4, '[a, b]': 2}, groups: {deep: [C1..C2, a]}}"
    feature = load_config(config_file(dims, complete=True)).feature
    assert feature.embedding_dims == {"C1": 4, "C2": 4, "C3": 4, "a": 2, "b": 2}
    assert feature.groups == {"deep": ("C1", "C2", "a")}


def test_an_override_of_one_name_of_a_range_leaves_the_others(config_file):
    changed = load_config(config_file(TABLE), ["data.table.fields.item.min_count=9"])
    assert changed.data.table.fields["item"].min_count == 9
    assert changed.data.table.fields["user"].min_count == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            TABLE + "      C10: {type: dense}\n",
            "my_run.yaml:13: data.table.fields.C10: C10 is given",
        ),
        (
            TABLE.replace("I1..I2: {type: dense}", "I1..I2: {kind: dense}"),
            "my_run.yaml:11: unknown",
        ),
    ],
)
def test_a_wrong_range_is_placed(config_file, text, message):
    with pytest.raises(ConfigError) as caught:
        load_config(config_file(text))
    assert message in str(caught.value)


def test_a_range_that_falls_or_changes_its_word_is_a_name():
    for name in ("C3..C1", "a1..b2", "1..", "x"):
        assert expand_name(name) == [name]


@pytest.mark.parametrize(
    ("old", "new", "warnings"),
    [
        ("dnn: {use_batch_norm: false}", "dnn: {norm: none}", 0),
        ("dnn: {use_batch_norm: true}", "dnn: {norm: batch}", 0),
        ("dnn: {use_batch_norm: false, use_layer_norm: true}", "dnn: {norm: layer}", 1),
        (
            "final: {hidden_units: [4], use_batch_norm: false}",
            "final: {hidden_units: [4], norm: none}",
            0,
        ),
        (
            "training: {scheduler_factor: 0.5, scheduler_patience: 1}",
            "training: {scheduler: {name: reduce_on_plateau, factor: 0.5, patience: 1}}",
            2,
        ),
        (
            "training: {scheduler: cosine, scheduler_t_max: 4}",
            "training: {scheduler: {name: cosine, t_max: 4}}",
            1,
        ),
        (
            "training: {scheduler: {name: cosine_annealing, t_max: 4, min_lr: 0.1}}",
            "training: {scheduler: {name: cosine, t_max: 4, min_lr: 0.1, by_epoch: false, "
            "at_end: stay}}",
            1,
        ),
    ],
)
def test_older_keys_say_the_same(config_file, caplog, old, new, warnings):
    before = load_config(config_file(old, complete=True))
    assert len(warned(caplog)) == warnings
    assert all("is an older name; say" in line for line in warned(caplog))
    caplog.clear()
    assert before == load_config(config_file(new, complete=True))
    assert not warned(caplog)
    assert config_from_dict(before.to_dict()) == before


def test_a_section_of_another_model_is_checked_and_ignored_with_a_line(config_file, caplog):
    caplog.set_level("INFO", logger="deepfm")
    config = load_config(path := config_file("cin: {layer_sizes: [4]}", complete=True))
    assert config == load_config(config_file("", complete=True))
    assert [r.getMessage() for r in caplog.records] == [
        f"{path}:1: cin is ignored: deepfm does not read it"
    ]
    with pytest.raises(ConfigError, match=r"my_run\.yaml:1: unknown key 'cin\.layer_size'"):
        load_config(config_file("cin: {layer_size: [4]}"))
    with pytest.raises(ConfigError, match=r"cin\.layer_sizes: expected at least 1"):
        load_config(config_file("cin: {layer_sizes: [0]}"))
    assert "cin" not in config.to_dict()


def test_limits_of_a_models_options_name_their_key(config_file):
    with pytest.raises(ConfigError, match=r"my_run\.yaml:1: dnn\.dropout: expected below 1"):
        load_config(config_file("dnn: {dropout: 1}"))


def test_one_dim_for_all_fields_that_name_none(config_file):
    text = LONG.replace("user: {type: sparse", "user: {embedding_dim: 5, type: sparse")
    config = load_config(
        config_file(text), ["feature.embedding_dim=7", "feature.embedding_dims.item=3"]
    )
    dims = {name: f.embedding_dim for name, f in declared_schema(config).fields.items()}
    assert [dims[name] for name in ("user", "item", "C09", "C11")] == [5, 3, 7, 7]
    adapter = load_config(config_file("", complete=True), ["feature.embedding_dim=6"])
    embedded = [f for f in declared_schema(adapter).fields.values() if f.is_embedded]
    assert {f.embedding_dim for f in embedded} == {6}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_name: [deepfm]", "my_run.yaml:1: model_name: unknown model ['deepfm']"),
        ("data: {split_strategy: [time]}", "my_run.yaml:1: data.split_strategy: expected one of"),
        ("data: {split_strategy: {a: 1}}", "my_run.yaml:1: data.split_strategy: expected one of"),
        ("data: {split_strategy: 3}", "found 3"),
    ],
)
def test_what_cannot_be_a_name_is_refused_in_one_line(config_file, text, message):
    with pytest.raises(ConfigError) as caught:
        load_config(config_file(text))
    assert message in str(caught.value)


VERSION_1 = """
format_version: 1
data:
  dataset_name: tabular
  split_strategy: random
  table:
    files: [a.csv]
    label: y
    fields:
      "[a, b]": {type: dense, scale: log1p}
      c: {type: dense, scale: standard}
"""


def test_version_1_is_read_as_what_it_meant(config_file, caplog):
    """Written out, so that a run of it, saved and read again, is the same experiment."""
    config = load_config(config_file(VERSION_1))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    (line,) = caplog.messages
    assert re.match(r".*\.yaml:2: format_version 1: defaults of that version hold", line)
    fields = config.data.table.fields
    assert [field.scale for field in fields.values()] == ["plain_log1p", "plain_log1p", "standard"]
    assert config.training.initial_bias == "zero"
    assert config.format_version == 2
    caplog.clear()
    assert config_from_dict(config.to_dict()) == config
    assert not caplog.messages

    said = load_config(config_file(VERSION_1), ["training.initial_bias=base_rate"])
    assert said.training.initial_bias == "base_rate"
    new = load_config(config_file(VERSION_1.replace("format_version: 1", "")))
    assert new.data.table.fields["a"].scale == "log1p"
    assert new.training.initial_bias == "base_rate"
