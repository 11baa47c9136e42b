"""Stores of declared tables: equal to the encoders bit for bit, whole or absent, not in memory."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from deepfm import experiment
from deepfm.checkpoint import RunDirectory, load_checkpoint
from deepfm.config import ExperimentConfig, config_from_dict
from deepfm.data.batch import Ragged
from deepfm.data.declared import label_rules
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.files.read import read_rows
from deepfm.data.files.writer import TableWriter
from deepfm.data.labels import group_ids
from deepfm.data.sources import tabular
from deepfm.data.split_parts import RandomSplit
from deepfm.data.store import arrays, stream
from deepfm.data.store.encoders_file import digest_of_encoders
from deepfm.data.store.opening import Store, open_store
from deepfm.data.store.prepare import prepare
from deepfm.errors import CheckpointError, ConfigError, DataError, DeepFMError
from deepfm.experiment import load_data
from deepfm.prediction import Predictor

FIELDS = {
    "city": {"type": "sparse", "min_count": 2},
    "number": {"type": "sparse", "column": "id"},
    "hashed": {"type": "sparse", "column": "id", "hash_buckets": 13},
    "level": {"type": "sparse", "column": "price", "quantiles": 4},
    "zone": {"type": "sparse", "column": "city", "transform": "prefix(1)"},
    "seen": {"type": "sparse", "column": "when", "transform": "hour()"},
    "count": {"type": "sparse", "column": "price", "transform": "criteo_log()"},
    "cost": {"type": "dense", "column": "price", "scale": "standard", "missing": "indicator"},
    "rate": {"type": "dense", "scale": "log1p", "missing": "zero", "bad_values": "unknown"},
    "age": {"type": "dense", "bad_values": "drop", "missing": "mean"},
    "tags": {"type": "sequence", "separator": "|", "max_length": 3, "keep": "last"},
    "words": {"type": "sequence", "column": "tags", "separator": "|", "max_length": 2},
    "liked": {"type": "sparse", "column": "other", "embedding_name": "city", "min_count": 2},
}


def rows(count: int, seed: int = 0) -> pa.Table:
    """Raw text rows with gaps, rare values and cells that cannot be read."""
    rng = np.random.default_rng(seed)

    def some(values: np.ndarray, missing: float) -> list:
        gone = rng.random(count) < missing
        return [None if g else str(v) for v, g in zip(values, gone, strict=True)]

    letters = np.array(list("abcdefghij"))
    age = np.array(rng.integers(1, 90, count), dtype=object)
    age[rng.random(count) < 0.05] = "old"
    rate = np.array(np.round(rng.random(count), 3), dtype=object)
    rate[rng.random(count) < 0.05] = "?"
    tags = ["|".join(rng.choice(letters, n)) for n in rng.integers(0, 6, count)]

    def name() -> np.ndarray:
        return np.char.add(rng.choice(letters, count), rng.integers(0, 9, count).astype(str))

    day, hour = rng.integers(1, 29, count), rng.integers(0, 24, count)
    columns = {
        "label": [str(v) for v in rng.integers(0, 2, count)],
        "weight": [str(v) for v in np.round(rng.random(count) + 0.5, 2)],
        "city": some(name(), 0.1),
        "other": some(name(), 0.1),
        "id": some(rng.integers(0, 300, count), 0.0),
        "price": some(np.round(rng.lognormal(2, 2, count), 2), 0.2),
        "when": [f"2024-01-{d:02d} {h:02d}:00:00" for d, h in zip(day, hour, strict=True)],
        "rate": [str(v) for v in rate],
        "age": [str(v) for v in age],
        "tags": [tag or None for tag in tags],
    }
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def read_table(*paths: Path) -> pa.Table:
    return pa.concat_tables([part.table for part in read_rows(paths)])


def write_table(path: Path, table: pa.Table) -> None:
    with TableWriter(path) as writer:
        writer.write(table)


def config(folder: Path, **changes: object) -> ExperimentConfig:
    """A table in the folder's *.csv; `changes` are dotted keys with `__` for the dot."""
    raw: dict = {
        "device": "cpu",
        "output_dir": str(folder / "run"),
        "data": {
            "dataset_name": "tabular",
            "data_dir": str(folder),
            "store_dir": str(folder / "stores"),
            "split_strategy": "random",
            "table": {"files": "*.csv", "label": "label", "fields": FIELDS},
        },
        "dnn": {"hidden_units": [8]},
        "training": {"epochs": 2, "batch_size": 64, "metric": "logloss"},
    }
    for key, value in changes.items():
        *sections, last = key.split("__")
        below = raw
        for section in sections:
            below = below.setdefault(section, {})
        below[last] = value
    return config_from_dict(raw)


def made(used: ExperimentConfig, encoders: Encoders | None = None) -> Store:
    schema = tabular.schema(used.data.table)
    path = prepare(used.data, schema, encoders, labels=label_rules(used, schema))
    return open_store(path, used.data, schema)


@pytest.fixture
def folder(tmp_path) -> Path:
    """700 rows in two files."""
    table = rows(700)
    write_table(tmp_path / "a.csv", table.slice(0, 400))
    write_table(tmp_path / "b.csv", table.slice(400))
    return tmp_path


def whole(folder: Path) -> pa.Table:
    return read_table(folder / "a.csv", folder / "b.csv")


def everything(found: Store) -> list[torch.Tensor]:
    """All arrays of all splits."""
    return [
        torch.as_tensor(array)
        for part in found.parts.values()
        for array in (*part.inputs[:2], *part.inputs[2], *part.inputs[3], part.label, part.row)
    ]


def test_a_store_holds_what_the_encoders_give_bit_for_bit(folder, monkeypatch):
    raw = whole(folder)
    # batches of about 30 rows, encoded by several threads, must not differ from all at once
    monkeypatch.setattr(stream, "BLOCK_SIZE", 2000)
    used = config(folder, data__table__sample_weight="weight")
    found = made(used)
    label = np.array(raw["label"].to_pylist(), np.float32)
    weight = np.array(raw["weight"].to_pylist(), np.float32)
    kept = np.array([age != "old" for age in raw["age"].to_pylist()])
    numbers = np.concatenate([part.row for part in found.parts.values()])
    assert sorted(numbers.tolist()) == np.flatnonzero(kept).tolist()
    for part in found.parts.values():
        assert (np.diff(part.row) > 0).all()
        expected = found.encoders.encode(raw.take(part.row))
        batch = part[torch.arange(len(part))]
        for got, want in (
            (batch.inputs.sparse, expected.sparse),
            (batch.inputs.dense, expected.dense),
            *zip(batch.inputs.sequence_ids, expected.sequence_ids, strict=True),
            *zip(batch.inputs.sequence_lengths, expected.sequence_lengths, strict=True),
        ):
            assert got.dtype == want.dtype
            assert torch.equal(got, want)
        np.testing.assert_array_equal(batch.label, label[part.row])
        np.testing.assert_array_equal(batch.weight, weight[part.row])
    train = raw.take(found.parts["train"].row)
    again = Encoders.fit(tabular.schema(used.data.table), train)
    assert digest_of_encoders(found.encoders) == digest_of_encoders(again)
    assert found.encoders.schema == again.schema
    assert found.summary == {
        "rows": {part: len(rows) for part, rows in found.parts.items()},
        "dropped": int((~kept).sum()),
        "bad_values": {
            "age": int((~kept).sum()),
            "rate": Counter(
                rate for rate, k in zip(raw["rate"].to_pylist(), kept, strict=True) if k
            )["?"],
        },
    }


def test_ids_are_stored_as_int32_and_mapped_without_a_copy(folder):
    found = made(config(folder))
    inputs = found.parts["train"].inputs
    assert inputs.sparse.dtype == inputs.sequence_ids[0].dtype == torch.int32
    assert not found.parts["train"].row.flags.writeable
    with open("/proc/self/maps") as maps:
        assert any("train/sparse.bin" in line and "r--" in line for line in maps)


def advice(path: str) -> str:
    """What the system was told of the mapping of a file, as `/proc` has it."""
    found = ""
    with open("/proc/self/smaps") as lines:
        for line in lines:
            if line.startswith("VmFlags:") and found == path:
                return line
            if "-" in line.split(" ", 1)[0]:
                found = path if line.rstrip().endswith(path) else ""
    raise AssertionError(f"{path} is not mapped")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(("memory", "is_alone"), [(1, True), (1 << 40, False), (None, False)])
def test_rows_alone_are_read_where_a_store_is_larger_than_memory(
    folder, monkeypatch, memory, is_alone
):
    monkeypatch.setattr("deepfm.data.store.mapped.total_memory", lambda: memory)
    found = made(config(folder))
    name = str(found.path.resolve())
    assert (" rr" in advice(f"{name}/train/sparse.bin")) == is_alone
    for read_in_order in ("train/label.bin", "valid/sparse.bin"):
        assert " rr" not in advice(f"{name}/{read_in_order}")


@pytest.mark.parametrize("fractions", [[0.8, 0.1, 0.1], [0.6, 0.4, 0.0]])
def test_a_random_split_is_made_of_row_numbers_over_all_files(folder, fractions):
    used = config(folder, data__split_fractions=fractions, data__split_seed=5)
    found = made(used)
    expected = RandomSplit(tuple(fractions), 5).parts(np.arange(700))
    for number, (name, part) in enumerate(found.parts.items()):
        assert set(part.row.tolist()) <= set(np.flatnonzero(expected == number).tolist()), name
    assert ("test" in found.parts) == (fractions[2] > 0)


def test_a_stratified_split_has_equal_shares_of_positives(folder):
    fields = {"city": {"type": "sparse"}}
    used = config(folder, data__stratify=True, data__table__fields=fields)
    found = made(used)
    labels = np.array(whole(folder)["label"].to_pylist(), int)
    for share, part in zip(used.data.split_fractions, found.parts.values(), strict=True):
        for label in (0, 1):
            count = int((part.label.numpy() == label).sum())
            assert abs(count - share * (labels == label).sum()) <= 1


def of_kind(folder: Path, kind: str, column: str, **changes: object) -> ExperimentConfig:
    labels = {"target": {"column": column, "kind": kind}}
    small = {"data__table__fields": {"city": {"type": "sparse"}}, "data__table__label": "target"}
    return config(folder, data__table__labels=labels, **small, **changes)


def test_labels_of_classes_and_their_stratified_split(folder):
    raw = whole(folder)
    ids = np.array(raw["id"].to_pylist(), int)
    found = made(of_kind(folder, "class", "id", num_class=300, data__stratify=True))
    for part in found.parts.values():
        np.testing.assert_array_equal(part.label, ids[part.row])
    train = np.bincount(found.parts["train"].label.numpy().astype(int), minlength=300)
    assert np.abs(train - 0.8 * np.bincount(ids, minlength=300)).max() <= 1


def test_a_class_that_there_is_not_names_file_and_line(folder):
    line = next(k for k, v in enumerate(whole(folder)["id"].to_pylist()) if int(v) >= 290) + 2
    used = of_kind(folder, "class", "id", num_class=290)
    with pytest.raises(
        DataError, match=rf"a.csv:{line}: column id: expected a class from 0 to 289"
    ):
        made(used)
    dropped = made(of_kind(folder, "class", "id", num_class=290, data__table__bad_values="drop"))
    assert dropped.summary["dropped"] == sum(int(v) >= 290 for v in whole(folder)["id"].to_pylist())


def test_another_number_of_classes_is_another_store(folder):
    few, many = (of_kind(folder, "class", "id", num_class=n) for n in (300, 301))
    assert made(few).path == made(few).path != made(many).path
    binary = config(folder, data__table__fields={"city": {"type": "sparse"}})
    assert made(binary).path == made(dataclasses.replace(binary, num_class=2)).path


def test_labels_of_numbers(folder):
    raw = whole(folder)
    used = of_kind(folder, "number", "rate", data__table__bad_values="drop")
    found = made(used)
    rate = raw["rate"].to_pylist()
    assert found.summary["dropped"] == rate.count("?") == found.summary["bad_values"]["rate"]
    for part in found.parts.values():
        expected = np.array([float(rate[row]) for row in part.row], np.float32)
        np.testing.assert_array_equal(part.label, expected)
    with pytest.raises(DataError, match=r"csv:\d+: column rate: expected a finite number, found"):
        made(of_kind(folder, "number", "rate"))
    with pytest.raises(ConfigError, match=r"data\.stratify: the label is a number"):
        made(of_kind(folder, "number", "rate", data__stratify=True))


def test_groups_are_hashes_of_their_columns(folder, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK_SIZE", 2000)
    raw = whole(folder)
    columns = ["other", "id"]
    found = made(config(folder, data__table__group_columns=columns))
    expected = group_ids(raw, columns)
    for part in found.parts.values():
        assert part.schema.group_columns == ("other", "id")
        np.testing.assert_array_equal(part.group, expected[part.row])
        assert torch.equal(part[2:5].group, part.group[2:5])
    assert found.parts["train"].group.dtype == torch.int64
    without = made(config(folder))
    assert without.path != found.path
    assert without.parts["train"].group is None
    with pytest.raises(DataError, match=r"no column 'idd'; did you mean 'id'"):
        made(config(folder, data__table__group_columns=["idd"]))


@pytest.mark.parametrize("column", ["when", "id"])
def test_a_split_by_time_cuts_old_from_new(folder, column):
    used = config(
        folder,
        data__split_strategy="time",
        data__table__time_column=column,
        data__table__fields={"city": {"type": "sparse"}},
    )
    found = made(used)
    raw = whole(folder)[column].to_pylist()
    times = [
        [raw[row] if column == "when" else int(raw[row]) for row in p.row]
        for p in found.parts.values()
    ]
    assert max(times[0]) < min(times[1])
    assert max(times[1]) < min(times[2])
    ordered = sorted(raw if column == "when" else map(int, raw))
    assert (min(times[1]), min(times[2])) == (ordered[560], ordered[630])


def test_predefined_files_are_the_splits(folder):
    write_table(folder / "held.parquet", rows(50, seed=2))
    used = config(
        folder,
        data__split_strategy="predefined",
        data__table__files="a.csv",
        data__table__valid_files="b.csv",
        data__table__test_files="held.parquet",
    )
    raw = pa.concat_tables([whole(folder), read_table(folder / "held.parquet")])
    found = made(used)
    assert list(found.parts) == ["train", "valid", "test"]
    for part, (start, end) in zip(
        found.parts.values(), [(0, 400), (400, 700), (700, 750)], strict=True
    ):
        assert start <= part.row.min()
        assert part.row.max() < end
        assert torch.equal(part[:].inputs.sparse, found.encoders.encode(raw.take(part.row)).sparse)
    alone = made(
        config(
            folder,
            data__split_strategy="predefined",
            data__table__files="a.csv",
            data__table__valid_files="b.csv",
        )
    )
    assert list(alone.parts) == ["train", "valid"]


def test_side_tables_are_looked_up(folder):
    users = pa.table(
        {"id": [str(k) for k in range(0, 300, 2)], "fame": [str(k % 7) for k in range(150)]}
    )
    (folder / "side").mkdir()
    write_table(folder / "side" / "users.csv", users)
    used = config(
        folder,
        data__table__users={"files": "side/users.csv"},
        data__table__user_field="user",
        data__table__fields={
            "user": {"type": "sparse", "column": "id", "group": "user"},
            "fame": {"type": "sparse", "group": "user"},
            "city": {"type": "sparse"},
        },
    )
    found = made(used)
    fame = dict(zip(users["id"].to_pylist(), users["fame"].to_pylist(), strict=True))
    ids = whole(folder)["id"].to_pylist()
    known = sorted({fame[ids[row]] for row in found.parts["train"].row if ids[row] in fame})
    for part in found.parts.values():
        expected = [known.index(fame[ids[row]]) + 1 if ids[row] in fame else 0 for row in part.row]
        assert part.inputs.sparse[:, 1].tolist() == expected
    assert found.users.equals(users)


def test_a_store_is_made_once_and_again_when_a_file_or_a_setting_changes(folder, caplog):
    first = made(config(folder))
    before = (first.path / "manifest.json").stat().st_mtime_ns
    assert made(config(folder)).path == first.path
    assert (first.path / "manifest.json").stat().st_mtime_ns == before
    wide = {name: field | {"embedding_dim": 5} for name, field in FIELDS.items()}
    same = config(folder, seed=9, data__table__fields=wide, training__epochs=7)
    assert made(same).path == first.path  # what models and training do is not in it
    assert {f.embedding_dim for f in made(same).encoders.schema.sparse_fields} == {5}
    others = [
        config(folder, data__split_seed=1),
        config(folder, data__stratify=True),
        config(folder, data__split_fractions=[0.7, 0.2, 0.1]),
        config(folder, data__table__sample_weight="weight"),
        config(folder, data__table__files="a.csv"),
        config(folder, data__table__fields={"city": {"type": "sparse"}}),
    ]
    paths = {made(other).path for other in others}
    assert len(paths) == len(others)
    assert first.path not in paths
    text = (folder / "b.csv").read_text()
    (folder / "b.csv").write_text(text)
    assert made(config(folder)).path == first.path  # another time, the same content
    lines = text.splitlines(keepends=True)
    lines[3] = ('"0"' if lines[3].startswith('"1"') else '"1"') + lines[3][3:]
    (folder / "b.csv").write_text("".join(lines))
    assert made(config(folder)).path != first.path


def test_given_encoders_are_used_and_find_the_store_that_they_come_from(folder, tmp_path_factory):
    first = made(config(folder))
    assert made(config(folder), first.encoders).path == first.path
    other = made(config(folder, data__split_seed=1))
    encoded = made(config(folder), other.encoders)
    assert encoded.path not in (first.path, other.path)
    raw = whole(folder)
    part = encoded.parts["valid"]
    assert torch.equal(part[:].inputs.sparse, other.encoders.encode(raw.take(part.row)).sparse)
    assert made(config(folder), encoded.encoders).path == encoded.path


def test_encoders_grow_from_others(folder):
    used = config(folder, data__table__files="a.csv")
    base = made(used).encoders
    schema = tabular.schema(used.data.table)
    data = config(folder).data
    path = prepare(data, schema, base=base)
    grown = open_store(path, data, schema)
    plain = made(config(folder))
    assert path != plain.path
    want = plain.encoders.grown_from(base)
    assert digest_of_encoders(grown.encoders) == digest_of_encoders(want)
    assert prepare(data, schema, grown.encoders) == path  # as a resumed run asks for it


def test_a_half_written_store_is_refused_and_made_again(folder, caplog):
    used = config(folder)
    found = made(used)
    expected = [array.clone() for array in everything(found)]
    (found.path / "manifest.json").unlink()
    (found.path / "train" / "label.bin").write_bytes(b"torn")
    schema = tabular.schema(used.data.table)
    with pytest.raises(
        DataError, match=r"half-written \(no manifest.json\); `deepfm prepare --verify` makes"
    ):
        open_store(found.path, used.data, schema)
    with caplog.at_level("INFO", logger="deepfm"):
        again = made(used)
    assert "half-written" in caplog.text
    assert again.path == found.path
    assert all(torch.equal(a, b) for a, b in zip(everything(again), expected, strict=True))


def test_a_damaged_store_is_an_error(folder):
    used = config(folder)
    found = made(used)
    schema = tabular.schema(used.data.table)
    path = found.path / "valid" / "sparse.bin"
    size = path.stat().st_size
    os.truncate(path, size - 4)
    with pytest.raises(DataError, match=f"sparse.bin: expected {size:,} bytes, found"):
        open_store(found.path, used.data, schema)
    path.unlink()
    with pytest.raises(DataError, match=r"sparse\.bin: cannot be read: No such file"):
        open_store(found.path, used.data, schema)
    (found.path / "encoders.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"encoders\.npz: damaged \(another checksum than in"):
        open_store(found.path, used.data, schema)
    (found.path / "manifest.json").write_text('{"format": "deepfm store", "format_version": 99}')
    with pytest.raises(DataError, match="no store of this release"):
        open_store(found.path, used.data, schema)


def test_a_full_disk_is_an_error_and_leaves_nothing(folder, monkeypatch):
    used, written = config(folder), []

    def full(file, values):
        written.append(values.nbytes)
        if len(written) > 4:
            raise OSError(28, "No space left on device")
        file.write(values.tobytes())

    monkeypatch.setattr(arrays, "write_array", full)
    with pytest.raises(DeepFMError, match=r"cannot write the store .*: No space left") as caught:
        made(used)
    assert caught.value.exit_code == 1
    assert [p.name for p in (folder / "stores").iterdir() if p.is_dir()] == []
    monkeypatch.undo()
    assert len(made(used).parts) == 3


def test_what_a_killed_process_left_is_removed(folder):
    used = config(folder)
    found = made(used)
    left = found.path.with_name(f".{found.path.name}.0123abcd.tmp")
    left.mkdir()
    (left / "part.bin").write_bytes(b"x")
    (found.path / "manifest.json").unlink()
    made(used)
    assert not left.exists()


def test_two_that_prepare_at_once_make_one_store(folder):
    used, found = config(folder), []
    threads = [threading.Thread(target=lambda: found.append(made(used))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.path for one in found}) == 1
    assert len(found) == 2
    names = sorted(p.name for p in (folder / "stores").iterdir() if p.name != "digests.json")
    assert names == [f".{found[0].path.name}.lock", found[0].path.name]


def broken(folder: Path, column: str, value: str, row: int = 9) -> None:
    """Put a value into a row of b.csv, which is line row + 2 there."""
    table = read_table(folder / "b.csv")
    values = table[column].to_pylist()
    values[row] = value
    index = table.column_names.index(column)
    write_table(folder / "b.csv", table.set_column(index, column, pa.array(values, pa.string())))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label", "2", r"b.csv:11: column label: expected 0 or 1, found '2'"),
        ("label", "", r"b.csv:11: column label: expected 0 or 1, found nothing"),
        ("label", "nan", r"b.csv:11: column label: expected 0 or 1, found 'nan'"),
        ("weight", "-1", r"b.csv:11: column weight: expected a finite number of at least 0"),
        ("weight", "inf", r"b.csv:11: column weight: expected a finite number of at least 0"),
        ("when", "yesterday", r"b.csv:11: column when: expected a time .*, found 'yesterday'"),
    ],
)
@pytest.mark.parametrize("policy", ["error", "unknown", "drop"])
def test_a_bad_label_weight_or_time_is_an_error_or_drops_its_row(
    folder, column, value, message, policy
):
    broken(folder, column, value)
    used = config(
        folder,
        data__split_strategy="time",
        data__table__time_column="when",
        data__table__sample_weight="weight",
        data__table__bad_values=policy,
        data__table__fields={"city": {"type": "sparse"}},
    )
    if policy != "drop":
        with pytest.raises(DataError, match=message):
            made(used)
        return
    found = made(used)
    assert (found.summary["dropped"], found.summary["bad_values"]) == (1, {column: 1})
    assert 409 not in np.concatenate([part.row for part in found.parts.values()])
    assert sum(map(len, found.parts.values())) == 699


def test_labels_by_threshold_or_value(folder):
    for rule, positive in (
        ({"column": "price", "threshold": 10}, lambda row: float(row["price"]) >= 10),
        ({"column": "city", "positive": "a1"}, lambda row: row["city"] == "a1"),
    ):
        used = config(
            folder,
            data__table__label="chosen",
            data__table__labels={"chosen": rule},
            data__table__bad_values="drop",
            data__table__fields={"number": {"type": "sparse", "column": "id"}},
        )
        raw = whole(folder).to_pylist()
        for part in made(used).parts.values():
            assert part.label.tolist() == [float(positive(raw[row])) for row in part.row]


def test_an_error_in_a_training_row_names_its_line(folder):
    broken(folder, "age", "forty", row=20)
    fields = FIELDS | {"age": {"type": "dense"}}
    table = read_table(folder / "a.csv")
    ages = pa.array(["30"] * 400, pa.string())
    write_table(folder / "a.csv", table.set_column(table.column_names.index("age"), "age", ages))
    table = read_table(folder / "b.csv")
    ages = ["30"] * 300
    ages[20] = "forty"
    write_table(
        folder / "b.csv", table.set_column(table.column_names.index("age"), "age", pa.array(ages))
    )
    with pytest.raises(DataError, match=r"b.csv:22: .*age.*forty"):
        made(config(folder, data__table__fields=fields))


def test_an_empty_split_is_an_error(folder):
    fields = {"city": {"type": "sparse"}}
    one_day = config(
        folder,
        data__split_strategy="time",
        data__table__time_column="day",
        data__table__fields=fields,
    )
    for name in ("a", "b"):
        table = read_table(folder / f"{name}.csv")
        day = pa.array(["2024-01-01"] * len(table))
        write_table(folder / f"{name}.csv", table.append_column("day", day))
    with pytest.raises(DataError, match="the training split is empty"):
        made(one_day)
    with pytest.raises(ConfigError, match="the validation split needs a share above 0"):
        made(config(folder, data__split_fractions=[0.9, 0.0, 0.1]))
    assert not [p for p in (folder / "stores").iterdir() if p.suffix != ".lock"]


def test_load_data_gives_the_splits_of_the_store(folder):
    data = load_data(config(folder, feature={"embedding_dims": {"city": 3, "liked": 3}}))
    assert (data.events, data.history, data.users, data.items) == (None, None, None, None)
    assert data.encoders.schema.fields["city"].embedding_dim == 3
    assert data.summary["rows"] == {
        "train": len(data.train),
        "valid": len(data.valid),
        "test": len(data.test),
    }
    assert data.train.schema == data.encoders.schema


# --- declared ids, vectors and lists of any length ---------------------------------------------

DECLARED = {
    "id": {"type": "sparse", "num_buckets": 250, "out_of_range": "row0"},
    "city": {"type": "sparse", "vocabulary_file": "cities.txt", "oov_id": 0, "default": "b1"},
    "cost": {"type": "sparse", "column": "price", "boundaries": [1, 5, 20, 100]},
    "hash": {
        "type": "sparse", "column": "other", "hash_buckets": 50, "hash_function": "murmur64a",
        "padding": False,
    },
    "pair": {"type": "sparse", "columns": ["city", "other"], "hash_buckets": 50},
    "tags": {
        "type": "sequence", "separator": "|", "vocabulary": {"a": 0, "b": 1, "c": 2}, "oov_id": 3,
    },
    "both": {
        "type": "sequence", "columns": ["tags", "city"], "separator": "|", "hash_buckets": 50,
        "padding": False, "max_length": 2,
    },
    "price": {"type": "dense", "scale": "none", "default": -1},
    "date": {
        "type": "dense", "column": "day", "separator": "-", "value_dim": 3, "scale": "none",
    },
}  # fmt: skip


@pytest.fixture
def declared(tmp_path):
    """A folder of rows for `DECLARED`, in two files."""
    table = rows(600)
    days = [text[:10] for text in table["when"].to_pylist()]
    table = table.append_column("day", pa.array(days))
    (tmp_path / "cities.txt").write_text("".join(f"{c}1\n" for c in "abcdefghij"))
    write_table(tmp_path / "a.csv", table.slice(0, 400))
    write_table(tmp_path / "b.csv", table.slice(400))
    return tmp_path


def opened(used):
    folder = Path(used.data.data_dir)
    schema = tabular.schema(used.data.table, folder)
    return open_store(prepare(used.data, schema), used.data, schema)


def test_a_store_of_declared_ids_is_written_in_one_pass(declared, monkeypatch, caplog):
    monkeypatch.setattr(stream, "BLOCK_SIZE", 2000)
    used, raw = config(declared, data__table__fields=DECLARED), whole(declared)
    with caplog.at_level("INFO", logger="deepfm"):
        found = opened(used)
    assert "reading the training rows" not in caplog.text
    assert "bad values by column: id: " in caplog.text
    beyond = [int(number) >= 250 for number in raw["id"].to_pylist()]
    assert found.summary["bad_values"] == {"id": sum(beyond)}
    for part in found.parts.values():
        expected = found.encoders.encode(raw.take(part.row))
        batch = part[torch.arange(len(part))]
        assert torch.equal(batch.inputs.sparse, expected.sparse)
        assert torch.equal(batch.inputs.dense, expected.dense)
        assert batch.inputs.dense.shape == (len(part), 4)
        for got, want in zip(batch.inputs.sequence_ids, expected.sequence_ids, strict=True):
            assert got.dtype == want.dtype
            assert torch.equal(got, want)
        for got, want in zip(batch.inputs.sequence_lengths, expected.sequence_lengths, strict=True):
            assert torch.equal(got, want)
        some = torch.tensor([7, 0, 7])
        rows_of_some = found.encoders.encode(raw.take(part.row[some]))
        assert torch.equal(part[some].inputs.sequence_ids[0], rows_of_some.sequence_ids[0])
    inputs = found.parts["train"].inputs
    assert isinstance(inputs.sequence_ids[0], Ragged)
    assert inputs.sequence_ids[0].ids.dtype == torch.int32
    assert inputs.sequence_ids[1].shape[1] == 2
    tags = [tags.split("|") if tags else [] for tags in raw["tags"].to_pylist()]
    first = found.parts["train"].row[0]
    assert inputs.sequence_ids[0][0].tolist()[: len(tags[first])] == [
        "abc".find(tag) if tag in "abc" else 3 for tag in tags[first]
    ]


def test_a_fitted_field_beside_declared_ones_reads_the_rows(declared, caplog):
    fields = DECLARED | {"name": {"type": "sparse", "column": "city"}}
    with caplog.at_level("INFO", logger="deepfm"):
        found = opened(config(declared, data__table__fields=fields))
    assert "reading the training rows" in caplog.text
    alone = opened(config(declared, data__table__fields=DECLARED))
    one, other = (each.parts["train"][:].inputs for each in (found, alone))
    assert torch.equal(one.sparse[:, :5], other.sparse)
    assert torch.equal(one.dense, other.dense)


def test_a_store_of_declared_ids_depends_on_their_declaration(declared):
    first = opened(config(declared, data__table__fields=DECLARED)).path
    for name, key, value in (
        ("id", "num_buckets", 251), ("cost", "boundaries", [1, 5, 20]), ("city", "oov_id", 1),
        ("hash", "padding", True), ("hash", "hash_function", "farm64"), ("price", "default", 2),
        ("pair", "columns", ["other", "city"]), ("tags", "vocabulary", {"a": 1, "b": 0, "c": 2}),
    ):  # fmt: skip
        fields = DECLARED | {name: DECLARED[name] | {key: value}}
        assert opened(config(declared, data__table__fields=fields)).path != first, (name, key)
    fields = DECLARED | {"id": DECLARED["id"] | {"trainable": False, "embedding_dim": 3}}
    assert opened(config(declared, data__table__fields=fields)).path == first
    (declared / "cities.txt").write_text("".join(f"{c}1\n" for c in "bacdefghij"))
    assert opened(config(declared, data__table__fields=DECLARED)).path != first


def test_out_of_range_is_an_error_by_default(declared):
    fields = {"id": {"type": "sparse", "num_buckets": 250}}
    with pytest.raises(DataError, match=r"[ab]\.csv:\d+: field id, .* from 0 to 249, found '2"):
        opened(config(declared, data__table__fields=fields))


def test_declared_ids_train_predict_and_go_on_in_another_process(declared):
    """From the files to a checkpoint, and from that alone to equal probabilities elsewhere."""
    used = config(declared, data__table__fields=DECLARED)
    experiment.train(used)
    (declared / "cities.txt").unlink()  # the checkpoint holds it
    best = RunDirectory(used.output_dir).best
    write_table(declared / "new.parquet", whole(declared))
    (scored,) = Predictor(best).predict_file(declared / "new.parquet")
    probability = scored.predictions["probability"]
    np.testing.assert_allclose(probability, Predictor(best).predict(whole(declared)))
    program = (
        "import sys\n"
        "from deepfm.prediction import Predictor\n"
        "(scored,) = Predictor(sys.argv[1]).predict_file(sys.argv[2])\n"
        "print(scored.predictions['probability'].to_pylist())\n"
    )
    command = [sys.executable, "-c", program, str(best), str(declared / "new.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(done.stdout), probability, rtol=1e-6)


def test_num_buckets_grow_in_a_warm_start(declared):
    fields = {"id": DECLARED["id"], "cost": DECLARED["cost"]}
    used = config(declared, data__table__fields=fields)
    experiment.train(used)
    best = RunDirectory(used.output_dir).best
    more = fields | {"id": {"type": "sparse", "num_buckets": 300}}
    grown = config(declared, data__table__fields=more, output_dir=str(declared / "grown"))
    experiment.train(grown, init_from=best)
    rows = [
        len(load_checkpoint(path).model["embedding.tables.id.weight"])
        for path in (best, RunDirectory(grown.output_dir).best)
    ]
    assert rows == [250, 300]
    moved = fields | {"cost": DECLARED["cost"] | {"boundaries": [1, 5, 20, 99]}}
    other = config(declared, data__table__fields=moved, output_dir=str(declared / "moved"))
    with pytest.raises(CheckpointError, match="field cost: boundaries"):
        experiment.train(other, init_from=best)
