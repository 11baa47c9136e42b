"""The adapter of a data set: it says what the columns mean, and what they hold."""

from deepfm import data as package
from deepfm.data import Adapter
from deepfm.data.options import DataConfig
from deepfm.data.sources.tabular import DeclaredTable
from deepfm.errors import ConfigError, nearest
from deepfm.utils.places import path_of


def find_adapter(data: DataConfig) -> Adapter:
    """The declared table, or what `data.dataset_name` names in `deepfm.data.ADAPTERS`.

    Raises:
        ConfigError: There is no such data set.
    """
    if data.table is not None:
        return DeclaredTable(data.table, path_of(data.data_dir))
    known, name = package.ADAPTERS, data.dataset_name
    if name not in known:
        hint = nearest(name, known)
        raise ConfigError(f"unknown name {name!r}; {hint}", key="data.dataset_name")
    return known[name]
