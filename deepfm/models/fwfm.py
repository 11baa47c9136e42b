"""FwFM: a factorization machine with a learned strength per pair of fields."""

import torch
from torch import Tensor, nn

from deepfm.errors import ConfigError
from deepfm.models.base import BaseCTRModel, Parts
from deepfm.models.layers.fwfm import FieldWeightedFM
from deepfm.models.options import FwFMConfig


class FwFM(BaseCTRModel):
    """logit = bias + linear + sum_{i<j} r_ij <v_i, v_j>.

    The linear term is <w, x>, or with `fwfm.linear: fields` the sum of <v_i, u_i> with a vector
    u_i per field, which needs fewer weights.

    Source: J. Pan et al., "Field-weighted Factorization Machines for Click-Through Rate Prediction
    in Display Advertising", WWW 2018, arXiv:1806.03514.

    NOTE[DIFF]: The paper's third linear term, with a vector per id for the term alone, is not
    there.
    NOTE[DIFF]: The paper gives all fields one dim; where a field's own differs, its vector is
    projected to `feature.fm_embedding_dim`. Raw dense fields, which have no vector, count in <w, x>
    only.
    """

    config: FwFMConfig
    several_classes = False

    @property
    def uses_first_order(self) -> bool:
        return self.config.fwfm.linear == "weights"

    @property
    def has_network(self) -> bool:
        return False

    @property
    def required_groups(self) -> tuple[str, ...]:
        return ("fm",)

    def _build_components(self) -> None:
        raw = [field.name for field in self.schema.dense_fields if not field.is_embedded]
        if raw and not self.uses_first_order and not self.config.feature.groups:
            raise ConfigError(
                f"fields: {raw[0]} is raw and has no vector; set dense_embedding: piecewise",
                key="fwfm.linear",
            )
        self.pairs = FieldWeightedFM(self.embedding.num_fields)
        self.linear = None
        if not self.uses_first_order:
            shape = (self.embedding.num_fields, self.embedding.fm_embedding_dim)
            self.linear = nn.Parameter(nn.init.xavier_uniform_(torch.empty(shape)))

    def _forward_components(
        self, first_order: Tensor, field_embeddings: Tensor | None, flat_embeddings: Tensor
    ) -> Parts:
        assert field_embeddings is not None
        parts = self._fuse(first_order, self.pairs(field_embeddings), None)
        if self.linear is not None:
            parts["linear"] = field_embeddings.flatten(1) @ self.linear.flatten().unsqueeze(1)
        return parts
