"""AttentionDeepFM: DeepFM whose DNN reads fields after self-attention."""

import torch
from torch import Tensor

from deepfm.models.base import BaseCTRModel, Parts, config_section
from deepfm.models.layers.attention import FieldSelfAttention
from deepfm.models.layers.fm import FactorizationMachine
from deepfm.models.options import AttentionDeepFMConfig


class AttentionDeepFM(BaseCTRModel):
    """logit = bias + <w, x> + sum_{i<j} <v_i, v_j> + DNN(attention(field embeddings), raw dense).

    No paper has this name. The mechanism is self-attention over fields as in AutoInt; the FM
    terms and the DNN are DeepFM's, and `fm.use_first_order` and `fm.use_second_order` switch the
    former off. Raw dense columns have no field vector and go to the DNN beside the attention's
    output, so that no field is lost to it.

    Source: W. Song et al., "AutoInt", CIKM 2019, arXiv:1810.11921; H. Guo et al., "DeepFM",
    IJCAI 2017, arXiv:1703.04247, Eq. (1) and (2).

    NOTE[DIFF]: AutoInt feeds its attention to a linear map, and in AutoInt+ a DNN on the
    embeddings stands beside it. Here the DNN stands on top of the attention.
    """

    config: AttentionDeepFMConfig

    @property
    def uses_first_order(self) -> bool:
        return self.config.fm.use_first_order

    @property
    def interaction_dim(self) -> int:
        return self.embedding.fm_embedding_dim if self.config.fm.use_second_order else 0

    def _build_components(self) -> None:
        config = self.config.attention
        self.fm = FactorizationMachine() if self.config.fm.use_second_order else None
        with config_section("attention"):
            self.attention = FieldSelfAttention(
                self.embedding.fm_embedding_dim,
                num_heads=config.num_heads,
                attention_dim=config.attention_dim,
                num_layers=config.num_layers,
                use_residual=config.use_residual,
            )
        attended_dim = self.embedding.num_fields * config.attention_dim
        self.dnn = self._dnn_branch(attended_dim + self.embedding.rest_dim)

    def _forward_components(
        self, first_order: Tensor, field_embeddings: Tensor | None, flat_embeddings: Tensor
    ) -> Parts:
        attended = self.attention(field_embeddings).flatten(1)  # (B, F * A)
        rest = self.embedding.rest(flat_embeddings)
        deep = self.dnn(torch.cat([attended, rest], dim=1))
        second_order = None if self.fm is None else self.fm(field_embeddings)  # (B, D)
        return self._fuse(first_order, second_order, deep)
