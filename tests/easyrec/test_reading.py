"""Protobuf text and JSON: forms of the language, places, and one-line errors."""

import json
from pathlib import Path

import pytest
from google.protobuf import json_format, text_format
from hypothesis import given
from hypothesis import strategies as st

from deepfm.easyrec.pipeline_pb2 import EasyRecConfig
from deepfm.easyrec.reading import read
from deepfm.errors import ConfigError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "easyrec"


@pytest.fixture
def written(tmp_path):
    def write(text: str, name: str = "x.config"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def known(path):
    """What a file says, or the error about the first name that the format lacks."""
    found = read(path)
    for error in found.unknown:
        raise error
    return found


def error_of(path) -> str:
    with pytest.raises(ConfigError) as caught:
        known(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


FORMS = """
# all forms that the language has
train_input_path: "a" 'b'  # adjacent texts are one
eval_input_path: "tab\\tquote\\" \\003 \\x1d"
train_config: { num_epochs: 1, save_checkpoints_steps: 0x10; }
data_config < batch_size: 7 with_header: true fg_mode: FG_DAG
  label_fields: "y" label_fields: ["z", 'w'] >
feature_configs {
  raw_feature: {
    feature_name: "r"
    boundaries: [ -1.5,
      2, 3e1 ]
  }
}
feature_configs: [ { id_feature { feature_name: "a" } },
  { id_feature { feature_name: "b" vocab_dict { key: "k" value: 3 } } } ]
model_config { deepfm { deep { hidden_units: [] } } metrics { auc {} } metrics { auc: {} } }
"""


def test_every_form_of_the_language(written):
    found = read(written(FORMS))
    message = found.message
    expected = EasyRecConfig()
    text_format.Parse(FORMS, expected)  # nothing in it is skipped
    assert message == expected
    assert message.train_input_path == "ab"
    assert message.eval_input_path == 'tab\tquote" \x03 \x1d'
    assert message.train_config.save_checkpoints_steps == 16
    assert list(message.data_config.label_fields) == ["y", "z", "w"]
    assert list(message.feature_configs[0].raw_feature.boundaries) == [-1.5, 2, 30]
    assert message.feature_configs[2].id_feature.vocab_dict == {"k": 3}
    line = lambda path: int(found.place(path).rpartition(":")[2])  # noqa: E731
    assert line("train_config.num_epochs") == 5
    assert line("data_config.label_fields[1]") == 7
    assert line("feature_configs[0].raw_feature.boundaries[2]") == 12
    assert line("feature_configs[2].id_feature.feature_name") == 16
    assert line("feature_configs[2].id_feature.pooling") == 16  # not set: where the feature is
    assert line("model_config.metrics[1].auc") == 17
    assert found.place("eval_config.num_steps") == found.file


@pytest.mark.parametrize("name", ["deepfm_criteo", "dlrm_criteo", "multi_tower_taobao"])
@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
def test_real_pipelines(name):
    found = known(SHARED / f"{name}.config")
    assert found.message.model_config.WhichOneof("model") == name.rpartition("_")[0]
    assert len(found.message.feature_configs) == (16 if "taobao" in name else 39)
    lines = (SHARED / f"{name}.config").read_text().splitlines()
    for path, place in found.places.items():  # each line has the last name of its path
        last = path.split(".")[-1].partition("[")[0]
        assert last in lines[int(place.rpartition(":")[2]) - 1], path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train_config {\n  num_epoch: 1\n}",
         ":2: unknown field 'train_config.num_epoch'; did you mean 'num_epochs'?"),
        ("feature_configs { id_feature { } }\n\nfeature_configs { id_feature {\n hash_size: 3 } }",
         ":4: unknown field 'feature_configs[1].id_feature.hash_size'"),
        ("train_config {\n  num_epochs: 1\n", ":1: train_config: '}' is missing"),
        ("train_config {\n num_epochs 1 }",
         ":2: train_config.num_epochs: expected ':' and a value"),
        ("train_config {\n num_epochs: x }", ":2: "),
        ("train_config {\n num_epochs: -1 }", ":2: "),
        ("model_dir: \"abc\n\"", ":1: a text that is not closed"),
        ("data_config {\n fg_mode: FG_NORMALE\n}", ":2: "),
        ("model_dir: 'a'\nmodel_dir: 'b'", ":2: "),
        ("data_config { } }", ":1: expected a field's name, found '}'; outside all brackets"),
        ("feature_configs {\n id_feature { }\n raw_feature { }\n}", ":3: "),
        ("model_config: 3", ":1: model_config: expected { ... }, found '3'"),
        ("data_config { batch_size: [1, 2] }", ":1: data_config.batch_size: not a list"),
        ("data_config {\n label_fields: ['a' 'b'\n 'c' 3] }",
         ":3: data_config.label_fields: expected ',' or ']'"),
        ("model_config {\n dssm {", ":2: model_config.dssm: a bracket is not closed"),
        ("model_config {\n esmm { a: [{", ":2: model_config.esmm: a bracket is not closed"),
        ("train_config {\n num_epoch", ":2: train_config.num_epoch: expected ':' and a value"),
        ("train_config {\n num_epoch:", ":2: train_config.num_epoch: a value is missing"),
        ("model_config {\n esmm { } }", ":2: unknown field 'model_config.esmm'; "),
        ("train_config { num_epoch: 1 }\nfeature_configs { id_feature { x: 1 } }\n"
         "feature_configs { sid_feature { } }\nmodel_config { esmm {} }",
         ":3: unknown field 'feature_configs[1].sid_feature'; "),
        ("model_config {\n deepmf { } }",
         ":2: unknown field 'model_config.deepmf'; did you mean 'deepfm'?; supported models: "),
        ("\n@", ":2: no part of the format: @"),
        ("[a.b]: 1", ":1: expected a field's name, found '['"),
    ],
)  # fmt: skip
def test_mistakes_name_file_and_line(written, text, expected):
    assert error_of(written(text)).startswith(expected)


def test_what_is_refused_is_not_read(written):
    found = read(written("model_config {\n dssm { a { b: [1, '}'] # }\n} c: <> }\n num_class: 2 }"))
    assert found.message.model_config.WhichOneof("model") == "dssm"
    assert found.message.model_config.num_class == 2
    assert found.place("model_config.num_class").endswith(":4")


UNKNOWN = """
train_config { a: 1, b: -2.5; c: "x" 'y' d { e: [1, { f: '}' }] } num_epochs: 3 g: [ ] h <> }
data_config { i: [1, 2] ; batch_size: 7 }
model_config { j: k deepfm { deep { hidden_units: [4] l: true } } num_class: 1 }
"""


def test_unknown_names_are_skipped_and_kept(written):
    found = read(written(UNKNOWN))
    assert found.message.train_config.num_epochs == 3
    assert found.message.data_config.batch_size == 7
    assert list(found.message.model_config.deepfm.deep.hidden_units) == [4]
    assert found.message.model_config.num_class == 1
    problems = [str(error).partition("unknown field '")[2] for error in found.unknown]
    names = [problem.partition("'")[0].rpartition(".")[2] for problem in problems]
    assert names == [*"jabcdghi", "l"]  # of a model or feature first, then as they stand
    assert found.place("model_config.deepfm.deep.hidden_units").endswith(":4")


def test_unknown_names_in_json(written):
    raw = {"who": {"knows": [1]}, "model_config": {"num_class": 2, "x": 1}, "model_dir": "a"}
    found = read(written(json.dumps(raw, indent=1), "x.json"))
    assert (found.message.model_config.num_class, found.message.model_dir) == (2, "a")
    assert [str(error).partition("unknown field '")[2][:5] for error in found.unknown] == [
        "model", "who';",
    ]  # fmt: skip


def test_a_file_that_cannot_be_read(tmp_path):
    assert "cannot read the config" in error_of(tmp_path / "none.config")
    (tmp_path / "x.config").write_bytes(b"\xff\xfe")
    assert "cannot read the config" in error_of(tmp_path / "x.config")


def test_json_is_the_same_message(written):
    message = EasyRecConfig()
    text_format.Parse(FORMS, message)
    for keep in (True, False):
        text = json_format.MessageToJson(message, preserving_proto_field_name=keep)
        assert read(written(text, "x.json")).message == message


def test_places_in_json(written):
    text = json.dumps(
        {"trainConfig": {"num_epochs": 2},
         "feature_configs": [{"id_feature": {}}, {"raw_feature": {}}],
         "model_config": {"dssm": {"who": ["knows"]}}}, indent=1,
    )  # fmt: skip
    found = read(written(text, "x.json"))
    line = lambda path: int(found.place(path).rpartition(":")[2])  # noqa: E731
    assert line("train_config.num_epochs") == 3
    assert line("feature_configs[1].raw_feature") == 10
    assert found.message.model_config.HasField("dssm")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"train_config": {\n "num_epoch": 1}}', ":2: unknown field 'train_config.num_epoch'"),
        ('{"a": 1', ":1: "),
        ("[]", ":1: expected an object"),
        ('{"train_config": {"num_epochs": "x"}}', ": "),
        ('{"train_config": 3}', ": "),
    ],
)
def test_mistakes_in_json(written, text, expected):
    assert error_of(written(text, "x.json")).startswith(expected)


@given(st.text(st.sampled_from("{}[]<>:;,# \n\"'ab\\1.-train_config"), max_size=30))
def test_any_text_is_read_or_answered_in_one_line(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.config"
    path.write_text(text)
    found = ""
    try:
        read(path)
    except ConfigError as error:
        found = str(error)
    assert found.startswith(str(path)) or not found
    assert "\n" not in found


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 50_000 + "1" + "}" * 50_000,
        '{"feature_configs":' + "[" * 50_000 + "]" * 50_000 + "}",
        '{"model_config":{"deepfm":{"deep":' + '{"x":' * 700 + "1" + "}" * 703,
    ],
    ids=["objects", "lists", "below a known field"],
)
def test_json_nested_without_end_is_one_error(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"x\.json"):
        known(path)
