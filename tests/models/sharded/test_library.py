"""Sharded tables without the library that they need."""

import sys

import pytest

from deepfm.config import config_from_dict
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.errors import ConfigError
from deepfm.models import build_model, count_parameters
from deepfm.models.sharded.library import import_torchrec

SCHEMA = DatasetSchema(
    fields={"city": FieldSchema(name="city", feature_type="sparse", vocabulary_size=10)},
    label_field="click",
)


@pytest.fixture
def not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchrec", None)
    import_torchrec.cache_clear()
    yield
    import_torchrec.cache_clear()


def test_one_line_says_what_to_install(not_installed):
    config = config_from_dict({"feature": {"storage": "torchrec"}})
    with pytest.raises(ConfigError, match="make install-torchrec") as found:
        build_model(SCHEMA, config)
    assert str(found.value).startswith("feature.storage: ")
    assert "\n" not in str(found.value)


def test_weights_are_counted_without_it(not_installed):
    packed, sharded = (
        count_parameters(SCHEMA, config_from_dict({"feature": {"storage": storage}}))
        for storage in ("packed", "torchrec")
    )
    assert packed == sharded
