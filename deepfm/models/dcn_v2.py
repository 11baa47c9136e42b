"""DCN V2: a cross network of matrices, with a DNN beside or behind it."""

from torch import Tensor

from deepfm.models.base import Parts, config_section, make_network
from deepfm.models.flat import FlatModel
from deepfm.models.layers.cross import CrossNetwork
from deepfm.models.options import DCNv2Config


class DCNv2(FlatModel):
    """logit = bias + <w, cross(x)> + DNN(x), or bias + DNN(cross(x)), with x = flat embeddings.

    cross: x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, from x_0 = x on, or from x_0 = backbone(x). The
    DNN always reads x where it stands beside.

    Source: R. Wang et al., "DCN V2", WWW 2021, arXiv:2008.13535, Section 3; `dcn_v2.gate` is that
    of GDCN, F. Wang et al., CIKM 2023, arXiv:2311.04635.

    NOTE[DIFF]: The backbone is TorchEasyRec's; the paper has none.
    NOTE[DIFF]: With `final`, the outputs of cross network and DNN meet in a network, as in
    TorchEasyRec, and not in one linear map.
    """

    config: DCNv2Config

    @property
    def interaction_dim(self) -> int:
        return 0 if self.config.dcn_v2.structure == "stacked" else self.cross.output_dim

    @property
    def deep_width(self) -> int:
        return 0 if self.config.dcn_v2.structure == "alone" else super().deep_width

    def _build_components(self) -> None:
        config, width = self.config.dcn_v2, self.embedding.total_dim
        self.backbone = None
        cross_width = width
        if config.backbone is not None:
            self.backbone = make_network(width, config.backbone, "dcn_v2.backbone")
            cross_width = self.backbone.output_dim
        with config_section("dcn_v2"):
            self.cross = CrossNetwork(
                cross_width,
                num_layers=config.layers,
                rank=config.rank,
                gate=config.gate,
                init=config.init,
            )
        is_stacked, is_alone = config.structure == "stacked", config.structure == "alone"
        self.cross_output = None
        if self.config.final is None and not is_stacked:
            self.cross_output = self._output_linear(cross_width, bias=is_alone)
        self.dnn = None if is_alone else self._dnn_branch(cross_width if is_stacked else width)

    def _forward_components(
        self, first_order: Tensor, field_embeddings: Tensor | None, flat_embeddings: Tensor
    ) -> Parts:
        x = flat_embeddings
        crossed = self.cross(x if self.backbone is None else self.backbone(x))
        if self.config.dcn_v2.structure == "stacked":
            assert self.dnn is not None
            return self._fuse(first_order, None, self.dnn(crossed))
        deep = None if self.dnn is None else self.dnn(x)
        if self.cross_output is None:
            return self._fuse(first_order, crossed, deep)
        return self._fuse(first_order, None, deep, cross=self.cross_output(crossed))
