"""A format of files is one class and one line in `FORMATS`; lists of one length are lists."""

from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pytest

from deepfm.data.files.read import FORMATS, read_rows
from deepfm.data.files.rows import Rows
from deepfm.data.files.writer import TableWriter
from deepfm.data.labels import group_ids
from deepfm.data.sources.describe import describe
from deepfm.errors import DataError

TABLE = pa.table({"city": ["Oslo", "Rome"], "id": [1, 2]})


class ArrowFormat:
    """Arrow files, as the toy format of this module."""

    is_typed = True

    def read(self, path, options, wanted, block_size):
        table = pa.ipc.open_file(str(path)).read_all()
        yield Rows(table.select(wanted.of(path, table.column_names)), path, 1, has_lines=False)

    def storable(self, table):
        return table

    @contextmanager
    def sink(self, file, columns):
        with pa.ipc.new_file(file, columns) as writer:
            yield writer


@pytest.fixture
def arrow(monkeypatch):
    monkeypatch.setitem(FORMATS, ".arrow", ArrowFormat())


def test_a_new_format_is_read_written_and_described(arrow, tmp_path):
    with TableWriter(tmp_path / "rows.arrow") as writer:
        writer.write(TABLE)
    (rows,) = read_rows([tmp_path / "rows.arrow"], only=["id"])
    assert rows.table["id"].to_pylist() == [1, 2]
    assert str(rows.place(1)) == f"{tmp_path}/rows.arrow: row 2"
    found = describe(tmp_path / "rows.arrow")
    assert [column.kind for column in found.summaries] == ["text", "number"]


def test_a_format_that_is_only_read_cannot_be_written(tmp_path):
    for name in ("rows.txt", "rows.parquet.gz"):
        with pytest.raises(DataError, match=r"expected a file that ends in \.csv, \.tsv, \.parq"):
            TableWriter(tmp_path / name)


@pytest.mark.parametrize("ending", ["tsv", "csv.gz", "tsv.gz", "csv.zst", "tsv.zst"])
def test_what_is_written_as_text_is_read_again(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    with TableWriter(path) as writer:
        for _ in range(3):
            writer.write(TABLE)
    (rows,) = read_rows([path])
    assert rows.table.to_pydict() == {"city": ["Oslo", "Rome"] * 3, "id": ["1", "2"] * 3}


def test_a_text_that_no_tsv_can_hold_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("old")
    with (
        pytest.raises(DataError, match=r"rows\.tsv"),
        TableWriter(path) as writer,
    ):
        writer.write(pa.table({"city": ["a\tb"]}))
    assert path.read_text() == "old"


@pytest.fixture
def vectors() -> pa.Table:
    """Two vectors of two numbers, and none."""
    values = pa.array([1.0, 2.0, 3.5, 4.5, 0.0, 0.0])
    lists = pa.FixedSizeListArray.from_arrays(values, 2, mask=pa.array([False, False, True]))
    return pa.table({"id": [1, 2, 3], "vector": lists})


def test_lists_of_one_length_are_described(vectors, tmp_path):
    pa.parquet.write_table(vectors, tmp_path / "rows.parquet")
    summary = describe(tmp_path / "rows.parquet").summaries[1]
    assert (summary.kind, summary.longest) == ("vector", 2)


def test_lists_of_one_length_are_joined_in_a_csv(vectors, tmp_path):
    with TableWriter(tmp_path / "rows.csv") as writer:
        writer.write(vectors)
    (rows,) = read_rows([tmp_path / "rows.csv"])
    assert rows.table["vector"].to_pylist() == ["1|2", "3.5|4.5", None]


def test_the_first_element_of_lists_of_one_length_groups_rows(vectors):
    ordinary = vectors.set_column(1, "vector", vectors["vector"].cast(pa.list_(pa.float64())))
    found = group_ids(vectors, ["vector"])
    np.testing.assert_array_equal(found, group_ids(ordinary, ["vector"]))
    assert len(np.unique(found)) == 3
