"""Declared tables: schema, files, users and items, and a whole ranking experiment."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from deepfm import experiment, held_out
from deepfm.checkpoint import load_checkpoint
from deepfm.config import config_from_dict, load_config
from deepfm.data.schema import FeatureType
from deepfm.data.sources import tabular
from deepfm.errors import ConfigError, DataError, MissingDataError
from deepfm.prediction import Predictor

CONFIGS = Path(__file__).parents[3] / "configs"


def config(tmp_path, table=None, **data):
    table = {"files": "events.csv", "label": "click", "fields": {"a": {"type": "sparse"}}} | (
        table or {}
    )
    data = {"dataset_name": "tabular", "data_dir": str(tmp_path), "table": table} | data
    return config_from_dict({"data": {"split_strategy": "random"} | data})


def test_schema_keeps_the_order_and_the_settings(tmp_path):
    fields = {
        "b": {"type": "sparse", "min_count": 3, "group": "user"},
        "a": {"type": "dense", "scale": "standard", "missing": "indicator"},
        "c": {"type": "sequence", "separator": "|", "max_length": 4, "keep": "last"},
    }
    schema = tabular.schema(config(tmp_path, {"fields": fields, "bad_values": "drop"}).data.table)
    assert list(schema.fields) == ["b", "a", "a_missing", "c"]
    assert schema.fields["b"].min_count == 3
    assert schema.fields["a_missing"].column == "a"
    assert schema.fields["a_missing"].feature_type is FeatureType.DENSE
    assert schema.fields["c"].transform == "split(|)"
    assert all(field.bad_values == "drop" for field in schema.fields.values())


@pytest.mark.parametrize(
    ("table", "data", "message"),
    [
        ({"fields": {"a": {"type": "spars"}}}, {}, r"data\.table\.fields\.a\.type.*'sparse'"),
        ({"fields": {"a": {"typ": "sparse"}}}, {}, r"unknown key 'data\.table\.fields\.a\.typ'"),
        ({"fields": {"a": {}}}, {}, r"data\.table\.fields\.a\.type: a value is needed"),
        ({"fields": {"a": 3}}, {}, r"data\.table\.fields\.a: expected keys below it, found 3"),
        ({"fields": {"a": {"type": "sparse", "min_count": 0}}}, {}, r"min_count: .* at least 1"),
        ({"files": []}, {}, r"data\.table\.files: a value is needed"),
        ({"valid_files": "v.csv"}, {}, r"only split_strategy predefined"),
        ({}, {"split_strategy": "predefined"}, r"data\.table\.valid_files: a value is needed"),
        ({}, {"split_strategy": "time"}, r"data\.table\.time_column: a value is needed"),
        ({}, {"split_strategy": "leave_one_out"}, r"data\.table\.user_field"),
        ({"user_field": "u"}, {}, r"data\.table\.user_field: no field 'u'"),
        ({}, {"split_fractions": [0.5, 0.2, 0.2]}, r"add up to 1"),
        ({}, {"dataset_name": "movielens-100k"}, r"data\.table: movielens-100k is no declared"),
    ],
)
def test_config_mistakes(tmp_path, table, data, message):
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, table, **data)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"a": {"type": "dense", "min_count": 2}}, "min_count means nothing for a dense field"),
        ({"a": {"type": "sparse", "missing": "zero"}}, "missing means nothing for a sparse"),
        ({"a": {"type": "sparse", "separator": ","}}, "separator: it cuts a text"),
        ({"a": {"type": "sparse", "transform": "prefx(3)"}}, "did you mean 'prefix'"),
        ({"a": {"type": "sparse", "min_count": 2, "hash_buckets": 9}}, "choose one of"),
        (
            {
                "a": {"type": "sparse", "embedding_name": "t"},
                "b": {"type": "sparse", "embedding_name": "t", "embedding_dim": 3},
            },
            "fields a and b share the table t, but have embedding_dim 16 and 3",
        ),
        (
            {
                "a": {"type": "dense", "missing": "indicator"},
                "a_missing": {"type": "sparse"},
            },
            "the indicator of a has this name",
        ),
    ],
)
def test_field_mistakes(tmp_path, fields, message):
    with pytest.raises(ConfigError, match=message):
        tabular.schema(config(tmp_path, {"fields": fields}).data.table)


def test_config_errors_name_file_and_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "data:\n  dataset_name: tabular\n  split_strategy: random\n  table:\n    files: x.csv\n"
        "    label: y\n    fields:\n      a: {type: sparse}\n      b:\n        type: dens\n"
    )
    with pytest.raises(ConfigError, match=r"c\.yaml:10: data\.table\.fields\.b\.type"):
        load_config(path)


def test_files_by_glob_and_by_name(tmp_path):
    for name in ("b-2.csv", "b-1.csv", "a.csv"):
        (tmp_path / name).write_text("x\n1\n")
    found = tabular.find_files(tmp_path, ["a.csv", "b-*.csv"])
    assert [path.name for path in found] == ["a.csv", "b-1.csv", "b-2.csv"]
    with pytest.raises(MissingDataError, match=r"c-\*\.csv: no such file"):
        tabular.find_files(tmp_path, ["c-*.csv"])


def ratings(tmp_path, *, with_tables: bool) -> dict:
    """Files in the form of MovieLens-1M, and the declaration of a ranking task on them."""
    rng = np.random.default_rng(3)
    pairs = rng.permutation(30 * 40)[:700]
    user, movie = np.divmod(pairs, 40)
    stars = np.where((user + movie) % 3 == 0, 5, 2)
    time = rng.permutation(700)
    rows = zip(user, movie, stars, time, strict=True)
    (tmp_path / "ratings.dat").write_text("".join(f"{u}::{m}::{r}::{t}\n" for u, m, r, t in rows))
    (tmp_path / "users.dat").write_text("".join(f"{u}::{'MF'[u % 2]}\n" for u in range(30)))
    (tmp_path / "movies.dat").write_text(
        "".join(f"{m}::Caf\u00e9 {m} (1999)::Drama|Action\n" for m in range(40)), encoding="latin-1"
    )
    fields = {
        "user": {"type": "sparse", "group": "user", "embedding_dim": 4},
        "movie": {"type": "sparse", "group": "item", "embedding_dim": 4},
    }
    table = {
        "files": "ratings.dat",
        "delimiter": "::",
        "columns": ["user", "movie", "stars", "time"],
        "label": "liked",
        "labels": {"liked": {"column": "stars", "threshold": 4}},
        "user_field": "user",
        "item_field": "movie",
        "time_column": "time",
    }
    if with_tables:
        table |= {
            "users": {"files": "users.dat", "delimiter": "::", "columns": ["user", "sex"]},
            "items": {
                "files": "movies.dat",
                "delimiter": "::",
                "encoding": "latin-1",
                "columns": ["movie", "title", "genres"],
            },
            "item_title_column": "title",
        }
        fields |= {
            "sex": {"type": "sparse", "group": "user", "embedding_dim": 4},
            "genres": {
                "type": "sequence",
                "group": "item",
                "separator": "|",
                "max_length": 3,
                "embedding_dim": 4,
            },
        }
    return {
        "data": {
            "dataset_name": "tabular",
            "data_dir": str(tmp_path),
            "num_neg_eval": 20,
            "table": table | {"fields": fields},
        },
        "feature": {"fm_embedding_dim": 4},
        "training": {"epochs": 2, "batch_size": 256},
        "output_dir": str(tmp_path / "out"),
    }


def test_a_user_for_whom_no_negative_is_left_is_named_by_id(tmp_path):
    raw = ratings(tmp_path, with_tables=False)
    rows = [(f"u{u}", f"m{m}", 5) for u in range(5) for m in range(4)]
    rows += [("greedy", f"m{m}", 5) for m in range(8)]
    text = "".join(f"{u}::{m}::{s}::{t}\n" for t, (u, m, s) in enumerate(rows))
    (tmp_path / "ratings.dat").write_text(text)
    raw["data"] |= {"num_neg_eval": 2, "negative_exclusion": "all"}
    with pytest.raises(DataError, match=r"^user 'greedy': no item of all 8 is left"):
        experiment.train(config_from_dict(raw))


@pytest.mark.parametrize("with_tables", [True, False])
def test_a_ranking_experiment_without_python(tmp_path, with_tables):
    raw = ratings(tmp_path, with_tables=with_tables)
    metrics = experiment.train(config_from_dict(raw))
    assert metrics["test"]["ranking_users"] > 0
    assert 0 <= metrics["test"]["hr@10"] <= 1
    again = held_out.evaluate_checkpoint(tmp_path / "out" / "best_model.pt")
    assert again["test"] == metrics["test"]


def test_items_of_a_ranking_task_may_have_lists_of_any_length_and_vectors(tmp_path):
    raw = ratings(tmp_path, with_tables=True)
    names = ["Drama", "Action", "Comedy", "Horror", "Noir"]
    lines = [
        f"{m}::Title {m}::{'|'.join(names[: m % 6])}::{'' if m % 9 == 0 else m % 7}::{m},{-m}\n"
        for m in range(40)
    ]
    (tmp_path / "movies.dat").write_text("".join(lines))
    table = raw["data"]["table"]
    table["items"]["columns"] += ["studio", "place"]
    size = {"group": "item", "embedding_dim": 4}
    table["fields"] |= {
        "genres": size | {"type": "sequence", "separator": "|", "vocabulary": dict(
            zip(names, range(5), strict=True)
        )},
        "studio": size | {"type": "sparse", "num_buckets": 7},
        "place": {
            "type": "dense", "group": "item", "value_dim": 2, "separator": ",",
            "scale": "standard",
        },
    }  # fmt: skip
    used = config_from_dict(raw)
    metrics = experiment.train(used)
    path = tmp_path / "out" / "best_model.pt"
    assert held_out.evaluate_checkpoint(path)["test"] == metrics["test"]
    data = experiment.load_data(used, load_checkpoint(path).encoders)
    task = data.test.ranking
    items = task.catalogue.inputs
    assert items.sequence_ids[0].shape == (40, 5)
    assert items.sparse[9, 1] == -1
    # scored as whole rows, as the rows of the file are
    predictor = Predictor(path)
    user = int(data.events.tables.interactions["user"][0].as_py())
    found = predictor.recommend(str(user), top=40)
    rows = pa.table({"user": [str(user)] * len(found), "movie": [f.item for f in found]})
    np.testing.assert_allclose(
        predictor.predict(rows), [f.probability for f in found], rtol=1e-4, atol=1e-6
    )


def test_weights_of_a_ranking_task_reach_the_loss(tmp_path):
    raw = ratings(tmp_path, with_tables=False)
    raw["data"]["table"]["sample_weight"] = "time"  # any column of numbers
    data = experiment.load_data(config_from_dict(raw))
    times = data.events.tables.interactions["time"].to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(data.train.weight, times.astype(np.float32)[data.train.row])
    raw["data"]["table"]["sample_weight"] = "tim"
    with pytest.raises(DataError, match="no column 'tim'; did you mean 'time'"):
        experiment.load_data(config_from_dict(raw))
    raw["data"]["table"] |= {"sample_weight": None, "bad_values": "drop"}
    with pytest.raises(ConfigError, match=r"data\.table\.bad_values: a ranking task keeps"):
        config_from_dict(raw)


def test_titles_are_read_in_their_encoding(tmp_path):
    table = config_from_dict(ratings(tmp_path, with_tables=True)).data.table
    tables = tabular.load(table, tmp_path, auto_download=False)
    assert tables.items["title"][7].as_py() == "Caf\u00e9 7 (1999)"
    assert tables.items.num_rows == 40


def test_users_of_the_events_are_found_where_no_table_is_given(tmp_path):
    table = config_from_dict(ratings(tmp_path, with_tables=False)).data.table
    tables = tabular.load(table, tmp_path, auto_download=False)
    events = tables.interactions["user"].to_pylist()
    assert tables.users["user"].to_pylist() == list(dict.fromkeys(events))


def test_an_event_of_an_unknown_item_is_refused(tmp_path):
    table = config_from_dict(ratings(tmp_path, with_tables=True)).data.table
    with (tmp_path / "ratings.dat").open("a") as file:
        file.write("1::999::5::9999\n")
    with pytest.raises(DataError, match=r"data\.table\.items: no row for movie '999'.* row 701"):
        tabular.load(table, tmp_path, auto_download=False)


def test_two_rows_of_one_user_are_refused(tmp_path):
    table = config_from_dict(ratings(tmp_path, with_tables=True)).data.table
    with (tmp_path / "users.dat").open("a") as file:
        file.write("1::F\n")
    with pytest.raises(DataError, match="a value of user has several rows"):
        tabular.load(table, tmp_path, auto_download=False)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_is_valid(path):
    loaded = load_config(path)
    assert config_from_dict(yaml.safe_load(yaml.safe_dump(loaded.to_dict()))) == loaded
    if loaded.data.table is not None:
        tabular.schema(loaded.data.table)


# --- declared ids ------------------------------------------------------------------------------


def test_every_key_of_a_field_reaches_the_schema(tmp_path):
    (tmp_path / "words.txt").write_text("red 3\nblue 1\n")
    fields = {
        "number": {"type": "sparse", "num_buckets": 9, "out_of_range": "row0", "default": 0},
        "word": {"type": "sparse", "vocabulary": {"a": 2, 7: 0}, "oov_id": 4, "default": "a"},
        "color": {"type": "sparse", "vocabulary_file": "words.txt"},
        "range": {"type": "sparse", "boundaries": [0, 0.5, 1e3], "column": "price"},
        "hash": {
            "type": "sparse", "hash_buckets": 10, "hash_function": "farm64", "padding": False,
            "trainable": False, "init": "normal(0.1)",
        },
        "old": {"type": "sparse", "hash_buckets": 10, "padding": True},
        "list": {"type": "sequence", "separator": "\x03", "num_buckets": 5, "max_length": 0},
        "cross": {
            "type": "sequence", "columns": ["word", "color"], "separator": "\x1d",
            "hash_buckets": 10, "padding": False,
        },
        "vector": {
            "type": "dense", "separator": ",", "value_dim": 3, "scale": "none", "default": "1,2,3",
        },
        "price": {"type": "dense", "transform": "expression(log(x + 3))", "scale": "none"},
        "place": {"type": "dense", "value_dim": 2, "separator": ";", "missing": "indicator"},
        "logs": {
            "type": "sequence", "separator": "|", "transform": "log10(0, 0)", "boundaries": [1],
        },
    }  # fmt: skip
    schema = tabular.schema(config(tmp_path, {"fields": fields}).data.table, tmp_path)
    found = schema.fields
    assert (found["number"].num_buckets, found["number"].out_of_range) == (9, "row0")
    assert found["number"].default_elements == ["0"]
    assert found["word"].vocabulary.words.to_pylist() == ["a", "7"]
    assert (found["word"].oov_id, found["word"].default) == (4, "a")
    assert found["color"].vocabulary.ids.tolist() == [3, 1]
    assert (found["range"].boundaries, found["range"].column) == ((0, 0.5, 1e3), "price")
    assert (found["hash"].hash_function, found["hash"].padding_idx) == ("farm64", None)
    assert (found["hash"].trainable, found["hash"].init) == (False, "normal(0.1)")
    assert found["old"].padding_idx == 0
    assert (found["list"].cut_at, found["list"].max_length) == ("\x03", 0)
    assert (found["cross"].raw_columns, found["cross"].cut_at) == (("word", "color"), "\x1d")
    assert (found["vector"].value_dim, found["vector"].default_elements) == (3, ["1", "2", "3"])
    assert found["price"].transform == "expression(log(x + 3))"
    assert found["place_missing"].separator == ";"
    assert (found["logs"].cut_at, found["logs"].transform) == ("|", "log10(0, 0)")
    sizes = {name: field.vocabulary_size for name, field in found.items()}
    assert sizes == {
        "number": 9, "word": 5, "color": 4, "range": 4, "hash": 10, "old": 11, "list": 5,
        "cross": 10, "vector": 0, "price": 0, "place": 0, "place_missing": 0, "logs": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"column": "b", "columns": ["a", "b"]}, r"choose column or columns"),
        ({"vocabulary": {"x": 1}, "vocabulary_file": "v"}, "choose vocabulary or vocabulary_file"),
        ({"padding": False}, "only hash_buckets can do without the reserved row 0"),
        ({"padding": True, "num_buckets": 3}, "no row is reserved where ids are declared"),
        ({"separator": ""}, "separator: expected one or more characters"),
        ({"transform": "expression(x + y)"}, "unknown name 'y'"),
        ({"num_buckets": 3, "default": "7"}, "default: expected a whole number below"),
    ],
)
def test_mistakes_in_declared_ids(tmp_path, field, message):
    fields = {"a": {"type": "sparse"} | field}
    with pytest.raises(ConfigError, match=rf"^data\.table\.fields\.a.*{message}"):
        tabular.schema(config(tmp_path, {"fields": fields}).data.table, tmp_path)


def test_a_long_number_as_default_keeps_its_digits(tmp_path):
    for default in (2**53 + 1, -(2**62) - 1, 17, 1.5, "x"):
        fields = {"a": {"type": "sparse", "hash_buckets": 9, "default": default}}
        schema = tabular.schema(config(tmp_path, {"fields": fields}).data.table)
        assert schema.fields["a"].default_elements == [str(default)]


def test_a_vocabulary_file_beyond_the_data_is_refused(tmp_path):
    fields = {"a": {"type": "sparse", "vocabulary_file": "../../etc/passwd"}}
    with pytest.raises(
        ConfigError, match=r"^data\.table\.fields\.a\.vocabulary_file: expected a f"
    ):
        tabular.schema(config(tmp_path, {"fields": fields}).data.table, tmp_path)


def test_a_missing_vocabulary_file(tmp_path):
    fields = {"a": {"type": "sparse", "vocabulary_file": "words.txt"}}
    with pytest.raises(MissingDataError, match=r"words\.txt: no such file"):
        tabular.schema(config(tmp_path, {"fields": fields}).data.table, tmp_path)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"vocabulary": {"x": "y"}}, r"fields\.a\.vocabulary"),
        ({"boundaries": ["x"]}, r"fields\.a\.boundaries: expected a list of numbers"),
        ({"default": [1]}, r"fields\.a\.default: expected a text or a number"),
        ({"padding": 1}, r"fields\.a\.padding: expected true or false"),
        ({"num_buckets": 0}, r"fields\.a\.num_buckets: expected at least 1"),
    ],
)
def test_values_of_another_type_in_declared_ids(tmp_path, field, message):
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, {"fields": {"a": {"type": "sparse"} | field}})
