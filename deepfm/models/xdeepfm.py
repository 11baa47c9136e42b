"""xDeepFM: a linear model, explicit interactions by CIN, implicit ones by a DNN."""

from torch import Tensor

from deepfm.models.base import BaseCTRModel, config_section, dnn_branch, output_linear
from deepfm.models.layers.cin import CIN


class XDeepFM(BaseCTRModel):
    """logit = bias + <w, x> + <w_cin, CIN(field embeddings)> + DNN(flat embeddings).

    `fm.use_first_order` switches the linear term off; `fm.use_second_order` has no meaning here,
    the first layer of the CIN holds the pairs.

    Source: J. Lian et al., "xDeepFM", KDD 2018, arXiv:1803.05170, Section 3.3.

    NOTE[DIFF]: The CIN reads vectors projected to `feature.fm_embedding_dim` where a field's own
    dim differs; the paper has one dim for all fields.
    """

    def _build_components(self) -> None:
        config = self.config.cin
        with config_section("cin"):
            self.cin = CIN(
                self.embedding.num_fields, config.layer_sizes, split_half=config.split_half
            )
        self.cin_output = output_linear(self.cin.output_dim)
        self.dnn = dnn_branch(self.embedding.total_dim, self.config.dnn)

    def _forward_components(
        self, first_order: Tensor, field_embeddings: Tensor | None, flat_embeddings: Tensor
    ) -> Tensor:
        logit = first_order + self.cin_output(self.cin(field_embeddings))  # (B, 1)
        return (logit + self.dnn(flat_embeddings)).squeeze(1)  # (B,)
