"""Losses of the logits that branches of a model have in training, beside the model's own.

They are added to a loss of the model's logit, which they do not replace.

Shapes: B rows.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from deepfm.objectives.base import Logits, Targets, branch_logits, weighted_mean
from deepfm.objectives.one_logit import OneLogit
from deepfm.utils.settings import limited

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class _OfBranches(OneLogit):
    """A loss of branches whose logits mean what the model's one logit per row means."""

    only_in_training = True
    min_branches: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class BranchDistillation(_OfBranches):
    """sum_k BCE(y_k, sigmoid(y)): the cross-entropy of each branch with what the model predicts.

    No gradient flows through the prediction, so that the branches learn from their mean and not
    it from them.

    Source: J. Zhu et al., "FINAL: Factorized Interaction Layer for CTR Prediction", SIGIR 2023,
    doi:10.1145/3539618.3591988: self-distillation of two blocks.
    """

    name = "branch_distillation"

    def row_losses(self, logits: Logits, targets: Targets, task: str = "") -> "Tensor":
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        taught = self.own_logits(logits, task, targets).detach().sigmoid()
        branches = torch.stack(list(branch_logits(logits, task).values()))  # (K, B)
        losses = binary_cross_entropy_with_logits(
            branches, taught.expand_as(branches), reduction="none"
        )
        return losses.sum(0)


@dataclass(frozen=True, kw_only=True)
class TwinFocus(_OfBranches):
    """a (c + p_e)^g BCE(y_e) + (1 - a) (2 - c - p_h)^g BCE(y_h) with branches y_e and y_h.

    p_e and p_h are the probabilities that a branch gives to what happened. The first branch, for
    easy rows, so counts rows more that it is sure of, and the second, for hard ones, those that it
    is not.

    Source: H. Li et al., "TF4CTR: Twin Focus Framework for CTR Prediction via Adaptive Sample
    Differentiation", 2024, arXiv:2405.03167.

    Attributes:
        alpha: Share a of the first branch.
        gamma: Exponent g of the factors; 0 leaves them out.
        c: Size of both factors.
    """

    name = "twin_focus"
    alpha: float = limited(0.2, at_most=1)
    gamma: float = 2.0
    c: float = limited(0.8, at_most=1)

    def row_losses(self, logits: Logits, targets: Targets, task: str = "") -> "Tensor":
        from torch.nn.functional import binary_cross_entropy_with_logits

        self.own_logits(logits, task, targets)
        (easy, hard), label = list(branch_logits(logits, task).values())[:2], targets.label
        sign = 2 * label - 1
        of_easy, of_hard = (
            binary_cross_entropy_with_logits(own, label, reduction="none") for own in (easy, hard)
        )
        of_easy = of_easy * (self.c + (sign * easy).sigmoid()) ** self.gamma
        of_hard = of_hard * (2 - self.c - (sign * hard).sigmoid()) ** self.gamma
        return self.alpha * of_easy + (1 - self.alpha) * of_hard


@dataclass(frozen=True, kw_only=True)
class TriBCE(_OfBranches):
    """sum_k max(0, L_k - L) BCE(y_k), with L_k and L the mean losses of a branch and of the model.

    A branch that is worse than the model on a batch learns by itself, the more the worse it is.
    Together with `binary_cross_entropy` it is the loss of DCNv3.

    Source: H. Li et al., "DCNv3: Towards Next Generation Deep Cross Network for CTR Prediction",
    2024, arXiv:2407.13349.

    NOTE[DIFF]: The factors are constants of a batch. In the authors' code gradients flow through
    them, which takes sum_k L_k times the gradient of the model's own loss away from it.
    """

    name = "tri_bce"

    def row_losses(self, logits: Logits, targets: Targets, task: str = "") -> "Tensor":
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        own = self.own_logits(logits, task, targets)
        every = torch.stack([own, *branch_logits(logits, task).values()])  # (1 + K, B)
        label = targets.label.expand_as(every)
        losses = binary_cross_entropy_with_logits(every, label, reduction="none")
        means = torch.stack([weighted_mean(of_one, targets.weight) for of_one in losses.detach()])
        factors = (means[1:] - means[0]).clamp(min=0)  # (K,)
        return (factors.unsqueeze(1) * losses[1:]).sum(0)
