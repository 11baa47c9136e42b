"""The named transforms and the reading of cells, against plain Python, value by value."""

import datetime as dt
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfm.data.transforms import (
    BLANK,
    as_text,
    find_transform,
    read_integers,
    read_numbers,
)
from deepfm.errors import ConfigError, DataError

UTC = dt.UTC
TIMES = st.datetimes(dt.datetime(1969, 1, 1), dt.datetime(2068, 12, 31))


def apply(spec, values, kind=None):
    return find_transform(spec)(pa.array(values, kind))


def read(spec, values, kind=None):
    """Values and the positions that could not be read."""
    reading = apply(spec, values, kind)
    bad = [] if reading.bad is None else np.flatnonzero(reading.bad).tolist()
    return reading.values.to_pylist(), bad


def test_bucket_gives_the_edge_at_or_below():
    ages = [0, 1, 17, 18, 55, 56, 99, None]
    found = [None, 1, 1, 18, 50, 56, 56, None]
    assert read("bucket(1, 18, 25, 35, 45, 50, 56)", ages) == (found, [])
    assert read("bucket(1, 18)", ["17", "18.5", "old", None]) == ([1, 18, None, None], [2])


def test_prefix_takes_characters_of_text_and_numbers():
    assert read("prefix(3)", ["02139", "é", None]) == (["021", "é", None], [])
    assert read("prefix(2)", [12345]) == (["12"], [])


def test_split_cuts_text_and_leaves_lists():
    assert read("split(|)", ["a|b", "", None]) == ([["a", "b"], None, None], [])
    assert read("split(|)", [["a|b"]]) == ([["a|b"]], [])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bukcet(1)", "unknown transform 'bukcet(1)'; did you mean 'bucket'?"),
        ("bucket", "'bucket': expected whole numbers as edges"),
        ("bucket(1, x)", "expected whole numbers as edges"),
        ("bucket(2, 1)", "expected rising edges"),
        ("prefix(x)", "expected a number of characters"),
        ("split()", "expected a separator"),
        ("criteo_log(2)", "takes no argument"),
        ("is_missing(x)", "takes no argument"),
        ("hour(%y%q)", "unknown directive '%q'; known: %Y %y"),
        ("hour(%y%)", "unknown directive '%'"),
        ("hour(%Y-%m-%d)", "the format lacks %H"),
        ("weekday(%m-%d)", "the format lacks %Y or %y"),
        ("weekday(%Y-%d)", "the format lacks %m"),
        ("hour(%H:%H)", "the format has %H twice"),
        ("__import__('os')", "unknown transform"),
    ],
)
def test_a_wrong_transform_is_refused(spec, message):
    with pytest.raises(ConfigError) as caught:
        find_transform(spec)
    assert message in str(caught.value)


def criteo_log(x):
    return math.floor(math.log(x) ** 2) if x > 2 else x


@given(st.lists(st.none() | st.integers(-1000, 2**63 - 1), min_size=1))
def test_criteo_log_of_integers_and_their_texts(numbers):
    expected = [BLANK if x is None else criteo_log(x) for x in numbers]
    assert read("criteo_log", numbers, pa.int64()) == (expected, [])
    texts = [None if x is None else str(x) for x in numbers]
    assert read("criteo_log()", texts, pa.string()) == (expected, [])


def test_criteo_log_tells_a_blank_from_what_it_cannot_read():
    values, bad = read("criteo_log", ["3", "", None, "x", "inf", "-1e30", "2.0", "nan"])
    assert values == [1, BLANK, BLANK, None, None, None, 2, BLANK]
    assert bad == [3, 4, 5]


@given(st.lists(TIMES, min_size=1))
def test_hour_and_weekday_read_what_strftime_writes(times):
    hours, weekdays = [t.hour for t in times], [t.weekday() for t in times]
    for form in ("%y%m%d%H", "%d.%m.%Y, %H:%M", "%Y-%m-%d %H:%M:%S.%f", "100%% %H %d/%m/%y"):
        texts = [f"{t:{form}}" if "%Y" not in form else _with_year(t, form) for t in times]
        assert read(f"hour({form})", texts) == (hours, [])
        assert read(f"weekday({form})", texts) == (weekdays, [])


def _with_year(time, form):
    return time.strftime(form.replace("%Y", f"{time.year:04d}"))


def test_hour_reads_avazus_numbers():
    numbers = [14102100, 14103023, 14022900, 14102124, None]
    assert read("hour(%y%m%d%H)", numbers) == ([0, 23, None, None, None], [2, 3])
    assert read("weekday(%y%m%d%H)", numbers)[0] == [1, 3, None, None, None]  # 21 Oct: Tuesday


@given(st.lists(st.none() | TIMES, min_size=1), st.sampled_from(["s", "ms", "us", "ns"]))
def test_times_without_a_format(times, unit):
    hours = [t and t.hour for t in times]
    weekdays = [t and t.weekday() for t in times]
    seconds = [t and int(t.replace(tzinfo=UTC, microsecond=0).timestamp()) for t in times]
    whole = [t and t.replace(microsecond=0) for t in times]
    for values in (
        pa.array(whole, pa.timestamp(unit)),
        pa.array(whole, pa.timestamp(unit, "UTC")),
        pa.array([t and t.isoformat() for t in times], pa.string()),
        pa.array([t and f"{t.isoformat(' ')}Z" for t in times], pa.string()),
        pa.array(seconds, pa.int64()),
        pa.array(seconds, pa.float64()),
        pa.array([None if s is None else str(s) for s in seconds], pa.string()),
    ):
        for spec, expected in (("hour", hours), ("weekday", weekdays)):
            reading = find_transform(spec)(values)
            assert reading.bad is None
            assert reading.values.to_pylist() == expected
    days = pa.array([t and t.date() for t in times], pa.date32())
    assert find_transform("weekday")(days).values.to_pylist() == weekdays


@given(TIMES, st.integers(-23 * 60, 23 * 60))
def test_an_offset_is_taken_to_utc(time, minutes):
    local = time.replace(microsecond=0, tzinfo=dt.timezone(dt.timedelta(minutes=minutes)))
    utc = local.astimezone(UTC)
    assert read("hour", [local.isoformat()]) == ([utc.hour], [])
    assert read("weekday", [local.isoformat()]) == ([utc.weekday()], [])


def test_what_is_no_time_is_bad():
    texts = ["2021-02-29", "2020-02-29", "2020-13-01", "soon", "", None, "1.5", "99999999999999"]
    assert read("weekday", texts) == (
        [None, 5, None, None, None, None, None, None],
        [0, 2, 3, 6, 7],
    )
    milliseconds = [1_700_000_000_000, 1_700_000_000]
    assert read("hour", milliseconds) == ([None, 22], [0])
    assert read("hour", [float("nan"), float("inf"), None]) == ([None] * 3, [1])
    with pytest.raises(DataError, match="expected times, found bool"):
        apply("hour", [True])


def test_is_missing():
    assert read("is_missing", ["a", "", None]) == ([0.0, 1.0, 1.0], [])
    assert read("is_missing()", [1.0, float("nan"), None]) == ([0.0, 1.0, 1.0], [])


@given(st.lists(st.none() | st.text("0123456789.+-einfaNIyt x_", max_size=6), min_size=1))
def test_a_text_reads_alike_in_any_company(texts):
    """One bad text sends the whole batch another way; that way must find the same numbers."""
    alone = [read_numbers(pa.array([text], pa.string())).values[0] for text in texts]
    together = read_numbers(pa.array([*texts, "bad"], pa.string()))
    np.testing.assert_array_equal(together.values[:-1], alone)
    for text, number, bad in zip(texts, alone, together.bad, strict=False):
        try:
            expected = float(text) if text and text == text.strip() and "_" not in text else None
        except ValueError:
            expected = None
        if expected is None or not math.isfinite(expected):
            assert math.isnan(number)
        else:
            assert number == expected
        absent = not text or (expected is not None and math.isnan(expected))
        assert bad == (not absent and math.isnan(number))


def test_numbers_of_every_type():
    for values in (
        pa.array([1, None], pa.int8()),
        pa.array([1.0, float("nan")], pa.float32()),
        pa.array([True, None]),
        pa.array(["1", ""]),
        pa.array(["1e0", None], pa.large_string()),
        pa.array([1, None]).cast(pa.decimal128(21, 2)),
    ):
        reading = read_numbers(values)
        np.testing.assert_array_equal(reading.values, [1.0, np.nan])
        assert reading.bad is None
    assert read_numbers(pa.array([2**63], pa.uint64())).values.tolist() == [2.0**63]
    for values in (pa.array([[1]]), pa.array([dt.date(2020, 1, 1)])):
        with pytest.raises(DataError, match="expected numbers, found"):
            read_numbers(values)


def test_the_message_follows_the_first_bad_number():
    assert read_numbers(pa.array(["inf", "x"])).expected == "a finite number"
    assert read_numbers(pa.array(["x", "inf"])).expected == "a number"


@given(st.lists(st.none() | st.integers(-(2**70), 2**70).map(str) | st.text(max_size=4)))
def test_whole_numbers_are_read_exactly(texts):
    for kind, low, high in ((pa.int64(), -(2**63), 2**63 - 1), (pa.uint64(), 0, 2**64 - 1)):
        found = read_integers(pa.array(texts, pa.string()), kind).to_pylist()
        for text, number in zip(texts, found, strict=True):
            digits = (text or "").removeprefix("-")
            if digits.isascii() and digits.isdecimal() and low <= int(text) <= high:
                # unsigned numbers have no sign, not even that of -0
                assert number == (None if kind == pa.uint64() and text[0] == "-" else int(text))
            else:
                assert number is None


@given(st.lists(st.none() | st.floats(width=32) | st.integers(-(2**53), 2**53).map(float)))
def test_numbers_as_text(numbers):
    found = as_text(pa.array(numbers, pa.float64())).to_pylist()
    for number, text in zip(numbers, found, strict=True):
        if number is None or math.isnan(number):
            assert text is None
        elif number == math.floor(number) if math.isfinite(number) else False:
            assert float(text) == number
            if abs(number) < 2**63:
                assert text == str(int(number))
        else:
            assert float(text) == number


def test_other_values_as_text():
    assert as_text(pa.array([True, None])).to_pylist() == ["1", None]
    assert as_text(pa.array([2**64 - 1], pa.uint64())).to_pylist() == [str(2**64 - 1)]
    assert as_text(pa.array([dt.date(2020, 1, 2)])).to_pylist() == ["2020-01-02"]
    assert as_text(pa.array([1.5, 2.0], pa.float16())).to_pylist() == ["1.5", "2"]
    with pytest.raises(DataError, match="not UTF-8"):
        as_text(pa.array([b"\xff"]))
    with pytest.raises(DataError, match="expected single values, found list"):
        as_text(pa.array([["a"]]))
