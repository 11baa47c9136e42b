"""MMoE: experts that all tasks share, mixed by a gate of each task."""

from torch import Tensor

from deepfm.models.layers.experts import MultiGateExperts
from deepfm.models.options import MMoEConfig
from deepfm.models.several_tasks import SeveralTasksModel


class MMoE(SeveralTasksModel):
    """logits_k = output_k(tower_k(sum_e softmax(gate_k(x))_e expert_e(x))), x the flat embeddings.

    Source: J. Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts", KDD 2018, section 4.2.
    """

    config: MMoEConfig

    def _build_components(self) -> None:
        section = self.config.mmoe
        self.mixtures = MultiGateExperts(
            self.embedding.total_dim,
            num_tasks=len(self.tasks),
            num_experts=section.num_experts,
            expert=self._maker(section.expert, "expert"),
            gate=self._optional(section.gate, "gate"),
        )
        self._add_outputs(self._add_towers([self.mixtures.output_dim] * len(self.tasks)))

    def _task_vectors(self, flat: Tensor) -> list[Tensor]:
        return [tower(x) for tower, x in zip(self.towers, self.mixtures(flat), strict=True)]
