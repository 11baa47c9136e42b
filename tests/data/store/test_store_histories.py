"""Histories in stores: against loops over all rows, and what may not change them."""

import logging
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from deepfm.config import ExperimentConfig, config_from_dict
from deepfm.data.declared import declared_schema
from deepfm.data.files.writer import TableWriter
from deepfm.data.history import age_ids
from deepfm.data.labels import group_ids
from deepfm.data.load import ExperimentData, load_data
from deepfm.data.store import external_sort, opening, stream
from deepfm.data.store.opening import open_store
from deepfm.errors import ConfigError, DataError, DeepFMError
from deepfm.preparing import prepare_data

FIELDS = {
    "user": {"type": "sparse"},
    "item": {"type": "sparse", "min_count": 2},
    "kind": {"type": "sparse", "group": "item", "num_buckets": 7},
    "tags": {"type": "sequence", "separator": "|"},
}
COLUMNS = ("user", "item", "kind", "time", "liked", "tags")
LENGTH = 3


def rows(count: int = 400, seed: int = 0) -> dict[str, list]:
    """Columns of raw rows in any order of time, with many ties and gaps."""
    rng = np.random.default_rng(seed)
    user = [None if u == 0 else f"u{u}" for u in rng.integers(0, 12, count)]
    time = [None if rng.random() < 0.05 else int(t) for t in rng.integers(0, 60, count)]
    item = [f"i{i}" for i in rng.integers(0, 40, count)]
    kind = rng.integers(0, 7, count).tolist()
    tags = ["|".join(rng.choice(list("abc"), n)) for n in rng.integers(0, 4, count)]
    liked = (rng.random(count) < 0.6).astype(int).tolist()
    return dict(zip(COLUMNS, (user, item, kind, time, liked, tags), strict=True))


def write(folder: Path, columns: dict[str, list], name: str = "rows.csv") -> None:
    with TableWriter(folder / name) as writer:
        writer.write(pa.table(columns))


def config(folder: Path, split: str = "random", **history: object) -> ExperimentConfig:
    table = {
        "files": "rows.csv",
        "label": "liked",
        "user_field": "user",
        "item_field": "item",
        "time_column": "time",
        "fields": FIELDS,
        "history": {"fields": ["item", "kind"], "max_length": LENGTH} | history,
    }
    if split == "predefined":
        table |= {"valid_files": "valid.csv", "test_files": "test.csv"}
    if split == "time":
        table["bad_values"] = "drop"  # a row without a time belongs nowhere
    return config_from_dict(
        {
            "device": "cpu",
            "output_dir": str(folder / "run"),
            "data": {
                "dataset_name": "tabular",
                "data_dir": str(folder),
                "store_dir": str(folder / "stores"),
                "split_strategy": split,
                "split_fractions": [0.6, 0.2, 0.2],
                "table": table,
            },
            "dnn": {"hidden_units": [8]},
            "training": {"epochs": 2, "batch_size": 32, "metric": "logloss"},
        }
    )


def written(folder: Path, columns: dict[str, list], split: str) -> None:
    """The rows in a file, or with `predefined` in one for each split."""
    if split != "predefined":
        return write(folder, columns)
    count = len(columns["user"])
    cuts = [0, count // 2, count * 3 // 4, count]
    for name, (start, end) in zip(("rows", "valid", "test"), pairwise(cuts), strict=True):
        write(folder, {key: values[start:end] for key, values in columns.items()}, f"{name}.csv")


@pytest.fixture(autouse=True)
def _little_at_once(monkeypatch):
    """Blocks of about thirty rows, and runs of about twenty records, merged four at a time."""
    monkeypatch.setattr(stream, "BLOCK_SIZE", 600)
    monkeypatch.setattr(external_sort, "RUN_BYTES", 800)
    monkeypatch.setattr(external_sort, "MERGED_AT_ONCE", 4)


def parts(data: ExperimentData) -> dict:
    return {"train": data.train, "valid": data.valid, "test": data.test}


def split_of_rows(data: ExperimentData) -> dict[int, str]:
    return {int(row): name for name, part in parts(data).items() for row in part.row}


def seen_by_loops(
    columns: dict[str, list], split: dict[int, str], *, ties: str, until: str
) -> dict[int, list[int]]:
    """The rows that each row sees, oldest first."""
    user, time, liked = (columns[name] for name in ("user", "time", "liked"))
    found = {}
    for row in split:
        events = []
        for other, part in split.items():
            if user[row] is None or user[other] != user[row] or not liked[other]:
                continue
            if time[row] is None or time[other] is None or (until, part) in HIDDEN:
                continue
            is_earlier = time[other] < time[row]
            is_in_front = ties == "order" and time[other] == time[row] and other < row
            if is_earlier or is_in_front:
                events.append(other)
        events.sort(key=lambda other: (time[other], other))
        found[row] = events[max(0, len(events) - LENGTH) :]
    return found


HIDDEN = {("split", "valid"), ("split", "test")}


def histories(part, rows: torch.Tensor | slice) -> dict[str, list[list[int]]]:
    """By field, the ids of some rows' sequences, cut to their lengths."""
    inputs = part[rows].inputs
    return {
        field.name: [ids[:n].tolist() for ids, n in zip(found, lengths, strict=True)]
        for field, found, lengths in zip(
            part.schema.sequence_fields, inputs.padded_ids, inputs.sequence_lengths, strict=True
        )
    }


CASES = [
    (split, ties, until)
    for split in ("random", "time", "predefined")
    for ties in ("exclude", "order")
    for until in ("split", "row")
    if (split, until) != ("random", "row")
]


@pytest.mark.parametrize(("split", "ties", "until"), CASES)
def test_rows_see_what_loops_find(tmp_path, split, ties, until):
    columns = rows()
    if (split, until) == ("predefined", "row"):
        columns = by_time(columns)
    written(tmp_path, columns, split)
    data = load_data(config(tmp_path, split, ties=ties, until=until))
    expected = seen_by_loops(columns, split_of_rows(data), ties=ties, until=until)
    assert any(map(len, expected.values()))
    text = {name: pa.array([str(v) for v in columns[name]]) for name in ("item", "kind", "user")}
    raw = pa.table(text | {"tags": pa.array(columns["tags"])})
    encoded = data.encoders.encode(raw).sparse.numpy()
    time = np.array([np.nan if t is None else t for t in columns["time"]])
    for part in parts(data).values():
        found = histories(part, torch.arange(len(part)))
        assert list(found) == ["tags", "history_item", "history_kind", "history_age"]
        for place, row in enumerate(part.row):
            events = expected[int(row)]
            assert found["history_item"][place] == encoded[events, 1].tolist()
            assert found["history_kind"][place] == encoded[events, 2].tolist()
            assert found["history_age"][place] == age_ids(time[row] - time[events]).tolist()
        some = slice(1, len(part), 2)
        assert histories(part, some) == {name: ids[some] for name, ids in found.items()}


def by_time(columns: dict[str, list]) -> dict[str, list]:
    """The rows in the order of their times, so that no file has one that is older than the last."""
    order = sorted(range(len(columns["time"])), key=lambda row: columns["time"][row] or 0)
    return {name: [values[row] for row in order] for name, values in columns.items()}


def test_training_rows_that_would_see_held_out_ones_are_refused(tmp_path):
    written(tmp_path, rows(), "predefined")
    load_data(config(tmp_path, "predefined", until="split"))
    with pytest.raises(ConfigError, match="comes after a held-out one of its user"):
        load_data(config(tmp_path, "predefined", until="row"))


def test_what_is_counted(tmp_path, caplog):
    columns = rows()
    write(tmp_path, columns)
    with caplog.at_level(logging.INFO, logger="deepfm"):
        data = load_data(config(tmp_path))
    split = split_of_rows(data)
    known = [
        row
        for row in split
        if columns["user"][row] is not None and columns["time"][row] is not None
    ]
    events = [row for row in known if columns["liked"][row] and split[row] == "train"]
    users = {columns["user"][row] for row in events}
    assert data.summary["history"] == {
        "max_length": LENGTH,
        "ties": "exclude",
        "until": "split",
        "events": len(events),
        "users": len(users),
        "without": len(split) - len(known),
    }
    assert f"{len(events)} events of {len(users)} users" in caplog.text
    expected = seen_by_loops(columns, split, ties="exclude", until="split")
    lengths = [len(expected[row]) for row in split if split[row] == "valid"]
    assert f"{np.mean(lengths):.1f} valid" in caplog.text
    assert f"{len(split) - len(known)} rows without a user or a time" in caplog.text


# --- what may not change them ------------------------------------------------------------------


def training_files(data: ExperimentData, folder: Path) -> dict[str, bytes]:
    """The bytes of the only store in a folder that training reads."""
    (store,) = (path.parent for path in (folder / "stores").glob("*/manifest.json"))
    found = {}
    for part in ("train", "history"):
        found |= {str(p.relative_to(store)): p.read_bytes() for p in (store / part).glob("*.bin")}
    return found


def training_bytes(folder: Path, columns: dict[str, list], split: str, **history: object):
    """A fresh store's data and the bytes of it that training reads."""
    folder.mkdir()
    written(folder, columns, split)
    data = load_data(config(folder, split, **history))
    return data, training_files(data, folder)


@pytest.mark.parametrize("split", ["random", "time", "predefined"])
def test_held_out_labels_change_no_training_byte(tmp_path, split):
    columns = rows()
    data, before = training_bytes(tmp_path / "before", columns, split)
    parts_ = split_of_rows(data)
    liked = [
        1 - label if parts_.get(row) in ("valid", "test") else label
        for row, label in enumerate(columns["liked"])
    ]
    _, after = training_bytes(tmp_path / "after", columns | {"liked": liked}, split)
    assert "train/history_starts.bin" in before
    assert "history/ids1.bin" in before
    assert after == before


def test_with_until_row_held_out_labels_change_nothing_that_a_training_row_reads(tmp_path):
    columns = rows()
    data, _ = training_bytes(tmp_path / "before", columns, "time", until="row")
    parts_ = split_of_rows(data)
    liked = [
        1 - label if parts_.get(row) in ("valid", "test") else label
        for row, label in enumerate(columns["liked"])
    ]
    changed = columns | {"liked": liked}
    other, _ = training_bytes(tmp_path / "after", changed, "time", until="row")
    everything = torch.arange(len(data.train))
    assert histories(other.train, everything) == histories(data.train, everything)
    test_rows = torch.arange(len(data.test))
    assert histories(other.test, test_rows) != histories(data.test, test_rows)


@pytest.mark.parametrize("ties", ["exclude", "order"])
def test_later_and_tied_rows_change_nothing_that_a_row_reads(tmp_path, ties):
    """Of every tenth training row; the labels of all rows that it may not see are turned."""
    columns = rows(120)
    data, _ = training_bytes(tmp_path / "before", columns, "predefined", ties=ties)
    user, time = columns["user"], columns["time"]
    for row in range(0, 60, 10):
        if time[row] is None:
            continue

        def is_hidden(other: int, row: int = row) -> bool:
            if time[other] is None or user[other] != user[row]:
                return True
            is_tied = time[other] == time[row]
            return time[other] > time[row] or (is_tied and (ties == "exclude" or other >= row))

        liked = [1 - v if is_hidden(other) else v for other, v in enumerate(columns["liked"])]
        changed = columns | {"liked": liked}
        other, _ = training_bytes(tmp_path / f"after {row}", changed, "predefined", ties=ties)
        place = torch.tensor([row])
        assert histories(other.train, place) == histories(data.train, place)


def test_later_rows_added_change_no_training_byte(tmp_path):
    """To the test file of `predefined`."""
    columns = rows()
    _, before = training_bytes(tmp_path / "before", columns, "predefined")
    later = {key: values + values[:20] for key, values in columns.items()}
    later["time"] = columns["time"] + [1000] * 20
    (tmp_path / "after").mkdir()
    written(tmp_path / "after", columns, "predefined")
    write(tmp_path / "after", {k: v[300:] for k, v in later.items()}, "test.csv")
    data = load_data(config(tmp_path / "after", "predefined"))
    assert len(data.test) == 120
    assert training_files(data, tmp_path / "after") == before


# --- the key, damage, errors -------------------------------------------------------------------


def test_the_store_depends_on_what_decides_its_histories_only(tmp_path):
    write(tmp_path, rows())

    def path(**history: object) -> Path:
        return prepare_data(config(tmp_path, "random", **history))

    first = path()
    for same in ({"age": False}, {"combiner": "mean"}, {"tables": "shared"}):
        assert path(**same) == first
    others = {path(ties="order"), path(max_length=4), path(fields=["item"]), path()}
    assert len(others) == 4
    assert first in others


def test_without_ages_the_times_stay_out_of_the_model(tmp_path):
    write(tmp_path, rows())
    data = load_data(config(tmp_path, age=False))
    assert [f.name for f in data.train.schema.built_fields] == ["history_item", "history_kind"]


@pytest.mark.parametrize("name", ["history/ids0", "history/time", "train/history_starts"])
def test_damage_is_found_when_rows_are_read(tmp_path, name, monkeypatch):
    write(tmp_path, rows())
    used = config(tmp_path)
    whole = histories(load_data(used).train, slice(None))
    store = prepare_data(used)
    data = bytearray((store / f"{name}.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (store / f"{name}.bin").write_bytes(data)
    monkeypatch.setattr(opening, "CHECKED_AT_ONCE", 0)
    with pytest.raises(DataError, match="damaged"):
        histories(load_data(used).train, slice(None))
    monkeypatch.undo()
    assert histories(load_data(used).train, slice(None)) == whole  # made again


@pytest.mark.parametrize("name", ["user.bin", "user_events.bin", "ids1.bin", "time.sums"])
def test_prepare_verifies_the_events_too(tmp_path, name):
    write(tmp_path, rows())
    used = config(tmp_path)
    file = prepare_data(used) / "history" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    prepare_data(used, verify=True)
    assert file.read_bytes() == whole
    file.unlink()
    prepare_data(used, verify=True)
    assert file.read_bytes() == whole


def test_a_time_that_cannot_be_read_is_an_error(tmp_path):
    columns = rows(50)
    columns["time"] = [str(time) for time in range(50)]
    columns["time"][30] = "noon"
    write(tmp_path, columns)
    with pytest.raises(DataError, match=r"rows.csv:32: column time: .* found 'noon'"):
        load_data(config(tmp_path))


def test_no_row_has_to_have_a_history(tmp_path):
    columns = rows(100) | {"liked": [0] * 99 + [1], "user": [None] * 100}
    columns["time"] = list(range(100))
    write(tmp_path, columns)
    data = load_data(config(tmp_path))
    assert set(map(len, histories(data.train, slice(None))["history_item"])) == {0}
    assert data.summary["history"]["events"] == 0


def test_a_user_of_several_columns_has_no_history(tmp_path):
    write(tmp_path, rows(20))
    settings = config(tmp_path).to_dict()
    user = {"type": "sparse", "columns": ["user", "kind"], "hash_buckets": 50}
    settings["data"]["table"]["fields"]["user"] = user
    with pytest.raises(ConfigError, match="a user in one column, and user reads several"):
        load_data(config_from_dict(settings))


def test_a_disk_that_is_full_while_records_are_sorted_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write(tmp_path, rows())
    monkeypatch.setattr(external_sort.ExternalSort, "_merge_groups", refuse)
    with pytest.raises(DeepFMError, match=r"cannot write the store .*: No space left on device"):
        prepare_data(config(tmp_path))
    assert not [path for path in (tmp_path / "stores").iterdir() if path.is_dir()]


def test_a_random_split_shows_no_row_before(tmp_path):
    with pytest.raises(ConfigError, match=r"history\.until: .* which training rows would see"):
        config(tmp_path, "random", until="row")


def test_users_are_known_by_their_text(tmp_path):
    """The events of the store say whose they are by the hash that groups of rows have."""
    columns = rows()
    write(tmp_path, columns)
    data = load_data(config(tmp_path))
    split = split_of_rows(data)
    users = {
        columns["user"][row]
        for row in split
        if split[row] == "train" and columns["liked"][row] and columns["time"][row] is not None
    } - {None}
    hashes = group_ids(pa.table({"user": sorted(users)}), ["user"]).view(np.uint64).ravel()
    store = prepare_data(config(tmp_path))
    found = np.fromfile(store / "history" / "user.bin", np.uint64)
    assert found.tolist() == sorted(hashes.tolist())
    counts = np.fromfile(store / "history" / "user_events.bin", np.int64)
    assert counts.sum() == data.summary["history"]["events"]


@pytest.mark.parametrize("until", ["split", "row"])
def test_the_last_events_of_each_user(tmp_path, until, monkeypatch):
    monkeypatch.setattr(opening, "CHECKED_AT_ONCE", 0)
    columns = rows()
    write(tmp_path, columns)
    used = config(tmp_path, "time", until=until)
    data = load_data(used)
    split = split_of_rows(data)
    expected: dict[int, list[int]] = {}
    for row in sorted(split, key=lambda row: (columns["time"][row], row)):
        user = columns["user"][row]
        if user is not None and columns["liked"][row] and (until, split[row]) not in HIDDEN:
            text = pa.table({"user": [user]})
            expected.setdefault(group_ids(text, ["user"]).item() % 2**64, []).append(row)
    store = open_store(prepare_data(used), used.data, declared_schema(used))
    found = store.events.last(LENGTH)
    assert found.user.tolist() == sorted(expected)
    for place, user in enumerate(found.user.tolist()):
        own = slice(found.starts[place], found.starts[place + 1])
        events = expected[user][-LENGTH:]
        assert found.time[own].tolist() == [columns["time"][row] for row in events]
        kinds = [columns["kind"][row] for row in events]
        assert found.ids["history_kind"][own].tolist() == kinds
    assert found.starts[-1] == len(found.time) == len(found.ids["history_item"])
