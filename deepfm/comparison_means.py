"""The mean of the logits of a config's runs: one more row of the table of `compare`.

Decided here: rows are not scored again where the logits of `predictions.parquet` say everything.
What is ranked is: of each candidate the runs' logits are averaged, which their files do not hold.
"""

from collections.abc import Sequence
from typing import NamedTuple

from deepfm import experiment
from deepfm.checkpoint import RunDirectory
from deepfm.config import ExperimentConfig
from deepfm.data.download import DownloadError
from deepfm.errors import CheckpointError, MissingDataError
from deepfm.evaluation.ranking import SHORT_RANKING, RankCounts
from deepfm.evaluation.scoring import evaluate
from deepfm.several import load_several, scorer_of
from deepfm.utils.logging import LOGGER


class MeanCounts(NamedTuple):
    """How the mean of logits ranks, against all candidates and against the first 99."""

    all: RankCounts
    short: RankCounts

    def of(self, size: int) -> RankCounts:
        """Against that many."""
        return self.short if size == SHORT_RANKING else self.all


def mean_counts(
    name: str, config: ExperimentConfig, runs: Sequence[RunDirectory]
) -> MeanCounts | None:
    """The ranks of held-out positives by the mean of the runs' logits.

    Returns:
        None where the data or a checkpoint is not to be had any more, which is said.
    """
    try:
        checkpoints = load_several([run.best for run in runs])
        data = experiment.load_data(config, checkpoints[0].encoders)
    except (CheckpointError, DownloadError, MissingDataError) as error:
        LOGGER.warning(f"{name}: the mean of its runs is not ranked: {error}")
        return None
    rows = data.valid if data.test is None else data.test
    result = evaluate(scorer_of(checkpoints), rows, batch_size=config.evaluation.batch_size)
    if result.counts is None or result.counts_99 is None:
        return None
    return MeanCounts(result.counts, result.counts_99)
