"""Stores of a shard of the training rows: what they hold, and what they refuse."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from deepfm.cli import main
from deepfm.data.load import load_data
from deepfm.data.shards import refuse_other_shard
from deepfm.data.store import held_rows, opening, part
from deepfm.data.store.held_rows import HeldRows
from deepfm.data.store.shard import Shard
from deepfm.errors import ConfigError, DataError
from deepfm.preparing import prepare_part
from deepfm.utils.workers import ALONE, Workers
from tests.data.store import test_store_histories as histories
from tests.data.store.test_store import config, rows, write_table

SHARDED = {"order": "sharded", "shards": 3}


@pytest.fixture(autouse=True)
def _little_at_once(monkeypatch):
    monkeypatch.setattr(part, "_COPIED_AT_ONCE", 37)
    monkeypatch.setattr(held_rows, "FIRST_ROWS", 15)


def changed(used, **changes):
    return dataclasses.replace(used, data=dataclasses.replace(used.data, **changes))


def of_fields(folder):
    write_table(folder / "a.csv", rows(400))
    return changed(config(folder, data__table__sample_weight="id"), **SHARDED)


def of_histories(folder):
    histories.written(folder, histories.rows(), "random")
    return changed(histories.config(folder), **SHARDED)


def part_of(used, number, shards=3):
    """The data of a host that has a part alone."""
    into = Path(used.data.data_dir) / f"host{number}"
    prepare_part(used, f"{number}/{shards}", into)
    return load_data(changed(used, store_dir=str(into)), may_be_part=True)


def assert_same(batch, expected):
    assert torch.equal(batch.label, expected.label)
    for one, other in zip(
        (*batch.inputs[:2], *batch.inputs[2], *batch.inputs[3]),
        (*expected.inputs[:2], *expected.inputs[2], *expected.inputs[3]),
        strict=True,
    ):
        if one.dim() == 2:  # of a sequence, which is padded to the longest of the rows
            assert not other[:, one.shape[1] :].any()
            other = other[:, : one.shape[1]]
        assert torch.equal(one, other)


@pytest.mark.parametrize("make", [of_fields, of_histories])
@pytest.mark.parametrize("at_once", [True, False], ids=["checked at once", "checked later"])
def test_parts_have_the_rows_of_the_whole(tmp_path, monkeypatch, make, at_once):
    if not at_once:
        monkeypatch.setattr(opening, "CHECKED_AT_ONCE", 0)
    used = make(tmp_path)
    whole = load_data(used)
    count, end = len(whole.train), 0
    for number in range(3):
        found = part_of(used, number)
        assert found.held == HeldRows.of_shard(Shard(number, 3), count)
        assert found.held.start == end
        end = found.held.end
        assert len(found.train) == count
        assert torch.equal(found.train.label, whole.train.label)
        if whole.train.weight is not None:
            assert torch.equal(found.train.weight, whole.train.weight)
        own = torch.arange(found.held.start, end)
        assert_same(found.train[own], whole.train[own])
        assert_same(found.train[found.held.start : end], whole.train[own])
        first = torch.tensor([14, end - 1, 0])
        assert_same(found.train[first], whole.train[first])
        assert_same(found.train[:15], whole.train[:15])
        mask = torch.zeros(count, dtype=torch.bool)
        mask[own[3:8]] = True
        assert_same(found.train[mask], whole.train[own[3:8]])
        for outside in (found.held.start - 1, end):
            if 0 <= outside < count:
                with pytest.raises(DataError, match=f"training row {outside:,} is not here"):
                    found.train[torch.tensor([int(own[0]), outside])]
        assert_same(found.valid[:], whole.valid[:])
        assert_same(found.test[:], whole.test[:])
    assert end == count


@pytest.mark.parametrize(("make", "size"), [(of_fields, 30), (of_histories, 9)])
@pytest.mark.parametrize("drop_last", [False, True])
def test_processes_with_parts_have_the_batches_of_the_whole(tmp_path, make, size, drop_last):
    used = make(tmp_path)
    order = {"seed": 4, "epoch": 1, "drop_last": drop_last}
    whole = list(load_data(used).train.epoch(size, **order).batches())
    for rank in range(6):  # two of each host
        train, workers = part_of(used, rank // 2).train, Workers(rank, 6)
        batches = list(train.epoch(size, **order).batches(part=workers.part))
        assert len(batches) == len(whole) > 5
        for batch, expected in zip(batches, whole, strict=True):
            own = workers.part(len(expected.label))
            assert batch.rows_of_all == len(expected.label)
            if workers.counts(len(expected.label))[rank]:
                assert_same(batch, expected._replace(
                    inputs=expected.inputs.select(own), label=expected.label[own]
                ))  # fmt: skip
            assert len(batch.label) == max(1, own.stop - own.start)


class SeveralWorkers(Workers):
    """Processes that all have what this one has."""

    def texts(self, own):
        return ["", own]


def test_a_host_has_the_shard_of_its_processes():
    held = HeldRows.of_shard(Shard(1, 2), 10)
    refuse_other_shard(None, ALONE)
    for rank in (2, 3):
        refuse_other_shard(held, SeveralWorkers(rank, 4))
    with pytest.raises(DataError, match=r"process 2 of 4 trains on shard 0/2, .* has shard 1/2"):
        refuse_other_shard(held, SeveralWorkers(1, 4))
    with pytest.raises(ConfigError, match=r"data\.shards: .* of 2 shards .* found 3 in all"):
        refuse_other_shard(held, SeveralWorkers(2, 3))
    with pytest.raises(ConfigError, match="found 1 in all"):
        refuse_other_shard(held, ALONE)


def first_row(data):
    return data.train[torch.tensor([data.held.start])]


@pytest.mark.parametrize("at_once", [True, False], ids=["checked at once", "checked later"])
def test_what_is_damaged_is_not_made_again(tmp_path, monkeypatch, at_once):
    used = of_fields(tmp_path)
    part_of(used, 1)
    if not at_once:
        monkeypatch.setattr(opening, "CHECKED_AT_ONCE", 0)
    (path,) = (tmp_path / "host1").glob("*.part1of3")
    content = bytearray((path / "train" / "sparse.bin").read_bytes())
    content[5] ^= 1
    (path / "train" / "sparse.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"sparse\.bin: damaged .*prepare --part .* --into DIR"):
        first_row(part_of(used, 1))
    assert [one.name for one in (tmp_path / "host1").iterdir() if one.is_dir()] == [path.name]


def test_a_damaged_whole_is_not_copied(tmp_path):
    used = of_fields(tmp_path)
    load_data(used)
    (path,) = (tmp_path / "stores").glob("*/train/dense.bin")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"dense\.bin: damaged"):
        prepare_part(used, "2/3", tmp_path / "host2")
    assert list((tmp_path / "host2").iterdir()) == []


def test_other_vocabularies_and_two_parts_are_refused(tmp_path):
    used = of_fields(tmp_path)
    encoders = part_of(used, 0).encoders
    assert load_data(changed(used, store_dir=str(tmp_path / "host0")), encoders, may_be_part=True)
    here = changed(used, store_dir=str(tmp_path / "host0"))
    with pytest.raises(DataError, match="a warm start needs the whole store on each host"):
        load_data(here, base=encoders, may_be_part=True)
    prepare_part(used, "2/3", tmp_path / "host0")
    with pytest.raises(DataError, match=r"expected one shard .*part0of3, .*part2of3; remove"):
        load_data(here, may_be_part=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": "sharded"}, r"data\.shards: order: sharded with 1 shard; set"),
        ({"shards": 2}, r"data\.shards: order: global with 2 shards; set"),
        ({"order": "sharded", "shards": 2, "split_strategy": "leave_one_out"}, r"data\.order: "),
    ],
)
def test_settings_that_contradict_each_other(tmp_path, changes, message):
    histories.written(tmp_path, histories.rows(), "random")
    with pytest.raises(ConfigError, match=message):
        changed(histories.config(tmp_path), **changes)


def test_the_command_and_mistakes_in_it(tmp_path, capsys):
    used = of_fields(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(used.to_dict()))
    command = ["prepare", "--config", str(path)]
    into = str(tmp_path / "host")
    assert main([*command, "--part", "1/3", "--into", into]) == 0
    assert main([*command, "--part", "1/3", "--into", into]) == 0
    assert "data prepared earlier" in capsys.readouterr().out
    for given, problem in [
        (["--part", "1/3"], "--part i/n and --into DIR go together"),
        (["--part", "3/3", "--into", into], "--part: expected i/n"),
        (["--part", "0/3", "--into", used.data.store_dir], "--into: "),
        (["--part", "0/900", "--into", into], "--part: "),
        (["--part", "0/3", "--into", into, "--merge"], "expected one of --merge and --part"),
    ]:
        assert main([*command, *given]) == 2
        error = capsys.readouterr().err
        assert problem in error
        assert "Traceback" not in error
    for override, problem in [
        ("training.batch_size=64", "data.shards: each batch has equal parts"),
        ("training.shuffle=false", "data.order: sharded is a way to shuffle"),
    ]:
        given = ["--override", override, "--override", f"output_dir={tmp_path / 'no'}"]
        assert main(["train", "--config", str(path), *given]) == 2
        assert problem in capsys.readouterr().err
