"""Checkpoints and the run directory: whole or absent, plain data only, never harmed."""

import builtins
import dataclasses
import errno
import os
import pickle
import random

import numpy as np
import pyarrow as pa
import pytest
import torch

from deepfm import experiment
from deepfm.checkpoint import RunDirectory, load_checkpoint
from deepfm.config import load_config
from deepfm.errors import CheckpointError, ConfigError, DataError, DeepFMError
from deepfm.utils.io import table_to_tensor


@pytest.fixture
def run(tiny_config):
    """A finished run of one epoch."""
    config = load_config(tiny_config(training__epochs=1))
    experiment.train(config)
    return RunDirectory(config.output_dir)


def test_a_checkpoint_reads_back_what_was_saved(run):
    checkpoint = load_checkpoint(run.best)
    config = load_config(run.config)
    assert checkpoint.config == config
    assert checkpoint.training is None
    assert load_checkpoint(run.last).training["epoch"] == 1
    data = experiment.load_data(config)
    assert checkpoint.encoders.schema == data.encoders.schema
    assert checkpoint.users.equals(data.events.tables.users)
    assert checkpoint.items.equals(data.events.tables.items)
    np.testing.assert_array_equal(checkpoint.history.pairs, data.history.pairs)


class Evil:
    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return (builtins.open, (self.canary, "w"))


@pytest.mark.parametrize("how", ["inside a checkpoint", "a bare pickle"])
def test_a_checkpoint_that_carries_code_is_refused_and_nothing_runs(run, tmp_path, how):
    canary, path = tmp_path / "canary", tmp_path / "evil.pt"
    if how == "a bare pickle":
        path.write_bytes(pickle.dumps(Evil(canary)))
        message = r"evil\.pt: not a checkpoint"
    else:
        content = torch.load(run.best, weights_only=True)
        torch.save(content | {"config": Evil(canary)}, path)
        message = r"evil\.pt: refused: .*carries code"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)
    assert not canary.exists()


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(run, tmp_path, kept):
    whole = run.best.read_bytes()
    path = tmp_path / "cut.pt"
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(len(whole) * kept)])
    with pytest.raises(CheckpointError, match=r"cut\.pt"):
        load_checkpoint(path)


def test_damaged_bytes_load_or_are_refused_but_never_crash(run, tmp_path):
    whole, rng = bytearray(run.best.read_bytes()), random.Random(0)
    path = tmp_path / "damaged.pt"
    messages = []
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.choices(range(len(whole)), k=20):
            damaged[place] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 140
    assert all("damaged.pt: " in message for message in messages)


def test_a_text_is_no_checkpoint(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("user_id,movie_id\n196,242\n")
    with pytest.raises(CheckpointError, match=r"rows\.csv: not a checkpoint of deepfm"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "something"}, "not a checkpoint of deepfm"),
        ({"format_version": 3}, "checkpoint format 3, this release reads 1 and 2; update"),
        ({"users": None}, "damaged: TypeError"),  # the history counts its users
        ({"users": 3}, "damaged: OSError"),
        ({"encoders": {}}, "damaged: KeyError"),
        ({"config": {"modelname": "x"}}, "damaged: ConfigError: unknown key 'modelname'"),
        ({"users": torch.zeros(64, dtype=torch.uint8)}, "damaged"),
    ],
)
def test_other_content_is_refused(run, tmp_path, change, message):
    path = tmp_path / "other.pt"
    torch.save(torch.load(run.best, weights_only=True) | change, path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def _in_scaler(**values):
    return lambda content: content["encoders"]["fitted"]["income"].update(values)


def _scale_of_a_label(scale):
    return lambda content: content["encoders"]["schema"].update(label_scales={"x": scale})


def _in_model(**values):
    return lambda content: content["model"].update(values)


def _vocabulary(values):
    tensor = table_to_tensor(pa.table({"value": values}))
    return lambda content: content["encoders"]["fitted"]["user"].update(vocabulary=tensor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(model=None), "expected weights by name, found None"),
        (lambda content: content.update(model=[1]), r"expected weights by name, found \[1\]"),
        (lambda content: content.update(training="x"), "the state of training is no mapping"),
        (_in_model(bias="x"), "expected a weight, found 'x' as 'bias'"),
        (_in_model(bias=torch.tensor(float("nan"))), "bias has a weight that is NaN or infinite"),
        (_in_model(bias=torch.tensor(float("inf"))), "bias has a weight that is NaN or infinite"),
        (_in_scaler(low="x"), "damaged: "),
        (_in_scaler(high=[1]), "damaged: "),
        (_in_scaler(scale=3), "damaged: "),
        (_in_scaler(low=float("nan")), "damaged: ValueError: the encoder of income gives"),
        (_in_scaler(mean=[3.0, 1.0]), "damaged: "),
        (_in_scaler(edges=[3.0, 1.0]), "damaged: ValueError: edges are no rising numbers"),
        (_in_scaler(edges=["a", "b"]), "damaged: "),
        (_scale_of_a_label(["a", "b"]), "damaged: "),
        (_scale_of_a_label([float("nan"), 1.0]), "damaged: ValueError: a label's scale is no mean"),
        (_scale_of_a_label([0.0, -1.0]), "damaged: ValueError: a label's scale is no mean"),
        (_vocabulary([[1], [2]]), "damaged: "),
        (_vocabulary([{"a": 1}]), "damaged: "),
        (_vocabulary(pa.nulls(2)), "damaged: "),
        (lambda content: content["encoders"].update(fitted=None), "damaged: "),
    ],
)
def test_crafted_content_is_one_line_when_it_is_loaded(run, tmp_path, change, message):
    path = tmp_path / "crafted.pt"
    content = torch.load(run.best, weights_only=True)
    change(content)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


def test_weights_whose_sum_alone_is_infinite_are_loaded(run, tmp_path):
    content = torch.load(run.best, weights_only=True)
    name = next(name for name, weight in content["model"].items() if weight.numel() > 3)
    content["model"][name] = torch.full_like(content["model"][name], 3e38)
    torch.save(content, tmp_path / "large.pt")
    assert load_checkpoint(tmp_path / "large.pt").model[name].min() > 1e38


@pytest.mark.parametrize("units", [[60000, 60000], [10**9, 10**9], [10**18]])
def test_a_config_of_larger_layers_than_the_weights_allocates_nothing(run, tmp_path, units):
    content = torch.load(run.best, weights_only=True)
    content["config"]["dnn"]["hidden_units"] = units
    torch.save(content, tmp_path / "large.pt")
    with pytest.raises(CheckpointError, match=r"do not fit the|cannot be built"):
        load_checkpoint(tmp_path / "large.pt").build_model()


def test_data_without_users_items_and_history_is_kept(run, tmp_path):
    path = tmp_path / "none.pt"
    checkpoint = load_checkpoint(run.best)
    dataclasses.replace(checkpoint, users=None, items=None, history=None).save(path)
    loaded = load_checkpoint(path)
    assert (loaded.users, loaded.items, loaded.history) == (None, None, None)
    assert loaded.encoders.schema == checkpoint.encoders.schema


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pt: cannot be read: No such file"):
        load_checkpoint(tmp_path / "none.pt")


def test_weights_of_another_schema_are_refused(run, tmp_path):
    content = torch.load(run.best, weights_only=True)
    content["model"]["embedding.tables.user.weight"] = torch.zeros(3, 8)
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="do not fit the checkpoint's schema"):
        load_checkpoint(tmp_path / "other.pt").build_model()


@pytest.mark.parametrize("call", ["save", "fsync", "replace"])
@pytest.mark.parametrize("number", [1, 2, 3, 5, 8, 12])
def test_a_failing_disk_harms_nothing_and_the_run_goes_on(tiny_config, monkeypatch, call, number):
    """The n-th write, sync or rename fails; what stands loads, and --resume ends the same."""
    config = load_config(tiny_config(training__epochs=2, training__checkpoint_every_steps=4))
    expected = experiment.train(
        dataclasses.replace(config, output_dir=config.output_dir + "_whole")
    )
    run, count = RunDirectory(config.output_dir), 0
    module = torch if call == "save" else os
    real = getattr(module, call)

    def failing(*arguments, **keywords):
        nonlocal count
        count += 1
        if count == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(module, call, failing)
        try:
            experiment.train(config)
            failure = None
        except DeepFMError as error:
            failure = error
    if failure is None:  # only the sync of a directory may fail without consequence
        assert count < number or call == "fsync"
    else:
        assert "No space left on device" in str(failure)
        assert failure.exit_code == 1
    for path in (run.best, run.last):
        if path.exists():
            load_checkpoint(path).build_model()
    assert not list(run.path.glob(".*.tmp"))
    assert experiment.train(config, resume=True) == expected


def test_a_directory_that_holds_a_run_is_kept(run):
    config = load_config(run.config)
    before = {path: path.read_bytes() for path in run.files if path.exists()}
    with pytest.raises(ConfigError, match="holds a run already; --resume continues it"):
        experiment.train(config)
    assert {path: path.read_bytes() for path in before} == before


def test_overwriting_begins_only_when_the_data_is_there(run, tiny_config):
    before = [path for path in run.files if path.exists()]
    broken = load_config(tiny_config(data__data_dir="nowhere"))
    with pytest.raises(DataError, match="nowhere is not there"):
        experiment.train(broken, overwrite=True)
    assert all(path.exists() for path in before)
    assert run.last in before


def test_resume_refuses_another_config_but_for_epochs(run, tiny_config):
    other = load_config(tiny_config(training__lr=0.5))
    with pytest.raises(ConfigError, match=r"changed: training\.lr \(0\.01 -> 0\.5\)$"):
        experiment.train(other, resume=True)
    longer = load_config(tiny_config(training__epochs=2))
    experiment.train(longer, resume=True)
    assert len(run.history.read_text().splitlines()) == 2
    assert load_config(run.config).training.epochs == 2


def test_a_read_only_place_is_one_line(tiny_config, tmp_path):
    (tmp_path / "file").write_text("")
    config = load_config(tiny_config(output_dir=str(tmp_path / "file" / "run")))
    with pytest.raises(DeepFMError, match="cannot be written: Not a directory"):
        experiment.train(config)
