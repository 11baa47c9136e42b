"""What the commands do, for Python: train, evaluate, describe, and a checkpoint to predict with."""

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepfm import experiment
from deepfm.checkpoint import RunDirectory
from deepfm.data.sources.describe import Wishes, describe_table
from deepfm.data.sources.describe import describe as describe_file
from deepfm.data.sources.rows_given import as_table
from deepfm.described import Described
from deepfm.errors import CheckpointError, ConfigError
from deepfm.given_config import config_of
from deepfm.held_out import evaluate_checkpoint
from deepfm.prediction import Predictor
from deepfm.results import Evaluated, TrainedRun, history_table
from deepfm.several import expanded
from deepfm.utils.places import is_uri

if TYPE_CHECKING:
    from deepfm.given_config import Given, Overrides

    Checkpoints = str | PathLike[str] | TrainedRun | Sequence[str | PathLike[str] | TrainedRun]


def train(
    config: "Given",
    overrides: "Overrides" = (),
    *,
    resume: bool = False,
    overwrite: bool = False,
    init_from: str | Path | None = None,
) -> TrainedRun:
    """Train as `deepfm train` does, and return the run.

    Args:
        config: A file, the name of a packaged config, nested data, or an `ExperimentConfig`.
        overrides: Texts `section.key=value`, or values by their dotted keys.
        resume, overwrite, init_from: As in `deepfm.experiment.train`.

    Raises:
        ConfigError: A setting is wrong, or the directory holds a run and no flag is given.
        DeepFMError: Data, network or disk failed, or the loss became NaN.
    """
    with config_of(config, overrides) as used:
        metrics = experiment.train(used, resume=resume, overwrite=overwrite, init_from=init_from)
    run = RunDirectory(used.output_dir)
    entries = [json.loads(line) for line in run.history.read_text().splitlines()]
    title = f"{used.model_name}, {len(entries)} epochs, in {run.path}"
    return TrainedRun(title, metrics, run.path, history_table(entries))


def load(checkpoint: "Checkpoints", *, device: str = "cpu") -> Predictor:
    """Return what predicts from a checkpoint, or from the mean of the logits of several.

    Args:
        checkpoint: The directory of a run, a file in it, its URI, a run, or several of these.

    Raises:
        CheckpointError: One is missing or cannot be used.
    """
    return Predictor(_files(checkpoint), device=device)


def evaluate(
    checkpoint: "Checkpoints",
    *,
    split: str | None = None,
    config: "Given | None" = None,
    overrides: "Overrides" = (),
) -> Evaluated:
    """Return the figures of a checkpoint on held-out rows, as `deepfm evaluate` does.

    Args:
        checkpoint: As in `load`.
        split: `valid` or `test`; None: `test`, or `valid` of data that has no other.
        config, overrides: Other data paths and evaluation settings than the checkpoint's.

    Raises:
        ConfigError: The config changes more than that, or there is no such split.
        CheckpointError: A checkpoint is missing or cannot be used, or not with this data.
    """
    files = _files(checkpoint)
    if config is None:
        if overrides:
            raise ConfigError("overrides change a config: give it, too")
        metrics = evaluate_checkpoint(files, split=split)
    else:
        with config_of(config, overrides) as used:
            metrics = evaluate_checkpoint(files, config=used, split=split)
    return Evaluated(", ".join(files), metrics)


def describe(
    rows: Any,
    *,
    label: str | None = None,
    positive: str | None = None,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    valid: str | Path | None = None,
    encoding: str = "utf-8",
) -> Described:
    """Return what the columns of a file or a frame seem to be, as `deepfm describe` says it.

    Args:
        rows: A CSV, TSV or Parquet file; or a frame of pandas or polars, an Arrow table, a list of
            dicts, a dict of lists and arrays.
        label, positive, user, item, time: What is known about the columns.
        valid: Validation rows in a file of their own, of rows in a file.
        encoding: Of a text file.

    Raises:
        DataError: There is no row, or a file cannot be read.
        ConfigError: A column is not there, or cannot be what it is named for.
    """
    wishes = Wishes(label, positive, user, item, time)
    if isinstance(rows, str | PathLike):
        path = Path(rows)
        return Described(describe_file(path, valid=valid, wishes=wishes, encoding=encoding), True)
    if valid is not None:
        raise ConfigError("valid is for rows in a file")
    return Described(describe_table(as_table(rows), wishes=wishes), False)


def _files(checkpoint: "Checkpoints") -> list[str]:
    """The checkpoint files that are meant."""
    if isinstance(checkpoint, str | PathLike | TrainedRun):
        checkpoint = [checkpoint]
    return expanded([_file(one) for one in checkpoint])


def _file(checkpoint: "str | PathLike[str] | TrainedRun") -> str:
    if isinstance(checkpoint, TrainedRun):
        return str(checkpoint.checkpoint)
    if isinstance(checkpoint, str) and is_uri(checkpoint):
        return checkpoint
    path = Path(checkpoint)
    if not path.is_dir():
        return str(path)
    best = RunDirectory(path).best
    if not best.exists():
        raise CheckpointError(f"{path}: holds no run, whose {best.name} would be read")
    return str(best)
