"""Files of rows: nothing is guessed, every error names its place, and any block size will do."""

import csv
import gzip
import io
import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfm.data.files.read import first_line, read_rows
from deepfm.data.files.writer import TableWriter
from deepfm.errors import DataError, DeepFMError

CRITEO = Path(__file__).parents[4] / "shared" / "data" / "criteo" / "train_sample.tsv"


@pytest.fixture
def write(tmp_path):
    """Writes bytes under a name and returns the path."""

    def to_file(content: bytes, name: str = "rows.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return to_file


def table(paths, **form) -> dict[str, list]:
    paths = paths if isinstance(paths, list) else [paths]
    return pa.concat_tables([rows.table for rows in read_rows(paths, **form)]).to_pydict()


def places(path, **form) -> list[str]:
    """Where each row stands, without the folder."""
    return [
        str(rows.place(index)).removeprefix(f"{path.parent}/")
        for rows in read_rows([path], **form)
        for index in range(len(rows.table))
    ]


def error(paths, **form) -> str:
    with pytest.raises(DataError) as caught:
        table(paths, **form)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_all(path, tables) -> None:
    with TableWriter(path) as writer:
        for part in tables:
            writer.write(part)


def test_cells_stay_text_and_empty_ones_are_null(write):
    path = write(b'\xef\xbb\xbfid,zip\n1,02139\n2,\n3,"a,\nb"\n4,""\n')
    expected = {"id": ["1", "2", "3", "4"], "zip": ["02139", None, "a,\nb", None]}
    for block_size in (1, 9, 1 << 20):
        assert table(path, block_size=block_size) == expected
    assert places(path) == ["rows.csv:2", "rows.csv:3", "rows.csv:4", "rows.csv:6"]


MALFORMED = [
    (b"a,b\n1,2\n3\n", "rows.csv:3: expected 2 columns, found 1"),
    (b"a,b\n1,2\n\n\n3", "rows.csv:5: expected 2 columns, found 1"),
    (b'a,b\n1,"x\ny"\n3,4,5\n', "rows.csv:4: expected 2 columns, found 3"),
    (b'a,b\n1,5" disk\n3,"4"",5"\n6\n', "rows.csv:4: expected 2 columns, found 1"),
    (b"a,b\n1,2\n\xff,3\n", "rows.csv:3: not UTF-8"),
    (b"a,\xff\n1,2\n", "rows.csv:1: not UTF-8"),
    (b"a,b,a\n1,2,3\n", "rows.csv:1: a column name is given twice: a"),
    (b'a,b\n1,2\n3,"4\n5,6\n', "rows.csv:3: a cell's quotation mark is never closed"),
    (b"", "rows.csv: the file is empty"),
    (b"\n\n", "rows.csv: the file is empty"),
]


@pytest.mark.parametrize("block_size", [1, 8, 1 << 20])
@pytest.mark.parametrize(("content", "message"), MALFORMED)
def test_a_malformed_csv_names_its_line(write, content, message, block_size):
    assert error(write(content), block_size=block_size).endswith(message)


@pytest.mark.parametrize(("content", "message"), MALFORMED)
def test_a_malformed_compressed_csv_names_its_line(write, content, message):
    path = write(gzip.compress(content), "rows.csv.gz")
    assert error(path).endswith(message.replace("rows.csv", "rows.csv.gz"))


def test_a_ragged_row_in_the_middle_of_a_big_file_is_found(write):
    lines = [b"%d,%d\n" % (k, k) for k in range(200_000)]
    lines[123_456] = b"1,2,3\n"
    path = write(b"a,b\n" + b"".join(lines))
    for block_size in (1 << 16, 1 << 24):
        assert error(path, block_size=block_size).endswith(
            "rows.csv:123458: expected 2 columns, found 3"
        )


def test_a_header_alone_has_no_rows_but_its_columns(write):
    (rows,) = read_rows([write(b"a,b\n")])
    assert rows.table.to_pydict() == {"a": [], "b": []}
    assert rows.table.schema.types == [pa.string(), pa.string()]


def test_an_empty_part_beside_full_ones_is_no_table(write):
    paths = [write(b"a\n", "0.csv"), write(b"a\n1\n", "1.csv")]
    assert [rows.table.to_pydict() for rows in read_rows(paths)] == [{"a": ["1"]}]


def test_blank_lines_are_skipped_and_counted(write):
    path = write(b"\n\na,b\n\n1,2\n\r\n3,4\n\n\n")
    for block_size in (1, 7, 1 << 20):
        assert table(path, block_size=block_size) == {"a": ["1", "3"], "b": ["2", "4"]}
        assert places(path, block_size=block_size) == ["rows.csv:5", "rows.csv:7"]


def test_a_blank_line_of_one_column_is_a_null(write):
    path = write(b"a\n1\n\n3\n")
    assert table(path) == {"a": ["1", None, "3"]}
    assert places(path) == ["rows.csv:2", "rows.csv:3", "rows.csv:4"]


CELLS = st.text(st.sampled_from('ab,;"\n\r é\t'), max_size=6)


@given(
    cells=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=12),
    block_size=st.integers(1, 80),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_any_csv_reads_back_whatever_the_blocks(
    tmp_path_factory, cells, block_size, quoting, newline
):
    """Against Python's csv: written by it, and line numbers counted from what it wrote."""
    if any("\r" in cell for row in cells for cell in row):
        quoting = csv.QUOTE_ALL  # where lines end in \n, Python leaves a lone \r unquoted
    text, lines = io.StringIO(newline=""), []
    writer = csv.writer(text, quoting=quoting, lineterminator=newline)
    writer.writerow(["x", "y"])
    for row in cells:
        lines.append(1 + text.getvalue().count("\n"))
        writer.writerow(row)
    path = tmp_path_factory.mktemp("any") / "rows.csv"
    path.write_bytes(text.getvalue().encode())
    assert table(path, block_size=block_size) == {
        "x": [x or None for x, _ in cells],
        "y": [y or None for _, y in cells],
    }
    assert places(path, block_size=block_size) == [f"rows.csv:{line}" for line in lines]


PLAIN = st.text(st.sampled_from('ab"é'), min_size=1, max_size=5).map(lambda text: f"x{text}")


@given(
    cells=st.lists(st.tuples(PLAIN, PLAIN | CELLS), min_size=1, max_size=12),
    block_size=st.integers(1, 60),
)
def test_a_mark_inside_of_a_plain_cell_is_data(tmp_path_factory, cells, block_size):
    def quoted(cell):
        return cell if cell.startswith("x") else '"' + cell.replace('"', '""') + '"'

    text = "a,b\n" + "".join(f"{quoted(one)},{quoted(two)}\n" for one, two in cells)
    path = tmp_path_factory.mktemp("marks") / "rows.csv"
    path.write_bytes(text.encode())
    assert list(csv.reader(io.StringIO(text, newline="")))[1:] == [list(row) for row in cells]
    assert table(path, block_size=block_size) == {
        "a": [one for one, _ in cells],
        "b": [two or None for _, two in cells],
    }


def test_a_tab_separated_file_has_no_quoting(write):
    content = b'a\tb\n"\tx\n5"\t"y\n\t""\n'
    expected = {"a": ['"', '5"', None], "b": ["x", '"y', '""']}
    assert table(write(content, "rows.tsv")) == expected
    assert table(write(content, "rows.txt"), delimiter="\t", block_size=3) == expected


def test_another_delimiter_quotes_like_a_comma(write):
    assert table(write(b'a;b\n"1;2";3,4\n'), delimiter=";") == {"a": ["1;2"], "b": ["3,4"]}


@pytest.mark.parametrize("delimiter", ["::", "§", " | "])
def test_a_long_delimiter_may_meet_the_border_of_a_block(write, delimiter):
    cells = [[f"{k}", ":" * (k % 2) + "x" * (k % 5), f'"{k % 3}'] for k in range(50)]
    content = "".join(delimiter.join(row) + "\n" for row in cells).encode()
    path = write(content, "ratings.dat")
    for block_size in (*range(1, 30), 1 << 20):
        found = table(path, delimiter=delimiter, columns=["a", "b", "c"], block_size=block_size)
        if delimiter == "::":  # the first of three colons divides
            assert found["a"] == [row[0] for row in cells]
        else:
            assert list(zip(*found.values(), strict=True)) == [
                (a, b or None, c) for a, b, c in cells
            ]


def test_a_long_delimiter_takes_the_place_of_a_character_that_is_refused(write):
    path = write(b"a::b\n1::2\n3::\x1f\n", "rows.dat")
    message = "rows.dat:3: the character 0x1f cannot be read together with the delimiter '::'"
    assert error(path, delimiter="::").endswith(message)
    path = write(b"a::b\n1::2\n3\n", "rows.dat")
    assert error(path, delimiter="::").endswith("rows.dat:3: expected 2 columns, found 1")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"delimiter": ""}, "'' cannot be a delimiter"),
        ({"delimiter": "\n"}, "'\\n' cannot be a delimiter"),
        ({"delimiter": '"'}, "'\"' cannot be a delimiter"),
        ({"encoding": "latin-x"}, "unknown encoding 'latin-x'"),
        ({"encoding": "hex"}, "unknown encoding 'hex'"),
        ({"columns": ["a", "b", "a"]}, "a column name is given twice: a"),
        ({"columns": ["x", "y", "z"]}, "rows.csv:1: 3 columns are declared, 2 are in this line"),
        ({"columns": ["a", "b"]}, "rows.csv:1: a header line, but the columns are declared"),
        ({"columns": ["b", "c"]}, "rows.csv:1: a header line, but the columns are declared"),
        (
            {"only": ["colour"]},
            "no column 'colour'; known: a, b; `column` of a field may name another",
        ),
    ],
)
def test_a_form_that_does_not_fit_is_named(write, form, message):
    assert message in error(write(b"a,b\n1,2\n"), **form)


def test_declared_columns_name_a_file_without_a_header(write):
    path = write(b"1,2\n0,1\n")
    assert table(path, columns=["0", "1"]) == {"0": ["1", "0"], "1": ["2", "1"]}
    assert places(path, columns=["0", "1"]) == ["rows.csv:1", "rows.csv:2"]
    assert first_line(path) == ["1", "2"]


def test_only_some_columns_in_another_order(write):
    path = write(b"a,b,c\n1,2,\xff\n")
    assert list(table(path, only=["b", "a"]).items()) == [("b", ["2"]), ("a", ["1"])]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("block_size", [1, 5, 1 << 20])
def test_other_encodings(write, encoding, block_size):
    path = write("name,title\nZoë,Amélie\nné,À\n".encode(encoding))
    expected = {"name": ["Zoë", "né"], "title": ["Amélie", "À"]}
    assert table(path, encoding=encoding, block_size=block_size) == expected


@pytest.mark.parametrize("block_size", [1, 1 << 20])
def test_bytes_that_are_not_of_the_encoding(write, block_size):
    path = write(b"a,b\n1,2\n3,\x81\n")
    message = error(path, encoding="cp1252", block_size=block_size)
    assert "rows.csv:3: not cp1252: " in message


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_compressed_files_of_several_members(tmp_path, ending):
    parts, path = [], tmp_path / f"rows.csv.{ending}"
    for text in (b"a,b\n1,2\n3", b",4\n5,6\n"):
        part = tmp_path / f"part.{ending}"
        with pa.output_stream(part) as file:
            file.write(text)
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))
    for block_size in (1, 1 << 20):
        assert table(path, block_size=block_size) == {"a": ["1", "3", "5"], "b": ["2", "4", "6"]}
    cut = tmp_path / f"cut.csv.{ending}"
    cut.write_bytes(path.read_bytes()[:-3])
    assert f"cut.csv.{ending}: cannot be read: damaged or cut off: " in error(cut)
    cut.write_bytes(b"a,b\n1,2\n")
    assert f"cut.csv.{ending}: cannot be read: damaged or cut off: " in error(cut)


def test_progress_rises_to_one(write):
    path = write(b"a\n" + b"123456789\n" * 5000)
    done = [rows.done for rows in read_rows([path], block_size=5000)]
    assert len(done) > 5
    assert done == sorted(done)
    assert 0 < done[0] < 0.3
    assert done[-1] == 1.0


def test_damaged_missing_and_other_files_are_named(write, tmp_path):
    for path, message in (
        (write(b"PAR1", "rows.parquet"), "rows.parquet: damaged, or no Parquet file: "),
        (tmp_path / "none.csv", "none.csv: cannot be read: No such file"),
        (tmp_path / "none.parquet", "none.parquet: cannot be read: No such file"),
        (tmp_path, "expected a file that ends in .csv, .tsv or .parquet, or a delimiter"),
        (write(b"a", "rows.txt"), "expected a file that ends in .csv, .tsv or .parquet"),
        (write(b"a", "rows.csv.bz2"), "rows.csv.bz2: .bz2 cannot be read; expected"),
        (write(b"a", "rows.parquet.gz"), "Parquet is compressed inside; unpack the file first"),
    ):
        assert message in error(path)


def test_files_of_one_call_must_agree_in_columns(write):
    one = write(b"a,b\n1,2\n", "1.csv")
    other = write(b"b,a\n4,3\n", "2.tsv".replace("tsv", "csv"))
    assert list(table([one, other]).items()) == [("a", ["1", "3"]), ("b", ["2", "4"])]
    less, more = write(b"a\n1\n", "less.csv"), write(b"a,b,c\n1,2,3\n", "more.csv")
    assert error([one, less]).endswith(f"less.csv: no column 'b', which {one} has")
    assert error([one, more]).endswith(f"more.csv: a column 'c', which {one} does not have")


def test_parquet_keeps_its_types_and_lists_and_decodes_dictionaries(tmp_path):
    path = tmp_path / "rows.parquet"
    columns = {
        "id": pa.array([3, None, 5]),
        "tags": pa.array([["a"], [], None]),
        "city": pa.array(["x", "y", "x"]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), path)
    (rows,) = read_rows([path], only=["city", "tags", "id"])
    assert rows.table.schema.types == [pa.string(), pa.list_(pa.string()), pa.int64()]
    assert rows.table.to_pydict() == {
        "city": ["x", "y", "x"], "tags": [["a"], [], None], "id": [3, None, 5]
    }  # fmt: skip
    assert str(rows.place(1)) == f"{path}: row 2"


def test_parquet_streams_and_numbers_its_rows(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"id": range(1000)}), path, row_group_size=300)
    parts = list(read_rows([path], block_size=800))
    assert len(parts) > 5
    assert [value for rows in parts for value in rows.table["id"].to_pylist()] == list(range(1000))
    for rows in parts:
        assert str(rows.place(0)) == f"{path}: row {rows.table['id'][0].as_py() + 1}"
    assert parts[-1].done == 1.0


def test_parquet_without_rows_and_with_errors(tmp_path):
    path, other = tmp_path / "rows.parquet", tmp_path / "other.parquet"
    pq.write_table(pa.table({"id": pa.array([], pa.int64())}), path)
    (rows,) = read_rows([path])
    assert rows.table.schema == pa.schema([("id", pa.int64())])
    assert "no column 'idx'; did you mean 'id'?" in error(path, only=["idx"])
    assert "names its columns itself" in error(path, columns=["id"])
    pq.write_table(pa.table({"id": [1.0, 2.0]}), other)
    assert table([path, other]) == {"id": [1, 2]}
    pq.write_table(pa.table({"id": ["x"]}), other)
    assert "other.parquet: column id is string, in the first file int64: " in error([path, other])


def test_the_criteo_sample_is_read_as_it_stands():
    if not CRITEO.exists():
        pytest.skip("the sample of the Criteo data is not on this machine")
    names = ["label", *(f"I{k}" for k in range(1, 14)), *(f"C{k}" for k in range(1, 27))]
    lines = CRITEO.read_text().splitlines()
    expected = [[cell or None for cell in line.split("\t")] for line in lines]
    for block_size in (1000, 1 << 24):
        found = table(CRITEO, columns=names, block_size=block_size)
        assert list(found) == names
        assert [list(row) for row in zip(*found.values(), strict=True)] == expected
    assert len(expected) == 2000


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_what_is_written_in_parts_reads_back(tmp_path, ending):
    tags, numbers = [["a", "b"], [], None], [[1], [2, 3], []]
    whole = pa.table({"id": ["1", "2", "3"], "tags": tags, "n": numbers})
    path = tmp_path / "new" / f"rows.{ending}"
    with TableWriter(path) as writer:
        writer.write(whole.slice(0, 2))
        assert not path.exists()
        writer.write(whole.slice(2))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    if ending == "parquet":
        assert table(path) == whole.to_pydict()
    else:
        assert table(path) == {
            "id": ["1", "2", "3"], "tags": ["a|b", None, None], "n": ["1", "2|3", None]
        }  # fmt: skip


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(b"old")

    def tables():
        yield pa.table({"id": [1]})
        raise DataError("in between")

    with pytest.raises(DataError, match="in between"):
        write_all(path, tables())
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, ending):
    """A limit on the size of files stands for the disk: writing beyond it fails in the system."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        tables = (pa.table({"id": range(5000 * k, 5000 * k + 5000)}) for k in range(40))
        with pytest.raises(DeepFMError, match=rf"cannot write .*rows.{ending}: File too large"):
            write_all(tmp_path / f"rows.{ending}", tables)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_where_no_file_can_be_written(tmp_path):
    (tmp_path / "rows.csv").mkdir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "rows.csv", tmp_path / "file" / "rows.csv"):
        with pytest.raises(DeepFMError, match=r"cannot write "):
            write_all(path, [pa.table({"id": [1]})])
    with pytest.raises(DataError, match=r"ends in \.csv, \.tsv, \.parquet"):
        TableWriter(tmp_path / "rows.txt")
