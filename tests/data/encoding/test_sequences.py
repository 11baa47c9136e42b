"""Fields of one sequence: elements keep their places, and lists are equally long."""

import re

import numpy as np
import pyarrow as pa
import pytest
import torch

from deepfm.data.batch import Ragged
from deepfm.data.dataset import TabularDataset
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.few_rows import NotPlain
from deepfm.data.encoding.few_rows_spec import few_rows
from deepfm.data.encoding.functions import number_ids
from deepfm.data.encoding.tensors import inputs_of
from deepfm.data.files.read import read_rows
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.data.sources.rows_given import plain_columns
from deepfm.errors import ConfigError, DataError
from tests.data.encoding.conftest import same

ROWS = {
    "item": [["a", None, "b"], [], None, ["zz", "a", "b", "a"]],
    "price": [[1.5, -2.0, None], [], [], [0.1, 7.0, float("nan"), 3e38]],
    "level": [[1, 2, 3], None, [], [3, None, 1, 2]],
}


def field(name, **options):
    options = {"sequence": "clicks"} | options
    return FieldSchema(name, FeatureType.SEQUENCE, **options)


def schema(**options):
    fields = [
        field("item", **options),
        field("price", numbers=True, **options),
        field("level", num_buckets=9, **options),
    ]
    return DatasetSchema(fields={f.name: f for f in fields}, label_field="y")


def encoders(**options):
    trained = {"item": [["a", "b"]], "price": [[1.0, 2.0]], "level": [[1, 2]]}
    return Encoders.fit(schema(**options), pa.table(trained))


def encoded_both_ways(encoders, rows):
    """What Arrow's path gives; that of few rows must give the same."""
    found = encoders.encode(pa.table(rows))
    few = few_rows(encoders)
    for _ in range(2):  # the second time from memory
        assert same(inputs_of(few.encode(*plain_columns(rows))), found)
    return found


def test_elements_without_a_value_keep_their_places():
    inputs = encoded_both_ways(encoders(), ROWS)
    assert [lengths.tolist() for lengths in inputs.sequence_lengths] == [[3, 0, 0, 4]] * 3
    item, price, level = inputs.sequence_ids
    assert item.tolist() == [[1, 0, 2, 0], [0] * 4, [0] * 4, [0, 1, 2, 1]]
    assert level.tolist() == [[1, 2, 3, 0], [0] * 4, [0] * 4, [3, -1, 1, 2]]
    bits = number_ids(np.array([0.1, 7.0, np.nan, 3e38]))
    assert price[3].tolist() == bits.tolist()
    assert price[0].tolist() == [*number_ids(np.array([1.5, -2.0])).tolist(), -1, 0]


def test_a_field_that_stands_alone_leaves_them_out():
    alone = encoders(sequence="", max_length=0)
    inputs = alone.encode(pa.table(ROWS))
    assert inputs.sequence_ids[0].tolist() == [[1, 2, 0], [0] * 3, [0] * 3, [1, 2, 1]]
    assert inputs.sequence_ids[2].tolist()[3] == [3, 1, 2]


@pytest.mark.parametrize("keep", ["first", "last"])
def test_lists_are_cut_alike(keep):
    inputs = encoded_both_ways(encoders(max_length=2, keep=keep), ROWS)
    assert [lengths.tolist() for lengths in inputs.sequence_lengths] == [[2, 0, 0, 2]] * 3
    item, _, level = inputs.sequence_ids
    place = slice(2) if keep == "first" else slice(-2, None)
    assert item[3].tolist() == [0, 1, 2, 1][place]
    assert level[3].tolist() == [3, -1, 1, 2][place]


def test_bits_are_those_of_float32():
    numbers = np.array([0.0, -0.0, 1.5, -2.25, 1e-45, 1e300, -np.inf])
    limit = np.finfo(np.float32).max
    expected = [0.0, -0.0, 1.5, -2.25, np.float32(1e-45), limit, -limit]
    back = number_ids(numbers).astype(np.uint32).view(np.float32)
    assert back.tolist() == np.array(expected, np.float32).tolist()
    assert number_ids(np.array([np.nan])).tolist() == [-1]


@pytest.mark.parametrize("max_length", [0, 1])
def test_lists_of_unequal_lengths_are_errors(max_length):
    rows = {"item": [["a"], ["a", "b"]], "price": [[1.0], [1.0, 2.0]], "level": [[1], [1, 2, 3]]}
    own = encoders(max_length=max_length)
    message = (
        "row 2: field level, column level: expected 2 elements, as many as field item of the same "
        "sequence clicks, found 3"
    )
    for encode in (own.encode, own.encode_rows):
        with pytest.raises(DataError, match=re.escape(message)):
            encode(pa.table(rows))
    with pytest.raises(NotPlain, match="one sequence"):
        few_rows(own).encode(*plain_columns(rows))


def test_an_error_names_file_and_line(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("item,level\na|b,1|2\na,1|2\n")
    fields = [
        field("item", transform="split(|)"),
        field("level", num_buckets=9, transform="split(|)"),
    ]
    own = DatasetSchema(fields={f.name: f for f in fields}, label_field="y")
    fitted = Encoders.fit(own, pa.table({"item": ["a|b"], "level": ["1|2"]}))
    (rows,) = read_rows([path], delimiter=None, columns=(), encoding="utf-8")
    with pytest.raises(DataError) as error:
        fitted.encode_rows(rows)
    assert str(error.value) == (
        f"{path}:3: field level, column level: expected 1 elements, as many as field item of the "
        "same sequence clicks, found 2"
    )


def test_batches_keep_absent_elements_and_numbers():
    inputs = encoders().encode_rows(pa.table(ROWS)).inputs
    assert all(isinstance(ids, Ragged) for ids in inputs.sequence_ids)
    rows = inputs.select(torch.tensor([3, 0]))
    assert rows.sequence_ids[2].tolist() == [[3, -1, 1, 2], [1, 2, 3, 0]]
    assert rows.sequence_ids[1][1, 2] == -1


def test_encoded_arrays_are_checked():
    lengths, ids = torch.tensor([2, 0]), torch.tensor([[1, 2], [0, 0]])
    numbers = torch.tensor([[0.5, -1.0], [0.0, 0.0]])
    columns = {"item": (ids, lengths), "price": (numbers, lengths), "level": (ids - 1, lengths)}
    known = schema().with_fields({"item": {"vocabulary_size": 3}})
    dataset = TabularDataset.from_arrays(known, columns, torch.zeros(2))
    bits = dataset.inputs.sequence_ids[1]
    assert bits.numpy().astype(np.uint32).view(np.float32).tolist() == numbers.tolist()
    columns["level"] = ids, torch.tensor([2, 1])
    message = "field level: expected 0 elements, as many as field item .* found 1 in row 1"
    with pytest.raises(DataError, match=message):
        TabularDataset.from_arrays(known, columns, torch.zeros(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 3}, "fields item and other are of one sequence, clicks, but have max_len"),
        ({"numbers": True, "num_buckets": 3}, "choose one of num_buckets and numbers"),
        ({"numbers": True, "embedding_name": "item"}, "a sequence of numbers has no table to sha"),
        ({"value_dim": 2, "numbers": True}, "value_dim means nothing for a sequence field"),
    ],
)
def test_unusable_settings_are_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        DatasetSchema(
            fields={"item": field("item"), "other": field("other", **options)}, label_field="y"
        )


@pytest.mark.parametrize("key", ["sequence", "numbers"])
def test_only_sequences_belong_to_one(key):
    value = {"sequence": "clicks", "numbers": True}[key]
    with pytest.raises(ConfigError, match=f"{key} means nothing for a sparse field"):
        FieldSchema("item", FeatureType.SPARSE, **{key: value})
