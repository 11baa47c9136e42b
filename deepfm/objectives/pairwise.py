"""Losses by pairs: a positive is compared with negatives that are drawn for it.

They learn which of a user's items comes first and nothing else: what they predict is a score.

Shapes: B rows, N negatives.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepfm.errors import ConfigError
from deepfm.objectives.base import Logits, Objective, PairLogits, Targets

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class _ByPairs(Objective):
    """A loss of a positive row's logit among those of its negatives."""

    label_kinds = ("binary",)
    ranks = True
    only_in_training = True
    by_pairs = True

    @classmethod
    def gives(cls, num_class: int) -> frozenset[str]:
        """Metrics of a probability, of which those that read its size have no value."""
        return frozenset({"probability"})

    def pairs_of(self, logits: Logits, targets: Targets, task: str) -> PairLogits:
        """The logits of the negatives beside that of each row.

        Raises:
            ConfigError: There are none, as of rows that are no batch of a ranking task's epoch.
        """
        self.own_logits(logits, task, targets)
        if targets.pairs is None:
            raise ConfigError(
                f"{self.name} needs rows with negatives, which the training split of a ranking "
                "task draws",
                key="training.losses",
            )
        return targets.pairs

    def prediction(self, logits: Logits, task: str = "") -> "Tensor":
        return self.own_logits(logits, task)

    def outputs(self, logits: Logits, task: str = "") -> "dict[str, Tensor]":
        """`logits`, (B,)."""
        return {"logits": self.own_logits(logits, task)}


@dataclass(frozen=True, kw_only=True)
class SampledSoftmax(_ByPairs):
    """Cross-entropy of the positive in a softmax over it and its negatives.

    loss = -ln( e^{z_i} / (e^{z_i} + sum_j e^{z_j}) )  with  z = logit - ln q

    q is an item's share of the draws where they are not uniform. A row without negatives has the
    loss 0.

    Source: Y. Bengio and J.-S. Senécal, "Adaptive Importance Sampling to Accelerate Training of a
    Neural Probabilistic Language Model", IEEE Transactions on Neural Networks 19, 2008; as it is
    used for retrieval in X. Yi et al., RecSys 2019.
    """

    name = "sampled_softmax"

    def row_losses(self, logits: Logits, targets: Targets, task: str = "") -> "Tensor":
        import torch
        from torch.nn.functional import cross_entropy

        pairs = self.pairs_of(logits, targets, task)
        own, negatives = pairs.own, pairs.negatives
        if pairs.own_log_q is not None and pairs.negatives_log_q is not None:
            own, negatives = own - pairs.own_log_q, negatives - pairs.negatives_log_q
        negatives = negatives.masked_fill(~pairs.allowed, -torch.inf)
        together = torch.cat([own.unsqueeze(1), negatives], dim=1)  # (B, 1 + N)
        first = torch.zeros(len(own), dtype=torch.int64, device=own.device)
        return cross_entropy(together, first, reduction="none")


@dataclass(frozen=True, kw_only=True)
class BPR(_ByPairs):
    """Mean over a row's negatives of -ln sigmoid(positive's logit - negative's logit).

    A row without negatives has the loss 0. How often an item is drawn changes what counts how
    much, and no logit.

    Source: S. Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI
    2009, arXiv:1205.2618, BPR-Opt.
    """

    name = "bpr"

    def row_losses(self, logits: Logits, targets: Targets, task: str = "") -> "Tensor":
        from torch.nn.functional import softplus

        pairs = self.pairs_of(logits, targets, task)
        losses = softplus(pairs.negatives - pairs.own.unsqueeze(1))  # (B, N)
        counted = losses.masked_fill(~pairs.allowed, 0.0).sum(1)
        return counted / pairs.allowed.sum(1).clamp(min=1)
