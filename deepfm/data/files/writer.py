"""Tables written to a file whose name says the format."""

import io
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa

from deepfm.data.files.packed import COMPRESSIONS, file_ending
from deepfm.data.files.read import FORMATS
from deepfm.data.files.rows import TableSink, WritableFormat
from deepfm.errors import DataError, Place, cut
from deepfm.utils.places import AnyPath, path_of, whole_file

if TYPE_CHECKING:
    from typing_extensions import Buffer


class _Open(io.RawIOBase):
    """Writes to a file that stays open when this one is closed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: "Buffer") -> int:
        return self._file.write(data)


class TableWriter:
    """Writes tables with equal columns one after another to a `.csv`, `.tsv` or `.parquet` file.

    Text may be compressed, `.csv.gz` or `.tsv.zst`.

    The file takes its name when the block ends without an error; until then, and after a failure,
    what stood there before stays. Lists join with `|` in a CSV. The path may be a URI.

    Raises:
        DataError: The name's ending is that of no format that can be written.
        DeepFMError: The file cannot be written.
    """

    def __init__(self, path: str | AnyPath) -> None:
        self.path = path_of(path)
        self._format = writable_format(self.path)
        self._stack = ExitStack()
        self._file: BinaryIO | None = None
        self._sink: TableSink | None = None

    def __enter__(self) -> "TableWriter":
        self._file = self._stack.enter_context(whole_file(self.path))
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
            # Entered after the file, so they are closed before the file takes its name.
            file: BinaryIO | pa.NativeFile = self._file
            if compression := COMPRESSIONS.get(self.path.suffix):
                file = self._stack.enter_context(
                    pa.CompressedOutputStream(_Open(self._file), compression)
                )
            self._sink = self._stack.enter_context(self._format.sink(file, table.schema))
        try:
            self._sink.write_table(table)
        except pa.ArrowInvalid as error:  # a text that the format has no way to write
            raise DataError(cut(str(error), 200), place=Place(file=str(self.path))) from None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)


def writable_format(path: AnyPath) -> WritableFormat:
    """The format that a file is written in.

    Raises:
        DataError: The name's ending is that of no such format.
    """
    known = {
        ending: found for ending, found in FORMATS.items() if isinstance(found, WritableFormat)
    }
    # what is elsewhere is not looked into: its name says enough, and it may not be there yet
    found = known.get(file_ending(path if isinstance(path, Path) else str(path)))
    if found is None or (path.suffix in COMPRESSIONS and found.is_typed):
        raise DataError(
            f"expected a file that ends in {', '.join(known)}; text may end in "
            f"{' or '.join(COMPRESSIONS)} behind that",
            place=Place(file=str(path)),
        )
    return found
