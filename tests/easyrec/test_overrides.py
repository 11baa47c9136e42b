"""Changes by paths of the format, on a real pipeline."""

from pathlib import Path

import pytest

from deepfm.easyrec import overrides
from deepfm.easyrec.reading import read
from deepfm.errors import ConfigError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "easyrec"
SMALL = """
train_config { dense_optimizer { adam_optimizer { lr: 0.001 } constant_learning_rate {} } }
data_config { label_fields: "clk" batch_size: 8 }
feature_configs { id_feature { feature_name: "a" num_buckets: 50 embedding_dim: 16 } }
feature_configs { id_feature { feature_name: "b" num_buckets: 5 embedding_dim: 16 } }
feature_configs { raw_feature { feature_name: "c" embedding_dim: 16 boundaries: [1, 2] } }
feature_configs { id_feature { feature_name: "d" hash_bucket_size: 20 embedding_dim: 8 } }
model_config { feature_groups { group_name: "deep" feature_names: ["a", "b"] } dlrm { } }
"""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "x.config"
    path.write_text(SMALL)
    return lambda: read(path)


def changed(pipeline, *changes):
    overrides.apply(pipeline, changes)
    return pipeline.message


def buckets(message) -> list[int]:
    return [feature.id_feature.num_buckets for feature in message.feature_configs]


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
@pytest.mark.parametrize(
    ("selector", "places"),
    [
        ("[3]", [3]),
        ("[1:3]", [1, 2]),
        ("[13:]", [13, 15]),
        ("[:2]", [0, 1]),
        ("[:]", [k for k in range(16) if k != 14]),  # 14 is a raw feature
        ("[id_feature.feature_name=brand]", [13]),
        ("[id_feature.num_buckets>400000]", [0, 9, 11, 13]),
        ("[id_feature.num_buckets>=423438]", [0, 9, 11, 13]),
        ("[id_feature.num_buckets<5]", [3, 7, 15]),  # 15 has none, which is 0
        ("[id_feature.num_buckets<=5]", [3, 5, 6, 7, 15]),
    ],
)
def test_selectors_on_a_real_pipeline(selector, places):
    before = buckets(read(SHARED / "multi_tower_taobao.config").message)
    pipeline = read(SHARED / "multi_tower_taobao.config")
    message = changed(pipeline, f"feature_configs{selector}.id_feature.num_buckets=77")
    expected = [77 if k in places else size for k, size in enumerate(before)]
    assert buckets(message) == expected
    assert message.feature_configs[14].WhichOneof("feature") == "raw_feature"
    assert pipeline.place(f"feature_configs[{places[0]}].id_feature.num_buckets") == "--override"


@pytest.mark.parametrize(
    ("change", "read_back", "expected"),
    [
        ("train_config.num_epochs=3", lambda m: m.train_config.num_epochs, 3),
        ("model_dir=a b=c", lambda m: m.model_dir, "a b=c"),
        ("model_dir='quoted'", lambda m: m.model_dir, "quoted"),
        ("data_config.with_header=True", lambda m: m.data_config.with_header, True),
        ("data_config.fg_mode=FG_DAG", lambda m: m.data_config.fg_mode, 3),
        ("data_config.label_fields=['x', 'y']", lambda m: [*m.data_config.label_fields],
         ["x", "y"]),
        ("data_config.label_fields='x'", lambda m: [*m.data_config.label_fields], ["x"]),
        ("data_config.label_fields[0]=x", lambda m: [*m.data_config.label_fields], ["x"]),
        ("data_config.label_fields=[]", lambda m: [*m.data_config.label_fields], []),
        ("feature_configs[2].raw_feature.boundaries=[5]",
         lambda m: [*m.feature_configs[2].raw_feature.boundaries], [5]),
        ("feature_configs[2].raw_feature.boundaries[0:1]=0.5",
         lambda m: [*m.feature_configs[2].raw_feature.boundaries], [0.5, 2]),
        ("model_config.feature_groups[0].feature_names=['b']",
         lambda m: [*m.model_config.feature_groups[0].feature_names], ["b"]),
        ("model_config.feature_groups[group_name=deep].group_type=WIDE",
         lambda m: m.model_config.feature_groups[0].group_type, 1),
        ("data_config.input_fields_str=a:INT64;b:STRING;data_config.batch_size=4",
         lambda m: (m.data_config.input_fields_str, m.data_config.batch_size),
         ("a:INT64;b:STRING", 4)),
        ("data_config.batch_size;data_config.eval_batch_size=3;5",
         lambda m: (m.data_config.batch_size, m.data_config.eval_batch_size), (3, 5)),
        ("data_config.batch_size;data_config.eval_batch_size=3",
         lambda m: (m.data_config.batch_size, m.data_config.eval_batch_size), (3, 3)),
        ("model_config.deepfm=deep { hidden_units: [4, 2] }",
         lambda m: [*m.model_config.deepfm.deep.hidden_units], [4, 2]),
        ("feature_configs[1]=raw_feature { feature_name: 'new' }",
         lambda m: m.feature_configs[1].raw_feature.feature_name, "new"),
        ("feature_configs=[{ raw_feature { feature_name: 'new' } }]",
         lambda m: [f.WhichOneof("feature") for f in m.feature_configs], ["raw_feature"]),
    ],
)  # fmt: skip
def test_values_are_read_as_the_field_s_type(small, change, read_back, expected):
    assert read_back(changed(small(), change)) == expected


def test_a_message_is_cleared_before_it_is_read(small):
    message = changed(small(), "train_config.dense_optimizer=sgd_optimizer { lr: 0.5 }")
    dense = message.train_config.dense_optimizer
    assert dense.WhichOneof("optimizer") == "sgd_optimizer"
    assert dense.WhichOneof("learning_rate") is None
    message = changed(small(), "train_config.dense_optimizer.adamw_optimizer.lr=0.5")
    dense = message.train_config.dense_optimizer  # one path may name another member
    assert dense.WhichOneof("optimizer") == "adamw_optimizer"
    assert dense.HasField("constant_learning_rate")


def test_the_line_of_a_replaced_field_is_forgotten(small):
    pipeline = small()
    changed(pipeline, "feature_configs[0]=raw_feature { feature_name: 'n' }")
    assert pipeline.place("feature_configs[0].raw_feature.feature_name") == "--override"
    assert pipeline.place("feature_configs[1].id_feature.num_buckets").endswith("x.config:5")


def test_elements_of_another_kind_are_named_in_the_log(small, caplog):
    caplog.set_level("INFO", "deepfm")
    changed(small(), "feature_configs[:].id_feature.num_buckets=3")
    assert [record.message for record in caplog.records] == [
        "--override feature_configs[:].id_feature.num_buckets=3: left as they are, having no such "
        "field: 1"
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("training.epochs=3", "training is a key of the YAML form"),
        ("data.table.files=x", "data is a key of the YAML form"),
        ("feature_config[0].id_feature.num_buckets=3", "did you mean 'feature_configs'?"),
        ("feature_configs[0].id_feature.num_bucket=3",
         "unknown field 'feature_configs[0].id_feature.num_bucket'; did you mean 'num_buckets'?"),
        ("feature_configs.id_feature.num_buckets=3", "feature_configs is a list; select with"),
        ("feature_configs[9].id_feature.num_buckets=3", "feature_configs[9] selects none of 4"),
        ("feature_configs[id_feature.feature_name=z].id_feature.num_buckets=3", "selects none"),
        ("feature_configs[id_feature.poling=z].id_feature.num_buckets=3", "did you mean 'pooling'"),
        ("feature_configs[id_feature=z].id_feature.num_buckets=3", "cannot stand in a condition"),
        ("feature_configs[x].id_feature.num_buckets=3", "cannot read [x]"),
        ("feature_configs[2:3].id_feature.num_buckets=3", "none of the 1 selected elements has"),
        ("feature_configs[-1].id_feature.num_buckets=3", "cannot read [-1]"),
        ("data_config[0].batch_size=3", "data_config is no list"),
        ("data_config.batch_size[0]=3", "data_config.batch_size is no list"),
        ("data_config.batch_size.x=3", "data_config.batch_size has no fields below it"),
        ("data_config.batch_size=-3", "expected a whole number that is not negative, found '-3'"),
        ("data_config.batch_size=99999999999", "found '99999999999'"),
        ("data_config.with_header=yes", "expected true or false, found 'yes'"),
        ("data_config.fg_mode=DAG", "expected one of FG_NONE, FG_NORMAL"),
        ("train_config.dense_optimizer=adam { }",
         "unknown field 'train_config.dense_optimizer.adam'"),
        ("train_config.dense_optimizer=adam_optimizer {", "is missing"),
        ("data_config.label_fields=x", "data_config.label_fields"),
        ("model_config.dssm.x=3", "model_config.dssm is not supported, and nothing below it"),
        ("train_config.num_epochs", "expected path=value"),
        ("=3", "expected path=value"),
        ("train_config..num_epochs=3", "cannot read the path at '.num_epochs'"),
        ("model_dir;eval_input_path=a;b;c", "2 paths and 3 values"),
    ],
)  # fmt: skip
def test_mistakes(small, change, expected):
    with pytest.raises(ConfigError) as caught:
        changed(small(), change)
    assert str(caught.value).startswith(f"--override {change}")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
