"""Checkpoints on the rows that their config holds out: what `evaluate` and `calibrate` begin with.

Decided here: what a config may change of the one that a checkpoint was trained with.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from deepfm import experiment
from deepfm.checkpoint import Checkpoint, changed_keys, settled_as
from deepfm.config import ExperimentConfig
from deepfm.data.dataset import TabularDataset
from deepfm.data.load import ExperimentData
from deepfm.errors import ConfigError
from deepfm.evaluation.members import Members
from deepfm.evaluation.scoring import evaluate
from deepfm.objectives import check_metrics
from deepfm.preflight import resolve_device
from deepfm.several import calibration_lines, load_several, scorer_of
from deepfm.utils.logging import LOGGER
from deepfm.utils.workers import ALONE, Workers

EVALUATION_CHANGES = (
    "data.data_dir",
    "data.auto_download",
    "data.store_dir",
    "data.verify",
    "data.rows",
    "data.table.files",
    "data.table.valid_files",
    "data.table.test_files",
    "data.candidates",
    "data.num_neg_eval",
    "evaluation",
    "distributed",
    "output_dir",
    "device",
)


class Held(NamedTuple):
    """Rows that checkpoints are evaluated on.

    Attributes:
        checkpoints: One, or several that agree.
        config: Of the first, or what replaces it.
        data: All splits.
        split: Name of the one that is looked at.
        rows: Its rows.
    """

    checkpoints: list[Checkpoint]
    config: ExperimentConfig
    data: ExperimentData
    split: str
    rows: TabularDataset


def held_out(
    paths: str | Path | Sequence[str | Path],
    *,
    config: ExperimentConfig | None = None,
    split: str | None = None,
) -> Held:
    """Checkpoints with the rows that their config names; arguments and errors as below."""
    checkpoints = load_several(paths)
    checkpoint, used = checkpoints[0], checkpoints[0].config
    if config is not None:
        used = settled_config(checkpoint, config)
        for item in checkpoints:
            item.config = replace(item.config, evaluation=used.evaluation)
        check_metrics(used.task_list(), used.training.metric, used.task_data())
    data = experiment.load_data(used, checkpoint.encoders)
    before, now = checkpoint.fingerprint, data.fingerprint
    if config is None and before and now and (found := before.difference(now)):
        LOGGER.warning(": ".join(found))
    split = split or ("valid" if data.test is None else "test")
    rows = getattr(data, split)
    if rows is None:
        raise ConfigError(f"--split {split}: the data has no such split")
    return Held(checkpoints, used, data, split, rows)


def settled_config(checkpoint: Checkpoint, config: ExperimentConfig) -> ExperimentConfig:
    """A config that takes the place of a checkpoint's own, which it may change a little.

    Raises:
        ConfigError: It differs in more than `EVALUATION_CHANGES`.
    """
    used = checkpoint.config
    config = settled_as(config, used)
    metrics = (f"tasks.{name}.metrics" for name in used.tasks)
    if changed := changed_keys(used, config, allowed=(*EVALUATION_CHANGES, *metrics)):
        raise ConfigError(
            "--config may change data paths and evaluation only; it also changes "
            + ", ".join(changed)
        )
    return config


def evaluate_checkpoint(
    paths: str | Path | Sequence[str | Path],
    *,
    config: ExperimentConfig | None = None,
    split: str | None = None,
    workers: Workers = ALONE,
) -> dict[str, Any]:
    """Metrics of a checkpoint, or of the mean of the logits of several, on a split of their data.

    Args:
        paths: A `best_model.pt` or `last.pt`, or several.
        config: Replaces the first checkpoint's, from which it may differ in `EVALUATION_CHANGES`
            only.
        split: `valid` or `test`; None: `test`, or `valid` of data that has no other.
        workers: Who evaluates the same together.

    Raises:
        ConfigError: `config` changes more than it may, or there is no such split.
        CheckpointError: A checkpoint cannot be used, or not with this data, or two do not agree.
    """
    held = workers.first_before_others(lambda: held_out(paths, config=config, split=split))
    device = resolve_device("auto" if config is None else config.device)
    model = scorer_of(held.checkpoints).to(workers.own_device(device))
    if len(held.checkpoints) > 1:
        LOGGER.info(f"the mean of the logits of {len(held.checkpoints)} checkpoints")
    elif isinstance(model, Members):
        for line in calibration_lines(model.calibrations, held.split):
            LOGGER.info(line)
    result = evaluate(
        model,
        held.rows,
        held.config.task_list(),
        batch_size=held.config.evaluation.batch_size,
        train=held.data.train,
        workers=workers,
    )
    return {held.split: result.metrics}
