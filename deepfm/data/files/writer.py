"""Tables written to a file whose name says the format."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import pyarrow as pa

from deepfm.data.files.read import FORMATS
from deepfm.data.files.rows import TableSink, WritableFormat
from deepfm.errors import DataError, Place
from deepfm.utils.io import atomic_writer, make_directory


class TableWriter:
    """Writes tables with equal columns one after another to a file, `.csv` or `.parquet`.

    The file takes its name when the block ends without an error; until then, and after a failure,
    what stood there before stays. Lists join with `|` in a CSV.

    Raises:
        DataError: The name's ending is that of no format that can be written.
        DeepFMError: The file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._format = writable_format(self.path)
        self._stack = ExitStack()
        self._file: BinaryIO | None = None
        self._sink: TableSink | None = None

    def __enter__(self) -> "TableWriter":
        make_directory(self.path.parent, f"cannot write {self.path}")
        self._file = self._stack.enter_context(atomic_writer(self.path))
        return self

    def write(self, table: pa.Table) -> None:
        """Append a table.

        Raises:
            ValueError: The writer's block has not been entered.
        """
        table = self._format.storable(table)
        if self._sink is None:
            if self._file is None:
                raise ValueError("a TableWriter writes within its `with` block")
            # Entered after the file, so it is closed before the file takes its name.
            self._sink = self._stack.enter_context(self._format.sink(self._file, table.schema))
        self._sink.write_table(table)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)


def writable_format(path: Path) -> WritableFormat:
    """The format that a file is written in.

    Raises:
        DataError: The name's ending is that of no such format.
    """
    known = {
        ending: found for ending, found in FORMATS.items() if isinstance(found, WritableFormat)
    }
    if path.suffix not in known:
        raise DataError(
            f"expected a file that ends in {' or '.join(known)}", place=Place(file=str(path))
        )
    return known[path.suffix]
