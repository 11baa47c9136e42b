"""The sequence fields that a user's history adds to a schema."""

from collections.abc import Mapping
from dataclasses import replace

from deepfm.data.event_ids import AGE_IDS
from deepfm.data.options import HistoryConfig
from deepfm.data.schema import AGES, ITEMS, DatasetSchema, FeatureType, FieldSchema
from deepfm.errors import ConfigError, nearest

PREFIX = "history_"
AGE = f"{PREFIX}age"


def history_fields(
    schema: DatasetSchema, history: HistoryConfig, dims: Mapping[str, int], key: str
) -> list[FieldSchema]:
    """The fields that a history adds behind those of a schema.

    Args:
        dims: Widths by field; a field that is not among them is as wide as its source, and the age
            as wide as the first of them.
        key: Where the config describes the history, for errors.

    Raises:
        ConfigError: A source is no sparse field of the item, a name is taken, or the data has no
            users, items or times, or users that are known by several columns.
    """
    for needed in ("user_field", "item_field", "time_column"):
        if getattr(schema, needed) is None:
            raise ConfigError(f"a history needs data.table.{needed}", key=key)
    if schema.fields[str(schema.user_field)].columns:
        raise ConfigError(
            f"a history needs a user in one column, and {schema.user_field} reads several", key=key
        )
    found: list[FieldSchema] = []
    for name in history.fields or (str(schema.item_field),):
        source = _source(schema, name, f"{key}.fields")
        is_shared = history.tables == "shared"
        found.append(
            replace(
                source,
                name=f"{PREFIX}{name}",
                feature_type=FeatureType.SEQUENCE,
                built=ITEMS,
                history_of=name,
                group="user",
                column="",
                columns=(),
                separator="",
                transform=None,
                default=None,
                embedding_dim=dims.get(f"{PREFIX}{name}", source.embedding_dim),
                max_length=history.max_length,
                combiner=history.combiner,
                embedding_name=source.embedding_name if is_shared else f"{PREFIX}{name}",
            )
        )
    if history.age:
        age = FieldSchema(
            AGE,
            FeatureType.SEQUENCE,
            built=AGES,
            history_of=str(schema.time_column),
            group="user",
            vocabulary_size=AGE_IDS,
            embedding_dim=dims.get(AGE, found[0].embedding_dim),
            max_length=history.max_length,
            combiner=history.combiner,
        )
        found.append(age)
    for field in found:
        if field.name in schema.fields:
            raise ConfigError(f"the history adds a field {field.name}; rename that one", key=key)
    return found


def _source(schema: DatasetSchema, name: str, key: str) -> FieldSchema:
    """The field of the item that a history repeats."""
    of_items = [field.name for field in schema.sparse_fields if field.group == "item"]
    if name not in of_items:
        is_other = name in schema.fields and "; that field is none"
        raise ConfigError(
            f"expected a sparse field of group item, found {name!r}; "
            f"{nearest(name, of_items)}{is_other or ''}",
            key=key,
        )
    return schema.fields[name]
