"""Rows appended to a store: old ones as they were, new ones as the grown encoders give them."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

from deepfm import experiment, preparing
from deepfm.cli import main
from deepfm.config import ExperimentConfig
from deepfm.data.batch import Ragged
from deepfm.data.dataset import TabularDataset
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.split_parts import RandomSplit
from deepfm.data.store.encoders_file import digest_of_encoders
from deepfm.data.store.opening import Store, verify_store
from deepfm.errors import ConfigError, DataError
from tests.data.store.test_store import (
    FIELDS,
    config,
    made,
    read_table,
    rows,
    write_table,
)

# Lists that are never cut are stored end to end, and begin where those before them end.
ALL_FIELDS = FIELDS | {"every": {"type": "sequence", "column": "tags", "separator": "|"}}
LEARNT = [name for name, item in FIELDS.items() if name not in ("hashed", "level", "count")]


def used(folder: Path, **changes: object) -> ExperimentConfig:
    """The table in the folder's days, with weights and groups."""
    given = {
        "data__table__files": "day*.csv",
        "data__table__sample_weight": "weight",
        "data__table__group_columns": ["city"],
        "data__table__fields": ALL_FIELDS,
    }
    return config(folder, **(given | changes))


@pytest.fixture
def days(tmp_path: Path) -> Path:
    """Two days; others come later."""
    for day in (1, 2):
        come(tmp_path, day)
    return tmp_path


def come(folder: Path, day: int, count: int = 150) -> pa.Table:
    """The rows of a day, which have values that no day before has."""
    table = rows(count, seed=day)
    for column in ("city", "id"):
        values = [v and (f"{v}{day}" if int(v[-1]) == day else v) for v in column_of(table, column)]
        place = table.column_names.index(column)
        table = table.set_column(place, column, pa.array(values, pa.string()))
    write_table(folder / f"day{day}.csv", table)
    return table


def column_of(table: pa.Table, name: str) -> list:
    return table[name].to_pylist()


def whole(folder: Path) -> pa.Table:
    return read_table(*sorted(folder.glob("day*.csv")))


def everything(found: Store) -> list[torch.Tensor]:
    """All arrays of all splits, and where lists begin."""
    arrays: list[torch.Tensor] = []
    for part in found.parts.values():
        for ids in part.inputs.sequence_ids:
            arrays += [ids.ids, ids.starts] if isinstance(ids, Ragged) else [ids]
        arrays += [*part.inputs[:2], *part.inputs.sequence_lengths, part.label, part.weight]
        arrays += [part.group, torch.as_tensor(np.array(part.row))]
    return arrays


def files_of(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def values_of(encoders: Encoders, name: str) -> list:
    """The values of a field's vocabulary in the order of their ids."""
    found = {reader.field.name: encoder for reader, encoder in encoders.parts()}
    return found[name].values.to_pylist()


def refuse_other_inputs(
    part: TabularDataset, places: np.ndarray, encoders: Encoders, raw: pa.Table
) -> None:
    """Compare some rows of a split with what encoders give of the raw rows."""
    want = encoders.encode(raw.take(part.row[places]))
    got = part[torch.from_numpy(places)].inputs
    pairs = zip(
        (*got[:2], *got.sequence_ids, *got.sequence_lengths),
        (*want[:2], *want.sequence_ids, *want.sequence_lengths),
        strict=True,
    )
    assert all(torch.equal(one, other) for one, other in pairs)


def appended(chosen: ExperimentConfig, *arguments: object) -> Store:
    path = preparing.append_data(chosen, *arguments)
    found = made(chosen)
    assert found.path == path
    return found


def test_old_rows_stay_and_new_ones_are_what_the_grown_encoders_give(days):
    before = made(used(days))
    kept, bytes_before = [array.clone() for array in everything(before)], files_of(before.path)
    come(days, 3)
    after = appended(used(days))
    assert after.path != before.path

    raw = whole(days)
    age = column_of(raw, "age")
    there = np.array([value != "old" for value in age])
    split = RandomSplit((0.8, 0.1, 0.1), 0).parts(np.arange(450))
    weight = np.array(column_of(raw, "weight"), np.float32)
    for number, (name, part) in enumerate(after.parts.items()):
        assert part.row.tolist() == np.flatnonzero((split == number) & there).tolist()
        is_old = part.row < 300
        # a value that was too rare then is still unknown in the rows of then
        for encoders, chosen in ((before.encoders, is_old), (after.encoders, ~is_old)):
            refuse_other_inputs(part, np.flatnonzero(chosen), encoders, raw)
        batch = part[torch.arange(len(part))]
        np.testing.assert_array_equal(batch.weight, weight[part.row])
        old = before.parts[name]
        first = len(old)
        assert torch.equal(part[: len(old)].inputs.sparse, old[:].inputs.sparse)
        assert (part.row[:first] < 300).all()
        assert (part.row[first:] >= 300).all()
        assert torch.equal(part[:first].group, old[:].group)

    # the store before is as it was, whatever stands behind its rows now
    again = made(used(days, data__table__files=["day1.csv", "day2.csv"]))
    assert again.path == before.path
    assert all(torch.equal(a, b) for a, b in zip(everything(again), kept, strict=True))
    verify_store(before.path, before.encoders.schema)
    assert {name for name, data in files_of(before.path).items() if data != bytes_before[name]} <= {
        name for name in bytes_before if name.endswith(".bin")
    }


def test_new_values_get_ids_behind_the_old_ones_and_all_else_stays(days):
    before = made(used(days))
    raw = come(days, 3)
    after = appended(used(days))
    split = RandomSplit((0.8, 0.1, 0.1), 0).parts(np.arange(450))[300:]
    trains = [
        place
        for place in np.flatnonzero(split == 0)
        if column_of(raw, "age")[place] != "old"  # whose rows are dropped
    ]
    seen = [column_of(raw, "id")[place] for place in trains]
    old = values_of(before.encoders, "number")
    assert values_of(after.encoders, "number") == old + sorted(set(seen) - set(old))
    cities = [column_of(raw, name)[place] for place in trains for name in ("city", "other")]
    old = values_of(before.encoders, "city")
    new = {city for city in cities if city and cities.count(city) > 1} - set(old)  # min_count
    assert new
    assert values_of(after.encoders, "city") == old + sorted(new)
    for name in ("level", "cost", "rate", "age"):  # quantiles and scales
        fitted = before.encoders.to_dict()["fitted"][name]
        assert after.encoders.to_dict()["fitted"][name] == fitted


def test_an_appended_row_costs_no_old_one(days):
    before = made(used(days))
    come(days, 3)
    after = appended(used(days))
    for name in ("train/sparse.bin", "train/every_ids.bin", "valid/row.bin"):
        if (before.path / name).exists():
            assert os.path.samefile(before.path / name, after.path / name)


def test_every_order_of_appending_gives_what_its_own_files_say(days):
    """Two stores that go on from one, and one that goes on from a killed process's leavings."""
    before = made(used(days))
    names = ["day1.csv", "day2.csv"]
    for day in (3, 4):
        come(days, day)
    found = {
        last: appended(used(days, data__table__files=[*names, f"day{last}.csv"])) for last in (3, 4)
    }
    left = before.path / "train" / "label.bin"
    with left.open("ab") as file:
        file.write(b"left by a process that was killed")
    both = appended(used(days, data__table__files=[*names, "day3.csv", "day4.csv"]))
    assert len(both.steps) == 2
    for store, files in ((found[3], [3]), (found[4], [4]), (both, [3, 4])):
        raw = read_table(*(days / f"day{day}.csv" for day in (1, 2, *files)))
        for part in store.parts.values():
            last = np.flatnonzero(part.row >= 150 * (len(files) + 1))
            refuse_other_inputs(part, last, store.encoders, raw)
        verify_store(store.path, store.encoders.schema)
    verify_store(before.path, before.encoders.schema)


@pytest.mark.parametrize("placed", ["train", "valid"])
def test_rows_go_where_they_are_put(days, placed):
    changes = {"data__split_strategy": "time", "data__table__time_column": "when"}
    before = made(used(days, **changes))
    come(days, 3)
    with pytest.raises(ConfigError, match=r"data.split_strategy: .*: --as train or --as valid"):
        preparing.append_data(used(days, **changes))
    after = appended(used(days, **changes), placed)
    counts = {name: len(part) for name, part in before.parts.items()}
    kept = sum(value != "old" for value in column_of(read_table(days / "day3.csv"), "age"))
    assert {n: len(p) for n, p in after.parts.items()} == counts | {placed: counts[placed] + kept}
    is_known = digest_of_encoders(after.encoders) == digest_of_encoders(before.encoders)
    assert is_known == (placed == "valid")  # which teach nothing
    # encoders of before still get the rows of each split, none of them cut anew
    old = made(used(days, **changes), before.encoders)
    for name, part in after.parts.items():
        assert old.parts[name].row.tolist() == part.row.tolist()
    assert old.steps == after.steps


def test_stratified_rows_need_a_place_too(days):
    made(used(days, data__stratify=True))
    come(days, 3)
    with pytest.raises(ConfigError, match=r"data.stratify: .* --as train or --as valid"):
        preparing.append_data(used(days, data__stratify=True))
    after = appended(used(days, data__stratify=True), "train")
    old = made(used(days, data__stratify=True), after.encoders)
    assert old.path == after.path


def test_files_of_a_split_say_where_their_rows_go(days):
    shutil.copy(days / "day2.csv", days / "held2.csv")
    changes = {"data__split_strategy": "predefined", "data__table__valid_files": "held*.csv"}
    before = made(used(days, **changes))
    come(days, 3)
    write_table(days / "held3.csv", rows(40, seed=33))
    with pytest.raises(ConfigError, match=r"--as: split_strategy predefined says by its files"):
        preparing.append_data(used(days, **changes), "train")
    after = appended(used(days, **changes))
    for name, pattern, seed in (("train", "day3.csv", None), ("valid", "held3.csv", 33)):
        raw = read_table(days / pattern)
        kept = [k for k, value in enumerate(column_of(raw, "age")) if value != "old"]
        want = after.encoders.encode(raw.take(kept))
        part, first = after.parts[name], len(before.parts[name])
        assert torch.equal(part[first:].inputs.sparse, want.sparse), seed
    encoded = made(used(days, **changes), before.encoders)  # in the order of the files
    assert {n: len(p) for n, p in encoded.parts.items()} == {
        n: len(p) for n, p in after.parts.items()
    }


def test_what_cannot_be_appended_is_refused(days):
    with pytest.raises(DataError, match=r"expected a store of these settings .* without --append"):
        preparing.append_data(used(days))
    before = made(used(days))
    assert preparing.append_data(used(days)) == before.path  # nothing to append
    with pytest.raises(DataError, match=r"by the table's own split, not as valid; remove that"):
        preparing.append_data(used(days), "valid")
    shutil.copy(days / "day2.csv", days / "day3.csv")
    with pytest.raises(DataError, match=r"day3.csv: its content is that of .*day2.csv, whose rows"):
        preparing.append_data(used(days))
    come(days, 0)  # in front of the others
    with pytest.raises(DataError, match=r"stores: expected a store of these settings whose files"):
        preparing.append_data(used(days))
    (days / "day0.csv").unlink()
    come(days, 3)
    with pytest.raises(DataError, match="found none among 1"):
        preparing.append_data(used(days, data__split_seed=1))
    seen = {"data__table__time_column": "when", "data__table__user_field": "number"}
    history = {"data__table__history": {}, "data__table__item_field": "city"}
    with pytest.raises(ConfigError, match=r"data.table.history: the histories of all rows would"):
        preparing.append_data(used(days, **seen, **history))
    with pytest.raises(ConfigError, match="--workers: expected at least 1, found 0"):
        preparing.append_data(used(days), workers=0)


def test_a_bad_new_row_leaves_the_store_as_it_was(days):
    before = made(used(days))
    table = come(days, 3)
    place = table.column_names.index("label")
    labels = ["1"] * 149 + ["2"]
    write_table(days / "day3.csv", table.set_column(place, "label", pa.array(labels)))
    with pytest.raises(DataError, match=r"day3.csv:151: column label: expected 0 or 1, found '2'"):
        preparing.append_data(used(days))
    verify_store(before.path, before.encoders.schema)
    assert [path for path in (days / "stores").iterdir() if path.name.endswith(".tmp")] == []


def test_rows_that_are_all_dropped_are_none(days):
    made(used(days))
    table = come(days, 3, 5)
    place = table.column_names.index("age")
    write_table(days / "day3.csv", table.set_column(place, "age", pa.array(["old"] * 5)))
    with pytest.raises(DataError, match="there is no row to append: 5 rows read, all dropped"):
        preparing.append_data(used(days))


def test_a_damaged_store_is_not_gone_on_from(days):
    before = made(used(days))
    come(days, 3)
    path = before.path / "train" / "label.bin"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"label.bin: damaged \(its last rows have another check"):
        preparing.append_data(used(days))
    os.truncate(path, 8)
    with pytest.raises(DataError, match=r"label.bin: expected .* bytes, found 8"):
        preparing.append_data(used(days))


def test_a_damaged_appended_store_is_made_again_with_its_ids(days, caplog):
    made(used(days))
    come(days, 3)
    found = appended(used(days), "train")
    expected = {
        name: (part.row.tolist(), part.label.clone(), part[:].inputs.sparse[part.row >= 300])
        for name, part in found.parts.items()
    }
    path = found.path / "valid" / "label.bin"
    path.write_bytes(bytes(path.stat().st_size))
    preparing.prepare_data(used(days), verify=True)
    assert "it is made again now" in caplog.text
    again = made(used(days))
    assert digest_of_encoders(again.encoders) == digest_of_encoders(found.encoders)
    for name, (numbers, label, sparse) in expected.items():
        part = again.parts[name]
        assert part.row.tolist() == numbers
        assert torch.equal(part.label, label)
        assert torch.equal(part[:].inputs.sparse[part.row >= 300], sparse)
    assert again.steps == found.steps


def test_without_hard_links_files_are_copied(days, monkeypatch):
    before = made(used(days))
    come(days, 3)
    linked = appended(used(days))
    expected = [array.clone() for array in everything(linked)]
    shutil.rmtree(linked.path)

    def refuse(*names):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    copied = appended(used(days))
    assert all(torch.equal(a, b) for a, b in zip(everything(copied), expected, strict=True))
    name = "train/sparse.bin"
    assert not os.path.samefile(before.path / name, copied.path / name)


@pytest.mark.slow
def test_any_number_of_processes_appends_the_same(days):
    first = {"data__table__files": ["day1.csv", "day2.csv"]}
    before = made(used(days, **first))
    come(days, 3)
    alone = files_of(preparing.append_data(used(days)))
    shutil.rmtree(days / "stores")
    assert made(used(days, **first)).path == before.path
    shared = files_of(preparing.append_data(used(days), workers=2))
    assert {name for name in alone if alone[name] != shared[name]} == set()


def test_training_takes_all_rows_or_those_appended(days):
    made(used(days))
    come(days, 3)
    with pytest.raises(ConfigError, match=r"data.rows: appended: of the rows of .* none was app"):
        made(used(days, data__rows="appended", data__table__files=["day1.csv", "day2.csv"]))
    after = appended(used(days))
    chosen = made(used(days, data__rows="appended"))
    for name, part in chosen.parts.items():
        assert (part.row >= 300).all()
        assert len(part) == (after.parts[name].row >= 300).sum()
        want = chosen.encoders.encode(whole(days).take(part.row))
        for slices in (slice(None), slice(2, 5), torch.tensor([1, 0])):
            assert torch.equal(part[slices].inputs.sparse, want.sparse[slices])
            lists = part[slices].inputs.sequence_ids[2]
            longest = min(lists.shape[1], want.sequence_ids[2].shape[1])
            assert torch.equal(lists[:, :longest], want.sequence_ids[2][slices][:, :longest])
    assert chosen.summary["rows"] == {name: len(part) for name, part in chosen.parts.items()}


def test_appended_rows_of_validation_alone_are_none_to_train_on(days):
    made(used(days))
    come(days, 3)
    after = appended(used(days), "valid")
    with pytest.raises(ConfigError, match="the last append gave none to train on"):
        made(used(days, data__rows="appended"))
    come(days, 4)
    last = appended(used(days), "train")
    chosen = made(used(days, data__rows="appended"))
    assert len(chosen.parts["valid"]) == len(last.parts["valid"]) == len(after.parts["valid"])


def test_blocks_of_appended_rows_are_compared_when_they_are_read(days, monkeypatch):
    monkeypatch.setattr("deepfm.data.store.opening.CHECKED_AT_ONCE", 0)
    monkeypatch.setattr("deepfm.data.store.sums.BLOCK", 1 << 10)
    made(used(days))
    come(days, 3)
    after = appended(used(days))
    path = after.path / "train" / "sparse.bin"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # of the last row
    path.write_bytes(data)
    part = made(used(days, data__rows="appended")).parts["train"]
    assert len(part[:3].label) == 3
    with pytest.raises(DataError, match=r"sparse.bin: damaged \(rows"):
        part[torch.tensor([len(part) - 1])]


def test_a_warm_start_trains_on_the_store_that_was_appended_to(days):
    first = used(days, output_dir=str(days / "first"), training__sparse_optimizer="lazy_adam")
    experiment.train(first)
    come(days, 3)
    after = appended(used(days))
    second = used(
        days,
        output_dir=str(days / "second"),
        training__sparse_optimizer="lazy_adam",
        data__rows="appended",
    )
    last = days / "first" / "last.pt"
    metrics = experiment.train(second, init_from=last, with_optimizer=True)
    assert metrics["data"]["rows"]["train"] == int((after.parts["train"].row >= 300).sum())
    stores = [path for path in (days / "stores").iterdir() if (path / "manifest.json").exists()]
    assert len(stores) == 2  # and none of the same rows with other ids
    come(days, 4)
    appended(used(days))
    with pytest.raises(DataError, match=r"the run began with 3 files of rows, now there are 4"):
        experiment.train(second, resume=True)


def test_a_run_is_not_resumed_on_the_same_files_prepared_at_once(days):
    made(used(days))
    come(days, 3)
    after = appended(used(days), "train")
    experiment.train(used(days, training__epochs=1))
    experiment.train(used(days, training__epochs=1), resume=True)
    shutil.rmtree(after.path)
    with pytest.raises(DataError, match="the run began with 1 files of appended, now there are 0"):
        experiment.train(used(days, training__epochs=1), resume=True)


def test_the_store_that_lacks_fewest_files_is_gone_on_from(days):
    made(used(days, data__table__files="day1.csv"))
    second = made(used(days))
    come(days, 3)
    after = appended(used(days))
    manifest = json.loads((after.path / "manifest.json").read_text())
    assert [step["before"] for step in manifest["appended"]] == [300]
    assert os.path.samefile(second.path / "train/row.bin", after.path / "train/row.bin")


def test_the_command_appends_and_says_how_often(days, capsys):
    path = days / "run.yaml"
    path.write_text(yaml.safe_dump(used(days, data__stratify=True).to_dict()))
    assert main(["prepare", "--config", str(path)]) == 0
    come(days, 3)
    assert main(["prepare", "--config", str(path), "--append", "--as", "train"]) == 0
    assert main(["prepare", "--config", str(path), "--append", "--as", "train"]) == 0
    assert main(["prepare", "--config", str(path)]) == 0
    said = capsys.readouterr()
    assert "1 new files go on from" in said.out
    assert "new ids: city" in said.out
    assert "nothing to append: the rows of all files are in" in said.out
    assert "rows appended in 1 steps" in said.out
    for given, message in (
        (["--as", "valid"], "--as says where the rows of --append go"),
        (["--append", "--verify"], "expected one of --verify and --append"),
        (["--append", "--merge"], "expected one of --merge and --append"),
    ):
        assert main(["prepare", "--config", str(path), *given]) == 2
        assert message in capsys.readouterr().err
