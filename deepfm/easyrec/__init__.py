"""Pipelines of TorchEasyRec: a `.config` file to an `ExperimentConfig`.

    reading     text or JSON to a message, with the place of every field
    overrides   changes by paths of the format
    fields      what becomes of each field: honoured, ignored, refused
    features    features to fields of a table
    convert     all the rest
    output      the same experiment as YAML

Nothing here trains: a pipeline becomes an experiment like any other.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from deepfm.config import ExperimentConfig
from deepfm.easyrec import convert, fields, overrides, reading
from deepfm.easyrec.output import to_yaml
from deepfm.errors import ConfigError, MissingDataError
from deepfm.utils.settings import source_of

ENDINGS = (".config", ".json")


def is_pipeline(path: str | Path) -> bool:
    """Whether a config is in this format, by its ending."""
    return Path(path).suffix in ENDINGS


class Loaded(NamedTuple):
    """What a pipeline became.

    Attributes:
        config: The experiment.
        text: The same as YAML that `load_config` reads back.
        places: By key of the YAML form, the line of the pipeline that it comes from.
    """

    config: ExperimentConfig
    text: str
    places: Mapping[str, str]


def load_pipeline(path: str | Path, changes: Iterable[str] = (), *, is_read: bool = True) -> Loaded:
    """Read a pipeline and apply overrides by paths of its format.

    Args:
        is_read: Whether the data will be read next: then paths that are not local are errors,
            else they stand in the experiment as they are.

    Raises:
        ConfigError: The file cannot be read, or says what cannot be done here; one line that
            names file, line, field and what is supported.
    """
    pipeline = reading.read(path)
    overrides.apply(pipeline, changes)
    fields.check(pipeline)
    raw, config, places = convert.to_config(pipeline, is_read=is_read)
    return Loaded(config, to_yaml(raw, f"Converted from {Path(path).name}."), places)


@contextmanager
def placed(loaded: Loaded) -> Iterator[None]:
    """Begin what is refused about a key of the YAML form with the line of the pipeline.

    Some settings are checked by what uses them, after the pipeline was read; so are paths.
    """
    try:
        yield
    except ConfigError as error:
        key = re.match(r"[a-z_]+(?:\.\w+)*(?=: )", str(error))
        raise ConfigError(f"{source_of(loaded.places, key[0]) if key else ''}{error}") from None
    except MissingDataError as error:
        path, table = str(error).partition(": no such file")[0], loaded.config.data.table
        for key, field in (("files", "train_input_path"), ("valid_files", "eval_input_path")):
            if path in [str(Path(pattern)) for pattern in getattr(table, key)]:
                place = source_of(loaded.places, f"data.table.{key}")
                raise MissingDataError(f"{place}{field}: {path}: no such file") from None
        raise
