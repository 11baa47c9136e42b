"""Tensors that several processes write, and any reader puts together."""

import json

import pytest
import torch

from deepfm.errors import CheckpointError
from deepfm.utils.slices import MANIFEST, Slice, open_slices, write_manifest, write_slices

WHOLE = torch.arange(60.0).view(10, 6)
OTHER = torch.arange(8.0).view(4, 2)
PLACES = [["model", "a"], ["training", "model", "a"]]


@pytest.fixture
def folder(tmp_path):
    """A tensor in four rectangles by two processes, and one that the first has alone."""
    by_rank = [[], []]
    for rank, rows in enumerate(((0, 3), (3, 10))):
        for columns in ((0, 4), (4, 6)):
            part = WHOLE[slice(*rows), slice(*columns)]
            by_rank[rank].append(Slice(PLACES, (10, 6), rows, columns, part))
    by_rank[0].append(Slice([["model", "b"]], (4, 2), (0, 4), (0, 2), OTHER))
    by_rank[1].append(Slice([["model", "b"]], (4, 2), (0, 0), (0, 2), OTHER[:0]))
    told = [item for rank, own in enumerate(by_rank) for item in write_slices(tmp_path, rank, own)]
    return tmp_path, write_manifest(tmp_path, told)


def test_any_rows_and_columns_are_read(folder):
    found = {tuple(at): tensor for at, tensor in open_slices(*folder)}
    assert set(found) == {("model", "a"), ("training", "model", "a"), ("model", "b")}
    assert found["model", "a"] is found["training", "model", "a"]
    a = found["model", "a"]
    assert a.shape == (10, 6)
    assert torch.equal(a[:], WHOLE)
    assert torch.equal(found["model", "b"][:], OTHER)
    for start in range(11):
        for stop in range(11):
            for columns in (slice(0, 6), slice(1, 5), slice(4, 6), slice(2, 2)):
                expected = WHOLE[start:stop, columns]
                assert torch.equal(a[slice(start, stop), columns], expected)


def test_only_the_files_that_are_read_are_looked_at(folder):
    for path in folder[0].glob("rank-1-*"):
        path.unlink()
    a = next(tensor for at, tensor in open_slices(*folder) if at == PLACES[0])
    assert torch.equal(a[0:3], WHOLE[0:3])
    with pytest.raises(CheckpointError, match=r"rank-1-0\.pt: cannot be read"):
        a[:]


def test_damage_is_an_error_that_names_the_file(folder):
    path, digest = folder
    name = path / "rank-0-0.pt"
    data = bytearray(name.read_bytes())
    data[len(data) // 2] ^= 1
    name.write_bytes(data)
    a = next(tensor for at, tensor in open_slices(path, digest) if at == PLACES[0])
    with pytest.raises(CheckpointError, match=r"rank-0-0\.pt: damaged: it has another checksum"):
        a[:]
    text = (path / MANIFEST).read_text()
    (path / MANIFEST).write_text(text.replace("10", "11", 1))
    with pytest.raises(CheckpointError, match=r"manifest\.json: damaged"):
        list(open_slices(path, digest))
    (path / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json: cannot be read"):
        list(open_slices(path, digest))


def test_rows_that_no_file_holds_are_an_error(folder):
    path, _ = folder
    told = json.loads((path / MANIFEST).read_text())["slices"]
    digest = write_manifest(path, told[1:])
    with pytest.raises(CheckpointError, match="rows of a are missing"):
        list(open_slices(path, digest))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_an_error(tmp_path, value):
    weight = torch.tensor([[1.0], [value]])
    told = write_slices(tmp_path, 0, [Slice([["model", "a"]], (2, 1), (0, 2), (0, 1), weight)])
    ((_, tensor),) = open_slices(tmp_path, write_manifest(tmp_path, told))
    with pytest.raises(CheckpointError, match=r"model/a\[0:2, 0:1\] has a NaN"):
        tensor[:]
