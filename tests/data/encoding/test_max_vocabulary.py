"""Vocabularies with a bound: refused beyond it, or hashed, also when they grow."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.few_rows_spec import few_rows
from deepfm.data.encoding.hashing import hash_few
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.errors import ConfigError, DataError

BUCKETS = 3


def schema(**settings: object) -> DatasetSchema:
    field = FieldSchema("item", FeatureType.SPARSE, **settings)
    return DatasetSchema(fields={"item": field}, label_field="label")


def fitted(values: list, **settings: object) -> Encoders:
    return Encoders.fit(schema(**settings), pa.table({"item": pa.array(values)}))


def ids(encoders: Encoders, values: list) -> list[int]:
    return encoders.encode(pa.table({"item": pa.array(values)})).sparse[:, 0].tolist()


def bucket(value: object) -> int:
    return hash_few([str(value).encode()], "xxh64")[0] % BUCKETS + 1


def most_frequent(values: list, most: int) -> list:
    counts = Counter(values)
    return sorted(sorted(counts, key=lambda value: (-counts[value], value))[:most])


TEXTS = [*"aaabbbccd", *"eeee"]
NUMBERS = [7, 7, 7, 5, 5, 5, 9, 9, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("values", [TEXTS, NUMBERS])
def test_the_most_frequent_values_have_ids_and_all_others_share_buckets(values):
    encoders = fitted(values, max_vocabulary=3, overflow_buckets=BUCKETS)
    own = most_frequent(values, 3)
    never_seen = type(values[0])(88)
    wanted = [*values, never_seen, None]
    expected = [
        0 if v is None else BUCKETS + 1 + own.index(v) if v in own else bucket(v) for v in wanted
    ]
    assert ids(encoders, wanted) == expected
    assert encoders.schema.fields["item"].vocabulary_size == 1 + BUCKETS + 3
    again = Encoders.from_dict(encoders.to_dict())
    assert ids(again, wanted) == expected
    few = few_rows(encoders).encode({"item": wanted}, len(wanted))
    assert np.asarray(few.sparse)[:, 0].tolist() == expected
    large = [*wanted, *values * 40]  # found in another way than few values
    assert ids(encoders, large)[: len(wanted)] == expected


def test_a_value_of_another_type_is_the_same_value():
    encoders = fitted(NUMBERS, max_vocabulary=3, overflow_buckets=BUCKETS)
    for values in ([1, 2, 88], [1.0, 2.0, 88.0], ["1", "2", "88"]):
        assert ids(encoders, values) == [BUCKETS + 1, bucket(2), bucket(88)]


def test_a_vocabulary_grows_into_the_room_that_is_left():
    settings = {"max_vocabulary": 5, "overflow_buckets": BUCKETS}
    base = fitted([*"aabb"], **settings)
    new = fitted([*"aaaabbbb", *"zzz", *"yyy", *"xx", "w", *"qqqqq"], **settings)
    grown = new.grown_from(base)
    known = ["a", "b", "q", "y", "z"]  # the most frequent new ones, sorted, behind the old ones
    assert ids(grown, known) == [BUCKETS + 1 + k for k in range(5)]
    assert ids(grown, ["x", "w"]) == [bucket("x"), bucket("w")]
    assert ids(fitted([*"vvvv"], **settings).grown_from(grown), ["v"]) == [bucket("v")]


def test_more_values_than_a_bound_are_refused():
    message = "expected at most 2 values (max_vocabulary), found 3; raise it, or prepare all rows"
    with pytest.raises(DataError) as caught:
        fitted([*"abc"], max_vocabulary=2)
    assert f"field item: {message}" in str(caught.value)
    base = fitted([*"ab"], max_vocabulary=2)
    assert ids(fitted([*"ba"], max_vocabulary=2).grown_from(base), ["a", "b", "c"]) == [1, 2, 0]
    with pytest.raises(DataError) as caught:
        fitted([*"ac"], max_vocabulary=2).grown_from(base)
    assert f"table item: {message}" in str(caught.value)
    assert ids(fitted([*"ac"], max_vocabulary=3).grown_from(base), ["c"]) == [3]


def test_other_buckets_would_move_ids():
    base = fitted([*"ab"], max_vocabulary=2, overflow_buckets=2)
    with pytest.raises(DataError, match="table item: 2 overflow_buckets before, 3 now"):
        fitted([*"ab"], max_vocabulary=2, overflow_buckets=3).grown_from(base)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"max_vocabulary": 5, "hash_buckets": 9},
            "max_vocabulary means nothing with hash_buckets",
        ),
        ({"overflow_buckets": 5}, "overflow_buckets means nothing without max_vocabulary"),
        ({"max_vocabulary": -1}, "max_vocabulary -1 is below 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        schema(**settings)
