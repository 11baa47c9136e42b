"""DLRM: a network on the dot products of all pairs of field vectors."""

import torch

from deepfm.models.base import Parts
from deepfm.models.layers.dots import PairwiseDots
from deepfm.models.layers.embedding import Views
from deepfm.models.options import DLRMConfig
from deepfm.models.sparse_dense import SparseDenseModel


class DLRM(SparseDenseModel):
    """logit = bias + DNN([<x_i, x_j> for i < j ; x_0]) with x_0 = DNN_dense(numbers).

    x_1, x_2, … are the field vectors, which the DNN reads too with `with_sparse`. Without raw
    numbers there is no x_0.

    Source: M. Naumov et al., "Deep Learning Recommendation Model for Personalization and
    Recommendation Systems", 2019, arXiv:1906.00091.

    NOTE[DIFF]: `with_sparse` is TorchEasyRec's `arch_with_sparse`; the paper has the products and
    x_0 alone.
    """

    config: DLRMConfig

    def _build_components(self) -> None:
        config, dim = self.config.dlrm, self.embedding.fm_embedding_dim
        self._set_dense(config.dense, "dlrm.dense")
        self.dots = PairwiseDots(self.num_vectors)
        width = self.dots.output_dim + (dim if self.dense is not None else 0)
        if config.with_sparse:
            width += self.embedding.num_fields * dim
        self.dnn = self._dnn_branch(width)

    def _parts(self, views: Views) -> Parts:
        vectors, dense = self._vectors(views)
        read = [self.dots(vectors), *dense]
        if self.config.dlrm.with_sparse:
            assert views.field_embeddings is not None
            read.append(views.field_embeddings.flatten(1))
        return self._fuse(views.first_order, None, self.dnn(torch.cat(read, dim=1)))
