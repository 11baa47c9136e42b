"""PLE: levels of experts, of each task's own and shared ones, mixed level by level."""

from torch import Tensor, nn

from deepfm.errors import ConfigError
from deepfm.models.base import config_section
from deepfm.models.layers.experts import ExtractionLevel
from deepfm.models.options import PLEConfig
from deepfm.models.several_tasks import SeveralTasksModel


class PLE(SeveralTasksModel):
    """logits_k = output_k(tower_k(h_k)), with h_1 … h_T of levels over the flat embeddings.

    The first level's inputs are the flat embeddings; a level gives each task a mixture of its own
    experts and the shared ones, and the next level's shared experts one of all.

    Source: H. Tang et al., "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning
    (MTL) Model for Personalized Recommendations", RecSys 2020, section 4.2.
    """

    config: PLEConfig

    def _build_components(self) -> None:
        levels = list(self.config.ple.levels.items())
        if not levels:
            raise ConfigError("expected at least one level, found none", key="ple.levels")
        width = self.embedding.total_dim
        self.levels = nn.ModuleList()
        for name, level in levels:
            key = f"levels.{name}"
            with config_section(f"ple.{key}"):
                made = ExtractionLevel(
                    [width] * len(self.tasks),
                    width,
                    task_experts=level.task_experts,
                    shared_experts=level.shared_experts,
                    task_expert=self._maker(level.task_expert, f"{key}.task_expert"),
                    shared_expert=self._maker(
                        level.shared_expert or level.task_expert, f"{key}.shared_expert"
                    ),
                    is_last=name == levels[-1][0],
                )
            self.levels.append(made)
            width = made.output_dim
        self._add_outputs(self._add_towers([width] * len(self.tasks)))

    def _task_vectors(self, flat: Tensor) -> list[Tensor]:
        own, shared = [flat] * len(self.tasks), flat
        for level in self.levels:
            own, shared = level(own, shared)
        return [tower(x) for tower, x in zip(self.towers, own, strict=True)]
