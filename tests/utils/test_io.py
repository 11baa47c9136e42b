import os
import resource
import stat
from pathlib import Path

import pytest
import torch

from deepfm.errors import DeepFMError
from deepfm.utils import io
from deepfm.utils.io import atomic_write_bytes, atomic_writer, sha256


@pytest.fixture
def small_disk():
    """Files cannot grow beyond 64 KiB, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_writes_the_bytes_and_leaves_nothing_else(tmp_path):
    atomic_write_bytes(tmp_path / "a.bin", b"\x00one")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00one"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_replaces_what_stood_there(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"a longer text before")
    atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    atomic_write_bytes(tmp_path / "atomic", b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")]
    assert modes[0] == modes[1]


def test_final_name_appears_only_at_the_end_and_after_the_sync(tmp_path, monkeypatch):
    path, seen = tmp_path / "a.bin", []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(path.exists()), fsync(fd)))
    with atomic_writer(path) as file:
        file.write(b"x")
        assert not path.exists()
    assert seen == [False, True]  # the file's bytes before the rename, the directory after it
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize("error", [ValueError("no"), RuntimeError("no"), KeyboardInterrupt()])
def test_failing_block_keeps_the_old_file_and_its_own_error(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write_half():
        with atomic_writer(path) as file:
            file.write(b"half of the n")
            raise error

    with pytest.raises(type(error)) as raised:
        write_half()
    assert raised.value is error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_missing_directory_and_a_file_as_directory_are_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for parent, reason in (("none", "No such file or directory"), ("file", "Not a directory")):
        path = tmp_path / parent / "a.bin"
        with pytest.raises(DeepFMError) as raised:
            atomic_write_bytes(path, b"x")
        assert str(raised.value) == f"cannot write {path}: {reason}"
        assert raised.value.exit_code == 1


def test_refused_rename_removes_the_temporary_file(tmp_path):
    path = tmp_path / "a.bin"
    path.mkdir()  # a file cannot replace a directory
    with pytest.raises(DeepFMError, match="Is a directory"):
        atomic_write_bytes(path, b"x")
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("size", [20_000, 1_000_000])  # fails while closing, and in the middle
def test_full_disk_is_a_disk_error_even_through_torch_save(tmp_path, small_disk, size):
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")

    def save():
        with atomic_writer(path) as file:
            torch.save({"weight": torch.zeros(size)}, file)

    with pytest.raises(DeepFMError) as raised:
        save()
    assert str(raised.value) == f"cannot write {path}: File too large"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.pt"]


def test_torch_save_round_trip(tmp_path):
    with atomic_writer(tmp_path / "model.pt") as file:
        torch.save({"weight": torch.arange(3)}, file)
    loaded = torch.load(tmp_path / "model.pt", weights_only=True)
    assert loaded["weight"].tolist() == [0, 1, 2]


def test_directory_that_cannot_be_synced_is_no_failure(tmp_path, monkeypatch):
    def refuse(path, flags):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(io.os, "open", refuse)
    atomic_write_bytes(tmp_path / "a.bin", b"x")
    assert Path(tmp_path / "a.bin").read_bytes() == b"x"


def test_sha256_is_that_of_the_standard():
    # FIPS 180-2, appendix B.1
    assert sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
