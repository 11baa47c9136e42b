"""Files of a store: against an emulator of S3, and behind a proxy that fails on purpose.

The emulator is no store (`tests.buckets`); what is shown is what this code does with the answers.
"""

import os
import signal
from contextlib import suppress

import pytest

from deepfm.errors import DeepFMError
from deepfm.utils import object_store
from deepfm.utils.places import (
    fetched,
    files_below,
    matching,
    path_of,
    put,
    reading,
    remove,
    whole_file,
)
from tests.buckets import SECRET
from tests.faults import cuts, does_first, hangs_up, refuses

CONTENT = bytes(range(256)) * 50_000  # 12.8 MB: three requests of a buffered reader


@pytest.fixture
def content(bucket) -> str:
    """The URI of an object."""
    return bucket.put("data/rows.bin", CONTENT)


def read(uri: str, size: int = 5_000_000, buffering: int = -1) -> bytes:
    with reading(path_of(uri), buffering) as file:
        return b"".join(iter(lambda: file.read(size), b""))


@pytest.mark.parametrize("size", [1 << 20, 5_000_000, 1 << 26])
@pytest.mark.parametrize("buffering", [-1, 0])
def test_an_object_reads_as_it_is(content, size, buffering):
    assert read(content, size, buffering) == CONTENT


@pytest.mark.parametrize("buffering", [-1, 0])
def test_all_of_an_object_takes_few_requests(proxy, content, buffering):
    with reading(path_of(content), buffering) as file:
        assert file.read(3) == CONTENT[:3]
        assert file.read() == CONTENT[3:]
    assert sum(asked.method == "GET" for asked in proxy.asked) <= 5


def test_a_reader_seeks(content):
    for buffering in (-1, 0):
        with reading(path_of(content), buffering) as file:
            for start in (12_000_000, 5, 7_000_000):
                assert file.seek(start) == file.tell() == start
                assert file.read(100) == CONTENT[start : start + 100]
            file.seek(-6, os.SEEK_END)
            assert file.read() == CONTENT[-6:]
            assert file.read(1) == b""


def test_an_empty_object_is_empty(bucket):
    assert read(bucket.put("empty", b"")) == b""


def test_what_a_store_says_of_a_file(bucket, content):
    before = path_of(content).stat()
    assert before.st_size == len(CONTENT)
    assert path_of(content).stat() == before
    bucket.put("data/rows.bin", CONTENT[::-1])
    assert path_of(content).stat() != before


def test_a_copy_is_private_and_whole(content):
    with fetched(path_of(content)) as file:
        assert file.read() == CONTENT
        assert file.seek(10) == 10


@pytest.mark.parametrize("key", ["a b/%20/ü+&=.bin", "a?b#c.bin", "x[1].bin"])
def test_a_key_is_taken_as_it_is(bucket, key):
    uri = bucket.put(key, b"abc")
    assert read(uri) == b"abc"
    assert [str(one) for one in matching(path_of(uri))] == [uri]


def test_globs_are_those_of_a_folder(bucket, tmp_path):
    keys = ["b.csv", "a.csv", "d/a.csv", "d/e/a.csv", "d-1/a.csv", "d/.h.csv", "c.tsv", "a/b.csv/x"]
    for key in keys:
        bucket.put(f"p/{key}", b"x")
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(b"x")
    patterns = [
        "*.csv", "?.csv", "[bc].*", "*/a.csv", "*/*", "d*/*.csv", "*/*/a.csv", "**/a.csv", "none*",
        "d/.*", "a.csv", "nowhere/*.csv", "*/b.csv/x", "*/*/*",
    ]  # fmt: skip
    for pattern in patterns:
        local = [
            str(path.relative_to(tmp_path)) for path in matching(tmp_path / pattern)
            if path.is_file()
        ]  # fmt: skip
        remote = [str(path) for path in matching(path_of(f"{bucket.uri}/p/{pattern}"))]
        assert remote == [f"{bucket.uri}/p/{name}" for name in local], pattern


def test_what_is_not_there(bucket, content):
    assert not path_of(f"{bucket.uri}/none").exists()
    assert not path_of(f"{bucket.uri}/data").exists()  # names begin with it, none is it
    assert path_of(content).exists()
    with pytest.raises(FileNotFoundError) as caught, reading(path_of(f"{bucket.uri}/none")):
        pass
    assert caught.value.strerror == "no such file"
    assert files_below(path_of(f"{bucket.uri}/none")) == []


def test_files_below_and_their_removal(bucket):
    for key in ("r/a", "r/b/c", "r2/a"):
        bucket.put(key, b"x")
    found = {str(path) for path in files_below(path_of(f"{bucket.uri}/r"))}
    assert found == {f"{bucket.uri}/r/a", f"{bucket.uri}/r/b/c"}
    for _ in range(2):
        remove(path_of(f"{bucket.uri}/r/a"))
    assert "r/a" not in bucket.names


@pytest.mark.parametrize("size", [0, 100, len(CONTENT)])
def test_a_file_is_written_whole(bucket, tmp_path, size):
    with whole_file(path_of(f"{bucket.uri}/out/rows.bin")) as file:
        file.write(CONTENT[:size])
        assert bucket.names == set()
    assert bucket.get("out/rows.bin") == CONTENT[:size]


def test_a_block_that_fails_writes_nothing(bucket):
    bucket.put("out", b"before")
    with suppress(ZeroDivisionError), whole_file(path_of(f"{bucket.uri}/out")) as file:
        file.write(CONTENT)
        raise ZeroDivisionError
    assert bucket.get("out") == b"before"


def test_a_bucket_that_is_not_there_is_said_at_once(bucket):
    with (
        pytest.raises(DeepFMError, match="cannot write s3://nowhere/a: there is no bucket nowhere"),
        whole_file(path_of("s3://nowhere/a")),
    ):
        raise AssertionError("it was entered")


# Faults of reading.


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [503, 500])
def test_two_failures_are_tried_again(proxy, content, method, status):
    proxy.fails(refuses(status), method, "rows.bin", times=2)
    assert read(content) == CONTENT


@pytest.mark.parametrize("cut", [0, 1, 1_000_000, 4_000_000])
def test_a_body_that_was_cut_once_is_read_again(proxy, content, cut):
    fault = proxy.fails(cuts(cut), "GET", "rows.bin", skip=1, times=1)
    assert read(content) == CONTENT
    assert fault.hits > 2


def test_a_connection_that_is_closed_is_opened_again(proxy, content):
    proxy.fails(hangs_up, "GET", "rows.bin", times=2)
    assert read(content) == CONTENT


def one_line(error: BaseException, *words: str) -> None:
    """An error says what it has to, on one line, without what it must not say."""
    text = str(error)
    assert "\n" not in text
    assert len(text) < 700, text
    for word in words:
        assert word in text, text
    assert SECRET not in text


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("kind", ["503", "cut", "hang up", "silence"])
def test_what_goes_on_failing_is_one_line(proxy, content, method, kind):
    does = {
        "503": refuses(503), "cut": cuts(100), "hang up": hangs_up, "silence": proxy.is_silent,
    }[kind]  # fmt: skip
    if (method, kind) == ("HEAD", "cut"):
        pytest.skip("it has no body")
    fault = proxy.fails(does, method, "rows.bin")
    with pytest.raises(OSError, match="AWS Error") as caught:
        read(content)
    assert caught.value.strerror
    one_line(caught.value, content, "AWS Error")
    assert fault.hits - object_store.ATTEMPTS in (0, 1)  # where a connection was old, one more


@pytest.mark.slow  # the client looks at the last seconds, of which the first had bytes
def test_silence_in_the_middle_of_a_body_ends(proxy, content):
    def half(asked, forward):
        answer = forward(asked)
        return answer._replace(cut_at=1000, then_silent=True)

    proxy.fails(half, "GET", "rows.bin")
    with pytest.raises(OSError, match="AWS Error") as caught:
        read(content)
    one_line(caught.value, content)


def test_an_object_that_changes_between_two_requests_is_refused(proxy, bucket, content):
    other = CONTENT[::-1]
    proxy.fails(does_first(lambda: bucket.put("data/rows.bin", other)), "GET", skip=1, times=1)
    with pytest.raises(OSError, match="changed while it was read") as caught:
        read(content)
    one_line(caught.value, content)


def test_an_object_that_becomes_shorter_is_refused(proxy, bucket, content):
    short = does_first(lambda: bucket.put("data/rows.bin", CONTENT[:5_000_000]))
    proxy.fails(short, "GET", skip=1, times=1)
    with pytest.raises(OSError, match=r"AWS Error|changed|ends after") as caught:
        read(content)
    one_line(caught.value, content)


def test_an_object_that_goes_away_is_refused(proxy, bucket, content):
    proxy.fails(does_first(lambda: bucket.ask("DELETE", "data/rows.bin")), "GET", skip=1, times=1)
    with pytest.raises(OSError, match=r"AWS Error|no such file"):
        read(content)


def test_who_stops_early_is_not_told_of_changes(bucket, content):
    with suppress(ZeroDivisionError), reading(path_of(content)) as file:
        file.read(10)
        bucket.put("data/rows.bin", b"other")
        raise ZeroDivisionError


def test_a_door_that_is_closed_is_one_line(proxy, content):
    for method in ("GET", "HEAD"):
        proxy.fails(refuses(403), method)
    with pytest.raises(OSError, match="ACCESS_DENIED") as caught:
        read(content)
    one_line(caught.value, content)
    with pytest.raises(DeepFMError, match="ACCESS_DENIED"):
        path_of(content).exists()


# Faults of writing.


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_an_upload_is_tried_again(proxy, bucket, tmp_path, method):
    (tmp_path / "a").write_bytes(CONTENT)
    proxy.fails(refuses(503), method, times=2)
    put(tmp_path / "a", path_of(f"{bucket.uri}/a"))
    assert bucket.get("a") == CONTENT


BEGINS = ("POST", "uploads", 0)  # an upload in parts
FIRST, SECOND = ("PUT", "partNumber", 0), ("PUT", "partNumber", 1)
ENDS = ("POST", "uploadId", 0)  # where the file gets its name


@pytest.mark.parametrize(
    ("where", "kind"),
    [(where, kind) for where in (BEGINS, FIRST, SECOND, ENDS) for kind in ("503", "hang up")]
    + [(BEGINS, "silence")]
    + [pytest.param(at, "silence", marks=pytest.mark.slow) for at in (FIRST, SECOND, ENDS)],
)
def test_an_upload_that_goes_on_failing_leaves_nothing(proxy, bucket, tmp_path, capfd, where, kind):
    method, path, skip = where
    (tmp_path / "a").write_bytes(CONTENT)
    does = {"503": refuses(503), "hang up": hangs_up, "silence": proxy.is_silent}[kind]
    fault = proxy.fails(does, method, path, skip=skip)
    with pytest.raises(DeepFMError) as caught:
        put(tmp_path / "a", path_of(f"{bucket.uri}/a"))
    one_line(caught.value, f"cannot write {bucket.uri}/a: ", "AWS Error")
    assert capfd.readouterr().err == ""
    assert fault.hits > skip
    assert bucket.names == set()


def test_a_small_upload_that_goes_on_failing_leaves_what_was_there(proxy, bucket, tmp_path):
    bucket.put("a", b"before")
    (tmp_path / "a").write_bytes(b"after")
    for method in ("PUT", "POST"):
        proxy.fails(refuses(503), method)
    with pytest.raises(DeepFMError, match=f"cannot write {bucket.uri}/a: .*AWS Error"):
        put(tmp_path / "a", path_of(f"{bucket.uri}/a"))
    assert bucket.get("a") == b"before"


def test_an_upload_of_another_size_is_removed(proxy, bucket, tmp_path):
    (tmp_path / "a").write_bytes(b"all of it")
    proxy.fails(does_first(lambda: bucket.put("a", b"all")), "HEAD", "/a")
    with pytest.raises(DeepFMError, match="3 of 9 bytes arrived; what did is removed"):
        put(tmp_path / "a", path_of(f"{bucket.uri}/a"))
    assert bucket.names == set()


def test_ctrl_c_waits_for_an_upload(proxy, bucket, tmp_path):
    """A stream that an exception drops would give what there is the file's name."""
    (tmp_path / "a").write_bytes(CONTENT)
    stop = does_first(lambda: os.kill(os.getpid(), signal.SIGINT))
    fault = proxy.fails(stop, "PUT", "partNumber", times=1)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            put(tmp_path / "a", path_of(f"{bucket.uri}/a"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert fault.hits
    assert bucket.get("a") == CONTENT


def test_a_store_that_names_no_version_is_refused(proxy, content):
    def without(asked, forward):
        answer = forward(asked)
        hidden = ("etag", "last-modified", "x-amz-version-id")
        kept = [pair for pair in answer.headers if pair[0].lower() not in hidden]
        return answer._replace(headers=kept)

    proxy.fails(without, "HEAD")
    with pytest.raises(OSError, match="no ETag and no time of it") as caught:
        path_of(content).stat()
    one_line(caught.value, content)
