"""CSV and Parquet: nothing is guessed, and every malformed file names its line."""

import pyarrow as pa
import pytest

from deepfm.data.files import read_table, write_table
from deepfm.errors import DataError, DeepFMError


@pytest.fixture
def csv_file(tmp_path):
    def write(content: bytes):
        path = tmp_path / "rows.csv"
        path.write_bytes(content)
        return path

    return write


def test_cells_stay_text_and_empty_ones_are_null(csv_file):
    table = read_table(csv_file(b'\xef\xbb\xbfid,zip\n1,02139\n2,\n3,"a,\nb"\n'))
    assert table.to_pydict() == {"id": ["1", "2", "3"], "zip": ["02139", None, "a,\nb"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n3\n", "rows.csv:3: expected 2 columns, found 1"),
        (b'a,b\n1,"x\ny"\n3,4,5\n', "rows.csv:4: expected 2 columns, found 3"),
        (b"a,b\n1,2\n\xff,3\n", "rows.csv:3: not UTF-8"),
        (b"a,a\n1,2\n", "rows.csv:1: a column name is given twice: a, a"),
        (b"", "rows.csv: Empty CSV file"),
    ],
)
def test_a_malformed_csv_names_its_line(csv_file, content, message):
    with pytest.raises(DataError) as caught:
        read_table(csv_file(content))
    assert str(caught.value).endswith(message)


def test_a_header_alone_has_no_rows(csv_file):
    assert len(read_table(csv_file(b"a,b\n"))) == 0


def test_damaged_missing_and_other_files_are_named(tmp_path):
    damaged = tmp_path / "rows.parquet"
    damaged.write_bytes(b"PAR1")
    for path, message in (
        (damaged, "rows.parquet: "),
        (tmp_path / "none.csv", "none.csv: cannot be read: No such file"),
        (tmp_path, "expected a file that ends in .csv or .parquet"),
        (tmp_path / "rows.txt", "expected a file that ends in .csv or .parquet"),
    ):
        with pytest.raises(DataError) as caught:
            read_table(path)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_what_is_written_reads_back(tmp_path, ending):
    table = pa.table({"id": ["1", "2"], "tags": [["a", "b"], []]})
    path = tmp_path / "new" / f"rows.{ending}"
    write_table(path, table)
    tags = [["a", "b"], []] if ending == "parquet" else ["a|b", None]
    assert read_table(path).to_pydict() == {"id": ["1", "2"], "tags": tags}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "rows.csv"
    path.mkdir()
    with pytest.raises(DeepFMError):
        write_table(path, pa.table({"id": [1]}))
