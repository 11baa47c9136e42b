"""YAML from strangers: whatever stands in a file, it is a config or an error of one short line."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deepfm.config import config_from_dict, load_config
from deepfm.errors import ConfigError
from deepfm.utils.settings import apply_override
from deepfm.utils.yaml_reader import MAX_BYTES, parse_yaml

LAUGHS = "training:\n  lr:\n    - &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"    - &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 9)
)
TABLE = {"files": "x.csv", "label": "y", "fields": {"a": {"type": "sparse"}}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: " + "[" * 2000 + "]" * 2000, "x.yaml:1: nested deeper than 64 levels"),
        ("x: " + "{a: " * 2000 + "}" * 2000, "x.yaml:1: nested deeper than 64 levels"),
        ("feature: &a {embedding_dims: *a}", "x.yaml:1: an alias stands in what it stands for"),
        ("x: &a [*a]", "x.yaml:1: an alias stands in what it stands for"),
        (LAUGHS, "more than 250,000 values, aliases expanded"),
        ("seed: " + "9" * 5000, "x.yaml:1: '999999"),
        ("seed: 0x" + "f" * 5000, "x.yaml:1: a whole number of more than 256 bits"),
        ("? [[a], b]\n: 1", "x.yaml:1: expected a name or a list of names as key"),
        ("? {a: 1}\n: 1", "x.yaml:1: expected a name or a list of names as key"),
        ("day: 2024-13-45", "x.yaml:1: '2024-13-45' is no timestamp; quotation marks make a text"),
        ("seed: !!int abc", "'abc' is no int"),
        ("seed: !!int ''", "'' is no int"),
        ("seed: !!float abc", "'abc' is no float"),
        ("seed: !!bool abc", "'abc' is no bool"),
        ("seed: !!timestamp abc", "'abc' is no timestamp"),
    ],
    ids=str.split("brackets braces anchor list-anchor laughs digits hex list-key mapping-key date "
                  "int empty-int float bool timestamp"),
)  # fmt: skip
def test_yaml_that_is_too_much_or_malformed_is_refused(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "x.yaml")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", ["[" * 2000, "9" * 5000, "{[a, [b]]: 1}", "*a"])
def test_an_override_is_bounded_too(value):
    with pytest.raises(ConfigError) as caught:
        apply_override({}, f"training.lr={value}", {})
    assert "is no YAML value: " in str(caught.value)
    assert len(str(caught.value)) < 400


def test_aliases_and_merged_mappings_are_read():
    raw, lines = parse_yaml("a: &x {k: [1, 2]}\nb: *x\nc:\n  <<: *x\n  m: 3\n", "x.yaml")
    assert raw == {"a": {"k": [1, 2]}, "b": {"k": [1, 2]}, "c": {"k": [1, 2], "m": 3}}
    assert lines["c.m"] == 5


@pytest.mark.parametrize("suffix", ["yaml", "config", "json"])
def test_a_file_larger_than_configs_are_is_refused_before_it_is_parsed(tmp_path, suffix):
    from deepfm.easyrec.pipelines import load_pipeline

    path = tmp_path / f"x.{suffix}"
    path.write_text("#" + " " * MAX_BYTES)
    with pytest.raises(ConfigError, match=r"larger than 1 MiB, .* vocabulary_file"):
        (load_config if suffix == "yaml" else load_pipeline)(path)


@pytest.mark.parametrize("name", ["a\0b.yaml", "x" * 300 + ".yaml", "x" * 300])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(ConfigError):
        load_config(name)


@pytest.mark.parametrize("text", ["", "# nothing\n", "training: {lr: 0.1}\n"])
def test_a_file_that_says_neither_data_nor_model_is_refused(tmp_path, text):
    path = tmp_path / "empty.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"empty\.yaml: says neither data nor model_name"):
        load_config(path)
    assert load_config(path, ["model_name=deepfm"]).model_name == "deepfm"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dnn": {"hidden_units": {"a": 1}}}, "dnn.hidden_units: expected a list of whole numbers"),
        ({"data": {"split_fractions": {"a": 1}}}, "data.split_fractions: expected a list of num"),
        ({"feature": {"groups": {"deep": {"a": 1}}}}, "feature.groups: expected a mapping of nam"),
        ({"data": {"table": TABLE | {"files": {"a": 1}}}}, "data.table.files: expected a text or"),
        ({"data": {"table": TABLE | {"columns": {"a": 1}}}}, "data.table.columns: expected a te"),
        ({"training": {"lr": 10**400}}, "training.lr: expected at most 92233720368547758"),
        ({"training": {"optimizer": {"name": "adam", "eps": 10**400}}}, "training.optimizer.eps"),
        ({"seed": 10**22}, "seed: expected at most 9223372036854775807, found 10000"),
        ({"dnn": {"hidden_units": [10**30]}}, "dnn.hidden_units: expected at most 92233"),
        ({"output_dir": "a\0b"}, "output_dir: expected a path, found 'a\\x00b'"),
        ({"output_dir": "x" * 300}, "output_dir: expected a path, found 'xxx"),
        ({"data": {"data_dir": "a\0b"}}, "data.data_dir: expected a path, found"),
        ({"data": {"store_dir": "a/" + "x" * 300}}, "data.store_dir: expected a path, found 'a/x"),
    ],
)  # fmt: skip
def test_a_value_of_another_shape_or_beyond_all_sizes_names_its_key(changes, message):
    data = {"dataset_name": "tabular", "split_strategy": "random", "table": TABLE}
    raw = {"data": data} | changes | {"data": data | changes.get("data", {})}
    with pytest.raises(ConfigError) as caught:
        config_from_dict(raw)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


def test_long_values_and_keys_are_cut():
    for raw in (
        {"training": {"lr": "x" * 10**6}},
        {"training": {"lr": ["x"] * 10**5}},
        {"training": {"x" * 10**6: 1}},
        {"x" * 10**6: 1},
        {"model_name": "x" * 10**6},
        {"training": {"optimizer": "x" * 10**6}},
        {"training": {"metric": "x" * 10**6}},
        {"data": {"dataset_name": "x" * 10**6, "table": TABLE}},
    ):
        with pytest.raises(ConfigError) as caught:
            config_from_dict(raw)
        assert len(str(caught.value)) < 1000


KEYS = st.sampled_from(
    ["data", "training", "feature", "table", "fields", "lr", "losses", "optimizer", "files", "seed"]
)
SNIPPETS = st.sampled_from(
    ["data:", "training:", "model_name: deepfm", "  lr: ", "[", "]", "{", "}", "&a ", "*a", "- ",
     "? ", ": ", "<<: ", "!!int ", "!!set ", "|\n", "'", '"', "\n", "  ", "1e-3", "2024-13-45", "~",
     "optimizer", "!!binary ", "---\n", "%YAML 1.1\n", "\t", "#", "\0", "\ufeff", "0x", "1:60"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.text(max_size=60) | st.lists(SNIPPETS, max_size=12).map("".join))
@example("a: !!set 0")
@example("a: !!omap [b]")
@example("a: !!pairs {b}")
def test_any_text_is_data_or_one_error(text):
    message = ""
    try:
        raw, lines = parse_yaml(text, "x.yaml")
    except ConfigError as error:
        message = str(error)
    else:
        assert isinstance(raw, dict)
        assert all(line >= 1 for line in lines.values())
    assert "\n" not in message


@settings(max_examples=300)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_data_is_a_config_or_one_error(raw):
    message = ""
    try:
        config = config_from_dict(raw)
    except ConfigError as error:
        message = str(error)
    else:
        assert config_from_dict(config.to_dict()) == config
    assert "\n" not in message
