"""What the fields have learnt of a share, in files: plain Arrow data, one file for each field."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from deepfm.data.encoding.kinds import State
from deepfm.data.encoding.learning import Learning
from deepfm.data.schema import DatasetSchema


def write_states(folder: Path, schema: DatasetSchema, learning: Learning) -> None:
    """Write what the fields of a schema have learnt into a new folder.

    Raises:
        OSError: The disk refuses.
    """
    folder.mkdir()
    paths = _paths(folder, schema)
    for name, state in learning.states():
        # one row of lists, because what has been learnt is of different lengths
        table = pa.table({part: _as_list(values) for part, values in state.items()})
        with (
            pa.OSFile(str(paths[name]), "wb") as file,
            pa.ipc.new_file(file, table.schema) as writer,
        ):
            writer.write_table(table)


def read_states(folder: Path, schema: DatasetSchema, table: str) -> Iterator[tuple[str, State]]:
    """What the fields of an embedding table have learnt, mapped into memory.

    Raises:
        OSError: A file cannot be read.
        pa.ArrowException: It is damaged.
    """
    for name, path in _of_table(folder, schema, table).items():
        with pa.memory_map(str(path)) as file:
            found = pa.ipc.open_file(file).read_all()
        yield name, {part: found[part].chunk(0).flatten() for part in found.column_names}


def size_of_states(folder: Path, schema: DatasetSchema, table: str) -> int:
    """Bytes of what the fields of an embedding table have learnt."""
    return sum(path.stat().st_size for path in _of_table(folder, schema, table).values())


def _of_table(folder: Path, schema: DatasetSchema, table: str) -> dict[str, Path]:
    """The files that are there of the fields of a table, by field."""
    fields = {field.name for field in schema.read_fields if field.embedding_name == table}
    paths = _paths(folder, schema)
    return {name: path for name, path in paths.items() if name in fields and path.exists()}


def _paths(folder: Path, schema: DatasetSchema) -> dict[str, Path]:
    """By field; a name may hold what a file's cannot."""
    return {field.name: folder / f"{k}.arrow" for k, field in enumerate(schema.read_fields)}


def _as_list(values: pa.Array) -> pa.Array:
    offsets = pa.array(np.array([0, len(values)]), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, values)
