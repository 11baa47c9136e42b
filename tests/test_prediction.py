"""Predicting on raw rows: equal to the training side, whatever form the rows come in."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepfm import experiment
from deepfm.checkpoint import RunDirectory, load_checkpoint
from deepfm.config import DataConfig, FieldConfig, TableConfig, load_config
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.tensors import inputs_of
from deepfm.data.files.read import read_rows
from deepfm.data.files.writer import TableWriter
from deepfm.errors import DataError
from deepfm.evaluation.scoring import evaluate, score, score_items
from deepfm.prediction import Predictor
from deepfm.served_items import best_of
from tests import tiny


@pytest.fixture
def predictor(tiny_config):
    config = load_config(tiny_config(training__epochs=1))
    experiment.train(config)
    return Predictor(RunDirectory(config.output_dir).best)


@pytest.fixture
def declared(tiny_config, tmp_path):
    """Writes a checkpoint as of a declared table: no users, items or history to look up."""
    config = load_config(tiny_config(training__epochs=1))
    experiment.train(config)
    trained = load_checkpoint(RunDirectory(config.output_dir).best)

    def with_table(bad_values="error", **table) -> Predictor:
        plain = trained.encoders.to_dict()
        for field in plain["schema"]["fields"]:
            field["bad_values"] = bad_values
        table = TableConfig(label="stars", fields={"user": FieldConfig(type="sparse")}, **table)
        data = DataConfig(dataset_name="tabular", split_strategy="random", table=table)
        path = tmp_path / "declared.pt"
        config = replace(trained.config, data=data)
        none = dict.fromkeys(("users", "items", "history"))
        replace(trained, config=config, encoders=Encoders.from_dict(plain), **none).save(path)
        return Predictor(path)

    return with_table


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr("deepfm.prediction.read_rows", partial(read_rows, block_size=4000))


@pytest.fixture
def raw(tmp_path):
    tables = tiny.load(tmp_path, False)
    return tables.complete(tiny.schema(), tables.interactions)


def test_raw_rows_score_like_the_evaluated_split(predictor, raw, tiny_data):
    rows = raw.take(tiny_data.test.row)
    expected = evaluate(predictor.model, tiny_data.test, batch_size=100).predicted
    np.testing.assert_allclose(predictor.predict(rows), expected, rtol=1e-6)


def test_probabilities_do_not_depend_on_the_batch_size(predictor, raw):
    whole = predictor.predict(raw)
    predictor.batch_size = 7
    np.testing.assert_allclose(predictor.predict(raw), whole, rtol=1e-5)


def test_user_and_item_columns_are_looked_up(predictor, raw):
    ids = raw.select(["user", "item"])
    np.testing.assert_array_equal(predictor.predict(ids), predictor.predict(raw))


def test_columns_may_come_in_any_order_and_more_are_ignored(predictor, raw):
    shuffled = raw.select(raw.column_names[::-1]).append_column("note", pa.nulls(len(raw)))
    np.testing.assert_array_equal(predictor.predict(shuffled), predictor.predict(raw))


def test_an_unknown_item_is_the_zero_row(predictor, raw):
    row = raw.slice(0, 1)
    unknown = row.set_column(row.column_names.index("item"), "item", pa.array([10**9]))
    inputs = predictor.encoders.encode(unknown)
    assert inputs.sparse[0, 2] == 0
    assert np.isfinite(predictor.predict(unknown)).all()


def test_an_unknown_user_without_a_number_is_an_error(predictor):
    """The dense income has no policy for missing values; it must not become a guess."""
    with pytest.raises(DataError, match="row 2: field income, column income: expected a number"):
        predictor.predict(pa.table({"user": [1, 999], "item": [1, 1]}))


def test_a_missing_id_is_named(predictor):
    with pytest.raises(DataError, match="no column 'item', which identifies the item"):
        predictor.predict(pa.table({"user": [1]}))


def test_recommendations_are_the_best_items_the_user_has_not_met(predictor, raw, tmp_path):
    user = 5
    found = predictor.recommend(user, top=8)
    tables = tiny.load(tmp_path, False)
    met = {
        i
        for u, i in zip(raw["user"].to_pylist(), raw["item"].to_pylist(), strict=True)
        if u == user
    }
    fresh = [item for item in range(tiny.NUM_ITEMS) if item not in met]
    rows = pa.table({"user": [user] * len(fresh), "item": fresh})
    scores = predictor.predict(rows)
    best = np.argsort(-scores, kind="stable")[:8]
    assert [row.item for row in found] == [fresh[k] for k in best]
    np.testing.assert_allclose([row.probability for row in found], scores[best], rtol=1e-5)
    titles = dict(
        zip(tables.items["item"].to_pylist(), tables.items["title"].to_pylist(), strict=True)
    )
    assert [row.title for row in found] == [titles[row.item] for row in found]


def test_ids_may_be_given_as_text(predictor):
    assert predictor.knows_user("5")
    assert not predictor.knows_user("nobody")
    assert predictor.recommend("5", top=3) == predictor.recommend(5, top=3)


def test_a_longer_list_than_there_are_items_is_cut(predictor, raw):
    met = sum(user == 5 for user in raw["user"].to_pylist())
    assert len(predictor.recommend(5, top=1000)) == tiny.NUM_ITEMS - met


def test_scoring_restores_the_mode(tiny_data, predictor):
    predictor.model.train()
    score(predictor.model, tiny_data.test.inputs, batch_size=10)
    assert predictor.model.training


def scores(predictor, path) -> np.ndarray:
    return np.concatenate(
        [part.predictions["probability"].to_numpy() for part in predictor.predict_file(path)]
    )


def write(path, table: pa.Table) -> None:
    with TableWriter(path) as writer:
        writer.write(table)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_file_in_many_parts_scores_like_the_whole_table(
    predictor, raw, tmp_path, small_batches, ending
):
    path = tmp_path / f"rows.{ending}"
    write(path, raw)
    assert len(list(predictor.predict_file(path))) >= 3
    np.testing.assert_allclose(scores(predictor, path), predictor.predict(raw), rtol=1e-6)


def test_values_never_seen_are_counted(predictor, raw, tmp_path):
    path = tmp_path / "rows.parquet"
    users = pa.array([1, 10**6, None, 10**7], pa.int64())
    rows = raw.slice(0, 4).set_column(raw.column_names.index("user"), "user", users)
    write(path, rows)
    (part,) = predictor.predict_file(path)
    assert part.unknown == {"user": 2, "age": 0, "item": 0, "tags": 0}


def test_elements_of_lists_that_training_has_not_seen_are_counted(predictor, raw, tmp_path):
    path = tmp_path / "rows.parquet"
    tags = pa.array([["a", "new", "newer"], [None, "new"], None, []])
    write(path, raw.slice(0, 4).set_column(raw.column_names.index("tags"), "tags", tags))
    (part,) = predictor.predict_file(path)
    assert part.unknown["tags"] == 3


def test_a_column_that_a_field_does_without_is_said_once(declared, raw, tmp_path, caplog):
    path = tmp_path / "rows.parquet"
    predictor = declared(bad_values="unknown", files=("x.csv",))
    write(path, raw.drop_columns(["age", "tags"]))
    with caplog.at_level("WARNING", logger="deepfm"):
        assert len(list(predictor.predict_file(path))) >= 1
        assert len(caplog.messages) == 1
        predictor.predict(raw.drop_columns(["age", "tags"]).slice(0, 7))
        predictor.predict(raw)
    whole, seven = caplog.messages
    assert whole.startswith(f"no column age, tags: all {len(raw):,} rows are scored as if")
    assert seven.startswith("no column age, tags: all 7 rows are scored as if")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("user", r"expected rows as a pyarrow\.Table, .*; found str"),
        ([1, 2], r"row 1: expected rows as .*; found a int in the list"),
        ({"user": [1, "x"], "item": [1, 1]}, "column user: expected values of one type, found int"),
        ({"user": [1, 2], "item": [1]}, "column item: expected 2 values, as in column user, found"),
        ({"user": 1, "item": 1}, "column user: expected the column's values, one per row, found 1"),
    ],
)
def test_what_are_no_rows_is_refused(predictor, rows, problem):
    with pytest.raises(DataError, match=problem):
        predictor.predict(rows)


@pytest.fixture
def read_by_arrow(predictor, monkeypatch):
    """How often rows took the path through Arrow."""
    taken = []
    real = predictor._rows._read_by_arrow
    monkeypatch.setattr(
        predictor._rows, "_read_by_arrow", lambda given: [taken.append(1), real(given)][1]
    )
    return taken


@pytest.mark.parametrize("columns", [("user", "item"), ("user", "item", "age", "tags"), None])
@pytest.mark.parametrize("count", [1, 40])
def test_few_rows_in_any_form_are_read_as_by_arrow(
    predictor, raw, read_by_arrow, columns, count, caplog
):
    rows = (raw if columns is None else raw.select(columns)).slice(0, count)
    expected = predictor._rows._read_by_arrow(rows).inputs
    read_by_arrow.clear()
    forms = [rows, rows.to_pylist(), rows.to_pydict()]
    forms += [
        {n: rows[n].to_pylist() if n == "tags" else rows[n].to_numpy() for n in rows.column_names}
    ]
    if find_spec("pandas"):
        import pandas

        forms += [rows.to_pandas(), pandas.DataFrame(rows.to_pylist())]
    if find_spec("polars"):
        import polars

        forms += [polars.from_arrow(rows)]
    for form in forms:
        found = predictor._rows.read(form).inputs
        assert torch.equal(found.sparse, expected.sparse)
        assert torch.equal(found.dense, expected.dense)
        assert all(map(torch.equal, found.sequence_ids, expected.sequence_ids))
        assert all(map(torch.equal, found.sequence_lengths, expected.sequence_lengths))
        np.testing.assert_array_equal(predictor.predict(form), predictor.predict(rows))
    assert not read_by_arrow
    assert not caplog.messages


def test_a_column_that_rows_bring_overrides_the_table(predictor, raw, read_by_arrow):
    rows = raw.select(["user", "item"]).slice(0, 3).to_pylist()
    other = [{**row, "age": 77} for row in rows]
    expected = predictor._rows._read_by_arrow(other).inputs.sparse
    read_by_arrow.clear()
    assert torch.equal(predictor._rows.read(other).inputs.sparse, expected)
    assert not torch.equal(predictor._rows.read(rows).inputs.sparse, expected)
    assert not read_by_arrow


def test_many_rows_take_the_path_through_arrow(predictor, raw, read_by_arrow, monkeypatch):
    monkeypatch.setattr("deepfm.data.served_rows.FEW", 5)
    for form in (raw.slice(0, 6), raw.slice(0, 6).to_pydict(), raw.slice(0, 6).to_pylist()):
        predictor.predict(form)
    assert len(read_by_arrow) == 3
    predictor.predict(raw.slice(0, 5))
    assert len(read_by_arrow) == 3


def test_a_pickled_or_copied_predictor_predicts_the_same(predictor, raw):
    rows = raw.select(["user", "item"]).slice(0, 9)
    fresh = pickle.loads(pickle.dumps(predictor))
    expected, listed = predictor.predict(rows), predictor.recommend(5)
    size = len(pickle.dumps(fresh))
    for again in (fresh, pickle.loads(pickle.dumps(predictor)), copy.deepcopy(predictor)):
        np.testing.assert_array_equal(again.predict(rows), expected)
        assert again.recommend(5) == listed
        assert again.knows_user(5)
    assert len(pickle.dumps(predictor)) <= size  # what was made for requests is left out


def test_threads_may_share_a_predictor(predictor, raw):
    rows = [raw.select(["user", "item"]).slice(start, 7) for start in range(0, 70, 7)]
    predictor.model.train()  # which must not matter, and not be changed
    alone = copy.deepcopy(predictor)
    expected = [alone.predict(part) for part in rows]
    lists = [alone.recommend(user, top=4) for user in range(10)]

    def ask(number: int):
        k = number % 10
        return k, predictor.predict(rows[k]), predictor.recommend(k, top=4)

    with ThreadPoolExecutor(4) as pool:
        for k, found, listed in pool.map(ask, range(80)):
            np.testing.assert_array_equal(found, expected[k])
            assert listed == lists[k]
    assert predictor.model.training


@given(
    st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.5, float("nan"), float("inf")]), max_size=30),
    st.integers(0, 12),
)
def test_the_best_are_those_of_a_stable_sort(values, count):
    logits = np.array(values, np.float32)
    expected = np.argsort(-logits, kind="stable")[:count]
    np.testing.assert_array_equal(best_of(logits, count), expected)


@pytest.mark.parametrize("model_name", ["xdeepfm", "fm"])
def test_lists_of_models_with_and_without_halves(tiny_config, model_name):
    config = load_config(tiny_config(training__epochs=1, model_name=model_name))
    experiment.train(config)
    predictor = Predictor(RunDirectory(config.output_dir).best)
    row = predictor._rows.of_user("user", 5, predictor._lists.items.any_item)
    scorer, wanted = predictor._lists.scorer, np.array([3, 1, 17])
    (expected,) = score_items(
        predictor.model, inputs_of(row), wanted[None], scorer.catalogue, batch_size=100
    )
    np.testing.assert_allclose(scorer.logits(row, wanted), expected, rtol=0, atol=1e-5)


def test_several_models_rank_by_the_mean_of_their_logits(tiny_config, tmp_path):
    paths = []
    for seed in (1, 2):
        config = load_config(
            tiny_config(training__epochs=1, seed=seed, output_dir=f"{tmp_path}/{seed}")
        )
        experiment.train(config)
        paths.append(RunDirectory(config.output_dir).best)
    both = Predictor(paths)
    row, wanted = both._rows.of_user("user", 5, both._lists.items.any_item), np.arange(9)
    of_each = [Predictor(path)._lists.scorer.logits(row, wanted) for path in paths]
    found = both._lists.scorer.logits(row, wanted)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.mean(of_each, axis=0), rtol=1e-6)


def test_a_file_without_rows_has_no_scores(predictor, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("user,item\n")
    (part,) = predictor.predict_file(path)
    assert part.rows.table.column_names == ["user", "item"]
    assert len(part.predictions["probability"]) == 0


COLUMNS = ("stars", "user", "age", "income", "item", "tags", "price")


@pytest.fixture
def lines(raw):
    """The rows as cells in the order of COLUMNS."""
    joined = pa.compute.binary_join(raw["tags"], "|")
    table = raw.set_column(raw.column_names.index("tags"), "tags", joined).select(COLUMNS)
    return [[str(value) for value in row.values()] for row in table.to_pylist()]


def test_the_form_of_the_training_files_reads_files_of_their_kind(declared, raw, lines, tmp_path):
    expected = declared(files=("train.csv",)).predict(raw)
    predictor = declared(files=("train-*.txt",), delimiter="::", columns=COLUMNS)
    path = tmp_path / "new.txt"
    path.write_text("".join("::".join(line) + "\n" for line in lines))
    np.testing.assert_allclose(scores(predictor, path), expected, rtol=1e-6)
    path.write_text("".join("::".join(line[1:]) + "\n" for line in lines))  # without the label
    np.testing.assert_allclose(scores(predictor, path), expected, rtol=1e-6)
    header = "::".join(reversed(COLUMNS)) + "\n"
    path.write_text(header + "".join("::".join(reversed(line)) + "\n" for line in lines))
    np.testing.assert_allclose(scores(predictor, path), expected, rtol=1e-6)
    path.write_text("1::2::3\n")
    with pytest.raises(DataError, match=r"new\.txt:1: 7 columns are declared, 3 are in this line"):
        scores(predictor, path)


def test_files_of_another_kind_have_their_own_form(declared, raw, lines, tmp_path):
    predictor = declared(files=("train.txt",), delimiter="::", columns=COLUMNS)
    expected = predictor.predict(raw)
    for name in ("new.csv", "new.csv.gz", "new.csv.zst"):
        with pa.output_stream(tmp_path / name) as file:  # compressed by the ending
            file.write("".join(",".join(line) + "\n" for line in [COLUMNS, *lines]).encode())
        np.testing.assert_allclose(scores(predictor, tmp_path / name), expected, rtol=1e-6)
    write(tmp_path / "new.parquet", raw)
    np.testing.assert_allclose(scores(predictor, tmp_path / "new.parquet"), expected, rtol=1e-6)


def test_the_encoding_of_the_training_files_counts(declared, raw, lines, tmp_path):
    predictor = declared(files=("train.csv.gz",), delimiter=";", encoding="latin-1")
    path = tmp_path / "new.csv"
    path.write_bytes(
        "".join(";".join([*line, "é"]) + "\n" for line in [COLUMNS, *lines]).encode("latin-1")
    )
    np.testing.assert_allclose(scores(predictor, path), predictor.predict(raw), rtol=1e-6)


def test_a_checkpoint_without_items_ranks_nothing(declared):
    predictor = declared(files=("train.csv",))
    for ask in (predictor.knows_user, predictor.recommend):
        with pytest.raises(DataError, match="the checkpoint has no items to rank"):
            ask(5)


def test_rows_that_cannot_be_read_have_no_probability(declared, raw, lines, tmp_path):
    path = tmp_path / "new.csv"
    bad = {5: "much", 700: "n/a"}
    income = COLUMNS.index("income")
    for row, cell in bad.items():
        lines[row][income] = cell
    path.write_text("".join(",".join(line) + "\n" for line in [COLUMNS, *lines]))
    predictor = declared(bad_values="drop", files=("train.csv",))
    (part,) = predictor.predict_file(path)
    assert part.bad == {"income": 2}
    found = part.predictions["probability"].to_pylist()
    assert [row for row, value in enumerate(found) if value is None] == list(bad)
    kept = [row for row in range(len(raw)) if row not in bad]
    expected = predictor.predict(raw.take(kept))
    np.testing.assert_allclose([found[row] for row in kept], expected, rtol=1e-6)
    message = "new.csv:7: field income, column income: expected a number, found 'much'"
    with pytest.raises(DataError, match=message):
        scores(declared(files=("train.csv",)), path)
