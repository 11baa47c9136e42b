"""LR: logistic regression, a linear model over ids and numbers."""

from torch import Tensor

from deepfm.models.base import BaseCTRModel, PairBranches, Parts


class LR(BaseCTRModel):
    """logit = bias + <w, x>.

    What a model with interactions has to beat. It has no vectors, so `dense_embedding` means
    nothing to it: a number x counts with w x. Quantiles of it as ids have a weight each.

    Source: D. R. Cox, "The Regression Analysis of Binary Sequences", JRSS B 20, 1958; with a
    weight per id as in M. Richardson et al., "Predicting Clicks", WWW 2007.
    """

    several_classes = False

    @property
    def uses_field_embeddings(self) -> bool:
        return False

    @property
    def has_network(self) -> bool:
        return False

    @property
    def required_groups(self) -> tuple[str, ...]:
        return ("wide",)

    def _build_components(self) -> None:
        """There is nothing but first-order weights."""

    def _forward_components(
        self, first_order: Tensor, field_embeddings: Tensor | None, flat_embeddings: Tensor
    ) -> Parts:
        return self._fuse(first_order, None, None)

    def _pair_branches(self) -> PairBranches | None:
        return PairBranches(None, second_order=False) if self.adds_up_over_fields else None
