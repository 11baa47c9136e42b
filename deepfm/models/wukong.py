"""Wukong: stacked layers of factorization machines on field vectors."""

from torch import nn

from deepfm.models.base import Parts, make_network
from deepfm.models.layers.embedding import Views
from deepfm.models.layers.wukong import WukongLayer
from deepfm.models.options import WukongConfig
from deepfm.models.sparse_dense import SparseDenseModel


class Wukong(SparseDenseModel):
    """logit = bias + DNN(flatten(layer_L(… layer_1(X)))) with the field vectors X, (N, D).

    One of these is what a network makes of raw numbers, if there are any. Each layer doubles the
    degree of the interactions.

    Source: B. Zhang et al., "Wukong: Towards a Scaling Law for Large-Scale Recommendation", ICML
    2024, arXiv:2403.02545.
    """

    config: WukongConfig

    def _build_components(self) -> None:
        config, dim = self.config.wukong, self.embedding.fm_embedding_dim
        self._set_dense(config.dense, "wukong.dense")
        self.layers, num_vectors = nn.Sequential(), self.num_vectors
        for k, layer in enumerate(config.layers):
            section = f"wukong.layers.{k}.mlp"
            self.layers.append(
                WukongLayer(
                    num_vectors,
                    dim,
                    factorized=layer.factorized,
                    linear=layer.linear,
                    compressed=layer.compressed,
                    mlp=make_network(num_vectors * layer.compressed, layer.mlp, section),
                    init=layer.mlp.init,
                )
            )
            num_vectors = layer.factorized + layer.linear
        self.dnn = self._dnn_branch(num_vectors * dim)

    def _parts(self, views: Views) -> Parts:
        vectors, _ = self._vectors(views)
        return self._fuse(views.first_order, None, self.dnn(self.layers(vectors).flatten(1)))
