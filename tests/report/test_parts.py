"""What panels are made of: histories, parts of rows, verdicts, maps, samples."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from deepfm.config import load_config
from deepfm.evaluation.scoring import evaluate
from deepfm.models import build_model
from deepfm.report.fields import exchangeable, exchanged, field_segments
from deepfm.report.item_map import flattened, nearest_items
from deepfm.report.learning import history_of
from deepfm.report.rivals import losses_of
from deepfm.report.scores import sampled, scores_of
from deepfm.report.verdict import LOG_LOSS, NDCG, judged


def test_the_kept_epoch_is_the_first_best_one_or_the_last():
    entries = [
        {"epoch": 1, "loss": 0.5},
        {"epoch": 2, "loss": 0.4, "evaluations": [{"loss": 0.1}]},
        {"epoch": 3, "loss": 0.2},
    ]
    options = {"larger_is_better": False, "keep": "best"}
    assert history_of(entries, "loss", **options).kept == 2  # within the epoch
    assert history_of(entries, "auc", **options).kept is None
    assert history_of(entries, "loss", larger_is_better=False, keep="last").kept == 3
    assert history_of([], "loss", larger_is_better=False, keep="last").kept is None


def test_a_verdict_names_what_is_better_worse_and_neither():
    rng = np.random.default_rng(0)
    own = rng.random(400)
    rivals = {
        "a": own + 0.1 + 0.1 * rng.normal(size=400),
        "b": own - 0.1 + 0.1 * rng.normal(size=400),
        "c": own + 0.1 * rng.normal(size=400) - 0.0005,
    }
    found = judged(LOG_LOSS, own, rivals, over="400 rows")
    words = {one.rival: one.word for one in found.judgements}
    assert words == {"a": "better", "b": "worse", "c": "no significant difference"}
    line = found.line()
    for said in ("better than a (", "worse than b (", "no significant difference from c ("):
        assert said in line
    turned = judged(NDCG, own, rivals, over="400 rows")
    assert {one.rival: one.word for one in turned.judgements}["a"] == "worse"


def test_losses_are_those_of_their_kind():
    label = np.array([0, 2, 1])
    logits = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]]))
    np.testing.assert_allclose(losses_of("classes", label, logits), -np.log([0.5, 0.8, 0.3]))
    binary = losses_of("binary", np.array([0, 1]), np.array([0.0, 1.0]))
    np.testing.assert_allclose(binary, [np.log(2), np.log(1 + np.exp(-1))])
    np.testing.assert_allclose(losses_of("number", np.array([1.0]), np.array([3.0])), [4.0])


def test_the_map_is_of_the_principal_components():
    vectors = np.random.default_rng(0).normal(size=(30, 5)) * [3, 2, 1, 1, 1]
    found, expected = flattened(vectors), PCA(2).fit(vectors)
    np.testing.assert_allclose(np.abs(found.places), np.abs(expected.transform(vectors)))
    assert found.kept == pytest.approx(expected.explained_variance_ratio_.sum())
    assert (found.places.max(0) >= -found.places.min(0)).all()  # the larger side is positive
    assert flattened(np.ones((3, 1))).places.tolist() == [[0, 0]] * 3


def test_the_most_alike_items_have_the_smallest_angles():
    vectors = np.array([[1.0, 0.0], [5.0, 0.1], [0.0, 1.0], [0.1, 3.0]])
    assert nearest_items(vectors, 1).ravel().tolist() == [1, 0, 3, 2]


def test_a_sample_of_rows_keeps_what_was_found_for_them(tiny_config, tiny_data):
    config = load_config(tiny_config())
    model = build_model(tiny_data.encoders.schema, config).eval()
    whole = evaluate(model, tiny_data.valid, batch_size=64, train=tiny_data.train)
    sample = sampled(tiny_data.valid, most=25, most_ranked=4)
    assert len(sample.rows) == 25
    assert len(sample.ranked) == 4
    alone = evaluate(model, sample.rows, batch_size=64)
    of_whole = sample.of(whole)
    np.testing.assert_allclose(of_whole.predictions[""], alone.predictions[""], rtol=1e-5)
    np.testing.assert_array_equal(of_whole.counts.above, alone.counts.above)
    tasks = list(model.tasks)
    scores = scores_of("valid", sample.rows, alone, tasks, tiny_data.train, of_rows=40)
    assert scores.seen() == "25 of 40 validation rows"
    np.testing.assert_array_equal(scores.row, tiny_data.valid.row[sample.kept])
    shift = tiny_data.valid.ranking.prior.shift
    np.testing.assert_allclose(scores.tasks[0].logit - scores.tasks[0].score, shift)
    everything = sampled(tiny_data.valid)
    assert everything.rows is tiny_data.valid


def test_parts_by_a_field_are_its_values_its_bands_or_its_lengths(tiny_data):
    rows, train = tiny_data.valid, tiny_data.train
    found = {one.title: one.segments for one in field_segments(rows, train, tiny_data.encoders)}
    assert list(found) == [
        "By popularity of the item", "By user", "By age", "By income", "By price",
        "By length of tags",
    ]  # fmt: skip
    item = [f.name for f in rows.schema.sparse_fields].index("item")
    counts = np.bincount(train.inputs.sparse[:, item].numpy(), minlength=100)
    common = counts[rows.inputs.sparse[:, item].numpy()]
    parts = found["By popularity of the item"]
    for number, name in enumerate(parts.names[1:], start=1):
        low, _, high = name.replace(",", "").partition(" to ")
        own = common[parts.of_row == number]
        assert (own.min(), own.max()) == (int(low), int(high or low))
    age = [f.name for f in rows.schema.sparse_fields].index("age")
    ids = rows.inputs.sparse[:, age]
    values = next(
        encoder.values.to_pylist()
        for reader, encoder in tiny_data.encoders.parts()
        if reader.field.name == "age"
    )
    parts = found["By age"]
    for number, name in enumerate(parts.names):
        named = {str(values[k - 1]) for k in ids[parts.of_row == number].tolist()}
        assert named in ({name}, set())
    income = rows.inputs.dense[:, 0].numpy()
    bands = found["By income"].of_row
    assert np.bincount(bands).tolist() == [10, 10, 10, 10]
    assert all(income[bands == k].max() < income[bands == k + 1].min() for k in range(3))
    assert (found["By length of tags"].of_row == 2).all()  # two tags each


def test_exchanged_fields_come_from_other_rows_and_others_stay(tiny_data):
    inputs = tiny_data.valid.inputs.select(slice(0, 6))
    columns = exchangeable(tiny_data.encoders.schema)
    assert list(columns) == ["user", "age", "item", "income", "price", "tags"]
    stay, turned = np.arange(6), np.arange(6)[::-1].copy()
    order = {name: turned if name in ("item", "tags") else stay for name in columns}
    found = exchanged(inputs, columns, order)
    item = [f.name for f in tiny_data.encoders.schema.sparse_fields].index("item")
    for column in range(inputs.sparse.shape[1]):
        expected = inputs.sparse[:, column]
        expected = expected.flip(0) if column == item else expected
        assert torch.equal(found.sparse[:, column], expected)
    assert torch.equal(found.dense, inputs.dense)
    assert torch.equal(found.sequence_ids[0], inputs.sequence_ids[0].flip(0))
