"""DeepFM: a factorization machine and a DNN on the same embedding vectors."""

from torch import Tensor

from deepfm.models.base import BaseCTRModel, PairBranches, Parts
from deepfm.models.layers.fm import FactorizationMachine
from deepfm.models.options import DeepFMConfig


class DeepFM(BaseCTRModel):
    """logit = bias + <w, x> + sum_{i<j} <v_i, v_j> + DNN(flat embeddings).

    `fm.use_first_order` and `fm.use_second_order` switch the two terms of the FM off, together
    with the weights that only they read.

    Source: H. Guo et al., "DeepFM", IJCAI 2017, arXiv:1703.04247, Eq. (1) and (2).

    NOTE[DIFF]: The second-order term reads vectors projected to `feature.fm_embedding_dim` where
    a field's own dim differs; the paper has one dim for all fields.
    """

    config: DeepFMConfig

    @property
    def uses_first_order(self) -> bool:
        return self.config.fm.use_first_order

    @property
    def uses_field_embeddings(self) -> bool:
        return self.config.fm.use_second_order

    @property
    def interaction_dim(self) -> int:
        return self.embedding.fm_embedding_dim if self.config.fm.use_second_order else 0

    def _build_components(self) -> None:
        self.fm = FactorizationMachine() if self.config.fm.use_second_order else None
        self.dnn = self._dnn_branch(self.embedding.total_dim)

    def _forward_components(
        self, first_order: Tensor, field_embeddings: Tensor | None, flat_embeddings: Tensor
    ) -> Parts:
        second_order = None if self.fm is None else self.fm(field_embeddings)  # (B, D)
        return self._fuse(first_order, second_order, self.dnn(flat_embeddings))

    def _pair_branches(self) -> PairBranches | None:
        return PairBranches(self.dnn, self.fm is not None) if self.adds_up_over_fields else None
