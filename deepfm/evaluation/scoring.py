"""The one scoring loop, and the metrics of a data set; the trainer and the CLI use the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from deepfm.data.batch import Inputs
from deepfm.data.dataset import Catalogue, TabularDataset
from deepfm.evaluation.metrics import classification_metrics
from deepfm.evaluation.ranking import RankCounts, rank_counts, ranking_metrics
from deepfm.models.base import BaseCTRModel
from deepfm.models.pairs import Halves, PairScorer

SHORT_RANKING = 99  # negatives of the second, widely used ranking protocol
# Activations of more rows leave the caches of a core: W1 of the benchmarks scores at 85 to 90 % of
# what its matrix products allow in batches of 4,096, and at 65 % in batches of 16,384.
CPU_ROWS = 4096
CPU_PAIRS = 2048  # by halves: the two widest activations of 2,048 pairs fit into the L2 cache
MAX_CACHED = 2**26  # numbers kept for the items of a ranking: 256 MB; beyond, whole rows


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
    device, size = model.bias.device, _rows_at_once(model, batch_size)
    with _evaluation_mode(model):
        parts = [
            model(inputs.select(slice(start, start + size)).to(device)).cpu()
            for start in range(0, inputs.num_rows, size)
        ]
    return torch.cat(parts).numpy() if parts else np.zeros(0, np.float32)


def score_items(
    model: BaseCTRModel, inputs: Inputs, items: np.ndarray, catalogue: Catalogue, *, batch_size: int
) -> np.ndarray:
    """Logits of many items for each of U rows.

    Where the model allows it (`pair_branches`) and it saves work, from halves that are computed
    once per row and once per item that occurs; else from whole rows. The two are equal up to
    rounding.

    Args:
        inputs: U rows; their user and context features are kept.
        items: Item positions, (U, C) int64; -1 is scored as NaN.

    Returns:
        (U, C) float32.
    """
    branches = model.pair_branches()
    if branches is not None:
        occurs = np.zeros(catalogue.inputs.num_rows + 1, bool)
        occurs[items] = True  # the last entry is that of -1
        distinct = np.flatnonzero(occurs[:-1])
        cached = len(distinct) * branches.dnn[0].layers[0][0].out_features
        pairs = np.count_nonzero(items >= 0)
        # About half the work of a row is done before the DNN's second layer. Halves: that half for
        # users and distinct items, the other for all pairs, padding too. Rows: both, without it.
        if len(items) + len(distinct) + items.size < 2 * pairs and cached <= MAX_CACHED:
            return _score_halves(model, inputs, items, catalogue, distinct, batch_size)
    return _score_rows(model, inputs, items, catalogue, batch_size)


def _score_rows(
    model: BaseCTRModel, inputs: Inputs, items: np.ndarray, catalogue: Catalogue, batch_size: int
) -> np.ndarray:
    """`score_items` by a whole row per pair, in batches that are filled across users."""
    scores = np.full(items.size, np.nan, np.float32)
    valid, size = np.flatnonzero(items >= 0), _rows_at_once(model, batch_size)
    for start in range(0, len(valid), size):
        part = valid[start : start + size]
        pairs = inputs.select(torch.from_numpy(part // items.shape[1]))
        catalogue.place(pairs, torch.arange(len(part)), torch.from_numpy(items.ravel()[part]))
        scores[part] = score(model, pairs, batch_size=size)
    return scores.reshape(items.shape)


@torch.inference_mode()
def _score_halves(
    model: BaseCTRModel,
    inputs: Inputs,
    items: np.ndarray,
    catalogue: Catalogue,
    distinct: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    """`score_items` by halves; `distinct` are the items that occur, ascending."""
    device, size = model.bias.device, _rows_at_once(model, batch_size)
    pairs_at_once = min(size, CPU_PAIRS) if device.type == "cpu" else size
    position = np.zeros(catalogue.inputs.num_rows + 1, np.int64)  # -1 reads the last: any item
    position[distinct] = np.arange(len(distinct))
    candidates = torch.from_numpy(position[items])
    scores = torch.empty(items.shape)
    with _evaluation_mode(model):
        empty = inputs.select(slice(0, 1)).map(torch.zeros_like)
        scorer = PairScorer(model, empty.to(device))
        parts = []
        for wanted in torch.from_numpy(distinct).split(size):
            rows = empty.select(torch.zeros_like(wanted))
            catalogue.place(rows, torch.arange(len(wanted)), wanted)
            parts.append(scorer.item_halves(rows.to(device)))
        of_items = Halves(*map(torch.cat, zip(*parts, strict=True)))
        for users in torch.arange(len(items)).split(size):
            rows = inputs.select(users)  # a copy, unlike a slice
            catalogue.clear(rows)
            scores[users] = scorer.logits(
                scorer.user_halves(rows.to(device)),
                of_items,
                candidates[users].to(device),
                pairs_at_once=pairs_at_once,
            ).cpu()
    return scores.masked_fill_(torch.from_numpy(items < 0), torch.nan).numpy()


def _rows_at_once(model: BaseCTRModel, batch_size: int) -> int:
    """Rows of a batch: as asked for on an accelerator, at most `CPU_ROWS` on the CPU."""
    return min(batch_size, CPU_ROWS) if model.bias.device.type == "cpu" else batch_size


@contextmanager
def _evaluation_mode(model: BaseCTRModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


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
    model: BaseCTRModel,
    dataset: TabularDataset,
    metric: str,
    *,
    batch_size: int,
    max_rows: int | None = None,
) -> dict[str, float]:
    """The metrics that cost no more than the named one does, by their dotted names.

    Args:
        max_rows: How many rows are taken, from the first on; None: all.
    """
    if max_rows is not None and max_rows < len(dataset):
        dataset = _first_rows(dataset, max_rows)
    if metric in ("auc", "logloss"):
        probability = _probability(model, dataset, batch_size)
        return classification_metrics(dataset.label.numpy(), probability)
    short = metric.startswith("ranking_99.")
    size = SHORT_RANKING if short else dataset.ranking.num_negatives
    (counts,) = _rank(model, dataset, batch_size, (size,))
    prefix = "ranking_99." if short else ""
    return {f"{prefix}{name}": value for name, value in ranking_metrics(counts).items()}


def _first_rows(dataset: TabularDataset, count: int) -> TabularDataset:
    first, ranking = slice(0, count), dataset.ranking
    if ranking is not None:
        held = ranking.rows < count
        ranking = ranking._replace(rows=ranking.rows[held], items=ranking.items[held])
    return TabularDataset(
        dataset.schema,
        dataset.inputs.select(first),
        dataset.label[first],
        row=dataset.row[first],
        ranking=ranking,
    )


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
