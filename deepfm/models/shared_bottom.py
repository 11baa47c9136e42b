"""Shared bottom: one network for all tasks, and a tower for each."""

from torch import Tensor

from deepfm.models.options import SharedBottomConfig
from deepfm.models.several_tasks import SeveralTasksModel


class SharedBottom(SeveralTasksModel):
    """logits_k = output_k(tower_k(bottom(flat embeddings))).

    Source: R. Caruana, "Multitask Learning", Machine Learning 28, 1997; the baseline that MMoE is
    compared with (Ma et al., KDD 2018).
    """

    config: SharedBottomConfig

    def _build_components(self) -> None:
        width = self._add_bottom(self.embedding.total_dim, self.config.shared_bottom.bottom)
        self._add_outputs(self._add_towers([width] * len(self.tasks)))

    def _task_vectors(self, flat: Tensor) -> list[Tensor]:
        shared = self._above_bottom(flat)
        return [tower(shared) for tower in self.towers]
