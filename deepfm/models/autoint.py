"""AutoInt: self-attention over fields and a linear map, with a DNN beside it."""

import torch
from torch import Tensor

from deepfm.models.base import BaseCTRModel, Parts, config_section
from deepfm.models.layers.attention import FieldSelfAttention
from deepfm.models.options import AutoIntConfig


class AutoInt(BaseCTRModel):
    """logit = bias + <w, attention(field embeddings)> + DNN(flat embeddings).

    With the DNN it is the paper's AutoInt+; `autoint.deep: false` leaves it out, and the linear
    map then reads raw dense columns too, so that no field is lost.

    Source: W. Song et al., "AutoInt", CIKM 2019, arXiv:1810.11921, Eq. (5) to (9).

    NOTE[DIFF]: Fields are projected to `feature.fm_embedding_dim` where their own dim differs, and
    raw dense columns have no vector; the paper gives each number one, its value times a vector of
    its field, which is `dense_embedding: linear`.
    """

    config: AutoIntConfig

    @property
    def uses_first_order(self) -> bool:
        return False

    @property
    def interaction_dim(self) -> int:
        attended = self.embedding.num_fields * self.config.autoint.dim
        return attended + (0 if self.config.autoint.deep else self.embedding.rest_dim)

    @property
    def deep_width(self) -> int:
        return super().deep_width if self.config.autoint.deep else 0

    def _build_components(self) -> None:
        config = self.config.autoint
        with config_section("autoint"):
            self.attention = FieldSelfAttention(
                self.embedding.fm_embedding_dim,
                num_heads=config.heads,
                attention_dim=config.dim,
                num_layers=config.layers,
                use_residual=config.residual != "none",
                is_projected=config.residual == "projected",
                norm=config.norm,
                scale=config.scale,
                dropout=config.dropout,
            )
        if self.config.final is None:
            self.attention_output = self._output_linear(self.interaction_dim, bias=not config.deep)
        self.dnn = self._dnn_branch(self.embedding.total_dim) if config.deep else None

    def _forward_components(
        self, first_order: Tensor, field_embeddings: Tensor | None, flat_embeddings: Tensor
    ) -> Parts:
        attended = self.attention(field_embeddings).flatten(1)  # (B, F * A)
        if self.dnn is None:
            attended = torch.cat([attended, self.embedding.rest(flat_embeddings)], dim=1)
        deep = None if self.dnn is None else self.dnn(flat_embeddings)
        if self.config.final is not None:
            return self._fuse(first_order, attended, deep)
        return self._fuse(first_order, None, deep, attention=self.attention_output(attended))
