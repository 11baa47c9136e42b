"""Metrics of predictions, by the names of `evaluation.metrics`.

Decided here: a metric is of the whole set and in float64, never a mean over batches, but where its
definition is one (`xauc` with `in_batch`). Every row counts alike. What does not exist, as the AUC
where all labels are equal, is None, so that `metrics.json` holds no NaN. AUC and log loss are
scikit-learn's. What is drawn is drawn with a fixed seed. Which metric goes with which losses is
checked by `check_metrics` before any data is read.

Shapes: N rows, C classes, G group columns, T thresholds.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepfm.config import LOSSES, ExperimentConfig, metric_names, reported_names
from deepfm.errors import ConfigError, DataError, DeepFMError
from deepfm.models.outputs import is_regression
from deepfm.training.losses import check_group

_SMALLER_IS_BETTER = ("logloss", "mae", "mse", "normalized_entropy", *LOSSES)
_ONE_PROBABILITY = ("auc", "logloss", "gauc", "normalized_entropy")
_OF_NUMBERS = ("mae", "mse", "xauc", "grouped_xauc")
_MAX_DRAWN = 2**24  # pairs; counting all pairs costs less than drawing more
_PAIRS_AT_ONCE = 2**22
_LOG_FLOOR = -100.0


class Scored(NamedTuple):
    """Rows with what a model says about them.

    Attributes:
        label: (N,).
        predicted: Probabilities of class 1, (N,), or of each class, (N, C); float64.
        value: What L2 fits to the label, (N,) float64; None without that loss.
        group: (N, G) int64, its columns named by `group_columns`; None without any.
        batch_size: Rows of a batch, for what is defined by batches.
        num_class: C, 1 where one logit stands for two classes.
    """

    label: NDArray
    predicted: NDArray[np.float64]
    value: NDArray[np.float64] | None = None
    group: NDArray[np.int64] | None = None
    group_columns: tuple[str, ...] = ()
    batch_size: int = 16384
    num_class: int = 1

    def group_of(self, column: str) -> NDArray[np.int64]:
        """The group of each row by a column, (N,)."""
        if self.group is None:
            raise DataError(f"no groups by {column!r}: the rows were made without group_columns")
        return self.group[:, self.group_columns.index(column)]

    @property
    def of_classes(self) -> NDArray[np.float64]:
        """Probabilities, (N, C), for two classes or more."""
        if self.predicted.ndim == 2:
            return self.predicted
        return np.column_stack([1 - self.predicted, self.predicted])


def metric_values(scored: Scored, specs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The metrics of some specs, as in `evaluation.metrics`, by the names they are reported under.

    Raises:
        DataError: There are no rows, or a label is none that the metric is defined for.
        DeepFMError: A prediction is NaN.
    """
    specs = list(specs)
    if not len(scored.label):
        raise DataError("no rows to evaluate: the split is empty")
    if nan := np.isnan(scored.predicted).sum():
        raise DeepFMError(_diverged(nan, scored.predicted.size))
    found: dict[str, Any] = {}
    for name, spec in zip(reported_names(specs), specs, strict=True):
        found[name] = _METRICS[spec["name"]](scored, spec)
        if spec["name"] == "gauc":
            found[name], found[name.replace("gauc", "gauc_groups", 1)] = found[name]
    return found


def is_larger_better(name: str) -> bool:
    """Whether a larger value of a metric, by the name it is reported under, is the better one.

    Example:
        >>> is_larger_better("ndcg@10"), is_larger_better("mae"), is_larger_better("auc[200]")
        (True, False, True)
    """
    return name.partition("[")[0] not in _SMALLER_IS_BETTER


def classification_metrics(label: ArrayLike, probability: ArrayLike) -> dict[str, float | None]:
    """AUC and log loss of the whole set.

    Args:
        label: 0 or 1, (N,).
        probability: Predicted probabilities of label 1, (N,).

    Returns:
        `auc`, None where all labels are equal, and `logloss` in nats.

    Raises:
        DataError: There are no rows, the shapes differ, or a label is neither 0 nor 1.
        DeepFMError: A probability is NaN or outside [0, 1].
    """
    label, probability = np.asarray(label), np.asarray(probability, dtype=np.float64)
    check_rows(label, probability.shape)
    if nan := np.isnan(probability).sum():
        raise DeepFMError(_diverged(nan, len(probability)))
    low, high = probability.min(), probability.max()
    if low < 0 or high > 1:
        raise DeepFMError(f"expected probabilities in [0, 1], got {low:g} to {high:g}")
    return {"auc": auc(label, probability), "logloss": log_loss(label, probability)}


def auc(label: NDArray, score: NDArray) -> float | None:
    """Share of (positive, negative) pairs in the right order, a tie counting one half.

    Args:
        label: 0 or 1, (N,).
        score: (N,).

    Returns:
        None where all labels are equal.
    """
    from sklearn.metrics import roc_auc_score  # takes longer to import than to predict

    return float(roc_auc_score(label, score)) if label.min() != label.max() else None


def log_loss(label: NDArray, probability: NDArray) -> float:
    """Mean negative logarithm of what was predicted for the label, in nats."""
    from sklearn.metrics import log_loss

    return float(log_loss(label, probability, labels=[0, 1]))


def threshold_counts(label: NDArray, probability: NDArray, thresholds: int) -> NDArray[np.int64]:
    """Positives and negatives with a probability of at least each of T thresholds, (2, T).

    The thresholds lie evenly from 0 to 1, both included.
    """
    reached = np.searchsorted(np.linspace(0, 1, thresholds), probability, side="right")
    counts = np.stack(
        [np.bincount(reached[label == value], minlength=thresholds + 1) for value in (1, 0)]
    )
    return counts[:, :0:-1].cumsum(axis=1)[:, ::-1]  # a row that reaches k thresholds has 0 … k-1


def auc_of_counts(counts: NDArray) -> float:
    """Area under the ROC curve through the points of `threshold_counts`, by trapezoids.

    A rate whose class has no rows is 0. No point (0, 0) is added, so that rows with a probability
    of exactly 1 begin the curve.
    """
    totals = counts[:, :1]  # every probability is at least 0
    tpr, fpr = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    return float(np.trapezoid(tpr[::-1], fpr[::-1]))


def grouped_auc(label: NDArray, score: NDArray, group: NDArray) -> tuple[float | None, int]:
    """Mean AUC of the groups that have both classes, every group counting alike; and how many.

    In each group it is  sum over runs of equal scores of  P_run * (N_below + N_run / 2) / (P * N).
    The sums are doubled and taken in whole numbers. Costs one sort of all rows.

    Args:
        label: 0 or 1, (N,).
        score, group: (N,).
    """
    order = np.lexsort((score, group))
    group, score, positive = group[order], score[order], label[order] == 1
    new_group = np.r_[True, group[1:] != group[:-1]]
    runs = np.flatnonzero(new_group | np.r_[True, score[1:] != score[:-1]])
    positives = np.add.reduceat(positive, runs, dtype=np.int64)  # (runs,)
    negatives = np.add.reduceat(~positive, runs, dtype=np.int64)
    first_runs = np.flatnonzero(new_group[runs])  # of each group
    below = negatives.cumsum() - negatives  # in this and in earlier groups
    of_earlier = np.repeat(below[first_runs], np.diff(np.r_[first_runs, len(runs)]))
    won = np.add.reduceat(positives * (2 * (below - of_earlier) + negatives), first_runs)
    pairs = np.add.reduceat(positives, first_runs) * np.add.reduceat(negatives, first_runs)
    both = pairs > 0
    count = int(both.sum())
    return (float((won[both] / (2 * pairs[both])).mean()) if count else None), count


def accuracy(label: NDArray, probability: NDArray, *, threshold: float, top_k: int) -> float:
    """Share of rows whose class is predicted.

    Args:
        label: Class, (N,).
        probability: Of class 1, (N,): that is predicted above `threshold`. Of each class, (N, C):
            the `top_k` likeliest are predicted, the one with the lower number first in a tie.
    """
    if probability.ndim == 1:
        return float(((probability > threshold) == (label == 1)).mean())
    label = label.astype(np.int64)[:, None]
    own = np.take_along_axis(probability, label, axis=1)
    tied = (probability == own) & (np.arange(probability.shape[1]) < label)
    return float((((probability > own) | tied).sum(axis=1) < top_k).mean())


def multiclass_auc(
    label: NDArray, probability: NDArray, *, thresholds: int, average: str
) -> float | None:
    """Mean over classes of the AUC of one class against the rest.

    With thresholds the AUC of a class that no row, or every row, has is 0 and counts; the exact
    one does not exist and is left out.

    Args:
        label: Class, (N,).
        probability: (N, C).
        thresholds: Of the binned AUC; 0: the exact one.
        average: `macro`: every class counts alike; `weighted`: by its number of rows.
    """
    values, weights = [], []
    for k in range(probability.shape[1]):
        own = label == k
        if thresholds:
            value = auc_of_counts(threshold_counts(own, probability[:, k], thresholds))
        else:
            value = auc(own, probability[:, k])
        if value is not None:
            values.append(value)
            weights.append(own.sum() if average == "weighted" else 1)
    return float(np.average(values, weights=weights)) if values else None


def normalized_entropy(label: NDArray, probability: NDArray, *, eta: float) -> float:
    """Cross-entropy over that of always predicting the share of positives.

    That share is kept within [eta, 1 - eta], a logarithm above -100.

    Source: X. He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD
    2014, Eq. (1).
    """
    with np.errstate(divide="ignore"):
        right = np.where(label == 1, np.log(probability), np.log1p(-probability))
    positives, rows = int((label == 1).sum()), len(label)
    share = min(max(positives / rows, eta), 1 - eta)
    baseline = positives * np.log(share) + (rows - positives) * np.log1p(-share)
    return float(np.maximum(right, _LOG_FLOOR).sum() / baseline)


def concordant_pairs(target: NDArray, predicted: NDArray) -> int:
    """Pairs of rows that both arrays put in the same order; a tie in either is no order.

    With rows sorted by target, those are pairs whose predictions rise. A pair of ranks rises at
    the highest bit in which they differ, so the bits are gone through one by one, and at each the
    zeros before each one are counted among the ranks that agree in all higher bits. Costs
    O(N log^2 N), and no pair is looked at.

    Args:
        target, predicted: (N,).
    """
    order = np.lexsort((-predicted, target))  # of equal targets, predictions fall
    ranks = np.unique(predicted, return_inverse=True)[1][order]
    total = 0
    for bit in reversed(range(int(ranks.max(initial=0)).bit_length())):
        one = (ranks >> bit & 1).astype(bool)
        higher = ranks >> (bit + 1)
        zeros = np.cumsum(~one)
        starts = np.flatnonzero(np.r_[True, higher[1:] != higher[:-1]])
        before = np.r_[0, zeros][starts]
        sizes = np.diff(np.r_[starts, len(ranks)])
        total += int((zeros - np.repeat(before, sizes))[one].sum())
        ranks = ranks[np.argsort(ranks >> bit, kind="stable")]
    return total


def xauc(
    target: NDArray,
    predicted: NDArray,
    *,
    sample_ratio: float = 1.0,
    max_pairs: float | None = None,
) -> float | None:
    """Share of pairs of rows that are predicted in the order of their targets; ties are wrong.

    Of `max_pairs` pairs, or of `sample_ratio` times all, drawn with replacement; of all pairs
    where those are no more, or where counting all costs less.

    Args:
        target, predicted: (N,).

    Returns:
        None for fewer than two rows.

    Source: R. Zhan et al., "Deconfounding Duration Bias in Watch-time Prediction for Video
    Recommendation", KDD 2022.
    """
    pairs = len(target) * (len(target) - 1) // 2
    if not pairs:
        return None
    wanted = max(1, int(pairs * sample_ratio if max_pairs is None else max_pairs))
    if wanted >= pairs or wanted > _MAX_DRAWN:
        return concordant_pairs(target, predicted) / pairs
    rng, right = np.random.default_rng(0), 0
    for start in range(0, wanted, _PAIRS_AT_ONCE):
        numbers = rng.integers(0, pairs, min(_PAIRS_AT_ONCE, wanted - start))
        right += int(_same_order(target, predicted, *_pair(numbers)).sum())
    return right / wanted


def xauc_of_batches(target: NDArray, predicted: NDArray, batch_size: int) -> float | None:
    """Mean over batches of the share of all their pairs; a batch of one row has none."""
    starts = range(0, len(target), batch_size)
    batches = [slice(start, start + batch_size) for start in starts]
    values = [xauc(target[rows], predicted[rows]) for rows in batches]
    values = [value for value in values if value is not None]
    return float(np.mean(values)) if values else None


def grouped_xauc(
    target: NDArray, predicted: NDArray, group: NDArray, *, max_pairs: int
) -> float | None:
    """Mean XAUC of the groups of two rows or more, weighted by their rows.

    Of a group with more than `max_pairs` pairs that many are drawn with replacement; of another
    all pairs count.

    Args:
        target, predicted, group: (N,).

    Returns:
        None where no group has two rows.
    """
    order = np.argsort(group, kind="stable")
    target, predicted, group = target[order], predicted[order], group[order]
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    sizes = np.diff(np.r_[starts, len(group)])
    starts, sizes = starts[sizes > 1], sizes[sizes > 1]
    if not len(sizes):
        return None
    pairs = sizes * (sizes - 1) // 2
    counted = np.minimum(pairs, max_pairs)
    rng, total = np.random.default_rng(0), 0.0
    chunk = (counted.cumsum() - counted) // _PAIRS_AT_ONCE  # of groups, each with about that many
    for rows in np.split(np.arange(len(sizes)), np.flatnonzero(np.diff(chunk)) + 1):
        of = np.repeat(rows, counted[rows])
        number = np.arange(len(of)) - np.repeat(
            counted[rows].cumsum() - counted[rows], counted[rows]
        )
        drawn = pairs[of] > max_pairs
        number[drawn] = rng.integers(0, pairs[of[drawn]])
        first, second = _pair(number)
        right = _same_order(target, predicted, starts[of] + first, starts[of] + second)
        total += (np.bincount(of, right, len(sizes))[rows] / counted[rows] * sizes[rows]).sum()
    return float(total / sizes.sum())


def check_metrics(config: ExperimentConfig) -> None:
    """Refuse metrics that do not fit each other, the losses, or the data.

    Raises:
        ConfigError: Names the keys.
    """
    for key, specs in (
        ("evaluation.metrics", config.evaluation.metrics),
        ("training.metrics", config.training.metrics),
    ):
        names = reported_names(specs)
        for name, spec in zip(names, specs, strict=True):
            if names.count(name) > 1:
                raise ConfigError(f"{key}: {name} is given twice")
            _check_fit(key, spec["name"], config)
            _check_options(key, spec, config)
    watched, configured = config.training.metric, reported_names(config.evaluation.metrics)
    if watched in ("auc", "logloss") and watched not in configured:
        _check_fit("training.metric", watched, config)
    ranking = "@" in watched
    if ranking and config.data.split_strategy != "leave_one_out":
        known = metric_names(config.training.losses, config.evaluation.metrics)
        choices = [name for name in known if "@" not in name]
        raise ConfigError(
            f"training.metric: {watched} needs a ranking task, which data.split_strategy: "
            f"{config.data.split_strategy} does not make; choose {' or '.join(choices)}"
        )


def _check_fit(key: str, name: str, config: ExperimentConfig) -> None:
    """Refuse a metric of something that the losses do not predict."""
    losses, classes = config.training.losses, config.num_class
    fitting = [
        metric
        for metric in _METRICS
        if not (metric in _ONE_PROBABILITY and (classes > 2 or is_regression(losses)))
        and not (metric == "accuracy" and is_regression(losses))
        and not (metric == "multiclass_auc" and classes < 2)
        and not (metric in _OF_NUMBERS and "l2" not in [loss["name"] for loss in losses])
    ]
    if name not in fitting:
        what = "a probability of class 1" if name in _ONE_PROBABILITY else "probabilities"
        what = "num_class above 1" if name == "multiclass_auc" else what
        what = "the loss l2" if name in _OF_NUMBERS else what
        trained = ", ".join(loss["name"] for loss in losses)
        raise ConfigError(
            f"{key}: {name} needs {what}, which training.losses: {trained} with num_class: "
            f"{classes} does not give; choose among {', '.join(fitting)}"
        )


def _check_options(key: str, spec: Mapping[str, Any], config: ExperimentConfig) -> None:
    name = spec["name"]
    if "group" in spec:
        check_group(config, key, name, "group", spec["group"])
    if "thresholds" in spec and spec["thresholds"] < 2:
        exact = key == "evaluation.metrics"
        if spec["thresholds"] == 1 or not exact:
            zero = ", or 0 for the exact AUC" if exact else ""
            raise ConfigError(
                f"{key}.thresholds: {name} needs at least 2{zero}, found {spec['thresholds']}"
            )
    if spec.get("average", "macro") not in ("macro", "weighted"):
        raise ConfigError(
            f"{key}.average: {name} knows macro and weighted, found {spec['average']!r}"
        )
    if name == "accuracy" and not 1 <= spec["top_k"] <= max(config.num_class, 1):
        raise ConfigError(
            f"{key}.top_k: expected 1 to num_class, which is {config.num_class}, found "
            f"{spec['top_k']}"
        )
    if name == "normalized_entropy" and not 0 < spec["eta"] < 0.5:
        raise ConfigError(f"{key}.eta: expected above 0 and below 0.5, found {spec['eta']:g}")
    if spec.get("decay_step") == 0 or spec.get("decay_rate", 0) > 1:
        raise ConfigError(
            f"{key}: {name} needs a decay_step of at least 1 and a decay_rate of at most 1"
        )
    if spec.get("max_pairs_per_group") == 0:
        raise ConfigError(f"{key}.max_pairs_per_group: expected at least 1, found 0")


def check_rows(label: NDArray, shape: tuple[int, ...]) -> None:
    """Refuse anything but one prediction per label 0 or 1.

    Raises:
        DataError: There are no rows, the shapes differ, or a label is neither 0 nor 1.
    """
    if label.ndim != 1 or label.shape != shape:
        raise DataError(f"expected one prediction per label {label.shape}, got {shape}")
    if not len(label):
        raise DataError("no rows to evaluate: the split is empty")
    if not np.isin(label, (0, 1)).all():
        raise DataError(f"expected labels 0 and 1, got {np.unique(label)[:5].tolist()}")


def _diverged(nan: int, count: int) -> str:
    return (
        f"{nan} of {count} predicted probabilities are NaN: the model diverged; "
        "try a lower learning rate"
    )


def _pair(number: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows i < j of the pairs with these numbers, where (i, j) has the number j (j - 1) / 2 + i."""
    second = ((1 + np.sqrt(1 + 8.0 * number)) / 2).astype(np.int64)
    second -= second * (second - 1) // 2 > number  # the root may be off by its last digit
    second += second * (second + 1) // 2 <= number
    return number - second * (second - 1) // 2, second


def _same_order(
    target: NDArray, predicted: NDArray, first: NDArray, second: NDArray
) -> NDArray[np.bool_]:
    of_target = np.sign(target[first] - target[second])
    return of_target * np.sign(predicted[first] - predicted[second]) > 0


def _binary(scored: Scored) -> tuple[NDArray, NDArray]:
    """Labels and probabilities of class 1, checked."""
    check_rows(scored.label, scored.predicted.shape)
    return scored.label, scored.predicted


def _auc(scored: Scored, spec: Mapping[str, Any]) -> float | None:
    label, probability = _binary(scored)
    if spec["thresholds"]:
        return auc_of_counts(threshold_counts(label, probability, spec["thresholds"]))
    return auc(label, probability)


def _classes(scored: Scored) -> tuple[NDArray, NDArray]:
    """Labels and probabilities of each class, checked."""
    probability = scored.of_classes
    if not np.isin(scored.label, np.arange(probability.shape[1])).all():
        found = np.unique(scored.label)[-5:].tolist()
        raise DataError(f"expected classes 0 to {probability.shape[1] - 1}, got {found}")
    return scored.label, probability


def _accuracy(scored: Scored, spec: Mapping[str, Any]) -> float:
    label, probability = (_binary if scored.num_class == 1 else _classes)(scored)
    return accuracy(label, probability, threshold=spec["threshold"], top_k=spec["top_k"])


def _xauc(scored: Scored, spec: Mapping[str, Any]) -> float | None:
    if spec["in_batch"]:
        return xauc_of_batches(scored.label, scored.value, scored.batch_size)
    return xauc(
        scored.label,
        scored.value,
        sample_ratio=spec["sample_ratio"],
        max_pairs=spec["max_pairs"],
    )


_METRICS: dict[str, Callable[[Scored, Mapping[str, Any]], Any]] = {
    "auc": _auc,
    "logloss": lambda scored, spec: log_loss(*_binary(scored)),
    "gauc": lambda scored, spec: grouped_auc(*_binary(scored), scored.group_of(spec["group"])),
    "accuracy": _accuracy,
    "mae": lambda scored, spec: float(np.abs(scored.value - scored.label).mean()),
    "mse": lambda scored, spec: float(np.square(scored.value - scored.label).mean()),
    "multiclass_auc": lambda scored, spec: multiclass_auc(
        *_classes(scored), thresholds=spec["thresholds"], average=spec["average"]
    ),
    "normalized_entropy": lambda scored, spec: normalized_entropy(
        *_binary(scored), eta=spec["eta"]
    ),
    "xauc": _xauc,
    "grouped_xauc": lambda scored, spec: grouped_xauc(
        scored.label,
        scored.value,
        scored.group_of(spec["group"]),
        max_pairs=spec["max_pairs_per_group"],
    ),
}
