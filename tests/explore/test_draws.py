"""Rows that stand in for those of an explained one: of training, or what is left without data."""

import shutil
from dataclasses import replace

import pytest
import torch

from deepfm.config import load_config
from deepfm.data.load import load_data
from deepfm.errors import ConfigError, DataError
from deepfm.explanation import features_of
from deepfm.explore.draws import COUNT, draws_of
from deepfm.explore.examples import example_rows
from deepfm.several import load_several
from tests import clicks, tiny


def rows_of(inputs):
    """Encoded rows as tuples, without what pads them."""
    lists = [
        [tuple(ids[:length]) for ids, length in zip(of.tolist(), lengths.tolist(), strict=True)]
        for of, lengths in zip(inputs.padded_ids, inputs.sequence_lengths, strict=True)
    ]
    return list(zip(inputs.sparse.tolist(), inputs.dense.tolist(), *lists, strict=True))


def elsewhere(checkpoint, folder):
    """The checkpoint, as if its data had been in this folder."""
    data = replace(checkpoint.config.data, data_dir=str(folder))
    return replace(checkpoint, config=replace(checkpoint.config, data=data))


def test_draws_are_training_rows(ranking, tiny_adapter):
    (checkpoint,) = load_several(ranking)
    found = draws_of(checkpoint)
    train = load_data(checkpoint.config, checkpoint.encoders).train
    everything = rows_of(train.inputs.select(slice(None)))
    assert found.inputs.num_rows == COUNT < len(train)
    assert all(row in everything for row in rows_of(found.inputs))
    assert found.features == tuple(features_of(train.schema))
    assert found.source == (
        f"256 of {len(train):,} rows of the training split, without sampled negatives"
    )
    again = draws_of(checkpoint)
    assert torch.equal(found.inputs.sparse, again.inputs.sparse)


def test_data_that_has_changed_is_named(tmp_path, caplog):
    (checkpoint,) = load_several(clicks.trained(tmp_path))
    clicks.write_rows(tmp_path, seed=1)
    found = draws_of(checkpoint)
    assert "of data that is not what the model was trained on" in found.source
    assert "rows.csv: its content is not what the run began with" in caplog.text


def test_without_the_data_pairs_of_users_and_items_stand_in(
    tmp_path, tiny_adapter, ranking, caplog
):
    (checkpoint,) = load_several(ranking)
    checkpoint = elsewhere(checkpoint, tmp_path / "gone")
    found = draws_of(checkpoint)
    assert "no training rows" in found.source
    assert "--config says where they are" in caplog.text
    assert "gone is not there" in caplog.text
    schema = checkpoint.encoders.schema
    assert found.features == tuple(features_of(schema))
    users = set(checkpoint.encoders.encode(checkpoint.users, "user").sparse[:, 0].tolist())
    assert set(found.inputs.sparse[:, 0].tolist()) <= users
    assert int(found.inputs.sequence_lengths[-1].max()) > 0  # histories are there


def test_without_the_data_of_a_table_categories_stand_in(table, tmp_path, caplog):
    (checkpoint,) = load_several(table)
    checkpoint = elsewhere(checkpoint, tmp_path)
    found = draws_of(checkpoint)
    assert "no training rows" in found.source
    assert found.features == ("user", "color")  # `size` is a number
    colors = found.inputs.sparse[:, 1]
    assert set(colors.tolist()) == set(
        range(1, checkpoint.encoders.schema.fields["color"].vocabulary_size)
    )


def test_another_config_says_where_the_data_is(table, tmp_path):
    (checkpoint,) = load_several(table)
    with pytest.raises(DataError, match="no such file"):
        draws_of(checkpoint, clicks.config(tmp_path))
    shutil.copy(table.parents[1] / "rows.csv", tmp_path)
    moved = draws_of(checkpoint, clicks.config(tmp_path))
    assert rows_of(moved.inputs) == rows_of(draws_of(checkpoint).inputs)
    with pytest.raises(ConfigError, match="may change data paths and evaluation only"):
        draws_of(checkpoint, clicks.config(tmp_path, dnn__hidden_units=[9]))


def test_nothing_is_downloaded(monkeypatch, tmp_path, tiny_adapter, ranking):
    asked = []

    def load(data_dir, auto_download):
        asked.append(auto_download)
        return tiny.load(data_dir, auto_download)

    monkeypatch.setattr("deepfm.data.ADAPTERS", {"tiny": _with(load)})
    (checkpoint,) = load_several(ranking)
    assert load_config(tiny.write_config(tmp_path)).data.auto_download
    draws_of(checkpoint)
    assert asked == [False]


def _with(load):
    class Adapter:
        schema = staticmethod(tiny.schema)

    Adapter.load = staticmethod(load)
    return Adapter


def test_examples_are_rows_of_the_table_as_typed(table, tmp_path):
    (checkpoint,) = load_several(table)
    found = example_rows(checkpoint.config)
    lines = (table.parents[1] / "rows.csv").read_text().splitlines()
    first = dict(zip(lines[0].replace('"', "").split(","), lines[1].split(","), strict=True))
    assert len(found) == 50
    assert found[0]["color"] == first["color"].strip('"')
    assert float(found[0]["size"]) == float(first["size"])
    checkpoint = elsewhere(checkpoint, tmp_path)
    assert example_rows(checkpoint.config) == []
