"""The store of a table as it is trained on: made unless it is there, and opened."""

from collections.abc import Mapping
from pathlib import Path

from deepfm.data.encoding.encoders import Encoders
from deepfm.data.fingerprint import FilesRead
from deepfm.data.labels import LabelRule
from deepfm.data.options import DataConfig
from deepfm.data.schema import DatasetSchema
from deepfm.data.store.appended import with_steps
from deepfm.data.store.damage import DamagedStore
from deepfm.data.store.encoders_file import digest_of_encoders
from deepfm.data.store.held_rows import damaged_part
from deepfm.data.store.manifest import read_manifest
from deepfm.data.store.opening import Store, open_store
from deepfm.data.store.part import find_part
from deepfm.data.store.prepare import path_of_store, prepared
from deepfm.data.store.table_rows import RowsOfATable
from deepfm.errors import DataError, Place
from deepfm.utils.logging import LOGGER


def load_store(
    data: DataConfig,
    schema: DatasetSchema,
    encoders: Encoders | None = None,
    *,
    base: Encoders | None = None,
    labels: Mapping[str, LabelRule] | None = None,
    read: FilesRead | None = None,
    may_be_part: bool = False,
) -> Store:
    """The store of a table, which is made unless it is there; arguments and errors of `prepare`.

    A damaged store is made again, with a warning.

    Args:
        read: The content of the table's files, if it is known.
        may_be_part: Whether a store of one of the shards of `data` will do, if there is one.
    """
    rows = RowsOfATable(data, schema, labels, read)
    if may_be_part and (part := _part(rows, data, encoders, base)) is not None:
        try:
            found = open_store(part, data, schema, sides=rows.sides)
        except DamagedStore as error:
            raise damaged_part(error) from None
        return found._replace(fingerprint=with_steps(rows.read.fingerprint, found.steps))
    path = prepared(rows, Path(data.store_dir), encoders, base)
    try:
        found = open_store(path, data, schema, sides=rows.sides)
    except DamagedStore as error:
        prepared(rows, Path(data.store_dir), encoders, base, instead_of=(path, error))
        found = open_store(path, data, schema, sides=rows.sides)
    return found._replace(fingerprint=with_steps(rows.read.fingerprint, found.steps))


def _part(
    rows: RowsOfATable, data: DataConfig, encoders: Encoders | None, base: Encoders | None
) -> Path | None:
    """The store of this host's shard; None if there is none.

    Raises:
        DataError: It has several, or what it has is encoded otherwise.
    """
    store_dir = Path(data.store_dir)
    path = find_part(store_dir, path_of_store(rows, store_dir).name, data.shards)
    if path is None:
        return None
    is_other = base is not None
    if encoders is not None:
        is_other = read_manifest(path)["encoders"] != digest_of_encoders(encoders)
    if is_other:
        raise DataError(
            "the vocabularies are others than those of this run; a warm start needs the whole "
            "store on each host",
            place=Place(file=str(path)),
        )
    LOGGER.info(f"data prepared earlier, in {path}")
    return path
