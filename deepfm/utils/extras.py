"""Libraries that are not installed with the package: one line says what to install."""

from importlib import import_module
from types import ModuleType

from deepfm.errors import ConfigError


def needed(module: str, *, extra: str, wanted_by: str) -> ModuleType:
    """Return an imported module of an extra.

    Args:
        module: Its dotted name.
        extra: The extra that installs it.
        wanted_by: Who needs it, as the user knows it: `deepfm tune`.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        if missing == "deepfm":
            raise
        raise ConfigError(f"{wanted_by} needs {missing}: pip install 'deepfm[{extra}]'") from error
