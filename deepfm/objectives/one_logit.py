"""What losses of one logit per row have in common, with labels 0 and 1.

Shapes: B rows.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepfm.objectives.base import Logits, Objective

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class OneLogit(Objective):
    """A loss of one logit per row, whose sigmoid is the probability of class 1."""

    label_kinds = ("binary",)
    ranks = True
    learns_base_rate = True

    def prediction(self, logits: Logits, task: str = "") -> "Tensor":
        return self.own_logits(logits, task).sigmoid()

    def log_odds(self, logits: Logits, task: str = "") -> "Tensor":
        return self.own_logits(logits, task)

    def outputs(self, logits: Logits, task: str = "") -> "dict[str, Tensor]":
        """`logits` and `probs` = sigmoid, (B,)."""
        own = self.own_logits(logits, task)
        return {"logits": own, "probs": own.sigmoid()}
