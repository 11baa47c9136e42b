"""Uploads: whole or none, to an emulator of S3 behind a proxy that fails on purpose."""

import hashlib
import json

import pytest

from deepfm.checkpoint import RunDirectory
from deepfm.cli import main
from deepfm.errors import ConfigError, DataError, DeepFMError
from deepfm.upload import MANIFEST, upload
from tests.faults import does_first, refuses


@pytest.fixture
def run(tmp_path):
    """The folder of what looks like a run."""
    folder = tmp_path / "run"
    (folder / "events").mkdir(parents=True)
    for name in ("best_model.pt", "config.yaml", "events/a.log", ".lock", "trace.json"):
        (folder / name).write_bytes(name.encode() * 100)
    return folder


FILES = {"best_model.pt", "config.yaml", "events/a.log"}


def check(bucket, run, prefix="runs/1") -> None:
    """What is there is what the manifest says, and the run."""
    content = json.loads(bucket.get(f"{prefix}/{MANIFEST}"))
    assert (content["format"], content["format_version"]) == ("deepfm upload", 1)
    assert set(content["files"]) == {
        path.relative_to(run).as_posix()
        for path in run.rglob("*")
        if path.is_file() and path.name not in (".lock", "trace.json")
    }
    for name, said in content["files"].items():
        there = bucket.get(f"{prefix}/{name}")
        assert there == (run / name).read_bytes()
        assert said == {"bytes": len(there), "sha256": hashlib.sha256(there).hexdigest()}


def test_a_run_is_there_with_its_manifest_last(proxy, bucket, run, capsys):
    assert main(["upload", str(run), f"{bucket.uri}/runs/1"]) == 0
    check(bucket, run)
    assert bucket.names == {f"runs/1/{name}" for name in (*FILES, MANIFEST)}
    written = [asked.path for asked in proxy.asked if asked.method == "PUT"]
    assert MANIFEST in written[-1]
    assert f"3 files, 0.0 MiB, are in {bucket.uri}/runs/1" in capsys.readouterr().out


def test_an_export_is_taken_too(bucket, tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    upload(tmp_path, f"{bucket.uri}/x")
    assert bucket.names == {"x/manifest.json", f"x/{MANIFEST}"}


def test_a_file_uri_is_a_folder(run, tmp_path):
    uri = (tmp_path / "copy").as_uri()
    upload(run, uri)
    assert (tmp_path / "copy" / "events" / "a.log").read_bytes() == b"events/a.log" * 100
    with pytest.raises(ConfigError, match="holds an upload"):
        upload(run, uri)


def test_another_upload_stays_unless_told(bucket, run):
    uri = f"{bucket.uri}/runs/1"
    upload(run, uri)
    bucket.put("runs/1/notes.txt", b"mine")
    (run / "best_model.pt").write_bytes(b"another")
    (run / "config.yaml").unlink()
    with pytest.raises(ConfigError) as caught:
        upload(run, uri)
    assert str(caught.value) == f"{uri} holds an upload; --overwrite replaces it"
    upload(run, uri, overwrite=True)
    check(bucket, run)
    assert bucket.names == {
        f"runs/1/{name}" for name in ("best_model.pt", "events/a.log", MANIFEST, "notes.txt")
    }


@pytest.mark.parametrize("name", [*sorted(FILES), MANIFEST])
def test_an_upload_that_fails_anywhere_is_none(proxy, bucket, run, name):
    uri = f"{bucket.uri}/runs/1"
    for method in ("PUT", "POST"):
        proxy.fails(refuses(503), method, name)
    with pytest.raises(DeepFMError, match=f"cannot write {uri}/{name}: .*AWS Error"):
        upload(run, uri)
    assert f"runs/1/{MANIFEST}" not in bucket.names
    proxy.faults.clear()
    if bucket.names:
        with pytest.raises(ConfigError, match="holds files, and no whole upload"):
            upload(run, uri)
    upload(run, uri, overwrite=True)
    check(bucket, run)


def test_while_another_takes_its_place_there_is_none(proxy, bucket, run):
    uri = f"{bucket.uri}/runs/1"
    upload(run, uri)
    seen = []
    look = does_first(lambda: seen.append(f"runs/1/{MANIFEST}" in bucket.names))
    for method in ("PUT", "POST"):
        proxy.fails(look, method)
    upload(run, uri, overwrite=True)
    assert seen
    assert not any(seen)
    check(bucket, run)


def test_a_run_that_changes_meanwhile_is_refused(proxy, bucket, run):
    change = does_first(lambda: (run / "best_model.pt").write_bytes(b"newer"))
    for method in ("PUT", "POST"):
        proxy.fails(change, method, "events", times=1)
    with pytest.raises(DataError, match=r"best_model\.pt: changed while it was copied"):
        upload(run, f"{bucket.uri}/runs/1")
    assert f"runs/1/{MANIFEST}" not in bucket.names


def test_a_run_that_is_trained_into_is_refused(bucket, run):
    with RunDirectory(run).locked(), pytest.raises(ConfigError, match="trains into it"):
        upload(run, f"{bucket.uri}/runs/1")
    assert bucket.names == set()


def test_what_cannot_be_uploaded_is_said(run, tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        upload(tmp_path, "s3://bucket/run")
    with pytest.raises(ConfigError, match="expected a URI such as s3://bucket/folder, found there"):
        upload(run, "there")
    with pytest.raises(ConfigError, match="credentials and options are read"):
        upload(run, "s3://key:hush@bucket/run")
    (run / MANIFEST).write_text("{}")
    with pytest.raises(ConfigError, match="a file of this name itself"):
        upload(run, "s3://bucket/run")


def test_a_manifest_removes_nothing_elsewhere(run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    target = tmp_path / "copy"
    upload(run, target.as_uri())
    content = json.loads((target / MANIFEST).read_text())
    content["files"] |= {"../mine.txt": {}, str(tmp_path / "mine.txt"): {}}
    (target / MANIFEST).write_text(json.dumps(content))
    upload(run, target.as_uri(), overwrite=True)
    assert (tmp_path / "mine.txt").exists()


def test_a_manifest_of_another_kind_stays(bucket, run):
    for content in (b"{}", b"[1]", b"no JSON"):
        bucket.put(f"runs/1/{MANIFEST}", content)
        with pytest.raises(ConfigError, match="is not of an upload, and stays"):
            upload(run, f"{bucket.uri}/runs/1", overwrite=True)
        assert bucket.get(f"runs/1/{MANIFEST}") == content
