"""Files that stand alone in an archive, from any reader; and files that have no header."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import yaml

from deepfm.cli import main
from deepfm.data.files.packed import file_ending
from deepfm.data.files.read import read_rows
from deepfm.errors import DataError

ROWS = {"a": ["1", "2", "3"], "b": ["x", "y,z", None]}
CSV = b'a,b\n1,x\n2,"y,z"\n3,\n'


def parquet() -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(ROWS), sink)
    return sink.getvalue()


def archive(path: Path, files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def table(path: Path, **options) -> dict[str, list]:
    return pa.concat_tables([rows.table for rows in read_rows([path], **options)]).to_pydict()


@pytest.mark.parametrize("name", ["train.zip", "train.csv.zip"])
@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
@pytest.mark.parametrize(
    ("inside", "content", "options"),
    [
        ("rows.csv", CSV, {}),
        ("folder/rows.csv", CSV, {"block_size": 4}),
        ("rows.tsv", b"a\tb\n1\tx\n2\ty,z\n3\t\n", {}),
        ("rows.txt", b"a;b\n1;x\n2;y,z\n3;\n", {"delimiter": ";"}),
        ("rows.parquet", parquet(), {}),
    ],
)
def test_the_file_in_an_archive_is_read_as_it_would_be_alone(
    tmp_path, name, kind, inside, content, options
):
    macos = {"__MACOSX/._rows.csv": b"?", ".DS_Store": b"?"}
    path = archive(tmp_path / name, {inside: content} | macos, kind)
    assert file_ending(path) == Path(inside).suffix
    assert table(path, **options) == ROWS


def test_rows_of_an_archive_know_where_they_stand(tmp_path):
    lines = b"".join(b"%d,%d\n" % (k, k * k) for k in range(50_000))
    path = archive(tmp_path / "rows.zip", {"rows.csv": b"a,b\n" + lines})
    parts = list(read_rows([path], block_size=1 << 16))
    assert str(parts[3].place(0)) == f"{path}:{parts[3].first}"
    assert [part.done for part in parts] == sorted(part.done for part in parts)
    assert 0 < parts[0].done < 1
    assert parts[-1].done == 1


def encrypted(path: Path) -> Path:
    """The archive with the flag of encryption in both of a file's headers."""
    content = bytearray(archive(path, {"rows.csv": CSV}).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        struct.pack_into("<H", content, content.index(signature) + offset, 1)
    path.write_bytes(content)
    return path


def damaged(path: Path) -> Path:
    content = bytearray(archive(path, {"rows.csv": CSV}, zipfile.ZIP_STORED).read_bytes())
    content[content.index(b"y,z")] ^= 1
    path.write_bytes(content)
    return path


def cut(path: Path) -> Path:
    content = archive(path, {"rows.csv": CSV * 100}).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: archive(path, {f"{k}.csv": CSV for k in "abcde"}),
            r"expected an archive of one file, found 5 \(a\.csv, b\.csv, c\.csv, …\); unpack it",
        ),
        (lambda path: archive(path, {}), "expected an archive of one file, found none"),
        (lambda path: archive(path, {"folder/": b""}), "one file, found none"),
        (lambda path: archive(path, {"a.csv.gz": b""}), r"a\.csv\.gz in it is packed itself"),
        (lambda path: archive(path, {"b.zip": b""}), r"b\.zip in it is packed itself"),
        (lambda path: archive(path, {"a.csv": CSV}, zipfile.ZIP_LZMA), "in an unusual way"),
        (lambda path: archive(path, {"a.xlsx": b"PK"}), r"\.xlsx cannot be read; expected text"),
        (lambda path: archive(path, {"a.parquet": b"PAR1"}), "damaged, or no Parquet file"),
        (lambda path: archive(path, {"a.csv": b""}), "the file is empty"),
        (encrypted, r"rows\.csv in it is encrypted; unpack it first"),
        (damaged, "cannot be read: .*CRC"),
        (cut, "damaged, or no archive"),
    ],
)
def test_an_archive_that_cannot_be_read_is_one_line(tmp_path, make, message):
    path = make(tmp_path / "train.zip")
    with pytest.raises(DataError, match=rf"train\.zip: .*{message}") as caught:
        table(path)
    assert "\n" not in str(caught.value)


# --- from the command line ---------------------------------------------------------------------


def clicks(count: int = 300) -> bytes:
    rng = np.random.default_rng(0)
    city = rng.integers(0, 6, count)
    rows = {"city": [f"c{k}" for k in city], "price": rng.integers(1, 99, count)}
    rows["click"] = city % 2
    sink = io.BytesIO()
    pa.csv.write_csv(pa.table(rows), sink)
    return sink.getvalue()


def run(capsys, *arguments) -> tuple[int, str]:
    code = main([str(argument) for argument in arguments])
    return code, capsys.readouterr().err


def config(folder: Path, **table) -> Path:
    declared = {
        "files": "train.zip",
        "label": "click",
        "fields": {"city": {"type": "sparse"}, "price": {"type": "dense"}},
    }
    raw = {
        "device": "cpu",
        "output_dir": str(folder / "run"),
        "data": {
            "dataset_name": "tabular",
            "data_dir": str(folder),
            "store_dir": str(folder / "stores"),
            "split_strategy": "random",
            "table": declared | table,
        },
        "dnn": {"hidden_units": [4]},
        "training": {"epochs": 1},
    }
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_archives_are_described_trained_on_and_predicted(tmp_path, capsys):
    archive(tmp_path / "train.zip", {"rows.csv": clicks()})
    describe = ("describe", "--data", tmp_path / "train.zip", "--output", tmp_path / "d.yaml")
    assert run(capsys, *describe)[0] == 0
    assert "files: train.zip" in (tmp_path / "d.yaml").read_text()
    assert run(capsys, "train", "--config", config(tmp_path))[0] == 0
    best = tmp_path / "run" / "best_model.pt"
    (tmp_path / "new.csv").write_bytes(clicks(40))
    archive(tmp_path / "new.csv.zip", {"new.csv": clicks(40)})
    found = []
    for name in ("new.csv", "new.csv.zip"):
        output = tmp_path / f"{name}.parquet"
        predict = ("predict", "--checkpoint", best, "--input", tmp_path / name)
        assert run(capsys, *predict, "--output", output) == (0, "")
        found.append(pyarrow.parquet.read_table(output))
    assert found[0].equals(found[1])
    assert found[0].num_rows == 40


def test_a_delimiter_holds_for_what_is_like_the_training_archive(tmp_path, capsys):
    content = clicks().replace(b",", b";").replace(b'"', b"")
    archive(tmp_path / "train.zip", {"rows.csv": content})
    assert run(capsys, "train", "--config", config(tmp_path, delimiter=";"))[0] == 0
    (tmp_path / "new.csv").write_bytes(content)
    predict = ("predict", "--checkpoint", tmp_path / "run" / "best_model.pt")
    files = ("--input", tmp_path / "new.csv", "--output", tmp_path / "out.csv")
    assert run(capsys, *predict, *files) == (0, "")


def test_a_file_without_a_header_is_called_that(tmp_path, capsys):
    archive(tmp_path / "train.zip", {"rows.csv": clicks()})
    assert run(capsys, "train", "--config", config(tmp_path, bad_values="unknown"))[0] == 0
    rows = clicks(20).split(b"\n", 1)[1].replace(b'"', b"")
    (tmp_path / "new.csv").write_bytes(rows)
    predict = ("predict", "--checkpoint", tmp_path / "run" / "best_model.pt")
    files = ("--input", tmp_path / "new.csv", "--output", tmp_path / "out.csv")
    code, errors = run(capsys, *predict, *files)
    first = rows.split(b"\n")[0].decode().replace(",", ", ")
    assert code == 2
    assert f"new.csv:1: no column 'city'; its first line ({first}) looks like a row" in errors
    assert "data.table.columns: [first, second, …]" in errors
    assert not (tmp_path / "out.csv").exists()

    (tmp_path / "train.csv").write_bytes(rows)
    code, errors = run(
        capsys, "train", "--overwrite", "--config", config(tmp_path, files="train.csv")
    )
    assert code == 2
    assert f"train.csv: no column 'city'; its first line ({first}) looks like a row" in errors


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("1,0,0\n", True),  # a name that is given twice
        ("a,,b\nx,y,z\n", True),
        ("a,b,c\n1,2,3\n", False),
        ("a,b,a\n1,2,3\n", False),
    ],
)
def test_a_header_is_not_taken_for_a_row(tmp_path, text, hint):
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        list(read_rows([path], only=["missing"]))
    assert ("looks like a row" in str(caught.value)) == hint


def test_text_of_another_ending_needs_a_delimiter(tmp_path):
    (tmp_path / "rows.txt").write_text("a b\n1 2\n")
    with pytest.raises(DataError, match=r"or a delimiter \(data\.table\.delimiter\)"):
        table(tmp_path / "rows.txt")
    assert table(tmp_path / "rows.txt", delimiter=" ") == {"a": ["1"], "b": ["2"]}
