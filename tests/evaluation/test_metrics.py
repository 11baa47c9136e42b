import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from deepfm.config import config_from_dict
from deepfm.errors import ConfigError, DataError, DeepFMError
from deepfm.evaluation import measures as metrics
from deepfm.evaluation.measures import concordant_pairs, grouped_xauc
from deepfm.evaluation.metrics import METRICS, metric_values
from deepfm.evaluation.scored import Scored
from deepfm.objectives import checks, is_larger_better
from tests import reference
from tests.reference import binned_auc, pairwise_auc


@st.composite
def labels_and_scores(draw, max_seeds=1):
    """Both classes present; few distinct scores, so that many tie."""
    size = draw(st.integers(2, 12))
    label = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    label[:2] = [0, 1]
    seeds = draw(st.integers(1, max_seeds))
    score = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=size, max_size=size)
    return np.array(label), np.array([draw(score) for _ in range(seeds)])


def classification_metrics(label, probability):
    """AUC and log loss of the whole set."""
    scored = Scored(np.asarray(label), np.asarray(probability, np.float64))
    return metric_values(scored, [METRICS["logloss"](), METRICS["auc"]()])


@given(labels_and_scores())
def test_classification_metrics_equal_their_definitions(case):
    label, (probability,) = case
    result = classification_metrics(label, probability)
    assert result["auc"] == pytest.approx(pairwise_auc(label, probability), abs=1e-12)
    # A logit of 100 stands in for the infinite one of a probability of 0 or 1.
    wrong = [1 - p if y else p for y, p in zip(label, probability, strict=True)]
    expected = sum(-math.log(1 - w) if w < 1 else 100 for w in wrong) / len(wrong)
    assert result["logloss"] == pytest.approx(expected, abs=1e-12)


def test_float32_probabilities_are_evaluated_in_float64():
    probability = np.array([1e-12, 0.5], np.float32)  # float32 would clip at 1.2e-7
    expected = -(math.log(float(probability[0])) + math.log(0.5)) / 2
    assert classification_metrics([1, 0], probability)["logloss"] == pytest.approx(expected)


@pytest.mark.parametrize("label", [0, 1])
def test_a_single_class_has_neither_auc_nor_log_loss(label):
    result = classification_metrics(np.full(3, label), np.full(3, 0.25))
    assert result == {"auc": None, "logloss": None}


def of_logits(label, logit, *metrics):
    """Metrics of rows whose logits are known, from lists."""
    logit = np.array(logit, np.float64)
    with np.errstate(over="ignore"):
        probability = 1 / (1 + np.exp(-logit))
    scored = Scored(np.array(label), probability, log_odds=logit)
    return metric_values(scored, metrics)


def test_the_log_loss_of_logits_has_no_upper_bound():
    found = of_logits([0, 1], [1000.0, 0.0], spec("logloss"))["logloss"]
    assert found == pytest.approx((1000 + math.log(2)) / 2, rel=1e-12)
    found = of_logits([1, 0], [-800.0, -1e4], spec("logloss"))["logloss"]
    assert found == pytest.approx(400, rel=1e-12)


def test_logits_beyond_those_of_probability_1_still_order_rows():
    label, logit = [1, 0, 1, 0], [900.0, 800.0, 50.0, 40.0]
    found = of_logits(label, logit, spec("auc"))
    assert found["auc"] == pytest.approx(pairwise_auc(label, logit))
    assert found["auc"] == 0.75
    group = np.array([[1], [1], [2], [2]])
    scored = Scored(np.array(label), np.ones(4), None, group, ("g",), log_odds=np.array(logit))
    assert metric_values(scored, [spec("gauc", group="g")])["gauc"] == 1


@pytest.mark.parametrize("size", [1.0, 30.0, 45.0, 500.0])
def test_normalized_entropy_treats_both_classes_alike(size):
    rng = np.random.default_rng(0)
    label, logit = rng.integers(0, 2, 50), size * rng.normal(size=50)
    found, turned = (
        of_logits(y, z, spec("normalized_entropy"))["normalized_entropy"]
        for y, z in ((label, logit), (1 - label, -logit))
    )
    assert found == pytest.approx(turned, rel=1e-13)
    losses = [math.log1p(math.exp(-s)) if s > -700 else -s for s in logit * (2 * label - 1)]
    share = label.mean()
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert found == pytest.approx(np.mean(losses) / entropy, rel=1e-12)


@pytest.mark.parametrize("logit", [math.inf, -math.inf, math.nan])
def test_logits_that_are_not_finite_are_an_error(logit):
    with pytest.raises(DeepFMError, match="diverged"):
        of_logits([0, 1], [0.0, logit], spec("logloss"))


def test_metrics_are_plain_floats():
    result = classification_metrics(np.array([0, 1]), np.array([0.1, 0.9], np.float32))
    assert {type(v) for v in result.values()} == {float}


@pytest.mark.parametrize(
    ("label", "probability", "error", "message"),
    [
        ([0, 1, 1], [0.5, math.nan, math.nan], DeepFMError, "2 of 3 .* NaN"),
        ([0, 1], [0.5, 1.5], DeepFMError, r"in \[0, 1\], got 0.5 to 1.5"),
        ([0, 1], [-math.inf, 0.5], DeepFMError, "got -inf to 0.5"),
        ([0, 1], [[0.5], [0.5]], DataError, r"\(2,\), got \(2, 1\)"),
        ([0, 1, 1], [0.5, 0.5], DataError, r"\(3,\), got \(2,\)"),
        ([1, 5], [0.5, 0.5], DataError, r"got \[1, 5\]"),
        ([], [], DataError, "empty"),
    ],
)
def test_what_cannot_be_evaluated_is_an_error(label, probability, error, message):
    with pytest.raises(error, match=message) as caught:
        classification_metrics(label, probability)
    assert type(caught.value) is error


# --- metrics by name ---------------------------------------------------------------------------

EIGHT = np.arange(1, 9) / 10  # the predictions of the original's tests
GROUPS = np.array([1, 2, 2, 1, 3, 3, 4, 4])
SCORES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])  # some of them are thresholds


def spec(name, **options):
    return METRICS[name](**options)


def value(name, label, predicted, groups=None, num_class=1, batch_size=1000, **options):
    """A metric by its name, from lists; grouped by the column g."""
    if METRICS[name].group_option:
        options["group"] = "g"
    predicted = np.array(predicted, np.float64)
    groups = None if groups is None else np.array(groups)[:, None]
    scored = Scored(np.array(label), predicted, predicted, groups, ("g",), batch_size, num_class)
    return metric_values(scored, [spec(name, **options)])[name]


BINARY = st.integers(0, 1)


@st.composite
def rows_of_groups(draw, labels=BINARY):
    size = draw(st.integers(1, 14))
    label, score, group = (
        draw(st.lists(of, min_size=size, max_size=size))
        for of in (labels, SCORES, st.integers(0, 3))
    )
    return label, score, group


@given(rows_of_groups(), st.integers(2, 12))
def test_binned_auc_is_the_area_below_its_points(case, thresholds):
    label, score, _ = case
    # Where a score is a threshold, the loop's k / (T - 1) and linspace agree to the last digit.
    found = value("auc", label, score, thresholds=thresholds)
    assert found == pytest.approx(binned_auc(label, score, thresholds), abs=1e-12)


def test_binned_auc_of_many_thresholds_is_the_exact_one():
    rng = np.random.default_rng(0)
    score, label = rng.random(500), rng.integers(0, 2, 500)
    exact = value("auc", label, score)
    assert value("auc", label, score, thresholds=100_000) == pytest.approx(exact, abs=1e-4)
    assert value("auc", label, score, thresholds=3) != pytest.approx(exact, abs=1e-4)


def test_probabilities_of_1_begin_the_binned_curve():
    """No point (0, 0): the area left of the first point is not counted."""
    assert value("auc", [0, 1, 0], [1.0, 1.0, 0.2], thresholds=10) == pytest.approx(0.5)


@given(rows_of_groups())
def test_grouped_auc_is_the_mean_over_groups_with_both_classes(case):
    label, score, group = case
    expected, count = reference.grouped_auc(label, score, group)
    scored = Scored(np.array(label), np.array(score), None, np.array(group)[:, None], ("g",))
    found = metric_values(scored, [spec("gauc", group="g")])
    assert found["gauc_groups"] == count
    assert found["gauc"] == (None if expected is None else pytest.approx(expected, abs=1e-12))


@given(rows_of_groups(st.sampled_from([0.0, 0.5, 0.5, 1.0, -2.0, 7.0])))
def test_xauc_counts_all_pairs(case):
    target, score, _ = case
    right, pairs = reference.concordant(target, score)
    assert concordant_pairs(np.array(target), np.array(score)) == right
    expected = right / pairs if pairs else None
    assert value("xauc", target, score, sample_ratio=1.0) == expected
    assert value("xauc", target, score, in_batch=True) == expected


@given(rows_of_groups(st.sampled_from([0.0, 0.5, 1.0, 3.0])), st.integers(2, 5))
def test_xauc_of_batches_is_the_mean_over_them(case, size):
    target, score, _ = case
    shares = []
    for start in range(0, len(target), size):
        right, pairs = reference.concordant(
            target[start : start + size], score[start : start + size]
        )
        shares += [right / pairs] if pairs else []
    expected = pytest.approx(sum(shares) / len(shares)) if shares else None
    assert value("xauc", target, score, in_batch=True, batch_size=size) == expected


@given(rows_of_groups(st.sampled_from([0.0, 0.5, 1.0, 3.0])))
def test_grouped_xauc_of_small_groups_counts_all_pairs(case):
    target, score, group = case
    expected = reference.grouped_xauc(target, score, group)
    found = value("grouped_xauc", target, score, group)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_drawn_pairs_estimate_all_pairs_and_are_the_same_each_time():
    rng = np.random.default_rng(1)
    target, noise, group = rng.random(400), rng.random(400), rng.integers(0, 4, 400)
    score = target + 0.5 * noise
    exact = value("xauc", target, score, sample_ratio=1.0)
    for options in ({"max_pairs": 20_000}, {"sample_ratio": 0.25}):
        drawn = value("xauc", target, score, **options)
        assert drawn != exact
        assert drawn == value("xauc", target, score, **options)
        assert drawn == pytest.approx(exact, abs=4 * math.sqrt(0.25 / 19_000))
    exact = reference.grouped_xauc(target, score, group)
    drawn = value("grouped_xauc", target, score, group, max_pairs_per_group=2000)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(0.25 / 8000))


def test_grouped_xauc_does_not_depend_on_the_size_of_a_chunk(monkeypatch):
    rng = np.random.default_rng(2)
    case = rng.random(200), rng.random(200), rng.integers(0, 30, 200)
    expected = reference.grouped_xauc(*case)
    for size in (1, 7, 10**6):
        monkeypatch.setattr(metrics, "_PAIRS_AT_ONCE", size)
        found = grouped_xauc(*case, max_pairs=10**6)
        assert found == pytest.approx(expected, abs=1e-12)


def test_more_pairs_than_are_worth_drawing_are_counted(monkeypatch):
    rng = np.random.default_rng(3)
    target, score = rng.random(60), rng.random(60)
    exact = value("xauc", target, score, sample_ratio=1.0)
    assert value("xauc", target, score, max_pairs=1000) != exact
    monkeypatch.setattr(metrics, "_MAX_DRAWN", 999)
    assert value("xauc", target, score, max_pairs=1000) == exact


def test_numbers_of_pairs_give_each_pair_once():
    first, second = metrics._pair(np.arange(4950))
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == set(
        itertools.combinations(range(100), 2)
    )
    rows = 10**8  # whose last pairs need all digits of the root
    numbers = np.array([rows * (rows - 1) // 2 - 1, (rows - 1) * (rows - 2) // 2])
    first, second = metrics._pair(numbers)
    assert second.tolist() == [rows - 1, rows - 1]
    assert first.tolist() == [rows - 2, 0]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(SCORES, min_size=3, max_size=3)), min_size=1),
    st.integers(1, 3),
)
def test_accuracy_of_classes_breaks_ties_by_number(rows, top_k):
    label, scores = [y for y, _ in rows], [s for _, s in rows]
    expected = reference.accuracy(label, scores, 0.5, top_k)
    assert value("accuracy", label, scores, num_class=3, top_k=top_k) == pytest.approx(expected)


@given(rows_of_groups(), st.sampled_from([0.25, 0.5, 0.7]))
def test_accuracy_of_one_probability_is_above_its_threshold(case, threshold):
    label, score, _ = case
    expected = reference.accuracy(label, score, threshold, 1)
    assert value("accuracy", label, score, threshold=threshold) == pytest.approx(expected)


@given(rows_of_groups(st.integers(0, 2)), st.sampled_from([0, 2, 5, 11]))
def test_multiclass_auc_is_a_mean_of_one_against_the_rest(case, thresholds):
    label, _, _ = case
    rng = np.random.default_rng(len(label))
    probability = rng.choice([0.0, 0.2, 0.5, 1.0], (len(label), 3))
    aucs, sizes = [], []
    for k in range(3):
        own = [int(y == k) for y in label]
        if thresholds:
            aucs.append(binned_auc(own, probability[:, k], thresholds))
        elif len(set(own)) == 2:
            aucs.append(pairwise_auc(own, probability[:, k]))
        else:
            continue
        sizes.append(sum(own))
    for average, weights in (("macro", [1] * len(aucs)), ("weighted", sizes)):
        found = value(
            "multiclass_auc",
            label,
            probability,
            num_class=3,
            thresholds=thresholds,
            average=average,
        )
        expected = pytest.approx(np.average(aucs, weights=weights)) if aucs else None
        assert found == expected


@given(rows_of_groups())
def test_normalized_entropy_is_relative_to_the_share_of_positives(case):
    label, score, _ = case
    expected = reference.normalized_entropy(label, score, 1e-12)
    assert value("normalized_entropy", label, score) == pytest.approx(expected)


@given(rows_of_groups(st.floats(-3, 3)))
def test_errors_of_numbers(case):
    target, score, _ = case
    differences = [abs(t - s) for t, s in zip(target, score, strict=True)]
    assert value("mae", target, score) == pytest.approx(sum(differences) / len(target))
    squares = [d * d for d in differences]
    assert value("mse", target, score) == pytest.approx(sum(squares) / len(target))


def test_golden_values_of_the_original():
    """TorchEasyRec's own tests of its metrics."""
    probability = [0.5498, 0.5744]
    assert value("auc", [0, 1], probability) == 1
    assert value("auc", [0, 1], probability, thresholds=200) == 1
    assert value("gauc", [0, 1], probability, [5, 5]) == 1
    assert value("accuracy", [0, 1], probability) == 0.5
    assert value("mae", [0, 1], [0.2, 0.3]) == pytest.approx(0.45)
    assert value("mse", [0, 1], [0.2, 0.3]) == pytest.approx(0.265)
    same = [0.5498, 0.5498]
    assert value("auc", [0, 1], same, num_class=2, thresholds=200) == 0.5
    assert value("multiclass_auc", [0, 1], same, num_class=2, thresholds=200) == 0.5
    assert value("multiclass_auc", [0, 1], same, num_class=2) == 0.5
    assert value("accuracy", [0, 1], same, num_class=2) == 0.5
    assert value("gauc", [1, 0, 1, 0, 0, 0, 1, 1], EIGHT, GROUPS) == 0.5
    watched = [0.2, 0.3, 0.5, 0.4, 0.3, 0.2, 0.8, 0.9]
    assert value("xauc", watched, EIGHT, in_batch=True) == pytest.approx(0.6786, abs=1e-4)
    assert value("grouped_xauc", watched, EIGHT, GROUPS) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("label", "probability", "expected"),
    [
        ([0, 1], [0.5, 0.5], 1.0),
        ([0, 1, 1, 0], [0.0, 1.0, 1.0, 0.0], 0.0),
        ([0, 0, 1, 1], [0.1, 0.4, 0.6, 0.9], 0.44448435),
        ([0, 1, 1], [0.2, 0.5, 0.8], 0.59670544),
        ([0, 1], [0.3, 0.7], 0.51457322),
    ],
)
def test_golden_values_of_normalized_entropy(label, probability, expected):
    assert value("normalized_entropy", label, probability) == pytest.approx(expected, abs=1e-6)


def test_grouped_auc_of_many_groups_equals_group_by_group():
    rng = np.random.default_rng(4)
    label, score = rng.integers(0, 2, 5000), rng.integers(0, 50, 5000) / 50
    group = rng.integers(-(2**62), 2**62, 300)[rng.integers(0, 300, 5000)]
    aucs = [
        roc_auc_score(label[group == g], score[group == g])
        for g in np.unique(group)
        if len(set(label[group == g])) == 2
    ]
    found, count = metrics.grouped_auc(label, score, group)
    assert count == len(aucs)
    assert found == pytest.approx(np.mean(aucs), abs=1e-12)


def test_names_tell_specs_of_one_metric_apart():
    scored = Scored(
        np.array([0, 1, 0, 1]),
        np.array([0.1, 0.2, 0.3, 0.4]),
        None,
        np.array([[1, 1], [1, 2], [2, 1], [2, 2]]),
        ("user", "day"),
    )
    specs = [spec("auc"), spec("auc", thresholds=200), spec("logloss")]
    specs += [spec("gauc", group="user"), spec("gauc", group="day")]
    found = metric_values(scored, specs)
    assert list(found) == [
        "auc[0]", "auc[200]", "logloss", "gauc[user]", "gauc_groups[user]", "gauc[day]",
        "gauc_groups[day]",
    ]  # fmt: skip
    assert found["gauc[user]"] == 1.0
    assert found["gauc[day]"] is None
    assert found["gauc_groups[day]"] == 0


@pytest.mark.parametrize(
    ("name", "larger"),
    [
        ("auc", True), ("gauc[user]", True), ("hr@10", True), ("ranking_99.ndcg@5", True),
        ("accuracy", True), ("xauc", True), ("grouped_xauc", True), ("multiclass_auc", True),
        ("logloss", False), ("mae", False), ("mse", False), ("normalized_entropy", False),
        ("binary_cross_entropy", False), ("binary_focal", False), ("l2", False), ("jrc", False),
        ("softmax_cross_entropy", False),
    ],
)  # fmt: skip
def test_whether_larger_is_better(name, larger):
    assert is_larger_better(name) is larger


@pytest.mark.parametrize(
    ("name", "label", "message"),
    [
        ("auc", [0, 2], r"expected labels 0 and 1, got \[0, 2\]"),
        ("gauc", [0, 2], "expected labels 0 and 1"),
        ("accuracy", [0, 2], "expected labels 0 and 1"),
        ("logloss", [], "no rows to evaluate"),
    ],
)
def test_labels_that_a_metric_cannot_use_are_refused(name, label, message):
    with pytest.raises(DataError, match=message):
        value(name, label, [0.5] * len(label), [1] * len(label))


@pytest.mark.parametrize("name", ["accuracy", "multiclass_auc"])
@pytest.mark.parametrize("label", [[0, 3], [0.5, 1], [-1, 0]])
def test_labels_that_are_no_class_are_refused(name, label):
    with pytest.raises(DataError, match=r"expected classes 0 to 2, got \["):
        value(name, label, [[0.2, 0.3, 0.5]] * 2, num_class=3)


def test_a_diverged_model_says_so_for_every_metric():
    with pytest.raises(DeepFMError, match=r"1 of 2 .* NaN"):
        value("mae", [0, 1], [0.5, math.nan])


def test_rows_without_groups_are_refused():
    with pytest.raises(DataError, match="no groups by 'g'"):
        value("gauc", [0, 1], [0.5, 0.6])


# --- settings that do not fit ------------------------------------------------------------------


def settings_of(metric_specs, losses="binary_cross_entropy", num_class=1, **training):
    table = {
        "files": "*.csv",
        "label": "y",
        "group_columns": ["user"],
        "fields": {"a": {"type": "sparse"}},
    }
    data = {"dataset_name": "tabular", "split_strategy": "random", "table": table}
    return config_from_dict(
        {
            "num_class": num_class,
            "data": data,
            "training": {"losses": losses} | training,
            "evaluation": {"metrics": metric_specs},
        }
    )


def check_metrics(config):
    checks.check_metrics(config.task_list(), config.training.metric, config.task_data())


@pytest.mark.parametrize(
    "given_settings",
    [
        {"metric_specs": ["auc", {"name": "auc", "thresholds": 200}, "logloss", "accuracy"]},
        {"metric_specs": [{"name": "gauc", "group": "user"}, "normalized_entropy"]},
        {"metric_specs": [{"name": "gauc", "group": "user"}], "metric": "gauc"},
        {"metric_specs": ["auc"], "metric": "binary_cross_entropy"},
        {"metric_specs": ["mae", "mse", "xauc"], "losses": "l2", "metric": "mae"},
        {
            "metric_specs": ["multiclass_auc", {"name": "accuracy", "top_k": 3}],
            "losses": "softmax_cross_entropy",
            "num_class": 4,
            "metric": "softmax_cross_entropy",
        },
        {"metric_specs": ["auc"], "metrics": ["auc", "accuracy"]},
    ],
)
def test_metrics_that_fit_are_accepted(given_settings):
    check_metrics(settings_of(**given_settings))


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        (
            {"metric_specs": ["auc"], "losses": "softmax_cross_entropy", "num_class": 3},
            "evaluation.metrics: auc needs a probability of class 1, .* num_class: 3 does not "
            "give; choose among accuracy, multiclass_auc",
        ),
        ({"metric_specs": ["mae"]}, "mae needs the loss l2, .* choose among auc, logloss"),
        ({"metric_specs": ["accuracy"], "losses": "l2"}, "accuracy needs probabilities"),
        ({"metric_specs": ["multiclass_auc"]}, "multiclass_auc needs num_class above 1"),
        ({"metric_specs": ["mae"], "losses": "l2"}, "training.metric: auc needs a probability"),
        ({"metric_specs": ["gauc"]}, "evaluation.metrics: gauc: group '' is none of"),
        (
            {"metric_specs": [{"name": "gauc", "group": "usr"}]},
            "group 'usr' is none of data.table.group_columns; did you mean 'user'",
        ),
        ({"metric_specs": ["auc", "auc"]}, "evaluation.metrics: auc is given twice"),
        (
            {"metric_specs": [{"name": "auc", "thresholds": 1}]},
            "evaluation.metrics.thresholds: auc needs at least 2, or 0",
        ),
        ({"metric_specs": [{"name": "accuracy", "top_k": 2}]}, "top_k: expected 1 to num_class"),
        (
            {
                "metric_specs": [{"name": "multiclass_auc", "average": "micro"}],
                "losses": "softmax_cross_entropy",
                "num_class": 3,
            },
            "average: multiclass_auc knows macro and weighted, found 'micro'",
        ),
        ({"metric_specs": [{"name": "normalized_entropy", "eta": 0}]}, "eta: expected above 0"),
        (
            {
                "metric_specs": [
                    {"name": "grouped_xauc", "group": "user", "max_pairs_per_group": 0}
                ],
                "losses": "l2",
            },
            "max_pairs_per_group: expected at least 1",
        ),
        (
            {"metric_specs": ["auc"], "metrics": [{"name": "auc", "thresholds": 0}]},
            "training.metrics.thresholds: auc needs at least 2, found 0",
        ),
        ({"metric_specs": ["auc"], "metrics": ["mae"]}, "training.metrics: mae needs the loss l2"),
        (
            {"metric_specs": ["auc"], "metrics": [{"name": "auc", "decay_step": 0}]},
            "training.metrics: auc needs a decay_step of at least 1",
        ),
        (
            {"metric_specs": ["auc"], "metric": "hr@5"},
            "training.metric: hr@5 needs a ranking task, .*random does not make; choose auc or "
            "logloss or binary_cross_entropy",
        ),
    ],
)
def test_metrics_that_do_not_fit_are_refused(given_settings, message):
    with pytest.raises(ConfigError, match=message):
        check_metrics(settings_of(**given_settings))
