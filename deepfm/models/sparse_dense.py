"""What models have in common that read ids and numbers apart: DLRM and Wukong.

Decided here: which fields are numbers, and that a network makes one more field vector of them.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from deepfm.models.base import BaseCTRModel, make_network
from deepfm.models.layers.embedding import FlatGroup, Views
from deepfm.models.options import DNNConfig


class SparseDenseModel(BaseCTRModel):
    """Field vectors of the group `sparse`, and numbers of the group `dense`.

    Without these groups, all embedded fields, and all raw dense ones: those of the group `deep` if
    there are groups at all.
    """

    @property
    def uses_first_order(self) -> bool:
        return False

    @property
    def uses_flat_embeddings(self) -> bool:
        return False

    @property
    def field_group(self) -> str:
        return "sparse"

    @property
    def required_groups(self) -> tuple[str, ...]:
        return () if "sparse" in self.config.feature.groups else ("deep",)

    @property
    def flat_groups(self) -> Mapping[str, FlatGroup | None]:
        fields, groups = self.schema.fields, self.config.feature.groups
        among = () if "sparse" in groups else groups.get("deep", tuple(fields))
        raw = [name for name in among if name in fields and not fields[name].is_embedded]
        return {"dense": FlatGroup(raw)} if raw or "dense" in groups else {}

    def _set_dense(self, config: DNNConfig, section: str) -> None:
        """Make the network of the numbers, if there are any; its last layer is D wide."""
        self.dense, dim = None, self.embedding.fm_embedding_dim
        if self.embedding.has_group("dense"):
            width = self.embedding.group_total_dim("dense")
            units = (*config.hidden_units, dim)
            self.dense = make_network(width, replace(config, hidden_units=units), section)
        self.num_vectors = self.embedding.num_fields + (self.dense is not None)

    def _vectors(self, views: Views) -> tuple[Tensor, list[Tensor]]:
        """All vectors, that of the numbers first, (B, N, D), and that one alone, (B, D), if any."""
        assert views.field_embeddings is not None
        if self.dense is None:
            return views.field_embeddings, []
        dense = self.dense(views.groups["dense"])
        return torch.cat([dense.unsqueeze(1), views.field_embeddings], dim=1), [dense]
