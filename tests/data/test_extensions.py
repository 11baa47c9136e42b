"""A split, a transform, a scale, a kind of encoder: one class and one line in a registry each."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from deepfm.config import config_from_dict
from deepfm.data.encoding import registry, scales, transforms
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.ids import DeclaredEncoder
from deepfm.data.encoding.kinds import Encoder
from deepfm.data.encoding.scales import Scale
from deepfm.data.encoding.transforms import Numeric, find_transform
from deepfm.data.load import load_data
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.data.splits import SPLITS, Placed, RankingSplit, Splits, StreamedSplit


class EveryFourth(StreamedSplit):
    """Rows validate in turn."""

    name = "every_fourth"

    @classmethod
    def settings(cls, options):
        return [cls.name]

    def divide(self, rows):
        return Placed((rows.numbers % 4 == 3).astype(np.int64))

    def split_names(self, roles):
        return ("train", "valid")


class FirstOfEach(RankingSplit):
    """Each user's first row tests, the second validates."""

    name = "first_of_each"
    needs = ("user_field", "item_field", "time_column")

    @classmethod
    def divide(cls, rows, options):
        ranks = np.zeros(len(rows.user), int)
        for one in np.unique(rows.user):
            own = np.flatnonzero(rows.user == one)
            ranks[own[np.argsort(rows.time[own], kind="stable")]] = np.arange(len(own))
        return Splits(
            *(np.flatnonzero(is_chosen) for is_chosen in (ranks > 1, ranks == 1, ranks < 1))
        )


class Halved(Numeric):
    name = "halved"

    def function(self, numbers):
        return numbers / 2


class Tenth(Scale):
    """x / 10."""

    name = "tenth"

    def scaled(self, numbers, figures):
        return numbers / 10


class Parity(DeclaredEncoder):
    """Whether a number is odd: declared by `num_buckets: 2` for the sake of this test."""

    kind = "parity"
    key = "num_buckets"
    reads = "number"

    @classmethod
    def chosen_by(cls, field):
        return field.num_buckets == 2

    @classmethod
    def of(cls, field):
        return cls()

    @classmethod
    def declared_rows(cls, field):
        return 3

    @property
    def vocabulary_size(self):
        return 3

    def encode(self, values):
        return np.where(np.isnan(values), 0, 1 + values % 2).astype(np.int64)

    def grown_from(self, base):
        return self

    def to_dict(self):
        return {}

    @classmethod
    def from_dict(cls, stored):
        return cls()


@pytest.fixture
def rows(tmp_path):
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "user": np.repeat(np.arange(20), 5),
            "item": np.tile(np.arange(10), 10),
            "time": np.arange(100)[::-1],
            "label": rng.integers(0, 2, 100),
            "bought": rng.integers(0, 2, 100),
        }
    )
    pa.csv.write_csv(table, tmp_path / "rows.csv")
    return tmp_path


def config(folder, split, **table):
    fields = {name: {"type": "sparse", "group": name} for name in ("user", "item")}
    table = {"files": ["rows.csv"], "label": "label", "fields": fields} | table
    data = {"dataset_name": "tabular", "data_dir": str(folder), "split_strategy": split}
    stores = {"store_dir": str(folder / "stores"), "num_neg_eval": 3, "label_threshold": 1}
    return config_from_dict({"data": data | stores | {"table": table}})


def test_a_streaming_split(rows, monkeypatch):
    monkeypatch.setitem(SPLITS, EveryFourth.name, EveryFourth)
    found = load_data(config(rows, "every_fourth"))
    assert found.valid.row.tolist() == list(range(3, 100, 4))
    assert found.test is None


def test_a_ranking_split(rows, monkeypatch):
    monkeypatch.setitem(SPLITS, FirstOfEach.name, FirstOfEach)
    sides = {"user_field": "user", "item_field": "item", "time_column": "time"}
    found = load_data(config(rows, "first_of_each", **sides))
    assert found.test.row.tolist() == list(range(4, 100, 5))  # times fall
    assert found.valid.ranking is not None


def test_a_transform(monkeypatch):
    monkeypatch.setitem(transforms.TRANSFORMS, Halved.name, Halved)
    assert find_transform("halved()")(pa.array(["3", None])).values.to_pylist() == [1.5, None]


def test_a_scale(monkeypatch):
    monkeypatch.setitem(scales.SCALES, Tenth.name, Tenth())
    field = FieldSchema("x", FeatureType.DENSE, scale="tenth")
    schema = DatasetSchema(fields={"x": field}, label_field="label")
    table = pa.table({"x": [5.0, 20.0]})
    assert Encoders.fit(schema, table).encode(table).dense.tolist() == [[0.5], [2.0]]


def test_a_kind_of_encoder(monkeypatch):
    kinds: tuple[type[Encoder], ...] = (*registry.ID_ENCODERS, Parity)
    monkeypatch.setattr(registry, "ID_ENCODERS", kinds)
    field = FieldSchema("x", FeatureType.SPARSE, num_buckets=2)
    encoders = Encoders.fit(DatasetSchema(fields={"x": field}, label_field="label"), ())
    table = pa.table({"x": ["3", "8", None]})
    assert encoders.encode(table).sparse.tolist() == [[2], [1], [0]]
    again = Encoders.from_dict(encoders.to_dict())
    assert again.schema.fields["x"].vocabulary_size == 3


def test_several_labels_go_through_the_store(rows):
    table = pa.csv.read_csv(rows / "rows.csv")
    raw = {
        "data": {
            "dataset_name": "tabular",
            "data_dir": str(rows),
            "store_dir": str(rows / "stores"),
            "split_strategy": "random",
            "stratify": True,
            "table": {
                "files": ["rows.csv"],
                "fields": {"item": {"type": "sparse"}},
                "labels": {"buy": {"column": "bought"}},
            },
        },
        "tasks": {"click": {"label": "label"}, "buy": {"label": "buy"}},
    }
    raw["training"] = {"metric": "click.auc"}
    found = load_data(config_from_dict(raw))
    assert found.train.schema.label_columns == ("label", "buy")
    for split in (found.train, found.valid):
        expected = np.column_stack([table["label"], table["bought"]])[split.row]
        np.testing.assert_array_equal(split[:].label, expected)
