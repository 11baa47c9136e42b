"""The metrics that `evaluation.metrics` and `training.metrics` name, a class each.

Decided here: a metric is of the whole set and in float64, never a mean over batches, but where its
definition is one (`xauc` with `in_batch`). Every row counts alike. What does not exist, as the AUC
where all labels are equal, is None, so that `metrics.json` holds no NaN. Metrics of training
batches are averages over windows of them; a class below `OverBatches` says of which kind.

Shapes: N rows, T thresholds.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from deepfm.errors import ConfigError, DataError, DeepFMError
from deepfm.evaluation import measures, windows
from deepfm.evaluation.measures import Array
from deepfm.evaluation.scored import Scored
from deepfm.utils.named import Named, by_name, reported_names

CORRECTED = "_prior_corrected"  # ends the names of figures after the prior correction


@dataclass(frozen=True, kw_only=True)
class Metric(Named):
    """A number that says how good predictions are; its fields are its options.

    Attributes:
        needs: What it is computed of, which the losses of a task give: `probability`, of class 1;
            `probabilities`, of each class; `classes`, of two or more; `numbers`.
        larger_is_better: Its direction.
        group_option: The option that names the group column it reads; empty: it reads none.
        reads_size: Whether it changes where all logits of class 1 are shifted alike, so that it
            means nothing on rows with another share of positives than those trained on.
    """

    needs: ClassVar[str]
    reads_size: ClassVar[bool] = False
    larger_is_better: ClassVar[bool] = True
    group_option: ClassVar[str] = ""

    @abstractmethod
    def value(self, scored: Scored) -> float | None:
        """The metric of some rows; None where it does not exist.

        Raises:
            DataError: A label is none that it is defined for.
        """

    def reported(self, scored: Scored, name: str) -> dict[str, float | None]:
        """What `metrics.json` gets: the value under the name that the metric is reported under."""
        return {name: self.value(scored)}

    def why_undefined(self, scored: Scored, name: str) -> str:
        """Why it does not exist on rows with these labels and groups, whatever is predicted; empty
        if it does.

        Args:
            name: What it is reported under.
        """
        return ""

    def check_options(self, key: str, num_class: int) -> None:
        """Refuse options that contradict each other or the number of classes.

        Args:
            key: The setting that lists the metric.

        Raises:
            ConfigError: Names the option.
        """


@dataclass(frozen=True, kw_only=True)
class _MayNotExist(Metric):
    """A metric that the labels and groups of some rows do not allow for."""

    def why_undefined(self, scored: Scored, name: str) -> str:
        exists = self.value(scored) is not None
        return "" if exists else undefined(name, len(scored.label))


@dataclass(frozen=True, kw_only=True)
class AUC(Metric):
    """Share of (positive, negative) pairs in order; binned by `thresholds`, exact with 0.

    Attributes:
        thresholds: Of the binned AUC; 0: the exact one.
    """

    name = "auc"
    needs = "probability"
    thresholds: int = 0

    def value(self, scored: Scored) -> float | None:
        scored.check_binary()
        if not self.thresholds:
            return measures.auc(scored.label, scored.order)
        return measures.auc_of_counts(self.counts(scored))

    def counts(self, scored: Scored) -> NDArray[np.int64]:
        """Positives and negatives from each threshold on, (2, T)."""
        return measures.threshold_counts(scored.label, scored.predicted, self.thresholds)

    def why_undefined(self, scored: Scored, name: str) -> str:
        return _why_one_class(scored, "AUC")

    def check_options(self, key: str, num_class: int) -> None:
        super().check_options(key, num_class)
        _check_thresholds(key, self.name, self.thresholds)


@dataclass(frozen=True, kw_only=True)
class LogLoss(Metric):
    """Mean negative logarithm of the probability of what happened."""

    name = "logloss"
    needs = "probability"
    larger_is_better = False
    reads_size = True

    def value(self, scored: Scored) -> float | None:
        """None where all labels are equal: there the best model is the constant of that label."""
        scored.check_binary()
        logit = scored.logit
        return measures.log_loss(scored.label, logit) if scored.has_both_classes else None

    def why_undefined(self, scored: Scored, name: str) -> str:
        return _why_one_class(scored, "LogLoss")


@dataclass(frozen=True, kw_only=True)
class GAUC(_MayNotExist):
    """Mean AUC of the groups that have both classes; `gauc_groups` says how many these are.

    Attributes:
        group: One of `data.table.group_columns`.
    """

    name = "gauc"
    needs = "probability"
    group_option = "group"
    group: str = ""

    def value(self, scored: Scored) -> float | None:
        return self._value_and_groups(scored)[0]

    def reported(self, scored: Scored, name: str) -> dict[str, float | None]:
        value, groups = self._value_and_groups(scored)
        return {name: value, name.replace(self.name, f"{self.name}_groups", 1): groups}

    def _value_and_groups(self, scored: Scored) -> tuple[float | None, int]:
        scored.check_binary()
        group = scored.group_of(self.group)
        return measures.grouped_auc(scored.label, scored.order, group)


@dataclass(frozen=True, kw_only=True)
class Accuracy(Metric):
    """Share of rows whose class is predicted.

    Attributes:
        threshold: Above it class 1 of two is predicted.
        top_k: How many of the likeliest classes are predicted.
    """

    name = "accuracy"
    needs = "probabilities"
    reads_size = True
    threshold: float = 0.5
    top_k: int = 1

    def value(self, scored: Scored) -> float:
        probability = scored.predicted
        if scored.num_class == 1:
            scored.check_binary()
        else:
            scored.check_classes()
            probability = scored.of_classes
        return measures.accuracy(
            scored.label, probability, threshold=self.threshold, top_k=self.top_k
        )

    def check_options(self, key: str, num_class: int) -> None:
        super().check_options(key, num_class)
        if not 1 <= self.top_k <= num_class:
            raise ConfigError(
                f"expected 1 to num_class, which is {num_class}, found {self.top_k}",
                key=f"{key}.top_k",
            )


@dataclass(frozen=True, kw_only=True)
class MAE(Metric):
    """Mean absolute difference between number and label."""

    name = "mae"
    needs = "numbers"
    larger_is_better = False

    def value(self, scored: Scored) -> float:
        return float(np.abs(scored.numbers - scored.label).mean())


@dataclass(frozen=True, kw_only=True)
class MSE(Metric):
    """Mean squared difference between number and label."""

    name = "mse"
    needs = "numbers"
    larger_is_better = False

    def value(self, scored: Scored) -> float:
        return float(np.square(scored.numbers - scored.label).mean())


@dataclass(frozen=True, kw_only=True)
class RMSE(MSE):
    """Root of the mean squared difference between number and label, in the label's units."""

    name = "rmse"

    def value(self, scored: Scored) -> float:
        return math.sqrt(super().value(scored))


@dataclass(frozen=True, kw_only=True)
class MulticlassAUC(_MayNotExist):
    """Mean over classes of the AUC of one class against the rest.

    Attributes:
        thresholds: Of the binned AUC; 0: the exact one.
        average: `macro`: every class counts alike; `weighted`: by its rows.
    """

    name = "multiclass_auc"
    needs = "classes"
    thresholds: int = 0
    average: str = "macro"

    def value(self, scored: Scored) -> float | None:
        scored.check_classes()
        return measures.multiclass_auc(
            scored.label, scored.of_classes, thresholds=self.thresholds, average=self.average
        )

    def check_options(self, key: str, num_class: int) -> None:
        super().check_options(key, num_class)
        _check_thresholds(key, self.name, self.thresholds)
        if self.average not in ("macro", "weighted"):
            raise ConfigError(
                f"{self.name} knows macro and weighted, found {self.average!r}",
                key=f"{key}.average",
            )


@dataclass(frozen=True, kw_only=True)
class NormalizedEntropy(Metric):
    """Cross-entropy over that of always predicting the share of positives.

    Attributes:
        eta: The share of positives is kept that far from 0 and 1.
    """

    name = "normalized_entropy"
    needs = "probability"
    larger_is_better = False
    reads_size = True
    eta: float = 1e-12

    def value(self, scored: Scored) -> float:
        scored.check_binary()
        return measures.normalized_entropy(scored.label, scored.logit, eta=self.eta)

    def check_options(self, key: str, num_class: int) -> None:
        super().check_options(key, num_class)
        if not 0 < self.eta < 0.5:
            raise ConfigError(
                f"expected above 0 and below 0.5, found {self.eta:g}", key=f"{key}.eta"
            )


@dataclass(frozen=True, kw_only=True)
class XAUC(_MayNotExist):
    """Share of pairs of rows whose numbers are in the order of their labels.

    Attributes:
        sample_ratio: Share of all pairs that are drawn.
        max_pairs: How many are drawn instead; null: `sample_ratio` says it.
        in_batch: Whether all pairs of each batch count, and the mean is over batches.
    """

    name = "xauc"
    needs = "numbers"
    sample_ratio: float = 1e-3
    max_pairs: float | None = None
    in_batch: bool = False

    def value(self, scored: Scored) -> float | None:
        if self.in_batch:
            return measures.xauc_of_batches(scored.label, scored.numbers, scored.batch_size)
        return self.of_rows(scored.label, scored.numbers)

    def of_rows(self, label: Array, numbers: Array) -> float | None:
        """Of pairs among all rows, (N,) each."""
        return measures.xauc(
            label, numbers, sample_ratio=self.sample_ratio, max_pairs=self.max_pairs
        )


@dataclass(frozen=True, kw_only=True)
class GroupedXAUC(_MayNotExist):
    """Mean XAUC of the groups of two rows or more, weighted by their rows.

    Attributes:
        group: One of `data.table.group_columns`.
        max_pairs_per_group: Of a group with more pairs that many are drawn.
    """

    name = "grouped_xauc"
    needs = "numbers"
    group_option = "group"
    group: str = ""
    max_pairs_per_group: int = 100

    def value(self, scored: Scored) -> float | None:
        return measures.grouped_xauc(
            scored.label,
            scored.numbers,
            scored.group_of(self.group),
            max_pairs=self.max_pairs_per_group,
        )

    def check_options(self, key: str, num_class: int) -> None:
        super().check_options(key, num_class)
        if self.max_pairs_per_group < 1:
            raise ConfigError(
                f"expected at least 1, found {self.max_pairs_per_group}",
                key=f"{key}.max_pairs_per_group",
            )


METRICS: dict[str, type[Metric]] = by_name(
    AUC,
    LogLoss,
    GAUC,
    Accuracy,
    MAE,
    MSE,
    RMSE,
    MulticlassAUC,
    NormalizedEntropy,
    XAUC,
    GroupedXAUC,
)


# --- over training batches ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OverBatches(Metric):
    """A metric of the training batches while they pass; see `windows`.

    `decay_step` is the number of batches of a window, `decay_rate` how much of what was before
    stays when one ends.

    Attributes:
        decay_rate: What stays of the value when a window ends.
        decay_step: Batches of a window.
    """

    decay_rate: float = 0.9
    decay_step: int = 100

    def window(self) -> windows.Window:
        """What takes in the batches: here the mean of the metric over their rows."""
        return windows.Mean(self.value, steps=self.decay_step, rate=self.decay_rate)

    def check_options(self, key: str, num_class: int) -> None:
        super().check_options(key, num_class)
        if self.decay_step < 1 or self.decay_rate > 1:
            raise ConfigError(
                f"{self.name} needs a decay_step of at least 1 and a decay_rate of at most 1",
                key=key,
            )


@dataclass(frozen=True, kw_only=True)
class TrainAUC(OverBatches, AUC):
    """Binned AUC of counts that decay."""

    thresholds: int = 200

    def window(self) -> windows.Window:
        return windows.Counts(
            self.counts,
            measures.auc_of_counts,
            np.zeros((2, self.thresholds)),
            steps=self.decay_step,
            rate=self.decay_rate,
        )

    def check_options(self, key: str, num_class: int) -> None:
        if self.thresholds < 2:
            raise ConfigError(
                f"{self.name} needs at least 2, found {self.thresholds}", key=f"{key}.thresholds"
            )
        super().check_options(key, num_class)


@dataclass(frozen=True, kw_only=True)
class TrainMAE(OverBatches, MAE):
    """Mean over the rows of a window."""


@dataclass(frozen=True, kw_only=True)
class TrainMSE(OverBatches, MSE):
    """Mean over the rows of a window."""


@dataclass(frozen=True, kw_only=True)
class TrainAccuracy(OverBatches, Accuracy):
    """Mean over the rows of a window."""


@dataclass(frozen=True, kw_only=True)
class TrainXAUC(OverBatches, XAUC):
    """Of pairs among all rows of a window; with `in_batch` the mean over batches of all pairs."""

    def window(self) -> windows.Window:
        if self.in_batch:
            return windows.Mean(
                self.value, by_rows=False, steps=self.decay_step, rate=self.decay_rate
            )
        return windows.Rows(self.of_rows, steps=self.decay_step, rate=self.decay_rate)


TRAIN_METRICS: dict[str, type[OverBatches]] = by_name(
    TrainAUC, TrainMAE, TrainMSE, TrainAccuracy, TrainXAUC
)


def metric_values(
    scored: Scored,
    metrics: Iterable[Metric],
    *,
    corrected: Scored | None = None,
    only_order: bool = False,
) -> dict[str, float | None]:
    """The values of some metrics, by the names they are reported under.

    Args:
        corrected: The rows after the prior correction, for metrics that read the size of a
            probability; their names end in `_prior_corrected`.
        only_order: Whether predictions are scores that only put rows in order, so that these
            metrics are None.

    Raises:
        DataError: There are no rows, or a label is none that the metric is defined for.
        DeepFMError: A prediction is NaN, or a logit is not finite.
    """
    if not len(scored.label):
        raise DataError("no rows to evaluate: the split is empty")
    if nan := np.isnan(scored.predicted).sum():
        raise DeepFMError(
            f"{nan} of {scored.predicted.size} predictions are NaN: the model diverged; try a "
            "lower learning rate"
        )
    if scored.log_odds is not None and (bad := (~np.isfinite(scored.log_odds)).sum()):
        raise DeepFMError(
            f"{bad} of {scored.log_odds.size} logits are not finite: the model diverged; try a "
            "lower learning rate"
        )
    metrics = list(metrics)
    found: dict[str, float | None] = {}
    for name, metric in zip(reported_names(metrics), metrics, strict=True):
        if only_order and metric.reads_size:
            found[name] = None
        elif corrected is not None and metric.reads_size:
            found |= metric.reported(corrected, f"{name}{CORRECTED}")
        else:
            found |= metric.reported(scored, name)
    return found


def _why_one_class(scored: Scored, what: str) -> str:
    if scored.has_both_classes:
        return ""
    return (
        f"the validation split holds one class only, so its {what} is undefined; choose another "
        "split, or training.keep: last, which needs no metric"
    )


def undefined(name: str, rows: int) -> str:
    """Says of a metric that it does not exist on some rows of the validation split."""
    return (
        f"{name} does not exist on the {rows:,} rows of the validation split, as where all labels "
        "are equal; choose another metric"
    )


def _check_thresholds(key: str, name: str, thresholds: int) -> None:
    if thresholds == 1:
        raise ConfigError(
            f"{name} needs at least 2, or 0 for the exact AUC, found 1", key=f"{key}.thresholds"
        )
