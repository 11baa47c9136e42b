"""Data and checkpoints in an object store: what every command does with them, and with faults.

The store is an emulator of S3 (`tests.buckets`), behind a proxy that fails on purpose.
"""

import gzip
import io
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from deepfm import api, preparing
from deepfm.checkpoint import load_checkpoint
from deepfm.cli import main
from deepfm.data.files.read import read_rows
from deepfm.errors import CheckpointError, ConfigError, DataError, MissingDataError
from tests import clicks, untrained
from tests.buckets import SECRET
from tests.faults import cuts, does_first, refuses


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a run on local rows, with these beside it."""
    folder = tmp_path_factory.mktemp("local")
    clicks.trained(folder)
    return folder / "run"


@pytest.fixture
def rows(bucket, run) -> str:
    return bucket.put("data/rows.csv", (run.parent / "rows.csv").read_bytes())


@pytest.fixture
def checkpoint(bucket, run) -> str:
    return bucket.put("run/best_model.pt", (run / "best_model.pt").read_bytes())


def said(capsys) -> str:
    """The last line that a command said."""
    return capsys.readouterr().err.strip().splitlines()[-1]


def tables(paths) -> pa.Table:
    return pa.concat_tables(rows.table for rows in read_rows(paths))


FORMS = ("rows.csv", "rows.tsv", "rows.csv.gz", "rows.csv.zst", "rows.csv.zip", "rows.parquet")


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_file_reads_alike(bucket, tmp_path, name):
    table = clicks.write_rows(tmp_path)
    file = io.BytesIO()
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(table, file, row_group_size=100)
    else:
        options = pyarrow.csv.WriteOptions(
            delimiter="\t" if ".tsv" in name else ",",
            quoting_style="none" if ".tsv" in name else "needed",
            quoting_header="none" if ".tsv" in name else "needed",
        )
        pyarrow.csv.write_csv(table, file, options)
    content = file.getvalue()
    if name.endswith(".gz"):
        content = gzip.compress(content)
    elif name.endswith(".zst"):
        content = pa.compress(content, "zstd", asbytes=True)
    elif name.endswith(".zip"):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("rows.csv", content)
        content = packed.getvalue()
    (tmp_path / name).write_bytes(content)
    uri = bucket.put(name, content)
    assert tables([uri]).equals(tables([tmp_path / name]))
    if name.endswith((".csv", ".parquet")):
        batches = list(read_rows([uri], block_size=3000))
        assert len(batches) > 2
        assert str(batches[-1].place(0)).startswith(f"{uri}:")


def test_a_mistake_in_a_row_has_its_uri_and_line(bucket):
    uri = bucket.put("rows.csv", b"a,b\n1,2\n1,2,3\n")
    with pytest.raises(DataError) as caught:
        tables([uri])
    assert str(caught.value) == f"{uri}:3: expected 2 columns, found 3"


@pytest.mark.parametrize("form", ["data_dir", "uris", "mixed"])
def test_a_store_of_remote_rows_is_that_of_local_ones(bucket, tmp_path, form):
    """With a side table, a vocabulary file, validation files of their own, and globs."""
    for name, seed in (("a.csv", 1), ("b.csv", 2), ("v.csv", 3), ("t.csv", 4)):
        clicks.write_rows(tmp_path, name, seed=seed, count=300)
    (tmp_path / "users.csv").write_text(
        "user,city\n" + "".join(f"{k},{'ab'[k % 2]}\n" for k in range(40))
    )
    (tmp_path / "colors.txt").write_text("".join(f"c{k} {k}\n" for k in range(6)))
    for path in tmp_path.iterdir():
        bucket.put(f"data/{path.name}", path.read_bytes())
    fields = {
        "user": {"type": "sparse", "embedding_dim": 4},
        "city": {"type": "sparse", "embedding_dim": 4, "group": "user"},
        "color": {"type": "sparse", "embedding_dim": 4, "vocabulary_file": "colors.txt"},
        "size": {"type": "dense"},
    }
    table = {
        "files": ["[ab].csv"], "valid_files": ["v.csv"], "test_files": ["t.csv"],
        "users": {"files": ["users.csv"]}, "user_field": "user", "label": "click",
        "fields": fields,
    }  # fmt: skip
    changes = {"data__split_strategy": "predefined"}
    local = clicks.config(tmp_path, data__table=table, **changes)
    before = preparing.prepare_data(local)
    places = {
        "data_dir": {"data__data_dir": f"{bucket.uri}/data"},
        "uris": {},
        "mixed": {"data__data_dir": str(tmp_path)},
    }[form]
    if form == "uris":
        for owner, key in ((table, "files"), (table, "valid_files"), (table, "test_files")):
            owner[key] = [f"{bucket.uri}/data/{name}" for name in owner[key]]
        table["users"]["files"] = [f"{bucket.uri}/data/users.csv"]
        fields["color"]["vocabulary_file"] = f"{bucket.uri}/data/colors.txt"
    elif form == "mixed":
        table["files"] = [f"{bucket.uri}/data/a.csv", (tmp_path / "b.csv").as_uri()]
    remote = clicks.config(
        tmp_path, data__table=table, data__store_dir=str(tmp_path / "others"), **changes, **places
    )
    after = preparing.prepare_data(remote)
    if form != "uris":  # of a side table its settings, too, are part of the key
        assert after.name.rpartition("-")[2] == before.name.rpartition("-")[2]
    found, expected = (
        {
            path.relative_to(store): path.read_bytes()
            for path in store.rglob("*.bin")
        }
        for store in (after, before)
    )  # fmt: skip
    assert found == expected
    assert len(found) > 5


def test_a_second_run_asks_for_etags_alone(proxy, rows, tmp_path):
    config = clicks.config(tmp_path, data__table__files=[rows])
    preparing.prepare_data(config)
    proxy.asked.clear()
    preparing.prepare_data(config)
    assert {asked.method for asked in proxy.asked} == {"HEAD"}


def test_the_same_rows_in_another_place_are_the_same_data(bucket, run, rows, tmp_path):
    config = clicks.config(tmp_path, data__table__files=[rows])
    first = preparing.prepare_data(config)
    copy = bucket.put("data/copy.csv", (run.parent / "rows.csv").read_bytes())
    assert preparing.prepare_data(clicks.config(tmp_path, data__table__files=[copy])) == first


@pytest.mark.parametrize("skip", [0, 1, 2, 3])
def test_rows_that_change_while_they_are_prepared_are_refused(
    proxy, bucket, rows, tmp_path, run, skip
):
    """Whichever request the change comes before: of the checksum, or of a pass over the rows."""
    other = (run.parent / "rows.csv").read_bytes().replace(b"c1", b"c9")
    change = does_first(lambda: bucket.put("data/rows.csv", other))
    fault = proxy.fails(change, "GET", "rows.csv", skip=skip, times=1)
    config = clicks.config(
        tmp_path, data__table__files=[rows], data__store_dir=str(tmp_path / "stores")
    )
    if skip > 2:  # there is no such request
        preparing.prepare_data(config)
        assert fault.hits <= skip
        return
    with pytest.raises(DataError, match="changed while it was read") as caught:
        preparing.prepare_data(config)
    assert rows in str(caught.value)
    assert not list((tmp_path / "stores").glob("*/manifest.json"))
    preparing.prepare_data(config)  # the new rows, as they are now


def test_a_body_that_is_cut_prepares_the_same_store(proxy, rows, run, tmp_path):
    expected = preparing.prepare_data(clicks.config(run.parent))
    fault = proxy.fails(cuts(1000), "GET", "rows.csv", times=2)
    found = preparing.prepare_data(clicks.config(tmp_path, data__table__files=[rows]))
    assert fault.hits > 2
    for path in expected.rglob("*.bin"):
        assert (found / path.relative_to(expected)).read_bytes() == path.read_bytes()


def test_what_is_not_there_is_said(bucket, tmp_path):
    for pattern in ("none.csv", "none*.csv"):
        uri = f"{bucket.uri}/{pattern}"
        with pytest.raises(MissingDataError) as caught:
            preparing.prepare_data(clicks.config(tmp_path, data__table__files=[uri]))
        assert str(caught.value) == f"{uri}: no such file (from data.table and data.data_dir)"
    words = {"data__table__fields__color__vocabulary_file": f"{bucket.uri}/none.txt"}
    clicks.write_rows(tmp_path)
    with pytest.raises(MissingDataError, match=r"none\.txt: no such file"):
        preparing.prepare_data(clicks.config(tmp_path, **words))


def test_a_store_that_refuses_is_one_line(proxy, rows, tmp_path):
    for method in ("GET", "HEAD"):
        proxy.fails(refuses(503), method)
    for uri in (rows, rows.replace("rows", "r*")):
        with pytest.raises(DataError, match="cannot be listed") as caught:
            preparing.prepare_data(clicks.config(tmp_path, data__table__files=[uri]))
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(uri)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_dir": "s3://bucket/run"},
         "output_dir: expected a local path, found s3://bucket/run: a run is written there; "
         "`deepfm upload` takes it on"),
        ({"data__store_dir": "file:///stores"},
         "data.store_dir: expected a local path, found file:///stores"),
        ({"data__table__files": ["s3://AKIA:hush@bucket/rows.csv"]},
         "data.table.files: s3://…: expected a bucket and a key and nothing else"),
        ({"data__data_dir": "s3://bucket?secret_key=hush"},
         "data.data_dir: s3://…: expected a bucket and a key"),
        ({"data__table__fields__color__vocabulary_file": "s3://AKIA:hush@bucket/a.txt"},
         "data.table.fields.color.vocabulary_file: s3://…: expected"),
        ({"data__data_dir": "hdfs://node/rows"}, "data.data_dir: hdfs:// cannot be read"),
    ],
)  # fmt: skip
def test_a_config_is_checked_before_anything_is_read(tmp_path, changes, message):
    with pytest.raises(ConfigError) as caught:
        clicks.config(tmp_path, **changes)
    assert str(caught.value).startswith(message)
    assert "hush" not in str(caught.value)


def test_other_data_is_read_from_a_folder(tiny_config):
    from deepfm.config import load_config

    with pytest.raises(ConfigError, match="is read from a local folder"):
        load_config(tiny_config(data__data_dir="s3://bucket/data"))


def test_a_vocabulary_does_not_lead_out_of_a_remote_folder(bucket, tmp_path):
    changes = {
        "data__data_dir": f"{bucket.uri}/data",
        "data__table__fields__color__vocabulary_file": "../other.txt",
    }
    with pytest.raises(ConfigError, match="expected a file below s3://"):
        preparing.prepare_data(clicks.config(tmp_path, **changes))
    changes["data__table__fields__color__vocabulary_file"] = "/etc/passwd"
    with pytest.raises(ConfigError, match="expected a file below s3://"):
        preparing.prepare_data(clicks.config(tmp_path, **changes))


# Checkpoints.


def test_a_checkpoint_is_the_same_from_a_store(checkpoint, run):
    found, expected = load_checkpoint(checkpoint), load_checkpoint(run / "best_model.pt")
    assert found.to_bytes() == expected.to_bytes()


@pytest.mark.parametrize("damage", ["cut", "other byte", "no checkpoint"])
def test_a_damaged_checkpoint_is_refused_as_a_local_one(bucket, run, damage):
    content = bytearray((run / "best_model.pt").read_bytes())
    if damage == "cut":
        content = content[:-100]
    elif damage == "other byte":
        content[len(content) // 2] ^= 1
    else:
        content = b"weights"
    uri = bucket.put("damaged.pt", bytes(content))
    with pytest.raises(CheckpointError, match=uri):
        load_checkpoint(uri)


def test_a_checkpoint_that_changes_or_is_not_there_is_refused(proxy, bucket, checkpoint, run):
    with pytest.raises(CheckpointError, match=r"none\.pt: cannot be read: no such file"):
        load_checkpoint(f"{bucket.uri}/none.pt")
    with pytest.raises(CheckpointError, match=r"none\*.pt: no file has such a name"):
        api.load(f"{bucket.uri}/none*.pt")
    content = (run / "last.pt").read_bytes()
    proxy.fails(does_first(lambda: bucket.put("run/best_model.pt", content)), "GET", times=1)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        load_checkpoint(checkpoint)


def predicted(path: Path, *options: str) -> list[str]:
    return ["predict", "--output", str(path), *options]


def test_predict_reads_and_writes_elsewhere(bucket, rows, checkpoint, run, tmp_path):
    local, there = tmp_path / "p.parquet", f"{bucket.uri}/out/p.parquet"
    source = ["--checkpoint", str(run / "best_model.pt"), "--input", str(run.parent / "rows.csv")]
    assert main(predicted(local, *source)) == 0
    assert main(["predict", "--checkpoint", checkpoint, "--input", rows, "--output", there]) == 0
    expected = pyarrow.parquet.read_table(local)
    found = pyarrow.parquet.read_table(io.BytesIO(bucket.get("out/p.parquet")))
    assert found.equals(expected)


def test_several_checkpoints_match_a_pattern(bucket, checkpoint, run):
    bucket.put("run2/best_model.pt", (run / "best_model.pt").read_bytes())
    found = api.load(f"{bucket.uri}/run*/best_model.pt")
    row = [{"user": 1, "color": "c1", "size": 0.5}]
    assert len(found.model.models) == 2
    assert found.predict(row) == pytest.approx(api.load(checkpoint).predict(row))


def test_predict_replaces_nothing_unless_told(bucket, rows, checkpoint, capsys):
    there = bucket.put("out.csv", b"before")
    command = ["predict", "--checkpoint", checkpoint, "--input", rows, "--output"]
    assert main([*command, there]) == 2
    assert said(capsys).endswith(f"{there} exists already; --overwrite replaces it")
    assert main([*command, rows.replace("s3", "S3"), "--overwrite"]) == 2
    assert "is the file of --input" in said(capsys)
    assert main([*command, there, "--overwrite"]) == 0
    assert bucket.get("out.csv").startswith(b'"user"')


def test_predict_that_fails_leaves_nothing(proxy, bucket, rows, checkpoint, capsys):
    command = ["predict", "--checkpoint", checkpoint, "--output", f"{bucket.uri}/out.csv"]
    before = bucket.names
    broken = bucket.get("data/rows.csv") + b"1,c1,large,0,0,0\n"
    bad = bucket.put("bad.csv", broken)
    assert main([*command, "--input", bad]) == 2
    assert f"{bad}:1202" in said(capsys)
    change = does_first(lambda: bucket.put("data/rows.csv", broken))
    fault = proxy.fails(change, "GET", "rows.csv", skip=1, times=1)
    assert main([*command, "--input", rows]) in (1, 2)
    assert "changed while it was read" in said(capsys)
    assert fault.hits >= 1
    bucket.put("data/rows.csv", broken.rpartition(b"1,c1")[0])
    for method in ("PUT", "POST"):
        proxy.fails(refuses(503), method, "out.csv")
    assert main([*command, "--input", rows]) == 1
    assert f"cannot write {bucket.uri}/out.csv: " in said(capsys)
    assert bucket.names == before | {"bad.csv"}


def test_evaluate_and_warm_start_read_a_checkpoint(rows, checkpoint, run, tmp_path, capsys):
    files = f"data.table.files={json.dumps([rows])}"
    stores = f"data.store_dir={tmp_path / 'stores'}"
    config = ["--config", str(run / "config.yaml"), "--override", files, stores]
    figures = []
    for command in ([checkpoint, *config], [str(run / "best_model.pt")]):
        assert main(["evaluate", "--checkpoint", *command]) == 0
        figures.append(capsys.readouterr().out.partition(" test\n")[2])
    assert "auc" in figures[0]
    assert figures[0] == figures[1]
    output = f"output_dir={tmp_path / 'warm'}"
    assert main(["train", *config, output, "--init-from", checkpoint]) == 0
    assert f"from {checkpoint}" in capsys.readouterr().out
    fingerprint = load_checkpoint(tmp_path / "warm" / "best_model.pt").fingerprint
    before = load_checkpoint(checkpoint).fingerprint
    assert fingerprint.content(["rows"]) == before.content(["rows"])
    assert fingerprint.parts["rows"][0].name == rows
    for path in (tmp_path / "warm").iterdir():
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes()
    assert main(["train", *config, output, "--resume"]) == 0


@pytest.mark.slow
def test_export_reads_a_checkpoint_and_writes_here(checkpoint, tmp_path, capsys):
    pytest.importorskip("onnxscript")
    output = tmp_path / "export"
    assert main(["export", "--checkpoint", checkpoint, "--output", str(output)]) == 0
    made_of = json.loads((output / "manifest.json").read_text())["checkpoints"]
    assert [one["file"] for one in made_of] == ["best_model.pt"]
    assert main(["export", "--checkpoint", checkpoint, "--output", "s3://bucket/export"]) == 2
    assert "expected a local path" in said(capsys)


def test_calibrate_writes_here(checkpoint, capsys):
    assert main(["calibrate", "--checkpoint", checkpoint]) == 2
    assert "a calibrated checkpoint is written to this machine" in said(capsys)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "--config", "s3://bucket/a.yaml"], "a config is read from this machine"),
        (["predict", "--checkpoint", "a.pt", "--input", "http://h/a.csv", "--output", "a.csv"],
         "http:// cannot be read or written"),
        (["predict", "--checkpoint", "a.pt", "--input", "a.csv", "--output", "s3://k:hush@b/a.csv"],
         "s3://…: expected a bucket and a key"),
        (["predict", "--checkpoint", "s3://k:hush@b/a.pt", "--input", "a.csv", "--output", "b.csv"],
         "s3://…: expected a bucket and a key"),
        (["predict", "--checkpoint", "a.pt", "--input", "a.csv", "--output", "s3://b/a.zip"],
         "s3://b/a.zip: expected a file that ends in .csv"),
        (["describe", "s3://bucket/a.csv"], "describe reads and writes on this machine"),
    ],
)  # fmt: skip
def test_commands_refuse_what_they_cannot_read(command, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    found = capsys.readouterr().err
    assert message in found
    assert "hush" not in found
    assert list(tmp_path.iterdir()) == []


def test_recommend_reads_a_checkpoint(bucket, tmp_path, capsys):
    local = untrained.of_ranking(tmp_path / "ranking.pt")
    lists = []
    for path in (local, bucket.put("ranking.pt", local.read_bytes())):
        assert main(["recommend", "--checkpoint", str(path), "--user", "3", "--top", "4"]) == 0
        lists.append(capsys.readouterr().out)
    assert lists[0] == lists[1]
    assert len(lists[0].splitlines()) == 4
