"""Configs that come with the package: the files of the repository's `configs/`, found by name.

The wheel holds a copy of that folder beside this module; in a source tree there is the folder
itself, and no copy that could differ from it.
"""

import os
from pathlib import Path

from deepfm.errors import ConfigError, nearest
from deepfm.utils.places import refuse_remote


def folder() -> Path:
    """The folder of the packaged configs: `deepfm/configs` of a wheel, or the source tree's."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find_config(name: str | Path) -> Path:
    """Return the file that a config is called for by: a path, or the name of a packaged config.

    A file that is there is taken before a packaged config. What has an ending or names a folder
    is a path in any case, and is returned whether it exists or not.

    Raises:
        ConfigError: A bare name that is neither a file nor a packaged config, or a URI.

    Example:
        >>> find_config("deepfm_adult").name
        'deepfm_adult.yaml'
        >>> find_config("runs/deepfm_adult.yaml") == Path("runs/deepfm_adult.yaml")
        True
    """
    if isinstance(name, str):
        refuse_remote(name, "", "a config is read from this machine")
    path = Path(name)
    if path.suffix or path.name != str(name) or os.path.isfile(path):
        return path
    packaged = {file.stem: file for file in sorted(folder().glob("*.yaml"))}
    if path.name not in packaged:
        raise ConfigError(
            f"{name}: no such file, and no packaged config of that name; "
            f"{nearest(path.name, packaged)}"
        )
    return packaged[path.name]
