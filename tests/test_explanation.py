"""Effects of fields and pairs: equal to brute force, planted ones first, parts that add up."""

from itertools import combinations

import numpy as np
import pytest
import torch

from deepfm.config import config_from_dict
from deepfm.data.dataset import TabularDataset
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.errors import ArgumentError
from deepfm.evaluation.calibration import Temperature
from deepfm.evaluation.members import Members
from deepfm.explanation import (
    ROWS_AT_ONCE,
    Effect,
    features_of,
    logits_of,
    pair_effects,
    pair_terms,
    parts_of,
    replaced,
    single_effects,
)
from deepfm.models import MODELS, build_model
from deepfm.objectives import Task
from deepfm.training.trainer import Trainer

FIELDS = {
    "city": FieldSchema("city", "sparse", vocabulary_size=9, embedding_dim=4),
    "tags": FieldSchema("tags", "sequence", vocabulary_size=7, embedding_dim=3, max_length=4),
    "price": FieldSchema("price", "dense"),
    "place": FieldSchema("place", "dense", value_dim=2, embedding_dim=4, dense_embedding="linear"),
    "kind": FieldSchema("kind", "sparse", vocabulary_size=5, embedding_dim=4),
}
SCHEMA = DatasetSchema(fields=FIELDS, label_field="click")
# A model per way in which fields meet; `lr` has no pairs, and `fm` and `fwfm` have exact ones.
SOME_MODELS = ("lr", "fm", "fwfm", "deepfm", "dcn_v2", "autoint", "masknet")


def random_rows(count, seed=0):
    """Rows as dicts, whose values `inputs_of` takes."""
    rng = np.random.default_rng(seed)
    return [
        {
            "city": int(rng.integers(9)),
            "tags": rng.integers(1, 7, rng.integers(0, 5)).tolist(),
            "price": float(rng.normal()),
            "place": rng.normal(size=2).tolist(),
            "kind": int(rng.integers(5)),
        }
        for _ in range(count)
    ]


def inputs_of(rows):
    lengths = np.array([len(row["tags"]) for row in rows])
    ids = np.zeros((len(rows), max(1, lengths.max())), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row["tags"])] = row["tags"]
    columns = {name: np.array([row[name] for row in rows]) for name in FIELDS if name != "tags"}
    columns["tags"] = ids, lengths
    inputs = TabularDataset.from_arrays(SCHEMA, columns, np.zeros(len(rows))).inputs
    return inputs._replace(dense=inputs.dense.double()).select(slice(None))


def model_of(name, seed=0, **config):
    """With weights far from those it begins with, so that every field counts."""
    torch.manual_seed(seed)
    config = config_from_dict({"model_name": name, "feature": {"fm_embedding_dim": 4}} | config)
    model = build_model(SCHEMA, config)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape)
    return model.double().eval()


def one_logit(model, row):
    with torch.no_grad():
        return float(model(inputs_of([row])))


def with_values_of(row, other, names):
    return {**row, **{name: other[name] for name in names}}


def effect_by_brute_force(model, row, draws, names):
    """The change at each draw: of one field, or of a pair beyond its fields alone."""
    before = one_logit(model, row)
    changes = []
    for other in draws:
        change = one_logit(model, with_values_of(row, other, names)) - before
        if len(names) == 2:
            for name in names:
                change -= one_logit(model, with_values_of(row, other, [name])) - before
        changes.append(change)
    return np.array(changes)


def assert_same(effects, model, row, draws, wanted):
    assert {effect.features for effect in effects} == set(wanted)
    for effect in effects:
        changes = effect_by_brute_force(model, row, draws, effect.features)
        expected = (
            changes.mean(), changes.std(), np.quantile(changes, 0.1), np.quantile(changes, 0.9)
        )  # fmt: skip
        np.testing.assert_allclose(effect[1:], expected, rtol=1e-9, atol=1e-9)
    sizes = [abs(effect.mean) for effect in effects]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", SOME_MODELS)
def test_effects_are_those_of_brute_force(name):
    model, (row, *draws) = model_of(name), random_rows(13)
    logits, given = logits_of(model, Task()), (inputs_of([row]), inputs_of(draws), SCHEMA)
    singles = single_effects(logits, *given)
    assert_same(singles, model, row, draws, [(name,) for name in FIELDS])
    pairs = pair_effects(logits, *given)
    assert_same(pairs, model, row, draws, list(combinations(FIELDS, 2)))


def test_many_sets_are_scored_in_several_calls(monkeypatch):
    model, (row, *draws) = model_of("deepfm"), random_rows(13)
    given = (inputs_of([row]), inputs_of(draws), SCHEMA)
    calls = []

    def logits(inputs):
        calls.append(inputs.num_rows)
        return logits_of(model, Task())(inputs)

    whole = pair_effects(logits, *given)
    assert calls == [1, 15 * 12]
    assert ROWS_AT_ONCE > 15 * 12
    calls.clear()
    monkeypatch.setattr("deepfm.explanation.ROWS_AT_ONCE", 30)
    cut = pair_effects(logits, *given)
    assert calls == [1, *[24] * 7, 12]
    np.testing.assert_allclose([e[1:] for e in cut], [e[1:] for e in whole], atol=1e-5)


def test_a_field_that_nobody_reads_changes_nothing():
    model = model_of(
        "deepfm", feature={"groups": {"deep": ["city", "price"], "fm": ["city"], "wide": ["city"]}}
    )
    found = single_effects(
        logits_of(model, Task()), inputs_of(random_rows(1)), inputs_of(random_rows(9, 1)), SCHEMA
    )
    largest = {effect.features[0]: max(map(abs, effect[1:])) for effect in found}
    assert [name for name, size in largest.items() if size > 1e-4] == [
        effect.features[0] for effect in found[:2]
    ]
    assert {effect.features[0] for effect in found[:2]} == {"city", "price"}


def test_only_some_features_are_looked_at_and_unknown_ones_refused():
    given = inputs_of(random_rows(1)), inputs_of(random_rows(9, 1)), SCHEMA
    logits = logits_of(model_of("deepfm"), Task())
    assert {e.features for e in pair_effects(logits, *given, ["price", "city"])} == {
        ("city", "price")
    }
    with pytest.raises(ArgumentError, match="features: no feature 'cty'; known: city, tags"):
        single_effects(logits, *given, ["cty"])


def test_replaced_rows_keep_all_else():
    row, *draws = random_rows(4)
    found = replaced(inputs_of([row]), inputs_of(draws), SCHEMA, [["tags"], ["city", "place"]])
    expected = inputs_of(
        [with_values_of(row, other, ["tags"]) for other in draws]
        + [with_values_of(row, other, ["city", "place"]) for other in draws]
    )
    assert torch.equal(found.sparse, expected.sparse)
    assert torch.equal(found.dense, expected.dense)
    assert torch.equal(found.sequence_ids[0], expected.sequence_ids[0])
    assert torch.equal(found.sequence_lengths[0], expected.sequence_lengths[0])


def test_fields_of_one_sequence_and_of_a_history_are_replaced_together():
    of_events = {"feature_type": "sequence", "vocabulary_size": 5, "max_length": 3}
    fields = [
        FieldSchema("user", "sparse", vocabulary_size=5),
        FieldSchema("seen_item", sequence="seen", **of_events),
        FieldSchema("alone", **of_events),
        FieldSchema("seen_shop", sequence="seen", **of_events),
        FieldSchema("past_user", built="items", history_of="user", **of_events),
        FieldSchema("past_age", built="ages", history_of="time", **of_events),
    ]
    schema = DatasetSchema(fields={f.name: f for f in fields}, label_field="click")
    assert features_of(schema) == {
        "user": ("user",),
        "seen": ("seen_item", "seen_shop"),
        "alone": ("alone",),
        "history": ("past_user", "past_age"),
    }


@pytest.mark.parametrize("name", ["fm", "fwfm"])
def test_exact_pairs_add_up_and_agree_with_the_pairs_of_any_model(name):
    """Of a sum over pairs, joint minus single changes are <z_i - x_i, z_j - x_j> r_ij."""
    model, (row, *draws) = model_of(name), random_rows(5)
    found = pair_terms(model, inputs_of([row]))
    embedded = ["city", "tags", "place", "kind"]  # a raw number has no vector
    assert {term.features for term in found} == set(combinations(embedded, 2))
    sizes = [abs(term.value) for term in found]
    assert sizes == sorted(sizes, reverse=True)
    parts = parts_of(model, inputs_of([row]), one_logit(model, row))
    assert sum(term.value for term in found) == pytest.approx(parts["interactions"], rel=1e-4)

    def term(pair, row):
        return next(t.value for t in pair_terms(model, inputs_of([row])) if t.features == pair)

    effects = pair_effects(logits_of(model, Task()), inputs_of([row]), inputs_of(draws), SCHEMA)
    for effect in effects:
        if not set(effect.features) <= set(embedded):
            assert effect.mean == pytest.approx(0, abs=1e-5)
            continue
        i, j = effect.features
        expected = [
            term(effect.features, with_values_of(row, other, (i, j)))
            - term(effect.features, with_values_of(row, other, (i,)))
            - term(effect.features, with_values_of(row, other, (j,)))
            + term(effect.features, row)
            for other in draws
        ]
        assert effect.mean == pytest.approx(np.mean(expected), abs=1e-4)


def test_only_sums_over_pairs_have_exact_pairs():
    row = inputs_of(random_rows(1))
    assert pair_terms(model_of("deepfm"), row) is None
    assert pair_terms(Members((model_of("fm"), model_of("fm", 1))), row) is None


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"esmm", "multi_tower_din"}))
def test_parts_add_up_to_the_logit(name):
    model, row = model_of(name), random_rows(1)[0]
    logit = one_logit(model, row)
    parts = parts_of(model, inputs_of([row]), logit)
    assert sum(parts.values()) == pytest.approx(logit, rel=1e-4, abs=1e-5)
    assert parts_of(model, inputs_of([row]), logit + 0.1) is None


def test_several_models_and_calibrated_ones_have_no_parts():
    """What they are explained by is what they predict: the mean, or the calibrated logit."""
    models, row = (model_of("deepfm"), model_of("lr", 1)), random_rows(1)[0]
    mean = np.mean([one_logit(model, row) for model in models])
    several = Members(models)
    assert logits_of(several, Task())(inputs_of([row])) == pytest.approx([mean], rel=1e-5)
    assert parts_of(several, inputs_of([row]), mean) is None
    calibrated = Members(models[:1], {"": Temperature(split="valid", rows=9, temperature=2.0)})
    assert parts_of(calibrated, inputs_of([row]), one_logit(models[0], row)) is None


def test_classes_are_explained_by_their_log_odds():
    softmax = {"training": {"losses": [{"name": "softmax_cross_entropy"}]}}
    for classes in (2, 3):
        model = model_of("deepfm", num_class=classes, **softmax)
        row = inputs_of(random_rows(1))
        with torch.no_grad():
            log_p = model(row).double().log_softmax(1)[0].numpy()
        for class_ in range(classes):
            others = np.log(np.exp(np.delete(log_p, class_)).sum())
            found = logits_of(model, model.tasks[0], class_=class_)(row)
            assert found == pytest.approx([log_p[class_] - others], rel=1e-4)
    two = model_of("deepfm", num_class=2, **softmax)
    parts = parts_of(two, row, logits_of(two, two.tasks[0])(row)[0])
    assert set(parts) == {"bias", "first_order", "dnn", "interactions"}


@pytest.fixture(scope="module")
def planted():
    """Trains DeepFM on clicks that follow `strong` alone, or the pair of `left` and `right`."""
    names = ("noise", "left", "strong", "right", "more")
    fields = {n: FieldSchema(n, "sparse", vocabulary_size=3, embedding_dim=4) for n in names}
    schema = DatasetSchema(fields=fields, label_field="click")

    def train(logit_of):
        rng = np.random.default_rng(3)
        columns = {name: rng.integers(1, 3, 3000) for name in names}
        click = rng.random(3000) < 1 / (1 + np.exp(-logit_of(columns)))
        data = TabularDataset.from_arrays(schema, columns, click)
        config = config_from_dict(
            {
                "model_name": "deepfm",
                "dnn": {"hidden_units": [16]},
                "training": {"epochs": 5, "batch_size": 128, "lr": 0.02},
            }
        )
        model = build_model(schema, config)
        Trainer(config.training, seed=config.seed).fit(model, data, data)
        return logits_of(model, Task()), data.inputs, schema

    return train


def test_a_planted_effect_comes_first(planted):
    logits, rows, schema = planted(lambda columns: 4.0 * columns["strong"] - 6.0)
    for place in range(20):
        row, draws = rows.select(slice(place, place + 1)), rows.select(slice(100, 164))
        first, second, *_ = single_effects(logits, row, draws, schema)
        assert first.features == ("strong",)
        assert abs(first.mean) > 3 * abs(second.mean)
        is_high = rows.sparse[place, 2] == 2  # so that other values lower the logit
        assert first.mean < 0 if is_high else first.mean > 0


def test_a_planted_pair_comes_first(planted):
    logits, rows, schema = planted(
        lambda columns: np.where(columns["left"] == columns["right"], 2.0, -2.0)
    )
    for place in range(20):
        row, draws = rows.select(slice(place, place + 1)), rows.select(slice(100, 164))
        first, second, *_ = pair_effects(logits, row, draws, schema)
        assert first.features == ("left", "right")
        assert abs(first.mean) > 3 * abs(second.mean)


def test_the_spread_leaves_out_a_tenth_at_each_end():
    effect = Effect.of(("price",), np.arange(11.0))
    assert effect == Effect(("price",), 5.0, np.sqrt(10.0), 1.0, 9.0)
