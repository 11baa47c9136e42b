"""Estimators on tables: labels of any kind, files, pickles, searches, lists of items."""

import pickle
import subprocess
import sys
import zipfile

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

import deepfm
from deepfm import CTRClassifier, CTRRegressor
from deepfm.errors import CheckpointError, ConfigError, DataError

FAST = {"training.epochs": 6, "training.lr": 0.02}
RNG = np.random.default_rng(0)
N = 1200
USER, ITEM = RNG.integers(0, 40, N), RNG.integers(0, 25, N)
LIKES = (USER % 3 == ITEM % 3) ^ (RNG.random(N) < 0.1)
FRAME = pd.DataFrame(
    {
        "user": USER,
        "movie": [f"m{k}" for k in ITEM],
        "genre": [["a", "b", "c"][k % 3] for k in ITEM],
        "taste": [20 + k % 3 for k in USER],
    }
)
WORDS = np.where(LIKES, "like", "skip")


def fitted(**arguments) -> CTRClassifier:
    return CTRClassifier(user="user", item="movie", settings=FAST, **arguments).fit(FRAME, WORDS)


@pytest.fixture(scope="module")
def model() -> CTRClassifier:
    return fitted()


def same_predictions(one, other) -> bool:
    return np.array_equal(one.predict_proba(FRAME), other.predict_proba(FRAME))


def test_it_learns_and_frames_of_all_kinds_give_the_same(model):
    probability = model.predict_proba(FRAME)
    assert probability.shape == (N, 2)
    assert roc_auc_score(LIKES, probability[:, model.classes_.tolist().index("like")]) > 0.8
    assert model.score(FRAME, WORDS) > 0.8
    for given in (pl.from_pandas(FRAME), pa.Table.from_pandas(FRAME, preserve_index=False)):
        assert np.array_equal(model.predict_proba(given), probability)
        other = CTRClassifier(user="user", item="movie", settings=FAST).fit(given, WORDS)
        assert same_predictions(other, model)
    batch = pa.RecordBatch.from_pandas(FRAME, preserve_index=False)
    assert np.array_equal(model.predict_proba(batch), probability)


def test_fields_are_those_that_describe_guesses(model):
    said = deepfm.describe(FRAME.assign(click=LIKES), label="click", user="user", item="movie")
    guessed = {name: settings["type"] for name, settings in said.fields.items()}
    schema = model.checkpoint_.encoders.schema
    assert {name: str(field.feature_type) for name, field in schema.fields.items()} == guessed
    assert [field.group for field in schema.fields.values()] == ["user", "item", "item", "user"]


def test_the_positive_label_is_the_one_that_says_so_or_that_is_named():
    assert fitted().positive_ == "like"
    named = fitted(positive="skip")
    assert named.positive_ == "skip"
    listed = {one.item: one.probability for one in named.recommend(3, top=25)}
    row = FRAME[(FRAME.user == 3)].iloc[:1].copy()
    for item, probability in listed.items():
        row["movie"], row["genre"] = item, "abc"[int(item[1:]) % 3]
        assert named.predict_proba(row)[0, 1] == pytest.approx(probability, abs=1e-6)
    with pytest.raises(ConfigError, match="positive: no label 'lik'; did you mean 'like'"):
        fitted(positive="lik")


def test_two_labels_of_which_none_says_so_are_in_their_order():
    model = CTRClassifier("lr", settings=FAST).fit(FRAME, np.where(LIKES, "dog", "cat"))
    assert (model.classes_.tolist(), model.positive_) == (["cat", "dog"], "dog")
    flags = CTRClassifier("lr", settings=FAST).fit(FRAME, LIKES)
    assert (flags.classes_.tolist(), flags.positive_) == ([False, True], True)
    assert flags.predict(FRAME).dtype == bool


def test_it_recommends_items_that_a_user_has_no_row_with(model):
    seen = set(FRAME.movie[FRAME.user == 4])
    every = set(FRAME.movie)
    listed = [one.item for one in model.recommend(4, top=100)]
    assert set(listed) == every - seen
    assert [int(item[1:]) % 3 for item in model_best(model, 4)] == [1]
    assert len(model.recommend("nobody", top=7)) == 7


def model_best(model, user):
    return [one.item for one in model.recommend(user, top=1)]


def test_columns_of_an_array_are_given_by_position():
    rows = np.column_stack([USER, ITEM]).astype(float)
    model = CTRClassifier(user=0, item=1, settings=FAST).fit(rows, LIKES)
    assert not hasattr(model, "feature_names_in_")
    best = model.recommend(4, top=3)
    assert all(isinstance(one.item, int) for one in best)
    assert not {one.item for one in best} & set(ITEM[USER == 4])
    as_integers = model.predict_proba(rows.astype(int))
    assert np.array_equal(as_integers, model.predict_proba(rows))
    unnamed = pd.DataFrame(rows.astype(int))  # its columns are called 0 and 1
    assert np.array_equal(as_integers, model.predict_proba(unnamed))


def test_recommend_needs_users_and_items():
    model = CTRClassifier("lr", settings=FAST).fit(FRAME, LIKES)
    with pytest.raises(ConfigError, match=r"recommend needs CTRClassifier\(user=…, item=…\)"):
        model.recommend(1)


def test_three_classes_have_three_probabilities():
    label = np.array(["low", "middle", "high"])[(ITEM % 3)]
    model = CTRClassifier(settings=FAST).fit(FRAME, label)
    probability = model.predict_proba(FRAME)
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-6)
    assert model.classes_.tolist() == ["high", "low", "middle"]
    assert model.score(FRAME, label) > 0.95
    found = model.importance(FRAME, label, repeats=2)
    assert {one.column for one in found.columns[:2]} == {"genre", "movie"}


def test_one_class_in_a_fold_is_certain():
    model = CTRClassifier("lr", settings=FAST).fit(FRAME, np.full(N, "only"))
    assert model.predict_proba(FRAME).tolist() == [[1.0]] * N
    assert set(model.predict(FRAME)) == {"only"}


def test_numbers_are_predicted_in_their_own_units():
    amount = 1000 + 50.0 * (USER % 3) + 20 * (ITEM % 3)
    model = CTRRegressor(settings=FAST).fit(FRAME, amount)
    assert model.score(FRAME, amount) > 0.9
    assert abs(model.predict(FRAME).mean() - amount.mean()) < 10
    best = model.importance(FRAME, amount, columns=["taste", 2, "movie"], repeats=2)
    assert (best.figure, len(best.columns)) == ("rmse", 3)


def test_rows_with_gaps_and_new_values_are_predicted():
    frame = pd.DataFrame({"size": RNG.normal(size=N), "kind": RNG.choice(["a", "b"], N)})
    model = CTRClassifier(settings=FAST).fit(frame, frame["size"] > 0)
    new = pd.DataFrame({"size": [None, 3.0], "kind": ["z", None]})
    assert np.isfinite(model.predict_proba(new)).all()


def test_evaluation_rows_may_be_given():
    half = N // 2
    first, second = FRAME[:half], FRAME[half:]
    model = CTRClassifier("lr", settings={"training.epochs": 2})
    model.fit(first, WORDS[:half], eval_set=(second, WORDS[half:]))
    probability = model.predict_proba(second)
    best = min(model.history_["logloss"].to_pylist())
    assert best == pytest.approx(log_loss(WORDS[half:], probability, labels=model.classes_))
    listed = CTRClassifier("lr", settings={"training.epochs": 2})
    listed.fit(first, WORDS[:half], eval_set=[(second, WORDS[half:])])
    assert same_predictions(model, listed)
    with pytest.raises(ValueError, match="expected labels of the classes"):
        model.fit(first, WORDS[:half], eval_set=(second, np.full(N - half, "else")))


def test_without_held_out_rows_all_epochs_are_trained():
    settings = {"training.epochs": 4, "training.early_stopping_patience": 1}
    kept = CTRClassifier("lr", validation_fraction=0, settings={"training.epochs": 4})
    assert kept.fit(FRAME, LIKES).history_.num_rows == 4
    assert "logloss" not in kept.history_.column_names
    held = CTRClassifier("lr", settings=settings).fit(FRAME, LIKES)
    assert "logloss" in held.history_.column_names
    assert held.checkpoint_.encoders.schema.fields["user"].vocabulary_size == 41


def test_with_a_column_of_times_the_newest_rows_are_held_out():
    day = pd.date_range("2024-01-01", periods=N, freq="h")
    rows = FRAME.assign(seen=day)
    rows.loc[N - 100 :, "movie"] = "new"  # of rows that are held out alone
    model = CTRClassifier("lr", time="seen", settings=FAST).fit(rows, LIKES)
    encoders = model.checkpoint_.encoders
    assert "seen_hour" in encoders.schema.fields
    assert encoders.schema.fields["movie"].vocabulary_size == 1 + FRAME.movie.nunique()


def test_weights_count_and_rows_without_any_are_left_out():
    weight = np.where(LIKES, 1.0, 0.0)
    weight[:10] = 1.0
    with_weights = CTRClassifier("lr", settings=FAST).fit(FRAME, WORDS, sample_weight=weight)
    left = weight > 0
    without = CTRClassifier("lr", settings=FAST).fit(FRAME[left], WORDS[left])
    # A mean of losses by weights of 1 is rounded otherwise than one without weights.
    found, expected = with_weights.predict_proba(FRAME), without.predict_proba(FRAME)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    heavy = np.where(LIKES, 5.0, 1.0)
    weighted = CTRClassifier("lr", settings=FAST).fit(FRAME, LIKES, sample_weight=heavy)
    plain = CTRClassifier("lr", settings=FAST).fit(FRAME, LIKES)
    assert weighted.predict_proba(FRAME)[:, 1].mean() > plain.predict_proba(FRAME)[:, 1].mean()
    with pytest.raises(ValueError, match="at least one non-zero"):
        plain.fit(FRAME, LIKES, sample_weight=np.zeros(N))


def test_a_seed_decides_and_nothing_else():
    one = CTRClassifier("lr", settings=FAST).fit(FRAME, WORDS)
    for seed, is_same in ((42, True), (2, False)):
        other = CTRClassifier("lr", settings=FAST, random_state=seed).fit(FRAME, WORDS)
        assert same_predictions(one, other) == is_same


def test_importance_agrees_with_what_the_label_is_made_of(model):
    found = model.importance(FRAME, WORDS, figure="auc")
    assert isinstance(found.table, pa.Table)
    assert found.table.column_names == ["column", "mean", "deviation"]
    assert found.columns[0].mean > 0.05
    alone = model.importance(FRAME, WORDS, figure="auc", columns=["genre"])
    (genre,) = [one for one in found if one.column == "genre"]
    assert np.array_equal(alone.columns[0].losses, genre.losses)
    for words in (["genr"], [9]):
        with pytest.raises(ConfigError, match="columns: "):
            model.importance(FRAME, WORDS, columns=words)
    with pytest.raises(ConfigError, match="figure: expected logloss or auc, found 'rmse'"):
        model.importance(FRAME, WORDS, figure="rmse")
    assert not [name for name in vars(model) if "importance" in name]


def test_a_saved_estimator_comes_back_and_is_a_checkpoint(model, tmp_path):
    model.save(tmp_path / "model.pt")
    read = CTRClassifier.load(tmp_path / "model.pt")
    assert same_predictions(read, model)
    assert read.get_params() == model.get_params()
    assert read.classes_.tolist() == model.classes_.tolist()
    assert read.classes_.dtype == model.classes_.dtype
    assert (read.positive_, read.n_features_in_) == (model.positive_, 4)
    assert read.feature_names_in_.tolist() == list(FRAME)
    assert read.history_.equals(model.history_)
    probability = deepfm.load(tmp_path / "model.pt").predict(FRAME)
    place = model.classes_.tolist().index("like")
    assert np.array_equal(probability, model.predict_proba(FRAME)[:, place])
    read.save(tmp_path / "again.pt")
    assert same_predictions(CTRClassifier.load(tmp_path / "again.pt"), model)


def test_a_file_that_is_no_such_estimator_is_refused(model, tmp_path):
    path = tmp_path / "model.pt"
    model.save(path)
    with pytest.raises(CheckpointError, match=r"of a 'CTRClassifier', found CTRRegressor.load"):
        CTRRegressor.load(path)
    model.checkpoint_.save(tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match=r"the checkpoint of a run, which deepfm.load reads"):
        CTRClassifier.load(tmp_path / "run.pt")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"damaged|cut short"):
        CTRClassifier.load(path)


@pytest.mark.parametrize("dump", ["pickle", "joblib"])
def test_pickles_hold_the_bytes_of_a_checkpoint(model, tmp_path, dump):
    path, library = tmp_path / "model.bin", pickle if dump == "pickle" else joblib
    with path.open("wb") as file:
        library.dump(model, file)
    with path.open("rb") as file:
        read = library.load(file)
    assert same_predictions(read, model)
    state = model.__getstate__()
    assert "predictor_" not in state
    (tmp_path / "inside.pt").write_bytes(state["checkpoint_"])
    assert zipfile.is_zipfile(tmp_path / "inside.pt")
    assert np.isfinite(deepfm.load(tmp_path / "inside.pt").predict(FRAME)).all()
    assert path.stat().st_size < 200_000


def test_damaged_bytes_in_a_pickle_are_refused(model):
    state = model.__getstate__()
    other = CTRClassifier()
    with pytest.raises(CheckpointError, match="a pickled CTRClassifier: not a checkpoint"):
        other.__setstate__(state | {"checkpoint_": b"cos\nsystem\n(S'true'\ntR."})


def test_code_in_place_of_a_checkpoint_is_not_run(model, tmp_path):
    import torch

    class Touch:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    torch.save({"format": "deepfm checkpoint", "model": Touch()}, tmp_path / "evil.pt")
    state = model.__getstate__() | {"checkpoint_": (tmp_path / "evil.pt").read_bytes()}
    with pytest.raises(CheckpointError, match="refused"):
        CTRClassifier().__setstate__(state)
    assert not (tmp_path / "touched").exists()


def test_arguments_that_are_no_plain_data_are_not_saved(tmp_path):
    state = np.random.RandomState(0)
    model = CTRClassifier("lr", settings=FAST, random_state=state).fit(FRAME, LIKES)
    with pytest.raises(ConfigError, match="random_state: expected plain data to save"):
        model.save(tmp_path / "model.pt")
    assert same_predictions(pickle.loads(pickle.dumps(model)), model)


def test_a_clone_is_not_fitted_and_learns_the_same(model):
    other = clone(model)
    assert not hasattr(other, "predictor_")
    assert other.get_params() == model.get_params()
    assert same_predictions(other.fit(FRAME, WORDS), model)


def test_it_stands_in_a_pipeline_behind_other_steps():
    numbered = ColumnTransformer(
        [("codes", OrdinalEncoder(), ["movie", "genre"])], remainder="passthrough"
    )
    pipeline = make_pipeline(numbered, CTRClassifier(settings=FAST))
    assert pipeline.fit(FRAME, WORDS).score(FRAME, WORDS) > 0.8
    proba = cross_val_predict(pipeline, FRAME, WORDS, cv=2, method="predict_proba")
    assert roc_auc_score(LIKES, -proba[:, 1]) > 0.7  # the second class is skip


@pytest.mark.parametrize(
    "jobs", [None, pytest.param(2, marks=pytest.mark.slow)], ids=["here", "two processes"]
)
def test_a_search_finds_what_fits_by_hand_find(jobs):
    grid = {"settings": [FAST | {"training.lr": 1e-5}, FAST]}
    cut = StratifiedKFold(2)
    found = GridSearchCV(
        CTRClassifier("lr"), grid, cv=cut, scoring="roc_auc", refit=False, n_jobs=jobs
    ).fit(FRAME, LIKES)
    for settings, score in zip(grid["settings"], found.cv_results_["mean_test_score"], strict=True):
        by_hand = []
        for train, test in cut.split(FRAME, LIKES):
            model = CTRClassifier("lr", settings=settings).fit(FRAME.iloc[train], LIKES[train])
            probability = model.predict_proba(FRAME.iloc[test])[:, 1]
            by_hand.append(roc_auc_score(LIKES[test], probability))
        assert score == pytest.approx(np.mean(by_hand), abs=1e-12)


def test_a_wrong_argument_is_named_with_what_is_near():
    wrong = [
        (CTRClassifier("deepmf"), "model_name: unknown model 'deepmf'; did you mean 'deepfm'"),
        (CTRClassifier(user="usr"), "user: no column 'usr'; did you mean 'user'"),
        (CTRClassifier(settings={"training.lrr": 1}), "training.*lrr.*did you mean 'lr'"),
        (CTRClassifier(settings={"data": {}}), "data: what it says is an argument"),
        (CTRClassifier(validation_fraction=1.0), "validation_fraction: expected at least 0"),
        (CTRClassifier(fields={"a": {"type": "sparse"}}, user="user"), "no field reads user"),
    ]
    for estimator, message in wrong:
        with pytest.raises(ConfigError, match=message):
            estimator.fit(FRAME, LIKES)
    with pytest.raises(DataError, match="no column 'a'"):
        CTRClassifier(fields={"a": {"type": "sparse"}}).fit(FRAME, LIKES)


def test_fields_may_be_given():
    fields = {"user": {"type": "sparse"}, "kind": {"type": "sparse", "column": "genre"}}
    model = CTRClassifier(fields=fields, settings=FAST).fit(FRAME, LIKES)
    assert list(model.checkpoint_.encoders.schema.fields) == ["user", "kind"]
    shuffled = FRAME.assign(movie="m0", taste=0)
    assert same_predictions_of(model, shuffled)


def same_predictions_of(model, other) -> bool:
    return np.array_equal(model.predict_proba(FRAME), model.predict_proba(other))


def test_it_is_as_good_as_logistic_regression_where_that_is_the_truth():
    rows = RNG.normal(size=(2000, 4))
    label = RNG.random(2000) < 1 / (1 + np.exp(-(rows @ [2.0, -1.0, 0.5, 0.0])))
    train, test = slice(0, 1500), slice(1500, None)
    theirs = LogisticRegression().fit(rows[train], label[train])
    ours = CTRClassifier().fit(rows[train], label[train])
    losses = [log_loss(label[test], m.predict_proba(rows[test])) for m in (ours, theirs)]
    assert losses[0] < losses[1] + 0.02


def test_importing_the_package_imports_no_estimator():
    code = "import sys, deepfm; print([n for n in ('torch', 'sklearn') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
