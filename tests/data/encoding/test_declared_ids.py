"""Fields whose ids are declared, defaults, crosses, vectors and lists of any length.

Every kind is compared with plain Python, row by row, and read back from plain data.
"""

import io
import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfm.data.batch import Ragged
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.ids import Boundaries
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.errors import ConfigError, DataError
from deepfm.utils.io import arrays_as_tensors
from tests.data.encoding.test_encoders import Rows


def schema(*fields):
    return DatasetSchema(fields={field.name: field for field in fields}, label_field="y")


def sparse(name="f", **options):
    return FieldSchema(name, "sparse", **options)


def sequence(name="f", **options):
    return FieldSchema(name, "sequence", **({"transform": "split(|)"} | options))


def dense(name="f", **options):
    return FieldSchema(name, "dense", **({"scale": "none"} | options))


def unfitted(*fields):
    """Encoders that have seen no row, through a file and back."""
    file = io.BytesIO()
    torch.save(arrays_as_tensors(Encoders.fit(schema(*fields), ()).to_dict()), file)
    file.seek(0)
    return Encoders.from_dict(torch.load(file, weights_only=True))


def lists_of(inputs, k=0):
    lengths = inputs.sequence_lengths[k].tolist()
    rows = inputs.sequence_ids[k][:].tolist()
    return [row[:n] for row, n in zip(rows, lengths, strict=True)]


# --- against plain Python ----------------------------------------------------------------------

WORDS = {"a": 3, "b": 0, "7": 3, "-1": 5}
EDGES = (-1.0, 0.5, 3.0, 7.0)


def hash_of(text):
    return xxhash.xxh64_intdigest(text.encode()) % 10


def bucket_of(text):
    number = int(text) if text.lstrip("-").isdecimal() and text.isascii() else None
    return number if number is not None and 0 <= number < 8 else None


def boundary_of(text):
    try:
        number = np.float32(float(text))
    except ValueError:
        return None
    if math.isnan(number) or math.isinf(float(text)):
        return None
    return sum(np.float32(edge) < number for edge in EDGES)


KINDS = {
    "num_buckets": ({"num_buckets": 8, "out_of_range": "zero"}, bucket_of),
    "vocabulary": ({"vocabulary": WORDS}, WORDS.get),
    "oov": ({"vocabulary": WORDS, "oov_id": 1}, lambda text: WORDS.get(text, 1)),
    "boundaries": ({"boundaries": EDGES}, boundary_of),
    "hash": ({"hash_buckets": 10, "padding_idx": None}, hash_of),
}
TEXTS = st.sampled_from(["a", "b", "c", "7", "8", "-1", "0", "3", "2.5", "é", "x y"])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | st.just("") | TEXTS), st.sampled_from([None, "7", "0"]))
def test_single_values_against_python(kind, values, default):
    options, id_of = KINDS[kind]
    encoders = unfitted(sparse(default=default, bad_values="unknown", **options))
    found = encoders.encode(pa.table({"f": pa.array(values, pa.string())})).sparse[:, 0]
    for value, got in zip(values, found.tolist(), strict=True):
        expected = None if not value else id_of(value)
        is_readable = kind != "num_buckets" or (value or "x").lstrip("-").isdecimal()
        if kind == "boundaries":
            is_readable = expected is not None
        if default is not None and (not value or not is_readable):
            expected = id_of(default)  # a value that cannot be read counts as absent
        assert got == (-1 if expected is None else expected), value


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.none() | st.lists(st.just("") | TEXTS, max_size=5)),
    st.sampled_from([None, "7", "0|7"]),
    st.sampled_from([0, 2]),
    st.booleans(),
)
def test_lists_against_python(kind, rows, default, max_length, as_text):
    options, id_of = KINDS[kind]
    field = sequence(default=default, max_length=max_length, bad_values="unknown", **options)
    table = pa.table({"f": pa.array(rows, pa.list_(pa.string()))})
    if as_text:
        texts = [None if row is None else "|".join(row) for row in rows]
        table = pa.table({"f": pa.array(texts, pa.string())})
        rows = [text.split("|") if text else [] for text in texts]
    encoders = unfitted(field)
    found = lists_of(encoders.encode(table))
    for row, got in zip(rows, found, strict=True):
        row = row or ([] if default is None else default.split("|"))
        expected = [id_of(text) for text in row if text]
        expected = [number for number in expected if number is not None]
        assert got == (expected[:max_length] if max_length else expected), row
    ragged = encoders.encode_rows(table).inputs
    assert isinstance(ragged.sequence_ids[0], Ragged) == (not max_length)
    assert lists_of(ragged) == found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.none() | st.text("ab|", max_size=4), min_size=3, max_size=3)),
    st.sampled_from([None, "a_b_a|b"]),
)
def test_crosses_against_python(rows, default):
    columns = {name: [row[k] for row in rows] for k, name in enumerate("xyz")}
    table = pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()})
    options = {"columns": tuple("xyz"), "hash_buckets": 10, "padding_idx": None}
    single, several = (
        unfitted(sparse(default=default, **options)),
        unfitted(sequence(transform=None, separator="|", default=default, **options)),
    )
    found = single.encode(table).sparse[:, 0].tolist(), lists_of(several.encode(table))
    for row, number, numbers in zip(rows, *found, strict=True):
        joined = "_".join(row) if all(row) else default
        assert number == (-1 if joined is None else hash_of(joined))
        parts = [[part for part in (cell or "").split("|") if part] for cell in row]
        texts = ["_".join(combination) for combination in itertools.product(*parts)]
        if default is not None:
            texts = texts or default.split("|")
        assert numbers == [hash_of(text) for text in texts]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.none() | st.lists(st.sampled_from(["1", "-2.5", "1e3", "x", ""]), max_size=4),
    ),
    st.sampled_from([0.5, "7|8"]),
    st.sampled_from(["none", "plain_log1p"]),
)
def test_vectors_against_python(rows, default, scale):
    options = {"value_dim": 2, "separator": "|", "default": default, "scale": scale}
    texts = pa.array([None if row is None else "|".join(row) for row in rows], pa.string())
    encoders = unfitted(dense(bad_values="unknown", **options))
    found = encoders.encode_rows(pa.table({"f": texts}))
    stand_in = [0.5, 0.5] if default == 0.5 else [7, 8]
    bad = 0
    for text, got in zip(texts.to_pylist(), found.inputs.dense.tolist(), strict=True):
        parts = text.split("|") if text else []
        numbers = [float(part) for part in parts if part not in ("", "x")]
        fits = len(parts) == len(numbers) == 2
        fits = fits and (scale == "none" or min(numbers) > -1)
        bad += bool(parts) and not fits
        expected = (np.log1p(numbers) if scale == "plain_log1p" else numbers) if fits else stand_in
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert found.bad == ({"f": bad} if bad else {})


# --- the forms that values come in -------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_texts_and_dictionaries_have_equal_ids(kind):
    texts = ["7", "0", None, "3", "-1", "7"]
    forms = [pa.array(texts), pa.array(texts).dictionary_encode()]
    forms += [pa.array(texts).cast(form) for form in (pa.int64(), pa.float64(), pa.large_string())]
    for field in (sparse(**KINDS[kind][0]), sequence(**KINDS[kind][0])):
        encoders = unfitted(field)
        encoded = [encoders.encode(pa.table({"f": form})) for form in forms]
        single = [inputs.sparse.tolist() for inputs in encoded]
        assert all(ids == single[0] for ids in single)
        if field.feature_type == "sequence":
            assert all(lists_of(inputs) == lists_of(encoded[0]) for inputs in encoded)
            assert lists_of(encoded[0])[2] == []


def test_numbers_at_the_boundaries_have_one_id_in_every_form():
    """0.1 as float32 lies above 0.1 as float64; a boundary is not below its own value."""
    edges = (0.1, 0.2, 0.3)
    encoder = unfitted(sparse(boundaries=edges))
    for form in (pa.float64(), pa.float32(), pa.string()):
        column = pa.array([0.1, 0.2, 0.3, 0.09, 0.31]).cast(form)
        found = encoder.encode(pa.table({"f": column})).sparse[:, 0]
        assert found.tolist() == [0, 1, 2, 0, 3]
    singles = np.nextafter(np.array(edges, np.float32), np.float32(1))
    assert Boundaries(edges).encode(singles.astype(np.float64)).tolist() == [1, 2, 3]
    assert Boundaries(edges).encode(np.array([-1e300, 1e300, math.nan])).tolist() == [0, 3, -1]


def test_a_list_may_be_as_long_as_it_is():
    rows = [list(range(300)), [], [5], None]
    table = pa.table({"f": pa.array(rows, pa.list_(pa.int64()))})
    for field in (sequence(num_buckets=300), sequence(max_length=0)):
        inputs = Encoders.fit(schema(field), table).encode(table)
        first = 0 if field.num_buckets else 1
        assert inputs.sequence_ids[0].shape == (4, 300)
        expected = [[k + first for k in row or []] for row in rows]
        assert lists_of(inputs) == expected
    empty = unfitted(sequence(num_buckets=3)).encode(table.slice(1, 1))
    assert empty.sequence_ids[0].tolist() == [[0]]  # a place to pool over, beyond the length
    none = unfitted(sequence(num_buckets=3)).encode(table.slice(0, 0))
    assert none.sequence_ids[0].shape == (0, 1)


def test_fixed_size_and_large_lists_are_vectors():
    values = pa.array([[1.0, 2.0], [3.0, 4.0]])
    encoders = unfitted(dense(value_dim=2))
    for kind in (pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float64(), 2)):
        column = pa.chunked_array([values.cast(kind), values.cast(kind).slice(1)])
        found = encoders.encode(pa.table({"f": column})).dense.tolist()
        assert found == [[1, 2], [3, 4], [3, 4]]


def test_a_vector_of_one_number():
    for field, values in (
        (dense(separator="|"), ["1", "2"]), (dense(separator="|"), [1, 2]), (dense(), [[1], [2]]),
        (dense(separator="|"), [1.0, 2.0]), (dense(separator="|"), [[1], [2]]),
    ):  # fmt: skip
        assert unfitted(field).encode(pa.table({"f": values})).dense.tolist() == [[1], [2]]


def test_numbers_are_lists_of_one():
    for kind in (pa.int32(), pa.float64(), pa.bool_()):
        values = pa.array([1, 0, None]).cast(kind)
        for field in (sequence(num_buckets=2), sequence(num_buckets=2, transform=None)):
            assert lists_of(unfitted(field).encode(pa.table({"f": values}))) == [[1], [0], []]
    nan = pa.table({"f": [1.0, math.nan]})
    assert lists_of(unfitted(sequence(num_buckets=3, default=2)).encode(nan)) == [[1], [2]]


def test_vectors_stand_between_other_numbers():
    fields = (dense("a"), dense("v", value_dim=3), dense("b", scale="standard"), dense("w"))
    table = pa.table({
        "a": [1.0, 2.0], "v": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], "b": [3.0, 5.0], "w": ["7", "8"],
    })  # fmt: skip
    found = Encoders.fit(schema(*fields), table).encode(table)
    assert found.dense.tolist() == [[1, 1, 2, 3, -1, 7], [2, 4, 5, 6, 1, 8]]


def test_a_vector_is_scaled_by_all_of_its_numbers():
    table = pa.table({"f": [[0.0, 4.0], [2.0, 2.0], None]})
    for scale, low, span in (("min_max", 0, 4), ("standard", 2, math.sqrt(2))):
        field = dense(value_dim=2, scale=scale, missing="indicator")
        indicator = dense("f_missing", column="f", transform="is_missing()")
        found = Encoders.fit(schema(field, indicator), table).encode(table).dense
        expected = (np.array([[0, 4], [2, 2], [2, 2]]) - low) / span
        np.testing.assert_allclose(found[:, :2], expected, rtol=1e-6)
        assert found[:, 2].tolist() == [0, 0, 1]


def test_elements_of_a_list_are_transformed():
    field = sequence(transform="log10(1, -1)", separator="|", boundaries=(0, 1.5), default="2")
    found = unfitted(field).encode(pa.table({"f": ["10|0.5|1000", "", None]}))
    assert lists_of(found) == [[1, 0, 2], [2], [2]]  # a default is no longer transformed


def test_a_default_joins_the_vocabulary():
    table = pa.table({"f": ["a", None, "", "a"]})
    encoders = Encoders.fit(schema(sparse(default="z", min_count=2)), table)
    assert encoders.encode(table).sparse[:, 0].tolist() == [1, 2, 2, 1]
    numbers = pa.table({"f": [5, None, 7]})
    for default, expected in ((7, [1, 2, 2]), ("x", [1, 3, 2])):
        encoders = Encoders.fit(schema(sparse(default=default)), numbers)
        assert encoders.encode(numbers).sparse[:, 0].tolist() == expected
    lists = pa.table({"f": pa.array([[5], None, [], [7]])})
    encoders = Encoders.fit(schema(sequence(default="x|5")), lists)
    assert lists_of(encoders.encode(lists)) == [[1], [3, 1], [3, 1], [2]]


def test_a_default_is_seen_by_no_scale():
    table = pa.table({"f": ["0", "10", None, "x"]})
    field = dense(scale="min_max", default=-5, bad_values="unknown")
    encoders = Encoders.fit(schema(field), table)
    assert encoders.encode(table).dense[:, 0].tolist() == [0, 1, -5, -5]
    assert encoders.encode(pa.table({"g": [1]})).dense.tolist() == [[-5]]  # no such column


def test_a_default_of_quantiles_is_a_number():
    table = pa.table({"f": ["1", "2", None, "4"]})
    encoders = Encoders.fit(schema(sparse(quantiles=2, default=4)), table)
    assert encoders.encode(table).sparse[:, 0].tolist() == [1, 1, 2, 2]


# --- what cannot be read -----------------------------------------------------------------------


def test_out_of_range():
    table = pa.table({"f": ["1", "3", None, "-1", "99999999999999999999"]})
    for policy, ids in (("zero", [1, -1, -1, -1, -1]), ("row0", [1, 0, -1, 0, 0])):
        found = unfitted(sparse(num_buckets=3, out_of_range=policy)).encode_rows(table)
        assert found.inputs.sparse[:, 0].tolist() == ids
        assert found.bad == {"f": 3}
    message = (
        r"train\.tsv:3: field f, column f: expected a whole number from 0 to 2, found '3' "
        r"\(`out_of_range` is error\)"
    )
    with pytest.raises(DataError, match=message):
        unfitted(sparse(num_buckets=3)).encode_rows(Rows(table))


def test_out_of_range_in_a_list():
    table = pa.table({"f": ["0|5|1", "2", "7|8", ""]})
    for policy, ids in (("zero", [[0, 1], [2], [], []]), ("row0", [[0, 0, 1], [2], [0, 0], []])):
        found = unfitted(sequence(num_buckets=3, out_of_range=policy)).encode_rows(table)
        assert lists_of(found.inputs) == ids
        assert found.bad == {"f": 2}  # cells, not elements
    with pytest.raises(DataError, match=r"^train\.tsv:2: .* found '5'"):
        unfitted(sequence(num_buckets=3)).encode_rows(Rows(table))


def test_what_is_no_whole_number():
    table = pa.table({"f": ["1", "x", "7", "2.0"]})
    with pytest.raises(DataError, match=r"^train\.tsv:3: .*expected a whole number, found 'x'"):
        unfitted(sparse(num_buckets=8)).encode_rows(Rows(table))
    found = unfitted(sparse(num_buckets=8, bad_values="unknown")).encode_rows(table)
    assert found.inputs.sparse[:, 0].tolist() == [1, -1, 7, -1]
    assert found.bad == {"f": 2}
    # a dropped row is not counted twice, and out of range drops none
    field = sparse(num_buckets=3, bad_values="drop", out_of_range="row0")
    found = unfitted(field).encode_rows(table)
    assert found.kept.tolist() == [0, 2]
    assert found.inputs.sparse[:, 0].tolist() == [1, 0]
    assert found.bad == {"f": 3}


def test_what_is_no_whole_number_in_a_list():
    table = pa.table({"f": ["1|x", "2", "|0||1|"]})
    with pytest.raises(DataError, match=r"^train\.tsv:2: .*expected a whole number, found 'x'"):
        unfitted(sequence(num_buckets=8)).encode_rows(Rows(table))
    for policy, kept, ids in (
        ("unknown", [0, 1, 2], [[1], [2], [0, 1]]), ("drop", [1, 2], [[2], [0, 1]]),
    ):  # fmt: skip
        found = unfitted(sequence(num_buckets=8, bad_values=policy)).encode_rows(table)
        assert found.kept.tolist() == kept
        assert lists_of(found.inputs) == ids
        assert found.bad == {"f": 1}


@pytest.mark.parametrize("values", [["1|2", "1|2|3"], [[1, 2], [3]], ["1|2", "x"], ["1|2", "1|"]])
def test_a_vector_of_another_length(values):
    table = pa.table({"f": values})
    with pytest.raises(DataError, match=r"^train\.tsv:3: field f, .* expected 2 numbers, found"):
        unfitted(dense(value_dim=2, separator="|")).encode_rows(Rows(table))


def test_values_of_another_type():
    for field, values, message in (
        (dense(value_dim=2), [1.0], "expected lists, found double"),
        (sparse(num_buckets=3), [[1]], "expected single values, found list"),
        (sparse(num_buckets=3), pa.array([1], pa.date32()), "expected whole numbers, found date"),
        (sequence(num_buckets=3, transform=None), ["1"], "expected lists, found string"),
        (sparse(columns=("f", "g"), hash_buckets=3), [["a", "b"]], "expected single values"),
    ):
        with pytest.raises(DataError, match=f"field f, .*{message}"):
            unfitted(field).encode(pa.table({"f": values, "g": ["x"]}))


def test_columns_of_a_cross_must_be_there():
    field = sparse(columns=("left", "right"), hash_buckets=3)
    with pytest.raises(DataError, match="field f: no column 'right'; did you mean 'rihgt'"):
        unfitted(field).encode(pa.table({"left": ["a"], "rihgt": ["b"]}))
    found = unfitted(sparse(columns=("left", "right"), hash_buckets=3, bad_values="unknown"))
    assert found.encode(pa.table({"left": ["a"]})).sparse.tolist() == [[0]]


# --- fitting -----------------------------------------------------------------------------------


def test_declared_ids_need_no_rows():
    fields = [sparse(name, **options) for name, (options, _) in KINDS.items()]
    fields += [dense("n"), dense("z", missing="zero"), sparse("h", hash_buckets=7)]
    declared = schema(*fields)
    assert not Encoders.has_to_learn(declared)
    sizes = [field.vocabulary_size for field in declared.fields.values()]
    assert sizes == [8, 6, 6, 5, 10, 0, 0, 8]
    assert Encoders.fit(declared, ()).schema == declared

    def refused():
        raise AssertionError("a row was read")
        yield

    for other in (sparse("v"), dense("m", scale="min_max"), dense("m", missing="mean")):
        assert Encoders.has_to_learn(schema(*fields, other))
        with pytest.raises(DataError, match="the training split is empty"):
            Encoders.fit(schema(*fields, other), ())


def test_fields_share_declared_ids():
    fields = (
        sparse("item", num_buckets=9, embedding_name="items"),
        sequence("seen", num_buckets=9, embedding_name="items", default="8"),
    )
    found = unfitted(*fields).encode(pa.table({"item": [3, None], "seen": ["1|2", None]}))
    assert found.sparse.tolist() == [[3], [-1]]
    assert lists_of(found) == [[1, 2], [8]]
    for key, value in (("num_buckets", 8), ("hash_buckets", 9)):
        other = sparse("other", embedding_name="items", **{key: value})
        with pytest.raises(ConfigError, match="fields item and other share the table items"):
            schema(fields[0], other)


# --- growing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"num_buckets": 4}, {"num_buckets": 9}, None),
        ({"num_buckets": 4}, {"num_buckets": 3}, "num_buckets 4 before, only 3 now"),
        ({"vocabulary": {"a": 1}}, {"vocabulary": {"b": 0, "a": 1, "c": 2}}, None),
        ({"vocabulary": {"a": 1}}, {"vocabulary": {"a": 2}}, "the word 'a' has lost the id"),
        ({"vocabulary": {"a": 1}}, {"vocabulary": {"b": 1}}, "the word 'a' has lost the id"),
        (
            {"vocabulary": {"a": 1}}, {"vocabulary": {"a": 1}, "oov_id": 0},
            "oov_id None before, 0 now",
        ),
        ({"boundaries": (1, 2)}, {"boundaries": (1, 2)}, None),
        ({"boundaries": (1, 2)}, {"boundaries": (1, 3)}, "boundaries .* before, .* now"),
        (
            {"hash_buckets": 4}, {"hash_buckets": 4, "hash_function": "farm64"},
            "xxh64 as hash_function before, farm64 now",
        ),
        (
            {"hash_buckets": 4}, {"hash_buckets": 4, "padding_idx": None},
            "True padding before, False now",
        ),
        ({"num_buckets": 4}, {"hash_buckets": 4}, "num_buckets before, hash_buckets now"),
        ({"vocabulary": {"a": 1}}, {}, "declared_vocabulary before, vocabulary now"),
    ],
)  # fmt: skip
def test_declared_ids_may_grow_and_not_move(before, after, message):
    table = pa.table({"f": ["0", "1"]})
    base, new = (Encoders.fit(schema(sparse(**options)), table) for options in (before, after))
    if message is None:
        grown = new.grown_from(base)
        assert grown.schema == new.schema
        assert grown.encode(table).sparse.tolist() == base.encode(table).sparse.tolist()
    else:
        with pytest.raises(DataError, match=f"table f: {message}"):
            new.grown_from(base)
