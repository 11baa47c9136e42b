"""A config in whichever way it is given: YAML, a pipeline of TorchEasyRec, a mapping, as it is."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepfm.config import ExperimentConfig

    Given = str | PathLike[str] | Mapping[str, Any] | ExperimentConfig
    Overrides = Sequence[str] | Mapping[str, Any]


@contextmanager
def config_of(given: "Given", overrides: "Overrides" = ()) -> "Iterator[ExperimentConfig]":
    """A config with some settings changed; while it lasts, errors name the lines of a pipeline.

    Args:
        given: A file, the name of a packaged config, nested data, or a config.
        overrides: Texts `section.key=value`, or values by their dotted keys.
    """
    from deepfm.config import ExperimentConfig, config_from_dict, load_config
    from deepfm.easyrec import is_pipeline
    from deepfm.utils.settings import apply_override

    if isinstance(overrides, Mapping):
        overrides = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    if isinstance(given, ExperimentConfig):
        if not overrides:
            yield given
            return
        given = given.to_dict()
    if isinstance(given, Mapping):
        raw, sources = dict(given), dict[str, str]()
        for override in overrides:
            apply_override(raw, override, sources)
        yield config_from_dict(raw, sources=sources)
        return
    path = fspath(given)
    if not is_pipeline(path):
        yield load_config(path, overrides)
        return
    from deepfm.easyrec.pipelines import lines_in_errors, load_pipeline

    loaded = load_pipeline(path, overrides)
    with lines_in_errors(loaded):
        yield loaded.config
