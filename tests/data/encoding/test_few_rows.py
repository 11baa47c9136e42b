"""Few rows without Arrow: arrays equal to those of the path through Arrow, or none at all."""

import math
import pickle
import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from deepfm.data.encoding import few_ids, few_tables
from deepfm.data.encoding.arrays import EncodedArrays
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.few_rows import FewRows, NotPlain
from deepfm.data.encoding.few_rows_spec import few_rows, few_rows_spec
from deepfm.data.encoding.sequences import LONGEST_LIST
from deepfm.data.encoding.tensors import inputs_of
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.data.sources.rows_given import as_table, plain_columns
from deepfm.errors import ConfigError, DataError
from tests import tiny
from tests.data.encoding.conftest import same


def sparse(name="f", **options):
    return FieldSchema(name, FeatureType.SPARSE, **options)


def dense(name="f", **options):
    return FieldSchema(name, FeatureType.DENSE, **options)


def sequence(name="f", **options):
    return FieldSchema(name, FeatureType.SEQUENCE, **options)


def schema(*fields):
    return DatasetSchema(fields={field.name: field for field in fields}, label_field="y")


def fit(field, table):
    return Encoders.fit(schema(field), table)


def agree(encoders, given, group=None):
    """Whether the rows are plain; then they are encoded like those that went through Arrow."""
    few = few_rows(encoders)
    try:
        first, second = (few.encode(*plain_columns(given), group) for _ in range(2))
    except NotPlain:
        return False
    expected = encoders.encode(as_table(given), group)
    for found in (first, second):  # the second time from memory
        assert same(inputs_of(found), expected), (found, expected)
    return True


# --- what must be plain --------------------------------------------------------------------------

TEXTS = ["a", "b", None, "c", "a"]
NUMBERS = [1, 5, None, 30, 5]
REALS = [0.5, math.nan, None, 7.0, -2.25]
LISTS = [["a", "b"], [], None, ["c", "x", "a", "a"], ["b"]]
CUT = ["a|b", "", None, "c|x|a|a", "b"]
LENIENT = {"bad_values": "unknown"}
WORDS = {"a": 4, "b": 0, "5": 2}


@pytest.mark.parametrize("given", [TEXTS, NUMBERS, REALS, [True, None, False]], ids=str)
@pytest.mark.parametrize("trained", [TEXTS, NUMBERS, REALS], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {}, {"min_count": 2}, {"default": "c"}, {"default": "5"}, {"hash_buckets": 13},
        {"hash_buckets": 13, "hash_function": "murmur64a"}, {"transform": "prefix(1)"},
        {"transform": "before(.)"},
        {"hash_buckets": 13, "hash_function": "farm64", "padding_idx": None},
        {"vocabulary": WORDS}, {"vocabulary": WORDS, "oov_id": 3, "default": "a"},
        {"transform": "is_missing"},
    ],
    ids=str,
)  # fmt: skip
def test_categories_are_plain(options, trained, given):
    encoders = fit(sparse(**options), pa.table({"f": trained}))
    assert agree(encoders, {"f": given})
    assert all(agree(encoders, [{"f": value}]) for value in given)


@pytest.mark.parametrize("given", [NUMBERS, REALS, ["1", "5.5", "", None, "-2"]], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"quantiles": 3}, {"quantiles": 3, "default": "4"}, {"boundaries": (1, 5.5, 9)},
        {"transform": "bucket(1, 5, 18)"}, {"transform": "criteo_log"},
        {"transform": "expression(log(x + 3))", "quantiles": 3},
        {"num_buckets": 31, "out_of_range": "zero"}, {"num_buckets": 31, "out_of_range": "row0"},
        {"num_buckets": 31, "out_of_range": "zero", "default": "7"},
        {"transform": "log10(1, 0)", "boundaries": (0.5, 1)}, {"transform": "zscore(2, 3)"},
        {"transform": "minmax(2, 3)"},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_of_sparse_fields_are_plain(options, given):
    encoders = fit(sparse(**options, **LENIENT), pa.table({"f": NUMBERS}))
    assert agree(encoders, {"f": given})


TIMES = [
    "2024-02-29T17:05:09Z", "2023-02-29", "1999/12/31 23:59+05:30", "", None, "1714003200",
    "-5", "noon", "2024-02-29 7", str(2**63), "2024-02-29 07", "2024-03-01T00:10:00.5-0930",
]  # fmt: skip


@pytest.mark.parametrize("transform", ["hour", "weekday", "hour_of_week"])
@pytest.mark.parametrize("form", ["", "%Y-%m-%d %H", "%d.%m.%y %H", "%y%m%d%H", "%Y%m%d%H%%"])
def test_times_are_plain(transform, form):
    spec = f"{transform}({form})" if form else transform
    encoders = fit(sparse(transform=spec, **LENIENT), pa.table({"f": TIMES}))
    numbers = [1714003200, 1714003200123, -1, 0, None, 24022917, 69010100, 2**62, -(2**63)]
    reals = [1714003200.0, -0.5, math.nan, math.inf, 1e300, 24022917.0, None]
    formatted = ["29.2.24 7", "1.1.69 23", "31.04.2024 01", "24022907", "2024022907%", "2024022907"]
    if form:  # where they are texts, of which few are written alike everywhere
        reals = [1714003200.0, -0.5, None]
    for values in (TIMES, numbers, reals, formatted, [None]):
        assert agree(encoders, {"f": values})


@pytest.mark.parametrize("given", [NUMBERS, REALS, ["1", "5.5", "", None, "-0.5"]], ids=str)
@pytest.mark.parametrize("missing", ["zero", "mean", "indicator"])
@pytest.mark.parametrize("scale", ["none", "min_max", "standard", "log1p", "plain_log1p"])
@pytest.mark.parametrize("clip", [0.0, 0.2])
def test_numbers_are_plain(scale, missing, clip, given):
    field = dense(scale=scale, missing=missing, clip=clip, **LENIENT)
    indicator = dense("g", column="f", transform="is_missing", scale="none")
    encoders = Encoders.fit(schema(field, indicator), pa.table({"f": NUMBERS}))
    assert agree(encoders, {"f": given})


@pytest.mark.parametrize("given", [LISTS, CUT, [None] * 5, [[1, 5], None, [None]]], ids=str)
@pytest.mark.parametrize("trained", [LISTS, CUT], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {}, {"max_length": 2}, {"max_length": 2, "keep": "last"}, {"default": "b|x|a"},
        {"default": "b|x|a", "max_length": 2}, {"hash_buckets": 13}, {"vocabulary": WORDS},
        {"separator": "|", "transform": "prefix(1)"}, {"separator": "|", "transform": "before(b)"},
        {"sequence": "s"}, {"sequence": "s", "default": "c"},
        {"sequence": "s", "default": "a", "vocabulary": WORDS, "max_length": 2},
    ],
    ids=str,
)  # fmt: skip
def test_sequences_are_plain(options, trained, given):
    field = sequence(**({"transform": "split(|)"} | options))
    encoders = fit(field, pa.table({"f": trained}))
    assert agree(encoders, {"f": given})
    assert all(agree(encoders, [{"f": value}]) for value in given)


def test_crosses_are_plain():
    table = {"f": ["a", "b", None, "a"], "g": [1, 2, 3, None]}
    crossed = sparse("fg", columns=("f", "g"))
    encoders = Encoders.fit(schema(crossed), pa.table(table))
    assert agree(encoders, table)
    lists = {"f": [["a", "b"], None, ["a"]], "g": ["1|2", "3", "2"]}
    crossed = sequence("fg", columns=("f", "g"), separator="|", default="a_2|q")
    encoders = Encoders.fit(schema(crossed), pa.table(lists))
    assert agree(encoders, lists)
    assert agree(encoders, lists | {"f": [["b"], ["b", ""], []]})


@pytest.mark.parametrize("given", [["1|2", None, "3|4"], [[1, 2], None, [3, 4]]], ids=str)
def test_vectors_are_plain(given):
    field = dense(value_dim=2, separator="|", scale="standard", default="7|8", **LENIENT)
    encoders = fit(field, pa.table({"f": given}))
    assert agree(encoders, {"f": given})
    assert agree(encoders, {"f": [[1.5, 2], [1], [None, 2], [], [1e300, 2]]})


# --- any fields, any values ----------------------------------------------------------------------

PARTS = st.sampled_from(
    [
        "",
        "a",
        "b",
        "é",
        "17",
        "0017",
        "1.5",
        "-3",
        "1e2",
        "inf",
        "x y",
        "+1",
        "nan",
        "-Inf",
        "NaN(a)",
        "1e400",
        "0x1F",
        ".5",
        "5.",
        "5 ",
        "-0",
    ]
)
TEXT = PARTS | st.text(max_size=3)
WHOLE = st.integers(-3, 40) | st.integers(-(2**65), 2**65)
REAL = st.floats() | st.integers(-3, 40).map(float) | st.floats(0.001, 1000)
KINDS = {
    "text": TEXT, "whole": WHOLE, "real": REAL, "mixed": WHOLE | REAL, "flag": st.booleans(),
    "cut": st.lists(PARTS | WHOLE.map(str), max_size=4).map("|".join), "none": st.none(),
    "single": st.floats(width=32).map(np.float32), "any": TEXT | WHOLE | st.booleans(),
    "numpy": st.floats().map(np.float64) | st.integers(-5, 5).map(np.int64),
}  # fmt: skip
KINDS |= {
    f"lists of {name}": st.lists(st.none() | KINDS[name], max_size=4)
    for name in ("text", "whole", "real", "mixed", "none", "flag")
}
KINDS |= {"vectors": st.lists(REAL, min_size=2, max_size=2)}


def columns(kinds=tuple(KINDS)):
    """A column of 1 to 6 values, some of which are absent."""
    return st.sampled_from(kinds).flatmap(
        lambda kind: st.lists(st.none() | KINDS[kind], min_size=1, max_size=6)
    )


def optional(**choices):
    """Some of the settings."""
    return st.fixed_dictionaries(
        {}, optional={key: st.sampled_from(found) for key, found in choices.items()}
    )


COMMON = {"bad_values": ["error", "unknown", "drop"]}
DEFAULTS = ["a", "17", "0017", 1.5, "a|b", "1|2", "+1", "0x11", "inf"]
CATEGORY = {"default": DEFAULTS, "transform": ["prefix(2)", "bucket(1, 18)", "is_missing"]}
FIELDS = st.one_of(
    optional(min_count=[2], **CATEGORY, **COMMON).map(lambda o: sparse(**o)),
    optional(hash_function=["murmur64a", "farm64"], padding_idx=[None], **CATEGORY, **COMMON).map(
        lambda o: sparse(hash_buckets=11, **o)
    ),
    optional(oov_id=[0, 9], **CATEGORY, **COMMON).map(
        lambda o: sparse(vocabulary={"a": 3, "17": 5, "": 1, "1": 0}, **o)
    ),
    optional(out_of_range=["zero", "row0"], default=["7"], **COMMON).map(
        lambda o: sparse(num_buckets=20, **o)
    ),
    optional(transform=["expression(1/x)", "log10(0, 1)", "minmax(1, 4)"], default=["7"], **COMMON)
    .map(lambda o: sparse(quantiles=4, **o)),
    optional(transform=["criteo_log", "zscore(3, 2)"], default=["7"], **COMMON).map(
        lambda o: sparse(boundaries=(-1, 2.5, 17), **o)
    ),
    optional(
        transform=["criteo_log", "hour", "weekday(%Y-%m-%d)", "hour_of_week", "hour(%H)"],
        default=["7"], **COMMON,
    ).map(lambda o: sparse(**o)),
    optional(
        scale=["none", "standard", "log1p", "plain_log1p"], missing=["zero", "mean", "indicator"],
        clip=[0.1], transform=["criteo_log", "expression(exp(x))", "is_missing"],
        dense_embedding=["piecewise"], **COMMON,
    ).map(lambda o: dense(**o)),
    optional(separator=["|"], value_dim=[2], default=[3, "3"], scale=["none", "log1p"], **COMMON)
    .map(lambda o: dense(**o)),
    optional(
        max_length=[2, 3], default=DEFAULTS, separator=["|"],
        transform=["prefix(1)", "bucket(1, 18)", "hour", "zscore(1, 2)"], **COMMON,
    ).map(lambda o: sequence(**o)),
    optional(max_length=[2], keep=["last"], default=["1|2"]).map(
        lambda o: sequence(transform="split(|)", **({"max_length": 3} | o))
    ),
    optional(hash_function=["farm64"], default=["a|b"], **COMMON).map(
        lambda o: sequence(hash_buckets=11, separator="|", **o)
    ),
    optional(out_of_range=["zero", "row0"], default=["1|2"], **COMMON).map(
        lambda o: sequence(num_buckets=20, separator="|", **o)
    ),
    optional(default=["1|2"], **COMMON).map(
        lambda o: sequence(boundaries=(1, 2), separator="|", **o)
    ),
)  # fmt: skip


def through_both(encoders, given):
    """What `FewRows` gives is what Arrow gives; where that refuses the rows, it gives nothing."""
    try:
        found = few_rows(encoders).encode(*plain_columns(given))
    except NotPlain:
        return
    expected = encoders.encode(as_table(given))
    assert same(inputs_of(found), expected), (found, expected)


def trained(field, column):
    try:
        return fit(field, as_table({field.column: column}))
    except DataError:  # nothing to learn of
        return None


@st.composite
def valid_fields(draw):
    """Fields with settings that go together."""
    try:
        return draw(FIELDS)
    except ConfigError:
        reject()


@given(valid_fields(), columns(), columns())
@settings(max_examples=600)
def test_any_field_and_any_values(field, seen, new):
    encoders = trained(field, seen)
    if encoders is None:
        return
    for values in (seen, new):
        for rows in ({"f": values}, [{"f": value} for value in values], [{"f": values[0]}]):
            through_both(encoders, rows)
        try:
            table = as_table({"f": values})
        except DataError:
            continue
        through_both(encoders, table)
        through_both(encoders, table.slice(len(table) - 1))


NUMBER_FIELDS = [
    dense("plain", scale="none"), dense("spread", scale="min_max", missing="mean"),
    dense("vector", value_dim=2, scale="log1p", separator="|", default="1.5|-0.5", **LENIENT),
    dense("curved", scale="log1p", missing="indicator", clip=0.1, **LENIENT),
    dense("is_curved", column="curved", transform="is_missing", scale="none"),
    dense("logarithm", scale="plain_log1p", default=-3, bad_values="drop"),
    dense("standard", scale="standard", missing="zero", clip=0.2),
    dense("constant", scale="standard", missing="zero"),
]  # fmt: skip


def some_numbers(rng, rows, share=0.2):
    """Columns of those fields."""
    columns = {
        name: [None if rng.random() < share else x for x in rng.normal(0, 10, rows).tolist()]
        for name in ("spread", "curved", "logarithm", "standard")
    }
    vectors = rng.normal(2, 2, (rows, 2)).tolist()
    columns["vector"] = [None if rng.random() < share else vector for vector in vectors]
    columns["constant"] = [7.0] * rows
    columns["plain"] = rng.integers(-100, 100, rows).tolist()
    return columns


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 33, 100])
def test_numbers_of_many_fields_are_equal_in_every_bit(rows):
    rng = np.random.default_rng(rows)
    encoders = Encoders.fit(schema(*NUMBER_FIELDS), pa.table(some_numbers(rng, 300)))
    for _ in range(5):
        assert agree(encoders, some_numbers(rng, rows))
        assert agree(encoders, some_numbers(rng, rows, share=0.0))
        assert agree(encoders, {"plain": [1.5] * rows, "vector": [[1, math.nan]] * rows,
                                "logarithm": ["x"] * rows, "curved": [-5] * rows,
                                "constant": [1e38] * rows, "spread": [2**60] * rows,
                                "standard": [None] * rows})  # fmt: skip


def test_groups_are_encoded_alone(tmp_path):
    tables = tiny.load(tmp_path, False)
    rows = tables.complete(tiny.schema(), tables.interactions)
    encoders = Encoders.fit(tiny.schema(), rows)
    for group in (None, "item", "user", "context"):
        assert agree(encoders, rows.slice(3, 20), group)
        assert agree(encoders, rows.slice(3, 20).to_pylist(), group)


@pytest.mark.parametrize(
    "values", [["ü", "", "a", "𝄞", "zz"], [5, -3, 2**61, 0], [0.5, -1.25, 1e300, -0.0]], ids=str
)
@pytest.mark.parametrize("is_grown", [False, True])
def test_large_vocabularies_are_searched(values, is_grown, monkeypatch):
    encoders = fit(sparse(), pa.table({"f": values}))
    if is_grown:  # no longer in order
        more = fit(sparse(), pa.table({"f": [v + v for v in values] + values}))
        encoders = more.grown_from(encoders)
    monkeypatch.setattr(few_tables, "DICTIONARY", 0)
    assert agree(encoders, {"f": [*values, None]})
    for others in (
        ["a", "b", "", "5", "0.5", "x"],
        [5, 1, 2**63 - 1, -(2**63)],
        [0.5, 5.0, 1000.25],
    ):
        assert agree(encoders, {"f": others})


def test_large_vocabularies_of_unsigned_numbers_are_searched(monkeypatch):
    values = pa.array([5, 2**64 - 1, 2**63], pa.uint64())
    encoders = fit(sparse(), pa.table({"f": values}))
    others = ["5", "-5", str(2**64 - 1), str(2**64), "-0", None]
    assert agree(encoders, {"f": others})
    assert agree(encoders, {"f": [5, -1, None]})
    monkeypatch.setattr(few_tables, "DICTIONARY", 0)
    assert agree(encoders, {"f": others})
    assert agree(encoders, {"f": [-1.0, 2.0**63, 2.0**64]})


@pytest.mark.parametrize("most", [0, 3, 1000])
def test_memory_gives_what_is_computed_and_keeps_no_more_than_allowed(most):
    asked = []

    def compute(values):
        asked.extend(values)
        return [2 * len(value) for value in values]

    memory = few_ids.Memory(compute, most)
    long = "x" * (few_ids.LONGEST_REMEMBERED + 1)
    for values in (
        ["a", "bb"],
        ["bb", "a", "ccc", "a"],
        [long, "a"],
        ["ddd", "e", "f", "g"],
        ["a"],
    ):
        assert memory.of(values) == [2 * len(value) for value in values]
        assert len(memory._known) <= most
        assert long not in memory._known
    assert asked.count("a") == (1 if most else 4)


def test_what_is_forgotten_is_encoded_again(monkeypatch):
    monkeypatch.setattr(few_ids, "REMEMBERED", 3)
    monkeypatch.setattr(few_ids, "TEXTS_REMEMBERED", 3)
    fields = sparse("f"), sequence("g", transform="split(|)")
    table = {"f": list("abcdefgh"), "g": [f"{a}|b" for a in "abcdefgh"]}
    encoders = Encoders.fit(schema(*fields), pa.table(table))
    few = few_rows(encoders)
    for start in range(6):
        rows = {name: values[start : start + 3] for name, values in table.items()}
        assert same(inputs_of(few.encode(rows, 3)), encoders.encode(pa.table(rows)))


@pytest.mark.parametrize(
    ("field", "seen", "given"),
    [
        (sparse(), ["a"], [b"a"]),
        (sparse(), ["a"], ["a", 1]),
        (sparse(), ["a"], [["a"]]),
        (sparse(), ["a"], ["\ud800"]),
        (sparse(), [1], [2**63]),
        (sparse(transform="hour"), [1], [True]),
        (sparse(transform="hour"), [1], ["noon"]),
        (sparse(num_buckets=3), [1], [3]),
        (sparse(num_buckets=3), [1], ["x"]),
        (dense(), [1.0], [None]),
        (dense(), [1.0], ["x"]),
        (dense(scale="log1p"), [1.0], [-1.0]),
        (dense(), [1.0], [1e39]),
        (sequence(), [["a"]], ["a|b"]),
        (sequence(), [["a"]], [["a"] * (LONGEST_LIST + 1)]),
        (sequence(), [["a"]], [[["a"]]]),
    ],
    ids=str,
)
def test_the_rest_is_not_plain(field, seen, given):
    few = few_rows(fit(field, pa.table({"f": seen})))
    with pytest.raises(NotPlain):
        few.encode({"f": given}, len(given))


def test_columns_must_be_there_and_complete():
    few = few_rows(fit(sparse(), pa.table({"f": ["a"]})))
    for columns, rows in (({}, 1), ({"f": ["a"]}, 2), ({"f": []}, 0)):
        with pytest.raises(NotPlain):
            few.encode(columns, rows)
    lenient = few_rows(fit(sparse(**LENIENT), pa.table({"f": ["a"]})))
    assert lenient.encode({}, 2).sparse.tolist() == [[0], [0]]


@pytest.mark.parametrize(
    "array",
    [
        np.array([0.1, np.nan, 3, 0.3], np.float32), np.array([1, 200], np.uint8),
        np.array([0.1, np.nan]), np.array(["a", "0.1"]), np.array([True, False]),
        np.array([0.1, 3], np.float16), np.array([2, -1], np.int16),
    ],
    ids=lambda array: str(array.dtype),
)  # fmt: skip
@pytest.mark.parametrize("trained", [["0.1", "1", "3", "a"], [0.1, 3.0], [1, 3]], ids=str)
def test_arrays_keep_their_type(trained, array):
    for options in ({}, {"hash_buckets": 50}, {"default": "0.1"}, {"transform": "prefix(3)"}):
        encoders = fit(sparse(**options), pa.table({"f": trained}))
        assert agree(encoders, {"f": array})
        assert agree(encoders, pa.table({"f": array}))


def test_it_is_of_plain_data_only():
    """Dicts, lists, texts, numbers and arrays, which another program can read."""
    fields = [
        sparse("a"), sparse("b", vocabulary={"x": 1}), sparse("c", hash_buckets=3),
        sparse("d", quantiles=2), sparse("e", boundaries=(1, 2)), sparse("g", num_buckets=3),
        sequence("h"), dense("i", clip=0.1), dense("j", scale="log1p"),
    ]  # fmt: skip
    table = pa.table({f.name: [["1"]] if f.name == "h" else ["1"] for f in fields})
    spec = few_rows_spec(Encoders.fit(schema(*fields), table))

    def check(value):
        if isinstance(value, dict):
            assert all(isinstance(key, str) for key in value)
            value = list(value.values())
        if isinstance(value, list):
            for part in value:
                check(part)
        else:
            assert value is None or type(value) in (str, int, float, bool, np.ndarray), value

    check(spec)
    assert isinstance(FewRows.of_plain(spec).encode(table.to_pydict(), 1), EncodedArrays)
    with pytest.raises(ValueError, match="expected version 2 of few rows, found 1"):
        FewRows.of_plain(spec | {"version": 1})


def test_it_can_be_pickled():
    encoders = fit(sparse(transform="prefix(2)"), pa.table({"f": ["abc", "b"]}))
    few = few_rows(encoders)
    few.encode({"f": ["abc"]}, 1)
    again = pickle.loads(pickle.dumps(few))
    assert again.encode({"f": ["abd", "x"]}, 2).sparse.tolist() == [[1], [0]]


def test_several_threads_encode_at_once(monkeypatch):
    monkeypatch.setattr(few_ids, "REMEMBERED", 5)  # so that memory is given up all the time
    values = [f"v{k}" for k in range(40)]
    few = few_rows(fit(sparse(), pa.table({"f": values})))
    expected = few.encode({"f": values}, 40).sparse
    wrong = []

    def work(seed):
        for start in np.random.default_rng(seed).integers(0, 38, 400).tolist():
            found = few.encode({"f": values[start : start + 2]}, 2).sparse
            wrong.extend([start] if (found != expected[start : start + 2]).any() else [])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_neither_torch_nor_arrow_is_needed():
    code = (
        "import sys; import deepfm.data.encoding.few_rows; "
        "sys.exit(' '.join({'torch', 'pyarrow'} & set(sys.modules)) or 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
