"""The one scoring loop, and the metrics of a data set; the trainer and the CLI use the same."""

from typing import Any, NamedTuple

import numpy as np
import torch

from deepfm.data.batch import Inputs
from deepfm.data.dataset import Catalogue, TabularDataset
from deepfm.evaluation.metrics import classification_metrics
from deepfm.evaluation.ranking import RankCounts, rank_counts, ranking_metrics
from deepfm.models.base import BaseCTRModel

SHORT_RANKING = 99  # negatives of the second, widely used ranking protocol


class Evaluation(NamedTuple):
    """What a model achieves on a data set.

    Attributes:
        metrics: `auc`, `logloss`, and for data with a ranking task `hr@K`, `ndcg@K`,
            `ranking_users` and the same under `ranking_99`.
        probability: Of each row, (N,) float64.
        counts: Per ranked user, against all candidates; None without a ranking task.
        counts_99: The same against the first 99.
    """

    metrics: dict[str, Any]
    probability: np.ndarray
    counts: RankCounts | None
    counts_99: RankCounts | None


@torch.inference_mode()
def score(model: BaseCTRModel, inputs: Inputs, *, batch_size: int) -> np.ndarray:
    """Logits of all rows in evaluation mode, (N,) float32; the model's mode is restored."""
    device, was_training = model.bias.device, model.training
    model.eval()
    try:
        parts = [
            model(inputs.select(slice(start, start + batch_size)).to(device)).cpu()
            for start in range(0, inputs.num_rows, batch_size)
        ]
    finally:
        model.train(was_training)
    return torch.cat(parts).numpy() if parts else np.zeros(0, np.float32)


def score_items(
    model: BaseCTRModel, inputs: Inputs, items: np.ndarray, catalogue: Catalogue, *, batch_size: int
) -> np.ndarray:
    """Logits of many items for each of U rows.

    Args:
        inputs: U rows; their user and context features are kept.
        items: Item positions, (U, C) int64; -1 is scored as NaN.

    Returns:
        (U, C) float32.
    """
    scores = np.full(items.shape, np.nan, np.float32)
    row, column = np.nonzero(items >= 0)
    for start in range(0, len(row), batch_size):
        part = slice(start, start + batch_size)
        pairs = inputs.select(torch.from_numpy(row[part]))
        wanted = torch.from_numpy(items[row[part], column[part]])
        catalogue.place(pairs, torch.arange(len(wanted)), wanted)
        scores[row[part], column[part]] = score(model, pairs, batch_size=batch_size)
    return scores


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, in float64, so that small ones keep their digits."""
    return torch.from_numpy(logits).double().sigmoid().numpy()


def evaluate(model: BaseCTRModel, dataset: TabularDataset, *, batch_size: int) -> Evaluation:
    """All metrics of a data set; every row counts alike, whatever its sample weight."""
    probability = _probability(model, dataset, batch_size)
    metrics: dict[str, Any] = classification_metrics(dataset.label.numpy(), probability)
    counts = counts_99 = None
    if has_ranking(dataset):
        sizes = (dataset.ranking.num_negatives, SHORT_RANKING)
        counts, counts_99 = _rank(model, dataset, batch_size, sizes)
        metrics |= ranking_metrics(counts) | {"ranking_users": len(counts.above)}
        metrics["ranking_99"] = ranking_metrics(counts_99)
    return Evaluation(metrics, probability, counts, counts_99)


def has_ranking(dataset: TabularDataset) -> bool:
    """Whether any row of the data set is a positive to be ranked."""
    return dataset.ranking is not None and len(dataset.ranking.rows) > 0


def evaluate_metric(
    model: BaseCTRModel, dataset: TabularDataset, metric: str, *, batch_size: int
) -> dict[str, float]:
    """The metrics that cost no more than the named one does, by their dotted names."""
    if metric in ("auc", "logloss"):
        probability = _probability(model, dataset, batch_size)
        return classification_metrics(dataset.label.numpy(), probability)
    short = metric.startswith("ranking_99.")
    size = SHORT_RANKING if short else dataset.ranking.num_negatives
    (counts,) = _rank(model, dataset, batch_size, (size,))
    prefix = "ranking_99." if short else ""
    return {f"{prefix}{name}": value for name, value in ranking_metrics(counts).items()}


def _probability(model: BaseCTRModel, dataset: TabularDataset, batch_size: int) -> np.ndarray:
    return sigmoid(score(model, dataset.inputs, batch_size=batch_size))


def _rank(
    model: BaseCTRModel, dataset: TabularDataset, batch_size: int, sizes: tuple[int, ...]
) -> list[RankCounts]:
    """Ranks among the first n candidates, for each n of `sizes`; every pair is scored once."""
    task = dataset.ranking
    items = task.items[:, : 1 + max(sizes)]
    inputs = dataset.inputs.select(torch.from_numpy(task.rows))
    scores = score_items(model, inputs, items, task.catalogue, batch_size=batch_size)
    return [rank_counts(scores[:, : 1 + n], items[:, : 1 + n] >= 0) for n in sizes]
