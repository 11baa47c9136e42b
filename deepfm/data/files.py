"""Reading and writing tables of rows: CSV and Parquet."""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from deepfm.errors import DataError, DeepFMError

_ENDINGS = (".csv", ".parquet")


def read_table(path: str | Path) -> pa.Table:
    """Read a CSV or Parquet file.

    All columns of a CSV are read as text, so nothing is guessed: a zip code keeps its leading
    zeros, and encoders read a number where they need one. An empty cell is null.

    Raises:
        DataError: The file is missing, no CSV or Parquet, empty, not UTF-8, or a row has another
            number of cells than the header (file:line).
    """
    path = Path(path)
    check_ending(path)
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file), [])
        if len(set(header)) != len(header):
            raise DataError(f"{path}:1: a column name is given twice: {', '.join(header)}")
        return pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise DataError(_place(path) or f"{path}: {str(error).splitlines()[0]}") from None


def _place(path: Path) -> str | None:
    """File and line of the first malformed row of a CSV; None if another thing is wrong."""
    if path.suffix != ".csv":
        return None
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        width = 0
        for row in reader:
            width = width or len(row)
            if row and len(row) != width:
                found = f"expected {width} columns, found {len(row)}"
                return f"{path}:{reader.line_num}: {found}"
            if any("\udc80" <= character <= "\udcff" for cell in row for character in cell):
                return f"{path}:{reader.line_num}: not UTF-8"
    return None


def write_table(path: str | Path, table: pa.Table) -> None:
    """Write a CSV or Parquet file, by the ending of its name; lists join with `|` in a CSV.

    Raises:
        DataError: The ending is neither .csv nor .parquet.
        DeepFMError: The file cannot be written.
    """
    path = Path(path)
    check_ending(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(table, path)
            return
        for index, column in enumerate(table.schema):
            if pa.types.is_list(column.type):
                joined = pa.compute.binary_join(table[column.name].combine_chunks(), "|")
                table = table.set_column(index, column.name, joined)
        pyarrow.csv.write_csv(table, path)
    except OSError as error:
        raise DeepFMError(f"{path}: cannot be written: {error.strerror or error}") from None


def check_ending(path: Path) -> None:
    """Refuse a file name that is neither CSV nor Parquet."""
    if path.suffix not in _ENDINGS:
        raise DataError(f"{path}: expected a file that ends in {' or '.join(_ENDINGS)}")
