"""The losses that `training.losses` names, a class each.

Nothing imports torch before a loss is computed, so that a config is read without it.

Shapes: B rows, C classes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from deepfm.easyrec.names import PROBABILITY_OF_ONE
from deepfm.objectives.base import Logits, Objective, Targets
from deepfm.objectives.branches import BranchDistillation, TriBCE, TwinFocus
from deepfm.objectives.one_logit import OneLogit
from deepfm.objectives.pairwise import BPR, SampledSoftmax
from deepfm.utils.named import by_name
from deepfm.utils.settings import limited

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class _LogitPerClass(Objective):
    """A loss of one logit per class, whose softmax is the probability of each."""

    label_kinds = ("class",)
    min_class = 2
    max_class: ClassVar[int | None] = None

    @classmethod
    def label_kinds_of(cls, num_class: int) -> tuple[str, ...]:
        return ("class", "binary") if num_class == 2 else cls.label_kinds

    def class_probabilities(self, logits: Logits, task: str = "") -> "Tensor":
        return self.own_logits(logits, task).softmax(1)

    def prediction(self, logits: Logits, task: str = "") -> "Tensor":
        probabilities = self.class_probabilities(logits, task)
        return probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities

    def log_odds(self, logits: Logits, task: str = "") -> "Tensor | None":
        own = self.own_logits(logits, task)
        return own[:, 1] - own[:, 0] if own.shape[1] == 2 else None

    def outputs(self, logits: Logits, task: str = "") -> "dict[str, Tensor]":
        """`logits` and `probs` = softmax, (B, C), and of two classes also the probability of class
        1 alone, (B,)."""
        own = self.own_logits(logits, task)
        found = {"logits": own, "probs": own.softmax(1)}
        if own.shape[1] == 2:
            found[PROBABILITY_OF_ONE] = found["probs"][:, 1]
        return found


@dataclass(frozen=True, kw_only=True)
class BinaryCrossEntropy(OneLogit):
    """Label y becomes y (1 - s) + s / 2 with smoothing s.

    Attributes:
        label_smoothing: Share s of a label that is given away to all classes.
    """

    name = "binary_cross_entropy"
    label_smoothing: float = limited(0.0, below=1)

    @property
    def equal_metric(self) -> str:
        return "" if self.label_smoothing else "logloss"

    def row_losses(self, logits: Logits, targets: Targets, task: str = "") -> "Tensor":
        from torch.nn.functional import binary_cross_entropy_with_logits

        own = self.own_logits(logits, task, targets)
        return binary_cross_entropy_with_logits(own, self._smooth(targets), reduction="none")

    def loss(self, logits: Logits, targets: Targets, task: str = "") -> "Tensor":
        own = self.own_logits(logits, task, targets)
        return weighted_loss(own, self._smooth(targets), targets.weight)

    def _smooth(self, targets: Targets) -> "Tensor":
        label, smoothing = targets.label, self.label_smoothing
        return label * (1 - smoothing) + smoothing / 2 if smoothing else label


@dataclass(frozen=True, kw_only=True)
class BinaryFocal(OneLogit):
    """Cross-entropy times a (1-p)^g for positives, (1-a) p^g for negatives, with p = sigmoid.

    No gradient flows through that factor.

    Source: T. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv:1708.02002,
    Eq. (5).

    NOTE[DIFF]: In the paper the factor is differentiated; here it weighs rows, as TorchEasyRec
    has it.

    Attributes:
        gamma: Exponent g of what is missing to certainty.
        alpha: Weight a of positives; negatives have the rest.
    """

    name = "binary_focal"
    gamma: float = 2.0
    alpha: float = limited(0.5, above=0, below=1)

    def row_losses(self, logits: Logits, targets: Targets, task: str = "") -> "Tensor":
        from torch.nn.functional import binary_cross_entropy_with_logits

        own, positive = self.own_logits(logits, task, targets), targets.label
        probability = own.detach().sigmoid()
        factor = self.alpha * positive * (1 - probability) ** self.gamma
        factor = factor + (1 - self.alpha) * (1 - positive) * probability**self.gamma
        return factor * binary_cross_entropy_with_logits(own, positive, reduction="none")


@dataclass(frozen=True, kw_only=True)
class SoftmaxCrossEntropy(_LogitPerClass):
    """With smoothing s the target is 1 - s on the label's class, plus s / C on every class.

    Attributes:
        label_smoothing: Share s of a label that is given away to all classes.
    """

    name = "softmax_cross_entropy"
    learns_base_rate = True
    label_smoothing: float = limited(0.0, below=1)

    def row_losses(self, logits: Logits, targets: Targets, task: str = "") -> "Tensor":
        from torch.nn.functional import cross_entropy

        own = self.own_logits(logits, task, targets)
        return cross_entropy(
            own, targets.label.long(), reduction="none", label_smoothing=self.label_smoothing
        )


@dataclass(frozen=True, kw_only=True)
class L2(Objective):
    """The square of the difference between output and label; the output is the prediction."""

    name = "l2"
    label_kinds = ("number", "binary")
    gives_numbers = True

    def row_losses(self, logits: Logits, targets: Targets, task: str = "") -> "Tensor":
        return (self.own_logits(logits, task, targets) - targets.label).square()

    def prediction(self, logits: Logits, task: str = "") -> "Tensor":
        return self.own_logits(logits, task)

    def outputs(self, logits: Logits, task: str = "") -> "dict[str, Tensor]":
        """`y`, (B,)."""
        return {"y": self.own_logits(logits, task)}


@dataclass(frozen=True, kw_only=True)
class JRC(_LogitPerClass):
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

    Attributes:
        session: One of `data.table.group_columns`.
        alpha: What calibration counts; the rest is for ranking.
    """

    name = "jrc"
    max_class = 2
    group_option = "session"
    session: str = ""
    alpha: float = limited(0.5, at_most=1)

    def row_losses(self, logits: Logits, targets: Targets, task: str = "") -> "Tensor":
        import torch
        from torch.nn.functional import cross_entropy, softplus

        own, label = self.own_logits(logits, task, targets), targets.label.long()  # (B,)
        session = _numbered(self.group_of(targets))  # (B,)
        calibration = cross_entropy(own, label, reduction="none")  # (B,)
        right, rival = own.gather(1, torch.stack([label, 1 - label], 1)).unbind(1)  # (B,) each
        # A row is a rival of those that own the column of the other class in its session.
        rivals = _log_sum_exp_by(2 * session + 1 - label, rival, 2 * len(label))
        # ln(1 + e^(rivals - right)) = -ln(e^right / (e^right + e^rivals))
        contrast = softplus(rivals[2 * session + label] - right)
        return self.alpha * calibration + (1 - self.alpha) * contrast


LOSSES: dict[str, type[Objective]] = by_name(
    BinaryCrossEntropy,
    BinaryFocal,
    SoftmaxCrossEntropy,
    L2,
    JRC,
    SampledSoftmax,
    BPR,
    BranchDistillation,
    TwinFocus,
    TriBCE,
)


def weighted_loss(logits: "Tensor", label: "Tensor", weight: "Tensor | None") -> "Tensor":
    """Weighted mean of the rows' binary cross-entropies, sum(w * bce) / sum(w), ().

    The divisor is the batch's own sum of weights, so equal weights of any size give the mean,
    which is what no weights give. A batch whose weights are all 0 has the loss 0.

    Args:
        logits, label: (B,).
        weight: At least 0, (B,); None: all rows count alike.
    """
    from torch.nn.functional import binary_cross_entropy_with_logits

    if weight is None:
        return binary_cross_entropy_with_logits(logits, label)
    total = binary_cross_entropy_with_logits(logits, label, weight, reduction="sum")
    divisor = weight.sum()
    return total / (divisor + (divisor == 0))


def _numbered(values: "Tensor") -> "Tensor":
    """Equal values as equal numbers from 0 on, in ascending order, (B,).

    Unlike `torch.unique` it does not ask a device how many there are.
    """
    import torch

    ordered, order = values.sort()
    is_new = torch.zeros_like(order)
    is_new[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(order).scatter_(0, order, is_new.cumsum(0))


def _log_sum_exp_by(bucket: "Tensor", values: "Tensor", buckets: int) -> "Tensor":
    """ln(sum of e^value) of each bucket, (buckets,); -1e9 where there is no value.

    Not -inf, whose gradient would be NaN.
    """
    import torch

    top = values.new_full((buckets,), -1e9).scatter_reduce(0, bucket, values.detach(), "amax")
    total = values.new_zeros(buckets).scatter_add(0, bucket, (values - top[bucket]).exp())
    empty = total == 0
    return top + torch.where(empty, 1.0, total).log()
