"""MaskNet: blocks whose inputs are masked by a network of the embedding."""

from typing import Any

import torch
from torch import Tensor, nn

from deepfm.models.base import BaseCTRModel, Parts, config_section
from deepfm.models.layers.masknet import FieldNorm, MaskBlock
from deepfm.models.options import MaskNetConfig


class MaskNet(BaseCTRModel):
    """logit = bias + DNN([block_1(LN(e), e) ; ... ; block_n(LN(e), e)]) with the embedding e.

    These are parallel blocks. Serial ones stand one on the other, block_k(h, e) with the output h
    of block k - 1, and the DNN or a linear map on the last.

    Source: Z. Wang et al., "MaskNet: Introducing Feature-Wise Multiplication to CTR Ranking Models
    by Instance-Guided Mask", DLP-KDD 2021, arXiv:2102.07619.

    NOTE[DIFF]: The paper has one LayerNorm per field; `embedding_norm: vector` is TorchEasyRec's
    one over the whole vector. There, a network stands on serial blocks as well.
    """

    config: MaskNetConfig

    @property
    def uses_first_order(self) -> bool:
        return False

    @property
    def uses_field_embeddings(self) -> bool:
        return False

    @property
    def deep_width(self) -> int:
        return super().deep_width if self.config.masknet.use_dnn else self.output_dim

    def _build_components(self) -> None:
        config, width = self.config.masknet, self.embedding.total_dim
        norms: dict[str, Any] = {"field": FieldNorm, "vector": nn.LayerNorm, "none": nn.Identity}
        dims = self.embedding.group_dims("deep")
        per_field = config.embedding_norm == "field"
        self.norm = norms[config.embedding_norm](dims if per_field else width)
        self.blocks = nn.ModuleList()
        read = width
        with config_section("masknet"):
            for units in config.hidden_units:
                ratio = max(1, int(read * config.reduction_ratio))
                self.blocks.append(
                    MaskBlock(
                        read,
                        width,
                        aggregation_dim=config.aggregation_dim or ratio,
                        units=units,
                        norm=config.norm,
                        bias=config.bias,
                        dropout=config.dropout,
                        init=config.init,
                    )
                )
                read = width if config.parallel else units
        self.output_dim = sum(config.hidden_units) if config.parallel else read
        if config.use_dnn:
            self.dnn = self._dnn_branch(self.output_dim)
        else:
            outputs = [] if self.config.final else [self._output_linear(self.output_dim)]
            self.dnn = nn.Sequential(*outputs)

    def _forward_components(
        self, first_order: Tensor, field_embeddings: Tensor | None, flat_embeddings: Tensor
    ) -> Parts:
        h = self.norm(flat_embeddings)
        if self.config.masknet.parallel:
            h = torch.cat([block(h, flat_embeddings) for block in self.blocks], dim=1)
        else:
            for block in self.blocks:
                h = block(h, flat_embeddings)
        return self._fuse(first_order, None, self.dnn(h))
