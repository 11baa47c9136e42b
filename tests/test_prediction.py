"""Predicting on raw rows: equal to the training side, whatever form the rows come in."""

import numpy as np
import pyarrow as pa
import pytest

from deepfm import experiment
from deepfm.checkpoint import RunDirectory
from deepfm.config import load_config
from deepfm.errors import DataError
from deepfm.evaluation.scoring import evaluate, score
from deepfm.prediction import Predictor
from tests import tiny


@pytest.fixture
def predictor(tiny_config):
    config = load_config(tiny_config(training__epochs=1))
    experiment.train(config)
    return Predictor(RunDirectory(config.output_dir).best)


@pytest.fixture
def raw(tmp_path):
    tables = tiny.load(tmp_path, False)
    return tables.complete(tiny.schema(), tables.interactions)


def test_raw_rows_score_like_the_evaluated_split(predictor, raw, tiny_data):
    rows = raw.take(tiny_data.test.row)
    expected = evaluate(predictor.model, tiny_data.test, batch_size=100).probability
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
