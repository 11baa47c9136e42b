"""FCN: a linear and an exponential cross network with masked halves, and no DNN (DCNv3)."""

from torch import Tensor

from deepfm.errors import ConfigError
from deepfm.models.base import Parts
from deepfm.models.flat import FlatModel
from deepfm.models.layers.cross import MaskedCrossNetwork
from deepfm.models.layers.embedding import Views
from deepfm.models.options import FCNConfig


class FCN(FlatModel):
    """logit = bias + 1/2 <w_e, exponential(x)> + 1/2 <w_l, linear(x)>, with x = flat embeddings.

    Both are cross networks, x_{l+1} = a * c(x_l) + x_l, with a = x_l or a = x_0. The logits of the
    branches, bias + <w, .>, whose mean this is, are named `exponential` and `linear`; the loss
    `tri_bce` reads them in training.

    Source: H. Li et al., "DCNv3: Towards Next Generation Deep Cross Network for CTR Prediction",
    2024, arXiv:2407.13349.

    NOTE[DIFF]: Both branches have the same bias; in the authors' code each has one.
    """

    config: FCNConfig

    @property
    def has_network(self) -> bool:
        return False

    @property
    def uses_flat_embeddings(self) -> bool:
        return True

    def _build_components(self) -> None:
        width, config = self.embedding.total_dim, self.config.fcn
        if width < 2:
            raise ConfigError("fcn needs 2 inputs or more, found 1", key="model_name")
        self.exponential = MaskedCrossNetwork(
            width, num_layers=config.exponential_layers, exponential=True, dropout=config.dropout
        )
        self.linear = MaskedCrossNetwork(
            width, num_layers=config.linear_layers, exponential=False, dropout=config.dropout
        )
        self.exponential_output = self._output_linear(width)
        self.linear_output = self._output_linear(width)

    def _forward_components(
        self, first_order: Tensor, field_embeddings: Tensor | None, flat_embeddings: Tensor
    ) -> Parts:
        exponential = self.exponential_output(self.exponential(flat_embeddings))
        linear = self.linear_output(self.linear(flat_embeddings))
        return {"exponential": 0.5 * exponential, "linear": 0.5 * linear}

    def _with_auxiliary(self, views: Views) -> tuple[Parts, dict[str, Tensor]]:
        parts = self._parts(views)
        return parts, {name: self._sum({name: 2.0 * part}) for name, part in parts.items()}
