"""The named transforms and the reading of cells, against plain Python, value by value."""

import datetime as dt
import math
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfm.data.encoding.cells import as_text, read_integers, read_numbers, read_whole_numbers
from deepfm.data.encoding.functions import BLANK
from deepfm.data.encoding.transforms import find_transform
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


def test_before_takes_what_stands_in_front():
    assert read("before(:)", ["a:1:2", "b", ":c", "", None]) == (["a", "b", "", "", None], [])
    assert read("before(:)", [12, None]) == (["12", None], [])


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
    hours_of_week = [t and 24 * t.weekday() + t.hour for t in times]
    for values in (
        pa.array(whole, pa.timestamp(unit)),
        pa.array(whole, pa.timestamp(unit, "UTC")),
        pa.array([t and t.isoformat() for t in times], pa.string()),
        pa.array([t and f"{t.isoformat(' ')}Z" for t in times], pa.string()),
        pa.array(seconds, pa.int64()),
        pa.array(seconds, pa.float64()),
        pa.array([None if s is None else str(s) for s in seconds], pa.string()),
    ):
        for spec, expected in (
            ("hour", hours), ("weekday", weekdays), ("hour_of_week()", hours_of_week),
        ):  # fmt: skip
            reading = find_transform(spec)(values)
            assert reading.bad is None
            assert reading.values.to_pylist() == expected
    days = pa.array([t and t.date() for t in times], pa.date32())
    assert find_transform("weekday")(days).values.to_pylist() == weekdays


# From 1973-03-03T09:46:40 on: smaller numbers of milliseconds are taken for seconds.
SINCE_1973 = st.datetimes(dt.datetime(1973, 3, 4), dt.datetime(2200, 1, 1))


@given(st.lists(st.none() | SINCE_1973, min_size=1), st.sampled_from([10**3, 10**6, 10**9]))
def test_finer_units_of_unix_time_are_told_by_their_size(times, per_second):
    seconds = [t and int(t.replace(tzinfo=UTC, microsecond=0).timestamp()) for t in times]
    numbers = [None if s is None else (s + 1) * per_second - 1 for s in seconds]
    expected = [t and 24 * t.weekday() + t.hour for t in times]
    assert read("hour_of_week", numbers, pa.int64()) == (expected, [])
    texts = [None if n is None else str(n) for n in numbers]
    assert read("hour_of_week", texts, pa.string()) == (expected, [])


def test_dates_may_have_slashes():
    assert read("hour", ["2024/01/31 23:59", "2024/02/30"]) == ([23, None], [1])


@given(TIMES, st.integers(-23 * 60, 23 * 60))
def test_an_offset_is_taken_to_utc(time, minutes):
    local = time.replace(microsecond=0, tzinfo=dt.timezone(dt.timedelta(minutes=minutes)))
    utc = local.astimezone(UTC)
    assert read("hour", [local.isoformat()]) == ([utc.hour], [])
    assert read("weekday", [local.isoformat()]) == ([utc.weekday()], [])


def test_what_is_no_time_is_bad():
    texts = ["2021-02-29", "2020-02-29", "2020-13-01", "soon", "", None, "1.5", "9" * 20]
    assert read("weekday", texts) == (
        [None, 5, None, None, None, None, None, None],
        [0, 2, 3, 6, 7],
    )
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


# --- numbers to numbers ------------------------------------------------------------------------


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_log10_zscore_and_minmax():
    numbers = [0.1, 10.0, 0.05, -3.0]
    found, bad = read("log10(0.05, -9)", numbers)
    close(found, [-1, 1, -9, -9])
    assert not bad
    close(read("zscore(0.1, 10)", [0.2, 0.1, 0.3])[0], [0.01, 0, 0.02])
    close(read("minmax(0.1, 0.6)", [0.2, 0.5, 1.1])[0], [0.2, 0.8, 2.0])
    found, bad = read("minmax(0, 4)", ["1", "x", None, "", "inf"])
    assert found == [0.25, None, None, None, None]
    assert bad == [1, 4]


@given(st.floats(-1e6, 1e6))
def test_expressions_against_python(x):
    for text, function in (
        ("x", lambda: x),
        ("-x + 2 * x ** 2", lambda: -x + 2 * x**2),
        ("(x - 1) / 3 - +x", lambda: (x - 1) / 3 - x),
        ("log(abs(x) + 3)", lambda: math.log(abs(x) + 3)),
        ("log2(1 + x*x) + log10(1 + x*x)", lambda: math.log2(1 + x * x) + math.log10(1 + x * x)),
        ("log1p(abs(x))", lambda: math.log1p(abs(x))),
        ("sqrt(pow(x, 2))", lambda: math.sqrt(x**2)),
        ("exp(min(x, 3))", lambda: math.exp(min(x, 3))),
        ("max(x, 0) + 1e-3", lambda: max(x, 0) + 1e-3),
        ("sigmoid(x / 1e5)", lambda: 1 / (1 + math.exp(-x / 1e5))),
        ("tanh(x)", lambda: math.tanh(x)),
        ("floor(x) + ceil(x) + round(x)", lambda: math.floor(x) + math.ceil(x) + round(x)),
        ("2 ** 3 ** 0 * x", lambda: 2 ** (3**0) * x),
    ):
        found, bad = read(f"expression({text})", [x])
        close(found, [function()])
        assert not bad


def test_where_an_expression_has_no_value():
    found, bad = read("expression(log(x))", [1.0, 0.0, -1.0, None])
    assert found == [0.0, None, None, None]
    assert bad == [1, 2]
    assert "log(x)" in apply("expression(log(x))", [0.0]).expected
    assert read("expression(1e300 ** x)", [1.0, 2.0])[1] == [1]
    assert read("expression(9 ** 9 ** 9 ** x)", [1.0])[1] == [0]  # no huge integer is made


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("log10(1)", "expected threshold and default, two finite numbers"),
        ("log10(-1, 0)", "expected a threshold of at least 0"),
        ("zscore(1, x)", "expected mean and standard deviation, two finite numbers"),
        ("zscore(1, 0)", "expected a standard deviation above 0"),
        ("zscore(nan, 1)", "two finite numbers"),
        ("minmax(2, 2)", "expected min below max"),
        ("expression(x +)", "'x +' is no arithmetic expression"),
        ("expression()", "is no arithmetic expression"),
        ("expression(3)", "'3' does not depend on x"),
        ("expression(x ^ 2)", "'x ^ 2': a power is written with **"),
        ("expression(lg(x))", "unknown function in 'lg(x)'; did you mean 'log'?"),
        ("expression(log(x, 2))", "'log(x, 2)': log takes 1, found 2"),
        ("expression(max(x))", "'max(x)': max takes 2, found 1"),
        ("expression(x + y)", "unknown name 'y'; the number is called x"),
        ("expression(x + True)", "'True' is no number"),
        ("expression(x + 1j)", "'1j' is no number"),
        ("expression(x.real)", "'x.real' is no number"),
        ("expression((lambda: x)())", "is no number"),
        ("expression(__import__('os').system('x') + x)", "is no number"),
        ("expression([x][0])", "is no number"),
        ("expression(x if x else 1)", "is no number"),
        ("expression(log(*x))", "'*x' is no number"),
        ("expression(log(x=x))", "'log(x=x)'"),
        ("expression(x // 2)", "'x // 2' is no number"),
        (f"expression(x + 1{'0' * 400})", "is too large"),
        (f"expression({'-' * 600}x)", "expected at most 500 characters, found 601"),
        (f"expression({'(' * 240}x{')' * 240})", "is no arithmetic expression"),
    ],
)  # fmt: skip
def test_numeric_transforms_that_are_refused(spec, message):
    with pytest.raises(ConfigError) as caught:
        find_transform(spec)
    assert message in str(caught.value)


@given(
    st.one_of(
        st.tuples(st.just(pa.int64()), st.lists(st.none() | st.integers(-(2**63), 2**63 - 1))),
        st.tuples(st.just(pa.uint64()), st.lists(st.none() | st.integers(0, 2**64 - 1))),
        st.tuples(st.just(pa.float64()), st.lists(st.none() | st.floats())),
        st.tuples(st.just(pa.string()), st.lists(st.none() | st.text(max_size=3))),
        st.tuples(st.just(pa.string()), st.lists(st.integers().map(str))),
        st.tuples(st.just(pa.bool_()), st.lists(st.none() | st.booleans())),
    )
)
def test_whole_numbers_against_python(column):
    kind, values = column
    reading = read_whole_numbers(pa.array(values, kind))
    for k, value in enumerate(values):
        is_bad = reading.bad is not None and bool(reading.bad[k])
        found = reading.values[k].as_py()
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            assert (found, is_bad) == (None, False)
            continue
        if isinstance(value, str):
            whole = re.fullmatch(r"-?[0-9]+", value)
            number = int(value) if whole else None
        elif isinstance(value, float) and (math.isinf(value) or value != math.floor(value)):
            number = None
        else:
            number = int(value)
        if number is None:
            assert (found, is_bad) == (None, True)
        elif -(2**63) <= number < 2**63:
            assert (found, is_bad) == (number, False)
        else:
            assert found < 0
            assert not is_bad


def test_hexadecimal_and_others_are_no_whole_numbers():
    texts = ["12", "0x1F", "1.0", "+1", " 1", "1e3", "٣", "-0", "007"]
    reading = read_whole_numbers(pa.array(texts))
    assert reading.values.to_pylist() == [12, None, None, None, None, None, None, 0, 7]
    with pytest.raises(DataError, match="expected whole numbers, found date32"):
        read_whole_numbers(pa.array([1], pa.date32()))
