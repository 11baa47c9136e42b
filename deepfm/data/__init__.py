"""Raw columns to encoded batches: files, sources, encoding, stores; schema, splits, data sets."""

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from deepfm.data.schema import DatasetSchema
    from deepfm.data.sources.tables import RawTables
    from deepfm.utils.places import AnyPath


class Adapter(Protocol):
    """A module or an object that knows a data set, and nothing of what becomes of it."""

    def schema(self) -> "DatasetSchema":
        """Return what the columns mean, before any vocabulary is fitted."""
        ...

    def load(self, data_dir: "AnyPath", auto_download: bool) -> "RawTables":
        """Return the raw values."""
        ...


class AdapterModule:
    """An adapter that is a module, imported when it is asked."""

    def __init__(self, path: str) -> None:
        self._path = path

    def schema(self) -> "DatasetSchema":
        found: DatasetSchema = import_module(self._path).schema()
        return found

    def load(self, data_dir: "AnyPath", auto_download: bool) -> "RawTables":
        found: RawTables = import_module(self._path).load(data_dir, auto_download)
        return found


# `data.dataset_name` chooses one.
ADAPTERS: dict[str, Adapter] = {
    "movielens-100k": AdapterModule("deepfm.data.sources.movielens"),
}
