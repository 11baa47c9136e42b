"""Stores made by shards that share a directory only."""

import dataclasses
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest

from deepfm.cli import main
from deepfm.data.splits import SPLITS
from deepfm.data.store import stream
from deepfm.data.store.cluster import Shard
from deepfm.errors import ConfigError, DataError
from deepfm.preparing import merge_shards, prepare_data, prepare_shard
from tests.data.store import test_store_histories as histories
from tests.data.store.test_shares import CITY, MORE, quoted
from tests.data.store.test_store import FIELDS, config, rows, write_table
from tests.data.test_extensions import EveryFourth


@pytest.fixture(autouse=True)
def _little_at_once(monkeypatch):
    monkeypatch.setattr(stream, "BLOCK_SIZE", 3000)


@pytest.fixture
def folder(tmp_path):
    """700 rows in a file with quoted newlines, and one of row groups."""
    table = rows(700)
    (tmp_path / "a.csv").write_bytes(quoted(table.slice(0, 400)))
    pa_file = tmp_path / "b.parquet"
    pyarrow.parquet.write_table(table.slice(400), pa_file, row_group_size=40)
    return tmp_path


def elsewhere(used, name: str):
    """The same config with another folder of stores."""
    store_dir = str(Path(used.data.store_dir) / name)
    return dataclasses.replace(used, data=dataclasses.replace(used.data, store_dir=store_dir))


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*.*")}


def shards_of(used) -> list[str]:
    """What the shards have made, by the names of the folders."""
    return sorted(one.name for one in Path(used.data.store_dir).glob(".*.of*/*") if one.is_dir())


def run(used, count: int, order=sorted) -> int:
    """Call all shards until they have nothing left to do; how often."""
    for calls in range(9):
        before = shards_of(used)
        for number in order(range(count)):
            prepare_shard(used, f"{number}/{count}")
        if shards_of(used) == before:
            return calls
    raise AssertionError("there is no end")


def check(used, count: int, calls: int) -> None:
    expected = files(prepare_data(elsewhere(used, "plain")))
    shared = elsewhere(used, "shared")
    assert run(shared, count, order=lambda numbers: sorted(numbers, reverse=True)) == calls
    found = files(merge_shards(shared))
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert shards_of(shared) == []
    assert merge_shards(shared) == prepare_data(shared)  # it is there


def test_shards_make_the_store_that_prepare_makes(folder):
    used = config(
        folder, data__table__files=["a.csv", "b.parquet"], data__table__fields=FIELDS | MORE
    )
    check(used, 3, calls=4)  # quoted blank lines have to be counted


def test_a_split_that_looks_first_takes_a_step_more(tmp_path):
    write_table(tmp_path / "a.csv", rows(300))
    check(config(tmp_path, data__stratify=True, data__table__fields=CITY), 2, calls=4)
    by_time = {"data__split_strategy": "time", "data__table__time_column": "when"}
    check(config(tmp_path, **by_time, data__table__fields=CITY), 2, calls=4)


def test_declared_ids_take_a_step_less(tmp_path):
    write_table(tmp_path / "a.csv", rows(300))
    used = config(tmp_path, data__table__fields={"id": {"type": "sparse", "hash_buckets": 9}})
    check(used, 2, calls=2)


def test_histories(tmp_path):
    histories.written(tmp_path, histories.rows(), "random")
    check(histories.config(tmp_path, "random"), 3, calls=3)


def test_a_shard_that_has_not_run_is_named(folder):
    used = config(folder, data__table__files="b.parquet", data__table__fields=CITY)
    for number in (0, 2):
        prepare_shard(used, f"{number}/3")
    message = r"step scan is not done by shard 1/3: run `deepfm prepare --shard 1/3`"
    with pytest.raises(DataError, match=message):
        prepare_shard(used, "0/3")
    with pytest.raises(DataError, match=message):
        merge_shards(used)
    prepare_shard(used, "1/3")
    prepare_shard(used, "0/3")
    assert shards_of(used) == ["learn0", "scan0", "scan1", "scan2"]


def test_what_is_damaged_is_named_and_made_again(folder):
    used = config(folder, data__table__files="b.parquet", data__table__fields=CITY)
    run(used, 2)
    (made,) = Path(used.data.store_dir).glob(".*.of2")
    path = made / "encode1" / "arrays" / "train" / "row.bin"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"encode1: damaged \(another checksum\); remove it and"):
        merge_shards(used)
    (made / "encode1" / "result.json").unlink()
    with pytest.raises(DataError, match=r"encode1: damaged \(.*No such file"):
        merge_shards(used)
    shutil.rmtree(made / "encode1")
    prepare_shard(used, "1/2")
    assert files(merge_shards(used)) == files(prepare_data(elsewhere(used, "plain")))


def test_shards_of_other_settings_or_rows_are_no_part_of_it(folder):
    used = config(folder, data__table__files="b.parquet", data__table__fields=CITY)
    run(used, 2)
    other = config(folder, data__table__files="b.parquet", data__table__fields=FIELDS)
    with pytest.raises(DataError, match=r"expected the shards of these files .*, found none"):
        merge_shards(other)
    prepare_shard(used, "0/3")
    with pytest.raises(DataError, match=r"in one folder, .*found .*\.of2, .*\.of3"):
        merge_shards(used)


def test_no_training_row_is_an_error_of_the_shard_that_fits(tmp_path):
    write_table(tmp_path / "a.csv", rows(40))
    used = config(tmp_path, data__table__fields=CITY, data__split_fractions=[1e-9, 1 - 1e-9, 0])
    for _ in range(2):
        for number in range(2):
            prepare_shard(used, f"{number}/2")
    with pytest.raises(DataError, match="the training split is empty"):
        prepare_shard(used, "0/2")


def test_the_command_line(tmp_path, capsys, monkeypatch):
    write_table(tmp_path / "a.csv", rows(60))
    text = (
        f"data:\n  dataset_name: tabular\n  data_dir: {tmp_path}\n  split_strategy: random\n"
        "  table: {files: a.csv, label: label, fields: {city: {type: sparse}}}\n"
    )
    (tmp_path / "config.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    command = ["prepare", "--config", "config.yaml"]
    for _ in range(3):
        for number in range(2):
            assert main([*command, "--shard", f"{number}/2"]) == 0
    out = capsys.readouterr().out
    assert "shard 1/2 has done the step learn; when all have, run all shards again" in out
    assert "shard 1/2 has done the step encode; when all have, run prepare --merge" in out
    assert main([*command, "--merge"]) == 0
    assert main([*command, "--shard", "0/2"]) == 0
    assert capsys.readouterr().out.count("data prepared earlier") == 1
    for wrong in (["--shard", "2/2"], ["--shard", "half"], ["--merge", "--workers", "2"]):
        assert main([*command, *wrong]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0] == "error: --shard: expected i/n with i from 0 to n - 1, found '2/2'"
    assert errors[2] == "error: expected one of --merge and --workers"


def test_rows_that_have_to_come_in_order_are_not_shared(tmp_path, monkeypatch):
    monkeypatch.setitem(SPLITS, EveryFourth.name, EveryFourth)
    write_table(tmp_path / "a.csv", rows(60))
    used = config(tmp_path, data__split_strategy=EveryFourth.name)
    with pytest.raises(ConfigError, match="every_fourth goes through all rows in their order"):
        prepare_shard(used, "0/2")


def test_a_shard_is_a_number_below_another():
    assert Shard.from_text("0/1") == (0, 1)
    for text in ("1", "1/1", "-1/2", "a/b", "1/2/3", ""):
        with pytest.raises(ConfigError):
            Shard.from_text(text)
