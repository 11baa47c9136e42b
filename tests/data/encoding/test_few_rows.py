"""Few rows without Arrow against the path through Arrow: equal arrays, or the word that they are not
plain; and what must be plain."""

import math
import pickle
import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deepfm.data.encoding import few_ids, few_tables
from deepfm.data.encoding.encoders import LONGEST_LIST, Encoders
from deepfm.data.encoding.few_rows import EncodedArrays, FewRows, NotPlain
from deepfm.data.encoding.few_rows_spec import few_rows, few_rows_spec, inputs_of
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.data.sources.rows_given import as_table, plain_columns
from deepfm.errors import DataError
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
        {"separator": "|", "transform": "prefix(1)"},
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

PARTS = st.sampled_from(["", "a", "b", "é", "17", "0017", "1.5", "-3", "1e2", "inf", "x y", "+1"])
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
    optional(transform=["criteo_log", "hour", "bucket(1, 18)"], **COMMON).map(
        lambda o: sparse(**o)
    ),
    optional(
        scale=["none", "standard", "log1p", "plain_log1p"], missing=["zero", "mean", "indicator"],
        clip=[0.1], transform=["criteo_log", "expression(exp(x))", "is_missing"],
        dense_embedding=["piecewise"], **COMMON,
    ).map(lambda o: dense(**o)),
    optional(separator=["|"], value_dim=[2], default=[3, "3"], scale=["none", "log1p"], **COMMON)
    .map(lambda o: dense(**o)),
    optional(
        max_length=[2, 3], default=DEFAULTS, separator=["|"], transform=["prefix(1)"], **COMMON
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
        return fit(field, as_table({name: column for name in field.raw_columns}))
    except DataError:  # nothing to learn of
        return None


def some(strategy):
    """Those settings of a strategy that go together."""

    def settle(options):
        return options

    return strategy.map(settle)


def valid(function):
    """A strategy of what a function draws, without what the schema refuses."""

    @st.composite
    def draw_valid(draw):
        from deepfm.errors import ConfigError

        try:
            return draw(function)
        except ConfigError:
            from hypothesis import reject

            reject()

    return draw_valid()


@given(valid(FIELDS), columns(), columns())
@settings(max_examples=1500)
def test_any_field_and_any_values(field, seen, new):
    encoders = trained(field, seen)
    if encoders is None:
        return
    for values in (seen, new):
        for given in ({"f": values}, [{"f": value} for value in values], [{"f": values[0]}]):
            through_both(encoders, given)
        try:
            table = as_table({"f": values})
        except DataError:
            continue
        through_both(encoders, table)
        through_both(encoders, table.slice(len(table) - 1))
