"""Fingerprints: content and nothing else; times only decide whether a file is read again."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from deepfm.data import fingerprint
from deepfm.data.fingerprint import FilesRead, Fingerprint, of_tables
from deepfm.errors import DataError


@pytest.fixture
def files(tmp_path) -> dict[str, list[Path]]:
    for name in ("a.csv", "b.csv", "users.csv"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
        os.utime(tmp_path / name, (1, 1))
    return {"rows": [tmp_path / "a.csv", tmp_path / "b.csv"], "users": [tmp_path / "users.csv"]}


@pytest.fixture
def settled(monkeypatch):
    """Files count as old at once: their clock is not coarse."""
    monkeypatch.setattr(fingerprint, "_COARSE", -(10**12))


def read(files, tmp_path, **keywords) -> FilesRead:
    return FilesRead(files, cache=tmp_path / "digests.json", **keywords)


def reads(monkeypatch) -> list[str]:
    """Names of the files that are read from here on."""
    found, real = [], fingerprint._chunks

    def chunks(path, hashed):
        found.append(path.name)
        yield from real(path, hashed)

    monkeypatch.setattr(fingerprint, "_chunks", chunks)
    return found


def test_plain_data_reads_back(files, tmp_path):
    found = read(files, tmp_path).fingerprint
    again = Fingerprint.from_plain(json.loads(json.dumps(found.to_plain())))
    assert again.parts == found.parts
    assert {role: len(parts) for role, parts in found.parts.items()} == {"rows": 2, "users": 1}


def test_other_names_times_and_places_are_the_same_data(files, tmp_path):
    before = read(files, tmp_path).fingerprint
    (tmp_path / "moved").mkdir()
    moved = {"rows": [], "users": []}
    for role, paths in files.items():
        for number, path in enumerate(paths):
            moved[role].append(tmp_path / "moved" / f"{role}{number}")
            moved[role][-1].write_bytes(path.read_bytes())
    before.refuse_other(read(moved, tmp_path).fingerprint)


@pytest.mark.parametrize("role", ["rows", "users"])
def test_other_content_of_one_size_names_the_file(files, tmp_path, role):
    before = read(files, tmp_path).fingerprint
    path = files[role][-1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, (1, 1))
    with pytest.raises(DataError, match=f"{path.name}: its content is not what the run began with"):
        before.refuse_other(read(files, tmp_path).fingerprint)


def test_other_numbers_or_orders_of_files_are_refused(files, tmp_path):
    before = read(files, tmp_path).fingerprint
    fewer = read(files | {"rows": files["rows"][:1]}, tmp_path).fingerprint
    with pytest.raises(DataError, match=r"b\.csv: the run began with 2 files of rows, now there"):
        before.refuse_other(fewer)
    with pytest.raises(DataError, match=r"b\.csv: the run began with 1 files of rows, now there"):
        fewer.refuse_other(before)
    turned = read(files | {"rows": files["rows"][::-1]}, tmp_path).fingerprint
    with pytest.raises(DataError, match=r"b\.csv: its content .* \(.*a\.csv then\)"):
        before.refuse_other(turned)
    with pytest.raises(DataError, match=r"users\.csv: the run began with 1 files of users"):
        before.refuse_other(read({"rows": files["rows"]}, tmp_path).fingerprint)


def test_a_file_is_read_once_as_long_as_it_does_not_change(files, tmp_path, settled, monkeypatch):
    read(files, tmp_path)
    found = reads(monkeypatch)
    read(files, tmp_path)
    assert found == []
    read(files, tmp_path, full=True)
    assert found == ["a.csv", "b.csv", "users.csv"]


def test_a_change_with_the_size_and_mtime_of_before_is_noticed(
    files, tmp_path, settled, monkeypatch
):
    before, path = read(files, tmp_path).fingerprint, files["rows"][0]
    found = reads(monkeypatch)
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(3000)
        file.write(b"X")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    after = read(files, tmp_path).fingerprint
    assert found == ["a.csv"]
    assert before.content(["rows"]) != after.content(["rows"])


def test_a_file_that_has_just_changed_is_read_again(files, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "_COARSE", 10**18)
    read(files, tmp_path)
    found = reads(monkeypatch)
    read(files, tmp_path)
    assert len(found) == 3


def test_a_wrong_digest_that_was_kept_refuses_nothing(files, tmp_path, settled):
    before = read(files, tmp_path).fingerprint
    kept = json.loads((tmp_path / "digests.json").read_text())
    kept[str(files["rows"][0])][-1] = "0" * 32
    (tmp_path / "digests.json").write_text(json.dumps(kept))
    again = read(files, tmp_path)
    assert again.fingerprint.parts != before.parts
    again.refuse_unless(before)
    assert again.fingerprint.parts == before.parts


@pytest.mark.parametrize("text", ["", "[1]", "nothing", '{"a": 1}', "[" * 100_000])
def test_damaged_digests_are_left_out(files, tmp_path, text):
    expected = read(files, tmp_path).fingerprint.parts
    (tmp_path / "digests.json").write_text(text)
    assert read(files, tmp_path).fingerprint.parts == expected


def test_a_file_that_is_written_meanwhile_is_refused(files, tmp_path):
    found = read(files, tmp_path)
    found.refuse_changed()
    with files["rows"][1].open("ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match=r"b\.csv: changed while it was read"):
        found.refuse_changed()


def test_reading_much_is_said(files, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fingerprint, "_LARGE", 10_000)
    with caplog.at_level("INFO", logger="deepfm"):
        read(files, tmp_path)
    assert "in 3 files for their checksums, once as long as they do not change" in caplog.text


def test_tables_are_compared_by_their_values():
    rng = np.random.default_rng(0)

    def table(**changes) -> dict[str, pa.Table]:
        columns = {
            "id": rng_ids, "name": ["x", None, "é"] * 40, "tags": [["a"], [], None] * 40,
            "rate": rates,
        }  # fmt: skip
        return {"items": pa.table(columns | changes)}

    rng_ids, rates = rng.integers(0, 9, 120), rng.random(120)
    before = of_tables("films", table())
    pieces = {"items": pa.concat_tables([table()["items"].slice(0, 7), table()["items"].slice(7)])}
    before.refuse_other(of_tables("films", pieces))
    for change in (
        {"name": ["x", "", "é"] * 40},
        {"tags": [["a"], None, None] * 40},
        {"rate": rates + 1e-12},
        {"id": rng_ids[::-1]},
    ):
        with pytest.raises(DataError, match="films: items: its content is not what the run began"):
            before.refuse_other(of_tables("films", table(**change)))


@pytest.mark.parametrize("path", ["/dev/zero", "."])
def test_what_is_no_file_is_not_read(tmp_path, path):
    with pytest.raises(DataError, match="expected a file"):
        read({"rows": [Path(path)]}, tmp_path)
