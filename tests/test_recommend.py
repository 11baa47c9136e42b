"""Lists of a model with context fields, of candidates, without excluded items; by whole rows."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from deepfm import experiment
from deepfm.cli import main
from deepfm.config import config_from_dict
from deepfm.errors import DataError
from deepfm.prediction import Predictor

USERS, ITEMS, ROWS = 20, 30, 400
CONTEXT = {"device": "phone", "hour": 7, "place": None, "words": ["a", "b"]}


def clicks(rng: np.random.Generator) -> pa.Table:
    """What users liked, on which device, at what hour, of items with a price and a kind."""
    pairs = rng.permutation(USERS * ITEMS)[:ROWS]
    user, item = np.divmod(pairs, ITEMS)
    return pa.table(
        {
            "user": [f"u{k}" for k in user],
            "age": user + 20,
            "item": [f"i{k}" for k in item],
            "price": item / 7,
            "kind": [f"k{k % 4}" for k in item],
            "device": [("phone", "tv", "watch")[k] for k in rng.integers(0, 3, ROWS)],
            "hour": rng.integers(0, 24, ROWS),
            "place": [("home", "")[k] for k in rng.integers(0, 2, ROWS)],
            "words": ["|".join("abcd"[k] for k in rng.integers(0, 4, 2)) for _ in range(ROWS)],
            "at": 1_700_000_000 + rng.integers(0, 10**6, ROWS),
            "like": ((user + item) % 3 == 0).astype(int),
        }
    )


def trained(folder, table: pa.Table, *, history: bool = False, **fields: object) -> Predictor:
    pyarrow.csv.write_csv(table, folder / "rows.csv")
    declared = {
        "user": {"type": "sparse"},
        "age": {"type": "dense", "group": "user"},
        "item": {"type": "sparse"},
        "price": {"type": "dense", "group": "item"},
        "kind": {"type": "sparse", "group": "item"},
        "device": {"type": "sparse"},
        "clock": {"type": "dense", "column": "hour"},
        "place": {"type": "sparse", "default": "home"},
        "words": {"type": "sequence", "transform": "split(|)", "max_length": 3},
    }
    own = {"max_length": 4} if history else None
    config = config_from_dict(
        {
            "output_dir": str(folder / "run"),
            "device": "cpu",
            "data": {
                "dataset_name": "tabular",
                "data_dir": str(folder),
                "split_strategy": "leave_one_out",
                "num_neg_eval": 10,
                "table": {
                    "files": "rows.csv",
                    "label": "like",
                    "user_field": "user",
                    "item_field": "item",
                    "time_column": "at",
                    "fields": declared | fields,
                }
                | ({"history": own} if own else {}),
            },
            "feature": {"embedding_dim": 4, "fm_embedding_dim": 4, "init": "normal(0.5)"},
            "dnn": {"hidden_units": [8]},
            "training": {"epochs": 1, "max_steps": 2, "batch_size": 64},
        }
    )
    experiment.train(config)
    return Predictor(f"{config.output_dir}/best_model.pt")


@pytest.fixture(scope="module")
def table():
    return clicks(np.random.default_rng(3))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory, table):
    return trained(tmp_path_factory.mktemp("context"), table)


def items_of(table: pa.Table) -> dict[str, dict]:
    """The columns of each item that are its own."""
    rows = table.select(["item", "price", "kind"]).to_pylist()
    return {row["item"]: row for row in rows}


def by_whole_rows(predictor, table, user, columns, names):
    """The items in the order of what `predict` says of a row for each, with what it says."""
    items = items_of(table)
    names = sorted(names, key=list(dict.fromkeys(predictor._lists.table["item"].to_pylist())).index)
    rows = [{"user": user, **columns, **items[name]} for name in names]
    found = predictor.predict(rows)
    return [(names[k], found[k]) for k in np.argsort(-found, kind="stable")]


def met_by(table: pa.Table, user: str) -> set[str]:
    return {row["item"] for row in table.to_pylist() if row["user"] == user}


def assert_same(listed, expected, top):
    assert [one.item for one in listed] == [name for name, _ in expected[:top]]
    np.testing.assert_allclose(
        [one.probability for one in listed], [value for _, value in expected[:top]], rtol=1e-5
    )


@pytest.mark.parametrize("user", ["u3", "u7"])
def test_a_list_is_the_best_whole_rows_of_that_context(predictor, table, user):
    known = items_of(table)
    for columns in (CONTEXT, {**CONTEXT, "device": "watch"}, {**CONTEXT, "words": "c"}):
        expected = by_whole_rows(
            predictor, table, user, columns, known.keys() - met_by(table, user)
        )
        assert_same(predictor.recommend(user, top=6, context=columns), expected, 6)


def test_a_context_changes_the_list(predictor):
    one, other = (
        predictor.recommend("u3", context={**CONTEXT, "device": name}) for name in ("phone", "tv")
    )
    assert one != other


def test_a_field_with_a_default_may_be_left_out(predictor):
    less = {name: value for name, value in CONTEXT.items() if name != "place"}
    home = predictor.recommend("u3", context={**CONTEXT, "place": "home"})
    assert predictor.recommend("u3", context=less) == home
    assert predictor.recommend("u3", context=CONTEXT) == home


def test_fields_without_a_value_are_named(predictor):
    with pytest.raises(
        DataError,
        match=r"the context lacks a value of device, clock \(column hour\), words; give one",
    ):
        predictor.recommend("u3")
    with pytest.raises(DataError, match=r"lacks a value of clock \(column hour\);"):
        predictor.recommend("u3", context={"device": "tv", "words": []})


def test_a_column_that_is_none_of_the_context_is_named(predictor):
    with pytest.raises(DataError, match=r"context: 'devise' is no column .*did you mean 'device'"):
        predictor.recommend("u3", context={**CONTEXT, "devise": "tv"})
    with pytest.raises(DataError, match="context: 'price' is no column of context"):
        predictor.recommend("u3", context={**CONTEXT, "price": 3})


def test_a_value_that_cannot_be_read_is_named(predictor):
    with pytest.raises(DataError, match=r"column hour: expected a number, found 'late'"):
        predictor.recommend("u3", context={**CONTEXT, "hour": "late"})


def test_columns_of_the_user_stand_in_for_the_stored_ones(predictor, table):
    columns = {**CONTEXT, "age": 39}
    fresh = items_of(table).keys() - met_by(table, "u3")
    expected = by_whole_rows(predictor, table, "u3", columns, fresh)
    assert_same(predictor.recommend("u3", top=5, context=columns), expected, 5)
    nobody = predictor.recommend("nobody", top=ITEMS, context=columns)
    assert_same(nobody, by_whole_rows(predictor, table, "nobody", columns, items_of(table)), ITEMS)


def test_candidates_alone_are_ranked_also_those_that_the_user_has_met(predictor, table):
    met = sorted(met_by(table, "u3"))[:3]
    named = [*met, "i1", "i2", "i1"]
    expected = by_whole_rows(predictor, table, "u3", CONTEXT, set(named))
    assert_same(predictor.recommend("u3", context=CONTEXT, candidates=named), expected, 10)
    assert predictor.recommend("u3", context=CONTEXT, candidates=[]) == []


def test_excluded_items_are_left_out_of_either(predictor, table):
    best = [one.item for one in predictor.recommend("u3", context=CONTEXT, top=3)]
    gone = [best[0], best[2], "no such item"]
    fresh = items_of(table).keys() - met_by(table, "u3") - set(gone)
    expected = by_whole_rows(predictor, table, "u3", CONTEXT, fresh)
    assert_same(predictor.recommend("u3", context=CONTEXT, exclude=gone, top=4), expected, 4)
    found = predictor.recommend("u3", context=CONTEXT, candidates=best, exclude=gone)
    assert [one.item for one in found] == [best[1]]


def test_an_unknown_candidate_is_named(predictor):
    with pytest.raises(DataError, match="candidates: 'i99', 7: expected ids of the 30 items"):
        predictor.recommend("u3", context=CONTEXT, candidates=["i1", "i99", 7])


def test_a_context_field_that_reads_the_item_differs_from_item_to_item(tmp_path, table):
    crossed = {"type": "sparse", "columns": ["device", "kind"]}
    predictor = trained(tmp_path, table, history=True, device_kind=crossed)
    now = int(pa.compute.max(table["at"]).as_py()) + 1
    fresh = items_of(table).keys() - met_by(table, "u3")
    expected = by_whole_rows(predictor, table, "u3", {**CONTEXT, "at": now}, fresh)
    assert_same(predictor.recommend("u3", top=6, context=CONTEXT, time=now), expected, 6)
    # a value that the request gives is that of all items
    columns = {**CONTEXT, "kind": "k1"}
    crossed_alone = predictor.recommend("u3", top=ITEMS, context=columns, time=now)
    assert crossed_alone != predictor.recommend("u3", top=ITEMS, context=CONTEXT, time=now)


@pytest.mark.parametrize("history", [False, True])
def test_a_field_that_reads_the_time_has_that_of_the_request(tmp_path, table, history):
    hour = {"type": "sparse", "column": "at", "transform": "hour()"}
    predictor = trained(tmp_path, table, history=history, time_of_day=hour)
    now = int(pa.compute.max(table["at"]).as_py()) + 1
    fresh = items_of(table).keys() - met_by(table, "u3")
    expected = by_whole_rows(predictor, table, "u3", {**CONTEXT, "at": now}, fresh)
    assert_same(predictor.recommend("u3", top=6, context=CONTEXT, time=now), expected, 6)
    assert_same(predictor.recommend("u3", top=6, context={**CONTEXT, "at": now}), expected, 6)
    with pytest.raises(DataError, match=r"lacks a value of time_of_day \(column at\)"):
        predictor.recommend("u3", context=CONTEXT)


def test_the_command_takes_all_of_it(predictor, table, tmp_path, capsys):
    path = str(trained(tmp_path, table) and tmp_path / "run" / "best_model.pt")
    capsys.readouterr()
    asked = ["recommend", "--checkpoint", path, "--user", "u3", "--top", "4"]
    context = ["--context", "device=tv", "hour=7", "--context", "words=a|b", "place="]
    assert main([*asked, *context, "--candidates", "i1,i2,i3,i4", "--exclude", "i2"]) == 0
    listed = [line.split()[2] for line in capsys.readouterr().out.splitlines()]
    expected = Predictor(path).recommend(
        "u3",
        context={"device": "tv", "hour": 7, "words": ["a", "b"], "place": None},
        candidates=["i1", "i3", "i4"],
    )
    assert listed == [one.item for one in expected]
    assert main([*asked, "--context", "device"]) == 2
    assert "--context: expected column=value, found 'device'" in capsys.readouterr().err
    assert main([*asked, *context, "--candidates", "i99"]) == 2
    assert "candidates: 'i99': expected ids of the 30 items" in capsys.readouterr().err
