"""The losses that `training.losses` names: batch in, one number per loss out.

Decided here: every loss is one value per row, and a batch's loss is their weighted mean
sum(w * l) / sum(w), so that equal weights of any size give the mean. Which losses go together, and
what each needs of model and label, is checked by `check_losses` before any data is read.

They stand below training, because evaluation reports the same losses.

Shapes: B rows, C classes, G group columns.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, softplus

from deepfm.config import ExperimentConfig
from deepfm.data.batch import Batch
from deepfm.errors import ConfigError, nearest

BINARY = ("binary_cross_entropy", "binary_focal")  # of one logit, whose sigmoid is a probability
_LABEL_KINDS = {
    "binary_cross_entropy": ("binary",),
    "binary_focal": ("binary",),
    "softmax_cross_entropy": ("class",),
    "l2": ("number", "binary"),
    "jrc": ("class", "binary"),
}
_LIMITS = (
    ("binary_cross_entropy", "label_smoothing", lambda value: value < 1, "a number below 1"),
    ("softmax_cross_entropy", "label_smoothing", lambda value: value < 1, "a number below 1"),
    ("binary_focal", "alpha", lambda value: 0 < value < 1, "a number above 0 and below 1"),
    ("jrc", "alpha", lambda value: value <= 1, "a number of at most 1"),
)


def batch_losses(
    logits: Tensor,
    batch: Batch,
    specs: Iterable[Mapping[str, Any]],
    group_columns: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Each loss of a batch by its name, (); what is trained on is their sum.

    Args:
        logits: (B,), or (B, C) for several classes.
        batch: Its label is 0 or 1, the number of a class, or any number, as the losses need it.
        specs: As in `training.losses`.
        group_columns: Names of the columns of `batch.group`.

    Raises:
        ConfigError: The logits' shape is not that of the loss, or its session is no group.
    """
    return {
        spec["name"]: _LOSSES[spec["name"]](logits, batch, spec, group_columns) for spec in specs
    }


def weighted_loss(logits: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
    """Weighted mean of the rows' binary cross-entropies, sum(w * bce) / sum(w), ().

    The divisor is the batch's own sum of weights, so equal weights of any size give the mean,
    which is what no weights give. A batch whose weights are all 0 has the loss 0.

    Args:
        logits, label: (B,).
        weight: At least 0, (B,); None: all rows count alike.
    """
    if weight is None:
        return binary_cross_entropy_with_logits(logits, label)
    total = binary_cross_entropy_with_logits(logits, label, weight, reduction="sum")
    divisor = weight.sum()
    return total / (divisor + (divisor == 0))


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """sum(w * v) / sum(w) of (B,) values, (); 0 where all weights are 0."""
    if weight is None:
        return values.mean()
    divisor = weight.sum()
    return (weight * values).sum() / (divisor + (divisor == 0))


def _binary_cross_entropy(
    logits: Tensor, batch: Batch, spec: Mapping[str, Any], group_columns: Sequence[str]
) -> Tensor:
    """Label y becomes y (1 - s) + s / 2 with smoothing s."""
    _check_shape(logits, batch, spec, classes=False)
    label, smoothing = batch.label, spec["label_smoothing"]
    if smoothing:
        label = label * (1 - smoothing) + smoothing / 2
    return weighted_loss(logits, label, batch.weight)


def _binary_focal(
    logits: Tensor, batch: Batch, spec: Mapping[str, Any], group_columns: Sequence[str]
) -> Tensor:
    """Cross-entropy times a (1-p)^g for positives, (1-a) p^g for negatives, with p = sigmoid.

    No gradient flows through that factor.

    Source: T. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv:1708.02002,
    Eq. (5).

    NOTE[DIFF]: In the paper the factor is differentiated; here it weighs rows, as TorchEasyRec
    has it.
    """
    _check_shape(logits, batch, spec, classes=False)
    positive, gamma, alpha = batch.label, spec["gamma"], spec["alpha"]
    probability = logits.detach().sigmoid()
    factor = alpha * positive * (1 - probability) ** gamma
    factor = factor + (1 - alpha) * (1 - positive) * probability**gamma
    losses = binary_cross_entropy_with_logits(logits, positive, reduction="none")
    return weighted_mean(factor * losses, batch.weight)


def _softmax_cross_entropy(
    logits: Tensor, batch: Batch, spec: Mapping[str, Any], group_columns: Sequence[str]
) -> Tensor:
    """With smoothing s the target is 1 - s on the label's class, plus s / C on every class."""
    _check_shape(logits, batch, spec, classes=True)
    losses = cross_entropy(
        logits, batch.label.long(), reduction="none", label_smoothing=spec["label_smoothing"]
    )
    return weighted_mean(losses, batch.weight)


def _l2(
    logits: Tensor, batch: Batch, spec: Mapping[str, Any], group_columns: Sequence[str]
) -> Tensor:
    """The square of the difference between output and label."""
    _check_shape(logits, batch, spec, classes=False)
    return weighted_mean((logits - batch.label).square(), batch.weight)


def _jrc(
    logits: Tensor, batch: Batch, spec: Mapping[str, Any], group_columns: Sequence[str]
) -> Tensor:
    """alpha CE + (1 - alpha) GE: calibration and ranking within a session, on two logits.

    CE is the softmax cross-entropy. GE of a row of class c is the cross-entropy, over logits of
    column c, of that row against the rows of the other class in its session:

        GE_i = -ln( e^{z_i,c} / (e^{z_i,c} + sum_{j in session, y_j != c} e^{z_j,c}) )

    Costs O(B): the sum is one number per session and class. Rows of one session that stand in
    different batches do not meet.

    Source: X. Sheng et al., "Joint Optimization of Ranking and Calibration with Contextualized
    Hybrid Model", KDD 2023, arXiv:2208.06164.

    NOTE[DIFF]: In the paper a row competes with all other rows of its session; here, as in
    TorchEasyRec, with those of the other class.
    """
    _check_shape(logits, batch, spec, classes=True)
    if batch.group is None or spec["session"] not in group_columns:
        hint = nearest(spec["session"], group_columns) if group_columns else "there are none"
        raise ConfigError(
            f"training.losses: jrc: session {spec['session']!r} is none of "
            f"data.table.group_columns; {hint}"
        )
    label = batch.label.long()  # (B,)
    calibration = cross_entropy(logits, label, reduction="none")  # (B,)
    session = batch.group[:, list(group_columns).index(spec["session"])]
    session = torch.unique(session, return_inverse=True)[1]  # (B,)
    own, rival = logits.gather(1, torch.stack([label, 1 - label], 1)).unbind(1)  # (B,) each
    # A row is a rival of those that own the column of the other class in its session.
    rivals = _log_sum_exp_by(2 * session + 1 - label, rival, 2 * len(label))[2 * session + label]
    contrast = softplus(rivals - own)  # ln(1 + e^(rivals - own)) = -ln(e^own / (e^own + e^rivals))
    alpha = spec["alpha"]
    return weighted_mean(alpha * calibration + (1 - alpha) * contrast, batch.weight)


def _log_sum_exp_by(bucket: Tensor, values: Tensor, buckets: int) -> Tensor:
    """ln(sum of e^value) of each bucket, (buckets,); -1e9 where there is no value.

    Not -inf, whose gradient would be NaN.
    """
    top = values.new_full((buckets,), -1e9).scatter_reduce(0, bucket, values.detach(), "amax")
    total = values.new_zeros(buckets).scatter_add(0, bucket, (values - top[bucket]).exp())
    empty = total == 0
    return top + torch.where(empty, 1.0, total).log()


_LOSSES: dict[str, Callable[..., Tensor]] = {
    "binary_cross_entropy": _binary_cross_entropy,
    "binary_focal": _binary_focal,
    "softmax_cross_entropy": _softmax_cross_entropy,
    "l2": _l2,
    "jrc": _jrc,
}


def _check_shape(logits: Tensor, batch: Batch, spec: Mapping[str, Any], *, classes: bool) -> None:
    """Refuse logits that would broadcast against the labels."""
    rows = tuple(batch.label.shape)
    if logits.shape[:1] != rows or logits.dim() != 1 + classes or len(rows) != 1:
        expected = "(B, C)" if classes else "(B,)"
        raise ConfigError(
            f"training.losses: {spec['name']} needs logits {expected}, got {tuple(logits.shape)} "
            f"for labels {rows}; see num_class"
        )


def check_losses(config: ExperimentConfig) -> None:
    """Refuse losses that do not fit each other, the model's outputs, or the declared label.

    Raises:
        ConfigError: Names the keys.
    """
    names = [spec["name"] for spec in config.training.losses]
    for spec in config.training.losses:
        name = spec["name"]
        if names.count(name) > 1:
            raise ConfigError(f"training.losses: {name} is given twice")
        for loss, option, fits, expected in _LIMITS:
            if loss == name and not fits(spec[option]):
                raise ConfigError(
                    f"training.losses.{option}: {name} needs {expected}, found {spec[option]:g}"
                )
        _check_task(name, config)
        if "session" in spec:
            check_group(config, "training.losses", name, "session", spec["session"])
    if config.data.split_strategy == "leave_one_out" and not set(BINARY) & set(names):
        raise ConfigError(
            "training.losses: data.split_strategy leave_one_out ranks by a probability, which "
            f"needs {' or '.join(BINARY)}; found {', '.join(names)}"
        )


def check_group(config: ExperimentConfig, key: str, name: str, option: str, column: str) -> None:
    """Refuse a loss or metric whose rows are grouped by a column that is not declared for it.

    Raises:
        ConfigError: Names the keys.
    """
    table = config.data.table
    declared = () if table is None else table.group_columns
    if column not in declared:
        hint = nearest(column, declared) if declared else "it is empty"
        raise ConfigError(
            f"{key}: {name}: {option} {column!r} is none of data.table.group_columns; {hint}"
        )


def _check_task(name: str, config: ExperimentConfig) -> None:
    """Refuse a loss that does not fit the number of classes and what the label is."""
    classes, table = config.num_class, config.data.table
    kinds, needed = _LABEL_KINDS[name], "2" if name == "jrc" else "more than 1"
    fits = classes == 2 if name == "jrc" else classes > 1
    if name in (*BINARY, "l2"):
        needed, fits = "1", classes == 1
    elif classes == 2:
        kinds = ("class", "binary")
    if not fits:
        raise ConfigError(f"num_class: training.losses: {name} needs {needed}, found {classes}")
    kind = "binary" if table is None else table.trained_label.kind
    if kind not in kinds:
        raise ConfigError(
            f"data.table.labels: training.losses: {name} needs a label of kind "
            f"{' or '.join(kinds)}, found {kind}"
        )
