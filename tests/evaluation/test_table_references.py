"""Simple methods on the rows of a table: against scikit-learn on columns made by hand."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from deepfm.data.dataset import TabularDataset
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.evaluation import table_columns, table_references
from deepfm.evaluation.table_columns import FOLDS, SMOOTHING, CategoryColumns, OneHotColumns
from deepfm.evaluation.table_references import reference_metrics
from deepfm.objectives import LOSSES, Task
from deepfm.utils.seeding import generator

SCHEMA = DatasetSchema(
    fields={
        "city": FieldSchema("city", FeatureType.SPARSE, vocabulary_size=12),
        "ad": FieldSchema("ad", FeatureType.SPARSE, vocabulary_size=600),
        "tags": FieldSchema("tags", FeatureType.SEQUENCE, vocabulary_size=9),
        "price": FieldSchema("price", FeatureType.DENSE),
    },
    label_field="label",
)


def rows(seed, count, kind="binary", weight=None):
    """Rows whose label hangs on city, ad, tags and price."""
    rng = np.random.default_rng(seed)
    city, ad = rng.integers(12, size=count), rng.integers(600, size=count)
    lengths = rng.integers(4, size=count)
    tags = rng.integers(9, size=(count, 3))
    price = rng.normal(5, 2, count)
    effects = np.random.default_rng(0)
    size = effects.normal(size=12)[city] + effects.normal(size=600)[ad] + 0.3 * (price - 5)
    size += 1.5 * ((tags == 1) & (np.arange(3) < lengths[:, None])).any(1)
    noise = rng.logistic(size=count)
    label = {
        "binary": size + noise > 1,
        "number": size + 0.3 * noise,
        "classes": np.digitize(size + noise, [-0.5, 1.5]),
    }[kind]
    return TabularDataset.from_arrays(
        SCHEMA,
        {"city": city, "ad": ad, "tags": (tags, lengths), "price": price},
        label.astype(np.float32),
        weight=weight,
    )


TASKS = {
    "binary": Task(),
    "number": Task(objectives=(LOSSES["l2"](),)),
    "classes": Task(objectives=(LOSSES["softmax_cross_entropy"](),), num_class=3),
}


def found(kind, seed=1, max_rows=10**6, size=3000, held_out=1500):
    splits = (rows(1, size, kind), rows(2, held_out, kind), rows(3, held_out, kind))
    task = TASKS[kind]
    given = table_references.table_references(*splits, task, seed=seed, max_rows=max_rows)
    return splits, task, given


@pytest.mark.parametrize("kind", TASKS)
def test_each_reference_beats_the_one_before_on_rows_it_never_saw(kind):
    (_, valid, test), task, given = found(kind)
    assert list(given) == ["base_rate", "linear", "boosting"]
    figures = {}
    for name, reference in given.items():
        for split, predicted in ((valid, reference.valid), (test, reference.test)):
            assert len(predicted) == len(split)
            figures[name] = reference_metrics(task, split, predicted)
    own = "rmse" if kind == "number" else "logloss"
    assert figures["linear"][own] < 0.95 * figures["base_rate"][own]
    assert figures["boosting"][own] < 0.95 * figures["base_rate"][own]
    if kind == "binary":
        assert figures["base_rate"]["auc"] == 0.5
        assert figures["linear"]["auc"] > 0.75


@pytest.mark.parametrize("kind", TASKS)
def test_equal_seeds_give_equal_predictions(kind):
    one, other = (found(kind, size=800)[2] for _ in range(2))
    for name in one:
        np.testing.assert_array_equal(one[name].test, other[name].test)


def dense_columns(train, dataset):
    """The one-hot columns, row by row."""
    price = train.inputs.dense.double().numpy()
    columns = []
    for k in range(len(dataset)):
        row = [(float(dataset.inputs.dense[k, 0]) - price.mean()) / price.std()]
        for field, size in ((0, 12), (1, 600)):
            row += [float(dataset.inputs.sparse[k, field] == value) for value in range(size)]
        length = int(dataset.inputs.sequence_lengths[0][k])
        tags = set(dataset.inputs.sequence_ids[0][k, :length].tolist())
        row += [float(value in tags) for value in range(9)]
        columns.append(row)
    return np.array(columns)


@pytest.mark.parametrize("kind", ["binary", "number"])
def test_the_linear_model_is_that_of_columns_made_by_hand(kind):
    """With the penalty of the five that is best on validation rows."""
    (train, valid, test), task, given = found(kind, size=400, held_out=150)
    known, held_out, new = (dense_columns(train, split) for split in (train, valid, test))
    label = train.label.numpy()
    best = None
    penalties = table_references.RIDGES if kind == "number" else table_references.PENALTIES
    for penalty in penalties:
        if kind == "number":
            model = Ridge(alpha=penalty).fit(known, label)
            predicted = [model.predict(part) for part in (held_out, new)]
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = LogisticRegression(C=1 / penalty, max_iter=3000, tol=1e-8)
                model.fit(known, label)
            predicted = [model.decision_function(part) for part in (held_out, new)]
        metrics = reference_metrics(task, valid, predicted[0])
        loss = metrics["rmse" if kind == "number" else "logloss"]
        if best is None or loss < best[0]:
            best = loss, predicted[1]
    np.testing.assert_allclose(given["linear"].test, best[1], atol=0.02)


def test_a_value_that_training_rows_lack_has_no_column():
    train, other = rows(1, 40), rows(2, 300)
    columns = OneHotColumns(train, np.arange(40))
    known = set(train.inputs.sparse[:, 1].tolist())
    part = columns(other, np.arange(300)).toarray()
    cities = len(set(train.inputs.sparse[:, 0].tolist()))
    ads = part[:, 1 + cities : 1 + cities + len(known)]
    expected = [float(int(ad) in known) for ad in other.inputs.sparse[:, 1]]
    assert ads.sum(axis=1).tolist() == expected
    assert 0 < sum(expected) < 300


def test_means_of_training_rows_are_those_of_the_other_folds(monkeypatch):
    """A slow loop over rows, folds and elements."""
    monkeypatch.setattr(table_columns, "MOST_CATEGORIES", 50)
    train, other = rows(1, 400), rows(2, 50)
    weight = np.random.default_rng(5).uniform(0.5, 2.0, 400)
    target = train.label.double().numpy()
    columns = CategoryColumns(train, np.arange(400), target[:, None], weight, seed=3)
    fold = generator(3, "folds").integers(FOLDS, size=400)
    mean = np.average(target, weights=weight)
    ads = train.inputs.sparse[:, 1].numpy()

    def smoothed(chosen):
        total, count = (weight * target)[chosen].sum(), weight[chosen].sum()
        return (total + SMOOTHING * mean) / (count + SMOOTHING)

    expected = [smoothed((ads == ads[k]) & (fold != fold[k])) for k in range(400)]
    made = columns.of_training()
    np.testing.assert_allclose(made[:, 2], expected, rtol=1e-12)
    expected = [smoothed(ads == int(ad)) for ad in other.inputs.sparse[:, 1]]
    np.testing.assert_allclose(columns(other, np.arange(50))[:, 2], expected, rtol=1e-12)
    assert columns.is_category.tolist()[:3] == [True, True, False]
    assert made[:, 1].max() == 49
    lengths = train.inputs.sequence_lengths[0].numpy()
    assert made[:, 3].tolist() == lengths.tolist()
    assert np.isnan(made[:, 4]).tolist() == (lengths == 0).tolist()


def test_a_leaky_mean_would_show_on_random_labels():
    """An id that stands once has the mean of all in its column, and not its own label."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 500).astype(np.float32)
    data = TabularDataset.from_arrays(
        SCHEMA,
        {
            "city": np.zeros(500), "ad": np.arange(500), "price": np.zeros(500),
            "tags": (np.zeros((500, 1)), np.zeros(500)),
        },
        label,
    )  # fmt: skip
    columns = CategoryColumns(data, np.arange(500), label[:, None], np.ones(500), seed=0)
    np.testing.assert_allclose(columns.of_training()[:, 2], label.mean())


def test_at_most_so_many_rows_are_learned_from_and_all_are_predicted(monkeypatch):
    seen = []

    def fit(train, valid, kind, num_class, seed):
        seen.extend((train, valid))
        return lambda dataset: np.zeros(len(dataset))

    monkeypatch.setattr(table_references, "TABLE_REFERENCES", {"one": fit})
    (train, _, _), _, given = found("binary", max_rows=200)
    assert [len(part.rows) for part in seen] == [200, 200]
    assert (np.diff(seen[0].rows) > 0).all()
    np.testing.assert_array_equal(seen[0].label, train.label.numpy()[seen[0].rows])
    assert len(given["one"].test) == 1500


def test_weights_of_training_rows_count():
    weight = np.where(rows(1, 3000).label.numpy() > 0, 3.0, 1.0)
    valid, plain, weighted = (
        rows(2, 1500),
        rows(1, 3000),
        rows(1, 3000, weight=torch.from_numpy(weight)),
    )
    for name in ("base_rate", "linear", "boosting"):
        fit = table_references.TABLE_REFERENCES[name]
        means = []
        for train in (plain, weighted):
            drawn = [table_references._drawn(part, Task(), 10**6, 0) for part in (train, valid)]
            means.append(fit(*drawn, "binary", 1, 0)(plain).mean())
        assert means[1] > means[0] + 0.5


@pytest.mark.parametrize("kind", ["binary", "classes"])
def test_training_rows_of_one_class_have_the_base_rate(kind):
    train = rows(1, 100, kind)
    ones = TabularDataset(SCHEMA, train.inputs, torch.ones(100))
    given = table_references.table_references(ones, ones, rows(2, 50, kind), TASKS[kind], seed=0)
    for reference in given.values():
        np.testing.assert_array_equal(reference.test, given["base_rate"].test)
        assert np.isfinite(reference.test).all()


def test_a_class_that_training_rows_lack_has_a_finite_logit():
    train, test = rows(1, 600, "classes"), rows(2, 100, "classes")
    lacking = TabularDataset(SCHEMA, train.inputs, train.label.clamp(max=1))
    given = table_references.table_references(lacking, lacking, test, TASKS["classes"], seed=0)
    for reference in given.values():
        assert reference.test.shape == (100, 3)
        assert np.isfinite(reference.test).all()
        assert (reference.test.argmax(axis=1) < 2).all()
