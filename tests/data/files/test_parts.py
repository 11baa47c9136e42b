"""Files read in parts: every row once, in order, with the line that it has in the whole file."""

import csv
import gzip
import io
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deepfm.data.files.parts import FilePart
from deepfm.data.files.read import parts_of, read_parts, read_rows
from deepfm.errors import DataError


def cut(path, count, options):
    """The parts of a file for so many readers, each with how many rows it is said to have."""
    reader = parts_of(path)
    ranges = reader.ranges(path, options, [k / count for k in range(1, count)])
    assert len(ranges) == count
    there = [one for one in ranges if one is not None]
    parts = reader.parts(there, [reader.scan(one, options) for one in there], options)
    return [part for part in parts if part is not None]


def rows_of(parts, options, like):
    """The rows of some parts, and the place of each."""
    found, places = [], []
    for part in parts:
        for rows in read_parts([part], options, like=like, block_size=50):
            found += rows.table.to_pylist()
            places += [rows.place(index) for index in range(len(rows.table))]
    return found, places


def check(path, count, *, has_lines=True, **options):
    """Cut a file, and compare its parts with the whole; the parts."""
    own, places = [], []
    for rows in read_rows([path], **options):
        own += rows.table.to_pylist()
        places += [rows.place(index) for index in range(len(rows.table))]
    parts = cut(path, count, options)
    found, found_places = rows_of([part for part, _ in parts], options, path)
    assert found == own
    assert found_places == places or not has_lines
    for part, rows in parts:
        if rows is not None:
            assert rows == len(rows_of([part], options, path)[0])
    return parts


CELLS = st.text(st.sampled_from('ab,"\n\r é'), max_size=6)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=12),
    st.integers(1, 9),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
@example([('\n"', ""), ("a", 'b"\r\n'), ("\r", "a")], 7, "\n", False)
def test_parts_of_quoted_text_are_the_rows_of_the_whole(
    tmp_path_factory, rows, count, end, is_open
):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("x", "y"), *rows])
    path = tmp_path_factory.mktemp("parts") / "rows.csv"
    data = text.getvalue().encode()
    path.write_bytes(data.removesuffix(end.encode()) if is_open else data)
    parts = check(path, count)
    assert sum(rows is not None for _, rows in parts) in (0, len(parts))


@settings(deadline=None, max_examples=200)
@given(st.text(st.sampled_from('ab,"\n\r'), max_size=60), st.integers(2, 7))
def test_what_can_be_read_whole_can_be_read_in_parts(tmp_path_factory, text, count):
    path = tmp_path_factory.mktemp("parts") / "rows.csv"
    path.write_text("x,y\n" + text, newline="")
    try:
        list(read_rows([path]))
    except DataError:
        return
    check(path, count, has_lines="\r" not in text)  # returns alone are no lines, but end rows


def test_long_text_is_cut_near_where_it_should_be_and_counted(tmp_path):
    rng = np.random.default_rng(0)
    lines = [
        f'{k},"say ""{rng.integers(9)}"", {"n" * int(rng.integers(40))}\nso"' for k in range(5000)
    ]
    path = tmp_path / "rows.csv"
    path.write_text("\ufeffid,text\n" + "\n".join(lines) + "\n", encoding="utf-8")
    parts = check(path, 4)
    assert sum(rows for _, rows in parts) == 5000
    bounds = [part.start for part, _ in parts] + [path.stat().st_size]
    assert max(abs(b - a - bounds[-1] / 4) for a, b in pairwise(bounds)) < 200
    assert parts[1].part.first == 2 + 2 * parts[0].rows


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tabs_quote_nothing(tmp_path, end):
    path = tmp_path / "rows.tsv"
    rows = [f'{k}\t"{"x" * (k % 7)}' for k in range(300)]
    path.write_text(end.join(["id\ttext", *rows, ""]), newline="")
    counts = [rows for _, rows in check(path, 3)]
    assert sum(counts) == 300
    assert min(counts) > 80


def test_what_cannot_be_cut_is_one_part(tmp_path):
    text = "id,text\n" + "".join(f"{k},{k}\n" for k in range(100))
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "latin.csv").write_text(text + "1,é\n", encoding="latin-1")
    (tmp_path / "odd.csv").write_text(text + '7,5" pipe\n8,b\n9,3" nail\n')
    for name, options, rows in (
        ("rows.csv.gz", {}, 100),
        ("latin.csv", {"encoding": "latin-1"}, 101),
        ("odd.csv", {}, None),
    ):
        assert check(tmp_path / name, 3, **options) == [(FilePart(tmp_path / name), rows)]


def test_blank_lines_are_left_to_a_reader_to_count(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("id,text\n" + "1,a\n\n2,b\n" * 50)
    assert {rows for _, rows in check(path, 3)} == {None}
    (tmp_path / "one.csv").write_text("id\n" + "1\n\n2\n" * 50)
    check(tmp_path / "one.csv", 3)


def test_parquet_is_cut_at_row_groups(tmp_path):
    path = tmp_path / "rows.parquet"
    table = pa.table({"id": np.arange(1000), "text": [f"{k % 7}" for k in range(1000)]})
    pa.parquet.write_table(table, path, row_group_size=100)
    parts = check(path, 3)
    assert [rows for _, rows in parts] == [300, 400, 300]
    assert [part.first for part, _ in parts] == [1, 301, 701]
    assert [rows for _, rows in check(path, 40) if rows] == [100] * 10


def test_declared_columns_have_no_header(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("".join(f"{k},{k}\n" for k in range(90)))
    parts = check(path, 2, columns=["a", "b"])
    assert sum(rows for _, rows in parts) == 90
