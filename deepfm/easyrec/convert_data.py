"""The data of a pipeline: its files, what their columns hold, and the label."""

import glob
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from deepfm.data.files.columns import is_list
from deepfm.data.files.read import format_of
from deepfm.easyrec.features import INTEGER, LIST, OTHER
from deepfm.easyrec.pipeline_pb2 import (
    CsvDataset,
    FieldType,
    KafkaDataset,
    OdpsDataset,
    OdpsDatasetV1,
    ParquetDataset,
)
from deepfm.easyrec.reading import Keys, Pipeline
from deepfm.errors import nearest
from deepfm.utils.places import is_readable_uri, is_uri

_PARQUET, _TEXT = (".parquet",), (".csv", ".tsv", ".txt", ".gz", ".zst")
_NO_PATH = "a path is needed: a file, a glob, or several with commas"
_UNTYPED = ""  # a column that is declared without a type
_TYPE_NAMES = {"BIGINT": "INT64", "INT": "INT32"}


def files_of(pipeline: Pipeline, *, is_read: bool) -> Keys:
    """Files of a table and how they are read.

    Args:
        is_read: Whether they will be read next, so that they must be named, and local.
    """
    data = pipeline.message.data_config
    if data.dataset_type == KafkaDataset:
        raise pipeline.error(
            "data_config.dataset_type",
            "KafkaDataset is not supported; use CsvDataset or ParquetDataset",
        )
    files = _files(pipeline, "train_input_path", is_read)
    valid = _files(pipeline, "eval_input_path", is_read)
    is_typed = {format_of(name).is_typed for name in [*files, *valid]}
    if len(is_typed) > 1:
        raise pipeline.error("eval_input_path", "training and evaluation files differ in form")
    typed = is_typed.pop() if is_typed else data.dataset_type != CsvDataset
    source: Keys = {
        key: found or [_stand_in(pipeline, path, typed)]
        for key, path, found in (
            ("files", "train_input_path", files),
            ("valid_files", "eval_input_path", valid),
        )
    }
    if not typed:
        source["delimiter"] = data.delimiter
        if not data.with_header and (names := list(_input_types(pipeline))):
            source["columns"] = names  # without any, the first line has them all the same
    return source


def held_in(pipeline: Pipeline, source: Keys) -> dict[str, str]:
    """What columns hold, as far as the pipeline or the first Parquet file says so."""
    held = {
        name: INTEGER if kind in ("INT32", "INT64") else LIST if "ARRAY" in kind else OTHER
        for name, kind in _input_types(pipeline).items()
        if kind != _UNTYPED
    }
    if format_of(source["files"][0]).is_typed:
        paths = sorted(glob.glob(source["files"][0]))
        if paths and (schema := _parquet_schema(paths[0])) is not None:
            held |= {item.name: _kind(item.type) for item in schema}
    return held


def label_of(pipeline: Pipeline, kind: str) -> Keys:
    """The label, which is of this kind, and the sample weight."""
    data = pipeline.message.data_config
    if not data.label_fields:
        raise pipeline.error("data_config", "label_fields: a value is needed")
    for name in data.label_fields[1:]:
        pipeline.note("data_config.label_fields", f"the first is trained on, {name} left out")
    for name in data.sample_weight_fields[1:]:
        pipeline.note("data_config.sample_weight_fields", f"the first is used, {name} left out")
    label = data.label_fields[0]
    found: Keys = {"label": label}
    if kind != "binary":
        found["labels"] = {label: {"column": label, "kind": kind}}
    if data.sample_weight_fields:
        found["sample_weight"] = data.sample_weight_fields[0]
    return found


def model_dir(pipeline: Pipeline) -> str:
    """Where a run is written; by default where one of a YAML config is."""
    if pipeline.message.model_dir:
        return pipeline.message.model_dir
    default = f"outputs/{Path(pipeline.file).stem}"
    pipeline.note("model_dir", f"it is empty: {default}")
    return default


def _stand_in(pipeline: Pipeline, key: str, typed: bool) -> str:
    """A name in the place of one that a pipeline leaves empty, as those do that are filled in."""
    name = f"{key}.parquet" if typed else f"{key}.csv"
    pipeline.note(key, f"{_NO_PATH}; {name} stands in its place")
    return name


def _files(pipeline: Pipeline, key: str, is_read: bool) -> list[str]:
    """Paths and globs; a directory is all files in it. None where none is named."""
    paths = [path.strip() for path in getattr(pipeline.message, key).split(",") if path.strip()]
    if not paths and is_read:
        raise pipeline.error(key, _NO_PATH)
    for path in paths:
        if not is_uri(path) or is_readable_uri(path):
            continue
        problem = (
            f"only local files and s3:// can be read, found {path}; set such a path, here or with "
            f"--override {key}=<path>; its ending says whether it is CSV or Parquet"
        )
        if is_read:
            raise pipeline.error(key, problem)
        pipeline.note(key, problem)
    return [path if is_uri(path) else _pattern(pipeline, key, path) for path in paths]


def _pattern(pipeline: Pipeline, key: str, path: str) -> str:
    kind = pipeline.message.data_config.dataset_type
    is_table_of_cloud = kind in (OdpsDataset, OdpsDatasetV1)
    if not path.endswith("/") and (_has_ending(path) or "*" in path or Path(path).is_file()):
        if not _has_ending(path) and is_table_of_cloud:
            raise pipeline.error(
                key, f"{path}: expected a name that ends in .csv, .tsv or .parquet"
            )
        return path
    folder = Path(path)
    endings = {file.suffix for file in folder.glob("*")} if folder.is_dir() else set()
    if ".parquet" in endings or (kind == ParquetDataset and not endings):
        return f"{folder}/*.parquet"
    if ".csv" in endings or not endings:
        if not endings and is_table_of_cloud:
            raise pipeline.error(
                key,
                f"{path}: no such file or directory; expected one, or a name that ends in "
                ".csv, .tsv or .parquet",
            )
        return f"{folder}/*.csv"
    return f"{folder}/*"


def _input_types(pipeline: Pipeline) -> dict[str, str]:
    """Types of columns by name, as the pipeline declares them; empty where it does not."""
    data = pipeline.message.data_config
    if not data.input_fields_str:
        return {
            item.input_name: FieldType.Name(item.input_type)
            if item.HasField("input_type")
            else _UNTYPED
            for item in data.input_fields
        }
    found = {}
    for part in filter(None, (p.strip() for p in data.input_fields_str.split(";"))):
        name, colon, kind = (piece.strip() for piece in part.partition(":"))
        if not colon or not name:
            raise pipeline.error(
                "data_config.input_fields_str", f"expected name:TYPE;..., found {part!r}"
            )
        found[name] = _type(pipeline, kind)
    return found


def _type(pipeline: Pipeline, text: str) -> str:
    """`ARRAY<BIGINT>` as the format's own ARRAY_INT64."""
    words = re.findall(r"\w+", text.upper())
    found = "_".join(_TYPE_NAMES.get(word, word) for word in words)
    if found not in (known := FieldType.keys()):
        raise pipeline.error(
            "data_config.input_fields_str",
            f"unknown type {text!r}; {nearest(found, known)}",
        )
    return found


def _has_ending(path: str) -> bool:
    return Path(path).suffix in (*_PARQUET, *_TEXT)


def _parquet_schema(path: str) -> pa.Schema | None:
    try:
        return pyarrow.parquet.read_schema(path)
    except (OSError, pa.ArrowException):
        return None  # reading the data will say what is wrong with it


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return INTEGER
    return LIST if is_list(kind) else OTHER
