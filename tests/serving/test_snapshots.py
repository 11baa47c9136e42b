"""The files that a server keeps, of this machine and of a store (an emulator, `tests.buckets`)."""

import pytest

from deepfm.errors import CheckpointError
from deepfm.serving.snapshots import snapshot, stamp
from deepfm.utils.places import path_of
from tests.faults import does_first


def test_what_is_elsewhere_is_kept_like_a_local_file(bucket, tmp_path):
    (tmp_path / "a.pt").write_bytes(b"weights" * 1000)
    uris = [bucket.put(key, b"weights" * 1000) for key in ("1/a.pt", "2/a.pt")]
    local = snapshot([tmp_path / "a.pt"] * 2, tmp_path / "local")
    remote = snapshot([path_of(uri) for uri in uris], tmp_path / "remote")
    assert remote.version == local.version
    assert [file.read_bytes() for file in remote.files] == [b"weights" * 1000] * 2
    assert [path.name for path in (tmp_path / "remote").iterdir()] == [remote.version]
    bucket.put("2/a.pt", b"others")
    again = snapshot([path_of(uri) for uri in uris], tmp_path / "remote")
    assert again.version != remote.version
    assert again.files[1].read_bytes() == b"others"


def test_nobody_watches_what_is_elsewhere(proxy, bucket, tmp_path):
    (tmp_path / "a.pt").write_bytes(b"x")
    uri = path_of(bucket.put("a.pt", b"x"))
    assert stamp([uri]) == ()
    assert stamp([tmp_path / "a.pt", uri]) == stamp([tmp_path / "a.pt"])
    assert not proxy.asked


def test_what_cannot_be_fetched_is_one_line(proxy, bucket, tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pt: cannot be read: no such file"):
        snapshot([path_of(f"{bucket.uri}/none.pt")], tmp_path / "kept")
    uri = bucket.put("a.pt", b"x" * 100)
    proxy.fails(does_first(lambda: bucket.put("a.pt", b"y" * 100)), "GET", times=1)
    with pytest.raises(CheckpointError, match=f"{uri}: cannot be read: changed while it was read"):
        snapshot([path_of(uri)], tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []
