"""xDeepFM: a linear model, explicit interactions by CIN, implicit ones by a DNN."""

from torch import Tensor

from deepfm.models.base import BaseCTRModel, Parts, config_section
from deepfm.models.layers.cin import CIN
from deepfm.models.options import XDeepFMConfig


class XDeepFM(BaseCTRModel):
    """logit = bias + <w, x> + <w_cin, CIN(field embeddings)> + DNN(flat embeddings).

    `fm.use_first_order` switches the linear term off; `fm.use_second_order` has no meaning here,
    the first layer of the CIN holds the pairs.

    Source: J. Lian et al., "xDeepFM", KDD 2018, arXiv:1803.05170, Section 3.3.

    NOTE[DIFF]: The CIN reads vectors projected to `feature.fm_embedding_dim` where a field's own
    dim differs; the paper has one dim for all fields.
    """

    config: XDeepFMConfig

    @property
    def field_group(self) -> str:
        return self.config.cin.group

    @property
    def uses_first_order(self) -> bool:
        return self.config.fm.use_first_order and self.field_group == "fm"

    @property
    def required_groups(self) -> tuple[str, ...]:
        return ("wide", "deep") if self.field_group == "wide" else ("deep",)

    @property
    def interaction_dim(self) -> int:
        return self.cin.output_dim

    def _build_components(self) -> None:
        config = self.config.cin
        with config_section("cin"):
            self.cin = CIN(
                self.embedding.num_fields,
                config.layer_sizes,
                split_half=config.split_half,
                bias=config.bias,
                init=config.init,
            )
        if self.config.final is None:
            self.cin_output = self._output_linear(self.cin.output_dim, bias=False)
        self.dnn = self._dnn_branch(self.embedding.total_dim)

    def _forward_components(
        self, first_order: Tensor, field_embeddings: Tensor | None, flat_embeddings: Tensor
    ) -> Parts:
        explicit, deep = self.cin(field_embeddings), self.dnn(flat_embeddings)
        if self.config.final is not None:
            return self._fuse(first_order, explicit, deep)
        return self._fuse(first_order, None, deep, cin=self.cin_output(explicit))
