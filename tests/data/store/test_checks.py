"""Checksums of stores: every changed bit is noticed before a row of its block is used."""

import os

import numpy as np
import pytest
import torch

from deepfm import experiment, preparing
from deepfm.cli import main
from deepfm.data.sources import tabular
from deepfm.data.store import opening, prepare, sums
from deepfm.data.store.checks import BlockChecks
from deepfm.data.store.damage import DamagedStore
from deepfm.data.store.opening import open_store
from deepfm.data.store.sums import BlockSums, digest_of
from deepfm.errors import DataError
from tests.data.store.test_store import FIELDS, config, made, rows, write_table


@pytest.fixture
def folder(tmp_path):
    write_table(tmp_path / "rows.csv", rows(600))
    return tmp_path


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 256 bytes, compared as they are read."""
    monkeypatch.setattr(sums, "BLOCK", 256)
    monkeypatch.setattr(opening, "CHECKED_AT_ONCE", 0)


def flip(path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def assert_equal_rows(found, expected, index) -> None:
    for one, other in zip(found[index].inputs[:4], expected[index].inputs[:4], strict=True):
        pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
        assert all(torch.equal(left, right) for left, right in pairs)
    assert torch.equal(found[index].label, expected[index].label)


def whole_ids(folder, **changes):
    """A config with a sequence that is never cut, which is stored as ragged ids."""
    fields = FIELDS | {"all": {"type": "sequence", "column": "tags", "separator": "|"}}
    return config(folder, data__table__fields=fields, **changes)


def opened(used, path):
    return open_store(path, used.data, tabular.schema(used.data.table))


def test_every_file_of_a_store_is_checked_when_it_is_opened(folder):
    used = whole_ids(folder, data__table__group_columns=["city"])
    found = made(used)
    files = [path for path in found.path.rglob("*") if path.is_file() and path.stat().st_size]
    assert {"encoders.npz", "manifest.json", "label.bin", "sequence2_starts.sums"} <= {
        path.name for path in files
    }
    for path in files:
        before = path.read_bytes()
        for place in (0, len(before) // 2, len(before) - 1):
            flip(path, place)
            if path.name == "manifest.json" and place == len(before) - 1:  # the last end of line
                path.write_bytes(before)
                continue
            with pytest.raises(DamagedStore, match=f"{path.name}: .*deepfm prepare --verify"):
                opened(used, found.path)
            path.write_bytes(before)
        os.truncate(path, len(before) - 1)
        if path.name != "manifest.json":
            with pytest.raises(DamagedStore, match=f"{path.name}: "):
                opened(used, found.path)
        path.write_bytes(before)
    for part in found.parts:
        assert_equal_rows(opened(used, found.path).parts[part], found.parts[part], slice(None))


def test_zeros_in_a_store_make_it_anew_with_a_warning(folder, caplog):
    used = config(folder)
    expected = experiment.train(used)
    (path,) = (p for p in (folder / "stores").iterdir() if p.is_dir())
    for name in ("train/label.bin", "train/sparse.bin", "encoders.npz", "manifest.json"):
        size = (path / name).stat().st_size
        (path / name).write_bytes(bytes(size))
        caplog.clear()
        assert experiment.train(used, overwrite=True) == expected
        assert caplog.text.count("it is made again now") == 1
        assert name in caplog.text
    assert [p for p in (folder / "stores").iterdir() if p.is_dir()] == [path]


def test_rows_that_are_written_while_they_are_read_make_no_store(folder, monkeypatch):
    used, real = config(folder), prepare.build

    def build(*arguments):
        made = real(*arguments)
        with (folder / "rows.csv").open("a") as file:
            file.write((folder / "rows.csv").read_text().splitlines()[-1] + "\n")
        return made

    monkeypatch.setattr(prepare, "build", build)
    with pytest.raises(DataError, match=r"rows\.csv: changed while it was read; start again"):
        preparing.prepare_data(used)
    assert not [path for path in (folder / "stores").iterdir() if path.is_dir()]
    monkeypatch.undo()
    assert sum(made(used).summary["rows"].values()) > 500


def test_prepare_verify_says_what_it_found_and_mends_it(folder, capsys):
    used = config(folder)
    preparing.prepare_data(used)
    (path,) = (p for p in (folder / "stores").iterdir() if p.is_dir())
    experiment.RunDirectory(used.output_dir).prepare(used, keep=False)
    arguments = ["prepare", "--config", str(folder / "run" / "config.yaml"), "--verify"]
    capsys.readouterr()
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "all checksums agree, of 0." in printed.out
    assert printed.err == ""
    flip(path / "test" / "dense.bin", 77)
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "all checksums agree" in printed.out
    assert printed.err.splitlines()[0].startswith(f"warning: {path}/test/dense.bin: damaged (rows")
    assert main(arguments) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["sparse", "dense", "sequence0_ids", "sequence2_ids"])
def test_a_block_is_compared_before_its_rows_are_given(folder, small_blocks, name):
    used = whole_ids(folder)
    found = made(used)
    shape = found.parts["train"].inputs
    path = found.path / "train" / f"{name}.bin"
    row = 400
    if name == "sequence2_ids":
        ids = shape.sequence_ids[2]
        while not ids.lengths[row]:
            row += 1
        place = int(ids.starts[row]) * 4
    else:
        place = row * (path.stat().st_size // len(found.parts["train"]))
    flip(path, place)
    part = opened(used, found.path).parts["train"]
    part[torch.arange(10)]
    part[5]
    part[20:30]
    for index in (torch.tensor([3, row]), row, slice(row - 1, row + 1), -len(part) + row):
        with pytest.raises(DamagedStore, match=rf"{name}\.bin: damaged \(rows"):
            part[index]
    with pytest.raises(DamagedStore, match=rf"{name}\.bin: damaged"):
        part[torch.arange(len(part)) == row]


def test_labels_are_compared_at_once_and_full_compares_all(folder, small_blocks):
    used = config(folder)
    found = made(used)
    flip(found.path / "train" / "sparse.bin", 5)
    opened(used, found.path)
    with pytest.raises(DamagedStore, match=r"sparse\.bin"):
        opened(config(folder, data__verify="full"), found.path)
    flip(found.path / "train" / "label.bin", 5)
    with pytest.raises(DamagedStore, match=r"label\.bin"):
        opened(used, found.path)


def test_rows_are_the_same_whenever_they_are_compared(folder, monkeypatch):
    used = whole_ids(folder)
    expected = made(used).parts["train"]
    monkeypatch.setattr(opening, "CHECKED_AT_ONCE", 0)
    found = opened(used, made(used).path).parts["train"]
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(found)))
    for index in (order[:50], order[50:], slice(3, 90, 7), 11, slice(None)):
        assert_equal_rows(found, expected, index)


def test_sums_of_blocks_do_not_depend_on_how_they_were_written():
    data = np.random.default_rng(0).integers(0, 256, 1000, np.uint8)
    whole = BlockSums(96)
    whole.update(memoryview(data))
    parts = BlockSums(96)
    for start in range(0, 1000, 37):
        parts.update(memoryview(data[start : start + 37]))
    assert len(whole.end()) == 8 * 11
    assert parts.end() == whole.end()
    assert BlockSums(96).end() == b""


def test_a_list_over_many_blocks_is_compared_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(sums, "BLOCK", 64)  # 16 elements
    values = np.arange(1000, dtype=np.int32)
    written = BlockSums(64)
    written.update(values.data.cast("B"))
    (tmp_path / "ids.sums").write_bytes(written.end())
    values[500] += 1
    checksum = digest_of((tmp_path / "ids.sums").read_bytes())
    checked = BlockChecks(tmp_path / "ids.bin", values, checksum)
    checked.check_ranges(np.array([0, 700, 5]), np.array([400, 300, 0]))
    with pytest.raises(DamagedStore, match=r"rows 496 to 511 have"):
        checked.check_ranges(np.array([10]), np.array([900]))
