"""MaskNet: blocks whose inputs are masked by a network of the embedding."""

from collections.abc import Sequence

from torch import Tensor, nn

from deepfm.models.base import Parts, config_section
from deepfm.models.flat import FlatModel
from deepfm.models.layers.masknet import MaskBlocks
from deepfm.models.options import MaskBlocksConfig, MaskNetConfig


class MaskNet(FlatModel):
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
    def deep_width(self) -> int:
        return super().deep_width if self.config.masknet.use_dnn else self.masks.output_dim

    def _build_components(self) -> None:
        config = self.config.masknet
        self.masks = make_mask_blocks(self.embedding.group_dims("deep"), config, "masknet")
        if config.use_dnn:
            self.dnn = self._dnn_branch(self.masks.output_dim)
        else:
            width = self.masks.output_dim
            self.dnn = nn.Sequential(*([] if self.config.final else [self._output_linear(width)]))

    def _forward_components(
        self, first_order: Tensor, field_embeddings: Tensor | None, flat_embeddings: Tensor
    ) -> Parts:
        return self._fuse(first_order, None, self.dnn(self.masks(flat_embeddings)))


def make_mask_blocks(dims: Sequence[int], config: MaskBlocksConfig, section: str) -> MaskBlocks:
    """Return the blocks that a section of the config describes, over fields of these widths."""
    with config_section(section):
        return MaskBlocks(
            dims,
            config.hidden_units,
            parallel=config.parallel,
            embedding_norm=config.embedding_norm,
            reduction_ratio=config.reduction_ratio,
            aggregation_dim=config.aggregation_dim,
            norm=config.norm,
            bias=config.bias,
            dropout=config.dropout,
            init=config.init,
        )
