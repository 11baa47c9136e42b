"""DCN: a cross network of vectors and a DNN on the same embedding vectors."""

from torch import Tensor

from deepfm.models.base import Parts
from deepfm.models.flat import FlatModel
from deepfm.models.layers.cross import VectorCrossNetwork
from deepfm.models.options import DCNConfig


class DCN(FlatModel):
    """logit = bias + <w, cross(flat embeddings)> + DNN(flat embeddings).

    cross: x_{l+1} = x_0 <w_l, x_l> + b_l + x_l, from x_0 = flat embeddings on. `dcn.deep: false`
    leaves the DNN out.

    Source: R. Wang et al., "Deep & Cross Network for Ad Click Predictions", ADKDD 2017,
    arXiv:1708.05123.
    """

    config: DCNConfig

    @property
    def interaction_dim(self) -> int:
        return self.cross.output_dim

    @property
    def deep_width(self) -> int:
        return super().deep_width if self.config.dcn.deep else 0

    def _build_components(self) -> None:
        width, config = self.embedding.total_dim, self.config.dcn
        self.cross = VectorCrossNetwork(width, num_layers=config.layers)
        if self.config.final is None:
            self.cross_output = self._output_linear(width, bias=not config.deep)
        self.dnn = self._dnn_branch(width) if config.deep else None

    def _forward_components(
        self, first_order: Tensor, field_embeddings: Tensor | None, flat_embeddings: Tensor
    ) -> Parts:
        crossed = self.cross(flat_embeddings)
        deep = None if self.dnn is None else self.dnn(flat_embeddings)
        if self.config.final is not None:
            return self._fuse(first_order, crossed, deep)
        return self._fuse(first_order, None, deep, cross=self.cross_output(crossed))
