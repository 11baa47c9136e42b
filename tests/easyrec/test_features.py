"""Features as fields: options, defaults, reserved ids, shared tables, and what is refused."""

import pyarrow as pa
import pyarrow.parquet
import pytest

from deepfm.easyrec.pipelines import load_pipeline
from deepfm.errors import ConfigError
from tests.easyrec.pipelines import FEATURES, GROUPS, write

ID = "embedding_dim: 4"
MANY = {"type": "sequence", "max_length": 0, "combiner": "sum", "embedding_dim": 4}
ENCODED = {"separator": "\x03", "out_of_range": "row0"}
RAW = MANY | {"separator": "\x1d"}


def given(config, name="x") -> dict:
    """The keys of a declared field."""
    keys = config.to_dict()["data"]["table"]["fields"][name]
    return keys


def converted(tmp_path, feature: str, mode: str, groups: str | None = None, **parts):
    """A pipeline with one more feature, named x."""
    deep = ', "x"' if groups is None else ""
    groups = groups or GROUPS.replace('"n"', f'"n"{deep}')
    data = f"fg_mode: {mode} {parts.pop('data', '')}"
    path = write(tmp_path, features=f"{FEATURES}\n{feature}", data=data, groups=groups, **parts)
    return load_pipeline(path)[0]


def feature(kind: str, options: str) -> str:
    return f'feature_configs {{ {kind} {{ feature_name: "x" {options} }} }}'


@pytest.mark.parametrize(
    ("options", "expected"),
    [  # in FG_NONE all options say how many rows there are, in the order of priority
        (f"{ID} num_buckets: 7", MANY | ENCODED | {"num_buckets": 7}),
        (f"{ID} hash_bucket_size: 9 num_buckets: 7", MANY | ENCODED | {"num_buckets": 9}),
        (f"{ID} num_buckets: 7 vocab_list: ['p', 'q']", MANY | ENCODED | {"num_buckets": 7}),
        (f"{ID} vocab_list: ['p', 'q']", MANY | ENCODED | {"num_buckets": 4}),
        (f"{ID} vocab_list: ['p', 'q'] default_bucketize_value: 1",
         MANY | ENCODED | {"num_buckets": 2}),
        (f"{ID} vocab_dict {{ key: 'p' value: 5 }}", MANY | ENCODED | {"num_buckets": 6}),
        (f"{ID} vocab_dict {{ key: 'p' value: 0 }}", MANY | ENCODED | {"num_buckets": 2}),
        (f"{ID} num_buckets: 7 fg_encoded_default_value: '3' default_value: '1'",
         MANY | ENCODED | {"num_buckets": 7, "default": "3"}),
        (f"{ID} num_buckets: 7 fg_encoded_default_value: ''", MANY | ENCODED | {"num_buckets": 7}),
        (f"{ID} num_buckets: 7 value_dim: 1 pooling: 'mean'",
         {"type": "sparse", "embedding_dim": 4, "num_buckets": 7, "out_of_range": "row0"}),
        (f"{ID} num_buckets: 7 pooling: 'mean' init_fn: 'nn.init.zeros_' trainable: false",
         MANY | ENCODED | {"num_buckets": 7, "combiner": "mean", "init": "nn.init.zeros_",
                           "trainable": False}),
        (f"{ID} num_buckets: 7 weighted: false data_type: 'FP16' use_mask: true",
         MANY | ENCODED | {"num_buckets": 7}),
        (f"{ID} num_buckets: 7 weighted: true",
         MANY | ENCODED | {"num_buckets": 7, "transform": "before(:)"}),
    ],
)  # fmt: skip
def test_id_features_of_encoded_columns(tmp_path, options, expected):
    assert given(converted(tmp_path, feature("id_feature", options), "FG_NONE")) == expected


def test_a_vocabulary_file_sizes_a_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = f"{ID} vocab_file: 'words.txt' default_bucketize_value: 0"
    (tmp_path / "words.txt").write_text("p\nq\nr\n")
    assert given(converted(tmp_path, feature("id_feature", options), "FG_NONE"))["num_buckets"] == 3
    (tmp_path / "words.txt").write_text("p 4\nq 1\n")
    assert given(converted(tmp_path, feature("id_feature", options), "FG_NONE"))["num_buckets"] == 5
    (tmp_path / "words.txt").unlink()
    with pytest.raises(ConfigError, match=r"x.config:.*vocab_file: feature x: .*words.txt"):
        converted(tmp_path, feature("id_feature", options), "FG_NONE")


@pytest.mark.parametrize("mode", ["FG_BUCKETIZE", "FG_NORMAL", "FG_DAG"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (f"{ID} num_buckets: 7 default_value: '0'",
         RAW | {"num_buckets": 7, "out_of_range": "row0", "default": "0"}),
        (f"{ID} hash_bucket_size: 9 separator: '|'",
         RAW | {"hash_buckets": 9, "hash_function": "murmur64a", "padding": False,
                "separator": "|"}),
        # 0 is the default's and 1 that of all other words, unless an id is given for those
        (f"{ID} vocab_list: ['abc', 'efg']",
         RAW | {"vocabulary": {"abc": 2, "efg": 3}, "oov_id": 1}),
        (f"{ID} vocab_list: ['abc', 'efg'] default_value: 'xyz'",
         RAW | {"vocabulary": {"xyz": 0, "abc": 2, "efg": 3}, "oov_id": 1, "default": "xyz"}),
        (f"{ID} vocab_list: ['abc', 'efg'] default_value: 'abc'",
         RAW | {"vocabulary": {"abc": 2, "efg": 3}, "oov_id": 1, "default": "abc"}),
        (f"{ID} vocab_list: ['xyz', 'abc', 'efg'] default_bucketize_value: 0",
         RAW | {"vocabulary": {"xyz": 0, "abc": 1, "efg": 2}, "oov_id": 0}),
        (f"{ID} vocab_dict {{ key: 'abc' value: 2 }} vocab_dict {{ key: 'efg' value: 2 }}",
         RAW | {"vocabulary": {"abc": 2, "efg": 2}, "oov_id": 1}),
        (f"{ID} vocab_dict {{ key: 'abc' value: 2 }} vocab_dict {{ key: 'efg' value: 2 }} "
         "default_value: 'abc'",
         RAW | {"vocabulary": {"abc": 0, "efg": 2}, "oov_id": 1, "default": "abc"}),
        (f"{ID} vocab_dict {{ key: 'abc' value: 2 }} default_bucketize_value: 3",
         RAW | {"vocabulary": {"abc": 2}, "oov_id": 3}),
        (f"{ID} vocab_file: 'words.txt' default_bucketize_value: 3",
         RAW | {"vocabulary_file": "words.txt", "oov_id": 3}),
    ],
)  # fmt: skip
def test_id_features_of_values(tmp_path, monkeypatch, mode, options, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("p\nq\n")
    options += " expression: 'user:x'"
    assert given(converted(tmp_path, feature("id_feature", options), mode)) == expected


def test_the_other_hash(tmp_path, monkeypatch):
    monkeypatch.setenv("USE_FARM_HASH_TO_BUCKETIZE", "true")
    options = f"{ID} hash_bucket_size: 9"
    found = given(converted(tmp_path, feature("id_feature", options), "FG_BUCKETIZE"))
    assert found["hash_function"] == "farm64"


@pytest.mark.parametrize(
    ("mode", "options", "expected"),
    [
        ("FG_NONE", "", {"type": "dense", "scale": "none"}),
        ("FG_NONE", "fg_encoded_default_value: '.1' normalizer: 'method=log10'",
         {"type": "dense", "scale": "none", "default": 0.1}),
        ("FG_NONE", "value_dim: 2", {"type": "dense", "scale": "none", "value_dim": 2,
                                     "separator": "\x03"}),
        ("FG_NONE", f"{ID} boundaries: [0.1, 0.2]",
         {"type": "sparse", "embedding_dim": 4, "num_buckets": 3, "out_of_range": "row0"}),
        ("FG_BUCKETIZE", "normalizer: 'method=zscore,mean=1,standard_deviation=2'",
         {"type": "dense", "scale": "none", "default": 0.0}),
        ("FG_BUCKETIZE", f"{ID} boundaries: [0.1, 0.2] default_value: ''",
         {"type": "sparse", "embedding_dim": 4, "boundaries": [0.1, 0.2]}),
        ("FG_NORMAL", "expression: 'item:z' normalizer: 'method=zscore,mean=1,"
         "standard_deviation=2' default_value: ''",
         {"type": "dense", "column": "z", "scale": "none", "transform": "zscore(1, 2)"}),
        ("FG_NORMAL", "expression: 'item:x' value_dim: 3 separator: '|'",
         {"type": "dense", "scale": "none", "value_dim": 3, "separator": "|", "default": "0|0|0"}),
        ("FG_DAG", "expression: 'item:x' normalizer: 'method=expression,expr=log(x+3)'",
         {"type": "dense", "scale": "none", "transform": "expression(log(x+3))", "default": 0.0}),
        ("FG_DAG", f"expression: 'item:z' {ID} boundaries: [0.1, 0.2] normalizer: "
         "'method=minmax,min=0,max=9'",
         {"type": "sparse", "column": "z", "embedding_dim": 4, "boundaries": [0.1, 0.2],
          "transform": "minmax(0, 9)", "default": "0"}),
        ("FG_NORMAL", f"expression: 'item:x' {ID} boundaries: [0.1] value_dim: 2",
         RAW | {"boundaries": [0.1], "default": "0"}),
        ("FG_NORMAL", f"expression: 'item:x' {ID} mlp {{}}",
         {"type": "dense", "scale": "none", "default": 0.0, "dense_embedding": "linear",
          "embedding_dim": 4, "init": "nn.init.xavier_normal_"}),
    ],
)  # fmt: skip
def test_raw_features(tmp_path, mode, options, expected):
    groups = GROUPS.replace('"n"', '"n", "x"')
    assert given(converted(tmp_path, feature("raw_feature", options), mode, groups)) == expected


@pytest.mark.parametrize(
    ("mode", "options", "expected"),
    [
        ("FG_NORMAL", f"{ID} expression: ['user:p', 'item:q'] hash_bucket_size: 9",
         RAW | {"columns": ["p", "q"], "hash_buckets": 9, "hash_function": "murmur64a",
                "padding": False}),
        ("FG_NORMAL", f"{ID} expression: ['user:p', 'item:q'] vocab_list: 'p_q' value_dim: 1",
         {"type": "sparse", "columns": ["p", "q"], "embedding_dim": 4,
          "vocabulary": {"p_q": 2}, "oov_id": 1}),
        ("FG_NORMAL", f"{ID} expression: 'user:p' hash_bucket_size: 9",
         RAW | {"column": "p", "hash_buckets": 9, "hash_function": "murmur64a",
                "padding": False}),
        ("FG_BUCKETIZE", f"{ID} expression: ['user:p', 'item:q'] hash_bucket_size: 9",
         RAW | {"hash_buckets": 9, "hash_function": "murmur64a", "padding": False}),
        ("FG_NONE", f"{ID} hash_bucket_size: 9", MANY | ENCODED | {"num_buckets": 9}),
    ],
)  # fmt: skip
def test_combo_features(tmp_path, mode, options, expected):
    assert given(converted(tmp_path, feature("combo_feature", options), mode)) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("input_fields { input_name: 'x' input_type: INT64 }", "sparse"),
        ("input_fields { input_name: 'x' input_type: STRING }", "sequence"),
        ("input_fields { input_name: 'x' }", "sequence"),
        ("input_fields { input_name: 'x' input_type: ARRAY_INT64 }", "sequence"),
        ("input_fields_str: 'y:INT; x : bigint;'", "sparse"),
        ("input_fields_str: 'x:ARRAY<BIGINT>'", "sequence"),
        ("input_fields { input_name: 'x' input_type: INT64 } input_fields_str: 'x:STRING'",
         "sequence"),
    ],
)  # fmt: skip
def test_declared_types_tell_single_values(tmp_path, data, expected):
    options = feature("id_feature", f"{ID} num_buckets: 7")
    assert given(converted(tmp_path, options, "FG_NONE", data=data))["type"] == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1, None], "sparse"), (["1", "2"], "sequence"), ([[1], [2, 3]], "sequence")],
)
def test_the_file_tells_single_values(tmp_path, monkeypatch, values, expected):
    monkeypatch.chdir(tmp_path)
    pa.parquet.write_table(pa.table({"x": values}), tmp_path / "t.parquet")
    options = feature("id_feature", f"{ID} num_buckets: 7")
    assert given(converted(tmp_path, options, "FG_NONE"))["type"] == expected


def shared(first: str, second: str) -> str:
    return "".join(
        f'feature_configs {{ id_feature {{ feature_name: "{name}" value_dim: 1 {options} }} }}\n'
        for name, options in (("x", first), ("z", second))
    )


BOTH = GROUPS.replace('"n"', '"n", "x", "z"')
SAME = f"num_buckets: 7 {ID}"


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (f"{SAME} embedding_name: 't'", f"{SAME} embedding_name: 't'", ("t", "t")),
        (SAME, f"{SAME} embedding_name: 'x_emb'", (None, "x")),  # the original's own name for it
        (SAME, f"{SAME} embedding_name: 'x'", (None, "x_shared")),  # another table
        (f"{SAME} embedding_name: 'z'", f"{SAME} embedding_name: 't'", ("z", "t")),
        (SAME, SAME, (None, None)),
    ],
)
def test_tables_are_shared_by_name(tmp_path, first, second, names):
    config = converted(tmp_path, shared(first, second), "FG_NONE", BOTH)
    assert tuple(given(config, name).get("embedding_name") for name in "xz") == names


@pytest.mark.parametrize(
    ("second", "what"),
    [
        ("num_buckets: 8 embedding_dim: 4", "rows 7 and 8"),
        ("num_buckets: 7 embedding_dim: 5", "embedding_dim 4 and 5"),
        (f"{SAME} pooling: 'mean'", "pooling sum and mean"),
        (f"{SAME} init_fn: 'nn.init.zeros_'", "init_fn  and nn.init.zeros_"),
    ],
)
def test_tables_that_cannot_be_shared(tmp_path, second, what):
    feature = shared(f"{SAME} embedding_name: 't'", f"{second} embedding_name: 't'")
    expected = rf"x\.config:16: .*features x and z share the table t, but have {what}"
    with pytest.raises(ConfigError, match=expected):
        converted(tmp_path, feature, "FG_NONE", BOTH)


@pytest.mark.parametrize(
    ("kind", "mode", "options", "expected"),
    [
        ("id_feature", "FG_NONE", "num_buckets: 7", "embedding_dim: feature x: an embedded"),
        ("id_feature", "FG_NONE", ID, "feature x: expected one of hash_bucket_size, vocab_list"),
        ("id_feature", "FG_NONE", f"{SAME} pooling: 'max'", "expected sum or mean, found 'max'"),
        ("id_feature", "FG_NONE", f"{SAME} data_type: 'INT8'", "unknown type 'INT8'"),
        ("sequence_id_feature", "FG_NONE", f"{SAME} weighted: true",
         "weighted: feature x: not supported in a sequence"),
        ("id_feature", "FG_NONE", f"{SAME} zch {{ zch_size: 3 lfu {{}} }}", "zch: not supported"),
        ("id_feature", "FG_NONE", f"{SAME} init_fn: 'nn.init.eye_'", "init_fn: expected one of"),
        ("raw_feature", "FG_BUCKETIZE", f"{ID} boundaries: [2, 1]", "expected finite numbers that"),
        ("raw_feature", "FG_NORMAL", "expression: 'item:x' normalizer: 'method=expression,expr=y'",
         "feature x: transform 'expression(y)'"),
        ("id_feature", "FG_NORMAL", SAME, "expression: feature x: FG_NORMAL needs one"),
        ("id_feature", "FG_NORMAL", f"{SAME} expression: 'feature:q'", "found 'feature:q'"),
        ("id_feature", "FG_DAG", f"{SAME} expression: 'const:3'", "expected side:column"),
        ("id_feature", "FG_DAG", f"{SAME} expression: 'user:a' hash_bucket_size: 3",
         "choose one of hash_bucket_size and num_buckets"),
        ("id_feature", "FG_BUCKETIZE", f"{ID} vocab_file: 'w'", "needs default_bucketize_value"),
        ("id_feature", "FG_BUCKETIZE", f"{ID} vocab_list: 'w' default_bucketize_value: 1",
         "expected a place in vocab_list, below 1, found 1"),
        ("id_feature", "FG_BUCKETIZE", f"{SAME} separator: ''", "expected a text that separates"),
        ("raw_feature", "FG_NONE", f"{ID} autodis {{ num_channels: 3 }}",
         "autodis: not supported; supported dense embeddings: mlp"),
        ("raw_feature", "FG_NONE", "mlp {}", "embedding_dim: feature x: an embedded"),
        ("raw_feature", "FG_NONE", "boundaries: [1, 2]", "embedding_dim: feature x: an embedded"),
        ("raw_feature", "FG_NONE", "value_dim: 0", "value_dim: feature x: expected at least 1"),
        ("raw_feature", "FG_BUCKETIZE", "default_value: 'x'", "expected a number, found 'x'"),
        ("raw_feature", "FG_NORMAL", "expression: 'item:x' normalizer: 'method=log'",
         "unknown method 'log'; did you mean 'log10'?"),
        ("raw_feature", "FG_NORMAL", "expression: 'item:x' normalizer: 'method=log10,threshold=1'",
         "log10 needs the numbers threshold and default"),
        ("combo_feature", "FG_NORMAL", f"{ID} hash_bucket_size: 3 expression: ['user:a', 'b']",
         "expression[1]: feature x: not supported; expected side:column"),
        ("lookup_feature", "FG_NONE", "map: 'user:m' key: 'item:k'",
         "lookup_feature: not supported; supported features: id_feature, raw_feature"),
        ("sequence_id_feature", "FG_NONE", f"{SAME} value_dim: 3",
         "value_dim: feature x: a step of a sequence has one value here, found value_dim: 3"),
        ("sequence_id_feature", "FG_NONE", f"{SAME} sequence_delim: ''",
         "sequence_delim: expected a text that separates steps, found none"),
        ("sequence_raw_feature", "FG_NONE", f"{ID} mlp {{}}", "mlp: feature x: not supported in a"),
        ("sequence_combo_feature", "FG_DAG",
         f"{ID} hash_bucket_size: 3 expression: ['user:a', 'user:b']",
         "of a sequence it is supported in FG_NONE and FG_BUCKETIZE, not FG_DAG"),
    ],
)  # fmt: skip
def test_what_is_refused_names_file_line_and_field(tmp_path, kind, mode, options, expected):
    with pytest.raises(ConfigError) as caught:
        converted(tmp_path, feature(kind, options), mode)
    assert str(caught.value).startswith(f"{tmp_path}/x.config:15: feature_configs[3].{kind}")
    assert expected in str(caught.value)
