"""URIs: which there are, what may stand in one, and that no secret is shown."""

import os
import pickle
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from deepfm.errors import ConfigError
from deepfm.utils.places import (
    RemoteFile,
    below,
    files_below,
    is_same_file,
    is_uri,
    matching,
    path_of,
    put,
    refuse_credentials,
    refuse_remote,
    remove,
    whole_file,
)


@pytest.mark.parametrize("name", ["rows.csv", "/data/rows.csv", "C:/rows.csv", "a:b//c", "://x"])
def test_what_is_no_uri_is_a_local_path(name):
    assert not is_uri(name)
    assert path_of(name) == Path(name)
    assert path_of(Path(name)) == Path(name)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///data/rows.csv", "/data/rows.csv"),
        ("FILE://localhost/data/my%20rows.csv", "/data/my rows.csv"),
    ],
)
def test_a_file_uri_is_a_local_path(uri, path):
    assert path_of(uri) == Path(path)


@pytest.mark.parametrize("uri", ["file://rows.csv", "file://host/rows.csv"])
def test_a_file_uri_of_another_host_is_refused(uri):
    with pytest.raises(ConfigError, match="expected file:///path"):
        path_of(uri)


@pytest.mark.parametrize("scheme", ["s3", "gs", "gcs", "abfs", "abfss"])
def test_a_remote_file_has_its_parts(scheme):
    found = path_of(f"{scheme.upper()}://bucket/a b/%20/rows.csv.gz")
    assert found == RemoteFile(f"{scheme}://bucket/a b/%20/rows.csv.gz")  # a key is no URL
    assert (found.scheme, found.bucket, found.key) == (scheme, "bucket", "a b/%20/rows.csv.gz")
    assert (found.name, found.suffix) == ("rows.csv.gz", ".gz")
    assert found.parent.name == "%20"
    assert path_of(found) is found
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_bucket_is_a_folder_with_a_name():
    bucket = path_of("s3://bucket/")
    assert (bucket.key, bucket.name, (bucket / "a.csv").uri) == ("", "bucket", "s3://bucket/a.csv")
    assert path_of("s3://bucket/a.csv").parent.name == "bucket"


def test_a_remote_file_is_not_taken_for_a_path():
    with pytest.raises(TypeError):
        os.fspath(RemoteFile("s3://bucket/a.csv"))


@pytest.mark.parametrize(
    ("uri", "hint"),
    [
        ("http://example.org/rows.csv", "copy the file to one first"),
        ("hdfs://node/rows.csv", "copy the file to one first"),
        ("odps://project/tables/t", "copy the file to one first"),
        ("s3a://bucket/rows.csv", "did you mean 's3'?"),
    ],
)
def test_other_schemes_are_refused_by_name(uri, hint):
    scheme = uri.partition(":")[0]
    with pytest.raises(ConfigError) as caught:
        path_of(uri)
    assert str(caught.value) == (
        f"{scheme}:// cannot be read or written, but file://, s3://, gs://, gcs://, abfs://, "
        f"abfss://; {hint}"
    )


@pytest.mark.parametrize("uri", ["s3://", "s3:///key", "s3://*/key", "s3://buc[k]et/key"])
def test_a_bucket_is_needed(uri):
    with pytest.raises(ConfigError, match="expected s3://bucket/key, found no bucket"):
        path_of(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA:hush@bucket/rows.csv",
        "s3://AKIA:hu/sh@bucket/rows.csv",
        "s3://hush@bucket/rows.csv",
        "s3://bucket/rows.csv?secret_key=hush",
        "s3://bucket/rows.csv?region=a&secret_key=hush",
        "gs://hush@bucket/rows.csv",
        "abfs://name:hush@account.dfs.core.windows.net/rows.csv",
        "abfs://container@account.dfs.core.windows.net/rows.csv?account_key=hush",
        "http://name:hush@example.org/rows.csv",
    ],
)
def test_a_secret_is_refused_and_not_shown(uri):
    for refuse in (path_of, lambda text: refuse_remote(text, "output_dir", "why")):
        with pytest.raises(ConfigError) as caught:
            refuse(uri)
        assert "credentials and options are read from the environment" in str(caught.value)
        assert "hu" not in str(caught.value)
        assert "AKIA" not in str(caught.value)


def test_what_is_no_secret_is_no_secret():
    for name in (
        "abfs://container@account.dfs.core.windows.net/rows.csv",
        "s3://bucket/day=1/part-?.csv",
        "s3://bucket/who@where/a:b.csv",
        "rows.csv?secret_key=a",
    ):
        refuse_credentials(name)
        path_of(name)


def test_control_characters_are_refused():
    with pytest.raises(ConfigError, match="printable"):
        path_of("s3://bucket/a\nb.csv")


def test_a_name_below_a_folder():
    bucket, local = path_of("s3://bucket/data/"), Path("data")
    assert below(bucket, "a/b.csv") == RemoteFile("s3://bucket/data/a/b.csv")
    assert below(bucket, "/a/b.csv") == Path("/a/b.csv")
    assert below(bucket, "s3://other/b.csv") == RemoteFile("s3://other/b.csv")
    assert below(local, "b.csv") == Path("data/b.csv")
    assert below(local, "/b.csv") == below(local, "file:///b.csv") == Path("/b.csv")
    assert below(local, "s3://other/b.csv") == RemoteFile("s3://other/b.csv")
    with pytest.raises(ConfigError, match="http://"):
        below(bucket, "http://example.org/b.csv")


def test_local_files_match_as_ever(tmp_path):
    for name in ("b.csv", "a.csv", ".c.csv", "a[1].csv"):
        (tmp_path / name).write_text("x")
    assert [path.name for path in matching(tmp_path / "*.csv")] == ["a.csv", "a[1].csv", "b.csv"]
    assert matching(tmp_path / "a[1].csv") == [tmp_path / "a[1].csv"]  # it is there
    assert matching(tmp_path / "d.csv") == []


def test_one_file_has_many_names(tmp_path):
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "b.csv").symlink_to(tmp_path / "a.csv")
    assert is_same_file(tmp_path / "a.csv", tmp_path / "b.csv")
    assert not is_same_file(tmp_path / "a.csv", tmp_path / "c.csv")
    assert is_same_file(path_of("s3://b/a.csv"), path_of("S3://b/a.csv"))
    assert not is_same_file(path_of("s3://b/a.csv"), tmp_path / "a.csv")


def test_local_files_are_written_whole_copied_and_removed(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with suppress(ZeroDivisionError), whole_file(target) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert list(target.parent.iterdir()) == []
    with whole_file(target) as file:
        file.write(b"whole")
    put(target, tmp_path / "copy.txt")
    assert {path.name for path in files_below(tmp_path)} == {"a.txt", "copy.txt"}
    assert (tmp_path / "copy.txt").read_bytes() == b"whole"
    remove(target)
    remove(target)
    assert not target.exists()


def test_without_a_uri_no_client_of_stores_is_imported():
    code = (
        "import sys; from deepfm.utils.places import matching, path_of; from pathlib import Path;"
        "matching(path_of('x*')); path_of('s3://b/x');"
        "assert not {'pyarrow', 'deepfm.utils.object_store'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
