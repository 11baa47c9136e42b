"""From the path of a pipeline to its experiment, and errors with the pipeline's lines."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from deepfm.config import ExperimentConfig
from deepfm.easyrec import convert, fields, overrides, reading
from deepfm.easyrec.output import to_yaml
from deepfm.errors import ConfigError, MissingDataError
from deepfm.utils.settings import source_of


class Loaded(NamedTuple):
    """What a pipeline became.

    Attributes:
        config: The experiment.
        text: The same as YAML that `load_config` reads back.
        sources: By key of the YAML form, the line of the pipeline that it comes from.
    """

    config: ExperimentConfig
    text: str
    sources: Mapping[str, str]


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
    raw, config, sources = convert.to_config(pipeline, is_read=is_read)
    return Loaded(config, to_yaml(raw, f"Converted from {Path(path).name}."), sources)


@contextmanager
def lines_in_errors(loaded: Loaded) -> Iterator[None]:
    """Begin what is refused about a key of the YAML form with the line of the pipeline.

    Some settings are checked by what uses them, after the pipeline was read; so are paths.
    """
    try:
        yield
    except ConfigError as error:
        raise error.at(source=error.source or source_of(loaded.sources, error.key)) from None
    except MissingDataError as error:
        table = loaded.config.data.table
        assert table is not None
        path = Path(error.place.file)
        for key, field, patterns in (
            ("files", "train_input_path", table.files),
            ("valid_files", "eval_input_path", table.valid_files),
        ):
            if path in map(Path, patterns):
                source = source_of(loaded.sources, f"data.table.{key}")
                raise MissingDataError(f"{source}{field}: {path}: no such file") from None
        raise
