import io
import logging
import os
import shutil
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepfm.data.download import DownloadError
from deepfm.data.schema import FeatureType
from deepfm.data.sources import movielens
from deepfm.errors import DataError, DeepFMError

NAMES = ("u.data", "u.user", "u.item")
PARQUET_NAMES = {name: form.parquet_name for name, form in movielens.FILES.items()}


@pytest.fixture(scope="module")
def official(movielens_dir) -> dict[str, bytes]:
    """The three official files, by name."""
    return {name: (movielens_dir / name).read_bytes() for name in NAMES}


@pytest.fixture(scope="module")
def first_rows(official) -> dict[str, bytes]:
    """The first twenty rows of each official file."""
    return {n: b"".join(data.splitlines(keepends=True)[:20]) for n, data in official.items()}


@pytest.fixture(scope="module")
def tables(official):
    return movielens.parse(official)


@pytest.fixture(scope="module")
def parquet(official) -> dict[str, bytes]:
    """The files in the form of the published package, written from the official ones."""
    return {name: _parquet(name, data) for name, data in official.items()}


@pytest.fixture(autouse=True)
def no_network(movielens_dir, monkeypatch):
    """Both ways out are closed; a test opens what it needs with `serve_...`."""

    def closed(source, *args):
        raise DownloadError(f"{source}: no network in tests")

    monkeypatch.setattr(movielens, "fetch", closed)
    monkeypatch.setattr(movielens, "fetch_package_files", closed)


def _parquet(name: str, data: bytes) -> bytes:
    separator = b"\t" if name == "u.data" else b"|"
    rows = [line.split(separator) for line in data.split(b"\n")[:-1]]
    columns = {}
    for key, texts in zip(movielens.FILES[name].columns, zip(*rows, strict=True), strict=True):
        values = [text.decode("latin-1") or None for text in texts]
        whole = key != "zip_code" and all(v is not None and v.isdigit() for v in values)
        columns[key] = [int(v) for v in values] if whole else values
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="brotli")
    return sink.getvalue()


def _archive(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            packed.writestr(f"ml-100k/{name}", data)
    return sink.getvalue()


def _write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def _serve_archive(monkeypatch, archive: bytes) -> list[str]:
    """Lets the official archive be fetched; returns the addresses asked for."""
    asked = []
    monkeypatch.setattr(movielens, "fetch", lambda url: (asked.append(url), archive)[1])
    return asked


def _serve_package(monkeypatch, parquet: dict[str, bytes]) -> list[str]:
    """Lets the package be fetched; returns the requirements asked for."""
    asked = []
    by_path = {f"{movielens.PACKAGE_FOLDER}/{PARQUET_NAMES[n]}": d for n, d in parquet.items()}

    def serve(requirement, names):
        asked.append(requirement)
        return {name: by_path[name] for name in names}

    monkeypatch.setattr(movielens, "fetch_package_files", serve)
    return asked


def _same(left, right) -> bool:
    return all(a.equals(b) for a, b in zip(left[:3], right[:3], strict=True))


# --- what the columns mean, and their values ---


def test_counts_columns_and_first_rows(tables):
    interactions, users, items, *_ = tables
    assert (interactions.num_rows, users.num_rows, items.num_rows) == (100_000, 943, 1_682)
    numbers = [(name, pa.int64()) for name in ("user_id", "movie_id", "rating", "timestamp")]
    assert interactions.schema == pa.schema(numbers)
    assert [list(row.values()) for row in interactions.slice(0, 2).to_pylist()] == [
        [196, 242, 3, 881250949],
        [186, 302, 3, 891717742],
    ]
    assert users.slice(0, 1).to_pylist() == [
        {"user_id": 1, "age": 24, "gender": "M", "occupation": "technician", "zip_code": "85711"}
    ]
    assert items.slice(0, 1).to_pylist() == [
        {
            "movie_id": 1,
            "movie_title": "Toy Story (1995)",
            "genres": ["Animation", "Children's", "Comedy"],
        }
    ]


def test_values_are_what_the_adapter_says(tables):
    interactions, users, items, *_ = tables
    assert users["user_id"].to_pylist() == list(range(1, 944))
    assert items["movie_id"].to_pylist() == list(range(1, 1683))
    assert set(interactions["user_id"].to_pylist()) == set(range(1, 944))
    assert set(interactions["movie_id"].to_pylist()) == set(range(1, 1683))
    assert set(interactions["rating"].to_pylist()) == {1, 2, 3, 4, 5}
    assert set(users["gender"].to_pylist()) == {"M", "F"}
    assert len(set(users["occupation"].to_pylist())) == 21
    assert users.schema.field("age").type == pa.int64()
    prefixes = [code[:3] for code in users["zip_code"].to_pylist()]
    assert not all(prefix.isdigit() for prefix in prefixes)
    genres = items["genres"].to_pylist()
    assert {len(names) for names in genres} == set(range(1, 7))
    assert {name for names in genres for name in names} == set(movielens.GENRES)
    assert all(names == sorted(names, key=movielens.GENRES.index) for names in genres)


def test_titles_are_read_as_latin_1(tables):
    titles = tables.items["movie_title"].to_pylist()
    assert "Misérables, Les (1995)" in titles


def test_schema_is_the_table_of_the_requirements():
    schema = movielens.schema()
    rows = [
        (f.name, f.feature_type.value, f.embedding_dim, f.group, f.column, f.transform)
        for f in schema.fields.values()
    ]
    assert rows == [
        ("user_id", "sparse", 16, "user", "user_id", None),
        ("movie_id", "sparse", 16, "item", "movie_id", None),
        ("gender", "sparse", 4, "user", "gender", None),
        ("age", "sparse", 4, "user", "age", "bucket(1, 18, 25, 35, 45, 50, 56)"),
        ("occupation", "sparse", 8, "user", "occupation", None),
        ("zip_prefix", "sparse", 8, "user", "zip_code", "prefix(3)"),
        ("genres", "sequence", 8, "item", "genres", "split(|)"),
    ]
    assert (schema.fields["genres"].max_length, schema.fields["genres"].combiner) == (6, "mean")
    assert (schema.user_field, schema.item_field) == ("user_id", "movie_id")
    assert (schema.time_column, schema.item_title_column) == ("timestamp", "movie_title")


def test_every_field_has_a_raw_column_and_none_reads_the_label(tables):
    schema = movielens.schema()
    owner = {"user": tables.users, "item": tables.items}
    for field in schema.fields.values():
        column = owner[field.group].schema.field(field.column)
        assert pa.types.is_list(column.type) == (field.feature_type is FeatureType.SEQUENCE)
    read = {field.column for field in schema.fields.values()}
    assert schema.label_field == "rating"
    assert not read & {schema.label_field, schema.time_column}


# --- files that are there ---


def test_every_offline_form_gives_equal_tables(tmp_path, official, parquet, tables):
    packaged = {PARQUET_NAMES[name]: data for name, data in parquet.items()}
    mixed = {"u.user": official["u.user"]} | packaged
    del mixed[PARQUET_NAMES["u.user"]]
    forms = {
        "official": _write(tmp_path / "official", official),
        "nested": _write(tmp_path / "nested" / "ml-100k", official).parent,
        "package": _write(tmp_path / "package", packaged),
        "mixed": _write(tmp_path / "mixed", mixed),
    }
    for name, folder in forms.items():
        before = sorted(folder.rglob("*"))
        assert _same(movielens.load(folder, False), tables), name
        assert movielens.download(folder) == official, name
        assert sorted(folder.rglob("*")) == before  # converted in memory, nothing written


@pytest.mark.parametrize("folder", ["", "ml-100k"])
@pytest.mark.parametrize("auto_download", [True, False])
def test_wrong_checksum_of_a_local_file(tmp_path, official, monkeypatch, folder, auto_download):
    changed = official | {"u.user": official["u.user"].replace(b"|24|M|", b"|25|M|", 1)}
    _write(tmp_path / folder, changed)
    asked = _serve_archive(monkeypatch, _archive(official))
    with pytest.raises(DataError) as raised:
        movielens.load(tmp_path, auto_download)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / folder / 'u.user'}: u.user has SHA-256 ")
    assert "expected f120e114da2e..." in message
    assert "replace u.user, or delete it and run `deepfm download-data`" in message
    assert raised.value.exit_code == 2
    assert not asked
    assert (tmp_path / folder / "u.user").read_bytes() == changed["u.user"]


def test_line_ends_changed_by_an_editor_are_a_wrong_checksum(tmp_path, official):
    _write(tmp_path, official | {"u.data": official["u.data"].replace(b"\n", b"\r\n")})
    with pytest.raises(DataError, match=r"u\.data has SHA-256"):
        movielens.load(tmp_path, False)


def test_wrong_package_file_in_the_data_directory(tmp_path, official, parquet):
    changed = _parquet("u.item", official["u.item"].replace(b"Toy Story", b"Tin Story", 1))
    for data, reason in ((changed, "u.item has SHA-256"), (changed[:5000], "is damaged")):
        files = parquet | {"u.item": data}
        _write(tmp_path, {PARQUET_NAMES[n]: d for n, d in files.items()})
        with pytest.raises(DataError, match=reason) as raised:
            movielens.load(tmp_path, True)
        assert f"replace {PARQUET_NAMES['u.item']}, or delete it" in str(raised.value)


def test_no_data_and_no_download(tmp_path, official):
    _write(tmp_path, {"u.user": official["u.user"]})
    with pytest.raises(DataError) as raised:
        movielens.load(tmp_path, False)
    assert str(raised.value) == (
        f"data_dir {tmp_path} lacks u.data, u.item and data.auto_download is false: "
        "run `deepfm download-data`, or put u.data, u.user and u.item there"
    )
    assert raised.value.exit_code == 2
    assert os.listdir(tmp_path) == ["u.user"]


def test_directory_that_cannot_be_read(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(DeepFMError) as raised:
        movielens.load(tmp_path, True)
    assert str(raised.value) == f"cannot read {tmp_path / 'u.data'}: Permission denied"


# --- downloads ---


def test_archive_is_the_first_source_and_asked_once(
    tmp_path, official, tables, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    asked = _serve_archive(monkeypatch, _archive(official | {"README": b"not taken"}))
    folder = tmp_path / "new" / "ml-100k"
    assert _same(movielens.load(folder, True), tables)
    assert sorted(os.listdir(folder)) == sorted(NAMES)
    assert {name: (folder / name).read_bytes() for name in NAMES} == official
    assert caplog.text.count(movielens.README_URL) == 1
    caplog.clear()
    assert _same(movielens.load(folder, True), tables)
    assert asked == [movielens.ARCHIVE_URL]
    assert not caplog.records  # a licence note belongs to a download


def test_package_is_the_second_source(tmp_path, parquet, official, tables, monkeypatch, caplog):
    asked = _serve_package(monkeypatch, parquet)
    assert _same(movielens.load(tmp_path, True), tables)
    assert asked == [movielens.PACKAGE]
    assert {name: (tmp_path / name).read_bytes() for name in NAMES} == official
    assert f"source failed: {movielens.ARCHIVE_URL}: no network in tests" in caplog.text


@pytest.fixture(scope="module")
def damaged_archives(official) -> dict[str, bytes]:
    whole = _archive(official)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    edited = official | {"u.data": official["u.data"].replace(b"196\t242\t3", b"196\t242\t5", 1)}
    return {
        "truncated": whole[: len(whole) // 2],
        "flipped byte": bytes(flipped),
        "edited and repacked": _archive(edited),
        "a file missing": _archive({name: official[name] for name in NAMES[:2]}),
        "a login page": b"<html>please log in</html>",
        "empty": b"",
    }


def test_damaged_archive_is_logged_and_the_next_source_tried(
    tmp_path, official, parquet, damaged_archives, monkeypatch, caplog
):
    _serve_package(monkeypatch, parquet)
    for name, archive in damaged_archives.items():
        caplog.clear()
        _serve_archive(monkeypatch, archive)
        folder = tmp_path / name
        assert movielens.download(folder) == official, name
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == official, name
        assert f"source failed: {movielens.ARCHIVE_URL}: " in caplog.text, name


def test_no_network_names_each_source_and_the_offline_way(tmp_path):
    folder = tmp_path / "new"
    with pytest.raises(DeepFMError) as raised:
        movielens.load(folder, True)
    assert str(raised.value) == (
        f"cannot download MovieLens-100K: {movielens.ARCHIVE_URL}: no network in tests; "
        f"{movielens.PACKAGE}: no network in tests; without a network, put u.data, u.user and "
        f"u.item into {folder}"
    )
    assert raised.value.exit_code == 1
    assert not folder.exists()


def test_nothing_is_written_when_every_source_is_damaged(
    tmp_path, official, parquet, damaged_archives, monkeypatch
):
    edited = _parquet("u.data", official["u.data"].replace(b"196\t242\t3", b"196\t242\t5", 1))
    packages = {"edited": edited, "truncated": parquet["u.data"][:10_000]}
    for package, archive in zip(packages, ("edited and repacked", "truncated"), strict=True):
        _serve_package(monkeypatch, parquet | {"u.data": packages[package]})
        _serve_archive(monkeypatch, damaged_archives[archive])
        with pytest.raises(DeepFMError, match="cannot download") as raised:
            movielens.download(tmp_path / "new")
        assert raised.value.exit_code == 1
        assert "\n" not in str(raised.value)
        assert f": {movielens.ARCHIVE_URL}: " in str(raised.value)
        assert f"; {movielens.PACKAGE}: " in str(raised.value)
        assert not (tmp_path / "new").exists()


def test_only_missing_files_are_written(tmp_path, official, parquet, tables, monkeypatch):
    _write(tmp_path, {PARQUET_NAMES["u.data"]: parquet["u.data"], "u.user": official["u.user"]})
    before = (tmp_path / "u.user").stat()
    _serve_archive(monkeypatch, _archive(official))
    assert _same(movielens.load(tmp_path, True), tables)
    assert sorted(os.listdir(tmp_path)) == [PARQUET_NAMES["u.data"], "u.item", "u.user"]
    assert (tmp_path / "u.user").stat().st_mtime_ns == before.st_mtime_ns
    assert (tmp_path / "u.user").stat().st_ino == before.st_ino


def test_full_disk_leaves_whole_files_only(tmp_path, official, monkeypatch):
    _serve_archive(monkeypatch, _archive(official))
    replace = os.replace

    def fails_at_the_second(source, target):
        if Path(target).name == "u.user":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_at_the_second)
    with pytest.raises(DeepFMError) as raised:
        movielens.load(tmp_path, True)
    assert str(raised.value) == f"cannot write {tmp_path / 'u.user'}: No space left on device"
    assert raised.value.exit_code == 1
    assert os.listdir(tmp_path) == ["u.data"]
    assert (tmp_path / "u.data").read_bytes() == official["u.data"]
    monkeypatch.setattr(os, "replace", replace)
    assert movielens.download(tmp_path) == official  # the next run goes on from there


def test_read_only_directory(tmp_path, official, monkeypatch):
    _serve_archive(monkeypatch, _archive(official))
    folder = tmp_path / "data"
    folder.mkdir()
    opened = Path.open

    def read_only(path, mode="r", *args, **kwargs):  # root may write where the mode forbids it
        if path.parent == folder and mode != "r":
            raise OSError(30, "Read-only file system", str(path))
        return opened(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", read_only)
    with pytest.raises(DeepFMError) as raised:
        movielens.load(folder, True)
    assert str(raised.value) == f"cannot write {folder / 'u.data'}: Read-only file system"
    assert raised.value.exit_code == 1
    assert not os.listdir(folder)


def test_data_directory_that_is_a_file(tmp_path, official, monkeypatch):
    _serve_archive(monkeypatch, _archive(official))
    folder = tmp_path / "data"
    folder.write_bytes(b"")
    with pytest.raises(DeepFMError) as raised:
        movielens.load(folder, True)
    assert str(raised.value) == f"cannot create data_dir {folder}: File exists"


def test_download_gives_the_official_files_and_asks_nothing_when_they_are_there(
    tmp_path, movielens_dir, official
):
    for name in NAMES:
        shutil.copy(movielens_dir / name, tmp_path)
    assert movielens.download(tmp_path) == official


# --- rows ---


@pytest.mark.parametrize(
    ("name", "line", "old", "new", "message"),
    [
        ("u.data", 17, b"\t", b" ", "expected 4 tab-separated columns, found 3"),
        ("u.data", 3, b"\t", b"\t4\t", "expected 4 tab-separated columns, found 5"),
        ("u.data", 1, b"196\t242\t3", b"196\t242\tx", "rating: expected a whole number, found 'x'"),
        ("u.data", 1, b"\t242\t", b"\t-242\t", "movie_id: expected a whole number, found '-242'"),
        ("u.data", 1, b"196\t", b"9" * 19 + b"\t", f"expected a whole number, found '{'9' * 19}'"),
        ("u.user", 2, b"|", b"", "expected 5 pipe-separated columns, found 4"),
        ("u.user", 20, b"|", b"||", "expected 5 pipe-separated columns, found 6"),
        ("u.user", 1, b"|24|", b"|young|", "age: expected a whole number, found 'young'"),
        ("u.item", 5, b"|", b"\t", "expected 24 pipe-separated columns, found 23"),
        ("u.item", 1, b"1|", b"1||", "expected 24 pipe-separated columns, found 25"),
        ("u.item", 1, b"1|Toy", b"one|Toy", "movie_id: expected a whole number, found 'one'"),
        ("u.item", 1, b"|1|1|1|", b"|1|2|1|", "Children's: expected 0 or 1, found '2'"),
    ],
)
def test_malformed_row_is_named_by_file_and_line(first_rows, name, line, old, new, message):
    lines = first_rows[name].split(b"\n")
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    with pytest.raises(DataError) as raised:
        movielens.parse(first_rows | {name: b"\n".join(lines)})
    assert str(raised.value).startswith(f"{name}:{line}: ")
    assert str(raised.value).endswith(message)


@pytest.mark.parametrize("name", NAMES)
def test_empty_file_and_blank_line_are_malformed(first_rows, name):
    with pytest.raises(DataError, match=rf"^{name}:1: expected .* columns, found 1$"):
        movielens.parse(first_rows | {name: b""})
    with pytest.raises(DataError, match=rf"^{name}:21: expected .* columns, found 1$"):
        movielens.parse(first_rows | {name: first_rows[name] + b"\n"})
