"""DeepFM: a factorization machine and a DNN on the same embedding vectors."""

from torch import Tensor

from deepfm.models.base import BaseCTRModel, PairBranches, dnn_branch
from deepfm.models.layers.fm import FactorizationMachine


class DeepFM(BaseCTRModel):
    """logit = bias + <w, x> + sum_{i<j} <v_i, v_j> + DNN(flat embeddings).

    `fm.use_first_order` and `fm.use_second_order` switch the two terms of the FM off, together
    with the weights that only they read.

    Source: H. Guo et al., "DeepFM", IJCAI 2017, arXiv:1703.04247, Eq. (1) and (2).

    NOTE[DIFF]: The second-order term reads vectors projected to `feature.fm_embedding_dim` where
    a field's own dim differs; the paper has one dim for all fields.
    """

    @property
    def uses_field_embeddings(self) -> bool:
        return self.config.fm.use_second_order

    def _build_components(self) -> None:
        self.fm = FactorizationMachine() if self.config.fm.use_second_order else None
        self.dnn = dnn_branch(self.embedding.total_dim, self.config.dnn)

    def _forward_components(
        self, first_order: Tensor, field_embeddings: Tensor | None, flat_embeddings: Tensor
    ) -> Tensor:
        logit = first_order.squeeze(1) + self.dnn(flat_embeddings).squeeze(1)  # (B,)
        return logit if self.fm is None else logit + self.fm(field_embeddings).sum(1)

    def pair_branches(self) -> PairBranches:
        return PairBranches(self.dnn, second_order=self.fm is not None)
