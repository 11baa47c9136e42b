"""Losses of the logits that branches of a model have in training, beside the model's own.

They are added to a loss of the model's logit, which they do not replace.

Shapes: B rows.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from deepfm.objectives.base import Logits, Objective, Targets, branch_logits, weighted_mean

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class _OfBranches(Objective):
    """A loss of branches whose logits mean what the model's one logit per row means."""

    label_kinds = ("binary",)
    ranks = True
    learns_base_rate = True
    only_in_training = True
    min_branches: ClassVar[int] = 2

    def prediction(self, logits: Logits, task: str = "") -> "Tensor":
        return self.own_logits(logits, task).sigmoid()

    def log_odds(self, logits: Logits, task: str = "") -> "Tensor":
        return self.own_logits(logits, task)

    def outputs(self, logits: Logits, task: str = "") -> "dict[str, Tensor]":
        """`logits` and `probs` = sigmoid, (B,)."""
        own = self.own_logits(logits, task)
        return {"logits": own, "probs": own.sigmoid()}


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
