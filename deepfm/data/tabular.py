"""Tables that are declared in the config: any columns, any file, no Python.

This adapter turns `data.table` into a schema and finds the files. What the values become is the
business of `transforms`, whose docstrings describe every option.
"""

import glob
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from deepfm.config import FieldConfig, TableConfig
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.errors import ConfigError, MissingDataError

MISSING_SUFFIX = "_missing"


def schema(table: TableConfig) -> DatasetSchema:
    """The declared fields, in the order of the config, before any vocabulary is known.

    A dense field with `missing: indicator` is followed by a second one, `<name>_missing`, which
    is 1 where the value is absent and 0 elsewhere.

    Raises:
        ConfigError: Settings of a field contradict each other.
    """
    fields: dict[str, FieldSchema] = {}
    for name, config in table.fields.items():
        fields[name] = field = _field(name, config, table.bad_values)
        if field.missing == "indicator":
            indicator = f"{name}{MISSING_SUFFIX}"
            if indicator in table.fields:
                raise ConfigError(
                    f"data.table.fields.{indicator}: the indicator of {name} has this name; "
                    "rename the field"
                )
            fields[indicator] = FieldSchema(
                indicator,
                FeatureType.DENSE,
                column=field.column,
                transform="is_missing()",
                group=field.group,
                scale="none",
                bad_values=field.bad_values,
            )
    label = table.labels.get(table.label)
    return DatasetSchema(
        fields=fields,
        label_field=label.column if label else table.label,
        user_field=table.user_field,
        item_field=table.item_field,
        time_column=table.time_column,
        item_title_column=table.item_title_column,
    )


def find_files(data_dir: Path, patterns: Sequence[str]) -> list[Path]:
    """The files that paths or globs below `data_dir` name; those of one glob in order of name.

    Raises:
        MissingDataError: A pattern matches no file.
    """
    found: list[Path] = []
    for pattern in patterns:
        path = data_dir / pattern
        matches = [path] if path.is_file() else sorted(map(Path, glob.glob(str(path))))
        if not matches:
            raise MissingDataError(f"{path}: no such file (from data.table and data.data_dir)")
        found += matches
    return found


def _field(name: str, config: FieldConfig, bad_values: str) -> FieldSchema:
    given = {key: value for key, value in asdict(config).items() if value is not None}
    kind = FeatureType(given.pop("type"))
    separator = given.pop("separator", None)
    if separator is not None:
        if kind is not FeatureType.SEQUENCE or "transform" in given:
            raise ConfigError(
                f"data.table.fields.{name}.separator: it cuts a text into a sequence, and stands "
                "in the place of a transform"
            )
        given["transform"] = f"split({separator})"
    try:
        return FieldSchema(name, kind, **({"bad_values": bad_values} | given))
    except ConfigError as error:
        raise ConfigError(f"data.table.fields.{name}: {error}") from None
