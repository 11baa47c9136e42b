"""Permutation importance against hand-made shuffles, and scikit-learn's on a model of its own."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.inspection import permutation_importance as theirs
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from deepfm.errors import DataError
from deepfm.evaluation.permutation import permutation_importance

RNG = np.random.default_rng(0)
COLUMNS = {"much": RNG.normal(size=800), "some": RNG.normal(size=800), "none": RNG.normal(size=800)}
LOGIT = 2 * COLUMNS["much"] + 0.7 * COLUMNS["some"]
LABEL = (RNG.random(800) < 1 / (1 + np.exp(-LOGIT))).astype(int)
TABLE = pa.table(COLUMNS)


def probability(table):
    logit = 2 * table["much"].to_numpy() + 0.7 * table["some"].to_numpy()
    return 1 / (1 + np.exp(-logit))


def by_name(found):
    return {one.column: one for one in found}


@pytest.mark.parametrize("figure", ["auc", "logloss"])
def test_the_losses_are_those_of_shuffling_by_hand(figure):
    def measured(probability):
        if figure == "auc":
            return -roc_auc_score(LABEL, probability)
        return log_loss(LABEL, probability)

    found = permutation_importance(probability, TABLE, LABEL, figure=figure, seed=3, repeats=4)
    whole = measured(probability(TABLE))
    for name, one in by_name(found).items():
        expected = []
        for k in range(4):
            order = np.random.default_rng([3, k]).permutation(800)
            shuffled = TABLE.to_pandas().assign(**{name: COLUMNS[name][order]})
            expected.append(measured(probability(pa.table(shuffled))) - whole)
        np.testing.assert_allclose(one.losses, expected, rtol=0, atol=1e-12)
        assert one.mean == pytest.approx(np.mean(expected))
        assert one.deviation == pytest.approx(np.std(expected, ddof=1))


def test_the_most_important_column_stands_first_and_an_unused_one_costs_nothing():
    found = permutation_importance(probability, TABLE, LABEL)
    assert [one.column for one in found] == ["much", "some", "none"]
    assert found[0].mean > 5 * found[1].mean > 0
    assert not found[2].losses.any()


def test_it_agrees_with_scikit_learn_within_the_spread():
    columns = TABLE.to_pandas()
    model = LogisticRegression().fit(columns, LABEL)
    expected = theirs(
        model, columns, LABEL, scoring="roc_auc", n_repeats=20, random_state=0
    ).importances
    found = by_name(
        permutation_importance(
            lambda rows: model.predict_proba(rows.to_pandas())[:, 1], TABLE, LABEL, repeats=20
        )
    )
    for name, values in zip(columns, expected, strict=True):
        spread = np.hypot(values.std(ddof=1), found[name].deviation) / np.sqrt(20)
        assert abs(values.mean() - found[name].mean) < 4 * spread


def test_what_is_found_for_a_column_does_not_depend_on_the_others():
    alone = permutation_importance(probability, TABLE, LABEL, ["some"], seed=1)
    beside = by_name(permutation_importance(probability, TABLE, LABEL, seed=1))
    np.testing.assert_array_equal(alone[0].losses, beside["some"].losses)


def test_three_classes_and_numbers_have_their_figures():
    label = RNG.integers(3, size=60)
    table = pa.table({"class": label, "other": RNG.normal(size=60)})

    def known(rows):
        return np.eye(3)[rows["class"].to_numpy()] * 0.97 + 0.01

    found = permutation_importance(known, table, label, figure="logloss", repeats=3)
    for k, loss in enumerate(found[0].losses):
        shuffled = label[np.random.default_rng([0, k]).permutation(60)]
        rises = np.where(shuffled == label, 0, np.log(0.98) - np.log(0.01))
        assert loss == pytest.approx(rises.mean())
    number = permutation_importance(
        lambda rows: rows["other"].to_numpy(), table, table["other"].to_numpy(), figure="rmse"
    )
    values = table["other"].to_numpy()
    order = np.random.default_rng([0, 0]).permutation(60)
    assert number[0].losses[0] == pytest.approx(np.sqrt(np.mean((values - values[order]) ** 2)))


def test_columns_of_lists_and_texts_with_gaps_are_shuffled():
    table = pa.table({"words": [["a"], ["b", "c"], None, []], "text": ["x", None, "y", "z"]})
    seen = []

    def predict(rows):
        seen.append(rows)
        return np.array([0.1, 0.2, 0.3, 0.4])

    permutation_importance(predict, table, np.array([0, 1, 0, 1]), repeats=2)
    for rows in seen:
        assert rows.schema == table.schema
        for name in table.column_names:
            assert sorted(map(str, rows[name].to_pylist())) == sorted(
                map(str, table[name].to_pylist())
            )


def test_a_mistake_is_named():
    with pytest.raises(DataError, match="no column 'mush'; did you mean 'much'"):
        permutation_importance(probability, TABLE, LABEL, ["mush"])
    with pytest.raises(DataError, match="expected labels of both classes, found 800 times 0"):
        permutation_importance(probability, TABLE, 0 * LABEL)
    with pytest.raises(DataError, match="found 800 rows and 3 labels"):
        permutation_importance(probability, TABLE, LABEL[:3])
