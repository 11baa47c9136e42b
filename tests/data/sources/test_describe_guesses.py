"""What `describe` guesses: labels, ids, leaks, times, users and items, and settings by size."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deepfm.config import load_config
from deepfm.data.sources.describe import Description, Wishes, describe, rules, to_yaml
from deepfm.data.sources.describe.evidence import FOLDS, SMOOTHING, Signal
from deepfm.errors import ConfigError, DataError
from deepfm.preflight import check_settings

ROWS = 3000


def described(tmp_path: Path, columns: dict[str, object], **options: object) -> Description:
    path = tmp_path / "table.parquet"
    pa.parquet.write_table(pa.table(columns), path)
    return describe(path, **options)


def declared(found: Description) -> dict:
    """The `data` section of what is written, which must be settings that can be trained."""
    path = found.head.path.with_suffix(".yaml")
    path.write_text(to_yaml(found))
    check_settings(load_config(path))
    return yaml.safe_load(path.read_text())["data"]


def clicks(share: float = 0.5, rows: int = ROWS) -> np.ndarray:
    return (np.random.default_rng(5).random(rows) < share).astype(int)


def against(found: Description) -> dict[str, str]:
    return {field.name: field.against for field in found.fields if field.against}


# --- the label ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "positive"),
    [
        ("answer", ["no"] * 7 + ["yes"] * 3, "yes"),
        ("answer", ["no"] * 3 + ["yes"] * 7, "yes"),
        ("is_fraud", ["false"] * 9 + ["true"], "true"),
        ("y", ["N"] * 5 + ["Y"] * 6, "Y"),
        ("outcome", ["view"] * 2 + ["buy"] * 3, "buy"),
        ("state", ["not sold"] * 2 + ["sold out"] * 3, "not sold"),
        ("member", ["member"] * 8 + ["non-member"] * 3, "member"),
        ("weather_rain", ["rain"] * 8 + ["sun"] * 3, "rain"),
        ("income", ["<=50K"] * 8 + [">50K"] * 3, ">50K"),
        ("side", ["left"] * 2 + ["right"] * 8, "left"),
    ],
)
def test_the_positive_class_by_words_by_the_labels_name_then_rarity(
    tmp_path, name, values, positive
):
    columns = {name: values * 20, "x": [k % 4 + 0.5 for k in range(20 * len(values))]}
    found = described(tmp_path, columns)
    data = declared(found)
    assert data["table"]["labels"]["target"] == {"column": name, "positive": positive}
    assert f"{positive!r} is 1: " in "\n".join(found.notes)


def test_the_label_and_its_positive_value_can_be_told(tmp_path):
    columns = {"click": clicks(), "bought": np.where(clicks(0.2), "yes", "no").tolist()}
    found = described(tmp_path, columns, wishes=Wishes(label="bought", positive="no"))
    rule = declared(found)["table"]["labels"]["target"]
    assert rule == {"column": "bought", "positive": "no"}
    for wishes, message in (
        (Wishes(label="bougt"), "--label: no column 'bougt'.*did you mean 'bought'"),
        (Wishes(label="bought", positive="on"), "--positive: the label bought has no value 'on'"),
    ):
        with pytest.raises(ConfigError, match=message):
            described(tmp_path, columns, wishes=wishes)


def test_numbers_and_classes_get_their_kind_loss_and_metric(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.random(500)
    raw = yaml.safe_load(to_yaml(described(tmp_path, {"x": x, "price": 3 * x + rng.random(500)})))
    label = raw["data"]["table"]["labels"]["target"]
    assert label == {"column": "price", "kind": "number", "standardize": True}
    assert raw["training"]["losses"] == ["l2"]
    assert raw["training"]["metric"] == "rmse"
    kinds = rng.choice(["low", "mid", "high"], 500).tolist()
    found = described(tmp_path, {"x": x, "class": kinds})
    assert declared(found)["table"]["labels"]["target"]["classes"] == ["high", "low", "mid"]
    assert found.settings["training"]["losses"] == ["softmax_cross_entropy"]
    low = declared(described(tmp_path, {"x": x, "rating": rng.integers(1, 4, 500)}))
    assert low["table"]["labels"]["target"] == {"column": "rating", "threshold": 3}
    stars = rng.integers(1, 6, 500)
    data = declared(described(tmp_path, {"x": x, "rating": stars}))
    assert data["table"]["labels"]["target"] == {"column": "rating", "threshold": 4}


def test_rows_without_a_label_are_left_out(tmp_path):
    label = [None if k % 10 == 0 else k % 2 for k in range(200)]
    table = declared(described(tmp_path, {"click": label, "x": [k % 9 for k in range(200)]}))[
        "table"
    ]
    assert table["bad_values"] == "drop"


def test_a_label_with_one_value_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="one value of the label click, so there is nothing"):
        described(tmp_path, {"click": [1] * 50, "x": list(range(50))}, wishes=Wishes(label="click"))


# --- ids and quantities ------------------------------------------------------------------------


def test_ids_are_ids_and_quantities_are_quantities(tmp_path):
    rng = np.random.default_rng(0)
    rows = 20_000
    effect = rng.normal(size=500)  # of each place, without any order
    place, age = rng.integers(500, size=rows) * 7 + 3, rng.integers(18, 2000, rows)
    logit = 1.5 * effect[(place - 3) // 7] + (age - 1000) / 400
    columns = {
        "click": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int),
        "place": place,  # gaps, and no smooth relation
        "age": age,
        "device_os": rng.integers(1000, size=rows),  # by their names
        "shopZip": rng.integers(10_000, 99_999, rows),
        "amount": np.round(rng.lognormal(3, 1, rows)).astype(int),
        "weight": rng.random(rows),
    }
    fields = declared(described(tmp_path, columns))["table"]["fields"]
    types = {name: field["type"] for name, field in fields.items()}
    assert types == {
        "place": "sparse", "age": "dense", "device_os": "sparse", "shopZip": "sparse",
        "amount": "dense", "weight": "dense",
    }  # fmt: skip
    text = to_yaml(described(tmp_path, columns))
    assert "an id: single values say more than their order" in text
    assert "a quantity: its order says more than single values" in text


def test_texts_that_stand_for_no_number_do_not_make_a_text_of_a_number(tmp_path):
    numbers = ["NA" if k % 9 == 0 else "?" if k % 11 == 0 else str(k / 4) for k in range(400)]
    field = declared(described(tmp_path, {"click": clicks(rows=400), "x": numbers}))["table"][
        "fields"
    ]["x"]
    assert field["type"] == "dense"
    assert (field["bad_values"], field["missing"]) == ("unknown", "indicator")


def test_every_field_and_every_indicator_has_a_name_of_its_own(tmp_path):
    gaps = [None if k % 5 == 0 else k / 7 for k in range(400)]
    columns = {"click": clicks(rows=400), "x_missing": gaps, "x": gaps, "x!": gaps, "x?": gaps}
    fields = declared(described(tmp_path, columns))["table"]["fields"]
    assert [field.get("column", name) for name, field in fields.items()] == list(columns)[1:]
    assert len(fields) == 4


def test_what_only_puts_rows_in_order_is_no_field(tmp_path):
    columns = {"click": clicks(), "step": np.arange(ROWS) // 4, "x": clicks(0.4)}
    found = described(tmp_path, columns, wishes=Wishes(time="step"))
    assert declared(found)["table"]["time_column"] == "step"
    assert against(found) == {"step": "it puts the rows in order"}


def test_amounts_that_are_all_different_are_no_row_numbers(tmp_path):
    rng = np.random.default_rng(0)
    numbers = rng.permutation(400)
    columns = {
        "click": clicks(rows=400), "population": rng.integers(10**6, size=400),
        "row": numbers, "since": np.cumsum(rng.integers(1, 10**4, 400)),
        "order_id": rng.integers(10**9, size=400), "weight": rng.random(400),
    }  # fmt: skip
    found = described(tmp_path, columns)
    assert set(against(found)) == {"row", "since", "order_id"}
    assert declared(found)["table"]["fields"]["population"]["type"] == "dense"


def test_an_absent_id_is_a_value_of_its_own(tmp_path):
    words = [None if k % 4 == 0 else "ab"[k % 2] for k in range(400)]
    table = declared(described(tmp_path, {"click": clicks(rows=400), "x": words}))["table"]
    assert table["fields"]["x"] == {"type": "sparse", "default": "(absent)"}


# --- leaks -------------------------------------------------------------------------------------


def test_leaks_are_named(tmp_path):
    label = clicks(0.1)
    rng = np.random.default_rng(1)
    columns = {
        "click": label,
        "paid": np.where(label, rng.integers(1, 99, ROWS), 0),
        "copy": np.where(label, "b", "a").tolist(),
        "score": label + rng.normal(0, 0.05, ROWS),
        "bought_at": [f"2024-01-0{1 + k % 9} 10:00:00" if y else None for k, y in enumerate(label)],
        "seen_at": [f"2024-01-{1 + k % 28:02d} {k % 24:02d}:00:00" for k in range(ROWS)],
        "honest": rng.normal(size=ROWS) + label,
    }
    found = described(tmp_path, columns)
    reasons = against(found)
    assert set(reasons) == {"paid", "copy", "score", "bought_at_hour", "bought_at_weekday"}
    assert reasons["bought_at_hour"].startswith("present only where the label is 1 (")
    assert "out of fold" in reasons["copy"]
    data = declared(found)
    assert not set(reasons) & set(data["table"]["fields"])
    assert data["table"]["time_column"] == "seen_at"
    assert any(warning.startswith("copy left out: ") for warning in found.warnings)


def test_a_column_that_almost_knows_the_label_is_kept_with_a_warning(tmp_path):
    rng = np.random.default_rng(1)
    label = clicks()
    columns = {
        "click": label,
        "stars": np.where(rng.random(ROWS) < 0.97, label, 1 - label),  # an AUC of .97
        "honest": rng.normal(size=ROWS) + label,
    }
    found = described(tmp_path, columns)
    (warning,) = found.warnings
    assert warning.startswith("stars alone AUC 0.97: if it is only known once click is")
    assert set(declared(found)["table"]["fields"]) == {"stars", "honest"}


def test_what_is_unique_or_random_is_no_leak(tmp_path):
    rng = np.random.default_rng(2)
    columns = {
        "click": clicks(0.3),
        "order_number": np.arange(ROWS) + 1000,
        "uuid": [f"{rng.integers(2**60):x}" for _ in range(ROWS)],
        "user_id": rng.integers(ROWS // 3, size=ROWS),
        "sometimes": [None if k % 2 else float(k) for k in range(ROWS)],
    }
    for reason in against(described(tmp_path, columns)).values():
        assert "leak" not in reason


def test_few_rows_of_a_class_give_no_verdict_about_leaks(tmp_path):
    label = np.zeros(ROWS, int)
    label[:49] = 1
    assert not against(described(tmp_path, {"click": label, "copy": np.where(label, "b", "a")}))


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=5, max_size=40))
def test_out_of_fold_means_equal_loops(rows):
    codes, label = (np.array(part) for part in zip(*rows, strict=True))
    signal = Signal(label.astype(float), is_binary=True)
    found = signal.out_of_fold(codes.astype(np.int64))
    fold = np.random.default_rng(0).integers(FOLDS, size=len(rows))
    for k in range(len(rows)):
        others = fold != fold[k]
        prior = label[others].mean() if others.any() else 0.0
        same = others & (codes == codes[k])
        expected = (label[same].sum() + SMOOTHING * prior) / (same.sum() + SMOOTHING)
        assert found[k] == pytest.approx(expected)


# --- times, users and items --------------------------------------------------------------------


def test_rows_of_several_days_are_split_by_time(tmp_path):
    times = [f"2024-03-{1 + k // 150:02d} {k % 24:02d}:00:00" for k in range(ROWS)]
    data = declared(described(tmp_path, {"click": clicks(), "at": times, "x": clicks(0.4)}))
    assert (data["split_strategy"], data["table"]["time_column"]) == ("time", "at")
    assert data["table"]["fields"]["at_weekday"]["transform"] == "weekday()"
    of_one_day = [f"2024-03-01 {k % 24:02d}:00:00" for k in range(ROWS)]
    found = described(tmp_path, {"click": clicks(), "at": of_one_day, "x": clicks(0.4)})
    assert declared(found)["split_strategy"] == "random"
    assert against(found) == {"at_weekday": "the same weekday in all rows"}


@pytest.mark.parametrize(
    ("name", "times", "transform"),
    [
        ("hour", [14102100 + 100 * (k // 300) + k % 24 for k in range(ROWS)], "hour(%y%m%d%H)"),
        ("ts", [1_700_000_000 + 600 * k for k in range(ROWS)], "hour()"),
        ("ts", [1_700_000_000_000 + 600_000 * k for k in range(ROWS)], "hour()"),
        ("day", [20240101 + k // 100 for k in range(ROWS)], None),
    ],
)
def test_numbers_may_be_times(tmp_path, name, times, transform):
    columns = {"click": clicks(), name: times, "x": clicks(0.4)}
    table = declared(described(tmp_path, columns))["table"]
    assert table["time_column"] == name
    hour = table["fields"].get(f"{name}_hour", {"transform": None})
    assert hour["transform"] == transform


def test_a_split_by_time_leaves_both_classes_everywhere(tmp_path):
    times = [f"2024-03-{1 + k // 150:02d} 00:00:00" for k in range(ROWS)]
    label = clicks() * (np.arange(ROWS) < 0.85 * ROWS)  # no clicks at the end
    found = described(tmp_path, {"click": label, "at": times, "x": clicks(0.4)})
    assert declared(found)["split_strategy"] == "random"
    assert "by time the test rows would have 0 of one class" in found.split_reason


def events(rows: int = ROWS) -> dict[str, object]:
    rng = np.random.default_rng(3)
    user, item = rng.integers(60, size=rows), rng.integers(80, size=rows)
    return {
        "who": user, "what": [f"i{k}" for k in item], "at": np.arange(rows) * 5000 + 10**9,
        "town": (user % 7).tolist(), "genre": [f"g{k % 5}" for k in item],
        "place": rng.integers(3, size=rows),
    }  # fmt: skip


def test_positives_only_make_a_ranking_task_with_groups(tmp_path):
    wishes = Wishes(user="who", item="what")
    data = declared(described(tmp_path, events(), wishes=wishes))
    assert data["split_strategy"] == "leave_one_out"
    table = data["table"]
    assert (table["user_field"], table["item_field"], table["time_column"]) == ("who", "what", "at")
    groups = {name: field.get("group") for name, field in table["fields"].items()}
    assert groups["who"] == groups["town"] == "user"
    assert groups["what"] == groups["genre"] == "item"
    assert groups["place"] is None
    assert table["history"] == {"max_length": 20}
    assert not [name for name in groups if name.startswith("at_")]  # `recommend` has no times
    alone = events() | {"who": np.arange(ROWS)}
    with pytest.raises(ConfigError, match="--user: no who has 3 rows"):
        described(tmp_path, alone, wishes=wishes)
    timeless = {name: values for name, values in events().items() if name != "at"}
    with pytest.raises(ConfigError, match="--time names a column of times"):
        described(tmp_path, timeless, wishes=wishes)


def test_both_classes_make_a_table_with_groups(tmp_path):
    columns = events() | {"click": clicks()}
    data = declared(described(tmp_path, columns, wishes=Wishes(user="who", item="what")))
    assert data["split_strategy"] == "time"
    assert data["table"]["fields"]["genre"]["group"] == "item"
    assert data["table"]["label"] == "click"
    with pytest.raises(ConfigError, match=r"--user: no column 'whom'; did you mean 'who'"):
        described(tmp_path, columns, wishes=Wishes(user="whom"))
    lists = columns | {"what": [[1, k % 3] for k in range(ROWS)]}
    with pytest.raises(ConfigError, match="--item: what holds several values in a row, and is no"):
        described(tmp_path, lists, wishes=Wishes(item="what"))


# --- files, and settings by size ---------------------------------------------------------------


def test_validation_rows_in_a_file_of_their_own(tmp_path):
    label = clicks(rows=300)
    whole = {"click": label, "x": np.arange(300) / 7}
    with_gaps = {"click": label, "x": [None if k % 5 == 0 else k / 7 for k in range(300)]}
    other = tmp_path / "other"
    other.mkdir()
    pa.parquet.write_table(pa.table(with_gaps), other / "valid.parquet")
    data = declared(described(tmp_path, whole, valid=other / "valid.parquet"))
    assert data["split_strategy"] == "predefined"
    assert data["table"]["valid_files"] == "other/valid.parquet"
    assert data["table"]["fields"]["x"]["missing"] == "indicator"  # which its rows need
    pa.parquet.write_table(pa.table({"click": label}), other / "valid.parquet")
    with pytest.raises(DataError, match=r"valid\.parquet: no column 'x', which"):
        described(tmp_path, whole, valid=other / "valid.parquet")


def test_a_table_with_nothing_to_predict_from_is_refused(tmp_path):
    columns = {"click": clicks(rows=100), "row": list(range(100)), "same": ["a"] * 100}
    with pytest.raises(DataError, match=r"no column is left to predict from \(row: nearly every"):
        described(tmp_path, columns)


def test_few_positives_are_said_and_make_a_small_network(tmp_path):
    rng = np.random.default_rng(0)
    label = np.zeros(20_000, int)
    label[:60] = 1
    found = described(tmp_path, {"click": label, "x": rng.random(20_000)})
    assert "48 training rows of the rarest class" in "\n".join(found.warnings)
    assert found.settings["dnn"]["hidden_units"] == [64, 32]
    label[20:] = 0
    data = declared(described(tmp_path, {"click": label, "x": rng.random(20_000)}))
    assert data["split_fractions"] == [0.6, 0.2, 0.2]


@given(st.integers(100, 10**9), st.floats(0.001, 0.5))
def test_an_epoch_of_a_table_has_enough_steps(rows, share):
    size = rules.TableSize(rows, int(rows * share))
    step, batch = rules.step_of(size), rules.batch_size(rows)
    assert size.learnable <= step.up_to
    assert step.epochs * rows / batch >= min(100, step.epochs * rows / 64)
    assert 64 <= batch <= 4096


# --- any table ---------------------------------------------------------------------------------

NAMES = ("id", "user", "x", "label", "time", "hour", "price", "a b", "rating", "x_missing", "é")


def any_column(rng: np.random.Generator, rows: int) -> list:
    """A column of some kind, sometimes with gaps."""
    kinds = (
        rng.integers(2, size=rows).tolist(),
        rng.integers(rng.integers(1, 2000), size=rows).tolist(),
        rng.normal(size=rows).tolist(),
        rng.lognormal(3, 2, rows).tolist(),
        rng.choice(["a", "b", "yes", "no", "é,x", 'q"t', "on\ttab"], rows).tolist(),
        [f"2024-0{1 + k % 9}-{1 + k % 28:02d}" for k in rng.integers(200, size=rows)],
        ["|".join(rng.choice(list("abcdef"), rng.integers(1, 4))) for _ in range(rows)],
        ["same"] * rows,
        list(range(rows)),
        (10**9 + rng.integers(10**7, size=rows)).tolist(),
        rng.choice(["1", "2", "NA", "3.5"], rows).tolist(),
        rng.choice([True, False], rows).tolist(),
        [f"w{k} some more words {k}" for k in range(rows)],
        [[float(v) for v in rng.random(3)] for _ in range(rows)],
    )
    column = kinds[rng.integers(len(kinds))]
    if rng.random() < 0.3:
        column = [None if rng.random() < 0.1 else value for value in column]
    return column


@pytest.mark.parametrize("seed", range(40))
def test_any_table_gives_settings_that_can_be_trained_or_one_line(tmp_path, seed):
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(30, 400))
    names = rng.choice(NAMES, rng.integers(2, 8), replace=False).tolist()
    columns = {name: any_column(rng, rows) for name in names}
    try:
        assert declared(described(tmp_path, columns))["table"]["fields"]
    except (ConfigError, DataError) as error:
        message = str(error)
        assert "label" in message or "no column is left to predict from" in message
        assert "\n" not in message
