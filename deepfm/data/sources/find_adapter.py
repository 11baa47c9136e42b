"""The adapter of a data set: it says what the columns mean, and what they hold."""

from importlib import import_module
from pathlib import Path
from typing import Protocol

from deepfm import data as registry
from deepfm.config import DataConfig
from deepfm.data.schema import DatasetSchema
from deepfm.data.sources.tables import RawTables
from deepfm.data.sources.tabular import DeclaredTable
from deepfm.errors import ConfigError, nearest


class Adapter(Protocol):
    """A module or an object that knows a data set and nothing of what becomes of it."""

    def schema(self) -> DatasetSchema:
        """What the columns mean, before any vocabulary is fitted."""
        ...

    def load(self, data_dir: Path, auto_download: bool) -> RawTables:
        """The raw values."""
        ...


def find_adapter(data: DataConfig) -> Adapter:
    """The declared table, or what `data.dataset_name` names in `deepfm.data.ADAPTERS`.

    Raises:
        ConfigError: There is no such data set.
    """
    if data.table is not None:
        return DeclaredTable(data.table, Path(data.data_dir))
    adapters, name = registry.ADAPTERS, data.dataset_name
    if name not in adapters:
        raise ConfigError(f"data.dataset_name: unknown name {name!r}; {nearest(name, adapters)}")
    found = adapters[name]
    return import_module(found) if isinstance(found, str) else found
