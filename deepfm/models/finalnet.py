"""FinalNet: blocks of factorized interaction layers."""

from functools import partial

import torch
from torch import Tensor, nn

from deepfm.models.base import Parts, make_layers
from deepfm.models.layers.embedding import Views
from deepfm.models.layers.factorized import FactorizedBlock
from deepfm.models.layers.gate import FieldGates
from deepfm.models.options import DNNConfig, FinalNetConfig
from deepfm.models.streams import StreamsModel


class FinalNet(StreamsModel):
    """logit = bias + (y_1 + y_2) / 2 with y_k = <w_k, block_k(flat embeddings)>, or y_1 alone.

    A block is a stack of factorized interaction layers. With `field_gates` it reads the field
    embeddings once more, times gates that are a linear map of all fields. In training the logits of
    two blocks can be read by losses: `branch_distillation` lets both learn from their mean.

    Source: J. Zhu et al., "FINAL: Factorized Interaction Layer for CTR Prediction", SIGIR 2023,
    doi:10.1145/3539618.3591988.

    NOTE[DIFF]: The layers are FuxiCTR's, whose published figures are FinalNet's. With `final` the
    outputs of the blocks meet in a network, and no branch has a logit.
    """

    config: FinalNetConfig

    @property
    def uses_field_embeddings(self) -> bool:
        return self.config.finalnet.field_gates

    def _build_components(self) -> None:
        config, dnn = self.config.finalnet, self.config.dnn
        width, num_fields = self.embedding.total_dim, self.embedding.num_fields
        self.gates = FieldGates(num_fields, init=dnn.init) if config.field_gates else None
        if self.gates is not None:
            width += num_fields * self.embedding.fm_embedding_dim
        blocks = {"first": self._block(width, dnn, "dnn")}
        if config.num_blocks == 2:
            section = "finalnet.second" if config.second else "dnn"
            blocks["second"] = self._block(width, config.second or dnn, section)
        self.blocks = nn.ModuleList(blocks.values())
        self._set_outputs({name: block.output_dim for name, block in blocks.items()})

    def _block(self, in_features: int, config: DNNConfig, section: str) -> FactorizedBlock:
        kind = partial(FactorizedBlock, combine=self.config.finalnet.combine)
        return make_layers(kind, in_features, config, section)

    def _parts(self, views: Views) -> Parts:
        return self._with_auxiliary(views)[0]

    def _with_auxiliary(self, views: Views) -> tuple[Parts, dict[str, Tensor]]:
        x = views.flat_embeddings
        if self.gates is not None:
            assert views.field_embeddings is not None
            x = torch.cat([x, self.gates(views.field_embeddings)], dim=1)
        streams = [block(x) for block in self.blocks]
        if self.final is not None:
            return self._meet(streams), {}
        logits = self._logits(streams)
        parts = {name: part / len(logits) for name, part in logits.items()}
        return parts, self._as_branches(logits)
