"""A DCN V2 from FuxiCTR's layers, with two whole cross layers beside the workload's DNN.

As its model zoo puts it together: the outputs of both stand end to end before one linear map. The
data, the loop and what is left out of its step are those of `peer_fuxictr.py`; it reads 624 inputs
on W1, as ours does with `--dense embedded`.
"""

from functools import partial

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import CrossNetV2
from measure import run
from peer_fuxictr import Model, prepare
from torch import nn
from workloads import Workload

CROSS_LAYERS = 2


class DCNv2(Model):
    """Cross network plus DNN on FuxiCTR's layers."""

    def build(self, feature_map: FeatureMap, workload: Workload) -> None:
        width = feature_map.sum_emb_out_dim()
        self.cross = CrossNetV2(width, CROSS_LAYERS)
        self.mlp = self.dnn(feature_map, workload, None)
        self.fc = nn.Linear(width + workload.hidden[-1], 1)

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        flat = self.embedding_layer(self.get_inputs(inputs)).flatten(start_dim=1)
        logit = self.fc(torch.cat([self.cross(flat), self.mlp(flat)], dim=-1))
        return {"y_pred": self.output_activation(logit)}


if __name__ == "__main__":
    prepared = partial(prepare, of=DCNv2)
    run("fuxictr dcn_v2", "fuxictr", prepared, devices=("cpu", "cuda"))
