"""Errors carry the parts of their messages."""

import copy
import pickle

import pytest

from deepfm.config import load_config
from deepfm.errors import ArgumentError, ConfigError, DataError, MissingDataError, Place


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("expected 1"), "expected 1"),
        (ConfigError("expected 1", key="a.b"), "a.b: expected 1"),
        (ConfigError("expected 1", source="x.yaml:3: "), "x.yaml:3: expected 1"),
        (ConfigError("expected 1", key="a.b", source="--override "), "--override a.b: expected 1"),
        (DataError("holds no row"), "holds no row"),
        (DataError("empty", place=Place(file="a.csv")), "a.csv: empty"),
        (DataError("no", place=Place(file="a.csv", line=3)), "a.csv:3: no"),
        (DataError("no", place=Place(file="a.parquet", row=3)), "a.parquet: row 3: no"),
        (DataError("no", place=Place(row=3)), "row 3: no"),
        (DataError("no", place=Place(row=3, column="c")), "row 3, column c: no"),
        (
            DataError("no", place=Place(row=3, field="f", column="c")),
            "row 3: field f, column c: no",
        ),
        (DataError("no", place=Place(column="c")), "column c: no"),
        (
            MissingDataError("no", place=Place(file="a", line=1, field="f")),
            "a:1: field f: no",
        ),
        (ArgumentError("init", "expected x"), "init: expected x"),
    ],
)
def test_the_text_is_made_of_the_parts_and_survives_copies(error, text):
    for other in (error, copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert str(other) == text
        assert type(other) is type(error)
        assert vars(other) == vars(error)


def test_a_copy_at_another_place_keeps_the_rest():
    error = ConfigError("expected 1", key="b", source="x: ")
    assert str(error.at(key="a.b")) == "x: a.b: expected 1"
    assert str(error.at(source="")) == "b: expected 1"
    assert str(error) == "x: b: expected 1"
    missing = MissingDataError("no such file", place=Place(file="a"))
    found = missing.at(missing.place._replace(line=7))
    assert type(found) is MissingDataError
    assert str(found) == "a:7: no such file"


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("training:\n  epochs: 0\n", "training.epochs", 2),
        ("training:\n  lr: abc\n", "training.lr", 2),
        ("training:\n  optimizer: adm\n", "training.optimizer", 2),
        ("data:\n  split_fractions: [1, 1, 1]\n", "data.split_fractions", 2),
        ("data:\n  dataset_name: tabular\n", "data.table", 1),  # the section's line
        ("training:\n\n  metric: acu\n", "training.metric", 3),
    ],
)
def test_an_error_of_a_config_knows_its_key_and_line(tmp_path, text, key, line):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    error = caught.value
    assert (error.key, error.source) == (key, f"{path}:{line}: ")
    assert str(error) == f"{path}:{line}: {key}: {error.problem}"
