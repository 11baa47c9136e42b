"""The bundle of encoders: shapes, streams, policies for bad values, and what training never saw."""

import io
import itertools
import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfm.data.encoding import learning as module
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.sequences import LONGEST_LIST
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.errors import ConfigError, DataError, Place
from deepfm.utils.io import arrays_as_tensors
from tests import tiny


class Rows(NamedTuple):
    """Rows of a text file, as the reader of files gives them."""

    table: pa.Table
    path: Path = Path("train.tsv")
    first: int = 2
    before: int | None = None

    def place(self, index):
        return Place(file=str(self.path), line=self.first + index)


def sparse(name="f", **options):
    return FieldSchema(name, FeatureType.SPARSE, **options)


def dense(name="f", **options):
    return FieldSchema(name, FeatureType.DENSE, **options)


def sequence(name="f", **options):
    return FieldSchema(name, FeatureType.SEQUENCE, **({"max_length": 3} | options))


def schema(*fields):
    return DatasetSchema(fields={field.name: field for field in fields}, label_field="y")


def fit(field, values, kind=None):
    return Encoders.fit(schema(field), pa.table({field.column: pa.array(values, kind)}))


def equal(first, second):
    def tensors(inputs):
        return inputs.sparse, inputs.dense, *inputs.sequence_ids, *inputs.sequence_lengths

    pairs = zip(tensors(first), tensors(second), strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def through_a_file(encoders):
    file = io.BytesIO()
    torch.save(arrays_as_tensors(encoders.to_dict()), file)
    file.seek(0)
    return Encoders.from_dict(torch.load(file, weights_only=True))


# --- one table ---------------------------------------------------------------------------------


@pytest.fixture
def tiny_columns(tmp_path):
    tables = tiny.load(tmp_path, False)
    return tables.complete(tiny.schema(), tables.interactions)


def test_encoders_fill_in_the_vocabulary_sizes(tiny_columns):
    encoders = Encoders.fit(tiny.schema(), tiny_columns)
    sizes = {name: field.vocabulary_size for name, field in encoders.schema.fields.items()}
    assert sizes == {"user": 41, "age": 3, "income": 0, "item": 61, "tags": 7 - 1, "price": 0}


def test_inputs_have_the_shapes_of_the_schema(tiny_columns):
    inputs = Encoders.fit(tiny.schema(), tiny_columns).encode(tiny_columns)
    count = tiny.NUM_EVENTS
    assert inputs.sparse.shape == (count, 3)
    assert inputs.dense.shape == (count, 2)
    assert [ids.shape for ids in inputs.sequence_ids] == [(count, 3)]
    assert [lengths.shape for lengths in inputs.sequence_lengths] == [(count,)]


def test_encoders_read_back_equal_from_plain_data(tiny_columns):
    encoders = Encoders.fit(tiny.schema(), tiny_columns)
    again = through_a_file(encoders)
    assert again.schema == encoders.schema
    assert equal(encoders.encode(tiny_columns), again.encode(tiny_columns))


def test_absent_views_of_texts_stay_absent():
    """As the frames of polars give texts; Arrow's dictionaries of them have no null."""
    values = ["a", None, "b", "a", None]
    table, views = (pa.table({"f": pa.array(values, kind)}) for kind in ("string", "string_view"))
    for field in (sparse(), sparse(hash_buckets=7), sparse(default="b"), sparse(min_count=2)):
        one, other = (Encoders.fit(schema(field), part) for part in (table, views))
        assert one.schema == other.schema
        assert equal(one.encode(table), other.encode(views))


def test_a_group_is_encoded_alone(tiny_columns):
    items = Encoders.fit(tiny.schema(), tiny_columns).encode(tiny_columns, group="item")
    assert items.sparse.shape[1] == 1
    assert items.dense.shape[1] == 1


def test_text_and_numbers_encode_alike(tiny_columns):
    """A CSV holds text only; it must give the ids that typed columns give."""
    encoders = Encoders.fit(tiny.schema(), tiny_columns)
    texts = {}
    for name in tiny_columns.column_names:
        column = tiny_columns[name].combine_chunks()
        joined = pa.types.is_list(column.type)
        texts[name] = pa.compute.binary_join(column, "|") if joined else column.cast(pa.string())
    before, after = encoders.encode(tiny_columns), encoders.encode(pa.table(texts))
    assert (before.sparse == after.sparse).all()
    np.testing.assert_allclose(before.dense, after.dense, rtol=1e-6)
    assert (before.sequence_ids[0] == after.sequence_ids[0]).all()


def test_columns_come_in_any_order_and_company(tiny_columns):
    encoders = Encoders.fit(tiny.schema(), tiny_columns)
    mixed = tiny_columns.select(tiny_columns.column_names[::-1])
    mixed = mixed.append_column("extra", pa.nulls(len(mixed)))
    assert equal(encoders.encode(mixed), encoders.encode(tiny_columns))


def test_values_in_dictionaries_encode_alike(tiny_columns):
    """Parquet gives text so; its dictionaries may differ from chunk to chunk."""
    table = pa.table({"f": pa.chunked_array([["a", "b", None], ["c", "a", "x"]])})
    encoded = table.set_column(
        0, "f", pa.chunked_array([chunk.dictionary_encode() for chunk in table["f"].chunks])
    )
    for field in (sparse(), sparse(transform="prefix(1)"), sparse(hash_buckets=7)):
        one, other = (Encoders.fit(schema(field), part) for part in (table, encoded))
        assert one.schema == other.schema
        for part in (table, encoded):
            assert equal(one.encode(table), other.encode(part))
            assert equal(one.encode(table.slice(2, 3)), other.encode(part.slice(2, 3)))


@settings(deadline=None)
@given(st.lists(st.none() | st.lists(st.none() | st.sampled_from("abcdef"), max_size=5)))
def test_sequences_keep_known_elements(rows):
    table = pa.table({"f": pa.array(rows, pa.list_(pa.string()))})
    known = {"a": 1, "b": 2, "d": 3}
    for keep in ("first", "last"):
        encoders = fit(sequence(keep=keep), [["b", "a"], ["d", None]])
        inputs = encoders.encode(table)
        for row, found, length in zip(
            rows, inputs.sequence_ids[0].tolist(), inputs.sequence_lengths[0].tolist(), strict=True
        ):
            expected = [known[value] for value in row or [] if value in known]
            expected = expected[:3] if keep == "first" else expected[-3:]
            assert found == expected + [0] * (3 - len(expected))
            assert length == len(expected)


def test_sliced_large_and_fixed_lists_encode_alike():
    values = pa.array([["a", "b"], ["b", "a"], ["b", "b"], ["a", "c"]])
    encoders = fit(sequence(), values)
    expected = encoders.encode(pa.table({"f": values})).select(slice(1, None))
    for kind in (pa.large_list(pa.string()), pa.list_(pa.string(), 2)):
        other = pa.table({"f": values.cast(kind)}).slice(1, 3)
        assert equal(encoders.encode(other), expected)


def test_sequences_hash_and_count():
    table = pa.table({"f": ["a|b|a", None, "b|c|c|c"]})
    counted = Encoders.fit(schema(sequence(transform="split(|)", min_count=2)), table)
    assert counted.encode(table).sequence_ids[0].tolist() == [[1, 2, 1], [0, 0, 0], [2, 3, 3]]
    hashed = Encoders.fit(schema(sequence(transform="split(|)", hash_buckets=10)), table)
    rows = hashed.encode(table).sequence_ids[0].tolist()
    single = fit(sparse(hash_buckets=10), ["a", "b", "c"])
    a, b, c = single.encode(pa.table({"f": ["a", "b", "c"]})).sparse[:, 0].tolist()
    assert rows == [[a, b, a], [0, 0, 0], [b, c, c]]
    assert hashed.schema.fields["f"].vocabulary_size == 11


def test_fields_share_a_vocabulary():
    fields = (
        sparse("item", embedding_name="items"),
        sequence("seen", embedding_name="items", transform="split(|)"),
    )
    table = pa.table({"item": [7, 5], "seen": ["5|9", None]})
    encoders = Encoders.fit(schema(*fields), table)
    assert [field.vocabulary_size for field in encoders.schema.fields.values()] == [4, 4]
    for one in (encoders, through_a_file(encoders)):
        inputs = one.encode(table)
        assert inputs.sparse[:, 0].tolist() == [2, 1]
        assert inputs.sequence_ids[0].tolist() == [[1, 3, 0], [0, 0, 0]]


def test_a_field_with_one_value():
    table = pa.table({"f": ["7", "7", "7"]})
    for field, expected in (
        (sparse(), 1),
        (sparse(quantiles=4), 1),
        (sparse(transform="criteo_log"), 1),
        (dense(), 0.0),
        (dense(scale="standard"), 0.0),
        (dense(scale="none"), 7.0),
    ):
        inputs = Encoders.fit(schema(field), table).encode(table)
        found = inputs.dense if field.feature_type == "dense" else inputs.sparse
        assert found[:, 0].tolist() == [expected] * 3


# --- streams -----------------------------------------------------------------------------------

EVERY_KIND = (
    sparse("label", min_count=2, column="text"),
    sparse("hashed", hash_buckets=50, column="text"),
    sparse("bucketed", quantiles=5, column="number", bad_values="unknown"),
    sparse("logged", transform="criteo_log", column="number", bad_values="drop"),
    sequence("list", transform="split(|)", column="text", keep="last"),
    dense("standard", scale="standard", missing="mean", column="number", bad_values="unknown"),
    dense("log", scale="log1p", missing="indicator", column="number", bad_values="unknown"),
    dense("clipped", scale="log1p", clip=0.05, column="number", bad_values="unknown", default=1),
    dense(
        "binned",
        clip=0.1,
        column="number",
        bad_values="unknown",
        missing="mean",
        bins=5,
        dense_embedding="piecewise",
    ),
    dense("log_missing", scale="none", transform="is_missing()", column="number"),
    sparse("pair", columns=("text", "number"), hash_buckets=50, padding_idx=None),
    sparse("edges", boundaries=(1, 5), column="number", bad_values="unknown", default=3),
    sparse("word", vocabulary={"é": 2, "a|b": 0}, oov_id=1, default="é", column="text"),
    sparse("default", default="a|b", column="text"),
    dense(
        "vector", value_dim=2, separator="|", column="text", bad_values="unknown", missing="mean"
    ),
)


def random_table(seed, rows):
    rng = np.random.default_rng(seed)
    numbers = [None, "", "x", "-5", *map(str, range(20))]
    texts = [None, "a|b", "b|c|d|e", "é", *(str(k) for k in range(9))]
    return pa.table(
        {
            "text": [texts[k] for k in rng.integers(0, len(texts), rows)],
            "number": [numbers[k] for k in rng.integers(0, len(numbers), rows)],
        }
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 60), max_size=6), st.integers(1, 100))
def test_a_stream_fits_and_encodes_like_one_table(seed, cuts, block):
    table = random_table(seed, 60)
    bounds = [0, *sorted(cuts), len(table)]
    spans = list(itertools.pairwise(bounds))
    parts = [Rows(table.slice(a, b - a), first=2 + a) for a, b in spans]
    whole = Encoders.fit(schema(*EVERY_KIND), table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FIT_ROWS", block)
        streamed = Encoders.fit(schema(*EVERY_KIND), iter(parts))
        sliced = Encoders.fit(schema(*EVERY_KIND), table)
    expected = whole.encode_rows(table)
    for one in (streamed, sliced, through_a_file(whole)):
        assert one.schema == whole.schema
        found = [one.encode_rows(part) for part in parts]
        kept = np.concatenate([rows.kept + a for rows, (a, _) in zip(found, spans, strict=True)])
        np.testing.assert_array_equal(kept, expected.kept)
        counts = [rows.bad.get("number", 0) for rows in found]
        assert sum(counts) == expected.bad.get("number", 0)
        for name in ("sparse", "dense"):
            joined = torch.cat([getattr(rows.inputs, name) for rows in found])
            assert torch.equal(joined, getattr(expected.inputs, name))


def test_a_dropped_row_is_seen_by_no_encoder():
    table = pa.table({"f": ["a", "b", "c"], "n": ["1", "x", "3"], "v": [0.0, 9.0, 1.0]})
    fields = (sparse(), dense("n", bad_values="drop"), dense("v"))
    encoders = Encoders.fit(schema(*fields), table)
    assert encoders.schema.fields["f"].vocabulary_size == 3
    rows = encoders.encode_rows(Rows(table))
    assert rows.kept.tolist() == [0, 2]
    assert rows.bad == {"n": 1}
    assert rows.inputs.sparse.tolist() == [[1], [2]]
    assert rows.inputs.dense.tolist() == [[0.0, 0.0], [1.0, 1.0]]
    stays = encoders.encode(table)  # for callers that need every row
    assert stays.sparse.tolist() == [[1], [0], [2]]
    assert stays.dense.tolist() == [[0.0, 0.0], [-0.5, 9.0], [1.0, 1.0]]


def test_nothing_to_fit_is_an_error():
    empty = pa.table({"f": pa.array([], pa.string())})
    for batches in (empty, [], [empty, empty]):
        with pytest.raises(DataError, match="the training split is empty"):
            Encoders.fit(schema(sparse()), batches)
    with pytest.raises(DataError, match="the training split is empty"):
        Encoders.fit(schema(dense(bad_values="drop")), pa.table({"f": ["x"]}))


def test_an_empty_batch_is_encoded():
    table = random_table(0, 60)
    encoders = Encoders.fit(schema(*EVERY_KIND), table)
    rows = encoders.encode_rows(table.slice(0, 0))
    assert rows.inputs.sparse.shape == (0, 8)
    assert rows.inputs.dense.shape == (0, 7)
    assert rows.inputs.sequence_ids[0].shape == (0, 3)


# --- bad values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "good", "bad", "expected"),
    [
        (dense(), "1", "abc", "expected a number, found 'abc'"),
        (dense(), "1", "inf", "expected a finite number, found 'inf'"),
        (dense(), "1", "1e39", "expected a float32, found '1e39'"),
        (dense(scale="log1p"), "1", "-1", "expected a number above -1, found '-1'"),
        (dense(transform="bucket(1, 2)"), "1", "abc", "expected a number, found 'abc'"),
        (dense(transform="hour"), "2020-01-01", "now", "expected a time"),
        (sparse(transform="bucket(1, 2)"), "1", "abc", "expected a number, found 'abc'"),
        (sparse(transform="criteo_log"), "1", "abc", "expected a number, found 'abc'"),
        (sparse(transform="weekday(%y%m%d)"), "200101", "209901", "expected a time like %y%m%d"),
        (sparse(quantiles=3), "1", "abc", "expected a number, found 'abc'"),
    ],
)
def test_policies_of_bad_values(field, good, bad, expected):
    def with_policy(policy, **more):
        options = {key: getattr(field, key) for key in ("transform", "quantiles", "scale")}
        return FieldSchema(
            "f", field.feature_type, column="c", bad_values=policy, **options, **more
        )

    clean, dirty = pa.table({"c": [good, good]}), pa.table({"c": [good, bad, good]})
    for one in (
        lambda: Encoders.fit(schema(with_policy("error")), [Rows(clean), Rows(dirty, first=9)]),
        lambda: Encoders.fit(schema(with_policy("error")), clean).encode_rows(Rows(dirty, first=9)),
    ):
        with pytest.raises(DataError) as caught:
            one()
        assert str(caught.value).startswith(f"train.tsv:10: field f, column c: {expected}")
    with pytest.raises(DataError, match=r"^row 2: field f, column c: "):
        Encoders.fit(schema(with_policy("error")), clean).encode(dirty)

    kept = Encoders.fit(schema(with_policy("drop")), dirty).encode_rows(dirty)
    assert kept.kept.tolist() == [0, 2]
    assert kept.bad == {"c": 1}

    if field.feature_type == "dense":
        with pytest.raises(DataError, match=r"row 2: .*unknown is absent, and `missing` is error"):
            Encoders.fit(schema(with_policy("unknown")), dirty)
        unknown = Encoders.fit(schema(with_policy("unknown", missing="mean")), dirty)
        rows = unknown.encode_rows(dirty)
        assert rows.inputs.dense[1] == pytest.approx(rows.inputs.dense[0])
    else:
        rows = Encoders.fit(schema(with_policy("unknown")), dirty).encode_rows(dirty)
        assert rows.inputs.sparse[:, 0].tolist() == [1, 0, 1]
    assert rows.kept.tolist() == [0, 1, 2]
    assert rows.bad == {"c": 1}


def test_a_cell_counts_once_whatever_reads_it():
    fields = [sparse(f"f{k}", column="c", transform="hour", bad_values="unknown") for k in range(3)]
    table = pa.table({"c": ["2020-01-01", "x", "y"]})
    assert Encoders.fit(schema(*fields), table).encode_rows(table).bad == {"c": 2}


def test_missing_numbers():
    table = pa.table({"f": [None, 2.0, 6.0, math.nan]})
    for missing, expected in (("zero", [-0.5, 0, 1, -0.5]), ("mean", [0.5, 0, 1, 0.5])):
        encoders = Encoders.fit(schema(dense(missing=missing)), table)
        assert encoders.encode(table).dense[:, 0].tolist() == expected
    for one in (lambda e: e.encode(table), lambda e: Encoders.fit(e.schema, table)):
        with pytest.raises(
            DataError, match="row 1: field f, column f: expected a number, found no"
        ):
            one(fit(dense(), [1.0, 2.0]))


def test_an_indicator_marks_what_its_field_cannot_read():
    fields = (
        dense("f", missing="indicator", bad_values="unknown", scale="log1p"),
        dense("f_missing", column="f", transform="is_missing()", scale="none"),
    )
    table = pa.table({"f": ["0", "x", None, "nan", "-1", "2"]})
    encoders = Encoders.fit(schema(*fields), table)
    found = encoders.encode(table).dense
    assert found[:, 1].tolist() == [0, 1, 1, 1, 1, 0]
    logs = np.log1p([0, 2])
    expected = (np.log1p([0, 1, 1, 1, 1, 2]) - logs.mean()) / logs.std()
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)
    assert encoders.encode(pa.table({"g": ["1"]})).dense[:, 1].tolist() == [1]


def test_a_blank_of_criteo_log_has_its_own_id():
    table = pa.table({"f": [None, "1", "x", "", "30"]})
    encoders = Encoders.fit(schema(sparse(transform="criteo_log", bad_values="unknown")), table)
    assert encoders.encode(table).sparse[:, 0].tolist() == [1, 2, 0, 1, 3]
    assert encoders.schema.fields["f"].vocabulary_size == 4


def test_an_absent_column_counts_as_missing_where_there_is_a_policy():
    other = pa.table({"ff": [1, 2]})
    for field in (
        dense(missing="zero", scale="none"),
        sparse(bad_values="unknown"),
        sparse(bad_values="unknown", hash_buckets=5),
        sparse(bad_values="unknown", quantiles=5),
        sequence(bad_values="unknown", transform="split(|)"),
    ):
        encoders = fit(field, ["1", "2"])
        inputs = encoders.encode(other)
        assert not inputs.sparse.any()
        assert not inputs.dense.any()
        assert not any(lengths.any() for lengths in inputs.sequence_lengths)
        with pytest.raises(DataError, match="field f: no column 'f'; did you mean 'ff'"):
            Encoders.fit(schema(field), other)
    for field in (dense(), sparse(), sparse(bad_values="drop"), sequence(transform="split(|)")):
        with pytest.raises(DataError, match="field f: no column 'f'; did you mean 'ff'"):
            fit(field, ["1", "2"]).encode(other)


def test_a_list_of_any_length_has_a_bound_that_names_the_way_out():
    texts = ["a|b", "|".join(["a"] * (LONGEST_LIST + 1)), None]
    encoders = fit(sequence(separator="|", max_length=0), ["a", "b"])
    with pytest.raises(DataError, match=r"a list of 10,001 elements, .* set max_length") as caught:
        encoders.encode_rows(Rows(pa.table({"f": texts})))
    assert str(caught.value).startswith("train.tsv:3: field f, column f: ")
    longest = pa.table({"f": ["|".join(["a"] * LONGEST_LIST)] * 2})
    assert encoders.encode_rows(longest).inputs.sequence_lengths[0].tolist() == [LONGEST_LIST] * 2
    cut = fit(sequence(separator="|", max_length=3), ["a", "b"])
    found = cut.encode_rows(pa.table({"f": texts})).inputs.sequence_lengths[0]
    assert found.tolist() == [2, 3, 0]


def test_unknown_elements_are_counted():
    for max_length in (0, 1):
        encoders = fit(sequence(separator="|", max_length=max_length), ["a|b"])
        table = pa.table({"f": ["a|x|y", "z", None, "", "b"]})
        assert encoders.encode_rows(table).unknown == {"f": 3}


def test_as_many_quantiles_as_anybody_likes_are_those_that_the_numbers_have():
    numbers = [1.0, 2.0, 2.0, 5.0, 9.0]
    ids = [fit(sparse(quantiles=n), numbers).encode(pa.table({"f": numbers})).sparse.tolist()
           for n in (5, 6, 100, 10**18)]  # fmt: skip
    assert ids[0] == [[1], [2], [2], [3], [4]]
    assert all(one == ids[0] for one in ids)


def test_errors_name_field_and_column():
    with pytest.raises(DataError, match="field f, column f: expected single values, found list"):
        fit(sparse(bad_values="unknown"), [["a"]])
    with pytest.raises(DataError, match="field f, column f: expected lists, found string"):
        fit(sequence(bad_values="unknown"), ["a"])
    with pytest.raises(DataError, match="field f, column f: expected numbers, found timestamp"):
        fit(dense(bad_values="unknown"), [0], pa.timestamp("s"))
    with pytest.raises(DataError, match="field f, column f: "):
        fit(sparse(), [{"a": 1}])
    with pytest.raises(DataError, match="field f, column f: not UTF-8"):
        fit(sparse(), [b"\xff"])
    with pytest.raises(ConfigError, match="unknown transform 'huor'; did you mean 'hour'"):
        fit(sparse(transform="huor"), ["a"])


# --- any value ---------------------------------------------------------------------------------

CELLS = st.one_of(
    st.tuples(st.just(pa.string()), st.lists(st.none() | st.text(), min_size=1)),
    st.tuples(
        st.just(pa.string()),
        st.lists(st.floats().map(str) | st.integers().map(str), min_size=1),
    ),
    st.tuples(
        st.just(pa.int64()), st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1)
    ),
    st.tuples(st.just(pa.uint64()), st.lists(st.none() | st.integers(0, 2**64 - 1), min_size=1)),
    st.tuples(st.just(pa.float64()), st.lists(st.none() | st.floats(), min_size=1)),
    st.tuples(st.just(pa.float32()), st.lists(st.none() | st.floats(width=32), min_size=1)),
    st.tuples(st.just(pa.bool_()), st.lists(st.none() | st.booleans(), min_size=1)),
    st.tuples(st.just(pa.null()), st.lists(st.none(), min_size=1)),
)


def everything(policy):
    options = {"column": "c", "bad_values": policy}
    lenient = options | {"missing": "mean"}
    return (
        sparse("plain", **options),
        sparse("rare", min_count=2, **options),
        sparse("hashed", hash_buckets=9, **options),
        sparse("quantile", quantiles=3, **options),
        sparse("edges", transform="bucket(-5, 0, 5)", **options),
        sparse("log", transform="criteo_log", **options),
        sparse("cut", transform="prefix(2)", **options),
        *(dense(scale, scale=scale, **lenient) for scale in ("none", "min_max", "standard")),
        dense("log1p", scale="log1p", **(options | {"missing": "indicator"})),
        dense("log1p_missing", scale="none", transform="is_missing()", **options),
        sparse("bucket", num_buckets=9, out_of_range="zero", **options),
        sparse("bucket_0", num_buckets=9, out_of_range="row0", default=4, **options),
        sparse("words", vocabulary={"a": 1, "5": 0}, default="5", **options),
        sparse("hash", hash_buckets=9, hash_function="farm64", padding_idx=None, **options),
        sparse("range", boundaries=(-5, 0, 0.5), **options),
        sparse("log10", boundaries=(0, 1), transform="log10(1, 0)", default=9, **options),
        sparse("expression", quantiles=3, transform="expression(1 / x)", **options),
        sparse("filled", default="a", **options),
        sparse("cross", columns=("c", "c"), hash_buckets=9, hash_function="murmur64a"),
        dense("default", default=2, scale="standard", **options),
    )


@settings(deadline=None, max_examples=200)
@given(CELLS, CELLS, st.sampled_from(["unknown", "drop"]))
def test_any_value_gets_an_id_in_range_and_a_finite_number(seen, new, policy):
    tables = [pa.table({"c": pa.array(values, kind)}) for kind, values in (seen, new)]
    # a row that no policy drops, so that there is one to fit
    readable = pa.table({"c": pa.nulls(1, seen[0])})
    encoders = Encoders.fit(schema(*everything(policy)), [tables[0], readable])
    for table in tables:
        rows = encoders.encode_rows(table)
        assert rows.inputs.num_rows == len(rows.kept)
        if policy == "unknown":
            assert rows.kept.tolist() == list(range(len(table)))
        for column, field in enumerate(encoders.schema.sparse_fields):
            ids = rows.inputs.sparse[:, column]
            lowest = 0 if field.padding_idx == 0 else -1
            assert ((ids >= lowest) & (ids < field.vocabulary_size)).all()
        assert torch.isfinite(rows.inputs.dense).all()
        # row by row, through a file: the company of a value never changes what it becomes
        again = through_a_file(encoders)
        single = [again.encode_rows(table.slice(k, 1)) for k in range(len(table))]
        assert torch.equal(torch.cat([s.inputs.sparse for s in single]), rows.inputs.sparse)
        assert torch.equal(torch.cat([s.inputs.dense for s in single]), rows.inputs.dense)
        assert sum(s.bad.get("c", 0) for s in single) == rows.bad.get("c", 0)


# --- growing -----------------------------------------------------------------------------------


def test_grown_encoders_keep_ids_and_append():
    fields = (sparse("f"), dense("n"), sparse("q", quantiles=2), sparse("h", hash_buckets=4))
    old = pa.table({"f": ["b", "d"], "n": [0.0, 2.0], "q": [0.0, 1.0], "h": ["x", "y"]})
    new = pa.table({"f": ["a", "b"], "n": [0.0, 9.0], "q": [8.0, 9.0], "h": ["x", "z"]})
    base = Encoders.fit(schema(*fields), old)
    grown = Encoders.fit(schema(*fields, sparse("g", column="f")), new).grown_from(base)
    assert grown.schema.fields["f"].vocabulary_size == 4
    before, after = base.encode(old), grown.encode(old)
    assert torch.equal(before.sparse, after.sparse[:, :3])
    assert torch.equal(before.dense, after.dense)
    assert grown.encode(new).sparse[:, 0].tolist() == [3, 1]
    assert grown.encode(new).sparse[:, 3].tolist() == [1, 2]  # a field that base lacks
    assert equal(through_a_file(grown).encode(new), grown.encode(new))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hash_buckets": 5}, "table f: 4 hash_buckets before, 5 now"),
        ({}, "table f: hash_buckets before, vocabulary now"),
    ],
)
def test_another_kind_of_ids_cannot_be_grown(options, message):
    base = fit(sparse(hash_buckets=4), ["a"])
    with pytest.raises(DataError, match=message):
        fit(sparse(**options), ["a"]).grown_from(base)


# --- real rows ---------------------------------------------------------------------------------

CRITEO = Path(__file__).parents[4] / "shared" / "data" / "criteo" / "train_sample.tsv"


@pytest.mark.skipif(not CRITEO.exists(), reason="the sample of Criteo rows is not here")
def test_criteo_rows_against_a_loop():
    lines = [line.split("\t") for line in CRITEO.read_text().splitlines()]
    names = ["label", *(f"I{k}" for k in range(1, 14)), *(f"C{k}" for k in range(1, 27))]
    cells = {name: [row[k] or None for row in lines] for k, name in enumerate(names)}
    fields = [sparse(name, transform="criteo_log", min_count=10) for name in names[1:14]]
    fields += [sparse(name, min_count=10) for name in names[14:]]
    table = pa.table({name: pa.array(values, pa.string()) for name, values in cells.items()})
    found = Encoders.fit(schema(*fields), table).encode(table).sparse
    for column, field in enumerate(fields):
        values = cells[field.name]
        if field.transform:
            integers = [None if value is None else int(value) for value in values]
            logs = [x if x is None or x <= 2 else math.floor(math.log(x) ** 2) for x in integers]
            values = [-math.inf if value is None else value for value in logs]  # a value too
        counts = Counter(value for value in values if value is not None)
        known = sorted(value for value, count in counts.items() if count >= 10)
        ids = {value: k for k, value in enumerate(known, 1)}
        assert found[:, column].tolist() == [ids.get(value, 0) for value in values]
