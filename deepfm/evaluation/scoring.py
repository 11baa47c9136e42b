"""The one scoring loop, and the metrics of a data set; the trainer and the CLI use the same."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from deepfm.data.batch import Batch, Inputs
from deepfm.data.dataset import Catalogue, RankingTask, TabularDataset
from deepfm.errors import ConfigError, nearest
from deepfm.evaluation.base_rate import (
    NO_PROBABILITY,
    Verdict,
    base_rate,
    kind_of,
    no_verdict,
    verdict,
)
from deepfm.evaluation.calibration_figures import calibration_figures, corrected_figures
from deepfm.evaluation.catalogue_scorer import CatalogueScorer
from deepfm.evaluation.measures import Array
from deepfm.evaluation.members import Members, mean_of
from deepfm.evaluation.metrics import CORRECTED, metric_values, undefined
from deepfm.evaluation.ranking import (
    RANKING_METRICS,
    SHORT,
    SHORT_RANKING,
    RankCounts,
    rank_counts,
    ranking_metrics,
)
from deepfm.evaluation.scored import Scored
from deepfm.models.base import BaseCTRModel
from deepfm.models.frozen import frozen
from deepfm.models.layers.precision import products_in
from deepfm.models.precision import precision_of_scoring
from deepfm.objectives import Objective, Task, logits_by_name
from deepfm.objectives.tasks import IN_SPACE, doubled, of_only_task, watched_metrics
from deepfm.utils.named import reported_names
from deepfm.utils.workers import ALONE, Workers

# Activations of more rows leave the caches of a core: W1 of the benchmarks scores at 85 to 90 % of
# what its matrix products allow in batches of 4,096, and at 65 % in batches of 16,384.
CPU_ROWS = 4096
MAX_CACHED = 2**26  # numbers kept for the items of a ranking: 256 MB; beyond, whole rows


class Evaluation(NamedTuple):
    """What a model achieves on a data set.

    Attributes:
        metrics: Those of each task and its losses; of several tasks below their names. For data
            with a ranking task `hr@K`, `ndcg@K`, `ranking_users` and the same under `ranking_99`,
            if that has other candidates.
        predictions: Of each row by task, as in `Task.predicted`, (N,) or (N, C).
        logits: Of class 1 of each row by binary task, (N,).
        counts: Per ranked user, against all candidates; None without a ranking task.
        counts_99: The same against the first 99.
        verdicts: Of each task, beside the base rate, where training rows were given.
    """

    metrics: dict[str, Any]
    predictions: dict[str, NDArray[np.float64]]
    logits: dict[str, NDArray[np.float64]]
    counts: RankCounts | None
    counts_99: RankCounts | None
    verdicts: tuple[Verdict, ...] = ()

    @property
    def predicted(self) -> NDArray[np.float64]:
        """The predictions of a model of one task."""
        return of_only_task(self.predictions)


def score(
    model: BaseCTRModel | Members,
    inputs: Inputs,
    *,
    batch_size: int,
    max_rows: int | None = None,
) -> Array:
    """Return logits of all rows in evaluation mode, (N,) or (N, C), of a model of one task.

    Args:
        max_rows: Of the first rows only; None: of all.
    """
    return of_only_task(score_tasks(model, inputs, batch_size=batch_size, max_rows=max_rows))


def score_tasks(
    model: BaseCTRModel | Members,
    inputs: Inputs,
    *,
    batch_size: int,
    max_rows: int | None = None,
    workers: Workers = ALONE,
) -> dict[str, Array]:
    """`score` for any model: logits by the names under which its tasks read them.

    Args:
        workers: Who has the same model and rows. Each scores some of the batches, which are those
            of one process alone.
    """
    if isinstance(model, Members):
        return model.combined(
            [
                score_tasks(one, inputs, batch_size=batch_size, max_rows=max_rows, workers=workers)
                for one in model.models
            ]
        )
    scorer, device = frozen(model), model.device
    size = _rows_at_once(device, batch_size)
    rows = inputs.num_rows if max_rows is None else min(max_rows, inputs.num_rows)
    starts = range(0, rows, size)
    with torch.inference_mode(), products_in(precision_of_scoring(model)):
        batches = [
            logits_by_name(scorer(inputs.select(slice(start, min(start + size, rows))).to(device)))
            for start in workers.share(starts)
        ]
    if not batches:
        return {task.name: _no_logits(task, 0) for task in model.tasks}
    own = [
        batches[0][name].cpu()
        if len(batches) == 1
        else torch.cat([batch[name].cpu() for batch in batches])
        for name in batches[0]
    ]
    whole = workers.joined(own, _rows_of_batches(workers, rows, size))
    return {name: logits.numpy() for name, logits in zip(batches[0], whole, strict=True)}


def _rows_of_batches(workers: Workers, rows: int, size: int) -> list[int]:
    """How many rows each process has, of batches of so many."""
    ends = list(itertools.accumulate(workers.counts(-(-rows // size)), initial=0))
    return [min(end * size, rows) - start * size for start, end in itertools.pairwise(ends)]


def _no_logits(task: Task, rows: int) -> NDArray[np.float32]:
    """Zeros in the shape of a task's logits."""
    return np.zeros((rows,) if task.num_class == 1 else (rows, task.num_class), np.float32)


def score_items(
    model: BaseCTRModel | Members,
    inputs: Inputs,
    items: np.ndarray,
    catalogue: Catalogue,
    *,
    batch_size: int,
    workers: Workers = ALONE,
) -> np.ndarray:
    """Logits of many items for each of U rows.

    Where the model allows it (`pair_branches`) and it saves work, from halves that are computed
    once per row and once per item that occurs; else from whole rows. The two are equal up to
    rounding.

    Args:
        inputs: U rows; their user and context features are kept.
        items: Item positions, (U, C) int64; -1 is scored as NaN.
        workers: As in `score_tasks`.

    Returns:
        (U, C) float32; of several models their mean, float64.

    Raises:
        ConfigError: The model gives several logits per row, none of which orders items.
    """
    refuse_several_logits(model)
    if isinstance(model, Members):
        return mean_of(
            [
                score_items(one, inputs, items, catalogue, batch_size=batch_size, workers=workers)
                for one in model.models
            ]
        )
    inputs = catalogue.with_room(inputs)
    if model.pair_branches() is not None:
        occurs = np.zeros(catalogue.inputs.num_rows + 1, bool)
        occurs[items] = True  # the last entry is that of -1
        distinct = np.flatnonzero(occurs[:-1])
        pairs = np.count_nonzero(items >= 0)
        # About half the work of a row is done before the DNN's second layer. Halves: that half for
        # users and distinct items, the other for all pairs, padding too. Rows: both, without it.
        saves_work = len(items) + len(distinct) + items.size < 2 * pairs
        if saves_work and fits_in_halves(model, len(distinct)):
            return _score_halves(model, inputs, items, catalogue, distinct, batch_size, workers)
    return _score_rows(model, inputs, items, catalogue, batch_size, workers)


def refuse_several_logits(model: BaseCTRModel | Members) -> None:
    """Refuse a model whose logits put items in no order.

    Raises:
        ConfigError: It gives several logits per row.
    """
    if (found := sum(task.num_class for task in model.tasks)) != 1:
        raise ConfigError(f"items are ranked by one logit, found {found}", key="num_class")


def fits_in_halves(model: BaseCTRModel, num_items: int) -> bool:
    """Whether a model allows for halves, and those of so many items are small enough to be kept."""
    branches = model.pair_branches()
    return branches is not None and num_items * branches.hidden_width <= MAX_CACHED


def _score_rows(
    model: BaseCTRModel,
    inputs: Inputs,
    items: np.ndarray,
    catalogue: Catalogue,
    batch_size: int,
    workers: Workers = ALONE,
) -> np.ndarray:
    """`score_items` by a whole row per pair, in batches that are filled across users."""
    scores = np.full(items.size, np.nan, np.float32)
    valid, model = np.flatnonzero(items >= 0), frozen(model)
    size = _rows_at_once(model.device, batch_size)
    starts = range(0, len(valid), size)
    for start in workers.share(starts):
        part = valid[start : start + size]
        pairs = inputs.select(torch.from_numpy(part // items.shape[1]))
        catalogue.overwrite(pairs, torch.arange(len(part)), torch.from_numpy(items.ravel()[part]))
        scores[part] = score(model, pairs, batch_size=size)
    if not workers.is_alone and len(valid):
        counts = _rows_of_batches(workers, len(valid), size)
        start = sum(counts[: workers.rank])
        own = torch.from_numpy(scores[valid[start : start + counts[workers.rank]]])
        scores[valid] = workers.joined([own], counts)[0].numpy()
    return scores.reshape(items.shape)


def _score_halves(
    model: BaseCTRModel,
    inputs: Inputs,
    items: np.ndarray,
    catalogue: Catalogue,
    distinct: np.ndarray,
    batch_size: int,
    workers: Workers,
) -> np.ndarray:
    """`score_items` by halves; `distinct` are the items that occur, ascending."""
    size = _rows_at_once(model.device, batch_size)
    scorer = CatalogueScorer(frozen(model), catalogue, items=distinct, batch_size=size)
    if workers.is_alone:
        return scorer.logits(inputs, items)
    parts = [slice(start, start + size) for start in range(0, len(items), size)]
    found = [scorer.logits(inputs.select(p), items[p]) for p in workers.share(parts)]
    counts = _rows_of_batches(workers, len(items), size)
    return workers.joined([torch.from_numpy(np.concatenate(found))], counts)[0].numpy()


def _rows_at_once(device: torch.device, batch_size: int) -> int:
    """Rows of a batch: as asked for on an accelerator, at most `CPU_ROWS` on the CPU."""
    return min(batch_size, CPU_ROWS) if device.type == "cpu" else batch_size


def evaluate(
    model: BaseCTRModel | Members,
    dataset: TabularDataset,
    tasks: Sequence[Task] | None = None,
    *,
    batch_size: int,
    max_rows: int | None = None,
    train: TabularDataset | None = None,
    workers: Workers = ALONE,
) -> Evaluation:
    """All metrics of the tasks, and their losses; every row counts alike.

    Args:
        train: The training rows, whose base rate is reported beside, and with it how well the
            probabilities of binary tasks are calibrated; None: neither is.
        tasks: With the metrics that are wanted; None: the model's own.
        batch_size: Rows per scoring batch, and of what is defined by batches: JRC and `in_batch`.
        max_rows: Take the first rows only; None: all.
        workers: As in `score_tasks`.

    Raises:
        DataError: There are no rows, or a label is none that the metrics are defined for.
        DeepFMError: A prediction is NaN.
    """
    tasks = _tasks(model, tasks)
    logits = score_tasks(
        model, dataset.inputs, batch_size=batch_size, max_rows=max_rows, workers=workers
    )
    metrics: dict[str, Any] = {}
    predictions, binary, verdicts = {}, {}, []
    for task in tasks:
        scored = _scored(task, dataset, logits, batch_size)
        found: dict[str, Any] = _of_task(task, dataset, logits, scored)
        inside = _in_space(task, dataset, len(scored.label))
        judged, below = scored, found
        if inside is not None:
            space: dict[str, Any] = {"rows": int(inside.sum())}
            found[IN_SPACE[:-1]] = space
            space |= _metrics_in_space(task, scored.where(inside))
            if task.is_of_space:  # outside it nothing was learned, and a label means nothing
                judged, below = scored.where(inside), space
        if train is not None and len(judged.label):
            own = logits if judged is scored else {task.name: logits[task.name][inside]}
            verdicts.append(_verdict(task, dataset, own, judged, train))
            below |= _beside(verdicts[-1])
            of_calibration = _calibration(task, dataset, judged)
            below |= {name: v for name, v in of_calibration.items() if name not in below}
        metrics |= {task.name: found} if task.name else found
        predictions[task.name] = scored.predicted
        if scored.log_odds is not None and not task.by_pairs:
            binary[task.name] = scored.log_odds
    counts = counts_99 = None
    if dataset.ranking is not None:
        if (prior := dataset.ranking.prior) is not None:
            metrics["prior_correction"] = prior.shift if np.isfinite(prior.shift) else None
        if has_ranking(dataset):
            sizes = (dataset.ranking.num_negatives, SHORT_RANKING)
            counts, counts_99 = _rank(
                model, dataset, dataset.ranking, batch_size, sizes, max_rows, workers
            )
            metrics |= ranking_metrics(counts) | {"ranking_users": len(counts.above)}
            most = dataset.ranking.items.shape[1] - 1
            if min(sizes[0], most) != min(sizes[1], most):
                metrics["ranking_99"] = ranking_metrics(counts_99)
    return Evaluation(metrics, predictions, binary, counts, counts_99, tuple(verdicts))


def _verdict(
    task: Task,
    dataset: TabularDataset,
    logits: Mapping[str, Array],
    scored: Scored,
    train: TabularDataset,
) -> Verdict:
    """The LogLoss of a task, or its error, beside that of the training rows' base rate."""
    if task.by_pairs:
        return no_verdict(task, NO_PROBABILITY)
    prior = None if dataset.ranking is None else dataset.ranking.prior
    if prior is None:
        constant = base_rate(task, train)
    else:
        constant = np.asarray(prior.explicit)
    kind = kind_of(task)
    if kind == "binary":
        logit = scored.logit if prior is None else scored.logit + prior.shift
    else:
        logit = scored.numbers if kind == "number" else logits[task.name].astype(np.float64)
    found = verdict(task, scored.label, logit, constant)
    return found._replace(is_corrected=prior is not None)


def _beside(found: Verdict) -> dict[str, float | None]:
    """What `metrics.json` gets of a verdict: the model's figure and that of the base rate."""
    name = f"{found.figure}{CORRECTED}" if found.is_corrected else found.figure
    return {name: found.value, f"base_rate_{found.figure}": found.base_rate}


def _calibration(task: Task, dataset: TabularDataset, scored: Scored) -> dict[str, Any]:
    """What `metrics.json` gets of the calibration of a binary task."""
    if task.by_pairs or kind_of(task) != "binary":
        return {}
    prior = None if dataset.ranking is None else dataset.ranking.prior
    if prior is None:
        return dict(calibration_figures(scored.label, scored.logit))
    return dict(corrected_figures(scored.label, scored.logit, prior.shift))


def _tasks(model: BaseCTRModel | Members, tasks: Sequence[Task] | None) -> list[Task]:
    """The given tasks, or the model's own, with the scales of labels that it was fitted with."""
    return [task.fitted(model.schema) for task in (model.tasks if tasks is None else tasks)]


def has_ranking(dataset: TabularDataset) -> bool:
    """Whether any row of the data set is a positive to be ranked."""
    return dataset.ranking is not None and len(dataset.ranking.rows) > 0


def evaluate_metric(
    model: BaseCTRModel,
    dataset: TabularDataset,
    metric: str,
    tasks: Sequence[Task] | None = None,
    *,
    batch_size: int,
    max_rows: int | None = None,
    may_be_none: bool = False,
    workers: Workers = ALONE,
) -> dict[str, float | None]:
    """The metrics that cost no more than the named one does, by their dotted names.

    Args:
        metric: One of `metric_names`.
        tasks, batch_size, max_rows, workers: As in `evaluate`.
        may_be_none: Whether the named metric need not exist on these rows.

    Raises:
        ConfigError: The named metric is none that the config gives, or does not exist on these
            rows.
        DataError, DeepFMError: As in `evaluate`.
    """
    if metric in RANKING_METRICS and dataset.ranking is not None:
        prefix = SHORT if metric.startswith(SHORT) else ""
        size = SHORT_RANKING if prefix else dataset.ranking.num_negatives
        (counts,) = _rank(model, dataset, dataset.ranking, batch_size, (size,), max_rows, workers)
        return {f"{prefix}{name}": value for name, value in ranking_metrics(counts).items()}
    logits = score_tasks(
        model, dataset.inputs, batch_size=batch_size, max_rows=max_rows, workers=workers
    )
    metrics: dict[str, float | None] = {}
    watched = watched_metrics(metric)
    for task in _tasks(model, tasks):
        task = _with_watched(task, watched)
        scored = _scored(task, dataset, logits, batch_size)
        found = _of_task(task, dataset, logits, scored)
        if (inside := _in_space(task, dataset, len(scored.label))) is not None:
            of_space = _metrics_in_space(task, scored.where(inside))
            found |= {f"{IN_SPACE}{name}": value for name, value in of_space.items()}
        metrics |= {task.named(name): value for name, value in found.items()}
    if len(watched) > 1:
        values = [metrics.get(reported_as(name, metrics)) for name in watched]
        known = [value for value in values if value is not None]
        metrics[metric] = sum(known) / len(known) if len(known) == len(values) else None
    if (reported := reported_as(metric, metrics)) not in metrics:
        problem = f"unknown metric {metric!r}; {nearest(metric, metrics)}"
        raise ConfigError(problem, key="training.metric")
    if metrics[reported] is None and not may_be_none:
        rows = len(dataset) if max_rows is None else min(max_rows, len(dataset))
        raise ConfigError(undefined(metric, rows), key="training.metric")
    return metrics


def reported_as(metric: str, metrics: Mapping[str, object]) -> str:
    """The name under which a watched metric is reported: after the prior correction its name says
    so."""
    corrected = f"{metric}{CORRECTED}"
    return corrected if corrected in metrics else metric


def check_metric(
    model: BaseCTRModel,
    dataset: TabularDataset,
    metric: str,
    tasks: Sequence[Task] | None = None,
    *,
    max_rows: int | None = None,
) -> None:
    """Refuse a metric that does not exist on a data set, whatever is predicted.

    Raises:
        ConfigError: There is nothing to rank, or labels or groups do not allow for it.
    """
    if metric in RANKING_METRICS:
        if not has_ranking(dataset):
            raise ConfigError(
                f"{metric} needs a ranking task, and the validation split has none; choose auc or "
                "logloss",
                key="training.metric",
            )
        return
    rows = len(dataset.label[:max_rows])
    nothing = {task.name: _no_logits(task, rows) for task in model.tasks}
    wanted = watched_metrics(metric)
    for task in _tasks(model, tasks):
        task = _with_watched(task, wanted)
        inside = _in_space(task, dataset, rows)
        names = reported_names(task.metrics)
        for own, watched in zip(names, task.metrics, strict=True):
            name, in_space = task.named(own), task.named(f"{IN_SPACE}{own}")
            if inside is not None and in_space in wanted:
                scored = _scored(task, dataset, nothing, rows).where(inside)
                if not len(scored.label):
                    problem = f"{in_space} needs rows of its space, of which there are none"
                    raise ConfigError(problem, key="training.metric")
                if problem := watched.why_undefined(scored, in_space):
                    raise ConfigError(f"{in_space}: {problem}", key="training.metric")
            if name in wanted:
                scored = _scored(task, dataset, nothing, rows)
                if problem := watched.why_undefined(scored, name):
                    raise ConfigError(problem, key="training.metric")
                prior = None if dataset.ranking is None else dataset.ranking.prior
                if watched.reads_size and prior is not None and not np.isfinite(prior.shift):
                    raise ConfigError(
                        f"{name} needs both classes in the training split, whose labels are all "
                        "equal; choose a ranking metric",
                        key="training.metric",
                    )


def _with_watched(task: Task, watched: Sequence[str]) -> Task:
    """The task with those of the watched metrics that are its own, over its space or over all."""
    for name in watched:
        task = task.with_metric(name.removeprefix(task.named("")).removeprefix(IN_SPACE))
    return task


def _in_space(task: Task, dataset: TabularDataset, rows: int) -> NDArray[np.bool_] | None:
    """Which of the first rows are a task's space, (rows,); None: it has none."""
    inside = task.in_space(dataset.label[:rows], dataset.schema)
    return None if inside is None else inside.numpy()


def _metrics_in_space(task: Task, scored: Scored) -> dict[str, float | None]:
    """The metrics of a task over the rows of its space; without rows none exists."""
    if not len(scored.label):
        return dict.fromkeys(reported_names(task.metrics))
    return metric_values(scored, task.metrics)


def _scored(
    task: Task, dataset: TabularDataset, logits: Mapping[str, Array], batch_size: int
) -> Scored:
    """The first rows, whose logits these are, with what they mean for a task."""
    rows = len(next(iter(logits.values())))
    targets = task.targets(_labels(dataset, slice(0, rows)), dataset.schema)
    read = doubled(logits)
    value, log_odds = task.number(read), task.log_odds(read)
    return Scored(
        targets.label.numpy(),
        task.predicted(logits),
        None if value is None else value.numpy(),
        None if targets.group is None else targets.group.numpy(),
        targets.group_columns,
        batch_size,
        task.num_class,
        log_odds=None if log_odds is None else log_odds.numpy(),
    )


def _labels(dataset: TabularDataset, rows: slice) -> Batch:
    """Rows without their features, which no loss or metric reads, and without weights.

    NOTE[DIFF]: Sample weights are left out of all metrics; TorchEasyRec applies them to losses.
    """
    group = None if dataset.group is None else dataset.group[rows]
    return Batch(dataset.inputs.select(slice(0, 0)), dataset.label[rows], group=group)


def _of_task(
    task: Task,
    dataset: TabularDataset,
    logits: Mapping[str, Array],
    scored: Scored,
) -> dict[str, float | None]:
    """Metrics and losses of the first rows, whose logits these are.

    A model that was trained with sampled negatives knows their share of positives and not that of
    held-out rows. What reads the size of a probability is reported after the prior correction,
    under a name that says so, and not at all where the correction does not exist or nothing but an
    order was learned.
    """
    if task.by_pairs:
        return metric_values(scored, task.metrics, only_order=True)
    prior = None if dataset.ranking is None else dataset.ranking.prior
    if prior is None:
        metrics = metric_values(scored, task.metrics)
        losses = [item for item in task.evaluated if item.equal_metric not in metrics]
        return metrics | _loss_values(task, losses, dataset, logits, scored.batch_size)
    shift = prior.shift if np.isfinite(prior.shift) else 0.0
    shifted = {name: values.astype(np.float64) + shift for name, values in logits.items()}
    corrected = _scored(task, dataset, shifted, scored.batch_size)
    metrics = metric_values(scored, task.metrics, corrected=corrected)
    losses = [item for item in task.evaluated if f"{item.equal_metric}{CORRECTED}" not in metrics]
    values = _loss_values(task, losses, dataset, shifted, scored.batch_size)
    metrics |= {f"{name}{CORRECTED}": value for name, value in values.items()}
    if not np.isfinite(prior.shift):
        metrics |= {name: None for name in metrics if name.endswith(CORRECTED)}
    return metrics


def _loss_values(
    task: Task,
    losses: Sequence[Objective],
    dataset: TabularDataset,
    logits: Mapping[str, Array],
    batch_size: int,
) -> dict[str, float]:
    """Mean of each loss over the rows; of one that is defined by batches, over those."""
    totals = dict.fromkeys((item.name for item in losses), 0.0)
    count = len(next(iter(logits.values())))
    for start in range(0, count if losses else 0, batch_size):
        rows = slice(start, min(start + batch_size, count))
        part = task.restored(doubled({name: values[rows] for name, values in logits.items()}))
        targets = task.targets(_labels(dataset, rows), dataset.schema)
        targets = targets._replace(label=targets.label.double(), weight=None)
        for item in losses:
            loss = float(item.loss(part, targets, task.name))
            totals[item.name] += loss * len(targets.label) / count
    return totals


def _rank(
    model: BaseCTRModel | Members,
    dataset: TabularDataset,
    task: RankingTask,
    batch_size: int,
    sizes: tuple[int, ...],
    max_rows: int | None,
    workers: Workers,
) -> list[RankCounts]:
    """Ranks among the first n candidates, for each n of `sizes`; every pair is scored once."""
    ranked = slice(None) if max_rows is None else task.rows < max_rows
    items = task.items[ranked, : 1 + max(sizes)]
    inputs = dataset.inputs.select(torch.from_numpy(task.rows[ranked]))
    scores = score_items(
        model, inputs, items, task.catalogue, batch_size=batch_size, workers=workers
    )
    return [rank_counts(scores[:, : 1 + n], items[:, : 1 + n] >= 0) for n in sizes]
