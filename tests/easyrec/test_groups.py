"""Groups of features, sequences and encoders of pipelines, and what contradicts itself."""

import pyarrow as pa
import pytest

from deepfm.data.declared import declared_schema
from deepfm.data.encoding.encoders import Encoders
from deepfm.easyrec.pipelines import load_pipeline
from deepfm.errors import ConfigError
from tests.easyrec.pipelines import write

FEATURES = """
feature_configs { id_feature { feature_name: "a" expression: "item:a" num_buckets: 9
                               embedding_dim: 4 } }
feature_configs { id_feature { feature_name: "b" expression: "item:b" num_buckets: 9
                               embedding_dim: 4 embedding_name: "shared" } }
feature_configs { raw_feature { feature_name: "n" expression: "item:n" } }
feature_configs { sequence_feature { sequence_name: "s" sequence_length: 3 sequence_delim: "|"
  features { id_feature { feature_name: "a" expression: "user:ids" num_buckets: 9
                          embedding_dim: 4 embedding_name: "shared" } }
  features { raw_feature { feature_name: "p" expression: "user:price" boundaries: [1, 2]
                           embedding_dim: 4 } }
  features { raw_feature { feature_name: "n" expression: "user:age"
                           normalizer: "method=zscore,mean=1,standard_deviation=2" } } } }
feature_configs { sequence_id_feature { feature_name: "t" expression: "user:t" num_buckets: 9
  embedding_dim: 4 sequence_length: 2 vocab_list: [] } }
"""
LOSS = "losses { binary_cross_entropy {} }"
TASK = f"task_towers {{ tower_name: 'ctr' label_name: 'y' {LOSS} }}"
MODEL = f"dbmtl {{ {TASK} }}"
PARTS = {"features": FEATURES, "model": MODEL, "losses": "", "metrics": ""}
DIN = "din_encoder { %s attn_mlp { hidden_units: [4] } }"


def group(more: str = "", names: str = '"a", "b", "n"', name: str = "all") -> str:
    return f"feature_groups {{ group_name: '{name}' feature_names: [{names}] {more} }}"


def nested(names: str, encoder: str = DIN % "", more: str = "") -> str:
    return (
        f"sequence_groups {{ {more} feature_names: [{names}] }} sequence_encoders {{ {encoder} }}"
    )


def converted(tmp_path, groups: str, **parts):
    return load_pipeline(write(tmp_path, groups=groups, **(PARTS | parts))).config


STEPS = '"a", "b", "s__a", "s__p", "s__n"'


def test_a_nested_sequence_group(tmp_path):
    config = converted(tmp_path, group(nested(STEPS, more="group_name: 'clicks'")))
    feature = config.feature
    assert dict(feature.groups) == {"deep": ("a", "b", "n")}  # the first group, whatever its name
    (name,) = feature.sequences
    assert name == "clicks"
    assert feature.sequences[name].query == ("a", "b")
    assert feature.sequences[name].sequence == ("s__a", "s__p", "s__n")
    (encoder,) = feature.encoders
    assert (encoder.name, encoder.input, encoder.group) == ("din", "clicks", "deep")
    assert (encoder.softmax, encoder.statistics, encoder.unknown) == (True, "padded", "attend")
    assert (encoder.hidden_units, encoder.activation, encoder.init) == ((4,), "nn.ReLU", "torch")
    assert dict(feature.table_suffixes) == {"clicks": "sequence"}
    fields = config.data.table.fields
    assert {fields[f"s__{part}"].sequence for part in "apn"} == {"s"}
    assert (fields["b"].embedding_name, fields["s__a"].embedding_name) == ("shared", "shared")
    assert fields["s__n"].numbers is True
    assert "t" not in fields


def test_a_group_without_a_name_is_called_like_the_outer_one(tmp_path):
    feature = converted(tmp_path, group(nested(STEPS))).feature
    assert list(feature.sequences) == ["all_sequence"]
    assert feature.encoders[0].input == "all_sequence"


def test_encoders_with_their_options(tmp_path):
    encoders = [
        "simple_attention { input: 'x' max_seq_length: 2 }",
        "pooling_encoder { input: 'x' pooling_type: 'sum' }",
        "multi_window_din_encoder { input: 'x' windows_len: [1, 2] attn_mlp { hidden_units: 3 "
        "activation: 'Dice' dropout_ratio: 0.1 } }",
        "self_attention_encoder { input: 'x' multihead_attn_dim: 8 num_heads: 2 dropout: 0.2 }",
    ]
    text = nested(STEPS, more="group_name: 'x'", encoder=encoders[0])
    text += " ".join(f"sequence_encoders {{ {encoder} }}" for encoder in encoders[1:])
    simple, pooling, windows, attention = converted(tmp_path, group(text)).feature.encoders
    assert (simple.name, simple.max_length) == ("simple_attention", 2)
    assert (pooling.name, pooling.combiner) == ("pooling", "sum")
    assert (windows.name, windows.windows, windows.newest) == ("multi_window_din", (1, 2), "first")
    assert (windows.activation, windows.dropout, windows.statistics) == ("Dice", 0.1, "padded")
    assert (attention.name, attention.attention_dim) == ("self_attention", 8)
    assert (attention.num_heads, attention.dropout) == (2, 0.2)


def test_suffixes_of_tables(tmp_path):
    more = "embedding_name_suffix: 'u'"
    two = nested(STEPS, more="group_name: 'x'", encoder=DIN % "input: 'x'")
    two += nested('"a", "t"', more="group_name: 'z' embedding_name_suffix: 'v'",
                  encoder=DIN % "input: 'z'")  # fmt: skip
    feature = converted(tmp_path, group(more + two)).feature
    assert dict(feature.table_suffixes) == {"deep": "u", "x": "sequence_u", "z": "sequence_v"}


def test_features_of_one_group_are_one_sequence(tmp_path):
    """A feature that is a sequence by itself has its own, until a group joins it with others."""
    alone = nested('"a", "t"')
    assert converted(tmp_path, group(alone)).data.table.fields["t"].sequence == "t"
    joined = nested('"a", "s__a", "t"').replace("group_name", "group_name")
    fields = converted(tmp_path, group(joined)).data.table.fields
    assert fields["t"].sequence == fields["s__a"].sequence == "s"


def test_own_tables_of_groups(tmp_path):
    groups = (
        group("group_type: WIDE", '"a"', "wide")
        + group("embedding_name_suffix: 'f'", '"a", "b"', "fm")
        + group(name="deep")
    )
    parts = {"model": "deepfm { deep { hidden_units: 4 } }", "losses": LOSS}
    config = converted(tmp_path, groups, **parts)
    assert dict(config.feature.table_suffixes) == {"fm": "f"}


@pytest.mark.parametrize("mode", ["FG_NONE", "FG_BUCKETIZE", "FG_NORMAL", "FG_DAG"])
def test_what_the_columns_of_a_sequence_hold(tmp_path, mode):
    """In FG_NONE ids; else values, and a row without steps is one step of the default."""
    text = nested(STEPS, more="group_name: 'x'", encoder=DIN % "input: 'x'")
    text += nested('"a", "t"', more="group_name: 'z'", encoder=DIN % "input: 'z'")
    config = converted(tmp_path, group(text), data=f"fg_mode: {mode}")
    fields = config.data.table.fields
    has_expressions = mode in ("FG_NORMAL", "FG_DAG")
    columns = [fields[name].column or name for name in ("s__a", "s__p", "s__n", "t")]
    expected = ["s__a", "s__p", "s__n", "t"]
    assert columns == (["s__ids", "s__price", "s__age", "t"] if has_expressions else expected)
    cut = 0 if mode == "FG_NONE" else 3
    assert {fields[f"s__{part}"].max_length for part in "apn"} == {cut}
    assert (fields["t"].separator, fields["t"].max_length) == (";", cut and 2)
    values = {
        "a": [1, 2, 3], "b": [1, 2, 3], "n": [0.5, 0.5, 0.5],
        columns[0]: ["3|20||4", "", None], columns[3]: ["1;2;3", "", None],
        columns[1]: ["0.5|1.5||9", "", None], columns[2]: ["5|1|3|0", "", None],
    }  # fmt: skip
    if mode == "FG_NONE":
        values |= {columns[0]: ["3|20|0|4", "", None], columns[1]: ["0|1|0|2", "", None]}
    schema = declared_schema(config)
    table = pa.table(values)
    inputs = Encoders.fit(schema, table).encode(table)
    found = {
        field.name: (ids, lengths.tolist())
        for field, ids, lengths in zip(
            schema.sequence_fields, inputs.padded_ids, inputs.sequence_lengths, strict=True
        )
    }
    ids, lengths = found["s__a"]
    assert lengths == ([4, 0, 0] if mode == "FG_NONE" else [3, 1, 1])
    assert found["s__p"][1] == found["s__n"][1] == lengths
    shown = ids[0, : lengths[0]].tolist()
    assert shown == ([3, 0, 0, 4] if mode == "FG_NONE" else [3, 0, 0])  # 20 is outside: row 0
    buckets = found["s__p"][0][0, : lengths[0]].tolist()
    assert buckets == ([0, 1, 0, 2] if mode == "FG_NONE" else [0, 1, 0])
    assert found["t"][1] == ([3, 0, 0] if mode == "FG_NONE" else [2, 1, 1])
    if mode != "FG_NONE":
        assert ids[1, 0] == found["s__p"][0][1, 0] == 0


def test_default_of_steps(tmp_path):
    features = FEATURES.replace('"user:ids"', '"user:ids" default_value: "5"')
    old = "num_buckets: 9\n  embedding_dim: 4 sequence_length: 2 vocab_list: []"
    features = features.replace(old, 'embedding_dim: 4 vocab_list: ["p", "q"]')
    text = nested(STEPS, more="group_name: 'x'", encoder=DIN % "input: 'x'")
    text += nested('"a", "t"', more="group_name: 'z'", encoder=DIN % "input: 'z'")
    config = converted(tmp_path, group(text), data="fg_mode: FG_DAG", features=features)
    fields = config.data.table.fields
    assert fields["s__a"].default == "5"
    assert fields["t"].default == "0"
    assert fields["t"].vocabulary == {"0": 0, "p": 2, "q": 3}  # the default is word 0


def problem(tmp_path, groups: str, **parts) -> str:
    with pytest.raises(ConfigError) as caught:
        converted(tmp_path, groups, **parts)
    assert str(caught.value).startswith(f"{tmp_path}/x.config:")
    return str(caught.value)


TOWERS = "multi_tower_din { towers { input: 'all' mlp { hidden_units: 4 } } %s final { hidden_units: 4 } }"  # noqa: E501
DIN_TOWER = "din_towers { input: 'q' attn_mlp { hidden_units: 4 } }"
SEQUENCE = group("group_type: SEQUENCE", STEPS, "q")
DEEPFM = {"model": "deepfm { deep { hidden_units: 4 } }", "losses": LOSS}


@pytest.mark.parametrize(
    ("groups", "parts", "expected"),
    [
        ("", {}, "dbmtl needs a feature group; found none"),
        (group(f"sequence_groups {{ feature_names: [{STEPS}] }}"), {},
         "sequence_groups need sequence_encoders; found none"),
        (group(f"sequence_encoders {{ {DIN % ''} }}"), {}, "sequence_encoders need sequence_"),
        (group(nested('"a", "b"')), {}, "no feature of a sequence is there"),
        (group(nested('"s__a"')), {}, "a feature that is no sequence is needed"),
        (group(nested('"a", "b", "t"')), {}, "the query is 8 wide and the sequence 4; it may not"),
        (group(nested('"a", "z"')), {}, "sequence_groups[0].feature_names[1]: no feature 'z'"),
        (group(nested(STEPS, encoder=DIN % "input: 'x'")), {},
         "din_encoder.input: no sequence group 'x'; known: all"),
        (group(nested(STEPS, encoder="hstu_encoder { input: 'x' }")), {},
         "hstu_encoder: not supported; supported encoders: din_encoder, simple_attention"),
        (group(nested(STEPS, encoder="pooling_encoder { pooling_type: 'max' }")), {},
         "pooling_type: expected sum or mean, found 'max'"),
        (group(nested(STEPS, encoder="multi_window_din_encoder { attn_mlp { hidden_units: 4 } }")),
         {}, "windows_len: a value is needed"),
        (group(nested(STEPS, encoder=(DIN % "").replace("[4]", "[4, 4] dropout_ratio: [0, 0.1]"))),
         {}, "of an attention network one number for all layers is supported"),
        (group(nested(STEPS) + nested('"a", "t"')), {}, "one of several groups needs it"),
        (group(nested(STEPS, DIN % "input: 'x'", "group_name: 'x'")
               + "sequence_groups { group_name: 'z' feature_names: ['a', 't'] }"), {},
         "no encoder reads sequence group 'z'"),
        (group(name="deep") + group("group_type: WIDE", '"a"', "wide")
         + group(nested(STEPS), '"a"', "fm"), DEEPFM,
         "group 'fm' cannot have sequence groups and encoders here"),
        (group(nested(STEPS), '"a", "b"', "deep"), DEEPFM,
         "without a group fm, the FM would read what the encoders give"),
        (group("group_type: WIDE", '"s__n"', "wide") + group(name="deep"),
         DEEPFM, "dense feature 's__n' should not be configured in the wide group"),
        (group() + SEQUENCE, {"model": TOWERS % "", "losses": LOSS}, "din_towers: a value is"),
        (group(), {"model": TOWERS % DIN_TOWER, "losses": LOSS},
         "multi_tower_din needs a group q; found: all"),
        (group() + group(name="q"), {"model": TOWERS % DIN_TOWER, "losses": LOSS},
         "q is SEQUENCE, found DEEP"),
        (group() + SEQUENCE.replace("SEQUENCE", "JAGGED_SEQUENCE"),
         {"model": TOWERS % DIN_TOWER, "losses": LOSS}, "JAGGED_SEQUENCE is not supported"),
        (group() + SEQUENCE, {"model": TOWERS % (DIN_TOWER * 2), "losses": LOSS},
         "din_towers[1].input: a second tower of 'q'"),
    ],
)  # fmt: skip
def test_what_contradicts_itself(tmp_path, groups, parts, expected):
    assert expected in problem(tmp_path, groups, **parts)


def test_lengths_that_differ_name_file_and_row(tmp_path):
    config = converted(tmp_path, group(nested(STEPS)))
    columns = {"a": [1, 1], "b": [1, 1], "n": [0.5, 0.5], "s__p": ["0", "1|2"], "s__n": ["1", "1"]}
    table = pa.table(columns | {"s__a": ["3", "1|2"]})
    with pytest.raises(Exception, match="s__"):
        Encoders.fit(declared_schema(config), table).encode(table)
