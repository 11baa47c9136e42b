"""Pipelines of TorchEasyRec: a `.config` file to an `ExperimentConfig`.

    names       what the format and its models call things, wherever the program writes it
    reading     text or JSON to a message, with the place of every field
    overrides   changes by paths of the format
    fields      what becomes of each field: honoured, ignored, refused
    features    features to fields of a table
    convert     all the rest, by sections of a config: convert_data, _model, _objectives, _training
    output      the same experiment as YAML
    pipelines   these steps in their order

Nothing here trains: a pipeline becomes an experiment like any other.
"""

from pathlib import Path

ENDINGS = (".config", ".json")


def is_pipeline(path: str | Path) -> bool:
    """Whether a config is in this format, by its ending."""
    return Path(path).suffix in ENDINGS
