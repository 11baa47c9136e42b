"""Nested plain data with arrays and tables as JSON and NumPy arrays.

In the JSON stand, in the place of what it cannot hold: `{"$array": name}`, an array beside
it; `{"$tuple": [...]}`; and `{"$table": {column: ...}}`, whose columns are an array of numbers,
or texts in UTF-8 end to end, `{"text": name, "offsets": name, "type": ...}`: text k stands from
offset k to offset k + 1.
"""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from deepfm.data.files.columns import is_text
from deepfm.utils.io import table_to_bytes


def write_plain(path: Path, content: Mapping[str, Any], to_table: Callable[[Any], Any]) -> None:
    """Write `path`.json and `path`.npz.

    Args:
        content: Dicts, lists, tuples, texts, numbers, None, arrays, and what `to_table` takes.
        to_table: A table of a value that stands for one; None of any other value.
    """
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(packed(content, arrays, to_table), indent=1, ensure_ascii=False)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    np.savez(path.with_suffix(".npz"), **arrays)  # type: ignore[arg-type]


def read_plain(path: Path) -> Any:
    """What was written; tables come as bytes, as `deepfm.utils.io.tensor_to_table` takes them."""
    content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        return unpacked(content, arrays)


def array_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays by name as the bytes of an .npz file."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def packed(
    value: Any,
    arrays: dict[str, np.ndarray],
    to_table: Callable[[Any], Any] = lambda value: None,
) -> Any:
    """What JSON can hold of a value; its arrays are put into `arrays`, by name.

    Args:
        to_table: As of `write_plain`.
    """

    def kept(array: np.ndarray) -> str:
        name = f"a{len(arrays)}"
        arrays[name] = array
        return name

    if (table := to_table(value)) is not None:
        return {"$table": {name: _column(table[name], kept) for name in table.column_names}}
    if isinstance(value, np.ndarray):
        return {"$array": kept(value)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {name: packed(of, arrays, to_table) for name, of in value.items()}
    if isinstance(value, tuple):
        return {"$tuple": [packed(one, arrays, to_table) for one in value]}
    if isinstance(value, list):
        return [packed(one, arrays, to_table) for one in value]
    return value


def _column(column: pa.ChunkedArray, kept: Callable[[np.ndarray], str]) -> dict[str, Any]:
    if not is_text(column.type):
        return {"$array": kept(column.to_numpy())}
    texts = column.cast(pa.large_binary()).combine_chunks()
    parts = [text.as_py() for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    data = np.frombuffer(b"".join(parts), np.uint8)
    return {"text": kept(data), "offsets": kept(offsets), "type": str(column.type)}


def unpacked(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of `packed`."""
    if isinstance(value, list):
        return [unpacked(one, arrays) for one in value]
    if not isinstance(value, dict):
        return value
    if "$array" in value:
        return arrays[value["$array"]]
    if "$tuple" in value:
        return tuple(unpacked(one, arrays) for one in value["$tuple"])
    if "$table" in value:
        columns = {name: _read_column(of, arrays) for name, of in value["$table"].items()}
        return np.frombuffer(table_to_bytes(pa.table(columns)), np.uint8)
    return {name: unpacked(of, arrays) for name, of in value.items()}


def _read_column(column: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> pa.Array:
    if "$array" in column:
        return pa.array(arrays[column["$array"]])
    offsets, data = arrays[column["offsets"]], arrays[column["text"]]
    texts = pa.LargeStringArray.from_buffers(
        len(offsets) - 1, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data.tobytes())
    )
    texts.validate(full=True)
    return texts.cast(pa.type_for_alias(column["type"]))
