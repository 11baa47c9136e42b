"""FinalMLP: two networks on differently gated embeddings, and the bilinear form of both."""

from collections.abc import Mapping

from torch import nn

from deepfm.models.base import Parts, config_section
from deepfm.models.layers.bilinear import BilinearFusion
from deepfm.models.layers.embedding import FlatGroup, Views
from deepfm.models.layers.gate import FeatureGate
from deepfm.models.options import FinalMLPConfig
from deepfm.models.streams import StreamsModel

GATES = ("gate_1", "gate_2")


class FinalMLP(StreamsModel):
    """logit = bias + <w_1, o_1> + <w_2, o_2> + sum_h o_1h^T W_h o_2h with o_s = MLP_s(gate_s(e)).

    gate_s(e) = e * 2 sigmoid(MLP(context_s)); the fields of its context are those of the group
    `gate_1` or `gate_2`, which have tables of their own for it. A gate without a group reads a
    learned constant.

    Source: K. Mao et al., "FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction", AAAI
    2023, arXiv:2304.00902.

    NOTE[DIFF]: With `final` the outputs and the bilinear form of each head meet in a network.
    """

    config: FinalMLPConfig

    @property
    def flat_groups(self) -> Mapping[str, FlatGroup | None]:
        groups = self.config.feature.groups if self.config.finalmlp.use_gates else {}
        return {name: FlatGroup(groups[name], name) for name in GATES if name in groups}

    @property
    def interaction_dim(self) -> int:
        return self.config.finalmlp.num_heads

    def _build_components(self) -> None:
        config, width = self.config.finalmlp, self.embedding.total_dim
        init, final = self.config.dnn.init, self.config.final
        self.gates = nn.ModuleList()
        with config_section("finalmlp"):
            for name in GATES if config.use_gates else ():
                has_context = self.embedding.has_group(name)
                context = self.embedding.group_total_dim(name) if has_context else 0
                units = config.gate_hidden_units
                gate = FeatureGate(width, context_dim=context, hidden_units=units, init=init)
                self.gates.append(gate)
        self.first = self._stream(width, None, "dnn")
        self.second = self._stream(width, config.second, "finalmlp.second")
        self._set_outputs({"first": self.first.output_dim, "second": self.second.output_dim})
        with config_section("finalmlp"):
            self.fusion = BilinearFusion(
                *self.stream_widths.values(),
                num_heads=config.num_heads,
                num_outputs=1 if final else self.num_class,
                init=init,
            )
        self.output_layers.append(self.fusion)

    def _parts(self, views: Views) -> Parts:
        read = [views.flat_embeddings] * 2
        for k, gate in enumerate(self.gates):
            read[k] = gate(read[k], views.groups.get(GATES[k]))
        first, second = self.first(read[0]), self.second(read[1])
        bilinear = self.fusion(first, second)  # (B, H, C)
        if self.final is not None:
            return self._meet([first, second, bilinear.flatten(1)])
        return {**self._logits([first, second]), "bilinear": bilinear.sum(1)}
