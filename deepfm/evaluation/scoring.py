"""The one scoring loop, and the metrics of a data set; the trainer and the CLI use the same."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from deepfm.config import METRICS, reported_names
from deepfm.data.batch import Batch, Inputs
from deepfm.data.dataset import Catalogue, TabularDataset
from deepfm.errors import ConfigError, nearest
from deepfm.evaluation.losses import batch_losses
from deepfm.evaluation.metrics import Scored, metric_values
from deepfm.evaluation.ranking import RankCounts, rank_counts, ranking_metrics
from deepfm.models.base import BaseCTRModel
from deepfm.models.outputs import predicted
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
        metrics: Those of `evaluation.metrics`, the losses, and for data with a ranking task
            `hr@K`, `ndcg@K`, `ranking_users` and the same under `ranking_99`.
        predicted: Of each row, as in `deepfm.models.outputs.prediction`, (N,) or (N, C) float64.
        counts: Per ranked user, against all candidates; None without a ranking task.
        counts_99: The same against the first 99.
    """

    metrics: dict[str, Any]
    predicted: np.ndarray
    counts: RankCounts | None
    counts_99: RankCounts | None


@torch.inference_mode()
def score(
    model: BaseCTRModel, inputs: Inputs, *, batch_size: int, max_rows: int | None = None
) -> np.ndarray:
    """Logits of all rows in evaluation mode, (N,) or (N, C) float32; the mode is restored.

    Args:
        max_rows: Of the first rows only; None: of all.
    """
    device, size = model.device, _rows_at_once(model, batch_size)
    rows = inputs.num_rows if max_rows is None else min(max_rows, inputs.num_rows)
    with _evaluation_mode(model):
        parts = [
            model(inputs.select(slice(start, min(start + size, rows))).to(device)).cpu()
            for start in range(0, rows, size)
        ]
    classes = model.num_class
    none = np.zeros((0,) if classes == 1 else (0, classes), np.float32)
    return torch.cat(parts).numpy() if parts else none


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

    Raises:
        ConfigError: The model gives several logits per row, none of which orders items.
    """
    if model.num_class != 1:
        raise ConfigError(f"num_class: items are ranked by one logit, found {model.num_class}")
    inputs, branches = catalogue.with_room(inputs), model.pair_branches()
    if branches is not None:
        occurs = np.zeros(catalogue.inputs.num_rows + 1, bool)
        occurs[items] = True  # the last entry is that of -1
        distinct = np.flatnonzero(occurs[:-1])
        cached = len(distinct) * branches.hidden_width
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
    device, size = model.device, _rows_at_once(model, batch_size)
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
    return min(batch_size, CPU_ROWS) if model.device.type == "cpu" else batch_size


@contextmanager
def _evaluation_mode(model: BaseCTRModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def evaluate(
    model: BaseCTRModel, dataset: TabularDataset, *, batch_size: int, max_rows: int | None = None
) -> Evaluation:
    """All metrics that the model's config names, and its losses; every row counts alike.

    Args:
        batch_size: Rows per scoring batch, and of what is defined by batches: JRC and `in_batch`.
        max_rows: Take the first rows only; None: all.

    Raises:
        DataError: There are no rows, or a label is none that the metrics are defined for.
        DeepFMError: A prediction is NaN.
    """
    logits = score(model, dataset.inputs, batch_size=batch_size, max_rows=max_rows)
    metrics, values = _of_logits(model, dataset, logits, batch_size)
    counts = counts_99 = None
    if has_ranking(dataset):
        sizes = (dataset.ranking.num_negatives, SHORT_RANKING)
        counts, counts_99 = _rank(model, dataset, batch_size, sizes, max_rows)
        metrics |= ranking_metrics(counts) | {"ranking_users": len(counts.above)}
        metrics["ranking_99"] = ranking_metrics(counts_99)
    return Evaluation(metrics, values, counts, counts_99)


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
    may_be_none: bool = False,
) -> dict[str, float | None]:
    """The metrics that cost no more than the named one does, by their dotted names.

    Args:
        metric: One of `metric_names`.
        batch_size, max_rows: As in `evaluate`.
        may_be_none: Whether the named metric need not exist on these rows.

    Raises:
        ConfigError: The named metric is none that the config gives, or does not exist on these
            rows.
        DataError, DeepFMError: As in `evaluate`.
    """
    if "@" in metric:
        short = metric.startswith("ranking_99.")
        size = SHORT_RANKING if short else dataset.ranking.num_negatives
        (counts,) = _rank(model, dataset, batch_size, (size,), max_rows)
        prefix = "ranking_99." if short else ""
        return {f"{prefix}{name}": value for name, value in ranking_metrics(counts).items()}
    logits = score(model, dataset.inputs, batch_size=batch_size, max_rows=max_rows)
    metrics, _ = _of_logits(model, dataset, logits, batch_size, also=metric)
    if metric not in metrics:
        raise ConfigError(f"training.metric: unknown metric {metric!r}; {nearest(metric, metrics)}")
    if metrics[metric] is None and not may_be_none:
        raise _undefined(metric, len(logits))
    return metrics


def check_metric(
    model: BaseCTRModel, dataset: TabularDataset, metric: str, *, max_rows: int | None = None
) -> None:
    """Refuse a metric that does not exist on a data set, whatever is predicted.

    Raises:
        ConfigError: There is nothing to rank, or labels or groups do not allow for it.
    """
    if "@" in metric:
        if not has_ranking(dataset):
            raise ConfigError(
                f"training.metric: {metric} needs a ranking task, and the validation split has "
                "none; choose auc or logloss"
            )
        return
    label = dataset.label[:max_rows]
    if metric.partition("[")[0] == "auc" and len(torch.unique(label)) < 2:
        raise ConfigError(
            "training.metric: the validation split holds one class only, so its AUC is undefined; "
            "choose logloss"
        )
    if metric.partition("[")[0] in ("gauc", "multiclass_auc", "xauc", "grouped_xauc"):
        classes = model.num_class
        nothing = np.zeros((len(label),) if classes == 1 else (len(label), classes), np.float32)
        specs = model.experiment.evaluation.metrics
        watched = [
            spec for name, spec in zip(reported_names(specs), specs, strict=True) if name == metric
        ]
        scored = _scored(model, dataset, nothing, len(label))
        if any(value is None for value in metric_values(scored, watched).values()):
            raise _undefined(metric, len(label))


def _undefined(metric: str, rows: int) -> ConfigError:
    return ConfigError(
        f"training.metric: {metric} does not exist on the {rows:,} rows of the validation split, "
        "as where all labels are equal; choose another metric"
    )


def _scored(
    model: BaseCTRModel, dataset: TabularDataset, logits: np.ndarray, batch_size: int
) -> Scored:
    """The first rows, whose logits these are."""
    losses, group = model.experiment.training.losses, dataset.group
    return Scored(
        dataset.label[: len(logits)].numpy(),
        predicted(logits, losses),
        logits.astype(np.float64) if "l2" in [loss["name"] for loss in losses] else None,
        None if group is None else group[: len(logits)].numpy(),
        dataset.schema.group_columns,
        batch_size,
        model.num_class,
    )


def _of_logits(
    model: BaseCTRModel,
    dataset: TabularDataset,
    logits: np.ndarray,
    batch_size: int,
    also: str | None = None,
) -> tuple[dict[str, Any], np.ndarray]:
    """Metrics and losses of the first rows, whose logits these are, and their predictions.

    Args:
        also: A metric that is wanted even if no setting names it.
    """
    losses, specs = model.experiment.training.losses, list(model.experiment.evaluation.metrics)
    if also in METRICS and also not in reported_names(specs):
        specs.append({"name": also} | METRICS[also])
    scored = _scored(model, dataset, logits, batch_size)
    metrics = metric_values(scored, specs)
    if "logloss" in metrics:  # which is this loss
        plain = {"name": "binary_cross_entropy", "label_smoothing": 0.0}
        losses = [loss for loss in losses if loss != plain]
    return metrics | _loss_values(losses, dataset, logits, batch_size), scored.predicted


def _loss_values(
    losses: Sequence[Mapping[str, Any]],
    dataset: TabularDataset,
    logits: np.ndarray,
    batch_size: int,
) -> dict[str, float]:
    """Mean of each loss over the rows; of one that is defined by batches, over those.

    NOTE[DIFF]: Sample weights are left out, as in all metrics; TorchEasyRec applies them.
    """
    totals = dict.fromkeys((loss["name"] for loss in losses), 0.0)
    columns = dataset.schema.group_columns
    unread = dataset.inputs.select(slice(0, 0))  # by any loss
    for start in range(0, len(logits) if losses else 0, batch_size):
        part = torch.from_numpy(logits[start : start + batch_size]).double()
        rows = slice(start, start + len(part))
        group = None if dataset.group is None else dataset.group[rows]
        batch = Batch(unread, dataset.label[rows].double(), group=group)
        for name, loss in batch_losses(part, batch, losses, columns).items():
            totals[name] += float(loss) * len(part) / len(logits)
    return totals


def _rank(
    model: BaseCTRModel,
    dataset: TabularDataset,
    batch_size: int,
    sizes: tuple[int, ...],
    max_rows: int | None,
) -> list[RankCounts]:
    """Ranks among the first n candidates, for each n of `sizes`; every pair is scored once."""
    task = dataset.ranking
    ranked = slice(None) if max_rows is None else task.rows < max_rows
    items = task.items[ranked, : 1 + max(sizes)]
    inputs = dataset.inputs.select(torch.from_numpy(task.rows[ranked]))
    scores = score_items(model, inputs, items, task.catalogue, batch_size=batch_size)
    return [rank_counts(scores[:, : 1 + n], items[:, : 1 + n] >= 0) for n in sizes]
