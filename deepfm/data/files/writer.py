"""Tables written to CSV and Parquet files."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from deepfm.errors import DataError, DeepFMError
from deepfm.utils.io import atomic_writer

_OUTPUTS = (".csv", ".parquet")


class TableWriter:
    """Writes tables with equal columns one after another to a .csv or .parquet file.

    The file takes its name when the block ends without an error; until then, and after a failure,
    what stood there before stays. Lists join with `|` in a CSV.

    Raises:
        DataError: The name ends in neither .csv nor .parquet.
        DeepFMError: The file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_ending(self.path)
        self._stack = ExitStack()
        self._file: BinaryIO | None = None
        self._writer: pyarrow.csv.CSVWriter | pyarrow.parquet.ParquetWriter | None = None

    def __enter__(self) -> "TableWriter":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DeepFMError(f"cannot write {self.path}: {error.strerror or error}") from None
        self._file = self._stack.enter_context(atomic_writer(self.path))
        return self

    def write(self, table: pa.Table) -> None:
        is_csv = self.path.suffix == ".csv"
        if is_csv:
            table = _join_lists(table)
        if self._writer is None:
            kind = pyarrow.csv.CSVWriter if is_csv else pyarrow.parquet.ParquetWriter
            # Entered after the file, so it is closed before the file takes its name.
            self._writer = self._stack.enter_context(kind(self._file, table.schema))
        self._writer.write_table(table)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)


def check_ending(path: Path) -> None:
    """Refuse a file to write that is neither CSV nor Parquet."""
    if path.suffix not in _OUTPUTS:
        raise DataError(f"{path}: expected a file that ends in {' or '.join(_OUTPUTS)}")


def _join_lists(table: pa.Table) -> pa.Table:
    """Lists as text, their elements joined with `|`."""
    for index, field in enumerate(table.schema):
        if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
            lists = table.column(index).cast(pa.list_(pa.string()))
            table = table.set_column(index, field.name, pc.binary_join(lists, "|"))
    return table
