"""Wide & Deep: a linear model and a DNN, trained together."""

from torch import Tensor

from deepfm.models.base import BaseCTRModel, PairBranches, Parts


class WideAndDeep(BaseCTRModel):
    """logit = bias + <w, x> + DNN(flat embeddings).

    The wide part is always there, whatever the `fm` section says: without it this is a DNN.

    Source: H.-T. Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016,
    arXiv:1606.07792, Eq. (3).

    NOTE[DIFF]: The wide part reads every field and no cross-product features φ(x); declare a
    crossed column as a field of its own.
    NOTE[DIFF]: The paper trains the wide part by FTRL and the deep part by AdaGrad; here
    both follow the training configuration.
    """

    @property
    def uses_first_order(self) -> bool:
        return True

    @property
    def uses_field_embeddings(self) -> bool:
        return False

    @property
    def required_groups(self) -> tuple[str, ...]:
        return ("wide", "deep")

    def _build_components(self) -> None:
        self.dnn = self._dnn_branch(self.embedding.total_dim)

    def _forward_components(
        self, first_order: Tensor, field_embeddings: Tensor | None, flat_embeddings: Tensor
    ) -> Parts:
        return self._fuse(first_order, None, self.dnn(flat_embeddings))

    def _pair_branches(self) -> PairBranches | None:
        return PairBranches(self.dnn, second_order=False) if self.adds_up_over_fields else None
