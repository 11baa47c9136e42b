"""Answers of an explorer: equal to what predicts and recommends, and to what is explained."""

import numpy as np
import pytest

from deepfm.errors import DataError
from deepfm.explanation import logits_of, single_effects
from deepfm.explore.draws import draws_of
from deepfm.explore.explorer import Explorer
from deepfm.explore.lists import Person
from deepfm.prediction import Predictor
from deepfm.several import load_several
from tests import clicks


@pytest.fixture
def people(ranking, tiny_adapter):
    checkpoints = load_several(ranking)
    return Explorer(checkpoints, draws_of(checkpoints[0]))


@pytest.fixture
def rows(table):
    checkpoints = load_several(table)
    examples = [{"user": "3", "color": "c1", "size": "0.5", "click": "1"}]
    return Explorer(checkpoints, draws_of(checkpoints[0]), examples)


def listed(found):
    return [(int(one["item"]), one["title"]) for one in found["items"]]


def test_a_known_user_gets_the_recommended_list(people, ranking):
    predictor = Predictor(ranking)
    found = people.ranked(Person("5", {}, None), 8)
    expected = predictor.recommend(5, top=8)
    assert listed(found) == [(one.item, one.title) for one in expected]
    np.testing.assert_allclose(
        [one["prediction"] for one in found["items"]], [one.probability for one in expected]
    )
    assert found["known"]["user"] == "5"
    assert 0 < len(found["history"]) <= 6
    assert found["unknown"] == []


def test_the_history_is_what_the_model_reads_and_can_be_another(people, ranking):
    own = [one["item"] for one in people.ranked(Person("5", {}, None), 8)["history"]]
    events = load_several(ranking)[0].events
    assert len(own) in np.diff(events.starts)
    same = people.ranked(Person("5", {}, own), 8)
    assert [one["item"] for one in same["history"]] == own
    given = people.ranked(Person("5", {}, ["7", "9"]), 60)
    assert [one["item"] for one in given["history"]] == ["7", "9"]
    assert given["history"][0]["title"] == "Item 7"
    assert not {"7", "9"} & {one["item"] for one in given["items"]}
    expected = Predictor(ranking).recommend(5, top=60, history=["7", "9"])
    assert listed(given) == [(one.item, one.title) for one in expected]


def test_a_field_that_is_changed_moves_the_list(people, ranking):
    changed = {"age": "12", "income": "3.5"}
    found = people.ranked(Person("5", changed, None), 60)
    assert listed(found) != listed(people.ranked(Person("5", {}, None), 60))
    assert found["known"]["age"] != "12"  # what the checkpoint knows stays to be seen
    expected = Predictor(ranking).recommend(5, top=60, context={"age": 12, "income": 3.5})
    assert listed(found) == [(one.item, one.title) for one in expected]


def test_a_new_user_is_described_by_fields_alone(people):
    with pytest.raises(DataError, match="income"):
        people.ranked(Person("", {"age": "33"}, None), 5)
    found = people.ranked(Person("", {"age": "33", "income": "0.2"}, None), 5)
    assert found["known"] is None
    assert found["history"] == []
    assert len(found["items"]) == 5
    unknown = people.ranked(Person("nobody", {"age": "33", "income": "0.2"}, None), 5)
    assert listed(unknown) == listed(found)


def test_mistakes_name_the_column_and_the_nearest_one(people):
    with pytest.raises(DataError, match="no column 'agee'; did you mean 'age'"):
        people.ranked(Person("5", {"agee": "3"}, None), 5)
    with pytest.raises(DataError, match="income: expected a number, found 'much'"):
        people.ranked(Person("5", {"income": "much"}, None), 5)
    with pytest.raises(DataError, match="no item '77777'"):
        people.ranked(Person("5", {}, ["77777"]), 5)
    with pytest.raises(DataError, match="no item 'x'"):
        people.explained_item(Person("5", {}, None), "x", 0)
    with pytest.raises(DataError, match="target: expected below 1, found 4"):
        people.explained_item(Person("5", {}, None), "3", 4)


def test_an_item_is_explained_by_the_fields_of_both(people, ranking):
    person = Person("5", {"age": "44"}, None)
    logits = {one["item"]: one["logit"] for one in people.ranked(person, 100)["items"]}
    item = next(iter(logits))
    found = people.explained_item(person, item, 0)
    assert found["logit"] == pytest.approx(logits[item], rel=1e-4)
    assert sum(part["value"] for part in found["parts"]) == pytest.approx(found["logit"], rel=1e-4)
    row = people.lists.with_item(people.lists.row(person), item)
    logits = logits_of(people._scorer, people._scorer.tasks[0])
    expected = single_effects(logits, row, people._draws.inputs, people._schema)
    assert [e["features"] for e in found["effects"]] == [e.features for e in expected]
    np.testing.assert_allclose(
        [e["mean"] for e in found["effects"]], [e.mean for e in expected], rtol=1e-5
    )
    assert {f for e in found["effects"] for f in e["features"]} == {
        "user", "age", "income", "item", "tags", "price", "history"
    }  # fmt: skip
    assert found["values"]["age"] == "44"
    assert found["values"]["item"] == f"{item} Item {item}"
    assert found["values"]["history"].endswith(" items")
    assert not found["pairs_are_exact"]
    assert found["num_pairs"] == 21
    assert len(found["pairs"]) == 15


def test_items_and_users_are_suggested_by_what_is_typed(people):
    assert people.lists.users_like("1")[:3] == ["1", "10", "11"]
    assert people.lists.users_like("zz") == []
    assert {"item": "42", "title": "Item 42"} in people.lists.items_like("ITEM 4")
    assert [one["item"] for one in people.lists.items_like("59")] == ["59"]


def test_a_row_is_predicted_and_explained(rows, table):
    typed = {"user": "3", "color": "c1", "size": "0.5"}
    found = rows.scored(typed)
    (expected,) = Predictor(table).predict([{"user": 3, "color": "c1", "size": 0.5}])
    assert found["predictions"] == {"probability": pytest.approx(expected, rel=1e-6)}
    explained = rows.explained_row(typed, 0)
    assert explained["predictions"] == found["predictions"]
    assert 1 / (1 + np.exp(-explained["logit"])) == pytest.approx(expected, rel=1e-5)
    assert explained["num_pairs"] == 3
    assert rows.scored({**typed, "color": "mauve"})["unknown"] == ["color"]
    with pytest.raises(DataError, match="ranks no items"):
        rows.ranked(Person("3", {}, None), 5)


def test_the_page_knows_columns_choices_and_examples(rows, people):
    about = rows.about()
    assert not about["ranks"]
    columns = {column["name"]: column for column in about["columns"]}
    assert list(columns) == ["user", "color", "size"]
    assert columns["color"]["choices"] == tuple(f"c{k}" for k in range(6))
    assert columns["size"]["is_number"]
    assert not columns["user"]["is_number"]
    assert about["examples"] == [{"user": "3", "color": "c1", "size": "0.5"}]
    assert about["targets"] == [{"name": "probability", "what": "logit"}]
    about = people.about()
    assert about["ranks"]
    assert about["reads_history"]
    assert about["user_column"] == "user"
    assert [column["name"] for column in about["columns"]] == ["user", "age", "income"]


def test_several_checkpoints_are_explained_as_their_mean(ranking, tiny_adapter):
    checkpoints = load_several([ranking, ranking])
    several = Explorer(checkpoints, draws_of(checkpoints[0]))
    alone = Explorer(checkpoints[:1], draws_of(checkpoints[0]))
    person = Person("5", {}, None)
    found, one = (e.explained_item(person, "3", 0) for e in (several, alone))
    assert found["logit"] == pytest.approx(one["logit"], rel=1e-5)
    assert found["parts"] is None
    assert one["parts"] is not None


def test_pairs_of_a_factorization_machine_are_exact(tmp_path):
    checkpoints = load_several(clicks.trained(tmp_path, model_name="fm"))
    explorer = Explorer(checkpoints, draws_of(checkpoints[0]))
    found = explorer.explained_row({"user": "3", "color": "c1", "size": "0.5"}, 0)
    assert found["pairs_are_exact"]
    assert found["num_paired"] is None
    (pair,) = found["pairs"]  # `size` is a raw number without a vector
    assert pair["features"] == ("user", "color")
    parts = {part["name"]: part["value"] for part in found["parts"]}
    assert pair["mean"] == pytest.approx(parts["interactions"], rel=1e-4)
