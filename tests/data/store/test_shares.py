"""Stores made by several processes: every byte is the one that a single process writes."""

import dataclasses
import gzip
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml

from deepfm.config import config_from_dict
from deepfm.data.declared import declared_schema, label_rules
from deepfm.data.encoding import learnt, moments
from deepfm.data.splits import SPLITS
from deepfm.data.store import build, stream
from deepfm.data.store.prepare import prepare
from deepfm.errors import ConfigError, DataError, DeepFMError
from tests.data.store import test_store_histories as histories
from tests.data.store.test_store import DECLARED, FIELDS, config, rows, write_table
from tests.data.test_extensions import EveryFourth

MORE = {
    "all": {"type": "sequence", "column": "tags", "separator": "|"},
    "bins": {"type": "dense", "column": "price", "dense_embedding": "piecewise", "missing": "mean"},
    "clipped": {"type": "dense", "column": "id", "scale": "standard", "clip": 0.1},
    "spread": {"type": "dense", "column": "id", "scale": "min_max"},
}
CITY = {"city": {"type": "sparse"}}


def copied(value):
    return pickle.loads(pickle.dumps(value))


class InThisProcess:
    """Does the work of several processes, each with copies of what it is sent."""

    def __init__(self, count, shared):
        self.count, self._shared = count, shared

    def map(self, function, tasks, report=lambda done, rows: None):
        if self.count == 1:
            return [function(self._shared, task, report) for task in tasks]
        sent = [pickle.dumps((self._shared, task)) for task in tasks]
        return [copied(function(*pickle.loads(given), report)) for given in sent]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def in_this_process(monkeypatch):
    """Shares without processes, few rows at once, small blocks of moments and samples."""
    monkeypatch.setattr(build, "Processes", InThisProcess)
    monkeypatch.setattr(stream, "BLOCK_SIZE", 3000)
    monkeypatch.setattr(moments, "MOMENTS_BLOCK", 64)
    monkeypatch.setattr(learnt, "SAMPLE", 128)


def store_of(used, workers: int, folder: Path) -> dict[str, bytes]:
    """All files of the store that so many processes make, by name."""
    used = dataclasses.replace(used, data=dataclasses.replace(used.data, store_dir=str(folder)))
    schema = declared_schema(used)
    path = prepare(used.data, schema, labels=label_rules(used, schema), workers=workers)
    assert sorted(one.name for one in folder.iterdir() if one.is_dir()) == [path.name]
    assert "share0" not in os.listdir(path)
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*.*")}


def check(used, folder: Path, *counts: int) -> dict[str, bytes]:
    expected = store_of(used, 1, folder / "one")
    assert "manifest.json" in expected
    for workers in counts:
        found = store_of(used, workers, folder / f"by_{workers}")
        assert found.keys() == expected.keys()
        assert [name for name in found if found[name] != expected[name]] == []
    return expected


@pytest.fixture
def folder(tmp_path):
    """700 rows in two files."""
    table = rows(700)
    write_table(tmp_path / "a.csv", table.slice(0, 400))
    write_table(tmp_path / "b.csv", table.slice(400))
    return tmp_path


def test_two_processes_write_what_one_does(folder, tmp_path):
    used = config(
        folder,
        data__table__fields=FIELDS | MORE,
        data__table__sample_weight="weight",
        data__table__group_columns=["city", "id"],
    )
    found = check(used, tmp_path / "stores", 2)
    assert len(found["train/sequence2_ids.bin"]) > len(found["valid/sequence2_ids.bin"]) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"data__table__fields": FIELDS | MORE, "data__table__sample_weight": "weight"},
        {"data__stratify": True, "data__table__fields": FIELDS},
        {
            "data__split_strategy": "time",
            "data__table__time_column": "when",
            "data__table__fields": CITY,
        },
        {
            "data__split_strategy": "time",
            "data__table__time_column": "id",
            "data__table__fields": FIELDS,
        },
        {
            "data__split_strategy": "predefined",
            "data__table__files": "a.csv",
            "data__table__valid_files": "b.csv",
        },
        {"data__table__fields": {"id": {"type": "sparse", "hash_buckets": 9}}},
        {
            "data__table__label": "target",
            "data__table__labels": {"target": {"column": "rate", "kind": "number"}},
            "data__table__bad_values": "drop",
            "data__table__fields": FIELDS | MORE,
        },
    ],
    ids=["random", "stratified", "dates", "times", "predefined", "declared", "dropped"],
)
def test_any_number_of_shares_make_the_same_store(folder, tmp_path, in_this_process, changes):
    check(config(folder, **changes), tmp_path / "stores", 2, 7)


def test_a_store_of_declared_ids_with_side_tables(tmp_path, in_this_process):
    table = rows(300)
    table = table.append_column("day", pa.array([text[:10] for text in table["when"].to_pylist()]))
    (tmp_path / "cities.txt").write_text("".join(f"{c}1\n" for c in "abcdefghij"))
    write_table(tmp_path / "a.csv", table)
    users = pa.table({"id": [str(k) for k in range(300)], "fame": [str(k % 7) for k in range(300)]})
    (tmp_path / "side").mkdir()
    write_table(tmp_path / "side" / "users.csv", users)
    used = config(
        tmp_path,
        data__table__users={"files": "side/users.csv"},
        data__table__user_field="user",
        data__table__fields=DECLARED
        | {
            "user": {"type": "sparse", "column": "id", "group": "user"},
            "fame": {"type": "sparse", "group": "user"},
        },
    )
    check(used, tmp_path / "stores", 3)


def quoted(table: pa.Table) -> bytes:
    """A CSV whose texts have commas, quotation marks and newlines in them."""
    lines = [",".join(table.column_names)]
    for row in table.to_pylist():
        cells = ["" if cell is None else cell for cell in row.values()]
        cells[2] = f'"{cells[2]}, ""so""\nand\n\nso"' if cells[2] else ""
        lines.append(",".join(cells))
    return ("\n".join(lines) + "\n").encode()


def test_quoted_newlines_packed_files_and_row_groups(tmp_path, in_this_process):
    table = rows(900)
    (tmp_path / "a.csv").write_bytes(quoted(table.slice(0, 300)))
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(quoted(table.slice(300, 200))))
    for name, start in (("c", 500), ("d", 700)):
        path = tmp_path / f"{name}.parquet"
        pa.parquet.write_table(table.slice(start, 200), path, row_group_size=30)
    files = ["a.csv", "b.csv.gz", "c.parquet", "d.parquet"]
    used = config(tmp_path, data__table__files=files, data__table__fields=FIELDS | MORE)
    found = check(used, tmp_path / "stores", 2, 5)
    assert sum(len(found[f"{split}/row.bin"]) for split in ("train", "valid", "test")) > 8 * 800


def test_parquet_alone(tmp_path, in_this_process):
    table = rows(400)
    ids = pa.array(list(map(int, table["id"].to_pylist())), pa.int32())
    table = table.set_column(table.column_names.index("id"), "id", ids)
    pa.parquet.write_table(table.slice(0, 250), tmp_path / "a.parquet", row_group_size=40)
    wider = table.slice(250).set_column(
        table.column_names.index("id"), "id", ids.slice(250).cast("int64")
    )
    pa.parquet.write_table(wider, tmp_path / "b.parquet", row_group_size=40)
    used = config(tmp_path, data__table__files="*.parquet", data__table__fields=FIELDS | MORE)
    check(used, tmp_path / "stores", 3)


@pytest.mark.parametrize("split", ["random", "time", "predefined"])
def test_histories_of_shares(tmp_path, in_this_process, split):
    histories.written(tmp_path, histories.rows(), split)
    found = check(histories.config(tmp_path, split), tmp_path / "stores", 3)
    assert found["history/time.bin"]


def test_several_labels(folder, tmp_path, in_this_process):
    table = {
        "files": "*.csv",
        "fields": CITY,
        "labels": {"liked": {"column": "label"}, "dear": {"column": "price", "threshold": 9}},
        "bad_values": "drop",
    }
    data = {"dataset_name": "tabular", "data_dir": str(folder), "split_strategy": "random"}
    raw = {
        "data": data | {"stratify": True, "table": table},
        "tasks": {"click": {"label": "liked"}, "expensive": {"label": "dear"}},
        "training": {"metric": "click.auc"},
    }
    check(config_from_dict(raw), tmp_path / "stores", 3)


def test_files_in_a_store_are_shared_out_too(bucket, tmp_path, in_this_process):
    table = rows(500)
    pyarrow.parquet.write_table(table.slice(300), tmp_path / "b.parquet", row_group_size=30)
    files = [
        bucket.put("data/a.csv", quoted(table.slice(0, 300))),
        bucket.put("data/b.parquet", (tmp_path / "b.parquet").read_bytes()),
    ]
    check(config(tmp_path, data__table__files=files), tmp_path / "stores", 3)


def put(path: Path, line: int, column: int, value: str) -> None:
    """Put a value into a cell of a CSV."""
    lines = path.read_text().splitlines()
    cells = lines[line - 1].split(",")
    cells[column] = value
    lines[line - 1] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize(
    ("column", "fields", "expected"),
    [
        ("label", CITY, "b.csv:250: column label: expected 0 or 1, found '7x'"),
        (
            "price",
            {"price": {"type": "dense", "scale": "standard", "missing": "zero"}},
            "b.csv:250: field price, column price: expected a number, found '7x'",
        ),
        (
            "id",
            {"id": {"type": "sparse", "num_buckets": 300}},
            "b.csv:250: field id, column id: expected a whole number, found '7x'",
        ),
    ],
)
def test_an_error_names_its_line_whoever_reads_it(
    folder, tmp_path, in_this_process, workers, column, fields, expected
):
    place = rows(1).column_names.index(column)
    put(folder / "b.csv", 250, place, "7x")
    put(folder / "b.csv", 290, place, "9x")  # the first one in the file is named
    used = config(folder, data__table__fields=fields, data__split_fractions=[0.98, 0.02, 0])
    with pytest.raises(DataError) as caught:
        store_of(used, workers, tmp_path / "stores")
    assert str(caught.value).removeprefix(f"{folder}/").startswith(expected)
    assert [one for one in (tmp_path / "stores").iterdir() if one.is_dir()] == []


def test_times_are_what_the_first_one_is(tmp_path, in_this_process):
    table = rows(200)
    when = [str(k) if k < 150 else text for k, text in enumerate(table["when"].to_pylist())]
    write_table(tmp_path / "a.csv", table.set_column(6, "when", pa.array(when)))
    used = config(
        tmp_path,
        data__split_strategy="time",
        data__table__time_column="when",
        data__table__bad_values="drop",
        data__table__fields=CITY,
    )
    found = check(used, tmp_path / "stores", 4)
    rows_kept = [np.frombuffer(found[f"{split}/row.bin"], np.int64) for split in ("train", "test")]
    assert max(map(np.max, rows_kept)) < 150


def test_an_error_crosses_processes_as_it_is(folder, tmp_path):
    put(folder / "b.csv", 250, 0, "7")
    with pytest.raises(DataError, match=r"b\.csv:250: column label: expected 0 or 1, found '7'"):
        store_of(config(folder), 2, tmp_path / "stores")
    assert [one for one in (tmp_path / "stores").iterdir() if one.is_dir()] == []


def test_a_killed_process_ends_all_with_one_line(folder, tmp_path):
    def kill():
        while not (found := multiprocessing.active_children()):
            time.sleep(0.01)
        os.kill(found[0].pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(DeepFMError, match="a process that worked for this one has died"):
        store_of(config(folder), 2, tmp_path / "stores")
    thread.join()
    assert [one for one in (tmp_path / "stores").iterdir() if one.is_dir()] == []
    assert multiprocessing.active_children() == []


def runs(process: str) -> bool:
    """Whether a process has not ended; nobody may have asked how it did."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_ends_all(folder, tmp_path):
    table = {"files": "*.csv", "label": "label", "fields": CITY}
    data = {"dataset_name": "tabular", "data_dir": str(folder), "split_strategy": "random"}
    data |= {"store_dir": str(tmp_path / "stores"), "table": table}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    command = [sys.executable, "-m", "deepfm", "prepare", "--config", "config.yaml"]
    with subprocess.Popen(
        [*command, "--workers", "2"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # the workers of pytest-xdist ignore it, and so would what they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while len(children.read_text().split()) < 2:
            time.sleep(0.01)
        started = children.read_text().split()
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate()
    while any(runs(child) for child in started):
        time.sleep(0.01)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.count("\n") == 1
    assert errors.startswith("warning: stopped; what was written of it is removed")
    assert [one for one in (tmp_path / "stores").iterdir() if one.is_dir()] == []


def test_rows_that_have_to_come_in_order_are_not_shared(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(SPLITS, EveryFourth.name, EveryFourth)
    used = config(folder, data__split_strategy=EveryFourth.name)
    assert store_of(used, 1, tmp_path / "one")
    with pytest.raises(ConfigError, match="every_fourth goes through all rows in their order"):
        store_of(used, 2, tmp_path / "two")


def test_a_worker_needs_no_torch():
    code = "import sys, deepfm.data.store.share_work; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_the_command_needs_no_torch(folder, tmp_path, workers):
    """Which takes seconds to load, longer than a small table takes to be encoded."""
    used = config(folder, data__store_dir=str(tmp_path / "stores"))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(used.to_dict()))
    code = (
        "import sys; from deepfm.cli import main; code = main(sys.argv[1:]); "
        "print('code', code, 'torch' in sys.modules)"
    )
    arguments = ["prepare", "--config", str(tmp_path / "run.yaml"), "--workers", str(workers)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("code 0 False\n")
    assert [path for path in (tmp_path / "stores").iterdir() if path.is_dir()]


def test_there_is_a_worker(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"--workers: expected at least 1, found 0"):
        store_of(config(folder), 0, tmp_path / "stores")
